package federation

import (
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/serverapi"
)

// inviteRoutes are how our users are invited to rooms of other servers.
//
// spec: server-server-api.md#inviting-to-a-room
func (a *API) inviteRoutes() httpapi.Table {
	return httpapi.Table{
		put(v1+"/invite/{roomId}/{eventId}", httpapi.Handle(a.inviteV1)),
		put(v2+"/invite/{roomId}/{eventId}", httpapi.Handle(a.invite)),
	}
}

type inviteRequest struct {
	Room   id.RoomID        `path:"roomId"`
	Event  id.EventID       `path:"eventId"`
	Invite serverapi.Invite `body:"json"`
}

// spec: server-server-api.md#put_matrixfederationv2inviteroomideventid
func (a *API) invite(ctx context.Context, r *httpapi.Request, in *inviteRequest) (*serverapi.Invited, error) {
	// A bridge may make who is invited; whether the invitation is a good one does not depend on it.
	target, err := id.ParseUserID(gjson.GetBytes(in.Invite.Event, "state_key").Str)
	if err == nil {
		_, err = a.users.MakeOnDemand(ctx, target)
	}
	if err != nil {
		a.log.InfoContext(ctx, "who is invited could not be made", "room", in.Room, "error", err)
	}
	signed, err := a.rooms.ReceiveInvite(ctx, r.Origin, in.Room, in.Event, &in.Invite)
	if err != nil {
		return nil, err
	}
	return &serverapi.Invited{Event: signed}, nil
}

type inviteV1Request struct {
	Room  id.RoomID       `path:"roomId"`
	Event id.EventID      `path:"eventId"`
	PDU   json.RawMessage `body:"raw"`
}

// inviteV1 is invite for those who know the first version of it alone, and of rooms.
//
// spec: server-server-api.md#put_matrixfederationv1inviteroomideventid
func (a *API) inviteV1(ctx context.Context, r *httpapi.Request, in *inviteV1Request) ([]any, error) {
	invite := serverapi.Invite{RoomVersion: "1", Event: in.PDU}
	for _, e := range gjson.GetBytes(in.PDU, "unsigned.invite_room_state").Array() {
		invite.InviteRoomState = append(invite.InviteRoomState, json.RawMessage(e.Raw))
	}
	out, err := a.invite(ctx, r, &inviteRequest{in.Room, in.Event, invite})
	return v1Answer(out, err)
}
