package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestConversation is the story that all else stands on: two people meet and talk, through the library's own sync
// loop as a real client runs it.
func TestConversation(t *testing.T) {
	harness.Stories(t, twoPeopleTalk, directMessage, manyTalkAtOnce)
}

func twoPeopleTalk(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	heardByAlice, heardByBob := listen(t, alice), listen(t, bob)

	room := alice.NewRoom(&mautrix.ReqCreateRoom{
		Preset: "private_chat", Name: "A walk", Topic: "Where to?", Invite: []id.UserID{bob.UserID},
	})
	invite := heardByBob.wait(t, "the invite", func(evt *event.Event) bool {
		return evt.Type == event.StateMember && evt.GetStateKey() == bob.UserID.String()
	})
	equal(t, "the invite's room", invite.RoomID, room)
	equal(t, "the invite's sender", invite.Sender, alice.UserID)
	equal(t, "the membership", invite.Content.AsMember().Membership, event.MembershipInvite)

	bob.Join(room)
	heardByAlice.wait(t, "bob's join", func(evt *event.Event) bool {
		return evt.Type == event.StateMember && evt.GetStateKey() == bob.UserID.String() &&
			evt.Content.AsMember().Membership == event.MembershipJoin
	})

	for i := range 3 {
		there := alice.Say(room, fmt.Sprintf("there %d", i))
		got := heardByBob.wait(t, "alice's message", func(evt *event.Event) bool { return evt.ID == there })
		equal(t, "the body", got.Content.AsMessage().Body, fmt.Sprintf("there %d", i))
		equal(t, "the sender", got.Sender, alice.UserID)

		back := bob.Say(room, fmt.Sprintf("back %d", i))
		got = heardByAlice.wait(t, "bob's message", func(evt *event.Event) bool { return evt.ID == back })
		equal(t, "the body", got.Content.AsMessage().Body, fmt.Sprintf("back %d", i))
	}

	last := alice.Say(room, "good night")
	heardByBob.wait(t, "good night", func(evt *event.Event) bool { return evt.ID == last })
	if err := bob.MarkRead(t.Context(), room, last); err != nil {
		t.Fatal(err)
	}
	heardByAlice.wait(t, "bob's read receipt", func(evt *event.Event) bool {
		if evt.Type != event.EphemeralEventReceipt {
			return false
		}
		_, ok := (*evt.Content.AsReceipt())[last][event.ReceiptTypeRead][bob.UserID]
		return ok
	})

	want := []string{"good night", "back 2", "there 2", "back 1", "there 1", "back 0", "there 0"}
	for _, u := range []*harness.User{alice, bob} {
		if got := harness.Bodies(u.Page(room, "", mautrix.DirectionBackward, 4)); !slices.Equal(got, want) {
			t.Errorf("%s pages back through %q; want %q", u.UserID, got, want)
		}
		if got := harness.Bodies(u.Page(room, "", mautrix.DirectionForward, 3)); !slices.Equal(got, reversed(want)) {
			t.Errorf("%s pages forward through %q; want %q", u.UserID, got, reversed(want))
		}
	}
}

func directMessage(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	bobSees := bob.CaughtUp()
	room := alice.NewRoom(&mautrix.ReqCreateRoom{
		Preset: "trusted_private_chat", IsDirect: true, Invite: []id.UserID{bob.UserID},
	})

	// spec: client-server-api/modules/dm.md#server-behaviour
	resp := bobSees.UntilMember(room, event.MembershipInvite)
	invite := harness.FindState(resp.Rooms.Invite[room].State.Events, event.StateMember, bob.UserID.String())
	if invite == nil {
		t.Fatal("the invite's stripped state has no membership of the invited")
	}
	equal[any](t, "is_direct of the invite", contents(invite)["is_direct"], true)
	bob.Join(room)

	// In a trusted private chat both have the same power: bob may do what only an admin may.
	bob.SetState(room, event.StateRoomName, "", map[string]any{"name": "ours"})

	direct := map[id.UserID][]id.RoomID{bob.UserID: {room}}
	if err := alice.SetAccountData(t.Context(), "m.direct", direct); err != nil {
		t.Fatal(err)
	}
	var got map[id.UserID][]id.RoomID
	if err := alice.GetAccountData(t.Context(), "m.direct", &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got[bob.UserID], []id.RoomID{room}) {
		t.Errorf("m.direct is %v; want %v", got, direct)
	}
}

