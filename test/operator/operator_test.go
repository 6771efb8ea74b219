// Package operator holds black-box tests of what the person who runs a server sets and does: the settings of the
// configuration file that clients feel, and the commands on a server that runs.
package operator

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// login tries a user name and a password.
func login(t *testing.T, srv *harness.Server, name, password string) harness.Response {
	t.Helper()
	return srv.Do(t, "POST", harness.Path("v3", "login"), "", map[string]any{
		"type": "m.login.password", "password": password,
		"identifier": map[string]any{"type": "m.id.user", "user": name},
	})
}

// register tries to register a user name in one request, with the stage of user-interactive authentication.
func register(t *testing.T, srv *harness.Server, name string, auth map[string]any) harness.Response {
	t.Helper()
	return srv.Do(t, "POST", harness.Path("v3", "register"), "", map[string]any{
		"username": name, "password": "a good password", "auth": auth,
	})
}

// TestUserCommands makes and changes accounts while the server runs, and while it doesn't.
func TestUserCommands(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "rate_limits:\n  enabled: false\n")
		run := func(args ...string) string {
			t.Helper()
			out, status := srv.Command(args...)
			if status != 0 {
				t.Fatalf("parley %s: status %d: %s", strings.Join(args, " "), status, out)
			}
			return out
		}
		password := harness.PasswordIn(t, run("user", "create", "alice"))
		token := login(t, srv, "alice", password).WantOK(t).Get("access_token").String()
		whoami := func() harness.Response {
			return srv.Do(t, "GET", harness.Path("v3", "account", "whoami"), token, nil)
		}
		whoami().WantOK(t)
		if out, status := srv.Command("user", "create", "alice"); status == 0 {
			t.Errorf("a second account of the name was made: %s", out)
		}

		another := harness.PasswordIn(t, run("user", "reset-password", "alice"))
		login(t, srv, "alice", password).WantError(t, 403, "M_FORBIDDEN")
		login(t, srv, "alice", another).WantOK(t)
		eventually(t, "the old session's end", func() bool { return whoami().Status == http.StatusUnauthorized })

		srv.Stop()
		bob := harness.PasswordIn(t, run("user", "create", "bob", "--admin"))
		if list := run("user", "list"); !strings.Contains(list, "@alice:localhost") || !strings.Contains(list, "@bob:localhost") {
			t.Errorf("the list of users is %q", list)
		}
		srv.Run()
		token = login(t, srv, "bob", bob).WantOK(t).Get("access_token").String()
		run("user", "deactivate", "bob")
		eventually(t, "the session's end of the deactivated", func() bool { return whoami().Status == http.StatusUnauthorized })
		if refused := login(t, srv, "bob", bob); refused.Status != http.StatusForbidden {
			t.Errorf("a deactivated user's login was answered with %d %s", refused.Status, refused.Body)
		}
	})
}

// eventually waits for what a running server notices within seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestRegistration tries each way to let people in.
// spec: client-server-api/index.md#account-registration
func TestRegistration(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: token\n  token: sesame\n  shared_secret: open wide\nrate_limits:\n  enabled: false\n")
		first := register(t, srv, "alice", nil)
		if first.Status != http.StatusUnauthorized || !first.Get(`flows.#(stages.0=="m.login.registration_token")`).Exists() {
			t.Fatalf("the flows are %s; want one with a registration token", first.Body)
		}
		session := first.Get("session").String()
		valid := func(token string) bool {
			return srv.Do(t, "GET", harness.Path("v1", "register", "m.login.registration_token", "validity")+"?token="+token, "", nil).
				WantOK(t).Get("valid").Bool()
		}
		if !valid("sesame") || valid("nonsense") {
			t.Error("the validity of a token was told wrong")
		}
		auth := func(token string) map[string]any {
			return map[string]any{"type": "m.login.registration_token", "token": token, "session": session}
		}
		if refused := register(t, srv, "alice", auth("nonsense")); refused.Status != http.StatusUnauthorized {
			t.Errorf("a wrong token was answered with %d %s", refused.Status, refused.Body)
		}
		if refused := register(t, srv, "alice", map[string]any{"type": "m.login.dummy", "session": session}); refused.Status != http.StatusUnauthorized {
			t.Errorf("no token was answered with %d %s", refused.Status, refused.Body)
		}
		register(t, srv, "alice", auth("sesame")).WantOK(t)

		// The registration for programs that Synapse documents.
		const path = "/_synapse/admin/v1/register"
		request := func(secret string, admin bool) harness.Response {
			nonce := srv.Do(t, "GET", path, "", nil).WantOK(t).Get("nonce").String()
			word := map[bool]string{true: "admin", false: "notadmin"}[admin]
			mac := hmac.New(sha1.New, []byte(secret))
			fmt.Fprintf(mac, "%s\x00%s\x00%s\x00%s", nonce, "robot", "a good password", word)
			return srv.Do(t, "POST", path, "", map[string]any{
				"nonce": nonce, "username": "robot", "password": "a good password", "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil)),
			})
		}
		if refused := request("wrong", true); refused.Status != http.StatusForbidden {
			t.Errorf("a wrong secret was answered with %d %s", refused.Status, refused.Body)
		}
		token := request("open wide", true).WantOK(t).Get("access_token").String()
		srv.Do(t, "GET", harness.Path("v3", "account", "whoami"), token, nil).WantOK(t)
	})
}

