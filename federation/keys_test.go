package federation_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"parley/federation"
	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/internal/testserver/testnet"
	"parley/storage/storagetest"
)

// identityOf is a node's identity, and its key.
func identityOf(t *testing.T, n *testnet.Net, name id.ServerName) (http.Handler, ed25519.PublicKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := remote.New(remote.Options{
		DB:   storagetest.Open(t, filepath.Join(t.TempDir(), "parley.db"), nil),
		Name: name, Keys: []keyring.SigningKey{{ID: "ed25519:1", Key: key}},
		Dial: n.Dial, LookupSRV: n.LookupSRV, TLS: n.TLS(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	api, err := httpapi.New(httpapi.Options{}, federation.Identity(c, "9"), federation.WellKnown("matrix."+name+":443"))
	if err != nil {
		t.Fatal(err)
	}
	return api, public
}

func ask(ctx context.Context, h http.Handler, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// spec: server-server-api.md#retrieving-server-keys
// spec: server-server-api.md#get_matrixkeyv2server
// spec: server-server-api.md#get_matrixfederationv1version
// spec: server-server-api.md#getwell-knownmatrixserver
func TestIdentity(t *testing.T) {
	n := testnet.New(t)
	a, aKey := identityOf(t, n, "a.org")
	b, bKey := identityOf(t, n, "b.org")
	n.Serve(t, "b.org:8448", []string{"b.org"}, b)
	signedBy := func(list, server string, key ed25519.PublicKey) {
		t.Helper()
		sig := gjson.Get(list, "signatures."+strings.ReplaceAll(server, ".", `\.`)+".ed25519:1").Str
		if err := signedjson.Verify([]byte(list), base64.RawStdEncoding.EncodeToString(key), sig); err != nil {
			t.Errorf("signature of %s on %s: %v", server, list, err)
		}
	}

	for path, want := range map[string]string{
		"/_matrix/federation/v1/version": `{"server":{"name":"Parley","version":"9"}}`,
		"/.well-known/matrix/server":     `{"m.server":"matrix.a.org:443"}`,
	} {
		if status, body := ask(t.Context(), a, "GET", path, ""); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %s, want %s", path, status, body, want)
		}
	}
	for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/"} {
		status, list := ask(t.Context(), a, "GET", path, "")
		if _, err := keyring.ParseList([]byte(list), "a.org"); status != http.StatusOK || err != nil {
			t.Errorf("%s: %d %s, %v", path, status, list, err)
		}
		signedBy(list, "a.org", aKey)
	}

	// As a notary, of itself, of one that answers and of one that does not.
	lists := func(method, path, body string, servers ...string) []gjson.Result {
		t.Helper()
		status, answer := ask(t.Context(), a, method, path, body)
		got := gjson.Get(answer, "server_keys")
		if status != http.StatusOK || !got.IsArray() || len(got.Array()) != len(servers) {
			t.Fatalf("%s %s: %d %s, want lists of %v", method, path, status, answer, servers)
		}
		for i, list := range got.Array() {
			if name := list.Get("server_name").Str; name != servers[i] {
				t.Errorf("%s %s: list %d is of %s, want %s", method, path, i, name, servers[i])
			}
			signedBy(list.Raw, "a.org", aKey)
		}
		return got.Array()
	}
	of := func(server string) string { return `"` + server + `":{"ed25519:1":{"minimum_valid_until_ts":1234}}` }
	signedBy(lists("GET", "/_matrix/key/v2/query/b.org?minimum_valid_until_ts=5", "", "b.org")[0].Raw, "b.org", bKey)
	lists("GET", "/_matrix/key/v2/query/a.org", "", "a.org")
	lists("GET", "/_matrix/key/v2/query/nowhere.org", "")
	lists("POST", "/_matrix/key/v2/query", `{"server_keys":{}}`)
	lists("POST", "/_matrix/key/v2/query", `{"server_keys":{"b.org":{}}}`, "b.org")
	signedBy(lists("POST", "/_matrix/key/v2/query", `{"server_keys":{`+of("nowhere.org")+`,`+of("b.org")+`,`+of("a.org")+`}}`, "a.org", "b.org")[1].Raw, "b.org", bKey)

	var many []string
	for i := range 101 {
		many = append(many, of(fmt.Sprintf("s%d.org", i)))
	}
	n.Dialed()
	for _, tt := range []struct{ method, path, body string }{
		{"GET", "/_matrix/key/v2/query/a%20b", ""},
		{"GET", "/_matrix/key/v2/query/a.org?minimum_valid_until_ts=soon", ""},
		{"POST", "/_matrix/key/v2/query", ``},
		{"POST", "/_matrix/key/v2/query", `{"server_keys":[]}`},
		{"POST", "/_matrix/key/v2/query", `{"server_keys":{"a b":{}}}`},
		{"POST", "/_matrix/key/v2/query", `{"server_keys":{` + strings.Join(many, ",") + `}}`},
	} {
		if status, body := ask(t.Context(), a, tt.method, tt.path, tt.body); status != http.StatusBadRequest || gjson.Get(body, "errcode").Str == "" {
			t.Errorf("%s %s %.50s: %d %s", tt.method, tt.path, tt.body, status, body)
		}
	}
	if got := n.Dialed(); len(got) != 0 {
		t.Errorf("for requests that were refused, %v were dialled", got)
	}
}
