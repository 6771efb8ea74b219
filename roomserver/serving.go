package roomserver

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

// maxServed bounds the events that another server gets for one request for history, and
// maxWalked those that are looked at for it.
const (
	maxServed = 100
	maxWalked = 1000
)

var (
	errNotThere  = matrixerr.New(matrixerr.Forbidden, "Your server is not in the room.")
	errNotServed = matrixerr.New(matrixerr.NotFound, "The event is not known here, or is none of that room.")
	errNotSeen   = matrixerr.New(matrixerr.Forbidden, "Your server may not see the event.")
)

// serving is what one other server may see of one room, in one snapshot of the database.
//
// spec: client-server-api/modules/history_visibility.md#server-behaviour
type serving struct {
	s      *Server
	tx     *storage.Tx
	room   storage.Room
	server id.ServerName
	// users are those of the server who are or were something to the room; nil until asked for.
	users []id.UserID
	joins []*event // see arrivals
	memo  map[int64]bool
	// horizon is up to when messages are due.
	horizon int64
	// positions are those at which senders had erased what they wrote, as far as they were looked up.
	positions map[id.UserID]id.Pos
}

// serve prepares to serve a room to a server that is in it.
func (s *Server) serve(tx *storage.Tx, origin id.ServerName, room id.RoomID) (*serving, error) {
	r, err := s.resident(tx, origin, room)
	if err != nil {
		return nil, err
	}
	there, err := tx.HasMemberOf(r.NID, origin)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, errNotThere
	}
	horizon, err := s.Horizon(tx, &r)
	if err != nil {
		return nil, err
	}
	return &serving{s: s, tx: tx, room: r, server: origin, memo: make(map[int64]bool), horizon: horizon,
		positions: make(map[id.UserID]id.Pos)}, nil
}

// gone says whether an event is a message whose time is up: it is given to nobody, but has its place in the
// DAG. One that none follows is given, without its content, as others follow it with theirs.
func (v *serving) gone(e *event) bool {
	return e.Due(v.horizon) && !isExtremity(&v.room, e.NID)
}

// event is an event of the room that has, or had, a place in its DAG.
func (v *serving) event(event id.EventID) (*event, error) {
	row, err := v.tx.GetEvent(event)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if missing || row.Room != v.room.NID || row.Status == storage.Outlier || row.Status == storage.Rejected {
		return nil, errNotServed
	}
	return parseEvent(v.room.Version, row)
}

// visible says whether the server may see an event: whether one of its users may whose
// membership was what the room's visibility asks for.
func (v *serving) visible(e *event) (bool, error) {
	if id.UserID(e.SenderID()).Server() == v.server {
		return true, nil
	}
	if seen, ok := v.memo[e.Root]; ok {
		return seen, nil
	}
	key := state.Key{Type: spec.MRoomHistoryVisibility}
	found, err := v.s.stateEvents(v.tx, &v.room, e.Root, []state.Key{key})
	if err != nil {
		return false, err
	}
	history := historyVisibility(found[key])
	seen := history == "shared" || history == "world_readable"
	if !seen {
		if seen, err = v.member(e.Root, history == "invited"); err != nil {
			return false, err
		}
	}
	v.memo[e.Root] = seen
	return seen, nil
}

// member says whether one of the server's users is joined in a state, or invited.
func (v *serving) member(root int64, invited bool) (bool, error) {
	if v.users == nil {
		users, err := v.tx.ListUsersOf(v.room.NID, v.server)
		if err != nil {
			return false, err
		}
		v.users = append([]id.UserID{}, users...)
	}
	keys := make([]state.Key, len(v.users))
	for i, u := range v.users {
		keys[i] = state.Key{Type: spec.MRoomMember, StateKey: string(u)}
	}
	found, err := v.s.stateEvents(v.tx, &v.room, root, keys)
	for _, e := range found {
		if m := e.membership(); m == spec.Join || invited && m == spec.Invite {
			return true, nil
		}
	}
	return false, err
}

