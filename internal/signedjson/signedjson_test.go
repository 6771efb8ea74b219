package signedjson

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		// From the specification's examples.
		{"{}", "{}"},
		{"{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		{`{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
		// Beyond them.
		{`["\u2028\u0001\b\f\n\r\t\"\\\/<", true, false]`, "[\"\u2028\\u0001\\b\\f\\n\\r\\t\\\"\\\\/<\",true,false]"},
		{`{"b\"\\\n\u0000": 1, "a\":1},\"sender\":{\"b": 2}`, `{"a\":1},\"sender\":{\"b":2,"b\"\\\n\u0000":1}`},
		{`9007199254740991`, `9007199254740991`},
		{`{"\uD83D\uDE00":1,"\uFF5E":2}`, `{"～":2,"😀":1}`},
		{`9007199254740992`, ""},
		{`-9007199254740992`, ""},
		{`1.5`, ""},
		{`1e400`, ""},
		{`{"a":}`, ""},
		{`1 2`, ""},
	} {
		got, err := Canonical([]byte(test.in))
		if string(got) != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s became %s, %v", test.in, got, err)
		}
	}
}

func TestCanonicalOfOld(t *testing.T) {
	const in = `{"n": [1.50, 2e-3, 9007199254740993, -0], "a\"": "\u65E5"}`
	const want = `{"a\"":"日","n":[1.50,2e-3,9007199254740993,-0]}`
	if got, err := CanonicalOfOld([]byte(in)); string(got) != want || err != nil {
		t.Errorf("%s became %s, %v", in, got, err)
	}
}

// The specification's test vectors, with the public key that belongs to their signing key.
func TestVerify(t *testing.T) {
	const key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
	const one = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
	const two = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
	for _, test := range []struct {
		object, key, signature string
		good                   bool
	}{
		{`{"signatures":{"domain":{"ed25519:1":"` + one + `"}}}`, key, one, true},
		{`{"unsigned":{"a":1}}`, key, one, true},
		{`{"two":"Two","one":1}`, key, two, true},
		{`{"two":"Two","one":2}`, key, two, false},
		{`{"two":"Two","one":1}`, key, one, false},
		{`{"two":"Two","one":1}`, key, "", false},
		{`{"two":"Two","one":1}`, key, "%%", false},
		{`{"two":"Two","one":1}`, key[:10], two, false},
		{`null`, key, one, false},
		{`[]`, key, one, false},
	} {
		if err := Verify([]byte(test.object), test.key, test.signature); (err == nil) != test.good {
			t.Errorf("%s: %v", test.object, err)
		}
	}
}

// A text is written in the same way whether it is found to be canonical or not.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{}`, `[1,-0,1e2,"\u0000\ud800",null]`, `{"a":{"b":[{}]}}`, `{"a":[-1,0,999999999999999],"b":"\n\"é"}`,
		`{"a":1,"a":2}`, `{"b":1,"a":2}`, `{"signatures":{},"type":true,"unsigned":{"a":false}}`, `{"a":"\/"}`, "\"\x7f\"", "\"\xff\"", `{"a\n":1,"a!":2}`,
		`01`, `-`, `{"a":1,}`, `[1,]`, `9007199254740993`, `"\u000a"`, `"\u001f"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, form := range []struct {
			number            numberWriter
			canonical, signed func([]byte) ([]byte, error)
		}{{appendInteger, Canonical, Signed}, {appendNumber, CanonicalOfOld, SignedOfOld}} {
			once, err := form.canonical(text)
			if err != nil {
				if isCanonical(text) {
					t.Fatalf("%q is said to be canonical: %v", text, err)
				}
				continue
			}
			if !json.Valid(once) {
				t.Fatalf("%q became %q", text, once)
			}
			v, err := decode(text)
			if err != nil {
				t.Fatal(err)
			}
			if long, err := appendValue(nil, v, form.number); err != nil || !bytes.Equal(once, long) {
				t.Fatalf("%q became %q, and the long way %q, %v", text, once, long, err)
			}
			signed, err := form.signed(text)
			fields, ok := v.(map[string]any)
			if ok != (err == nil) {
				t.Fatalf("%q signed: %v", text, err)
			}
			if ok {
				delete(fields, "signatures")
				delete(fields, "unsigned")
				if long, longErr := appendValue(nil, fields, form.number); longErr != nil || !bytes.Equal(signed, long) {
					t.Fatalf("%q signed is %q, and the long way %q, %v", text, signed, long, longErr)
				}
			}
		}
	})
}

// What a stranger sends is brought into form before it is known who sent it, and must not cost many times its size.
func TestMemory(t *testing.T) {
	for name, text := range map[string]string{
		"a list":    `{"b":[0` + strings.Repeat(",0", 1<<20) + `],"a":0}`,
		"lists":     `{"b":[[]` + strings.Repeat(",[]", 1<<20) + `],"a":0}`,
		"an object": `{"b":{"":0` + strings.Repeat(`,"":0`, 1<<20) + `},"a":0}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Canonical([]byte(text)); err != nil {
			t.Error(err)
		}
		runtime.ReadMemStats(&after)
		if times := (after.TotalAlloc - before.TotalAlloc) / uint64(len(text)); times > 16 {
			t.Errorf("%s of %d bytes takes %d times that", name, len(text), times)
		} else {
			t.Logf("%s: %d times", name, times)
		}
	}
}

// The vectors of the specification.
//
// spec: appendices.md#json-signing
func TestSign(t *testing.T) {
	// The seed's last character has bits that are not part of it.
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	for _, tt := range []struct{ object, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"two":"Two","one":1}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
		{`{"signatures":null}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"signatures":{"x":{"ed25519:a":"AA"}},"unsigned":{"age":1}}`,
			`{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"},"x":{"ed25519:a":"AA"}},"unsigned":{"age":1}}`},
	} {
		got, err := Sign([]byte(tt.object), "domain", "ed25519:1", key)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s\ngot  %s, %v\nwant %s", tt.object, got, err, tt.want)
		}
	}
	for _, bad := range []string{`[]`, `null`, `{"a":1.5}`, `{"signatures":{"x":1}}`} {
		if got, err := Sign([]byte(bad), "domain", "ed25519:1", key); err == nil {
			t.Errorf("%s was signed: %s", bad, got)
		}
	}
}
