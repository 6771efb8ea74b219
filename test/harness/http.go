package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// Response is an answer as it came, for what a client library would hide.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Get reads one value of the answer's JSON body, by a gjson path.
func (r Response) Get(path string) gjson.Result {
	return gjson.GetBytes(r.Body, path)
}

// Do sends one request: path begins at the root of the server, token may be empty, and body is sent as it is when it
// is a string or bytes, as JSON otherwise, and not at all when nil.
func (s *Server) Do(t testing.TB, method, path, token string, body any) Response {
	t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = bytes.NewReader([]byte(b))
	case []byte:
		reader = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp := Send(req)
	if resp.Status == 0 {
		t.Fatalf("%s %s: %s", method, path, resp.Body)
	}
	return resp
}

// Send makes a request whose connection may fail: the answer then has status 0 and the error as its body.
func Send(req *http.Request) Response {
	resp, err := httpClient.Do(req)
	if err != nil {
		return Response{Body: []byte(err.Error())}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return Response{Header: resp.Header, Body: []byte(err.Error())}
	}
	return Response{resp.StatusCode, resp.Header, data}
}

// httpClient's timeout is only there so that a server that never answers fails a test instead of hanging it.
var httpClient = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
