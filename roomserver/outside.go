package roomserver

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/storage"
)

// What our users are to rooms that this server is not in: invited, knocking, or no longer so.
// Such a member event has no place in the room's DAG here, and no state before or after it; the
// row of memberships points at it.

const (
	// declineTime is for how long other servers are asked to take an invite back. When none has,
	// it is turned down here alone.
	declineTime = 20 * time.Second
	// inviteTime is for how long an invited user's server may take to sign the invite.
	inviteTime = time.Minute
	// maxStripped bounds the events by which a room is shown to those outside.
	maxStripped = 100
)

// outside makes a member event what one of our users is to a room that we are not in.
func (s *Server) outside(ctx context.Context, room id.RoomID, version id.RoomVersion, e *event, stripped []byte) error {
	if _, err := s.addRoom(ctx, room, version); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		r, err := tx.LockRoom(room)
		if err != nil {
			return err
		}
		row := &event{storage.Event{ID: e.ID, Room: r.NID, JSON: e.Event.JSON, Status: storage.Outlier}, e.PDU}
		known, err := tx.GetEvent(e.ID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if !missing {
			row.Event = known
		} else if err := s.insert(tx, row); err != nil {
			return err
		}
		if row.Room != r.NID || row.Status != storage.Outlier {
			return nil // it came to us in the room
		}
		user := id.UserID(*e.StateKey())
		m := storage.Membership{User: user, Room: r.NID, Membership: e.membership(), Event: row.NID, Local: true, Stripped: stripped}
		before, err := tx.GetMembership(user, r.NID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if !missing && before.Event == row.NID {
			return nil // sent twice
		}
		if err := tx.InsertMembership(&m); err != nil {
			return err
		}
		tx.OnPos(1, func(pos id.Pos) error {
			tx.Notify(stream.Notice{Pos: pos, Kind: stream.Event, Room: room, User: id.UserID(e.SenderID()), Users: []id.UserID{user}})
			return tx.UpdateMembershipPos(r.NID, []id.UserID{user}, pos)
		})
		return nil
	})
}

// pruned gives events that another server tells of a room the form that clients are shown: no
// more than that is believed.
//
// spec: client-server-api/index.md#stripped-state
func pruned(events []json.RawMessage) []byte {
	out := []json.RawMessage{}
	for _, raw := range events[:min(len(events), maxStripped)] {
		f := gjson.GetManyBytes(raw, "type", "state_key", "sender", "content")
		if f[0].Type != gjson.String || f[1].Type != gjson.String || f[2].Type != gjson.String || !f[3].IsObject() || len(raw) > maxEventBytes {
			continue
		}
		out = append(out, mustObject(map[string]any{
			"type": f[0].Str, "state_key": f[1].Str, "sender": f[2].Str, "content": json.RawMessage(f[3].Raw),
		}))
	}
	text, err := json.Marshal(out)
	if err != nil {
		return []byte("[]")
	}
	return text
}

// knockAfar has a user ask to be let into a room through a server that is in it.
//
// spec: server-server-api.md#knocking-rooms
func (s *Server) knockAfar(ctx context.Context, r *MemberRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTime)
	defer cancel()
	return s.ask(ctx, r, func(server id.ServerName) error {
		t, err := s.remote.MakeKnock(ctx, server, r.Room, r.Sender, supportedVersions())
		if err != nil {
			return err
		}
		e, err := s.complete(ctx, t, r, spec.Knock)
		if err != nil {
			return err
		}
		answer, err := s.remote.SendKnock(ctx, server, r.Room, e.ID, e.Event.JSON)
		if err != nil {
			return err
		}
		return s.outside(ctx, r.Room, id.RoomVersion(e.Version()), e, pruned(s.genuine(ctx, id.RoomVersion(e.Version()), r.Room, answer.KnockRoomState)))
	})
}

