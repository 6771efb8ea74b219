package roomserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/roomserver/state"
	"parley/storage"
)

// Into a large room our users are let without hearing first who is in it: such a room is partial.
// Its state lacks members until CompleteJoins has them. In the meantime
//
//   - events are judged by what is known, and by the members whom they cite, of whom nothing
//     else is known; that they break the rules of the current state is not held against them;
//   - the servers that are said to be in the room count as having a member each, so they are sent what
//     our users say;
//   - who asks for members waits; other servers are told neither of the state, nor let in;
//   - a client that wants all members is not shown the room.
//
// When the members are known, all that happened since the join is judged again: see makeWhole.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid

const (
	// maxPresumed bounds the servers that are believed to be in a partial room.
	maxPresumed = 10_000
	// completionsAtOnce is how many partial rooms are completed at the same time, and
	// completionTime for how long one may take.
	completionsAtOnce = 8
	completionTime    = 10 * time.Minute
	// completionEvery is how often partial rooms are looked for that another process came to;
	// firstRest and longestRest bound the time between two tries of one.
	completionEvery = 5 * time.Second
	firstRest       = 2 * time.Second
	longestRest     = 10 * time.Minute
	partialPage     = 100
)

// partialRooms wakes who completes joins, and who waits for that.
type partialRooms struct {
	begun chan struct{} // holds one when there may be a new partial room

	mu   sync.Mutex
	done chan struct{} // closed and replaced when a room is complete
}

func newPartialRooms() *partialRooms {
	return &partialRooms{begun: make(chan struct{}, 1), done: make(chan struct{})}
}

func (p *partialRooms) begin() {
	select {
	case p.begun <- struct{}{}:
	default:
	}
}

func (p *partialRooms) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.done)
	p.done = make(chan struct{})
}

func (p *partialRooms) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// awaitMembers waits until it is known who is in a room.
func (s *Server) awaitMembers(ctx context.Context, room id.RoomID) error {
	for {
		next := s.partial.next()
		partial, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
			r, err := tx.GetRoom(room)
			if missing, err := notFound(err); missing || err != nil || r.Partial == 0 {
				return false, err
			}
			return tx.HasLocalMember(r.NID)
		})
		if err != nil || !partial {
			return err
		}
		select {
		case <-next:
		case <-time.After(time.Second): // another process may complete it
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// presume makes a room partial: servers are said to be in it.
func (s *Server) presume(w *work, join storage.EventNID, servers []id.ServerName) error {
	w.room.Partial = join
	for i, server := range servers {
		if err := w.tx.InsertPresumedServer(w.room.NID, i, server); err != nil {
			return err
		}
	}
	w.tx.AfterCommit(s.partial.begin)
	return nil
}

// unpresume forgets what was presumed of a room that was partial, and takes from the tally the
// members that its servers were counted for.
func (w *work) unpresume(tally serverTally) error {
	if w.room.Partial == 0 {
		return nil
	}
	servers, err := w.tx.ListPresumedServers(w.room.NID)
	if err != nil {
		return err
	}
	for _, server := range servers {
		tally.count(server, spec.Join, "")
	}
	w.room.Partial = 0
	w.dirty = true
	return w.tx.DeletePartialJoin(w.room.NID)
}

// presumable are the servers that may be in a room that we were let into: the one that let us
// in, which has just answered and is asked first later, and those that it names.
func (s *Server) presumable(resident id.ServerName, said []id.ServerName) []id.ServerName {
	var out []id.ServerName
	seen := map[id.ServerName]bool{s.name: true}
	for _, server := range append([]id.ServerName{resident}, said[:min(len(said), maxPresumed)]...) {
		if _, err := id.ParseServerName(string(server)); err == nil && !seen[server] {
			seen[server] = true
			out = append(out, server)
		}
	}
	return out
}

// withCited adds to the state of a partial room the members whom an event cites, where it has
// nothing of them.
func (s *Server) withCited(w *work, e *event, root int64) (int64, error) {
	var cited []id.EventID
	for _, auth := range e.AuthEventIDs() {
		cited = append(cited, id.EventID(auth))
	}
	rows, err := w.tx.ListEvents(cited)
	if err != nil {
		return 0, err
	}
	var entries []state.Entry
	for _, row := range rows {
		c, err := parseEvent(w.room.Version, row)
		if err != nil {
			return 0, err
		}
		if row.Room != w.room.NID || row.Status == storage.Rejected || c.StateKey() == nil || c.Type() != spec.MRoomMember {
			continue
		}
		_, there, err := s.tree.Get(w.tx, state.Root(root), c.key())
		if err != nil {
			return 0, err
		}
		if !there {
			entries = append(entries, state.Entry{Key: c.key(), NID: c.nid()})
		}
	}
	if len(entries) == 0 {
		return root, nil
	}
	with, err := s.tree.Set(w.tx, state.Root(root), entries)
	return int64(with), err
}

// CompleteJoins has partial rooms completed, until ctx is done. It goes on with those that were
// partial when the node stopped.
func (s *Server) CompleteJoins(ctx context.Context) {
	if s.remote == nil {
		return
	}
	type try struct {
		at   time.Time
		rest time.Duration
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	slots := make(chan struct{}, completionsAtOnce)
	ended := make(chan id.RoomID, completionsAtOnce)
	busy, tries := make(map[id.RoomID]bool), make(map[id.RoomID]try)
	tick := time.NewTicker(completionEvery)
	defer tick.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		rooms, err := s.partialRooms(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "list rooms whose members are not known yet", "error", err)
		}
		next := completionEvery
		known := make(map[id.RoomID]bool, len(rooms))
		for _, room := range rooms {
			known[room.ID] = true
			t := tries[room.ID]
			if wait := time.Until(t.at); busy[room.ID] || wait > 0 {
				next = min(next, max(wait, time.Millisecond))
				continue
			}
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			t.rest = min(max(2*t.rest, firstRest), longestRest)
			t.at = time.Now().Add(t.rest)
			busy[room.ID], tries[room.ID] = true, t
			workers.Go(func() {
				if err := s.completeJoin(ctx, room.ID); err != nil && ctx.Err() == nil {
					s.log.WarnContext(ctx, "it could not be found out who is in a room", "room", room.ID, "error", err)
				}
				<-slots
				select {
				case ended <- room.ID:
				case <-ctx.Done():
				}
			})
		}
		for room := range tries {
			if !known[room] && !busy[room] && err == nil {
				delete(tries, room)
			}
		}
		retry.Reset(next)
		select {
		case <-ctx.Done():
			return
		case room := <-ended:
			delete(busy, room)
		case <-s.partial.begun:
		case <-retry.C:
		case <-tick.C:
		}
	}
}

