package clientapi

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"parley/internal/filter"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/token"
	"parley/roomserver"

	"github.com/tidwall/gjson"
)

// roomRoutes are the chapters on rooms.
//
// spec: client-server-api/index.md#creation
func (a *API) roomRoutes() httpapi.Table {
	get, post, put, del := "GET", "POST", "PUT", "DELETE"
	const v3 = "/_matrix/client/v3"
	return httpapi.Table{
		{Method: post, Path: v3 + "/createRoom", Auth: httpapi.User, NeedBody: true, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.createRoom)},
		{Method: get, Path: v3 + "/joined_rooms", Auth: httpapi.User, Handler: httpapi.Handle(a.joinedRooms)},
		{Method: post, Path: v3 + "/join/{roomIdOrAlias}", Auth: httpapi.User, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.joinAny)},
		{Method: post, Path: v3 + "/knock/{roomIdOrAlias}", Auth: httpapi.User, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.knock)},
		{Method: post, Path: v3 + "/rooms/{roomId}/join", Auth: httpapi.UserOrGuest, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.joinRoom)},
		{Method: post, Path: v3 + "/rooms/{roomId}/leave", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.leave)},
		{Method: post, Path: v3 + "/rooms/{roomId}/forget", Auth: httpapi.User, Handler: httpapi.Handle(a.forget)},
		{Method: post, Path: v3 + "/rooms/{roomId}/invite", Auth: httpapi.User, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.invite)},
		{Method: post, Path: v3 + "/rooms/{roomId}/kick", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.changeMember(a.rooms.Kick))},
		{Method: post, Path: v3 + "/rooms/{roomId}/ban", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.changeMember(a.rooms.Ban))},
		{Method: post, Path: v3 + "/rooms/{roomId}/unban", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.changeMember(a.rooms.Unban))},
		{Method: post, Path: v3 + "/rooms/{roomId}/upgrade", Auth: httpapi.User, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.upgrade)},

		{Method: put, Path: v3 + "/rooms/{roomId}/send/{eventType}/{txnId}", Auth: httpapi.UserOrGuest, NeedBody: true, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.send)},
		{Method: put, Path: v3 + "/rooms/{roomId}/redact/{eventId}/{txnId}", Auth: httpapi.User, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.redact)},
		{Method: put, Path: v3 + "/rooms/{roomId}/state/{eventType}/{stateKey}", LastMayBeEmpty: true, Auth: httpapi.UserOrGuest, NeedBody: true, RefuseSuspended: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.putState)},

		{Method: get, Path: v3 + "/rooms/{roomId}/state", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.state)},
		{Method: get, Path: v3 + "/rooms/{roomId}/state/{eventType}/{stateKey}", LastMayBeEmpty: true, Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.stateEvent)},
		{Method: get, Path: v3 + "/rooms/{roomId}/event/{eventId}", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.event)},
		{Method: get, Path: v3 + "/rooms/{roomId}/members", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.members)},
		{Method: get, Path: v3 + "/rooms/{roomId}/joined_members", Auth: httpapi.User, Handler: httpapi.Handle(a.joinedMembers)},
		{Method: get, Path: v3 + "/rooms/{roomId}/messages", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.messages)},
		{Method: get, Path: v3 + "/rooms/{roomId}/context/{eventId}", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.eventContext)},
		{Method: get, Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}", Auth: httpapi.User, Handler: httpapi.Handle(a.relations)},
		{Method: get, Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}", Auth: httpapi.User, Handler: httpapi.Handle(a.relationsOfType)},
		{Method: get, Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", Auth: httpapi.User, Handler: httpapi.Handle(a.relationsOfTypes)},
		{Method: get, Path: "/_matrix/client/v1/rooms/{roomId}/threads", Auth: httpapi.User, Handler: httpapi.Handle(a.threads)},

		{Method: get, Path: v3 + "/rooms/{roomId}/aliases", Auth: httpapi.User, Handler: httpapi.Handle(a.roomAliases)},
		{Method: get, Path: v3 + "/directory/room/{roomAlias}", Auth: httpapi.None, Handler: httpapi.Handle(a.resolveAlias)},
		{Method: put, Path: v3 + "/directory/room/{roomAlias}", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.createAlias)},
		{Method: del, Path: v3 + "/directory/room/{roomAlias}", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.deleteAlias)},
		{Method: get, Path: v3 + "/directory/list/room/{roomId}", Auth: httpapi.None, Handler: httpapi.Handle(a.published)},
		{Method: put, Path: v3 + "/directory/list/room/{roomId}", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.publish)},
		{Method: get, Path: v3 + "/publicRooms", Auth: httpapi.None, Handler: httpapi.Handle(a.publicRooms)},
		{Method: post, Path: v3 + "/publicRooms", Auth: httpapi.User, Handler: httpapi.Handle(a.searchPublicRooms)},
	}
}

