package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/rules"
	"parley/storage"
)

// Taken is what became of an event that another server sent.
type Taken struct {
	// Event is its ID, empty where the event can't be read.
	Event id.EventID
	// Err is nil for an event that is now known, and for one that was; [ErrRejected], a
	// [MissingError] or a [matrixerr.Error] otherwise.
	Err error
}

const (
	// roomsAtOnce bounds the rooms of one transaction whose events are checked, or whose past is asked
	// for, at the same time.
	roomsAtOnce = 16
	// togetherTime is how long a room of a transaction waits for the others, to share their commit.
	togetherTime = 20 * time.Millisecond
	// verificationsAtOnce bounds the events whose signatures are checked at the same time; most
	// of that is waiting for keys.
	verificationsAtOnce = 64
	// gapsRemembered, gapRest and downRest bound how often a server is asked for what it does not
	// have, or can't be asked for.
	gapsRemembered = 1000
	gapRest        = 20 * time.Second
	downRest       = time.Second
)

// gap is a server that could not tell what it says happened in a room.
type gap struct {
	server id.ServerName
	room   id.RoomID
}

// intake is what is remembered of taking in events.
type intake struct {
	gaps *expirable.LRU[gap, time.Time]
}

func newIntake() intake {
	return intake{expirable.NewLRU[gap, time.Time](gapsRemembered, nil, gapRest)}
}

// rest notes that a server is not to be asked about a room for some time, no longer than gapRest.
func (i *intake) rest(g gap, d time.Duration) { i.gaps.Add(g, time.Now().Add(d)) }

// resting says whether a server is not to be asked about a room.
func (i *intake) resting(g gap) bool {
	until, ok := i.gaps.Get(g)
	return ok && time.Now().Before(until)
}

