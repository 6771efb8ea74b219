package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/serverapi"
)

// memberRoutes are how users of other servers join, leave and knock on rooms that we are in.
//
// spec: server-server-api.md#joining-rooms
func (a *API) memberRoutes() httpapi.Table {
	return httpapi.Table{
		get("/make_join/{roomId}/{userId}", httpapi.Handle(a.make("join"))),
		get("/make_leave/{roomId}/{userId}", httpapi.Handle(a.make("leave"))),
		get("/make_knock/{roomId}/{userId}", httpapi.Handle(a.make("knock"))),
		put(v1+"/send_join/{roomId}/{eventId}", httpapi.Handle(a.sendJoinV1)),
		put(v2+"/send_join/{roomId}/{eventId}", httpapi.Handle(a.sendJoin)),
		put(v1+"/send_leave/{roomId}/{eventId}", httpapi.Handle(a.sendLeaveV1)),
		put(v2+"/send_leave/{roomId}/{eventId}", httpapi.Handle(a.sendLeave)),
		put(v1+"/send_knock/{roomId}/{eventId}", httpapi.Handle(a.sendKnock)),
	}
}

type makeRequest struct {
	Room     id.RoomID        `path:"roomId"`
	User     id.UserID        `path:"userId"`
	Versions []id.RoomVersion `query:"ver"`
}

// make answers with an event to be completed. A server that says nothing of the versions that
// it knows, where it could, knows the first.
func (a *API) make(membership string) func(context.Context, *httpapi.Request, *makeRequest) (*serverapi.Template, error) {
	return func(ctx context.Context, r *httpapi.Request, in *makeRequest) (*serverapi.Template, error) {
		versions := in.Versions
		switch {
		case membership == "leave":
			versions = nil
		case versions == nil:
			versions = []id.RoomVersion{"1"}
		}
		return a.rooms.MakeMember(ctx, r.Origin, in.Room, in.User, membership, versions)
	}
}

type memberRequest struct {
	Room        id.RoomID       `path:"roomId"`
	Event       id.EventID      `path:"eventId"`
	OmitMembers bool            `query:"omit_members"`
	PDU         json.RawMessage `body:"raw"`
}

func (a *API) sendJoin(ctx context.Context, r *httpapi.Request, in *memberRequest) (*serverapi.SendJoin, error) {
	event, err := a.rooms.TakeMember(ctx, r.Origin, in.Room, in.Event, "join", in.PDU)
	if err != nil {
		return nil, err
	}
	out, err := a.rooms.JoinAnswer(ctx, in.Room, in.Event, in.OmitMembers)
	if err != nil {
		return nil, err
	}
	out.Event = event
	return out, nil
}

// v1Answer is how the first version of some requests is answered: with the status, once more.
//
// spec: server-server-api.md#joining-rooms
func v1Answer(body any, err error) ([]any, error) {
	if err != nil {
		return nil, err
	}
	return []any{http.StatusOK, body}, nil
}

func (a *API) sendJoinV1(ctx context.Context, r *httpapi.Request, in *memberRequest) ([]any, error) {
	in.OmitMembers = false // which version 1 does not know
	out, err := a.sendJoin(ctx, r, in)
	return v1Answer(out, err)
}

// spec: server-server-api.md#put_matrixfederationv2send_leaveroomideventid
func (a *API) sendLeave(ctx context.Context, r *httpapi.Request, in *memberRequest) (*empty, error) {
	_, err := a.rooms.TakeMember(ctx, r.Origin, in.Room, in.Event, "leave", in.PDU)
	return &empty{}, err
}

func (a *API) sendLeaveV1(ctx context.Context, r *httpapi.Request, in *memberRequest) ([]any, error) {
	out, err := a.sendLeave(ctx, r, in)
	return v1Answer(out, err)
}

// spec: server-server-api.md#put_matrixfederationv1send_knockroomideventid
func (a *API) sendKnock(ctx context.Context, r *httpapi.Request, in *memberRequest) (*serverapi.SendKnock, error) {
	if _, err := a.rooms.TakeMember(ctx, r.Origin, in.Room, in.Event, "knock", in.PDU); err != nil {
		return nil, err
	}
	return a.rooms.KnockAnswer(ctx, in.Room)
}
