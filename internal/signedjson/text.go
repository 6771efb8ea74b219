package signedjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// field is one of an object, written at out[from:to]. There may be very many, in a text that is far below 4 GiB.
type field struct{ from, to uint32 }

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
		return appendQuoted(out, t)
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
		f := field{from: uint32(len(out))}
		if out, t, err = appendQuoted(out, t); err != nil {
			return nil, nil, err
		}
		out, t = append(out, ':'), skipSpace(t)[1:]
		if out, t, err = appendText(out, t, number); err != nil {
			return nil, nil, err
		}
		f.to = uint32(len(out))
		ordered = ordered && (len(fields) == 0 || compareNames(out[fields[len(fields)-1].from:], out[f.from:]) < 0)
		fields = append(fields, f)
	}
	if !ordered {
		out = reorder(out, begin, fields)
	}
	return append(out, '}'), t[1:], nil
}

// reorder brings the fields that were written from begin on into order.
func reorder(out []byte, begin int, fields []field) []byte {
	written := bytes.Clone(out[begin:])
	text := func(f field) []byte { return written[int(f.from)-begin : int(f.to)-begin] }
	slices.SortStableFunc(fields, func(x, y field) int { return compareNames(text(x), text(y)) })
	out = out[:begin]
	for i, f := range fields {
		if i+1 < len(fields) && compareNames(text(f), text(fields[i+1])) == 0 {
			continue
		}
		if len(out) > begin {
			out = append(out, ',')
		}
		out = append(out, text(f)...)
	}
	return out
}

// compareNames compares the strings in canonical form that two texts begin with, by what they say. Byte order of UTF-8 is
// the order of code points.
func compareNames(x, y []byte) int {
	for x, y = x[1:], y[1:]; ; {
		var a, b int
		a, x = letter(x)
		b, y = letter(y)
		if a != b || a < 0 {
			return cmp.Compare(a, b)
		}
	}
}

// letter is the next byte that a string in canonical form says, -1 at its end.
func letter(s []byte) (c int, rest []byte) {
	switch {
	case s[0] == '"':
		return -1, s
	case s[0] != '\\':
		return int(s[0]), s[1:]
	case s[1] == 'u': // one below a space
		n, _ := strconv.ParseUint(string(s[2:6]), 16, 8)
		return int(n), s[6:]
	}
	return int(escaped[strings.IndexByte(escapes, s[1])]), s[2:]
}

// appendQuoted appends the string that a text begins with, and gives what follows it.
func appendQuoted(out, t []byte) (_, rest []byte, err error) {
	end := 1
	for ; t[end] != '"'; end++ {
		if t[end] == '\\' {
			end++
		}
	}
	quoted, rest := t[:end+1], t[end+1:]
	if bytes.IndexByte(quoted, '\\') < 0 && utf8.Valid(quoted) {
		return append(out, quoted...), rest, nil
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return nil, nil, err
	}
	return appendString(out, s), rest, nil
}
