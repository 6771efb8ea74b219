package pushrules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// Changes is what a user has made of the default rules: rules of their own, and other
// settings of the default ones. It is what is stored.
type Changes struct {
	Own Ruleset `json:"own"`
	// Defaults are by the rule's ID. One of a rule that there is no more has no effect.
	Defaults map[string]Change `json:"defaults,omitempty"`
}

// Change is another setting of a default rule; nil is what the server has set.
type Change struct {
	Enabled *bool             `json:"enabled,omitempty"`
	Actions []json.RawMessage `json:"actions,omitzero"`
}

const (
	// maxStored bounds the bytes of what is stored for a user.
	maxStored = 1 << 20
	// maxChecks bounds the conditions and patterns that are tried for an event and a user. Rules for one
	// room or one sender cost nothing for others, so they don't count.
	maxChecks = 1000
)

// Parse decodes what is stored; nil is what a user has who has changed nothing.
func Parse(stored []byte) (*Changes, error) {
	c := new(Changes)
	if stored == nil {
		return c, nil
	}
	if err := json.Unmarshal(stored, c); err != nil {
		return nil, fmt.Errorf("stored push rules: %w", err)
	}
	return c, nil
}

// Edit applies one of the methods of [Changes] to what is stored, and gives what is to be stored then.
func Edit(stored []byte, change func(*Changes) error) ([]byte, error) {
	c, err := Parse(stored)
	if err != nil {
		return nil, err
	}
	if err := change(c); err != nil {
		return nil, err
	}
	if n := c.checks(); n > maxChecks {
		return nil, matrixerr.New(matrixerr.TooLarge, "there are more than %d patterns and conditions in the push rules", maxChecks)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("push rules to be stored: %w", err)
	}
	if len(b) > maxStored {
		return nil, matrixerr.New(matrixerr.TooLarge, "the push rules are larger than %d bytes", maxStored)
	}
	return b, nil
}

func (c *Changes) checks() int {
	n := len(c.Own.Content)
	for _, rules := range [][]Rule{c.Own.Override, c.Own.Underride} {
		for i := range rules {
			n += 1 + len(rules[i].Conditions)
		}
	}
	return n
}

// Draft is a rule as a client gives it.
type Draft struct {
	Actions    []json.RawMessage `json:"actions"`
	Conditions []json.RawMessage `json:"conditions"`
	Pattern    *string           `json:"pattern"`
}

// Put adds a rule, or changes it if there is one of that kind and ID. before and after are IDs of
// other rules of that kind and user, or empty.
//
// spec: client-server-api/modules/push.md#put_matrixclientv3pushrulesglobalkindruleid
func (c *Changes) Put(kind Kind, ruleID string, draft Draft, before, after string) error {
	rules, err := c.Own.of(kind)
	if err != nil {
		return err
	}
	if err := checkID(ruleID); err != nil {
		return err
	}
	rule, err := draft.rule(kind, ruleID)
	if err != nil {
		return err
	}
	others := slices.Clone(*rules)
	place := 0 // the most important
	if i := index(others, ruleID); i >= 0 {
		place, rule.Enabled = i, others[i].Enabled
		others = slices.Delete(others, i, i+1)
	}
	// If both are given, before decides.
	if after != "" {
		i, err := neighbour(others, after)
		if err != nil {
			return err
		}
		place = i + 1
	}
	if before != "" {
		if place, err = neighbour(others, before); err != nil {
			return err
		}
	}
	*rules = slices.Insert(others, place, rule)
	return nil
}

