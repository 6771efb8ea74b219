package client

import (
	"errors"
	"net/http"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestAccounts is the chapter on registration, login, tokens, passwords and devices.
// spec: client-server-api/index.md#client-authentication
func TestAccounts(t *testing.T) {
	harness.Stories(t,
		register, registerWithoutLogin, usernames, login, loginRefused, whoami, logout, logoutEverywhere,
		refreshTokens, changePassword, changePasswordAndLogOutOthers, deactivate, devices, deleteDevices)
}

func register(t *testing.T, srv *harness.Server) {
	// The first request tells the flows, in a session; the second goes through a flow.
	// spec: client-server-api/index.md#user-interactive-authentication-api
	body := map[string]any{"username": "Walter-" + suffix(), "password": "a password"}
	first := srv.Do(t, "POST", harness.Path("v3", "register"), "", body)
	equal(t, "the status", first.Status, http.StatusUnauthorized)
	session := first.Get("session").String()
	if session == "" || !first.Get(`flows.#(stages.0=="m.login.dummy")`).Exists() {
		t.Fatalf("no session or no dummy flow in %s", first.Body)
	}
	body["auth"] = map[string]any{"type": "m.login.dummy", "session": session}
	body["device_id"] = "MYDEVICE"
	second := srv.Do(t, "POST", harness.Path("v3", "register"), "", body).WantOK(t)
	equal(t, "the device", second.Get("device_id").String(), "MYDEVICE")
	if user := id.UserID(second.Get("user_id").String()); user.Localpart()[:7] != "walter-" {
		t.Errorf("registered as %s; want the localpart in lower case", user)
	}
	if second.Get("access_token").String() == "" {
		t.Errorf("no access token in %s", second.Body)
	}
	if second.Get("refresh_token").Exists() {
		t.Errorf("a refresh token that was not asked for in %s", second.Body)
	}
}

func registerWithoutLogin(t *testing.T, srv *harness.Server) {
	resp, err := srv.Anonymous(t).RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{
		Username: "inhibited-" + suffix(), Password: "a password", InhibitLogin: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if resp.AccessToken != "" || resp.DeviceID != "" {
		t.Errorf("inhibit_login gave the token %q and the device %q", resp.AccessToken, resp.DeviceID)
	}
}

func usernames(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	anon := srv.Anonymous(t)

	_, err := anon.RegisterAvailable(t.Context(), alice.UserID.Localpart())
	harness.WantError(t, err, 400, "M_USER_IN_USE")
	if _, err := anon.RegisterAvailable(t.Context(), "free-"+suffix()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"with space", "naïve", "a:b", "@alice"} {
		_, err := anon.RegisterAvailable(t.Context(), bad)
		harness.WantError(t, err, 400, "M_INVALID_USERNAME")
	}
	_, err = anon.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: alice.UserID.Localpart(), Password: "a password"})
	harness.WantError(t, err, 400, "M_USER_IN_USE")
	_, err = anon.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: "with space", Password: "a password"})
	harness.WantError(t, err, 400, "M_INVALID_USERNAME")
}

func login(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	flows, err := srv.Anonymous(t).GetLoginFlows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !flows.HasFlow(mautrix.AuthTypePassword) {
		t.Errorf("no password flow among %v", flows.Flows)
	}
	for _, user := range []string{alice.UserID.String(), alice.UserID.Localpart()} {
		resp, err := srv.Anonymous(t).Client.Login(t.Context(), &mautrix.ReqLogin{
			Type:                     mautrix.AuthTypePassword,
			Identifier:               mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user},
			Password:                 alice.Password,
			DeviceID:                 "LAPTOP",
			InitialDeviceDisplayName: "alice's laptop",
		})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the user", resp.UserID, alice.UserID)
		equal(t, "the device", resp.DeviceID, "LAPTOP")
	}
	// The second login took the same device over, so that there are two and not three.
	list, err := alice.GetDevicesInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of devices", len(list.Devices), 2)
}

