package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/internal/id"
)

// world is a plain model of a log: who is in which room, and all notices there ever were.
type world struct {
	mu     sync.Mutex
	pos    id.Pos
	joined map[id.UserID]map[id.RoomID]bool
	all    []Notice // the notice with number n is all[n-1]
}

func newWorld() *world { return &world{joined: make(map[id.UserID]map[id.RoomID]bool)} }

func (w *world) rooms(_ context.Context, user id.UserID) (rooms []id.RoomID, at id.Pos, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for room := range w.joined[user] {
		rooms = append(rooms, room)
	}
	return rooms, w.pos, nil
}

func someUser(r *rand.Rand) id.UserID { return id.UserID(fmt.Sprintf("@u%d:x", r.IntN(6))) }
func someRoom(r *rand.Rand) id.RoomID { return id.RoomID(fmt.Sprintf("!r%d:x", r.IntN(5))) }

// change makes something happen, and gives its notice.
func (w *world) change(r *rand.Rand) Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	user, room := someUser(r), someRoom(r)
	n := Notice{Kind: Event, Room: room, User: user}
	switch r.IntN(8) {
	case 0, 1: // a membership changes
		n.Users = []id.UserID{user}
		if w.joined[user] == nil {
			w.joined[user] = make(map[id.RoomID]bool)
		}
		if delete(w.joined[user], room); r.IntN(3) > 0 {
			w.joined[user][room] = true
			n.Joined = n.Users
		}
	case 2:
		n.Kind = Receipt
	case 3:
		n = Notice{Kind: Receipt, Room: room, User: user, Users: []id.UserID{user}}
	case 4:
		n = Notice{Kind: AccountData, User: user, Users: []id.UserID{user}}
	case 5:
		n = Notice{Kind: Typing, Room: room, User: user}
	case 6:
		n = Notice{Kind: Presence, User: user}
	}
	if n.Kind != Typing && n.Kind != Presence {
		w.pos++
		n.Pos = w.pos
	}
	w.all = append(w.all, n)
	return n
}

// news is what Since must give.
func (w *world) news(user id.UserID, since Mark) (out []Notice) {
	for i, n := range w.all {
		var told bool
		if n.Pos > 0 {
			told = n.Pos <= since.Pos
		} else {
			told = since.Seq == 0 || uint64(i)+2 <= since.Seq // the first number is nobody's
		}
		concerned := slices.Contains(n.Users, user) || w.joined[user][n.Room] && (n.Kind != Receipt || n.Users == nil)
		if n.Kind == Presence {
			for room := range w.joined[user] {
				n.Shared = n.Shared || n.User != user && w.joined[n.User][room]
			}
			concerned = n.User == user || n.Shared
		}
		if !told && concerned {
			out = append(out, n)
		}
	}
	return out
}

func TestSince(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld()
		size := 1 + r.IntN(60)
		h := NewHub(HubOptions{Rooms: w.rooms, Size: size, PresenceEvery: time.Hour})
		h.Publish(Notice{Kind: Opened})
		for range 6 { // presence is exact only of those who are known
			if err := h.Track(t.Context(), id.UserID(fmt.Sprintf("@u%d:x", r.IntN(6)))); err != nil {
				t.Fatal(err)
			}
		}
		asked, known := 0, 0
		for range 100 {
			h.Publish(w.change(r))
			user := someUser(r)
			for u := range 6 {
				if err := h.Track(t.Context(), id.UserID(fmt.Sprintf("@u%d:x", u))); err != nil {
					t.Fatal(err)
				}
			}
			head := h.Head()
			if want := (Mark{w.pos, uint64(len(w.all)) + 1}); head != want {
				t.Fatalf("seed %d: head is %v instead of %v", seed, head, want)
			}
			since := Mark{id.Pos(r.Int64N(int64(head.Pos) + 1)), r.Uint64N(head.Seq + 1)}
			if r.IntN(2) == 0 { // not long ago
				since = Mark{max(0, head.Pos-id.Pos(r.IntN(10))), max(1, head.Seq) - min(max(1, head.Seq)-1, r.Uint64N(10))}
			}
			asked++
			got, ok := h.Since(user, since, nil)
			if !ok {
				continue
			}
			known++
			if want := w.news(user, since); !reflect.DeepEqual(got.Notices, want) || got.Head != head {
				t.Fatalf("seed %d: %s since %v of %v (size %d):\n%v\ninstead of\n%v", seed, user, since, head, size, got.Notices, want)
			}
		}
		if known == 0 {
			t.Errorf("seed %d: of %d questions none was answered", seed, asked)
		}
		h.Close()
	}
}

