package roomserver

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/internal/serverapi"
)

// Remote asks other servers about rooms. What they answer is not to be trusted: it is within
// the bounds that the asker set, and valid JSON, no more. An error that the other server gave
// as a Matrix error is a *matrixerr.Error.
//
// spec: server-server-api.md
type Remote interface {
	// JSONVerifier checks the signatures of events by their servers' keys.
	gomatrixserverlib.JSONVerifier

	// MakeJoin, MakeLeave and MakeKnock ask for an event to complete; versions are those of
	// rooms that we know.
	MakeJoin(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error)
	MakeLeave(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID) (*serverapi.Template, error)
	MakeKnock(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error)
	// SendJoin, SendLeave and SendKnock hand the completed event in.
	SendJoin(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage, omitMembers bool) (*serverapi.SendJoin, error)
	SendLeave(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) error
	SendKnock(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) (*serverapi.SendKnock, error)
	// Invite has the invited user's server sign an invite, by version 2 of the request or, for
	// old rooms and servers, version 1.
	Invite(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, invite *serverapi.Invite) (json.RawMessage, error)
	// ExchangeThirdPartyInvite has a server in the room turn a third-party invite into an invite.
	ExchangeThirdPartyInvite(ctx context.Context, server id.ServerName, room id.RoomID, event json.RawMessage) error

	// CheckIdentityKey asks an identity server at a URL of its own whether a key is still good.
	CheckIdentityKey(ctx context.Context, url, key string) (bool, error)

	// MissingEvents are events between others; nil where the answer lacks them.
	MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, r serverapi.MissingEvents) ([]json.RawMessage, error)
	// Backfill is up to limit events from before and including from.
	Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error)
	// Event is one event.
	Event(ctx context.Context, server id.ServerName, event id.EventID) (json.RawMessage, error)
	// State and StateIDs are the state before an event.
	State(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.State, error)
	StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.StateIDs, error)
	// EventAuth is the auth chain of an event.
	EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) ([]json.RawMessage, error)
	// TimestampToEvent is the event nearest to a time in milliseconds; dir is "f" or "b".
	TimestampToEvent(ctx context.Context, server id.ServerName, room id.RoomID, ts int64, dir string) (*serverapi.NearestEvent, error)

	// Directory is the room that an alias points to.
	Directory(ctx context.Context, server id.ServerName, alias id.RoomAlias) (*serverapi.Directory, error)
	// Hierarchy is a space with its rooms.
	Hierarchy(ctx context.Context, server id.ServerName, room id.RoomID, suggestedOnly bool) (*serverapi.Hierarchy, error)
	// PublicRooms is a page of a server's directory.
	PublicRooms(ctx context.Context, server id.ServerName, r serverapi.PublicRoomsRequest) (*serverapi.PublicRooms, error)
	// SignByPolicy asks a room's policy server to sign an event.
	SignByPolicy(ctx context.Context, server id.ServerName, pdu json.RawMessage) (serverapi.Signatures, error)
}
