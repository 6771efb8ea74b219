package unread

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/storage"
)

// The account data that says what a user is notified of.
const (
	pushRulesType   = "m.push_rules"
	ignoredUserType = "m.ignored_user_list"
)

// rulesVersion is when what the rules are made of was written; 0 for what never was.
type rulesVersion struct {
	pushRules, ignored id.Pos
}

// rules say what a user is notified of. They don't change.
type rules struct {
	version   rulesVersion
	evaluator *pushrules.Evaluator
	// byName says that there may be a rule that asks for the user's name in the room.
	byName  bool
	ignored map[id.UserID]struct{}
}

// unchanged are the rules of all who have changed nothing and ignore nobody.
var unchanged = &rules{evaluator: pushrules.Compile(nil)}

func (c *Counter) rulesOf(tx *storage.Tx, user id.UserID) (*rules, error) {
	var v rulesVersion
	var err error
	if v.pushRules, err = tx.GetAccountDataPos(user, "", pushRulesType); err != nil {
		return nil, err
	}
	if v.ignored, err = tx.GetAccountDataPos(user, "", ignoredUserType); err != nil {
		return nil, err
	}
	return c.rulesAt(tx, user, v)
}

// rulesAt are the rules of a user, of which it is known when they last changed.
func (c *Counter) rulesAt(tx *storage.Tx, user id.UserID, v rulesVersion) (*rules, error) {
	if v == unchanged.version {
		return unchanged, nil
	}
	if r, ok := c.rules.Get(user); ok && r.version == v {
		return r, nil
	}
	r := &rules{version: v}
	stored, err := tx.GetAccountData(user, "", pushRulesType)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	changes, err := pushrules.Parse(stored.Content)
	if err != nil {
		return nil, fmt.Errorf("push rules of %s: %w", user, err)
	}
	r.evaluator = pushrules.Compile(changes)
	r.byName = bytes.Contains(stored.Content, []byte("contains_display_name"))
	ignored, err := tx.GetAccountData(user, "", ignoredUserType)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	r.ignored = parseIgnored(ignored.Content)
	if !tx.Writing() {
		c.rules.Add(user, r)
	}
	return r, nil
}

// parseIgnored reads whom a user ignores. Clients write it, so there may be anything in it.
//
// spec: client-server-api/modules/ignore_users.md#ignoring-users
func parseIgnored(content []byte) map[id.UserID]struct{} {
	out := make(map[id.UserID]struct{})
	if users := gjson.GetBytes(content, "ignored_users"); users.IsObject() {
		users.ForEach(func(user, _ gjson.Result) bool {
			out[id.UserID(user.Str)] = struct{}{}
			return true
		})
	}
	return out
}
