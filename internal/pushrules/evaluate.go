package pushrules

import (
	"encoding/json"

	"parley/internal/id"
)

// Evaluator is a user's rules, ready to be evaluated. It doesn't change, and is safe for concurrent
// use.
type Evaluator struct {
	// first are the rules that are looked at before those of rooms and senders, and last those
	// after them; only enabled ones.
	first, last []*rule
	rooms       map[id.RoomID]*Actions
	senders     map[id.UserID]*Actions
}

type rule struct {
	conditions []condition
	actions    *Actions
}

// defaultRules are the default rules as the server has set them, in the order of [defaults].
// They are shared by all users.
var defaultRules = compileDefaults()

func compileDefaults() (rules [len(defaults)]*rule) {
	for i := range defaults {
		d := &defaults[i]
		r := compileRule(d.id, rawMessages(d.conditions), rawMessages(d.actions))
		for j, c := range r.conditions {
			r.conditions[j] = ofUser(c)
		}
		rules[i] = r
	}
	return rules
}

func compileRule(ruleID string, conditions, actions []json.RawMessage) *rule {
	r := &rule{conditions: make([]condition, len(conditions)), actions: compileActions(ruleID, actions)}
	for i, raw := range conditions {
		c, err := parseCondition(raw)
		if err != nil {
			// It was good when it was stored. What isn't understood never matches.
			c = never{}
		}
		r.conditions[i] = c
	}
	return r
}

// Compile makes an Evaluator of what a user has changed. As the rules don't have the user's
// name in them, that of nil can be used for all who have changed nothing.
func Compile(c *Changes) *Evaluator {
	e := new(Evaluator)
	if c == nil {
		c = new(Changes)
	}
	e.first = e.appendDefaults(e.first, c, func(d *definition) bool { return d.id == masterRule })
	e.first = appendOwn(e.first, c.Own.Override)
	e.first = e.appendDefaults(e.first, c, func(d *definition) bool { return d.id != masterRule && d.kind == Override })
	for i := range c.Own.Content {
		r := &c.Own.Content[i]
		if !r.Enabled || r.Pattern == nil {
			continue
		}
		if g, err := compileGlob(*r.Pattern); err == nil {
			match := &eventMatch{"content.body", g}
			e.first = append(e.first, &rule{[]condition{match}, compileActions(r.ID, r.Actions)})
		}
	}
	e.rooms = byID[id.RoomID](c.Own.Room)
	e.senders = byID[id.UserID](c.Own.Sender)
	e.last = appendOwn(e.last, c.Own.Underride)
	e.last = e.appendDefaults(e.last, c, func(d *definition) bool { return d.kind == Underride })
	return e
}

func (e *Evaluator) appendDefaults(rules []*rule, c *Changes, which func(*definition) bool) []*rule {
	for i := range defaults {
		d := &defaults[i]
		if !which(d) || !d.enabled(c) {
			continue
		}
		r := defaultRules[i]
		if actions := c.Defaults[d.id].Actions; actions != nil {
			r = &rule{r.conditions, compileActions(d.id, actions)}
		}
		rules = append(rules, r)
	}
	return rules
}

func appendOwn(rules []*rule, own []Rule) []*rule {
	for i := range own {
		if r := &own[i]; r.Enabled {
			rules = append(rules, compileRule(r.ID, r.Conditions, r.Actions))
		}
	}
	return rules
}

// byID are the actions of rules of rooms or senders, of which only one can match.
func byID[ID ~string](rules []Rule) map[ID]*Actions {
	if len(rules) == 0 {
		return nil
	}
	m := make(map[ID]*Actions, len(rules))
	for i := range rules {
		if r := &rules[i]; r.Enabled {
			m[ID(r.ID)] = compileActions(r.ID, r.Actions)
		}
	}
	return m
}

// Evaluate says what is to be done about an event for a member of its room. It is never nil.
//
// spec: client-server-api/modules/push.md#push-rules
func (e *Evaluator) Evaluate(event *Event, member Member) *Actions {
	if event.sender == member.User {
		return nothing
	}
	for _, r := range e.first {
		if r.matches(event, member) {
			return r.actions
		}
	}
	if a := e.rooms[event.context.Room]; a != nil {
		return a
	}
	if a := e.senders[event.sender]; a != nil {
		return a
	}
	for _, r := range e.last {
		if r.matches(event, member) {
			return r.actions
		}
	}
	return nothing
}

func (r *rule) matches(e *Event, m Member) bool {
	for _, c := range r.conditions {
		if !c.holds(e, m) {
			return false
		}
	}
	return true
}
