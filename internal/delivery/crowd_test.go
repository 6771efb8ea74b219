package delivery_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/internal/delivery"
	"parley/internal/eventually"
	"parley/internal/id"
	"parley/storage"
	"parley/storage/storagetest"
)

// crowd is a consumer with very many destinations, of which every other one is down: each
// position of the log concerns all of them.
type crowd struct {
	mu     sync.Mutex
	done   []id.Pos // by destination
	tries  []int
	mended map[int]bool
	// now is how many deliveries there are, most the most that there were.
	now, most atomic.Int64
}

func (c *crowd) Route(_ context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	out := make([]delivery.Concern, len(c.done))
	for i := range out {
		out[i] = delivery.Concern{Destination: strconv.Itoa(i), First: from + 1, Last: to}
	}
	return out, nil
}

func (c *crowd) Deliver(_ context.Context, name string, _, to id.Pos) (delivery.Result, error) {
	now := c.now.Add(1)
	defer c.now.Add(-1)
	i, err := strconv.Atoi(name)
	if err != nil {
		return delivery.Result{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most.Store(max(c.most.Load(), now))
	c.tries[i]++
	if i%2 == 1 && !c.mended[i] {
		return delivery.Result{}, errDown
	}
	c.done[i] = to
	return delivery.Result{Done: to, Reached: true}, nil
}

func (c *crowd) Forget(context.Context, id.Pos) error { return nil }

// living says whether all that are up have got everything.
func (c *crowd) living(pos id.Pos) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < len(c.done); i += 2 {
		if c.done[i] < pos {
			return fmt.Errorf("destination %d has got all up to %d of %d", i, c.done[i], pos)
		}
	}
	return nil
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestCrowd has 10,000 destinations, half of them down. The others get everything; what each costs
// is bounded, in memory and in goroutines; and who is down is left alone, after a restart too.
func TestCrowd(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		const n, letters = 10_000, 10
		c := &crowd{done: make([]id.Pos, n), tries: make([]int, n), mended: make(map[int]bool)}
		p := newPost()
		before, running := heap(), runtime.NumGoroutine()
		patient := func(o *delivery.Options) {
			o.MinDelay, o.MaxDelay, o.AtOnce, o.RetriesAtOnce = time.Hour, time.Hour, 100, 20
		}
		q := start(t, db, c, patient)
		var pos id.Pos
		write := func() {
			for range letters {
				pos = p.letter(t, db)
				q.Advance(pos, true)
			}
			eventually.OK(t, func() error { return c.living(pos) })
		}
		write()
		down := func() error {
			c.mu.Lock()
			defer c.mu.Unlock()
			for i := 1; i < n; i += 2 {
				if c.tries[i] != 1 {
					return fmt.Errorf("destination %d, which is down, was tried %d times", i, c.tries[i])
				}
			}
			return nil
		}
		eventually.OK(t, down)
		if most := c.most.Load(); most > 100+20 {
			t.Errorf("there were %d deliveries at a time", most)
		}
		// Nobody waits for each of those who are down.
		eventually.OK(t, func() error {
			if more := runtime.NumGoroutine() - running; more > 50 {
				return fmt.Errorf("there are %d goroutines more than before", more)
			}
			return nil
		})
		if after := heap(); after > before && after-before > n*2048 {
			t.Errorf("%d destinations take %d bytes each", n, (after-before)/n)
		}
		// A restart makes nobody be tried again, and what they miss is not forgotten.
		q.Close()
		q = start(t, db, c, patient)
		write()
		if err := down(); err != nil {
			t.Errorf("after a restart: %v", err)
		}
		c.mu.Lock()
		c.mended[7] = true
		c.mu.Unlock()
		q.Heard("7")
		eventually.OK(t, func() error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.done[7] < pos {
				return fmt.Errorf("one that came back has got all up to %d of %d", c.done[7], pos)
			}
			return nil
		})
		q.Close()
	})
}
