package federation

import (
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestLocalPresence has a node whose users see each other's presence alone, and one that tells of it and would show it:
// nothing of presence goes either way.
// spec: client-server-api/modules/presence.md#presence
func TestLocalPresence(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		open, local := network.Parley(t, db, ""), network.Parley(t, db.Another(t), "presence: local\n")
		alice, bob, carol := open.Register(t, "alice"), local.Register(t, "bob"), local.Register(t, "carol")
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
		join(t, bob, room, open)
		join(t, carol, room, open)
		streams := map[*harness.User]*harness.Stream{alice: alice.CaughtUp(), bob: bob.CaughtUp(), carol: carol.CaughtUp()}
		seen := make(map[*harness.User]map[id.UserID]bool)
		look := func(u *harness.User, until func(*mautrix.RespSync) bool) {
			t.Helper()
			streams[u].Until("presence, or what follows it", func(resp *mautrix.RespSync) bool {
				for _, evt := range resp.Presence.Events {
					if evt.Content.Raw["status_msg"] == "of "+string(evt.Sender) {
						if seen[u] == nil {
							seen[u] = make(map[id.UserID]bool)
						}
						seen[u][evt.Sender] = true
					}
				}
				return until(resp)
			})
		}
		for _, u := range []*harness.User{alice, bob} {
			if err := u.SetPresence(t.Context(), mautrix.ReqPresence{Presence: event.PresenceOnline, StatusMsg: "of " + string(u.UserID)}); err != nil {
				t.Fatal(err)
			}
		}
		look(carol, func(*mautrix.RespSync) bool { return seen[carol][bob.UserID] })
		// What is said afterwards comes after it.
		for _, u := range []*harness.User{alice, bob} {
			said := u.Say(room, "I am here")
			for _, other := range []*harness.User{alice, bob, carol} {
				if other != u {
					look(other, func(resp *mautrix.RespSync) bool { return harness.Find(harness.Timeline(resp, room), said) != nil })
				}
			}
		}
		if seen[alice][bob.UserID] {
			t.Error("the presence of one whose server keeps it to itself is seen on another")
		}
		if seen[bob][alice.UserID] || seen[carol][alice.UserID] {
			t.Error("the presence of one of another server is seen where presence is local")
		}
	})
}
