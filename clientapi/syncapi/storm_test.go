package syncapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"parley/internal/id"
	"parley/roomserver"
	"parley/storage"
)

// storm is a history in which everything happens at once: some change rooms, while clients of both
// syncs wait for what is new or are being answered. As an answer says from where to where in the log
// it reaches, each can be held afterwards against what there was to tell.
type storm struct {
	*slidingHistory
	// end is the position of the log at which nothing happens any more, 0 until then.
	end atomic.Int64
	// got are the answers that each client was given.
	got map[*client][]answer
}

// change makes something happen in one of the rooms; what is against the rules does not.
func (s *storm) change(r *rand.Rand, what int) {
	ctx, user, other := s.Context(), s.users[r.IntN(len(s.users))], s.users[r.IntN(len(s.users))]
	m := roomserver.MemberRequest{Room: s.rooms[r.IntN(len(s.rooms))], Sender: user, Target: other}
	rooms := s.node.rooms
	switch r.IntN(12) {
	case 0, 1, 2:
		_ = rooms.Join(ctx, m)
	case 3:
		_ = rooms.Leave(ctx, m)
	case 4:
		_ = rooms.Invite(ctx, m)
	case 5:
		_ = rooms.Kick(ctx, m)
	case 6:
		_ = []func() error{func() error { return rooms.Ban(ctx, m) }, func() error { return rooms.Unban(ctx, m) }}[r.IntN(2)]()
	case 7:
		s.maybeState(m.Room, user, "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, what))
	case 8:
		visibility := []string{"shared", "joined", "invited", "world_readable"}[r.IntN(4)]
		s.maybeState(m.Room, user, "m.room.history_visibility", `{"history_visibility":"`+visibility+`"}`)
	default:
		send := roomserver.SendRequest{Room: m.Room, Sender: user, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":"%d"}`, what)}
		if event, err := rooms.Send(ctx, send); err == nil && r.IntN(6) == 0 {
			_, _ = rooms.Redact(ctx, roomserver.RedactRequest{Room: m.Room, Sender: user, Event: event})
		}
	}
}

// listen has a client of /sync ask until there is nothing more to come.
func (s *storm) listen(c *client) []answer {
	var got []answer
	for since := ""; ; {
		a := ask(s, s.http, string(c.user), append(s.question(c, since).query(since), "timeout", "500")...)
		if a.status != http.StatusOK {
			s.Errorf("status %d: %s", a.status, a.Raw)
			return got
		}
		got, since = append(got, a), a.next()
		if end := id.Pos(s.end.Load()); end > 0 && s.position(since) >= end {
			return got
		}
	}
}

// slide has a client of sliding sync ask until nothing happens any more.
func (s *storm) slide(c *slidingClient) {
	for s.end.Load() == 0 {
		a := askSliding(s, s.http, c.path(), c.token, c.body())
		if a.status != http.StatusOK {
			s.Errorf("status %d: %s", a.status, a.Raw)
			return
		}
		c.take(s, a)
	}
}

// rage has everything happen, and gives how many answers were right.
func (s *storm) rage(seed uint64, changes int) int {
	for i := range 3 {
		s.rooms = append(s.rooms, s.create(s.users[i], nil))
	}
	var writers, readers sync.WaitGroup
	var mu sync.Mutex
	for i := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, i))
		writers.Go(func() {
			for n := range changes {
				s.change(r, n)
			}
		})
	}
	for _, c := range s.clients {
		readers.Go(func() {
			got := s.listen(c)
			mu.Lock()
			defer mu.Unlock()
			s.got[c] = got
		})
	}
	for _, c := range s.sliders {
		c.timeout = 500
		readers.Go(func() { s.slide(c) })
	}
	writers.Wait()
	end, err := storage.Get(s.Context(), s.db, (*storage.Tx).GetPos)
	s.ok(err)
	s.end.Store(int64(end))
	readers.Wait()
	s.world.look(s.node)
	for c, answers := range s.got {
		since := ""
		for _, a := range answers {
			s.history.hold(s.question(c, since), a)
			c.take(s, a)
			since = a.next()
			s.cases++
		}
		s.compare(c)
	}
	for _, c := range s.sliders {
		c.timeout = 0
		s.slideOn(c)
	}
	return s.cases
}

func TestStorm(t *testing.T) {
	onHistories(t, 3, 40, func(n *node, seed uint64) int {
		s := &storm{slidingHistory: newSlidingHistory(n, seed), got: make(map[*client][]answer)}
		return s.rage(seed, 60)
	})
}
