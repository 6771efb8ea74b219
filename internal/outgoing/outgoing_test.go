package outgoing_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"parley/internal/outgoing"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestDenied(t *testing.T) {
	d := outgoing.New(prefixes("10.0.0.0/8", "127.0.0.0/8", "::1/128", "fe80::/10"), prefixes("10.1.0.0/16"))
	for address, want := range map[string]bool{
		"10.0.0.1":             true,
		"10.1.0.1":             false,
		"10.2.0.1":             true,
		"11.0.0.1":             false,
		"::ffff:10.0.0.1":      true,
		"::ffff:10.1.0.1":      false,
		"::1":                  true,
		"::2":                  false,
		"fe80::1%eth0":         true,
		"64:ff9b::10.0.0.1":    true,
		"64:ff9b::8.8.8.8":     false,
		"2002:7f00:1::":        true,
		"2002:808:808::":       false,
		"2a00:1450:4001::200e": false,
	} {
		if got := d.Denied(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: denied is %v", address, got)
		}
	}
}

func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		address := net.JoinHostPort(host, port)
		open := outgoing.New(nil, nil)
		c, err := open.DialContext(context.Background(), "tcp", address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
		} else {
			c.Close()
		}
		// A name that leads to a denied address is as good as the address.
		closed := outgoing.New(prefixes("127.0.0.0/8", "::1/128"), nil)
		c, err = closed.DialContext(context.Background(), "tcp", address)
		var denied *outgoing.DeniedError
		if !errors.As(err, &denied) {
			t.Errorf("%s: %v", address, err)
		}
		if err == nil {
			c.Close()
		}
	}
}
