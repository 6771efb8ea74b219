package userserver_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/testclock"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// rooms notes what accounts ask of rooms.
type rooms struct {
	mu    sync.Mutex
	calls []string
}

func (r *rooms) note(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
	return nil
}

func (r *rooms) UpdateProfile(_ context.Context, user id.UserID, name, avatar string) error {
	return r.note("profile %s %q %q", user, name, avatar)
}

func (r *rooms) LeaveAll(_ context.Context, user id.UserID) error { return r.note("leave %s", user) }

func (r *rooms) ServerAllowed(_ context.Context, _ id.RoomID, server id.ServerName) (bool, error) {
	return server != "denied.org", nil
}

// Encounters takes all who may have come for such who have.
func (r *rooms) Encounters(_ *storage.Tx, _ id.UserID, _ id.Pos, met, _ []id.UserID) (came, went []id.UserID, err error) {
	return met, nil, nil
}

type fixture struct {
	*userserver.Server
	db      *storage.DB
	clock   *testclock.Clock
	rooms   *rooms
	remote  userserver.Remote
	mu      sync.Mutex
	notices []stream.Notice
}

func (f *fixture) publish(n stream.Notice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notices = append(f.notices, n)
}

// taken are the notices since it was last called.
func (f *fixture) taken() []stream.Notice {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.notices
	f.notices = nil
	return out
}

// each runs a test with a new server on each database.
func each(t *testing.T, run func(t *testing.T, f *fixture)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) { run(t, newFixture(t, url)) })
}

func newFixture(t testing.TB, url string) *fixture { return newFixtureWith(t, url, nil) }

// newFixtureWith is a fixture that asks other servers through remote.
func newFixtureWith(t testing.TB, url string, remote userserver.Remote) *fixture {
	f := &fixture{clock: testclock.New(time.UnixMilli(1_700_000_000_000)), rooms: &rooms{}, remote: remote}
	f.db = storagetest.Open(t, url, f.publish)
	f.Server = f.another(t)
	return f
}

// another is a second process on the same database.
func (f *fixture) another(t testing.TB) *userserver.Server {
	s := userserver.New(userserver.Options{
		DB: f.db, ServerName: "x.org", Rooms: f.rooms, Now: f.clock.Now, Publish: f.publish, Remote: f.remote,
		Hashing: userserver.Hashing{Memory: 64, Passes: 1, AtOnce: 2},
	})
	t.Cleanup(s.Close)
	return s
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, err error, code matrixerr.Code) {
	t.Helper()
	if err == nil && code == "" {
		return
	}
	if err == nil || matrixerr.CodeOf(err) != code {
		t.Errorf("error %v instead of %q", err, code)
	}
}

func (f *fixture) register(t testing.TB, name string) userserver.Session {
	t.Helper()
	return must[userserver.Session](t)(f.Register(context.Background(), userserver.Registration{
		Localpart: name, Password: "password of " + name, Session: userserver.NewSession{DisplayName: "Phone"}}))
}

