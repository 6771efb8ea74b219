package syncapi

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"parley/internal/id"
	"parley/internal/stream"
)

// cpu is how much time the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd is a room with many members.
func crowd(b *testing.B, members int) (*node, id.RoomID, []id.UserID) {
	n := newNode(b, filepath.Join(b.TempDir(), "parley.db"), stream.HubOptions{PresenceEvery: time.Hour})
	room := n.create(alice, nil)
	users := make([]id.UserID, members)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("@user-%d:x.org", i))
		n.join(users[i], room)
	}
	return n, room, users
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func newRequest(user id.UserID, query string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/_matrix/client/v3/sync?set_presence=offline"+query, nil)
	r.Header.Set("Authorization", "Bearer "+string(user))
	return r
}

// BenchmarkFanOut is a message to a room, and an answer with it to one of its members: the
// share of each of 500 who get it. HTTP's own cost is left out.
func BenchmarkFanOut(b *testing.B) {
	n, room, users := crowd(b, 500)
	for _, filter := range []string{"", `&filter={"room":{"state":{"lazy_load_members":true}}}`} {
		b.Run(map[bool]string{true: "plain", false: "lazy"}[filter == ""], func(b *testing.B) {
			since := n.sync(users[0]).next()
			for _, u := range users {
				n.sync(u, "since", since)
			}
			n.say(alice, room, "hello")
			begun := cpu(b)
			w := discard{http.Header{}}
			i := 0
			for b.Loop() {
				n.http.ServeHTTP(w, newRequest(users[i%len(users)], "&since="+since+filter))
				i++
			}
			b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkEmpty is a sync with nothing new.
func BenchmarkEmpty(b *testing.B) {
	n, _, users := crowd(b, 10)
	since := n.sync(users[0]).next()
	begun := cpu(b)
	w := discard{http.Header{}}
	for b.Loop() {
		n.http.ServeHTTP(w, newRequest(users[0], "&since="+since))
	}
	b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkInitial is the first sync of an account in 200 rooms.
func BenchmarkInitial(b *testing.B) {
	n := newNode(b, filepath.Join(b.TempDir(), "parley.db"), stream.HubOptions{PresenceEvery: time.Hour})
	for range 200 {
		room := n.create(alice, nil)
		n.join(bob, room)
		for i := range 20 {
			n.say(alice, room, fmt.Sprint(i))
		}
	}
	for _, filter := range []string{"", `&filter={"room":{"state":{"lazy_load_members":true}}}`} {
		b.Run(map[bool]string{true: "plain", false: "lazy"}[filter == ""], func(b *testing.B) {
			w := discard{http.Header{}}
			for b.Loop() {
				n.http.ServeHTTP(w, newRequest(bob, filter))
			}
		})
	}
}
