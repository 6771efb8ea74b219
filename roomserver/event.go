package roomserver

import (
	"errors"
	"fmt"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/roomserver/state"
	"parley/storage"
)

// event is an event with its parsed form.
type event struct {
	storage.Event
	gomatrixserverlib.PDU
}

// nid is the event's number as the state tree writes it.
func (e *event) nid() state.EventNID { return state.EventNID(e.NID) }

// key is the event's place in a room's state; it must be a state event.
func (e *event) key() state.Key { return state.Key{Type: e.Type(), StateKey: *e.StateKey()} }

// membership is the content's membership of a member event, "leave" where it has none.
func (e *event) membership() string {
	if e == nil {
		return "leave"
	}
	if m := gjson.GetBytes(e.Content(), "membership").Str; m != "" {
		return m
	}
	return "leave"
}

func (e *event) field(path string) string {
	if e == nil {
		return ""
	}
	return gjson.GetBytes(e.Content(), path).Str
}

// eventCacheSize bounds the parsed events that are kept: state events, of which
// authorisation and visibility ask for the same ones over and over. A parsed event takes
// 2 to 4 KB.
const eventCacheSize = 8192

// eventCache keeps parsed state events. Redaction drops an event from it.
type eventCache struct {
	lru *lru.Cache[storage.EventNID, *event]
}

func newEventCache() (*eventCache, error) {
	c, err := lru.New[storage.EventNID, *event](eventCacheSize)
	if err != nil {
		return nil, fmt.Errorf("event cache: %w", err)
	}
	return &eventCache{c}, nil
}

func parseEvent(version id.RoomVersion, row storage.Event) (*event, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", row.ID, err)
	}
	pdu, err := v.NewEventFromTrustedJSONWithEventID(string(row.ID), row.JSON, row.RedactedBy != 0)
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", row.ID, err)
	}
	return &event{row, pdu}, nil
}

// loadEvents gives the events by number; each must be there.
func (s *Server) loadEvents(tx *storage.Tx, version id.RoomVersion, nids []storage.EventNID) (map[storage.EventNID]*event, error) {
	out := make(map[storage.EventNID]*event, len(nids))
	var missing []storage.EventNID
	for _, nid := range nids {
		if e, ok := s.events.lru.Get(nid); ok {
			out[nid] = e
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	rows, err := tx.ListEventsByNID(missing)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		e, err := parseEvent(version, row)
		if err != nil {
			return nil, err
		}
		out[row.NID] = e
		if e.StateKey() != nil && row.Status == storage.Accepted {
			s.remember(tx, e)
		}
	}
	for _, nid := range missing {
		if out[nid] == nil {
			return nil, fmt.Errorf("event number %d is not there", nid)
		}
	}
	return out, nil
}

// remember caches a state event. One that a transaction has just written or may yet change
// is cached when it is durable; a number whose insertion was rolled back may be given again.
func (s *Server) remember(tx *storage.Tx, e *event) {
	if tx.Writing() {
		tx.AfterCommit(func() { s.events.lru.Add(e.NID, e) })
		return
	}
	s.events.lru.Add(e.NID, e)
}

// stateEvent is the event at one place of a state, nil where there is none.
func (s *Server) stateEvent(tx *storage.Tx, room *storage.Room, root int64, eventType, stateKey string) (*event, error) {
	nid, ok, err := s.tree.Get(tx, state.Root(root), state.Key{Type: eventType, StateKey: stateKey})
	if err != nil || !ok {
		return nil, err
	}
	events, err := s.loadEvents(tx, room.Version, []storage.EventNID{storage.EventNID(nid)})
	if err != nil {
		return nil, err
	}
	return events[storage.EventNID(nid)], nil
}

// stateEvents are the events at some places of a state; places where there is none are left out.
func (s *Server) stateEvents(tx *storage.Tx, room *storage.Room, root int64, keys []state.Key) (map[state.Key]*event, error) {
	found, err := s.tree.GetMany(tx, state.Root(root), keys)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.EventNID, 0, len(found))
	for _, nid := range found {
		nids = append(nids, storage.EventNID(nid))
	}
	events, err := s.loadEvents(tx, room.Version, nids)
	if err != nil {
		return nil, err
	}
	out := make(map[state.Key]*event, len(found))
	for key, nid := range found {
		out[key] = events[storage.EventNID(nid)]
	}
	return out, nil
}

// notFound turns a missing row into nil, for look-ups where absence is an answer.
func notFound(err error) (missing bool, rest error) {
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return false, err
}
