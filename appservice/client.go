package appservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// maxResponse bounds what is read of a service's answer, and maxErrorBody what is told of a bad one.
	maxResponse  = 1 << 20
	maxErrorBody = 4 << 10
	// transactionTime bounds the sending of a transaction: services may be slow to take in what they get.
	transactionTime = time.Minute
)

// newClient is for services, whose addresses the operator has given: so they may be in private networks.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 8, MaxConnsPerHost: 32, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// statusError is an answer that is not 200.
type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the application service answers with status %d", e.status)
}

// unrecognized says that the service may not know the path.
func (e *statusError) unrecognized() bool {
	code := gjson.GetBytes(e.body, "errcode").Str
	return e.status == http.StatusMethodNotAllowed || e.status == http.StatusNotFound && !strings.HasSuffix(code, "NOT_FOUND")
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func (s *Services) ask(ctx context.Context, to *Service, method, path string, body []byte) ([]byte, error) {
	return s.askWith(ctx, to, method, path, url.Values{}, body)
}

// askWith asks a service at the path that is specified, and where it does not know that at the path that
// was in use before.
//
// spec: application-service-api.md#legacy-routes
func (s *Services) askWith(ctx context.Context, to *Service, method, path string, query url.Values, body []byte) ([]byte, error) {
	answer, err := s.request(ctx, to, method, "/_matrix/app/v1"+path, query, body)
	var status *statusError
	if path == "/ping" || !errors.As(err, &status) || !status.unrecognized() {
		return answer, err
	}
	old := path
	if strings.HasPrefix(path, "/thirdparty/") {
		old = "/_matrix/app/unstable" + path
	}
	with := url.Values{"access_token": {to.hsToken}}
	for k, v := range query {
		with[k] = v
	}
	return s.request(ctx, to, method, old, with, body)
}

// request is one request. The error is a *statusError where the answer is not 200.
//
// spec: application-service-api.md#authorisation
func (s *Services) request(ctx context.Context, to *Service, method, path string, query url.Values, body []byte) ([]byte, error) {
	address := to.url + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+to.hsToken)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) { // its text has the address, and so a token perhaps
			err = failed.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	limit := int64(maxResponse)
	if resp.StatusCode != http.StatusOK {
		limit = maxErrorBody
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, &statusError{resp.StatusCode, text}
	case int64(len(text)) == limit:
		return nil, errors.New("the application service's answer is too large")
	}
	return text, nil
}
