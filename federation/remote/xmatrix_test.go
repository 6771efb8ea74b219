package remote_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/testserver/testnet"
)

// spec: server-server-api.md#request-authentication
func TestParseAuthorization(t *testing.T) {
	good := remote.Authorization{Origin: "a.org", Destination: "b.org", Key: "ed25519:key1", Signature: "AB/+="}
	for _, header := range []string{
		`X-Matrix origin="a.org",destination="b.org",key="ed25519:key1",sig="AB/+="`,
		`x-matrix   origin="a.org",destination="b.org",key="ed25519:key1",sig="AB/+="`,
		`X-MATRIX sig="AB/+=" ,` + "\t" + `key="ed25519:key1"` + "\t ,  " + `destination="b.org",origin="a.org"`,
		`X-Matrix ORIGIN="a.org",Destination="b.org",kEy="ed25519:key1",SIG="AB/+="`,
		`X-Matrix origin=a.org,destination=b.org,key=ed25519:key1,sig=AB/+=`,
		`X-Matrix origin=a.org,destination=b.org,key="ed25519\:k\ey1",sig="AB\/+="`,
		`X-Matrix origin=a.org,destination=b.org,key="ed25519:key1",sig="AB/+=",more="x,y=\"z\"",other=1`,
		`X-Matrix origin=a.org,destination=b.org,key="ed25519:key1",signature="AB/+="`,
		`X-Matrix origin = a.org , destination= "b.org",key ="ed25519:key1",sig="AB/+="`,
		`X-Matrix ,, origin=a.org,,destination=b.org,key="ed25519:key1",sig="AB/+=",`,
	} {
		if got, err := remote.ParseAuthorization(header); err != nil || got != good {
			t.Errorf("%s\ngot %+v, %v", header, got, err)
		}
	}
	if a, err := remote.ParseAuthorization(`X-Matrix origin=a.org,key=k,sig=s`); err != nil || a.Destination != "" {
		t.Errorf("without a destination: %+v, %v", a, err)
	}
	for _, header := range []string{
		``, `X-Matrix`, `X-Matrix `, `Bearer abc`, `X-Matrixorigin=a.org,key=k,sig=s`,
		`X-Matrix origin=a.org,key=k`, `X-Matrix origin=a.org,sig=s`, `X-Matrix key=k,sig=s`,
		`X-Matrix origin="a.org,key=k,sig=s`, `X-Matrix origin="a.org\`, `X-Matrix origin="a.org"x,key=k,sig=s`,
		`X-Matrix origin=a.org key=k,sig=s`, `X-Matrix origin,key=k,sig=s`, `X-Matrix =a.org,key=k,sig=s`,
		`X-Matrix origin=a.org,origin=b.org,key=k,sig=s`, `X-Matrix origin="a b",key=k,sig=s`, `X-Matrix origin=a.org:x,key=k,sig=s`,
		`X-Matrix origin=a.org,key=k,sig=` + strings.Repeat("A", 5000),
	} {
		if got, err := remote.ParseAuthorization(header); err == nil {
			t.Errorf("%.100s was taken: %+v", header, got)
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add(`X-Matrix origin="a.org",destination="b.org",key="ed25519:key1",sig="ABCDEF"`)
	f.Add(`x-matrix sig=AB/+= ,` + "\t" + `key="ed\25519:key1",,origin=[::1]:8`)
	f.Fuzz(func(t *testing.T, header string) {
		a, err := remote.ParseAuthorization(header)
		if err != nil {
			return
		}
		if a.Origin == "" || a.Key == "" || a.Signature == "" {
			t.Fatalf("%q was taken: %+v", header, a)
		}
		if strings.ContainsAny(string(a.Destination)+a.Key+a.Signature, `"\`) {
			return // which we never write
		}
		if again, err := remote.ParseAuthorization(a.String()); err != nil || again != a {
			t.Fatalf("%q is %+v, and written anew %q it is %+v, %v", header, a, a.String(), again, err)
		}
	})
}

