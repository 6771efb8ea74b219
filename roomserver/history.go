package roomserver

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/storage"
)

// What one request of a client may cost to fill in history that we don't have.
const (
	// historyTime is for how long other servers are asked.
	historyTime = 30 * time.Second
	// historyPage is how many events are asked for at once, and historyRounds how often.
	historyPage   = 100
	historyRounds = 5
	// historyServers is how many servers are asked for the same.
	historyServers = 3
	// maxGaps bounds the missing events that are asked for together, and statesAPage how often
	// the state is asked for that one page of events begins with.
	maxGaps     = maxPrevEvents
	statesAPage = 5
	// nearestPages bounds the pages that are filled in to come to an event that another server
	// says is nearest to a time.
	nearestPages = 10
)

// fillIn sees to it that the part of a room's timeline that a reader is about to be shown has no
// gaps: what is missing is asked of other servers, as far as they have it and it is not too much.
// Whatever comes of it, what there is can be shown.
func (s *Server) fillIn(ctx context.Context, p *PageRequest) {
	if s.remote == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	for range historyRounds {
		room, gaps, err := s.gaps(ctx, p.Room, p.Reader.User, p)
		filled := false
		if err == nil {
			filled, err = s.fillOne(ctx, &room, gaps)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "history could not be filled in", "room", p.Room, "error", err)
		}
		if !filled || err != nil {
			return
		}
	}
}

// fillOne fills in the newest of the holes in a timeline that can be filled.
func (s *Server) fillOne(ctx context.Context, room *storage.Room, gaps []storage.Gap) (filled bool, err error) {
	for len(gaps) > 0 && !filled && err == nil {
		// What is before all that we have is one hole, however many events ask for it.
		n := 1
		for n < len(gaps) && (gaps[n].Ord == gaps[0].Ord || gaps[0].Ord < 0) {
			n++
		}
		filled, err = s.backfill(ctx, room, gaps[:n])
		gaps = gaps[n:]
	}
	return filled, err
}

// gaps are the newest events that are missing in what a page back through a timeline shows to a
// user; or, without a page, in all of it.
func (s *Server) gaps(ctx context.Context, roomID id.RoomID, user id.UserID, p *PageRequest) (room storage.Room, gaps []storage.Gap, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		gaps = nil
		var err error
		if room, err = tx.GetRoom(roomID); err != nil {
			_, err = notFound(err)
			return err
		}
		some, err := tx.HasGaps(room.NID)
		if err != nil || !some {
			return err
		}
		// What others say in a room that we are not in any more is not for us.
		here, err := s.takesPart(tx, &room)
		if err != nil || !here {
			return err
		}
		v, err := s.view(tx, user, roomID)
		if err != nil {
			return nil //nolint:nilerr // the reader will be told
		}
		if p == nil {
			gaps, err = tx.ListGaps(room.NID, math.MaxInt64, math.MinInt64, maxGaps)
			return err
		}
		_, start, end, err := s.scan(tx, v, p)
		if err != nil {
			return err
		}
		low := storage.Ord(math.MinInt64)
		if end != nil {
			low = *end
		}
		if gaps, err = s.gapAbove(tx, room.NID, start); err != nil || len(gaps) > 0 {
			return err
		}
		gaps, err = tx.ListGaps(room.NID, start, low, maxGaps)
		return err
	})
	return room, gaps, err
}

// gapAbove are the events that are missing right below the first event above a place.
func (s *Server) gapAbove(tx *storage.Tx, room storage.RoomNID, at storage.Ord) ([]storage.Gap, error) {
	above, err := tx.ListTimelineForwards(room, at, math.MaxInt64, 1)
	if err != nil || len(above) == 0 {
		return nil, err
	}
	return tx.ListGaps(room, above[0].Ord, above[0].Ord-1, maxGaps)
}

// backfill asks servers in a room for what is missing in one hole of its timeline, and places it.
// It says whether anything came of it.
//
// spec: server-server-api.md#backfilling-and-retrieving-missing-events
func (s *Server) backfill(ctx context.Context, room *storage.Room, gaps []storage.Gap) (filled bool, err error) {
	unlock, err := s.filling.lock(ctx, room.ID)
	if err != nil {
		return false, err
	}
	defer unlock()
	servers, err := s.historians(ctx, room, gaps)
	if err != nil {
		return false, err
	}
	from := make([]id.EventID, len(gaps))
	for i, g := range gaps {
		from[i] = g.Event
	}
	for _, server := range servers {
		if s.intake.resting(gap{server, room.ID}) {
			continue
		}
		answer, err := s.remote.Backfill(ctx, server, room.ID, from, historyPage)
		if err != nil {
			s.intake.rest(gap{server, room.ID}, gapRest)
			s.log.InfoContext(ctx, "a server did not give history", "room", room.ID, "server", server, "error", err)
			continue
		}
		found := make(map[id.EventID]gomatrixserverlib.PDU)
		pdus, _ := s.parseAll(ctx, room, answer[:min(len(answer), historyPage)], func(id.EventID) bool { return true }, nil)
		for _, pdu := range pdus {
			found[id.EventID(pdu.EventID())] = pdu
		}
		if filled, err = s.placeHistory(ctx, server, room, gaps, found); err != nil || filled {
			return filled, err
		}
		s.intake.rest(gap{server, room.ID}, gapRest)
	}
	return false, nil
}

