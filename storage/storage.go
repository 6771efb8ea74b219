package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage/migrations"
	"parley/storage/sqldb"
)

// ErrNotFound says that a row that was asked for is not there.
var ErrNotFound = sqldb.ErrNotFound

// Durability is what an acknowledged write survives.
type Durability = sqldb.Durability

// The two durabilities: full survives the loss of power, relaxed the end of the process.
const (
	Full    = sqldb.Full
	Relaxed = sqldb.Relaxed
)

// Options says which database to open.
type Options struct {
	// URL is "postgres://…", or a path of SQLite's file.
	URL        string
	Durability Durability
	// Readers is how many snapshots may be read at once; 0 means a good default.
	Readers int
	Log     *slog.Logger
	// Publish is given each notice once its change is durable, in the order of positions; the
	// first says at which position the log was opened.
	// It must not block. nil means that nobody listens, as in a command.
	Publish func(stream.Notice)
}

// DB is the node's database.
type DB struct {
	db      *sqldb.DB
	publish func(stream.Notice)
	epoch   string
	// lastNode is the newest number given to a node of a state tree.
	lastNode atomic.Int64
	// long holds a token for each snapshot that ReadLong may take.
	long chan struct{}
}

// Tx is a transaction. Its methods are the queries.
type Tx struct {
	*sqldb.Tx
	db *DB
}

// Open connects to the database and brings its schema up to date.
func Open(ctx context.Context, o Options) (*DB, error) {
	s, err := sqldb.Open(ctx, sqldb.Options{
		URL: o.URL, Durability: o.Durability, Readers: o.Readers, Log: o.Log, Migrations: migrations.Files,
	})
	if err != nil {
		return nil, err
	}
	db := &DB{db: s, publish: o.Publish, long: make(chan struct{}, max(1, s.Readers()/2))}
	if err := db.openLog(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return db, nil
}

// openLog makes the log's one row when there is none, reads the log's name, and says where it was opened.
func (db *DB) openLog(ctx context.Context) error {
	err := db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO log (one, epoch, pos) VALUES (1, $1, 0) ON CONFLICT (one) DO NOTHING`, rand.Text()[:8])
		return err
	})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	var pos id.Pos
	err = db.Read(ctx, func(tx *Tx) error {
		return tx.QueryRow(`SELECT epoch, pos FROM log WHERE one = 1`, nil, &db.epoch, &pos)
	})
	if err == nil && db.publish != nil {
		db.publish(stream.Notice{Kind: stream.Opened, Pos: pos})
	}
	return err
}

// Close writes what was accepted and disconnects.
func (db *DB) Close() error { return db.db.Close() }

// Ping says whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return db.db.Ping(ctx) }

// Stats says how much was written.
func (db *DB) Stats() sqldb.Stats { return db.db.Stats() }

// Epoch names the log. A database that was restored from a backup is given a new one, so
// that a client that has seen positions since then is not answered from the wrong log.
func (db *DB) Epoch() string { return db.epoch }

// Write runs fn in a transaction, perhaps shared, and returns when what it wrote is
// durable. fn may run more than once. See package sqldb.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	return db.db.Write(ctx, func(tx *sqldb.Tx) error { return fn(&Tx{tx, db}) })
}

// WriteAlone is Write for a function that reads rows which others write where they have their
// position. See package sqldb.
func (db *DB) WriteAlone(ctx context.Context, fn func(*Tx) error) error {
	return db.db.WriteAlone(ctx, func(tx *sqldb.Tx) error { return fn(&Tx{tx, db}) })
}

// Read runs fn on an unchanging snapshot.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	return db.db.Read(ctx, func(tx *sqldb.Tx) error { return fn(&Tx{tx, db}) })
}

// ReadLong is Read for what takes long and can be shared among several goroutines: fn is given a snapshot for each
// that it may use, at least one, all of the same position of the log. Others wait behind no more of these than half
// of the readers can serve.
func (db *DB) ReadLong(ctx context.Context, fn func([]*Tx) error) error {
	select {
	case db.long <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-db.long }()
	return db.Read(ctx, func(tx *Tx) error {
		pos, err := tx.GetPos()
		if err != nil {
			return err
		}
		return db.readAlso(ctx, pos, []*Tx{tx}, fn)
	})
}

// readAlso adds snapshots of a position to those there are, as long as there are free ones, and runs fn on all.
func (db *DB) readAlso(ctx context.Context, pos id.Pos, txs []*Tx, fn func([]*Tx) error) error {
	if len(txs) >= runtime.GOMAXPROCS(0) {
		return fn(txs)
	}
	select {
	case db.long <- struct{}{}:
		defer func() { <-db.long }()
	default:
		return fn(txs)
	}
	same := false
	_, err := db.db.TryRead(ctx, func(t *sqldb.Tx) error {
		tx := &Tx{t, db}
		now, err := tx.GetPos()
		if err != nil || now != pos { // something was written in between
			return err
		}
		same = true
		return db.readAlso(ctx, pos, append(txs, tx), fn)
	})
	if err != nil || same {
		return err
	}
	return fn(txs)
}

// Get is Read for a function with a result.
func Get[T any](ctx context.Context, db *DB, fn func(*Tx) (T, error)) (T, error) {
	var out T
	err := db.Read(ctx, func(tx *Tx) (err error) {
		out, err = fn(tx)
		return err
	})
	return out, err
}

// Notify has a notice sent once the transaction is durable. Call it in the function given
// to OnPos, where positions are known.
func (tx *Tx) Notify(n stream.Notice) {
	if tx.db.publish != nil {
		tx.AfterCommit(func() { tx.db.publish(n) })
	}
}

// GetPos is the newest position of the log that this snapshot shows.
func (tx *Tx) GetPos() (id.Pos, error) {
	var pos id.Pos
	err := tx.QueryRow(`SELECT pos FROM log WHERE one = 1`, nil, &pos)
	return pos, err
}

// found turns "no such row" into false, for look-ups where absence is an answer.
func found(err error) (bool, error) {
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
