package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// MemberRequest asks for a change of membership.
type MemberRequest struct {
	Room   id.RoomID
	Sender id.UserID
	// Target is whose membership changes; for Join, Leave and Knock it is the sender.
	Target id.UserID
	Reason string
	// Content holds further fields of the member event's content.
	Content map[string]any
	// Via are servers that may be in the room, for Join and Knock.
	Via []id.ServerName
	Txn Txn
}

func (r *MemberRequest) extra() map[string]any {
	extra := maps.Clone(r.Content)
	if extra == nil {
		extra = map[string]any{}
	}
	if r.Reason != "" {
		extra["reason"] = r.Reason
	}
	return extra
}

// Join makes a user a member of a room; where this server is not in it, or can't let the user
// in, through one that is and can.
//
// spec: client-server-api/index.md#joining-rooms
func (s *Server) Join(ctx context.Context, r MemberRequest) error {
	unlock, err := s.entering.lock(ctx, r.Room)
	if err != nil {
		return err
	}
	here, err := s.TakesPart(ctx, r.Room)
	if err != nil || here {
		unlock()
	}
	if err != nil {
		return err
	}
	if !here {
		defer unlock()
		if err := s.keepGuestHere(ctx, r.Sender); err != nil {
			return err
		}
		return s.joinAfar(ctx, &r)
	}
	err = s.joinHere(ctx, &r)
	var cannot *cannotAuthorise
	if errors.As(err, &cannot) && s.remote != nil {
		if afar := s.joinAfar(ctx, &r); afar == nil || matrixerr.Is(afar, matrixerr.Forbidden) {
			err = afar
		}
	}
	return err
}

func (s *Server) joinHere(ctx context.Context, r *MemberRequest) error {
	_, err := s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(r.Sender))
		if err != nil {
			return nil, err
		}
		if current.membership() == spec.Join {
			return current, nil
		}
		return s.join(w, r.Sender, current.membership(), r.extra(), r.Txn)
	})
	return err
}

// authorisedVia is the field of a join that names who authorised it.
const authorisedVia = "join_authorised_via_users_server"

// cannotAuthorise is why this server can't let a user into a restricted room. Another may.
type cannotAuthorise struct{ error }

func (e *cannotAuthorise) Unwrap() error { return e.error }

func (s *Server) join(w *work, user id.UserID, was string, extra map[string]any, txn Txn) (*event, error) {
	if err := s.admitGuest(w, user); err != nil {
		return nil, err
	}
	if was != spec.Invite {
		via, err := s.authorisingUser(w, user)
		if err != nil {
			return nil, err
		}
		if via != "" {
			extra[authorisedVia] = via
		}
	}
	return s.appendMember(w, user, user, spec.Join, extra, txn)
}

// authorisingUser finds, for a room whose join rule is restricted, a member who may invite
// and in whose name the user may join; empty where the rule asks for none.
//
// spec: client-server-api/index.md#restricted-rooms
func (s *Server) authorisingUser(w *work, user id.UserID) (id.UserID, error) {
	rules, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomJoinRules, "")
	if err != nil || rules == nil {
		return "", err
	}
	if rule := rules.field("join_rule"); rule != spec.Restricted && rule != spec.KnockRestricted {
		return "", nil
	}
	ok, err := s.meetsCondition(w.tx, rules, user)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", &cannotAuthorise{matrixerr.New(matrixerr.Forbidden, "You are in none of the rooms whose members may join this one.")}
	}
	p, err := s.powers(w.tx, &w.room, w.room.Root)
	if err != nil {
		return "", err
	}
	members, err := w.tx.ListMembers(w.room.NID, spec.Join, true)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if p.of(m) >= p.levels.Invite {
			return m, nil
		}
	}
	return "", &cannotAuthorise{matrixerr.New(matrixerr.UnableToGrantJoin, "No member of this server may invite to the room.")}
}

// roomMembership is the one kind of condition that there is.
const roomMembership = "m.room_membership"

// meetsCondition says whether a user is in one of the rooms that a restricted join rule names, as far
// as they are rooms that we hear of.
func (s *Server) meetsCondition(tx *storage.Tx, rules *event, user id.UserID) (bool, error) {
	for _, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
		if allow.Get("type").Str != roomMembership {
			continue
		}
		room, err := tx.GetRoom(id.RoomID(allow.Get("room_id").Str))
		if missing, err := notFound(err); err != nil {
			return false, err
		} else if missing {
			continue
		}
		if here, err := s.takesPart(tx, &room); err != nil {
			return false, err
		} else if !here {
			continue
		}
		m, err := tx.GetMembership(user, room.NID)
		if missing, err := notFound(err); err != nil {
			return false, err
		} else if !missing && m.Membership == spec.Join {
			return true, nil
		}
	}
	return false, nil
}

