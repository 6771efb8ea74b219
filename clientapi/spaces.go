package clientapi

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

// findRoutes are the ways to find rooms, and events in them.
func (a *API) findRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v1 + "/room_summary/{roomIdOrAlias}", Also: []string{
			"/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}",
			"/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary",
		}, Auth: httpapi.Optional, Handler: httpapi.Handle(a.roomSummary)},
		{Method: http.MethodGet, Path: v1 + "/rooms/{roomId}/hierarchy", Auth: httpapi.User, Handler: httpapi.Handle(a.hierarchy)},
		{Method: http.MethodGet, Path: v1 + "/mutual_rooms", Also: []string{"/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"},
			Auth: httpapi.User, Handler: httpapi.Handle(a.mutualRooms)},
		{Method: http.MethodGet, Path: v1 + "/rooms/{roomId}/timestamp_to_event", Auth: httpapi.User, Handler: httpapi.Handle(a.timestampToEvent)},
	}
}

type roomSummaryRequest struct {
	RoomIDOrAlias string   `path:"roomIdOrAlias"`
	Via           []string `query:"via"`
}

// spec: client-server-api/index.md#get_matrixclientv1room_summaryroomidoralias
func (a *API) roomSummary(ctx context.Context, r *httpapi.Request, in *roomSummaryRequest) (*roomserver.RoomSummary, error) {
	room, via, err := a.roomVia(ctx, in.RoomIDOrAlias, in.Via)
	if err != nil {
		return nil, err
	}
	var user id.UserID
	if r.Caller != nil {
		user = r.Caller.User
	} else {
		via = nil // other servers are not asked for those who are nobody
	}
	return a.rooms.Summary(ctx, room, user, via)
}

// roomVia is the room that an ID or an alias names, and servers that may know it: those that
// the client names and those that know the alias.
func (a *API) roomVia(ctx context.Context, idOrAlias string, via []string) (id.RoomID, []id.ServerName, error) {
	var servers []id.ServerName
	for _, v := range via {
		name, err := id.ParseServerName(v)
		if err != nil {
			return "", nil, matrixerr.New(matrixerr.InvalidParam, "%.50q is not the name of a server.", v)
		}
		servers = append(servers, name)
	}
	if !strings.HasPrefix(idOrAlias, "#") {
		room, err := parseRoomID(idOrAlias)
		return room, servers, err
	}
	alias, err := parseAlias(idOrAlias)
	if err != nil {
		return "", nil, err
	}
	room, known, err := a.rooms.ResolveAlias(ctx, alias)
	return room, append(servers, known...), err
}

type hierarchyRequest struct {
	RoomID        id.RoomID `path:"roomId"`
	SuggestedOnly bool      `query:"suggested_only"`
	Limit         *int      `query:"limit"`
	MaxDepth      *int      `query:"max_depth"`
	From          string    `query:"from"`
}

type hierarchyResponse struct {
	Rooms     []roomserver.HierarchyRoom `json:"rooms"`
	NextBatch string                     `json:"next_batch,omitempty"`
}

const (
	// hierarchyPage is how many rooms a page of a space has at most, and where nothing is said.
	hierarchyPage = 50
	// hierarchyDepth is how deep a space is walked into at most.
	hierarchyDepth = 100
)

// hierarchy is a page of a space's rooms. The token says how the first page was asked for, and
// which room was the last.
//
// spec: client-server-api/modules/spaces.md#get_matrixclientv1roomsroomidhierarchy
func (a *API) hierarchy(ctx context.Context, r *httpapi.Request, in *hierarchyRequest) (*hierarchyResponse, error) {
	q := roomserver.HierarchyRequest{Room: in.RoomID, User: r.Caller.User, SuggestedOnly: in.SuggestedOnly, MaxDepth: hierarchyDepth, Limit: hierarchyPage}
	if in.Limit != nil {
		if *in.Limit <= 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "limit must be greater than 0.")
		}
		q.Limit = min(*in.Limit, hierarchyPage)
	}
	if in.MaxDepth != nil {
		if *in.MaxDepth < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "max_depth must not be negative.")
		}
		q.MaxDepth = min(*in.MaxDepth, hierarchyDepth)
	}
	asked := strconv.Itoa(q.MaxDepth) + "," + strconv.FormatBool(q.SuggestedOnly) + ","
	if in.From != "" {
		last, ok := strings.CutPrefix(in.From, asked)
		if !ok || last == "" {
			return nil, matrixerr.New(matrixerr.InvalidParam, "from is not a token of this server, or suggested_only or max_depth have changed.")
		}
		q.After = id.RoomID(last)
	}
	rooms, next, err := a.rooms.Hierarchy(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &hierarchyResponse{Rooms: rooms}
	if next != "" {
		out.NextBatch = asked + string(next)
	}
	return out, nil
}

type mutualRoomsRequest struct {
	UserID string `query:"user_id,required"`
	From   string `query:"from"`
	// BatchToken is MSC2666's name of From.
	BatchToken string `query:"batch_token"`
}

type mutualRoomsResponse struct {
	Joined    []id.RoomID `json:"joined"`
	Count     int         `json:"count"`
	NextBatch string      `json:"next_batch,omitempty"`
	// NextBatchToken is MSC2666's name of NextBatch.
	NextBatchToken string `json:"next_batch_token,omitempty"`
}

// mutualPage is how many rooms an answer names.
const mutualPage = 100

// spec: client-server-api/modules/mutual_rooms.md#mutual-rooms
func (a *API) mutualRooms(ctx context.Context, r *httpapi.Request, in *mutualRoomsRequest) (*mutualRoomsResponse, error) {
	user, err := id.ParseUserID(in.UserID)
	if err != nil || user == r.Caller.User {
		return nil, matrixerr.New(matrixerr.InvalidParam, "user_id is not the ID of another user.")
	}
	after := int64(0)
	if from := cmp.Or(in.From, in.BatchToken); from != "" {
		if after, err = strconv.ParseInt(from, 10, 64); err != nil || after <= 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "from is not a token of this server.")
		}
	}
	rooms, total, next, err := a.rooms.MutualRooms(ctx, r.Caller.User, user, after, mutualPage)
	if err != nil {
		return nil, err
	}
	out := &mutualRoomsResponse{Joined: rooms, Count: total}
	if next != 0 {
		out.NextBatch = strconv.FormatInt(next, 10)
		out.NextBatchToken = out.NextBatch
	}
	return out, nil
}

type timestampRequest struct {
	RoomID id.RoomID `path:"roomId"`
	TS     *int64    `query:"ts"`
	Dir    string    `query:"dir"`
}

type timestampResponse struct {
	EventID id.EventID `json:"event_id"`
	TS      int64      `json:"origin_server_ts"`
}

// spec: client-server-api/index.md#get_matrixclientv1roomsroomidtimestamp_to_event
func (a *API) timestampToEvent(ctx context.Context, r *httpapi.Request, in *timestampRequest) (*timestampResponse, error) {
	if in.TS == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "ts is missing.")
	}
	before, err := backward(in.Dir, "")
	if err != nil {
		return nil, err
	}
	event, ts, err := a.rooms.Nearest(ctx, r.Caller.User, in.RoomID, *in.TS, before)
	if err != nil {
		return nil, err
	}
	return &timestampResponse{event, ts}, nil
}
