package harness

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// untilTimeout bounds the wait for something to come through /sync; it is there so that a lost event fails the test
// with a message.
const untilTimeout = 60 * time.Second

// Stream is a device's way through /sync, one request at a time.
type Stream struct {
	mautrix.ReqSync // Since moves on with each answer; set the rest to ask for more than the defaults

	u *User
	t testing.TB
}

// Stream begins a walk through /sync that has not made its initial sync.
func (u *User) Stream() *Stream {
	return &Stream{u: u, t: u.t}
}

// CaughtUp is Stream after the initial sync.
func (u *User) CaughtUp() *Stream {
	u.t.Helper()
	s := u.Stream()
	s.Next()
	return s
}

// Next makes one request that doesn't wait for news.
func (s *Stream) Next() *mautrix.RespSync {
	s.t.Helper()
	return s.request(0)
}

func (s *Stream) request(wait time.Duration) *mautrix.RespSync {
	s.t.Helper()
	req := s.ReqSync
	req.Timeout = int(wait.Milliseconds())
	resp, err := s.u.FullSyncRequest(s.t.Context(), req)
	s.u.must("sync", err)
	if resp.NextBatch == "" {
		s.t.Fatal("a sync answer without next_batch")
	}
	s.Since = resp.NextBatch
	return resp
}

// Until long-polls until an answer satisfies ok, and returns that answer. What ok sees and doesn't want is dropped,
// as it is by a client that looks for one thing.
func (s *Stream) Until(what string, ok func(*mautrix.RespSync) bool) *mautrix.RespSync {
	s.t.Helper()
	deadline := time.Now().Add(untilTimeout)
	var seen []string
	for time.Now().Before(deadline) {
		resp := s.request(10 * time.Second)
		if ok(resp) {
			return resp
		}
		raw, _ := json.Marshal(resp)
		seen = append(seen, string(raw))
	}
	s.t.Fatalf("%s waited in vain for %s; what came was %s", s.u.UserID, what, seen)
	return nil
}

// UntilEvent long-polls until the event is in the room's timeline, and returns it.
func (s *Stream) UntilEvent(room id.RoomID, target id.EventID) *event.Event {
	s.t.Helper()
	var found *event.Event
	s.Until("event "+target.String(), func(resp *mautrix.RespSync) bool {
		found = Find(Timeline(resp, room), target)
		return found != nil
	})
	return found
}

// UntilMember long-polls until the user's membership of the room is what is named, from the user's own view: the
// room is in that section of the answer.
func (s *Stream) UntilMember(room id.RoomID, membership event.Membership) *mautrix.RespSync {
	s.t.Helper()
	return s.Until(string(membership)+" of "+room.String(), func(resp *mautrix.RespSync) bool {
		switch membership {
		case event.MembershipInvite:
			return resp.Rooms.Invite[room] != nil
		case event.MembershipJoin:
			return resp.Rooms.Join[room] != nil
		case event.MembershipKnock:
			return resp.Rooms.Knock[room] != nil
		default:
			return resp.Rooms.Leave[room] != nil
		}
	})
}

// Timeline is the room's part of the answer's timeline, joined or left.
func Timeline(resp *mautrix.RespSync, room id.RoomID) []*event.Event {
	if r := resp.Rooms.Join[room]; r != nil {
		return r.Timeline.Events
	}
	if r := resp.Rooms.Leave[room]; r != nil {
		return r.Timeline.Events
	}
	return nil
}

// State is the room's part of the answer's state section.
func State(resp *mautrix.RespSync, room id.RoomID) []*event.Event {
	if r := resp.Rooms.Join[room]; r != nil {
		return r.State.Events
	}
	return nil
}

// Find looks for an event by its id.
func Find(events []*event.Event, target id.EventID) *event.Event {
	for _, evt := range events {
		if evt.ID == target {
			return evt
		}
	}
	return nil
}

// FindState looks for a state event by type and state key, and returns the last of several.
func FindState(events []*event.Event, kind event.Type, key string) *event.Event {
	for _, evt := range slices.Backward(events) {
		if evt.Type.Type == kind.Type && evt.StateKey != nil && *evt.StateKey == key {
			return evt
		}
	}
	return nil
}

// IDs lists the events' ids, in order.
func IDs(events []*event.Event) []id.EventID {
	ids := make([]id.EventID, len(events))
	for i, evt := range events {
		ids[i] = evt.ID
	}
	return ids
}

// Bodies lists the bodies of the messages among the events, in order.
func Bodies(events []*event.Event) []string {
	var bodies []string
	for _, evt := range events {
		if evt.Type.Type == event.EventMessage.Type {
			body, _ := evt.Content.Raw["body"].(string)
			bodies = append(bodies, body)
		}
	}
	return bodies
}
