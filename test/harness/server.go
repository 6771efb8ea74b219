package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	// stopTimeout is far over the 10 s that a drain is promised to take: a test asserts no time, but must not hang.
	stopTimeout = 40 * time.Second
	logTail     = 64 << 10

	// in the server's folder
	dataDir    = "data"
	configFile = "parley.yaml"
)

// StrictRegistration are settings by which who wants an account needs the token "of-the-house", the terms and an address;
// how mail is sent is to be added.
const StrictRegistration = `registration:
  allow: token
  token: of-the-house
  require_email: true
  terms: [{name: privacy, version: "1", title: Privacy, url: "https://example.org/privacy"}]
rate_limits:
  enabled: false
well_known:
  client_base_url: https://matrix.example.org
`

// Server is one homeserver process, or between Stop and Run again, the data that it left. It is a parley unless
// something else is said.
type Server struct {
	URL string
	// Name is the server's name, Link the way in for other servers and Metrics the URL of its figures, where it is
	// part of a Network.
	Name    string
	Link    *Link
	Metrics string

	t       testing.TB
	db      Database
	config  string
	dir     string
	listen  string
	program func() *exec.Cmd // what Run starts
	health  string           // the path that answers 200 when the server is ready
	process *exec.Cmd
	logs    *os.File
	exited  chan struct{} // closed when process has been waited for
}

// Start runs a server on the database and a fresh data directory, and returns when it is ready. When the test ends
// the server is stopped, which must succeed; when the test failed, the end of the server's log is printed.
//
// On SQLite it runs without a configuration file, as a newcomer runs it; on PostgreSQL with one that opens registration
// and takes the rate limits off.
func Start(t testing.TB, db Database) *Server {
	t.Helper()
	if db.Kind == "postgres" {
		return StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n")
	}
	return StartConfigured(t, db, "")
}

// StartConfigured is Start with a configuration file of these settings, to which it adds the server name, the database
// and that there is no federation.
func StartConfigured(t testing.TB, db Database, settings string) *Server {
	t.Helper()
	if base := external(); base != "" {
		return &Server{URL: base, t: t, db: db}
	}
	if settings != "" {
		settings = "server_name: localhost\nfederation:\n  enabled: false\n" + settings
	}
	s := newParley(t, db, settings)
	s.begin()
	return s
}

