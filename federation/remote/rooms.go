package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
)

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// get makes a request without a body.
func (c *Client) get(ctx context.Context, server id.ServerName, k kind, path string, q url.Values, out any) error {
	return c.ask(ctx, server, request{kind: k, method: http.MethodGet, path: path, query: q}, out)
}

// put makes a request that hands something in.
func (c *Client) put(ctx context.Context, server id.ServerName, k kind, path string, q url.Values, body, out any) error {
	return c.ask(ctx, server, request{kind: k, method: http.MethodPut, path: path, query: q, body: body}, out)
}

// post makes a request with a body, that changes nothing.
func (c *Client) post(ctx context.Context, server id.ServerName, k kind, path string, body, out any) error {
	return c.ask(ctx, server, request{kind: k, method: http.MethodPost, path: path, body: body}, out)
}

// MakeJoin asks for a join to complete.
//
// spec: server-server-api.md#get_matrixfederationv1make_joinroomiduserid
func (c *Client) MakeJoin(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error) {
	return c.makeMember(ctx, server, "/make_join", room, user, versions)
}

// MakeLeave asks for a leave to complete.
//
// spec: server-server-api.md#get_matrixfederationv1make_leaveroomiduserid
func (c *Client) MakeLeave(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID) (*serverapi.Template, error) {
	return c.makeMember(ctx, server, "/make_leave", room, user, nil)
}

// MakeKnock asks for a knock to complete.
//
// spec: server-server-api.md#get_matrixfederationv1make_knockroomiduserid
func (c *Client) MakeKnock(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error) {
	return c.makeMember(ctx, server, "/make_knock", room, user, versions)
}

func (c *Client) makeMember(ctx context.Context, server id.ServerName, what string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error) {
	q := make(url.Values)
	for _, v := range versions {
		q.Add("ver", string(v))
	}
	out := new(serverapi.Template)
	return out, c.get(ctx, server, query, join(v1+what, string(room), string(user)), q, out)
}

// old is an answer of version 1: its status, and then the answer itself.
type old struct{ answer any }

// UnmarshalJSON takes the answer out.
func (o *old) UnmarshalJSON(text []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return errors.New("it is not a status and an answer")
	}
	return json.Unmarshal(pair[1], o.answer)
}

// unrecognized says that a server does not know a request: it says so itself, or something before it
// that knows nothing of Matrix.
//
// spec: server-server-api.md#unsupported-endpoints
func unrecognized(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return status.matrix == nil || status.matrix.Code == matrixerr.Unrecognized
	case http.StatusBadRequest:
		return status.matrix == nil
	}
	return false
}

// SendJoin hands a completed join in, and gets the room.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid
func (c *Client) SendJoin(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage, omitMembers bool) (*serverapi.SendJoin, error) {
	q := url.Values{"omit_members": {strconv.FormatBool(omitMembers)}}
	out := new(serverapi.SendJoin)
	err := c.put(ctx, server, state, join(v2+"/send_join", string(room), string(event)), q, pdu, out)
	if unrecognized(err) {
		err = c.put(ctx, server, state, join(v1+"/send_join", string(room), string(event)), nil, pdu, &old{out})
	}
	return out, notClients(err)
}

// notClients is an error of a request that we made up for a client's: that its parameters are wrong
// is nothing that the client could mend.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid
// spec: server-server-api.md#put_matrixfederationv2inviteroomideventid
func notClients(err error) error {
	if code := matrixerr.CodeOf(err); code != matrixerr.InvalidParam && code != matrixerr.MissingParam {
		return err
	}
	return matrixerr.New(matrixerr.Unknown, "The other server does not take what was sent to it: %v", err).WithStatus(http.StatusBadGateway)
}

// SendLeave hands a completed leave in.
//
// spec: server-server-api.md#put_matrixfederationv2send_leaveroomideventid
func (c *Client) SendLeave(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) error {
	err := c.put(ctx, server, query, join(v2+"/send_leave", string(room), string(event)), nil, pdu, nil)
	if unrecognized(err) {
		err = c.put(ctx, server, query, join(v1+"/send_leave", string(room), string(event)), nil, pdu, nil)
	}
	return err
}

// SendKnock hands a completed knock in.
//
// spec: server-server-api.md#put_matrixfederationv1send_knockroomideventid
func (c *Client) SendKnock(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) (*serverapi.SendKnock, error) {
	out := new(serverapi.SendKnock)
	return out, c.put(ctx, server, events, join(v1+"/send_knock", string(room), string(event)), nil, pdu, out)
}

// Invite has the invited user's server sign an invite. Servers that know version 1 alone know the
// first two room versions alone.
//
// spec: server-server-api.md#put_matrixfederationv2inviteroomideventid
// spec: server-server-api.md#put_matrixfederationv1inviteroomideventid
func (c *Client) Invite(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, invite *serverapi.Invite) (json.RawMessage, error) {
	var out serverapi.Invited
	err := c.put(ctx, server, query, join(v2+"/invite", string(room), string(event)), nil, invite, &out)
	if unrecognized(err) && (invite.RoomVersion == "1" || invite.RoomVersion == "2") {
		var pdu map[string]json.RawMessage
		if err := json.Unmarshal(invite.Event, &pdu); err != nil {
			return nil, fmt.Errorf("invite: %w", err)
		}
		unsigned, err := json.Marshal(map[string]any{"invite_room_state": invite.InviteRoomState})
		if err != nil {
			return nil, fmt.Errorf("invite: %w", err)
		}
		pdu["unsigned"] = unsigned
		err = c.put(ctx, server, query, join(v1+"/invite", string(room), string(event)), nil, pdu, &old{&out})
		return out.Event, notClients(err)
	}
	return out.Event, notClients(err)
}

