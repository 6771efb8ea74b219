package sqldb

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"parley/internal/id"
)

// maxGroup bounds the functions that share a transaction, so that none waits for too many.
const maxGroup = 128

// ErrClosed says that the database was closed.
var ErrClosed = errors.New("database is closed")

type op struct {
	ctx   context.Context
	fn    func(*Tx) error
	alone bool
	done  chan error
}

// Write runs fn in a transaction that it may share with others, and returns when what fn
// wrote is durable, or with fn's error when none of it is there. See the package's text
// for the order of things; fn may run more than once.
//
// A context that ends before fn has begun ends the waiting; after that the outcome is
// awaited, as it can no longer be called off.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	return db.write(&op{ctx: ctx, fn: fn})
}

// WriteAlone is Write in a transaction that is shared with nobody, which costs a commit: for fn
// that must see rows whose key is a position.
func (db *DB) WriteAlone(ctx context.Context, fn func(*Tx) error) error {
	return db.write(&op{ctx: ctx, fn: fn, alone: true})
}

func (db *DB) write(o *op) error {
	o.done = make(chan error, 1)
	select {
	case db.ops <- o:
	case <-o.ctx.Done():
		return o.ctx.Err()
	case <-db.closing:
		return ErrClosed
	}
	select {
	case err := <-o.done:
		return err
	case <-db.writerDone:
		// The writer answers all that it took before it ends.
		select {
		case err := <-o.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// writer is the goroutine that writes.
func (db *DB) writer() {
	defer close(db.writerDone)
	group := make([]*op, 0, maxGroup)
	var writers int          // who wrote lately, and so may well write again in a moment
	var linger time.Duration // how long that moment is worth
	for {
		group = group[:0]
		select {
		case o := <-db.ops:
			group = append(group, o)
		case <-db.closing:
			// What was accepted before is still written.
			select {
			case o := <-db.ops:
				group = append(group, o)
			default:
				return
			}
		}
		group = db.gather(group, min(writers, maxGroup), linger)
		var took time.Duration
		for _, part := range apart(group) {
			db.groups.Add(1)
			db.functions.Add(int64(len(part)))
			start := time.Now()
			db.runGroup(part)
			if took = time.Since(start); took > time.Second {
				db.log.Warn("slow write transaction", "functions", len(part), "took", took)
			}
		}
		writers = len(group) + len(db.ops)
		linger = min(took/2, maxLinger)
	}
}

// maxLinger bounds how long a write may be kept waiting for others to share its commit.
const maxLinger = 2 * time.Millisecond

// gather takes the functions that wait. Those whose writes were just answered tend to write
// again at once; without waiting for them for a part of what a commit takes, two halves of
// the writers would take turns, each paying for a commit of its own. One writer alone, and
// one who comes after a rest, is never kept waiting.
func (db *DB) gather(group []*op, writers int, linger time.Duration) []*op {
	var timeout <-chan time.Time
	for len(group) < maxGroup {
		select {
		case o := <-db.ops:
			group = append(group, o)
			continue
		default:
		}
		if len(group) >= writers {
			return group
		}
		if timeout == nil {
			timer := time.NewTimer(linger)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case o := <-db.ops:
			group = append(group, o)
		case <-timeout:
			return group
		case <-db.closing:
			return group
		}
	}
	return group
}

// apart cuts a group where a function must be alone.
func apart(group []*op) [][]*op {
	var parts [][]*op
	start := 0
	for i, o := range group {
		if i > start && (o.alone || group[i-1].alone) {
			parts = append(parts, group[start:i])
			start = i
		}
	}
	return append(parts, group[start:])
}

// runGroup answers every function of the group.
func (db *DB) runGroup(group []*op) {
	live := group[:0:0]
	for _, o := range group {
		if err := o.ctx.Err(); err != nil {
			o.done <- err
			continue
		}
		live = append(live, o)
	}
	if len(live) == 0 {
		return
	}
	again, err := db.attempt(live, false)
	if again && !isContention(err) {
		again, _ = db.attempt(live, true)
	}
	if !again {
		return
	}
	// A whole transaction failed with nobody to blame: each for itself, some times over.
	for _, o := range live {
		for try := 1; ; try++ {
			again, err = db.attempt([]*op{o}, true)
			if !again {
				break
			}
			if try == 5 || !isContention(err) {
				o.done <- err
				break
			}
			time.Sleep(time.Duration(try*try) * 5 * time.Millisecond)
		}
	}
}

// attempt runs the functions in one transaction. It either answers them all, or none of
// them and says that they must run again, because of err.
func (db *DB) attempt(group []*op, savepoints bool) (again bool, err error) {
	ctx := context.Background() // a group's transaction belongs to none of its callers
	if err := db.ensureWriter(ctx); err != nil {
		for _, o := range group {
			o.done <- err
		}
		return false, nil
	}
	c := db.writeConn
	if err := c.exec(ctx, db.begin); err != nil {
		db.dropWriter()
		return true, fmt.Errorf("begin: %w", err)
	}
	rollback := func() {
		if err := c.exec(ctx, "ROLLBACK"); err != nil {
			db.dropWriter()
		}
	}

	txs := make([]*Tx, len(group))
	errs := make([]error, len(group))
	total := 0
	for i, o := range group {
		tx := &Tx{ctx: ctx, conn: c, writing: true}
		if savepoints {
			if err := c.exec(ctx, "SAVEPOINT op"); err != nil {
				rollback()
				return true, err
			}
		}
		errs[i] = protect(tx, o.fn)
		if errs[i] != nil {
			if isContention(errs[i]) {
				rollback()
				return true, errs[i]
			}
			if savepoints {
				if err := c.exec(ctx, "ROLLBACK TO SAVEPOINT op"); err != nil {
					rollback()
					return true, err
				}
			} else if tx.wrote || tx.sqlFailed {
				rollback()
				return true, errs[i]
			}
			tx = nil
		}
		if savepoints {
			if err := c.exec(ctx, "RELEASE SAVEPOINT op"); err != nil {
				rollback()
				return true, err
			}
		}
		if tx != nil {
			txs[i] = tx
			for _, r := range tx.onPos {
				total += r.n
			}
		}
	}

	if err := db.givePositions(ctx, c, txs, total); err != nil {
		rollback()
		if len(group) == 1 && !isContention(err) {
			group[0].done <- err
			return false, nil
		}
		return true, err
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		rollback()
		return true, fmt.Errorf("commit: %w", err)
	}
	for i, o := range group {
		if txs[i] != nil {
			for _, fn := range txs[i].afterCommit {
				fn()
			}
		}
		o.done <- errs[i]
	}
	return false, nil
}

// givePositions raises the counter, once for all, and hands out what was asked for.
func (db *DB) givePositions(ctx context.Context, c *conn, txs []*Tx, total int) error {
	if total == 0 {
		return nil
	}
	counter := &Tx{ctx: ctx, conn: c, writing: true}
	var last int64
	const raise = `UPDATE log SET pos = pos + $1 WHERE one = 1 RETURNING pos`
	if err := counter.QueryRow(raise, []any{total}, &last); err != nil {
		return fmt.Errorf("give out positions: %w", err)
	}
	next := id.Pos(last - int64(total) + 1)
	for _, tx := range txs {
		if tx == nil {
			continue
		}
		for _, r := range tx.onPos {
			first := next
			next += id.Pos(r.n)
			if err := protect(tx, func(*Tx) error { return r.fn(first) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// protect keeps one function's panic from its neighbours in the group.
func protect(tx *Tx, fn func(*Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			tx.wrote = true
			err = fmt.Errorf("panic in a write transaction: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(tx)
}

func (db *DB) ensureWriter(ctx context.Context) error {
	if db.writeConn != nil {
		return nil
	}
	c, err := db.newConn(ctx, db.writePool)
	if err != nil {
		return err
	}
	db.writeConn = c
	return nil
}

// dropWriter gives up a connection that is in a state nobody knows.
func (db *DB) dropWriter() {
	db.writeConn.close()
	db.writeConn = nil
}
