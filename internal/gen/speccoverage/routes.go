package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"parley/clientapi"
	"parley/clientapi/syncapi"
	"parley/federation"
	"parley/federation/remote"
	"parley/internal/httpapi"
	"parley/internal/stream"
	"parley/internal/unread"
	"parley/media"
	"parley/roomserver"
	"parley/storage"
	"parley/userserver"
)

// routes are the tables of a node that has all its parts. The parts are empty, as nothing is asked of them.
func routes() (clients, servers httpapi.Table, err error) {
	rooms, users, files := new(roomserver.Server), new(userserver.Server), new(media.Server)
	client, err := clientapi.New(clientapi.Options{
		ServerName: "example.org", Users: users, Rooms: rooms, Media: files, Unread: new(unread.Counter), Epoch: "e",
	})
	if err != nil {
		return nil, nil, err
	}
	syncing, err := syncapi.New(syncapi.Options{DB: new(storage.DB), Rooms: rooms, Hub: new(stream.Hub), Users: users})
	if err != nil {
		return nil, nil, err
	}
	server, err := federation.New(federation.Options{
		Remote: new(remote.Client), Rooms: rooms, Users: users, Media: files, Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("server API: %w", err)
	}
	return append(client.Routes(), syncing.Routes()...), append(server.Routes(), federation.WellKnown("example.org")...), nil
}
