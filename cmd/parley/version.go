package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"parley/config"
)

// specVersion is the newest version of the Matrix specification that Parley follows.
const specVersion = "v1.19"

func (m *Main) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program and of the protocol",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version, details := "unknown", []string{}
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
				details = append(details, info.GoVersion)
				for _, s := range info.Settings {
					switch {
					case s.Key == "vcs.revision":
						details = append(details, s.Value)
					case s.Key == "vcs.modified" && s.Value == "true":
						details = append(details, "with changes")
					}
				}
			}
			rooms := config.RoomVersions()
			_, err := fmt.Fprintf(m.Stdout, "parley %s (%s)\nMatrix specification %s, room versions %s to %s\n",
				version, strings.Join(details, ", "), specVersion, rooms[0], rooms[len(rooms)-1])
			return err
		},
	}
}