func TestRegister(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		s := f.register(t, "Alice")
		if s.User != "@alice:x.org" || s.Device == "" || s.DeviceNID == 0 || s.RefreshToken != "" {
			t.Errorf("session %+v", s)
		}
		c := must[userserver.Caller](t)(f.Authenticate(ctx, s.AccessToken, "1.2.3.4"))
		if c.User != s.User || c.Device != s.Device || c.DeviceNID != s.DeviceNID || c.Admin || c.Guest {
			t.Errorf("caller %+v", c)
		}
		for _, test := range []struct {
			r    userserver.Registration
			code matrixerr.Code
		}{
			{userserver.Registration{Localpart: "alice", Password: "another password"}, matrixerr.UserInUse},
			{userserver.Registration{Localpart: "ALICE"}, matrixerr.UserInUse},
			{userserver.Registration{Localpart: "al ice"}, matrixerr.InvalidUsername},
			{userserver.Registration{Localpart: "ältere"}, matrixerr.InvalidUsername},
			{userserver.Registration{Localpart: fmt.Sprintf("%0300d", 1)}, matrixerr.InvalidUsername},
			{userserver.Registration{Localpart: "bob", Password: "short"}, matrixerr.WeakPassword},
			{userserver.Registration{Localpart: "bob", Password: fmt.Sprintf("%0600d", 1)}, matrixerr.InvalidParam},
			{userserver.Registration{Localpart: "bob", Session: userserver.NewSession{Device: "a\x00b"}}, matrixerr.InvalidParam},
			{userserver.Registration{Localpart: "bob", Token: "nonesuch"}, matrixerr.Unauthorized},
		} {
			_, err := f.Register(ctx, test.r)
			wantCode(t, err, test.code)
		}
		wantCode(t, f.Available(ctx, "alice"), matrixerr.UserInUse)
		wantCode(t, f.Available(ctx, "bob"), "")
		if s := must[userserver.Session](t)(f.Register(ctx, userserver.Registration{Admin: true, NoLogin: true})); s.AccessToken != "" || s.User == "" {
			t.Errorf("session %+v", s)
		} else if u := must[storage.User](t)(f.GetUser(ctx, s.User)); !u.Admin || u.Created != f.clock.Now().UnixMilli() {
			t.Errorf("user %+v", u)
		}
	})
}

func TestRegisterAtOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for range 20 {
			wg.Go(func() {
				_, err := f.Register(context.Background(), userserver.Registration{Localpart: "one"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else {
					wantCode(t, err, matrixerr.UserInUse)
				}
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("%d accounts of one name", made)
		}
	})
}

func TestLogin(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		s := f.register(t, "alice")
		for _, test := range []struct {
			name, password string
			code           matrixerr.Code
		}{
			{"alice", "password of alice", ""},
			{"@alice:x.org", "password of alice", ""},
			{"@Alice:x.org", "password of alice", ""},
			{"alice", "password of alicf", matrixerr.Forbidden},
			{"alice", "", matrixerr.Forbidden},
			{"bob", "password of alice", matrixerr.Forbidden},
			{"@alice:y.org", "password of alice", matrixerr.Forbidden},
			{"@alice", "password of alice", matrixerr.InvalidParam},
		} {
			user, err := f.FindUser(test.name)
			if err == nil {
				err = f.CheckPassword(ctx, user, test.password)
			}
			wantCode(t, err, test.code)
		}

		// Logging in with the same device ends its tokens, and no others.
		other := must[userserver.Session](t)(f.Login(ctx, s.User, userserver.NewSession{}))
		must[userserver.Caller](t)(f.Authenticate(ctx, s.AccessToken, ""))
		again := must[userserver.Session](t)(f.Login(ctx, s.User, userserver.NewSession{Device: s.Device, DisplayName: "Changed"}))
		if again.DeviceNID != s.DeviceNID {
			t.Errorf("device %d became %d", s.DeviceNID, again.DeviceNID)
		}
		_, err := f.Authenticate(ctx, s.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
		must[userserver.Caller](t)(f.Authenticate(ctx, again.AccessToken, ""))
		must[userserver.Caller](t)(f.Authenticate(ctx, other.AccessToken, ""))
		if d := must[storage.Device](t)(f.GetDevice(ctx, s.User, s.Device)); d.DisplayName != "Phone" {
			t.Errorf("device is called %q", d.DisplayName)
		}

		// A login token works once, and not for long.
		token, _, err := f.MakeLoginToken(ctx, s.User)
		if err != nil {
			t.Fatal(err)
		}
		if user, err := f.UseLoginToken(ctx, token); err != nil || user != s.User {
			t.Errorf("login token is for %q, %v", user, err)
		}
		_, err = f.UseLoginToken(ctx, token)
		wantCode(t, err, matrixerr.Forbidden)
		token, life, _ := f.MakeLoginToken(ctx, s.User)
		f.clock.Pass(life)
		_, err = f.UseLoginToken(ctx, token)
		wantCode(t, err, matrixerr.Forbidden)
	})
}

