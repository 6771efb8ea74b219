package discovery_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"parley/federation/remote/discovery"
	"parley/internal/id"
	"parley/internal/testserver/testnet"
)

func newResolver(t *testing.T, n *testnet.Net, now func() time.Time) *discovery.Resolver {
	t.Helper()
	r, err := discovery.New(discovery.Options{Dial: n.Dial, LookupSRV: n.LookupSRV, TLS: n.TLS(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func file(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"m.server":"`+to+`"}`) }
}

// Each step of the algorithm.
//
// spec: server-server-api.md#resolving-server-names
func TestSteps(t *testing.T) {
	n := testnet.New(t)
	wellKnown := func(host, to string) { n.Serve(t, host+":443", []string{host}, file(to)) }
	srv := func(service, host, target string, port uint16) {
		n.SRV("_"+service+"._tcp."+host+".", &net.SRV{Target: target, Port: port})
	}
	wellKnown("ip.org", "1.2.3.4")
	wellKnown("ipport.org", "[2001:db8::1]:99")
	wellKnown("port.org", "to.port.org:99")
	wellKnown("fed.org", "to.fed.org")
	srv("matrix-fed", "to.fed.org", "host.fed.org.", 1001)
	srv("matrix", "to.fed.org", "wrong.org.", 1)
	wellKnown("srv.org", "to.srv.org")
	srv("matrix", "to.srv.org", "host.srv.org.", 1002)
	wellKnown("plain.org", "to.plain.org")
	srv("matrix-fed", "plain.org", "wrong.org.", 1) // not asked for, as plain.org has delegated
	srv("matrix-fed", "nofile-fed.org", "host.org.", 1003)
	srv("matrix", "nofile-fed.org", "wrong.org.", 1)
	srv("matrix", "nofile-srv.org", "host.org.", 1004)
	srv("matrix-fed", "explicit.org", "wrong.org.", 1)
	wellKnown("explicit.org", "wrong.org")
	wellKnown("1.2.3.4", "wrong.org")
	n.SRV("_matrix-fed._tcp.none.org.", &net.SRV{Target: "."})
	n.BreakSRV("_matrix-fed._tcp.broken.org.", errors.New("SERVFAIL"))
	n.BreakSRV("_matrix._tcp.broken.org.", errors.New("SERVFAIL"))
	n.BreakSRV("_matrix-fed._tcp.halfbroken.org.", errors.New("SERVFAIL"))
	srv("matrix", "halfbroken.org", "host.org.", 1005)

	r := newResolver(t, n, nil)
	for _, tt := range []struct {
		step              string
		name, to          id.ServerName
		tls, service, dst string
	}{
		{"1", "1.2.3.4", "1.2.3.4", "1.2.3.4", "", "1.2.3.4:8448"},
		{"1", "1.2.3.4:5", "1.2.3.4:5", "1.2.3.4", "", "1.2.3.4:5"},
		{"1", "[2001:db8::1]", "[2001:db8::1]", "2001:db8::1", "", "[2001:db8::1]:8448"},
		{"1", "[2001:db8::1]:5", "[2001:db8::1]:5", "2001:db8::1", "", "[2001:db8::1]:5"},
		{"2", "explicit.org:5", "explicit.org:5", "explicit.org", "", "explicit.org:5"},
		{"3.1", "ip.org", "1.2.3.4", "1.2.3.4", "", "1.2.3.4:8448"},
		{"3.1", "ipport.org", "[2001:db8::1]:99", "2001:db8::1", "", "[2001:db8::1]:99"},
		{"3.2", "port.org", "to.port.org:99", "to.port.org", "", "to.port.org:99"},
		{"3.3", "fed.org", "to.fed.org", "to.fed.org", "_matrix-fed._tcp.to.fed.org", "host.fed.org:1001"},
		{"3.4", "srv.org", "to.srv.org", "to.srv.org", "_matrix._tcp.to.srv.org", "host.srv.org:1002"},
		{"3.5", "plain.org", "to.plain.org", "to.plain.org", "", "to.plain.org:8448"},
		{"4", "nofile-fed.org", "nofile-fed.org", "nofile-fed.org", "_matrix-fed._tcp.nofile-fed.org", "host.org:1003"},
		{"5", "nofile-srv.org", "nofile-srv.org", "nofile-srv.org", "_matrix._tcp.nofile-srv.org", "host.org:1004"},
		{"6", "nothing.org", "nothing.org", "nothing.org", "", "nothing.org:8448"},
		{"6", "broken.org", "broken.org", "broken.org", "", "broken.org:8448"},
		{"5", "halfbroken.org", "halfbroken.org", "halfbroken.org", "_matrix._tcp.halfbroken.org", "host.org:1005"},
	} {
		for range 2 { // the second time from memory
			d, err := r.Delegate(t.Context(), tt.name)
			if err != nil || d.To != tt.to {
				t.Errorf("step %s: %s is delegated to %q, %v; want %q", tt.step, tt.name, d.To, err, tt.to)
				continue
			}
			l, err := r.Locate(t.Context(), d.To)
			if err != nil || l.TLSName != tt.tls || l.Service != tt.service || !slices.Equal(l.Addresses(), []string{tt.dst}) {
				t.Errorf("step %s: %s is %s at %v by %q, %v; want %s at %s by %q", tt.step, tt.name, l.TLSName, l.Addresses(), l.Service, err, tt.tls, tt.dst, tt.service)
			}
		}
	}
	if _, err := r.Locate(t.Context(), "none.org"); !errors.Is(err, discovery.ErrNoService) {
		t.Errorf("a name that says it has no server: %v", err)
	}
	for _, bad := range []id.ServerName{"", "a b", "a.org:0", "a.org:00", "[::1", "a.org:", "x/y", "a.org:99999", "[1.2.3.4]"} {
		if d, err := r.Delegate(t.Context(), bad); !errors.Is(err, discovery.ErrName) {
			t.Errorf("%q is delegated to %+v, %v", bad, d, err)
		}
		if _, err := r.Locate(t.Context(), bad); !errors.Is(err, discovery.ErrName) {
			t.Errorf("%q is located: %v", bad, err)
		}
	}
}

// A file that isn't one counts as none, whatever it is instead.
func TestBadWellKnown(t *testing.T) {
	n := testnet.New(t)
	r := newResolver(t, n, nil)
	bad := map[string]http.HandlerFunc{
		"404":      http.NotFound,
		"500":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); file("to.org")(w, nil) },
		"201":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); file("to.org")(w, nil) },
		"text":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "to.org") },
		"array":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `["to.org"]`) },
		"number":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"m.server":1}`) },
		"nothing":  func(w http.ResponseWriter, _ *http.Request) {},
		"property": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"m.srever":"to.org"}`) },
		"empty":    file(""), "url": file("https://to.org/"), "port": file("to.org:0"), "space": file("to org"), "unclosed": file("[::1"),
		"large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"m.server":"to.org","x":"`+strings.Repeat("x", 60<<10)+`"}`)
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		},
		"loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"plain": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://good.org/", http.StatusFound)
		},
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://nowhere.org/", http.StatusFound)
		},
	}
	n.Serve(t, "good.org:443", []string{"good.org"}, file("to.org"))
	for name, h := range bad {
		host := name + ".org"
		n.Serve(t, host+":443", []string{host}, h)
		d, err := r.Delegate(t.Context(), id.ServerName(host))
		if err != nil || string(d.To) != host || d.Err == nil {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	n.Serve(t, "stolen.org:443", []string{"good.org"}, file("to.org"))
	if d, err := r.Delegate(t.Context(), "stolen.org"); err != nil || d.To != "stolen.org" || d.Err == nil {
		t.Errorf("with a certificate of another name: %+v, %v", d, err)
	}
}

func TestRedirects(t *testing.T) {
	n := testnet.New(t)
	r := newResolver(t, n, nil)
	const most = 5
	for i := range most + 1 {
		from := fmt.Sprintf("r%d.org", i)
		h := http.RedirectHandler(fmt.Sprintf("https://r%d.org/anywhere", i-1), http.StatusMovedPermanently)
		if i == 0 {
			h = file("to.org")
		}
		n.Serve(t, from+":443", []string{from}, h)
	}
	if d, err := r.Delegate(t.Context(), "r5.org"); err != nil || d.To != "to.org" || d.Err != nil {
		t.Errorf("through %d redirects: %+v, %v", most, d, err)
	}
}

// For how long a file is remembered, and what becomes of it when it can't be had.
func TestWellKnownLife(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name    string
		headers map[string]string
		life    time.Duration // it is asked for again after it, and not before
	}{
		{"no header", nil, 24 * hour},
		{"max-age", map[string]string{"Cache-Control": "public, max-age=7200"}, 2 * hour},
		{"quoted", map[string]string{"Cache-Control": `Max-Age="7200"`}, 2 * hour},
		{"max-age goes before expires", map[string]string{"Cache-Control": "max-age=7200", "Expires": "Wed, 21 Oct 2015 07:28:00 GMT"}, 2 * hour},
		{"a proxy had it", map[string]string{"Cache-Control": "max-age=7200", "Age": "3600"}, hour},
		{"too long", map[string]string{"Cache-Control": "max-age=31536000"}, 48 * hour},
		{"far too long", map[string]string{"Cache-Control": "max-age=18446744073709551615"}, 48 * hour},
		{"no-store", map[string]string{"Cache-Control": "no-store"}, 5 * time.Minute},
		{"zero", map[string]string{"Cache-Control": "max-age=0"}, 5 * time.Minute},
		{"nonsense", map[string]string{"Cache-Control": "max-age=soon"}, 5 * time.Minute},
		{"expires", map[string]string{"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Expires": "Wed, 21 Oct 2015 10:28:00 GMT"}, 3 * hour},
		{"expired", map[string]string{"Expires": "0"}, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := testnet.New(t)
			var asked atomic.Int32
			n.Serve(t, "a.org:443", []string{"a.org"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				for k, v := range tt.headers {
					w.Header().Set(k, v)
				}
				file("to.org")(w, r)
			}))
			now := time.Unix(1_800_000_000, 0)
			r := newResolver(t, n, func() time.Time { return now })
			for i, step := range []struct {
				pass  time.Duration
				asked int32
			}{{0, 1}, {tt.life - time.Second, 1}, {time.Second, 2}, {time.Second, 2}} {
				now = now.Add(step.pass)
				if d, err := r.Delegate(t.Context(), "A.org"); err != nil || d.To != "to.org" {
					t.Errorf("step %d: %+v, %v", i, d, err)
				}
				if got := asked.Load(); got != step.asked {
					t.Errorf("step %d: it was asked for %d times, want %d", i, got, step.asked)
				}
			}
		})
	}
}

