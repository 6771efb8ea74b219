package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// identityTime and identitySize bound the answer of an identity server.
	identityTime = 15 * time.Second
	identitySize = 64 << 10
)

// newIdentityClient makes the client for identity servers: it is seldom used, and keeps no connection.
func newIdentityClient(o *Options) *http.Client {
	return &http.Client{
		Timeout: identityTime,
		Transport: &http.Transport{
			DialContext:            o.Dial,
			TLSClientConfig:        o.TLS.Clone(),
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CheckIdentityKey asks an identity server at a URL of its own whether a key is still good.
//
// spec: identity-service-api.md#get_matrixidentityv2pubkeyephemeralisvalid
func (c *Client) CheckIdentityKey(ctx context.Context, address, key string) (bool, error) {
	to, err := url.Parse(address)
	if err != nil || to.Scheme != "https" || to.Host == "" {
		return false, errors.New("the URL at which an identity server tells of its keys is no https: URL")
	}
	q := to.Query()
	q.Set("public_key", key)
	to.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return false, fmt.Errorf("identity server: %w", err)
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	resp, err := c.identity.Do(req)
	if err != nil {
		return false, fmt.Errorf("identity server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("identity server: %w", &StatusError{Status: resp.StatusCode})
	}
	var out struct {
		Valid bool `json:"valid"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, identitySize)).Decode(&out); err != nil {
		return false, fmt.Errorf("identity server: %w: %w", ErrAnswer, err)
	}
	return out.Valid, nil
}
