package operator

import (
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"

	"parley/test/harness"
)

// TestGuests: they come where a room lets them, and go when it lets them no more.
//
// spec: client-server-api/modules/guest_access.md#guest-access
func TestGuests(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\n  guests: true\nrate_limits:\n  enabled: false\n")
		alice, guest := srv.Register(t, "alice"), srv.Anonymous(t)
		resp, _, err := guest.RegisterGuest(t.Context(), &mautrix.ReqRegister[any]{})
		if err != nil {
			t.Fatal(err)
		}
		guest.UserID, guest.AccessToken = resp.UserID, resp.AccessToken
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
		_, err = guest.JoinRoomByID(t.Context(), room)
		harness.WantError(t, err, 403, "M_FORBIDDEN|M_GUEST_ACCESS_FORBIDDEN")
		alice.SetState(room, event.StateGuestAccess, "", map[string]any{"guest_access": "can_join"})
		guest.Join(room)
		guest.Say(room, "hello")
		_, err = guest.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: alice.UserID})
		harness.WantError(t, err, 403, "M_GUEST_ACCESS_FORBIDDEN")
		// Who stops letting guests in sends away those who are there.
		alice.SetState(room, event.StateGuestAccess, "", map[string]any{"guest_access": "forbidden"})
		eventually(t, "the guest's leave", func() bool {
			return alice.StateContent(room, event.StateMember, guest.UserID.String())["membership"] == "leave"
		})
	})
}

// TestLockAndSuspend: an administrator keeps an account from doing harm, and lets it go on.
//
// spec: client-server-api/index.md#account-locking
// spec: client-server-api/index.md#account-suspension
func TestLockAndSuspend(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n")
		alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
		root := srv.Administrator(t, "root")
		if _, err := root.Versions(t.Context()); err != nil { // for those that the library asks the server's version for
			t.Fatal(err)
		}
		room := alice.NewRoomWith(bob)
		other := bob.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
		said := alice.Say(room, "before")
		bobs := bob.Say(room, "bob's")

		if _, err := root.SetSuspendedStatus(t.Context(), alice.UserID, true); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"speak":        second(alice.SendText(t.Context(), room, "x")),
			"join":         second(alice.JoinRoomByID(t.Context(), other)),
			"invite":       second(alice.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: root.UserID})),
			"be renamed":   alice.SetDisplayName(t.Context(), "x"),
			"redact bob's": second(alice.RedactEvent(t.Context(), room, bobs)),
		} {
			t.Run("suspended: "+what, func(t *testing.T) { harness.WantError(t, err, 403, "M_USER_SUSPENDED") })
		}
		alice.CaughtUp()
		alice.Redact(room, said, "")
		alice.Login()
		alice.Leave(room)
		if _, err := root.SetSuspendedStatus(t.Context(), alice.UserID, false); err != nil {
			t.Fatal(err)
		}
		alice.Join(other)

		if _, err := root.SetLockStatus(t.Context(), alice.UserID, true); err != nil {
			t.Fatal(err)
		}
		locked := srv.Do(t, "GET", harness.Path("v3", "sync"), alice.AccessToken, nil).WantError(t, 401, "M_USER_LOCKED")
		if !locked.Get("soft_logout").Bool() {
			t.Errorf("the client is not told to keep its data: %s", locked.Body)
		}
		if _, err := root.SetLockStatus(t.Context(), alice.UserID, false); err != nil {
			t.Fatal(err)
		}
		alice.Say(other, "back again")
		if _, err := bob.Versions(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := bob.SetLockStatus(t.Context(), alice.UserID, true)
		harness.WantError(t, err, 403, "M_FORBIDDEN")
		_, err = root.SetLockStatus(t.Context(), "@alice:elsewhere.example", true)
		harness.WantError(t, err, 400, "M_INVALID_PARAM")
	})
}

// second is the error of a call.
func second[T any](_ T, err error) error { return err }
