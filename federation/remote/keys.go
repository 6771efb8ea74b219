package remote

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/federation/remote/keyring"
	"parley/internal/id"
)

// Version is what a server says that it runs.
//
// spec: server-server-api.md#get_matrixfederationv1version
type Version struct {
	Name    string
	Version string
}

// Version asks a server what it runs.
func (c *Client) Version(ctx context.Context, server id.ServerName) (Version, error) {
	var out struct {
		Server Version `json:"server"`
	}
	err := c.ask(ctx, server, request{kind: query, method: http.MethodGet, path: "/_matrix/federation/v1/version", unsigned: true}, &out)
	return out.Server, err
}

// ServerKeys is what a server says of its keys; nothing of it was checked.
//
// spec: server-server-api.md#get_matrixkeyv2server
func (c *Client) ServerKeys(ctx context.Context, server id.ServerName) ([]byte, error) {
	var out json.RawMessage
	err := c.ask(ctx, server, request{kind: keyList, method: http.MethodGet, path: "/_matrix/key/v2/server", unsigned: true}, &out)
	return out, err
}

// queryKeys asks a notary for servers' lists of keys.
//
// spec: server-server-api.md#post_matrixkeyv2query
func (c *Client) queryKeys(ctx context.Context, notary id.ServerName, wanted keyring.Wanted) ([]json.RawMessage, error) {
	type criteria struct {
		ValidUntil int64 `json:"minimum_valid_until_ts"`
	}
	body := struct {
		Keys map[id.ServerName]map[string]criteria `json:"server_keys"`
	}{make(map[id.ServerName]map[string]criteria)}
	for server, keys := range wanted {
		body.Keys[server] = make(map[string]criteria)
		for name, at := range keys {
			body.Keys[server][name] = criteria{at}
		}
	}
	var out struct {
		Lists []json.RawMessage `json:"server_keys"`
	}
	err := c.ask(ctx, notary, request{kind: keyLists, method: http.MethodPost, path: "/_matrix/key/v2/query", body: body, unsigned: true}, &out)
	return out.Lists, err
}
