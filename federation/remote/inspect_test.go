package remote_test

import (
	"crypto/ed25519"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"parley/federation"
	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/testserver/testnet"
)

// Transcripts of looking at servers.
func TestInspect(t *testing.T) {
	n := testnet.New(t)
	serve := func(name id.ServerName, hosts []string, addresses ...string) {
		t.Helper()
		node := newNode(t, n, name, func(o *remote.Options) {
			o.OldKeys = map[string]keyring.Key{"ed25519:0": {Public: o.Keys[0].Key.Public().(ed25519.PublicKey), Expired: 1_500_000_000_000}}
		})
		api, err := httpapi.New(httpapi.Options{}, federation.Identity(node.Client, "1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			n.Serve(t, a, hosts, api)
		}
	}
	wellKnown := func(host, to string) {
		n.Serve(t, host+":443", []string{host}, write(http.StatusOK, `{"m.server":"`+to+`"}`))
	}
	wellKnown("good.org", "matrix.good.org:443")
	n.Address("matrix.good.org", "192.0.2.7", "2001:db8::7")
	serve("good.org", []string{"matrix.good.org"}, "192.0.2.7:443", "matrix.good.org:443")
	n.Address("host.srv.org", "192.0.2.8")
	n.SRV("_matrix._tcp.srv.org.", &net.SRV{Target: "host.srv.org.", Port: 9000, Priority: 10, Weight: 5})
	serve("srv.org", []string{"srv.org"}, "192.0.2.8:9000", "host.srv.org:9000")
	serve("192.0.2.9:1", []string{"192.0.2.9"}, "192.0.2.9:1")
	n.Address("stranger.org", "192.0.2.10")
	serve("stranger.org", []string{"other.org"}, "192.0.2.10:8448")
	n.Address("nokeys.org", "192.0.2.11")
	for _, a := range []string{"192.0.2.11:8448", "nokeys.org:8448"} {
		n.Serve(t, a, []string{"nokeys.org"}, write(http.StatusNotFound, "<html>"))
	}
	n.Address("late.org", "192.0.2.12")
	serve("late.org", []string{"late.org"}, "192.0.2.12:8448", "late.org:8448")

	for _, tt := range []struct {
		server     id.ServerName
		later      time.Duration
		want, fail string
	}{
		{server: "good.org", want: `
well-known  https://good.org/.well-known/matrix/server says matrix.good.org:443
service     not looked up, as matrix.good.org:443 says where the server is
certificate must be for matrix.good.org
address     192.0.2.7:443: TLS 1.3, certificate by testnet, good until DATE
address     [2001:db8::7]:443: dial tcp: nobody is at [2001:db8::7]:443
version     Parley 1
old key     ed25519:0, until 2017-07-14
key         ed25519:1, good until 2027-01-16 08:00:00

good.org can be reached.
`},
		{server: "srv.org", want: `
well-known  none at https://srv.org/.well-known/matrix/server: Get "https://srv.org/.well-known/matrix/server": dial tcp: nobody is at srv.org:443
service     _matrix._tcp.srv.org: host.srv.org. port 9000 (priority 10, weight 5)
            the service _matrix is deprecated; _matrix-fed is its name now
certificate must be for srv.org
address     192.0.2.8:9000: TLS 1.3, certificate by testnet, good until DATE
version     Parley 1
old key     ed25519:0, until 2017-07-14
key         ed25519:1, good until 2027-01-16 08:00:00

srv.org can be reached.
`},
		{server: "192.0.2.9:1", want: `
well-known  not asked for, as the name says where the server is
service     not looked up, as 192.0.2.9:1 says where the server is
certificate must be for 192.0.2.9
address     192.0.2.9:1: TLS 1.3, certificate by testnet, good until DATE
version     Parley 1
old key     ed25519:0, until 2017-07-14
key         ed25519:1, good until 2027-01-16 08:00:00

192.0.2.9:1 can be reached.
`},
		{server: "stranger.org", fail: "stranger.org cannot be reached: 192.0.2.10:8448: tls: failed to verify certificate: x509: certificate is valid for other.org, not stranger.org", want: `
well-known  none at https://stranger.org/.well-known/matrix/server: Get "https://stranger.org/.well-known/matrix/server": dial tcp: nobody is at stranger.org:443
service     none, so it is port 8448
certificate must be for stranger.org
address     192.0.2.10:8448: tls: failed to verify certificate: x509: certificate is valid for other.org, not stranger.org
`},
		{server: "nokeys.org", fail: "the keys of nokeys.org cannot be used: ask nokeys.org for /_matrix/key/v2/server: the server answered 404 Not Found", want: `
well-known  none at https://nokeys.org/.well-known/matrix/server: Get "https://nokeys.org/.well-known/matrix/server": dial tcp: nobody is at nokeys.org:443
service     none, so it is port 8448
certificate must be for nokeys.org
address     192.0.2.11:8448: TLS 1.3, certificate by testnet, good until DATE
version     ask nokeys.org for /_matrix/federation/v1/version: the server answered 404 Not Found
keys        ask nokeys.org for /_matrix/key/v2/server: the server answered 404 Not Found
`},
		{server: "late.org", later: 48 * time.Hour, fail: "the keys of late.org are out of date", want: `
well-known  none at https://late.org/.well-known/matrix/server: Get "https://late.org/.well-known/matrix/server": dial tcp: nobody is at late.org:443
service     none, so it is port 8448
certificate must be for late.org
address     192.0.2.12:8448: TLS 1.3, certificate by testnet, good until DATE
version     Parley 1
old key     ed25519:0, until 2017-07-14
key         ed25519:1, good until 2027-01-16 08:00:00
keys        are out of date, so nothing that the server signs now counts
`},
		{server: "nowhere.org", fail: "nowhere.org cannot be reached: lookup nowhere.org: no such host", want: `
well-known  none at https://nowhere.org/.well-known/matrix/server: Get "https://nowhere.org/.well-known/matrix/server": dial tcp: nobody is at nowhere.org:443
service     none, so it is port 8448
certificate must be for nowhere.org
address     nowhere.org:8448: lookup nowhere.org: no such host
`},
		{server: "denied.org", fail: "denied.org: this node does not federate with the server", want: `
policy      this node is not to federate with it (federation.allow_servers, federation.deny_servers)
`},
		{server: "not a name", fail: "no server can have this name: server name has characters that are not allowed", want: "\n"},
	} {
		var out strings.Builder
		err := remote.Inspect(t.Context(), remote.Options{
			Dial: n.Dial, LookupSRV: n.LookupSRV, LookupNetIP: n.LookupNetIP, TLS: n.TLS(), Policy: remote.Policy{Deny: []string{"denied.*"}},
			Now: func() time.Time { return time.UnixMilli(1_800_000_000_000).Add(tt.later) },
		}, tt.server, &out)
		failed := ""
		if err != nil {
			failed = err.Error()
		}
		got := "\n" + regexp.MustCompile(`by testnet, good until \d{4}-\d\d-\d\d`).ReplaceAllString(out.String(), "by testnet, good until DATE")
		if got != tt.want || failed != tt.fail {
			t.Errorf("%s: failed with %q, want %q\ngot:%s\nwant:%s", tt.server, failed, tt.fail, got, tt.want)
		}
	}
}