// empty is the answer {}.
type empty struct{}

// reader is for whom events are rendered.
func reader(r *httpapi.Request) roomserver.Reader {
	return roomserver.Reader{User: r.Caller.User, DeviceNID: r.Caller.DeviceNID, WithRoomID: true, Bundle: true}
}

type createRoomRequest struct {
	Visibility      string                     `json:"visibility"`
	RoomAliasName   string                     `json:"room_alias_name"`
	Name            *string                    `json:"name"`
	Topic           *string                    `json:"topic"`
	Invite          []string                   `json:"invite"`
	Invite3PID      []addressInvite            `json:"invite_3pid"`
	RoomVersion     id.RoomVersion             `json:"room_version"`
	CreationContent map[string]json.RawMessage `json:"creation_content"`
	InitialState    []roomserver.StateEvent    `json:"initial_state"`
	Preset          string                     `json:"preset"`
	IsDirect        bool                       `json:"is_direct"`
	PowerLevels     map[string]json.RawMessage `json:"power_level_content_override"`
}

type roomIDResponse struct {
	RoomID id.RoomID `json:"room_id"`
}

func (a *API) createRoom(ctx context.Context, r *httpapi.Request, in *createRoomRequest) (*roomIDResponse, error) {
	req := roomserver.CreateRequest{
		Creator: r.Caller.User, Version: in.RoomVersion, Visibility: in.Visibility, Preset: in.Preset,
		AliasLocalpart: in.RoomAliasName, Name: in.Name, Topic: in.Topic, IsDirect: in.IsDirect,
		CreationContent: in.CreationContent, InitialState: in.InitialState, PowerLevels: in.PowerLevels,
	}
	if in.RoomAliasName != "" {
		if err := a.mayHaveAlias(r, id.NewRoomAlias(in.RoomAliasName, a.serverName)); err != nil {
			return nil, err
		}
	}
	for _, u := range in.Invite {
		user, err := id.ParseUserID(u)
		if err != nil {
			return nil, matrixerr.New(matrixerr.InvalidParam, "%q can't be invited: %v.", u, err)
		}
		if _, err := a.users.MakeOnDemand(ctx, user); err != nil {
			return nil, err
		}
		req.Invite = append(req.Invite, user)
	}
	for _, address := range in.Invite3PID {
		invite, err := address.check()
		if err != nil {
			return nil, err
		}
		req.InviteAddresses = append(req.InviteAddresses, invite)
	}
	room, err := a.rooms.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	a.carryOver(ctx, r.Caller.User, room)
	return &roomIDResponse{room}, nil
}

// carryOver gives a room that follows another what its new member has set for that one.
func (a *API) carryOver(ctx context.Context, user id.UserID, room id.RoomID) {
	create, err := a.rooms.StateEvent(ctx, room, "m.room.create", "", false, roomserver.Reader{User: user})
	if err != nil {
		return // what the user asked for is done
	}
	if from, err := id.ParseRoomID(gjson.GetBytes(create, "predecessor.room_id").Str); err == nil {
		a.users.CarryOver(ctx, user, from, room)
	}
}

