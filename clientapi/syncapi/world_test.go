package syncapi

import (
	"maps"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// world is a slow and plain picture of all rooms: the list of their events, in the order of the
// log, and nothing else. What the state of a room was at some time, who may see an event and what
// /sync has to say follows by going through the lists, as the specification has it. It knows nothing of
// state trees, memberships, hubs and whatever else answers are made of.
type world struct {
	at    id.Pos
	rooms map[id.RoomID]*worldRoom
	// forgotten are the member events of rooms that users have forgotten.
	forgotten map[string]bool
}

type worldRoom struct {
	id     id.RoomID
	events []*worldEvent
}

type worldEvent struct {
	pos    id.Pos
	id     string
	typ    string
	sender id.UserID
	// place is the one that it takes in the room's state, "" for none.
	place      string
	membership string
	visibility string
	name       string
	redacts    string
}

func newWorld() *world {
	return &world{rooms: make(map[id.RoomID]*worldRoom), forgotten: make(map[string]bool)}
}

// look reads what has happened since it last did.
func (w *world) look(n *node) {
	n.Helper()
	n.ok(n.db.Read(n.Context(), func(tx *storage.Tx) error {
		entries, err := tx.ListLog(w.at, math.MaxInt64, math.MaxInt32)
		if err != nil {
			return err
		}
		for _, l := range entries {
			room, err := tx.GetRoomByNID(l.Room)
			if err != nil {
				return err
			}
			e, err := tx.GetEventByNID(l.Event)
			if err != nil {
				return err
			}
			w.add(room.ID, l.Pos, &e)
			w.at = l.Pos
		}
		return nil
	}))
}

func (w *world) add(room id.RoomID, pos id.Pos, row *storage.Event) {
	r := w.rooms[room]
	if r == nil {
		r = &worldRoom{id: room}
		w.rooms[room] = r
	}
	f := gjson.GetManyBytes(row.JSON, "type", "sender", "state_key", "content.membership", "content.history_visibility", "content.redacts", "content.name")
	e := &worldEvent{pos: pos, id: string(row.ID), typ: f[0].Str, sender: id.UserID(f[1].Str)}
	switch {
	case f[2].Exists():
		e.place, e.membership, e.visibility, e.name = e.typ+" "+f[2].Str, f[3].Str, f[4].Str, f[6].Str
	case e.typ == "m.room.redaction":
		e.redacts = f[5].Str
	}
	r.events = append(r.events, e)
}

// upTo are a room's events up to a position.
func (r *worldRoom) upTo(pos id.Pos) []*worldEvent {
	n := 0
	for n < len(r.events) && r.events[n].pos <= pos {
		n++
	}
	return r.events[:n]
}

// worldState is the state of a room: the event in each place.
type worldState map[string]*worldEvent

// stateAfter is the state after some events.
func stateAfter(events []*worldEvent) worldState {
	out := make(worldState)
	for _, e := range events {
		if e.place != "" {
			out[e.place] = e
		}
	}
	return out
}

func (s worldState) ids() map[string]string {
	out := make(map[string]string, len(s))
	for place, e := range s {
		out[place] = e.id
	}
	return out
}

// since is what is new in a state.
func (s worldState) since(before worldState) worldState {
	out := maps.Clone(s)
	maps.DeleteFunc(out, func(place string, e *worldEvent) bool { return before[place] == e })
	return out
}

func (s worldState) joined() (n int64) {
	for _, e := range s {
		if e.membership == "join" {
			n++
		}
	}
	return n
}

// last is the newest of some events in a place of the state, nil for none.
func last(events []*worldEvent, place string) *worldEvent {
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].place == place {
			return events[i]
		}
	}
	return nil
}

// membership is what a user is to a room after some events.
func membership(events []*worldEvent, user id.UserID) string {
	if e := last(events, "m.room.member "+string(user)); e != nil {
		return e.membership
	}
	return "leave"
}

func visibility(events []*worldEvent) string {
	if e := last(events, "m.room.history_visibility "); e != nil && e.visibility != "" {
		return e.visibility
	}
	return "shared"
}

// visible says whether a user may see the event at a place of a list, which ends where the user looks.
//
// spec: client-server-api/modules/history_visibility.md#server-behaviour
func visible(events []*worldEvent, at int, user id.UserID) bool {
	own := "m.room.member " + string(user)
	was, is := membership(events[:at], user), membership(events[:at+1], user)
	joinsLater := is == "join" || slices.ContainsFunc(events[at:], func(e *worldEvent) bool { return e.place == own && e.membership == "join" })
	shows := func(visibility, membership string) bool {
		return visibility == "world_readable" || membership == "join" || visibility == "shared" && joinsLater ||
			visibility == "invited" && membership == "invite"
	}
	now := visibility(events[:at+1])
	switch events[at].place {
	case own:
		return shows(now, is) || shows(now, was)
	case "m.room.history_visibility ":
		return shows(now, is) || shows(visibility(events[:at]), is)
	}
	return shows(now, is)
}

