package remote

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"parley/internal/id"
)

// AskWithin makes a request whose answer may take so long and be so large.
func (c *Client) AskWithin(ctx context.Context, server id.ServerName, path string, limit time.Duration, size int64) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.ask(ctx, server, request{kind: kind{name: "test", time: limit, size: size}, method: http.MethodGet, path: path}, &out)
	return out, err
}
