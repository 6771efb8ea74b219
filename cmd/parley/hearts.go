package main

import (
	"context"
	"errors"
	"log/slog"

	"parley/config"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/userserver"
)

// hearts is the part of a node that its commands share with `serve`: the database and those
// who write to it.
type hearts struct {
	db    *storage.DB
	rooms *roomserver.Server
	users *userserver.Server
	keys  []signingKey
}

// openHearts connects to the database, which it makes where there is none. publish is given
// the notices of what was written; nil means that nobody listens, as in a command.
func openHearts(ctx context.Context, cfg *config.Config, log *slog.Logger, publish func(stream.Notice)) (*hearts, error) {
	keys, err := signingKeys(cfg)
	if err != nil {
		return nil, err
	}
	o := storage.Options{
		URL:        cfg.Database.URL.Reveal(),
		Durability: storage.Full,
		Readers:    cfg.Database.Readers,
		Log:        log.With(packageKey, "storage"),
		Publish:    publish,
	}
	if o.URL == "" {
		o.URL = cfg.SQLiteFile()
	}
	if cfg.Database.Durability == config.Relaxed {
		o.Durability = storage.Relaxed
	}
	db, err := storage.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	rooms, err := roomserver.New(roomserver.Options{
		DB:             db,
		Name:           cfg.ServerName,
		KeyID:          keys[0].ID,
		Key:            keys[0].Key,
		DefaultVersion: cfg.Rooms.DefaultVersion,
		Log:            log.With(packageKey, "roomserver"),
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	users := userserver.New(userserver.Options{
		DB:         db,
		ServerName: cfg.ServerName,
		Rooms:      rooms,
		Log:        log.With(packageKey, "userserver"),
		Publish:    publish,
		NoPresence: cfg.Presence == config.PresenceOff,

		RegistrationToken: cfg.Registration.Token.Reveal(),
	})
	return &hearts{db, rooms, users, keys}, nil
}

// close ends what runs, and writes what was accepted.
func (h *hearts) close() error {
	h.users.Close()
	return h.db.Close()
}
