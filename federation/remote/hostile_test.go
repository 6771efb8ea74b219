package remote_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/federation/remote"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/testserver/testnet"
)

func write(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// zeros writes white space until nobody reads any more, or n bytes.
func zeros(w io.Writer, n int) int {
	chunk, written := []byte(strings.Repeat(" ", 64<<10)), 0
	for written < n {
		k, err := w.Write(chunk)
		written += k
		if err != nil {
			break
		}
	}
	return written
}

// Answers that are too large, never end, or never come cost what they may and no more.
func TestBoundedAnswers(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	released := make(chan struct{})
	wrote := make(chan int, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { wrote <- zeros(w, 100<<20) })
	mux.HandleFunc("/said", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "104857600")
		wrote <- zeros(w, 100<<20)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) { wrote <- zeros(w, 1<<40) })
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		wrote <- zeros(z, 1<<40)
	})
	mux.HandleFunc("/error", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		wrote <- zeros(w, 1<<40)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("x", 200<<10))
		_, _ = io.WriteString(w, `{}`)
	})
	mux.HandleFunc("/silent", func(http.ResponseWriter, *http.Request) { <-released })
	mux.HandleFunc("/stalls", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a":`)
		_ = http.NewResponseController(w).Flush()
		<-released
	})
	net.Serve(t, "b.org:8448", []string{"b.org"}, mux)
	t.Cleanup(func() { close(released) })
	const size = 1 << 20
	for path, want := range map[string]error{
		"/large": remote.ErrAnswer, "/said": remote.ErrAnswer, "/endless": remote.ErrAnswer, "/bomb": remote.ErrAnswer, "/error": nil,
	} {
		_, err := a.AskWithin(t.Context(), "b.org", path, time.Minute, size)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
		if n := <-wrote; path != "/bomb" && n > 20*size {
			t.Errorf("%s: the server could write %d bytes", path, n)
		}
	}
	for _, path := range []string{"/headers", "/silent", "/stalls"} {
		if _, err := a.AskWithin(t.Context(), "b.org", path, time.Second, size); !errors.Is(err, remote.ErrUnreachable) {
			t.Errorf("%s: %v", path, err)
		}
		a.time.Pass(time.Hour) // it is down no more
	}
	// Whoever goes away, or is in a hurry, is not kept.
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() {})
	go cancel()
	if _, err := a.AskWithin(ctx, "b.org", "/silent", time.Hour, size); !errors.Is(err, context.Canceled) {
		t.Errorf("who asked has gone: %v", err)
	}
	if _, err := a.AskWithin(t.Context(), "b.org", "/nothing", time.Minute, size); errors.Is(err, remote.ErrDown) {
		t.Error("a server is down because who asked has gone")
	}
}

