package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"parley/clientapi"
	"parley/config"
	"parley/federation"
	"parley/internal/httpapi"
	"parley/internal/stream"
	"parley/internal/unread"
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
			Help: "Writes that shared those transactions."}, func() float64 { return float64(h.db.Stats().Functions) }))
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

	ended := make(chan error, 3)
	running := 1
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Those who wait for news are sent home first, so that their requests end.
	defer context.AfterFunc(ctx, hub.Close)()
	if cfg.Metrics.Address != "" {
		running++
		l := config.Listener{Address: cfg.Metrics.Address}
		figures := http.NewServeMux()
		figures.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		figures.HandleFunc("GET /debug/pprof/", pprof.Index)
		figures.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		go func() { ended <- listen(ctx, l, figures, log.With(packageKey, "metrics"), func(net.Addr) {}) }()
	}
	up := make(chan struct{})
	if servers != nil {
		running++
		go func() {
			ended <- listen(ctx, cfg.Listeners.Federation, servers, log.With(packageKey, "http"), func(net.Addr) { close(up) })
		}()
	} else {
		close(up)
	}
	go func() {
		ended <- listen(ctx, cfg.Listeners.Client, mux, log.With(packageKey, "http"), func(addr net.Addr) {
			select {
			case <-up: // so that all can connect
				ready(addr)
			case <-ctx.Done():
			}
		})
	}()
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { h.rooms.KeepSearch(ctx) })
	for range running {
		err = errors.Join(err, <-ended)
		cancel() // one that cannot listen ends the others
	}
	return err
}

// newFaces are the APIs: what is served to clients, and to other servers too unless they have a
// listener of their own; then what is served there.
func newFaces(cfg *config.Config, h *hearts, hub *stream.Hub, log *slog.Logger, metrics prometheus.Registerer) (clients, servers http.Handler, err error) {
	serverRoutes, serverOptions, err := serverFaces(cfg, h, log, metrics)
	if err != nil {
		return nil, nil, fmt.Errorf("server API: %w", err)
	}
	if cfg.Listeners.Federation.Address != "" {
		if servers, err = newServerAPI(serverOptions, serverRoutes, cfg); err != nil {
			return nil, nil, err
		}
		serverRoutes = nil
	}
	counter, err := unread.New(h.db, h.rooms)
	if err != nil {
		return nil, nil, err
	}
	client, err := clientapi.New(clientapi.Options{
		ServerName: cfg.ServerName, Users: h.users, Rooms: h.rooms, Unread: counter, Epoch: h.db.Epoch(),
		Registration: registration(cfg.Registration),
		WellKnown:    wellKnown(cfg.WellKnown),
		TURN:         clientapi.TURN{URIs: cfg.TURN.URIs, SharedSecret: cfg.TURN.SharedSecret.Reveal(), Lifetime: cfg.TURN.Lifetime},
	})
	if err != nil {
		return nil, nil, err
	}
	syncing, err := newSync(cfg, h, hub, counter, log)
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
func registration(r config.Registration) clientapi.Registration {
	return clientapi.Registration{
		Open: r.Allow == config.Anyone, Token: r.Allow == config.Token, Guests: r.Guests,
		SharedSecret: r.SharedSecret.Reveal(),
	}
}

func wellKnown(w config.WellKnown) clientapi.WellKnown {
	out := clientapi.WellKnown{ClientBaseURL: w.ClientBaseURL, SupportPage: w.SupportPage}
	for _, c := range w.SupportContacts {
		out.Contacts = append(out.Contacts, clientapi.Contact{Role: c.Role, MatrixID: c.MatrixID, EmailAddress: c.EmailAddress})
	}
	return out
}

// listen serves HTTP at one address until ctx is done, and then lets the requests end that
// have begun.
func listen(ctx context.Context, l config.Listener, h http.Handler, log *slog.Logger, ready func(net.Addr)) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.Address)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		drained <- server.Shutdown(ctx)
	})
	log.Info("listening", "address", listener.Addr().String(), "tls", l.TLSCertificate != "")
	ready(listener.Addr())
	if l.TLSCertificate != "" {
		err = server.ServeTLS(listener, string(l.TLSCertificate), string(l.TLSKey))
	} else {
		err = server.Serve(listener)
	}
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return <-drained
}
