// Package testnet is a small internet on the loopback address, for tests of what finds servers and
// talks to them: names and SRV records as the test wants them, and a certificate authority.
package testnet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Net is the internet.
type Net struct {
	key   *ecdsa.PrivateKey
	root  *x509.Certificate
	roots *x509.CertPool

	mu     sync.Mutex
	serial int64
	hosts  map[string]string // "host:port" to where that is in truth
	srv    map[string][]*net.SRV
	broken map[string]error
	dialed []string

	addresses map[string][]netip.Addr
}

// New makes an internet without anything in it.
func New(t testing.TB) *Net {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testnet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	n := &Net{
		key: key, root: root, roots: x509.NewCertPool(), serial: 1,
		hosts: make(map[string]string), srv: make(map[string][]*net.SRV), broken: make(map[string]error),
		addresses: make(map[string][]netip.Addr),
	}
	n.roots.AddCert(root)
	return n
}

// TLS trusts the internet's certificate authority.
func (n *Net) TLS() *tls.Config { return &tls.Config{RootCAs: n.roots, MinVersion: tls.VersionTLS12} }

// Certificate is one for hosts and IP addresses.
func (n *Net) Certificate(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	n.mu.Lock()
	n.serial++
	serial := n.serial
	n.mu.Unlock()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.root, &key.PublicKey, n.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Serve has a handler answer with TLS at an address "host:port", with a certificate for the
// given names, and stops it at the end of the test or by the function that it returns.
func (n *Net) Serve(t testing.TB, address string, names []string, h http.Handler) (stop func()) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{n.Certificate(t, names...)}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // of clients that don't like the certificate
	s.StartTLS()
	t.Cleanup(s.Close)
	n.Host(address, s.Listener.Addr().String())
	return func() {
		s.CloseClientConnections()
		s.Close()
	}
}

// Host says where an address "host:port" is in truth.
func (n *Net) Host(address, truth string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = truth
}

// SRV sets the records of a name, "_matrix._tcp.example.org.".
func (n *Net) SRV(name string, records ...*net.SRV) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.srv[name] = records
}

// BreakSRV has the look-up of a name fail.
func (n *Net) BreakSRV(name string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[name] = err
}

// LookupSRV is what net.Resolver has.
func (n *Net) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := "_" + service + "._" + proto + "." + name
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.broken[full]; err != nil {
		return "", nil, err
	}
	if records := n.srv[full]; len(records) > 0 {
		return full, records, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: full, IsNotFound: true}
}

// Dial is what net.Dialer has.
func (n *Net) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, address)
	truth, ok := n.hosts[strings.ToLower(address)]
	n.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("nobody is at %s", address)}
	}
	return new(net.Dialer).DialContext(ctx, network, truth)
}

// Dialed are the addresses that were dialled since it was last asked.
func (n *Net) Dialed() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := slices.Clone(n.dialed)
	n.dialed = nil
	return out
}

// Address sets the addresses of a host.
func (n *Net) Address(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addresses {
		n.addresses[host] = append(n.addresses[host], netip.MustParseAddr(a))
	}
}

// LookupNetIP is what net.Resolver has.
func (n *Net) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.addresses[host]; len(a) > 0 {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}
