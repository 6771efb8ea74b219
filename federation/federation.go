// Package federation is the server-server API: what other servers ask of us. It checks who asks,
// and hands what they ask to the hearts; what is true of a room or a user they decide.
//
// Its tables are [API.Routes], for servers, and [WellKnown], for the host that a server's name
// says. What we ask of others is in federation/remote, which has the keys too.
//
// spec: server-server-api.md
package federation

import (
	"context"
	"net/http"
	"slices"

	"parley/federation/remote"
	"parley/internal/httpapi"
	"parley/internal/id"
)

// Options is what the API needs.
type Options struct {
	// Remote knows the keys of servers, and ours.
	Remote *remote.Client
	// Version is what this node says that it is.
	Version string
}

// API answers other servers.
type API struct {
	remote  *remote.Client
	version string
}

// New makes the API.
func New(o Options) *API {
	return &API{remote: o.Remote, version: o.Version}
}

// Routes are all that other servers may ask for.
func (a *API) Routes() httpapi.Table { return slices.Concat(a.keyRoutes()) }

type empty struct{}

// WellKnown is the file by which other servers find this one, at the host that its name says; ""
// is for none.
//
// spec: server-server-api.md#getwell-knownmatrixserver
func WellKnown(server id.ServerName) httpapi.Table {
	if server == "" {
		return nil
	}
	type file struct {
		Server id.ServerName `json:"m.server"`
	}
	return httpapi.Table{{
		Method: http.MethodGet, Path: "/.well-known/matrix/server", Auth: httpapi.None, Rate: httpapi.RateNone,
		Handler: httpapi.Handle(func(context.Context, *httpapi.Request, *empty) (file, error) { return file{server}, nil }),
	}}
}
