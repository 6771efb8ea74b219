package syncapi

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/filter"
	"parley/internal/id"
	"parley/internal/token"
	"parley/internal/unread"
	"parley/roomserver"
	"parley/storage"
)

// maxScan bounds the events that are looked at to find some that the filter and the history
// visibility let through.
const maxScan = 1000

// roomChange says what of a room the client is to be told.
type roomChange struct {
	m *storage.Membership
	// since is the position that the client was told up to, to is where what it is told ends.
	since id.Pos
	to    storage.Ord
	// whole says that the client knows nothing of the room, or nothing that is still good.
	whole bool
	// gap says that the client may have an older part of the timeline, which the new one does
	// not join on to.
	gap bool
}

func (c *roomChange) joined() bool { return c.m.Membership == "join" }

// timeline is the newest part of what is new in a room's timeline, the oldest first.
type timeline struct {
	events  []storage.TimelineEvent
	limited bool
	// start is the place before the first event.
	start storage.Ord
	// summary says that something was seen that changes the room's summary.
	summary bool
}

// room writes what is new in a room, and says whether anything is.
func (b *builder) room(c *roomChange) (told bool, err error) {
	floor := storage.Ord(c.since)
	if c.whole {
		floor = 0
	}
	limit := b.limit()
	rows, err := b.tx.ListTimelineBackwards(c.m.Room, c.to, floor, limit+1)
	if err != nil {
		return false, err
	}
	o := b.out
	o.open('{')
	var room *storage.Room // if it is needed
	if c.whole || b.req.fullState || len(rows) > 0 {
		r, err := b.tx.GetRoomByNID(c.m.Room)
		if err != nil {
			return false, err
		}
		room = &r
		if told, err = b.events(c, room, rows, floor, limit); err != nil {
			return false, err
		}
	}
	told = told || c.whole || b.req.fullState
	own := false
	if c.joined() {
		ephemeral, ownReceipt, err := b.ephemeral(c)
		if err != nil {
			return false, err
		}
		told, own = told || ephemeral, ownReceipt && b.Unread != nil
	}
	data, err := b.roomAccountData(c.m.RoomID, c.whole)
	if err != nil {
		return false, err
	}
	told = told || data || own
	if told && c.joined() {
		if err := b.unread(c.m.Room, room); err != nil {
			return false, err
		}
	}
	o.close('}')
	return told, nil
}

func (b *builder) limit() int {
	return min(b.req.filter.Room.Timeline.Most(defaultLimit), maxLimit)
}

// events writes a room's timeline, state and summary, and says whether there is anything in
// them. rows are the newest of the timeline; only the first limit+1 of them.
func (b *builder) events(c *roomChange, room *storage.Room, rows []storage.TimelineEvent, floor storage.Ord, limit int) (bool, error) {
	view, err := b.Rooms.ViewMember(b.tx, *room, *c.m)
	if err != nil {
		return false, err
	}
	t, err := b.timeline(c, view, rows, floor, limit)
	if err != nil {
		return false, err
	}
	state, summary, err := b.state(c, room, t)
	if err != nil {
		return false, err
	}
	summary = summary || t.summary || c.whole || b.req.fullState
	if len(t.events) == 0 && !t.limited && len(state) == 0 && !summary {
		return false, nil
	}
	var named []id.UserID
	if c.joined() && summary {
		if named, err = b.summary(room, c.m.User); err != nil {
			return false, err
		}
		if state, err = b.addHeroes(c, room, state, named); err != nil {
			return false, err
		}
	}
	rendered, err := b.render(nil, room, state, false)
	if err != nil {
		return false, err
	}
	b.out.events(b.stateSection())
	for _, e := range rendered {
		b.out.raw(e)
	}
	b.out.endEvents()
	plain := make([]storage.Event, len(t.events))
	for i := range t.events {
		plain[i] = t.events[i].Event
	}
	if rendered, err = b.render(view, room, plain, t.limited || c.whole); err != nil {
		return false, err
	}
	b.writeTimeline(rendered, t.limited, id.Pos(t.start))
	return true, nil
}

