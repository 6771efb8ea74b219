// Package sliding is what sliding sync is made of beside rooms: what a client asks for, in
// both dialects of the protocol, which state that selects, and what a connection remembers of
// the answers before. It is pure: it reads no database and writes no answer; package syncapi
// does.
//
// The protocol is MSC4186: https://github.com/matrix-org/matrix-spec-proposals/pull/4186. Its
// older dialect, which clients speak under an unstable path, differs in the names of some
// fields, in how state is asked for, and in having a list of ranges.
//
// spec: client-server-api/index.md#syncing
package sliding

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

const (
	// maxLists and maxSubscriptions are set by the protocol.
	maxLists         = 100
	maxSubscriptions = 100
	// maxRanges bounds the ranges of a list in the older dialect.
	maxRanges = 20
	// MaxTimeline is how many events of a room an answer has at the most.
	MaxTimeline = 100
	// maxConnID bounds the name of a connection.
	maxConnID = 255
)

// Request is what a client asks for.
type Request struct {
	ConnID string
	// Pos is where the client is; "" for the first request of a connection.
	Pos string
	// Timeout is in milliseconds.
	Timeout       int64
	SetPresence   string
	Lists         map[string]*List
	Subscriptions map[id.RoomID]*Config
	Extensions    Extensions
	// Old says that the request came in the older dialect, and is answered in it.
	Old bool
}

// Config says what of a room is wanted.
type Config struct {
	TimelineLimit int
	State         Required
}

// List is a window on the list of the user's rooms.
type List struct {
	Config
	// Ranges are the parts of the list that are wanted, ends included; nil for all.
	Ranges [][2]int
	Filter Filter
}

// Contains says whether a place of the list is in the window.
func (l *List) Contains(index int) bool {
	if l.Ranges == nil {
		return true
	}
	for _, r := range l.Ranges {
		if r[0] <= index && index <= r[1] {
			return true
		}
	}
	return false
}

// End is the first place behind all ranges, and limit where that is less.
func (l *List) End(limit int) int {
	if l.Ranges == nil {
		return limit
	}
	end := 0
	for _, r := range l.Ranges {
		end = max(end, min(r[1], limit-1)+1)
	}
	return end
}

// Filter says which rooms a list has; nil fields let all pass.
type Filter struct {
	DM           *bool       `json:"is_dm"`
	Spaces       []id.RoomID `json:"spaces"`
	Encrypted    *bool       `json:"is_encrypted"`
	Invited      *bool       `json:"is_invited"`
	OldInvited   *bool       `json:"is_invite"`
	RoomTypes    []*string   `json:"room_types"`
	NotRoomTypes []*string   `json:"not_room_types"`
	Tags         []string    `json:"tags"`
	NotTags      []string    `json:"not_tags"`
}

// Scope says for which rooms of a request an extension is wanted; nil means all lists, or
// all subscriptions.
type Scope struct {
	Lists []string `json:"lists"`
	Rooms []string `json:"rooms"`
}

// Extensions are the extensions that are wanted; nil for one that is not.
type Extensions struct {
	ToDevice      *ToDevice
	E2EE          *Extension
	AccountData   *Extension
	Receipts      *Extension
	Typing        *Extension
	Threads       *Threads
	Subscriptions *ThreadSubscriptions
}

// Extension is an extension that has no settings but its scope.
type Extension struct {
	Enabled bool `json:"enabled"`
	Scope
}

// ToDevice asks for messages to the device.
type ToDevice struct {
	Enabled bool   `json:"enabled"`
	Limit   int    `json:"limit"`
	Since   string `json:"since"`
}

// Threads asks for the threads that have news.
//
// It is MSC4360: https://github.com/matrix-org/matrix-spec-proposals/pull/4360
type Threads struct {
	Enabled      bool `json:"enabled"`
	IncludeRoots bool `json:"include_roots"`
	Limit        int  `json:"limit"`
	// Key is the name by which it was asked for.
	Key string `json:"-"`
}

// ThreadSubscriptions asks for changes of the subscriptions to threads.
//
// It is MSC4308: https://github.com/matrix-org/matrix-spec-proposals/pull/4308
type ThreadSubscriptions struct {
	Enabled bool   `json:"enabled"`
	Limit   int    `json:"limit"`
	Key     string `json:"-"`
}

// body is a request's body in either dialect.
type body struct {
	ConnID        string                `json:"conn_id"`
	Pos           string                `json:"pos"`
	Timeout       int64                 `json:"timeout"`
	SetPresence   string                `json:"set_presence"`
	Lists         map[string]listBody   `json:"lists"`
	Subscriptions map[string]configBody `json:"room_subscriptions"`
	Extensions    extensionsBody        `json:"extensions"`
}

type configBody struct {
	TimelineLimit int             `json:"timeline_limit"`
	RequiredState json.RawMessage `json:"required_state"`
}

type listBody struct {
	configBody
	Range   *[2]int  `json:"range"`
	Ranges  [][2]int `json:"ranges"`
	Filters *Filter  `json:"filters"`
}

type extensionsBody struct {
	ToDevice         *ToDevice            `json:"to_device"`
	E2EE             *Extension           `json:"e2ee"`
	AccountData      *Extension           `json:"account_data"`
	Receipts         *Extension           `json:"receipts"`
	Typing           *Extension           `json:"typing"`
	Threads          *Threads             `json:"threads"`
	OldThreads       *Threads             `json:"io.element.msc4360.threads"`
	Subscriptions    *ThreadSubscriptions `json:"thread_subscriptions"`
	OldSubscriptions *ThreadSubscriptions `json:"io.element.msc4308.thread_subscriptions"`
}

