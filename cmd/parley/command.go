package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"parley/config"
	"parley/internal/matrixerr"
)

// Main is the program, with all that it has of the outside: a test runs it end to end.
type Main struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string

	// Ready, if set, is called by serve once clients can connect, with the address of the
	// client API.
	Ready func(net.Addr)

	configFile string // --config
	dataDir    string // --data
}

// Run runs the command that args name, and gives the exit status of the process: 0, or 1
// when it failed.
func (m *Main) Run(ctx context.Context, args ...string) int {
	root := &cobra.Command{
		Use:   "parley",
		Short: "A Matrix homeserver",
		Long: `Parley is a Matrix homeserver.

With no configuration file at all, "parley serve" starts one for this machine alone. For a
server that others can reach, write a file with "parley config init" first.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetArgs(args)
	root.SetIn(m.Stdin)
	root.SetOut(m.Stdout)
	root.SetErr(m.Stderr)
	root.PersistentFlags().StringVar(&m.configFile, "config", "",
		"configuration `file` (default $PARLEY_CONFIG, or parley.yaml if there is one)")
	root.AddCommand(m.serveCommand(), m.userCommand(), m.roomCommand(), m.mediaCommand(), m.federationCommand(), m.configCommand(), m.versionCommand())

	err := root.ExecuteContext(ctx)
	var problems config.Problems
	var refused *matrixerr.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		fmt.Fprintln(m.Stderr, "parley:", refused.Message)
	case errors.As(err, &problems):
		fmt.Fprintln(m.Stderr, problems.Error()) // each line begins with file:line:column:
	default:
		fmt.Fprintln(m.Stderr, "parley:", err)
	}
	return 1
}

// group is a command that only has others below it.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs, // without which cobra takes a misspelt command for a wish for help
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(commands...)
	return c
}

// configuration is the file's, or where there is none, the local one; then file is empty.
// What the command line says about the data directory and the address comes first.
func (m *Main) configuration(listen string) (cfg *config.Config, file string, err error) {
	file = m.configFile
	if file == "" {
		file = m.Getenv("PARLEY_CONFIG")
	}
	if file == "" {
		if _, err := os.Stat(defaultConfigFile); errors.Is(err, os.ErrNotExist) {
			cfg, err := config.Local(m.dataDir, listen)
			return cfg, "", err
		}
		file = defaultConfigFile
	}
	cfg, err = config.Load(file)
	if err != nil {
		return nil, file, err
	}
	if m.dataDir != "" {
		cfg.DataDir = config.Path(m.dataDir)
	}
	if listen != "" {
		cfg.Listeners.Client.Address = listen
	}
	return cfg, file, cfg.Check()
}

const defaultConfigFile = "parley.yaml"