// historians are servers that may know what is missing: those whose users sent what follows it
// first.
func (s *Server) historians(ctx context.Context, room *storage.Room, gaps []storage.Gap) (out []id.ServerName, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		in, err := tx.ListServers(room.NID)
		if err != nil {
			return err
		}
		for _, g := range gaps[:min(len(gaps), historyServers)] {
			e, err := tx.GetEventByNID(g.WantedBy)
			if err != nil {
				return err
			}
			server := id.UserID(gjson.GetBytes(e.JSON, "sender").Str).Server()
			if server != s.name && slices.Contains(in, server) && !slices.Contains(out, server) {
				out = append(out, server)
			}
		}
		for _, server := range append([]id.ServerName{room.ID.Server()}, in...) {
			if len(out) < historyServers && server != s.name && slices.Contains(in, server) && !slices.Contains(out, server) {
				out = append(out, server)
			}
		}
		return nil
	})
	return out, err
}

// placeHistory gives events from before others that we have their state, their standing and
// their place in the timeline.
func (s *Server) placeHistory(ctx context.Context, server id.ServerName, room *storage.Room, gaps []storage.Gap, found map[id.EventID]gomatrixserverlib.PDU) (bool, error) {
	ids := make([]id.EventID, 0, len(found))
	for event, pdu := range found {
		ids = append(ids, event)
		for _, prev := range pdu.PrevEventIDs() {
			ids = append(ids, id.EventID(prev))
		}
	}
	known, err := s.placed(ctx, ids)
	if err != nil {
		return false, err
	}
	between := make(map[id.EventID]gomatrixserverlib.PDU)
	var next []id.EventID
	for _, g := range gaps {
		next = append(next, g.Event)
	}
	for len(next) > 0 {
		event := next[len(next)-1]
		next = next[:len(next)-1]
		if found[event] == nil || between[event] != nil || known[event] == accepted || known[event] == rejected {
			continue
		}
		between[event] = found[event]
		for _, prev := range found[event].PrevEventIDs() {
			next = append(next, id.EventID(prev))
		}
	}
	found = between // what is on the far side of events that we have belongs to another hole
	list := sorted(found, gomatrixserverlib.PDU.PrevEventIDs)
	// Where the page begins, the state is what the other server says.
	states := make(map[id.EventID][]id.EventID)
	asked := 0
	for _, pdu := range list {
		event := id.EventID(pdu.EventID())
		open := slices.ContainsFunc(pdu.PrevEventIDs(), func(prev string) bool {
			p := id.EventID(prev)
			return found[p] == nil && known[p] != accepted && known[p] != rejected
		})
		if !open || asked == statesAPage {
			continue
		}
		asked++
		before, err := s.fetchState(ctx, server, room, event)
		var fault *fetchError
		if errors.As(err, &fault) {
			s.log.InfoContext(ctx, "the state before an event could not be had", "room", room.ID, "event", event, "server", server, "error", err)
			continue
		}
		if err != nil {
			return false, err
		}
		states[event] = before
	}
	filled := false
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		filled = false
		locked, err := tx.LockRoom(room.ID)
		if err != nil {
			return err
		}
		w := &work{tx: tx, room: locked}
		places, current, err := freePlaces(tx, locked.NID, gaps, len(list))
		if err != nil {
			return err
		}
		// The newest of them have the places next to what we have.
		fits := list[len(list)-len(places):]
		for i, pdu := range fits {
			placed, err := s.acceptHistory(w, pdu, states[id.EventID(pdu.EventID())], places[i], current)
			if err != nil {
				return err
			}
			filled = filled || placed
		}
		return nil
	})
	return filled, err
}

