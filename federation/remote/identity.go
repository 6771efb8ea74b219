package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
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

// StoreInvite has an identity server keep an invite until somebody shows that the address is theirs, and gives what the
// room is to know of it.
//
// spec: identity-service-api.md#post_matrixidentityv2store-invite
func (c *Client) StoreInvite(ctx context.Context, server, token string, in *serverapi.IdentityInvite) (*serverapi.StoredInvite, error) {
	out := new(serverapi.StoredInvite)
	if err := c.askIdentity(ctx, http.MethodPost, server, "/store-invite", bearer(token), in, out); err != nil {
		return nil, err
	}
	if out.Token == "" || len(out.Token) > 255 || len(out.PublicKeys) == 0 {
		return nil, badIdentity(fmt.Errorf("%w: no token or no key of an invite", ErrAnswer))
	}
	return out, nil
}

// LookupAddress asks an identity server whose an address is; "" where it knows nobody.
//
// spec: identity-service-api.md#association-lookup
func (c *Client) LookupAddress(ctx context.Context, server, token, medium, address string) (id.UserID, error) {
	var details struct {
		Pepper     string   `json:"lookup_pepper"`
		Algorithms []string `json:"algorithms"`
	}
	if err := c.askIdentity(ctx, http.MethodGet, server, "/hash_details", bearer(token), nil, &details); err != nil {
		return "", err
	}
	if !slices.Contains(details.Algorithms, "sha256") {
		return "", badIdentity(fmt.Errorf("%w: it has no sha256", ErrAnswer))
	}
	sum := sha256.Sum256([]byte(address + " " + medium + " " + details.Pepper))
	hash := base64.RawURLEncoding.EncodeToString(sum[:])
	var out struct {
		Mappings map[string]string `json:"mappings"`
	}
	err := c.askIdentity(ctx, http.MethodPost, server, "/lookup", bearer(token),
		map[string]any{"algorithm": "sha256", "pepper": details.Pepper, "addresses": []string{hash}}, &out)
	if err != nil || out.Mappings[hash] == "" {
		return "", err
	}
	user, err := id.ParseUserID(out.Mappings[hash])
	if err != nil {
		return "", badIdentity(fmt.Errorf("%w: %w", ErrAnswer, err))
	}
	return user, nil
}

// Bind tells an identity server, to which a client showed that an address is its own, whose it is.
//
// spec: identity-service-api.md#post_matrixidentityv23pidbind
func (c *Client) Bind(ctx context.Context, server, token, sid, secret string, user id.UserID) (medium, address string, err error) {
	var out struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	err = c.askIdentity(ctx, http.MethodPost, server, "/3pid/bind", bearer(token),
		map[string]any{"sid": sid, "client_secret": secret, "mxid": user}, &out)
	if err == nil && (out.Medium == "" || out.Address == "") {
		err = badIdentity(fmt.Errorf("%w: it does not say which address it is", ErrAnswer))
	}
	return out.Medium, out.Address, err
}

// Unbind has an identity server forget whose an address is. It knows by our signature that the user is one of ours.
//
// spec: identity-service-api.md#post_matrixidentityv23pidunbind
func (c *Client) Unbind(ctx context.Context, server string, user id.UserID, medium, address string) error {
	body := map[string]any{"mxid": user, "threepid": map[string]any{"medium": medium, "address": address}}
	return c.askIdentity(ctx, http.MethodPost, server, "/3pid/unbind", func(req *http.Request, content []byte) error {
		header, err := authorize(req.Method, req.URL.RequestURI(), c.o.Name, id.ServerName(server), content, c.o.Keys[0])
		req.Header.Set("Authorization", header)
		return err
	}, body, &struct{}{})
}

// bearer shows an access token, which the user has of the identity server.
func bearer(token string) func(*http.Request, []byte) error {
	return func(req *http.Request, _ []byte) error {
		req.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

// askIdentity makes a request of an identity server, whose name is that of its website.
func (c *Client) askIdentity(ctx context.Context, method, server, path string, show func(*http.Request, []byte) error, body, out any) error {
	var content []byte
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode a request: %w", err)
		}
		if content, err = signedjson.Canonical(text); err != nil {
			return fmt.Errorf("encode a request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+server+"/_matrix/identity/v2"+path, bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("identity server: %w", err)
	}
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := show(req, content); err != nil {
		return err
	}
	return c.doIdentity(req, out)
}

// doIdentity makes a request and decodes the answer.
func (c *Client) doIdentity(req *http.Request, out any) error {
	req.Header.Set("User-Agent", c.o.UserAgent)
	resp, err := c.identity.Do(req)
	if err != nil {
		return badIdentity(fmt.Errorf("%w: %w", ErrUnreachable, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := readError(resp)
		if err.matrix == nil {
			return badIdentity(err)
		}
		return fmt.Errorf("identity server: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, identitySize)).Decode(out); err != nil {
		return badIdentity(fmt.Errorf("%w: %w", ErrAnswer, err))
	}
	return nil
}

// badIdentity says that what a client called an identity server does not answer as one that is to be trusted would: the
// client chose it, so that is no fault of ours.
func badIdentity(err error) error {
	return fmt.Errorf("identity server: %w: %w", err,
		matrixerr.New(matrixerr.ServerNotTrusted, "The identity server does not answer as it should."))
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
	var out struct {
		Valid bool `json:"valid"`
	}
	err = c.doIdentity(req, &out)
	return out.Valid, err
}