type joinedRoomsResponse struct {
	JoinedRooms []id.RoomID `json:"joined_rooms"`
}

func (a *API) joinedRooms(ctx context.Context, r *httpapi.Request, _ *empty) (*joinedRoomsResponse, error) {
	rooms, err := a.rooms.JoinedRooms(ctx, r.Caller.User)
	if rooms == nil {
		rooms = []id.RoomID{}
	}
	return &joinedRoomsResponse{rooms}, err
}

type joinAnyRequest struct {
	RoomIDOrAlias string          `path:"roomIdOrAlias"`
	Via           []id.ServerName `query:"via"`
	ServerNames   []id.ServerName `query:"server_name"` // as it was called before
	Content       json.RawMessage `body:"raw"`
}

// request is what a user asks to become in the room that is named.
func (a *API) request(ctx context.Context, r *httpapi.Request, in *joinAnyRequest) (req roomserver.MemberRequest, err error) {
	req = roomserver.MemberRequest{Sender: r.Caller.User, Via: slices.Concat(in.Via, in.ServerNames)}
	if !strings.HasPrefix(in.RoomIDOrAlias, "#") {
		req.Room, err = parseRoomID(in.RoomIDOrAlias)
	} else {
		var alias id.RoomAlias
		if alias, err = parseAlias(in.RoomIDOrAlias); err != nil {
			return req, err
		}
		var servers []id.ServerName
		req.Room, servers, err = a.rooms.ResolveAlias(ctx, alias)
		req.Via = append(req.Via, servers...)
	}
	if err == nil {
		req.Content, err = memberContent(in.Content)
	}
	return req, err
}

type joinRequest struct {
	RoomID  id.RoomID       `path:"roomId"`
	Content json.RawMessage `body:"raw"`
}

// memberContent is what a client may add to its own member event: all that it sent but what is
// the server's to say.
func memberContent(body json.RawMessage) (map[string]any, error) {
	content := map[string]any{}
	if len(body) == 0 {
		return content, nil
	}
	if reason := gjson.GetBytes(body, "reason"); reason.Exists() && reason.Type != gjson.String {
		return nil, matrixerr.New(matrixerr.BadJSON, "reason must be a string.")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "The body is not as it should be.")
	}
	for name, value := range fields {
		switch name {
		case "membership", "join_authorised_via_users_server", "third_party_signed", "third_party_invite", "via", "server_name":
		default:
			content[name] = value
		}
	}
	return content, nil
}

func (a *API) joinAny(ctx context.Context, r *httpapi.Request, in *joinAnyRequest) (*roomIDResponse, error) {
	req, err := a.request(ctx, r, in)
	if err != nil {
		return nil, err
	}
	if err := a.rooms.Join(ctx, req); err != nil {
		return nil, err
	}
	a.carryOver(ctx, req.Sender, req.Room)
	return &roomIDResponse{req.Room}, nil
}

func (a *API) joinRoom(ctx context.Context, r *httpapi.Request, in *joinRequest) (*roomIDResponse, error) {
	content, err := memberContent(in.Content)
	if err != nil {
		return nil, err
	}
	if err := a.rooms.Join(ctx, roomserver.MemberRequest{Room: in.RoomID, Sender: r.Caller.User, Content: content}); err != nil {
		return nil, err
	}
	a.carryOver(ctx, r.Caller.User, in.RoomID)
	return &roomIDResponse{in.RoomID}, nil
}

func (a *API) knock(ctx context.Context, r *httpapi.Request, in *joinAnyRequest) (*roomIDResponse, error) {
	req, err := a.request(ctx, r, in)
	if err != nil {
		return nil, err
	}
	return &roomIDResponse{req.Room}, a.rooms.Knock(ctx, req)
}

func parseRoomID(s string) (id.RoomID, error) {
	room, err := id.ParseRoomID(s)
	if err != nil {
		return "", matrixerr.New(matrixerr.InvalidParam, "%q is not a room ID.", s)
	}
	return room, nil
}

