// Package clientapi is the client-server API: a table of routes and a handler for each, a
// file a chapter of the specification. A handler decodes nothing and decides little: it
// calls roomserver or userserver and names the fields of the answer.
//
// It is not for /sync, which is clientapi/syncapi.
//
// spec: client-server-api/index.md
package clientapi

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/unread"
	"parley/media"
	"parley/roomserver"
	"parley/userserver"
)

// Options is what the client API needs. All but the registration, the addresses and the clock
// must be given.
type Options struct {
	ServerName id.ServerName
	Users      *userserver.Server
	Rooms      *roomserver.Server
	Unread     *unread.Counter
	// Media is nil on a node that serves no files.
	Media *media.Server
	// Epoch names the log that positions in tokens count in.
	Epoch string

	Registration Registration
	WellKnown    WellKnown
	TURN         TURN
	// Services are the application services; nil for none.
	Services Services
	// HeardService is told that an application service was heard from; nil for nobody.
	HeardService func(service string)
	// Now is the clock; nil means the system's.
	Now func() time.Time
}

// API answers clients.
type API struct {
	serverName   id.ServerName
	users        *userserver.Server
	rooms        *roomserver.Server
	unread       *unread.Counter
	media        *media.Server
	epoch        string
	registration Registration
	wellKnown    WellKnown
	turn         TURN
	services     Services
	heardService func(string)
	now          func() time.Time
}

// New makes an API that is ready to answer.
func New(o Options) (*API, error) {
	if o.ServerName == "" || o.Users == nil || o.Rooms == nil || o.Unread == nil || o.Epoch == "" {
		return nil, errors.New("client API: server name, users, rooms, what is unread and epoch must be given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Services == nil {
		o.Services = noServices{}
	}
	if o.HeardService == nil {
		o.HeardService = func(string) {}
	}
	return &API{
		serverName: o.ServerName, users: o.Users, rooms: o.Rooms, unread: o.Unread, media: o.Media, epoch: o.Epoch,
		registration: o.Registration, wellKnown: o.WellKnown, turn: o.TURN, services: o.Services, heardService: o.HeardService, now: o.Now,
	}, nil
}

// Routes is everything that the client API answers but /sync.
func (a *API) Routes() httpapi.Table {
	return slices.Concat(
		a.discoveryRoutes(),
		a.registerRoutes(),
		a.loginRoutes(),
		a.accountRoutes(),
		a.threePIDRoutes(),
		a.pageRoutes(),
		a.deviceRoutes(),
		a.profileRoutes(),
		a.accountDataRoutes(),
		a.receiptRoutes(),
		a.presenceRoutes(),
		a.pusherRoutes(),
		a.pushRuleRoutes(),
		a.notificationRoutes(),
		a.threadSubscriptionRoutes(),
		a.keyRoutes(),
		a.dehydratedRoutes(),
		a.keyBackupRoutes(),
		a.roomRoutes(),
		a.mediaRoutes(),
		a.findRoutes(),
		a.searchRoutes(),
		a.reportRoutes(),
		a.networkRoutes(),
		a.adminRoutes(),
		a.oldRoutes(),
	)
}

// Authenticate says whom an access token stands for; it is for [httpapi.Options].
func (a *API) Authenticate(ctx context.Context, r *httpapi.Request, token string) (*httpapi.Caller, error) {
	if service, sender, limited := a.services.ByToken(token); service != "" {
		return a.authenticateService(ctx, r, service, sender, limited)
	}
	c, err := a.users.Authenticate(ctx, token, ipString(r.IP))
	if err != nil {
		return nil, err
	}
	return &httpapi.Caller{
		User: c.User, Device: c.Device, DeviceNID: c.DeviceNID,
		Admin: c.Admin, Guest: c.Guest, Locked: c.Locked, Suspended: c.Suspended,
	}, nil
}

// v1 and v3 are how most paths begin.
const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// ipString is the address in the form in which it is kept and shown, "" for none.
func ipString(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

// own refuses a caller who asks for what is another user's.
func own(r *httpapi.Request, user id.UserID) error {
	if r.Caller.User != user {
		return matrixerr.New(matrixerr.Forbidden, "this is for %s alone", user)
	}
	return nil
}

// millis is a duration as clients get it.
func millis(d time.Duration) int64 { return d.Milliseconds() }
