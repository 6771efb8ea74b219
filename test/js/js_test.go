// Package js drives Parley with matrix-js-sdk, the library under Element Web. The tests are the *.test.js files beside
// this one, run by node's own test runner; this package starts the servers for them.
package js

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestConversation(t *testing.T) {
	node := node(t)
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		run(t, node, "conversation.test.js", harness.Start(t, db))
	})
}

func TestChapters(t *testing.T) {
	node := node(t)
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		run(t, node, "chapters.test.js", harness.Start(t, db))
	})
}

func TestEncryption(t *testing.T) {
	node := node(t)
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.Start(t, db)
		upload := srv.Register(t, "prober").Do("POST", harness.Path("v3", "keys", "upload"), map[string]any{})
		if upload.Status == http.StatusNotFound {
			t.Skip("the server takes no keys")
		}
		run(t, node, "encryption.test.js", srv)
	})
}

// run runs one file of tests against the server.
func run(t *testing.T, node, file string, srv *harness.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// A stopped client of the library leaves timers behind, which would keep the runner waiting.
	cmd := exec.CommandContext(ctx, node, "--test", "--test-force-exit", "--test-reporter=spec", file)
	cmd.Env = append(os.Environ(), "PARLEY_URL="+srv.URL)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", file, err, out)
	} else if !strings.Contains(string(out), "pass ") || strings.Contains(string(out), "pass 0") {
		t.Errorf("%s ran no test:\n%s", file, out)
	}
}

// node finds a node that matrix-js-sdk runs on: one of the machine, or the one that npm installed beside the library.
func node(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("node_modules/matrix-js-sdk"); err != nil {
		harness.Skip(t, "js", "matrix-js-sdk is not installed; run npm ci in test/js")
	}
	const wanted = 22
	var major int
	if out, err := exec.Command("node", "--version").Output(); err == nil {
		if fmt.Sscanf(string(out), "v%d.", &major); major >= wanted {
			return "node"
		}
	}
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	path, err := filepath.Abs("node_modules/node-" + runtime.GOOS + "-" + arch + "/bin/node")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		harness.Skip(t, "js", fmt.Sprintf("matrix-js-sdk needs node %d, and there is only %d", wanted, major))
	}
	return path
}
