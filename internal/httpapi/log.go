package httpapi

import (
	"context"
	"log/slog"
)

// logRequest is the attribute that names the request.
const logRequest = "request"

// LogHandler passes records on to h, with the id of the request for which they were made, if
// they were logged with its context. It may be there more than once in a chain of handlers.
func LogHandler(h slog.Handler) slog.Handler { return logHandler{h} }

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, rec slog.Record) error {
	if r := FromContext(ctx); r != nil && !names(rec) {
		rec = rec.Clone()
		rec.AddAttrs(slog.String(logRequest, r.ID))
	}
	return h.Handler.Handle(ctx, rec)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name)}
}

// names says whether a record names its request already.
func names(rec slog.Record) (yes bool) {
	rec.Attrs(func(a slog.Attr) bool {
		yes = a.Key == logRequest
		return !yes
	})
	return yes
}
