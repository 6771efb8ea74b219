package client

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/internal/eventually"
	"parley/test/harness"
)

// TestReceipts is the chapter on what has been read, and on the counts of what has not.
func TestReceipts(t *testing.T) {
	harness.Stories(t, publicReceipt, privateReceipt, threadedReceipt, readMarkers, receiptRefused,
		unreadCounts, highlights, mutedRoom, unreadThread)
}

// hasReceipt tells whether the answer has the user's receipt for the event, and in which thread.
func hasReceipt(t *testing.T, resp *mautrix.RespSync, room id.RoomID, target id.EventID, kind event.ReceiptType, user id.UserID) (event.ReadReceipt, bool) {
	t.Helper()
	joined := resp.Rooms.Join[room]
	if joined == nil {
		return event.ReadReceipt{}, false
	}
	for _, evt := range joined.Ephemeral.Events {
		var receipts event.ReceiptEventContent
		if evt.Type.Type != "m.receipt" {
			continue
		} else if err := json.Unmarshal(evt.Content.VeryRaw, &receipts); err != nil {
			t.Fatal(err)
		}
		if receipt, ok := receipts[target][kind][user]; ok {
			return receipt, true
		}
	}
	return event.ReadReceipt{}, false
}

// spec: client-server-api/modules/receipts.md#server-behaviour
func publicReceipt(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	first, second := alice.Say(room, "first"), alice.Say(room, "second")
	seen := alice.CaughtUp()
	for _, said := range []id.EventID{first, second} {
		if err := bob.MarkRead(t.Context(), room, said); err != nil {
			t.Fatal(err)
		}
		seen.Until("bob's receipt", func(resp *mautrix.RespSync) bool {
			receipt, ok := hasReceipt(t, resp, room, said, event.ReceiptTypeRead, bob.UserID)
			return ok && !receipt.Timestamp.IsZero()
		})
	}
	// One who comes new sees the latest alone.
	resp := alice.Stream().Next()
	if _, ok := hasReceipt(t, resp, room, second, event.ReceiptTypeRead, bob.UserID); !ok {
		t.Error("the receipt is not in an initial sync")
	}
	if _, ok := hasReceipt(t, resp, room, first, event.ReceiptTypeRead, bob.UserID); ok {
		t.Error("the replaced receipt is still in an initial sync")
	}
}

func privateReceipt(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	said := alice.Say(room, "psst")
	aliceSees, bobSees := alice.CaughtUp(), bob.CaughtUp()
	if err := bob.SendReceipt(t.Context(), room, said, event.ReceiptTypeReadPrivate, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	bobSees.Until("his own private receipt", func(resp *mautrix.RespSync) bool {
		_, ok := hasReceipt(t, resp, room, said, event.ReceiptTypeReadPrivate, bob.UserID)
		return ok
	})
	// What comes after it shows that it will not come.
	after := alice.Say(room, "after")
	aliceSees.Until("the message after", func(resp *mautrix.RespSync) bool {
		if _, ok := hasReceipt(t, resp, room, said, event.ReceiptTypeReadPrivate, bob.UserID); ok {
			t.Error("another's private receipt was told")
		}
		return harness.Find(harness.Timeline(resp, room), after) != nil
	})
}

// spec: client-server-api/modules/receipts.md#threaded-read-receipts
func threadedReceipt(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	root := alice.Say(room, "root")
	inThread := alice.Send(room, event.EventMessage, relate("m.thread", root, "in the thread"))
	seen := alice.CaughtUp()
	send := func(target id.EventID, thread string) {
		t.Helper()
		body := map[string]any{}
		if thread != "" {
			body["thread_id"] = thread
		}
		bob.Do("POST", roomPath("v3", room, "receipt", "m.read", string(target)), body).WantOK(t)
	}
	// Receipts of different threads stand beside each other.
	for _, c := range []struct {
		target id.EventID
		thread string
	}{{root, "main"}, {inThread, string(root)}, {inThread, ""}} {
		send(c.target, c.thread)
		seen.Until("the receipt of thread "+c.thread, func(resp *mautrix.RespSync) bool {
			receipt, ok := hasReceipt(t, resp, room, c.target, event.ReceiptTypeRead, bob.UserID)
			return ok && string(receipt.ThreadID) == c.thread
		})
	}
	if _, ok := hasReceipt(t, alice.Stream().Next(), room, root, event.ReceiptTypeRead, bob.UserID); !ok {
		t.Error("the receipt of the main timeline is gone")
	}
}

// spec: client-server-api/modules/read_markers.md#fully-read-markers
func readMarkers(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	said := alice.Say(room, "hello")
	aliceSees, bobSees := alice.CaughtUp(), bob.CaughtUp()
	err := bob.SetReadMarkers(t.Context(), room, map[string]any{"m.fully_read": said, "m.read": said})
	if err != nil {
		t.Fatal(err)
	}
	bobSees.Until("his m.fully_read", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		if joined == nil {
			return false
		}
		for _, evt := range joined.AccountData.Events {
			if evt.Type.Type == "m.fully_read" {
				return contents(evt)["event_id"] == string(said)
			}
		}
		return false
	})
	aliceSees.Until("bob's receipt", func(resp *mautrix.RespSync) bool {
		_, ok := hasReceipt(t, resp, room, said, event.ReceiptTypeRead, bob.UserID)
		return ok
	})
	// The server alone writes it, by the endpoint for it.
	err = bob.SetRoomAccountData(t.Context(), room, "m.fully_read", map[string]any{"event_id": said})
	harness.WantError(t, err, 405, "M_BAD_JSON")
}

func receiptRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	said := alice.Say(room, "hello")
	alice.Do("POST", roomPath("v3", room, "receipt", "org.example.odd", string(said)), map[string]any{}).WantError(t, 400, "M_INVALID_PARAM")
	alice.Do("POST", roomPath("v3", room, "receipt", "m.read", string(said)), map[string]any{"thread_id": ""}).WantError(t, 400, "M_INVALID_PARAM")
	harness.WantError(t, bob.MarkRead(t.Context(), room, said), 403, "M_FORBIDDEN")
}

// counts waits until /sync tells the counts of the room, and fails with the last ones it told if it never does.
func counts(seen *harness.Stream, room id.RoomID, notifications, highlights int) {
	seen.Until("the counts", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		return joined != nil && joined.UnreadNotifications != nil &&
			*joined.UnreadNotifications == mautrix.UnreadNotificationCounts{NotificationCount: notifications, HighlightCount: highlights}
	})
}

// spec: client-server-api/modules/receipts.md#server-behaviour
func unreadCounts(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	first := alice.Say(room, "one")
	counts(seen, room, 1, 0)
	alice.Say(room, "two")
	alice.Say(room, "three")
	counts(seen, room, 3, 0)
	if err := bob.MarkRead(t.Context(), room, first); err != nil {
		t.Fatal(err)
	}
	counts(seen, room, 2, 0)
	last := alice.Say(room, "four")
	counts(seen, room, 3, 0)
	if err := bob.SendReceipt(t.Context(), room, last, event.ReceiptTypeReadPrivate, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	counts(seen, room, 0, 0)
	// What changes nothing for a reader notifies of nothing.
	alice.SetState(room, event.StateTopic, "", map[string]any{"topic": "x"})
	resp := seen.Until("the topic", func(resp *mautrix.RespSync) bool { return resp.Rooms.Join[room] != nil })
	if unread := resp.Rooms.Join[room].UnreadNotifications; unread != nil && unread.NotificationCount != 0 {
		t.Errorf("a topic made %d notifications", unread.NotificationCount)
	}
}

// spec: client-server-api/modules/push.md#default-override-rules
func highlights(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{bob.UserID}})
	bob.Join(room)
	seen := bob.CaughtUp()
	alice.Send(room, event.EventMessage, map[string]any{
		"msgtype": "m.text", "body": "look", "m.mentions": map[string]any{"user_ids": []id.UserID{bob.UserID}},
	})
	counts(seen, room, 1, 1)
	alice.Send(room, event.EventMessage, map[string]any{
		"msgtype": "m.text", "body": "look, all", "m.mentions": map[string]any{"room": true},
	})
	counts(seen, room, 2, 2)
	alice.Send(room, event.EventMessage, map[string]any{"msgtype": "m.notice", "body": "a bot's", "m.mentions": map[string]any{}})
	alice.Say(room, "nobody in particular")
	counts(seen, room, 3, 2)
}

