package main

import (
	"bytes"
	"go/parser"
	"os"
	"path/filepath"
	"testing"
)

func TestCommittedFileIsUpToDate(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	want, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date; run: make docs", document)
	}
}

// TestEverythingIsServedAndTested: no endpoint is forgotten.
func TestEverythingIsServedAndTested(t *testing.T) {
	apis, _, err := survey(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, api := range apis {
		if len(api.endpoints) < 30 {
			t.Errorf("%s has %d endpoints", api.title, len(api.endpoints))
		}
		for _, e := range api.endpoints {
			if e.route == nil && e.not == "" {
				t.Errorf("%s %s is not served", e.method, e.path)
			}
			if e.test == "" {
				t.Errorf("%s %s has no test", e.method, e.path)
			}
		}
	}
}

func TestSamePath(t *testing.T) {
	for _, c := range []struct {
		route, path string
		same, close bool
	}{
		{"/a/{x}/b", "/a/{y}/b", true, true},
		{"/a/{x}/b/", "/a/{y}/b", true, true},
		{"/a/word", "/a/{y}", false, true},
		{"/a/{y}", "/a/word", false, false},
		{"/a/{x}", "/a/{x}/b", false, false},
		{"/a/b", "/a/c", false, false},
	} {
		if same, close := samePath(c.route, c.path); same != c.same || close != c.close {
			t.Errorf("%s, %s: %v %v", c.route, c.path, same, close)
		}
	}
}

func TestAsks(t *testing.T) {
	for _, c := range []struct {
		path, template string
		want           bool
	}{
		{"/v1/state/*", "/v1/state/{roomId}", true},
		{"/v1/state/!a:b", "/v1/state/{roomId}", true},
		{"/v1/state/*", "/v1/state_ids/{roomId}", false},
		{"/v1/make_*/*/@u:x", "/v1/make_join/{roomId}/{userId}", true},
		{"/v1/*/*", "/v1/state/{roomId}", false},
		{"/v1/make_join/*", "/v1/make_join/{roomId}/{userId}", true},
		{"/v1/rooms/*", "/v1/rooms/{roomId}/leave", false},
		{"/v1/rooms/x/leave", "/v1/rooms/{roomId}", false},
	} {
		if got := asks(c.path, c.template); got != c.want {
			t.Errorf("%s asks for %s: %v", c.path, c.template, got)
		}
	}
}

func TestTextOf(t *testing.T) {
	for text, want := range map[string]string{
		`"/a/" + x + "/b?q=1"`:                       "/a/*/b",
		`fmt.Sprintf("/a/%s/%[2]s", x, y)`:           "/a/*/*",
		`harness.Path("v3", "rooms", room, "leave")`: "/_matrix/client/v3/rooms/*/leave",
		`http.MethodGet`:                             "GET",
		`f(x)`:                                       "*",
	} {
		e, err := parser.ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := textOf(e, nil, 0); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
