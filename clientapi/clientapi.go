// Package clientapi is the client-server API: a table of routes and a handler for each, a
// file a chapter of the specification. A handler decodes nothing and decides little: it
// calls roomserver or userserver and names the fields of the answer.
//
// It is not for /sync, which is clientapi/syncapi.
//
// spec: client-server-api/index.md
package clientapi

import (
	"errors"
	"slices"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/roomserver"
	"parley/userserver"
)

// Options is what the client API needs.
type Options struct {
	ServerName id.ServerName
	Users      *userserver.Server
	Rooms      *roomserver.Server
	// Epoch names the log that positions in tokens count in.
	Epoch string
}

// API answers clients.
type API struct {
	serverName id.ServerName
	users      *userserver.Server
	rooms      *roomserver.Server
	epoch      string
}

// New makes an API that is ready to answer.
func New(o Options) (*API, error) {
	if o.ServerName == "" || o.Users == nil || o.Rooms == nil || o.Epoch == "" {
		return nil, errors.New("client API: server name, users, rooms and epoch must be given")
	}
	return &API{serverName: o.ServerName, users: o.Users, rooms: o.Rooms, epoch: o.Epoch}, nil
}

// Routes is everything that the client API answers but /sync.
func (a *API) Routes() httpapi.Table {
	return slices.Concat(a.roomRoutes())
}