// listName is the grammar of opaque identifiers.
//
// spec: appendices.md#opaque-identifiers
var listName = regexp.MustCompile(`^[0-9A-Za-z\-._~]{1,255}$`)

// Parse reads a request's body. user is who asks; old chooses the older dialect.
func Parse(text []byte, user id.UserID, old bool) (*Request, error) {
	var b body
	if err := json.Unmarshal(text, &b); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, matrixerr.New(matrixerr.BadJSON, "%s must not be a %s", wrong.Field, wrong.Value)
		}
		return nil, matrixerr.New(matrixerr.NotJSON, "the body is not JSON")
	}
	r := &Request{ConnID: b.ConnID, Pos: b.Pos, Timeout: b.Timeout, SetPresence: b.SetPresence, Old: old,
		Lists: make(map[string]*List, len(b.Lists)), Subscriptions: make(map[id.RoomID]*Config, len(b.Subscriptions))}
	switch {
	case len(b.ConnID) > maxConnID:
		return nil, invalid("conn_id is too long")
	case len(b.Lists) > maxLists:
		return nil, invalid("there are more than %d lists", maxLists)
	case len(b.Subscriptions) > maxSubscriptions:
		return nil, invalid("there are more than %d room_subscriptions", maxSubscriptions)
	}
	for name, l := range b.Lists {
		list, err := l.list(name, user, old)
		if err != nil {
			return nil, err
		}
		r.Lists[name] = list
	}
	for name, c := range b.Subscriptions {
		room, err := id.ParseRoomID(name)
		if err != nil {
			continue // no room that there could be
		}
		config, err := c.config(user, old)
		if err != nil {
			return nil, fmt.Errorf("room_subscriptions: %w", err)
		}
		r.Subscriptions[room] = &config
	}
	r.Extensions = b.Extensions.wanted()
	return r, nil
}

func invalid(format string, args ...any) error {
	return matrixerr.New(matrixerr.InvalidParam, format, args...)
}

func (c *configBody) config(user id.UserID, old bool) (Config, error) {
	if c.TimelineLimit < 0 {
		return Config{}, invalid("timeline_limit is below 0")
	}
	out := Config{TimelineLimit: min(c.TimelineLimit, MaxTimeline)}
	if raw := bytes.TrimSpace(c.RequiredState); len(raw) == 0 || string(raw) == "null" {
		return out, nil
	}
	var clause Clause
	var err error
	if old {
		clause, err = parsePairs(c.RequiredState, user)
	} else {
		err = json.Unmarshal(c.RequiredState, &clause)
	}
	if err != nil || len(clause.Include)+len(clause.Exclude) > maxElements {
		return out, invalid("required_state cannot be read, or is too long")
	}
	if !clause.empty() {
		out.State = Required{clause}
	}
	return out, nil
}

func (l *listBody) list(name string, user id.UserID, old bool) (*List, error) {
	if !old && !listName.MatchString(name) || len(name) > 255 {
		return nil, invalid("a list's name is not an opaque identifier")
	}
	config, err := l.config(user, old)
	if err != nil {
		return nil, err
	}
	out := &List{Config: config, Ranges: l.Ranges}
	if l.Range != nil {
		out.Ranges = append(out.Ranges, *l.Range)
	}
	if len(out.Ranges) > maxRanges {
		return nil, invalid("list %s has more than %d ranges", name, maxRanges)
	}
	for _, r := range out.Ranges {
		if r[0] < 0 || r[0] > r[1] {
			return nil, invalid("list %s has a range that ends before it begins", name)
		}
	}
	if l.Filters != nil {
		out.Filter = *l.Filters
		if out.Filter.Invited == nil {
			out.Filter.Invited = out.Filter.OldInvited
		}
	}
	return out, nil
}

// wanted are the extensions that are enabled.
func (b *extensionsBody) wanted() Extensions {
	on := func(e *Extension) *Extension {
		if e == nil || !e.Enabled {
			return nil
		}
		return e
	}
	e := Extensions{E2EE: on(b.E2EE), AccountData: on(b.AccountData), Receipts: on(b.Receipts), Typing: on(b.Typing)}
	if b.ToDevice != nil && b.ToDevice.Enabled {
		e.ToDevice = b.ToDevice
	}
	if b.Threads != nil && b.Threads.Enabled {
		e.Threads = b.Threads
		e.Threads.Key = "threads"
	} else if b.OldThreads != nil && b.OldThreads.Enabled {
		e.Threads = b.OldThreads
		e.Threads.Key = "io.element.msc4360.threads"
	}
	if b.Subscriptions != nil && b.Subscriptions.Enabled {
		e.Subscriptions = b.Subscriptions
		e.Subscriptions.Key = "thread_subscriptions"
	} else if b.OldSubscriptions != nil && b.OldSubscriptions.Enabled {
		e.Subscriptions = b.OldSubscriptions
		e.Subscriptions.Key = "io.element.msc4308.thread_subscriptions"
	}
	return e
}

// Covers says whether an extension is wanted for a room: one that some lists have, and that is
// subscribed to or not.
func (s *Scope) Covers(room id.RoomID, lists []string, subscribed bool) bool {
	if subscribed && (s.Rooms == nil || hasOrAll(s.Rooms, string(room))) {
		return true
	}
	for _, l := range lists {
		if s.Lists == nil || hasOrAll(s.Lists, l) {
			return true
		}
	}
	return false
}

// hasOrAll says whether a list has a name, or "*", which stands for all.
func hasOrAll(list []string, name string) bool {
	for _, v := range list {
		if v == name || v == "*" {
			return true
		}
	}
	return false
}