// manyTalkAtOnce sends from several people to one room at the same time; all of them see all messages once, and in
// the same order.
func manyTalkAtOnce(t *testing.T, srv *harness.Server) {
	const people, each = 4, 10
	var users []*harness.User
	for i := range people {
		users = append(users, srv.Register(t, fmt.Sprintf("user%d", i)))
	}
	room := users[0].NewRoomWith(users[1:]...)
	streams := make([]*harness.Stream, people)
	for i, u := range users {
		streams[i] = u.CaughtUp()
	}
	sent := make(chan error, people*each)
	for _, u := range users {
		go func() {
			for i := range each {
				_, err := u.SendText(t.Context(), room, fmt.Sprintf("%d of %s", i, u.UserID))
				sent <- err
			}
		}()
	}
	for range people * each {
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	var first []id.EventID
	for i, s := range streams {
		var ids []id.EventID
		s.Until("all messages", func(resp *mautrix.RespSync) bool {
			if r := resp.Rooms.Join[room]; r != nil && r.Timeline.Limited {
				// What a limited timeline leaves out lies behind its prev_batch.
				gap, err := users[i].Messages(t.Context(), room, r.Timeline.PrevBatch, "", mautrix.DirectionBackward, nil, people*each)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, reversed(harness.IDs(messages(gap.Chunk)))...)
			}
			ids = append(ids, harness.IDs(messages(harness.Timeline(resp, room)))...)
			return len(ids) >= people*each
		})
		if len(ids) != people*each {
			t.Fatalf("%s saw %d messages; want %d", users[i].UserID, len(ids), people*each)
		}
		if first == nil {
			first = ids
		}
		if !slices.Equal(ids, first) {
			t.Errorf("%s saw the messages in another order than %s", users[i].UserID, users[0].UserID)
		}
	}
	slices.Sort(first)
	if n := len(slices.Compact(first)); n != people*each {
		t.Errorf("%d different messages; want %d", n, people*each)
	}
}

// messages keeps the m.room.message events.
func messages(events []*event.Event) []*event.Event {
	var kept []*event.Event
	for _, evt := range events {
		if evt.Type.Type == event.EventMessage.Type {
			kept = append(kept, evt)
		}
	}
	return kept
}

func reversed[T any](list []T) []T {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// ear hears every event that mautrix-go's own sync loop hands to its listeners.
type ear struct {
	events chan *event.Event
}

// listen runs the library's sync loop for the user until the test ends.
func listen(t *testing.T, u *harness.User) *ear {
	t.Helper()
	e, start := prepare(u)
	start(t)
	return e
}

// prepare is listen in two steps: what is added to the user's syncer before start is called sees events first.
func prepare(u *harness.User) (e *ear, start func(t *testing.T)) {
	e = &ear{events: make(chan *event.Event, 1000)}
	syncer := mautrix.NewDefaultSyncer()
	u.Syncer = syncer
	return e, func(t *testing.T) {
		syncer.OnEvent(func(_ context.Context, evt *event.Event) {
			select {
			case e.events <- evt:
			default: // more than any of the stories sends; wait will time out and tell
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.SyncWithContext(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s's sync loop ended with %v", u.UserID, err)
			}
		})
	}
}

// wait takes events until one is the wanted.
func (e *ear) wait(t *testing.T, what string, ok func(*event.Event) bool) *event.Event {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case evt := <-e.events:
			if ok(evt) {
				return evt
			}
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