// maxJoins bounds the joins of a server's users that are looked at, and maxRenamed how often each user
// may have changed their name since.
const (
	maxJoins   = 100
	maxRenamed = 20
)

// arrivals are the events by which the server's users have come to the room, and what changed their
// name or picture since.
func (v *serving) arrivals() ([]*event, error) {
	if v.joins != nil {
		return v.joins, nil
	}
	if _, err := v.member(v.room.Root, false); err != nil { // which lists the users
		return nil, err
	}
	joins := []*event{}
	for _, user := range v.users[:min(len(v.users), maxJoins)] {
		e, err := v.s.stateEvent(v.tx, &v.room, v.room.Root, spec.MRoomMember, string(user))
		for range maxRenamed {
			if err != nil {
				return nil, err
			}
			if e.membership() != spec.Join {
				break
			}
			joins = append(joins, e)
			if e.Replaces == 0 {
				break
			}
			var row storage.Event
			if row, err = v.tx.GetEventByNID(e.Replaces); err == nil {
				e, err = parseEvent(v.room.Version, row)
			}
		}
	}
	v.joins = joins
	return joins, nil
}

// leadsToJoin says whether a join of one of the server's users follows an event. Then the server may
// have the state there, which it was let in with, though not the event.
func (v *serving) leadsToJoin(before id.EventID) (bool, error) {
	joins, err := v.arrivals()
	return slices.ContainsFunc(joins, func(j *event) bool { return slices.Contains(prevIDs(j), before) }), err
}

// wasGiven says whether an event was part of the room's state when one of the server's users came.
func (v *serving) wasGiven(e *event) (bool, error) {
	if e.StateKey() == nil {
		return false, nil
	}
	joins, err := v.arrivals()
	for _, j := range joins {
		nid, ok, err := v.s.tree.Get(v.tx, state.Root(j.Root), e.key())
		if err != nil || ok && storage.EventNID(nid) == e.NID {
			return err == nil, err
		}
	}
	return false, err
}

// text is an event as the server may have it: what it may not see is redacted, as the DAG
// can't do without.
func (v *serving) text(e *event) (json.RawMessage, error) {
	seen, err := v.visible(e)
	if err == nil && !seen {
		seen, err = v.wasGiven(e)
	}
	if err == nil && seen && !e.Due(v.horizon) {
		var erased bool
		erased, err = v.erased(e)
		seen = !erased
	} else {
		seen = false
	}
	if err != nil || seen {
		return e.PDU.JSON(), err
	}
	rules, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(v.room.Version))
	if err != nil {
		return nil, err
	}
	return rules.RedactEventJSON(e.PDU.JSON())
}

// stateBefore are the events of the state before an event. The state after it is what is kept.
func (v *serving) stateBefore(e *event) ([]storage.EventNID, error) {
	var out []storage.EventNID
	for entry, err := range v.s.tree.List(v.tx, state.Root(e.Root)) {
		switch {
		case err != nil:
			return nil, err
		case storage.EventNID(entry.NID) != e.NID:
			out = append(out, storage.EventNID(entry.NID))
		case e.Replaces != 0:
			out = append(out, e.Replaces)
		}
	}
	return out, nil
}

// ServeEvent gives a server one event, in whatever room; outliers too, as they are what states
// and auth chains are made of.
//
// spec: server-server-api.md#get_matrixfederationv1eventeventid
func (s *Server) ServeEvent(ctx context.Context, origin id.ServerName, event id.EventID) (json.RawMessage, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (json.RawMessage, error) {
		row, err := tx.GetEvent(event)
		if missing, err := notFound(err); err != nil {
			return nil, err
		} else if missing || row.Status == storage.Rejected {
			return nil, errNotServed
		}
		room, err := tx.GetRoomByNID(row.Room)
		if err != nil {
			return nil, err
		}
		v, err := s.serve(tx, origin, room.ID)
		if err != nil {
			return nil, err
		}
		e, err := parseEvent(room.Version, row)
		if err != nil {
			return nil, err
		}
		if v.gone(e) {
			return nil, errNotServed
		}
		if row.Status == storage.Outlier {
			return e.PDU.JSON(), nil
		}
		return v.text(e)
	})
}

