package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"parley/config"
)

func TestMain(m *testing.M) {
	if os.Getenv("PARLEY_TEST_AS_PROGRAM") != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"parley": main})
}

// The files in testdata are sessions at a command line, with what is to be seen there.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}

// serve runs the program in this process until the test cancels it. It gives the URL of the
// client API, and what waits for the end and gives the exit status and the output.
func serve(t *testing.T, ctx context.Context, args ...string) (url string, wait func() (status int, stdout, stderr string)) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	ready, ended := make(chan net.Addr, 1), make(chan int, 1)
	m := Main{
		Stdin:  strings.NewReader(""),
		Stdout: &stdout,
		Stderr: &stderr,
		Getenv: func(string) string { return "" },
		Ready:  func(a net.Addr) { ready <- a },
	}
	go func() { ended <- m.Run(ctx, append([]string{"serve"}, args...)...) }()
	select {
	case a := <-ready:
		return "http://" + a.String(), func() (int, string, string) { return <-ended, stdout.String(), stderr.String() }
	case status := <-ended:
		t.Fatalf("ended with status %d before it was ready: %s", status, stderr.String())
		return "", nil
	}
}

func alive(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Get(url + "/health/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET /health/live: %s", resp.Status)
	}
}

func TestServeWithoutFile(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	data := filepath.Join(t.TempDir(), "data")
	url, wait := serve(t, ctx, "--listen", "127.0.0.1:0", "--data", data)
	alive(t, url)
	cancel()
	status, stdout, stderr := wait()
	if status != 0 {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	want := fmt.Sprintf("No configuration file, so this server is for this machine alone: point a client at %s "+
		"(anyone may register, nothing is rate limited); make the first admin with: parley user create --admin --data %s NAME\n", url, data)
	if stdout != want {
		t.Errorf("stdout is %q, want %q", stdout, want)
	}
}

func TestServeWithFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "parley.yaml")
	text := "server_name: example.org\nlisteners: {client: {address: \"127.0.0.1:0\"}}\nlogging: {format: json}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	url, wait := serve(t, ctx, "--config", file)
	alive(t, url)
	cancel()
	status, stdout, stderr := wait()
	if status != 0 || stdout != "" {
		t.Errorf("exit status %d, stdout %q", status, stdout)
	}
	var first map[string]any
	line, _, _ := strings.Cut(stderr, "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil {
		t.Fatalf("the first line of the log is %q: %v", line, err)
	}
	if first["server_name"] != "example.org" || first["configuration"] != file {
		t.Errorf("the log begins with %s", line)
	}
}

func TestServeEndsAtSignal(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Chdir(t.TempDir())
			url, wait := serve(t, t.Context(), "--listen", "127.0.0.1:0", "--data", "data")
			alive(t, url)
			if err := syscall.Kill(os.Getpid(), s); err != nil {
				t.Fatal(err)
			}
			if status, _, stderr := wait(); status != 0 {
				t.Errorf("exit status %d: %s", status, stderr)
			}
		})
	}
}

// A second signal ends a process that still drains.
func TestServeEndsAtSecondSignal(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "serve", "--listen", "127.0.0.1:0", "--data", "data")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PARLEY_TEST_AS_PROGRAM=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		// Both fail if the process ended as it should.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)

	// A request that has begun keeps the process from ending at the first signal.
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /health/live HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	alive(t, "http://"+address) // so that the server has seen the connection before
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // until the listener is closed, as the first signal has it
		c, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		c.Close()
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its result is in ProcessState
		close(ended)
	}()
	for waiting := true; waiting; {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails once the process has ended
		select {
		case <-ended:
			waiting = false
		default:
		}
	}
	if w := cmd.ProcessState.Sys().(syscall.WaitStatus); !w.Signaled() {
		t.Errorf("ended with %v, want that it was ended by the signal", cmd.ProcessState)
	}
}

func TestServeFails(t *testing.T) {
	t.Chdir(t.TempDir())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var stderr bytes.Buffer
	m := Main{Stdin: strings.NewReader(""), Stdout: &bytes.Buffer{}, Stderr: &stderr, Getenv: func(string) string { return "" }}
	if status := m.Run(t.Context(), "serve", "--listen", taken.Addr().String(), "--data", "data"); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if !strings.Contains(stderr.String(), "parley: cannot listen: ") || !strings.Contains(stderr.String(), "address already in use") {
		t.Errorf("stderr is %q", stderr.String())
	}
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, config.Logging{
		Level:    config.LevelWarn,
		Format:   config.FormatText,
		Packages: map[string]config.Level{"roomserver": config.LevelDebug, "storage": config.LevelError},
	})
	for _, name := range []string{"", "roomserver", "storage", "media"} {
		l := log
		if name != "" {
			l = log.With(packageKey, name, "n", 1)
		}
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			l.WithGroup("g").Log(t.Context(), level, name+strings.ToLower(level.String()))
		}
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, regexp.MustCompile(`msg=(\w+)`).FindStringSubmatch(line)[1])
	}
	want := "warn error roomserverdebug roomserverinfo roomserverwarn roomservererror storageerror mediawarn mediaerror"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("logged %s\nwant   %s", s, want)
	}
}
