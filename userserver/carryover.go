package userserver

import (
	"context"
	"encoding/json"
	"slices"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/pushrules"
)

// directType is where a user keeps which rooms are conversations with one other.
const directType = "m.direct"

// CarryOver gives a room that follows another what a user has set for that one: its push rule,
// its tags, and that it is a direct conversation. What the user has set for the new room already
// stays. It is a convenience: what can't be carried over is logged.
//
// spec: client-server-api/modules/room_upgrades.md#server-behaviour
func (s *Server) CarryOver(ctx context.Context, user id.UserID, from, to id.RoomID) {
	for what, carry := range map[string]func(context.Context, id.UserID, id.RoomID, id.RoomID) error{
		"push rule": s.carryPushRule, "tags": s.carryTags, "direct conversation": s.carryDirect,
	} {
		if err := carry(ctx, user, from, to); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "what a user set for a room could not be carried over to the next", "what", what,
				"user", user, "from", from, "to", to, "error", err)
		}
	}
}

func (s *Server) carryPushRule(ctx context.Context, user id.UserID, from, to id.RoomID) error {
	rules, err := s.PushRules(ctx, user)
	if err != nil {
		return err
	}
	old, err := rules.Global.Get(pushrules.Room, string(from))
	if matrixerr.Is(err, matrixerr.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return s.ChangePushRules(ctx, user, func(c *pushrules.Changes) error {
		if _, err := c.Own.Get(pushrules.Room, string(to)); err == nil {
			return nil
		}
		if err := c.Put(pushrules.Room, string(to), pushrules.Draft{Actions: old.Actions}, "", ""); err != nil {
			return err
		}
		return c.SetEnabled(pushrules.Room, string(to), old.Enabled)
	})
}

func (s *Server) carryTags(ctx context.Context, user id.UserID, from, to id.RoomID) error {
	old, err := s.GetTags(ctx, user, from)
	if err != nil || len(old) == 0 {
		return err
	}
	if now, err := s.GetTags(ctx, user, to); err != nil || len(now) > 0 {
		return err
	}
	return s.updateTags(ctx, user, to, func(tags Tags) error {
		for tag, content := range old {
			tags[tag] = content
		}
		return nil
	})
}

func (s *Server) carryDirect(ctx context.Context, user id.UserID, from, to id.RoomID) error {
	add := func(old []byte) (content []byte, changed bool) {
		var direct map[string][]id.RoomID
		if old == nil || json.Unmarshal(old, &direct) != nil {
			return old, false
		}
		for other, rooms := range direct {
			if slices.Contains(rooms, from) && !slices.Contains(rooms, to) {
				direct[other], changed = append(rooms, to), true
			}
		}
		content, err := json.Marshal(direct)
		return content, changed && err == nil
	}
	old, err := s.GetAccountData(ctx, user, "", directType)
	if matrixerr.Is(err, matrixerr.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if _, changed := add(old); !changed {
		return nil
	}
	return s.UpdateAccountData(ctx, user, "", directType, func(old []byte) ([]byte, error) {
		content, _ := add(old)
		return content, nil
	})
}
