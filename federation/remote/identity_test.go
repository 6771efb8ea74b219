package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCheckIdentityKey(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]string{"good+key": `{"valid":true}`, "bad": `{"valid":false}`, "odd": `[]`, "large": `{"pad":"` + strings.Repeat("x", identitySize) + `","valid":true}`}[r.URL.Query().Get("public_key")]
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, "/isvalid?public_key=good%2Bkey", http.StatusFound)
		case r.URL.Path != "/isvalid" || answer == "" || r.URL.Query().Get("x") != "y":
			http.NotFound(w, r)
		default:
			_, _ = w.Write([]byte(answer))
		}
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	o := Options{Dial: new(net.Dialer).DialContext, TLS: &tls.Config{RootCAs: roots}}
	c := &Client{o: o, identity: newIdentityClient(&o)}
	for _, q := range []struct {
		url, key   string
		valid, err bool
	}{
		{server.URL + "/isvalid?x=y", "good+key", true, false},
		{server.URL + "/isvalid?x=y", "bad", false, false},
		{server.URL + "/isvalid?x=y", "odd", false, true},
		{server.URL + "/isvalid?x=y", "large", false, true},
		{server.URL + "/isvalid?x=y", "unknown", false, true},
		{server.URL + "/away", "good+key", false, true},
		{strings.Replace(server.URL, "https", "http", 1) + "/isvalid?x=y", "good+key", false, true},
		{"file:///etc/passwd", "good+key", false, true},
		{"https:///isvalid", "good+key", false, true},
		{":", "good+key", false, true},
	} {
		if valid, err := c.CheckIdentityKey(context.Background(), q.url, q.key); valid != q.valid || (err != nil) != q.err {
			t.Errorf("%s of %s: %v, %v", q.key, q.url, valid, err)
		}
	}
}
