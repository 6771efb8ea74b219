package client

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

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

// spec: client-server-api/modules/receipts.md#threaded-read-receipts
func unreadThread(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	root := alice.Say(room, "root")
	reply := alice.Send(room, event.EventMessage, relate("m.thread", root, "in the thread"))
	look := func() (main, thread int64) {
		t.Helper()
		path := harness.Path("v3", "sync") + `?filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D`
		joined := bob.Do("GET", path, nil).WantOK(t).Get("rooms.join." + gjsonKey(string(room)))
		return joined.Get("unread_notifications.notification_count").Int(),
			joined.Get("unread_thread_notifications." + gjsonKey(string(root)) + ".notification_count").Int()
	}
	main, thread := look()
	equal(t, "the main timeline's count", main, 1)
	equal(t, "the thread's count", thread, 1)
	bob.Do("POST", roomPath("v3", room, "receipt", "m.read", string(root)), map[string]any{"thread_id": "main"}).WantOK(t)
	main, thread = look()
	equal(t, "the main timeline's count after its receipt", main, 0)
	equal(t, "the thread's count after the other's receipt", thread, 1)
	bob.Do("POST", roomPath("v3", room, "receipt", "m.read", string(reply)), map[string]any{"thread_id": root}).WantOK(t)
	if _, thread = look(); thread != 0 {
		t.Errorf("the thread's count after its receipt is %d; want 0", thread)
	}
}