// newParley is a server that begin will start. Empty settings are no configuration file.
func newParley(t testing.TB, db Database, settings string) *Server {
	t.Helper()
	s := &Server{t: t, db: db, dir: t.TempDir(), listen: freeAddress(t), health: "/health/ready"}
	s.URL = "http://" + s.listen
	if settings != "" {
		s.config = settings
		if db.Kind == "postgres" {
			s.config += fmt.Sprintf("database:\n  url: %q\n", db.URL)
		}
		if err := os.WriteFile(filepath.Join(s.dir, configFile), []byte(s.config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.program = func() *exec.Cmd { return exec.Command(Binary(s.t), s.arguments("serve", "--listen", s.listen)...) }
	return s
}

// begin runs the server for the first time, and sees to its end when the test ends.
func (s *Server) begin() {
	s.t.Helper()
	logs, err := os.Create(filepath.Join(s.dir, "server.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.logs = logs
	s.t.Cleanup(func() {
		if s.process != nil {
			select {
			case <-s.exited:
				s.t.Errorf("%s ended by itself: %v", s.URL, s.process.ProcessState)
			default:
				s.Stop()
			}
		}
		s.printLogs()
		s.logs.Close()
	})
	s.Run()
}

// Run starts the process on the data that is there, and returns when it is ready. Start has done it once already;
// call it after Stop or Kill.
func (s *Server) Run() {
	s.t.Helper()
	s.mine()
	cmd := s.program()
	name := filepath.Base(cmd.Path)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = s.logs, s.logs
	cmd.SysProcAttr = dieWithParent()
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// dieWithParent is tied to the thread that starts the process: keep it for as long as that lives.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start %s: %v", name, err)
	}
	s.process, s.exited = cmd, exited

	deadline := time.After(readyTimeout)
	for {
		if resp, err := http.Get(s.URL + s.health); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-exited:
			s.process = nil
			s.t.Fatalf("%s ended before it was ready: %v", name, cmd.ProcessState)
		case <-deadline:
			s.t.Fatalf("%s was not ready after %v", name, readyTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// arguments are the command line of a command about this server's data.
func (s *Server) arguments(command ...string) []string {
	command = append(command, "--data", dataDir)
	if s.config != "" {
		command = append(command, "--config", configFile)
	}
	return command
}

// Command runs another of the binary's commands on the same configuration and data, whether the server runs or not,
// and gives its output, standard error included, and its exit status.
func (s *Server) Command(command ...string) (string, int) {
	s.t.Helper()
	s.mine()
	cmd := exec.Command(Binary(s.t), s.arguments(command...)...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s: %v", command, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Terminate asks the server to end, and does not wait.
func (s *Server) Terminate() {
	s.t.Helper()
	s.mine()
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("SIGTERM: %v", err)
	}
}

// Wait waits for the end of a server that was asked to end: it must exit with status 0.
func (s *Server) Wait() {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		select {
		case <-s.exited: // it was this process that had to wait
		default:
			s.process.Process.Signal(syscall.SIGQUIT) // the Go runtime then writes every goroutine's stack to the log
			<-s.exited
			s.t.Errorf("%s did not end within %v of SIGTERM; its goroutines are in the log", s.URL, stopTimeout)
		}
	}
	if code := s.process.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("%s ended with %v; want status 0", s.URL, s.process.ProcessState)
	}
	s.process = nil
}

// Stop ends the server as an operator does, by SIGTERM.
func (s *Server) Stop() {
	s.t.Helper()
	s.Terminate()
	s.Wait()
}

// Kill ends the server as a crash does, by SIGKILL.
func (s *Server) Kill() {
	s.t.Helper()
	s.mine()
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatalf("SIGKILL: %v", err)
	}
	<-s.exited
	s.process = nil
}

// Pid is the process's, for a driver that measures it.
func (s *Server) Pid() int {
	s.mine()
	return s.process.Process.Pid
}

// Figure reads one of the server's figures, by its name with all labels as Prometheus writes them; 0 where there is
// none.
func (s *Server) Figure(series string) float64 {
	s.t.Helper()
	resp, err := http.Get(s.Metrics)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			figure, err := strconv.ParseFloat(value, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return figure
		}
	}
	return 0
}

// Logs is what the server has logged so far.
func (s *Server) Logs() string {
	s.t.Helper()
	s.mine()
	logs, err := os.ReadFile(s.logs.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(logs)
}

// External tells whether the server is one that PARLEY_TEST_SERVER names.
func (s *Server) External() bool { return s.db.Kind == "external" }

// mine skips the test when the server is not one that the harness started.
func (s *Server) mine() {
	s.t.Helper()
	if s.External() {
		s.t.Skip("the server under test is not ours to start and stop")
	}
}

// printLogs fails the test for what no server may ever log, and prints the log of a failed test.
func (s *Server) printLogs() {
	logs, err := os.ReadFile(s.logs.Name())
	if err != nil {
		s.t.Errorf("read the server's log: %v", err)
		return
	}
	for _, bad := range []string{"WARNING: DATA RACE", "panic:", "fatal error:"} {
		if bytes.Contains(logs, []byte(bad)) {
			s.t.Errorf("the server's log has %q", bad)
		}
	}
	if !s.t.Failed() {
		return
	}
	if cut := len(logs) - logTail; cut > 0 {
		logs = append([]byte("[…]"), logs[cut:]...)
	}
	s.t.Logf("the log of %s on %s:\n%s", s.URL, s.db.Kind, strings.TrimSpace(string(logs)))
}

// freeAddress finds a port that nobody listens on, out of the range from which systems take those of outgoing
// connections. Another process could take it before the server does; then the server ends at once and the test says why.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(22_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}
