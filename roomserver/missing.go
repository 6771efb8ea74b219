package roomserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"golang.org/x/sync/errgroup"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

// What one event may cost whose past we don't have.
const (
	// pastTime is for how long other servers are asked.
	pastTime = 2 * time.Minute
	// maxPast is how many events between ours and it are fetched, pastPage how many are asked
	// for at once, and maxPastPages how often.
	maxPast      = 2000
	pastPage     = 100
	maxPastPages = 100
	// pastTogether is how many of them are judged in one transaction, which others wait for.
	pastTogether = 20
	// maxUnknown is of how many of these the past may be unknown and not to be had, until the rest
	// is not asked for.
	maxUnknown = 5
	// maxState is how many events the state before it may have, with their auth chain.
	maxState = 400_000
	// fetchesAtOnce is how many single events are asked for at the same time; where more than
	// maxFetches are missing, the whole state is.
	fetchesAtOnce = 8
	maxFetches    = 50
	// outliersAtOnce is how many events without a place are written in one transaction.
	outliersAtOnce = 200
)

// receiveWithPast has an event judged whose auth events or previous events we don't have:
// it asks the server that sent it for the events between ours and it, and where that does not
// lead to ours, for the state before it. The result is that of the event; err is one of ours.
//
// spec: server-server-api.md#backfilling-and-retrieving-missing-events
func (s *Server) receiveWithPast(ctx context.Context, origin id.ServerName, room *storage.Room, pdu gomatrixserverlib.PDU) (result, err error) {
	result = s.Receive(ctx, pdu) // what came before it may have been what was missing
	var missing *MissingError
	if !errors.As(result, &missing) {
		return own(result)
	}
	from := gap{origin, room.ID}
	if s.intake.resting(from) {
		return missing, nil
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	past, asked, err := s.past(ctx, origin, room, pdu)
	if errors.Is(err, errMalformed) {
		// No server can have taken in what follows such an event, and need not be asked for more.
		return missing, nil
	}
	if err != nil {
		return nil, err
	}
	unknown := 0
	if err := s.recommended(ctx, room.ID, past); err != nil {
		return nil, err
	}
	for left := append(past, pdu); len(left) > 0; {
		// In one transaction up to the first that lacks something.
		results, fault := s.receiveAll(ctx, room.ID, left[:min(len(left), pastTogether)])
		if err = fault; err != nil {
			break
		}
		lacks := slices.IndexFunc(results, func(r error) bool { return errors.As(r, &missing) })
		if lacks < 0 {
			result, left = results[len(results)-1], left[len(results):]
			continue
		}
		if result, err = own(s.receiveWithState(ctx, origin, room, left[lacks])); err != nil {
			break
		}
		left = left[lacks+1:]
		if errors.As(result, &missing) {
			if unknown++; unknown == maxUnknown {
				break
			}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) && outer.Err() == nil {
		result, err = missing, nil
	}
	if errors.As(result, &missing) {
		rest := gapRest
		if !asked {
			rest = downRest
		}
		s.intake.rest(from, rest)
	}
	return result, err
}

// own tells errors of ours from what was found of an event.
func own(err error) (result, ours error) {
	var missing *MissingError
	var matrix *matrixerr.Error
	if errors.Is(err, ErrRejected) || errors.As(err, &missing) || errors.As(err, &matrix) {
		return err, nil
	}
	return nil, err
}

// errMalformed says that an event does not have the format of its room's version.
var errMalformed = errors.New("a malformed event")

// past are events between those that we have and one that follows them, as far as the other
// server tells: each behind those that it follows. asked says that it could be asked. It fails with
// errMalformed where one of them is.
func (s *Server) past(ctx context.Context, origin id.ServerName, room *storage.Room, pdu gomatrixserverlib.PDU) (past []gomatrixserverlib.PDU, asked bool, err error) {
	found := make(map[id.EventID]gomatrixserverlib.PDU)
	refused := make(map[id.EventID]bool)
	var earliest []id.EventID
	for _, x := range room.Extremities {
		earliest = append(earliest, x.ID)
	}
	open, err := s.withoutPast(ctx, found, refused, []gomatrixserverlib.PDU{pdu})
	if err != nil {
		return nil, false, err
	}
	asked = true
	for range maxPastPages {
		if len(open) == 0 || len(found) >= maxPast {
			break
		}
		if len(open) > maxPrevEvents {
			open = open[:maxPrevEvents]
		}
		var latest []id.EventID
		for _, p := range open {
			latest = append(latest, id.EventID(p.EventID()))
		}
		answer, err := s.remote.MissingEvents(ctx, origin, room.ID, serverapi.MissingEvents{
			Earliest: earliest[:min(len(earliest), maxPrevEvents)], Latest: latest, Limit: pastPage,
		})
		if err != nil {
			s.log.InfoContext(ctx, "missing events could not be had", "room", room.ID, "server", origin, "error", err)
			var refusal *matrixerr.Error
			asked = errors.As(err, &refusal) || ctx.Err() != nil
			break
		}
		fresh, malformed := s.parseAll(ctx, room, answer[:min(len(answer), maxPast)], func(event id.EventID) bool {
			return found[event] == nil && !refused[event] && event != id.EventID(pdu.EventID())
		}, refused)
		if malformed || answer == nil {
			return nil, true, errMalformed
		}
		if len(fresh) == 0 {
			break
		}
		for _, p := range fresh {
			found[id.EventID(p.EventID())] = p
		}
		if open, err = s.withoutPast(ctx, found, refused, append(fresh, open...)); err != nil {
			return nil, false, err
		}
	}
	return sorted(found, gomatrixserverlib.PDU.PrevEventIDs), asked, nil
}

// withoutPast are those of the events that follow events which are neither found nor ours.
func (s *Server) withoutPast(ctx context.Context, found map[id.EventID]gomatrixserverlib.PDU, refused map[id.EventID]bool, events []gomatrixserverlib.PDU) ([]gomatrixserverlib.PDU, error) {
	var asked []id.EventID
	for _, e := range events {
		for _, prev := range e.PrevEventIDs() {
			asked = append(asked, id.EventID(prev))
		}
	}
	placed, err := s.placed(ctx, asked)
	if err != nil {
		return nil, err
	}
	var out []gomatrixserverlib.PDU
	for _, e := range events {
		for _, prev := range e.PrevEventIDs() {
			p := id.EventID(prev)
			if found[p] == nil && !refused[p] && placed[p] != accepted && placed[p] != rejected {
				out = append(out, e)
				break
			}
		}
	}
	return out, nil
}

// parseAll are those of the events of a room that are wanted, well-formed and signed; those that are
// not signed are noted as refused. It says whether some are malformed.
func (s *Server) parseAll(ctx context.Context, room *storage.Room, events []json.RawMessage, wanted func(id.EventID) bool, refused map[id.EventID]bool) (out []gomatrixserverlib.PDU, malformed bool) {
	var pdus []gomatrixserverlib.PDU
	seen := make(map[id.EventID]bool)
	for _, raw := range events {
		pdu, err := Parse(room.Version, raw)
		malformed = malformed || err != nil
		if err != nil || pdu.RoomID().String() != string(room.ID) {
			continue
		}
		event := id.EventID(pdu.EventID())
		if !seen[event] && wanted(event) {
			seen[event] = true
			pdus = append(pdus, pdu)
		}
	}
	for i, err := range s.verify(ctx, pdus) {
		if err == nil {
			out = append(out, pdus[i])
		} else if refused != nil {
			refused[id.EventID(pdus[i].EventID())] = true
		}
	}
	return out, malformed
}

// sorted orders events so that each comes behind those of them that it links to; among others
// the order is that of depth and ID. Events that link to each other in a circle, which no
// honest events can, are left out.
func sorted(events map[id.EventID]gomatrixserverlib.PDU, links func(gomatrixserverlib.PDU) []string) []gomatrixserverlib.PDU {
	waits := make(map[id.EventID]int, len(events))
	leads := make(map[id.EventID][]gomatrixserverlib.PDU)
	var ready []gomatrixserverlib.PDU
	for event, e := range events {
		for _, link := range uniq(links(e)) {
			if to := id.EventID(link); events[to] != nil {
				waits[event]++
				leads[to] = append(leads[to], e)
			}
		}
		if waits[event] == 0 {
			ready = append(ready, e)
		}
	}
	order := func(a, b gomatrixserverlib.PDU) int {
		return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.EventID(), b.EventID()))
	}
	out := make([]gomatrixserverlib.PDU, 0, len(events))
	for len(ready) > 0 {
		slices.SortFunc(ready, order)
		var next []gomatrixserverlib.PDU
		for _, e := range ready {
			out = append(out, e)
			for _, l := range leads[id.EventID(e.EventID())] {
				if waits[id.EventID(l.EventID())]--; waits[id.EventID(l.EventID())] == 0 {
					next = append(next, l)
				}
			}
		}
		ready = next
	}
	return out
}