// What isn't an answer is an error, and of what kind is told.
func TestWrongAnswers(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	for name, tt := range map[string]struct {
		h      http.HandlerFunc
		status int // 0 for none
		code   matrixerr.Code
		want   error
	}{
		"text":        {h: write(200, "hello"), want: remote.ErrAnswer},
		"nothing":     {h: write(200, ""), want: remote.ErrAnswer},
		"array":       {h: write(200, "[1]"), want: remote.ErrAnswer},
		"half":        {h: write(200, `{"server":{"name":`), want: remote.ErrAnswer},
		"types":       {h: write(200, `{"server":[]}`), want: remote.ErrAnswer},
		"not-utf8":    {h: write(200, `{"server":{"name":"`+"\xff"+`"}}`), want: remote.ErrAnswer},
		"entries":     {h: write(200, `{"server":{},"others":[`+strings.Repeat("0,", 500_000)+`0]}`), want: remote.ErrAnswer},
		"deep":        {h: write(200, strings.Repeat("[", 1<<20)), want: remote.ErrAnswer},
		"redirect":    {h: http.RedirectHandler("https://c.org/", http.StatusFound).ServeHTTP, status: 302},
		"web-page":    {h: write(404, "<html>"), status: 404},
		"forbidden":   {h: write(403, `{"errcode":"M_FORBIDDEN","error":"no"}`), status: 403, code: matrixerr.Forbidden},
		"not-found":   {h: write(404, `{"errcode":"M_NOT_FOUND","error":"no"}`), status: 404, code: matrixerr.NotFound},
		"my-token":    {h: write(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"no"}`), status: 401, code: matrixerr.Unknown},
		"my-account":  {h: write(403, `{"errcode":"M_USER_LOCKED","error":"no"}`), status: 403, code: matrixerr.Unknown},
		"my-name":     {h: write(401, `{"errcode":"M_FORBIDDEN","error":"no"}`), status: 401, code: matrixerr.Unknown},
		"broken":      {h: write(500, `{"errcode":"M_UNKNOWN","error":"`+strings.Repeat("é", 5000)+`"}`), status: 500, code: matrixerr.Unknown},
		"long-code":   {h: write(400, `{"errcode":"`+strings.Repeat("M", 5000)+`"}`), status: 400, code: matrixerr.Unknown},
		"no-code":     {h: write(400, `{"error":"no"}`), status: 400},
		"wrong-codes": {h: write(400, `{"errcode":1}`), status: 400},
	} {
		server := id.ServerName(name + ".org")
		net.Serve(t, string(server)+":8448", []string{string(server)}, tt.h)
		_, err := a.Version(t.Context(), server)
		var status *remote.StatusError
		errors.As(err, &status)
		switch {
		case tt.want != nil && !errors.Is(err, tt.want), tt.status != 0 && (status == nil || status.Status != tt.status), matrixerr.CodeOf(err) != tt.code:
			t.Errorf("%s: %v", name, err)
		case len(err.Error()) > 2000:
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		var told *matrixerr.Error
		if errors.As(err, &told) && told.Status == http.StatusUnauthorized {
			t.Errorf("%s: a client would be told that it has to log in", name)
		}
	}
}

// What is wrong with an event that we made for a client is no fault of the client's.
func TestNotClients(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	for code, want := range map[string]int{"M_INVALID_PARAM": 502, "M_MISSING_PARAM": 502, "M_FORBIDDEN": 400, "M_UNABLE_TO_GRANT_JOIN": 400} {
		stop := net.Serve(t, "b.org:8448", []string{"b.org"}, write(400, `{"errcode":"`+code+`","error":"no"}`))
		_, joining := a.SendJoin(t.Context(), "b.org", "!r:b.org", "$e", json.RawMessage(`{}`), true)
		_, inviting := a.Invite(t.Context(), "b.org", "!r:a.org", "$e", &serverapi.Invite{RoomVersion: "12", Event: json.RawMessage(`{}`)})
		for _, err := range []error{joining, inviting} {
			var told *matrixerr.Error
			if !errors.As(err, &told) || told.Status != want {
				t.Errorf("%s: %v", code, err)
			}
		}
		stop()
	}
}

func TestRetryAfter(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	for header, tt := range map[string]struct {
		body string
		want time.Duration
	}{
		"":                     {`{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, 1500 * time.Millisecond},
		"7":                    {`{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, 7 * time.Second},
		"9999999999":           {`{}`, 24 * time.Hour},
		"-1":                   {`{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-5}`, 0},
		"99999999999999999999": {`{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":9007199254740991}`, 24 * time.Hour},
		"Fri, 31 Dec 1999":     {`{}`, 0},
	} {
		stop := net.Serve(t, "b.org:8448", []string{"b.org"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			write(429, tt.body)(w, r)
		}))
		var status *remote.StatusError
		if _, err := a.Version(t.Context(), "b.org"); !errors.As(err, &status) || status.RetryAfter != tt.want {
			t.Errorf("Retry-After %q, %s: %v, %+v; want %v", header, tt.body, err, status, tt.want)
		}
		stop()
	}
}

// People don't wait for a server that could not be reached a moment ago; queues, which have a
// back-off of their own, are not kept from trying; and whoever is heard of is up again.
func TestDown(t *testing.T) {
	net := testnet.New(t)
	metrics := prometheus.NewRegistry()
	a := newNode(t, net, "a.org", func(o *remote.Options) { o.Metrics = metrics })
	b := newNode(t, net, "b.org", nil)
	a.serve(t, profile())
	ask := func(what string, want error) {
		t.Helper()
		net.Dialed()
		_, err := a.Version(t.Context(), "b.org")
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if errors.Is(want, remote.ErrDown) && len(net.Dialed()) != 0 {
			t.Errorf("%s: it was dialled", what)
		}
	}
	figure := func(name string, want float64) {
		t.Helper()
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := 0.0
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == name {
					got += m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		if got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	ask("at first", remote.ErrUnreachable)
	ask("a moment later", remote.ErrDown)
	figure("parley_federation_servers_down", 1)
	a.time.Pass(2 * time.Second)
	ask("after a second", remote.ErrUnreachable)
	a.time.Pass(1500 * time.Millisecond)
	ask("the pause grows", remote.ErrDown)
	if _, err := a.SendTransaction(t.Context(), "b.org", "1", &serverapi.Transaction{Origin: "a.org"}); errors.Is(err, remote.ErrDown) || !errors.Is(err, remote.ErrUnreachable) {
		t.Errorf("a transaction: %v", err)
	}
	for range 20 {
		a.time.Pass(6 * time.Minute)
		if _, err := a.Version(t.Context(), "b.org"); errors.Is(err, remote.ErrDown) {
			t.Fatal("a server is down for more than five minutes")
		}
	}
	b.serve(t)
	ask("it is back, and nobody knows", remote.ErrDown)
	if _, err := b.Profile(t.Context(), "@u:a.org", ""); err != nil {
		t.Fatal(err)
	}
	ask("we have heard of it", nil)
	figure("parley_federation_servers_down", 0)
	figure("parley_federation_key_fetches_total", 1)

}

// A server that the configuration denies, or does not allow, is answered that it is not let in, and is never dialled,
// not for its keys either. Another is.
func TestDeniedServers(t *testing.T) {
	net := testnet.New(t)
	a, b := newNode(t, net, "a.org", nil), newNode(t, net, "b.org", nil)
	a.serve(t)
	b.serve(t)
	for name, policy := range map[id.ServerName]remote.Policy{"denies.org": {Deny: []string{"b.org"}}, "allows.org": {Allow: []string{"a.*"}}} {
		c := newNode(t, net, name, func(o *remote.Options) { o.Policy = policy })
		c.serve(t, profile())
		net.Dialed()
		if _, err := c.Version(t.Context(), "b.org"); !errors.Is(err, remote.ErrDenied) {
			t.Errorf("%s asks one whom it does not let in: %v", name, err)
		}
		var told *matrixerr.Error
		_, err := b.Profile(t.Context(), id.NewUserID("u", name), "")
		if !errors.As(err, &told) || told.Code != matrixerr.Forbidden || told.Status != http.StatusForbidden {
			t.Errorf("%s is asked by one whom it does not let in: %v", name, err)
		}
		if dialled := net.Dialed(); slices.ContainsFunc(dialled, func(to string) bool { return strings.HasPrefix(to, "b.org") }) {
			t.Errorf("%s has one dialled whom it does not let in: %q", name, dialled)
		}
		if _, err := a.Profile(t.Context(), id.NewUserID("u", name), ""); err != nil {
			t.Errorf("%s is asked by another: %v", name, err)
		}
		if _, err := c.Version(t.Context(), "a.org"); err != nil {
			t.Errorf("%s asks another: %v", name, err)
		}
	}
}

// A connection that was kept and has been closed in the meantime is no failure.
func TestClosedConnection(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	version := write(200, `{"pdus":{}}`)
	for range 3 {
		stop := net.Serve(t, "b.org:8448", []string{"b.org"}, version)
		for range 2 {
			if _, err := a.SendTransaction(t.Context(), "b.org", "1", &serverapi.Transaction{}); err != nil {
				t.Errorf("a server that was started anew: %v", err)
			}
		}
		stop()
	}
}
