package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"parley/federation/remote/keyring"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
)

const (
	scheme = "X-Matrix"
	// maxHeader bounds an Authorization header, and maxHeaders how many a request may have.
	maxHeader  = 4096
	maxHeaders = 8
)

// Authorization is an Authorization header of the scheme X-Matrix.
//
// spec: server-server-api.md#request-authentication
type Authorization struct {
	Origin      id.ServerName
	Destination id.ServerName // "" from old servers
	Key         string
	Signature   string
}

// String is the header as old servers understand it too.
func (a Authorization) String() string {
	return fmt.Sprintf(`%s origin="%s",destination="%s",key="%s",sig="%s"`, scheme, a.Origin, a.Destination, a.Key, a.Signature)
}

// errScheme says that a header is not ours to read.
var errScheme = errors.New("the Authorization header is not of the scheme X-Matrix")

// ParseAuthorization reads an Authorization header.
//
// spec: server-server-api.md#request-authentication
func ParseAuthorization(header string) (a Authorization, err error) {
	if len(header) > maxHeader {
		return a, errors.New("the Authorization header is too long")
	}
	name, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(name, scheme) {
		return a, errScheme
	}
	seen := make(map[string]bool)
	for {
		// Lists may have empty elements (RFC 9110, 5.6.1).
		if rest = strings.TrimLeft(rest, " \t,"); rest == "" {
			break
		}
		var param, value string
		if param, value, rest, err = nextParameter(rest); err != nil {
			return a, err
		}
		param = strings.ToLower(param)
		if seen[param] {
			return a, fmt.Errorf("the Authorization header has %.50q twice", param)
		}
		seen[param] = true
		switch param {
		case "origin":
			a.Origin = id.ServerName(value)
		case "destination":
			a.Destination = id.ServerName(value)
		case "key":
			a.Key = value
		case "sig":
			a.Signature = value
		case "signature": // as the list of parameters has it, other than all examples
			if a.Signature == "" {
				a.Signature = value
			}
		}
	}
	if a.Origin == "" || a.Key == "" || a.Signature == "" {
		return a, errors.New("the Authorization header lacks origin, key or sig")
	}
	if _, err := id.ParseServerName(string(a.Origin)); err != nil {
		return a, fmt.Errorf("the origin in the Authorization header: %w", err)
	}
	return a, nil
}

// nextParameter reads name=value, and what must come after it.
func nextParameter(s string) (name, value, rest string, err error) {
	i := strings.IndexAny(s, "= \t,\"")
	if i <= 0 {
		return "", "", "", errors.New("the Authorization header has a parameter without a name")
	}
	name, rest = s[:i], strings.TrimLeft(s[i:], " \t")
	if !strings.HasPrefix(rest, "=") {
		return "", "", "", fmt.Errorf("the parameter %.50q of the Authorization header has no value", name)
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	if strings.HasPrefix(rest, `"`) {
		value, rest, err = quoted(rest[1:])
	} else {
		// More than a token may have: old servers write colons, slashes and equal signs.
		end := strings.IndexAny(rest, " \t,\"\\")
		if end < 0 {
			end = len(rest)
		}
		value, rest = rest[:end], rest[end:]
	}
	if rest = strings.TrimLeft(rest, " \t"); err == nil && rest != "" && rest[0] != ',' {
		err = fmt.Errorf("the parameter %.50q of the Authorization header goes on after its value", name)
	}
	return name, value, rest, err
}

// quoted reads a quoted value whose first quotation mark has been read.
func quoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i == len(s) {
				break
			}
			fallthrough
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("the Authorization header has an open quotation mark")
}

// signedRequest is what of a request is signed, in canonical form; content is nil where there is no
// body.
func signedRequest(method, uri string, origin, destination id.ServerName, content []byte) ([]byte, error) {
	text, err := json.Marshal(struct {
		Method      string        `json:"method"`
		URI         string        `json:"uri"`
		Origin      id.ServerName `json:"origin"`
		Destination id.ServerName `json:"destination,omitempty"`
	}{method, uri, origin, destination})
	if err != nil {
		return nil, err
	}
	if content != nil {
		text = bytes.Join([][]byte{[]byte(`{"content":`), content, []byte(","), text[1:]}, nil)
	}
	// Events of old rooms may have any numbers, which are signed as they are.
	return signedjson.CanonicalOfOld(text)
}

// authorize makes the header of a request of ours.
func authorize(method, uri string, origin, destination id.ServerName, content []byte, key keyring.SigningKey) (string, error) {
	text, err := signedRequest(method, uri, origin, destination, content)
	if err != nil {
		return "", fmt.Errorf("sign a request: %w", err)
	}
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key.Key, text))
	return Authorization{origin, destination, key.ID, sig}.String(), nil
}

// VerifyRequest says which server has signed a request to us; a nil body is none. It is what httpapi
// wants for its routes that are for servers.
//
// spec: server-server-api.md#request-authentication
func (c *Client) VerifyRequest(ctx context.Context, req *http.Request, body []byte) (id.ServerName, error) {
	headers := req.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", unauthorized("the request has no Authorization header")
	}
	if len(body) == 0 {
		body = nil
	} else if !json.Valid(body) {
		return "", matrixerr.New(matrixerr.NotJSON, "the request body is not valid JSON")
	}
	// A server with several keys may send a header for each; one that is good is enough.
	var failed error
	for _, header := range headers[:min(len(headers), maxHeaders)] {
		a, err := ParseAuthorization(header)
		if err != nil {
			failed = unauthorized("%v", err)
			continue
		}
		if err := c.verify(ctx, a, req, body); err != nil {
			failed = err
			continue
		}
		c.down.alive(a.Origin)
		return a.Origin, nil
	}
	return "", failed
}

func unauthorized(format string, args ...any) error {
	return matrixerr.New(matrixerr.Unauthorized, format, args...)
}

func (c *Client) verify(ctx context.Context, a Authorization, req *http.Request, body []byte) error {
	switch {
	case a.Destination != "" && a.Destination != c.o.Name:
		return unauthorized("the request is meant for %.255s, and this is %s", a.Destination, c.o.Name)
	case a.Origin == c.o.Name:
		return unauthorized("the request says that it is from this server itself")
	case !c.o.Policy.Allows(a.Origin):
		return matrixerr.New(matrixerr.Forbidden, "this server does not federate with %s", a.Origin)
	}
	uri := req.RequestURI
	if !strings.HasPrefix(uri, "/") { // a proxy may ask for the whole URL
		uri = req.URL.RequestURI()
	}
	text, err := signedRequest(req.Method, uri, a.Origin, a.Destination, body)
	if err != nil {
		return matrixerr.New(matrixerr.BadJSON, "the request body has no canonical form")
	}
	err = c.keys.VerifyNow(ctx, a.Origin, a.Key, a.Signature, text)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrNoKey), errors.Is(err, signedjson.ErrSignature):
		return unauthorized("the signature by key %.100q can't be verified: %v", a.Key, err)
	}
	return fmt.Errorf("verify a request of %s: %w", a.Origin, err)
}
