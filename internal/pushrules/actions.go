package pushrules

import (
	"encoding/json"
	"errors"

	"github.com/tidwall/gjson"
)

// Actions is what is to be done about an event for a user. It is shared, so nobody changes it.
//
// spec: client-server-api/modules/push.md#actions
type Actions struct {
	// Rule is the ID of the rule that decided, and "" when none did.
	Rule string
	// Notify says that the event counts as unread, and is pushed.
	Notify bool
	// Highlight says that it is to be brought to attention; it is never true without Notify.
	Highlight bool
	// Sound is what is to be played, and "" for none.
	Sound string
	// Tweaks are for the push gateway, those above among them.
	Tweaks map[string]json.RawMessage
	// List are the actions as the rule has them.
	List []json.RawMessage
}

// nothing is what is to be done when no rule matches.
var nothing = new(Actions)

type actionKind uint8

const (
	actionNone actionKind = iota // one that is ignored
	actionNotify
	actionTweak
)

type action struct {
	kind  actionKind
	tweak string
	value json.RawMessage
}

func parseAction(raw json.RawMessage) (action, error) {
	r := gjson.ParseBytes(raw)
	switch {
	case r.Type == gjson.String && r.Str == "notify":
		return action{kind: actionNotify}, nil
	case r.Type == gjson.String && (r.Str == "dont_notify" || r.Str == "coalesce"):
		// spec: client-server-api/modules/push.md#historical-actions
		return action{}, nil
	case r.Type == gjson.String:
		return action{}, errors.New("there is no such action")
	case !r.IsObject():
		return action{}, errors.New("is neither a string nor an object")
	}
	name, value := property(r, "set_tweak"), property(r, "value")
	if name.Type != gjson.String {
		return action{}, errors.New("set_tweak: is missing or not a string")
	}
	a := action{kind: actionTweak, tweak: name.Str, value: json.RawMessage(value.Raw)}
	if !value.Exists() && a.tweak == "highlight" {
		a.value = json.RawMessage("true")
	}
	return a, nil
}

func compileActions(rule string, list []json.RawMessage) *Actions {
	a := &Actions{Rule: rule, List: list}
	for _, raw := range list {
		switch p, err := parseAction(raw); {
		case err != nil:
			// One that was good when it was stored and is no more is as those that mean nothing any more.
		case p.kind == actionNotify:
			a.Notify = true
		case p.kind == actionTweak && len(p.value) > 0:
			if a.Tweaks == nil {
				a.Tweaks = make(map[string]json.RawMessage)
			}
			a.Tweaks[p.tweak] = p.value
		}
	}
	a.Highlight = a.Notify && string(a.Tweaks["highlight"]) == "true"
	if s := gjson.ParseBytes(a.Tweaks["sound"]); s.Type == gjson.String {
		a.Sound = s.Str
	}
	return a
}
