package roomserver

import (
	"math"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/roomserver/state"
	"parley/storage"
)

// View is what one user may see of one room, in one snapshot of the database. It is for
// one goroutine, and valid as long as its transaction is.
//
// spec: client-server-api/modules/history_visibility.md#server-behaviour
type View struct {
	// Room is the room's head.
	Room storage.Room
	// Member is what the user is to the room now; Membership is "leave" for one who never was anything.
	Member storage.Membership

	s    *Server
	tx   *storage.Tx
	user id.UserID
	// lastJoined is the place of the event that ended the user's last stay: what was sent
	// before it, the user was a member after.
	lastJoined storage.Ord
	memo       map[int64]visibility
	// horizon is up to when messages are due; nil until it is asked for.
	horizon *int64
	// stays are when the user was in the room; nil until it is asked for.
	stays []stay
}

// visibility is what decides, at one state of the room, whether an event is shown.
type visibility struct {
	history    string
	membership string
}

// View prepares to say what a user may see of a room. An unknown room, and one of which we
// have no state, is storage.ErrNotFound.
func (s *Server) View(tx *storage.Tx, user id.UserID, room id.RoomID) (*View, error) {
	r, err := tx.GetRoom(room)
	if err != nil {
		return nil, err
	}
	return s.ViewRoom(tx, user, r)
}

// ViewRoom is View for one who has the room's head already.
func (s *Server) ViewRoom(tx *storage.Tx, user id.UserID, room storage.Room) (*View, error) {
	m, err := tx.GetMembership(user, room.NID)
	missing, err := notFound(err)
	if err != nil {
		return nil, err
	}
	if missing {
		m = storage.Membership{User: user, Room: room.NID, RoomID: room.ID, Membership: spec.Leave}
	}
	return s.viewMember(tx, room, m)
}

// ViewMember is View for one who has the room's head and the user's membership already.
func (s *Server) ViewMember(tx *storage.Tx, room storage.Room, m storage.Membership) (*View, error) {
	return s.viewMember(tx, room, m)
}

func (s *Server) viewMember(tx *storage.Tx, room storage.Room, m storage.Membership) (*View, error) {
	if room.Root == 0 {
		return nil, storage.ErrNotFound
	}
	v := &View{Room: room, Member: m, s: s, tx: tx, user: m.User, memo: make(map[int64]visibility)}
	if m.Membership == spec.Join {
		v.lastJoined = math.MaxInt64
		return v, nil
	}
	return v, v.findLastJoined()
}

// findLastJoined walks back through the user's member events to the one that ended the
// last stay.
func (v *View) findLastJoined() error {
	v.lastJoined = math.MinInt64
	nid := v.Member.Event
	for range 1000 {
		if nid == 0 {
			return nil
		}
		events, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{nid})
		if err != nil {
			return err
		}
		e := events[nid]
		if e.Replaces == 0 {
			return nil
		}
		before, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{e.Replaces})
		if err != nil {
			return err
		}
		if before[e.Replaces].membership() == spec.Join {
			ord, ok, err := v.tx.GetOrd(nid)
			if ok {
				v.lastJoined = ord
			}
			return err
		}
		nid = e.Replaces
	}
	return nil
}

// Joined says whether the user is a member now.
func (v *View) Joined() bool { return v.Member.Membership == spec.Join }

// WorldReadable says whether everybody may read the room now.
func (v *View) WorldReadable() (bool, error) {
	now, err := v.at(v.Room.Root)
	return now.history == "world_readable", err
}

// JoinedSince is the place of the event that began the stay of a user who is joined; it is 0
// where that was not in the timeline.
func (v *View) JoinedSince() (storage.Ord, error) {
	nid := v.Member.Event
	for range 1000 {
		if nid == 0 {
			return 0, nil
		}
		events, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{nid})
		if err != nil {
			return 0, err
		}
		replaced := events[nid].Replaces
		if replaced == 0 {
			break
		}
		before, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{replaced})
		if err != nil {
			return 0, err
		}
		if before[replaced].membership() != spec.Join {
			break
		}
		nid = replaced
	}
	ord, _, err := v.tx.GetOrd(nid)
	return ord, err
}

