// Package filter parses the filters that clients give to say which events they want, and
// applies them. It is pure: it knows neither where filters are kept nor where events come from.
//
// spec: client-server-api/index.md#filtering
package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// Filter says what a client wants of a sync. Its zero value lets everything pass.
type Filter struct {
	// EventFields are the paths of the fields to include of each event; nil for all.
	EventFields []string `json:"event_fields"`
	// EventFormat is "client", which "" means too, or "federation".
	EventFormat string `json:"event_format"`
	Presence    Events `json:"presence"`
	AccountData Events `json:"account_data"`
	Room        Room   `json:"room"`

	fields *field
}

// Events says which events pass. Each list is nil where it is not given.
type Events struct {
	// Limit is how many events there may be; nil for the default.
	Limit      *int        `json:"limit"`
	Senders    []id.UserID `json:"senders"`
	NotSenders []id.UserID `json:"not_senders"`
	// Types and NotTypes may have '*' for any sequence of characters.
	Types    []string `json:"types"`
	NotTypes []string `json:"not_types"`
}

// Most is how many events there may be, where otherwise there is some other limit.
func (e *Events) Most(otherwise int) int {
	if e.Limit == nil {
		return otherwise
	}
	return *e.Limit
}

// RoomEvents says which events of rooms pass.
type RoomEvents struct {
	Events
	Rooms                   []id.RoomID `json:"rooms"`
	NotRooms                []id.RoomID `json:"not_rooms"`
	LazyLoadMembers         bool        `json:"lazy_load_members"`
	IncludeRedundantMembers bool        `json:"include_redundant_members"`
	// UnreadThreads asks for notification counts for each thread.
	UnreadThreads bool `json:"unread_thread_notifications"`
	// ContainsURL wants events with a url in their content, or without one; nil for both.
	ContainsURL *bool `json:"contains_url"`
	// RelTypes wants events with one of these relations, NotRelTypes none with one of these.
	//
	// It is MSC3874: https://github.com/matrix-org/matrix-spec-proposals/pull/3874
	RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`
}

// Room says what passes of rooms.
type Room struct {
	Rooms        []id.RoomID `json:"rooms"`
	NotRooms     []id.RoomID `json:"not_rooms"`
	IncludeLeave bool        `json:"include_leave"`
	State        RoomEvents  `json:"state"`
	Timeline     RoomEvents  `json:"timeline"`
	Ephemeral    RoomEvents  `json:"ephemeral"`
	AccountData  RoomEvents  `json:"account_data"`
}

// Parse reads a filter. Fields that it does not know are passed over, as the specification
// may add some.
func Parse(text []byte) (*Filter, error) {
	var f Filter
	if err := decode(text, &f); err != nil {
		return nil, err
	}
	switch f.EventFormat {
	case "", "client", "federation":
	default:
		return nil, invalid("event_format is neither client nor federation")
	}
	check := checker{}
	check.events("presence", &f.Presence)
	check.events("account_data", &f.AccountData)
	check.rooms("room", f.Room.Rooms, f.Room.NotRooms)
	check.roomEvents("room.state", &f.Room.State)
	check.roomEvents("room.timeline", &f.Room.Timeline)
	check.roomEvents("room.ephemeral", &f.Room.Ephemeral)
	check.roomEvents("room.account_data", &f.Room.AccountData)
	if check.err != nil {
		return nil, check.err
	}
	if f.EventFields != nil {
		f.fields = &field{children: make(map[string]*field)}
		for _, path := range f.EventFields {
			f.fields.add(splitPath(path))
		}
	}
	return &f, nil
}

// ParseRoomEvents reads the filter that /messages and its like take.
func ParseRoomEvents(text []byte) (*RoomEvents, error) {
	var f RoomEvents
	if err := decode(text, &f); err != nil {
		return nil, err
	}
	check := checker{}
	check.roomEvents("filter", &f)
	if check.err != nil {
		return nil, check.err
	}
	return &f, nil
}

func decode(text []byte, into any) error {
	if !json.Valid(text) {
		return matrixerr.New(matrixerr.NotJSON, "the filter is not JSON")
	}
	if trimmed := strings.TrimLeft(string(text[:min(len(text), 64)]), " \t\r\n"); !strings.HasPrefix(trimmed, "{") {
		return matrixerr.New(matrixerr.BadJSON, "the filter is not a JSON object")
	}
	err := json.Unmarshal(text, into)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return matrixerr.New(matrixerr.BadJSON, "the filter's %s must not be a %s", wrong.Field, wrong.Value)
	case err != nil:
		return matrixerr.New(matrixerr.BadJSON, "the filter cannot be read: %v", err)
	}
	return nil
}

func invalid(format string, args ...any) *matrixerr.Error {
	return matrixerr.New(matrixerr.InvalidParam, "the filter's "+format, args...)
}

// checker keeps the first thing that is wrong with a filter.
type checker struct{ err error }

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = invalid(format, args...)
	}
}

func (c *checker) events(where string, e *Events) {
	if e.Most(0) < 0 {
		c.fail("%s.limit is below 0", where)
	}
	for _, list := range [][]id.UserID{e.Senders, e.NotSenders} {
		for _, user := range list {
			if _, err := id.ParseUserID(string(user)); err != nil {
				c.fail("%s names a sender %.50q: %v", where, string(user), err)
			}
		}
	}
}

func (c *checker) rooms(where string, lists ...[]id.RoomID) {
	for _, list := range lists {
		for _, room := range list {
			if _, err := id.ParseRoomID(string(room)); err != nil {
				c.fail("%s names a room %.50q: %v", where, string(room), err)
			}
		}
	}
}

func (c *checker) roomEvents(where string, e *RoomEvents) {
	c.events(where, &e.Events)
	c.rooms(where, e.Rooms, e.NotRooms)
}

// Match says whether an event of that type and sender passes.
func (e *Events) Match(typ string, sender id.UserID) bool {
	return !slices.Contains(e.NotSenders, sender) && !matchAny(e.NotTypes, typ) &&
		(e.Senders == nil || slices.Contains(e.Senders, sender)) &&
		(e.Types == nil || matchAny(e.Types, typ))
}

// MatchRoom says whether anything of that room passes.
func (e *RoomEvents) MatchRoom(room id.RoomID) bool { return matchRoom(e.Rooms, e.NotRooms, room) }

// MatchEvent says whether an event passes; hasURL says whether there is a url in its content, and relType
// how it relates to another, "" for not at all.
func (e *RoomEvents) MatchEvent(room id.RoomID, typ string, sender id.UserID, hasURL bool, relType string) bool {
	return e.Match(typ, sender) && (e.ContainsURL == nil || *e.ContainsURL == hasURL) && e.MatchRoom(room) &&
		(e.RelTypes == nil || slices.Contains(e.RelTypes, relType)) && !slices.Contains(e.NotRelTypes, relType)
}

// Everything says that each event of the rooms that MatchRoom lets pass does so.
func (e *RoomEvents) Everything() bool {
	return e.Senders == nil && e.Types == nil && len(e.NotSenders) == 0 && len(e.NotTypes) == 0 && e.ContainsURL == nil &&
		e.RelTypes == nil && len(e.NotRelTypes) == 0
}

// MatchRoom says whether anything of that room passes.
func (r *Room) MatchRoom(room id.RoomID) bool { return matchRoom(r.Rooms, r.NotRooms, room) }

func matchRoom(rooms, not []id.RoomID, room id.RoomID) bool {
	return !slices.Contains(not, room) && (rooms == nil || slices.Contains(rooms, room))
}

func matchAny(patterns []string, typ string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matchGlob(p, typ) })
}

// matchGlob matches a pattern in which '*' stands for any sequence of characters.
func matchGlob(pattern, s string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], after
	}
}

// field is a tree of the fields to include; one without children includes all that is below.
type field struct {
	children map[string]*field
}

func (f *field) add(path []string) {
	for i, name := range path {
		if f.children == nil {
			return // the whole of it is included already
		}
		child := f.children[name]
		if child == nil {
			child = &field{}
			if i+1 < len(path) {
				child.children = make(map[string]*field)
			}
			f.children[name] = child
		} else if i+1 == len(path) {
			child.children = nil
		}
		f = child
	}
}

// splitPath splits a path at its dots. A backslash makes a dot or a backslash part of a name.
//
// spec: appendices.md#dot-separated-property-paths
func splitPath(path string) []string {
	var out []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name.WriteByte(path[i])
		case c == '.':
			out = append(out, name.String())
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	return append(out, name.String())
}

// Fields is the event with only the fields that the filter wants; event is a JSON object.
func (f *Filter) Fields(event []byte) ([]byte, error) {
	if f.fields == nil {
		return event, nil
	}
	out, err := f.fields.project(event)
	if err != nil {
		return nil, fmt.Errorf("select fields of an event: %w", err)
	}
	if out == nil {
		return []byte("{}"), nil
	}
	return out, nil
}

// project is what is wanted of a value, nil for nothing.
func (f *field) project(value json.RawMessage) (json.RawMessage, error) {
	if f.children == nil {
		return value, nil
	}
	if len(value) == 0 || value[0] != '{' {
		return nil, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(value, &object); err != nil {
		return nil, err
	}
	out := make(map[string]json.RawMessage, len(f.children))
	for name, child := range f.children {
		v, ok := object[name]
		if !ok {
			continue
		}
		part, err := child.project(v)
		if err != nil {
			return nil, err
		}
		if part != nil {
			out[name] = part
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return json.Marshal(out)
}
