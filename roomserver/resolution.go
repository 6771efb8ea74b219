package roomserver

import (
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/roomserver/state"
	"parley/roomserver/state/resolve"
	"parley/storage"
)

// insert writes an event. A state event gets its place in the graph of auth events, with
// those of its auth events that are known: whoever writes many writes auth events first.
func (s *Server) insert(tx *storage.Tx, e *event) error {
	if err := tx.InsertEvent(&e.Event); err != nil {
		return err
	}
	if e.StateKey() == nil {
		return nil
	}
	var cited []id.EventID
	for _, auth := range e.AuthEventIDs() {
		cited = append(cited, id.EventID(auth))
	}
	nids, err := tx.ListEventNIDs(e.Room, cited)
	if err != nil {
		return err
	}
	events, err := s.loadEvents(tx, id.RoomVersion(e.Version()), nids)
	if err != nil {
		return err
	}
	h := e.key().Hash()
	links := storage.AuthLinks{Event: e.NID, Hash: h[:]}
	for _, nid := range nids {
		// In room version 1 an event could name itself.
		if nid < e.NID && events[nid].Type() != spec.MRoomCreate {
			links.Auth = append(links.Auth, nid)
		}
	}
	return tx.InsertAuthLinks(&links)
}

// resolve is the state that the states after several events come to.
func (s *Server) resolve(tx *storage.Tx, room *storage.Room, roots []int64) (int64, error) {
	list := make([]state.Root, len(roots))
	for i, root := range roots {
		list[i] = state.Root(root)
	}
	root, err := s.resolver.Resolve(tx, graph{s, tx, room, list}, room.Version, list)
	return int64(root), err
}

// graph shows a room's events to the resolver.
type graph struct {
	s     *Server
	tx    *storage.Tx
	room  *storage.Room
	roots []state.Root
}

var _ resolve.Events = graph{}

func (g graph) Get(nids []state.EventNID) (map[state.EventNID]*resolve.Event, error) {
	events, err := g.s.loadEvents(g.tx, g.room.Version, eventNIDs(nids))
	if err != nil {
		return nil, err
	}
	out := make(map[state.EventNID]*resolve.Event, len(events))
	for _, e := range events {
		out[e.nid()] = g.event(e)
	}
	return out, nil
}

func (g graph) event(e *event) *resolve.Event {
	return &resolve.Event{NID: e.nid(), PDU: e.PDU, Rejected: e.Status == storage.Rejected}
}

func (g graph) GetLinks(nids []state.EventNID) (map[state.EventNID]resolve.Links, error) {
	rows, err := g.tx.ListAuthLinks(eventNIDs(nids))
	if err != nil {
		return nil, err
	}
	out := make(map[state.EventNID]resolve.Links, len(rows))
	for _, row := range rows {
		l := resolve.Links{Auth: stateNIDs(row.Auth)}
		copy(l.Hash[:], row.Hash)
		out[state.EventNID(row.Event)] = l
	}
	return out, nil
}

func (g graph) ListCiting(nid, before state.EventNID, limit int) ([]state.EventNID, error) {
	rows, err := g.tx.ListCiting(storage.EventNID(nid), storage.EventNID(before), limit)
	return stateNIDs(rows), err
}

func (g graph) ListCitingAny(nids []state.EventNID, after state.EventNID, limit int) ([]state.EventNID, error) {
	rows, err := g.tx.ListCitingAny(eventNIDs(nids), storage.EventNID(after), limit)
	return stateNIDs(rows), err
}

func (g graph) GetCreate() (*resolve.Event, error) {
	for _, root := range g.roots {
		e, err := g.s.stateEvent(g.tx, g.room, int64(root), spec.MRoomCreate, "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			return g.event(e), nil
		}
	}
	return nil, nil
}

func eventNIDs(nids []state.EventNID) []storage.EventNID {
	out := make([]storage.EventNID, len(nids))
	for i, nid := range nids {
		out[i] = storage.EventNID(nid)
	}
	return out
}

func stateNIDs(nids []storage.EventNID) []state.EventNID {
	out := make([]state.EventNID, len(nids))
	for i, nid := range nids {
		out[i] = state.EventNID(nid)
	}
	return out
}
