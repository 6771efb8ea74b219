package syncapi

import (
	"cmp"
	"slices"

	"github.com/tidwall/gjson"

	"parley/clientapi/syncapi/sliding"
	"parley/internal/id"
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
)

const (
	// bumpAtOnce is how many events are read at a time to find the last that matters, and maxBump
	// how many in all.
	bumpAtOnce = 30
	maxBump    = 600
)

// room writes a room, if there is anything to tell of it, and says whether there was.
func (s *slider) room(w *wantedRoom) (told bool, err error) {
	sent, known := s.state.Rooms[w.nid]
	w.known, w.since, w.flags = known, s.from(), sent.Flags
	if sent.UpTo != 0 {
		w.since = sent.UpTo
	}
	if !known {
		w.since = 0
	}
	old := s.state.Config(sent)
	direct := s.direct[w.id]
	expanded := known && w.membership == "join" && w.config.TimelineLimit > sent.Limit
	sameState := old == w.text
	if known && w.activity <= storage.Ord(w.since) && w.pos <= w.since && !expanded && sameState && direct == sent.Has(sliding.DM) {
		sent.UpTo, sent.Flags = 0, s.extended(w)
		s.set(w.nid, sent, old)
		return false, nil
	}
	m, err := s.tx.GetMembership(s.req.user, w.nid)
	if err != nil {
		return false, err
	}
	mark := len(s.out.buf)
	s.out.anyKey(string(w.id))
	s.out.open('{')
	a := slidingRoom{slider: s, w: w, m: &m, sent: sent, direct: direct, expanded: expanded}
	if told, err = a.write(old); err != nil {
		return false, err
	}
	if !told {
		s.out.buf = s.out.buf[:mark]
	} else {
		s.out.close('}')
	}
	w.sent = told
	a.sent.UpTo = 0
	a.sent.Flags = s.extended(w).With(sliding.DM, direct)
	s.set(w.nid, a.sent, w.text)
	return told, nil
}

// extended are the flags of a room, as the extensions are about to tell of it what they have.
func (s *slider) extended(w *wantedRoom) sliding.Flags {
	e := &s.in.Extensions
	covers := func(x *sliding.Extension) bool { return x != nil && x.Covers(w.id, w.lists, w.subscribed) }
	return w.flags.With(sliding.Receipts, covers(e.Receipts)).With(sliding.AccountData, covers(e.AccountData))
}

// slidingRoom writes one room.
type slidingRoom struct {
	*slider
	w      *wantedRoom
	m      *storage.Membership
	sent   sliding.Sent
	direct bool
	// expanded says that the client wants more of the timeline than it was given before.
	expanded bool
}

// write writes the fields of a room; old is what state was asked for before.
func (a *slidingRoom) write(old string) (told bool, err error) {
	m := a.m
	c := &roomChange{m: m, since: a.w.since, to: storage.Ord(a.head.Pos), whole: !a.w.known}
	before := m.Membership
	if a.w.known {
		if before, err = a.membershipAt(m, c.since); err != nil {
			return false, err
		}
	}
	switch m.Membership {
	case "invite", "knock":
		if a.w.known && m.Pos <= c.since {
			return false, nil
		}
		return true, a.fromOutside(true)
	case "join":
		c.whole = c.whole || before != "join"
	default:
		if a.w.known && m.Pos <= c.since {
			return false, nil
		}
		stayed := before == "join"
		if !a.w.known || !stayed {
			c.whole = true
			if stayed, err = a.stayedSince(m, c.since); err != nil {
				return false, err
			}
		}
		if !stayed {
			return true, a.fromOutside(!a.w.known)
		}
		ord, ok, err := a.tx.GetOrd(m.Event)
		if err != nil {
			return false, err
		}
		if c.to = storage.Ord(m.Pos); ok && ord > 0 {
			c.to = ord
		}
	}
	return a.inside(c, old)
}

// begin writes what is told of every room.
func (a *slidingRoom) begin(initial bool, bump storage.Ord) {
	o := a.out
	if initial {
		o.key("initial")
		o.bool(true)
	}
	if !a.in.Old && len(a.w.lists) > 0 {
		o.key("lists")
		o.open('[')
		for _, name := range a.w.lists {
			o.string(name)
		}
		o.close(']')
	}
	o.key("membership")
	o.string(a.m.Membership)
	o.key("bump_stamp")
	o.int(int64(max(bump, 0)))
}

// name is that of a field in the request's dialect.
func (s *slider) name(name, old string) string {
	if s.in.Old {
		return old
	}
	return name
}

