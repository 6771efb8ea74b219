package pushrules

import (
	"encoding/json"
	"strings"

	"parley/internal/id"
)

// definition is a rule that every user has.
type definition struct {
	id         string
	kind       Kind
	disabled   bool
	conditions []string
	actions    []string
}

const (
	masterRule = ".m.rule.master"

	notify    = `"notify"`
	sound     = `{"set_tweak":"sound","value":"default"}`
	ring      = `{"set_tweak":"sound","value":"ring"}`
	highlight = `{"set_tweak":"highlight"}`

	// theUser stands in a condition for the user whose rule it is.
	theUser = "[the user's Matrix ID]"
)

// defaults are the rules that every user has, in order of priority. Nobody changes them.
//
// spec: client-server-api/modules/push.md#predefined-rules
var defaults = [...]definition{
	{
		id: masterRule, kind: Override, disabled: true,
	}, {
		id: ".m.rule.suppress_notices", kind: Override,
		conditions: []string{`{"kind":"event_match","key":"content.msgtype","pattern":"m.notice"}`},
	}, {
		id: ".m.rule.invite_for_me", kind: Override,
		conditions: []string{
			`{"kind":"event_match","key":"type","pattern":"m.room.member"}`,
			`{"kind":"event_match","key":"content.membership","pattern":"invite"}`,
			`{"kind":"event_match","key":"state_key","pattern":"` + theUser + `"}`,
		},
		actions: []string{notify, sound},
	}, {
		id: ".m.rule.member_event", kind: Override,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"m.room.member"}`},
	}, {
		id: ".m.rule.is_user_mention", kind: Override,
		conditions: []string{`{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"` + theUser + `"}`},
		actions:    []string{notify, sound, highlight},
	}, {
		id: ".m.rule.is_room_mention", kind: Override,
		conditions: []string{
			`{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true}`,
			`{"kind":"sender_notification_permission","key":"room"}`,
		},
		actions: []string{notify, highlight},
	}, {
		id: ".m.rule.tombstone", kind: Override,
		conditions: []string{
			`{"kind":"event_match","key":"type","pattern":"m.room.tombstone"}`,
			`{"kind":"event_match","key":"state_key","pattern":""}`,
		},
		actions: []string{notify, highlight},
	}, {
		id: ".m.rule.reaction", kind: Override,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"m.reaction"}`},
	}, {
		id: ".m.rule.room.server_acl", kind: Override,
		conditions: []string{
			`{"kind":"event_match","key":"type","pattern":"m.room.server_acl"}`,
			`{"kind":"event_match","key":"state_key","pattern":""}`,
		},
	}, {
		// Rules for polls, by their unstable names: https://github.com/matrix-org/matrix-spec-proposals/pull/3930
		id: ".org.matrix.msc3930.rule.poll_response", kind: Override,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.response"}`},
	}, {
		id: ".m.rule.suppress_edits", kind: Override,
		conditions: []string{`{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}`},
	}, {
		id: ".m.rule.call", kind: Underride,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"m.call.invite"}`},
		actions:    []string{notify, ring},
	}, {
		id: ".m.rule.encrypted_room_one_to_one", kind: Underride,
		conditions: []string{
			`{"kind":"room_member_count","is":"2"}`,
			`{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}`,
		},
		actions: []string{notify, sound},
	}, {
		id: ".m.rule.room_one_to_one", kind: Underride,
		conditions: []string{
			`{"kind":"room_member_count","is":"2"}`,
			`{"kind":"event_match","key":"type","pattern":"m.room.message"}`,
		},
		actions: []string{notify, sound},
	}, {
		id: ".m.rule.message", kind: Underride,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"m.room.message"}`},
		actions:    []string{notify},
	}, {
		id: ".m.rule.encrypted", kind: Underride,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}`},
		actions:    []string{notify},
	}, {
		id: ".org.matrix.msc3930.rule.poll_start_one_to_one", kind: Underride,
		conditions: []string{
			`{"kind":"room_member_count","is":"2"}`,
			`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.start"}`,
		},
		actions: []string{notify, sound},
	}, {
		id: ".org.matrix.msc3930.rule.poll_start", kind: Underride,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.start"}`},
		actions:    []string{notify},
	}, {
		id: ".org.matrix.msc3930.rule.poll_end_one_to_one", kind: Underride,
		conditions: []string{
			`{"kind":"room_member_count","is":"2"}`,
			`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.end"}`,
		},
		actions: []string{notify, sound},
	}, {
		id: ".org.matrix.msc3930.rule.poll_end", kind: Underride,
		conditions: []string{`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.end"}`},
		actions:    []string{notify},
	},
}

// findDefault is the definition of a default rule, and nil when there is none.
func findDefault(kind Kind, ruleID string) *definition {
	for i := range defaults {
		if d := &defaults[i]; d.kind == kind && d.id == ruleID {
			return d
		}
	}
	return nil
}

// rule is the rule as a user has it.
func (d *definition) rule(c *Changes, user id.UserID) Rule {
	r := Rule{ID: d.id, Default: true, Enabled: d.enabled(c), Actions: d.actionsOf(c), Conditions: make([]json.RawMessage, len(d.conditions))}
	quoted, _ := json.Marshal(user) // a string can always be encoded
	for i, condition := range d.conditions {
		r.Conditions[i] = json.RawMessage(strings.ReplaceAll(condition, `"`+theUser+`"`, string(quoted)))
	}
	return r
}

func (d *definition) enabled(c *Changes) bool {
	if c != nil {
		if e := c.Defaults[d.id].Enabled; e != nil {
			return *e
		}
	}
	return !d.disabled
}

func (d *definition) actionsOf(c *Changes) []json.RawMessage {
	if c != nil {
		if a := c.Defaults[d.id].Actions; a != nil {
			return a
		}
	}
	return rawMessages(d.actions)
}

func rawMessages(texts []string) []json.RawMessage {
	raw := make([]json.RawMessage, len(texts))
	for i, text := range texts {
		raw[i] = json.RawMessage(text)
	}
	return raw
}
