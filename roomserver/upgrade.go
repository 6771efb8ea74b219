package roomserver

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/state"
	"parley/storage"
)

// transferred are the state events that an upgrade carries over, beside the power levels
// and, as they protect the room, the bans.
//
// spec: client-server-api/modules/room_upgrades.md#server-behaviour
var transferred = []string{
	"m.room.server_acl", spec.MRoomEncryption, spec.MRoomName, spec.MRoomAvatar, spec.MRoomTopic,
	spec.MRoomGuestAccess, spec.MRoomHistoryVisibility, spec.MRoomJoinRules,
}

// Upgrade replaces a room by one of another version and gives the new room's ID.
//
// spec: client-server-api/modules/room_upgrades.md
func (s *Server) Upgrade(ctx context.Context, user id.UserID, room id.RoomID, version id.RoomVersion, creators []id.UserID) (id.RoomID, error) {
	if _, ok := Versions()[version]; !ok {
		return "", matrixerr.New(matrixerr.UnsupportedRoomVersion, "Room version %q is not supported.", version)
	}
	var replacement id.RoomID
	unsigned := false
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		old, err := s.lock(tx, room)
		if err != nil {
			return err
		}
		if err := s.mustBeJoined(old, user); err != nil {
			return err
		}
		p, err := s.powers(tx, &old.room, old.room.Root)
		if err != nil {
			return err
		}
		if !p.mayState(user, "m.room.tombstone") {
			return matrixerr.New(matrixerr.Forbidden, "You don't have the power to upgrade this room.")
		}
		fresh, err := s.replace(old, user, version, creators, p)
		if err != nil {
			return err
		}
		replacement = fresh.room.ID
		err = s.retire(old, fresh, user, p)
		var need *unsignedError
		if unsigned = errors.As(err, &need); !unsigned && err != nil {
			return err
		}
		if err := fresh.finish(); err != nil {
			return err
		}
		return old.finish()
	})
	if err != nil || !unsigned {
		return replacement, err
	}
	// The old room's policy server must sign what names the new one, so that has to be there.
	return replacement, s.withPolicy(ctx, func(signed []*event) error {
		return s.db.Write(ctx, func(tx *storage.Tx) error {
			old, err := s.lock(tx, room)
			if err != nil {
				return err
			}
			old.signed = signed
			fresh, err := s.lock(tx, replacement)
			if err != nil {
				return err
			}
			p, err := s.powers(tx, &old.room, old.room.Root)
			if err != nil {
				return err
			}
			if err := s.retire(old, fresh, user, p); err != nil {
				return err
			}
			return errors.Join(fresh.finish(), old.finish())
		})
	})
}

// replace makes the new room as the old one is.
func (s *Server) replace(old *work, user id.UserID, version id.RoomVersion, creators []id.UserID, p *powers) (*work, error) {
	keys := []state.Key{{Type: spec.MRoomCreate}, {Type: spec.MRoomPowerLevels}}
	for _, t := range transferred {
		keys = append(keys, state.Key{Type: t})
	}
	found, err := s.stateEvents(old.tx, &old.room, old.room.Root, keys)
	if err != nil {
		return nil, err
	}
	r := CreateRequest{Creator: user, Version: version, Preset: "private_chat"}
	if old.room.Published {
		r.Visibility = "public"
	}
	r.CreationContent = map[string]json.RawMessage{}
	predecessor := map[string]any{"room_id": old.room.ID}
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, err
	}
	if !v.DomainlessRoomIDs() {
		// The old room's last event; from version 12 on it may be left out, and the event
		// that is meant is not there yet when the new room's ID is needed.
		predecessor["event_id"] = old.room.Extremities[0].ID
	}
	if err := setFields(r.CreationContent, map[string]any{"predecessor": predecessor}); err != nil {
		return nil, err
	}
	if create := found[keys[0]]; create != nil {
		for _, field := range []string{"type", "m.federate"} {
			if value := gjson.GetBytes(create.Content(), gjson.Escape(field)); value.Exists() {
				r.CreationContent[field] = json.RawMessage(value.Raw)
			}
		}
	}
	if v.PrivilegedCreators() && len(creators) > 0 {
		if err := addCreators(r.CreationContent, creators, user); err != nil {
			return nil, err
		}
	}
	for _, t := range transferred {
		if e := found[state.Key{Type: t}]; e != nil {
			r.InitialState = append(r.InitialState, StateEvent{Type: t, Content: e.Content()})
		}
	}
	if e := found[keys[1]]; e != nil {
		if r.PowerLevels, err = carriedPowerLevels(e, v.PrivilegedCreators(), user, creators, p.creators); err != nil {
			return nil, err
		}
	}
	fresh, err := s.create(old.tx, &r)
	if err != nil {
		return nil, err
	}
	return fresh, s.copyBans(old, fresh, user)
}