func TestRefresh(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		first := must[userserver.Session](t)(f.Login(ctx, user, userserver.NewSession{Refresh: true}))
		if first.RefreshToken == "" || first.ExpiresIn != time.Hour {
			t.Fatalf("session %+v", first)
		}
		auth := func(token string, code matrixerr.Code) error {
			t.Helper()
			_, err := f.Authenticate(ctx, token, "")
			wantCode(t, err, code)
			return err
		}
		auth(first.AccessToken, "")
		// The answer was lost, so the client asks again: both answers would do.
		second := must[userserver.Session](t)(f.Refresh(ctx, first.RefreshToken))
		third := must[userserver.Session](t)(f.Refresh(ctx, first.RefreshToken))
		auth(first.AccessToken, "")
		auth(third.AccessToken, "")
		auth(first.AccessToken, matrixerr.UnknownToken)
		auth(second.AccessToken, matrixerr.UnknownToken)
		_, err := f.Refresh(ctx, first.RefreshToken)
		wantCode(t, err, matrixerr.UnknownToken)
		// The new refresh token, used, ends what was before it, too.
		fourth := must[userserver.Session](t)(f.Refresh(ctx, third.RefreshToken))
		fifth := must[userserver.Session](t)(f.Refresh(ctx, fourth.RefreshToken))
		_, err = f.Refresh(ctx, third.RefreshToken)
		wantCode(t, err, matrixerr.UnknownToken)
		auth(third.AccessToken, matrixerr.UnknownToken)
		auth(fifth.AccessToken, "")
		// An access token is no refresh token, and the other way round.
		_, err = f.Refresh(ctx, fifth.AccessToken)
		wantCode(t, err, matrixerr.UnknownToken)
		auth(fifth.RefreshToken, matrixerr.UnknownToken)

		f.clock.Pass(time.Hour)
		err = auth(fifth.AccessToken, matrixerr.UnknownToken)
		if me := err.(*matrixerr.Error); me.Extra["soft_logout"] != true {
			t.Errorf("an expired token is answered with %v", me.Extra)
		}
		auth(must[userserver.Session](t)(f.Refresh(ctx, fifth.RefreshToken)).AccessToken, "")
	})
}

func TestLogout(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		a := f.register(t, "alice")
		b := must[userserver.Session](t)(f.Login(ctx, a.User, userserver.NewSession{Refresh: true}))
		other := f.another(t)
		for _, s := range []*userserver.Server{f.Server, other} {
			must[userserver.Caller](t)(s.Authenticate(ctx, a.AccessToken, ""))
		}
		caller := must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, ""))
		f.taken()
		if err := f.Logout(ctx, caller.User, caller.Device); err != nil {
			t.Fatal(err)
		}
		if n := f.taken(); len(n) != 1 || n[0].Kind != stream.Device { // no user can have seen a device without keys
			t.Errorf("notices %+v", n)
		}
		_, err := f.Authenticate(ctx, a.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
		// Another process learns of it within seconds.
		f.clock.Pass(10 * time.Second)
		_, err = other.Authenticate(ctx, a.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)

		if err := f.LogoutAll(ctx, a.User); err != nil {
			t.Fatal(err)
		}
		_, err = f.Authenticate(ctx, b.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
		_, err = f.Refresh(ctx, b.RefreshToken)
		wantCode(t, err, matrixerr.UnknownToken)
		// Numbers of devices are never given again.
		c := must[userserver.Session](t)(f.Login(ctx, a.User, userserver.NewSession{Device: a.Device}))
		if c.DeviceNID <= b.DeviceNID {
			t.Errorf("device %d came after %d", c.DeviceNID, b.DeviceNID)
		}
	})
}

