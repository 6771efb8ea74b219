package harness

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Database says where a server under test keeps its data.
type Database struct {
	Kind string // "sqlite", "postgres", or "external" for a server that is not ours
	URL  string // of PostgreSQL only
}

// EachDatabase runs f on SQLite and on PostgreSQL, as parallel subtests named after them. A PostgreSQL database is
// fresh and belongs to the test alone; where there is no PostgreSQL, that half is skipped and says so.
func EachDatabase(t *testing.T, f func(t *testing.T, db Database)) {
	t.Helper()
	if external() != "" {
		t.Run("external", func(t *testing.T) { f(t, Database{Kind: "external"}) })
		return
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, Database{Kind: "sqlite"})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, Database{Kind: "postgres", URL: NewPostgres(t)})
	})
}

// Another is a database of the same kind for a further server.
func (db Database) Another(t testing.TB) Database {
	t.Helper()
	if db.Kind == "postgres" {
		db.URL = NewPostgres(t)
	}
	return db
}

// NewPostgres makes an empty PostgreSQL database, to be dropped when the test ends, and returns its URL.
func NewPostgres(t testing.TB) string {
	t.Helper()
	super := os.Getenv("PARLEY_TEST_POSTGRES")
	if super == "" {
		Skip(t, "postgres", "PARLEY_TEST_POSTGRES is not set (test/postgres.sh starts a private cluster)")
	}
	u, err := url.Parse(super)
	if err != nil {
		t.Fatalf("PARLEY_TEST_POSTGRES: %v", err)
	}
	name := "parley_test_" + strings.ToLower(rand.Text()[:12])
	psql(t, super, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'", name))
	t.Cleanup(func() { psql(t, super, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)) })
	u.Path = "/" + name
	return u.String()
}

// psql runs one statement through PostgreSQL's own client, which comes with its server.
func psql(t testing.TB, url, sql string) {
	t.Helper()
	path, err := exec.LookPath("psql")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
		if len(found) == 0 {
			t.Fatal("no psql found, in PATH or in /usr/lib/postgresql")
		}
		path = slices.Max(found)
	}
	// Not the test's context: clean-up runs when that one has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql).CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %s: %v\n%s", sql, err, out)
	}
}