// Leave ends a user's membership, or turns an invite or a knock down.
//
// spec: client-server-api/index.md#leaving-rooms
func (s *Server) Leave(ctx context.Context, r MemberRequest) error {
	afar, err := s.outsideOnly(ctx, r.Room, r.Sender)
	if err != nil {
		return err
	}
	if afar {
		return s.leaveAfar(ctx, &r)
	}
	return s.leaveHere(ctx, &r)
}

// outsideOnly says whether a user is invited to a room, or knocks on it, that we are not in.
func (s *Server) outsideOnly(ctx context.Context, room id.RoomID, user id.UserID) (bool, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); missing || err != nil {
			return false, err
		}
		m, err := tx.GetMembership(user, r.NID)
		if missing, err := notFound(err); missing || err != nil || m.Membership != spec.Invite && m.Membership != spec.Knock {
			return false, err
		}
		here, err := s.takesPart(tx, &r)
		return !here, err
	})
}

func (s *Server) leaveHere(ctx context.Context, r *MemberRequest) error {
	_, err := s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(r.Sender))
		if err != nil {
			return nil, err
		}
		if current == nil {
			return nil, errUnknownRoom
		}
		if current.membership() == spec.Leave {
			return current, nil
		}
		return s.appendMember(w, r.Sender, r.Sender, spec.Leave, r.extra(), r.Txn)
	})
	return err
}

// Invite invites a user.
//
// spec: client-server-api/index.md#post_matrixclientv3roomsroomidinvite
func (s *Server) Invite(ctx context.Context, r MemberRequest) error {
	if !s.local(r.Target) {
		return s.inviteAfar(ctx, &r)
	}
	_, err := s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		return s.invite(w, r.Sender, r.Target, r.extra())
	})
	return err
}

// invite appends an invite, with what the invited user is shown of the room.
func (s *Server) invite(w *work, sender, target id.UserID, extra map[string]any) (*event, error) {
	if err := s.mustBeJoined(w, sender); err != nil {
		return nil, err
	}
	if err := s.mayInvite(w.tx, sender, target); err != nil {
		return nil, err
	}
	return s.appendMember(w, sender, target, spec.Invite, extra, Txn{})
}

// Kick removes a user who is joined, invited or knocking.
//
// spec: client-server-api/index.md#post_matrixclientv3roomsroomidkick
func (s *Server) Kick(ctx context.Context, r MemberRequest) error {
	return s.remove(ctx, r, func(current string) error {
		if current == spec.Join || current == spec.Invite || current == spec.Knock {
			return nil
		}
		return matrixerr.New(matrixerr.Forbidden, "The user is not in the room.")
	})
}

// Unban lets a banned user come back.
//
// spec: client-server-api/index.md#post_matrixclientv3roomsroomidunban
func (s *Server) Unban(ctx context.Context, r MemberRequest) error {
	return s.remove(ctx, r, func(current string) error {
		if current == spec.Ban {
			return nil
		}
		return matrixerr.New(matrixerr.Forbidden, "The user is not banned.")
	})
}

func (s *Server) remove(ctx context.Context, r MemberRequest, check func(current string) error) error {
	if err := s.awaitMembers(ctx, r.Room); err != nil {
		return err
	}
	_, err := s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(r.Target))
		if err != nil {
			return nil, err
		}
		if err := s.mustBeJoined(w, r.Sender); err != nil {
			return nil, err
		}
		if err := check(current.membership()); err != nil {
			return nil, err
		}
		return s.appendMember(w, r.Sender, r.Target, spec.Leave, r.extra(), r.Txn)
	})
	return err
}

// Ban removes a user and keeps them out.
//
// spec: client-server-api/index.md#post_matrixclientv3roomsroomidban
func (s *Server) Ban(ctx context.Context, r MemberRequest) error {
	_, err := s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		return s.appendMember(w, r.Sender, r.Target, spec.Ban, r.extra(), r.Txn)
	})
	return err
}

