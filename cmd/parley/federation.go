package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"parley/config"
	"parley/federation"
	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/federation/sender"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/outgoing"
	"parley/internal/stream"
	"parley/storage"
)

func (m *Main) federationCommand() *cobra.Command {
	return group("federation", "Look at other servers", m.federationCheckCommand())
}

func (m *Main) federationCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Find another server step by step, and say what is wrong",
		Long: `Finds the server that has a name, such as example.org, in the way that this server would:
its well-known file, its SRV records, its addresses, its certificate. Connects to each address, and
fetches and verifies the server's keys. The exit status is 1 if the server can't be reached, or its
keys not be used. What the configuration says of certificates and of networks that are never
connected to holds here too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, _, err := m.configuration("")
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
			defer cancel()
			return remote.Inspect(ctx, connecting(cfg), id.ServerName(args[0]), m.Stdout)
		},
	}
}

// connecting are the options of how to connect to other servers.
func connecting(cfg *config.Config) remote.Options {
	return remote.Options{
		Name:      cfg.ServerName,
		Policy:    remote.Policy{Allow: cfg.Federation.AllowServers, Deny: cfg.Federation.DenyServers},
		Dial:      outgoing.New(cfg.Outgoing.DenyNetworks, cfg.Outgoing.AllowNetworks).DialContext,
		TLS:       remoteTLS(cfg),
		UserAgent: "Parley/" + buildVersion(),
	}
}

// newRemote makes what asks other servers; nil where the node is to have nothing to do with any.
func newRemote(cfg *config.Config, db *storage.DB, keys []signingKey, log *slog.Logger, metrics prometheus.Registerer) (*remote.Client, error) {
	f := &cfg.Federation
	if !f.Enabled {
		return nil, nil
	}
	o := connecting(cfg)
	o.DB, o.Notaries, o.OldKeys = db, f.Notaries, make(map[string]keyring.Key)
	o.Log, o.Metrics = log.With(packageKey, "remote"), metrics
	for _, k := range keys {
		o.Keys = append(o.Keys, keyring.SigningKey(k))
	}
	for _, k := range f.OldSigningKeys {
		public, err := base64.RawStdEncoding.DecodeString(k.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("old signing key %s: %w", k.ID, err)
		}
		o.OldKeys[k.ID] = keyring.Key{Public: public, Expired: k.Expired.UnixMilli()}
	}
	return remote.New(o)
}

// newSender starts to send to other servers; it is nil where the node has nothing to do with any.
func newSender(cfg *config.Config, h *hearts, broker *stream.Broker, log *slog.Logger, metrics prometheus.Registerer) (*sender.Sender, error) {
	if h.remote == nil {
		return nil, nil
	}
	policy := remote.Policy{Allow: cfg.Federation.AllowServers, Deny: cfg.Federation.DenyServers}
	o := sender.Options{
		DB: h.db, ServerName: cfg.ServerName, Remote: h.remote, Rooms: h.rooms, Users: h.users, Broker: broker,
		// Of several processes with one PostgreSQL, also of one that takes another's place, one sends.
		Shared:  cfg.Database.URL.Reveal() != "",
		Allowed: policy.Allows, Log: log.With(packageKey, "sender"), Metrics: metrics,
	}
	if cfg.Presence == config.PresenceFull {
		o.Presence = func(user id.UserID) sender.Presence { return sender.Presence(h.users.GetPresence(user)) }
	}
	return sender.New(o)
}

// remoteTLS says how the certificates of other servers are checked: by the authorities that the
// machine trusts, or SSL_CERT_FILE names.
func remoteTLS(cfg *config.Config) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !cfg.Federation.VerifyTLS}
}

// serverFaces is everything that other servers may ask for, and nil where there is nothing.
func serverFaces(cfg *config.Config, h *hearts, log *slog.Logger, metrics prometheus.Registerer) (httpapi.Table, httpapi.Options, error) {
	o := httpapi.Options{
		Log:            log.With(packageKey, "http"),
		TrustedProxies: cfg.Listeners.TrustedProxies,
		Metrics:        metrics,
	}
	if h.remote == nil {
		return nil, o, nil
	}
	o.VerifyServer = h.remote.VerifyRequest
	api, err := federation.New(federation.Options{
		Remote: h.remote, Rooms: h.rooms, Users: h.users, Media: h.media, Directory: cfg.Rooms.FederateDirectory, Version: buildVersion(),
		ReceiveEDU: h.users.ReceiveEDU,
		Heard: func(origin id.ServerName) {
			h.sender.Heard(origin)
			h.users.Heard(origin)
		},
		Log: log.With(packageKey, "federation"), Metrics: metrics,
	})
	if err != nil {
		return nil, o, err
	}
	return api.Routes(), o, nil
}

// serverIdentity is what anybody may ask of a server that others can reach.
func serverIdentity(h *hearts) httpapi.Table {
	if h.remote == nil {
		return nil
	}
	return federation.Identity(h.remote, buildVersion())
}

// newServerAPI is the API of a listener that is for other servers alone.
func newServerAPI(o httpapi.Options, routes httpapi.Table, cfg *config.Config) (http.Handler, error) {
	api, err := httpapi.New(o, routes, federation.WellKnown(cfg.WellKnown.Server))
	if err != nil {
		return nil, fmt.Errorf("server API: %w", err)
	}
	return api, nil
}

// buildVersion is the program's version, as far as it knows.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