func (s *Server) partialRooms(ctx context.Context) (rooms []storage.Room, err error) {
	var after storage.RoomNID
	for {
		page, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Room, error) { return tx.ListPartialRooms(after, partialPage) })
		rooms = append(rooms, page...)
		if err != nil || len(page) < partialPage {
			return rooms, err
		}
		after = page[len(page)-1].NID
	}
}

// completeJoin finds out who is in a partial room, by asking the servers that are said to be there.
func (s *Server) completeJoin(ctx context.Context, roomID id.RoomID) error {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	var room storage.Room
	var join *event
	var servers []id.ServerName
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if room, err = tx.GetRoom(roomID); err != nil || room.Partial == 0 {
			return err
		}
		row, err := tx.GetEventByNID(room.Partial)
		if err != nil {
			return err
		}
		if join, err = parseEvent(room.Version, row); err != nil {
			return err
		}
		servers, err = tx.ListPresumedServers(room.NID)
		return err
	})
	if err != nil || join == nil {
		return err
	}
	err = matrixerr.New(matrixerr.NotFound, "no server is known to be in the room")
	for _, server := range servers[:min(len(servers), maxServersAsked)] {
		var ids []id.EventID
		var last id.EventID
		if ids, last, err = s.stateBeforeJoin(ctx, server, &room, join); err == nil {
			err = s.makeWhole(ctx, roomID, join.ID, ids, last)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
		s.log.InfoContext(ctx, "a server did not tell who is in a room", "room", roomID, "server", server, "error", err)
	}
	return err
}

// stateBeforeJoin fetches the state before a join of ours: the one before the event that it
// follows, and that event; or where these can't be had, what the other server says it to be.
func (s *Server) stateBeforeJoin(ctx context.Context, server id.ServerName, room *storage.Room, join *event) (ids []id.EventID, last id.EventID, err error) {
	if prev := join.PrevEventIDs(); len(prev) == 1 {
		last = id.EventID(prev[0])
		if ids, err = s.fetchState(ctx, server, room, last); err == nil {
			if err := s.takeOutliers(ctx, room, s.fetchEach(ctx, server, []id.EventID{last})); err != nil {
				return nil, "", err
			}
			known, err := s.placed(ctx, []id.EventID{last})
			if err != nil || known[last] != absent {
				return ids, last, err
			}
		}
		var fault *fetchError
		if err != nil && !errors.As(err, &fault) {
			return nil, "", err
		}
	}
	ids, err = s.fetchState(ctx, server, room, join.ID)
	return ids, "", err
}

