package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/userserver"
)

func (a *API) accountDataRoutes() httpapi.Table {
	const user = v3 + "/user/{userId}"
	// MSC3391: deleting account data
	const deleting = "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}"
	return httpapi.Table{
		{Method: http.MethodGet, Path: user + "/account_data/{type}", Auth: httpapi.User, Handler: httpapi.Handle(a.getAccountData)},
		{Method: http.MethodPut, Path: user + "/account_data/{type}", Auth: httpapi.User, NeedBody: true, Handler: httpapi.Handle(a.putAccountData)},
		{Method: http.MethodDelete, Path: deleting + "/account_data/{type}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteAccountData)},
		{Method: http.MethodDelete, Path: deleting + "/rooms/{roomId}/account_data/{type}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteRoomAccountData)},
		{Method: http.MethodGet, Path: user + "/rooms/{roomId}/account_data/{type}", Auth: httpapi.User, Handler: httpapi.Handle(a.getRoomAccountData)},
		{Method: http.MethodPut, Path: user + "/rooms/{roomId}/account_data/{type}", Auth: httpapi.User, NeedBody: true, Handler: httpapi.Handle(a.putRoomAccountData)},
		{Method: http.MethodGet, Path: user + "/rooms/{roomId}/tags", Auth: httpapi.User, Handler: httpapi.Handle(a.getTags)},
		{Method: http.MethodPut, Path: user + "/rooms/{roomId}/tags/{tag}", Auth: httpapi.User, Handler: httpapi.Handle(a.putTag)},
		{Method: http.MethodDelete, Path: user + "/rooms/{roomId}/tags/{tag}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteTag)},
		{Method: http.MethodPost, Path: user + "/filter", Auth: httpapi.UserOrGuest, NeedBody: true, Handler: httpapi.Handle(a.addFilter)},
		{Method: http.MethodGet, Path: user + "/filter/{filterId}", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.getFilter)},
	}
}

type accountDataRequest struct {
	UserID id.UserID `path:"userId"`
	Type   string    `path:"type"`
}

// spec: client-server-api/modules/account_data.md#client-config
func (a *API) getAccountData(ctx context.Context, r *httpapi.Request, in *accountDataRequest) (httpapi.RawJSON, error) {
	return a.readAccountData(ctx, r, in.UserID, "", in.Type)
}

type putAccountDataRequest struct {
	UserID  id.UserID       `path:"userId"`
	Type    string          `path:"type"`
	Content json.RawMessage `body:"raw"`
}

func (a *API) putAccountData(ctx context.Context, r *httpapi.Request, in *putAccountDataRequest) (*empty, error) {
	return a.writeAccountData(ctx, r, in.UserID, "", in.Type, in.Content)
}

func (a *API) deleteAccountData(ctx context.Context, r *httpapi.Request, in *accountDataRequest) (*empty, error) {
	return a.writeAccountData(ctx, r, in.UserID, "", in.Type, nil)
}

type roomAccountDataRequest struct {
	UserID id.UserID `path:"userId"`
	RoomID id.RoomID `path:"roomId"`
	Type   string    `path:"type"`
}

func (a *API) getRoomAccountData(ctx context.Context, r *httpapi.Request, in *roomAccountDataRequest) (httpapi.RawJSON, error) {
	return a.readAccountData(ctx, r, in.UserID, in.RoomID, in.Type)
}

type putRoomAccountDataRequest struct {
	UserID  id.UserID       `path:"userId"`
	RoomID  id.RoomID       `path:"roomId"`
	Type    string          `path:"type"`
	Content json.RawMessage `body:"raw"`
}

func (a *API) putRoomAccountData(ctx context.Context, r *httpapi.Request, in *putRoomAccountDataRequest) (*empty, error) {
	return a.writeAccountData(ctx, r, in.UserID, in.RoomID, in.Type, in.Content)
}

func (a *API) deleteRoomAccountData(ctx context.Context, r *httpapi.Request, in *roomAccountDataRequest) (*empty, error) {
	return a.writeAccountData(ctx, r, in.UserID, in.RoomID, in.Type, nil)
}

func (a *API) readAccountData(ctx context.Context, r *httpapi.Request, user id.UserID, room id.RoomID, typ string) (httpapi.RawJSON, error) {
	if err := own(r, user); err != nil {
		return nil, err
	}
	content, err := a.users.GetAccountData(ctx, user, room, typ)
	return httpapi.RawJSON(content), err
}

func (a *API) writeAccountData(ctx context.Context, r *httpapi.Request, user id.UserID, room id.RoomID, typ string, content json.RawMessage) (*empty, error) {
	if err := own(r, user); err != nil {
		return nil, err
	}
	return nil, a.users.SetAccountData(ctx, user, room, typ, content)
}

type tagsRequest struct {
	UserID id.UserID `path:"userId"`
	RoomID id.RoomID `path:"roomId"`
}

type tagsResponse struct {
	Tags userserver.Tags `json:"tags"`
}

// spec: client-server-api/modules/tags.md#room-tagging
func (a *API) getTags(ctx context.Context, r *httpapi.Request, in *tagsRequest) (*tagsResponse, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	tags, err := a.users.GetTags(ctx, in.UserID, in.RoomID)
	return &tagsResponse{tags}, err
}

type putTagRequest struct {
	UserID  id.UserID       `path:"userId"`
	RoomID  id.RoomID       `path:"roomId"`
	Tag     string          `path:"tag"`
	Content json.RawMessage `body:"raw"`
}

func (a *API) putTag(ctx context.Context, r *httpapi.Request, in *putTagRequest) (*empty, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	return nil, a.users.SetTag(ctx, in.UserID, in.RoomID, in.Tag, in.Content)
}

type tagRequest struct {
	UserID id.UserID `path:"userId"`
	RoomID id.RoomID `path:"roomId"`
	Tag    string    `path:"tag"`
}

func (a *API) deleteTag(ctx context.Context, r *httpapi.Request, in *tagRequest) (*empty, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	return nil, a.users.DeleteTag(ctx, in.UserID, in.RoomID, in.Tag)
}

type addFilterRequest struct {
	UserID id.UserID       `path:"userId"`
	Filter json.RawMessage `body:"raw"`
}

type filterResponse struct {
	FilterID string `json:"filter_id"`
}

// spec: client-server-api/index.md#filtering
func (a *API) addFilter(ctx context.Context, r *httpapi.Request, in *addFilterRequest) (*filterResponse, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	name, err := a.users.AddFilter(ctx, in.UserID, in.Filter)
	return &filterResponse{name}, err
}

type filterRequest struct {
	UserID   id.UserID `path:"userId"`
	FilterID string    `path:"filterId"`
}

func (a *API) getFilter(ctx context.Context, r *httpapi.Request, in *filterRequest) (httpapi.RawJSON, error) {
	if err := own(r, in.UserID); err != nil {
		return nil, err
	}
	text, err := a.users.GetFilter(ctx, in.UserID, in.FilterID)
	return httpapi.RawJSON(text), err
}
