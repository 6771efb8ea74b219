package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) receiptRoutes() httpapi.Table {
	const room = v3 + "/rooms/{roomId}"
	return httpapi.Table{
		{Method: http.MethodPost, Path: room + "/receipt/{receiptType}/{eventId}", Auth: httpapi.User, Handler: httpapi.Handle(a.sendReceipt)},
		{Method: http.MethodPost, Path: room + "/read_markers", Auth: httpapi.User, Handler: httpapi.Handle(a.readMarkers)},
		{Method: http.MethodPut, Path: room + "/typing/{userId}", Auth: httpapi.User, Handler: httpapi.Handle(a.setTyping)},
	}
}

// The types of markers that a client can set.
const (
	markFullyRead   = "m.fully_read"
	markRead        = "m.read"
	markReadPrivate = "m.read.private"
)

type receiptRequest struct {
	RoomID   id.RoomID       `path:"roomId"`
	Type     string          `path:"receiptType"`
	EventID  id.EventID      `path:"eventId"`
	ThreadID json.RawMessage `json:"thread_id"`
}

// spec: client-server-api/modules/receipts.md#receipts
func (a *API) sendReceipt(ctx context.Context, r *httpapi.Request, in *receiptRequest) (*empty, error) {
	m := userserver.Markers{}
	if in.ThreadID != nil {
		if err := json.Unmarshal(in.ThreadID, &m.Thread); err != nil || m.Thread == "" {
			return nil, matrixerr.New(matrixerr.InvalidParam, "thread_id is not a string, or empty")
		}
	}
	switch in.Type {
	case markRead:
		m.Read = in.EventID
	case markReadPrivate:
		m.ReadPrivate = in.EventID
	case markFullyRead:
		if m.Thread != "" {
			return nil, matrixerr.New(matrixerr.InvalidParam, "%s has no thread_id", markFullyRead)
		}
		m.FullyRead = in.EventID
	default:
		return nil, matrixerr.New(matrixerr.InvalidParam, "receipts of type %.50q are not known", in.Type)
	}
	return nil, a.users.SetMarkers(ctx, r.Caller.User, in.RoomID, m)
}

type markersRequest struct {
	RoomID      id.RoomID `path:"roomId"`
	FullyRead   string    `json:"m.fully_read"`
	Read        string    `json:"m.read"`
	ReadPrivate string    `json:"m.read.private"`
}

// spec: client-server-api/modules/read_markers.md#fully-read-markers
func (a *API) readMarkers(ctx context.Context, r *httpapi.Request, in *markersRequest) (*empty, error) {
	var m userserver.Markers
	for _, f := range []struct {
		name, value string
		to          *id.EventID
	}{
		{markFullyRead, in.FullyRead, &m.FullyRead}, {markRead, in.Read, &m.Read}, {markReadPrivate, in.ReadPrivate, &m.ReadPrivate},
	} {
		if f.value == "" {
			continue
		}
		event, err := id.ParseEventID(f.value)
		if err != nil {
			return nil, matrixerr.New(matrixerr.InvalidParam, "%s: %v", f.name, err)
		}
		*f.to = event
	}
	return nil, a.users.SetMarkers(ctx, r.Caller.User, in.RoomID, m)
}

type typingRequest struct {
	RoomID  id.RoomID `path:"roomId"`
	UserID  id.UserID `path:"userId"`
	Typing  *bool     `json:"typing"`
	Timeout *int64    `json:"timeout"`
}

// defaultTyping is for how long a user types whose client does not say.
const defaultTyping = 30 * time.Second

// spec: client-server-api/modules/typing_notifications.md#typing-notifications
func (a *API) setTyping(ctx context.Context, r *httpapi.Request, in *typingRequest) (*empty, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	timeout := time.Duration(0)
	switch {
	case in.Typing == nil:
		return nil, matrixerr.New(matrixerr.MissingParam, "typing is missing")
	case *in.Typing && in.Timeout == nil:
		timeout = defaultTyping
	case *in.Typing:
		// What is more than an hour is cut down anyway; here it must not overflow.
		timeout = time.Duration(min(max(*in.Timeout, 1), time.Hour.Milliseconds())) * time.Millisecond
	}
	return nil, a.users.SetTyping(ctx, in.UserID, in.RoomID, timeout)
}