// makeWhole gives a partial room the whole state before our join, and judges all that came
// since by it, in the order of the DAG. Who broke the rules leaves the timeline; who did not
// after all comes into it now.
func (s *Server) makeWhole(ctx context.Context, roomID id.RoomID, joinID id.EventID, before []id.EventID, last id.EventID) error {
	// It must see the whole timeline.
	err := s.db.WriteAlone(ctx, func(tx *storage.Tx) error {
		room, err := tx.LockRoom(roomID)
		if err != nil || room.Partial == 0 {
			return err
		}
		row, err := tx.GetEventByNID(room.Partial)
		if err != nil || row.ID != joinID {
			return err
		}
		w := &work{tx: tx, room: room, arriving: true}
		join, err := parseEvent(room.Version, row)
		if err != nil {
			return err
		}
		root, err := s.wholeState(w, join, before, last)
		if err != nil {
			return err
		}
		ok, auth, err := s.passesAuthEvents(w, join)
		if err == nil && ok {
			ok, err = s.passes(w, join, root, auth)
		}
		if err != nil {
			return err
		}
		if !ok {
			return matrixerr.New(matrixerr.Forbidden, "the state that the other server gives does not allow our user's join")
		}
		if err := s.restate(w, join, root); err != nil {
			return err
		}
		late, err := s.judgeAgain(w, join)
		if err != nil {
			return err
		}
		tally := make(serverTally)
		if err := w.unpresume(tally); err != nil {
			return err
		}
		if err := s.settle(w, tally); err != nil {
			return err
		}
		w.arriving = false
		for _, e := range late {
			if err := s.appear(w, e.event, e.newest); err != nil {
				return err
			}
		}
		return w.finish()
	})
	if err == nil {
		s.partial.end()
	}
	return err
}

// wholeState is the whole state before a join, as it was fetched.
func (s *Server) wholeState(w *work, join *event, before []id.EventID, last id.EventID) (int64, error) {
	root, err := s.stateOf(w, before)
	if err != nil || last == "" {
		return root, err
	}
	row, err := w.tx.GetEvent(last)
	if missing, err := notFound(err); missing || err != nil {
		if missing {
			err = matrixerr.New(matrixerr.NotFound, "the event before the join could not be judged")
		}
		return 0, err
	}
	e, err := parseEvent(w.room.Version, row)
	if err != nil || e.StateKey() == nil || row.Status == storage.Rejected || row.Room != w.room.NID {
		return root, err
	}
	with, err := s.tree.Set(w.tx, state.Root(root), []state.Entry{{Key: e.key(), NID: e.nid()}})
	return int64(with), err
}

// restate writes an event whose place and status are known with another state before it.
func (s *Server) restate(w *work, e *event, before int64) error {
	e.Root, e.Replaces = before, 0
	s.forget(w.tx, e.NID)
	w.note(e)
	if e.StateKey() != nil && e.Status != storage.Rejected {
		return s.putState(w, e, before)
	}
	return w.tx.UpdateEventPlace(&e.Event)
}

// lateEvent is one that was rejected in a partial room, and should not have been.
type lateEvent struct {
	*event
	newest bool
}

// judgeAgain judges the events since a join again, and brings timeline and forward extremities
// up to date. It gives those that have no place in the timeline yet, and should have.
func (s *Server) judgeAgain(w *work, join *event) (late []lateEvent, err error) {
	start, ok, err := w.tx.GetOrd(join.NID)
	if err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("join %s has no place", join.ID))
	}
	rows, err := w.tx.ListTimelineForwards(w.room.NID, start, math.MaxInt64, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	doubtful, err := w.tx.ListDoubtfulEvents(w.room.NID)
	if err != nil {
		return nil, err
	}
	byID := make(map[id.EventID]*event)
	pdus := make(map[id.EventID]gomatrixserverlib.PDU)
	add := func(row storage.Event) error {
		e, err := parseEvent(w.room.Version, row)
		if err == nil {
			byID[e.ID], pdus[e.ID] = e, e.PDU
		}
		return err
	}
	for _, row := range rows {
		if err := add(row.Event); err != nil {
			return nil, err
		}
	}
	for _, row := range doubtful {
		if err := add(row); err != nil {
			return nil, err
		}
	}
	followed := make(map[id.EventID]bool)
	for _, pdu := range sorted(pdus, gomatrixserverlib.PDU.PrevEventIDs) {
		e := byID[id.EventID(pdu.EventID())]
		was := e.Status
		if err := s.judgeOne(w, e); err != nil {
			return nil, err
		}
		if e.Status != storage.Accepted {
			continue
		}
		if was != storage.Accepted {
			late = append(late, lateEvent{event: e})
		}
		f, err := s.followed(w, e)
		if err != nil {
			return nil, err
		}
		for prev := range f {
			followed[prev] = true
		}
	}
	for i := range late {
		late[i].newest = !followed[late[i].ID]
	}
	return late, s.retell(w, join, rows, byID)
}

