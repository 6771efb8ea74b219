package pushrules

import (
	"strings"

	"github.com/tidwall/gjson"

	"parley/internal/id"
)

// Context is what rules ask about an event that isn't in it.
type Context struct {
	// ID and Room are the event's; in the form in which events are stored it may lack them.
	ID   id.EventID
	Room id.RoomID
	// Members is how many are joined to the room.
	Members int
	// Powers are who may notify whom; nil where they are to be looked up if they are asked for.
	Powers *Powers
}

// Powers are what the room's power levels say of the sender of an event.
type Powers struct {
	// Sender is the sender's power level.
	Sender int64
	// Notifications are the levels that it takes to notify, as "notifications" has them.
	Notifications map[string]int64
}

// Member is a user for whom rules are evaluated, and their name in the room.
type Member struct {
	User        id.UserID
	DisplayName string
}

// Event is an event as rules see it. It remembers what was looked up, so it is made once for all of a
// room's members, and is for one goroutine.
type Event struct {
	context    Context
	sender     id.UserID
	event      gjson.Result
	properties map[string]*found
	// asked says that a condition asked for powers that are not known.
	asked bool
}

// AsksPowers says whether what was evaluated depends on powers that are not known: it is to be evaluated again
// once they are.
func (e *Event) AsksPowers() bool { return e.asked }

// Learn tells the powers.
func (e *Event) Learn(p *Powers) { e.context.Powers, e.asked = p, false }

// NewEvent makes an Event of its JSON, which is not changed as long as the Event is used.
func NewEvent(json []byte, context Context) *Event {
	e := &Event{context: context, event: gjson.ParseBytes(json), properties: make(map[string]*found, 16)}
	e.sender = id.UserID(property(e.event, "sender").Str)
	return e
}

// found is a property of an event, if it is there.
type found struct {
	value  gjson.Result
	folded *string
	// values are what is in a list, once listed.
	values map[scalar]struct{}
	listed bool
}

// property looks up a property by its path, or finds that it was looked up before.
func (e *Event) property(key string) *found {
	p := e.properties[key]
	if p == nil {
		p = &found{value: e.find(key)}
		e.properties[key] = p
	}
	return p
}

func (e *Event) find(key string) gjson.Result {
	switch {
	case key == "event_id" && e.context.ID != "":
		return gjson.Result{Type: gjson.String, Str: string(e.context.ID), Raw: `""`}
	case key == "room_id" && e.context.Room != "":
		return gjson.Result{Type: gjson.String, Str: string(e.context.Room), Raw: `""`}
	}
	value := e.event
	for _, name := range splitPath(key) {
		value = property(value, name)
	}
	return value
}

// splitPath splits the path of a property into the names of which it is made.
//
// spec: appendices.md#dot-separated-property-paths
func splitPath(path string) []string {
	var names []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '.':
			names = append(names, name.String())
			name.Reset()
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name.WriteByte(path[i])
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}

// foldedText is a string's text without regard to case.
func (p *found) foldedText() string {
	if p.folded == nil {
		s := fold(p.value.Str)
		p.folded = &s
	}
	return *p.folded
}

// contains says whether a list has a value.
func (p *found) contains(v scalar) bool {
	if !p.listed {
		// An event may mention a thousand users, and be evaluated for ten thousand.
		p.listed = true
		if p.value.IsArray() {
			p.values = make(map[scalar]struct{})
			p.value.ForEach(func(_, item gjson.Result) bool {
				if s, ok := scalarOf(item); ok {
					p.values[s] = struct{}{}
				}
				return true
			})
		}
	}
	_, ok := p.values[v]
	return ok
}
