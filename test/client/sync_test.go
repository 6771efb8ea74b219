package client

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestSync is the chapter on /sync.
// spec: client-server-api/index.md#syncing
func TestSync(t *testing.T) {
	harness.Stories(t,
		initialSync, incrementalSync, oldToken, longPoll, longPollEndsEmpty, stateInGap, stateAfter, fullState,
		filters, storedFilter, filterRefused, lazyLoading, includeLeave, summary, summaryOfNameless, typing, toDevice, syncRefused)
}

func initialSync(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Name: "a name"})
	var want []id.EventID
	for i := range 15 {
		want = append(want, alice.Say(room, fmt.Sprintf("message %d", i)))
	}
	seen := alice.Stream()
	joined := seen.Next().Rooms.Join[room]
	if joined == nil {
		t.Fatal("the room is not in the initial sync")
	}
	n := len(joined.Timeline.Events)
	if n == 0 || n > 15 || !slices.Equal(harness.IDs(joined.Timeline.Events), want[15-n:]) {
		t.Errorf("the timeline is %v; want the last of %v", harness.IDs(joined.Timeline.Events), want)
	}
	equal(t, "limited", joined.Timeline.Limited, true)
	if joined.Timeline.PrevBatch == "" {
		t.Error("no prev_batch")
	}
	// State is what held before the timeline began.
	for _, kind := range []event.Type{event.StateCreate, event.StateRoomName, event.StatePowerLevels} {
		if harness.FindState(joined.State.Events, kind, "") == nil {
			t.Errorf("no %s in the state", kind.Type)
		}
	}
	if resp := seen.Next(); resp.Rooms.Join[room] != nil {
		t.Errorf("the next answer has the room again: %+v", resp.Rooms.Join[room])
	}
}

func incrementalSync(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	busy, quiet := alice.NewRoomWith(bob), alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	one := alice.Say(busy, "one")
	two := alice.Say(busy, "two")
	var got []id.EventID
	seen.Until("both messages", func(resp *mautrix.RespSync) bool {
		if resp.Rooms.Join[quiet] != nil {
			t.Error("the quiet room is in the answer")
		}
		got = append(got, harness.IDs(harness.Timeline(resp, busy))...)
		return len(got) >= 2
	})
	if want := []id.EventID{one, two}; !slices.Equal(got, want) {
		t.Errorf("the timeline is %v; want %v", got, want)
	}
}

// oldToken asks twice from one token: a client that lost an answer gets the same again.
func oldToken(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.CaughtUp()
	since := seen.Since
	one := alice.Say(room, "one")
	seen.UntilEvent(room, one)
	two := alice.Say(room, "two")
	seen.UntilEvent(room, two)
	seen.Since = since
	if got, want := harness.IDs(harness.Timeline(seen.Next(), room)), []id.EventID{one, two}; !slices.Equal(got, want) {
		t.Errorf("from the old token came %v; want %v", got, want)
	}
}

// longPoll waits before the message is sent.
func longPoll(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	seen.Next() // takes in what came with the join
	type answer struct {
		resp *mautrix.RespSync
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		resp, err := bob.FullSyncRequest(t.Context(), mautrix.ReqSync{Since: seen.Since, Timeout: 50_000, FilterID: noPresence})
		answered <- answer{resp, err}
	}()
	select {
	case a := <-answered:
		t.Fatalf("an answer before there was news: %+v, %v", a.resp, a.err)
	case <-time.After(500 * time.Millisecond):
	}
	said := alice.Say(room, "wake up")
	a := <-answered
	if a.err != nil {
		t.Fatal(a.err)
	}
	if harness.Find(harness.Timeline(a.resp, room), said) == nil {
		t.Errorf("the answer is %+v; want the message in it", a.resp)
	}
}

// noPresence keeps others' comings and goings from ending a long poll.
const noPresence = `{"presence":{"types":[]}}`