// fromOutside writes a room that the user is not in.
func (a *slidingRoom) fromOutside(initial bool) error {
	e, err := a.tx.GetEventByNID(a.m.Event)
	if err != nil {
		return err
	}
	a.begin(initial, storage.Ord(a.m.Pos))
	a.out.key(a.name("stripped_state", "invite_state"))
	a.out.open('[')
	a.strippedState(a.m, &e)
	a.out.close(']')
	return nil
}

// inside writes a room that the user is in, or was, and says whether there is anything to tell.
func (a *slidingRoom) inside(c *roomChange, old string) (told bool, err error) {
	room, err := a.tx.GetRoomByNID(a.m.Room)
	if err != nil {
		return false, err
	}
	view, err := a.Rooms.ViewMember(a.tx, room, *a.m)
	if err != nil {
		return false, err
	}
	floor, limit := storage.Ord(c.since), a.w.config.TimelineLimit
	if c.whole || a.expanded {
		floor = 0
	}
	rows, err := a.tx.ListTimelineBackwards(c.m.Room, c.to, floor, limit+1)
	if err != nil {
		return false, err
	}
	bump, err := a.bump(c, rows)
	if err != nil {
		return false, err
	}
	t, err := a.timeline(c, view, rows, floor, limit)
	if err != nil {
		return false, err
	}
	d, err := a.delta(c, &room)
	if err != nil {
		return false, err
	}
	state, err := a.selectState(c, d, t, old)
	if err != nil {
		return false, err
	}
	if c.whole || a.expanded || t.limited {
		a.sent.Limit = limit
	}
	changedDM := a.w.known && a.direct != a.sent.Has(sliding.DM)
	if !c.whole && len(t.events) == 0 && !t.limited && state.empty() && !d.visible() && !changedDM && a.m.Pos <= c.since {
		return false, nil
	}
	if a.begin(c.whole, bump); c.whole {
		a.w.known, a.w.since = false, 0 // nor do the extensions rely on what was told before
	}
	if a.direct || changedDM {
		a.out.key("is_dm")
		a.out.bool(a.direct)
	}
	if err := a.summary(c, &room, d); err != nil {
		return false, err
	}
	if err := a.writeState(&room, state); err != nil {
		return false, err
	}
	if err := a.writeTimeline(c, view, &room, t); err != nil {
		return false, err
	}
	if a.in.Old && c.joined() && a.Unread != nil {
		u, err := a.Unread(a.tx, a.req.user, &room)
		if err != nil {
			return false, err
		}
		a.out.counts(total(&u))
	}
	return true, nil
}

