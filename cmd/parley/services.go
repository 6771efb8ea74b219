package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"parley/appservice"
	"parley/config"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

// newServices reads who the application services are.
func newServices(cfg *config.Config, db *storage.DB, log *slog.Logger) (*appservice.Services, error) {
	files := make([]string, len(cfg.AppServices))
	for i, file := range cfg.AppServices {
		files[i] = string(file)
	}
	list, err := appservice.Load(files, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	return appservice.New(appservice.Options{DB: db, List: list, Log: log.With(packageKey, "appservice")})
}

// newBridging makes the users who act for application services, and starts to send to these; it is nil where there are none.
func newBridging(ctx context.Context, cfg *config.Config, h *hearts, broker *stream.Broker, log *slog.Logger, metrics prometheus.Registerer) (*appservice.Sender, error) {
	if len(h.services.List()) == 0 {
		return nil, nil
	}
	for _, service := range h.services.List() {
		if err := h.users.TakeServiceUser(ctx, service.ID, service.Sender); err != nil {
			return nil, fmt.Errorf("the user of application service %s: %w", service.ID, err)
		}
	}
	o := appservice.SenderOptions{
		DB: h.db, Services: h.services, Rooms: h.rooms, Users: h.users, Broker: broker,
		Shared: cfg.Database.URL.Reveal() != "", Log: log.With(packageKey, "appservice"), Metrics: metrics,
	}
	if cfg.Presence != config.PresenceOff {
		o.Presence = func(user id.UserID) appservice.Presence { return appservice.Presence(h.users.GetPresence(user)) }
	}
	return appservice.NewSender(o)
}

// heardService says that an application service was heard from.
func (h *hearts) heardService(service string) {
	if h.bridging != nil {
		h.bridging.Heard(service)
	}
}
