package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
	"unicode/utf8"

	"parley/internal/jsonshape"
	"parley/internal/matrixerr"
)

const (
	defaultMaxBody = 1 << 20
	// maxDepth is how deep a body may nest. Whoever reads it later does so recursively.
	maxDepth = 100
	// bodyTime is how long a client may take to send a body, so that one who sends a byte a
	// minute doesn't hold a connection for ever.
	bodyTime = time.Minute
	// firstRead is the most memory that is taken for a body before any of it has come.
	firstRead = 32 << 10
)

// errClientGone says that there is nobody left to answer.
var errClientGone = errors.New("the client has gone")

// readBody reads a whole body of at most limit bytes.
func readBody(w http.ResponseWriter, req *http.Request, limit int64) ([]byte, error) {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 {
		return nil, nil
	}
	tooLarge := matrixerr.New(matrixerr.TooLarge, "the request body is larger than %d bytes", limit)
	if req.ContentLength > limit {
		return nil, tooLarge
	}
	// Not every connection has deadlines; one without is a test's.
	if c := http.NewResponseController(w); c.SetReadDeadline(time.Now().Add(bodyTime)) == nil {
		defer c.SetReadDeadline(time.Time{})
	}
	size := int64(512)
	if req.ContentLength > 0 {
		// One more than comes, so that the end is seen without growing.
		size = min(req.ContentLength+1, firstRead)
	}
	b := make([]byte, 0, size)
	for {
		n, err := req.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, tooLarge
		case errors.Is(err, io.EOF):
			return b, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, matrixerr.New(matrixerr.Unknown, "the request body took too long to come").WithStatus(http.StatusRequestTimeout)
		case err != nil:
			return nil, fmt.Errorf("%w: read the body: %w", errClientGone, err)
		case len(b) == cap(b):
			b = append(b, 0)[:len(b)]
		}
	}
}

// unmarshalObject decodes a body that must be a JSON object into what v points to; a nil v
// only checks it.
func unmarshalObject(body []byte, v any) error {
	first := byte(0)
	for _, c := range body {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			first = c
			break
		}
	}
	switch {
	case !utf8.Valid(body):
		return matrixerr.New(matrixerr.NotJSON, "the request body is not valid UTF-8")
	case jsonshape.DeeperThan(body, maxDepth):
		return matrixerr.New(matrixerr.BadJSON, "the request body nests deeper than %d levels", maxDepth)
	case first != '{' && json.Valid(body):
		return matrixerr.New(matrixerr.BadJSON, "the request body is not a JSON object")
	case first != '{' || v == nil && !json.Valid(body):
		return notJSON()
	case v == nil:
		return nil
	}
	err := json.Unmarshal(body, v)
	if err == nil {
		return nil
	}
	var own *matrixerr.Error
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &syntax):
		return notJSON()
	case errors.As(err, &kind) && kind.Field != "":
		return matrixerr.New(matrixerr.BadJSON, "%s: wrong type (%s)", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return matrixerr.New(matrixerr.BadJSON, "the request body has a value of a wrong type (%s)", kind.Value)
	default:
		return matrixerr.New(matrixerr.BadJSON, "the request body is not what this endpoint takes")
	}
}

func notJSON() error {
	return matrixerr.New(matrixerr.NotJSON, "the request body is not valid JSON")
}
