package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
)

func (a *API) profileRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/profile/{userId}", Auth: httpapi.None, Handler: httpapi.Handle(a.getProfile)},
		{Method: http.MethodGet, Path: v3 + "/profile/{userId}/{keyName}", Auth: httpapi.None, Handler: httpapi.Handle(a.getProfileField)},
		{Method: http.MethodPut, Path: v3 + "/profile/{userId}/{keyName}", Auth: httpapi.UserOrGuest, RefuseSuspended: true, Handler: httpapi.Handle(a.putProfile)},
		{Method: http.MethodDelete, Path: v3 + "/profile/{userId}/{keyName}", Auth: httpapi.UserOrGuest, RefuseSuspended: true, Handler: httpapi.Handle(a.deleteProfile)},
		{Method: http.MethodPost, Path: v3 + "/user_directory/search", Auth: httpapi.User, Handler: httpapi.Handle(a.searchUsers)},
	}
}

type profileRequest struct {
	UserID id.UserID `path:"userId"`
}

type profileFieldRequest struct {
	UserID id.UserID `path:"userId"`
	Field  string    `path:"keyName"`
}

// spec: client-server-api/index.md#profiles
func (a *API) getProfile(ctx context.Context, _ *httpapi.Request, in *profileRequest) (map[string]json.RawMessage, error) {
	return a.users.GetProfile(ctx, in.UserID, "")
}

func (a *API) getProfileField(ctx context.Context, r *httpapi.Request, in *profileFieldRequest) (map[string]json.RawMessage, error) {
	profile, err := a.users.GetProfile(ctx, in.UserID, in.Field)
	if (in.Field == "displayname" || in.Field == "avatar_url") && matrixerr.Is(err, matrixerr.NotFound) {
		if service, _, _ := a.services.ByToken(r.Token()); service != "" {
			// A bridge asks whether a user of its own has a name already. It gives up where there is an error, so that
			// nobody ever gets one; Synapse has none for it where the user is there.
			_, err := a.users.GetProfile(ctx, in.UserID, "")
			return map[string]json.RawMessage{}, err
		}
	}
	return profile, err
}

type putProfileRequest struct {
	UserID id.UserID                  `path:"userId"`
	Field  string                     `path:"keyName"`
	Body   map[string]json.RawMessage `body:"json"`
}

func (a *API) putProfile(ctx context.Context, r *httpapi.Request, in *putProfileRequest) (*empty, error) {
	if err := mayChangeProfile(r, in.UserID, in.Field); err != nil {
		return nil, err
	}
	value, ok := in.Body[in.Field]
	if !ok {
		return nil, matrixerr.New(matrixerr.MissingParam, "%s is missing", in.Field)
	}
	return nil, a.users.SetProfileField(ctx, in.UserID, in.Field, value)
}

func (a *API) deleteProfile(ctx context.Context, r *httpapi.Request, in *profileFieldRequest) (*empty, error) {
	if err := mayChangeProfile(r, in.UserID, in.Field); err != nil {
		return nil, err
	}
	return nil, a.users.SetProfileField(ctx, in.UserID, in.Field, nil)
}

// mayChangeProfile refuses those whose profile it is not, and guests all but their name.
//
// spec: client-server-api/modules/guest_access.md#client-behaviour
func mayChangeProfile(r *httpapi.Request, user id.UserID, field string) error {
	if r.Caller.Guest && field != "displayname" {
		return notGuest(r)
	}
	return own(r, user)
}

type searchUsersRequest struct {
	Term  *string `json:"search_term"`
	Limit *int    `json:"limit"`
}

type foundUser struct {
	UserID      id.UserID `json:"user_id"`
	DisplayName string    `json:"display_name,omitempty"`
	AvatarURL   string    `json:"avatar_url,omitempty"`
}

type searchUsersResponse struct {
	Results []foundUser `json:"results"`
	Limited bool        `json:"limited"`
}

// maxFound bounds the users that a search gives.
const maxFound = 50

// spec: client-server-api/index.md#user-directory
func (a *API) searchUsers(ctx context.Context, r *httpapi.Request, in *searchUsersRequest) (*searchUsersResponse, error) {
	if in.Term == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "search_term is missing")
	}
	limit := 10
	if in.Limit != nil {
		if limit = *in.Limit; limit < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "limit is below 0")
		}
	}
	users, limited, err := a.users.SearchUsers(ctx, r.Caller.User, *in.Term, min(limit, maxFound))
	out := &searchUsersResponse{Results: make([]foundUser, len(users)), Limited: limited}
	for i, u := range users {
		out.Results[i] = foundUser{u.User, u.DisplayName, u.AvatarURL}
	}
	return out, err
}
