package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

var (
	errNotResident = matrixerr.New(matrixerr.NotFound, "This server is not in the room.")
	errPartial     = matrixerr.New(matrixerr.NotFound, "This server does not know yet who is in the room.")
	errACL         = matrixerr.New(matrixerr.Forbidden, "The room's access control list denies your server.")
)

// resident is a room that we are in and that another server may ask us about.
//
// spec: server-server-api.md#server-access-control-lists-acls
func (s *Server) resident(tx *storage.Tx, origin id.ServerName, room id.RoomID) (storage.Room, error) {
	r, err := tx.GetRoom(room)
	if missing, err := notFound(err); err != nil {
		return r, err
	} else if missing || r.Root == 0 {
		return r, errNotResident
	}
	here, err := tx.HasLocalMember(r.NID)
	if err != nil {
		return r, err
	}
	if !here {
		return r, errNotResident
	}
	allowed, err := s.serverAllowed(tx, &r, origin)
	if err == nil && !allowed {
		err = errACL
	}
	return r, err
}

// MakeMember makes the event with which a user of another server may join, leave or knock on
// a room that we are in, for that server to complete and sign. versions are the room versions
// that it knows; nil stands for all.
//
// spec: server-server-api.md#joining-rooms
func (s *Server) MakeMember(ctx context.Context, origin id.ServerName, room id.RoomID, user id.UserID, membership string, versions []id.RoomVersion) (*serverapi.Template, error) {
	if user.Server() != origin {
		return nil, matrixerr.New(matrixerr.Forbidden, "The user is not one of your server's.")
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (*serverapi.Template, error) {
		r, err := s.resident(tx, origin, room)
		if err == nil && r.Partial != 0 {
			err = errPartial
		}
		if err != nil {
			return nil, err
		}
		if versions != nil && !slices.Contains(versions, r.Version) {
			return nil, matrixerr.New(matrixerr.IncompatibleRoomVersion, "Your server does not know the room's version %s.", r.Version).With("room_version", r.Version)
		}
		w := &work{tx: tx, room: r}
		content := map[string]any{"membership": membership}
		if membership == spec.Join {
			via, err := s.authoriseRemote(w, user)
			if err != nil {
				return nil, err
			}
			if via != "" {
				content[authorisedVia] = via
			}
		}
		return s.template(w, user, content)
	})
}

// authoriseRemote finds who authorises the join of a user of another server, where the room's
// rules ask for it.
//
// spec: server-server-api.md#restricted-rooms
func (s *Server) authoriseRemote(w *work, user id.UserID) (id.UserID, error) {
	current, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomMember, string(user))
	if err != nil || current.membership() == spec.Join || current.membership() == spec.Invite {
		return "", err
	}
	via, err := s.authorisingUser(w, user)
	if !matrixerr.Is(err, matrixerr.Forbidden) {
		return via, err
	}
	// Is it that the user is in none of the rooms, or that we can't know?
	rules, stateErr := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomJoinRules, "")
	if stateErr != nil || rules == nil {
		return "", stateErr
	}
	unknown := false
	for _, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
		if allow.Get("type").Str != roomMembership {
			continue
		}
		unknown = true
		room, roomErr := w.tx.GetRoom(id.RoomID(allow.Get("room_id").Str))
		if missing, err := notFound(roomErr); err != nil {
			return "", err
		} else if missing {
			continue
		}
		here, hereErr := w.tx.HasLocalMember(room.NID)
		if hereErr != nil {
			return "", hereErr
		}
		if here {
			return "", err
		}
	}
	if !unknown {
		return "", err
	}
	return "", matrixerr.New(matrixerr.UnableToAuthoriseJoin, "This server is in none of the rooms whose members may join this one.")
}

// template is a member event on the room's forward extremities that its rules allow, without
// what only its sender's server can add.
func (s *Server) template(w *work, user id.UserID, content map[string]any) (*serverapi.Template, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	if raw, err = canonicalContent(w.room.Version, raw); err != nil {
		return nil, err
	}
	key := string(user)
	d := &draft{Room: w.room.ID, Sender: user, Type: spec.MRoomMember, StateKey: &key, Content: raw, TS: s.now()}
	e, err := s.prepare(w, d)
	if err != nil {
		return nil, err
	}
	event := e.PDU.JSON()
	for _, field := range []string{"signatures", "hashes", "event_id"} {
		if event, err = sjson.DeleteBytes(event, field); err != nil {
			return nil, err
		}
	}
	if event, err = sjson.SetBytes(event, "origin", user.Server()); err != nil {
		return nil, err
	}
	return &serverapi.Template{RoomVersion: w.room.Version, Event: event}, nil
}

