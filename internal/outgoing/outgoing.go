// Package outgoing connects to addresses that strangers name: other servers, push gateways,
// previewed pages. It keeps them from reaching, through us, what only we can reach: networks
// that an operator denies are never connected to, whatever name leads there and however often
// it is looked up, as the check is made on the address that the socket is about to connect to.
//
// What is said on the connection is not its business.
//
// spec: client-server-api/modules/content_repo.md#content-repo-security-considerations
package outgoing

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// DeniedError says that an address lies in a network that is never connected to.
type DeniedError struct {
	Address netip.Addr
}

// Error names the address.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("the address %s lies in a network that this server never connects to", e.Address)
}

// Dialer connects to all addresses but those of denied networks. It is safe for concurrent use.
type Dialer struct {
	deny, allow []netip.Prefix
	dialer      net.Dialer
}

// connectTimeout bounds the making of one connection.
const connectTimeout = 15 * time.Second

// New makes a dialer that connects to no address of deny, but to those of allow. With neither
// it connects to all.
func New(deny, allow []netip.Prefix) *Dialer {
	d := &Dialer{deny: slices.Clone(deny), allow: slices.Clone(allow)}
	d.dialer = net.Dialer{Timeout: connectTimeout, ControlContext: d.control}
	return d
}

// DialContext connects as [net.Dialer.DialContext] does. A denied address gives a [DeniedError].
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dialer.DialContext(ctx, network, address)
}

// Denied says whether an address is never connected to. An IPv4 address is the same one when
// it is written as IPv6, in any of the ways that lead to it.
func (d *Dialer) Denied(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if d.denied(a) {
		return true
	}
	inner, ok := embedded(a)
	return ok && d.denied(inner)
}

func (d *Dialer) denied(a netip.Addr) bool {
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(d.deny, contains) && !slices.ContainsFunc(d.allow, contains)
}

var (
	translated = netip.MustParsePrefix("64:ff9b::/96") // NAT64
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// embedded is the IPv4 address to which an IPv6 address is translated or tunnelled.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case !a.Is6():
		return netip.Addr{}, false
	case translated.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// control is called with each address before the socket connects to it.
func (d *Dialer) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s is no address to connect to by %s: %w", address, network, err)
	}
	if d.Denied(to.Addr()) {
		return &DeniedError{to.Addr()}
	}
	return nil
}
