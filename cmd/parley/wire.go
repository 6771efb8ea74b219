package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"parley/clientapi"
	"parley/config"
	"parley/federation"
	"parley/internal/httpapi"
	"parley/internal/stream"
)

// run is the node: it makes all parts, connects them, and returns when ctx is done and all
// of them have ended. It calls ready once, when clients can connect.
func run(ctx context.Context, cfg *config.Config, log *slog.Logger, ready func(net.Addr)) (err error) {
	metrics := prometheus.NewRegistry()
	h, hub, err := openNode(ctx, cfg, log, metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	defer hub.Close()

	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "parley_storage_transactions_total",
			Help: "Write transactions, each with one sync of the disk."}, func() float64 { return float64(h.db.Stats().Groups) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "parley_storage_writes_total",
			Help: "Writes that shared those transactions."}, func() float64 { return float64(h.db.Stats().Functions) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "parley_retention_expired_total",
			Help: "Messages that left because their time was up."}, func() float64 { return float64(h.rooms.Expired()) }))
	faces, servers, err := newFaces(cfg, h, hub, log, metrics)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, r *http.Request) {
		if err := h.db.Ping(r.Context()); err != nil {
			log.Error("not ready", "error", err)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/", faces)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Those who wait for news are sent home first, so that their requests end.
	defer context.AfterFunc(ctx, hub.Close)()
	parts, err := listeners(cfg, mux, servers, metrics, log)
	if err != nil {
		return err
	}
	ended := make(chan error, len(parts))
	others := make(chan struct{}, len(parts)) // gets one of each but the first, when others can connect
	for i, p := range parts {
		up := func(net.Addr) { others <- struct{}{} }
		if i == 0 {
			up = func(addr net.Addr) {
				for range len(parts) - 1 {
					select {
					case <-others:
					case <-ctx.Done():
						return
					}
				}
				ready(addr)
			}
		}
		go func() { ended <- listen(ctx, p.address, p.certificates, p.handler, p.log, up) }()
	}
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { h.rooms.KeepSearch(ctx) })
	background.Go(func() { h.rooms.CompleteJoins(ctx) })
	background.Go(func() { h.rooms.ExpireMessages(ctx) })
	for range parts {
		err = errors.Join(err, <-ended)
		cancel() // one that cannot listen ends the others
	}
	return err
}

// part is something that is served at an address of its own.
type part struct {
	address      string
	certificates *tls.Config
	handler      http.Handler
	log          *slog.Logger
}

// listeners are the parts of a node; the first is that for clients. servers is nil where there is none
// for servers alone.
func listeners(cfg *config.Config, clients, servers http.Handler, metrics *prometheus.Registry, log *slog.Logger) ([]part, error) {
	web := log.With(packageKey, "http")
	acme := newACME(cfg)
	own, err := certificates(cfg.Listeners.Client, acme, web)
	if err != nil {
		return nil, err
	}
	parts := []part{{cfg.Listeners.Client.Address, own, clients, web}}
	if servers != nil {
		own, err := certificates(cfg.Listeners.Federation, acme, web)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{cfg.Listeners.Federation.Address, own, servers, web})
	}
	if acme != nil && cfg.ACME.HTTPAddress != "" {
		parts = append(parts, part{cfg.ACME.HTTPAddress, nil, acme.HTTPHandler(nil), web})
	}
	if cfg.Metrics.Address != "" {
		figures := http.NewServeMux()
		figures.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		figures.HandleFunc("GET /debug/pprof/", pprof.Index)
		figures.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		parts = append(parts, part{cfg.Metrics.Address, nil, figures, log.With(packageKey, "metrics")})
	}
	return parts, nil
}

// newFaces are the APIs: what is served to clients, and to other servers too unless they have a
// listener of their own; then what is served there. Who this node is can be asked everywhere.
func newFaces(cfg *config.Config, h *hearts, hub *stream.Hub, log *slog.Logger, metrics prometheus.Registerer) (clients, servers http.Handler, err error) {
	serverRoutes, serverOptions, err := serverFaces(cfg, h, log, metrics)
	if err != nil {
		return nil, nil, fmt.Errorf("server API: %w", err)
	}
	if cfg.Listeners.Federation.Address != "" {
		if servers, err = newServerAPI(serverOptions, serverRoutes, cfg); err != nil {
			return nil, nil, err
		}
		serverRoutes = serverIdentity(h)
	}
	client, err := clientapi.New(clientapi.Options{
		ServerName: cfg.ServerName, Users: h.users, Rooms: h.rooms, Media: h.media, Unread: h.unread, Epoch: h.db.Epoch(),
		Registration: registration(cfg.Registration, h.users.HasMail()),
		WellKnown:    wellKnown(cfg.WellKnown),
		Services:     h.services,
		HeardService: h.heardService,
		TURN:         clientapi.TURN{URIs: cfg.TURN.URIs, SharedSecret: cfg.TURN.SharedSecret.Reveal(), Lifetime: cfg.TURN.Lifetime},
	})
	if err != nil {
		return nil, nil, err
	}
	syncing, err := newSync(cfg, h, hub, log)
	if err != nil {
		return nil, nil, err
	}
	o := serverOptions
	o.Authenticate = client.Authenticate
	o.MaxBody = int64(cfg.Limits.BodySize)
	if r := cfg.RateLimits; r.Enabled {
		limit := func(r config.Rate) httpapi.Limit { return httpapi.Limit{PerSecond: r.PerSecond, Burst: r.Burst} }
		o.Rates = map[httpapi.Rate]httpapi.Limit{
			httpapi.RateLogin: limit(r.Login), httpapi.RateRegister: limit(r.Registration), httpapi.RateSend: limit(r.Sending),
		}
	}
	api, err := httpapi.New(o, client.Routes(), syncing.Routes(), serverRoutes, federation.WellKnown(cfg.WellKnown.Server))
	if err != nil {
		return nil, nil, fmt.Errorf("client API: %w", err)
	}
	return api, servers, nil
}

// registration is who may make an account.
func registration(r config.Registration, mail bool) clientapi.Registration {
	out := clientapi.Registration{
		Open: r.Allow == config.Anyone, Token: r.Allow == config.Token, Guests: r.Guests,
		SharedSecret: r.SharedSecret.Reveal(), Email: mail, RequireEmail: r.RequireEmail,
	}
	for _, t := range r.Terms {
		out.Terms = append(out.Terms, clientapi.Terms(t))
	}
	return out
}

func wellKnown(w config.WellKnown) clientapi.WellKnown {
	out := clientapi.WellKnown{ClientBaseURL: w.ClientBaseURL, SupportPage: w.SupportPage}
	for _, c := range w.SupportContacts {
		out.Contacts = append(out.Contacts, clientapi.Contact{Role: c.Role, MatrixID: c.MatrixID, EmailAddress: c.EmailAddress})
	}
	return out
}
