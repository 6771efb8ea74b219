// Package preview reads pages of strangers for what they say of themselves: OpenGraph, oEmbed,
// Twitter's cards, or a title and a paragraph where there is nothing else.
//
// Everything that it reads is hostile, so everything has a bound: the bytes, the redirects, and
// what is kept of a page; the time is its caller's context. Whoever asks for a preview is a person
// who was sent an address, not a crawler, so robots.txt is not asked for. What becomes of a page's
// picture, and for how long a preview is remembered, is media's business.
//
// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediapreview_url
package preview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"parley/internal/glob"
)

// ErrUnavailable says that an address has nothing of which there could be a preview, for
// whatever reason; the reason is for the operator, as it may tell what only we can reach.
var ErrUnavailable = errors.New("no preview can be made")

// Options is what a client needs.
type Options struct {
	// Dial connects to addresses that strangers name; see package outgoing.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// UserAgent is what we call ourselves.
	UserAgent string
	// Language is the Accept-Language header; "" for none.
	Language string
	// DenyHosts are hosts that are never asked, as names with * and ? as wildcards.
	DenyHosts []string
}

// Client asks web servers. It is safe for concurrent use.
type Client struct {
	o      Options
	client http.Client
}

const (
	maxURL       = 4096
	maxRedirects = 5
	maxHeader    = 64 << 10
	connectTime  = 5 * time.Second
	answerTime   = 10 * time.Second
)

// New makes a client that is ready to ask. Close ends its connections.
func New(o Options) *Client {
	c := &Client{o: o}
	c.client = http.Client{
		Transport: &http.Transport{
			DialContext: o.Dial, TLSHandshakeTimeout: connectTime, ResponseHeaderTimeout: answerTime,
			MaxResponseHeaderBytes: maxHeader, ForceAttemptHTTP2: true,
			MaxIdleConns: 16, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return c.check(req.URL)
		},
	}
	return c
}

// Close ends the connections that nobody uses.
func (c *Client) Close() { c.client.CloseIdleConnections() }

// Parse reads the address of a page.
func (c *Client) Parse(address string) (*url.URL, error) {
	if len(address) > maxURL {
		return nil, fmt.Errorf("the address has %d bytes", len(address))
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("that is no URL")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, c.check(u)
}

// check says what is wrong with asking for an address. To which network it leads is seen when
// it is dialled.
func (c *Client) check(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("the scheme is %q, and not http or https", u.Scheme)
	}
	if u.Hostname() == "" {
		return errors.New("there is no host in it")
	}
	if u.User != nil {
		return errors.New("there is a user in it")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	for _, deny := range c.o.DenyHosts {
		if glob.Match(strings.ToLower(deny), host) {
			return fmt.Errorf("there are no previews of %s", u.Hostname())
		}
	}
	return nil
}

// Answer is what a web server answered; whoever gets it closes its body.
type Answer struct {
	// URL is where it came from in the end.
	URL *url.URL
	// Type is the Content-Type header, and Media the media type that it names.
	Type, Media string
	// Body is as long as its server likes: whoever reads it sets a bound.
	Body io.ReadCloser
}

// Name is the name of the file, "" where it has none.
func (a *Answer) Name() string {
	if name := path.Base(a.URL.Path); name != "." && name != "/" {
		return name
	}
	return ""
}

// Get asks for an address that Parse or a page gave.
func (c *Client) Get(ctx context.Context, u *url.URL) (*Answer, error) {
	if err := c.check(u); err != nil {
		return nil, fmt.Errorf("%w of %s: %w", ErrUnavailable, u.Redacted(), err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	if c.o.Language != "" {
		req.Header.Set("Accept-Language", c.o.Language)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w of %s: %w", ErrUnavailable, u.Redacted(), err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%w of %s: its server answered %d", ErrUnavailable, u.Redacted(), resp.StatusCode), resp.Body.Close())
	}
	a := &Answer{URL: resp.Request.URL, Type: resp.Header.Get("Content-Type"), Body: resp.Body}
	a.Media, _, _ = mime.ParseMediaType(a.Type) // "" is a type of which nothing is made
	return a, nil
}