// genuine are those of some events that a server tells of a room which are events of it, by whom they say
// that they are. Only of rooms of the versions that ask for that are events told whole by all servers.
//
// spec: server-server-api.md#put_matrixfederationv1send_knockroomideventid
func (s *Server) genuine(ctx context.Context, version id.RoomVersion, room id.RoomID, events []json.RawMessage) []json.RawMessage {
	if v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version)); err != nil || !v.DomainlessRoomIDs() {
		return events
	}
	var pdus []gomatrixserverlib.PDU
	for _, raw := range events[:min(len(events), maxStripped)] {
		if pdu, err := Parse(version, raw); err == nil && pdu.RoomID().String() == string(room) {
			pdus = append(pdus, pdu)
		}
	}
	var out []json.RawMessage
	for i, err := range s.verify(ctx, pdus) {
		if err == nil {
			out = append(out, pdus[i].JSON()) // redacted, if its hash is wrong
		}
	}
	return out
}

// leaveAfar turns an invite down, or takes a knock back, through a server that is in the room;
// and where there is none that does it, here alone.
//
// spec: server-server-api.md#leaving-rooms-rejecting-invites
func (s *Server) leaveAfar(ctx context.Context, r *MemberRequest) error {
	ctx = context.WithoutCancel(ctx)
	asking, cancel := context.WithTimeout(ctx, declineTime)
	defer cancel()
	err := s.ask(asking, r, func(server id.ServerName) error {
		t, err := s.remote.MakeLeave(asking, server, r.Room, r.Sender)
		if err != nil {
			return err
		}
		e, err := s.complete(ctx, t, r, spec.Leave)
		if err != nil {
			return err
		}
		if err := s.remote.SendLeave(asking, server, r.Room, e.ID, e.Event.JSON); err != nil {
			return err
		}
		return s.outside(ctx, r.Room, id.RoomVersion(e.Version()), e, nil)
	})
	if err == nil {
		return nil
	}
	e, err := s.leaveOnly(ctx, r)
	if err != nil {
		return err
	}
	return s.outside(ctx, r.Room, id.RoomVersion(e.Version()), e, nil)
}

// leaveOnly is an event of ours by which a user is out of a room, for our own eyes: it follows
// the invite or knock that it ends.
func (s *Server) leaveOnly(ctx context.Context, r *MemberRequest) (e *event, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		room, err := tx.GetRoom(r.Room)
		if err != nil {
			return err
		}
		m, err := tx.GetMembership(r.Sender, room.NID)
		if err != nil {
			return err
		}
		row, err := tx.GetEventByNID(m.Event)
		if err != nil {
			return err
		}
		before, err := parseEvent(room.Version, row)
		if err != nil {
			return err
		}
		l, err := linkTo(room.Version, before)
		if err != nil {
			return err
		}
		content, err := s.memberContent(tx, room.Version, r.Sender, spec.Leave, r.extra())
		if err != nil {
			return err
		}
		key := string(r.Sender)
		d := &draft{Room: r.Room, Sender: r.Sender, Type: spec.MRoomMember, StateKey: &key, Content: content, TS: s.now()}
		e, err = s.build(&room, d, []link{l}, []link{l}, min(before.Depth()+1, maxDepth))
		return err
	})
	return e, err
}

