package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

// oldRoutes are endpoints that newer ones have replaced, and those of what this server does
// not offer.
func (a *API) oldRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/rooms/{roomId}/initialSync",
			Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.roomInitialSync)},
		{Method: http.MethodGet, Path: v3 + "/events/{eventId}", Auth: httpapi.User, Handler: httpapi.Handle(a.oneEvent)},
		{Method: http.MethodGet, Path: v3 + "/login/sso/redirect", Auth: httpapi.None, Handler: httpapi.Handle(a.noSingleSignOn)},
		{Method: http.MethodGet, Path: v3 + "/login/sso/redirect/{idpId}", Auth: httpapi.None, Handler: httpapi.Handle(a.noSuchProvider)},
		{Method: http.MethodGet, Path: "/.well-known/matrix/policy_server", Auth: httpapi.None, Handler: httpapi.Handle(a.noPolicyServer)},
	}
}

type messagesChunk struct {
	Start string            `json:"start"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

type typedContent struct {
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
}

type roomInitialSyncResponse struct {
	RoomID      id.RoomID         `json:"room_id"`
	Membership  string            `json:"membership,omitempty"`
	Messages    messagesChunk     `json:"messages"`
	State       []json.RawMessage `json:"state"`
	Visibility  string            `json:"visibility"`
	AccountData []typedContent    `json:"account_data"`
}

// initialMessages is how many messages a look into a room shows.
const initialMessages = 20

// roomInitialSync is a look into a room, for those who are or were in it, and for all where
// everybody may read it.
//
// spec: client-server-api/modules/room_previews.md#room-previews
func (a *API) roomInitialSync(ctx context.Context, r *httpapi.Request, in *roomRequest) (*roomInitialSyncResponse, error) {
	user := r.Caller.User
	page, err := a.rooms.Messages(ctx, roomserver.PageRequest{Room: in.RoomID, Backward: true, Limit: initialMessages, Reader: reader(r)})
	if err != nil {
		return nil, err
	}
	out := &roomInitialSyncResponse{RoomID: in.RoomID, Visibility: "private", AccountData: []typedContent{}}
	// A page that ends where the room begins starts where it ends.
	out.Messages = messagesChunk{Start: a.token(page.Start), End: a.token(page.Start), Chunk: page.Events}
	if page.End != nil {
		out.Messages.Start = a.token(*page.End)
	}
	for i, j := 0, len(page.Events)-1; i < j; i, j = i+1, j-1 {
		page.Events[i], page.Events[j] = page.Events[j], page.Events[i]
	}
	if out.State, err = a.rooms.State(ctx, in.RoomID, reader(r)); err != nil {
		return nil, err
	}
	if out.Membership, err = a.rooms.Membership(ctx, user, in.RoomID); err != nil {
		return nil, err
	}
	published, err := a.rooms.Published(ctx, in.RoomID)
	if err != nil {
		return nil, err
	}
	if published {
		out.Visibility = "public"
	}
	data, err := a.users.ListRoomAccountData(ctx, user, in.RoomID)
	for _, d := range data {
		out.AccountData = append(out.AccountData, typedContent{d.Type, d.Content})
	}
	return out, err
}

type oneEventRequest struct {
	EventID id.EventID `path:"eventId"`
}

// oneEvent is an event without its room being named.
//
// spec: client-server-api/index.md#get_matrixclientv3eventseventid
func (a *API) oneEvent(ctx context.Context, r *httpapi.Request, in *oneEventRequest) (json.RawMessage, error) {
	room, err := a.rooms.RoomOf(ctx, in.EventID)
	if err != nil {
		return nil, err
	}
	return a.rooms.Event(ctx, room, in.EventID, reader(r))
}

// noSingleSignOn is what a server says that does not offer it, as its login flows say, too.
//
// spec: client-server-api/modules/sso_login.md#sso-client-loginauthentication
func (a *API) noSingleSignOn(context.Context, *httpapi.Request, *empty) (*empty, error) {
	return nil, matrixerr.New(matrixerr.NotFound, "This server has no single sign-on.")
}

func (a *API) noSuchProvider(context.Context, *httpapi.Request, *struct {
	IDP string `path:"idpId"`
}) (*empty, error) {
	return nil, matrixerr.New(matrixerr.NotFound, "This server has no single sign-on.")
}

// noPolicyServer says that this node judges no events for others.
//
// spec: client-server-api/modules/policy_servers.md#policy-servers
func (a *API) noPolicyServer(context.Context, *httpapi.Request, *empty) (*empty, error) {
	return nil, matrixerr.New(matrixerr.NotFound, "This server is no policy server.")
}
