package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"parley/config"
	"parley/internal/id"
)

func (m *Main) configCommand() *cobra.Command {
	return group("config", "Write or check a configuration file", m.configInitCommand(), m.configCheckCommand())
}

func (m *Main) configInitCommand() *cobra.Command {
	var name, output string
	c := &cobra.Command{
		Use:   "init --server-name NAME",
		Short: "Write a configuration file with every setting and its default",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			server, err := id.ParseServerName(name)
			if err != nil {
				return fmt.Errorf("%q cannot be the name of a server: %w", name, err)
			}
			if output == "-" {
				_, err := m.Stdout.Write(config.Sample(server))
				return err
			}
			if err := writeNew(output, config.Sample(server)); err != nil {
				return err
			}
			fmt.Fprintf(m.Stdout, "Wrote %s. Now: parley serve --config %s\n", output, output)
			return nil
		},
	}
	c.Flags().StringVar(&name, "server-name", "", "`name` of the server, which its users' IDs end in; it cannot be changed later")
	c.Flags().StringVarP(&output, "output", "o", defaultConfigFile, "`file` to write, or - for the standard output")
	// The error is for a flag that does not exist.
	_ = c.MarkFlagRequired("server-name")
	return c
}

// writeNew makes a file, which may come to hold secrets, and never replaces one.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (m *Main) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "List all that is wrong with a configuration file",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				m.configFile = args[0]
			}
			cfg, file, err := m.configuration("")
			if err != nil {
				return err
			}
			if file == "" {
				return fmt.Errorf("there is no %s here; name a file", defaultConfigFile)
			}
			fmt.Fprintf(m.Stdout, "%s is a good configuration of %s.\n", file, cfg.ServerName)
			return nil
		},
	}
}
