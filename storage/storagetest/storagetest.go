// Package storagetest opens empty databases for tests: on SQLite always, on PostgreSQL
// where PARLEY_TEST_POSTGRES names a server on which databases may be made.
package storagetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/lib/pq" // registers the driver "postgres"

	"parley/internal/stream"
	"parley/storage"
)

// Env names the variable that holds the URL of a PostgreSQL superuser's database.
const Env = "PARLEY_TEST_POSTGRES"

// Each runs a test on an empty database of each kind, in subtests named sqlite and postgres.
func Each(t *testing.T, run func(t *testing.T, db *storage.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) { run(t, Open(t, url, nil)) })
}

// EachURL runs a test with the URL of an empty database of each kind.
func EachURL(t *testing.T, run func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { run(t, filepath.Join(t.TempDir(), "parley.db")) })
	t.Run("postgres", func(t *testing.T) { run(t, Postgres(t)) })
}

// Another is the URL of a further empty database of the same kind.
func Another(t testing.TB, url string) string {
	t.Helper()
	if filepath.IsAbs(url) {
		return filepath.Join(t.TempDir(), "another.db")
	}
	return Postgres(t)
}

// Open opens a database and closes it at the end of the test.
func Open(t testing.TB, url string, publish func(stream.Notice)) *storage.DB {
	t.Helper()
	db, _ := OpenForProcess(t, url, publish)
	return db
}

// OpenForProcess is Open for what stands for a process that may end before the test: end closes the
// database then.
func OpenForProcess(t testing.TB, url string, publish func(stream.Notice)) (db *storage.DB, end func()) {
	t.Helper()
	if filepath.IsAbs(url) {
		fill(t, url)
	}
	db, err := storage.Open(context.Background(), storage.Options{URL: url, Publish: publish})
	if err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	end = sync.OnceFunc(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	t.Cleanup(end)
	return db, end
}

// fresh is a SQLite database with the whole schema and nothing else. Under the race detector the
// migrations take so long that they are run once, and not for each test.
var fresh = sync.OnceValues(func() (text []byte, err error) {
	dir, err := os.MkdirTemp("", "parley-test-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "fresh.db")
	made, err := storage.Open(context.Background(), storage.Options{URL: file})
	if err != nil {
		return nil, err
	}
	if err := made.Close(); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return nil, err
	}
	_, err = db.Exec("DELETE FROM log") // each database gets a name of its own for its log
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})

// fill makes a SQLite database with the schema where there is none.
func fill(t testing.TB, file string) {
	t.Helper()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	text, err := fresh()
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatalf("make an empty database: %v", err)
	}
}

// Postgres makes an empty database and gives its URL; the test is skipped where there is
// no server to make it on.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv(Env)
	if server == "" {
		t.Skipf("no PostgreSQL: %s is not set", Env)
	}
	admin, err := sql.Open("postgres", server)
	if err != nil {
		t.Fatalf("open %s: %v", Env, err)
	}
	name := "parley_" + strings.ToLower(rand.Text()[:12])
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("drop the database: %v", err)
		}
		admin.Close()
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("parse %s: %v", Env, err)
	}
	u.Path = "/" + name
	return u.String()
}
