package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
)

const (
	// maxNotarised bounds of how many servers we are asked at once.
	maxNotarised = 100
	// notaryTime is how long we ask other servers on somebody's behalf.
	notaryTime = 20 * time.Second
)

// identity is what a node says of itself, and of the keys of others.
type identity struct {
	ring    *keyring.Ring
	version string
}

// Identity are the routes by which other servers learn who this node is, and which keys it and others
// have. Anybody may ask.
//
// spec: server-server-api.md#retrieving-server-keys
func Identity(c *remote.Client, version string) httpapi.Table {
	a := identity{c.Keys(), version}
	return httpapi.Table{
		{Method: http.MethodGet, Path: "/_matrix/federation/v1/version", Auth: httpapi.None, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.getVersion)},
		{Method: http.MethodGet, Path: "/_matrix/key/v2/server/", Auth: httpapi.None, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.ownKeys)},
		{Method: http.MethodGet, Path: "/_matrix/key/v2/query/{serverName}", Auth: httpapi.None, Rate: httpapi.RateServer, Handler: httpapi.Handle(a.keysOfServer)},
		{Method: http.MethodPost, Path: "/_matrix/key/v2/query", Auth: httpapi.None, Rate: httpapi.RateServer, NeedBody: true, Handler: httpapi.Handle(a.keysOfServers)},
	}
}

type versionResponse struct {
	Server version `json:"server"`
}

type version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// spec: server-server-api.md#get_matrixfederationv1version
func (a identity) getVersion(context.Context, *httpapi.Request, *empty) (versionResponse, error) {
	return versionResponse{version{"Parley", a.version}}, nil
}

// spec: server-server-api.md#get_matrixkeyv2server
func (a identity) ownKeys(context.Context, *httpapi.Request, *empty) (httpapi.RawJSON, error) {
	list, err := a.ring.OwnList()
	return httpapi.RawJSON(list), err
}

type keyLists struct {
	Lists []json.RawMessage `json:"server_keys"`
}

type keysOfServerRequest struct {
	Server     id.ServerName `path:"serverName"`
	ValidUntil *int64        `query:"minimum_valid_until_ts"`
}

// spec: server-server-api.md#get_matrixkeyv2queryservername
func (a identity) keysOfServer(ctx context.Context, _ *httpapi.Request, in *keysOfServerRequest) (*keyLists, error) {
	return a.notarise(ctx, keyring.Wanted{in.Server: {"": until(in.ValidUntil)}})
}

// until is the time that was asked for, and now where none was.
func until(ts *int64) int64 {
	if ts == nil {
		return time.Now().UnixMilli()
	}
	return *ts
}

type keysOfServersRequest struct {
	Servers map[string]map[string]struct {
		ValidUntil *int64 `json:"minimum_valid_until_ts"`
	} `json:"server_keys"`
}

// spec: server-server-api.md#post_matrixkeyv2query
func (a identity) keysOfServers(ctx context.Context, _ *httpapi.Request, in *keysOfServersRequest) (*keyLists, error) {
	if len(in.Servers) > maxNotarised {
		return nil, matrixerr.New(matrixerr.InvalidParam, "the keys of at most %d servers are given at once", maxNotarised)
	}
	wanted := make(keyring.Wanted, len(in.Servers))
	for name, keys := range in.Servers {
		server, err := id.ParseServerName(name)
		if err != nil {
			return nil, matrixerr.New(matrixerr.InvalidParam, "server_keys: %v", err)
		}
		wanted[server] = map[string]int64{"": until(nil)}
		for key, criteria := range keys {
			wanted[server][key] = until(criteria.ValidUntil)
		}
	}
	return a.notarise(ctx, wanted)
}

// notarise answers as a notary. A server that can't be reached in time is missing in the answer.
func (a identity) notarise(ctx context.Context, wanted keyring.Wanted) (*keyLists, error) {
	ctx, cancel := context.WithTimeout(ctx, notaryTime)
	defer cancel()
	lists, err := a.ring.Lists(ctx, wanted)
	if err != nil {
		return nil, err
	}
	return &keyLists{lists}, nil
}
