package signedjson

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// field is one of an object, written at out[from:to], with its name as it is compared.
type field struct {
	name     []byte
	from, to int
}

// appendText appends the first value of a text, which must be JSON, in canonical form, and gives what follows it. It
// makes nothing of the values: in memory, a list of zeros is many times longer than its text.
func appendText(out, t []byte, number numberWriter) (_, rest []byte, err error) {
	t = skipSpace(t)
	switch c := t[0]; {
	case c == '{':
		return appendObject(out, t[1:], number)
	case c == '[':
		return appendArray(out, t[1:], number)
	case c == '"':
		out, _, t, err = appendQuoted(out, t)
		return out, t, err
	case c == '-' || c >= '0' && c <= '9':
		end := len(t) - len(bytes.TrimLeft(t, "+-.0123456789eE"))
		out, err = number(out, json.Number(t[:end]))
		return out, t[end:], err
	default: // true, false and null
		end := len(t) - len(bytes.TrimLeft(t, "aeflnrstu"))
		return append(out, t[:end]...), t[end:], nil
	}
}

func skipSpace(t []byte) []byte { return bytes.TrimLeft(t, " \t\r\n") }

// appendArray appends what follows the opening bracket.
func appendArray(out, t []byte, number numberWriter) (_, rest []byte, err error) {
	out = append(out, '[')
	if t = skipSpace(t); t[0] == ']' {
		return append(out, ']'), t[1:], nil
	}
	for {
		if out, t, err = appendText(out, t, number); err != nil {
			return nil, nil, err
		}
		if t = skipSpace(t); t[0] == ']' {
			return append(out, ']'), t[1:], nil
		}
		out, t = append(out, ','), t[1:]
	}
}

// appendObject appends what follows the opening brace: the fields by their names, and of those of one name the last.
func appendObject(out, t []byte, number numberWriter) (_, rest []byte, err error) {
	out = append(out, '{')
	begin := len(out)
	var fields []field
	ordered := true
	for t = skipSpace(t); t[0] != '}'; t = skipSpace(t) {
		if t[0] == ',' {
			out, t = append(out, ','), skipSpace(t[1:])
		}
		f := field{from: len(out)}
		if out, f.name, t, err = appendQuoted(out, t); err != nil {
			return nil, nil, err
		}
		out, t = append(out, ':'), skipSpace(t)[1:]
		if out, t, err = appendText(out, t, number); err != nil {
			return nil, nil, err
		}
		f.to = len(out)
		ordered = ordered && (len(fields) == 0 || bytes.Compare(fields[len(fields)-1].name, f.name) < 0)
		fields = append(fields, f)
	}
	if !ordered {
		out = reorder(out, begin, fields)
	}
	return append(out, '}'), t[1:], nil
}

// reorder brings the fields that were written from begin on into order.
func reorder(out []byte, begin int, fields []field) []byte {
	// Byte order of UTF-8 is the order of code points.
	slices.SortStableFunc(fields, func(x, y field) int { return bytes.Compare(x.name, y.name) })
	written := bytes.Clone(out[begin:])
	out = out[:begin]
	for i, f := range fields {
		if i+1 < len(fields) && bytes.Equal(f.name, fields[i+1].name) {
			continue
		}
		if len(out) > begin {
			out = append(out, ',')
		}
		out = append(out, written[f.from-begin:f.to-begin]...)
	}
	return out
}

// appendQuoted appends the string that a text begins with, and gives what it says and what follows it.
func appendQuoted(out, t []byte) (_, says, rest []byte, err error) {
	end := 1
	for ; t[end] != '"'; end++ {
		if t[end] == '\\' {
			end++
		}
	}
	says, rest = t[1:end], t[end+1:]
	if bytes.IndexByte(says, '\\') < 0 && utf8.Valid(says) {
		return append(out, t[:end+1]...), says, rest, nil
	}
	var s string
	if err := json.Unmarshal(t[:end+1], &s); err != nil {
		return nil, nil, nil, err
	}
	return appendString(out, s), []byte(s), rest, nil
}