func TestDevices(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		a := f.register(t, "alice")
		b := must[userserver.Session](t)(f.Login(ctx, a.User, userserver.NewSession{Device: "B"}))
		f.taken()
		if err := f.RenameDevice(ctx, a.User, "B", "Laptop"); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.RenameDevice(ctx, a.User, "C", "x"), matrixerr.NotFound)
		list := must[[]storage.Device](t)(f.ListDevices(ctx, a.User))
		if len(list) != 2 || list[1].ID != "B" || list[1].DisplayName != "Laptop" || list[1].NID != b.DeviceNID {
			t.Errorf("devices %+v", list)
		}

		f.clock.Pass(time.Hour)
		must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, "1.2.3.4"))
		d := must[storage.Device](t)(f.GetDevice(ctx, a.User, a.Device))
		if d.SeenIP != "1.2.3.4" || d.Seen != f.clock.Now().UnixMilli() {
			t.Errorf("device %+v", d)
		}

		if err := f.DeleteDevices(ctx, a.User, "B", "nonesuch"); err != nil {
			t.Fatal(err)
		}
		_, err := f.GetDevice(ctx, a.User, "B")
		wantCode(t, err, matrixerr.NotFound)
		_, err = f.Authenticate(ctx, b.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
		f.taken()
		if err := f.DeleteDevices(ctx, a.User, "nonesuch"); err != nil || len(f.taken()) != 0 {
			t.Errorf("deleting nothing: %v", err)
		}
	})
}

func TestChangePassword(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		a := f.register(t, "alice")
		b := must[userserver.Session](t)(f.Login(ctx, a.User, userserver.NewSession{}))
		wantCode(t, f.ChangePassword(ctx, a.User, "short", true, a.DeviceNID), matrixerr.WeakPassword)
		if err := f.ChangePassword(ctx, a.User, "a new password", false, a.DeviceNID); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.CheckPassword(ctx, a.User, "password of alice"), matrixerr.Forbidden)
		wantCode(t, f.CheckPassword(ctx, a.User, "a new password"), "")
		must[userserver.Caller](t)(f.Authenticate(ctx, b.AccessToken, ""))
		if err := f.ChangePassword(ctx, a.User, "a newer password", true, a.DeviceNID); err != nil {
			t.Fatal(err)
		}
		must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, ""))
		_, err := f.Authenticate(ctx, b.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
	})
}

func TestDeactivateAndFlags(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		a := f.register(t, "alice")
		must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, ""))
		lock := func(locked bool) {
			t.Helper()
			if err := f.UpdateUser(ctx, a.User, func(u *storage.User) { u.Locked = locked }); err != nil {
				t.Fatal(err)
			}
		}
		lock(true)
		if c := must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, "")); !c.Locked {
			t.Error("a locked user is not locked")
		}
		_, err := f.Login(ctx, a.User, userserver.NewSession{})
		wantCode(t, err, matrixerr.UserLocked)
		lock(false)
		if c := must[userserver.Caller](t)(f.Authenticate(ctx, a.AccessToken, "")); c.Locked {
			t.Error("the lock was not lifted")
		}

		if _, err := f.Deactivate(ctx, a.User, true); err != nil {
			t.Fatal(err)
		}
		if len(f.rooms.calls) != 1 || f.rooms.calls[0] != "leave @alice:x.org" {
			t.Errorf("asked of the rooms: %q", f.rooms.calls)
		}
		_, err = f.Authenticate(ctx, a.AccessToken, "")
		wantCode(t, err, matrixerr.UnknownToken)
		_, err = f.Login(ctx, a.User, userserver.NewSession{})
		wantCode(t, err, matrixerr.UserDeactivated)
		wantCode(t, f.CheckPassword(ctx, a.User, "password of alice"), matrixerr.UserDeactivated)
		wantCode(t, f.ChangePassword(ctx, a.User, "a new password", true, 0), matrixerr.UserDeactivated)
		wantCode(t, f.Available(ctx, "alice"), matrixerr.UserInUse)
		_, err = f.Deactivate(ctx, "@bob:x.org", false)
		wantCode(t, err, matrixerr.NotFound)
		if u := must[storage.User](t)(f.GetUser(ctx, a.User)); !u.Deactivated || !u.Erased || u.Password != "" {
			t.Errorf("user %+v", u)
		}
	})
}
