package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"parley/config"
)

// listen serves HTTP at one address until ctx is done, and then lets the requests end that
// have begun. certificates is nil for plain HTTP.
func listen(ctx context.Context, address string, certificates *tls.Config, h http.Handler, log *slog.Logger, ready func(net.Addr)) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	server := &http.Server{
		Handler:           h,
		TLSConfig:         certificates,
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
	log.Info("listening", "address", listener.Addr().String(), "tls", certificates != nil)
	ready(listener.Addr())
	if certificates != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return <-drained
}

// certificates are those with which a listener proves who it is; nil for one of plain HTTP.
// manager is for those that have none of their own, and otherwise nil.
func certificates(l config.Listener, manager *autocert.Manager, log *slog.Logger) (*tls.Config, error) {
	switch {
	case l.ACME:
		c := manager.TLSConfig()
		c.MinVersion = tls.VersionTLS12
		return c, nil
	case l.TLSCertificate == "":
		return nil, nil
	}
	f, err := newCertificateFile(string(l.TLSCertificate), string(l.TLSKey), log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.get}, nil
}

// newACME gets certificates from an authority, and keeps them in the data directory; nil where no
// listener wants one.
func newACME(cfg *config.Config) *autocert.Manager {
	if !cfg.Listeners.Client.ACME && !cfg.Listeners.Federation.ACME {
		return nil
	}
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(filepath.Join(string(cfg.DataDir), "acme")),
		HostPolicy: autocert.HostWhitelist(cfg.ACME.Domains...),
		Email:      cfg.ACME.Email,
		Client:     &acme.Client{DirectoryURL: cfg.ACME.Directory, UserAgent: "Parley/" + buildVersion()},
	}
}

// certificateFile is a certificate in files, which is read anew when they were replaced.
type certificateFile struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	stamp   [2]stamp
	current *tls.Certificate
}

// stamp tells one content of a file from another.
type stamp struct {
	size int64
	time time.Time
	info fs.FileInfo
}

func (s stamp) same(other stamp) bool {
	return s.size == other.size && s.time.Equal(other.time) && os.SameFile(s.info, other.info)
}

func stampOf(file string) (stamp, error) {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.Size(), info.ModTime(), info}, nil
}

func newCertificateFile(cert, key string, log *slog.Logger) (*certificateFile, error) {
	f := &certificateFile{cert: cert, key: key, log: log}
	if err := f.refresh(); err != nil {
		return nil, fmt.Errorf("the certificate %s and its key: %w", cert, err)
	}
	return f, nil
}

// get is what tls.Config wants. A file that can't be read, perhaps because it is being written, leaves
// the certificate as it was.
func (f *certificateFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil {
		f.log.Warn("the new certificate cannot be used, so the old one stays", "file", f.cert, "error", err)
	}
	return f.current, nil
}

// refresh reads the files if they are not those that were read last.
func (f *certificateFile) refresh() error {
	var now [2]stamp
	for i, file := range []string{f.cert, f.key} {
		var err error
		if now[i], err = stampOf(file); err != nil {
			return err
		}
	}
	if f.current != nil && now[0].same(f.stamp[0]) && now[1].same(f.stamp[1]) {
		return nil
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	if f.current != nil {
		f.log.Info("there is a new certificate", "file", f.cert)
	}
	f.current, f.stamp = &c, now
	return nil
}