// at is what decides at a state.
func (v *View) at(root int64) (visibility, error) {
	if vis, ok := v.memo[root]; ok {
		return vis, nil
	}
	keys := []state.Key{{Type: spec.MRoomHistoryVisibility}, {Type: spec.MRoomMember, StateKey: string(v.user)}}
	found, err := v.s.stateEvents(v.tx, &v.Room, root, keys)
	if err != nil {
		return visibility{}, err
	}
	vis := visibility{history: historyVisibility(found[keys[0]]), membership: found[keys[1]].membership()}
	v.memo[root] = vis
	return vis, nil
}

// historyVisibility is the visibility that an event sets; shared where it sets none that we know.
func historyVisibility(e *event) string {
	switch h := e.field("history_visibility"); h {
	case "world_readable", "shared", "invited", "joined":
		return h
	default:
		return "shared"
	}
}

// MembershipAt is what the user was to the room at an event.
func (v *View) MembershipAt(e *storage.Event) (string, error) {
	if e.Root == v.Room.Root && v.Joined() {
		return spec.Join, nil // nothing to look up, as with most that is new
	}
	vis, err := v.at(e.Root)
	return vis.membership, err
}

// Visible says whether the user may see an event of the timeline.
func (v *View) Visible(e *storage.TimelineEvent) (bool, error) {
	if e.Status != storage.Accepted {
		return false, nil
	}
	if due, err := v.Due(&e.Event); err != nil || due {
		return false, err
	}
	after, err := v.at(e.Root)
	if err != nil {
		return false, err
	}
	if v.shows(after, e.Ord) {
		return true, nil
	}
	// The event that ends or begins something may be seen by who could see either side of it.
	own := gjson.GetManyBytes(e.JSON, "type", "state_key")
	before := after
	switch {
	case own[0].Str == spec.MRoomHistoryVisibility && own[1].Exists():
		before.history = "shared"
	case own[0].Str == spec.MRoomMember && own[1].Str == string(v.user):
		before.membership = spec.Leave
	default:
		return false, nil
	}
	if e.Replaces != 0 {
		events, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{e.Replaces})
		if err != nil {
			return false, err
		}
		if own[0].Str == spec.MRoomMember {
			before.membership = events[e.Replaces].membership()
		} else {
			before.history = historyVisibility(events[e.Replaces])
		}
	}
	return v.shows(before, e.Ord), nil
}

// shows applies the rules of history visibility.
func (v *View) shows(vis visibility, ord storage.Ord) bool {
	switch {
	case vis.history == "world_readable", vis.membership == spec.Join:
		return true
	case vis.history == "shared":
		return ord < v.lastJoined
	case vis.history == "invited":
		return vis.membership == spec.Invite
	}
	return false
}

// Filter keeps the events that the user may see, in their order.
func (v *View) Filter(events []storage.TimelineEvent) ([]storage.TimelineEvent, error) {
	out := events[:0:0]
	for i := range events {
		ok, err := v.Visible(&events[i])
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, events[i])
		}
	}
	return out, nil
}

// StateRoot is the state of the room that the user may see: the current one for a member
// and for a room that anybody may read, the one at their leaving for one who has left, and
// none (ok is false) for the rest.
func (v *View) StateRoot() (root int64, ok bool, err error) {
	if v.Joined() {
		return v.Room.Root, true, nil
	}
	now, err := v.at(v.Room.Root)
	if err != nil {
		return 0, false, err
	}
	if now.history == "world_readable" {
		return v.Room.Root, true, nil
	}
	if v.lastJoined == math.MinInt64 || v.Member.Event == 0 {
		return 0, false, nil
	}
	e, err := v.tx.GetEventByNID(v.Member.Event)
	if err != nil {
		return 0, false, err
	}
	return e.Root, true, nil
}
