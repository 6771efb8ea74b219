package syncapi

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"parley/internal/stream"
)

// slowWriter is a client who takes nothing until it is let.
type slowWriter struct {
	*httptest.ResponseRecorder
	began sync.Once
	asked chan struct{}
	let   chan struct{}
}

func (w *slowWriter) Write(b []byte) (int, error) {
	w.began.Do(func() { close(w.asked) })
	<-w.let
	return w.ResponseRecorder.Write(b)
}

func TestSlowClients(t *testing.T) {
	n := newNode(t, t.TempDir()+"/parley.db", stream.HubOptions{})
	for range 4 {
		room := n.create(alice, nil)
		for range 20 {
			n.say(alice, room, strings.Repeat("x", 30_000))
		}
	}
	t.Setenv("TMPDIR", t.TempDir())
	let := make(chan struct{})
	var done sync.WaitGroup
	slow := make([]*slowWriter, 12) // more than there are readers
	for i := range slow {
		slow[i] = &slowWriter{ResponseRecorder: httptest.NewRecorder(), asked: make(chan struct{}), let: let}
		r := httptest.NewRequest(http.MethodGet, `/_matrix/client/v3/sync?filter={"room":{"timeline":{"limit":100}}}`, nil)
		r.Header.Set("Authorization", "Bearer "+string(alice))
		done.Go(func() { n.http.ServeHTTP(slow[i], r) })
	}
	for _, w := range slow {
		<-w.asked
	}
	// All of them wait for their clients, and nobody for them.
	fast := n.sync(alice, "filter", `{"room":{"timeline":{"limit":100}}}`)
	close(let)
	done.Wait()
	for _, w := range slow {
		if d := difference(t, w.Body.String(), fast.Raw); d != "" {
			t.Fatalf("a slow client gets as %.300s", d)
		}
	}
	if n.api.spooled.Load() != 0 {
		t.Errorf("%d bytes are still waiting", n.api.spooled.Load())
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("files were left: %v, %v", left, err)
	}
}

func TestSpoolKeepsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		var want, got bytes.Buffer
		var total spooled
		let := make(chan struct{})
		s := newSpool(writerFunc(func(b []byte) (int, error) { <-let; return got.Write(b) }), &total)
		release := r.IntN(60)
		for i := range 60 {
			if i == release {
				close(let)
			}
			piece := bytes.Repeat([]byte{byte(i)}, r.IntN(100_000))
			want.Write(piece)
			if err := s.write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Bytes(), got.Bytes()) || total.Load() != 0 {
			t.Fatalf("%d bytes became %d, or others; %d are left", want.Len(), got.Len(), total.Load())
		}
	}
}

func TestSpoolGivesUp(t *testing.T) {
	var total spooled
	gone := errors.New("gone")
	s := newSpool(writerFunc(func([]byte) (int, error) { return 0, gone }), &total)
	var err error
	for i := 0; err == nil; i++ {
		err = s.write(fmt.Appendf(nil, "%d", i))
	}
	if !errors.Is(err, gone) || !errors.Is(s.end(), gone) {
		t.Errorf("got %v", err)
	}
	s = newSpool(writerFunc(func(b []byte) (int, error) { return len(b), nil }), &total)
	s.drop()
	if err := s.write([]byte("x")); err == nil {
		t.Error("one that was given up takes more")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
