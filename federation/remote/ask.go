package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"parley/internal/id"
	"parley/internal/jsonshape"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
)

// kind is a kind of requests: for how long an answer is waited for, and how large it may be.
type kind struct {
	name string
	time time.Duration
	size int64
	// levels are how many levels of an answer may together have maxEntries entries; 0 is for 2, which
	// are those of lists of events.
	levels int
	// patient requests are made although the server seems to be down: who makes them has a
	// back-off of their own.
	patient bool
}

// The kinds.
var (
	// query is what a person may wait for.
	query = kind{name: "query", time: 30 * time.Second, size: 4 << 20}
	// devices is the keys of many devices, by user and device.
	devices = kind{name: "devices", time: time.Minute, size: 32 << 20, levels: 4}
	// events is history.
	events = kind{name: "events", time: time.Minute, size: 32 << 20}
	// state is all of a room's state, of which there may be much.
	state = kind{name: "state", time: 5 * time.Minute, size: largeAnswer}
	// transaction is what the queues send.
	transaction = kind{name: "transaction", time: time.Minute, size: 1 << 20, patient: true}
	// keyList is a server's keys, and keyLists what a notary gives of many.
	keyList  = kind{name: "keys", time: 15 * time.Second, size: 128 << 10, patient: true}
	keyLists = kind{name: "notary", time: 30 * time.Second, size: 8 << 20}
)

const (
	largeAnswer = 128 << 20
	// maxEntries bounds the lists of an answer, of which much more is made than their text if there is little
	// in each entry. It is more than a room's state may have.
	maxEntries = 500_000
	// errorSize bounds the answer that says what went wrong, and errorText what is told of it.
	errorSize = 64 << 10
	errorText = 500
	// longestRetry is the most that a server may say how long it wants to be left alone, in nanoseconds.
	longestRetry = int64(24 * time.Hour)
)

// request is one to be made.
type request struct {
	kind     kind
	method   string
	path     string // escaped
	query    url.Values
	body     any // nil for none
	unsigned bool
	// once says that it is not the same to make the request twice.
	once bool
}

var (
	// ErrUnreachable says that there was no answer to be had from a server.
	ErrUnreachable = errors.New("the server can't be reached")
	// ErrDown says that a server was not asked, because it could not be reached a short time ago.
	ErrDown = fmt.Errorf("%w: it was down a short time ago", ErrUnreachable)
	// ErrDenied says that this node has nothing to do with a server.
	ErrDenied = errors.New("this node does not federate with the server")
	// ErrAnswer says that an answer is not what it should be.
	ErrAnswer = errors.New("the server's answer is not what it should be")
)

// StatusError is an answer that says that something went wrong. Where the server said so by a
// Matrix error, that is in its chain.
type StatusError struct {
	Status int
	// RetryAfter is for how long the server wants to be left alone; 0 where it does not say.
	RetryAfter time.Duration
	matrix     *matrixerr.Error
}

// Error says what the server said.
func (e *StatusError) Error() string {
	if e.matrix != nil {
		return fmt.Sprintf("the server answered %d: %v", e.Status, e.matrix)
	}
	return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
}

// Unwrap is the Matrix error.
func (e *StatusError) Unwrap() error {
	if e.matrix == nil {
		return nil
	}
	return e.matrix
}

// join makes a path of a prefix and segments, which it escapes.
func join(prefix string, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// ask makes a request and decodes the answer into out; nil is for an answer that says nothing.
func (c *Client) ask(ctx context.Context, server id.ServerName, r request, out any) error {
	began := c.o.Now()
	answer, err := c.answer(ctx, server, r)
	if err == nil {
		err = decode(answer, max(r.kind.levels, 2), out)
	}
	c.metrics.observe(r.kind, err, c.o.Now().Sub(began))
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w", server, r.path, err)
	}
	return nil
}