// Knock asks to be let in.
//
// spec: client-server-api/index.md#knocking-on-rooms
func (s *Server) Knock(ctx context.Context, r MemberRequest) error {
	here, err := s.TakesPart(ctx, r.Room)
	if err != nil {
		return err
	}
	if !here {
		return s.knockAfar(ctx, &r)
	}
	_, err = s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		return s.appendMember(w, r.Sender, r.Sender, spec.Knock, r.extra(), r.Txn)
	})
	return err
}

// Forget has a user see nothing more of a room that they left.
//
// spec: client-server-api/index.md#post_matrixclientv3roomsroomidforget
func (s *Server) Forget(ctx context.Context, user id.UserID, room id.RoomID) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return errUnknownRoom
		}
		m, err := tx.GetMembership(user, r.NID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return errUnknownRoom
		}
		if m.Membership != spec.Leave && m.Membership != spec.Ban {
			return matrixerr.New(matrixerr.Unknown, "Leave the room before you forget it.").WithStatus(400)
		}
		_, err = tx.UpdateForgotten(user, r.NID)
		// It is not in the log: whoever remembers the user's rooms is told, and nobody else need be.
		tx.Notify(stream.Notice{Kind: stream.Event, Room: room, User: user, Users: []id.UserID{user}})
		return err
	})
}

// sendMember is a client's own member event, sent as state: what the endpoints do, done by
// hand. The content is kept as it is, but for what a join needs to be allowed.
func (s *Server) sendMember(ctx context.Context, r SendRequest) (id.EventID, error) {
	target := id.UserID(*r.StateKey)
	// Who authorises a join is for servers to say, and their signature goes with it.
	var err error
	if r.Content, err = sjson.DeleteBytes(r.Content, authorisedVia); err != nil {
		return "", matrixerr.New(matrixerr.BadJSON, "The content is not a JSON object.")
	}
	if _, err := id.ParseUserID(*r.StateKey); err != nil {
		return "", matrixerr.New(matrixerr.BadJSON, "The state key of a member event must be a user ID.")
	}
	var extra map[string]any
	if err := json.Unmarshal(r.Content, &extra); err != nil {
		return "", matrixerr.New(matrixerr.BadJSON, "The content is not a JSON object.")
	}
	membership, _ := extra["membership"].(string)
	if membership == spec.Invite && !s.local(target) {
		return "", s.inviteAfar(ctx, &MemberRequest{Room: r.Room, Sender: r.Sender, Target: target, Content: extra})
	}
	return s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		d := &draft{Room: r.Room, Sender: r.Sender, Type: r.Type, StateKey: r.StateKey, TS: r.TS}
		content, err := canonicalContent(w.room.Version, r.Content)
		if err != nil {
			return nil, err
		}
		d.Content = content
		same, err := s.sameState(w, d)
		if err != nil || same != nil {
			return same, err
		}
		switch membership {
		case spec.Invite:
			return s.invite(w, r.Sender, target, extra)
		case spec.Join:
			current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(target))
			if err != nil {
				return nil, err
			}
			if target == r.Sender && current.membership() != spec.Join {
				return s.join(w, target, current.membership(), extra, r.Txn)
			}
		}
		return s.append(w, d, r.Txn)
	})
}

// inside is a room that one of our users is joined to, to be read.
func (s *Server) inside(tx *storage.Tx, roomID id.RoomID, user id.UserID) (*work, error) {
	room, err := tx.GetRoom(roomID)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if missing || room.Root == 0 {
		return nil, errUnknownRoom
	}
	w := &work{tx: tx, room: room}
	return w, s.mustBeJoined(w, user)
}

// mustBeJoined refuses a user who is not in the room, before anything is said about it.
func (s *Server) mustBeJoined(w *work, user id.UserID) error {
	e, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(user))
	if err != nil {
		return err
	}
	if e.membership() != spec.Join {
		return errUnknownRoom
	}
	return nil
}

func (s *Server) appendMember(w *work, sender, target id.UserID, membership string, extra map[string]any, txn Txn) (*event, error) {
	content, err := s.memberContent(w.tx, w.room.Version, target, membership, extra)
	if err != nil {
		return nil, err
	}
	key := string(target)
	if membership == spec.Invite || membership == spec.Knock {
		stripped, err := s.strippedState(w, sender)
		if err != nil {
			return nil, err
		}
		w.stripped = map[id.UserID][]byte{target: stripped}
	}
	return s.append(w, &draft{Room: w.room.ID, Sender: sender, Type: spec.MRoomMember, StateKey: &key, Content: content}, txn)
}

