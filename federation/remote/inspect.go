package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"parley/federation/remote/discovery"
	"parley/federation/remote/keyring"
	"parley/internal/id"
)

// Inspect looks at a server as an operator would: it writes step by step how the server is found, what
// answers there, and what is wrong. The error says that the server can't be reached, or its keys not be used. Of
// the options it needs none but those that say how to connect.
//
// spec: server-server-api.md#server-discovery
func Inspect(ctx context.Context, o Options, server id.ServerName, w io.Writer) error {
	c, err := newAsker(o)
	if err != nil {
		return err
	}
	defer c.Close()
	i := inspection{c, w}
	if err := i.run(ctx, server); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s can be reached.\n", server)
	return err
}

type inspection struct {
	*Client
	w io.Writer
}

// tell writes what was found in a step.
func (i inspection) tell(step, format string, args ...any) {
	// Whoever does not read what is written sees nothing of the rest either.
	_, _ = fmt.Fprintf(i.w, "%-12s%s\n", step, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n            "))
}

func (i inspection) run(ctx context.Context, server id.ServerName) error {
	if !i.o.Policy.Allows(server) {
		i.tell("policy", "this node is not to federate with it (federation.allow_servers, federation.deny_servers)")
		return fmt.Errorf("%s: %w", server, ErrDenied)
	}
	d, err := i.finder.Delegate(ctx, server)
	if err != nil {
		return err
	}
	switch {
	case d.URL == "":
		i.tell("well-known", "not asked for, as the name says where the server is")
	case d.Err != nil:
		i.tell("well-known", "none at %s: %v", d.URL, d.Err)
	default:
		i.tell("well-known", "%s says %s", d.URL, d.To)
	}
	l, err := i.finder.Locate(ctx, d.To)
	if err != nil {
		i.tell("service", "%v", err)
		return err
	}
	i.services(d.To, l)
	i.tell("certificate", "must be for %s", l.TLSName)
	if err := i.addresses(ctx, l); err != nil {
		return fmt.Errorf("%s cannot be reached: %w", server, err)
	}
	version, err := i.Version(ctx, server)
	if err != nil {
		// Not a reason to have nothing to do with it.
		i.tell("version", "%v", err)
	} else {
		i.tell("version", "%s %s", version.Name, version.Version)
	}
	return i.list(ctx, server)
}

// services tells of SRV records.
func (i inspection) services(name id.ServerName, l discovery.Location) {
	switch {
	case l.Service != "":
		for _, s := range l.Services() {
			i.tell("service", "%s: %s port %d (priority %d, weight %d)", l.Service, s.Target, s.Port, s.Priority, s.Weight)
		}
		if strings.HasPrefix(l.Service, "_matrix.") {
			i.tell("", "the service _matrix is deprecated; _matrix-fed is its name now")
		}
	case l.Err != nil:
		i.tell("service", "can't be looked up, which counts as none: %v", l.Err)
	case poolKey(name) == string(name) || net.ParseIP(l.TLSName) != nil:
		i.tell("service", "not looked up, as %s says where the server is", name)
	default:
		i.tell("service", "none, so it is port 8448")
	}
}

// addresses connects to each address that there is.
func (i inspection) addresses(ctx context.Context, l discovery.Location) error {
	var failed error
	reached := false
	for _, place := range l.Addresses() {
		host, port, err := net.SplitHostPort(place)
		if err != nil {
			return err
		}
		ips := []netip.Addr{}
		if ip, err := netip.ParseAddr(host); err == nil {
			ips = append(ips, ip)
		} else if ips, err = i.o.LookupNetIP(ctx, "ip", host); err != nil {
			i.tell("address", "%s: %v", place, err)
			failed = errors.Join(failed, err)
			continue
		}
		for _, ip := range ips {
			address := net.JoinHostPort(ip.Unmap().String(), port)
			conn, err := i.connect(ctx, "tcp", address, l.TLSName)
			if err != nil {
				i.tell("address", "%s: %v", address, err)
				failed = errors.Join(failed, fmt.Errorf("%s: %w", address, err))
				continue
			}
			reached = true
			state := conn.ConnectionState()
			i.tell("address", "%s: %s, %s", address, tls.VersionName(state.Version), i.certificate(state))
			if err := ignoreClosed(conn.Close()); err != nil {
				return err
			}
		}
	}
	if !reached {
		return failed
	}
	return nil
}

// certificate tells of the certificate that a server showed.
func (i inspection) certificate(state tls.ConnectionState) string {
	leaf := state.PeerCertificates[0]
	text := fmt.Sprintf("certificate by %s, good until %s", leaf.Issuer.CommonName, leaf.NotAfter.UTC().Format(time.DateOnly))
	if i.tls.InsecureSkipVerify {
		text += " (not checked: federation.verify_tls is off)"
	}
	return text
}

// list tells of the server's keys.
func (i inspection) list(ctx context.Context, server id.ServerName) error {
	text, err := i.ServerKeys(ctx, server)
	if err == nil {
		var l *keyring.List
		if l, err = keyring.ParseList(text, server); err == nil {
			return i.keysOf(l)
		}
	}
	i.tell("keys", "%v", err)
	return fmt.Errorf("the keys of %s cannot be used: %w", server, err)
}

func (i inspection) keysOf(l *keyring.List) error {
	until := time.UnixMilli(l.ValidUntil).UTC()
	for _, name := range slices.Sorted(maps.Keys(l.Keys)) {
		switch k := l.Keys[name]; {
		case k.Expired != 0:
			i.tell("old key", "%s, until %s", name, time.UnixMilli(k.Expired).UTC().Format(time.DateOnly))
		default:
			i.tell("key", "%s, good until %s", name, until.Format(time.DateTime))
		}
	}
	if !until.After(i.o.Now()) {
		i.tell("keys", "are out of date, so nothing that the server signs now counts")
		return fmt.Errorf("the keys of %s are out of date", l.Server)
	}
	return nil
}
