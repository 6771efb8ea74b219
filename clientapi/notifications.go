package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/unread"
)

func (a *API) notificationRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/notifications", Auth: httpapi.User, Handler: httpapi.Handle(a.notifications)},
	}
}

// maxNotifications bounds the notifications of one answer.
const maxNotifications = 100

type notificationsRequest struct {
	From  *string `query:"from"`
	Limit *int    `query:"limit"`
	Only  string  `query:"only"`
}

type notificationsResponse struct {
	NextToken     string         `json:"next_token,omitempty"`
	Notifications []notification `json:"notifications"`
}

type notification struct {
	Actions []json.RawMessage `json:"actions"`
	Event   json.RawMessage   `json:"event"`
	Read    bool              `json:"read"`
	RoomID  id.RoomID         `json:"room_id"`
	TS      int64             `json:"ts"`
}

// spec: client-server-api/modules/push.md#get_matrixclientv3notifications
func (a *API) notifications(ctx context.Context, r *httpapi.Request, in *notificationsRequest) (*notificationsResponse, error) {
	q := unread.Query{User: r.Caller.User, DeviceNID: r.Caller.DeviceNID, Highlights: in.Only == "highlight"}
	var err error
	if q.From, err = a.place("from", in.From); err != nil {
		return nil, err
	}
	limit, err := pageLimit(in.Limit, 20)
	if err != nil {
		return nil, err
	}
	q.Limit = min(limit, maxNotifications)
	found, next, err := a.unread.Notifications(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &notificationsResponse{NextToken: a.tokenOrNone(next), Notifications: make([]notification, len(found))}
	for i, n := range found {
		out.Notifications[i] = notification{Actions: n.Actions, Event: n.Event, Read: n.Read, RoomID: n.Room, TS: n.TS}
	}
	return out, nil
}
