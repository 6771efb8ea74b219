package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// ErrNotFound says that a query that promised one row found none.
var ErrNotFound = errors.New("no such row")

// maxStatements bounds the prepared statements that one connection keeps. Queries are
// constants, so this is far above what there are.
const maxStatements = 1000

// conn is one connection with its prepared statements. Only one goroutine uses it at a time.
type conn struct {
	db    *DB
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

func (db *DB) newConn(ctx context.Context, pool *sql.DB) (*conn, error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &conn{db: db, c: c, stmts: make(map[string]*sql.Stmt)}, nil
}

func (c *conn) close() {
	for _, s := range c.stmts {
		s.Close()
	}
	c.c.Close()
}

// stmt gives the prepared form of query, which must be a constant of the program.
func (c *conn) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	if len(c.stmts) >= maxStatements {
		for q, s := range c.stmts {
			s.Close()
			delete(c.stmts, q)
		}
	}
	s, err := c.c.PrepareContext(ctx, c.db.dialect.rewrite(query))
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, err)
	}
	c.stmts[query] = s
	return s, nil
}

// exec runs a statement of ours that takes no arguments, such as BEGIN, prepared as the rest.
func (c *conn) exec(ctx context.Context, query string) error {
	s, err := c.stmt(ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx)
	return err
}
