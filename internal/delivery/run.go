package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"parley/internal/id"
	"parley/storage"
)

const (
	// routeAtOnce bounds the piece of the log that is looked through at a time.
	routeAtOnce = 10_000
	// slowAfter is how long something waits for a destination that answers until it gets a row
	// of its own, and no longer holds the cursor.
	slowAfter = 10 * time.Second
	// writeAfter is how many positions that concern nobody the cursor is left behind.
	writeAfter = 10_000
	// forgetEvery is how often the consumer is told what it may forget.
	forgetEvery = 10 * time.Minute
	// beginTime is how long it may take to enter a new consumer.
	beginTime = time.Minute
	// drainTime is how long deliveries have to come to their end when the process ends.
	drainTime = 2 * time.Second
	// closeTime is how long the last write may take.
	closeTime = 5 * time.Second
)

var errLost = errors.New("another process delivers")

// run takes the lease and delivers while it is held, until ctx is done.
func (q *Queue) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := q.take(ctx)
		if err == nil {
			err = q.serve(ctx)
		}
		if err != nil && ctx.Err() == nil {
			q.o.Log.Error("deliveries stopped", "consumer", q.o.Name, "error", err)
			sleep(ctx, q.o.MinDelay)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// begin has a consumer that is new begin where the log is now, or with the whole of it. That is done
// before anybody is told that there is a queue: what they write then is delivered, however long it
// takes until this process has the lease.
func begin(o *Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), beginTime)
	defer cancel()
	err := o.DB.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.GetConsumer(o.Name)
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		var pos id.Pos
		if !o.Whole {
			if pos, err = tx.GetPos(); err != nil {
				return err
			}
		}
		return tx.InsertConsumer(o.Name, pos)
	})
	if err != nil {
		return fmt.Errorf("delivery: begin for %s: %w", o.Name, err)
	}
	return nil
}

// take waits until this process is the one that delivers.
func (q *Queue) take(ctx context.Context) error {
	var seen storage.ConsumerRow
	var since time.Time
	for {
		row, err := storage.Get(ctx, q.o.DB, func(tx *storage.Tx) (storage.ConsumerRow, error) { return tx.GetConsumer(q.o.Name) })
		if err != nil {
			return fmt.Errorf("read the lease: %w", err)
		}
		if since.IsZero() || row.Holder != seen.Holder || row.Beat != seen.Beat {
			seen, since = row, time.Now()
		}
		if row.Holder == "" || !q.o.Shared || time.Since(since) >= q.o.LeaseTime {
			var taken bool
			err := q.o.DB.Write(ctx, func(tx *storage.Tx) (err error) {
				taken, err = tx.UpdateConsumerHolder(q.o.Name, q.holder, row)
				return err
			})
			if err != nil {
				return fmt.Errorf("take the lease: %w", err)
			}
			if taken {
				return nil
			}
		}
		sleep(ctx, q.o.LeaseTime/10)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// serve delivers until ctx is done or the lease is lost.
func (q *Queue) serve(ctx context.Context) error {
	stored, err := q.load(ctx)
	if err != nil {
		return err
	}
	w := &writer{q: q, stored: stored, beaten: time.Now(), forgot: time.Now()}
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		ended := make(chan struct{})
		go func() { q.deliveries.Wait(); close(ended) }()
		if ctx.Err() != nil {
			select {
			case <-ended:
			case <-time.After(drainTime):
			}
		}
		cancel()
		<-ended
		if ctx.Err() != nil {
			w.release()
		}
		q.leave()
	}()
	tick := time.NewTicker(q.o.WriteEvery)
	defer tick.Stop()
	looked := time.Now()
	for {
		if err := q.route(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			q.o.Log.Error("cannot read the log", "consumer", q.o.Name, "error", err)
			sleep(ctx, q.o.MinDelay)
		}
		q.start(working)
		var retry <-chan time.Time
		if at, ok := q.nextRetry(); ok {
			retry = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.signal:
		case <-retry:
		case <-tick.C:
			if q.o.Shared && time.Since(looked) > q.o.LeaseTime/4 {
				// Notices of other processes may not come here.
				looked = time.Now()
				q.Reread()
			}
			if err := w.write(ctx); err != nil && ctx.Err() == nil {
				// A process that can't write can't know whether another one has taken over.
				if errors.Is(err, errLost) || q.o.Shared && time.Since(w.beaten) > q.o.LeaseTime*2/3 {
					return err
				}
				q.o.Log.Error("cannot write how far deliveries have got", "consumer", q.o.Name, "error", err)
			}
		}
	}
}

// load begins where the last holder has left off.
func (q *Queue) load(ctx context.Context) (id.Pos, error) {
	var rows []storage.Delivery
	var consumer storage.ConsumerRow
	var now id.Pos
	err := q.o.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if now, err = tx.GetPos(); err != nil {
			return err
		}
		if consumer, err = tx.GetConsumer(q.o.Name); err != nil {
			return err
		}
		rows, err = tx.ListDeliveries(q.o.Name)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read how far deliveries have got: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.routed = consumer.Pos
	q.log, q.reread, q.serving = max(q.log, now), true, true
	for _, row := range rows {
		d := q.get(row.Destination)
		d.done, d.want = row.Pos, max(row.Pos, q.routed)
		d.failures, d.retryAt = int(row.Failures), time.UnixMilli(row.RetryAt)
		d.row = row
		q.consider(d)
	}
	return consumer.Pos, nil
}

// leave forgets all: another process may deliver from now on.
func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.serving = false
	q.ready = [2]list{}
	q.waiting = nil
	clear(q.destinations)
}