func uniq(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// receiveWithState is Receive for an event whose auth events or previous events may not be
// there: their place is taken by what the other server says was the state before it.
func (s *Server) receiveWithState(ctx context.Context, origin id.ServerName, room *storage.Room, pdu gomatrixserverlib.PDU) error {
	event := id.EventID(pdu.EventID())
	var before []id.EventID
	for step := 0; ; step++ {
		err := s.receive(ctx, pdu, before)
		var missing *MissingError
		if step == 2 || !errors.As(err, &missing) {
			return err
		}
		if len(missing.Prev) > 0 && before == nil {
			before, err = s.fetchState(ctx, origin, room, event)
		} else {
			err = s.fetchAuth(ctx, origin, room, event)
		}
		var fault *fetchError
		if errors.As(err, &fault) {
			s.log.InfoContext(ctx, "the past of an event could not be had", "room", room.ID, "event", event, "server", origin, "error", fault.err)
			return missing
		}
		if err != nil {
			return err
		}
	}
}

// fetchError is a failure of another server, not of ours.
type fetchError struct{ err error }

func (e *fetchError) Error() string { return "fetch: " + e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// fetchAuth takes in the auth chain of an event.
//
// spec: server-server-api.md#retrieving-event-authorisation-information
func (s *Server) fetchAuth(ctx context.Context, origin id.ServerName, room *storage.Room, event id.EventID) error {
	chain, err := s.remote.EventAuth(ctx, origin, room.ID, event)
	if err != nil {
		return &fetchError{err}
	}
	return s.takeOutliers(ctx, room, chain)
}

// fetchState takes in the state before an event, and its auth chain, as far as we don't have
// them, and gives the state's events.
func (s *Server) fetchState(ctx context.Context, origin id.ServerName, room *storage.Room, event id.EventID) ([]id.EventID, error) {
	ids, err := s.remote.StateIDs(ctx, origin, room.ID, event)
	if err != nil {
		return nil, &fetchError{err}
	}
	all := slices.Concat(ids.PDUs, ids.AuthChain)
	if len(ids.PDUs) == 0 || len(all) > maxState {
		return nil, &fetchError{matrixerr.New(matrixerr.TooLarge, "the state has %d events", len(all))}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	placed, err := s.placed(ctx, all)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e id.EventID) bool { return placed[e] != absent })
	var events []json.RawMessage
	if len(all) > maxFetches {
		state, err := s.remote.State(ctx, origin, room.ID, event)
		if err != nil {
			return nil, &fetchError{err}
		}
		events = slices.Concat(state.PDUs, state.AuthChain)
	} else {
		events = s.fetchEach(ctx, origin, all)
	}
	if err := s.takeOutliers(ctx, room, events); err != nil {
		return nil, err
	}
	// What the other server names and doesn't give is no part of the state.
	if placed, err = s.placed(ctx, ids.PDUs); err != nil {
		return nil, err
	}
	state := slices.Compact(slices.Sorted(slices.Values(ids.PDUs)))
	state = slices.DeleteFunc(state, func(e id.EventID) bool { return placed[e] == absent })
	if len(state) == 0 {
		return nil, &fetchError{matrixerr.New(matrixerr.NotFound, "none of the state's %d events could be had", len(ids.PDUs))}
	}
	return state, nil
}

// fetchEach asks for single events; those that can't be had are left out.
func (s *Server) fetchEach(ctx context.Context, origin id.ServerName, events []id.EventID) []json.RawMessage {
	var mu sync.Mutex
	var out []json.RawMessage
	var g errgroup.Group
	g.SetLimit(fetchesAtOnce)
	for _, event := range events {
		g.Go(func() error {
			raw, err := s.remote.Event(ctx, origin, event)
			if err != nil {
				s.log.DebugContext(ctx, "an event could not be had", "event", event, "server", origin, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, raw)
			return nil
		})
	}
	_ = g.Wait() // its functions return no errors
	return out
}

// takeOutliers takes in events without a place in the DAG. Those whose auth events we neither
// have nor get can't be judged, and are left out.
func (s *Server) takeOutliers(ctx context.Context, room *storage.Room, events []json.RawMessage) error {
	_, pdus, err := s.parseState(ctx, room, events)
	if err != nil {
		return err
	}
	judged, err := s.judge(ctx, room, pdus)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(judged, outliersAtOnce) {
		if err := s.insertOutliers(ctx, room, part); err != nil {
			return err
		}
	}
	return nil
}
