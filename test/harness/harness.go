// Package harness starts real parley processes for black-box tests and drives them over HTTP, as a person with a
// Matrix client would: it builds the binary, makes a database, waits until the server is ready, and stops, kills and
// restarts it. Nothing here imports the server's own packages; what a test knows, it learned from the
// client-server API.
//
// A test package has a TestMain that calls Main, and tests that call Stories (one server for a chapter of small
// stories) or EachDatabase and Start (a server of their own, to be stopped and killed).
//
// The environment decides what runs:
//
//	PARLEY_TEST_POSTGRES  URL of a superuser's database: tests run on PostgreSQL too, each in a database of its own
//	PARLEY_TEST_BINARY    a parley that was built already (with -race, where it should be)
//	PARLEY_TEST_SYNAPSE   the Python of an environment that has Synapse, to be a peer of ours
//	PARLEY_TEST_S3        an S3 server, which test/s3.sh builds
//	PARLEY_TEST_REQUIRE   what must not be skipped, comma-separated: postgres, js, synapse, s3, coturn
//	PARLEY_TEST_SERVER    base URL of a homeserver that runs already, to hold the tests themselves against another
//	                      implementation; tests that stop the server are skipped
package harness

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Main is the whole of a package's TestMain: it runs the tests and removes the binary that was built for them.
func Main(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if binary.dir != "" {
		os.RemoveAll(binary.dir)
	}
	os.Exit(code)
}

// Stories runs each story as a parallel subtest against one server, on each database. Stories share the server, so
// that their users and rooms are each other's noise; Register gives every user a name of its own.
func Stories(t *testing.T, stories ...func(*testing.T, *Server)) {
	t.Helper()
	EachDatabase(t, func(t *testing.T, db Database) {
		srv := Start(t, db)
		for _, story := range stories {
			t.Run(functionName(story), func(t *testing.T) {
				t.Parallel()
				story(t, srv)
			})
		}
	})
}

// functionName gives the last part of a function's name: "client_test.talk" is "talk".
func functionName(f any) string {
	name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}

// Skip skips the test for want of a thing (postgres, js, synapse), or fails it where PARLEY_TEST_REQUIRE names the thing.
func Skip(t testing.TB, thing, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("PARLEY_TEST_REQUIRE"), ","), thing) {
		t.Fatalf("%s is required here: %s", thing, reason)
	}
	t.Skipf("SKIPPED %s: %s", thing, reason)
}

// external is the base URL of a server that the tests don't start, or empty.
func external() string {
	return strings.TrimSuffix(os.Getenv("PARLEY_TEST_SERVER"), "/")
}

// binary is the server's executable, built at most once in a test process.
var binary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Binary builds parley, with the race detector where the test has it, and returns the executable's path.
func Binary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.path = os.Getenv("PARLEY_TEST_BINARY"); binary.path == "" {
			binary.path, binary.err = build()
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "parley-test-bin-")
	if err != nil {
		return "", err
	}
	binary.dir = dir
	path := filepath.Join(dir, "parley")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "parley/cmd/parley")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build parley/cmd/parley: %w\n%s", err, out)
	}
	return path, nil
}