func parseAlias(s string) (id.RoomAlias, error) {
	alias, err := id.ParseRoomAlias(s)
	if err != nil {
		return "", matrixerr.New(matrixerr.InvalidParam, "%q is not a room alias.", s)
	}
	return alias, nil
}

type leaveRequest struct {
	RoomID id.RoomID `path:"roomId"`
	Reason string    `json:"reason"`
}

func (a *API) leave(ctx context.Context, r *httpapi.Request, in *leaveRequest) (*empty, error) {
	return &empty{}, a.rooms.Leave(ctx, roomserver.MemberRequest{Room: in.RoomID, Sender: r.Caller.User, Reason: in.Reason})
}

func (a *API) forget(ctx context.Context, r *httpapi.Request, in *leaveRequest) (*empty, error) {
	return &empty{}, a.rooms.Forget(ctx, r.Caller.User, in.RoomID)
}

type memberRequest struct {
	RoomID id.RoomID `path:"roomId"`
	UserID *string   `json:"user_id"`
	Reason string    `json:"reason"`
}

func (in *memberRequest) target() (id.UserID, error) {
	if in.UserID == nil {
		return "", matrixerr.New(matrixerr.MissingParam, "user_id is missing.")
	}
	user, err := id.ParseUserID(*in.UserID)
	if err != nil {
		return "", matrixerr.New(matrixerr.InvalidParam, "%q is not a user ID.", *in.UserID)
	}
	return user, nil
}

func (a *API) invite(ctx context.Context, r *httpapi.Request, in *inviteRequest) (*empty, error) {
	if in.UserID == nil && in.Medium != "" {
		address, err := in.check()
		if err != nil {
			return nil, err
		}
		return &empty{}, a.rooms.InviteAddress(ctx, in.RoomID, r.Caller.User, address)
	}
	m := memberRequest{RoomID: in.RoomID, UserID: in.UserID, Reason: in.Reason}
	target, err := m.target()
	if err == nil {
		_, err = a.users.MakeOnDemand(ctx, target)
	}
	if err != nil {
		return nil, err
	}
	return &empty{}, a.rooms.Invite(ctx, roomserver.MemberRequest{Room: in.RoomID, Sender: r.Caller.User, Target: target, Reason: in.Reason})
}

type inviteRequest struct {
	RoomID id.RoomID `path:"roomId"`
	UserID *string   `json:"user_id"`
	Reason string    `json:"reason"`
	addressInvite
}

// addressInvite invites whoever has an address.
//
// spec: client-server-api/modules/third_party_invites.md#post_matrixclientv3roomsroomidinvite
type addressInvite struct {
	IDServer      string `json:"id_server"`
	IDAccessToken string `json:"id_access_token"`
	Medium        string `json:"medium"`
	Address       string `json:"address"`
}

func (in *addressInvite) check() (roomserver.AddressInvite, error) {
	if in.IDServer == "" || in.IDAccessToken == "" || in.Medium == "" || in.Address == "" {
		return roomserver.AddressInvite{}, matrixerr.New(matrixerr.MissingParam, "id_server, id_access_token, medium or address is missing.")
	}
	if _, err := id.ParseServerName(in.IDServer); err != nil {
		return roomserver.AddressInvite{}, matrixerr.New(matrixerr.InvalidParam, "id_server is not the name of a server.")
	}
	return roomserver.AddressInvite{Server: in.IDServer, Token: in.IDAccessToken, Medium: in.Medium, Address: in.Address}, nil
}

// changeMember makes a handler of kick, ban or unban.
func (a *API) changeMember(change func(context.Context, roomserver.MemberRequest) error) func(context.Context, *httpapi.Request, *memberRequest) (*empty, error) {
	return func(ctx context.Context, r *httpapi.Request, in *memberRequest) (*empty, error) {
		target, err := in.target()
		if err != nil {
			return nil, err
		}
		return &empty{}, change(ctx, roomserver.MemberRequest{Room: in.RoomID, Sender: r.Caller.User, Target: target, Reason: in.Reason})
	}
}