func checkID(ruleID string) error {
	switch {
	case ruleID == "" || len(ruleID) > id.MaxLength:
		return matrixerr.New(matrixerr.InvalidParam, "the ID of a push rule has 1 to %d bytes", id.MaxLength)
	case ruleID[0] == '.':
		return matrixerr.New(matrixerr.InvalidParam, "push rules whose ID begins with a dot are the server's own")
	case strings.ContainsAny(ruleID, `/\`):
		return matrixerr.New(matrixerr.InvalidParam, "the ID of a push rule cannot have slashes")
	}
	return nil
}

func neighbour(rules []Rule, ruleID string) (int, error) {
	i := index(rules, ruleID)
	if i < 0 {
		return 0, matrixerr.New(matrixerr.Unknown, "before/after rule not found: %s", ruleID)
	}
	return i, nil
}

func (d *Draft) rule(kind Kind, ruleID string) (Rule, error) {
	rule := Rule{ID: ruleID, Enabled: true}
	if d.Actions == nil {
		return rule, matrixerr.New(matrixerr.MissingParam, "actions: is missing")
	}
	actions, err := checkActions(d.Actions)
	if err != nil {
		return rule, err
	}
	rule.Actions = actions
	switch {
	case kind == Content && d.Pattern == nil:
		return rule, matrixerr.New(matrixerr.MissingParam, "pattern: is missing")
	case kind == Content:
		if _, err := compileGlob(*d.Pattern); err != nil {
			return rule, matrixerr.New(matrixerr.InvalidParam, "pattern: %v", err)
		}
		rule.Pattern = d.Pattern
	case kind.hasConditions():
		rule.Conditions = make([]json.RawMessage, len(d.Conditions))
		for i, raw := range d.Conditions {
			if _, err := parseCondition(raw); err != nil {
				return rule, matrixerr.New(matrixerr.BadJSON, "conditions[%d]: %v", i, err)
			}
			rule.Conditions[i] = compact(raw)
		}
	}
	return rule, nil
}

// checkActions are the actions as they are kept: as they were set, even where they mean nothing
// any more, since old clients look for what they set.
//
// spec: client-server-api/modules/push.md#historical-actions
func checkActions(list []json.RawMessage) ([]json.RawMessage, error) {
	kept := make([]json.RawMessage, 0, len(list))
	for i, raw := range list {
		raw = compact(raw)
		if _, err := parseAction(raw); err != nil {
			return nil, matrixerr.New(matrixerr.BadJSON, "actions[%d]: %v", i, err)
		}
		kept = append(kept, raw)
	}
	return kept, nil
}

// compact takes out the space between the parts of a JSON value.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

// Delete removes a rule of the user's own.
//
// spec: client-server-api/modules/push.md#delete_matrixclientv3pushrulesglobalkindruleid
func (c *Changes) Delete(kind Kind, ruleID string) error {
	rules, err := c.Own.of(kind)
	if err != nil {
		return err
	}
	if findDefault(kind, ruleID) != nil {
		return matrixerr.New(matrixerr.InvalidParam, "the server's own push rules cannot be deleted, but disabled")
	}
	i := index(*rules, ruleID)
	if i < 0 {
		return notFound()
	}
	*rules = slices.Delete(*rules, i, i+1)
	return nil
}

// SetEnabled enables or disables a rule.
//
// spec: client-server-api/modules/push.md#put_matrixclientv3pushrulesglobalkindruleidenabled
func (c *Changes) SetEnabled(kind Kind, ruleID string, enabled bool) error {
	if d := findDefault(kind, ruleID); d != nil {
		change := c.Defaults[ruleID]
		change.Enabled = &enabled
		if enabled == !d.disabled {
			change.Enabled = nil
		}
		c.setDefault(ruleID, change)
		return nil
	}
	rule, err := c.Own.Get(kind, ruleID)
	if err != nil {
		return err
	}
	rule.Enabled = enabled
	return nil
}

// SetActions sets a rule's actions.
//
// spec: client-server-api/modules/push.md#put_matrixclientv3pushrulesglobalkindruleidactions
func (c *Changes) SetActions(kind Kind, ruleID string, actions []json.RawMessage) error {
	if actions == nil {
		return matrixerr.New(matrixerr.MissingParam, "actions: is missing")
	}
	actions, err := checkActions(actions)
	if err != nil {
		return err
	}
	if d := findDefault(kind, ruleID); d != nil {
		change := c.Defaults[ruleID]
		change.Actions = actions
		if slices.EqualFunc(actions, d.actions, func(a json.RawMessage, b string) bool { return string(a) == b }) {
			change.Actions = nil
		}
		c.setDefault(ruleID, change)
		return nil
	}
	rule, err := c.Own.Get(kind, ruleID)
	if err != nil {
		return err
	}
	rule.Actions = actions
	return nil
}

func (c *Changes) setDefault(ruleID string, change Change) {
	if change.Enabled == nil && change.Actions == nil {
		delete(c.Defaults, ruleID)
		return
	}
	if c.Defaults == nil {
		c.Defaults = make(map[string]Change)
	}
	c.Defaults[ruleID] = change
}