// TakeMember takes in the join, leave or knock of a user of another server, which that server
// made of a template of ours, and sees to it that the others hear of it. It gives the event
// as it is now part of the room.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid
func (s *Server) TakeMember(ctx context.Context, origin id.ServerName, room id.RoomID, event id.EventID, membership string, raw json.RawMessage) (json.RawMessage, error) {
	r, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.Room, error) { return s.resident(tx, origin, room) })
	if err == nil && r.Partial != 0 {
		err = errPartial
	}
	if err != nil {
		return nil, err
	}
	pdu, err := Parse(r.Version, raw)
	if err != nil {
		return nil, err
	}
	if err := mustBeMember(pdu, origin, room, event, membership); err != nil {
		return nil, err
	}
	if via := id.UserID(gjson.GetBytes(pdu.Content(), authorisedVia).Str); via != "" && s.local(via) {
		err := s.db.Read(ctx, func(tx *storage.Tx) error {
			_, err := s.authoriseRemote(&work{tx: tx, room: r}, id.UserID(*pdu.StateKey()))
			return err
		})
		if err != nil {
			return nil, err
		}
		if pdu, err = s.sign(r.Version, pdu); err != nil {
			return nil, err
		}
	}
	if err := s.verify(ctx, []gomatrixserverlib.PDU{pdu})[0]; err != nil {
		return nil, err
	}
	// Who is not in the room can't know that it has a policy server.
	list := []gomatrixserverlib.PDU{pdu}
	if err := s.recommended(ctx, room, list); err != nil {
		return nil, err
	}
	pdu = list[0]
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		w, err := s.lock(tx, room)
		if err != nil {
			return err
		}
		w.relay = true
		refused, err := s.accept(w, pdu, nil)
		if err != nil {
			return err
		}
		row, err := tx.GetEvent(event)
		if err != nil {
			return err
		}
		if refused || row.Status != storage.Accepted {
			return matrixerr.New(matrixerr.Forbidden, "The room's rules do not allow the event.")
		}
		return w.finish()
	})
	var missing *MissingError
	if errors.As(err, &missing) {
		return nil, matrixerr.New(matrixerr.InvalidParam, "The event names events that are not known here.")
	}
	return pdu.JSON(), err
}

// sign adds our signature to an event of another server.
func (s *Server) sign(version id.RoomVersion, pdu gomatrixserverlib.PDU) (gomatrixserverlib.PDU, error) {
	// What the library gives has lost its room ID in some versions.
	return Parse(version, pdu.Sign(string(s.name), gomatrixserverlib.KeyID(s.keyID), s.key).JSON())
}

// mustBeMember refuses an event that is not what the request says it is.
func mustBeMember(pdu gomatrixserverlib.PDU, origin id.ServerName, room id.RoomID, event id.EventID, membership string) error {
	sender := id.UserID(pdu.SenderID())
	switch {
	case id.EventID(pdu.EventID()) != event:
		return matrixerr.New(matrixerr.InvalidParam, "The event's ID is %s.", pdu.EventID())
	case pdu.RoomID().String() != string(room):
		return matrixerr.New(matrixerr.InvalidParam, "The event is of another room.")
	case pdu.Type() != spec.MRoomMember || !pdu.StateKeyEquals(string(sender)) || gjson.GetBytes(pdu.Content(), "membership").Str != membership:
		return matrixerr.New(matrixerr.InvalidParam, "The event is not its sender's %s.", membership)
	case sender.Server() != origin:
		return matrixerr.New(matrixerr.InvalidParam, "The event's sender is not one of your server's users.")
	}
	return nil
}

// JoinAnswer is what a server learns of a room that one of its users has joined by an event:
// the state before it and the auth chain of both, and who is in the room. Without members the
// state has only those member events that name the room.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid
func (s *Server) JoinAnswer(ctx context.Context, room id.RoomID, event id.EventID, withoutMembers bool) (*serverapi.SendJoin, error) {
	out := &serverapi.SendJoin{MembersOmitted: withoutMembers}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		row, err := tx.GetEvent(event)
		if err != nil {
			return err
		}
		join, err := parseEvent(r.Version, row)
		if err != nil {
			return err
		}
		before, err := s.stateBefore(&work{tx: tx, room: r}, join, nil)
		if err != nil {
			return err
		}
		events, err := s.StateEvents(tx, before, !withoutMembers)
		if err != nil {
			return err
		}
		if withoutMembers {
			heroes, err := s.heroEvents(tx, &r, before, id.UserID(join.SenderID()))
			if err != nil {
				return err
			}
			events = append(events, heroes...)
		}
		given := make(map[storage.EventNID]bool, len(events))
		nids := []storage.EventNID{row.NID}
		out.State = make([]json.RawMessage, len(events))
		for i, e := range events {
			out.State[i] = e.JSON
			nids = append(nids, e.NID)
			given[e.NID] = withoutMembers
		}
		chain, err := s.authChain(tx, &r, nids)
		if err != nil {
			return err
		}
		// Of what is given already, nothing need be said twice to one who says so.
		chain = slices.DeleteFunc(chain, func(nid storage.EventNID) bool { return given[nid] })
		if out.AuthChain, err = eventTexts(tx, chain); err != nil {
			return err
		}
		out.ServersInRoom, err = s.serversBefore(tx, &r, before, id.UserID(join.SenderID()))
		return err
	})
	return out, err
}

