package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"parley/config"
	"parley/internal/testserver/testnet"
)

// writeCertificate writes a certificate for hosts, and its key, into files of a folder.
func writeCertificate(t *testing.T, n *testnet.Net, dir string, hosts ...string) (cert, key string) {
	t.Helper()
	c := n.Certificate(t, hosts...)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	// The way of those who renew certificates: never a half of a file under its name.
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		key:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestCertificateIsReadAnew(t *testing.T) {
	n, dir := testnet.New(t), t.TempDir()
	cert, key := writeCertificate(t, n, dir, "old.org")
	c, err := certificates(config.Listener{TLSCertificate: config.Path(cert), TLSKey: config.Path(key)}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	want := func(what, host string) {
		t.Helper()
		got, err := c.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil || leaf.DNSNames[0] != host {
			t.Errorf("%s: the certificate is for %v, %v; want %s", what, leaf.DNSNames, err, host)
		}
	}
	want("at first", "old.org")
	writeCertificate(t, n, dir, "new.org")
	want("replaced", "new.org")
	if err := os.WriteFile(cert, []byte("half of i"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("broken", "new.org")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	want("gone", "new.org")
	writeCertificate(t, n, dir, "newest.org")
	want("back", "newest.org")
	if _, err := certificates(config.Listener{TLSCertificate: "nowhere.pem", TLSKey: "nowhere.pem"}, nil, nil); err == nil {
		t.Error("a certificate that is not there is used")
	}
}

// What an authority gave is used from the data directory; for hosts that the operator did not name
// none is asked for; and the authority's questions over HTTP are answered.
func TestACME(t *testing.T) {
	n, dir := testnet.New(t), t.TempDir()
	asked := 0
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		http.Error(w, "no", http.StatusForbidden) // other than 5xx, which is tried again for minutes
	}))
	defer authority.Close()
	cfg := config.Default()
	cfg.ServerName, cfg.DataDir = "a.org", config.Path(dir)
	cfg.Listeners.Client.ACME = true
	cfg.ACME = config.ACME{Domains: []string{"matrix.a.org", "new.a.org"}, Directory: authority.URL, HTTPAddress: "127.0.0.1:0"}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	made := n.Certificate(t, "matrix.a.org")
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	kept := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate[0]})...)
	if err := os.MkdirAll(filepath.Join(dir, "acme"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "acme", "matrix.a.org"), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	parts, err := listeners(cfg, http.NotFoundHandler(), nil, nil, slog.New(slog.DiscardHandler))
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	get := func(host string) (*tls.Certificate, error) {
		return parts[0].certificates.GetCertificate(&tls.ClientHelloInfo{ServerName: host, SupportedVersions: []uint16{tls.VersionTLS13},
			CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256}})
	}
	if c, err := get("matrix.a.org"); err != nil || c.Leaf.DNSNames[0] != "matrix.a.org" {
		t.Errorf("the certificate that is kept: %v", err)
	}
	if _, err := get("evil.org"); err == nil || asked != 0 {
		t.Errorf("for another host: %v, the authority was asked %d times", err, asked)
	}
	if _, err := get("new.a.org"); err == nil || asked == 0 {
		t.Errorf("for a host without a certificate: %v, the authority was asked %d times", err, asked)
	}
	for path, status := range map[string]int{"/.well-known/acme-challenge/x": http.StatusNotFound, "/x": http.StatusFound} {
		w := httptest.NewRecorder()
		parts[1].handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://matrix.a.org"+path, nil))
		if w.Code != status {
			t.Errorf("%s over plain HTTP: %d, want %d", path, w.Code, status)
		}
	}
}

// freeAddress is one of this machine where nobody listens just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Other servers are answered where the operator wants, with the certificate of the files, and nowhere
// when federation is off.
func TestFederationListener(t *testing.T) {
	n := testnet.New(t)
	cert, key := writeCertificate(t, n, t.TempDir(), "a.org")
	for _, tt := range []struct {
		name, settings                     string
		onClients, onServers, wellKnownOff bool
	}{
		{name: "own listener", settings: "listeners: {client: {address: \"127.0.0.1:0\"}, federation: {address: \"FED\", tls_certificate: CERT, tls_key: KEY}}\nwell_known: {server: \"a.org:8448\"}", onServers: true},
		{name: "with the clients", settings: "listeners: {client: {address: \"127.0.0.1:0\"}}\nwell_known: {server: \"a.org:8448\"}", onClients: true},
		{name: "off", settings: "listeners: {client: {address: \"127.0.0.1:0\"}}\nfederation: {enabled: false}", wellKnownOff: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := freeAddress(t)
			file := filepath.Join(t.TempDir(), "parley.yaml")
			text := strings.NewReplacer("FED", address, "CERT", cert, "KEY", key).Replace("server_name: a.org\n" + tt.settings + "\n")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			clients, wait := serve(t, ctx, "--config", file)
			defer func() {
				cancel()
				wait()
			}()
			get := func(url string) (int, string) {
				t.Helper()
				transport := &http.Transport{TLSClientConfig: n.TLS(), DialContext: n.Dial}
				defer transport.CloseIdleConnections()
				resp, err := (&http.Client{Transport: transport}).Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp.StatusCode, string(body)
			}
			n.Host("a.org:8448", address)
			n.Host(strings.TrimPrefix(clients, "http://"), strings.TrimPrefix(clients, "http://"))
			check := func(base string, want bool) {
				t.Helper()
				// Who this node is can be asked wherever it is heard; all else is not there.
				status, body := get(base + "/_matrix/key/v2/server")
				known := tt.onClients || tt.onServers
				if known && (status != http.StatusOK || gjson.Get(body, "server_name").Str != "a.org") ||
					!known && (status != http.StatusNotFound || gjson.Get(body, "errcode").Str != "M_UNRECOGNIZED") {
					t.Errorf("%s: %d %s", base, status, body)
				}
				status, body = get(base + "/_matrix/federation/v1/publicRooms")
				if want && (status != http.StatusUnauthorized || gjson.Get(body, "errcode").Str == "M_UNRECOGNIZED") ||
					!want && (status != http.StatusNotFound || gjson.Get(body, "errcode").Str != "M_UNRECOGNIZED") {
					t.Errorf("%s: %d %s", base, status, body)
				}
			}
			check(clients, tt.onClients)
			if tt.onServers {
				check("https://a.org:8448", true)
			}
			if status, body := get(clients + "/.well-known/matrix/server"); !tt.wellKnownOff && body != `{"m.server":"a.org:8448"}` || tt.wellKnownOff && status != http.StatusNotFound {
				t.Errorf("the well-known file: %d %s", status, body)
			}
		})
	}
}
