package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// migration is one numbered script: "0002_accounts.sql".
type migration struct {
	version int
	name    string
	script  string
}

// migrate brings the schema to the newest version that the binary knows: each script in a
// transaction of its own, in order. A schema that is newer than the binary is refused, as
// running on it could lose what the newer version keeps there.
func (db *DB) migrate(ctx context.Context, files fs.FS) error {
	scripts, err := loadMigrations(files)
	if err != nil {
		return err
	}
	c, err := db.writePool.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer c.Close()
	// Two processes may start at once: the second waits for the first.
	if db.dialect == Postgres {
		const lock = 0x7061726c6579 // "parley"
		if _, err := c.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, lock); err != nil {
			return fmt.Errorf("lock for migration: %w", err)
		}
		defer c.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, lock)
	}
	if _, err := c.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL)`); err != nil {
		return fmt.Errorf("make the table of migrations: %w", err)
	}
	known := 0
	if len(scripts) > 0 {
		known = scripts[len(scripts)-1].version
	}
	for _, m := range scripts {
		if err := db.apply(ctx, c, m, known); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}

func (db *DB) apply(ctx context.Context, c *sql.Conn, m migration, known int) (err error) {
	if _, err := c.ExecContext(ctx, db.begin); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	var have sql.NullInt64
	if err := c.QueryRowContext(ctx, `SELECT MAX(version) FROM schema_migrations`).Scan(&have); err != nil {
		return err
	}
	if int(have.Int64) > known {
		return fmt.Errorf("the database has schema version %d, and this version of parley knows only up to %d: "+
			"run a newer parley, or restore the backup from before the upgrade", have.Int64, known)
	}
	if int(have.Int64) < m.version {
		for _, statement := range splitStatements(db.dialect.lines(m.script)) {
			if _, err := c.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%.60q: %w", statement, err)
			}
		}
		insert := db.dialect.rewrite(`INSERT INTO schema_migrations (version, name) VALUES ($1, $2)`)
		if _, err := c.ExecContext(ctx, insert, m.version, m.name); err != nil {
			return err
		}
	}
	_, err = c.ExecContext(ctx, "COMMIT")
	return err
}

func loadMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	slices.Sort(names)
	var out []migration
	for i, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: its number is not %d", name, i+1)
		}
		script, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		out = append(out, migration{version, name, string(script)})
	}
	return out, nil
}

// splitStatements cuts a script at each ';' that ends a line. Our scripts have no
// functions and no text with ';' at a line's end.
func splitStatements(script string) []string {
	var out []string
	var current strings.Builder
	for line := range strings.Lines(script) {
		code, _, _ := strings.Cut(line, "--")
		current.WriteString(code)
		if strings.HasSuffix(strings.TrimSpace(code), ";") {
			out = append(out, strings.TrimSpace(current.String()))
			current.Reset()
		}
	}
	if rest := strings.TrimSpace(current.String()); rest != "" {
		out = append(out, rest)
	}
	return out
}
