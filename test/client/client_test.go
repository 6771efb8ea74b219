// Package client holds black-box tests of the client-server API, a file a chapter: real servers, on SQLite and on
// PostgreSQL, and mautrix-go as the client. It tests what the specification says and nothing of Parley's own, so that
// PARLEY_TEST_SERVER can hold the same tests against another homeserver.
package client

import (
	"crypto/rand"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Where a JSON body has a wrong value or lacks a key, the specification has a common errcode and a special one, and
// mostly does not say which of them to use.
// spec: client-server-api/index.md#common-error-codes
const (
	badValue   = "M_BAD_JSON|M_INVALID_PARAM"
	missingKey = "M_BAD_JSON|M_MISSING_PARAM"
)

// custom is an event type that no client and no server knows.
func custom(name string, class event.TypeClass) event.Type {
	return event.Type{Type: "org.example." + name, Class: class}
}

// suffix makes a name that no other story has.
func suffix() string { return strings.ToLower(rand.Text()[:8]) }

// public is a request for a room that anybody may join.
func public(name string) *mautrix.ReqCreateRoom {
	return &mautrix.ReqCreateRoom{Preset: "public_chat", Name: name}
}

// roomPath is the path of an endpoint under a room.
func roomPath(version string, room id.RoomID, segments ...string) string {
	return harness.Path(append([]string{version, "rooms", string(room)}, segments...)...)
}

// equal fails the test unless got is want; what says which thing it is.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v; want %v", what, got, want)
	}
}

// contents is an event's content as its sender wrote it.
func contents(evt *event.Event) map[string]any {
	return evt.Content.Raw
}