// ExchangeThirdPartyInvite has a server in the room turn a third-party invite into an invite.
//
// spec: server-server-api.md#put_matrixfederationv1exchange_third_party_inviteroomid
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, server id.ServerName, room id.RoomID, event json.RawMessage) error {
	return c.put(ctx, server, query, join(v1+"/exchange_third_party_invite", string(room)), nil, event, nil)
}

// MissingEvents are events between others.
//
// spec: server-server-api.md#post_matrixfederationv1get_missing_eventsroomid
func (c *Client) MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, r serverapi.MissingEvents) ([]json.RawMessage, error) {
	var out serverapi.Events
	err := c.post(ctx, server, events, join(v1+"/get_missing_events", string(room)), r, &out)
	if r.Limit > 0 && len(out.Events) > r.Limit {
		out.Events = out.Events[:r.Limit]
	}
	return out.Events, err
}

// Backfill is up to limit events from before and including from.
//
// spec: server-server-api.md#get_matrixfederationv1backfillroomid
func (c *Client) Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range from {
		q.Add("v", string(e))
	}
	var out serverapi.PDUs
	err := c.get(ctx, server, events, join(v1+"/backfill", string(room)), q, &out)
	if len(out.PDUs) > limit {
		out.PDUs = out.PDUs[:limit]
	}
	return out.PDUs, err
}

// Event is one event.
//
// spec: server-server-api.md#get_matrixfederationv1eventeventid
func (c *Client) Event(ctx context.Context, server id.ServerName, event id.EventID) (json.RawMessage, error) {
	var out serverapi.PDUs
	err := c.get(ctx, server, query, join(v1+"/event", string(event)), nil, &out)
	switch {
	case err != nil:
		return nil, err
	case len(out.PDUs) != 1:
		return nil, fmt.Errorf("ask %s for %s: %w: it has %d events", server, event, ErrAnswer, len(out.PDUs))
	}
	return out.PDUs[0], nil
}

// State is the state before an event.
//
// spec: server-server-api.md#get_matrixfederationv1stateroomid
func (c *Client) State(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.State, error) {
	out := new(serverapi.State)
	return out, c.get(ctx, server, state, join(v1+"/state", string(room)), url.Values{"event_id": {string(event)}}, out)
}

// StateIDs is the state before an event, by IDs.
//
// spec: server-server-api.md#get_matrixfederationv1state_idsroomid
func (c *Client) StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.StateIDs, error) {
	out := new(serverapi.StateIDs)
	return out, c.get(ctx, server, events, join(v1+"/state_ids", string(room)), url.Values{"event_id": {string(event)}}, out)
}

// EventAuth is the auth chain of an event.
//
// spec: server-server-api.md#get_matrixfederationv1event_authroomideventid
func (c *Client) EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	var out serverapi.AuthChain
	err := c.get(ctx, server, events, join(v1+"/event_auth", string(room), string(event)), nil, &out)
	return out.AuthChain, err
}

// TimestampToEvent is the event nearest to a time in milliseconds.
//
// spec: server-server-api.md#get_matrixfederationv1timestamp_to_eventroomid
func (c *Client) TimestampToEvent(ctx context.Context, server id.ServerName, room id.RoomID, ts int64, dir string) (*serverapi.NearestEvent, error) {
	q := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}
	out := new(serverapi.NearestEvent)
	return out, c.get(ctx, server, query, join(v1+"/timestamp_to_event", string(room)), q, out)
}

// Directory is the room that an alias points to.
//
// spec: server-server-api.md#get_matrixfederationv1querydirectory
func (c *Client) Directory(ctx context.Context, server id.ServerName, alias id.RoomAlias) (*serverapi.Directory, error) {
	out := new(serverapi.Directory)
	return out, c.get(ctx, server, query, v1+"/query/directory", url.Values{"room_alias": {string(alias)}}, out)
}

// Hierarchy is a space with its rooms.
//
// spec: server-server-api.md#get_matrixfederationv1hierarchyroomid
func (c *Client) Hierarchy(ctx context.Context, server id.ServerName, room id.RoomID, suggestedOnly bool) (*serverapi.Hierarchy, error) {
	out := new(serverapi.Hierarchy)
	return out, c.get(ctx, server, query, join(v1+"/hierarchy", string(room)), url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}}, out)
}

// PublicRooms is a page of a server's directory.
//
// spec: server-server-api.md#post_matrixfederationv1publicrooms
func (c *Client) PublicRooms(ctx context.Context, server id.ServerName, r serverapi.PublicRoomsRequest) (*serverapi.PublicRooms, error) {
	out := new(serverapi.PublicRooms)
	return out, c.post(ctx, server, query, v1+"/publicRooms", r, out)
}

// SignByPolicy asks a room's policy server to sign an event.
//
// spec: server-server-api.md#policy-servers
func (c *Client) SignByPolicy(ctx context.Context, server id.ServerName, pdu json.RawMessage) (serverapi.Signatures, error) {
	var out serverapi.Signatures
	err := c.post(ctx, server, query, "/_matrix/policy/v1/sign", pdu, &out)
	return out, err
}

// SendTransaction pushes a transaction; the same ID again is the same transaction.
//
// spec: server-server-api.md#put_matrixfederationv1sendtxnid
func (c *Client) SendTransaction(ctx context.Context, server id.ServerName, txnID string, txn *serverapi.Transaction) (*serverapi.TransactionResult, error) {
	out := new(serverapi.TransactionResult)
	return out, c.put(ctx, server, transaction, join(v1+"/send", txnID), nil, txn, out)
}
