package remote_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"parley/federation/remote"
	"parley/internal/matrixerr"
	"parley/internal/testserver/testnet"
)

const parts = "multipart/mixed; boundary=gc0p4Jq0M2Yt08jU534c0p"

// inParts is an answer of two parts, the second of which is the file with its headers.
func inParts(first, second string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", parts)
		_, _ = io.WriteString(w, "--gc0p4Jq0M2Yt08jU534c0p\r\n"+first+"\r\n--gc0p4Jq0M2Yt08jU534c0p\r\n"+second+"\r\n--gc0p4Jq0M2Yt08jU534c0p--\r\n")
	}
}

const metadata = "Content-Type: application/json\r\n\r\n{}"

// spec: server-server-api.md#content-repository
func TestMedia(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	const path = "/_matrix/federation/v1/media/download/"
	mux := http.NewServeMux()
	mux.HandleFunc(path+"plain", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "timeout_ms=20000" || !strings.HasPrefix(r.Header.Get("Authorization"), "X-Matrix ") {
			t.Errorf("asked for %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		inParts(metadata, "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=\"a b.txt\"\r\n\r\nhel\r\nlo")(w, r)
	})
	mux.HandleFunc(path+"{name}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("name") {
		case "bare":
			inParts(metadata, "\r\nhello")(w, r)
		case "elsewhere":
			inParts(metadata, "Location: https://cdn.org/file\r\n\r\n")(w, r)
		case "unsafe":
			inParts(metadata, "Location: http://cdn.org/file\r\n\r\n")(w, r)
		case "nowhere":
			inParts(metadata, "Location: https://nowhere.org/file\r\n\r\n")(w, r)
		case "away":
			inParts(metadata, "Location: https://cdn.org/away\r\n\r\n")(w, r)
		case "lost":
			inParts(metadata, "Location: https://cdn.org/lost\r\n\r\n")(w, r)
		case "none":
			write(404, `{"errcode":"M_NOT_FOUND","error":"no"}`)(w, r)
		case "page":
			write(200, "hello")(w, r)
		case "nojson":
			inParts("Content-Type: text/plain\r\n\r\nhello", "\r\nhello")(w, r)
		case "endless":
			inParts("\r\n"+strings.Repeat(" ", 1<<20), "\r\nhello")(w, r)
		case "one":
			w.Header().Set("Content-Type", parts)
			_, _ = io.WriteString(w, "--gc0p4Jq0M2Yt08jU534c0p\r\n"+metadata+"\r\n--gc0p4Jq0M2Yt08jU534c0p--\r\n")
		case "cut":
			w.Header().Set("Content-Type", parts)
			_, _ = io.WriteString(w, "--gc0p4Jq0M2Yt08jU534c0p\r\n"+metadata+"\r\n--gc0p4Jq0M2Yt08jU534c0p\r\n\r\nhel")
		case "old":
			write(404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`)(w, r)
		}
	})
	mux.HandleFunc("/_matrix/media/v3/download/b.org/old", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("allow_remote") != "false" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		w.Header().Set("Content-Type", "image/png")
		_, _ = io.WriteString(w, "hello")
	})
	net.Serve(t, "b.org:8448", []string{"b.org"}, mux)
	cdn := http.NewServeMux()
	cdn.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a stranger was shown a signature")
		}
		w.Header().Set("Content-Type", "image/gif")
		w.Header().Set("Content-Disposition", "inline; filename*=UTF-8''%C3%A9.gif")
		_, _ = io.WriteString(w, "hello")
	})
	cdn.Handle("/away", http.RedirectHandler("http://internal.org/", http.StatusFound))
	net.Serve(t, "cdn.org:443", []string{"cdn.org"}, cdn)

	for name, tt := range map[string]struct {
		body, kind, file string
		err              error
		code             matrixerr.Code
	}{
		"plain":     {body: "hel\r\nlo", kind: "text/plain", file: "a b.txt"},
		"bare":      {body: "hello"},
		"elsewhere": {body: "hello", kind: "image/gif", file: "é.gif"},
		"old":       {body: "hello", kind: "image/png"},
		"unsafe":    {err: remote.ErrAnswer},
		"nowhere":   {err: remote.ErrUnreachable},
		"away":      {err: remote.ErrUnreachable},
		"lost":      {err: remote.ErrAnswer},
		"none":      {code: matrixerr.NotFound},
		"page":      {err: remote.ErrAnswer},
		"nojson":    {err: remote.ErrAnswer},
		"endless":   {err: remote.ErrAnswer},
		"one":       {err: remote.ErrAnswer},
		"cut":       {err: io.ErrUnexpectedEOF},
	} {
		f, err := a.Media(t.Context(), "b.org", name, 20*time.Second)
		var body []byte
		if err == nil {
			if body, err = io.ReadAll(f.Body); err == nil && (f.Type != tt.kind || f.Name != tt.file) {
				t.Errorf("%s: the file is %q of type %q, want %q of %q", name, f.Name, f.Type, tt.file, tt.kind)
			}
			if err := f.Body.Close(); err != nil {
				t.Errorf("%s: close: %v", name, err)
			}
		}
		switch {
		case tt.err == nil && tt.code == "" && (err != nil || string(body) != tt.body),
			tt.err != nil && !errors.Is(err, tt.err), matrixerr.CodeOf(err) != tt.code:
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
}

// Whoever goes away ends the file, and a file that nobody reads to its end is ended by closing it.
func TestMediaEnds(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	ended := make(chan struct{}, 2)
	net.Serve(t, "b.org:8448", []string{"b.org"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", parts)
		_, _ = io.WriteString(w, "--gc0p4Jq0M2Yt08jU534c0p\r\n"+metadata+"\r\n--gc0p4Jq0M2Yt08jU534c0p\r\n\r\nhel")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- struct{}{}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	f, err := a.Media(ctx, "b.org", "x", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(f.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("who asked has gone: %v", err)
	}
	<-ended
	f.Body.Close()
	if f, err = a.Media(t.Context(), "b.org", "x", time.Second); err != nil {
		t.Fatal(err)
	}
	f.Body.Close()
	<-ended
}
