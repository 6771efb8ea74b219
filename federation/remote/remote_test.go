package remote_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"parley/federation"
	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/testclock"
	"parley/internal/testserver/testnet"
	"parley/storage/storagetest"
)

// node is one server of the test.
type node struct {
	*remote.Client
	key  ed25519.PrivateKey
	net  *testnet.Net
	time *testclock.Clock
}

// newNode makes a node; change may change its options.
func newNode(t testing.TB, net *testnet.Net, name id.ServerName, change func(*remote.Options)) *node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{key: key, net: net, time: testclock.New(time.UnixMilli(1_800_000_000_000))}
	o := remote.Options{
		DB:   storagetest.Open(t, filepath.Join(t.TempDir(), "parley.db"), nil),
		Name: name, Keys: []keyring.SigningKey{{ID: "ed25519:1", Key: key}},
		Dial: net.Dial, LookupSRV: net.LookupSRV, TLS: net.TLS(), UserAgent: "Parley/test", Now: n.time.Now,
	}
	if change != nil {
		change(&o)
		n.key = o.Keys[0].Key
	}
	if n.Client, err = remote.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// serve has a node answer at its name's port 8448, with its keys and whatever else there is.
func (n *node) serve(t *testing.T, more ...httpapi.Route) (stop func()) {
	t.Helper()
	api, err := httpapi.New(httpapi.Options{VerifyServer: n.VerifyRequest},
		federation.Identity(n.Client, "1"), more)
	if err != nil {
		t.Fatal(err)
	}
	return n.net.Serve(t, string(n.Name())+":8448", []string{string(n.Name())}, api)
}

// profile answers queries for profiles with who asked.
func profile() httpapi.Route {
	type request struct {
		User  string `query:"user_id"`
		Field string `query:"field"`
	}
	return httpapi.Route{Method: http.MethodGet, Path: "/_matrix/federation/v1/query/profile", Auth: httpapi.Server,
		Handler: httpapi.Handle(func(_ context.Context, r *httpapi.Request, in *request) (map[string]string, error) {
			if in.User == "@nobody:b.org" {
				return nil, matrixerr.New(matrixerr.NotFound, "there is no such user")
			}
			return map[string]string{"displayname": string(r.Origin)}, nil
		})}
}

// claim takes a body and gives the origin.
func claim() httpapi.Route {
	type request struct {
		Keys map[string]any `json:"one_time_keys"`
	}
	return httpapi.Route{Method: http.MethodPost, Path: "/_matrix/federation/v1/user/keys/claim", Auth: httpapi.Server,
		Handler: httpapi.Handle(func(_ context.Context, r *httpapi.Request, in *request) (map[string]any, error) {
			return map[string]any{"one_time_keys": map[string]any{"@u:b.org": map[string]any{string(r.Origin): map[string]any{"n": len(in.Keys)}}}}, nil
		})}
}

func TestTwoServers(t *testing.T) {
	net := testnet.New(t)
	a, b := newNode(t, net, "a.org", nil), newNode(t, net, "b.org", nil)
	a.serve(t)
	b.serve(t, profile(), claim())

	got, err := a.Profile(t.Context(), "@ü & co:b.org", "displayname")
	if err != nil || string(got["displayname"]) != `"a.org"` {
		t.Errorf("the other server says %s, %v", got, err)
	}
	keys, err := a.ClaimKeys(t.Context(), "b.org", map[id.UserID]map[id.DeviceID]string{"@u:b.org": {"D<>&\u2028": "signed_curve25519"}})
	if err != nil || string(keys["@u:b.org"]["a.org"]["n"]) != `1` {
		t.Errorf("of a request with a body the other server says %s, %v", keys, err)
	}
	if _, err := a.Profile(t.Context(), "@nobody:b.org", ""); !matrixerr.Is(err, matrixerr.NotFound) {
		t.Errorf("an error of the other server is %v", err)
	}
	if v, err := a.Version(t.Context(), "b.org"); err != nil || v != (remote.Version{Name: "Parley", Version: "1"}) {
		t.Errorf("the other server's version is %v, %v", v, err)
	}
	if _, err := b.Profile(t.Context(), "@u:a.org", ""); !matrixerr.Is(err, matrixerr.Unrecognized) {
		t.Errorf("a request that the other server does not know is %v", err)
	}
	if _, err := a.Profile(t.Context(), "@u:a.org", ""); err == nil {
		t.Error("a server asked itself")
	}
	if _, err := a.Profile(t.Context(), "@u:c.org", ""); !errors.Is(err, remote.ErrUnreachable) {
		t.Errorf("a server that is not there is %v", err)
	}
}

// Requests go to the place that a name stands for, with the Host header that belongs to it, and a
// certificate that is for another name counts for nothing.
func TestHostAndCertificate(t *testing.T) {
	net := testnet.New(t)
	a := newNode(t, net, "a.org", nil)
	host := func(w http.ResponseWriter, r *http.Request) {
		sni := r.TLS.ServerName
		_, _ = io.WriteString(w, `{"server":{"name":"`+r.Host+`","version":"`+sni+r.Proto+`"}}`)
	}
	wellKnown := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"m.server":"`+to+`"}`) }
	}
	serve := func(address, certificate string, h http.HandlerFunc) { net.Serve(t, address, []string{certificate}, h) }
	serve("1.2.3.4:8448", "1.2.3.4", host)
	serve("1.2.3.4:1", "1.2.3.4", host)
	serve("[2001:db8::1]:8448", "2001:db8::1", host)
	serve("port.org:99", "port.org", host)
	serve("plain.org:8448", "plain.org", host)
	serve("delegated.org:443", "delegated.org", wellKnown("to.org:44"))
	serve("to.org:44", "to.org", host)
	serve("wrong.org:8448", "other.org", host)
	serve("hijacked.org:443", "delegated.org", wellKnown("to.org:44"))
	serve("hijacked.org:8448", "hijacked.org", host)
	for _, tt := range []struct {
		server          id.ServerName
		host, sni, fail string
	}{
		{server: "1.2.3.4", host: "1.2.3.4"},
		{server: "1.2.3.4:1", host: "1.2.3.4:1"},
		{server: "[2001:db8::1]", host: "[2001:db8::1]"},
		{server: "port.org:99", host: "port.org:99", sni: "port.org"},
		{server: "plain.org", host: "plain.org", sni: "plain.org"},
		{server: "delegated.org", host: "to.org:44", sni: "to.org"},
		{server: "hijacked.org", host: "hijacked.org", sni: "hijacked.org"}, // its well-known file is not from it
		{server: "wrong.org", fail: "certificate"},
	} {
		v, err := a.Version(t.Context(), tt.server)
		if tt.fail != "" {
			if !errors.Is(err, remote.ErrUnreachable) {
				t.Errorf("%s: %v, %v", tt.server, v, err)
			}
			continue
		}
		if want := (remote.Version{Name: tt.host, Version: tt.sni + "HTTP/2.0"}); err != nil || v != want {
			t.Errorf("%s: %v, %v; want %v", tt.server, v, err, want)
		}
	}
}
