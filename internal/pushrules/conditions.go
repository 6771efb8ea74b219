package pushrules

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// condition is one of a rule's conditions, ready to be tried.
//
// spec: client-server-api/modules/push.md#conditions
type condition interface {
	holds(e *Event, m Member) bool
}

// never is a condition that this server doesn't know.
type never struct{}

func (never) holds(*Event, Member) bool { return false }

// eventMatch matches a pattern on a property.
type eventMatch struct {
	key     string
	pattern glob
}

func (c *eventMatch) holds(e *Event, _ Member) bool {
	p := e.property(c.key)
	if p.value.Type != gjson.String {
		return false
	}
	if c.key == "content.body" {
		return c.pattern.matchWords(p.foldedText())
	}
	return c.pattern.matchAll(p.foldedText())
}

// isUser holds if a property is the ID of the user whose rule it is.
type isUser struct{ key string }

func (c *isUser) holds(e *Event, m Member) bool {
	p := e.property(c.key)
	return p.value.Type == gjson.String && p.value.Str == string(m.User)
}

// propertyIs compares a property with a value.
type propertyIs struct {
	key   string
	value scalar
}

func (c *propertyIs) holds(e *Event, _ Member) bool {
	v, ok := scalarOf(e.property(c.key).value)
	return ok && v == c.value
}

// propertyContains looks for a value in a list.
type propertyContains struct {
	key   string
	value scalar
}

func (c *propertyContains) holds(e *Event, _ Member) bool {
	return e.property(c.key).contains(c.value)
}

// containsUser looks for the ID of the user whose rule it is in a list.
type containsUser struct{ key string }

func (c *containsUser) holds(e *Event, m Member) bool {
	return e.property(c.key).contains(scalar{kind: gjson.String, text: string(m.User)})
}

// containsDisplayName looks for the name of the user whose rule it is in the body.
type containsDisplayName struct{}

func (containsDisplayName) holds(e *Event, m Member) bool {
	p := e.property("content.body")
	return p.value.Type == gjson.String && m.DisplayName != "" && containsWords(p.foldedText(), fold(m.DisplayName))
}

// memberCount compares the number of a room's members.
type memberCount struct {
	atLeast, atMost int64
}

func (c *memberCount) holds(e *Event, _ Member) bool {
	n := int64(e.context.Members)
	return c.atLeast <= n && n <= c.atMost
}

// mayNotify holds if the sender has the power to notify so.
type mayNotify struct{ key string }

// defaultNotifyLevel is the power that it takes to notify if a room doesn't say another.
const defaultNotifyLevel = 50

func (c *mayNotify) holds(e *Event, _ Member) bool {
	p := e.context.Powers
	if p == nil {
		e.asked = true
		return false
	}
	level, ok := p.Notifications[c.key]
	if !ok {
		level = defaultNotifyLevel
	}
	return p.Sender >= level
}

// scalar is a value that is no list and no object, and so can be compared.
type scalar struct {
	kind   gjson.Type
	text   string
	number int64
}

// maxInteger is the largest integer of canonical JSON.
//
// spec: appendices.md#canonical-json
const maxInteger = 1<<53 - 1

// scalarOf is a JSON value as a scalar; ok is false for lists, objects, and numbers that are
// no integers.
func scalarOf(r gjson.Result) (s scalar, ok bool) {
	switch {
	case !r.Exists() || r.Type == gjson.JSON:
		return scalar{}, false
	case r.Type == gjson.String:
		return scalar{kind: gjson.String, text: r.Str}, true
	case r.Type == gjson.Number:
		n, err := strconv.ParseInt(r.Raw, 10, 64)
		return scalar{kind: gjson.Number, number: n}, err == nil && -maxInteger <= n && n <= maxInteger
	default:
		return scalar{kind: r.Type}, true
	}
}

// property is a field of an object, by its name as it is.
func property(object gjson.Result, name string) (value gjson.Result) {
	if !object.IsObject() {
		return value
	}
	object.ForEach(func(k, v gjson.Result) bool {
		if k.Str == name {
			value = v
			return false
		}
		return true
	})
	return value
}

// parseCondition makes a condition of JSON. It is an error if it is none, or a known one that lacks
// something; one that isn't known never holds.
func parseCondition(raw json.RawMessage) (condition, error) {
	r := gjson.ParseBytes(raw)
	if !r.IsObject() {
		return nil, errors.New("is not an object")
	}
	kind := property(r, "kind")
	if kind.Type != gjson.String {
		return nil, errors.New("kind: is missing or not a string")
	}
	switch kind.Str {
	case "event_match":
		key, pattern := property(r, "key"), property(r, "pattern")
		if key.Type != gjson.String || pattern.Type != gjson.String {
			return nil, errors.New("key or pattern: is missing or not a string")
		}
		g, err := compileGlob(pattern.Str)
		if err != nil {
			return nil, err
		}
		return &eventMatch{key.Str, g}, nil
	case "event_property_is", "event_property_contains":
		key := property(r, "key")
		value, ok := scalarOf(property(r, "value"))
		switch {
		case key.Type != gjson.String:
			return nil, errors.New("key: is missing or not a string")
		case !ok:
			return nil, errors.New("value: is missing, or not a string, an integer, a boolean or null")
		case kind.Str == "event_property_is":
			return &propertyIs{key.Str, value}, nil
		}
		return &propertyContains{key.Str, value}, nil
	case "contains_display_name":
		return containsDisplayName{}, nil
	case "room_member_count":
		is := property(r, "is")
		if is.Type != gjson.String {
			return nil, errors.New("is: is missing or not a string")
		}
		return parseMemberCount(is.Str)
	case "sender_notification_permission":
		key := property(r, "key")
		if key.Type != gjson.String {
			return nil, errors.New("key: is missing or not a string")
		}
		return &mayNotify{key.Str}, nil
	}
	return never{}, nil
}

func parseMemberCount(is string) (condition, error) {
	digits := strings.TrimLeft(is, "<=>")
	op := is[:len(is)-len(digits)]
	n, err := strconv.ParseInt(digits, 10, 64)
	// Only digits: ParseInt would take a sign, too.
	if err != nil || digits[0] < '0' || digits[0] > '9' || n > maxInteger {
		return nil, errors.New("is: has no decimal integer")
	}
	switch op {
	case "", "==":
		return &memberCount{n, n}, nil
	case "<":
		return &memberCount{0, n - 1}, nil
	case "<=":
		return &memberCount{0, n}, nil
	case ">":
		return &memberCount{n + 1, maxInteger}, nil
	case ">=":
		return &memberCount{n, maxInteger}, nil
	}
	return nil, errors.New("is: has an operator other than ==, <, >, >= and <=")
}

// ofUser makes a default rule's condition of what was parsed with theUser for the user.
func ofUser(c condition) condition {
	switch c := c.(type) {
	case *eventMatch:
		if c.pattern.literal == fold(theUser) {
			return &isUser{c.key}
		}
	case *propertyContains:
		if c.value.text == theUser {
			return &containsUser{c.key}
		}
	}
	return c
}