type upgradeRequest struct {
	RoomID             id.RoomID      `path:"roomId"`
	NewVersion         id.RoomVersion `json:"new_version"`
	AdditionalCreators []id.UserID    `json:"additional_creators"`
}

type upgradeResponse struct {
	ReplacementRoom id.RoomID `json:"replacement_room"`
}

func (a *API) upgrade(ctx context.Context, r *httpapi.Request, in *upgradeRequest) (*upgradeResponse, error) {
	if in.NewVersion == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "new_version is missing.")
	}
	room, err := a.rooms.Upgrade(ctx, r.Caller.User, in.RoomID, in.NewVersion, in.AdditionalCreators)
	if err != nil {
		return nil, err
	}
	a.carryOver(ctx, r.Caller.User, room)
	return &upgradeResponse{room}, nil
}

type sendRequest struct {
	RoomID    id.RoomID       `path:"roomId"`
	EventType string          `path:"eventType"`
	TxnID     string          `path:"txnId"`
	Content   json.RawMessage `body:"raw"`
}

type eventIDResponse struct {
	EventID id.EventID `json:"event_id"`
}

func (a *API) send(ctx context.Context, r *httpapi.Request, in *sendRequest) (*eventIDResponse, error) {
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	event, err := a.rooms.Send(ctx, roomserver.SendRequest{
		Room: in.RoomID, Sender: r.Caller.User, Type: in.EventType, Content: in.Content, TS: ts,
		Txn: roomserver.Txn{DeviceNID: r.Caller.DeviceNID, ID: in.TxnID, Scope: "send " + string(in.RoomID) + " " + in.EventType},
	})
	if err == nil {
		// spec: client-server-api/modules/presence.md#last-active-ago
		a.users.Active(r.Caller.User)
	}
	return &eventIDResponse{event}, err
}

type redactRequest struct {
	RoomID  id.RoomID       `path:"roomId"`
	EventID id.EventID      `path:"eventId"`
	TxnID   string          `path:"txnId"`
	Content json.RawMessage `body:"raw"`
}

func (a *API) redact(ctx context.Context, r *httpapi.Request, in *redactRequest) (*eventIDResponse, error) {
	if reason := gjson.GetBytes(in.Content, "reason"); reason.Exists() && reason.Type != gjson.String {
		return nil, matrixerr.New(matrixerr.BadJSON, "reason must be a string.")
	}
	event, err := a.rooms.Redact(ctx, roomserver.RedactRequest{
		Room: in.RoomID, Sender: r.Caller.User, Event: in.EventID, Content: in.Content, Suspended: r.Caller.Suspended,
		Txn: roomserver.Txn{DeviceNID: r.Caller.DeviceNID, ID: in.TxnID, Scope: "redact " + string(in.RoomID) + " " + string(in.EventID)},
	})
	return &eventIDResponse{event}, err
}

type putStateRequest struct {
	RoomID    id.RoomID       `path:"roomId"`
	EventType string          `path:"eventType"`
	StateKey  string          `path:"stateKey"`
	Content   json.RawMessage `body:"raw"`
}

func (a *API) putState(ctx context.Context, r *httpapi.Request, in *putStateRequest) (*eventIDResponse, error) {
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	event, err := a.rooms.Send(ctx, roomserver.SendRequest{
		Room: in.RoomID, Sender: r.Caller.User, Type: in.EventType, StateKey: &in.StateKey, Content: in.Content, TS: ts,
	})
	return &eventIDResponse{event}, err
}

type stateEventRequest struct {
	RoomID    id.RoomID `path:"roomId"`
	EventType string    `path:"eventType"`
	StateKey  string    `path:"stateKey"`
	Format    string    `query:"format"`
}

func (a *API) state(ctx context.Context, r *httpapi.Request, in *roomRequest) ([]json.RawMessage, error) {
	return a.rooms.State(ctx, in.RoomID, reader(r))
}

