package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// drainTime is how long a node may take to end its requests and close its database once it
// was told to stop.
const drainTime = 10 * time.Second

func (m *Main) serveCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server until SIGTERM or SIGINT",
		Long: `Run the server until SIGTERM or SIGINT, which let what has begun come to its end; a second
signal ends the process at once.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return m.serve(c.Context(), listen)
		},
	}
	c.Flags().StringVar(&m.dataDir, "data", "", "`folder` of the database and the signing key, instead of the configured one")
	c.Flags().StringVar(&listen, "listen", "", "`address` of the client API, instead of the configured one")
	return c
}

func (m *Main) serve(ctx context.Context, listen string) error {
	cfg, file, err := m.configuration(listen)
	if err != nil {
		return err
	}
	log := newLogger(m.Stderr, cfg.Logging)
	log.Info("starting", "server_name", cfg.ServerName, "configuration", file)
	ready := func(addr net.Addr) {
		if file == "" {
			data := ""
			if m.dataDir != "" {
				data = " --data " + m.dataDir
			}
			fmt.Fprintf(m.Stdout, "No configuration file, so this server is for this machine alone: point a client at http://%s "+
				"(anyone may register, nothing is rate limited); make the first admin with: parley user create --admin%s NAME\n", addr, data)
		}
		if m.Ready != nil {
			m.Ready(addr)
		}
	}

	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// After the first signal the next one has its default effect, which is to end the process.
	context.AfterFunc(ctx, stop)

	ended := make(chan error, 1)
	go func() { ended <- run(ctx, cfg, log, ready) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(drainTime):
		return errors.New("not everything had come to its end 10 s after the signal to stop")
	}
}
