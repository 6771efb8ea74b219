package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Network is homeservers that talk to each other over TLS on loopback. Their certificates come from an authority that
// they alone trust, and each has the address that others reach it at as its name, so that nothing needs to be resolved.
// Between each server and the others stands a link that a test can cut.
type Network struct {
	// Authority is the file with the authority's certificate.
	Authority string

	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewNetwork makes a network without servers.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if external() != "" {
		t.Skip("a network needs servers that are ours to start")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{t: t, dir: t.TempDir(), cert: template, key: key}
	n.Authority = filepath.Join(n.dir, "authority.pem")
	writePEM(t, n.Authority, "CERTIFICATE", der)
	return n
}

// Certificate writes a certificate for loopback addresses and its key, and returns their files.
func (n *Network) Certificate(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: n.cert.NotBefore, NotAfter: n.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.cert, private.Public(), n.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certificate, "CERTIFICATE", der)
	writePEM(t, key, "PRIVATE KEY", keyDER)
	return certificate, key
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Parley starts a parley that is part of the network. Settings are added to its configuration, in which registration is
// open and the rate limits are off.
func (n *Network) Parley(t testing.TB, db Database, settings string) *Server {
	t.Helper()
	return n.ParleyConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n"+settings)
}

// ParleyConfigured is Parley with these settings and those that make it part of the network.
func (n *Network) ParleyConfigured(t testing.TB, db Database, settings string) *Server {
	t.Helper()
	address, metrics := freeAddress(t), freeAddress(t)
	link := NewLink(t, address)
	certificate, key := n.Certificate(t)
	s := newParley(t, db, "server_name: "+link.Address+"\n"+
		"listeners:\n  federation:\n    address: "+address+"\n    tls_certificate: "+certificate+"\n    tls_key: "+key+"\n"+
		"federation:\n  notaries: []\nmetrics:\n  address: "+metrics+"\n"+
		"outgoing:\n  allow_networks: [127.0.0.1]\n"+settings)
	s.Name, s.Link, s.Metrics = link.Address, link, "http://"+metrics+"/metrics"
	serve := s.program
	s.program = func() *exec.Cmd {
		cmd := serve()
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+n.Authority)
		return cmd
	}
	s.begin()
	return s
}

// Link is the way into a server for all others: an address on loopback from which bytes are passed on, as they come,
// to the one that the server listens at.
type Link struct {
	Address string

	to      string
	running sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

// NewLink makes a link to an address. It ends with the test.
func NewLink(t testing.TB, to string) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{Address: listener.Addr().String(), to: to, conns: map[net.Conn]struct{}{}}
	l.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.running.Go(func() { l.pass(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
		l.running.Wait()
	})
	return l
}

// Cut ends all connections and lets none through until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for conn := range l.conns {
		conn.Close()
	}
}

// Mend lets connections through again.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// pass copies in both directions until either side ends, or the link is cut.
func (l *Link) pass(from net.Conn) {
	defer from.Close()
	if !l.hold(from) {
		return
	}
	defer l.release(from)
	to, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer to.Close()
	if !l.hold(to) {
		return
	}
	defer l.release(to)
	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(from, to)
		from.Close()
	}()
	io.Copy(to, from)
	to.Close()
	<-back
}

// hold keeps a connection to be ended by Cut, and tells whether it may exist at all.
func (l *Link) hold(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *Link) release(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}