// inviteAfar invites a user of another server, which has to sign the invite.
//
// spec: server-server-api.md#inviting-to-a-room
func (s *Server) inviteAfar(ctx context.Context, r *MemberRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inviteTime)
	defer cancel()
	if s.remote == nil {
		return matrixerr.New(matrixerr.Forbidden, "Users of other servers can't be invited: this server does not federate.")
	}
	var e *event
	var shown []json.RawMessage
	var policy *policy
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		w, err := s.inside(tx, r.Room, r.Sender)
		if err != nil {
			return err
		}
		room := w.room
		content, err := s.memberContent(tx, room.Version, r.Target, spec.Invite, r.extra())
		if err != nil {
			return err
		}
		key := string(r.Target)
		e, err = s.prepare(w, &draft{Room: room.ID, Sender: r.Sender, Type: spec.MRoomMember, StateKey: &key, Content: content})
		if err != nil {
			return err
		}
		if policy, err = s.policyOf(tx, &room); err != nil {
			return err
		}
		shown, err = s.introduction(tx, &room, r.Sender)
		return err
	})
	if err != nil {
		return err
	}
	if !policy.recommends(e.PDU) {
		pdu, err := s.askPolicy(ctx, policy, e.PDU)
		if err != nil {
			return err
		}
		e.Event.JSON, e.PDU = pdu.JSON(), pdu
	}
	server := r.Target.Server()
	answer, err := s.remote.Invite(ctx, server, r.Room, e.ID, &serverapi.Invite{
		RoomVersion: id.RoomVersion(e.Version()), Event: e.Event.JSON, InviteRoomState: shown,
	})
	if matrixerr.CodeOf(err) != "" {
		return err
	}
	if err != nil {
		s.log.InfoContext(ctx, "an invite could not be delivered", "room", r.Room, "user", r.Target, "error", err)
		return matrixerr.New(matrixerr.Unknown, "The server %s could not be asked to invite its user.", server).WithStatus(502)
	}
	signed, err := s.countersigned(ctx, e, server, answer)
	if err != nil {
		return err
	}
	return s.receiveOwn(ctx, signed)
}

// receiveOwn takes in an event of ours that was made before, and signed by another server since.
func (s *Server) receiveOwn(ctx context.Context, e *event) error {
	room := id.RoomID(e.PDU.RoomID().String())
	list := []gomatrixserverlib.PDU{e.PDU}
	if err := s.recommended(ctx, room, list); err != nil {
		return err
	}
	e.PDU = list[0]
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		w, err := s.lock(tx, room)
		if err != nil {
			return err
		}
		set, err := s.authSet(tx, &w.room, w.room.Root, neededFor(e.PDU))
		if err != nil {
			return err
		}
		if err := allowed(e, set); err != nil {
			return err // the room has changed since
		}
		rejected, err := s.accept(w, e.PDU, nil)
		if err != nil {
			return err
		}
		row, err := tx.GetEvent(e.ID)
		if err != nil {
			return err
		}
		if rejected || row.Status != storage.Accepted {
			return matrixerr.New(matrixerr.Forbidden, "The room's rules or its policy server do not allow this event.")
		}
		return w.finish()
	})
}

// takeOutside takes in an event of a room that we are not in: the only ones that concern us are
// those that end an invite or a knock of one of our users. Who has the power to do so can't be
// told from here. An invite is taken back by who sent it; a knock is refused by somebody who
// knows of it, as whose event names it.
func (s *Server) takeOutside(ctx context.Context, room *storage.Room, pdu gomatrixserverlib.PDU) error {
	absent := matrixerr.New(matrixerr.Forbidden, "This server is not in the room.")
	if pdu.Type() != spec.MRoomMember || pdu.StateKey() == nil || !s.local(id.UserID(*pdu.StateKey())) || pdu.RoomID().String() != string(room.ID) {
		return absent
	}
	e := &event{storage.Event{ID: id.EventID(pdu.EventID()), JSON: pdu.JSON()}, pdu}
	if m := e.membership(); m != spec.Leave && m != spec.Ban {
		return absent
	}
	ends, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
		m, err := tx.GetMembership(id.UserID(*pdu.StateKey()), room.NID)
		if missing, err := notFound(err); missing || err != nil || m.Membership != spec.Invite && m.Membership != spec.Knock {
			return false, err
		}
		row, err := tx.GetEventByNID(m.Event)
		named := slices.Contains(pdu.AuthEventIDs(), string(row.ID)) || slices.Contains(pdu.PrevEventIDs(), string(row.ID))
		return named && (m.Membership == spec.Knock || pdu.SenderID() == spec.SenderID(gjson.GetBytes(row.JSON, "sender").Str)), err
	})
	if err != nil {
		return err
	}
	if !ends {
		return absent
	}
	if err := s.verify(ctx, []gomatrixserverlib.PDU{pdu})[0]; err != nil {
		return err
	}
	return s.outside(ctx, room.ID, room.Version, e, nil)
}

