package client

import (
	"strings"
	"testing"

	"parley/test/harness"
)

// TestDiscovery is the chapter on what a client asks before it knows anybody.
func TestDiscovery(t *testing.T) {
	harness.Stories(t, versions, capabilities, crossOrigin, health)
}

// spec: client-server-api/index.md#get_matrixclientversions
func versions(t *testing.T, srv *harness.Server) {
	resp := srv.Do(t, "GET", "/_matrix/client/versions", "", nil).WantOK(t)
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		t.Errorf("the content type is %q", resp.Header.Get("Content-Type"))
	}
	if !resp.Get(`versions.#(=="v1.11")`).Exists() {
		t.Errorf("v1.11 is not among the versions: %s", resp.Body)
	}
}

// spec: client-server-api/index.md#capabilities-negotiation
func capabilities(t *testing.T, srv *harness.Server) {
	resp, err := srv.Register(t, "alice").Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "m.change_password", resp.ChangePassword.IsEnabled(), true)
	equal(t, "the default room version is available", resp.RoomVersions.IsAvailable(resp.RoomVersions.Default), true)
}

// spec: client-server-api/index.md#web-browser-clients
func crossOrigin(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	for _, c := range []struct{ method, path string }{
		{"OPTIONS", harness.Path("v3", "sync")},
		{"OPTIONS", harness.Path("v3", "login")},
		{"GET", harness.Path("v3", "account", "whoami")},
		{"GET", harness.Path("v3", "nonsense")},
	} {
		resp := srv.Do(t, c.method, c.path, alice.AccessToken, nil)
		if c.method == "OPTIONS" && resp.Status >= 300 {
			t.Errorf("OPTIONS %s was answered with %d", c.path, resp.Status)
		}
		equal(t, c.method+" "+c.path+": Access-Control-Allow-Origin", resp.Header.Get("Access-Control-Allow-Origin"), "*")
	}
	preflight := srv.Do(t, "OPTIONS", harness.Path("v3", "createRoom"), "", nil)
	for header, words := range map[string]string{
		"Access-Control-Allow-Methods": "GET POST PUT DELETE OPTIONS",
		"Access-Control-Allow-Headers": "X-Requested-With Content-Type Authorization",
	} {
		for word := range strings.FieldsSeq(words) {
			if !strings.Contains(preflight.Header.Get(header), word) {
				t.Errorf("%s is %q; want %s in it", header, preflight.Header.Get(header), word)
			}
		}
	}
}

func health(t *testing.T, srv *harness.Server) {
	if srv.External() {
		t.Skip("the server under test is not Parley")
	}
	for _, path := range []string{"/health/live", "/health/ready"} {
		equal(t, path, srv.Do(t, "GET", path, "", nil).Status, 200)
	}
}
