package preview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"parley/internal/outgoing"
)

func read(t *testing.T, contentType, text string) *Page {
	t.Helper()
	base, err := url.Parse("https://site.org/dir/page.html")
	if err != nil {
		t.Fatal(err)
	}
	p, err := page(strings.NewReader(text), contentType, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediapreview_url
func TestPage(t *testing.T) {
	for name, tt := range map[string]struct {
		kind, text  string
		want        string // properties, in the order of their keys
		image, oemb string
	}{
		"empty": {want: `map[]`},
		"OpenGraph": {
			text: `<html><head><title>The Rock (1996)</title><meta property="og:title" content="The&nbsp;Rock">
				<meta property="og:title" content="Second"><meta content="video.movie" property="OG:type" />
				<meta property="og:url" content="http://www.imdb.com/title/tt0117500/">
				<meta property="og:image" content="test.png"><meta property="og:image:width" content="9999"><meta property="og:image:alt" content="A rock">
				<meta name="fb:app_id" content="1">`,
			want:  `map[og:image:alt:A rock og:title:The Rock og:type:video.movie og:url:http://www.imdb.com/title/tt0117500/]`,
			image: "https://site.org/dir/test.png",
		},
		"Twitter": {
			text: `<meta name="twitter:title" content="T"><meta name="twitter:description" content=" a
				b "><meta name="twitter:image" content="//cdn.org/i.jpg"><title>other</title>`,
			want: `map[og:description:a b og:title:T]`, image: "https://cdn.org/i.jpg",
		},
		"plain": {
			text: `<title>Title &amp; more</title><style>p { color: red }</style><body><nav><p>menu</p></nav><header>x</header>
				<script>document.write("<p>no</p>")</script><p>First <b>bold</b>.</p><div>not this</div><p>Second.`,
			want: `map[og:description:First bold. Second. og:title:Title & more]`,
		},
		"description":   {text: `<meta name=description content="says it"><p>text`, want: `map[og:description:says it]`},
		"title of SVG":  {text: `<svg><title>no</title></svg><title>yes</title>`, want: `map[og:title:yes]`},
		"base":          {text: `<base href="/b/"><meta property=og:image content=i.png>`, want: `map[]`, image: "https://site.org/b/i.png"},
		"bad addresses": {text: `<meta property=og:url content="javascript:alert(1)"><meta property=og:image content="file:///etc/passwd">`, want: `map[]`},
		"second picture": {
			text: `<meta property=og:image content="data:image/png;base64,AAAA"><link rel="image_src" href="/i.png">`,
			want: `map[]`, image: "https://site.org/i.png",
		},
		"oEmbed": {text: `<link rel="alternate" type="application/json+oembed" href="/oembed?a=b&amp;c">`, want: `map[]`, oemb: "https://site.org/oembed?a=b&c"},
		"charset of the header": {
			kind: "text/html; charset=windows-1251", text: "<title>\xcf\xf0\xe8\xe2\xe5\xf2</title>", want: `map[og:title:Привет]`,
		},
		"charset of the page": {text: "<meta charset=shift_jis><title>\x93\xfa\x96{</title>", want: `map[og:title:日本]`},
		"charset of the mark": {text: "\xff\xfe<\x00t\x00i\x00t\x00l\x00e\x00>\x00a\x00", want: `map[og:title:a]`},
		"unknown charset":     {kind: "text/html; charset=x-none", text: "<title>a\xe9</title>", want: `map[og:title:aé]`},
		"Unicode":             {text: "<title>é☕</title>", kind: "text/html; charset=utf-8", want: `map[og:title:é☕]`},
	} {
		kind := tt.kind
		if kind == "" {
			kind = "text/html"
		}
		p := read(t, kind, tt.text)
		if got := fmt.Sprint(p.Properties); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		for what, pair := range map[string]struct {
			got  *url.URL
			want string
		}{"picture": {p.Image, tt.image}, "oEmbed": {p.embed, tt.oemb}} {
			if pair.got == nil && pair.want != "" || pair.got != nil && pair.got.String() != pair.want {
				t.Errorf("%s: the %s is at %v, want %q", name, what, pair.got, pair.want)
			}
		}
	}
}

// bounded fails where more is kept of a page than is to be.
func bounded(t *testing.T, p *Page) {
	t.Helper()
	if len(p.Properties) > maxProperties+2 {
		t.Errorf("%d properties", len(p.Properties))
	}
	for key, value := range p.Properties {
		if n := utf8.RuneCountInString(value); n > maxValue+1 || !utf8.ValidString(value) || !utf8.ValidString(key) || strings.TrimSpace(value) == "" {
			t.Errorf("%q is %q, of %d", key, value, n)
		}
	}
	for _, u := range []*url.URL{p.Image, p.embed} {
		if u != nil && u.Scheme != "http" && u.Scheme != "https" {
			t.Errorf("it leads to %s", u)
		}
	}
}

func TestPageBounds(t *testing.T) {
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `<meta property="og:x%d" content="%d">`, i, i)
	}
	for _, text := range []string{
		many.String(),
		"<title>" + strings.Repeat("long ", 100_000),
		"<p>" + strings.Repeat("ab", 100_000),
		"<meta " + strings.Repeat("a=b ", 100_000) + ">",
		strings.Repeat("<nav>", 100_000),
		strings.Repeat("<p>", 1_000_000),
		"<meta property=og:" + strings.Repeat("x", 10_000) + " content=y>",
	} {
		bounded(t, read(t, "text/html", text))
	}
	p := read(t, "text/html", strings.Repeat(" ", maxPage)+"<title>too late</title>")
	if len(p.Properties) != 0 {
		t.Errorf("%v", p.Properties)
	}
}

