package federation

import (
	"context"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
)

// deviceRoutes are what other servers ask of our users' devices, so that messages to these can be
// encrypted. Any server may ask of any user of ours, as any user may: a room need not be shared,
// as who is invited is written to before they join. What is claimed is rate limited by server.
func (a *API) deviceRoutes() httpapi.Table {
	post := func(path string, h httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: http.MethodPost, Path: v1 + path, Auth: httpapi.Server, Rate: httpapi.RateServer, NeedBody: true, Handler: h}
	}
	return httpapi.Table{
		get("/user/devices/{userId}", httpapi.Handle(a.userDevices)),
		post("/user/keys/query", httpapi.Handle(a.queryKeys)),
		post("/user/keys/claim", httpapi.Handle(a.claimKeys)),
	}
}

// own refuses users who are not of this server, and names that cannot be any.
func own[V any](a *API, users map[id.UserID]V) error {
	for user := range users {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return matrixerr.New(matrixerr.InvalidParam, "%.50q: %v", string(user), err)
		}
		if !a.users.Local(user) {
			return matrixerr.New(matrixerr.InvalidParam, "%s is not a user of this server.", user)
		}
	}
	return nil
}

type userDevicesRequest struct {
	User id.UserID `path:"userId"`
}

// spec: server-server-api.md#get_matrixfederationv1userdevicesuserid
func (a *API) userDevices(ctx context.Context, _ *httpapi.Request, in *userDevicesRequest) (*serverapi.UserDevices, error) {
	if err := own(a, map[id.UserID]struct{}{in.User: {}}); err != nil {
		return nil, err
	}
	return a.users.UserDevices(ctx, in.User)
}

type queryKeysRequest struct {
	Body serverapi.QueryKeys `body:"json"`
}

// spec: server-server-api.md#post_matrixfederationv1userkeysquery
func (a *API) queryKeys(ctx context.Context, _ *httpapi.Request, in *queryKeysRequest) (*serverapi.Keys, error) {
	if err := own(a, in.Body.DeviceKeys); err != nil {
		return nil, err
	}
	keys, err := a.users.LocalKeys(ctx, "", in.Body.DeviceKeys)
	if err != nil {
		return nil, err
	}
	return &serverapi.Keys{DeviceKeys: keys.DeviceKeys, MasterKeys: keys.MasterKeys, SelfSigningKeys: keys.SelfSigningKeys}, nil
}

type claimKeysRequest struct {
	Body serverapi.ClaimKeys `body:"json"`
}

// spec: server-server-api.md#post_matrixfederationv1userkeysclaim
func (a *API) claimKeys(ctx context.Context, _ *httpapi.Request, in *claimKeysRequest) (*serverapi.ClaimedKeys, error) {
	if err := own(a, in.Body.OneTimeKeys); err != nil {
		return nil, err
	}
	keys, err := a.users.ClaimLocalKeys(ctx, in.Body.OneTimeKeys)
	return &serverapi.ClaimedKeys{OneTimeKeys: keys}, err
}
