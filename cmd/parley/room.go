package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"parley/internal/id"
	"parley/roomserver/dag"
)

func (m *Main) roomCommand() *cobra.Command {
	c := group("room", "Look into rooms, whether the server runs or not", m.roomDAGCommand())
	c.PersistentFlags().StringVar(&m.dataDir, "data", "", "data `folder` of the server, if it was started with --data")
	return c
}

func (m *Main) roomDAGCommand() *cobra.Command {
	var svg, dot string
	var around []string
	var limit int
	c := &cobra.Command{
		Use:   "dag ROOM (--svg FILE | --dot FILE)",
		Short: "Draw a room's events, how they follow one another, and what became of each",
		Long: `Draws a room's DAG: its forks and forward extremities, the events that were rejected or
soft-failed, and for each merge of a fork which of the events in conflict were taken, which
were dropped, and why. "-" as a file is the standard output.

Without --around it draws the newest events; ROOM is a room ID.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			room, err := id.ParseRoomID(args[0])
			if err != nil {
				return err
			}
			if svg == "" && dot == "" {
				return errors.New("say what to write: --svg FILE, --dot FILE, or both")
			}
			var events []id.EventID
			for _, s := range around {
				event, err := id.ParseEventID(s)
				if err != nil {
					return err
				}
				events = append(events, event)
			}
			return m.withHearts(c.Context(), false, func(ctx context.Context, h *hearts) error {
				g, err := h.rooms.DAG(ctx, room, events, limit)
				if err != nil {
					return err
				}
				return errors.Join(m.write(svg, g, dag.SVG), m.write(dot, g, dag.DOT))
			})
		},
	}
	c.Flags().StringVar(&svg, "svg", "", "draw into an SVG `file`")
	c.Flags().StringVar(&dot, "dot", "", "write a `file` for graphviz")
	c.Flags().StringArrayVar(&around, "around", nil, "draw what is around an `event`, given by its ID; may be repeated")
	c.Flags().IntVar(&limit, "limit", 100, "draw at most so many `events`")
	return c
}

// write draws a graph into a file, if there is one to be written.
func (m *Main) write(file string, g dag.Graph, draw func(io.Writer, dag.Graph) error) error {
	switch file {
	case "":
		return nil
	case "-":
		return draw(m.Stdout, g)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(draw(f, g), f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(m.Stdout, "Drew %d events into %s.\n", len(g.Events), file)
	return nil
}
