package clientapi

import (
	"context"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) adminRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/admin/whois/{userId}", Auth: httpapi.User, Handler: httpapi.Handle(a.whois)},
		{Method: http.MethodGet, Path: v1 + "/admin/lock/{userId}", Auth: httpapi.Admin, Handler: httpapi.Handle(a.getLocked)},
		{Method: http.MethodPut, Path: v1 + "/admin/lock/{userId}", Auth: httpapi.Admin, Handler: httpapi.Handle(a.putLocked)},
		{Method: http.MethodGet, Path: v1 + "/admin/suspend/{userId}", Auth: httpapi.Admin, Handler: httpapi.Handle(a.getSuspended)},
		{Method: http.MethodPut, Path: v1 + "/admin/suspend/{userId}", Auth: httpapi.Admin, Handler: httpapi.Handle(a.putSuspended)},
	}
}

type connection struct {
	IP       string `json:"ip,omitempty"`
	LastSeen int64  `json:"last_seen,omitempty"`
}

type connections struct {
	Connections []connection `json:"connections"`
}

type sessions struct {
	Sessions []connections `json:"sessions"`
}

type whoisResponse struct {
	UserID  id.UserID                `json:"user_id"`
	Devices map[id.DeviceID]sessions `json:"devices"`
}

// whois is for administrators, and for users about themselves.
//
// spec: client-server-api/modules/admin.md#get_matrixclientv3adminwhoisuserid
func (a *API) whois(ctx context.Context, r *httpapi.Request, in *userRequest) (*whoisResponse, error) {
	if r.Caller.User != in.UserID && !r.Caller.Admin {
		return nil, matrixerr.New(matrixerr.Forbidden, "Only administrators may ask who others are.")
	}
	if _, err := a.users.GetUser(ctx, in.UserID); err != nil {
		return nil, err
	}
	devices, err := a.users.ListDevices(ctx, in.UserID)
	if err != nil {
		return nil, err
	}
	out := &whoisResponse{in.UserID, make(map[id.DeviceID]sessions, len(devices))}
	for _, d := range devices {
		out.Devices[d.ID] = sessions{[]connections{{[]connection{{d.SeenIP, d.Seen}}}}}
	}
	return out, nil
}

type lockRequest struct {
	UserID id.UserID `path:"userId"`
	Locked *bool     `json:"locked"`
}

type lockResponse struct {
	Locked bool `json:"locked"`
}

type suspendRequest struct {
	UserID    id.UserID `path:"userId"`
	Suspended *bool     `json:"suspended"`
}

type suspendResponse struct {
	Suspended bool `json:"suspended"`
}

// moderated is an account that the caller may lock and suspend: one of ours that is in use and
// no administrator's.
//
// spec: client-server-api/modules/admin.md#put_matrixclientv1adminlockuserid
func (a *API) moderated(ctx context.Context, r *httpapi.Request, user id.UserID) (userserver.User, error) {
	if !a.users.Local(user) {
		return userserver.User{}, matrixerr.New(matrixerr.InvalidParam, "The user is not one of this server.")
	}
	u, err := a.users.GetUser(ctx, user)
	switch {
	case err != nil:
		return u, err
	case u.Deactivated:
		return u, matrixerr.New(matrixerr.NotFound, "There is no user %s.", user)
	case u.Admin:
		return u, matrixerr.New(matrixerr.Forbidden, "%s is an administrator.", user)
	}
	return u, nil
}

func (a *API) getLocked(ctx context.Context, r *httpapi.Request, in *userRequest) (*lockResponse, error) {
	u, err := a.moderated(ctx, r, in.UserID)
	return &lockResponse{u.Locked}, err
}

func (a *API) putLocked(ctx context.Context, r *httpapi.Request, in *lockRequest) (*lockResponse, error) {
	if in.Locked == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "locked is missing.")
	}
	if _, err := a.moderated(ctx, r, in.UserID); err != nil {
		return nil, err
	}
	return &lockResponse{*in.Locked}, a.users.UpdateUser(ctx, in.UserID, func(u *userserver.User) { u.Locked = *in.Locked })
}

func (a *API) getSuspended(ctx context.Context, r *httpapi.Request, in *userRequest) (*suspendResponse, error) {
	u, err := a.moderated(ctx, r, in.UserID)
	return &suspendResponse{u.Suspended}, err
}

func (a *API) putSuspended(ctx context.Context, r *httpapi.Request, in *suspendRequest) (*suspendResponse, error) {
	if in.Suspended == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "suspended is missing.")
	}
	if _, err := a.moderated(ctx, r, in.UserID); err != nil {
		return nil, err
	}
	return &suspendResponse{*in.Suspended}, a.users.UpdateUser(ctx, in.UserID, func(u *userserver.User) { u.Suspended = *in.Suspended })
}
