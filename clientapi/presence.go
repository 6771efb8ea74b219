package clientapi

import (
	"context"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
)

func (a *API) presenceRoutes() httpapi.Table {
	const status = v3 + "/presence/{userId}/status"
	return httpapi.Table{
		{Method: http.MethodGet, Path: status, Auth: httpapi.User, Handler: httpapi.Handle(a.getPresence)},
		{Method: http.MethodPut, Path: status, Auth: httpapi.User, Handler: httpapi.Handle(a.putPresence)},
	}
}

type presenceResponse struct {
	Presence        string `json:"presence"`
	StatusMsg       string `json:"status_msg,omitempty"`
	LastActiveAgo   *int64 `json:"last_active_ago,omitempty"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

// spec: client-server-api/modules/presence.md#presence
func (a *API) getPresence(ctx context.Context, r *httpapi.Request, in *userRequest) (*presenceResponse, error) {
	p, err := a.users.PresenceFor(ctx, r.Caller.User, in.UserID)
	if err != nil {
		return nil, err
	}
	out := &presenceResponse{Presence: p.State, StatusMsg: p.StatusMsg, CurrentlyActive: p.CurrentlyActive}
	if !p.LastActive.IsZero() {
		ago := max(0, millis(a.now().Sub(p.LastActive)))
		out.LastActiveAgo = &ago
	}
	return out, nil
}

type putPresenceRequest struct {
	UserID    id.UserID `path:"userId"`
	Presence  string    `json:"presence"`
	StatusMsg string    `json:"status_msg"`
}

func (a *API) putPresence(_ context.Context, r *httpapi.Request, in *putPresenceRequest) (*empty, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	if in.Presence == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "presence is missing")
	}
	return nil, a.users.SetPresence(in.UserID, in.Presence, in.StatusMsg)
}
