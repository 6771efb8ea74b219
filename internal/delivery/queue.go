package delivery

import (
	"container/heap"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/id"
	"parley/storage"
)

// Consumer is what those who deliver differ in.
type Consumer interface {
	// Route says whom the log with from < pos <= to concerns.
	Route(ctx context.Context, from, to id.Pos) ([]Concern, error)
	// Deliver gives a destination, of what it has not got with from < pos <= to, as much as is
	// given at once, in the order of the log, and with it what waits without being in the log.
	// It is called once at a time for one destination.
	Deliver(ctx context.Context, destination string, from, to id.Pos) (Result, error)
	// Forget is told now and then that all up to a position was delivered to everybody.
	Forget(ctx context.Context, to id.Pos) error
}

// Concern says that a piece of the log concerns a destination: nothing before First, something
// at Last.
type Concern struct {
	Destination string
	First, Last id.Pos
}

// Result is what came of a delivery that did not fail.
type Result struct {
	// Done is up to where the destination has all now.
	Done id.Pos
	// More says that something waits that is not in the log.
	More bool
	// Reached says that the destination was reached, and not merely that there was nothing for it.
	Reached bool
}

// Options is what a queue needs. DB, Name and Consumer must be given; the rest has defaults.
type Options struct {
	DB       *storage.DB
	Name     string // such as "federation"; rows are kept under it
	Consumer Consumer
	// Whole says that a consumer which is new begins with the whole log, and not with what comes
	// from now on.
	Whole bool
	// AtOnce is how many deliveries there are at a time to destinations that answer, and
	// RetriesAtOnce to those that failed the last time.
	AtOnce, RetriesAtOnce int
	// After a failure a destination is left alone for MinDelay, twice that after the next, and
	// so on up to MaxDelay.
	MinDelay, MaxDelay time.Duration
	// WriteEvery is how often the cursor is written while it moves.
	WriteEvery time.Duration
	// Shared says that other processes have the same database.
	Shared bool
	// LeaseTime is for how long the holder's row must stand still until another process takes it.
	LeaseTime time.Duration
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Queue delivers for one consumer.
type Queue struct {
	o      Options
	holder string
	stop   context.CancelFunc
	done   sync.WaitGroup
	signal chan struct{}
	// deliveries are those that are under way; they end before the lease is let go.
	deliveries sync.WaitGroup

	delivered, failed prometheus.Counter

	mu sync.Mutex
	// log is up to where the log is known to reach, routed up to where it was looked through,
	// and concerned the newest position known to concern somebody. reread says that notices
	// were lost, so that none of these can be relied on.
	log, routed, concerned id.Pos
	reread                 bool
	serving                bool
	destinations           map[string]*destination
	ready                  [2]list // those that answer; those that failed
	running                [2]int
	waiting                retryHeap
}

// destination is what is known in memory of one for which something waits, or that fails.
type destination struct {
	name string
	// It has all up to done; something concerns it at want, if that is greater.
	done, want id.Pos
	poked      bool      // something waits that is not in the log
	since      time.Time // when something began to wait
	running    bool
	queued     bool
	failures   int
	retryAt    time.Time
	tried      time.Time
	heapIndex  int // in waiting; -1 for none

	row storage.Delivery // as it was written; Destination is "" for no row
}

func (d *destination) behind() bool { return d.done < d.want }

// class is which of the two pools delivers.
func (d *destination) class() int { return min(d.failures, 1) }

// New starts to deliver; Close ends it.
func New(o Options) (*Queue, error) {
	if o.DB == nil || o.Name == "" || o.Consumer == nil {
		return nil, errors.New("delivery: database, name and consumer must be given")
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.MinDelay, time.Second)
	set(&o.MaxDelay, time.Hour)
	set(&o.WriteEvery, 2*time.Second)
	set(&o.LeaseTime, 10*time.Second)
	if o.AtOnce == 0 {
		o.AtOnce = 256
	}
	if o.RetriesAtOnce == 0 {
		o.RetriesAtOnce = 64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := begin(&o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	q := &Queue{o: o, holder: rand.Text()[:12], stop: cancel, signal: make(chan struct{}, 1), destinations: make(map[string]*destination)}
	if err := q.register(); err != nil {
		cancel()
		return nil, err
	}
	q.done.Go(func() { q.run(ctx) })
	return q, nil
}

// Close ends all deliveries, and writes how far they have got. Those that are under way have a moment
// to come to their end, or what was taken from them would be delivered again.
func (q *Queue) Close() {
	q.stop()
	q.done.Wait()
}

// Advance says that the log has grown, and whether that concerns anybody.
func (q *Queue) Advance(pos id.Pos, concerns bool) {
	q.mu.Lock()
	if pos > q.log {
		if !concerns && q.routed == q.log && !q.reread {
			q.routed = pos
		}
		q.log = pos
	}
	if concerns {
		q.concerned = max(q.concerned, pos)
	}
	q.mu.Unlock()
	if concerns {
		q.nudge()
	}
}

// Reread says that it is not known how far the log has grown.
func (q *Queue) Reread() {
	q.mu.Lock()
	q.reread = true
	q.mu.Unlock()
	q.nudge()
}

// Poke says that something waits for a destination that is not in the log. It is no news of one
// that can't be reached at the time.
func (q *Queue) Poke(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.serving {
		return
	}
	d := q.get(name)
	d.poked = true
	q.consider(d)
	q.nudge()
}

// Heard says that a destination was heard from, so that it is worth trying again if it failed.
func (q *Queue) Heard(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.destinations[name]
	if d == nil || d.failures == 0 || d.running || time.Since(d.tried) < q.o.MinDelay {
		return
	}
	d.retryAt = time.Now()
	q.consider(d)
	q.nudge()
}

// Failing says whether a destination failed the last time, and is left alone for now.
func (q *Queue) Failing(name string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.destinations[name]
	return d != nil && d.failures > 0 && time.Now().Before(d.retryAt)
}

func (q *Queue) nudge() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// get is a destination, which has all that was routed where it is not known yet.
func (q *Queue) get(name string) *destination {
	d := q.destinations[name]
	if d == nil {
		d = &destination{name: name, done: q.routed, want: q.routed, heapIndex: -1}
		q.destinations[name] = d
	}
	return d
}

// concern notes that a piece of the log concerns a destination.
func (q *Queue) concern(c Concern) {
	d := q.get(c.Destination)
	if !d.behind() {
		// It has all that concerned it up to here.
		d.done = max(d.done, c.First-1)
		d.since = time.Now()
	}
	d.want = max(d.want, c.Last)
	q.consider(d)
}

// consider has a destination delivered to, now or when it is time.
func (q *Queue) consider(d *destination) {
	if d.running || d.queued || !d.behind() && !d.poked {
		return
	}
	if d.failures > 0 && time.Now().Before(d.retryAt) {
		d.poked = false
		if d.behind() {
			q.waiting.put(d)
		}
		return
	}
	q.waiting.remove(d)
	d.queued = true
	q.ready[d.class()].push(d)
}

// start begins deliveries as far as there is room for them.
func (q *Queue) start(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.waiting) > 0 && !q.waiting[0].retryAt.After(now) {
		q.consider(q.waiting[0])
	}
	for class, limit := range [...]int{q.o.AtOnce, q.o.RetriesAtOnce} {
		for q.running[class] < limit {
			d := q.ready[class].pop()
			if d == nil {
				break
			}
			q.running[class]++
			d.queued, d.running, d.poked, d.tried = false, true, false, now
			from, to := d.done, d.want
			q.deliveries.Go(func() {
				r, err := q.o.Consumer.Deliver(ctx, d.name, from, to)
				q.finish(ctx, d, class, r, err)
			})
		}
	}
}

// finish notes what came of a delivery.
func (q *Queue) finish(ctx context.Context, d *destination, class int, r Result, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.nudge()
	q.running[class]--
	d.running = false
	switch {
	case err == nil:
		d.done = max(d.done, r.Done)
		d.poked = d.poked || r.More
		if r.Reached {
			if d.failures > 0 {
				q.o.Log.Info("delivers again", "consumer", q.o.Name, "destination", d.name, "failures", d.failures)
			}
			d.failures = 0
			q.delivered.Inc()
		}
	case ctx.Err() != nil:
		return
	default:
		q.failed.Inc()
		d.failures++
		delay := q.delay(d.failures, err)
		d.retryAt = time.Now().Add(delay)
		d.poked = false
		level := slog.LevelDebug
		if d.failures == 1 || d.failures%10 == 0 {
			level = slog.LevelInfo
		}
		q.o.Log.Log(ctx, level, "could not deliver", "consumer", q.o.Name, "destination", d.name, "failures", d.failures, "retry_in", delay, "error", err)
	}
	if !d.behind() && !d.poked && d.failures == 0 && d.row.Destination == "" {
		delete(q.destinations, d.name)
		return
	}
	q.consider(d)
}

// nextRetry is when a destination that failed is to be tried again.
func (q *Queue) nextRetry() (time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return time.Time{}, false
	}
	return q.waiting[0].retryAt, true
}

// list is a queue of destinations: first in, first out.
type list struct {
	items []*destination
	head  int
}

func (l *list) push(d *destination) { l.items = append(l.items, d) }

func (l *list) pop() *destination {
	if l.head == len(l.items) {
		return nil
	}
	d := l.items[l.head]
	l.items[l.head] = nil
	l.head++
	if l.head == len(l.items) {
		l.items, l.head = l.items[:0], 0
	}
	return d
}

// retryHeap holds the destinations that wait to be tried again, the next one first.
type retryHeap []*destination

func (h *retryHeap) put(d *destination) {
	if d.heapIndex >= 0 {
		heap.Fix(h, d.heapIndex)
		return
	}
	heap.Push(h, d)
}

func (h *retryHeap) remove(d *destination) {
	if d.heapIndex >= 0 {
		heap.Remove(h, d.heapIndex)
	}
}

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

// Push is for package heap.
func (h *retryHeap) Push(x any) {
	d := x.(*destination)
	d.heapIndex = len(*h)
	*h = append(*h, d)
}

// Pop is for package heap.
func (h *retryHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	d.heapIndex = -1
	*h = (*h)[:last]
	return d
}