func TestWellKnownFailures(t *testing.T) {
	n := testnet.New(t)
	var asked, status atomic.Int32
	n.Serve(t, "a.org:443", []string{"a.org"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if s := status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		file("to.org")(w, r)
	}))
	now := time.Unix(1_800_000_000, 0)
	r := newResolver(t, n, func() time.Time { return now })
	step := func(what string, pass time.Duration, want id.ServerName, wantAsked int32) {
		t.Helper()
		now = now.Add(pass)
		d, err := r.Delegate(t.Context(), "a.org")
		if err != nil || d.To != want {
			t.Errorf("%s: %+v, %v; want %s", what, d, err, want)
		}
		if got := asked.Swap(0); got != wantAsked {
			t.Errorf("%s: it was asked for %d times, want %d", what, got, wantAsked)
		}
	}
	status.Store(404)
	step("at first there is none", 0, "a.org", 1)
	step("which is remembered", time.Minute, "a.org", 0)
	step("and then asked again", 2*time.Minute, "a.org", 1)
	step("after twice as long", 3*time.Minute, "a.org", 0)
	for range 8 {
		now = now.Add(time.Hour)
		if _, err := r.Delegate(t.Context(), "a.org"); err != nil {
			t.Fatal(err)
		}
	}
	asked.Store(0)
	status.Store(0)
	step("though not for ever", 50*time.Minute, "a.org", 0)
	step("there is one", 10*time.Minute, "to.org", 1)
	status.Store(503)
	step("it can't be had", 24*time.Hour, "to.org", 1)
	step("it still can't be had", time.Hour, "to.org", 1)
	step("not even after two days", 24*time.Hour, "a.org", 1)
	status.Store(0)
	step("it is back", time.Hour, "to.org", 1)
	status.Store(404)
	step("it was taken away", 25*time.Hour, "a.org", 1)
}

