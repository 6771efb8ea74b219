package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"parley/clientapi/syncapi"
	"parley/config"
	"parley/internal/id"
	"parley/internal/outgoing"
	"parley/internal/stream"
	"parley/internal/unread"
	"parley/push"
)

// openNode connects to the database, and starts what wakes those who wait for news of it and what
// sends them to other servers.
func openNode(ctx context.Context, cfg *config.Config, log *slog.Logger, metrics prometheus.Registerer) (*hearts, *stream.Hub, error) {
	var h *hearts
	hub := stream.NewHub(stream.HubOptions{
		// The hub asks only of users whom a notice is about, and there are none before all is open.
		Rooms: func(ctx context.Context, user id.UserID) ([]id.RoomID, id.Pos, error) {
			return syncapi.JoinedRooms(ctx, h.db, user)
		},
		Log: log.With(packageKey, "stream"),
	})
	broker := stream.NewBroker(hub.Publish)
	h, err := openHearts(ctx, cfg, log, broker.Publish, metrics)
	if err != nil {
		hub.Close()
		return nil, nil, err
	}
	if err := h.start(ctx, cfg, broker, log, metrics); err != nil {
		hub.Close()
		return nil, nil, errors.Join(err, h.close())
	}
	return h, hub, nil
}

// start starts what follows the log: what counts what people have not read, pushes it to their
// phones, and sends to other servers and to application services.
func (h *hearts) start(ctx context.Context, cfg *config.Config, broker *stream.Broker, log *slog.Logger, metrics prometheus.Registerer) (err error) {
	if h.unread, err = unread.New(h.db, h.rooms); err != nil {
		return err
	}
	if h.sender, err = newSender(cfg, h, broker, log, metrics); err != nil {
		return err
	}
	if h.bridging, err = newBridging(ctx, cfg, h, broker, log, metrics); err != nil {
		return err
	}
	o := push.Options{
		DB: h.db, Rooms: h.rooms, Unread: h.unread, Broker: broker,
		Dial:   outgoing.New(cfg.Outgoing.DenyNetworks, cfg.Outgoing.AllowNetworks).DialContext,
		Shared: cfg.Database.URL.Reveal() != "",
		Log:    log.With(packageKey, "push"), Metrics: metrics,
	}
	if h.mailer != nil {
		o.Mail = h.mailer
	}
	h.pusher, err = push.New(o)
	return err
}

// newSync makes /sync.
func newSync(cfg *config.Config, h *hearts, hub *stream.Hub, log *slog.Logger) (*syncapi.API, error) {
	o := syncapi.Options{DB: h.db, Rooms: h.rooms, Hub: hub, Users: h.users, Unread: h.unread.Count, UnreadNow: h.unread.Now, Log: log.With(packageKey, "sync")}
	if cfg.Presence != config.PresenceOff {
		o.Presence = func(user id.UserID) syncapi.Presence { return syncapi.Presence(h.users.GetPresence(user)) }
	}
	return syncapi.New(o)
}
