// Package js drives Parley with matrix-js-sdk, the library under Element Web. The tests are the *.test.js files beside
// this one, run by node's own test runner; this package starts the servers for them.
package js

import (
	"net/http"
	"testing"

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
func run(t *testing.T, file string, srv *harness.Server) {
	t.Helper()
	harness.StartJS(t, file, "PARLEY_URL="+srv.URL).Wait(t)
}
