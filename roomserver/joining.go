package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

const (
	// joinTime is for how long a join may go on. It does so when the client has gone: the other
	// server may have made the user a member already.
	joinTime = 5 * time.Minute
	// maxServersAsked bounds the servers that are asked, one after the other, to let a user in.
	maxServersAsked = 10
)

// roomLocks lets one at a time work on a room, where that takes other servers and can't be
// one transaction.
type roomLocks struct {
	mu   sync.Mutex
	held map[id.RoomID]chan struct{} // closed when it is let go
}

func newRoomLocks() *roomLocks { return &roomLocks{held: make(map[id.RoomID]chan struct{})} }

// lock waits for its turn; the function that it gives ends it.
func (l *roomLocks) lock(ctx context.Context, room id.RoomID) (unlock func(), err error) {
	for {
		l.mu.Lock()
		held, busy := l.held[room]
		if !busy {
			mine := make(chan struct{})
			l.held[room] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, room)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wait returns when nobody holds a room.
func (l *roomLocks) wait(ctx context.Context, room id.RoomID) {
	l.mu.Lock()
	held := l.held[room]
	l.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
}

// takesPart says whether this server is in a room, and so hears of what happens there: one of
// its users is a member, or there is nobody else.
func (s *Server) takesPart(tx *storage.Tx, room *storage.Room) (bool, error) {
	if room.Root == 0 {
		return false, nil
	}
	if room.Servers == 0 {
		return true, nil
	}
	return tx.HasLocalMember(room.NID)
}

// TakesPart is whether this server is in a room.
func (s *Server) TakesPart(ctx context.Context, room id.RoomID) (bool, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); missing || err != nil {
			return false, err
		}
		return s.takesPart(tx, &r)
	})
}

// joinAfar has a user join a room through a server that is in it.
//
// spec: server-server-api.md#joining-rooms
func (s *Server) joinAfar(ctx context.Context, r *MemberRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTime)
	defer cancel()
	return s.ask(ctx, r, func(server id.ServerName) error {
		t, err := s.remote.MakeJoin(ctx, server, r.Room, r.Sender, supportedVersions())
		if err != nil {
			return err
		}
		e, err := s.complete(ctx, t, r, spec.Join)
		if err != nil {
			return err
		}
		// Where we are in the room already, its state is known, and must not be replaced by a part.
		here, err := s.TakesPart(ctx, r.Room)
		if err != nil {
			return err
		}
		answer, err := s.remote.SendJoin(ctx, server, r.Room, e.ID, e.Event.JSON, !here)
		if err != nil {
			return err
		}
		if answer.MembersOmitted && here {
			return matrixerr.New(matrixerr.Unknown, "The other server left members out, which it was not asked to.").WithStatus(502)
		}
		if authoriser := e.field(authorisedVia); authoriser != "" {
			if e, err = s.countersigned(ctx, e, id.UserID(authoriser).Server(), answer.Event); err != nil {
				return err
			}
		}
		return s.enter(ctx, server, r.Room, e, answer)
	})
}

