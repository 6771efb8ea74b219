package httpapi

import (
	"context"
	"log/slog"
)

// LogHandler passes records on to h, with the id of the request for which they were made, if
// they were logged with its context.
func LogHandler(h slog.Handler) slog.Handler {
	if l, ok := h.(*logHandler); ok {
		return l
	}
	return &logHandler{h}
}

type logHandler struct{ slog.Handler }

func (h *logHandler) Handle(ctx context.Context, rec slog.Record) error {
	if r := FromContext(ctx); r != nil {
		rec = rec.Clone()
		rec.AddAttrs(slog.String("request", r.ID))
	}
	return h.Handler.Handle(ctx, rec)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.Handler.WithAttrs(attrs)}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.Handler.WithGroup(name)}
}