func (a *API) stateEvent(ctx context.Context, r *httpapi.Request, in *stateEventRequest) (json.RawMessage, error) {
	if in.Format != "" && in.Format != "content" && in.Format != "event" {
		return nil, matrixerr.New(matrixerr.InvalidParam, `format must be "content" or "event".`)
	}
	return a.rooms.StateEvent(ctx, in.RoomID, in.EventType, in.StateKey, in.Format == "event", reader(r))
}

type eventRequest struct {
	RoomID  id.RoomID  `path:"roomId"`
	EventID id.EventID `path:"eventId"`
}

func (a *API) event(ctx context.Context, r *httpapi.Request, in *eventRequest) (json.RawMessage, error) {
	return a.rooms.Event(ctx, in.RoomID, in.EventID, reader(r))
}

type membersRequest struct {
	RoomID        id.RoomID `path:"roomId"`
	At            *string   `query:"at"`
	Membership    string    `query:"membership"`
	NotMembership string    `query:"not_membership"`
}

type chunkResponse struct {
	Chunk []json.RawMessage `json:"chunk"`
}

func (a *API) members(ctx context.Context, r *httpapi.Request, in *membersRequest) (*chunkResponse, error) {
	for _, m := range []string{in.Membership, in.NotMembership} {
		switch m {
		case "", "join", "invite", "knock", "leave", "ban":
		default:
			return nil, matrixerr.New(matrixerr.InvalidParam, "There is no membership %q.", m)
		}
	}
	at, err := a.place("at", in.At)
	if err != nil {
		return nil, err
	}
	events, err := a.rooms.Members(ctx, roomserver.MembersRequest{
		Room: in.RoomID, At: at, Membership: in.Membership, NotMembership: in.NotMembership, Reader: reader(r),
	})
	return &chunkResponse{events}, err
}

type joinedMembersResponse struct {
	Joined map[id.UserID]roomserver.JoinedMember `json:"joined"`
}

func (a *API) joinedMembers(ctx context.Context, r *httpapi.Request, in *roomRequest) (*joinedMembersResponse, error) {
	members, err := a.rooms.JoinedMembers(ctx, r.Caller.User, in.RoomID)
	return &joinedMembersResponse{members}, err
}

// place reads a pagination token; nil stays nil.
func (a *API) place(name string, t *string) (*roomserver.Ord, error) {
	if t == nil || *t == "" {
		return nil, nil
	}
	pos, err := token.Parse(a.epoch, *t)
	if err != nil {
		return nil, matrixerr.New(matrixerr.InvalidParam, "%s is not a token of this server.", name)
	}
	ord := roomserver.Ord(pos)
	return &ord, nil
}

func (a *API) token(ord roomserver.Ord) string { return token.Format(a.epoch, int64(ord)) }

func (a *API) tokenOrNone(ord *roomserver.Ord) string {
	if ord == nil {
		return ""
	}
	return a.token(*ord)
}

// maxPage bounds the events that one page of anything has.
const maxPage = 1000

// pageLimit reads a limit: missing means otherwise, and too much the most that there is.
func pageLimit(limit *int, otherwise int) (int, error) {
	switch {
	case limit == nil:
		return otherwise, nil
	case *limit < 0:
		return 0, matrixerr.New(matrixerr.InvalidParam, "limit must not be negative.")
	case *limit == 0:
		return 1, nil
	}
	return min(*limit, maxPage), nil
}

// roomFilter reads an inline filter of room events.
func roomFilter(text string) (*filter.RoomEvents, error) {
	if text == "" {
		return &filter.RoomEvents{}, nil
	}
	return filter.ParseRoomEvents([]byte(text))
}

// relTypePath is where an event says how it relates to another.
const relTypePath = `content.m\.relates_to.rel_type`