func longPollEndsEmpty(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	seen := alice.CaughtUp()
	seen.Next()
	resp, err := alice.FullSyncRequest(t.Context(), mautrix.ReqSync{Since: seen.Since, Timeout: 300, FilterID: noPresence})
	if err != nil {
		t.Fatal(err)
	}
	if resp.NextBatch == "" || !resp.Rooms.IsZero() {
		t.Errorf("the answer without news is %+v", resp)
	}
}

// stateInGap changes state within what a limited timeline leaves out.
func stateInGap(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.Stream()
	seen.FilterID = `{"room":{"timeline":{"limit":3}}}`
	seen.Next()
	name := alice.SetState(room, event.StateRoomName, "", map[string]any{"name": "in the gap"})
	for i := range 5 {
		alice.Say(room, fmt.Sprintf("message %d", i))
	}
	topic := alice.SetState(room, event.StateTopic, "", map[string]any{"topic": "in the timeline"})
	resp := seen.Until("the topic", func(resp *mautrix.RespSync) bool {
		return harness.Find(harness.Timeline(resp, room), topic) != nil
	})
	joined := resp.Rooms.Join[room]
	equal(t, "limited", joined.Timeline.Limited, true)
	if got := harness.IDs(joined.State.Events); !slices.Equal(got, []id.EventID{name}) {
		t.Errorf("the state is %v; want the name alone, %v", got, name)
	}
}

// spec: client-server-api/index.md#get_matrixclientv3sync
func stateAfter(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.Stream()
	seen.UseStateAfter = true
	first := seen.Next().Rooms.Join[room]
	if first == nil || first.StateAfter == nil {
		t.Fatal("no state_after in the initial sync, though it was asked for")
	}
	if harness.FindState(first.StateAfter.Events, event.StateCreate, "") == nil {
		t.Error("no create event in state_after")
	}
	name := alice.SetState(room, event.StateRoomName, "", map[string]any{"name": "new"})
	resp := seen.Until("the name", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		return joined != nil && joined.StateAfter != nil && harness.Find(joined.StateAfter.Events, name) != nil
	})
	equal(t, "the length of the state section", len(resp.Rooms.Join[room].State.Events), 0)
}

func fullState(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Name: "a name"})
	seen := alice.CaughtUp()
	seen.FullState = true
	joined := seen.Next().Rooms.Join[room]
	if joined == nil {
		t.Fatal("full_state gave no room")
	}
	for _, kind := range []event.Type{event.StateCreate, event.StateRoomName} {
		if harness.FindState(joined.State.Events, kind, "") == nil {
			t.Errorf("no %s in the full state", kind.Type)
		}
	}
}

