package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"parley/internal/delivery"
	"parley/internal/eventually"
	"parley/internal/id"
	"parley/storage"
	"parley/storage/storagetest"
)

// post is a consumer whose log is in memory: at each position one letter for some destinations.
type post struct {
	mu     sync.Mutex
	log    map[id.Pos][]string
	down   map[string]bool
	broken func() bool // whether a delivery is taken and its answer lost
	got    map[string][]id.Pos
	at     map[string]int // deliveries under way
	tries  map[string]int
	errs   []string
	atOnce int
}

func newPost() *post {
	return &post{log: make(map[id.Pos][]string), down: make(map[string]bool), got: make(map[string][]id.Pos),
		at: make(map[string]int), tries: make(map[string]int), broken: func() bool { return false }, atOnce: 3}
}

func (p *post) Route(_ context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make(map[string]delivery.Concern)
	for pos := from + 1; pos <= to; pos++ {
		for _, name := range p.log[pos] {
			c, ok := found[name]
			if !ok {
				c = delivery.Concern{Destination: name, First: pos}
			}
			c.Last = pos
			found[name] = c
		}
	}
	var out []delivery.Concern
	for _, c := range found {
		out = append(out, c)
	}
	return out, nil
}

var errDown = errors.New("down")

func (p *post) Deliver(ctx context.Context, name string, from, to id.Pos) (delivery.Result, error) {
	p.mu.Lock()
	if p.at[name]++; p.at[name] > 1 {
		p.errs = append(p.errs, "two deliveries at once to "+name)
	}
	p.tries[name]++
	p.mu.Unlock()
	if rand.N(4) == 0 {
		select {
		case <-time.After(rand.N(time.Millisecond)):
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[name]--
	if p.down[name] {
		return delivery.Result{}, errDown
	}
	n := 0
	for pos := from + 1; pos <= to; pos++ {
		if !slices.Contains(p.log[pos], name) {
			continue
		}
		if n == p.atOnce {
			to = pos - 1
			break
		}
		n++
		p.got[name] = append(p.got[name], pos)
	}
	if p.broken() {
		return delivery.Result{}, errDown
	}
	return delivery.Result{Done: to, Reached: n > 0}, nil
}

func (p *post) Forget(context.Context, id.Pos) error { return nil }

// letter puts something for some destinations into the log.
func (p *post) letter(t *testing.T, db *storage.DB, names ...string) (pos id.Pos) {
	t.Helper()
	if err := db.Write(context.Background(), func(tx *storage.Tx) error {
		tx.OnPos(1, func(first id.Pos) error {
			pos = first
			p.mu.Lock()
			defer p.mu.Unlock()
			p.log[pos] = names
			_, err := tx.Exec(`UPDATE log SET epoch = epoch`) // or there would be nothing to commit
			return err
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return pos
}

// all says whether everybody has got everything, in order of the first time they got it.
func (p *post) all() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.errs) > 0 {
		return fmt.Errorf("%v", p.errs)
	}
	want := make(map[string][]id.Pos)
	var order []id.Pos
	for pos := range p.log {
		order = append(order, pos)
	}
	slices.Sort(order)
	for _, pos := range order {
		for _, name := range p.log[pos] {
			want[name] = append(want[name], pos)
		}
	}
	for name, list := range want {
		var first []id.Pos
		seen := make(map[id.Pos]bool)
		for _, pos := range p.got[name] {
			if !seen[pos] {
				seen[pos] = true
				first = append(first, pos)
			}
		}
		if !slices.Equal(first, list) {
			return fmt.Errorf("%s got %d of %d", name, len(first), len(list))
		}
	}
	return nil
}

func (p *post) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func start(t *testing.T, db *storage.DB, p delivery.Consumer, change ...func(*delivery.Options)) *delivery.Queue {
	t.Helper()
	o := delivery.Options{DB: db, Name: "post", Consumer: p, Whole: true, AtOnce: 8, RetriesAtOnce: 4,
		MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond, WriteEvery: 5 * time.Millisecond}
	for _, c := range change {
		c(&o)
	}
	q, err := delivery.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// steal takes the lease away, so that what the queue does from then on is not written: as if its
// process had been killed.
func steal(t *testing.T, db *storage.DB) {
	t.Helper()
	if err := db.Write(context.Background(), func(tx *storage.Tx) error {
		row, err := tx.GetConsumer("post")
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err == nil {
			_, err = tx.UpdateConsumerHolder("post", "thief", row)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsLost has destinations fail, answers get lost and processes die and start again
// while the log grows: everybody gets everything, in order.
func TestNothingIsLost(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPost()
		names := make([]string, 12)
		for i := range names {
			names[i] = fmt.Sprintf("d%d", i)
		}
		p.broken = func() bool { return rand.N(20) == 0 }
		q := start(t, db, p)
		p.letter(t, db, names...)
		q.Reread()
		eventually.OK(t, p.all)
		lost := false
		for range 300 {
			switch rand.N(30) {
			case 0:
				q.Close()
				q = start(t, db, p)
			case 1:
				steal(t, db)
				q.Close()
				q = start(t, db, p)
			case 2, 3, 4:
				p.set(func() { p.down[names[rand.N(len(names))]] = true })
			case 5, 6, 7:
				p.set(func() { clear(p.down) })
			default:
				var to []string
				for _, name := range names {
					if rand.N(3) == 0 {
						to = append(to, name)
					}
				}
				pos := p.letter(t, db, to...)
				switch {
				case rand.N(10) == 0: // the notice is lost, and with the next one it is known that some are
					lost = true
				case lost:
					q.Reread()
					lost = false
				default:
					q.Advance(pos, len(to) > 0)
				}
				q.Poke(names[rand.N(len(names))])
				q.Heard(names[rand.N(len(names))])
			}
		}
		p.set(func() {
			clear(p.down)
			p.broken = func() bool { return false }
		})
		p.letter(t, db, names...) // one that failed is known to be back when it has got something
		q.Reread()
		eventually.OK(t, p.all)
		// What has everything needs no row.
		eventually.OK(t, func() error {
			rows, err := storage.Get(context.Background(), db, func(tx *storage.Tx) ([]storage.Delivery, error) { return tx.ListDeliveries("post") })
			if err == nil && len(rows) > 0 {
				err = fmt.Errorf("rows are left: %v", rows)
			}
			return err
		})
		q.Close()
		if err := p.all(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBegin has a queue be new: its place in the log is settled before anybody can write what is to be delivered.
func TestBegin(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPost()
		old := p.letter(t, db, "a")
		for _, c := range []struct {
			name  string
			whole bool
			at    id.Pos
		}{{"whole", true, 0}, {"new", false, old}} {
			q := start(t, db, p, func(o *delivery.Options) {
				o.Name, o.Whole, o.WriteEvery = c.name, c.whole, time.Hour // it stays where it began
			})
			row, err := storage.Get(t.Context(), db, func(tx *storage.Tx) (storage.ConsumerRow, error) { return tx.GetConsumer(c.name) })
			q.Close()
			if err != nil || row.Pos != c.at {
				t.Errorf("%s begins at %d, %v; want %d", c.name, row.Pos, err, c.at)
			}
		}
		q := start(t, db, p, func(o *delivery.Options) { o.Whole = false })
		defer q.Close()
		q.Advance(p.letter(t, db, "b"), true)
		p.set(func() { delete(p.log, old) })
		eventually.OK(t, p.all)
	})
}

// slowPost takes a letter once it is released.
type slowPost struct {
	*post
	begun, released chan struct{}
}

func (s *slowPost) Deliver(ctx context.Context, name string, from, to id.Pos) (delivery.Result, error) {
	close(s.begun)
	select {
	case <-s.released:
		return s.post.Deliver(ctx, name, from, to)
	case <-ctx.Done():
		return delivery.Result{}, ctx.Err()
	}
}

// TestCloseWaits has a queue be closed while a destination takes something: it is not given that again.
func TestCloseWaits(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPost()
		slow := &slowPost{post: p, begun: make(chan struct{}), released: make(chan struct{})}
		q := start(t, db, slow)
		q.Advance(p.letter(t, db, "a"), true)
		<-slow.begun
		closed := make(chan struct{})
		go func() { q.Close(); close(closed) }()
		time.Sleep(20 * time.Millisecond) // so that it is closed by now
		close(slow.released)
		<-closed
		q = start(t, db, p)
		defer q.Close()
		q.Advance(p.letter(t, db, "a"), true)
		eventually.OK(t, p.all)
		p.set(func() {
			if len(p.got["a"]) != 2 {
				t.Errorf("two letters came as %v", p.got["a"])
			}
		})
	})
}

// TestHealthyDestinationsCostNothing has letters go to destinations that answer: nothing is
// written for any of them.
func TestHealthyDestinationsCostNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPost()
		q := start(t, db, p)
		defer q.Close()
		for range 100 {
			q.Advance(p.letter(t, db, "a", "b", "c"), true)
			if rows, err := storage.Get(context.Background(), db, func(tx *storage.Tx) ([]storage.Delivery, error) {
				return tx.ListDeliveries("post")
			}); err != nil || len(rows) > 0 {
				t.Fatalf("rows %v, %v", rows, err)
			}
		}
	})
}

// TestBackoffSurvives has a destination fail until it is left alone for long, and the process
// start again: it is still left alone, until it is heard from.
func TestBackoffSurvives(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPost()
		long := func(o *delivery.Options) { o.MinDelay, o.MaxDelay = time.Millisecond, time.Hour }
		q := start(t, db, p, long)
		p.letter(t, db, "dead")
		q.Reread()
		eventually.OK(t, p.all)
		p.set(func() { p.down["dead"] = true })
		q.Advance(p.letter(t, db, "dead"), true)
		tries := func() (n int) {
			p.set(func() { n = p.tries["dead"] })
			return n
		}
		eventually.OK(t, func() error {
			if n := tries(); n < 10 {
				return fmt.Errorf("%d tries", n)
			}
			return nil
		})
		q.Close()
		rows, err := storage.Get(context.Background(), db, func(tx *storage.Tx) ([]storage.Delivery, error) { return tx.ListDeliveries("post") })
		if err != nil || len(rows) != 1 || rows[0].Failures < 8 || rows[0].RetryAt == 0 {
			t.Fatalf("rows %+v, %v", rows, err)
		}
		// As if it had failed for days.
		rows[0].RetryAt = time.Now().Add(time.Hour).UnixMilli()
		if err := db.Write(context.Background(), func(tx *storage.Tx) error { return tx.InsertDelivery("post", &rows[0]) }); err != nil {
			t.Fatal(err)
		}
		before := tries()
		q = start(t, db, p, long)
		defer q.Close()
		q.Advance(p.letter(t, db, "dead", "alive"), true)
		eventually.OK(t, func() (err error) {
			p.set(func() {
				if len(p.got["alive"]) == 0 {
					err = errors.New("the living wait for the dead")
				}
			})
			return err
		})
		if n := tries(); n != before {
			t.Errorf("tried %d times more, in spite of all", n-before)
		}
		if !q.Failing("dead") {
			t.Error("it is forgotten that it failed")
		}
		p.set(func() { clear(p.down) })
		q.Heard("dead")
		eventually.OK(t, p.all)
	})
}

// TestOneProcessDelivers has three processes want to: one does, and when it dies another.
func TestOneProcessDelivers(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		shared := func(o *delivery.Options) { o.Shared, o.LeaseTime = true, 300*time.Millisecond }
		posts := []*post{newPost(), newPost(), newPost()}
		log := posts[0]
		queues := make([]*delivery.Queue, len(posts))
		for i, p := range posts {
			p.log = log.log
			queues[i] = start(t, db, &sharedPost{post: p, log: log}, shared)
			defer queues[i].Close()
		}
		served := func() (out []int) {
			for i, p := range posts {
				p.set(func() {
					if len(p.got["a"]) > 0 {
						out = append(out, i)
					}
				})
			}
			return out
		}
		var first []int
		eventually.OK(t, func() error {
			for _, q := range queues {
				q.Advance(log.letter(t, db, "a"), true)
			}
			if first = served(); len(first) == 0 {
				return errors.New("nobody delivers")
			}
			return nil
		})
		if len(first) > 1 {
			t.Fatalf("all of %v deliver", first)
		}
		// It ends, and another takes over.
		queues[first[0]].Close()
		eventually.OK(t, func() error {
			pos := log.letter(t, db, "a")
			for i, q := range queues {
				if i != first[0] {
					q.Advance(pos, true)
				}
			}
			if len(served()) < 2 {
				return errors.New("nobody takes over")
			}
			return nil
		})
		if n := len(served()); n != 2 {
			t.Errorf("%d have delivered", n)
		}
	})
}

// sharedPost reads the log of another.
type sharedPost struct {
	*post
	log *post
}

func (s *sharedPost) Route(ctx context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	return s.log.Route(ctx, from, to)
}

func (s *sharedPost) Deliver(_ context.Context, name string, from, to id.Pos) (delivery.Result, error) {
	s.set(func() { s.got[name] = append(s.got[name], to) })
	return delivery.Result{Done: to, Reached: from < to}, nil
}
