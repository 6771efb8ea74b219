package roomserver

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/rules"
	"parley/storage"
)

// Invites of an address whose owner is not known yet. The room has an m.room.third_party_invite
// with a token; when an identity server says that a user owns the address, that user is
// invited in the name of who invited the address.
//
// spec: server-server-api.md#third-party-invites

// ThirdPartyInvite is what an identity server says about an address that was invited.
type ThirdPartyInvite struct {
	Room id.RoomID
	// Sender is who invited the address, User who owns it.
	Sender, User id.UserID
	// Signed is the identity server's word for it: user and token.
	Signed json.RawMessage
}

// ClaimThirdPartyInvite has one of our users invited to a room to which the user's address was.
// Nobody vouches for what the request says but the signature in it, which is checked where the
// room is known.
//
// spec: server-server-api.md#put_matrixfederationv13pidonbind
func (s *Server) ClaimThirdPartyInvite(ctx context.Context, in ThirdPartyInvite) error {
	if s.local(in.Sender) {
		return s.acceptThirdPartyInvite(ctx, in)
	}
	if s.remote == nil {
		return matrixerr.New(matrixerr.Forbidden, "This server does not federate.")
	}
	content, err := json.Marshal(map[string]any{
		"membership": spec.Invite,
		// What the user is called in the invite is not ours to say; the field must be there.
		"third_party_invite": map[string]any{"display_name": "", "signed": in.Signed},
	})
	if err != nil {
		return err
	}
	event := mustObject(map[string]any{
		"type": spec.MRoomMember, "room_id": in.Room, "sender": in.Sender, "state_key": in.User, "content": json.RawMessage(content),
	})
	return s.remote.ExchangeThirdPartyInvite(ctx, in.Sender.Server(), in.Room, event)
}

// ExchangeThirdPartyInvite invites a user of another server in the name of one of ours who
// invited the user's address: event is that server's outline of the invite.
//
// spec: server-server-api.md#put_matrixfederationv1exchange_third_party_inviteroomid
func (s *Server) ExchangeThirdPartyInvite(ctx context.Context, origin id.ServerName, room id.RoomID, event json.RawMessage) error {
	f := gjson.GetManyBytes(event, "type", "room_id", "sender", "state_key", "content.membership", "content.third_party_invite.signed")
	in := ThirdPartyInvite{Room: room, Sender: id.UserID(f[2].Str), User: id.UserID(f[3].Str), Signed: json.RawMessage(f[5].Raw)}
	_, err := id.ParseUserID(f[3].Str)
	switch {
	case f[0].Str != spec.MRoomMember || f[4].Str != spec.Invite || f[1].Str != string(room) || err != nil || !f[5].IsObject():
		return matrixerr.New(matrixerr.InvalidParam, "The event is no invite to the room on the word of an identity server.")
	case !s.local(in.Sender):
		return matrixerr.New(matrixerr.Forbidden, "The address was not invited by a user of this server.")
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := s.resident(tx, origin, room)
		return err
	})
	if err != nil {
		return err
	}
	return s.acceptThirdPartyInvite(ctx, in)
}

// acceptThirdPartyInvite checks the word of an identity server, and invites.
//
// spec: server-server-api.md#verifying-the-invite
func (s *Server) acceptThirdPartyInvite(ctx context.Context, in ThirdPartyInvite) error {
	var invite *event
	settled := false
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		w, err := s.inside(tx, in.Room, in.Sender)
		if err != nil {
			return err
		}
		room := &w.room
		member, err := s.stateEvent(tx, room, room.Root, spec.MRoomMember, string(in.User))
		if err != nil {
			return err
		}
		settled = slices.Contains([]string{spec.Join, spec.Invite}, member.membership())
		invite, err = s.stateEvent(tx, room, room.Root, spec.MRoomThirdPartyInvite, gjson.GetBytes(in.Signed, "token").Str)
		return err
	})
	if err != nil || settled {
		return err
	}
	if invite == nil || id.UserID(invite.SenderID()) != in.Sender || gjson.GetBytes(in.Signed, "mxid").Str != string(in.User) {
		return matrixerr.New(matrixerr.Forbidden, "No address was invited by that user with that token.")
	}
	key, ok := rules.SigningKey(invite.Content(), in.Signed)
	if !ok {
		return matrixerr.New(matrixerr.Forbidden, "The identity server's signature is not one by a key of the invite.")
	}
	if err := s.checkIdentityKey(ctx, key); err != nil {
		return err
	}
	return s.Invite(ctx, MemberRequest{Room: in.Room, Sender: in.Sender, Target: in.User, Content: map[string]any{
		"third_party_invite": map[string]any{"display_name": invite.field("display_name"), "signed": in.Signed},
	}})
}

// checkIdentityKey refuses a key of which its identity server says that it is no longer good.
// Only who lets the user in may do so: for all others the room must not depend on it.
//
// spec: client-server-api/modules/third_party_invites.md#server-behaviour
func (s *Server) checkIdentityKey(ctx context.Context, key rules.Key) error {
	if key.ValidityURL == "" {
		return nil
	}
	if s.remote == nil {
		return matrixerr.New(matrixerr.Forbidden, "This server asks no other whether the identity server's key is valid.")
	}
	valid, err := s.remote.CheckIdentityKey(ctx, key.ValidityURL, key.Public)
	if err != nil {
		s.log.InfoContext(ctx, "an identity server could not be asked whether its key is valid", "url", key.ValidityURL, "error", err)
		return matrixerr.New(matrixerr.Unknown, "The identity server could not be asked whether its key is valid.").WithStatus(502)
	}
	if !valid {
		return matrixerr.New(matrixerr.Forbidden, "The key of the identity server is no longer valid.")
	}
	return nil
}
