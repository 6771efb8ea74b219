package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver"
)

// queryRoutes are what other servers, and in part anybody, may ask of our directory and users.
//
// spec: server-server-api.md#querying-for-information
func (a *API) queryRoutes() httpapi.Table {
	return httpapi.Table{
		get("/publicRooms", httpapi.Handle(a.publicRooms)),
		{Method: http.MethodPost, Path: v1 + "/publicRooms", Auth: httpapi.Server, Rate: httpapi.RateServer, Handler: httpapi.Handle(a.searchPublicRooms)},
		get("/hierarchy/{roomId}", httpapi.Handle(a.hierarchy)),
		get("/query/directory", httpapi.Handle(a.queryDirectory)),
		get("/query/profile", httpapi.Handle(a.queryProfile)),
		{Method: http.MethodPost, Path: "/_matrix/policy/v1/sign", Auth: httpapi.Server, Rate: httpapi.RateServer, Handler: httpapi.Handle(a.noPolicyServer)},
		// Whoever holds a token may ask whose it is, without a signature.
		{Method: http.MethodGet, Path: v1 + "/openid/userinfo", Auth: httpapi.None, Handler: httpapi.Handle(a.openIDUser)},
	}
}

// noPolicyServer says that this node judges no events for others.
//
// spec: server-server-api.md#policy-servers
func (a *API) noPolicyServer(context.Context, *httpapi.Request, *empty) (*empty, error) {
	return nil, matrixerr.New(matrixerr.Unrecognized, "this server is no policy server")
}

// maxPublicRooms bounds a page of the directory.
const maxPublicRooms = 500

type publicRoomsRequest struct {
	Limit       int    `query:"limit"`
	Since       string `query:"since"`
	AllNetworks bool   `query:"include_all_networks"`
	Network     string `query:"third_party_instance_id"`
}

// spec: server-server-api.md#get_matrixfederationv1publicrooms
func (a *API) publicRooms(ctx context.Context, r *httpapi.Request, in *publicRoomsRequest) (*serverapi.PublicRooms, error) {
	return a.searchPublicRooms(ctx, r, &searchRequest{serverapi.PublicRoomsRequest{
		Limit: in.Limit, Since: in.Since, AllNetworks: in.AllNetworks, ThirdPartyNet: in.Network,
	}})
}

type searchRequest struct {
	Body serverapi.PublicRoomsRequest `body:"json"`
}

// spec: server-server-api.md#post_matrixfederationv1publicrooms
func (a *API) searchPublicRooms(ctx context.Context, _ *httpapi.Request, in *searchRequest) (*serverapi.PublicRooms, error) {
	if !a.directory {
		return nil, matrixerr.New(matrixerr.Forbidden, "The directory of this server is not for other servers.")
	}
	skip := 0
	if in.Body.Since != "" {
		var err error
		if skip, err = strconv.Atoi(in.Body.Since); err != nil || skip < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "since is not a token of this server.")
		}
	}
	limit := in.Body.Limit
	if limit <= 0 || limit > maxPublicRooms {
		limit = maxPublicRooms
	}
	network, err := roomserver.ParseNetwork(in.Body.ThirdPartyNet, in.Body.AllNetworks)
	if err != nil {
		return nil, err
	}
	filter := roomserver.PublicRoomsFilter{Network: network}
	if f := in.Body.Filter; f != nil {
		filter.Term = f.Term
		for _, t := range f.Types {
			if t == nil { // null stands for rooms without a type
				filter.Types = append(filter.Types, "")
			} else {
				filter.Types = append(filter.Types, *t)
			}
		}
	}
	rooms, total, err := a.rooms.PublicRooms(ctx, filter, skip, limit)
	if err != nil {
		return nil, err
	}
	out := &serverapi.PublicRooms{Chunk: make([]json.RawMessage, len(rooms)), Total: total}
	for i, room := range rooms {
		if out.Chunk[i], err = json.Marshal(room); err != nil {
			return nil, err
		}
	}
	if skip+len(rooms) < total {
		out.NextBatch = strconv.Itoa(skip + len(rooms))
	}
	if skip > 0 {
		out.PrevBatch = strconv.Itoa(max(0, skip-limit))
	}
	return out, nil
}

type hierarchyRequest struct {
	Room          id.RoomID `path:"roomId"`
	SuggestedOnly bool      `query:"suggested_only"`
}

// spec: server-server-api.md#spaces
func (a *API) hierarchy(ctx context.Context, r *httpapi.Request, in *hierarchyRequest) (*serverapi.Hierarchy, error) {
	return a.rooms.ServeHierarchy(ctx, r.Origin, in.Room, in.SuggestedOnly)
}

type directoryRequest struct {
	Alias id.RoomAlias `query:"room_alias,required"`
}

func (a *API) queryDirectory(ctx context.Context, _ *httpapi.Request, in *directoryRequest) (*serverapi.Directory, error) {
	if in.Alias.Server() != a.remote.Name() {
		return nil, matrixerr.New(matrixerr.NotFound, "The alias is not one of this server's.")
	}
	room, servers, err := a.rooms.ResolveAlias(ctx, in.Alias)
	return &serverapi.Directory{Room: room, Servers: servers}, err
}

type profileRequest struct {
	User  id.UserID `query:"user_id,required"`
	Field string    `query:"field"`
}

func (a *API) queryProfile(ctx context.Context, _ *httpapi.Request, in *profileRequest) (map[string]json.RawMessage, error) {
	if !a.users.Local(in.User) {
		return nil, matrixerr.New(matrixerr.NotFound, "The user is not one of this server's.")
	}
	profile, err := a.users.GetProfile(ctx, in.User, in.Field)
	if in.Field != "" && matrixerr.Is(err, matrixerr.NotFound) {
		// Of a user who is there, but has no such field, there is nothing to say.
		_, err := a.users.GetProfile(ctx, in.User, "")
		return map[string]json.RawMessage{}, err
	}
	return profile, err
}

type openIDRequest struct {
	AccessToken string `query:"access_token,required"`
}

type openIDAnswer struct {
	Sub id.UserID `json:"sub"`
}

// spec: server-server-api.md#openid
func (a *API) openIDUser(ctx context.Context, _ *httpapi.Request, in *openIDRequest) (*openIDAnswer, error) {
	user, err := a.users.CheckOpenIDToken(ctx, in.AccessToken)
	return &openIDAnswer{user}, err
}
