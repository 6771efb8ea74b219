package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"parley/internal/id"
)

// For how long an answer is remembered, and how large it may be.
//
// spec: server-server-api.md#resolving-server-names
const (
	// usualLife is that of a file that does not say.
	usualLife = 24 * time.Hour
	// longestLife is the most that it may say.
	longestLife = 48 * time.Hour
	// shortestLife is the least: a file that may not be cached at all would be asked for with
	// each request.
	shortestLife = 5 * time.Minute
	// After a failure the next attempt waits for so long, twice as long after each further one,
	// and not longer than an hour.
	firstWait   = 2 * time.Minute
	longestWait = time.Hour

	wellKnownTime = 15 * time.Second
	wellKnownSize = 50 << 10
	maxRedirects  = 5
)

// Delegation is what a server's well-known file says.
type Delegation struct {
	// To is the name that stands for the server: its own, where it has not delegated.
	To id.ServerName
	// URL is where it was asked for; "" where the name needs no asking.
	URL string
	// Err is why there is no delegation although it was asked for.
	Err error
}

// delegation is a remembered one.
type delegation struct {
	to       id.ServerName
	err      error
	until    time.Time // when to ask again
	fetched  time.Time // when to was learned
	failures int
}

// Delegate is the name that stands for a server. That there is no well-known file, or a bad one,
// is no error.
func (r *Resolver) Delegate(ctx context.Context, name id.ServerName) (Delegation, error) {
	host, port, literal, err := splitName(name)
	if err != nil {
		return Delegation{}, err
	}
	if literal || port != "" {
		return Delegation{To: name}, nil
	}
	key := fold(name)
	d, ok := r.delegations.Get(key)
	if last := d; !ok || !r.now().Before(d.until) {
		d, err = r.asking.Do(ctx, key, func(ctx context.Context) (delegation, error) {
			d := r.ask(ctx, host, last)
			if ctx.Err() == nil {
				r.delegations.Add(key, d)
			}
			return d, nil
		})
		if err != nil {
			return Delegation{}, fmt.Errorf("ask for the well-known file of %s: %w", name, err)
		}
	}
	if d.to == "" {
		d.to = name
	}
	return Delegation{To: d.to, URL: wellKnownURL(host), Err: d.err}, nil
}

func wellKnownURL(host string) string { return "https://" + host + "/.well-known/matrix/server" }

// ask fetches a host's file, and says what is to be remembered now.
func (r *Resolver) ask(ctx context.Context, host string, last delegation) delegation {
	to, life, err := r.fetch(ctx, host)
	now := r.now()
	if err == nil {
		return delegation{to: to, fetched: now, until: now.Add(life)}
	}
	r.log.Debug("no well-known file", "server", host, "error", err)
	wait := min(firstWait<<min(last.failures, 10), longestWait)
	wait -= rand.N(wait / 10) // not for all servers at the same time
	d := delegation{err: err, until: now.Add(wait), failures: last.failures + 1}
	// A file that can't be had just now is not one that was taken away.
	if last.to != "" && !errors.Is(err, errNoFile) && now.Sub(last.fetched) < longestLife {
		d.to, d.fetched = last.to, last.fetched
	}
	return d
}

// errNoFile says that the host answered, and has no file that says where the server is.
var errNoFile = errors.New("there is no good file")

func webClient(o Options) *http.Client {
	return &http.Client{
		Timeout: wellKnownTime,
		Transport: &http.Transport{
			DialContext:            o.Dial,
			TLSClientConfig:        o.TLS.Clone(),
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // the next question is for tomorrow
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return fmt.Errorf("it is redirected more than %d times", maxRedirects)
			case req.URL.Scheme != "https":
				return errors.New("it is redirected to a place without TLS")
			}
			return nil
		},
	}
}

func (r *Resolver) fetch(ctx context.Context, host string) (to id.ServerName, life time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, wellKnownURL(host), nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Accept", "application/json")
	if r.userAgent != "" {
		req.Header.Set("User-Agent", r.userAgent)
	}
	resp, err := r.web.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
		return "", 0, fmt.Errorf("the answer is %s", resp.Status)
	case resp.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("%w: the answer is %s", errNoFile, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wellKnownSize+1))
	if err != nil {
		return "", 0, err
	}
	if len(body) > wellKnownSize {
		return "", 0, fmt.Errorf("%w: it is larger than %d bytes", errNoFile, wellKnownSize)
	}
	to, err = parseWellKnown(body)
	return to, lifetime(resp.Header, r.now()), err
}

// parseWellKnown reads the name that a well-known file gives.
//
// spec: server-server-api.md#getwell-knownmatrixserver
func parseWellKnown(body []byte) (id.ServerName, error) {
	var file struct {
		Server *string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &file); err != nil {
		return "", fmt.Errorf("%w: it is not the JSON that it should be: %w", errNoFile, err)
	}
	if file.Server == nil {
		return "", fmt.Errorf("%w: it has no m.server", errNoFile)
	}
	to := id.ServerName(*file.Server)
	if _, _, _, err := splitName(to); err != nil {
		return "", fmt.Errorf("%w: its m.server is wrong: %w", errNoFile, err)
	}
	return to, nil
}

// lifetime is for how long an answer may be remembered, by its headers.
func lifetime(h http.Header, now time.Time) time.Duration {
	return max(shortestLife, min(saidLifetime(h, now), longestLife))
}

func saidLifetime(h http.Header, now time.Time) time.Duration {
	age := time.Duration(0)
	if s, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
		age = time.Duration(s) * time.Second
	}
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return 0
			case "max-age":
				s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 64)
				if err != nil {
					return 0 // what can't be read counts as stale
				}
				return time.Duration(min(s, uint64(longestLife/time.Second)))*time.Second - age
			}
		}
	}
	if expires := h.Get("Expires"); expires != "" {
		at, err := http.ParseTime(expires)
		if err != nil {
			return 0
		}
		// What counts is the difference to the clock of the one who said it.
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		return at.Sub(now) - age
	}
	return usualLife
}
