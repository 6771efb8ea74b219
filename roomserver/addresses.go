package roomserver

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

// IdentityServers are asked whose an address is. Each request names the server and shows the token that the user has
// of it.
type IdentityServers interface {
	// LookupAddress is the user whose address it is, "" for one that is not known.
	LookupAddress(ctx context.Context, server, token, medium, address string) (id.UserID, error)
	// StoreInvite has the server tell the address's owner of the invite, and us when it becomes known who that is.
	StoreInvite(ctx context.Context, server, token string, in *serverapi.IdentityInvite) (*serverapi.StoredInvite, error)
}

// AddressInvite is the invite of whoever has an email address or a telephone number.
//
// spec: client-server-api/modules/third_party_invites.md#third-party-invites
type AddressInvite struct {
	// Server is the identity server that knows of addresses, and Token the inviter's access token there.
	Server, Token   string
	Medium, Address string
}

// maxInvitedAddresses bounds how many addresses are invited to a new room, one after the other.
const maxInvitedAddresses = 20

var errNoIdentity = matrixerr.New(matrixerr.ThreepidDenied, "This server asks no identity servers, so it does not invite by email address or telephone number.")

// InviteAddress invites the user whose address it is; where that is not known, the room gets an m.room.third_party_invite
// by which the owner can be invited later.
//
// spec: client-server-api/modules/third_party_invites.md#server-behaviour
func (s *Server) InviteAddress(ctx context.Context, room id.RoomID, sender id.UserID, in AddressInvite) error {
	if s.identity == nil {
		return errNoIdentity
	}
	about, err := s.introduce(ctx, room, sender)
	if err != nil {
		return err
	}
	user, err := s.identity.LookupAddress(ctx, in.Server, in.Token, in.Medium, in.Address)
	if err != nil {
		return err
	}
	if user != "" {
		return s.Invite(ctx, MemberRequest{Room: room, Sender: sender, Target: user})
	}
	about.Medium, about.Address = in.Medium, in.Address
	stored, err := s.identity.StoreInvite(ctx, in.Server, in.Token, about)
	if err != nil {
		return err
	}
	// The last of the keys is the one made for this invite; those who know one alone look at the first fields.
	key := stored.PublicKeys[len(stored.PublicKeys)-1]
	content, err := json.Marshal(map[string]any{
		"display_name": stored.DisplayName, "public_keys": stored.PublicKeys,
		"public_key": key.PublicKey, "key_validity_url": key.ValidityURL,
	})
	if err != nil {
		return err
	}
	_, err = s.Send(ctx, SendRequest{Room: room, Sender: sender, Type: spec.MRoomThirdPartyInvite, StateKey: &stored.Token, Content: content})
	return err
}

// introduce gathers what the mail of an invite tells of the room and of who invites; the sender must be in the room.
func (s *Server) introduce(ctx context.Context, roomID id.RoomID, sender id.UserID) (*serverapi.IdentityInvite, error) {
	about := &serverapi.IdentityInvite{RoomID: roomID, Sender: sender}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		room, err := tx.GetRoom(roomID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing || room.Root == 0 {
			return errUnknownRoom
		}
		if err := s.mustBeJoined(&work{tx: tx, room: room}, sender); err != nil {
			return err
		}
		member := state.Key{Type: spec.MRoomMember, StateKey: string(sender)}
		fields := []struct {
			of   state.Key
			path string
			to   *string
		}{
			{state.Key{Type: spec.MRoomName}, "name", &about.RoomName},
			{state.Key{Type: spec.MRoomCanonicalAlias}, "alias", &about.RoomAlias},
			{state.Key{Type: spec.MRoomAvatar}, "url", &about.RoomAvatarURL},
			{state.Key{Type: spec.MRoomJoinRules}, "join_rule", &about.RoomJoinRules},
			{state.Key{Type: spec.MRoomCreate}, "type", &about.RoomType},
			{member, "displayname", &about.SenderDisplayName},
			{member, "avatar_url", &about.SenderAvatarURL},
		}
		keys := make([]state.Key, len(fields))
		for i, f := range fields {
			keys[i] = f.of
		}
		events, err := s.stateEvents(tx, &room, room.Root, keys)
		if err != nil {
			return err
		}
		for _, f := range fields {
			if e := events[f.of]; e != nil {
				*f.to = e.field(f.path)
			}
		}
		return nil
	})
	return about, err
}

// inviteAddresses invites to a new room, which is there already: that somebody can't be invited does not undo it.
func (s *Server) inviteAddresses(ctx context.Context, room id.RoomID, r *CreateRequest) {
	for _, in := range r.InviteAddresses {
		if err := s.InviteAddress(ctx, room, r.Creator, in); err != nil {
			s.log.WarnContext(ctx, "an address could not be invited to a new room", "room", room, "identity_server", in.Server, "error", err)
		}
	}
}