// route looks through what the log has grown by.
func (q *Queue) route(ctx context.Context) error {
	for {
		q.mu.Lock()
		if q.reread {
			q.mu.Unlock()
			now, err := storage.Get(ctx, q.o.DB, (*storage.Tx).GetPos)
			if err != nil {
				return err
			}
			q.mu.Lock()
			q.log, q.concerned, q.reread = max(q.log, now), max(q.log, now), false
		}
		from, to := q.routed, q.log
		if q.concerned <= from {
			q.routed = to
			q.mu.Unlock()
			return nil
		}
		q.mu.Unlock()
		to = min(to, from+routeAtOnce)
		concerns, err := q.o.Consumer.Route(ctx, from, to)
		if err != nil {
			return err
		}
		q.mu.Lock()
		for _, c := range concerns {
			q.concern(c)
		}
		q.routed = to
		q.mu.Unlock()
	}
}

// delay is for how long a destination is left alone after so many failures.
func (q *Queue) delay(failures int, err error) time.Duration {
	d := q.o.MaxDelay
	if n := failures - 1; n < 30 {
		d = min(q.o.MinDelay<<n, q.o.MaxDelay)
	}
	d = time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
	// One that says how long it wants to be left alone is.
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		d = max(d, min(asks.RetryAfter(), q.o.MaxDelay))
	}
	return d
}

// writer writes how far deliveries have got.
type writer struct {
	q      *Queue
	stored id.Pos
	beaten time.Time // when the row was last moved
	forgot time.Time
}

// changes are what is to be written: the cursor, the rows that are new or different, and those
// that are not needed any more.
func (w *writer) changes() (cursor, all id.Pos, rows []storage.Delivery, gone []string) {
	q := w.q
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	cursor = q.routed
	for _, d := range q.destinations {
		slow := d.behind() && (d.row.Destination != "" || now.Sub(d.since) > slowAfter)
		switch {
		case d.failures > 0 || slow:
			row := storage.Delivery{Destination: d.name, Pos: d.done, Failures: int64(d.failures)}
			if d.failures > 0 {
				row.RetryAt = d.retryAt.UnixMilli()
			}
			if row != d.row {
				// Noted before it is written, so that who has a row stays known.
				d.row = row
				rows = append(rows, row)
			}
		case d.behind():
			cursor = min(cursor, d.done)
		case d.row.Destination != "":
			gone = append(gone, d.name)
		}
	}
	all = cursor
	for _, d := range q.destinations {
		if d.behind() {
			all = min(all, d.done)
		}
	}
	return max(cursor, w.stored), all, rows, gone
}

func (w *writer) write(ctx context.Context) error {
	q := w.q
	cursor, all, rows, gone := w.changes()
	beat := q.o.Shared && time.Since(w.beaten) > q.o.LeaseTime/4
	q.mu.Lock()
	moved := cursor > w.stored && (q.concerned > w.stored || cursor-w.stored > writeAfter)
	q.mu.Unlock()
	if !moved && !beat && len(rows)+len(gone) == 0 {
		return nil
	}
	var held bool
	err := q.o.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		if held, err = tx.UpdateConsumerPos(q.o.Name, q.holder, cursor); err != nil || !held {
			return err
		}
		for i := range rows {
			if err := tx.InsertDelivery(q.o.Name, &rows[i]); err != nil {
				return err
			}
		}
		for _, name := range gone {
			if err := tx.DeleteDelivery(q.o.Name, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.unwritten(rows)
		return err
	}
	if !held {
		return errLost
	}
	w.stored, w.beaten = cursor, time.Now()
	w.removed(gone)
	if time.Since(w.forgot) > forgetEvery {
		w.forgot = time.Now()
		return q.o.Consumer.Forget(ctx, all)
	}
	return nil
}

// unwritten has rows written again that may not have been.
func (w *writer) unwritten(rows []storage.Delivery) {
	q := w.q
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, row := range rows {
		if d := q.destinations[row.Destination]; d != nil {
			d.row = storage.Delivery{Destination: d.name, Failures: -1}
		}
	}
}

// removed notes which rows are gone.
func (w *writer) removed(gone []string) {
	q := w.q
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, name := range gone {
		d := q.destinations[name]
		if d == nil {
			continue
		}
		d.row = storage.Delivery{}
		if !d.behind() && !d.poked && !d.running && !d.queued && d.failures == 0 {
			delete(q.destinations, name)
		}
	}
}

// release writes a last time, and lets the lease go.
func (w *writer) release() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	q := w.q
	err := w.write(ctx)
	if err == nil {
		err = q.o.DB.Write(ctx, func(tx *storage.Tx) error {
			row, err := tx.GetConsumer(q.o.Name)
			if err != nil || row.Holder != q.holder {
				return err
			}
			_, err = tx.UpdateConsumerHolder(q.o.Name, "", row)
			return err
		})
	}
	if err != nil && !errors.Is(err, errLost) {
		q.o.Log.Error("cannot write how far deliveries have got", "consumer", q.o.Name, "error", err)
	}
}