// supportedVersions are the room versions that we can take part in.
func supportedVersions() []id.RoomVersion {
	var out []id.RoomVersion
	for v := range Versions() {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// ask tries to do something in a room through the servers that may be in it, one after the
// other, until one has done it. The error is the most telling of theirs.
func (s *Server) ask(ctx context.Context, r *MemberRequest, try func(id.ServerName) error) error {
	named, others, err := s.candidates(ctx, r)
	if err != nil {
		return err
	}
	if s.remote == nil || len(named)+len(others) == 0 {
		return matrixerr.New(matrixerr.NotFound, "No server is known that is in this room.")
	}
	var telling error
	for i, server := range slices.Concat(named, others) {
		if i >= len(named) && telling != nil && len(named) > 0 {
			break // a server that was named has answered
		}
		err := try(server)
		if err == nil {
			return nil
		}
		s.log.InfoContext(ctx, "a server did not let a user of ours in or out", "room", r.Room, "user", r.Sender, "server", server, "error", err)
		if telling == nil && matrixerr.CodeOf(err) != "" || matrixerr.Is(err, matrixerr.Forbidden) {
			telling = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if telling != nil {
		return telling
	}
	return matrixerr.New(matrixerr.Unknown, "None of the servers that may be in this room could be asked.").WithStatus(502)
}

// candidates are servers that may be in a room, the most likely first: those that the request names,
// with the one of whoever made the user's membership what it is, and others that are known.
func (s *Server) candidates(ctx context.Context, r *MemberRequest) (named, others []id.ServerName, err error) {
	taken := 0
	take := func(list *[]id.ServerName, servers ...id.ServerName) {
		for _, server := range servers {
			_, err := id.ParseServerName(string(server))
			if err == nil && server != s.name && !slices.Contains(named, server) && !slices.Contains(others, server) && taken < maxServersAsked {
				*list = append(*list, server)
				taken++
			}
		}
	}
	take(&named, r.Via...)
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		room, err := tx.GetRoom(r.Room)
		if missing, err := notFound(err); missing || err != nil {
			return err
		}
		m, err := tx.GetMembership(r.Sender, room.NID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if !missing && m.Event != 0 {
			e, err := tx.GetEventByNID(m.Event)
			if err != nil {
				return err
			}
			take(&named, id.UserID(gjson.GetBytes(e.JSON, "sender").Str).Server())
		}
		take(&others, r.Room.Server())
		known, err := tx.ListServers(room.NID)
		take(&others, known...)
		return err
	})
	take(&others, r.Room.Server())
	return named, others, err
}

// enter makes a room ours that a user of ours has been let into: the state before the join is
// what the other server says, as far as it holds together. Where members are left out of it,
// the room is partial.
func (s *Server) enter(ctx context.Context, server id.ServerName, roomID id.RoomID, join *event, answer *serverapi.SendJoin) error {
	room, err := s.addRoom(ctx, roomID, id.RoomVersion(join.Version()))
	if err != nil {
		return err
	}
	if n := len(answer.State) + len(answer.AuthChain); n > maxState {
		return matrixerr.New(matrixerr.TooLarge, "The room has %d events of state, which is too many.", n)
	}
	before, err := s.takeState(ctx, &room, answer.State, answer.AuthChain)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		locked, err := tx.LockRoom(roomID)
		if err != nil {
			return err
		}
		w := &work{tx: tx, room: locked}
		e := &event{storage.Event{ID: join.ID, Room: locked.NID, JSON: join.Event.JSON}, join.PDU}
		given, err := s.tree.Set(tx, 0, before)
		root := int64(given)
		if err == nil && answer.MembersOmitted {
			root, err = s.withCited(w, e, root)
		}
		if err != nil {
			return err
		}
		ok, auth, err := s.passesAuthEvents(w, e)
		if err == nil && ok {
			ok, err = s.passes(w, e, root, auth)
		}
		var missing *MissingError
		if errors.As(err, &missing) || err == nil && !ok {
			return matrixerr.New(matrixerr.Forbidden, "The join is not allowed by the state of the room that the other server gives.")
		}
		if err != nil {
			return err
		}
		row, err := tx.GetEvent(e.ID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if !missing {
			if row.Status == storage.Accepted {
				return nil // it came by another way in the meantime
			}
			e.NID = row.NID
		}
		here, err := s.takesPart(tx, &w.room)
		if err != nil {
			return err
		}
		if !here {
			w.arriving = true
			var missing *MissingError
			follows, err := s.stateBefore(w, e, nil)
			if err != nil && !errors.As(err, &missing) {
				return err
			}
			if w.room.Partial != 0 && err == nil && answer.MembersOmitted {
				// Nothing has happened since our last user left, before we knew who else is here.
				if root, err = s.withCited(w, e, follows); err != nil {
					return err
				}
				e.Status = storage.Accepted
				if err := s.admit(w, e, root); err != nil {
					return err
				}
				w.tx.AfterCommit(s.partial.begin)
				return w.finish()
			}
			// What was known of the room is old: the room goes on from here.
			w.room.Extremities = nil
			w.room.Depth = 0
			w.anew = true
			if answer.MembersOmitted {
				w.presumed = s.presumable(server, answer.ServersInRoom)
			}
		} else if answer.MembersOmitted {
			return matrixerr.New(matrixerr.Unknown, "The room came to us by another way in the meantime.").WithStatus(502)
		}
		e.Status = storage.Accepted
		if err := s.admit(w, e, root); err != nil {
			return err
		}
		if answer.MembersOmitted {
			if err := s.presume(w, e.NID, w.presumed); err != nil {
				return err
			}
		}
		return w.finish()
	})
}

// addRoom makes a room known. An invite may have told us a wrong version of it.
func (s *Server) addRoom(ctx context.Context, roomID id.RoomID, version id.RoomVersion) (room storage.Room, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		room, err = tx.LockRoom(roomID)
		missing, err := notFound(err)
		switch {
		case err != nil:
			return err
		case missing:
			room, err = tx.InsertRoom(roomID, version)
			return err
		case room.Version == version:
			return nil
		case room.Root != 0:
			return matrixerr.New(matrixerr.IncompatibleRoomVersion, "The room is of version %s here.", room.Version)
		}
		room.Version = version
		return tx.UpdateRoomVersion(room.NID, version)
	})
	return room, err
}

