package client

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestMessages is the chapter on sending events and on reading a room's past.
func TestMessages(t *testing.T) {
	harness.Stories(t, transactionIDs, pages, pagesFromSync, pagesFiltered, pagesRefused, around, oneEvent, redact, sendRefused)
}

// spec: client-server-api/index.md#transaction-identifiers
func transactionIDs(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	phone := alice.Login()
	room := alice.NewRoom(nil)
	seen, other := alice.CaughtUp(), phone.CaughtUp()
	send := func(u *harness.User, room id.RoomID, txn string) id.EventID {
		t.Helper()
		resp, err := u.SendMessageEvent(t.Context(), room, event.EventMessage,
			map[string]any{"msgtype": "m.text", "body": txn}, mautrix.ReqSendEvent{TransactionID: txn})
		if err != nil {
			t.Fatal(err)
		}
		return resp.EventID
	}
	first := send(alice, room, "txn/1")
	equal(t, "the event of the same transaction", send(alice, room, "txn/1"), first)
	if send(alice, room, "txn/2") == first {
		t.Error("another transaction gave the same event")
	}
	if send(phone, room, "txn/1") == first {
		t.Error("another device's transaction gave the same event")
	}
	if send(alice, alice.NewRoom(nil), "txn/1") == first {
		t.Error("the same transaction id in another room gave the same event")
	}
	equal(t, "the number of messages", len(harness.Bodies(alice.Page(room, "", mautrix.DirectionBackward, 50))), 3)

	// The sending device is told its transaction id, and no other is.
	equal(t, "the sender's transaction_id", seen.UntilEvent(room, first).Unsigned.TransactionID, "txn/1")
	equal(t, "the other device's transaction_id", other.UntilEvent(room, first).Unsigned.TransactionID, "")

	redaction, err := alice.RedactEvent(t.Context(), room, first, mautrix.ReqRedact{TxnID: "redact 1"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := alice.RedactEvent(t.Context(), room, first, mautrix.ReqRedact{TxnID: "redact 1"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the redaction of the same transaction", again.EventID, redaction.EventID)
}

// pages reads a room of some length in both directions, by pages of several sizes.
func pages(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	var said []string
	for i := range 25 {
		body := fmt.Sprintf("message %d", i)
		said = append(said, body)
		[]*harness.User{alice, bob}[i%2].Say(room, body)
	}
	for _, size := range []int{1, 7, 100} {
		back := bob.Page(room, "", mautrix.DirectionBackward, size)
		if got := harness.Bodies(back); !slices.Equal(got, reversed(said)) {
			t.Errorf("backwards by %d: %q", size, got)
		}
		equal(t, "the last event's type", back[len(back)-1].Type.Type, event.StateCreate.Type)
		forward := bob.Page(room, "", mautrix.DirectionForward, size)
		if !slices.Equal(harness.IDs(forward), reversed(harness.IDs(back))) {
			t.Errorf("forwards by %d are other events than backwards", size)
		}
	}

	// A page's end leads on, its start leads back, and a from with a to is what lies between.
	first, err := alice.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, nil, 10)
	if err != nil {
		t.Fatal(err)
	}
	second, err := alice.Messages(t.Context(), room, first.End, "", mautrix.DirectionBackward, nil, 5)
	if err != nil {
		t.Fatal(err)
	}
	between, err := alice.Messages(t.Context(), room, first.End, second.End, mautrix.DirectionBackward, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := harness.IDs(between.Chunk), harness.IDs(second.Chunk); !slices.Equal(got, want) {
		t.Errorf("between two tokens are %d events; want the %d of the page", len(got), len(want))
	}
	back, err := alice.Messages(t.Context(), room, second.End, "", mautrix.DirectionForward, nil, 5)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := harness.IDs(back.Chunk), reversed(harness.IDs(second.Chunk)); !slices.Equal(got, want) {
		t.Errorf("the same page forwards is %v; want %v", got, want)
	}
}

// pagesFromSync fills the gap that a limited timeline left.
// spec: client-server-api/index.md#syncing
func pagesFromSync(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	seen := bob.Stream()
	seen.FilterID = `{"room":{"timeline":{"limit":5}}}`
	seen.Next()
	since := seen.Since
	var want []id.EventID
	for i := range 12 {
		want = append(want, alice.Say(room, fmt.Sprintf("message %d", i)))
	}
	resp := seen.Until("the last message", func(resp *mautrix.RespSync) bool {
		return harness.Find(harness.Timeline(resp, room), want[11]) != nil
	})
	timeline := resp.Rooms.Join[room].Timeline
	equal(t, "limited", timeline.Limited, true)
	equal(t, "the timeline's length", len(timeline.Events), 5)
	gap, err := bob.Messages(t.Context(), room, timeline.PrevBatch, since, mautrix.DirectionBackward, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	got := append(reversed(harness.IDs(gap.Chunk)), harness.IDs(timeline.Events)...)
	if !slices.Equal(got, want) {
		t.Errorf("gap and timeline together are %d events; want the %d that were sent", len(got), len(want))
	}
}

// spec: client-server-api/index.md#filtering
func pagesFiltered(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	kind := custom("thing", event.MessageEventType)
	var things []id.EventID
	for i := range 6 {
		alice.Say(room, fmt.Sprintf("message %d", i))
		things = append(things, bob.Send(room, kind, map[string]any{"n": i}))
	}
	picture := alice.Send(room, event.EventMessage, map[string]any{"msgtype": "m.image", "body": "x", "url": "mxc://localhost/x"})

	page := func(filter mautrix.FilterPart) []*event.Event {
		var all []*event.Event
		from := ""
		for {
			resp, err := alice.Messages(t.Context(), room, from, "", mautrix.DirectionForward, &filter, 4)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, resp.Chunk...)
			if resp.End == "" {
				return all
			}
			from = resp.End
		}
	}
	if got := harness.IDs(page(mautrix.FilterPart{Types: []event.Type{kind}})); !slices.Equal(got, things) {
		t.Errorf("by type: %v; want %v", got, things)
	}
	if got := harness.IDs(page(mautrix.FilterPart{Types: []event.Type{{Type: "org.example.*"}}})); !slices.Equal(got, things) {
		t.Errorf("by a pattern of types: %v; want %v", got, things)
	}
	for _, evt := range page(mautrix.FilterPart{NotSenders: []id.UserID{bob.UserID}}) {
		if evt.Sender == bob.UserID {
			t.Errorf("bob's %s came through not_senders", evt.Type.Type)
		}
	}
	yes := true
	if got := harness.IDs(page(mautrix.FilterPart{ContainsURL: &yes})); !slices.Equal(got, []id.EventID{picture}) {
		t.Errorf("by contains_url: %v; want %v", got, picture)
	}
}

func pagesRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	messages := roomPath("v3", room, "messages")
	alice.Do("GET", messages+"?dir=sideways", nil).WantError(t, 400, "M_INVALID_PARAM")
	alice.Do("GET", messages+"?dir=b&limit=many", nil).WantError(t, 400, "M_INVALID_PARAM")
	alice.Do("GET", messages+"?dir=b&from=nonsense", nil).WantError(t, 400, "M_INVALID_PARAM")
	equal(t, "the status of a broken filter", alice.Do("GET", messages+"?dir=b&filter=%7Bbroken", nil).Status, 400)
	bob.Do("GET", messages+"?dir=b", nil).WantError(t, 403, "M_FORBIDDEN")
	alice.Do("GET", roomPath("v3", "!nowhere:localhost", "messages")+"?dir=b", nil).WantError(t, 403, "M_FORBIDDEN")
}

// spec: client-server-api/modules/event_context.md#event-context
func around(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	var said []id.EventID
	for i := range 9 {
		said = append(said, alice.Say(room, fmt.Sprintf("message %d", i)))
	}
	resp, err := alice.Context(t.Context(), room, said[4], nil, 4)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the event", resp.Event.ID, said[4])
	if got, want := harness.IDs(resp.EventsBefore), []id.EventID{said[3], said[2]}; !slices.Equal(got, want) {
		t.Errorf("before: %v; want %v", got, want)
	}
	if got, want := harness.IDs(resp.EventsAfter), []id.EventID{said[5], said[6]}; !slices.Equal(got, want) {
		t.Errorf("after: %v; want %v", got, want)
	}
	if harness.FindState(resp.State, event.StateCreate, "") == nil {
		t.Error("no create event in the state")
	}
	before, err := alice.Messages(t.Context(), room, resp.Start, "", mautrix.DirectionBackward, nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := harness.IDs(before.Chunk), []id.EventID{said[1], said[0]}; !slices.Equal(got, want) {
		t.Errorf("behind start: %v; want %v", got, want)
	}
	after, err := alice.Messages(t.Context(), room, resp.End, "", mautrix.DirectionForward, nil, 10)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := harness.IDs(after.Chunk), said[7:]; !slices.Equal(got, want) {
		t.Errorf("after end: %v; want %v", got, want)
	}
	_, err = alice.Context(t.Context(), room, "$nothing", nil, 4)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	if _, err = bob.Context(t.Context(), room, said[4], nil, 4); err == nil {
		t.Error("a stranger was shown an event and what is around it")
	}
}

func oneEvent(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room, elsewhere := alice.NewRoom(nil), alice.NewRoom(nil)
	before := time.Now().Add(-time.Minute).UnixMilli()
	said := alice.Send(room, event.EventMessage, map[string]any{
		"msgtype": "m.text", "body": "ünï \"quoted\" \\ \u2028 \U0001F600 <b>&amp;", "n": []any{1, -2, 1 << 50, nil, true, map[string]any{}},
	})
	evt := alice.Event(room, said)
	equal(t, "the id", evt.ID, said)
	equal(t, "the room", evt.RoomID, room)
	equal(t, "the sender", evt.Sender, alice.UserID)
	equal[any](t, "the body", contents(evt)["body"], "ünï \"quoted\" \\ \u2028 \U0001F600 <b>&amp;")
	if got := fmt.Sprint(contents(evt)["n"]); got != "[1 -2 1.125899906842624e+15 <nil> true map[]]" {
		t.Errorf("the list came back as %s", got)
	}
	if evt.Timestamp < before {
		t.Errorf("origin_server_ts %d lies before the test", evt.Timestamp)
	}
	_, err := alice.GetEvent(t.Context(), elsewhere, said)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	_, err = alice.GetEvent(t.Context(), room, "$nothing")
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	_, err = bob.GetEvent(t.Context(), room, said)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

// spec: client-server-api/index.md#redactions
func redact(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	said := bob.Say(room, "oops")
	seen := alice.CaughtUp()
	redaction := alice.Redact(room, said, "not nice")

	evt := seen.UntilEvent(room, redaction)
	equal(t, "the type", evt.Type.Type, "m.room.redaction")
	// Since room version 11 the target lies in content; clients of old find it at the top, too.
	equal[any](t, "content.redacts", contents(evt)["redacts"], string(said))
	equal(t, "redacts", evt.Redacts, said)
	equal[any](t, "the reason", contents(evt)["reason"], "not nice")

	gone := bob.Event(room, said)
	equal(t, "what is left of the content", len(contents(gone)), 0)
	if gone.Unsigned.RedactedBecause == nil {
		t.Fatal("no redacted_because")
	}
	equal(t, "redacted_because", gone.Unsigned.RedactedBecause.ID, redaction)
	if got := harness.Bodies(bob.Page(room, "", mautrix.DirectionBackward, 50)); strings.Contains(strings.Join(got, ""), "oops") {
		t.Errorf("the redacted body is still in /messages: %q", got)
	}

	// A membership keeps what the rules need.
	member, err := alice.FullStateEvent(t.Context(), room, event.StateMember, bob.UserID.String())
	if err != nil {
		t.Fatal(err)
	}
	alice.Redact(room, member.ID, "")
	content := alice.StateContent(room, event.StateMember, bob.UserID.String())
	equal[any](t, "the membership", content["membership"], "join")
	equal(t, "what is left of the membership", len(content), 1)
	bob.Say(room, "still here")
}

func sendRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	_, err := bob.SendText(t.Context(), room, "hello?")
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = alice.SendText(t.Context(), "!nowhere:localhost", "hello?")
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}
