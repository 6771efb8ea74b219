package operator

import (
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"

	"parley/test/harness"
)

// TestRetention: messages leave a room that wants it so, and no other; the room goes on, also after a restart.
func TestRetention(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n"+
			"retention:\n  enabled: true\n  min_lifetime: 0s\n  max_lifetime: 8760h\n  interval: 200ms\n")
		alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
		kept, fleeting := alice.NewRoomWith(bob), alice.NewRoomWith(bob)
		alice.SetState(fleeting, event.NewEventType("m.room.retention"), "", map[string]any{"max_lifetime": 1000})
		limits := alice.Do("GET", "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", nil)
		if got := limits.Get("limits").Raw; limits.Status != 200 || got != `{"max_lifetime":{"max":31536000000}}` {
			t.Errorf("the limits are %d %s", limits.Status, got)
		}
		stays := alice.Say(kept, "apple")
		for range 3 {
			goes := alice.Say(fleeting, "pear")
			eventually(t, "the message leaves", func() bool {
				return bob.Do("GET", harness.Path("v3", "rooms", string(fleeting), "event", string(goes)), nil).Status == 404
			})
		}
		srv.Stop()
		srv.Run()
		alice, bob = alice.In(t), bob.In(t)
		alice.Say(kept, "plum")
		for _, e := range bob.Page(fleeting, "", mautrix.DirectionBackward, 20) {
			if e.StateKey == nil {
				t.Errorf("%s is still there", e.ID)
			}
		}
		if got := bob.Event(kept, stays); got.Content.Raw["body"] != "apple" {
			t.Errorf("what was to stay is %v", got.Content.Raw)
		}
	})
}

// TestErasure: what somebody wrote whose account an operator ends and erases, while the server runs, is shown to
// those who were there, and to nobody who comes later.
//
// spec: client-server-api/index.md#account-deactivation
func TestErasure(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n")
		alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
		bob.Join(room)
		said := alice.Say(room, "secret")
		if out, status := srv.Command("user", "deactivate", alice.UserID.Localpart(), "--erase"); status != 0 {
			t.Fatalf("user deactivate: %s", out)
		}
		carol.Join(room)
		for _, u := range []*harness.User{bob, carol} {
			e := u.Stream().UntilEvent(room, said)
			if want := u == bob; (e.Content.Raw["body"] == "secret") != want {
				t.Errorf("%s is shown %v", u.UserID, e.Content.Raw)
			}
		}
	})
}
