// Package signedjson writes JSON in its canonical form and checks signatures of JSON objects,
// as clients make them for their keys. What of an event is signed is not its business:
// gomatrixserverlib knows. But that library's canonical JSON must not be used on what a client
// wrote: it leaves out the escapes of an object's keys, so that a key can close its object and
// go on with fields of the event around it.
//
// spec: appendices.md#signing-json
package signedjson

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"parley/internal/jsonshape"
)

// maxInteger is the greatest number that canonical JSON can have.
const maxInteger = 1<<53 - 1

// Canonical is a JSON text in canonical form.
//
// spec: appendices.md#canonical-json
func Canonical(text []byte) ([]byte, error) {
	return canonical(text, appendInteger)
}

// CanonicalOfOld is Canonical but for numbers, which stay as they are written: in the room
// versions before 6, events are signed that have numbers of any kind.
//
// spec: rooms/v6.md#canonical-json
func CanonicalOfOld(text []byte) ([]byte, error) {
	return canonical(text, appendNumber)
}

// numberWriter appends a number, or says why it can't.
type numberWriter func(out []byte, n json.Number) ([]byte, error)

func canonical(text []byte, number numberWriter) ([]byte, error) {
	if isCanonical(text) {
		return bytes.Clone(text), nil
	}
	return rewrite(text, number)
}

// rewrite is canonical for a text that isn't so already.
func rewrite(text []byte, number numberWriter) ([]byte, error) {
	if json.Valid(text) && !jsonshape.DeeperThan(text, maxDepth) {
		out, _, err := appendText(make([]byte, 0, len(text)), text, number)
		return out, err
	}
	v, err := decode(text)
	if err != nil {
		return nil, err
	}
	return appendValue(make([]byte, 0, len(text)), v, number)
}

func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("canonical JSON: there is more than one value")
	}
	return v, nil
}

func appendValue(out []byte, v any, number numberWriter) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(out, "null"...), nil
	case bool:
		return strconv.AppendBool(out, v), nil
	case string:
		return appendString(out, v), nil
	case json.Number:
		return number(out, v)
	case []any:
		out = append(out, '[')
		for i, e := range v {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendValue(out, e, number); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case map[string]any:
		out = append(out, '{')
		// Byte order of UTF-8 is the order of code points.
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, key), ':')
			if out, err = appendValue(out, v[key], number); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	return nil, fmt.Errorf("canonical JSON: cannot have a %T", v)
}

func appendInteger(out []byte, n json.Number) ([]byte, error) {
	i, err := integer(n)
	if err != nil {
		return nil, err
	}
	return strconv.AppendInt(out, i, 10), nil
}

func appendNumber(out []byte, n json.Number) ([]byte, error) { return append(out, n...), nil }

func integer(n json.Number) (int64, error) {
	i, err := n.Int64()
	if err != nil {
		// 1e3 is an integer, too, in another dress.
		f, ferr := n.Float64()
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > maxInteger {
			return 0, fmt.Errorf("canonical JSON: %.30s is not an integer that it can have", n)
		}
		i = int64(f)
	}
	if i > maxInteger || i < -maxInteger {
		return 0, fmt.Errorf("canonical JSON: %.30s is out of range", n)
	}
	return i, nil
}

// escaped are the characters that have a short escape, escapes their letters.
const (
	escaped = "\b\f\n\r\t\"\\"
	escapes = `bfnrt"\`
)

func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for i := range len(s) {
		c := s[i]
		if j := strings.IndexByte(escaped, c); j >= 0 {
			out = append(out, '\\', escapes[j])
		} else if c < 0x20 {
			out = append(out, fmt.Sprintf(`\u%04x`, c)...)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// Signed is what of a JSON object is signed: all but its signatures and what is unsigned, in
// canonical form.
//
// spec: appendices.md#signing-details
func Signed(object []byte) ([]byte, error) { return signed(object, appendInteger) }

// SignedOfOld is Signed with numbers as [CanonicalOfOld] has them.
func SignedOfOld(object []byte) ([]byte, error) { return signed(object, appendNumber) }

func signed(object []byte, number numberWriter) ([]byte, error) {
	if !isCanonical(object) {
		var err error
		if object, err = rewrite(object, number); err != nil {
			return nil, fmt.Errorf("signed JSON: %w", err)
		}
	}
	if object[0] != '{' {
		return nil, errors.New("signed JSON: it is not an object")
	}
	return withoutSignatures(object), nil
}

// Sign is an object with one more signature.
//
// spec: appendices.md#signing-details
func Sign(object []byte, signer, keyID string, key ed25519.PrivateKey) ([]byte, error) {
	signed, err := Signed(object)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, fmt.Errorf("signed JSON: %w", err)
	}
	var signatures map[string]map[string]string
	if old, ok := fields["signatures"]; ok {
		if err := json.Unmarshal(old, &signatures); err != nil {
			return nil, fmt.Errorf("signed JSON: signatures: %w", err)
		}
	}
	if signatures == nil {
		signatures = make(map[string]map[string]string)
	}
	if signatures[signer] == nil {
		signatures[signer] = make(map[string]string)
	}
	signatures[signer][keyID] = base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, signed))
	if fields["signatures"], err = json.Marshal(signatures); err != nil {
		return nil, fmt.Errorf("signed JSON: %w", err)
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("signed JSON: %w", err)
	}
	return out, nil
}

// ErrSignature says that a signature is not that of the key.
var ErrSignature = errors.New("the signature is wrong")

// Verify checks a signature of an object. Key and signature are in unpadded base64.
//
// spec: appendices.md#checking-for-a-signature
func Verify(object []byte, key, signature string) error {
	public, err := base64.RawStdEncoding.DecodeString(key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return errors.New("the key is not an ed25519 key in unpadded base64")
	}
	sig, err := base64.RawStdEncoding.DecodeString(signature)
	if err != nil {
		return ErrSignature
	}
	signed, err := Signed(object)
	if err != nil {
		return err
	}
	if !ed25519.Verify(public, signed, sig) {
		return ErrSignature
	}
	return nil
}