func (b *builder) stateSection() string { return b.req.stateSection() }

func (r *request) stateSection() string {
	switch {
	case r.stateAfter && r.unstable:
		return "org.matrix.msc4222.state_after"
	case r.stateAfter:
		return "state_after"
	}
	return "state"
}

func (b *builder) writeTimeline(events []json.RawMessage, limited bool, start id.Pos) {
	o := b.out
	o.beginTimeline()
	for _, e := range events {
		o.raw(e)
	}
	o.endTimeline(b.DB.Epoch(), limited, start)
}

func (o *out) beginTimeline() {
	o.key("timeline")
	o.open('{')
	o.key("events")
	o.open('[')
}

func (o *out) endTimeline(epoch string, limited bool, start id.Pos) {
	o.close(']')
	o.key("limited")
	o.bool(limited)
	o.key("prev_batch")
	o.open('"')
	o.buf = token.Append(o.buf, epoch, int64(start))
	o.close('"')
	o.close('}')
}

// render gives events the form that the client wants.
func (b *builder) render(view *roomserver.View, room *storage.Room, events []storage.Event, bundle bool) ([]json.RawMessage, error) {
	if b.req.filter.EventFormat == "federation" {
		if view != nil {
			var err error
			if events, err = view.AsShown(events); err != nil {
				return nil, err
			}
		}
		out := make([]json.RawMessage, len(events))
		for i := range events {
			out[i] = events[i].JSON
		}
		return out, nil
	}
	// Aggregations go with a timeline that does not join on to one that the client has: else it
	// has been told of all that is aggregated.
	//
	// spec: client-server-api/index.md#aggregations-of-child-events
	out, err := b.Rooms.Render(b.tx, view, room, events, roomserver.Reader{User: b.req.user, DeviceNID: b.req.deviceNID, Bundle: bundle})
	if err != nil || b.req.filter.EventFields == nil {
		return out, err
	}
	for i := range out {
		if out[i], err = b.req.filter.Fields(out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// timeline reads back through the room until it has as many events as the client wants.
func (b *builder) timeline(c *roomChange, view *roomserver.View, rows []storage.TimelineEvent, floor storage.Ord, limit int) (*timeline, error) {
	t := &timeline{start: c.to, limited: c.gap}
	f := &b.req.filter.Room.Timeline
	batch := limit + 1
	scanned := 0
scan:
	for {
		for i := range rows {
			e := &rows[i]
			if len(t.events) == limit {
				// There is more, if the client may see it and wants to.
				want, err := b.wants(c, view, e, f)
				if err != nil {
					return nil, err
				}
				if want || e.Gap {
					t.limited = true
					break scan
				}
				continue
			}
			t.summary = t.summary || changesSummary(e.JSON)
			want, err := b.wants(c, view, e, f)
			if err != nil {
				return nil, err
			}
			if want {
				t.events = append(t.events, *e)
				t.start = e.Ord - 1
			}
			if e.Gap { // what is before it may be anywhere, and is fetched by who pages back
				t.limited = true
				if len(t.events) == 0 {
					t.start = e.Ord - 1
				}
				break scan
			}
		}
		if scanned += len(rows); len(rows) < batch {
			break
		}
		last := rows[len(rows)-1].Ord
		if scanned >= maxScan {
			t.limited = true
			if len(t.events) == 0 {
				t.start = last - 1
			}
			break
		}
		batch = 100
		var err error
		if rows, err = b.tx.ListTimelineBackwards(c.m.Room, last-1, floor, batch); err != nil {
			return nil, err
		}
	}
	slices.Reverse(t.events)
	return t, nil
}

// changesSummary says whether an event may change who stands for a room, or how many are in it.
func changesSummary(raw []byte) bool {
	switch gjson.GetBytes(raw, "type").Str {
	case "m.room.member", "m.room.name", "m.room.canonical_alias":
		return true
	}
	return false
}

// relTypePath is where an event says how it relates to another.
const relTypePath = `content.m\.relates_to.rel_type`

// wants says whether the user may see an event, and their filter lets it through.
func (b *builder) wants(c *roomChange, view *roomserver.View, e *storage.TimelineEvent, f *filter.RoomEvents) (bool, error) {
	if len(b.ignored) > 0 || !f.Everything() || f.Rooms != nil || f.NotRooms != nil {
		p := gjson.GetManyBytes(e.JSON, "type", "sender", "state_key", "content.url", relTypePath)
		if b.ignored[id.UserID(p[1].Str)] && !p[2].Exists() {
			return false, nil
		}
		if !f.MatchEvent(c.m.RoomID, p[0].Str, id.UserID(p[1].Str), p[3].Exists(), p[4].Str) {
			return false, nil
		}
	}
	if due, err := view.Due(&e.Event); err != nil || due {
		return false, err
	}
	if e.NID == c.m.Event {
		return true, nil // what made the user what they are, they may know
	}
	if c.joined() && e.Ord >= storage.Ord(c.m.Pos) && e.Root == e.Current && e.Status == storage.Accepted {
		return true, nil // the user was a member all the time, and members see all
	}
	return view.Visible(e)
}

// state is what the client needs to know of the room's state: all of it, or what has changed
// since it was told; up to the start of the timeline, or its end. summary says that there is
// something in it that changes the room's summary.
func (b *builder) state(c *roomChange, room *storage.Room, t *timeline) (events []storage.Event, summary bool, err error) {
	end := room.Root
	if !c.joined() {
		if end, _, _, err = b.tx.GetCurrentAt(room.NID, c.to); err != nil {
			return nil, false, err
		}
	}
	root := end
	var hidden []storage.Event
	if !b.req.stateAfter {
		if root, hidden, err = b.startOf(room, t, end); err != nil {
			return nil, false, err
		}
	}
	lazy := b.req.filter.Room.State.LazyLoadMembers
	all := c.whole || b.req.fullState
	if all {
		events, err = b.Rooms.StateEvents(b.tx, root, !lazy)
	} else {
		var before int64
		if before, _, _, err = b.tx.GetCurrentAt(room.NID, storage.Ord(c.since)); err == nil && before != root {
			events, err = b.Rooms.StateDelta(b.tx, before, root)
		}
	}
	if err != nil {
		return nil, false, err
	}
	for _, list := range [][]storage.Event{events, hidden} {
		summary = summary || slices.ContainsFunc(list, func(e storage.Event) bool { return changesSummary(e.JSON) })
	}
	if lazy {
		users := senders(t.events)
		if all && !slices.Contains(users, b.req.user) {
			users = append(users, b.req.user)
		}
		if events, err = b.addMembers(root, events, users); err != nil {
			return nil, false, err
		}
		if all {
			hidden = slices.DeleteFunc(hidden, func(e storage.Event) bool {
				f := gjson.GetManyBytes(e.JSON, "type", "state_key")
				return f[0].Str == "m.room.member" && !slices.Contains(users, id.UserID(f[1].Str))
			})
		}
	}
	events = overlay(events, hidden)
	slices.SortFunc(events, func(x, y storage.Event) int { return cmp.Compare(x.NID, y.NID) })
	return b.filterState(c.m.RoomID, events), summary, nil
}

// startOf is the state at the start of the timeline; and what the room's state has at the end
// which neither that nor the timeline has: changes by events that the user may not see or
// does not want, and what resolving a fork has brought. A client puts its picture of the
// room together from start and timeline, so these belong to the start. What the timeline
// would undo again is cut off it.
func (b *builder) startOf(room *storage.Room, t *timeline, end int64) (root int64, hidden []storage.Event, err error) {
	for {
		if root, err = b.startRoot(room, t, end); err != nil || root == end {
			return root, nil, err
		}
		if hidden, err = b.Rooms.StateDelta(b.tx, root, end); err != nil {
			return 0, nil, err
		}
		shown := make(map[storage.EventNID]bool, len(t.events))
		for i := range t.events {
			shown[t.events[i].NID] = true
		}
		hidden = slices.DeleteFunc(hidden, func(e storage.Event) bool { return shown[e.NID] })
		places := make(map[string]bool, len(hidden))
		for i := range hidden {
			places[placeOf(&hidden[i])] = true
		}
		undone := len(t.events) - 1
		for undone >= 0 && !places[placeOf(&t.events[undone].Event)] {
			undone--
		}
		if undone < 0 {
			return root, hidden, nil
		}
		t.start, t.limited = t.events[undone].Ord, true
		t.events = t.events[undone+1:]
	}
}

// startRoot is the state before the first event of the timeline, and the one at the end
// where the timeline is empty.
func (b *builder) startRoot(room *storage.Room, t *timeline, end int64) (int64, error) {
	if len(t.events) == 0 {
		return end, nil
	}
	root, _, ok, err := b.tx.GetCurrentAt(room.NID, t.events[0].Ord-1)
	if err != nil || ok {
		return root, err
	}
	// The timeline begins here: with the room, or with our coming to it.
	if first := &t.events[0]; gjson.GetBytes(first.JSON, "type").Str != "m.room.create" {
		return first.Root, nil
	}
	return 0, nil
}

// placeOf is the place in a room's state that an event takes, "" for none.
func placeOf(e *storage.Event) string {
	f := gjson.GetManyBytes(e.JSON, "type", "state_key")
	if !f[1].Exists() {
		return ""
	}
	return f[0].Str + "\x00" + f[1].Str
}

// overlay puts some state events over others.
func overlay(events, over []storage.Event) []storage.Event {
	if len(over) == 0 {
		return events
	}
	places := make(map[string]bool, len(over))
	for i := range over {
		places[placeOf(&over[i])] = true
	}
	return append(slices.DeleteFunc(events, func(e storage.Event) bool { return places[placeOf(&e)] }), over...)
}

// addMembers adds the member events of some users that are not in the list.
func (b *builder) addMembers(root int64, events []storage.Event, users []id.UserID) ([]storage.Event, error) {
	if len(users) == 0 || root == 0 {
		return events, nil
	}
	members, err := b.Rooms.MembersAt(b.tx, root, users)
	if err != nil {
		return nil, err
	}
	there := make(map[storage.EventNID]bool, len(events))
	for i := range events {
		there[events[i].NID] = true
	}
	for _, m := range members {
		if !there[m.NID] {
			events = append(events, m)
		}
	}
	return events, nil
}

// addHeroes adds the member events of a room's heroes, which a client that loads members
// lazily needs to name the room.
func (b *builder) addHeroes(c *roomChange, room *storage.Room, state []storage.Event, named []id.UserID) ([]storage.Event, error) {
	if !b.req.filter.Room.State.LazyLoadMembers || len(named) == 0 {
		return state, nil
	}
	state, err := b.addMembers(room.Root, state, named)
	return b.filterState(c.m.RoomID, state), err
}

func (b *builder) filterState(room id.RoomID, events []storage.Event) []storage.Event {
	f := &b.req.filter.Room.State
	if f.Everything() && f.Rooms == nil && f.NotRooms == nil {
		return events
	}
	return slices.DeleteFunc(events, func(e storage.Event) bool {
		p := gjson.GetManyBytes(e.JSON, "type", "sender", "content.url", relTypePath)
		return !f.MatchEvent(room, p[0].Str, id.UserID(p[1].Str), p[2].Exists(), p[3].Str)
	})
}

// senders are who sent the events, each once.
func senders(events []storage.TimelineEvent) []id.UserID {
	var out []id.UserID
	for i := range events {
		if s := id.UserID(gjson.GetBytes(events[i].JSON, "sender").Str); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// summary writes how many are in a room, and who stands for it where it has no name.
//
// spec: client-server-api/index.md#get_matrixclientv3sync
func (b *builder) summary(room *storage.Room, user id.UserID) (named []id.UserID, err error) {
	o := b.out
	o.key("summary")
	o.open('{')
	name, err := b.Rooms.StateContent(b.tx, room, room.Root, "m.room.name", "")
	if err != nil {
		return nil, err
	}
	if gjson.GetBytes(name, "name").Str == "" {
		alias, err := b.Rooms.StateContent(b.tx, room, room.Root, "m.room.canonical_alias", "")
		if err != nil {
			return nil, err
		}
		if gjson.GetBytes(alias, "alias").Str == "" {
			if named, err = b.tx.ListHeroes(room.NID, user); err != nil {
				return nil, err
			}
			o.key("m.heroes")
			o.open('[')
			for _, hero := range named {
				o.string(string(hero))
			}
			o.close(']')
		}
	}
	o.key("m.joined_member_count")
	o.int(room.Joined)
	o.key("m.invited_member_count")
	o.int(room.Invited)
	o.close('}')
	return named, nil
}

// roomAccountData writes the user's account data of a room: all, or what is new.
func (b *builder) roomAccountData(room id.RoomID, whole bool) (bool, error) {
	f := &b.req.filter.Room.AccountData
	data := b.roomData[room]
	if whole && !b.req.initial {
		if b.wholeData == nil {
			all, err := b.tx.ListAccountData(b.req.user, 0, b.head.Pos, true)
			if err != nil {
				return false, err
			}
			b.wholeData = byRoom(all)
		}
		data = b.wholeData[room]
	}
	any := b.writeSomeAccountData(data, f.Most(math.MaxInt), func(typ string) bool {
		return f.MatchEvent(room, typ, b.req.user, false, "")
	})
	if !any && b.req.initial { // a client may look for what is not there any more
		b.out.events("account_data")
		b.out.endEvents()
	}
	return any, nil
}

func byRoom(data []storage.AccountData) map[id.RoomID][]storage.AccountData {
	out := make(map[id.RoomID][]storage.AccountData)
	for _, d := range data {
		out[d.Room] = append(out[d.Room], d)
	}
	return out
}

// unread writes what the user has not read in a room: all in one, or by thread where the
// filter asks for that. The room is looked up where it is nil.
//
// spec: client-server-api/modules/push.md#receiving-notifications
func (b *builder) unread(nid storage.RoomNID, room *storage.Room) error {
	if b.Unread == nil {
		return nil
	}
	if room == nil {
		r, err := b.tx.GetRoomByNID(nid)
		if err != nil {
			return err
		}
		room = &r
	}
	u, err := b.Unread(b.tx, b.req.user, room)
	if err != nil {
		return err
	}
	b.out.unread(&u, b.req.filter.Room.Timeline.UnreadThreads)
	return nil
}

// total is what is unread in a room, in threads and out of them.
func total(u *unread.Counts) unread.Count {
	all := u.Main
	for _, c := range u.Threads {
		all.Notifications += c.Notifications
		all.Highlights += c.Highlights
	}
	return all
}

// unread writes a room's counts.
func (o *out) unread(u *unread.Counts, byThread bool) {
	room := u.Main
	if !byThread {
		room = total(u)
	}
	counts := func(c unread.Count) {
		o.open('{')
		o.counts(c)
		o.close('}')
	}
	o.key("unread_notifications")
	counts(room)
	if byThread && len(u.Threads) > 0 {
		o.key("unread_thread_notifications")
		o.open('{')
		for root, c := range u.Threads {
			o.anyKey(string(root))
			counts(c)
		}
		o.close('}')
	}
}

// counts writes the fields of counts.
func (o *out) counts(c unread.Count) {
	o.key("highlight_count")
	o.int(int64(c.Highlights))
	o.key("notification_count")
	o.int(int64(c.Notifications))
}