// A request counts only for what was signed: method, path, query, body, origin and destination.
func TestVerifyRequest(t *testing.T) {
	net := testnet.New(t)
	a, b := newNode(t, net, "a.org", nil), newNode(t, net, "b.org", func(o *remote.Options) {
		o.Policy.Deny = []string{"denied.*"}
	})
	a.serve(t)
	newNode(t, net, "denied.org", nil).serve(t)
	const path = "/_matrix/federation/v1/x/%21r%3Ax?a=%20b&c"
	sign := func(text string) string {
		return base64.RawStdEncoding.EncodeToString(ed25519.Sign(a.key, []byte(text)))
	}
	header := func(origin, sig string) string {
		return `X-Matrix origin="` + origin + `",destination="b.org",key="ed25519:1",sig="` + sig + `"`
	}
	const signedGet = `{"destination":"b.org","method":"GET","origin":"a.org","uri":"` + path + `"}`
	const signedPut = `{"content":{"f":1.50,"x":[1,"é"]},"destination":"b.org","method":"PUT","origin":"a.org","uri":"` + path + `"}`
	get, put := sign(signedGet), sign(signedPut)
	for _, tt := range []struct {
		name, method, path, body string
		headers                  []string
		want                     matrixerr.Code
	}{
		{name: "good", method: "GET", path: path, headers: []string{header("a.org", get)}},
		{name: "with body", method: "PUT", path: path, body: `{ "x" : [1, "\u00e9"], "f": 1.50 }`, headers: []string{header("a.org", put)}},
		{name: "two headers", method: "GET", path: path, headers: []string{header("a.org", put), header("a.org", get)}},
		{name: "no destination", method: "GET", path: path, headers: []string{
			`X-Matrix origin=a.org,key=ed25519:1,sig=` + sign(strings.Replace(signedGet, `"destination":"b.org",`, "", 1))}},
		{name: "destination dropped", method: "GET", path: path, headers: []string{`X-Matrix origin=a.org,key=ed25519:1,sig=` + get}, want: matrixerr.Unauthorized},
		{name: "no header", method: "GET", path: path, want: matrixerr.Unauthorized},
		{name: "other scheme", method: "GET", path: path, headers: []string{"Bearer x"}, want: matrixerr.Unauthorized},
		{name: "other method", method: "POST", path: path, headers: []string{header("a.org", get)}, want: matrixerr.Unauthorized},
		{name: "other path", method: "GET", path: path + "d", headers: []string{header("a.org", get)}, want: matrixerr.Unauthorized},
		{name: "same path in other spelling", method: "GET", path: strings.Replace(path, "%21", "!", 1), headers: []string{header("a.org", get)}, want: matrixerr.Unauthorized},
		{name: "other body", method: "PUT", path: path, body: `{"x":[2,"é"],"f":1.50}`, headers: []string{header("a.org", put)}, want: matrixerr.Unauthorized},
		{name: "no body", method: "PUT", path: path, headers: []string{header("a.org", put)}, want: matrixerr.Unauthorized},
		{name: "body that was not signed", method: "GET", path: path, body: `{}`, headers: []string{header("a.org", get)}, want: matrixerr.Unauthorized},
		{name: "body that is no JSON", method: "PUT", path: path, body: `{`, headers: []string{header("a.org", put)}, want: matrixerr.NotJSON},
		{name: "other key", method: "GET", path: path, headers: []string{strings.Replace(header("a.org", get), "ed25519:1", "ed25519:2", 1)}, want: matrixerr.Unauthorized},
		{name: "for another server", method: "GET", path: path, headers: []string{strings.Replace(header("a.org", get), `"b.org"`, `"c.org"`, 1)}, want: matrixerr.Unauthorized},
		{name: "from us", method: "GET", path: path, headers: []string{header("b.org", get)}, want: matrixerr.Unauthorized},
		{name: "from nowhere", method: "GET", path: path, headers: []string{header("nowhere.org", get)}, want: matrixerr.Unauthorized},
		{name: "denied", method: "GET", path: path, headers: []string{header("denied.org", get)}, want: matrixerr.Forbidden},
	} {
		req := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
		req.Header["Authorization"] = tt.headers
		origin, err := b.VerifyRequest(t.Context(), req, []byte(tt.body))
		if got := matrixerr.CodeOf(err); got != tt.want || (err == nil) != (origin == "a.org") || (err == nil) != (tt.want == "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, origin, err, tt.want)
		}
	}
}

