package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"sync"
)

// Handler answers requests. It is made by [Handle] or [Stream].
type Handler struct {
	build func(*Route) (*endpoint, error)
}

// endpoint is a handler with its plan of how to decode requests.
type endpoint struct {
	plan *plan
	call func(ctx context.Context, r *Request, w http.ResponseWriter, args args) error
}

// Handle makes a handler of a function from a request to an answer. Req is what the package
// comment describes. Resp is encoded as JSON with status 200; nil is answered as {}, and a
// [RawJSON] as it is.
func Handle[Req, Resp any](f func(ctx context.Context, r *Request, in *Req) (Resp, error)) Handler {
	return Stream(func(ctx context.Context, r *Request, in *Req, w http.ResponseWriter) error {
		out, err := f(ctx, r, in)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, out)
	})
}

// Stream makes a handler of a function that writes its answer itself, for what is not JSON or
// does not come at once. An error that it returns is answered as any other if nothing was
// written before; otherwise the connection is broken, so that nobody takes half an answer for
// a whole one. If Req has no part of the body, the function may read the body itself, which then has no
// limit but what it sets.
func Stream[Req any](f func(ctx context.Context, r *Request, in *Req, w http.ResponseWriter) error) Handler {
	return Handler{build: func(route *Route) (*endpoint, error) {
		p, err := makePlan(reflect.TypeFor[Req](), route)
		if err != nil {
			return nil, err
		}
		return &endpoint{plan: p, call: func(ctx context.Context, r *Request, w http.ResponseWriter, a args) error {
			in := new(Req)
			if err := p.decode(reflect.ValueOf(in).Elem(), a); err != nil {
				return err
			}
			return f(ctx, r, in, w)
		}}, nil
	}}
}

// RawJSON is an answer that has been encoded already.
type RawJSON []byte

// Shared header values; nobody changes the elements of a header's slice.
var (
	headerJSON  = []string{"application/json"}
	emptyObject = []byte("{}")
)

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// largestPooled is the size of a buffer that is not worth keeping.
const largestPooled = 64 << 10

// WriteJSON answers with status 200, for a function given to Stream whose answer is JSON after all.
func WriteJSON(w http.ResponseWriter, v any) error { return writeJSON(w, http.StatusOK, v) }

func writeJSON(w http.ResponseWriter, status int, v any) error {
	if raw, ok := v.(RawJSON); ok {
		return writeBytes(w, status, raw)
	}
	buf := buffers.Get().(*bytes.Buffer)
	buf.Reset()
	defer func() {
		if buf.Cap() <= largestPooled {
			buffers.Put(buf)
		}
	}()
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	b := buf.Bytes()
	return writeBytes(w, status, b[:len(b)-1])
}

func writeBytes(w http.ResponseWriter, status int, b []byte) error {
	// "All endpoints require the server to return a JSON object."
	// spec: client-server-api/index.md#api-standards
	if len(b) == 0 || string(b) == "null" {
		b = emptyObject
	}
	h := w.Header()
	h["Content-Type"] = headerJSON
	// net/http finds out the length of what is short by itself.
	if len(b) > 2000 {
		h["Content-Length"] = []string{strconv.Itoa(len(b))}
	}
	w.WriteHeader(status)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}