func mutedRoom(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	bob.Do("PUT", harness.Path("v3", "pushrules", "global", "room", string(room)), map[string]any{"actions": []any{}}).WantOK(t)
	seen := bob.CaughtUp()
	said := alice.Say(room, "unheard")
	resp := seen.Until("the message", func(resp *mautrix.RespSync) bool {
		return harness.Find(harness.Timeline(resp, room), said) != nil
	})
	if unread := resp.Rooms.Join[room].UnreadNotifications; unread != nil && unread.NotificationCount != 0 {
		t.Errorf("a muted room made %d notifications", unread.NotificationCount)
	}
}

// threadCounts is a walk through /sync of one who wants counts for each thread.
type threadCounts struct {
	u     *harness.User
	room  id.RoomID
	since string
}

// told waits until /sync tells the notifications of the main timeline and of the thread.
func (s *threadCounts) told(t *testing.T, what string, root id.EventID, main, thread int64) {
	t.Helper()
	eventually.OK(t, func() error {
		query := url.Values{"since": {s.since}, "timeout": {"1000"}, "filter": {`{"room":{"timeline":{"unread_thread_notifications":true}}}`}}
		if s.since == "" {
			query.Del("since")
		}
		resp := s.u.Do("GET", harness.Path("v3", "sync")+"?"+query.Encode(), nil).WantOK(t)
		s.since = resp.Get("next_batch").Str
		joined := resp.Get("rooms.join." + gjsonKey(string(s.room)))
		inMain := joined.Get("unread_notifications.notification_count")
		inThread := joined.Get("unread_thread_notifications." + gjsonKey(string(root)) + ".notification_count").Int()
		if !inMain.Exists() || inMain.Int() != main || inThread != thread {
			return fmt.Errorf("%s: the answer has %s and %d in the thread; want %d and %d", what, inMain.Raw, inThread, main, thread)
		}
		return nil
	})
}

// spec: client-server-api/modules/receipts.md#threaded-read-receipts
func unreadThread(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	root := alice.Say(room, "root")
	reply := func(body string) id.EventID {
		return alice.Send(room, event.EventMessage, relate("m.thread", root, body))
	}
	receipt := func(kind string, target id.EventID, thread string) {
		body := map[string]any{}
		if thread != "" {
			body["thread_id"] = thread
		}
		bob.Do("POST", roomPath("v3", room, "receipt", kind, string(target)), body).WantOK(t)
	}
	walk := &threadCounts{u: bob, room: room}
	want := func(what string, main, thread int64) {
		t.Helper()
		walk.told(t, what, root, main, thread)
		(&threadCounts{u: bob, room: room}).told(t, what+", to one who comes new", root, main, thread)
	}

	first := reply("first")
	want("two messages", 1, 1)
	receipt("m.read", root, "main")
	want("a receipt of the main timeline", 0, 1)
	receipt("m.read", first, string(root))
	want("a receipt of the thread", 0, 0)

	said, second := alice.Say(room, "said"), reply("second")
	want("two more", 1, 1)
	receipt("m.read.private", second, string(root))
	want("a private receipt of the thread", 1, 0)
	receipt("m.read.private", said, "main")
	want("a private receipt of the main timeline", 0, 0)

	alice.Say(room, "third")
	last := reply("third")
	want("two more", 1, 1)
	receipt("m.fully_read", last, "")
	alice.Say(room, "fourth")
	want("a marker, which reads nothing", 2, 1)
	last = reply("fourth")
	want("a reply after it", 2, 2)
	receipt("m.read", last, "")
	want("a receipt of no thread", 0, 0)

	said, last = alice.Say(room, "fifth"), reply("fifth")
	want("two more", 1, 1)
	// An edit notifies of nothing; what comes after it shows that it did not.
	alice.Send(room, event.EventMessage, relate("m.replace", last, "* fifth, edited"))
	sixth := reply("sixth")
	want("an edit and a reply", 1, 2)
	alice.Redact(room, last, "")
	want("a redaction in the thread", 1, 1)
	alice.Redact(room, said, "")
	want("a redaction in the main timeline", 0, 1)
	receipt("m.read.private", sixth, "")
	want("a private receipt of no thread", 0, 0)

	alice.Say(room, "seventh")
	reply("seventh")
	want("two more", 1, 1)
	bob.Leave(room)
	reply("while he is away")
	alice.Invite(room, bob)
	bob.Join(room)
	want("one who left and came back", 0, 0)
	reply("eighth")
	want("a reply since", 0, 1)
}