// spec: client-server-api/index.md#filtering
func filters(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	one, two := alice.NewRoomWith(bob), alice.NewRoomWith(bob)
	alice.SetState(one, event.StateTopic, "", map[string]any{"topic": "a topic"})
	byAlice, byBob := alice.Say(one, "by alice"), bob.Say(one, "by bob")
	thing := bob.Send(one, custom("thing", event.MessageEventType), map[string]any{"a": 1, "b": map[string]any{"c": 2, "d": 3}})
	picture := alice.Send(one, event.EventMessage, map[string]any{"msgtype": "m.image", "body": "x", "url": "mxc://localhost/x"})
	alice.Say(two, "elsewhere")
	request := func(filter string) *mautrix.RespSync {
		t.Helper()
		s := bob.Stream()
		s.FilterID = filter
		return s.Next()
	}
	timeline := func(filter string) []id.EventID { return harness.IDs(harness.Timeline(request(filter), one)) }

	resp := request(fmt.Sprintf(`{"room":{"rooms":[%q]}}`, one))
	if resp.Rooms.Join[one] == nil || resp.Rooms.Join[two] != nil {
		t.Error("room.rooms let through what it should not, or held back what it should")
	}
	resp = request(fmt.Sprintf(`{"room":{"not_rooms":[%q]}}`, one))
	if resp.Rooms.Join[one] != nil || resp.Rooms.Join[two] == nil {
		t.Error("room.not_rooms let through what it should not, or held back what it should")
	}
	if got, want := timeline(`{"room":{"timeline":{"types":["m.room.message"]}}}`), []id.EventID{byAlice, byBob, picture}; !slices.Equal(got, want) {
		t.Errorf("timeline.types: %v; want %v", got, want)
	}
	if got, want := timeline(`{"room":{"timeline":{"types":["org.example.*"]}}}`), []id.EventID{thing}; !slices.Equal(got, want) {
		t.Errorf("timeline.types with a wildcard: %v; want %v", got, want)
	}
	if got := timeline(`{"room":{"timeline":{"not_types":["m.room.*"]}}}`); !slices.Equal(got, []id.EventID{thing}) {
		t.Errorf("timeline.not_types: %v; want %v", got, thing)
	}
	filter := fmt.Sprintf(`{"room":{"timeline":{"types":["m.room.message"],"senders":[%q]}}}`, bob.UserID)
	if got := timeline(filter); !slices.Equal(got, []id.EventID{byBob}) {
		t.Errorf("timeline.senders: %v; want %v", got, byBob)
	}
	if got := timeline(`{"room":{"timeline":{"contains_url":true}}}`); !slices.Equal(got, []id.EventID{picture}) {
		t.Errorf("timeline.contains_url: %v; want %v", got, picture)
	}
	if got := timeline(`{"room":{"timeline":{"limit":1,"types":["org.example.*"]}}}`); !slices.Equal(got, []id.EventID{thing}) {
		t.Errorf("the limit counted what the filter holds back: %v; want %v", got, thing)
	}
	resp = request(`{"room":{"timeline":{"types":[]},"state":{"types":["m.room.topic"]}}}`)
	if got := harness.State(resp, one); len(got) != 1 || got[0].Type.Type != "m.room.topic" {
		t.Errorf("state.types: %d events; want the topic alone", len(got))
	}
	// event_fields keeps what it names, and what every event must have.
	resp = request(`{"event_fields":["type","content.b.c","event_id"],"room":{"timeline":{"types":["org.example.*"]}}}`)
	if evt := harness.Find(harness.Timeline(resp, one), thing); evt == nil {
		t.Error("event_fields held back the event")
	} else {
		equal(t, "what event_fields left of the content", fmt.Sprint(contents(evt)), "map[b:map[c:2]]")
		equal(t, "the sender, which was not asked for", evt.Sender, "")
	}
	// In the federation's format an event has what servers see of it.
	resp = request(`{"event_format":"federation","room":{"timeline":{"types":["org.example.*"]}}}`)
	if resp.Rooms.Join[one] == nil {
		t.Error("event_format federation gave no room")
	}
}

func storedFilter(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	thing := alice.Send(room, custom("thing", event.MessageEventType), map[string]any{})
	filter := mautrix.Filter{Room: &mautrix.RoomFilter{Timeline: &mautrix.FilterPart{Types: []event.Type{{Type: "org.example.*"}}}}}
	created, err := alice.CreateFilter(t.Context(), &filter)
	if err != nil {
		t.Fatal(err)
	}
	seen := alice.Stream()
	seen.FilterID = created.FilterID
	if got := harness.IDs(harness.Timeline(seen.Next(), room)); !slices.Equal(got, []id.EventID{thing}) {
		t.Errorf("the timeline is %v; want %v", got, thing)
	}
	path := harness.Path("v3", "user", alice.UserID.String(), "filter", created.FilterID)
	equal(t, "the stored filter", alice.Do("GET", path, nil).WantOK(t).Get("room.timeline.types.0").String(), "org.example.*")
	bob.Do("GET", path, nil).WantError(t, 403, "M_FORBIDDEN")
	alice.Do("GET", harness.Path("v3", "user", alice.UserID.String(), "filter", "99999"), nil).WantError(t, 404, "M_NOT_FOUND")
}