// serversBefore are the servers that have members in a room, without the one that has come to it
// by the join of a user.
func (s *Server) serversBefore(tx *storage.Tx, room *storage.Room, before int64, user id.UserID) ([]id.ServerName, error) {
	servers, err := tx.ListServers(room.NID)
	if err != nil {
		return nil, err
	}
	was, err := s.stateEvent(tx, room, before, spec.MRoomMember, string(user))
	if err != nil || was.membership() == spec.Join {
		return servers, err
	}
	members, err := tx.CountMembersOf(room.NID, user.Server())
	if err == nil && members <= 1 {
		servers = slices.DeleteFunc(servers, func(server id.ServerName) bool { return server == user.Server() })
	}
	return servers, err
}

// heroEvents are the member events from which a user's client makes a name for a room without one.
func (s *Server) heroEvents(tx *storage.Tx, room *storage.Room, root int64, user id.UserID) ([]storage.Event, error) {
	named, err := s.stateEvents(tx, room, root, []state.Key{{Type: spec.MRoomName}, {Type: spec.MRoomCanonicalAlias}})
	if err != nil || len(named) > 0 {
		return nil, err
	}
	users, err := tx.ListHeroes(room.NID, user)
	if err != nil {
		return nil, err
	}
	return s.MembersAt(tx, root, users)
}

// authChain are the events that authorise some events, those that authorise these, and so on,
// in no order.
func (s *Server) authChain(tx *storage.Tx, room *storage.Room, events []storage.EventNID) ([]storage.EventNID, error) {
	seen := make(map[storage.EventNID]bool)
	var chain []storage.EventNID
	follow := func(nids []storage.EventNID) {
		for _, nid := range nids {
			if !seen[nid] {
				seen[nid] = true
				chain = append(chain, nid)
			}
		}
	}
	rows, err := tx.ListAuthLinks(events)
	if err != nil {
		return nil, err
	}
	linked := make(map[storage.EventNID]bool, len(rows))
	for _, row := range rows {
		linked[row.Event] = true
		follow(row.Auth)
	}
	// Messages have no row of their own: their text says what authorises them.
	for _, nid := range events {
		if linked[nid] {
			continue
		}
		row, err := tx.GetEventByNID(nid)
		if err != nil {
			return nil, err
		}
		e, err := parseEvent(room.Version, row)
		if err != nil {
			return nil, err
		}
		var ids []id.EventID
		for _, auth := range e.AuthEventIDs() {
			ids = append(ids, id.EventID(auth))
		}
		nids, err := tx.ListEventNIDs(room.NID, ids)
		if err != nil {
			return nil, err
		}
		follow(nids)
	}
	for done := 0; done < len(chain); {
		part := chain[done:min(len(chain), done+loadBatch)]
		done += len(part)
		rows, err := tx.ListAuthLinks(part)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			follow(row.Auth)
		}
	}
	// The graph leaves out the create event, which is in every chain.
	create, ok, err := s.tree.Get(tx, state.Root(room.Root), state.Key{Type: spec.MRoomCreate})
	if err == nil && ok {
		follow([]storage.EventNID{storage.EventNID(create)})
	}
	return chain, err
}

// eventTexts loads events as they were signed, in no order.
func eventTexts(tx *storage.Tx, nids []storage.EventNID) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(nids))
	for part := range slices.Chunk(nids, loadBatch) {
		rows, err := tx.ListEventsByNID(part)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			out = append(out, row.JSON)
		}
	}
	return out, nil
}

// KnockAnswer is what a server learns of a room that one of its users knocks on.
//
// spec: server-server-api.md#put_matrixfederationv1send_knockroomideventid
func (s *Server) KnockAnswer(ctx context.Context, room id.RoomID) (*serverapi.SendKnock, error) {
	out := &serverapi.SendKnock{}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		out.KnockRoomState, err = s.introduction(tx, &r, "")
		return err
	})
	return out, err
}

// introduction are the events by which somebody outside can recognise a room, as they were
// signed, and the member event of who introduces it.
func (s *Server) introduction(tx *storage.Tx, room *storage.Room, member id.UserID) ([]json.RawMessage, error) {
	var keys []state.Key
	for _, t := range strippedTypes {
		keys = append(keys, state.Key{Type: t})
	}
	if member != "" {
		keys = append(keys, state.Key{Type: spec.MRoomMember, StateKey: string(member)})
	}
	found, err := s.stateEvents(tx, room, room.Root, keys)
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for _, key := range keys {
		if e := found[key]; e != nil {
			out = append(out, e.PDU.JSON())
		}
	}
	return out, nil
}
