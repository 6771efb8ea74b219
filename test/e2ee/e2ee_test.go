// Package e2ee holds black-box tests of end-to-end encryption: real processes on both databases, and clients with real
// cryptography, matrix-js-sdk with its Rust crypto and mautrix-go with goolm. The same story is told with two people on one
// node, on two nodes, and on a Parley and a Synapse: every message that is sent to somebody in the room must be decrypted
// by all of their devices, and they are counted.
//
// spec: client-server-api/modules/end_to_end_encryption.md
package e2ee

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// each tells a story of Alice on one server and Bob on another, which may be the same, for each pair of servers.
func each(t *testing.T, story func(t *testing.T, alice, bob *harness.Server, environment ...string)) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		t.Run("one", func(t *testing.T) {
			srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n")
			story(t, srv, srv)
		})
		t.Run("two", func(t *testing.T) {
			network := harness.NewNetwork(t)
			story(t, network.Parley(t, db.Another(t), ""), network.Parley(t, db.Another(t), ""))
		})
	})
	t.Run("synapse", func(t *testing.T) {
		network := harness.NewNetwork(t)
		synapse := network.Synapse(t)
		parley := network.Parley(t, harness.Database{Kind: "sqlite"}, "")
		// A Synapse forgets whom its users have verified, as long as they share no room.
		t.Run("alice", func(t *testing.T) { story(t, synapse, parley, "PARLEY_LOBBY=yes") })
		t.Run("bob", func(t *testing.T) { story(t, parley, synapse) })
	})
}

// TestJS tells the story with matrix-js-sdk, which asks for Bob's server to be stopped and run.
func TestJS(t *testing.T) {
	each(t, func(t *testing.T, alice, bob *harness.Server, environment ...string) {
		commands, obeyed := make(chan string), make(chan struct{})
		control := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case commands <- strings.TrimPrefix(r.URL.Path, "/"):
				<-obeyed
			case <-r.Context().Done():
			}
		}))
		defer control.Close()
		environment = append(environment, "PARLEY_URL="+alice.URL, "PARLEY_OTHER_URL="+bob.URL, "PARLEY_CONTROL="+control.URL)
		js := harness.StartJS(t, "secrets.test.js", environment...)
		stopped := false
		for running := true; running; {
			select {
			case <-js.Done():
				running = false
			case command := <-commands:
				switch command {
				case "stop":
					bob.Stop()
				case "kill":
					bob.Kill()
				case "run":
					bob.Run()
				}
				stopped = command != "run"
				obeyed <- struct{}{}
			}
		}
		if stopped { // in the middle of a test that has failed
			bob.Run()
		}
		for line := range strings.Lines(js.Wait(t)) {
			if strings.Contains(line, "undecryptable") {
				t.Log(strings.TrimSpace(line))
			}
		}
	})
}