// question is what a client asks of /sync.
type question struct {
	user        id.UserID
	since, next id.Pos
	initial     bool
	limit       int
	lazy        bool
	after       bool
	full        bool
	leave       bool
	notSender   id.UserID
	notTopics   bool
	ignored     map[id.UserID]bool
}

// told is what is to be told of a room.
type told struct {
	section  string
	timeline []string
	limited  bool
	state    map[string]string
	// any says that there is something to tell.
	any bool
	// joined is how many members there are.
	joined int64
}

// answer is what is to be told of a room; nil for nothing.
func (w *world) answer(r *worldRoom, q *question) *told {
	events := r.upTo(q.next)
	own := last(events, "m.room.member "+string(q.user))
	if own == nil {
		return nil
	}
	is := own.membership
	since := q.since
	if q.initial {
		since = 0
	}
	if is == "invite" {
		if own.pos <= since || q.ignored[own.sender] {
			return nil
		}
		return &told{section: "invite", any: true}
	}
	section := "join"
	if is != "join" {
		section = "leave"
		if w.forgotten[own.id] && (q.initial || own.pos <= since) || own.pos <= since && !(q.full && q.leave) || q.initial && !q.leave {
			return nil
		}
		if own.pos <= since {
			since = 0
		}
		if !stayed(events, q.user, since) {
			return &told{section: section, timeline: []string{own.id}, any: true}
		}
		events = r.upTo(own.pos)
	}
	known := r.upTo(since)
	whole := q.initial || membership(known, q.user) != "join"
	first := len(known)
	if whole {
		first = 0
	}
	var shown []int
	out := &told{section: section, limited: whole && !q.initial && is == "join", joined: stateAfter(events).joined()}
	for i := len(events) - 1; i >= first; i-- {
		if e := events[i]; e.place == "" && q.ignored[e.sender] || e.sender == q.notSender || e != own && !visible(events, i, q.user) {
			continue
		}
		if len(shown) == q.limit {
			out.limited = true
			break
		}
		shown = append(shown, i)
	}
	slices.Reverse(shown)
	shown, state := q.state(events, shown, known, whole || q.full, &out.limited)
	for _, i := range shown {
		out.timeline = append(out.timeline, events[i].id)
	}
	if q.notTopics {
		delete(state, "m.room.topic ")
	}
	out.state = state.ids()
	out.any = whole || q.full || out.limited || len(shown)+len(state) > 0
	return out
}

// stayed says whether a user was a member of a room at a position or later.
func stayed(events []*worldEvent, user id.UserID, since id.Pos) bool {
	for i := range events {
		ends := i+1 == len(events) || events[i+1].pos > since
		if ends && membership(events[:i+1], user) == "join" {
			return true
		}
	}
	return false
}

// state is what is to be told of a room's state beside a timeline; what of the timeline that would undo is not
// shown.
func (q *question) state(events []*worldEvent, shown []int, known []*worldEvent, all bool, limited *bool) ([]int, worldState) {
	end, before := stateAfter(events), stateAfter(known)
	if all {
		before = nil
	}
	if q.after {
		return shown, end.since(before)
	}
	for {
		start := end
		if len(shown) > 0 {
			start = stateAfter(events[:shown[0]])
		}
		hidden := end.since(start)
		for _, i := range shown {
			if hidden[events[i].place] == events[i] {
				delete(hidden, events[i].place)
			}
		}
		undone := len(shown) - 1
		for undone >= 0 && hidden[events[shown[undone]].place] == nil {
			undone--
		}
		if undone < 0 {
			state := start.since(before)
			maps.Copy(state, hidden)
			return shown, state
		}
		shown, *limited = shown[undone+1:], true
	}
}

// redacted says whether an event was redacted up to a position.
func (r *worldRoom) redacted(event string, upTo id.Pos) bool {
	return slices.ContainsFunc(r.upTo(upTo), func(e *worldEvent) bool { return e.redacts == event })
}

// always says whether two users are members of a room at a position and all the time up to another.
func (r *worldRoom) always(a, b id.UserID, from, to id.Pos) bool {
	for i := len(r.upTo(from)); i <= len(r.upTo(to)); i++ {
		if membership(r.events[:i], a) != "join" || membership(r.events[:i], b) != "join" {
			return false
		}
	}
	return true
}

// encounters are with whom of some users a user came to share a room, themselves among them where it is the
// first, and with whom they do not any more.
func (w *world) encounters(user id.UserID, users []id.UserID, from, to id.Pos) (came, went []string) {
	for _, u := range users {
		was, is, always := false, false, false
		for _, r := range w.rooms {
			was = was || r.always(user, u, from, from)
			is = is || r.always(user, u, to, to)
			always = always || r.always(user, u, from, to)
		}
		if is && !always {
			came = append(came, string(u))
		}
		if was && !is && u != user {
			went = append(went, string(u))
		}
	}
	return came, went
}
