package roomserver

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/state"
	"parley/storage"
)

// powers is who may do what in a state of a room.
type powers struct {
	levels gomatrixserverlib.PowerLevelContent
	// creators stand above every level, from room version 12 on.
	//
	// spec: rooms/v12.md#event-format
	creators []string
}

func (s *Server) powers(tx *storage.Tx, room *storage.Room, root int64) (*powers, error) {
	found, err := s.stateEvents(tx, room, root, []state.Key{{Type: spec.MRoomCreate}, {Type: spec.MRoomPowerLevels}})
	if err != nil {
		return nil, err
	}
	p := &powers{}
	create := found[state.Key{Type: spec.MRoomCreate}]
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(room.Version))
	if err != nil {
		return nil, err
	}
	if create != nil && v.PrivilegedCreators() {
		p.creators = gomatrixserverlib.CreatorsFromCreateEvent(create.PDU)
	}
	p.levels.Defaults()
	if e := found[state.Key{Type: spec.MRoomPowerLevels}]; e != nil {
		levels, err := gomatrixserverlib.NewPowerLevelContentFromEvent(e.PDU)
		if err != nil {
			return p, nil // as if there were none, like the rules do
		}
		p.levels = levels
	} else if create != nil && !v.PrivilegedCreators() {
		p.levels.Users = map[string]int64{string(create.SenderID()): 100}
		p.levels.StateDefault = 0
	}
	return p, nil
}

func (p *powers) of(user id.UserID) int64 {
	if slices.Contains(p.creators, string(user)) {
		return gomatrixserverlib.CreatorPowerLevel
	}
	return p.levels.UserLevel(spec.SenderID(user))
}

// refuseCreators refuses power levels that name a creator where creators stand above all levels:
// they are wrong whoever sends them.
//
// spec: rooms/v12.md#authorisation-rules
func (s *Server) refuseCreators(w *work, d *draft) error {
	if d.Type != spec.MRoomPowerLevels || d.StateKey == nil || *d.StateKey != "" {
		return nil
	}
	p, err := s.powers(w.tx, &w.room, w.room.Root)
	if err != nil {
		return err
	}
	users := gjson.GetBytes(d.Content, "users").Map()
	for _, creator := range p.creators {
		if _, ok := users[creator]; ok {
			return matrixerr.New(matrixerr.BadJSON, "%s is a creator of the room, whose power has no level.", creator)
		}
	}
	return nil
}

// mayState says whether a user may set state of a type.
func (p *powers) mayState(user id.UserID, eventType string) bool {
	return p.of(user) >= p.levels.EventLevel(eventType, true)
}

// mayRedact says whether a redaction takes effect: of an event of one's own, or of anybody's
// with the power to.
//
// spec: client-server-api/index.md#redactions
func (s *Server) mayRedact(tx *storage.Tx, room *storage.Room, root int64, sender, victim id.UserID) (bool, error) {
	// The rules that servers agree on look at the server, so that a bridge or a moderation
	// tool of a server may act for its users; our own users are held to their own events
	// before the event is made, in Redact.
	if sender.Server() == victim.Server() {
		return true, nil
	}
	p, err := s.powers(tx, room, root)
	if err != nil {
		return false, err
	}
	return p.of(sender) >= p.levels.Redact, nil
}

// Powers tells those above what push rules and moderation ask of a room.
type Powers struct{ p *powers }

// Powers is who may do what in a room's current state.
func (s *Server) Powers(tx *storage.Tx, room *storage.Room) (Powers, error) {
	p, err := s.powers(tx, room, room.Root)
	return Powers{p}, err
}

// Of is a user's power level.
func (p Powers) Of(user id.UserID) int64 { return p.p.of(user) }

// Notifications are the levels that it takes to notify by a kind of mention.
func (p Powers) Notifications() map[string]int64 { return p.p.levels.Notifications }