// memberContent is a member event's content, in the form that is signed: the membership, the user's name and picture
// where the user is one of ours and coming or asked to come, and what else was asked for.
func (s *Server) memberContent(tx *storage.Tx, version id.RoomVersion, user id.UserID, membership string, extra map[string]any) ([]byte, error) {
	content := maps.Clone(extra)
	if content == nil {
		content = map[string]any{}
	}
	content["membership"] = membership
	if s.local(user) && (membership == spec.Join || membership == spec.Invite || membership == spec.Knock) {
		for _, field := range []string{"displayname", "avatar_url"} {
			if _, given := content[field]; given {
				continue
			}
			value, err := tx.GetProfileField(user, field)
			if missing, err := notFound(err); err != nil {
				return nil, err
			} else if !missing && len(value) > 0 {
				content[field] = json.RawMessage(value)
			}
		}
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode member content: %w", err)
	}
	return canonicalContent(version, raw)
}

// strippedTypes are the events of the state that one who is not in the room is shown.
//
// spec: client-server-api/index.md#stripped-state
var strippedTypes = []string{
	spec.MRoomCreate, spec.MRoomName, spec.MRoomAvatar, spec.MRoomTopic,
	spec.MRoomJoinRules, spec.MRoomCanonicalAlias, spec.MRoomEncryption,
}

// strippedState is what an invited user is shown of the room, and of who invites them.
func (s *Server) strippedState(w *work, sender id.UserID) ([]byte, error) {
	var out []json.RawMessage
	add := func(eventType, key string) error {
		e, err := s.stateEvent(w.tx, &w.room, w.room.Root, eventType, key)
		if err != nil || e == nil {
			return err
		}
		out = append(out, stripped(e))
		return nil
	}
	for _, t := range strippedTypes {
		if err := add(t, ""); err != nil {
			return nil, err
		}
	}
	if err := add(spec.MRoomMember, string(sender)); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// stripped is an event with nothing but sender, type, state key and content.
func stripped(e *event) json.RawMessage {
	return mustObject(map[string]any{
		"type": e.Type(), "state_key": *e.StateKey(), "sender": e.SenderID(), "content": json.RawMessage(e.Content()),
	})
}

// UpdateProfile tells a user's rooms of a new name or picture: a member event in each,
// each on its own, as far as the room's rules let it. Empty means none.
//
// spec: client-server-api/index.md#events-on-change-of-profile-information
func (s *Server) UpdateProfile(ctx context.Context, user id.UserID, displayName, avatarURL string) error {
	rooms, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.RoomID, error) { return tx.ListJoinedRooms(user) })
	if err != nil {
		return err
	}
	for _, room := range rooms {
		_, err := s.write(ctx, room, user, Txn{}, func(w *work) (*event, error) {
			current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(user))
			if err != nil || current.membership() != spec.Join {
				return nil, err
			}
			var content map[string]any
			if err := json.Unmarshal(current.Content(), &content); err != nil {
				return nil, err
			}
			for field, value := range map[string]string{"displayname": displayName, "avatar_url": avatarURL} {
				if delete(content, field); value != "" {
					content[field] = value
				}
			}
			raw, err := json.Marshal(content)
			if err != nil {
				return nil, err
			}
			if raw, err = canonicalContent(w.room.Version, raw); err != nil || string(raw) == string(current.Content()) {
				return nil, err
			}
			key := string(user)
			return s.append(w, &draft{Room: room, Sender: user, Type: spec.MRoomMember, StateKey: &key, Content: raw}, Txn{})
		})
		if err != nil && matrixerr.CodeOf(err) == "" {
			return fmt.Errorf("tell %s of a new profile: %w", room, err)
		}
	}
	return nil
}

// LeaveAll takes a user out of every room and turns every invite down, as the end of an
// account does.
func (s *Server) LeaveAll(ctx context.Context, user id.UserID) error {
	all, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Membership, error) { return tx.ListMemberships(user) })
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Membership != spec.Join && m.Membership != spec.Invite && m.Membership != spec.Knock {
			continue
		}
		err := s.Leave(ctx, MemberRequest{Room: m.RoomID, Sender: user, Target: user})
		if err != nil && matrixerr.CodeOf(err) == "" {
			return fmt.Errorf("leave %s: %w", m.RoomID, err)
		}
	}
	return nil
}
