package pushrules

import (
	"encoding/json"
	"slices"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// Kind is a kind of rule.
type Kind string

// The kinds of rule, in the order in which they are looked at.
const (
	Override  Kind = "override"
	Content   Kind = "content"
	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

// hasConditions says whether rules of the kind may have conditions of their own.
func (k Kind) hasConditions() bool { return k == Override || k == Underride }

// Rule is a push rule as the API has it.
type Rule struct {
	ID      string `json:"rule_id"`
	Default bool   `json:"default"`
	Enabled bool   `json:"enabled"`
	// Conditions are nil where the kind has none. They are kept as they were written, as there may be
	// some that only clients know.
	Conditions []json.RawMessage `json:"conditions,omitzero"`
	// Pattern is nil but in content rules.
	Pattern *string           `json:"pattern,omitempty"`
	Actions []json.RawMessage `json:"actions"`
}

// Ruleset is a user's rules, each kind's in order of priority.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Rulesets is the content of an m.push_rules event, and the answer of GET /pushrules/.
//
// spec: client-server-api/modules/push.md#mpush_rules
type Rulesets struct {
	Global Ruleset `json:"global"`
}

// of are the rules of a kind.
func (s *Ruleset) of(kind Kind) (*[]Rule, error) {
	switch kind {
	case Override:
		return &s.Override, nil
	case Content:
		return &s.Content, nil
	case Room:
		return &s.Room, nil
	case Sender:
		return &s.Sender, nil
	case Underride:
		return &s.Underride, nil
	}
	return nil, matrixerr.New(matrixerr.InvalidParam, "there is no such kind of push rule: %q", string(kind))
}

// Get is one rule.
//
// spec: client-server-api/modules/push.md#get_matrixclientv3pushrulesglobalkindruleid
func (s *Ruleset) Get(kind Kind, ruleID string) (*Rule, error) {
	rules, err := s.of(kind)
	if err != nil {
		return nil, notFound() // clients ask for kinds to come
	}
	if i := index(*rules, ruleID); i >= 0 {
		return &(*rules)[i], nil
	}
	return nil, notFound()
}

func notFound() error { return matrixerr.New(matrixerr.NotFound, "the push rule was not found") }

func index(rules []Rule, ruleID string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == ruleID })
}

// Rulesets are all rules that a user has: those of their own, and the server's with what
// they have made of them.
//
// spec: client-server-api/modules/push.md#predefined-rules
func (c *Changes) Rulesets(user id.UserID) Rulesets {
	// All kinds are there, as lists, even if they are empty.
	s := Ruleset{Override: []Rule{}, Content: []Rule{}, Room: []Rule{}, Sender: []Rule{}, Underride: []Rule{}}
	// The master rule goes before the user's own, the other defaults behind.
	for i := range defaults {
		if d := &defaults[i]; d.id == masterRule {
			s.Override = append(s.Override, d.rule(c, user))
		}
	}
	if c != nil {
		s.Override = append(s.Override, c.Own.Override...)
		s.Content = append(s.Content, c.Own.Content...)
		s.Room = append(s.Room, c.Own.Room...)
		s.Sender = append(s.Sender, c.Own.Sender...)
		s.Underride = append(s.Underride, c.Own.Underride...)
	}
	for i := range defaults {
		switch d := &defaults[i]; {
		case d.id == masterRule:
		case d.kind == Override:
			s.Override = append(s.Override, d.rule(c, user))
		case d.kind == Underride:
			s.Underride = append(s.Underride, d.rule(c, user))
		}
	}
	return Rulesets{s}
}
