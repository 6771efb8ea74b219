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
	"log/slog"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"parley/federation/remote"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/media"
	"parley/roomserver"
	"parley/userserver"
)

// Options is what the API needs.
type Options struct {
	// Remote knows the keys of servers, and ours.
	Remote *remote.Client
	Rooms  *roomserver.Server
	Users  *userserver.Server
	// Media is nil on a node that serves no files.
	Media *media.Server
	// Directory says that other servers may read our room directory.
	Directory bool
	// ReceiveEDU takes in an EDU of a server. A [matrixerr.Error] says that it is of no use.
	ReceiveEDU func(ctx context.Context, origin id.ServerName, edu serverapi.EDU) error
	// Heard is called when a server has sent something: so it is up. It must not block.
	Heard func(origin id.ServerName)
	// Version is what this node says that it is.
	Version string
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// API answers other servers.
type API struct {
	remote       *remote.Client
	rooms        *roomserver.Server
	users        *userserver.Server
	media        *media.Server
	directory    bool
	receiveEDU   func(context.Context, id.ServerName, serverapi.EDU) error
	heard        func(id.ServerName)
	version      string
	log          *slog.Logger
	metrics      *metrics
	transactions *transactions
	// claims has room for the invites of addresses that are worked on.
	claims chan struct{}
}

// New makes the API. All of its options must be given.
func New(o Options) (*API, error) {
	t, err := newTransactions()
	if err != nil {
		return nil, err
	}
	return &API{
		remote: o.Remote, rooms: o.Rooms, users: o.Users, media: o.Media, directory: o.Directory, receiveEDU: o.ReceiveEDU, heard: o.Heard, version: o.Version,
		log: o.Log, metrics: newMetrics(o.Metrics), transactions: t, claims: make(chan struct{}, claimsAtOnce),
	}, nil
}

// Routes are all that other servers may ask for.
func (a *API) Routes() httpapi.Table {
	return slices.Concat(
		Identity(a.remote, a.version),
		a.transactionRoutes(),
		a.memberRoutes(),
		a.inviteRoutes(),
		a.eventRoutes(),
		a.queryRoutes(),
		a.deviceRoutes(),
		a.thirdPartyRoutes(),
		a.mediaRoutes(),
	)
}

// v1 and v2 are how most paths begin.
const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// get is a request of version 1 for which a server signs, and put one that brings something.
func get(path string, h httpapi.Handler) httpapi.Route {
	return httpapi.Route{Method: http.MethodGet, Path: v1 + path, Auth: httpapi.Server, Rate: httpapi.RateServer, Handler: h}
}

func put(path string, h httpapi.Handler) httpapi.Route {
	return httpapi.Route{Method: http.MethodPut, Path: path, Auth: httpapi.Server, Rate: httpapi.RateServer, NeedBody: true, Handler: h}
}

// metrics count what other servers send us.
type metrics struct {
	pdus, edus *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		pdus: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_federation_received_pdus_total",
			Help: "PDUs of other servers' transactions, by what became of them."}, []string{"result"}),
		edus: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_federation_received_edus_total",
			Help: "EDUs of other servers' transactions, by what became of them."}, []string{"result"}),
	}
	r.MustRegister(m.pdus, m.edus)
	return m
}

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
