package client

import (
	"testing"

	"maunium.net/go/mautrix"

	"parley/internal/mail/mailtest"
	"parley/test/harness"
)

// TestEmail has somebody make an account with a token, the terms and an address, add another address, and come back
// by it when they have forgotten their password.
//
// spec: client-server-api/index.md#legacy-account-registration
func TestEmail(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		office := mailtest.Open(t)
		srv := harness.StartConfigured(t, db, harness.StrictRegistration+office.Settings())
		alice := srv.Anonymous(t)
		alice.Password = "password of alice"
		shown := asked(t, alice, "register", "alice@example.com")
		office.Confirm(t, srv.URL, "alice@example.com")
		stages := map[mautrix.AuthType]map[string]any{
			"m.login.registration_token": {"token": "of-the-house"},
			"m.login.terms":              {},
			mautrix.AuthType(emailStage): {"threepid_creds": shown},
		}
		request := &mautrix.ReqRegister[any]{Username: "alice", Password: alice.Password}
		account, missing, err := alice.Client.Register(t.Context(), request)
		for range len(stages) {
			if err != nil || missing == nil || len(missing.Flows) != 1 || len(missing.Flows[0].Stages) != len(stages) {
				t.Fatalf("a registration is answered with %+v, %+v: %v", account, missing, err)
			}
			stage := missing.Flows[0].Stages[len(missing.Completed)]
			auth, known := stages[stage]
			if !known {
				t.Fatalf("the stage %s is asked for", stage)
			}
			auth["type"], auth["session"] = stage, missing.Session
			request.Auth = auth
			account, missing, err = alice.Client.Register(t.Context(), request)
		}
		if err != nil || account == nil {
			t.Fatalf("the registration lacks %+v: %v", missing, err)
		}
		alice.UserID, alice.DeviceID, alice.AccessToken = account.UserID, account.DeviceID, account.AccessToken

		shown = asked(t, alice, "account/3pid", "alice@example.org")
		first := alice.Do("POST", harness.Path("v3", "account", "3pid", "add"), shown)
		shown["auth"] = alice.UIA(first.Get("session").Str)
		alice.Do("POST", harness.Path("v3", "account", "3pid", "add"), shown).WantError(t, 403, "M_THREEPID_AUTH_FAILED")
		office.Confirm(t, srv.URL, "alice@example.org")
		alice.Do("POST", harness.Path("v3", "account", "3pid", "add"), shown).WantOK(t)
		addresses := alice.Do("GET", harness.Path("v3", "account", "3pid"), nil).WantOK(t).Get("threepids.#.address").String()
		equal(t, "her addresses", addresses, `["alice@example.com","alice@example.org"]`)

		// She has forgotten her password, and her device is lost.
		lost := srv.Anonymous(t)
		shown = asked(t, lost, "account/password", "alice@example.org")
		change := map[string]any{"new_password": "another password", "logout_devices": true}
		session := lost.Do("POST", harness.Path("v3", "account", "password"), change).Get("session").Str
		change["auth"] = map[string]any{"type": emailStage, "session": session, "threepid_creds": shown}
		lost.Do("POST", harness.Path("v3", "account", "password"), change).WantError(t, 401, "M_THREEPID_AUTH_FAILED")
		office.Confirm(t, srv.URL, "alice@example.org")
		lost.Do("POST", harness.Path("v3", "account", "password"), change).WantOK(t)
		_, err = alice.Whoami(t.Context())
		harness.WantError(t, err, 401, "M_UNKNOWN_TOKEN")
		alice.Password = "another password"
		again := alice.Login()
		equal(t, "who is back", again.UserID, alice.UserID)
	})
}

const emailStage = "m.login.email.identity"

// asked has the server send a mail to an address, and gives what proves later that it was read.
func asked(t testing.TB, u *harness.User, what, address string) map[string]any {
	t.Helper()
	path := "/_matrix/client/v3/" + what + "/email/requestToken"
	sent := u.Do("POST", path, map[string]any{"client_secret": "secret", "email": address, "send_attempt": 1}).WantOK(t)
	return map[string]any{"client_secret": "secret", "sid": sent.Get("sid").Str}
}
