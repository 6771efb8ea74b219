// Package lifecycle holds black-box tests of a server's beginning and end: killed under load, drained by SIGTERM,
// started again on the same data. What was acknowledged must be there, once, and a client goes on from the token that
// it has.
package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// reader follows one room through /sync, filling the gaps of limited timelines as a client does, and keeps the
// messages that it saw, in order.
type reader struct {
	stream *harness.Stream
	user   *harness.User
	room   id.RoomID
	seen   []*event.Event
}

// read starts at the end of what there is.
func read(u *harness.User, room id.RoomID) *reader {
	return &reader{stream: u.CaughtUp(), user: u, room: room}
}

// readOn is another reader that starts where r began to be copied: at r's token, with what r has seen.
func (r *reader) readOn() *reader {
	s := r.user.Stream()
	s.Since = r.stream.Since
	return &reader{stream: s, user: r.user, room: r.room, seen: slices.Clone(r.seen)}
}

// take adds what an answer to a request from the token since has of the room: all of it, or nothing and an error.
func (r *reader) take(ctx context.Context, since string, resp *mautrix.RespSync) error {
	joined := resp.Rooms.Join[r.room]
	if joined == nil {
		return nil
	}
	if joined.Timeline.Limited {
		var gap []*event.Event
		for from := joined.Timeline.PrevBatch; from != ""; {
			page, err := r.user.Messages(ctx, r.room, from, since, mautrix.DirectionBackward, nil, 100)
			if err != nil {
				return err
			}
			gap = append(gap, page.Chunk...)
			from = page.End
		}
		slices.Reverse(gap)
		r.seen = append(r.seen, messages(gap)...)
	}
	r.seen = append(r.seen, messages(joined.Timeline.Events)...)
	return nil
}

// until reads on until the event is among what was seen.
func (r *reader) until(t testing.TB, target id.EventID) {
	t.Helper()
	since := r.stream.Since
	r.stream.Until("event "+target.String(), func(resp *mautrix.RespSync) bool {
		if err := r.take(t.Context(), since, resp); err != nil {
			t.Fatal(err)
		}
		since = resp.NextBatch
		return harness.Find(r.seen, target) != nil
	})
}

func messages(events []*event.Event) []*event.Event {
	var kept []*event.Event
	for _, evt := range events {
		if evt.Type.Type == event.EventMessage.Type {
			kept = append(kept, evt)
		}
	}
	return kept
}

// sender sends one message after the other, each under its own transaction, until a request fails.
type sender struct {
	user    *harness.User
	name    string
	next    int
	sent    map[string]id.EventID // acknowledged, by transaction
	pending string                // the transaction that was not answered
	err     error                 // why it was not
}

func (s *sender) send(ctx context.Context, room id.RoomID, txn string) (id.EventID, error) {
	resp, err := s.user.SendMessageEvent(ctx, room, event.EventMessage,
		map[string]any{"msgtype": "m.text", "body": txn}, mautrix.ReqSendEvent{TransactionID: txn})
	if err != nil {
		return "", err
	}
	return resp.EventID, nil
}

// run sends until the server is gone, and tells of each acknowledgement.
func (s *sender) run(ctx context.Context, room id.RoomID, acknowledged func()) {
	for {
		txn := fmt.Sprintf("%s %d", s.name, s.next)
		s.next++
		sent, err := s.send(ctx, room, txn)
		if err != nil {
			s.pending, s.err = txn, err
			return
		}
		s.sent[txn] = sent
		acknowledged()
	}
}

// load is senders at work.
type load struct {
	running sync.WaitGroup
	acks    chan struct{}
}

// startLoad lets the senders send to the room until the server is gone.
func startLoad(t testing.TB, room id.RoomID, senders []*sender) *load {
	l := &load{acks: make(chan struct{}, 1024)}
	for _, s := range senders {
		l.running.Go(func() {
			s.run(t.Context(), room, func() {
				select {
				case l.acks <- struct{}{}:
				default: // nobody counts so far
				}
			})
		})
	}
	return l
}

// await waits for n acknowledgements.
func (l *load) await(t testing.TB, n int) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for i := range n {
		select {
		case <-l.acks:
		case <-timeout:
			t.Fatalf("%d of %d messages were acknowledged, and then no more", i, n)
		}
	}
}

// wantOnce fails the test unless the messages hold every event of want once, and none twice.
func wantOnce(t testing.TB, where string, got []*event.Event, want map[string]id.EventID) {
	t.Helper()
	count := map[id.EventID]int{}
	bodies := map[string]int{}
	for _, evt := range got {
		count[evt.ID]++
		body, _ := evt.Content.Raw["body"].(string)
		bodies[body]++
	}
	for body, n := range bodies {
		if n > 1 {
			t.Errorf("%s: %q is there %d times", where, body, n)
		}
	}
	lost := 0
	for _, event := range want {
		if count[event] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d acknowledged messages are lost", where, lost, len(want))
	}
}
