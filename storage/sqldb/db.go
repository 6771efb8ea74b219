package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/lib/pq"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Durability is what an acknowledged write survives.
type Durability int

const (
	// Full survives the loss of power: each transaction is synced before it is answered.
	Full Durability = iota
	// Relaxed survives the end of the process, not the loss of power.
	Relaxed
)

// Options says which database to open and how.
type Options struct {
	// URL is "postgres://…", or a path of SQLite's file.
	URL        string
	Durability Durability
	// Readers is how many snapshots may be read at once; 0 means a good default.
	Readers int
	// Migrations holds the numbered scripts.
	Migrations fs.FS
	Log        *slog.Logger
}

// DB is an open database.
type DB struct {
	dialect   Dialect
	log       *slog.Logger
	writePool *sql.DB
	readPool  *sql.DB
	begin     string
	beginRead string

	ops        chan *op
	closing    chan struct{}
	writerDone chan struct{}
	writeConn  *conn // used by the writer's goroutine alone
	groups     atomic.Int64
	functions  atomic.Int64

	readers chan *conn // free readers; nil stands for one that is not connected yet
}

// Open connects, brings the schema up to date, and starts the goroutine that writes.
func Open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{
		log:        o.Log,
		ops:        make(chan *op, maxGroup),
		closing:    make(chan struct{}),
		writerDone: make(chan struct{}),
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if strings.HasPrefix(o.URL, "postgres://") || strings.HasPrefix(o.URL, "postgresql://") {
		err = db.openPostgres(&o)
	} else {
		err = db.openSQLite(&o)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, o.Migrations); err != nil {
		db.writePool.Close()
		db.readPool.Close()
		return nil, err
	}
	db.readers = make(chan *conn, o.Readers)
	for range o.Readers {
		db.readers <- nil
	}
	go db.writer()
	return db, nil
}

func (db *DB) openPostgres(o *Options) error {
	db.dialect = Postgres
	db.begin = "BEGIN"
	db.beginRead = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
	if o.Readers == 0 {
		o.Readers = 16
	}
	connector, err := pq.NewConnector(o.URL)
	if err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	db.writePool = sql.OpenDB(connector)
	if o.Durability == Relaxed {
		u, err := url.Parse(o.URL)
		if err != nil {
			return fmt.Errorf("database url: %w", err)
		}
		q := u.Query()
		q.Set("synchronous_commit", "off")
		u.RawQuery = q.Encode()
		relaxed, err := pq.NewConnector(u.String())
		if err != nil {
			return fmt.Errorf("database url: %w", err)
		}
		db.writePool = sql.OpenDB(relaxed)
	}
	db.readPool = sql.OpenDB(connector)
	db.readPool.SetMaxOpenConns(o.Readers)
	db.readPool.SetMaxIdleConns(o.Readers)
	return nil
}

func (db *DB) openSQLite(o *Options) error {
	db.dialect = SQLite
	db.begin = "BEGIN IMMEDIATE"
	db.beginRead = "BEGIN"
	if o.Readers == 0 {
		o.Readers = 4
	}
	path, err := filepath.Abs(o.URL)
	if err != nil {
		return fmt.Errorf("database path: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("database folder: %w", err)
	}
	sync := "FULL"
	if o.Durability == Relaxed {
		sync = "NORMAL"
	}
	open := func(pragmas ...string) (*sql.DB, error) {
		// The driver runs the pragmas in alphabetical order, and the journal mode, which
		// must come after the page size, last.
		q := url.Values{"_journal_mode": {"WAL"}}
		for _, p := range pragmas {
			q.Add("_pragma", p)
		}
		u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
		return sql.Open("sqlite", u.String())
	}
	// The page size counts only when the file is made: small pages mean that a write to a
	// random place of an index carries less of what did not change into the log.
	db.writePool, err = open("busy_timeout(10000)", "page_size(2048)",
		"synchronous("+sync+")", "wal_autocheckpoint(16000)", "cache_size(-32000)",
		"foreign_keys(1)", "temp_store(MEMORY)")
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	db.writePool.SetMaxOpenConns(1)
	db.readPool, err = open("busy_timeout(10000)", "query_only(1)", "cache_size(-8000)", "temp_store(MEMORY)",
		"mmap_size(268435456)")
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	db.readPool.SetMaxOpenConns(o.Readers)
	db.readPool.SetMaxIdleConns(o.Readers)
	return nil
}

// Stats counts what was written since the database was opened.
type Stats struct {
	// Groups is the number of transactions, Functions that of the writes that shared them.
	Groups, Functions int64
}

// Stats says how much was written.
func (db *DB) Stats() Stats { return Stats{db.groups.Load(), db.functions.Load()} }

// Dialect is the database's kind.
func (db *DB) Dialect() Dialect { return db.dialect }

// Read runs fn on an unchanging snapshot of the database.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	var c *conn
	select {
	case c = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return ErrClosed
	}
	return db.read(ctx, c, fn)
}

// TryRead is Read where a snapshot is free; it says whether one was. fn has not run where none was.
func (db *DB) TryRead(ctx context.Context, fn func(*Tx) error) (free bool, err error) {
	select {
	case c := <-db.readers:
		return true, db.read(ctx, c, fn)
	default:
		return false, nil
	}
}

// Readers is how many snapshots can be read at once.
func (db *DB) Readers() int { return cap(db.readers) }

// read runs fn on a snapshot of a reader, and gives that back.
func (db *DB) read(ctx context.Context, c *conn, fn func(*Tx) error) error {
	defer func() { db.readers <- c }()
	if c == nil {
		var err error
		if c, err = db.newConn(ctx, db.readPool); err != nil {
			return err
		}
	}
	// Ending a snapshot must work when the caller's context has ended.
	end := context.WithoutCancel(ctx)
	if err := c.exec(end, db.beginRead); err != nil {
		c.close()
		c = nil
		return fmt.Errorf("begin reading: %w", err)
	}
	ended := false
	defer func() {
		if ended {
			return
		}
		c.close() // fn panicked
		c = nil
	}()
	err := fn(&Tx{ctx: ctx, conn: c})
	ended = true
	if cerr := c.exec(end, "ROLLBACK"); cerr != nil {
		c.close()
		c = nil
	}
	return err
}

// Ping says whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	return db.Read(ctx, func(tx *Tx) error {
		var one int
		return tx.QueryRow(`SELECT 1`, nil, &one)
	})
}

// Close writes what was accepted, and disconnects when the readers have ended.
func (db *DB) Close() error {
	close(db.closing)
	<-db.writerDone
	if db.writeConn != nil {
		db.writeConn.close()
	}
	for range cap(db.readers) {
		if c := <-db.readers; c != nil {
			c.close()
		}
	}
	rerr := db.readPool.Close()
	werr := db.writePool.Close()
	if werr != nil {
		return werr
	}
	return rerr
}