// SRV records come in the order of their priority, and within one by their weight.
func TestAddresses(t *testing.T) {
	n := testnet.New(t)
	records := []*net.SRV{
		{Target: "last.org.", Port: 1, Priority: 20, Weight: 1000},
		{Target: "often.org.", Port: 1, Priority: 10, Weight: 90},
		{Target: "seldom.org.", Port: 1, Priority: 10, Weight: 10},
		{Target: "never.org.", Port: 1, Priority: 10, Weight: 0},
	}
	n.SRV("_matrix-fed._tcp.a.org.", records...)
	l, err := newResolver(t, n, nil).Locate(t.Context(), "a.org")
	if err != nil {
		t.Fatal(err)
	}
	first := make(map[string]int)
	for range 1000 {
		a := l.Addresses()
		first[a[0]]++
		if a[3] != "last.org:1" {
			t.Fatalf("the priorities are not kept: %v", a)
		}
		slices.Sort(a)
		if want := []string{"last.org:1", "never.org:1", "often.org:1", "seldom.org:1"}; !slices.Equal(a, want) {
			t.Fatalf("addresses %v, want all of %v", a, want)
		}
	}
	// Of a binomial distribution with a mean of 900, so many standard deviations off that it does not happen.
	if o, s := first["often.org:1"], first["seldom.org:1"]; o < 800 || o > 980 || s < 20 || s > 200 || first["never.org:1"] > 10 {
		t.Errorf("who comes first: %v", first)
	}
	many := make([]*net.SRV, 200)
	for i := range many {
		many[i] = &net.SRV{Target: "x.org.", Port: uint16(i)}
	}
	n.SRV("_matrix-fed._tcp.many.org.", many...)
	if l, err = newResolver(t, n, nil).Locate(t.Context(), "many.org"); err != nil || len(l.Addresses()) != 10 {
		t.Errorf("of 200 records %d are tried, %v", len(l.Addresses()), err)
	}
}