func FuzzPage(f *testing.F) {
	f.Add("text/html", `<title>a</title><meta property="og:image" content="b"><p>c`)
	f.Add("text/html; charset=utf-16", "\xff\xfe<\x00")
	f.Add("text/html", "<base href=x:y><meta property=og:image content=z>")
	f.Fuzz(func(t *testing.T, kind, text string) {
		bounded(t, read(t, kind, text))
	})
}

func FuzzEmbed(f *testing.F) {
	f.Add(`{"type":"photo","url":"a","title":"b"}`)
	f.Add(`{"type":"rich","html":"<p>a","thumbnail_url":"//b/c","title":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseEmbed([]byte(text))
		if err != nil {
			return
		}
		p := &Page{Properties: make(map[string]string)}
		e.tell(p, &url.URL{Scheme: "https", Host: "site.org"})
		bounded(t, p)
	})
}

// web is the servers of all hosts, and a client that asks them.
func web(t *testing.T, o Options, pages map[string]string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch text, ok := pages[r.Host+r.URL.RequestURI()]; {
		case !ok:
			http.NotFound(w, r)
		case strings.HasPrefix(text, "-> "):
			http.Redirect(w, r, text[3:], http.StatusFound)
		default:
			kind, body, _ := strings.Cut(text, "\n")
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, body)
		}
	}))
	t.Cleanup(server.Close)
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server.Listener.Addr().String())
		}
	}
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

func TestRead(t *testing.T) {
	c := web(t, Options{UserAgent: "Test", Language: "de", DenyHosts: []string{"*.internal", "denied.org"}}, map[string]string{
		"a.org/page": `text/html
			<title>Page</title><link rel=alternate type=application/json+oembed href="http://b.org/embed?x">`,
		"b.org/embed?x":      "application/json\n" + `{"type":"rich","title":"Other","provider_name":"B","thumbnail_url":"t.png","html":"<blockquote><p>Said <a>so</a></p></blockquote>"}`,
		"a.org/photo":        `text/html` + "\n" + `<link rel=alternate type=application/json+oembed href="http://b.org/photo">`,
		"b.org/photo":        "application/json\n" + `{"type":"photo","title":"P","url":"http://c.org/p.jpg"}`,
		"a.org/bad":          `text/html` + "\n" + `<title>t</title><link rel=alternate type=application/json+oembed href="http://b.org/none">`,
		"a.org/here":         "-> http://b.org/there/x.html",
		"b.org/there/x.html": `text/html` + "\n" + `<meta property=og:image content=i.png>`,
		"a.org/loop":         "-> /loop",
		"a.org/denied":       "-> http://secret.internal/",
		"a.org/file":         "-> file:///etc/passwd",
		"a.org/pic/a.png":    "image/png\nPNG",
		"a.org/a.pdf":        "application/pdf\nPDF",
		"secret.internal/":   "text/html\n<title>secret",
	})
	for address, want := range map[string]string{
		"http://a.org/page#part": "map[og:description:Said so og:site_name:B og:title:Page] http://b.org/t.png",
		"http://a.org/photo":     "map[og:title:P] http://c.org/p.jpg",
		"http://a.org/bad":       "map[og:title:t] <nil>",
		"http://a.org/here":      "map[] http://b.org/there/i.png",
		"http://a.org/pic/a.png": "map[og:title:a.png] <nil> PNG",
		"http://a.org/a.pdf":     "map[og:title:a.pdf] <nil>",
		"http://a.org/loop":      "",
		"http://a.org/denied":    "",
		"http://a.org/file":      "",
		"http://a.org/none":      "",
	} {
		u, err := c.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		p, picture, err := c.Read(t.Context(), u)
		if want == "" {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v", address, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		got := fmt.Sprint(p.Properties, " ", p.Image)
		if picture != nil {
			body, err := io.ReadAll(picture.Body)
			if err = errors.Join(err, picture.Body.Close()); err != nil {
				t.Error(err)
			}
			got += " " + string(body)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	c := New(Options{DenyHosts: []string{"*.internal", "Denied.org"}})
	for _, bad := range []string{
		"", "a", "ftp://a.org/", "file:///etc/passwd", "http://", "http:///a", "http://user:pass@a.org/", "http://a.internal/",
		"http://DENIED.org./", "http://a.org/" + strings.Repeat("a", maxURL), "http://[::1", "javascript:alert(1)", "mxc://a/b",
	} {
		if u, err := c.Parse(bad); err == nil {
			t.Errorf("%q is %s", bad, u)
		}
	}
}

// What only this server can reach is not reached through it: neither at once, nor by a redirect, nor
// by a name.
//
// spec: client-server-api/modules/content_repo.md#content-repo-security-considerations
func TestPrivateNetworks(t *testing.T) {
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<title>secret</title>")
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	closed := outgoing.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, nil)
	front := httptest.NewServer(http.RedirectHandler(server.URL+"/redirected", http.StatusFound))
	defer front.Close()
	// The page of a.org may be reached, and what it leads to is checked as any other.
	c := New(Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "a.org:80" {
			var d net.Dialer
			return d.DialContext(ctx, network, front.Listener.Addr().String())
		}
		return closed.DialContext(ctx, network, address)
	}})
	defer c.Close()
	for _, address := range []string{"http://a.org/", server.URL + "/direct", "http://localhost:" + port + "/name", "http://[::ffff:127.0.0.1]:" + port + "/", "http://2130706433:" + port + "/"} {
		u, err := c.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Read(t.Context(), u); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", address, err)
		}
	}
	select {
	case path := <-asked:
		t.Errorf("%s was asked for", path)
	default:
	}
}