// takeState takes in the state of a room and its auth chain, as another server gives them, as
// events without a place, and gives the entries of that state. Events that are not well-formed,
// signed, of this room and allowed by their auth events are left out.
func (s *Server) takeState(ctx context.Context, room *storage.Room, stateEvents, chain []json.RawMessage) ([]state.Entry, error) {
	ids, pdus, err := s.parseState(ctx, room, slices.Concat(stateEvents, chain))
	if err != nil {
		return nil, err
	}
	judged, err := s.judge(ctx, room, pdus)
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(judged, outliersAtOnce) {
		if err := s.insertOutliers(ctx, room, part); err != nil {
			return nil, err
		}
	}
	keys := make(map[id.EventID]state.Key)
	create := 0
	for _, event := range ids[:len(stateEvents)] {
		pdu := pdus[event]
		if pdu == nil || pdu.StateKey() == nil || keys[event] != (state.Key{}) {
			continue
		}
		if pdu.Type() == spec.MRoomCreate {
			create++
			if v := gjson.GetBytes(pdu.Content(), "room_version"); v.Exists() && v.Str != string(room.Version) || !v.Exists() && room.Version != "1" {
				return nil, matrixerr.New(matrixerr.BadJSON, "The room is not of version %s.", room.Version)
			}
		}
		keys[event] = state.Key{Type: pdu.Type(), StateKey: *pdu.StateKey()}
	}
	if create != 1 {
		return nil, matrixerr.New(matrixerr.BadJSON, "The state of the room has %d create events.", create)
	}
	ids = slices.Sorted(maps.Keys(keys))
	// Some may have been known already, as rejected or otherwise.
	refs, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (map[id.EventID]storage.EventRef, error) { return tx.ListEventRefs(ids) })
	if err != nil {
		return nil, err
	}
	entries := make([]state.Entry, 0, len(ids))
	places := make(map[state.Key]bool, len(ids))
	for _, event := range ids {
		ref, ok := refs[event]
		if !ok || ref.Room != room.NID || ref.Status == storage.Rejected || places[keys[event]] {
			continue
		}
		places[keys[event]] = true
		entries = append(entries, state.Entry{Key: keys[event], NID: state.EventNID(ref.NID)})
	}
	return entries, nil
}