// ServeState gives a server the state before an event, and its auth chain.
//
// spec: server-server-api.md#get_matrixfederationv1stateroomid
func (s *Server) ServeState(ctx context.Context, origin id.ServerName, room id.RoomID, event id.EventID) (*serverapi.State, error) {
	out := &serverapi.State{}
	err := s.serveState(ctx, origin, room, event, func(tx *storage.Tx, events, chain []storage.EventNID) (err error) {
		if out.PDUs, err = eventTexts(tx, events); err != nil {
			return err
		}
		out.AuthChain, err = eventTexts(tx, chain)
		return err
	})
	return out, err
}

// ServeStateIDs is ServeState by IDs.
//
// spec: server-server-api.md#get_matrixfederationv1state_idsroomid
func (s *Server) ServeStateIDs(ctx context.Context, origin id.ServerName, room id.RoomID, event id.EventID) (*serverapi.StateIDs, error) {
	out := &serverapi.StateIDs{}
	err := s.serveState(ctx, origin, room, event, func(tx *storage.Tx, events, chain []storage.EventNID) (err error) {
		if out.PDUs, err = tx.ListEventIDs(events); err != nil {
			return err
		}
		out.AuthChain, err = tx.ListEventIDs(chain)
		return err
	})
	return out, err
}

func (s *Server) serveState(ctx context.Context, origin id.ServerName, room id.RoomID, event id.EventID,
	give func(tx *storage.Tx, events, chain []storage.EventNID) error) error {
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		v, err := s.serve(tx, origin, room)
		if err == nil && v.room.Partial != 0 {
			err = errNotThere // as far as we know
		}
		if err != nil {
			return err
		}
		e, err := v.event(event)
		if err != nil {
			return err
		}
		seen, err := v.visible(e)
		if err == nil && !seen {
			seen, err = v.leadsToJoin(e.ID)
		}
		if err != nil {
			return err
		}
		if !seen {
			return errNotSeen
		}
		events, err := v.stateBefore(e)
		if err != nil {
			return err
		}
		chain, err := s.authChain(tx, &v.room, events)
		if err != nil {
			return err
		}
		return give(tx, events, chain)
	})
}

// ServeAuth gives a server the auth chain of an event.
//
// spec: server-server-api.md#get_matrixfederationv1event_authroomideventid
func (s *Server) ServeAuth(ctx context.Context, origin id.ServerName, room id.RoomID, event id.EventID) (chain []json.RawMessage, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		v, err := s.serve(tx, origin, room)
		if err != nil {
			return err
		}
		row, err := tx.GetEvent(event)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing || row.Room != v.room.NID {
			return errNotServed
		}
		nids, err := s.authChain(tx, &v.room, []storage.EventNID{row.NID})
		if err != nil {
			return err
		}
		chain, err = eventTexts(tx, nids)
		return err
	})
	return chain, err
}

// ServeHistory gives a server events and what came before them: the given ones and those
// that they follow, up to limit, those of the greatest depth first.
//
// spec: server-server-api.md#get_matrixfederationv1backfillroomid
func (s *Server) ServeHistory(ctx context.Context, origin id.ServerName, room id.RoomID, from []id.EventID, limit int) (out []json.RawMessage, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		out = nil
		v, err := s.serve(tx, origin, room)
		if err != nil {
			return err
		}
		dag := v.walkBack(nil, 0)
		if err := dag.add(from); err != nil {
			return err
		}
		for len(out) < min(limit, maxServed) {
			e, err := dag.next()
			if err != nil || e == nil {
				return err
			}
			if v.gone(e) {
				continue
			}
			text, err := v.text(e)
			if err != nil {
				return err
			}
			out = append(out, text)
		}
		return nil
	})
	return out, err
}