// Take takes in events that another server sent, of any rooms, in the order of each room, and
// says of each what became of it: it checks format, hash, signatures and the room's access
// control list, asks the server for what is missing, and has the event judged as Receive does.
// An error is one of ours, and says nothing of the events: they can be sent again.
//
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func (s *Server) Take(ctx context.Context, origin id.ServerName, events []json.RawMessage) ([]Taken, error) {
	out := make([]Taken, len(events))
	byRoom := make(map[id.RoomID][]int)
	for i, raw := range events {
		room, err := id.ParseRoomID(gjson.GetBytes(raw, "room_id").Str)
		if err != nil {
			room = "" // which nobody knows; what it is called may be long
		}
		byRoom[room] = append(byRoom[room], i)
	}
	g, ctx := errgroup.WithContext(ctx)
	together := newTogether(len(byRoom))
	for room, places := range byRoom {
		g.Go(func() error {
			mine := make([]json.RawMessage, len(places))
			for i, place := range places {
				mine[i] = events[place]
			}
			taken, err := s.takeInRoom(ctx, origin, room, mine, together)
			if err != nil {
				return fmt.Errorf("take in events of %s from %s: %w", room, origin, err)
			}
			for i, place := range places {
				out[place] = taken[i]
				if err := taken[i].Err; err != nil {
					s.log.InfoContext(ctx, "an event was refused", "room", room, "event", taken[i].Event, "origin", origin, "reason", err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// together is the rooms of one transaction, which are worked on side by side.
type together struct {
	slots chan struct{}
	left  atomic.Int64  // rooms whose events are not checked yet
	all   chan struct{} // closed when there are none
}

func newTogether(rooms int) *together {
	t := &together{slots: make(chan struct{}, roomsAtOnce), all: make(chan struct{})}
	t.left.Store(int64(rooms))
	return t
}

// ready says that a room's events are checked.
func (t *together) ready() {
	if t.left.Add(-1) == 0 {
		close(t.all)
	}
}

// wait returns when those of all rooms are, or it has lost patience.
func (t *together) wait() {
	late := time.NewTimer(togetherTime)
	defer late.Stop()
	select {
	case <-t.all:
	case <-late.C:
	}
}

func (s *Server) takeInRoom(ctx context.Context, origin id.ServerName, roomID id.RoomID, events []json.RawMessage, others *together) ([]Taken, error) {
	// What happens while we are let into a room is for us already.
	s.entering.wait(ctx, roomID)
	others.slots <- struct{}{}
	room, out, unknown, err := s.check(ctx, origin, roomID, events)
	<-others.slots
	others.ready()
	if err != nil || unknown == nil {
		return out, err
	}
	others.wait()
	if err := s.recommended(ctx, roomID, unknown); err != nil {
		return nil, err
	}
	results, err := s.receiveAll(ctx, roomID, unknown)
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		if out[i].Err != nil || result == nil {
			continue
		}
		var missing *MissingError
		if errors.As(result, &missing) && s.remote != nil {
			others.slots <- struct{}{}
			result, err = s.receiveWithPast(ctx, origin, &room, unknown[i])
			<-others.slots
			if err != nil {
				return nil, err
			}
		}
		if room.Partial != 0 && errors.Is(result, ErrRejected) {
			result = nil // which is not the last word
		}
		out[i].Err = result
	}
	return out, nil
}

// check does what can be done before the room is locked. Where that decides, it says what became of
// the events; else unknown are those to be judged, with nil for the others.
func (s *Server) check(ctx context.Context, origin id.ServerName, roomID id.RoomID, events []json.RawMessage) (room storage.Room, out []Taken, unknown []gomatrixserverlib.PDU, err error) {
	out = make([]Taken, len(events))
	refuse := func(err error) (storage.Room, []Taken, []gomatrixserverlib.PDU, error) {
		for i := range out {
			out[i].Err = err
		}
		return room, out, nil, nil
	}
	var here, allowed bool
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if room, err = tx.GetRoom(roomID); err != nil {
			return err
		}
		if here, err = s.takesPart(tx, &room); err != nil {
			return err
		}
		allowed, err = s.serverAllowed(tx, &room, origin)
		return err
	})
	if missing, err := notFound(err); err != nil {
		return room, nil, nil, err
	} else if missing {
		return refuse(matrixerr.New(matrixerr.NotFound, "This room is not known to this server."))
	}
	pdus := make([]gomatrixserverlib.PDU, len(events))
	for i, raw := range events {
		if pdus[i], out[i].Err = Parse(room.Version, raw); out[i].Err == nil {
			out[i].Event = id.EventID(pdus[i].EventID())
		}
	}
	switch {
	case !allowed:
		return refuse(matrixerr.New(matrixerr.Forbidden, "The room's access control list denies the server."))
	case !here:
		for i, pdu := range pdus {
			if out[i].Err == nil {
				out[i].Err = s.takeOutside(ctx, &room, pdu)
			}
		}
		return room, out, nil, nil
	}
	if unknown, err = s.withoutPlace(ctx, pdus); err != nil {
		return room, nil, nil, err
	}
	for i, err := range s.verify(ctx, unknown) {
		if out[i].Err == nil && err != nil {
			out[i].Err = err
			unknown[i] = nil
		}
	}
	return room, out, unknown, nil
}

// withoutPlace are those of the events that have no place in the DAG yet, with nil for the others.
func (s *Server) withoutPlace(ctx context.Context, pdus []gomatrixserverlib.PDU) ([]gomatrixserverlib.PDU, error) {
	var ids []id.EventID
	for _, pdu := range pdus {
		if pdu != nil {
			ids = append(ids, id.EventID(pdu.EventID()))
		}
	}
	placed, err := s.placed(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]gomatrixserverlib.PDU, len(pdus))
	for i, pdu := range pdus {
		// What was rejected is judged again, which is quick, so that the sender hears of it.
		if pdu != nil && placed[id.EventID(pdu.EventID())] != accepted {
			out[i] = pdu
		}
	}
	return out, nil
}

// standing is what is known of an event.
type standing uint8

const (
	absent   standing = iota
	outlier           // known without a place in the DAG
	rejected          // known to be against the rules
	accepted          // has a place in the DAG
)

// placed says what is known of some events; those that are absent are left out.
func (s *Server) placed(ctx context.Context, events []id.EventID) (map[id.EventID]standing, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (map[id.EventID]standing, error) {
		statuses, err := tx.ListEventStatuses(events)
		out := make(map[id.EventID]standing, len(statuses))
		for event, status := range statuses {
			switch status {
			case storage.Outlier:
				out[event] = outlier
			case storage.Rejected:
				out[event] = rejected
			default:
				out[event] = accepted
			}
		}
		return out, err
	})
}

// verify checks the signatures of events; nil stands for one that need not be checked.
//
// spec: server-server-api.md#validating-hashes-and-signatures-on-received-events
func (s *Server) verify(ctx context.Context, pdus []gomatrixserverlib.PDU) []error {
	errs := make([]error, len(pdus))
	var g errgroup.Group
	g.SetLimit(max(verificationsAtOnce, runtime.GOMAXPROCS(0)))
	for i, pdu := range pdus {
		if pdu == nil {
			continue
		}
		g.Go(func() error {
			if s.remote == nil {
				errs[i] = matrixerr.New(matrixerr.Forbidden, "This server does not federate.")
				return nil
			}
			if err := s.verifySignatures(ctx, pdu); err != nil {
				s.log.DebugContext(ctx, "a signature is wrong, or its key can't be had", slog.String("event", pdu.EventID()), slog.Any("error", err))
				errs[i] = matrixerr.New(matrixerr.InvalidParam, "The event's signatures could not be verified.")
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return no errors
	return errs
}

// verifySignatures checks the signatures of one event. An invite on the word of an identity
// server is the invited user's server's to send, whoever its sender is.
func (s *Server) verifySignatures(ctx context.Context, pdu gomatrixserverlib.PDU) error {
	if !rules.IsThirdPartyInvite(pdu) {
		return gomatrixserverlib.VerifyEventSignatures(ctx, pdu, s.remote, rules.UserOf)
	}
	v, err := gomatrixserverlib.GetRoomVersion(pdu.Version())
	if err != nil {
		return err
	}
	text, err := v.RedactEventJSON(pdu.JSON())
	if err != nil {
		return err
	}
	results, err := s.remote.VerifyJSONs(ctx, []gomatrixserverlib.VerifyJSONRequest{{
		ServerName: spec.ServerName(id.UserID(*pdu.StateKey()).Server()), AtTS: pdu.OriginServerTS(),
		Message: text, ValidityCheckingFunc: v.SignatureValidityCheck,
	}})
	if err != nil {
		return err
	}
	return results[0].Error
}

// receiveAll has events of one room judged and placed, in this order, in one transaction. Each
// has a result of its own, as Receive gives it; nil stands for one to be passed over.
func (s *Server) receiveAll(ctx context.Context, roomID id.RoomID, pdus []gomatrixserverlib.PDU) ([]error, error) {
	results := make([]error, len(pdus))
	any := false
	for _, pdu := range pdus {
		any = any || pdu != nil
	}
	if !any {
		return results, nil
	}
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		room, err := tx.LockRoom(roomID)
		if err != nil {
			return err
		}
		w := &work{tx: tx, room: room}
		if err := w.readPast(pdus); err != nil {
			return err
		}
		for i, pdu := range pdus {
			if pdu == nil {
				continue
			}
			// What is refused was refused before anything was written for it.
			refused, err := s.accept(w, pdu, nil)
			results[i] = nil
			var missing *MissingError
			var matrix *matrixerr.Error
			switch {
			case errors.As(err, &missing), errors.As(err, &matrix):
				results[i] = err
			case err != nil:
				return fmt.Errorf("event %s: %w", pdu.EventID(), err)
			case refused:
				results[i] = ErrRejected
			}
		}
		if err := s.dismissGuests(w); err != nil {
			return err
		}
		return w.finish()
	})
	return results, err
}