// matcher is a filter for events as they were signed; nil where all pass.
func matcher(f *filter.RoomEvents, room id.RoomID) roomserver.EventFilter {
	if f.Everything() {
		return nil
	}
	return func(raw []byte) bool {
		fields := gjson.GetManyBytes(raw, "type", "sender", "content.url", relTypePath)
		return f.MatchEvent(room, fields[0].Str, id.UserID(fields[1].Str), fields[2].Type == gjson.String, fields[3].Str)
	}
}

func backward(dir, otherwise string) (bool, error) {
	if dir == "" {
		dir = otherwise
	}
	switch dir {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, matrixerr.New(matrixerr.MissingParam, "dir is missing.")
	}
	return false, matrixerr.New(matrixerr.InvalidParam, `dir must be "b" or "f".`)
}

type messagesRequest struct {
	RoomID id.RoomID `path:"roomId"`
	From   *string   `query:"from"`
	To     *string   `query:"to"`
	Dir    string    `query:"dir"`
	Limit  *int      `query:"limit"`
	Filter string    `query:"filter"`
}

// encodeMessages writes the answer by hand: encoding/json would go through every event
// again, which was a fifth of what a page costs.
func encodeMessages(start, end string, chunk, state []json.RawMessage) httpapi.RawJSON {
	size := 64
	for _, e := range chunk {
		size += len(e) + 1
	}
	out := append(make([]byte, 0, size), `{"start":"`...)
	out = append(out, start...)
	if end != "" {
		out = append(out, `","end":"`...)
		out = append(out, end...)
	}
	out = appendEvents(append(out, `","chunk":`...), chunk)
	if len(state) > 0 {
		out = appendEvents(append(out, `,"state":`...), state)
	}
	return append(out, '}')
}

func appendEvents(out []byte, events []json.RawMessage) []byte {
	out = append(out, '[')
	for i, e := range events {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e...)
	}
	return append(out, ']')
}

func (a *API) messages(ctx context.Context, r *httpapi.Request, in *messagesRequest) (httpapi.RawJSON, error) {
	f, err := roomFilter(in.Filter)
	if err != nil {
		return nil, err
	}
	p := roomserver.PageRequest{Room: in.RoomID, Filter: matcher(f, in.RoomID), Members: f.LazyLoadMembers, Reader: reader(r)}
	if p.Backward, err = backward(in.Dir, ""); matrixerr.Is(err, matrixerr.MissingParam) {
		// Clients were let off it for long: those who may not look into the room are told that rather than this.
		p.Limit = 1
		if _, refused := a.rooms.Messages(ctx, p); refused != nil {
			err = refused
		}
	}
	if err != nil {
		return nil, err
	}
	if p.Limit, err = pageLimit(in.Limit, 10); err != nil {
		return nil, err
	}
	if most := f.Most(0); most > 0 {
		p.Limit = min(p.Limit, most)
	}
	if p.From, err = a.place("from", in.From); err != nil {
		return nil, err
	}
	if p.To, err = a.place("to", in.To); err != nil {
		return nil, err
	}
	page, err := a.rooms.Messages(ctx, p)
	if err != nil {
		return nil, err
	}
	return encodeMessages(a.token(page.Start), a.tokenOrNone(page.End), page.Events, page.State), nil
}

type contextRequest struct {
	RoomID  id.RoomID  `path:"roomId"`
	EventID id.EventID `path:"eventId"`
	Limit   *int       `query:"limit"`
	Filter  string     `query:"filter"`
}

type contextResponse struct {
	Start        string            `json:"start"`
	End          string            `json:"end"`
	Event        json.RawMessage   `json:"event"`
	EventsBefore []json.RawMessage `json:"events_before"`
	EventsAfter  []json.RawMessage `json:"events_after"`
	State        []json.RawMessage `json:"state"`
}