// ReceiveInvite takes in an invite of one of our users by another server, and signs it.
//
// spec: server-server-api.md#inviting-to-a-room
func (s *Server) ReceiveInvite(ctx context.Context, origin id.ServerName, room id.RoomID, eventID id.EventID, in *serverapi.Invite) (json.RawMessage, error) {
	if _, ok := Versions()[in.RoomVersion]; !ok {
		return nil, matrixerr.New(matrixerr.IncompatibleRoomVersion, "Room version %q is not supported.", in.RoomVersion).With("room_version", in.RoomVersion)
	}
	pdu, err := Parse(in.RoomVersion, in.Event)
	if err != nil {
		return nil, err
	}
	switch {
	case id.EventID(pdu.EventID()) != eventID:
		return nil, matrixerr.New(matrixerr.InvalidParam, "The event's ID is %s.", pdu.EventID())
	case pdu.RoomID().String() != string(room):
		return nil, matrixerr.New(matrixerr.InvalidParam, "The event is of another room.")
	case pdu.Type() != spec.MRoomMember || pdu.StateKey() == nil || gjson.GetBytes(pdu.Content(), "membership").Str != spec.Invite:
		return nil, matrixerr.New(matrixerr.InvalidParam, "The event is not an invite.")
	case !s.local(id.UserID(*pdu.StateKey())):
		return nil, matrixerr.New(matrixerr.InvalidParam, "The invited user is not one of this server's.")
	case id.UserID(pdu.SenderID()).Server() != origin:
		return nil, matrixerr.New(matrixerr.InvalidParam, "The invite's sender is not one of your server's users.")
	}
	if err := s.checkIntroduction(ctx, room, in); err != nil {
		return nil, err
	}
	if pdu, err = s.sign(in.RoomVersion, pdu); err != nil {
		return nil, err
	}
	if err := s.verify(ctx, []gomatrixserverlib.PDU{pdu})[0]; err != nil {
		return nil, err
	}
	here, allowed := false, true
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		if err := s.mayInvite(tx, id.UserID(pdu.SenderID()), id.UserID(*pdu.StateKey())); err != nil {
			return err
		}
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); missing || err != nil {
			return err
		}
		if here, err = s.takesPart(tx, &r); err != nil || !here {
			return err
		}
		allowed, err = s.serverAllowed(tx, &r, origin)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !allowed {
		return nil, errACL
	}
	if !here { // else it comes to us in the room
		e := &event{storage.Event{ID: eventID, JSON: pdu.JSON()}, pdu}
		err = s.outside(ctx, room, in.RoomVersion, e, pruned(in.InviteRoomState))
	}
	return pdu.JSON(), err
}

// checkIntroduction checks by what an invite shows of its room that there is such a room: in
// room versions whose room IDs say so.
//
// spec: server-server-api.md#put_matrixfederationv2inviteroomideventid
func (s *Server) checkIntroduction(ctx context.Context, room id.RoomID, in *serverapi.Invite) error {
	if v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(in.RoomVersion)); err != nil || !v.DomainlessRoomIDs() {
		return err
	}
	if len(in.InviteRoomState) > maxStripped {
		return matrixerr.New(matrixerr.InvalidParam, "invite_room_state has %d events.", len(in.InviteRoomState))
	}
	created := false
	pdus := make([]gomatrixserverlib.PDU, len(in.InviteRoomState))
	for i, raw := range in.InviteRoomState {
		var err error
		if pdus[i], err = Parse(in.RoomVersion, raw); err != nil || pdus[i].RoomID().String() != string(room) {
			return matrixerr.New(matrixerr.InvalidParam, "invite_room_state has an event that is not one of the room.")
		}
		created = created || pdus[i].Type() == spec.MRoomCreate && pdus[i].StateKeyEquals("")
	}
	if !created {
		return matrixerr.New(matrixerr.InvalidParam, "invite_room_state has no m.room.create event.")
	}
	for _, err := range s.verify(ctx, pdus) {
		if err != nil {
			return matrixerr.New(matrixerr.InvalidParam, "invite_room_state has an event whose signatures could not be verified.")
		}
	}
	return nil
}
