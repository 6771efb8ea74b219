package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// jsTests is where the tests with matrix-js-sdk are, as seen from each test package.
const jsTests = "../js"

// JS is a run of one file of tests with matrix-js-sdk, by node's own test runner.
type JS struct {
	done chan struct{}
	out  []byte
	err  error
}

// StartJS starts the tests of a file of test/js with these variables in its environment.
func StartJS(t testing.TB, file string, environment ...string) *JS {
	t.Helper()
	node := node(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	// A stopped client of the library leaves timers behind, which would keep the runner waiting.
	cmd := exec.CommandContext(ctx, node, "--test", "--test-force-exit", "--test-reporter=spec", file)
	cmd.Dir = jsTests
	cmd.Env = append(os.Environ(), environment...)
	js := &JS{done: make(chan struct{})}
	go func() {
		defer close(js.done)
		defer cancel()
		js.out, js.err = cmd.CombinedOutput()
	}()
	t.Cleanup(func() {
		cancel()
		<-js.done
	})
	return js
}

// Done is closed when all tests have run.
func (js *JS) Done() <-chan struct{} { return js.done }

// Wait waits for the tests, fails where one has or where there was none, and gives what they printed.
func (js *JS) Wait(t testing.TB) string {
	t.Helper()
	<-js.done
	out := string(js.out)
	if js.err != nil {
		t.Errorf("%v\n%s", js.err, out)
	} else if !strings.Contains(out, "pass ") || strings.Contains(out, "pass 0") {
		t.Errorf("there was no test:\n%s", out)
	}
	return out
}

// node finds a node that matrix-js-sdk runs on: one of the machine, or the one that npm installed beside the library.
func node(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat(jsTests + "/node_modules/matrix-js-sdk"); err != nil {
		Skip(t, "js", "matrix-js-sdk is not installed; run npm ci in test/js")
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
	path, err := filepath.Abs(jsTests + "/node_modules/node-" + runtime.GOOS + "-" + arch + "/bin/node")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		Skip(t, "js", fmt.Sprintf("matrix-js-sdk needs node %d, and there is only %d", wanted, major))
	}
	return path
}
