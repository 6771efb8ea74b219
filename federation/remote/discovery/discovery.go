// Package discovery finds where another server is: which name stands for it by its well-known
// file, which certificate it must show, and which addresses to try. It is not told what for,
// and trusts nobody: whoever answers there has to prove by TLS that they are who was meant.
//
// A server's name becomes an address in two steps, which are kept apart because the first
// decides who must be there and the second only where:
//
//	Delegate  example.org → matrix.example.org   the file at https://example.org/.well-known/…
//	Locate    matrix.example.org → host, ports   SRV records, or what the name says
//
// Connections can be shared by all servers that are delegated to one name.
//
// spec: server-server-api.md#resolving-server-names
package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"parley/internal/flight"
	"parley/internal/id"
)

// remembered bounds for how many names it is remembered where they are.
const remembered = 8192

// Options is what a resolver needs; all have defaults.
type Options struct {
	// Dial connects to "host:port"; it refuses addresses where nothing of ours may go.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// LookupSRV is that of net.Resolver.
	LookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	// TLS says how certificates are checked.
	TLS *tls.Config
	// UserAgent names us.
	UserAgent string
	Log       *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Resolver finds servers, and remembers for a while where they are.
type Resolver struct {
	lookup    func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	web       *http.Client
	userAgent string
	log       *slog.Logger
	now       func() time.Time

	delegations *lru.Cache[string, delegation]
	asking      *flight.Group[string, delegation]
	locations   *lru.Cache[string, located]
	locating    *flight.Group[string, located]
}

// New makes a resolver; Close ends it.
func New(o Options) (*Resolver, error) {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.LookupSRV == nil {
		o.LookupSRV = net.DefaultResolver.LookupSRV
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	delegations, err := lru.New[string, delegation](remembered)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	locations, err := lru.New[string, located](remembered)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	return &Resolver{
		lookup: o.LookupSRV, web: webClient(o), userAgent: o.UserAgent, log: o.Log, now: o.Now,
		delegations: delegations, asking: flight.New[string, delegation](),
		locations: locations, locating: flight.New[string, located](),
	}, nil
}

// Close ends what runs, and waits for it.
func (r *Resolver) Close() {
	r.asking.Close()
	r.locating.Close()
	r.web.CloseIdleConnections()
}

// Forget has the location of a name looked up anew, because nobody could be reached there.
func (r *Resolver) Forget(name id.ServerName) { r.locations.Remove(fold(name)) }

// ErrName says that a server has a name by which none can be found.
var ErrName = errors.New("no server can have this name")

// splitName takes a server name apart. literal says that the host is an IP address, which then
// has no brackets.
//
// spec: appendices.md#server-name
func splitName(name id.ServerName) (host, port string, literal bool, err error) {
	if _, err := id.ParseServerName(string(name)); err != nil {
		return "", "", false, fmt.Errorf("%w: %w", ErrName, err)
	}
	host = string(name)
	// In a name without brackets there is one colon at most.
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
		if strings.Trim(port, "0") == "" {
			return "", "", false, fmt.Errorf("%w: %s: port 0", ErrName, name)
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, notIP := netip.ParseAddr(host)
	return host, port, notIP == nil, nil
}

// fold makes one key of all spellings of a name.
func fold(name id.ServerName) string { return strings.ToLower(string(name)) }