// Each of many who wait comes to the end of what concerns them, whatever they miss on the way.
func TestNobodySleepsOn(t *testing.T) {
	const room = id.RoomID("!r:x")
	rooms := func(context.Context, id.UserID) ([]id.RoomID, id.Pos, error) { return []id.RoomID{room}, 0, nil }
	h := NewHub(HubOptions{Rooms: rooms, Size: 64})
	defer h.Close()
	h.Publish(Notice{Kind: Opened})
	const end = 500
	var there sync.WaitGroup
	var waits atomic.Int64
	for i := range 200 {
		there.Go(func() {
			user := id.UserID(fmt.Sprintf("@u%d:x", i/2)) // two devices each
			var mark Mark
			for mark.Pos < end {
				if err := h.Track(t.Context(), user); err != nil {
					t.Error(err)
					return
				}
				waits.Add(1)
				if _, err := h.Wait(t.Context(), user, mark, nil); err != nil {
					t.Error(err)
					return
				}
				mark = h.Head() // as one does who reads the database
			}
		})
	}
	for pos := id.Pos(1); pos <= end; pos++ {
		h.Publish(Notice{Pos: pos, Kind: Event, Room: room})
		if pos%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	there.Wait()
	if waits.Load() < 200 {
		t.Errorf("%d waits of 200 users", waits.Load())
	}
}

// Presence alone waits for its round, and for nothing else.
func TestPresenceWaits(t *testing.T) {
	const room = id.RoomID("!r:x")
	rooms := func(context.Context, id.UserID) ([]id.RoomID, id.Pos, error) { return []id.RoomID{room}, 0, nil }
	open := func(every time.Duration) *Hub {
		h := NewHub(HubOptions{Rooms: rooms, PresenceEvery: every})
		t.Cleanup(h.Close)
		h.Publish(Notice{Kind: Opened})
		for _, user := range []id.UserID{"@a:x", "@b:x"} {
			if err := h.Track(t.Context(), user); err != nil {
				t.Fatal(err)
			}
		}
		return h
	}
	// wait waits for news, and says whether it waited in vain.
	wait := func(h *Hub, mark Mark, patience time.Duration) bool {
		t.Helper()
		timedOut, err := h.Wait(t.Context(), "@a:x", mark, time.After(patience))
		if err != nil {
			t.Fatal(err)
		}
		return timedOut
	}
	early := func(h *Hub, mark Mark, notices int, want bool) {
		t.Helper()
		if news, ok := h.Since("@a:x", mark, nil); !ok || len(news.Notices) != notices || news.Early != want {
			t.Errorf("the news are %v, early %v", news.Notices, news.Early)
		}
	}

	h := open(time.Hour)
	mark := h.Head()
	early(h, mark, 0, false)
	h.Publish(Notice{Kind: Presence, User: "@b:x"})
	early(h, mark, 1, true)
	if !wait(h, mark, time.Millisecond) {
		t.Error("presence did not wait for its round")
	}
	h.Publish(Notice{Kind: Event, Pos: 1, Room: room})
	early(h, mark, 2, false)
	if wait(h, mark, time.Hour) {
		t.Error("an event waits for a round of presence")
	}

	h = open(time.Millisecond)
	mark = h.Head()
	h.Publish(Notice{Kind: Presence, User: "@b:x"})
	if wait(h, mark, time.Hour) {
		t.Error("the round of presence woke nobody")
	}
	early(h, mark, 1, false)
	if wait(h, mark, time.Hour) {
		t.Error("who asks after the round is not told")
	}
}

func TestWaitEnds(t *testing.T) {
	const user = id.UserID("@u:x")
	rooms := func(context.Context, id.UserID) ([]id.RoomID, id.Pos, error) { return nil, 5, nil }
	h := NewHub(HubOptions{Rooms: rooms})
	h.Publish(Notice{Kind: Opened, Pos: 5})
	mark := h.Head()
	if mark.Pos != 5 {
		t.Fatalf("the head is %v", mark)
	}
	if err := h.Track(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	timeout := make(chan time.Time, 1)
	timeout <- time.Time{}
	if timedOut, err := h.Wait(t.Context(), user, mark, timeout); err != nil || !timedOut {
		t.Errorf("after the timeout: %v, %v", timedOut, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Wait(ctx, user, mark, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
	closed := make(chan error)
	go func() {
		_, err := h.Wait(context.Background(), user, mark, nil)
		for err == nil { // woken by the closing
			_, err = h.Wait(context.Background(), user, mark, nil)
		}
		closed <- err
	}()
	h.Close()
	if err := <-closed; !errors.Is(err, ErrClosed) {
		t.Errorf("after the hub's end: %v", err)
	}
	h.Close() // again is no error
}

// Those of whom nobody waits are forgotten when there are too many, and their rooms with them.
func TestBounds(t *testing.T) {
	rooms := func(_ context.Context, user id.UserID) ([]id.RoomID, id.Pos, error) {
		return []id.RoomID{"!all:x", id.RoomID("!" + user[1:])}, 0, nil
	}
	h := NewHub(HubOptions{Rooms: rooms, Users: 10, Memberships: 16})
	defer h.Close()
	h.Publish(Notice{Kind: Opened})
	for i := range 100 {
		if err := h.Track(t.Context(), id.UserID(fmt.Sprintf("@u%d:x", i))); err != nil {
			t.Fatal(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.users) != 8 || h.memberships != 16 || len(h.rooms) != 9 || len(h.rooms["!all:x"].members) != 8 || h.idle.Len() != 8 {
		t.Errorf("%d users, %d memberships, %d rooms, %d in one", len(h.users), h.memberships, len(h.rooms), len(h.rooms["!all:x"].members))
	}
}

func TestSubscription(t *testing.T) {
	var sunk []Notice
	b := NewBroker(func(n Notice) { sunk = append(sunk, n) })
	s := b.Subscribe(3, Event, Receipt)
	for pos := range id.Pos(5) {
		b.Publish(Notice{Pos: pos + 1, Kind: Event})
		b.Publish(Notice{Kind: Typing})
	}
	if len(sunk) != 10 {
		t.Errorf("the sink got %d notices", len(sunk))
	}
	got, missed, err := s.Next(t.Context())
	if err != nil || !missed || len(got) != 3 || got[0].Pos != 1 || got[2].Pos != 3 {
		t.Errorf("got %v, %v, %v", got, missed, err)
	}
	b.Publish(Notice{Pos: 6, Kind: Receipt})
	if got, missed, err = s.Next(t.Context()); err != nil || missed || len(got) != 1 || got[0].Pos != 6 {
		t.Errorf("then got %v, %v, %v", got, missed, err)
	}
	s.Close()
	b.Publish(Notice{Pos: 7, Kind: Event})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got, _, err = s.Next(ctx); err == nil {
		t.Errorf("after the end got %v", got)
	}
}

// BenchmarkWake is a notice in a room of 10,000 local members, 2,000 of them waiting.
func BenchmarkWake(b *testing.B) {
	const room = id.RoomID("!r:x")
	rooms := func(context.Context, id.UserID) ([]id.RoomID, id.Pos, error) { return []id.RoomID{room}, 0, nil }
	h := NewHub(HubOptions{Rooms: rooms})
	defer h.Close()
	h.Publish(Notice{Kind: Opened})
	users := make([]id.UserID, 10_000)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("@u%d:x", i))
		if err := h.Track(b.Context(), users[i]); err != nil {
			b.Fatal(err)
		}
	}
	waiters := make([]*waiter, 2000)
	for b.Loop() {
		mark := h.Head()
		for i := range waiters {
			w, err := h.register(users[i], mark)
			if err != nil || w == nil {
				b.Fatal("not registered", err)
			}
			waiters[i] = w
		}
		h.Publish(Notice{Pos: mark.Pos + 1, Kind: Event, Room: room})
		for _, w := range waiters {
			<-w.wake
		}
	}
}
