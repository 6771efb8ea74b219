// Package js drives Parley with matrix-js-sdk, the library under Element Web. The tests are the *.test.js files beside
// this one, run by node's own test runner; this package starts the servers for them.
package js

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"parley/internal/mail/mailtest"
	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestConversation(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		run(t, "conversation.test.js", harness.Start(t, db))
	})
}

func TestChapters(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		run(t, "chapters.test.js", harness.Start(t, db))
	})
}

// TestAccounts is about how one comes to an account and loses it: new ones need a token, the terms and an address. The tests have
// mails read by asking for PARLEY_POST with the address.
func TestAccounts(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		office := mailtest.Open(t)
		srv := harness.StartConfigured(t, db, harness.StrictRegistration+office.Settings())
		root := srv.Administrator(t, "root")
		post := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			office.Confirm(t, srv.URL, r.URL.Query().Get("address"))
		}))
		defer post.Close()
		run(t, "accounts.test.js", srv, "PARLEY_POST="+post.URL, "PARLEY_ROOT="+root.AccessToken)
	})
}

// TestFar has the users of two nodes deal with each other.
func TestFar(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		srv, other := network.Parley(t, db, ""), network.Parley(t, db.Another(t), "")
		run(t, "far.test.js", srv, "PARLEY_OTHER_URL="+other.URL)
	})
}

func TestEncryption(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.Start(t, db)
		upload := srv.Register(t, "prober").Do("POST", harness.Path("v3", "keys", "upload"), map[string]any{})
		if upload.Status == http.StatusNotFound {
			t.Skip("the server takes no keys")
		}
		run(t, "encryption.test.js", srv)
	})
}

// run runs one file of tests against the server.
func run(t *testing.T, file string, srv *harness.Server, environment ...string) {
	t.Helper()
	harness.StartJS(t, file, append(environment, "PARLEY_URL="+srv.URL)...).Wait(t)
}
