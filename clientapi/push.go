package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) pusherRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/pushers", Auth: httpapi.User, Handler: httpapi.Handle(a.listPushers)},
		{Method: http.MethodPost, Path: v3 + "/pushers/set", Auth: httpapi.User, Handler: httpapi.Handle(a.setPusher)},
	}
}

type pushersResponse struct {
	Pushers []json.RawMessage `json:"pushers"`
}

// spec: client-server-api/modules/push.md#push-notifications
func (a *API) listPushers(ctx context.Context, r *httpapi.Request, _ *empty) (*pushersResponse, error) {
	pushers, err := a.users.ListPushers(ctx, r.Caller.User)
	return &pushersResponse{pushers}, err
}

type setPusherRequest struct {
	PushKey           string          `json:"pushkey"`
	Kind              json.RawMessage `json:"kind"`
	AppID             string          `json:"app_id"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
	Append            bool            `json:"append"`
}

func (a *API) setPusher(ctx context.Context, r *httpapi.Request, in *setPusherRequest) (*empty, error) {
	switch {
	case in.PushKey == "":
		return nil, matrixerr.New(matrixerr.MissingParam, "pushkey is missing")
	case in.AppID == "":
		return nil, matrixerr.New(matrixerr.MissingParam, "app_id is missing")
	case in.Kind == nil:
		return nil, matrixerr.New(matrixerr.MissingParam, "kind is missing")
	case string(in.Kind) == "null":
		return nil, a.users.DeletePusher(ctx, r.Caller.User, in.AppID, in.PushKey)
	}
	p := userserver.Pusher{PushKey: in.PushKey, AppID: in.AppID, AppDisplayName: in.AppDisplayName,
		DeviceDisplayName: in.DeviceDisplayName, ProfileTag: in.ProfileTag, Lang: in.Lang, Data: in.Data}
	if err := json.Unmarshal(in.Kind, &p.Kind); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "kind is neither a string nor null")
	}
	return nil, a.users.SetPusher(ctx, r.Caller.User, r.Caller.DeviceNID, &p, in.Append)
}