// carriedPowerLevels are the old room's power levels, made to fit the new room's version:
// its creators stand above them and may not be named. Where the new room has no such creators,
// those of the old one keep the highest level that they could have had; where it has, who is not
// asked for is none.
func carriedPowerLevels(e *event, privileged bool, user id.UserID, creators []id.UserID, oldCreators []string) (map[string]json.RawMessage, error) {
	var content map[string]json.RawMessage
	if err := json.Unmarshal(e.Content(), &content); err != nil {
		return nil, matrixerr.New(matrixerr.BadState, "The room's power levels can't be read.")
	}
	users := map[id.UserID]json.RawMessage{}
	if raw, ok := content["users"]; ok {
		if err := json.Unmarshal(raw, &users); err != nil {
			return nil, matrixerr.New(matrixerr.BadState, "The room's power levels can't be read.")
		}
	}
	if !privileged {
		for _, c := range oldCreators {
			users[id.UserID(c)] = json.RawMessage("100")
		}
	}
	if privileged {
		delete(users, user)
		for _, c := range creators {
			delete(users, c)
		}
		events := map[string]json.RawMessage{}
		if raw, ok := content["events"]; ok {
			if err := json.Unmarshal(raw, &events); err != nil {
				return nil, matrixerr.New(matrixerr.BadState, "The room's power levels can't be read.")
			}
		}
		// spec: client-server-api/index.md#post_matrixclientv3createroom
		events["m.room.tombstone"] = json.RawMessage("150")
		if err := setFields(content, map[string]any{"events": events}); err != nil {
			return nil, err
		}
	} else if _, ok := users[user]; !ok {
		users[user] = json.RawMessage("100")
	}
	return content, setFields(content, map[string]any{"users": users})
}

// copyBans bans in the new room who is banned in the old.
func (s *Server) copyBans(old, fresh *work, user id.UserID) error {
	banned, err := old.tx.ListMembers(old.room.NID, spec.Ban, false)
	if err != nil {
		return err
	}
	for _, target := range banned {
		e, err := s.stateEvent(old.tx, &old.room, old.room.Root, spec.MRoomMember, string(target))
		if err != nil || e == nil {
			return err
		}
		if _, err := s.appendState(fresh, user, StateEvent{spec.MRoomMember, string(target), e.Content()}); err != nil {
			return err
		}
	}
	return nil
}

// retire closes the old room: tombstone, aliases, directory, power levels.
func (s *Server) retire(old, fresh *work, user id.UserID, p *powers) error {
	tombstone := stateEvent("m.room.tombstone", map[string]any{
		"body": "This room has been replaced.", "replacement_room": fresh.room.ID,
	})
	if _, err := s.appendState(old, user, tombstone); err != nil {
		return err
	}
	if err := s.moveAliases(old, fresh, user, p); err != nil {
		return err
	}
	if err := old.tx.UpdateRoomPublished(old.room.NID, false); err != nil {
		return err
	}
	if !p.mayState(user, spec.MRoomPowerLevels) {
		return nil
	}
	e, err := s.stateEvent(old.tx, &old.room, old.room.Root, spec.MRoomPowerLevels, "")
	if err != nil || e == nil {
		return err
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(e.Content(), &content); err != nil {
		return nil // unreadable levels are left as they are
	}
	restricted := max(50, p.levels.UsersDefault+1)
	if p.of(user) < restricted {
		return nil
	}
	if err := setFields(content, map[string]any{
		"events_default": max(restricted, p.levels.EventsDefault), "invite": max(restricted, p.levels.Invite),
	}); err != nil {
		return err
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = s.appendState(old, user, StateEvent{Type: spec.MRoomPowerLevels, Content: raw})
	if matrixerr.Is(err, matrixerr.Forbidden) {
		return nil // "if possible"
	}
	return err
}

// moveAliases has the old room's aliases on this server lead to the new one.
func (s *Server) moveAliases(old, fresh *work, user id.UserID, p *powers) error {
	if err := old.tx.UpdateAliasRoom(old.room.ID, fresh.room.ID); err != nil {
		return err
	}
	e, err := s.stateEvent(old.tx, &old.room, old.room.Root, spec.MRoomCanonicalAlias, "")
	if err != nil || e == nil || !p.mayState(user, spec.MRoomCanonicalAlias) || e.field("alias") == "" {
		return err
	}
	if _, err := s.appendState(fresh, user, StateEvent{Type: spec.MRoomCanonicalAlias, Content: e.Content()}); err != nil {
		return err
	}
	_, err = s.appendState(old, user, StateEvent{Type: spec.MRoomCanonicalAlias, Content: json.RawMessage("{}")})
	return err
}