// freePlaces are up to n places of a room's timeline next to each other, below the event that
// wants the newest of what is missing, in their order; and the root of what was the room's
// current state there. Where the timeline has nothing further down, or no room, it grows at
// its beginning.
func freePlaces(tx *storage.Tx, room storage.RoomNID, gaps []storage.Gap, n int) (places []storage.Ord, current int64, err error) {
	top := gaps[0].Ord
	below, err := tx.ListTimelineBackwards(room, top-1, math.MinInt64, 1)
	if err != nil {
		return nil, 0, err
	}
	bottom := storage.Ord(math.MinInt64)
	if len(below) > 0 && below[0].Ord > 0 {
		bottom, current = below[0].Ord, below[0].Current
	}
	if free := int64(top - 1 - bottom); bottom > 0 {
		n = int(min(int64(n), free))
	} else {
		first, _, err := tx.GetFirstOrd(room)
		if err != nil {
			return nil, 0, err
		}
		top = min(first, 0)
	}
	places = make([]storage.Ord, n)
	for i := range places {
		places[i] = top - storage.Ord(n-i)
	}
	return places, current, nil
}

// acceptHistory judges an event from before others that we have by its auth events and the
// state before it, and gives it a place in the timeline. What the room is now, it does not
// change. One that still can't be judged is passed over.
func (s *Server) acceptHistory(w *work, pdu gomatrixserverlib.PDU, before []id.EventID, place storage.Ord, current int64) (placed bool, err error) {
	e := &event{storage.Event{ID: id.EventID(pdu.EventID()), Room: w.room.NID, JSON: pdu.JSON()}, pdu}
	known, err := w.known(e.ID)
	switch {
	case err != nil:
		return false, err
	case known == nil:
	case known.Room != w.room.NID || known.Status != storage.Outlier:
		return false, nil
	default:
		e.NID, e.RedactedBy = known.NID, known.RedactedBy
	}
	var unknown *MissingError
	ok, auth, err := s.passesAuthEvents(w, e)
	if err == nil {
		e.Root, err = s.stateBefore(w, e, before)
	}
	if errors.As(err, &unknown) {
		return false, nil
	}
	if err == nil && ok {
		ok, err = s.passes(w, e, e.Root, auth)
	}
	if err != nil {
		return false, err
	}
	e.Status = storage.Accepted
	if !ok {
		e.Status = storage.Rejected
	}
	if e.NID == 0 {
		err = s.insert(w.tx, e)
	} else if err = w.tx.UpdateEventPlace(&e.Event); err == nil {
		s.forget(w.tx, e.NID)
	}
	if err != nil {
		return false, err
	}
	w.note(e)
	if ok && e.StateKey() != nil {
		if err := s.putState(w, e, e.Root); err != nil {
			return false, err
		}
	}
	if _, err := w.tx.DeleteMissingEvent(w.room.NID, e.ID); err != nil || !ok {
		return false, err
	}
	if err := s.noteMissing(w, e); err != nil {
		return false, err
	}
	w.gap = 0 // which is for what comes next in the log
	if err := s.relate(w, e); err != nil {
		return false, err
	}
	if err := s.applyRedaction(w, e); err != nil {
		return false, err
	}
	if err := s.applyEarlierRedaction(w, e); err != nil {
		return false, err
	}
	return true, w.tx.InsertHistory(w.room.NID, place, e.NID, current)
}

// nearestAfar asks other servers for the event nearest to a time, where we don't have the whole
// history, and fills that in up to there.
//
// spec: server-server-api.md#get_matrixfederationv1timestamp_to_eventroomid
func (s *Server) nearestAfar(ctx context.Context, user id.UserID, roomID id.RoomID, ts int64, before bool) {
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	dir := "f"
	if before {
		dir = "b"
	}
	var target *serverapi.NearestEvent
	for range nearestPages {
		room, gaps, err := s.gaps(ctx, roomID, user, nil)
		if err != nil || len(gaps) == 0 {
			return
		}
		if target == nil {
			if target = s.askNearest(ctx, &room, gaps, ts, dir); target == nil {
				return
			}
		}
		if known, err := s.placed(ctx, []id.EventID{target.Event}); err != nil || known[target.Event] == accepted {
			return
		}
		if filled, err := s.fillOne(ctx, &room, gaps); err != nil || !filled {
			return
		}
	}
}

func (s *Server) askNearest(ctx context.Context, room *storage.Room, gaps []storage.Gap, ts int64, dir string) *serverapi.NearestEvent {
	servers, err := s.historians(ctx, room, gaps)
	if err != nil {
		return nil
	}
	for _, server := range servers {
		answer, err := s.remote.TimestampToEvent(ctx, server, room.ID, ts, dir)
		if err == nil && (dir == "b") == (answer.OriginTS <= ts) || err == nil && answer.OriginTS == ts {
			return answer
		}
	}
	return nil
}
