package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"parley/config"
)

// run is the node: it makes all parts, connects them, and returns when ctx is done and all
// of them have ended. It calls ready once, when clients can connect.
func run(ctx context.Context, cfg *config.Config, log *slog.Logger, ready func(net.Addr)) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return listen(ctx, cfg.Listeners.Client, mux, log.With("package", "http"), ready)
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