// A key counts for requests as long as its server has said, and when that is over it is asked anew;
// a key that the server has put down counts for none.
func TestKeysOfRequests(t *testing.T) {
	net := testnet.New(t)
	a, b := newNode(t, net, "a.org", nil), newNode(t, net, "b.org", nil)
	stop := a.serve(t)
	ask := func(n *node, keyID string) error {
		req := httptest.NewRequest(http.MethodGet, "/x", nil)
		text := `{"destination":"b.org","method":"GET","origin":"a.org","uri":"/x"}`
		req.Header.Set("Authorization", remote.Authorization{Origin: "a.org", Destination: "b.org", Key: keyID,
			Signature: base64.RawStdEncoding.EncodeToString(ed25519.Sign(n.key, []byte(text)))}.String())
		_, err := b.VerifyRequest(t.Context(), req, nil)
		return err
	}
	if err := ask(a, "ed25519:1"); err != nil {
		t.Fatal(err)
	}
	stop()
	b.time.Pass(23 * time.Hour)
	if err := ask(a, "ed25519:1"); err != nil {
		t.Errorf("while the key is valid the server is not asked: %v", err)
	}
	b.time.Pass(2 * time.Hour)
	if err := ask(a, "ed25519:1"); !matrixerr.Is(err, matrixerr.Unauthorized) {
		t.Errorf("when it is no longer valid, and the server is gone: %v", err)
	}

	// It comes back with another key.
	again := newNode(t, net, "a.org", func(o *remote.Options) {
		o.OldKeys = map[string]keyring.Key{"ed25519:1": {Public: a.key.Public().(ed25519.PublicKey), Expired: b.time.Now().UnixMilli()}}
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Keys = []keyring.SigningKey{{ID: "ed25519:2", Key: key}}
	})
	again.time.Pass(25 * time.Hour)
	again.serve(t)
	b.time.Pass(time.Hour)
	if err := ask(a, "ed25519:1"); !matrixerr.Is(err, matrixerr.Unauthorized) {
		t.Errorf("by the old key: %v", err)
	}
	if err := ask(a, "ed25519:2"); !matrixerr.Is(err, matrixerr.Unauthorized) {
		t.Errorf("by the old key under the new one's name: %v", err)
	}
	if err := ask(again, "ed25519:2"); err != nil {
		t.Errorf("by the new key: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	for _, tt := range []struct {
		policy remote.Policy
		yes    []id.ServerName
		no     []id.ServerName
	}{
		{remote.Policy{}, []id.ServerName{"a.org", "[::1]:8448"}, nil},
		{remote.Policy{Deny: []string{"evil.org", "*.evil.org"}}, []id.ServerName{"notevil.org", "evil.org.uk"},
			[]id.ServerName{"evil.org", "EVIL.org", "x.y.evil.org", "evil.org:8448"}},
		{remote.Policy{Allow: []string{"a?.ORG", "[::1]", "b.org:1"}, Deny: []string{"ax.org"}}, []id.ServerName{"ab.org", "ab.org:99", "[::1]:8448", "[::1]", "b.org:1"},
			[]id.ServerName{"a.org", "ax.org", "ax.org:1", "b.org", "b.org:2", "[::2]"}},
		{remote.Policy{Deny: []string{"*"}}, nil, []id.ServerName{"a.org"}},
		{remote.Policy{Deny: []string{"*a*b*c?"}}, []id.ServerName{"abc", "bacd"}, []id.ServerName{"abcd", "xaxbxcx", "abcbcd"}},
	} {
		for _, server := range tt.yes {
			if !tt.policy.Allows(server) {
				t.Errorf("%+v is against %s", tt.policy, server)
			}
		}
		for _, server := range tt.no {
			if tt.policy.Allows(server) {
				t.Errorf("%+v is for %s", tt.policy, server)
			}
		}
	}
}