// What was looked up is remembered for a while, unless nobody is there.
func TestLocationLife(t *testing.T) {
	n := testnet.New(t)
	now := time.Unix(1_800_000_000, 0)
	r := newResolver(t, n, func() time.Time { return now })
	step := func(what string, pass time.Duration, want string) {
		t.Helper()
		now = now.Add(pass)
		if l, err := r.Locate(t.Context(), "a.org"); err != nil || l.Addresses()[0] != want {
			t.Errorf("%s: %v, %v; want %s", what, l.Addresses(), err, want)
		}
	}
	step("at first", 0, "a.org:8448")
	n.SRV("_matrix._tcp.a.org.", &net.SRV{Target: "b.org.", Port: 1})
	step("it has moved", time.Minute, "a.org:8448")
	step("and was looked up again", 5*time.Minute, "b.org:1")
	n.SRV("_matrix._tcp.a.org.", &net.SRV{Target: "c.org.", Port: 2})
	r.Forget("A.org")
	step("nobody was there", 0, "c.org:2")
}

func FuzzDelegate(f *testing.F) {
	f.Add("a.org:1")
	f.Add("[::1]:8448")
	f.Add("1.2.3.4")
	n := testnet.New(f)
	r, err := discovery.New(discovery.Options{Dial: n.Dial, LookupSRV: n.LookupSRV, TLS: n.TLS()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(r.Close)
	f.Fuzz(func(t *testing.T, s string) {
		name := id.ServerName(s)
		_, invalid := id.ParseServerName(s)
		l, err := r.Locate(t.Context(), name)
		if err != nil {
			return
		}
		if invalid != nil {
			t.Fatalf("%q is located, and is no name: %v", s, invalid)
		}
		for _, a := range l.Addresses() {
			if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
				t.Fatalf("%q leads to %q: %v", s, a, err)
			}
		}
	})
}