func loginRefused(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	user := func(name string) map[string]any { return map[string]any{"type": "m.id.user", "user": name} }
	for _, c := range []struct {
		name    string
		body    any
		status  int
		errcode string
	}{
		{"a wrong password", map[string]any{"type": "m.login.password", "identifier": user(alice.UserID.String()), "password": "wrong"}, 403, "M_FORBIDDEN"},
		{"nobody of the name", map[string]any{"type": "m.login.password", "identifier": user("nobody-" + suffix()), "password": "wrong"}, 403, "M_FORBIDDEN"},
		{"another server's user", map[string]any{"type": "m.login.password", "identifier": user("@alice:example.org"), "password": "wrong"}, 403, "M_FORBIDDEN"},
		{"an unknown type", map[string]any{"type": "org.example.magic"}, 400, "M_UNKNOWN"},
		{"a token from nowhere", map[string]any{"type": "m.login.token", "token": "nothing"}, 403, "M_FORBIDDEN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv.Do(t, "POST", harness.Path("v3", "login"), "", c.body).WantError(t, c.status, c.errcode)
		})
	}
}

func whoami(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	resp, err := alice.Whoami(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the user", resp.UserID, alice.UserID)
	equal(t, "the device", resp.DeviceID, alice.DeviceID)
}

func logout(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	other := alice.Login()
	if _, err := other.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	unknownToken(t, other)
	if _, err := alice.Whoami(t.Context()); err != nil {
		t.Errorf("the other device's logout hit this one: %v", err)
	}
	list, err := alice.GetDevicesInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of devices", len(list.Devices), 1)
}

func logoutEverywhere(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	other := alice.Login()
	if _, err := other.LogoutAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	unknownToken(t, other)
	unknownToken(t, alice)
}

// unknownToken fails the test unless the user's access token is no longer taken.
func unknownToken(t *testing.T, u *harness.User) {
	t.Helper()
	_, err := u.Whoami(t.Context())
	harness.WantError(t, err, 401, "M_UNKNOWN_TOKEN")
	var httpErr mautrix.HTTPError
	if errors.As(err, &httpErr) && httpErr.RespError.ExtraData["soft_logout"] == true {
		t.Error("soft_logout is true for a session that was ended")
	}
}

// spec: client-server-api/index.md#refreshing-access-tokens
func refreshTokens(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	device, err := srv.Anonymous(t).Client.Login(t.Context(), &mautrix.ReqLogin{
		Type:         mautrix.AuthTypePassword,
		Identifier:   mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: alice.UserID.String()},
		Password:     alice.Password,
		RefreshToken: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if device.RefreshToken == "" {
		t.Fatal("no refresh token, though the client asked for one")
	}
	refresh := func(token string) harness.Response {
		return srv.Do(t, "POST", harness.Path("v3", "refresh"), "", map[string]any{"refresh_token": token})
	}
	who := func(token string) harness.Response {
		return srv.Do(t, "GET", harness.Path("v3", "account", "whoami"), token, nil)
	}

	// A client that lost the answer may ask again: the old refresh token lives until a new one is used.
	refresh(device.RefreshToken).WantOK(t)
	next := refresh(device.RefreshToken).WantOK(t)
	access := next.Get("access_token").String()
	if access == "" || access == device.AccessToken {
		t.Fatalf("the refreshed access token is %q", access)
	}
	equal(t, "the device", who(access).WantOK(t).Get("device_id").String(), device.DeviceID.String())
	refresh(device.RefreshToken).WantError(t, 401, "M_UNKNOWN_TOKEN")
	refresh("nothing").WantError(t, 401, "M_UNKNOWN_TOKEN")

	if again := next.Get("refresh_token").String(); again != "" {
		who(refresh(again).WantOK(t).Get("access_token").String()).WantOK(t)
	}
}

func changePassword(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	other := alice.Login()
	body := map[string]any{"new_password": "another password", "logout_devices": false}
	interactive(t, alice, "POST", harness.Path("v3", "account", "password"), body)
	alice.Password = "another password"
	alice.Login()
	if _, err := other.Whoami(t.Context()); err != nil {
		t.Errorf("logout_devices is false, and yet: %v", err)
	}
	_, err := srv.Anonymous(t).Client.Login(t.Context(), &mautrix.ReqLogin{
		Type:       mautrix.AuthTypePassword,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: alice.UserID.String()},
		Password:   other.Password,
	})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

func changePasswordAndLogOutOthers(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	other := alice.Login()
	interactive(t, alice, "POST", harness.Path("v3", "account", "password"), map[string]any{"new_password": "another password"})
	unknownToken(t, other)
	if _, err := alice.Whoami(t.Context()); err != nil {
		t.Errorf("the session that changed the password was ended: %v", err)
	}
}

func deactivate(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := bob.NewRoomWith(alice)
	seen := bob.CaughtUp()

	interactive(t, alice, "POST", harness.Path("v3", "account", "deactivate"), map[string]any{})
	unknownToken(t, alice)
	refused := srv.Do(t, "POST", harness.Path("v3", "login"), "", map[string]any{
		"type": "m.login.password", "password": alice.Password,
		"identifier": map[string]any{"type": "m.id.user", "user": alice.UserID},
	})
	equal(t, "the status", refused.Status, http.StatusForbidden)
	// The second is for a server that has wiped the password and so can't know who asks.
	if code := refused.Get("errcode").String(); code != "M_USER_DEACTIVATED" && code != "M_FORBIDDEN" {
		t.Errorf("the errcode is %s; want M_USER_DEACTIVATED or M_FORBIDDEN", code)
	}
	_, err := srv.Anonymous(t).RegisterAvailable(t.Context(), alice.UserID.Localpart())
	harness.WantError(t, err, 400, "M_USER_IN_USE")

	seen.Until("alice's leaving", func(resp *mautrix.RespSync) bool {
		evt := harness.FindState(harness.Timeline(resp, room), event.StateMember, alice.UserID.String())
		return evt != nil && contents(evt)["membership"] == "leave"
	})
}

func devices(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	other := alice.Login()
	if err := alice.SetDeviceInfo(t.Context(), other.DeviceID, &mautrix.ReqDeviceInfo{DisplayName: "the other"}); err != nil {
		t.Fatal(err)
	}
	got, err := alice.GetDeviceInfo(t.Context(), other.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the name", got.DisplayName, "the other")
	list, err := alice.GetDevicesInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of devices", len(list.Devices), 2)

	_, err = alice.GetDeviceInfo(t.Context(), "NOSUCH")
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	err = alice.SetDeviceInfo(t.Context(), "NOSUCH", &mautrix.ReqDeviceInfo{DisplayName: "nothing"})
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	bob := srv.Register(t, "bob")
	_, err = bob.GetDeviceInfo(t.Context(), alice.DeviceID)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

func deleteDevices(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	one, two, three := alice.Login(), alice.Login(), alice.Login()

	// A wrong password leaves the session open for another attempt, and tells the flows again.
	path := harness.Path("v3", "devices", one.DeviceID.String())
	first := alice.Do("DELETE", path, map[string]any{})
	equal(t, "the status", first.Status, http.StatusUnauthorized)
	auth := alice.UIA(first.Get("session").String()).(map[string]any)
	auth["password"] = "wrong"
	refused := alice.Do("DELETE", path, map[string]any{"auth": auth})
	equal(t, "the status", refused.Status, http.StatusUnauthorized)
	equal(t, "the errcode", refused.Get("errcode").String(), "M_FORBIDDEN")
	if !refused.Get("flows").IsArray() {
		t.Errorf("no flows to try again in %s", refused.Body)
	}
	if _, err := one.Whoami(t.Context()); err != nil {
		t.Errorf("the device is gone, by a wrong password: %v", err)
	}

	interactive(t, alice, "DELETE", path, map[string]any{})
	unknownToken(t, one)
	interactive(t, alice, "POST", harness.Path("v3", "delete_devices"),
		map[string]any{"devices": []id.DeviceID{two.DeviceID, three.DeviceID}})
	unknownToken(t, two)
	unknownToken(t, three)
	list, err := alice.GetDevicesInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of devices", len(list.Devices), 1)
}

// interactive makes a request that wants the user's password again, in the two steps of user-interactive
// authentication.
func interactive(t *testing.T, u *harness.User, method, path string, body map[string]any) harness.Response {
	t.Helper()
	first := u.Do(method, path, body)
	equal(t, "the first answer's status", first.Status, http.StatusUnauthorized)
	if !first.Get(`flows.#(stages.0=="m.login.password")`).Exists() {
		t.Fatalf("no password flow in %s", first.Body)
	}
	body["auth"] = u.UIA(first.Get("session").String())
	return u.Do(method, path, body).WantOK(t)
}
