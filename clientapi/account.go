package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) accountRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/account/whoami", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.whoami)},
		{Method: http.MethodPost, Path: v3 + "/account/password", Auth: httpapi.Optional, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.changePassword)},
		{Method: http.MethodPost, Path: v3 + "/account/deactivate", Auth: httpapi.Optional, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.deactivate)},
		{Method: http.MethodPost, Path: v3 + "/user/{userId}/openid/request_token", Auth: httpapi.User, Handler: httpapi.Handle(a.openIDToken)},
	}
}

type whoamiResponse struct {
	UserID  id.UserID   `json:"user_id"`
	Device  id.DeviceID `json:"device_id,omitempty"`
	IsGuest bool        `json:"is_guest"`
}

// spec: client-server-api/index.md#current-account-information
func (a *API) whoami(_ context.Context, r *httpapi.Request, _ *empty) (*whoamiResponse, error) {
	return &whoamiResponse{r.Caller.User, r.Caller.Device, r.Caller.Guest}, nil
}

type passwordRequest struct {
	Auth          json.RawMessage `json:"auth"`
	NewPassword   string          `json:"new_password"`
	LogoutDevices *bool           `json:"logout_devices"`
}

// changePassword may be asked by whoever knows the old password, logged in or not.
//
// spec: client-server-api/index.md#password-management
func (a *API) changePassword(ctx context.Context, r *httpapi.Request, in *passwordRequest) (*empty, error) {
	if err := notGuest(r); err != nil {
		return nil, err
	}
	if in.NewPassword != "" {
		if err := a.users.ValidatePassword(in.NewPassword); err != nil {
			return nil, err
		}
	}
	flows := passwordFlow
	if a.users.HasMail() {
		flows = append(slices.Clip(flows), []string{userserver.StageEmail})
	}
	user, err := a.confirmBy(ctx, r, userserver.Interaction{Flows: flows, Email: mail.Reset, Auth: in.Auth}, "change password")
	if err != nil {
		return nil, err
	}
	if in.NewPassword == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "new_password is missing")
	}
	keep := int64(0)
	if r.Caller != nil {
		keep = r.Caller.DeviceNID
	}
	logout := in.LogoutDevices == nil || *in.LogoutDevices
	return nil, a.users.ChangePassword(ctx, user, in.NewPassword, logout, keep)
}

func notGuest(r *httpapi.Request) error {
	if r.Caller != nil && r.Caller.Guest {
		return matrixerr.New(matrixerr.GuestAccessForbidden, "guests cannot do this")
	}
	return nil
}

type deactivateRequest struct {
	Auth  json.RawMessage `json:"auth"`
	Erase bool            `json:"erase"`
}

type deactivateResponse struct {
	IDServerUnbindResult string `json:"id_server_unbind_result"`
}

// spec: client-server-api/index.md#account-deactivation
func (a *API) deactivate(ctx context.Context, r *httpapi.Request, in *deactivateRequest) (*deactivateResponse, error) {
	if err := notGuest(r); err != nil {
		return nil, err
	}
	user, err := a.confirm(ctx, r, in.Auth, "deactivate")
	if err != nil {
		return nil, err
	}
	unbound, err := a.users.Deactivate(ctx, user, in.Erase)
	return &deactivateResponse{unbindResult(unbound)}, err
}

type userRequest struct {
	UserID id.UserID `path:"userId"`
}

type openIDResponse struct {
	AccessToken string        `json:"access_token"`
	TokenType   string        `json:"token_type"`
	ServerName  id.ServerName `json:"matrix_server_name"`
	ExpiresIn   int64         `json:"expires_in"`
}

// spec: client-server-api/modules/openid.md#openid
func (a *API) openIDToken(ctx context.Context, r *httpapi.Request, in *userRequest) (*openIDResponse, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	token, life, err := a.users.MakeOpenIDToken(ctx, in.UserID)
	return &openIDResponse{token, "Bearer", a.serverName, int64(life.Seconds())}, err
}