// judgeOne judges an event of a room that is no longer partial by the state before it. What came
// with a state of its own, as events before it are missing, stays as it is.
func (s *Server) judgeOne(w *work, e *event) error {
	before, err := s.stateBefore(w, e, nil)
	var missing *MissingError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	ok, auth, err := s.passesAuthEvents(w, e)
	if err == nil && ok {
		ok, err = s.passes(w, e, before, auth)
	}
	switch {
	case err != nil:
		return err
	case !ok:
		e.Status = storage.Rejected
	case e.Status == storage.Rejected:
		e.Status = storage.Accepted
	}
	return s.restate(w, e, before)
}

// retell goes through the timeline since a join with the states as they now are: it corrects what
// was the current state at each place, takes out what was rejected, and ends with the forward
// extremities.
func (s *Server) retell(w *work, join *event, rows []storage.TimelineEvent, byID map[id.EventID]*event) error {
	w.room.Extremities = []storage.Extremity{{NID: join.NID, ID: join.ID}}
	ord, _, err := w.tx.GetOrd(join.NID)
	if err != nil {
		return err
	}
	if err := w.tx.UpdateTimelineRoot(w.room.NID, ord, join.Root); err != nil {
		return err
	}
	passed := make(map[id.EventID]bool)
	for _, row := range rows {
		e := byID[row.ID]
		if e.Status == storage.Rejected {
			if err := w.tx.DeleteTimeline(w.room.NID, row.Ord); err != nil {
				return err
			}
			if err := w.tx.DeleteSearch(e.NID); err != nil {
				return err
			}
			continue
		}
		followed, err := s.followed(w, e)
		if err != nil {
			return err
		}
		w.room.Extremities = slices.DeleteFunc(w.room.Extremities, func(x storage.Extremity) bool { return followed[x.ID] })
		if !passed[e.ID] {
			w.room.Extremities = append(w.room.Extremities, storage.Extremity{NID: e.NID, ID: e.ID})
		}
		for prev := range followed {
			passed[prev] = true
		}
		current, err := s.stateAfter(w)
		if err != nil {
			return err
		}
		if current != row.Current {
			if err := w.tx.UpdateTimelineRoot(w.room.NID, row.Ord, current); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle makes what the forward extremities come to the current state of a room that was partial.
// Our users there are told, as those of them who want all members see the room from now on.
func (s *Server) settle(w *work, presumed serverTally) error {
	root, err := s.stateAfter(w)
	if err != nil {
		return err
	}
	members, tally, err := s.moveState(w, root)
	if err != nil {
		return err
	}
	if tally == nil {
		tally = make(serverTally)
	}
	for server, c := range presumed {
		if tally[server] == nil {
			tally[server] = &serverChange{}
		}
		tally[server].members += c.members
	}
	moves, err := w.moveServers(tally)
	if err != nil {
		return err
	}
	moved, err := w.writeMembers(members)
	if err != nil {
		return err
	}
	joined, err := w.tx.ListMembers(w.room.NID, spec.Join, true)
	if err != nil {
		return err
	}
	users := slices.Clone(joined)
	for _, m := range members {
		if m.Local && m.Membership != spec.Join {
			users = append(users, m.User)
		}
	}
	room, nid := w.room.ID, w.room.NID
	w.dirty = true
	w.tx.OnPos(1, func(pos id.Pos) error {
		if err := w.tx.UpdateMembershipPos(nid, moved, pos); err != nil {
			return err
		}
		if err := w.placeServers(moves, pos); err != nil {
			return err
		}
		w.tx.Notify(stream.Notice{Pos: pos, Kind: stream.Event, Room: room, Users: users, Joined: joined, Away: len(moves) > 0})
		return w.tx.UpdateRoomComplete(nid, pos)
	})
	return nil
}
