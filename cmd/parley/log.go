package main

import (
	"context"
	"io"
	"log/slog"

	"parley/config"
	"parley/internal/httpapi"
)

// packageKey is the attribute that says which package a logger belongs to, and so which of
// the configured levels holds for it: log.With(packageKey, "roomserver").
const packageKey = "package"

// newLogger is a logger as configured.
func newLogger(w io.Writer, c config.Logging) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelDebug} // levels decides
	var h slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == config.FormatJSON {
		h = slog.NewJSONHandler(w, options)
	}
	return slog.New(levels{httpapi.LogHandler(h), c.Level.Slog(), c.Packages})
}

// levels is a handler that lets a record pass by the level of its logger's package.
type levels struct {
	slog.Handler
	level    slog.Level
	packages map[string]config.Level
}

func (h levels) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h levels) WithAttrs(attrs []slog.Attr) slog.Handler {
	level := h.level
	for _, a := range attrs {
		if l, ok := h.packages[a.Value.String()]; ok && a.Key == packageKey {
			level = l.Slog()
		}
	}
	return levels{h.Handler.WithAttrs(attrs), level, h.packages}
}

func (h levels) WithGroup(name string) slog.Handler {
	return levels{h.Handler.WithGroup(name), h.level, h.packages}
}
