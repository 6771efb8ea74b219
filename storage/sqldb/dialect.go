package sqldb

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/lib/pq"
	"modernc.org/sqlite"
)

// Dialect is which of the two databases is spoken to.
type Dialect int

// The two databases.
const (
	SQLite Dialect = iota
	Postgres
)

// String is the dialect's name as in migrations' line marks.
func (d Dialect) String() string {
	if d == Postgres {
		return "postgres"
	}
	return "sqlite"
}

// rewrite turns a query in PostgreSQL's spelling into the dialect's own:
//
//	$1            -> ?1
//	= ANY($1)     -> IN (SELECT value FROM json_each(?1))
//	FOR UPDATE    -> (nothing: SQLite has one writer)
//	FOR UPDATE SKIP LOCKED likewise
//	LIMIT $1      -> LIMIT 0+?1 (or SQLite plans the statement anew for each limit)
//
// Text in single quotes stays as it is.
func (d Dialect) rewrite(query string) string {
	if d == Postgres {
		return query
	}
	var out strings.Builder
	out.Grow(len(query) + 32)
	for i := 0; i < len(query); {
		rest := query[i:]
		switch {
		case rest[0] == '\'':
			end := strings.IndexByte(rest[1:], '\'')
			if end < 0 {
				end = len(rest) - 2
			}
			out.WriteString(rest[:end+2])
			i += end + 2
		case strings.HasPrefix(rest, "= ANY($"):
			n := digits(rest[7:])
			fmt.Fprintf(&out, "IN (SELECT value FROM json_each(?%s))", rest[7:7+n])
			i += 7 + n + 1
		case strings.HasPrefix(rest, "LIMIT $"):
			out.WriteString("LIMIT 0+")
			i += len("LIMIT ")
		case rest[0] == '$' && digits(rest[1:]) > 0:
			out.WriteByte('?')
			i++
		case strings.HasPrefix(rest, " FOR UPDATE SKIP LOCKED"):
			i += len(" FOR UPDATE SKIP LOCKED")
		case strings.HasPrefix(rest, " FOR UPDATE"):
			i += len(" FOR UPDATE")
		default:
			out.WriteByte(rest[0])
			i++
		}
	}
	return out.String()
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// list is a query argument of many values, for "= ANY($1)".
type list struct{ values any }

// Array makes a query argument of many values, for a place that reads "= ANY($1)".
func Array[T ~int64 | ~string](values []T) any {
	if reflect.TypeFor[T]().Kind() != reflect.String {
		return list{values}
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = text(reflect.ValueOf(v))
	}
	return list{texts}
}

// text is a text as both databases can have it. PostgreSQL has none with NUL or with what is not UTF-8, which
// strangers can put into whatever is looked up or kept; U+FFFD stands for it.
func text(v reflect.Value) string {
	return strings.ToValidUTF8(strings.ReplaceAll(v.String(), "\x00", "\ufffd"), "\ufffd")
}

// arg turns one argument into what the driver takes.
func (d Dialect) arg(a any) (any, error) {
	l, ok := a.(list)
	if !ok {
		v := reflect.ValueOf(a)
		if v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.Kind() == reflect.String {
			return text(v), nil
		}
		return a, nil
	}
	if d == Postgres {
		return pq.Array(l.values), nil
	}
	b, err := json.Marshal(l.values)
	if err != nil {
		return nil, fmt.Errorf("encode list argument: %w", err)
	}
	if string(b) == "null" {
		return "[]", nil
	}
	return string(b), nil
}

// lines drops the lines of a migration that are marked for the other dialect: a line that
// ends with "-- sqlite" or "-- postgres" is for that database alone.
func (d Dialect) lines(script string) string {
	other := "-- " + SQLite.String()
	if d == SQLite {
		other = "-- " + Postgres.String()
	}
	var out []string
	for line := range strings.Lines(script) {
		if strings.HasSuffix(strings.TrimRight(line, " \t\n"), other) {
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

// isContention says whether err comes from two processes that waited for each other, or
// from a snapshot that another's commit overtook: running again may well succeed.
func isContention(err error) bool {
	var pe *pq.Error
	if errors.As(err, &pe) {
		return pe.Code == "40001" || pe.Code == "40P01"
	}
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == 5 // SQLITE_BUSY
}