func filterRefused(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	path := harness.Path("v3", "user", alice.UserID.String(), "filter")
	for _, body := range []string{
		`{"room":[]}`, `{"room":{"timeline":{"limit":"many"}}}`, `{"room":{"timeline":{"types":"m.room.message"}}}`,
		`{"room":{"rooms":["no room"]}}`, `{"room":{"timeline":{"senders":["nobody"]}}}`, `{"presence":{"senders":[7]}}`,
	} {
		if resp := alice.Do("POST", path, body); resp.Status != 400 {
			t.Errorf("the filter %s was answered with %d %s; want 400", body, resp.Status, resp.Body)
		}
	}
}

// spec: client-server-api/index.md#lazy-loading-room-members
func lazyLoading(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoomWith(bob, carol)
	alice.SetState(room, event.StateRoomName, "", map[string]any{"name": "so that nobody is a hero"})
	for i := range 3 {
		alice.Say(room, fmt.Sprintf("message %d", i))
	}
	alice.SetState(room, event.StateTopic, "", map[string]any{"topic": "x"})
	seen := alice.Stream()
	seen.FilterID = `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`
	membersIn := func(resp *mautrix.RespSync) []string {
		var users []string
		for _, evt := range harness.State(resp, room) {
			if evt.Type.Type == event.StateMember.Type {
				users = append(users, evt.GetStateKey())
			}
		}
		return users
	}
	if got := membersIn(seen.Next()); !slices.Equal(got, []string{alice.UserID.String()}) {
		t.Errorf("at first came the members %v; want the sender of the timeline alone", got)
	}
	said := bob.Say(room, "hello")
	var came []string
	seen.Until("bob's message", func(resp *mautrix.RespSync) bool {
		came = append(came, membersIn(resp)...)
		return harness.Find(harness.Timeline(resp, room), said) != nil
	})
	if !slices.Equal(came, []string{bob.UserID.String()}) {
		t.Errorf("with bob's message came the members %v; want bob's alone", came)
	}
	// Where a page is lazy, its state holds the senders of the page.
	page, err := alice.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, &mautrix.FilterPart{LazyLoadMembers: true}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.State) != 1 || page.State[0].GetStateKey() != bob.UserID.String() {
		t.Errorf("the page's state is %v; want bob's membership alone", page.State)
	}
}

func includeLeave(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	last := alice.Say(room, "last words")
	bob.Leave(room)
	unseen := alice.Say(room, "behind his back")

	if bob.Stream().Next().Rooms.Leave[room] != nil {
		t.Error("the initial sync has the left room, though it was not asked for")
	}
	seen := bob.Stream()
	seen.FilterID = `{"room":{"include_leave":true}}`
	timeline := harness.Timeline(seen.Next(), room)
	if harness.Find(timeline, last) == nil {
		t.Error("what was said before the leaving is not in the left room")
	}
	if harness.Find(timeline, unseen) != nil {
		t.Error("what was said after the leaving is in the left room")
	}
}

// spec: client-server-api/index.md#get_matrixclientv3sync
func summary(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoomWith(bob)
	seen := alice.Stream()
	seen.FilterID = `{"room":{"state":{"lazy_load_members":true}}}`
	got := seen.Next().Rooms.Join[room].Summary
	if got.JoinedMemberCount == nil || *got.JoinedMemberCount != 2 {
		t.Errorf("the summary is %+v; want two joined", got)
	}
	alice.Invite(room, carol)
	seen.Until("a summary with the invite", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		return joined != nil && joined.Summary.InvitedMemberCount != nil && *joined.Summary.InvitedMemberCount == 1
	})
}

func summaryOfNameless(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoomWith(bob, carol)
	seen := alice.Stream()
	seen.FilterID = `{"room":{"state":{"lazy_load_members":true}}}`
	joined := seen.Next().Rooms.Join[room]
	heroes := joined.Summary.Heroes
	slices.Sort(heroes)
	want := []id.UserID{bob.UserID, carol.UserID}
	slices.Sort(want)
	if !slices.Equal(heroes, want) {
		t.Errorf("the heroes are %v; want %v", heroes, want)
	}
	// A client can't make a name of heroes that it doesn't know.
	for _, hero := range want {
		if harness.FindState(slices.Concat(joined.State.Events, joined.Timeline.Events), event.StateMember, hero.String()) == nil {
			t.Errorf("the hero %s came without a membership", hero)
		}
	}
}