func (a *API) eventContext(ctx context.Context, r *httpapi.Request, in *contextRequest) (*contextResponse, error) {
	f, err := roomFilter(in.Filter)
	if err != nil {
		return nil, err
	}
	limit := 10
	if in.Limit != nil {
		if limit = *in.Limit; limit < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "limit must not be negative.")
		}
	}
	c, err := a.rooms.Context(ctx, roomserver.ContextRequest{
		Room: in.RoomID, Event: in.EventID, Limit: min(limit, maxPage), Filter: matcher(f, in.RoomID),
		LazyMembers: f.LazyLoadMembers, Reader: reader(r),
	})
	if err != nil {
		return nil, err
	}
	return &contextResponse{a.token(c.Start), a.token(c.End), c.Event, c.Before, c.After, c.State}, nil
}

type relationsRequest struct {
	RoomID  id.RoomID  `path:"roomId"`
	EventID id.EventID `path:"eventId"`
	From    *string    `query:"from"`
	To      *string    `query:"to"`
	Dir     string     `query:"dir"`
	Limit   *int       `query:"limit"`
	Recurse bool       `query:"recurse"`
}

type relationsResponse struct {
	Chunk          []json.RawMessage `json:"chunk"`
	NextBatch      string            `json:"next_batch,omitempty"`
	PrevBatch      string            `json:"prev_batch,omitempty"`
	RecursionDepth int               `json:"recursion_depth,omitempty"`
}

func (a *API) relations(ctx context.Context, r *httpapi.Request, in *relationsRequest) (*relationsResponse, error) {
	return a.listRelations(ctx, r, in, "", "")
}

func (a *API) relationsOfType(ctx context.Context, r *httpapi.Request, in *struct {
	relationsRequest
	RelType string `path:"relType"`
}) (*relationsResponse, error) {
	return a.listRelations(ctx, r, &in.relationsRequest, in.RelType, "")
}

func (a *API) relationsOfTypes(ctx context.Context, r *httpapi.Request, in *struct {
	relationsRequest
	RelType   string `path:"relType"`
	EventType string `path:"eventType"`
}) (*relationsResponse, error) {
	return a.listRelations(ctx, r, &in.relationsRequest, in.RelType, in.EventType)
}

func (a *API) listRelations(ctx context.Context, r *httpapi.Request, in *relationsRequest, relType, eventType string) (*relationsResponse, error) {
	q := roomserver.RelationsRequest{Room: in.RoomID, Event: in.EventID, RelType: relType, EventType: eventType,
		Recurse: in.Recurse, Reader: reader(r)}
	var err error
	if q.Backward, err = backward(in.Dir, "b"); err != nil {
		return nil, err
	}
	if q.Limit, err = pageLimit(in.Limit, 50); err != nil {
		return nil, err
	}
	if q.From, err = a.place("from", in.From); err != nil {
		return nil, err
	}
	if q.To, err = a.place("to", in.To); err != nil {
		return nil, err
	}
	page, depth, err := a.rooms.Relations(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &relationsResponse{Chunk: page.Events, NextBatch: a.tokenOrNone(page.End)}
	if in.From != nil {
		out.PrevBatch = *in.From
	}
	if in.Recurse {
		out.RecursionDepth = depth
	}
	return out, nil
}

type threadsRequest struct {
	RoomID  id.RoomID `path:"roomId"`
	Include string    `query:"include"`
	From    *string   `query:"from"`
	Limit   *int      `query:"limit"`
}

func (a *API) threads(ctx context.Context, r *httpapi.Request, in *threadsRequest) (*relationsResponse, error) {
	if in.Include != "" && in.Include != "all" && in.Include != "participated" {
		return nil, matrixerr.New(matrixerr.InvalidParam, `include must be "all" or "participated".`)
	}
	q := roomserver.ThreadsRequest{Room: in.RoomID, Participated: in.Include == "participated", Reader: reader(r)}
	var err error
	if q.Limit, err = pageLimit(in.Limit, 50); err != nil {
		return nil, err
	}
	if q.From, err = a.place("from", in.From); err != nil {
		return nil, err
	}
	page, err := a.rooms.Threads(ctx, q)
	if err != nil {
		return nil, err
	}
	return &relationsResponse{Chunk: page.Events, NextBatch: a.tokenOrNone(page.End)}, nil
}
