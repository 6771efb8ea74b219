package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"parley/internal/id"
)

const (
	// defaultPort is that of the server-server API.
	defaultPort = "8448"
	// locationLife is for how long SRV records are remembered; Go's resolver does not tell how
	// long they may be.
	locationLife = 5 * time.Minute
	// doubtfulLife is for how long it is remembered that the records can't be looked up.
	doubtfulLife = 30 * time.Second
	lookupTime   = 10 * time.Second
	// maxTargets bounds how many places are tried.
	maxTargets = 10
)

// Location is where the server is that a name stands for.
type Location struct {
	// TLSName is whom its certificate must be for, a host or an IP address.
	TLSName string
	// Service is the name of the SRV records that say where it is, and "" where there are none.
	Service string
	// Err is why SRV records could not be looked up, which then counts as that there are none.
	Err error

	fixed   string // host:port
	records []*net.SRV
}

// Services are the SRV records, with their targets as they came.
func (l Location) Services() []*net.SRV { return slices.Clone(l.records) }

// located is a remembered location.
type located struct {
	Location
	until time.Time
}

// services are where SRV records are looked for, the second for old servers.
var services = []string{"matrix-fed", "matrix"}

// ErrNoService says that a name's SRV records say that there is no server.
var ErrNoService = errors.New("its SRV record says that there is no server")

// Locate says where the server is that a name stands for, which is one that Delegate gave.
func (r *Resolver) Locate(ctx context.Context, name id.ServerName) (Location, error) {
	host, port, literal, err := splitName(name)
	if err != nil {
		return Location{}, err
	}
	switch {
	case port != "":
		return Location{TLSName: host, fixed: net.JoinHostPort(host, port)}, nil
	case literal:
		return Location{TLSName: host, fixed: net.JoinHostPort(host, defaultPort)}, nil
	}
	key := fold(name)
	l, ok := r.locations.Get(key)
	if !ok || !r.now().Before(l.until) {
		l, err = r.locating.Do(ctx, key, func(ctx context.Context) (located, error) {
			ctx, cancel := context.WithTimeout(ctx, lookupTime)
			defer cancel()
			l := located{Location: r.lookUp(ctx, host), until: r.now().Add(locationLife)}
			if l.Err != nil {
				l.until = r.now().Add(doubtfulLife)
			}
			r.locations.Add(key, l)
			return l, nil
		})
		if err != nil {
			return Location{}, fmt.Errorf("look up %s: %w", name, err)
		}
	}
	// "A Target of "." means that the service is decidedly not available at this domain" (RFC 2782).
	if len(l.records) == 1 && strings.Trim(l.records[0].Target, ".") == "" {
		return Location{}, fmt.Errorf("look up %s: %s: %w", name, l.Service, ErrNoService)
	}
	return l.Location, nil
}

// lookUp looks for a host's SRV records.
//
// spec: server-server-api.md#resolving-server-names
func (r *Resolver) lookUp(ctx context.Context, host string) Location {
	l := Location{TLSName: host, fixed: net.JoinHostPort(host, defaultPort)}
	// With a dot at its end a name is not looked for in the domains of this machine.
	full := strings.TrimSuffix(host, ".") + "."
	for _, service := range services {
		_, records, err := r.lookup(ctx, service, "tcp", full)
		if len(records) > 0 {
			l.Service, l.records, l.Err = "_"+service+"._tcp."+host, records, nil
			return l
		}
		var dns *net.DNSError
		if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
			l.Err = errors.Join(l.Err, err)
		}
	}
	return l
}

// Addresses are the places to try, each "host:port", the first first: SRV records in the order of
// their priority, and among those of the same priority drawn by their weight.
func (l Location) Addresses() []string {
	if len(l.records) == 0 {
		return []string{l.fixed}
	}
	rest := slices.Clone(l.records)
	var out []string
	for len(rest) > 0 && len(out) < maxTargets {
		i := draw(rest)
		out = append(out, net.JoinHostPort(strings.TrimSuffix(rest[i].Target, "."), strconv.Itoa(int(rest[i].Port))))
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

// draw picks one of the records of the lowest priority. One with weight 0 has a small chance too, as
// RFC 2782 wants it.
func draw(records []*net.SRV) int {
	lowest := slices.MinFunc(records, func(a, b *net.SRV) int { return int(a.Priority) - int(b.Priority) }).Priority
	weight := func(s *net.SRV) int {
		if s.Priority != lowest {
			return 0
		}
		return 100*int(s.Weight) + 1
	}
	sum := 0
	for _, s := range records {
		sum += weight(s)
	}
	for n, i := rand.N(sum), 0; ; i++ {
		if n -= weight(records[i]); n < 0 {
			return i
		}
	}
}