// ServeMissing gives a server the events between some that it has and some that follow them,
// each behind those that it follows.
//
// spec: server-server-api.md#post_matrixfederationv1get_missing_eventsroomid
func (s *Server) ServeMissing(ctx context.Context, origin id.ServerName, room id.RoomID, r serverapi.MissingEvents) (out []json.RawMessage, err error) {
	limit := r.Limit
	if limit <= 0 {
		limit = 10 // the default of the request
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		out = nil
		v, err := s.serve(tx, origin, room)
		if err != nil {
			return err
		}
		dag := v.walkBack(r.Earliest, r.MinDepth)
		for _, latest := range r.Latest[:min(len(r.Latest), maxPrevEvents)] {
			e, err := v.event(latest)
			if matrixerr.CodeOf(err) != "" {
				continue // one that we don't have either leads nowhere
			}
			if err != nil {
				return err
			}
			dag.seen[latest] = true
			if err := dag.add(prevIDs(e)); err != nil {
				return err
			}
		}
		var events []*event
		for len(events) < min(limit, maxServed) {
			e, err := dag.next()
			if err != nil {
				return err
			}
			if e == nil {
				break
			}
			if !v.gone(e) {
				events = append(events, e)
			}
		}
		slices.Reverse(events)
		for _, e := range events {
			text, err := v.text(e)
			if err != nil {
				return err
			}
			out = append(out, text)
		}
		return nil
	})
	return out, err
}

func prevIDs(e *event) []id.EventID {
	var out []id.EventID
	for _, prev := range e.PrevEventIDs() {
		out = append(out, id.EventID(prev))
	}
	return out
}

// dagWalk goes back through a room's DAG, from the greatest depth to the least.
type dagWalk struct {
	v        *serving
	minDepth int64
	seen     map[id.EventID]bool
	open     []*event // the greatest depth last
}

// walkBack begins at no event, and stops before the given ones.
func (v *serving) walkBack(stop []id.EventID, minDepth int64) *dagWalk {
	w := &dagWalk{v: v, minDepth: minDepth, seen: make(map[id.EventID]bool)}
	for _, e := range stop {
		w.seen[e] = true
	}
	return w
}

func (w *dagWalk) add(events []id.EventID) error {
	for _, eventID := range events {
		if w.seen[eventID] || len(w.seen) > maxWalked {
			continue
		}
		w.seen[eventID] = true
		e, err := w.v.event(eventID)
		if matrixerr.CodeOf(err) != "" {
			continue
		}
		if err != nil {
			return err
		}
		if e.Depth() < w.minDepth {
			continue
		}
		at, _ := slices.BinarySearchFunc(w.open, e, func(a, b *event) int {
			return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.ID, b.ID))
		})
		w.open = slices.Insert(w.open, at, e)
	}
	return nil
}

// next is the next event back, and nil at the end.
func (w *dagWalk) next() (*event, error) {
	if len(w.open) == 0 {
		return nil, nil
	}
	e := w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	return e, w.add(prevIDs(e))
}

// ServeNearest tells a server which event of those that it may see was sent at a time, or
// nearest to it on one side.
//
// spec: server-server-api.md#get_matrixfederationv1timestamp_to_eventroomid
func (s *Server) ServeNearest(ctx context.Context, origin id.ServerName, room id.RoomID, ts int64, before bool) (*serverapi.NearestEvent, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (*serverapi.NearestEvent, error) {
		v, err := s.serve(tx, origin, room)
		if err != nil {
			return nil, err
		}
		for skip := 0; skip < maxNearest; skip += nearestBatch {
			rows, err := tx.ListNearest(v.room.NID, ts, before, skip, nearestBatch)
			if err != nil {
				return nil, err
			}
			for _, row := range rows {
				e, err := parseEvent(v.room.Version, row.Event)
				if err != nil {
					return nil, err
				}
				if seen, err := v.visible(e); err != nil {
					return nil, err
				} else if seen && !row.Due(v.horizon) {
					return &serverapi.NearestEvent{Event: row.ID, OriginTS: gjson.GetBytes(row.JSON, "origin_server_ts").Int()}, nil
				}
			}
			if len(rows) < nearestBatch {
				break
			}
		}
		return nil, matrixerr.New(matrixerr.NotFound, "No event was found at that time or on that side of it.")
	})
}
