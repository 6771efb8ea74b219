package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"parley/appservice"
	"parley/config"
	"parley/federation/remote"
	"parley/federation/sender"
	"parley/internal/mail"
	"parley/internal/stream"
	"parley/internal/unread"
	"parley/media"
	"parley/push"
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
	media *media.Server
	keys  []signingKey
	// remote is nil where the node has nothing to do with other servers.
	remote *remote.Client
	// sender is nil there, and in a command: what one writes is sent when the node serves again.
	sender *sender.Sender
	// unread and pusher are nil in a command.
	unread *unread.Counter
	pusher *push.Pusher
	// services are the application services; bridging, which sends to them, is nil in a command, and where there are none.
	services *appservice.Services
	bridging *appservice.Sender
	// mailer is nil where the node sends no mail.
	mailer *mail.Mailer
}

// openHearts connects to the database, which it makes where there is none. publish is given
// the notices of what was written; nil means that nobody listens, as in a command, which has
// no use for metrics either.
func openHearts(ctx context.Context, cfg *config.Config, log *slog.Logger, publish func(stream.Notice), metrics prometheus.Registerer) (*hearts, error) {
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
	servers, err := newRemote(cfg, db, keys, log, metrics)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	services, err := newServices(cfg, db, log)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	ro := roomserver.Options{
		DB:             db,
		Name:           cfg.ServerName,
		KeyID:          keys[0].ID,
		Key:            keys[0].Key,
		DefaultVersion: cfg.Rooms.DefaultVersion,
		Log:            log.With(packageKey, "roomserver"),
		Retention: roomserver.Retention{
			Enabled: cfg.Retention.Enabled, Default: cfg.Retention.DefaultLifetime,
			Min: cfg.Retention.MinLifetime, Max: cfg.Retention.MaxLifetime, Interval: cfg.Retention.Interval,
		},
	}
	if len(cfg.AppServices) > 0 {
		ro.FindAlias = services.FindAlias
	}
	if servers != nil {
		ro.Remote, ro.Identity = servers, servers
	}
	rooms, err := roomserver.New(ro)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	uo := userserver.Options{
		DB:            db,
		ServerName:    cfg.ServerName,
		Rooms:         rooms,
		Log:           log.With(packageKey, "userserver"),
		Publish:       publish,
		NoPresence:    cfg.Presence == config.PresenceOff,
		LocalPresence: cfg.Presence == config.PresenceLocal,

		FindAllUsers:      cfg.Rooms.FindAllUsers,
		MinPassword:       cfg.Registration.MinPassword,
		MaxUsers:          cfg.Registration.MaxUsers,
		PublicURL:         cfg.WellKnown.ClientBaseURL,
		RegistrationToken: cfg.Registration.Token.Reveal(),
	}
	if e := cfg.Email; e.Host != "" {
		uo.Mailer, err = mail.New(mail.Options{
			Host: e.Host, Port: e.Port, Encryption: mail.Encryption(e.Encryption), From: e.From,
			Username: e.Username, Password: e.Password.Reveal(), ServerName: string(cfg.ServerName),
		})
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	if len(cfg.AppServices) > 0 {
		uo.FindUser = services.FindUser
	}
	if servers != nil {
		uo.Remote, uo.Identity = servers, servers
	}
	files, err := newMedia(ctx, cfg, db, servers, log)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &hearts{db: db, rooms: rooms, users: userserver.New(uo), media: files, keys: keys, remote: servers, mailer: uo.Mailer, services: services}, nil
}

// close ends what runs, and writes what was accepted.
func (h *hearts) close() error {
	if h.pusher != nil {
		h.pusher.Close()
	}
	if h.bridging != nil {
		h.bridging.Close()
	}
	h.services.Close()
	if h.sender != nil {
		h.sender.Close()
	}
	h.users.Close()
	h.media.Close()
	if h.remote != nil {
		h.remote.Close()
	}
	return h.db.Close()
}

// withHearts runs a command on the hearts of the configured node. create says that the
// database is made where there is none.
func (m *Main) withHearts(ctx context.Context, create bool, fn func(context.Context, *hearts) error) error {
	cfg, _, err := m.configuration("")
	if err != nil {
		return err
	}
	if cfg.Database.URL == "" && !create {
		if _, err := os.Stat(cfg.SQLiteFile()); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no database %s; say where it is with --config, or --data", cfg.SQLiteFile())
		}
	}
	logging := cfg.Logging
	logging.Level = config.LevelWarn
	h, err := openHearts(ctx, cfg, newLogger(m.Stderr, logging), nil, nil)
	if err != nil {
		return err
	}
	return errors.Join(fn(ctx, h), h.close())
}
