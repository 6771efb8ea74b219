package clientapi

import (
	"context"
	"strconv"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

type aliasRequest struct {
	Alias string `path:"roomAlias"`
}

type createAliasRequest struct {
	Alias  string `path:"roomAlias"`
	RoomID string `json:"room_id"`
}

type resolveAliasResponse struct {
	RoomID  id.RoomID       `json:"room_id"`
	Servers []id.ServerName `json:"servers"`
}

func (a *API) resolveAlias(ctx context.Context, _ *httpapi.Request, in *aliasRequest) (*resolveAliasResponse, error) {
	alias, err := parseAlias(in.Alias)
	if err != nil {
		return nil, err
	}
	room, servers, err := a.rooms.ResolveAlias(ctx, alias)
	if servers == nil {
		servers = []id.ServerName{}
	}
	return &resolveAliasResponse{room, servers}, err
}

func (a *API) createAlias(ctx context.Context, r *httpapi.Request, in *createAliasRequest) (*empty, error) {
	alias, err := parseAlias(in.Alias)
	if err != nil {
		return nil, err
	}
	if in.RoomID == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "room_id is missing.")
	}
	room, err := parseRoomID(in.RoomID)
	if err != nil {
		return nil, err
	}
	if err := a.mayHaveAlias(r, alias); err != nil {
		return nil, err
	}
	return &empty{}, a.rooms.CreateAlias(ctx, r.Caller.User, alias, room)
}

func (a *API) deleteAlias(ctx context.Context, r *httpapi.Request, in *aliasRequest) (*empty, error) {
	alias, err := parseAlias(in.Alias)
	if err != nil {
		return nil, err
	}
	if err := a.mayHaveAlias(r, alias); err != nil {
		return nil, err
	}
	if r.Caller.AppService != "" {
		return &empty{}, a.rooms.RemoveAlias(ctx, alias)
	}
	return &empty{}, a.rooms.DeleteAlias(ctx, r.Caller.User, alias)
}

type roomRequest struct {
	RoomID id.RoomID `path:"roomId"`
}

type aliasesResponse struct {
	Aliases []id.RoomAlias `json:"aliases"`
}

func (a *API) roomAliases(ctx context.Context, r *httpapi.Request, in *roomRequest) (*aliasesResponse, error) {
	aliases, err := a.rooms.ListAliases(ctx, r.Caller.User, in.RoomID)
	return &aliasesResponse{aliases}, err
}

type publishRequest struct {
	RoomID     id.RoomID `path:"roomId"`
	Visibility string    `json:"visibility"`
}

type visibilityResponse struct {
	Visibility string `json:"visibility"`
}

func (a *API) published(ctx context.Context, _ *httpapi.Request, in *roomRequest) (*visibilityResponse, error) {
	public, err := a.rooms.Published(ctx, in.RoomID)
	if public {
		return &visibilityResponse{"public"}, err
	}
	return &visibilityResponse{"private"}, err
}

func (a *API) publish(ctx context.Context, r *httpapi.Request, in *publishRequest) (*empty, error) {
	switch in.Visibility {
	case "", "public", "private":
	default:
		return nil, matrixerr.New(matrixerr.InvalidParam, `visibility must be "public" or "private".`)
	}
	return &empty{}, a.rooms.Publish(ctx, r.Caller.User, in.RoomID, in.Visibility != "private")
}

type publicRoomsRequest struct {
	Server string `query:"server"`
	Limit  *int   `query:"limit"`
	Since  string `query:"since"`
}

type searchPublicRoomsRequest struct {
	Server string `query:"server"`
	Limit  *int   `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
	IncludeAllNetworks bool   `json:"include_all_networks"`
	ThirdPartyInstance string `json:"third_party_instance_id"`
}

type publicRoomsResponse struct {
	Chunk     any    `json:"chunk"` // rooms of ours, or as another server describes its own
	NextBatch string `json:"next_batch,omitempty"`
	PrevBatch string `json:"prev_batch,omitempty"`
	Total     int    `json:"total_room_count_estimate"`
}

func (a *API) publicRooms(ctx context.Context, _ *httpapi.Request, in *publicRoomsRequest) (*publicRoomsResponse, error) {
	return a.listPublicRooms(ctx, in.Server, in.Since, in.Limit, roomserver.PublicRoomsFilter{})
}

func (a *API) searchPublicRooms(ctx context.Context, _ *httpapi.Request, in *searchPublicRoomsRequest) (*publicRoomsResponse, error) {
	network, err := roomserver.ParseNetwork(in.ThirdPartyInstance, in.IncludeAllNetworks)
	if err != nil {
		return nil, err
	}
	f := roomserver.PublicRoomsFilter{Term: in.Filter.Term, Network: network}
	for _, t := range in.Filter.Types {
		if t == nil { // null stands for rooms without a type
			f.Types = append(f.Types, "")
		} else {
			f.Types = append(f.Types, *t)
		}
	}
	return a.listPublicRooms(ctx, in.Server, in.Since, in.Limit, f)
}

func (a *API) listPublicRooms(ctx context.Context, server, since string, limit *int, f roomserver.PublicRoomsFilter) (*publicRoomsResponse, error) {
	if server != "" && id.ServerName(server) != a.serverName {
		return a.othersPublicRooms(ctx, id.ServerName(server), since, limit, f)
	}
	skip := 0
	if since != "" {
		var err error
		if skip, err = strconv.Atoi(since); err != nil || skip < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "since is not a token of this server.")
		}
	}
	n, err := pageLimit(limit, 100)
	if err != nil {
		return nil, err
	}
	rooms, total, err := a.rooms.PublicRooms(ctx, f, skip, n)
	if err != nil {
		return nil, err
	}
	out := &publicRoomsResponse{Chunk: rooms, Total: total}
	if skip+len(rooms) < total {
		out.NextBatch = strconv.Itoa(skip + len(rooms))
	}
	if skip > 0 {
		out.PrevBatch = strconv.Itoa(max(0, skip-n))
	}
	return out, nil
}

// othersPublicRooms is a page of another server's directory.
func (a *API) othersPublicRooms(ctx context.Context, server id.ServerName, since string, limit *int, f roomserver.PublicRoomsFilter) (*publicRoomsResponse, error) {
	n, err := pageLimit(limit, 100)
	if err != nil {
		return nil, err
	}
	page, err := a.rooms.PublicRoomsOf(ctx, server, f, since, n)
	if err != nil {
		return nil, err
	}
	return &publicRoomsResponse{Chunk: page.Chunk, NextBatch: page.NextBatch, PrevBatch: page.PrevBatch, Total: page.Total}, nil
}