func TestRegistrationClosed(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: nobody\n")
		register(t, srv, "alice", map[string]any{"type": "m.login.dummy"}).WantError(t, 403, "M_FORBIDDEN")
	})
}

// TestRateLimits meets the limits that a configuration file brings with it.
// spec: client-server-api/index.md#rate-limiting
func TestRateLimits(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n"+
			"  registration: {per_second: 0.001, burst: 2}\n  sending: {per_second: 0.001, burst: 5}\n  login: {per_second: 0.001, burst: 2}\n")
		limited := func(what string, burst int, request func() harness.Response) {
			t.Helper()
			for n := range burst + 1 {
				resp := request()
				if resp.Status != http.StatusTooManyRequests {
					continue
				}
				if n == 0 {
					t.Errorf("%s: the first request was refused", what)
				}
				resp.WantError(t, 429, "M_LIMIT_EXCEEDED")
				if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || wait < 1 {
					t.Errorf("%s: Retry-After is %q; want whole seconds", what, resp.Header.Get("Retry-After"))
				}
				return
			}
			t.Errorf("%s: %d requests in a row, and no limit", what, burst+1)
		}
		alice := srv.Register(t, "alice")
		limited("login", 2, func() harness.Response { return login(t, srv, "nobody", "wrong") })
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat"})
		n := 0
		limited("sending", 5, func() harness.Response {
			n++
			return alice.Do("PUT", harness.Path("v3", "rooms", string(room), "send", "m.room.message", strconv.Itoa(n)),
				map[string]any{"msgtype": "m.text", "body": "spam"})
		})
		limited("registration", 2, func() harness.Response { return register(t, srv, "nobody"+strconv.Itoa(n), nil) })
		// Reading is not limited.
		alice.Page(room, "", mautrix.DirectionBackward, 1)
	})
}

// spec: client-server-api/index.md#well-known-uris
func TestWellKnown(t *testing.T) {
	db := harness.Database{Kind: "sqlite"}
	srv := harness.StartConfigured(t, db, "well_known:\n  client_base_url: https://matrix.example.org\n")
	resp := srv.Do(t, "GET", "/.well-known/matrix/client", "", nil).WantOK(t)
	if resp.Get(`m\.homeserver.base_url`).String() != "https://matrix.example.org" || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("it is %s, with the headers %v; want the base URL, for every origin", resp.Body, resp.Header)
	}
	srv = harness.StartConfigured(t, db, "registration:\n  allow: nobody\n")
	if resp := srv.Do(t, "GET", "/.well-known/matrix/client", "", nil); resp.Status != http.StatusNotFound {
		t.Errorf("without a setting, it is answered with %d %s", resp.Status, resp.Body)
	}
}

// TestPresenceOff: nobody learns of anybody's coming and going, and nobody is told of an error.
func TestPresenceOff(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, "presence: \"off\"\nregistration:\n  allow: anyone\nrate_limits:\n  enabled: false\n")
		alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
		room := alice.NewRoomWith(bob)
		bobSees := bob.CaughtUp()
		if err := alice.SetPresence(t.Context(), mautrix.ReqPresence{Presence: "online", StatusMsg: "here"}); err != nil {
			t.Error(err)
		}
		said := alice.Say(room, "hello")
		bobSees.Until("the message", func(resp *mautrix.RespSync) bool {
			if len(resp.Presence.Events) > 0 {
				t.Errorf("presence is off, and yet came %v", resp.Presence.Events)
			}
			return harness.Find(harness.Timeline(resp, room), said) != nil
		})
	})
}