// spec: client-server-api/modules/typing_notifications.md#events
func typing(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	until := func(what string, want ...id.UserID) {
		t.Helper()
		seen.Until(what, func(resp *mautrix.RespSync) bool {
			joined := resp.Rooms.Join[room]
			if joined == nil {
				return false
			}
			for _, evt := range joined.Ephemeral.Events {
				if evt.Type.Type == "m.typing" {
					var who event.TypingEventContent
					if err := json.Unmarshal(evt.Content.VeryRaw, &who); err != nil {
						t.Fatal(err)
					}
					return slices.Equal(who.UserIDs, want)
				}
			}
			return false
		})
	}
	if _, err := alice.UserTyping(t.Context(), room, true, time.Minute); err != nil {
		t.Fatal(err)
	}
	until("alice's typing", alice.UserID)
	if _, err := alice.UserTyping(t.Context(), room, false, 0); err != nil {
		t.Fatal(err)
	}
	until("the end of alice's typing")
	if _, err := alice.UserTyping(t.Context(), room, true, time.Second); err != nil {
		t.Fatal(err)
	}
	until("alice's second typing", alice.UserID)
	until("the second typing's running out")

	path := roomPath("v3", room, "typing", alice.UserID.String())
	bob.Do("PUT", path, map[string]any{"typing": true}).WantError(t, 403, "M_FORBIDDEN")
	stranger := srv.Register(t, "stranger")
	_, err := stranger.UserTyping(t.Context(), room, true, time.Second)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

// spec: client-server-api/modules/send_to_device.md#server-behaviour
func toDevice(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	phone := bob.Login()
	seen, other := bob.CaughtUp(), phone.CaughtUp()
	txn := "to device " + suffix()
	for range 2 { // the same transaction twice is one message
		alice.Do("PUT", harness.Path("v3", "sendToDevice", "org.example.hello", txn), map[string]any{
			"messages": map[id.UserID]any{bob.UserID: map[id.DeviceID]any{bob.DeviceID: map[string]any{"n": 1}}},
		}).WantOK(t)
	}
	before := seen.Since
	resp := seen.Until("the message", func(resp *mautrix.RespSync) bool { return len(resp.ToDevice.Events) > 0 })
	equal(t, "the number of messages", len(resp.ToDevice.Events), 1)
	equal(t, "the sender", resp.ToDevice.Events[0].Sender, alice.UserID)
	equal[any](t, "the content", contents(resp.ToDevice.Events[0])["n"], 1.0)
	// Until the client has acknowledged it by its next token, the message comes again.
	again := seen.Since
	seen.Since = before
	equal(t, "the number of messages from the old token", len(seen.Next().ToDevice.Events), 1)
	seen.Since = again
	equal(t, "the number of messages from the new token", len(seen.Next().ToDevice.Events), 0)
	equal(t, "the number of messages to the other device", len(other.Next().ToDevice.Events), 0)

	alice.Do("PUT", harness.Path("v3", "sendToDevice", "org.example.hello", suffix()), map[string]any{
		"messages": map[id.UserID]any{bob.UserID: map[string]any{"*": map[string]any{"n": 2}}},
	}).WantOK(t)
	for _, s := range []*harness.Stream{seen, other} {
		s.Until("the message to all devices", func(resp *mautrix.RespSync) bool { return len(resp.ToDevice.Events) == 1 })
	}
}

func syncRefused(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	path := harness.Path("v3", "sync")
	alice.Do("GET", path+"?timeout=soon", nil).WantError(t, 400, "M_INVALID_PARAM")
	equal(t, "the status of a nonsense token", alice.Do("GET", path+"?since=nonsense", nil).Status, 400)
	equal(t, "the status of a broken filter", alice.Do("GET", path+"?filter=%7Bbroken", nil).Status, 400)
	alice.Do("GET", path+"?set_presence=dancing", nil).WantError(t, 400, "M_INVALID_PARAM")
}