// decode makes out of an answer, which must not have more than maxEntries in its first levels.
func decode(answer []byte, levels int, out any) error {
	switch {
	case !utf8.Valid(answer):
		return fmt.Errorf("%w: it is not UTF-8", ErrAnswer)
	case jsonshape.MoreThan(answer, levels, maxEntries):
		return fmt.Errorf("%w: it has more than %d entries", ErrAnswer, maxEntries)
	}
	if raw, ok := out.(*json.RawMessage); ok {
		if !json.Valid(answer) {
			return fmt.Errorf("%w: it is not JSON", ErrAnswer)
		}
		*raw = answer
		return nil
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// answer makes a request and reads the answer.
func (c *Client) answer(ctx context.Context, server id.ServerName, r request) ([]byte, error) {
	if r.kind.size == largeAnswer {
		select {
		case c.large <- struct{}{}:
			defer func() { <-c.large }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.kind.time)
	defer cancel()
	resp, err := c.send(ctx, server, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := readAnswer(resp, r.kind.size)
	if err != nil && !errors.Is(err, ErrAnswer) {
		return nil, c.unreachable(ctx, server, err)
	}
	return answer, err
}

// readAnswer reads an answer of at most size bytes, which is that of a request that did well.
func readAnswer(resp *http.Response, size int64) ([]byte, error) {
	if resp.ContentLength > size {
		return nil, fmt.Errorf("%w: it has %d bytes, and may have %d", ErrAnswer, resp.ContentLength, size)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, size+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(answer)) > size:
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrAnswer, size)
	}
	return answer, nil
}

// send makes a request, and gives the answer if it is one of success. Whoever gets it closes it.
func (c *Client) send(ctx context.Context, server id.ServerName, r request) (*http.Response, error) {
	switch {
	case server == c.o.Name:
		return nil, errors.New("a server doesn't ask itself")
	case !c.o.Policy.Allows(server):
		return nil, ErrDenied
	case !r.kind.patient && c.down.is(server):
		return nil, ErrDown
	}
	delegation, err := c.finder.Delegate(ctx, server)
	if err != nil {
		return nil, err
	}
	req, err := c.newRequest(ctx, server, delegation.To, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.roundTrip(req, !r.once)
	var fell StreamError
	switch {
	case errors.As(err, &fell):
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	case err != nil:
		return nil, c.unreachable(ctx, server, err)
	}
	if resp.StatusCode/100 == 2 {
		c.down.alive(server)
		return resp, nil
	}
	defer resp.Body.Close()
	failure := readError(resp)
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if failure.matrix == nil { // a proxy whose server is down
			c.down.failed(server)
			return nil, failure
		}
	}
	c.down.alive(server)
	return nil, failure
}

// roundTrip makes a request. A connection that was kept may turn out to have been closed, which says
// nothing of the server: then the request is made again, if that does no harm.
func (c *Client) roundTrip(req *http.Request, twice bool) (*http.Response, error) {
	var kept bool
	traced := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { kept = i.Reused }})
	resp, err := c.transport.RoundTrip(req.WithContext(traced))
	if err == nil || !kept || !twice || req.Context().Err() != nil {
		return resp, err
	}
	if req.GetBody != nil {
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return c.transport.RoundTrip(req)
}

// StreamError is how net/http shows that a server, which is there, let a single request fall: by the
// names of its fields.
type StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e StreamError) Error() string {
	return fmt.Sprintf("stream %d was given up with code %d", e.StreamID, e.Code)
}

// unreachable notes that a server could not be reached, unless it is whoever asked who has gone.
func (c *Client) unreachable(ctx context.Context, server id.ServerName, err error) error {
	if !errors.Is(ctx.Err(), context.Canceled) {
		c.down.failed(server)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// newRequest makes a request of us to a server for which another name stands.
func (c *Client) newRequest(ctx context.Context, server, delegated id.ServerName, r request) (*http.Request, error) {
	target := "https://" + poolKey(delegated) + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var content []byte
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
		if content, err = signedjson.CanonicalOfOld(text); err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
	}
	var body io.Reader
	if content != nil {
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	req.Host = string(delegated)
	req.Header.Set("User-Agent", c.o.UserAgent)
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !r.unsigned {
		header, err := authorize(r.method, req.URL.RequestURI(), c.o.Name, server, content, c.o.Keys[0])
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", header)
	}
	return req, nil
}

// readError reads an answer that says what went wrong.
func readError(resp *http.Response) *StatusError {
	e := &StatusError{Status: resp.StatusCode}
	var fields struct {
		Code       matrixerr.Code `json:"errcode"`
		Message    string         `json:"error"`
		RetryAfter int64          `json:"retry_after_ms"`
		// RoomVersion goes with M_INCOMPATIBLE_ROOM_VERSION.
		RoomVersion id.RoomVersion `json:"room_version"`
	}
	if s, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 64); err == nil && s > 0 {
		e.RetryAfter = time.Duration(min(s, longestRetry/time.Second.Nanoseconds())) * time.Second
	}
	// Whatever can't be read is an error without a text.
	text, err := io.ReadAll(io.LimitReader(resp.Body, errorSize))
	if err != nil || !utf8.Valid(text) || json.Unmarshal(text, &fields) != nil || fields.Code == "" {
		return e
	}
	if e.RetryAfter == 0 && fields.RetryAfter > 0 {
		e.RetryAfter = time.Duration(min(fields.RetryAfter, longestRetry/time.Millisecond.Nanoseconds())) * time.Millisecond
	}
	e.matrix = foreign(fields.Code, fields.Message, resp.StatusCode)
	e.matrix.RetryAfter = e.RetryAfter
	if fields.RoomVersion != "" {
		e.matrix = e.matrix.With("room_version", fields.RoomVersion)
	}
	return e
}

// ours are errcodes that speak of the one who asks, and to a client would speak of itself: it would
// throw its own access token away.
var ours = map[matrixerr.Code]bool{
	matrixerr.UnknownToken: true, matrixerr.MissingToken: true, matrixerr.Unauthorized: true,
	matrixerr.UserLocked: true, matrixerr.UserSuspended: true, matrixerr.UserDeactivated: true,
	matrixerr.GuestAccessForbidden: true,
}

// foreign is an error of another server as it can be told to a client.
func foreign(code matrixerr.Code, message string, status int) *matrixerr.Error {
	if len(message) > errorText {
		message = strings.ToValidUTF8(message[:errorText], "") + "…"
	}
	if len(code) > 100 || ours[code] || status == http.StatusUnauthorized {
		code, status = matrixerr.Unknown, http.StatusBadGateway
	}
	if status/100 != 4 {
		status = http.StatusBadGateway
	}
	return &matrixerr.Error{Code: code, Message: message, Status: status}
}