// parseState are those of a room's events that are well-formed and signed, by ID; and the ID of
// each that was given, "" for one that can't be read.
func (s *Server) parseState(ctx context.Context, room *storage.Room, events []json.RawMessage) ([]id.EventID, map[id.EventID]gomatrixserverlib.PDU, error) {
	parsed := make([]gomatrixserverlib.PDU, len(events))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(indexes(len(events)), 256) {
		g.Go(func() error {
			for _, i := range part {
				pdu, err := Parse(room.Version, events[i])
				if err == nil && pdu.RoomID().String() == string(room.ID) && ctx.Err() == nil {
					parsed[i] = pdu
				}
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	ids := make([]id.EventID, len(events))
	out := make(map[id.EventID]gomatrixserverlib.PDU, len(events))
	for i, pdu := range parsed {
		if pdu == nil {
			continue
		}
		ids[i] = id.EventID(pdu.EventID())
		if out[ids[i]] != nil {
			parsed[i] = nil
		} else {
			out[ids[i]] = pdu
		}
	}
	refused := 0
	for i, err := range s.verify(ctx, parsed) {
		if err != nil {
			delete(out, id.EventID(parsed[i].EventID()))
			refused++
		}
	}
	if refused > 0 {
		s.log.WarnContext(ctx, "events of a room's state were refused for their signatures", "room", room.ID, "events", refused)
	}
	return ids, out, ctx.Err()
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// judgedEvent is an event and whether its auth events let it be.
type judgedEvent struct {
	pdu      gomatrixserverlib.PDU
	rejected bool
}

// judge judges events by the auth events that they name, which are among them or known: it
// gives each behind its auth events. Those of which an auth event is missing, and those that
// are known, are left out.
//
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func (s *Server) judge(ctx context.Context, room *storage.Room, pdus map[id.EventID]gomatrixserverlib.PDU) ([]judgedEvent, error) {
	var ids []id.EventID
	for event, pdu := range pdus {
		ids = append(ids, event)
		for _, auth := range pdu.AuthEventIDs() {
			ids = append(ids, id.EventID(auth))
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	known := make(map[id.EventID]judgedEvent)
	for part := range slices.Chunk(ids, loadBatch) {
		rows, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Event, error) { return tx.ListEvents(part) })
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			e, err := parseEvent(room.Version, row)
			if err != nil {
				return nil, err
			}
			known[row.ID] = judgedEvent{e.PDU, row.Room != room.NID || row.Status == storage.Rejected}
		}
	}
	order := sorted(pdus, gomatrixserverlib.PDU.AuthEventIDs)
	// Each by itself, at the same time; and then those fall that build on one that fell.
	lookup := func(event id.EventID) gomatrixserverlib.PDU {
		if k, ok := known[event]; ok {
			return k.pdu
		}
		return pdus[event]
	}
	allowed := make([]bool, len(order))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(indexes(len(order)), 256) {
		g.Go(func() error {
			for _, i := range part {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				var auth []gomatrixserverlib.PDU
				for _, a := range order[i].AuthEventIDs() {
					if pdu := lookup(id.EventID(a)); pdu != nil {
						auth = append(auth, pdu)
					}
				}
				allowed[i] = allowedBy(order[i], auth)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []judgedEvent
	for i, pdu := range order {
		event := id.EventID(pdu.EventID())
		if _, ok := known[event]; ok {
			continue
		}
		j := judgedEvent{pdu, !allowed[i]}
		complete := true
		for _, a := range pdu.AuthEventIDs() {
			auth, ok := known[id.EventID(a)]
			complete = complete && ok
			j.rejected = j.rejected || auth.rejected
		}
		if complete {
			known[event] = j
			out = append(out, j)
		}
	}
	return out, nil
}

// insertOutliers writes events that were judged, without a place. Known ones stay as they are.
func (s *Server) insertOutliers(ctx context.Context, room *storage.Room, events []judgedEvent) error {
	ids := make([]id.EventID, len(events))
	for i, j := range events {
		ids[i] = id.EventID(j.pdu.EventID())
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockRoom(room.ID); err != nil {
			return err
		}
		known, err := tx.ListEventRefs(ids)
		if err != nil {
			return err
		}
		for i, j := range events {
			if _, ok := known[ids[i]]; ok {
				continue
			}
			e := &event{storage.Event{ID: ids[i], Room: room.NID, JSON: j.pdu.JSON(), Status: storage.Outlier}, j.pdu}
			if j.rejected {
				e.Status = storage.Rejected
			}
			if err := s.insert(tx, e); err != nil {
				return fmt.Errorf("event %s: %w", e.ID, err)
			}
		}
		return nil
	})
}
