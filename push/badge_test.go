package push_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
	"parley/userserver"
)

// badge says that the gateway is told how much is unread, and nothing else.
func (n *node) badge(what string, unread int64) {
	n.Helper()
	g := n.next()
	n.equal(what+": no event", g.Get("event_id").Exists(), false)
	n.equal(what+": told how much is unread", g.Get("counts.unread").Exists(), true)
	n.equal(what+": unread", g.Get("counts.unread").Int(), unread)
}

func (n *node) setData(user id.UserID, typ, content string) {
	n.Helper()
	n.ok(n.users.SetAccountData(n.Context(), user, "", typ, json.RawMessage(content)))
}

// silence has a user be notified of nothing, or ends that.
func (n *node) silence(user id.UserID, on bool) {
	n.Helper()
	n.ok(n.users.ChangePushRules(n.Context(), user, func(c *pushrules.Changes) error {
		return c.SetEnabled(pushrules.Override, ".m.rule.master", on)
	}))
}

func (n *node) redact(user id.UserID, room id.RoomID, event id.EventID) {
	n.Helper()
	_, err := n.rooms.Redact(n.Context(), roomserver.RedactRequest{Room: room, Sender: user, Event: event})
	n.ok(err)
}

// TestBadge has less be unread for every reason that there is: each is told to the gateway.
func TestBadge(t *testing.T) {
	each(t, func(n *node) {
		n.ok(n.db.Write(n.Context(), func(tx *storage.Tx) error {
			_, err := tx.InsertUser(&storage.User{ID: bob})
			return err
		}))
		n.setPusher(bob, "")
		for _, c := range []struct {
			what string
			does func(room id.RoomID, first, second id.EventID)
			left int64
		}{
			{"a receipt", func(room id.RoomID, first, _ id.EventID) { n.read(bob, room, first) }, 1},
			{"a private receipt", func(room id.RoomID, _, second id.EventID) {
				n.ok(n.users.SetMarkers(n.Context(), bob, room, userserver.Markers{ReadPrivate: second}))
			}, 0},
			{"a receipt of the main timeline", func(room id.RoomID, _, second id.EventID) {
				n.ok(n.users.SetMarkers(n.Context(), bob, room, userserver.Markers{Read: second, Thread: "main"}))
			}, 0},
			{"a redaction", func(room id.RoomID, first, _ id.EventID) { n.redact(alice, room, first) }, 1},
			{"a message of their own", func(room id.RoomID, _, _ id.EventID) { n.say(bob, room, "I have seen it") }, 0},
			{"leaving", func(room id.RoomID, _, _ id.EventID) {
				n.ok(n.rooms.Leave(n.Context(), roomserver.MemberRequest{Room: room, Sender: bob}))
			}, 0},
			{"being kicked", func(room id.RoomID, _, _ id.EventID) {
				n.ok(n.rooms.Kick(n.Context(), roomserver.MemberRequest{Room: room, Sender: alice, Target: bob}))
			}, 0},
			{"silence", func(id.RoomID, id.EventID, id.EventID) {
				n.silence(bob, true)
			}, 0},
			{"ignoring", func(id.RoomID, id.EventID, id.EventID) {
				n.setData(bob, "m.ignored_user_list", `{"ignored_users":{"@alice:x.org":{}}}`)
			}, 0},
		} {
			room := n.room(bob)
			first := n.say(alice, room, "one")
			n.equal(c.what, n.next().Get("event_id").Str, string(first))
			second := n.say(alice, room, "two")
			n.equal(c.what, n.next().Get("counts.unread").Int(), int64(2))
			c.does(room, first, second)
			n.badge(c.what, c.left)
			if c.left > 0 {
				n.read(bob, room, second)
				n.badge("reading the rest", 0)
			}
			if c.what == "silence" || c.what == "ignoring" {
				n.read(bob, room, second)
				n.silence(bob, false)
				n.setData(bob, "m.ignored_user_list", `{"ignored_users":{}}`)
			}
		}
		// An edit is no notification, and takes none away.
		room := n.room(bob)
		event := n.say(alice, room, "you")
		n.next()
		n.send(alice, room, fmt.Sprintf(`{"msgtype":"m.text","body":"* I","m.new_content":{"msgtype":"m.text","body":"I"},
			"m.relates_to":{"rel_type":"m.replace","event_id":%q}}`, event))
		last := n.say(alice, room, "more")
		g := n.next()
		n.equal("after an edit", g.Get("event_id").Str, string(last))
		n.equal("after an edit", g.Get("counts.unread").Int(), int64(2))
	})
}

// TestBadgeOverRestart has a user read what was pushed while nothing is pushed: the gateway is told after the
// restart, once; and nothing if it shows nothing.
func TestBadgeOverRestart(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		event := n.say(alice, room, "one")
		n.next()
		for range 2 {
			n.pusher.Close()
			n.start()
		}
		n.pusher.Close()
		n.read(bob, room, event)
		n.start()
		n.badge("what was read meanwhile", 0)
		n.pusher.Close()
		n.read(bob, room, n.say(bob, room, "a word"))
		n.start()
		n.quiet(room)
	})
}

// TestBadgeWhileAway has the gateway be away when a user reads: it is told when it is back.
func TestBadgeWhileAway(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		event := n.say(alice, room, "one")
		n.next()
		n.answers(http.StatusBadGateway)
		n.read(bob, room, event)
		n.tried(2)
		n.answers(http.StatusOK)
		n.badge("what was read", 0)
	})
}

// TestRejectedAndSetAgain has a pusher be set again while the gateway rejects it: it stays.
func TestRejectedAndSetAgain(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.answers(http.StatusOK, "key of @bob:x.org")
		n.mu.Lock()
		n.before = func() {
			n.setPusher(bob, "")
			n.mu.Lock()
			defer n.mu.Unlock()
			n.before = nil
		}
		n.mu.Unlock()
		n.say(alice, room, "one")
		n.next()
		n.answers(http.StatusOK)
		n.quiet(room)
	})
}

// TestVanished has an event go that is yet to be pushed: what follows it is pushed.
func TestVanished(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.pusher.Close()
		gone := n.say(alice, room, "gone")
		stays := n.say(alice, room, "stays")
		n.ok(n.db.Write(n.Context(), func(tx *storage.Tx) error {
			_, err := tx.Exec(`DELETE FROM events WHERE event_id = $1`, gone)
			return err
		}))
		n.start()
		n.equal("what is pushed", n.next().Get("event_id").Str, string(stays))
	})
}