// bumps are the types of events that count as activity.
var bumps = []string{"m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "m.beacon_info"}

// bump is the place of the last event that counts as activity; for one who is not a member,
// where their membership ended.
func (a *slidingRoom) bump(c *roomChange, rows []storage.TimelineEvent) (storage.Ord, error) {
	if !c.joined() {
		return storage.Ord(a.m.Pos), nil
	}
	next := c.to
	for scanned := 0; scanned < maxBump; {
		for i := range rows {
			if slices.Contains(bumps, gjson.GetBytes(rows[i].JSON, "type").Str) {
				return rows[i].Ord, nil
			}
			next = rows[i].Ord - 1
		}
		scanned += bumpAtOnce
		var err error
		if rows, err = a.tx.ListTimelineBackwards(a.m.Room, next, 0, bumpAtOnce); err != nil {
			return 0, err
		}
		if len(rows) == 0 {
			break
		}
	}
	first, _, err := a.tx.GetFirstOrd(a.m.Room)
	return max(first, 1), err
}

// stateDelta is what has changed of a room's state.
type stateDelta struct {
	root int64
	// changed are the events that are new in it; gone the places that are empty now. Both are
	// nothing for a client that knows nothing.
	changed []storage.Event
	gone    []storage.Event
	whole   bool
	name    bool
	avatar  bool
	members bool
}

// visible says whether it shows in a room's fields, whatever state was asked for.
func (d *stateDelta) visible() bool { return d.name || d.avatar || d.members }

// delta finds out what has changed of the state.
func (a *slidingRoom) delta(c *roomChange, room *storage.Room) (*stateDelta, error) {
	d := &stateDelta{root: room.Root, whole: c.whole}
	var err error
	if !c.joined() {
		if d.root, _, _, err = a.tx.GetCurrentAt(room.NID, c.to); err != nil {
			return nil, err
		}
	}
	if c.whole {
		return d, nil
	}
	before, _, _, err := a.tx.GetCurrentAt(room.NID, storage.Ord(c.since))
	if err != nil || before == d.root {
		return d, err
	}
	if d.changed, err = a.Rooms.StateDelta(a.tx, before, d.root); err != nil {
		return nil, err
	}
	if d.gone, err = a.Rooms.StateDelta(a.tx, d.root, before); err != nil {
		return nil, err
	}
	places := make(map[string]bool, len(d.changed))
	for i := range d.changed {
		places[placeOf(&d.changed[i])] = true
	}
	d.gone = slices.DeleteFunc(d.gone, func(e storage.Event) bool { return places[placeOf(&e)] })
	for _, list := range [][]storage.Event{d.changed, d.gone} {
		for i := range list {
			switch gjson.GetBytes(list[i].JSON, "type").Str {
			case "m.room.name":
				d.name = true
			case "m.room.avatar":
				d.avatar = true
			case "m.room.member":
				d.members = true
			}
		}
	}
	return d, nil
}

// selected is the state that a client is told.
type selected struct {
	events, gone []storage.Event
}

func (s *selected) empty() bool { return len(s.events)+len(s.gone) == 0 }

// selectState is the state that the client asked for and does not know; old is what it asked for
// before.
func (a *slidingRoom) selectState(c *roomChange, d *stateDelta, t *timeline, old string) (*selected, error) {
	wanted := a.w.config.State
	out := &selected{}
	var err error
	if d.whole {
		out.events, err = a.stateAt(d.root, wanted)
	} else {
		lazy := wanted.Lazy() && !t.limited
		out.events, out.gone = wantedOf(d.changed, wanted, lazy), wantedOf(d.gone, wanted, lazy)
		if old != a.w.text {
			var more []storage.Event
			if more, err = a.newlyWanted(d.root, wanted, old); err == nil {
				out.events = append(out.events, more...)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if wanted.Lazy() {
		if out.events, err = a.addMembers(d.root, out.events, involved(t.events)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out.events, func(x, y storage.Event) int { return cmp.Compare(x.NID, y.NID) })
	out.events = slices.CompactFunc(out.events, func(x, y storage.Event) bool { return x.NID == y.NID })
	return out, nil
}

// stateAt is what is wanted of a state.
func (a *slidingRoom) stateAt(root int64, wanted sliding.Required) ([]storage.Event, error) {
	var events []storage.Event
	var err error
	switch all := wanted.AllMembers(); {
	case wanted.Others():
		events, err = a.Rooms.StateEvents(a.tx, root, all)
	case all:
		events, err = a.Rooms.MemberEvents(a.tx, root)
	}
	if err != nil {
		return nil, err
	}
	if events, err = a.addMembers(root, events, wanted.Members()); err != nil {
		return nil, err
	}
	return wantedOf(events, wanted, false), nil
}

// newlyWanted is what is wanted of a state and was not before.
func (a *slidingRoom) newlyWanted(root int64, wanted sliding.Required, old string) ([]storage.Event, error) {
	before, err := sliding.ParseRequired(old)
	if err != nil {
		return nil, err
	}
	events, err := a.stateAt(root, wanted)
	return slices.DeleteFunc(events, func(e storage.Event) bool {
		f := gjson.GetManyBytes(e.JSON, "type", "state_key")
		return before.Matches(f[0].Str, f[1].Str)
	}), err
}

// wantedOf keeps the events that are wanted; with members all of members, too.
func wantedOf(events []storage.Event, wanted sliding.Required, members bool) []storage.Event {
	var out []storage.Event
	for i := range events {
		f := gjson.GetManyBytes(events[i].JSON, "type", "state_key")
		if members && f[0].Str == "m.room.member" || wanted.Matches(f[0].Str, f[1].Str) {
			out = append(out, events[i])
		}
	}
	return out
}

// involved are those who sent events, and those whose membership they change.
func involved(events []storage.TimelineEvent) []id.UserID {
	users := senders(events)
	for i := range events {
		f := gjson.GetManyBytes(events[i].JSON, "type", "state_key")
		if f[0].Str == "m.room.member" && !slices.Contains(users, id.UserID(f[1].Str)) {
			users = append(users, id.UserID(f[1].Str))
		}
	}
	return users
}

// summary writes a room's name and picture, who stands for it where it has none, and how many
// are in it.
func (a *slidingRoom) summary(c *roomChange, room *storage.Room, d *stateDelta) error {
	o := a.out
	name, err := a.field(room, d, "m.room.name", "name")
	if err != nil {
		return err
	}
	if d.whole && name != "" || d.name {
		a.nullable("name", name)
	}
	if d.whole || d.avatar {
		avatar, err := a.field(room, d, "m.room.avatar", "url")
		if err != nil {
			return err
		}
		if avatar != "" || d.avatar {
			a.nullable("avatar", avatar)
		}
	}
	if name == "" && (d.whole || d.name || d.members) {
		if err := a.writeHeroes(room, d); err != nil {
			return err
		}
	}
	if c.joined() && (d.whole || d.members) {
		o.key("joined_count")
		o.int(room.Joined)
		o.key("invited_count")
		o.int(room.Invited)
	}
	return nil
}

func (a *slidingRoom) nullable(key, value string) {
	a.out.key(key)
	if value == "" {
		a.out.raw([]byte("null"))
		return
	}
	a.out.string(value)
}

// field is a field of the content of a state event, "" for none.
func (a *slidingRoom) field(room *storage.Room, d *stateDelta, typ, name string) (string, error) {
	content, err := a.Rooms.StateContent(a.tx, room, d.root, typ, "")
	return gjson.GetBytes(content, name).Str, err
}

// writeHeroes writes who stands for a room.
func (a *slidingRoom) writeHeroes(room *storage.Room, d *stateDelta) error {
	users, err := a.tx.ListHeroes(room.NID, a.req.user)
	if err != nil {
		return err
	}
	members, err := a.Rooms.MembersAt(a.tx, d.root, users)
	if err != nil {
		return err
	}
	byUser := make(map[id.UserID]gjson.Result, len(members))
	for i := range members {
		f := gjson.GetManyBytes(members[i].JSON, "state_key", "content")
		byUser[id.UserID(f[0].Str)] = f[1]
	}
	o := a.out
	o.key("heroes")
	o.open('[')
	for _, user := range users {
		o.open('{')
		o.key("user_id")
		o.string(string(user))
		for _, field := range [...]struct{ name, of string }{{"displayname", "displayname"}, {"avatar_url", "avatar_url"}} {
			if v := byUser[user].Get(field.of); v.Str != "" {
				o.key(field.name)
				o.string(v.Str)
			}
		}
		o.close('}')
	}
	o.close(']')
	return nil
}

// writeState writes state; of what is gone its place alone.
func (a *slidingRoom) writeState(room *storage.Room, state *selected) error {
	if state.empty() {
		return nil
	}
	rendered, err := a.render(nil, room, state.events, false)
	if err != nil {
		return err
	}
	o := a.out
	o.key("required_state")
	o.open('[')
	for _, e := range rendered {
		o.raw(e)
	}
	for i := range state.gone {
		f := gjson.GetManyBytes(state.gone[i].JSON, "type", "state_key")
		o.open('{')
		o.key("type")
		o.string(f[0].Str)
		o.key("state_key")
		o.string(f[1].Str)
		o.close('}')
	}
	o.close(']')
	return nil
}

// noteThread notes that an event is shown, if it is a thread's.
func (s *slider) noteThread(raw []byte) {
	if relates := gjson.GetBytes(raw, `content.m\.relates_to`); relates.Get("rel_type").Str == "m.thread" {
		s.threaded[id.EventID(relates.Get("event_id").Str)]++
	}
}

// writeTimeline writes the timeline.
func (a *slidingRoom) writeTimeline(c *roomChange, view *roomserver.View, room *storage.Room, t *timeline) error {
	plain := make([]storage.Event, len(t.events))
	live, older := 0, false
	for i := range t.events {
		plain[i] = t.events[i].Event
		a.shown[plain[i].ID] = true
		if t.events[i].Ord > storage.Ord(a.from()) {
			live++
			a.noteThread(plain[i].JSON)
		}
		older = older || t.events[i].Ord <= storage.Ord(c.since)
	}
	rendered, err := a.render(view, room, plain, t.limited || c.whole || a.expanded)
	if err != nil {
		return err
	}
	o := a.out
	if len(rendered) > 0 || c.whole {
		o.key("timeline")
		o.open('[')
		for _, e := range rendered {
			o.raw(e)
		}
		o.close(']')
	}
	if len(rendered) > 0 || t.limited {
		o.key("prev_batch")
		o.open('"')
		o.buf = token.Append(o.buf, a.DB.Epoch(), int64(t.start))
		o.close('"')
	}
	if t.limited {
		o.key("limited")
		o.bool(true)
	}
	if a.expanded && !c.whole && older {
		o.key(a.name("expanded_timeline", "unstable_expanded_timeline"))
		o.bool(true)
	}
	if !a.req.initial {
		o.key("num_live")
		o.int(int64(live))
	}
	return nil
}
