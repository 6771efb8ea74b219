package signedjson

import (
	"bytes"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// maxDepth bounds how deep a text may nest to be looked at without making values of it; deeper ones go the long way.
const maxDepth = 100

// isCanonical says whether a text is in canonical form already, as what servers send mostly is. It
// may say no of one that is, and then costs time alone.
func isCanonical(text []byte) bool {
	rest, ok := skipValue(text, 0)
	return ok && len(rest) == 0 && utf8.Valid(text)
}

func skipValue(t []byte, depth int) (rest []byte, ok bool) {
	if len(t) == 0 || depth > maxDepth {
		return nil, false
	}
	switch c := t[0]; {
	case c == '"':
		_, rest, ok = skipString(t)
		return rest, ok
	case c == '{':
		return skipObject(t[1:], depth)
	case c == '[':
		return skipArray(t[1:], depth)
	case c == '-' || c >= '0' && c <= '9':
		return skipInteger(t)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if rest, ok := bytes.CutPrefix(t, []byte(word)); ok {
			return rest, true
		}
	}
	return nil, false
}

// skipObject skips what follows the opening brace.
func skipObject(t []byte, depth int) (rest []byte, ok bool) {
	if len(t) > 0 && t[0] == '}' {
		return t[1:], true
	}
	for first, last := true, []byte(nil); ; first = false {
		key, after, ok := skipString(t)
		// A key with an escape is in another place than its bytes say.
		if !ok || bytes.IndexByte(key, '\\') >= 0 || !first && bytes.Compare(last, key) >= 0 || len(after) == 0 || after[0] != ':' {
			return nil, false
		}
		last = key
		if t, ok = skipValue(after[1:], depth+1); !ok || len(t) == 0 {
			return nil, false
		}
		switch t[0] {
		case '}':
			return t[1:], true
		case ',':
			t = t[1:]
		default:
			return nil, false
		}
	}
}

// skipArray skips what follows the opening bracket.
func skipArray(t []byte, depth int) (rest []byte, ok bool) {
	if len(t) > 0 && t[0] == ']' {
		return t[1:], true
	}
	for {
		if t, ok = skipValue(t, depth+1); !ok || len(t) == 0 {
			return nil, false
		}
		switch t[0] {
		case ']':
			return t[1:], true
		case ',':
			t = t[1:]
		default:
			return nil, false
		}
	}
}

// skipInteger skips a number that is surely in range.
func skipInteger(t []byte) (rest []byte, ok bool) {
	i := 0
	if t[0] == '-' {
		i++
	}
	begin := i
	for i < len(t) && t[i] >= '0' && t[i] <= '9' {
		i++
	}
	digits := t[begin:i]
	return t[i:], len(digits) > 0 && len(digits) <= 15 && (digits[0] != '0' || i == 1)
}

// skipString skips a string whose escapes are as short as they can be, and gives what is in it.
func skipString(t []byte) (in, rest []byte, ok bool) {
	if len(t) == 0 || t[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(t); i++ {
		switch c := t[i]; {
		case c == '"':
			return t[1:i], t[i+1:], true
		case c < 0x20:
			return nil, nil, false
		case c == '\\':
			// What has no letter of its own is rare.
			if i++; i == len(t) || bytes.IndexByte([]byte(`bfnrt"\`), t[i]) < 0 {
				return nil, nil, false
			}
		}
	}
	return nil, nil, false
}

// withoutSignatures is an object in canonical form without what is not signed.
func withoutSignatures(object []byte) []byte {
	out := append(make([]byte, 0, len(object)), '{')
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		if key.Raw != `"signatures"` && key.Raw != `"unsigned"` {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(append(append(out, key.Raw...), ':'), value.Raw...)
		}
		return true
	})
	return append(out, '}')
}
