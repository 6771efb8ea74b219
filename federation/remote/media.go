package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"parley/internal/disposition"
	"parley/internal/id"
	"parley/internal/serverapi"
)

// file is a file, which whoever asked for it reads: how long that may take and how large the file
// may be is theirs to say.
var file = kind{name: "media"}

const (
	// aboutSize bounds what is said of a file.
	aboutSize = 64 << 10
	// maxRedirects bounds the way to a file that its server keeps elsewhere.
	maxRedirects = 3
)

// Media is a file of another server, which the caller closes. It waits up to timeout for one that has
// not been uploaded there yet.
//
// spec: server-server-api.md#content-repository
func (c *Client) Media(ctx context.Context, server id.ServerName, mediaID string, timeout time.Duration) (*serverapi.File, error) {
	wait := url.Values{"timeout_ms": {strconv.FormatInt(timeout.Milliseconds(), 10)}}
	began := c.o.Now()
	resp, err := c.send(ctx, server, request{kind: file, method: http.MethodGet, path: join("/_matrix/federation/v1/media/download", mediaID), query: wait})
	old := unrecognized(err)
	if old {
		// A server from before files were asked for with a signature.
		wait.Set("allow_remote", "false")
		resp, err = c.send(ctx, server, request{kind: file, method: http.MethodGet, unsigned: true,
			path: join("/_matrix/media/v3/download", string(server), mediaID), query: wait})
	}
	c.metrics.observe(file, err, c.o.Now().Sub(began))
	if err != nil {
		return nil, fmt.Errorf("ask %s for a file: %w", server, err)
	}
	if old {
		return plainFile(resp), nil
	}
	f, err := c.partFile(ctx, resp)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask %s for a file: %w", server, err), resp.Body.Close())
	}
	return f, nil
}

// plainFile is a file that is the whole of an answer.
func plainFile(resp *http.Response) *serverapi.File {
	return &serverapi.File{Body: resp.Body, Type: resp.Header.Get("Content-Type"), Name: disposition.Name(resp.Header.Get("Content-Disposition"))}
}

// partFile is a file that is the second part of an answer, or that the second part says where to find.
func (c *Client) partFile(ctx context.Context, resp *http.Response) (*serverapi.File, error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, fmt.Errorf("%w: it has no parts", ErrAnswer)
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	about, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	text, err := io.ReadAll(io.LimitReader(about, aboutSize+1))
	if err != nil || len(text) > aboutSize || !json.Valid(text) {
		return nil, fmt.Errorf("%w: its first part is not JSON of at most %d bytes", ErrAnswer, aboutSize)
	}
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if location := part.Header.Get("Location"); location != "" {
		f, err := c.elsewhere(ctx, location)
		return f, errors.Join(err, resp.Body.Close())
	}
	return &serverapi.File{
		Body: struct {
			io.Reader
			io.Closer
		}{part, resp.Body},
		Type: part.Header.Get("Content-Type"), Name: disposition.Name(part.Header.Get("Content-Disposition")),
	}, nil
}

// elsewhere gets a file from where its server keeps it. We are nobody there.
func (c *Client) elsewhere(ctx context.Context, location string) (*serverapi.File, error) {
	transport := &http.Transport{
		DialContext: c.o.Dial, TLSClientConfig: c.o.TLS.Clone(), TLSHandshakeTimeout: handshakeTime,
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects || req.URL.Scheme != "https" {
			return fmt.Errorf("%w: it leads to %s, after %d others", ErrAnswer, req.URL.Redacted(), len(via))
		}
		return nil
	}}
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("%w: the file is said to be at %.100q", ErrAnswer, location)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%w: %s answered %d", ErrAnswer, u.Host, resp.StatusCode), resp.Body.Close())
	}
	return plainFile(resp), nil
}
