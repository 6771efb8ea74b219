package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"parley/internal/id"
)

// Tx is a transaction: a read-only snapshot inside [DB.Read], a share in a group's
// transaction inside [DB.Write]. It is valid only until the function that got it returns.
type Tx struct {
	ctx     context.Context
	conn    *conn
	writing bool

	wrote       bool
	sqlFailed   bool
	onPos       []posRequest
	afterCommit []func()
}

type posRequest struct {
	n  int
	fn func(first id.Pos) error
}

// Context is the context that the transaction's statements run under.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Dialect is the database that the transaction is in, for the few texts that differ.
func (tx *Tx) Dialect() Dialect { return tx.conn.db.dialect }

// OnPos asks for n positions of the log. When all functions of the group have run, fn gets
// the first of them; rows that carry a position are inserted there.
func (tx *Tx) OnPos(n int, fn func(first id.Pos) error) {
	tx.onPos = append(tx.onPos, posRequest{n, fn})
}

// AfterCommit has fn run once the transaction is durable, and never if it is not. It runs
// on the writer's goroutine and must not block.
func (tx *Tx) AfterCommit(fn func()) { tx.afterCommit = append(tx.afterCommit, fn) }

func (tx *Tx) args(args []any) ([]any, error) {
	for i, a := range args {
		v, err := tx.conn.db.dialect.arg(a)
		if err != nil {
			return nil, err
		}
		args[i] = v
	}
	return args, nil
}

// Exec runs a statement and says how many rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	if !tx.writing {
		return 0, errors.New("exec in a read-only transaction")
	}
	args, err := tx.args(args)
	if err != nil {
		return 0, err
	}
	s, err := tx.conn.stmt(tx.ctx, query)
	if err != nil {
		return 0, tx.failed(err)
	}
	tx.wrote = true
	r, err := s.ExecContext(tx.ctx, args...)
	if err != nil {
		return 0, tx.failed(fmt.Errorf("%s: %w", query, err))
	}
	n, err := r.RowsAffected()
	return n, err
}

// QueryRow runs a query and scans its first row into dest. No row is [ErrNotFound].
func (tx *Tx) QueryRow(query string, args []any, dest ...any) error {
	args, err := tx.args(args)
	if err != nil {
		return err
	}
	s, err := tx.conn.stmt(tx.ctx, query)
	if err != nil {
		return tx.failed(err)
	}
	// A query may write, too: INSERT … RETURNING.
	tx.wrote = tx.wrote || tx.writing && !isSelect(query)
	err = s.QueryRowContext(tx.ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return tx.failed(fmt.Errorf("%s: %w", query, err))
	}
	return nil
}

// Scanner is a row to be scanned.
type Scanner interface{ Scan(dest ...any) error }

// Query runs a query and calls each for every row.
func (tx *Tx) Query(query string, args []any, each func(row Scanner) error) (err error) {
	args, err = tx.args(args)
	if err != nil {
		return err
	}
	s, err := tx.conn.stmt(tx.ctx, query)
	if err != nil {
		return tx.failed(err)
	}
	tx.wrote = tx.wrote || tx.writing && !isSelect(query)
	rows, err := s.QueryContext(tx.ctx, args...)
	if err != nil {
		return tx.failed(fmt.Errorf("%s: %w", query, err))
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return tx.failed(fmt.Errorf("%s: %w", query, err))
	}
	return nil
}

// List runs a query and gathers what scan makes of each row.
func List[T any](tx *Tx, scan func(Scanner) (T, error), query string, args ...any) ([]T, error) {
	var out []T
	err := tx.Query(query, args, func(row Scanner) error {
		v, err := scan(row)
		if err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	return out, err
}

// failed notes that the database refused something, after which PostgreSQL takes nothing
// more in the transaction.
func (tx *Tx) failed(err error) error {
	tx.sqlFailed = true
	return err
}

func isSelect(query string) bool {
	for i := range len(query) {
		switch query[i] {
		case ' ', '\n', '\t':
		case 'S', 's', 'W', 'w': // SELECT, WITH
			return true
		default:
			return false
		}
	}
	return true
}

// Writing says whether the transaction may write, and so may yet be rolled back.
func (tx *Tx) Writing() bool { return tx.writing }
