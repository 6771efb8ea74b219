// Package remote is what we ask of other servers: it finds them, connects to them by TLS, signs what we ask,
// and bounds what they may answer in size and time. It keeps the keys with which they sign, and
// checks by them the requests that they make of us.
//
// [Client] has a method for each request of the server-server API. It judges no event: what a
// method returns is within its bounds, and JSON, and no more is promised.
//
// spec: server-server-api.md
package remote

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

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/prometheus/client_golang/prometheus"

	"parley/federation/remote/discovery"
	"parley/federation/remote/keyring"
	"parley/internal/id"
	"parley/storage"
)

// Options is what a client needs. DB, Name and Keys must be given; the rest has defaults.
type Options struct {
	DB *storage.DB
	// Name is this server's. It signs with the first of Keys, and publishes all of them and
	// OldKeys.
	Name    id.ServerName
	Keys    []keyring.SigningKey
	OldKeys map[string]keyring.Key
	// Notaries are asked for the keys of servers that don't answer.
	Notaries []id.ServerName
	// Policy is which servers to have to do with.
	Policy Policy
	// Dial connects to "host:port", and to nothing where nothing of ours may go.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// LookupSRV and LookupNetIP are those of net.Resolver; the second is for [Inspect] alone.
	LookupSRV   func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// TLS says how certificates are checked.
	TLS *tls.Config
	// UserAgent names us.
	UserAgent string
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	// Now is the clock.
	Now func() time.Time
}

// Client asks other servers. It is safe for concurrent use.
type Client struct {
	o         Options
	finder    *discovery.Resolver
	keys      *keyring.Ring
	down      *down
	transport *http.Transport
	identity  *http.Client // for identity servers, which are found as websites are
	tls       *tls.Config
	metrics   *metrics
	// large has a place for each answer of megabytes that may be in memory at the same time.
	large chan struct{}
}

// largeAtOnce is how many answers of the largest kind may be read at the same time.
const largeAtOnce = 8

// How many connections are kept, and for how long the making of one may take.
const (
	idleConns     = 1024
	idlePerServer = 8
	idleTime      = 2 * time.Minute
	connsToServer = 64
	dialTime      = 10 * time.Second
	handshakeTime = 10 * time.Second
)

// New makes a client; Close ends it.
func New(o Options) (*Client, error) {
	if o.DB == nil || o.Name == "" || len(o.Keys) == 0 {
		return nil, errors.New("remote: database, name and signing keys must be given")
	}
	c, err := newAsker(o)
	if err != nil {
		return nil, err
	}
	c.keys, err = keyring.New(keyring.Options{
		DB: o.DB, Name: o.Name, Keys: o.Keys, OldKeys: o.OldKeys, Notaries: o.Notaries,
		Fetch: c.ServerKeys, Query: c.queryKeys, Log: c.o.Log, Metrics: o.Metrics, Now: c.o.Now,
	})
	return c, err
}

// newAsker makes a client that can ask what needs no signature, and has no keys.
func newAsker(o Options) (*Client, error) {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
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
	if o.LookupNetIP == nil {
		o.LookupNetIP = net.DefaultResolver.LookupNetIP
	}
	finder, err := discovery.New(discovery.Options{
		Dial: o.Dial, LookupSRV: o.LookupSRV, TLS: o.TLS, UserAgent: o.UserAgent, Log: o.Log, Now: o.Now,
	})
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, finder: finder, tls: o.TLS.Clone(), large: make(chan struct{}, largeAtOnce)}
	c.tls.NextProtos = []string{"h2", "http/1.1"}
	c.transport = &http.Transport{
		DialTLSContext:         c.dialTLS,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idlePerServer,
		MaxConnsPerHost:        connsToServer,
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: 64 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	c.identity = newIdentityClient(&o)
	if c.down, err = newDown(o.Now); err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	c.metrics, err = newMetrics(o.Metrics, c.down)
	return c, err
}

// Close ends what runs, and waits for it.
func (c *Client) Close() {
	if c.keys != nil {
		c.keys.Close()
	}
	c.finder.Close()
	c.transport.CloseIdleConnections()
}

// Name is this server's name.
func (c *Client) Name() id.ServerName { return c.o.Name }

// Allows says whether this node has to do with a server.
func (c *Client) Allows(server id.ServerName) bool { return c.o.Policy.Allows(server) }

// Keys is the key ring.
func (c *Client) Keys() *keyring.Ring { return c.keys }

// VerifyJSONs implements gomatrixserverlib.JSONVerifier by the key ring.
func (c *Client) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	return c.keys.VerifyJSONs(ctx, requests)
}

// noPort is what stands in a URL for the port of a name that has none: connections are shared by the URL's host
// and port, and a name without a port is another than the same with one.
const noPort = ":0"

// poolKey is the host of a URL for a name that Delegate gave.
func poolKey(name id.ServerName) string {
	if i := strings.LastIndexByte(string(name), ':'); i > strings.LastIndexByte(string(name), ']') {
		return string(name)
	}
	return string(name) + noPort
}

// dialTLS connects to the server that a pool key stands for.
//
// spec: server-server-api.md#resolving-server-names
func (c *Client) dialTLS(ctx context.Context, network, key string) (net.Conn, error) {
	name := id.ServerName(strings.TrimSuffix(key, noPort))
	location, err := c.finder.Locate(ctx, name)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, address := range location.Addresses() {
		conn, err := c.connect(ctx, network, address, location.TLSName)
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", address, err))
		if ctx.Err() != nil {
			break
		}
	}
	c.finder.Forget(name)
	return nil, failed
}

// connect makes one connection, and has the other side prove whose it is.
func (c *Client) connect(ctx context.Context, network, address, tlsName string) (*tls.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	raw, err := c.o.Dial(dialing, network, address)
	cancel()
	if err != nil {
		return nil, err
	}
	cfg := c.tls.Clone()
	cfg.ServerName = tlsName
	conn := tls.Client(raw, cfg)
	shaking, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(shaking); err != nil {
		return nil, errors.Join(err, ignoreClosed(raw.Close()))
	}
	return conn, nil
}

// ignoreClosed is for a connection that a failed handshake may have closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
