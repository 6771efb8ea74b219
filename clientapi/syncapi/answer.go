package syncapi

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/invites"
	"parley/internal/stream"
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
)

// ignoredUserList is the account data that says whom a user ignores.
const ignoredUserList = "m.ignored_user_list"

// answer tells the client what is new, and says whether it did. Where nothing is and it is
// not the last time to try, nothing is sent, and the request goes on from where it now is.
func (a *API) answer(ctx context.Context, req *request, w http.ResponseWriter, last bool) (told bool, err error) {
	o := newOut(w)
	defer o.free()
	var head stream.Mark
	var news, known bool
	build := func(txs []*storage.Tx) (err error) {
		b := builder{API: a, req: req, tx: txs[0], beside: txs[1:], out: o, now: a.Now().UnixMilli(), last: last || req.initial || req.fullState}
		news, err = b.build(w)
		head, known = b.head, b.known
		return err
	}
	if req.initial {
		err = a.DB.ReadLong(ctx, build)
	} else {
		err = a.DB.Read(ctx, func(tx *storage.Tx) error { return build([]*storage.Tx{tx}) })
	}
	if err == nil {
		err = a.acknowledge(ctx, req, known)
	}
	if err != nil {
		return o.sent, err
	}
	if !news && !last && !req.initial && !req.fullState {
		req.since = head
		return false, nil
	}
	if !o.sent {
		w.Header()["Content-Type"] = headerJSON
	}
	return true, o.flush()
}

// headerJSON is shared by all answers; nobody changes it.
var headerJSON = []string{"application/json"}

// builder makes one answer from one snapshot. It is for one goroutine.
type builder struct {
	*API
	req *request
	tx  *storage.Tx
	// beside are more snapshots of the same position, for goroutines that help with many rooms.
	beside []*storage.Tx
	out    *out
	now    int64
	// last says that the client is told even if there is nothing new.
	last bool

	// head is what the client will have been told of: the snapshot's position, and the notices
	// of typing and presence.
	head stream.Mark
	// notices are news since the client's token. known says that they are all of them; heard
	// says so of typing and presence, as the hub may lag behind the snapshot for a moment.
	notices      []stream.Notice
	known, heard bool
	ignored      map[id.UserID]bool
	// permission is whose invites the user wants, nil until it is asked for.
	permission *invites.Permission
	// roomData is what is new of the account data, by room; wholeData all of it, where that was
	// needed.
	roomData, wholeData map[id.RoomID][]storage.AccountData
	// touched are the rooms of the notices; typing are those in which somebody began or ended
	// to type.
	touched, typing map[id.RoomID]bool
}

// from is the position that the client has been told up to.
func (b *builder) from() id.Pos {
	if b.req.initial {
		return 0
	}
	return b.req.since.Pos
}

// build writes the answer, and says whether there is anything new in it.
func (b *builder) build(w http.ResponseWriter) (news bool, err error) {
	if err := b.begin(); err != nil {
		return false, err
	}
	memberships, err := b.memberships()
	if err != nil {
		return false, err
	}
	o := b.out
	o.open('{')
	b.nextBatch(o, b.head)
	w.Header()["Content-Type"] = headerJSON
	for _, part := range [...]func() (bool, error){
		b.toDevice, b.accountData, b.presence, b.deviceLists,
		func() (bool, error) { return b.rooms(memberships) },
	} {
		some, err := part()
		if err != nil {
			return false, err
		}
		news = news || some
	}
	news = news || b.hasNotice(stream.KeyCounts)
	if news || b.last {
		err = b.keyCounts()
	}
	o.close('}')
	return news, err
}

// nextBatch writes the token from which the client goes on.
func (a *API) nextBatch(o *out, head stream.Mark) {
	o.key("next_batch")
	o.open('"')
	o.buf = token.AppendSync(o.buf, a.DB.Epoch(), int64(head.Pos), a.Hub.Life(), head.Seq)
	o.close('"')
}

// begin finds out where the snapshot is, and what is known to be new in it.
func (b *builder) begin() error {
	pos, err := b.tx.GetPos()
	if err != nil {
		return err
	}
	b.head = stream.Mark{Pos: max(pos, b.from()), Seq: b.Hub.Head().Seq}
	if !b.req.initial {
		since, ok := stream.News{}, b.req.news != nil && b.req.news.Head.Pos >= pos
		if ok {
			since = *b.req.news
		} else {
			since, ok = b.Hub.Since(b.req.user, b.req.since, nil)
		}
		b.heard = ok && b.req.since.Seq > 0
		// A commit may be in the snapshot before its notice is in the hub.
		b.known = b.heard && since.Head.Pos >= pos
		b.notices = since.Notices
		b.head.Seq = since.Head.Seq
	}
	b.touched, b.typing = make(map[id.RoomID]bool), make(map[id.RoomID]bool)
	for i := range b.notices {
		n := &b.notices[i]
		if n.Pos > pos {
			// The snapshot does not show it yet. If the user has come to a room or left one by it, the hub
			// names by that what concerns them, and not by the rooms that the snapshot shows.
			b.known = b.known && !(n.Kind == stream.Event && slices.Contains(n.Users, b.req.user))
			continue
		}
		if n.Room == "" {
			continue
		}
		b.touched[n.Room] = true
		if n.Kind == stream.Typing {
			b.typing[n.Room] = true
		}
	}
	ignored, err := b.tx.GetAccountData(b.req.user, "", ignoredUserList)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	b.ignored = parseIgnored(ignored.Content)
	b.API.ignored.Add(b.req.user, ignoredUsers{b.ignored, pos})
	return nil
}

// welcomes says whether the user is to see an invite by a sender.
//
// spec: client-server-api/modules/invite_permission.md#server-behaviour
func (b *builder) welcomes(sender id.UserID) (bool, error) {
	if b.ignored[sender] {
		return false, nil
	}
	if b.permission == nil {
		p, err := roomserver.InvitePermission(b.tx, b.req.user)
		if err != nil {
			return false, err
		}
		b.permission = &p
	}
	return b.permission.Decide(sender) == invites.Allow, nil
}

// ignoredUsers are those whom a user ignores, as of a position of the log.
type ignoredUsers struct {
	users map[id.UserID]bool
	at    id.Pos
}

// parseIgnored reads whom a user ignores.
//
// spec: client-server-api/modules/ignore_users.md#ignoring-users
func parseIgnored(content []byte) map[id.UserID]bool {
	var out map[id.UserID]bool
	gjson.GetBytes(content, "ignored_users").ForEach(func(user, _ gjson.Result) bool {
		if out == nil {
			out = make(map[id.UserID]bool)
		}
		out[id.UserID(user.Str)] = true
		return true
	})
	return out
}

// memberships are the user's rooms that there may be something to say of.
func (b *builder) memberships() ([]storage.Membership, error) {
	if !b.known || b.req.fullState {
		return b.tx.ListMemberships(b.req.user)
	}
	out := make([]storage.Membership, 0, len(b.touched))
	for room := range b.touched {
		r, err := b.tx.GetRoom(room)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		m, err := b.tx.GetMembership(b.req.user, r.NID)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(x, y storage.Membership) int { return cmp.Compare(x.Room, y.Room) })
	return out, nil
}

// accountData writes the global account data, and keeps that of rooms for later.
func (b *builder) accountData() (news bool, err error) {
	if b.known && !b.hasNotice(stream.AccountData) {
		return false, nil
	}
	data, err := b.tx.ListAccountData(b.req.user, b.from(), b.head.Pos, !b.req.initial)
	if err == nil {
		data, err = b.showPushRules(data)
	}
	if err != nil {
		return false, err
	}
	f := &b.req.filter.AccountData
	b.roomData = byRoom(data)
	return b.writeSomeAccountData(b.roomData[""], f.Most(math.MaxInt), func(typ string) bool { return f.Match(typ, b.req.user) }), nil
}

// writeSomeAccountData writes the section of account data: up to most of what the client wants. It says
// whether there was any.
func (b *builder) writeSomeAccountData(data []storage.AccountData, most int, wanted func(typ string) bool) bool {
	n := 0
	for i := range data {
		d := &data[i]
		if n >= most || !wanted(d.Type) {
			continue
		}
		if n == 0 {
			b.out.events("account_data")
		}
		n++
		b.writeAccountData(d)
	}
	if n > 0 {
		b.out.endEvents()
	}
	return n > 0
}

func (b *builder) writeAccountData(d *storage.AccountData) {
	o := b.out
	o.open('{')
	o.key("type")
	o.string(d.Type)
	o.key("content")
	o.raw(d.Content)
	o.close('}')
}

func (b *builder) hasNotice(kind stream.Kind) bool {
	for i := range b.notices {
		if b.notices[i].Kind == kind {
			return true
		}
	}
	return false
}

// rooms writes all rooms, section by section, and says whether there were any.
func (b *builder) rooms(memberships []storage.Membership) (news bool, err error) {
	if b.known && b.roomData != nil {
		if memberships, err = b.addRoomData(memberships); err != nil {
			return false, err
		}
	}
	o := b.out
	start := len(o.buf)
	o.key("rooms")
	o.open('{')
	for _, section := range [...]struct {
		name  string
		of    func(membership string) bool
		write func(b *builder, m *storage.Membership) (bool, error)
	}{
		{"join", is("join"), (*builder).joined},
		{"invite", is("invite"), (*builder).invited},
		{"knock", is("knock"), (*builder).knocked},
		{"leave", func(m string) bool { return m == "leave" || m == "ban" }, (*builder).left},
	} {
		var of []*storage.Membership
		for i := range memberships {
			if m := &memberships[i]; section.of(m.Membership) && b.req.filter.Room.MatchRoom(m.RoomID) {
				of = append(of, m)
			}
		}
		before := len(o.buf)
		o.key(section.name)
		o.open('{')
		some, err := b.section(of, section.write)
		if err != nil {
			return false, err
		}
		if !some {
			o.buf = o.buf[:before]
			continue
		}
		news = true
		o.close('}')
	}
	if !news {
		o.buf = o.buf[:start]
		return false, nil
	}
	o.close('}')
	return true, nil
}

func is(membership string) func(string) bool {
	return func(m string) bool { return m == membership }
}

// addRoomData adds the rooms of which only account data is new.
func (b *builder) addRoomData(memberships []storage.Membership) ([]storage.Membership, error) {
	for room := range b.roomData {
		if room == "" || b.touched[room] {
			continue
		}
		r, err := b.tx.GetRoom(room)
		if err == nil {
			var m storage.Membership
			if m, err = b.tx.GetMembership(b.req.user, r.NID); err == nil {
				memberships = append(memberships, m)
			}
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
	}
	return memberships, nil
}

// membershipAt is what the user was to a room at a position of the log.
func (b *builder) membershipAt(m *storage.Membership, pos id.Pos) (string, error) {
	if m.Pos <= pos {
		return m.Membership, nil
	}
	root, _, ok, err := b.tx.GetCurrentAt(m.Room, storage.Ord(pos))
	if err != nil || !ok || root == 0 {
		return "leave", err
	}
	events, err := b.Rooms.MembersAt(b.tx, root, []id.UserID{m.User})
	if err != nil || len(events) == 0 {
		return "leave", err
	}
	return gjson.GetBytes(events[0].JSON, "content.membership").Str, nil
}

// invited writes a room that the user is invited to.
//
// spec: client-server-api/index.md#stripped-state
func (b *builder) invited(m *storage.Membership) (bool, error) {
	if m.Pos <= b.from() {
		return false, nil
	}
	return b.stripped(m, "invite_state")
}

// knocked writes a room that the user knocked on.
func (b *builder) knocked(m *storage.Membership) (bool, error) {
	if m.Pos <= b.from() {
		return false, nil
	}
	return b.stripped(m, "knock_state")
}

// stripped writes what the user was shown of a room, and the event that concerns them.
func (b *builder) stripped(m *storage.Membership, section string) (bool, error) {
	e, err := b.tx.GetEventByNID(m.Event)
	if err != nil {
		return false, err
	}
	if m.Membership == "invite" {
		if wanted, err := b.welcomes(id.UserID(gjson.GetBytes(e.JSON, "sender").Str)); err != nil || !wanted {
			return false, err
		}
	}
	o := b.out
	o.open('{')
	o.events(section)
	b.strippedState(m, &e)
	o.endEvents()
	o.close('}')
	return true, nil
}

// strippedState writes stripped state; e is the event that concerns the user.
func (b *builder) strippedState(m *storage.Membership, e *storage.Event) {
	o := b.out
	own := false
	gjson.ParseBytes(m.Stripped).ForEach(func(_, e gjson.Result) bool {
		if e.Get("type").Str == "m.room.member" && e.Get("state_key").Str == string(m.User) {
			if e.Get("content.membership").Str != m.Membership {
				return true // what the user was before
			}
			own = true
		}
		o.raw([]byte(e.Raw))
		return true
	})
	if own {
		return
	}
	f := gjson.GetManyBytes(e.JSON, "sender", "content", "origin_server_ts")
	o.open('{')
	o.key("type")
	o.string("m.room.member")
	o.key("state_key")
	o.string(string(m.User))
	o.key("sender")
	o.string(f[0].Str)
	o.key("content")
	o.raw([]byte(f[1].Raw))
	o.key("origin_server_ts")
	o.int(f[2].Int())
	o.key("event_id")
	o.string(string(e.ID))
	o.close('}')
}

// left writes a room that the user has left or was removed from: what happened in it until
// then.
func (b *builder) left(m *storage.Membership) (bool, error) {
	since := b.from()
	if m.Event == 0 || m.Forgotten && (b.req.initial || m.Pos <= since) {
		return false, nil // other devices are yet to hear that a forgotten room was left
	}
	if b.req.initial || b.req.fullState && m.Pos <= since {
		if !b.req.filter.Room.IncludeLeave {
			return false, nil
		}
		since = 0
	} else if m.Pos <= since {
		return b.onlyAccountData(m.RoomID)
	}
	before, err := b.membershipAt(m, since)
	if err != nil {
		return false, err
	}
	stayed := before == "join"
	if !stayed {
		if stayed, err = b.stayedSince(m, since); err != nil {
			return false, err
		}
	}
	if !stayed {
		return b.refused(m)
	}
	ord, ok, err := b.tx.GetOrd(m.Event)
	if err != nil {
		return false, err
	}
	to := storage.Ord(m.Pos)
	if ok && ord > 0 {
		to = ord
	}
	return b.room(&roomChange{m: m, since: since, to: to, whole: before != "join"})
}

// refused writes a room that the user never came to be in: an invite that was withdrawn or
// refused, a ban from afar. All that they see of it is the event that says so.
func (b *builder) refused(m *storage.Membership) (bool, error) {
	e, err := b.tx.GetEventByNID(m.Event)
	if err != nil {
		return false, err
	}
	room := storage.Room{NID: m.Room, ID: m.RoomID}
	events, err := b.render(nil, &room, []storage.Event{e}, false)
	if err != nil {
		return false, err
	}
	o := b.out
	o.open('{')
	o.events(b.stateSection())
	o.endEvents()
	b.writeTimeline(events, false, m.Pos-1)
	_, err = b.roomAccountData(m.RoomID, false)
	o.close('}')
	return true, err
}

// stayedSince says whether a user who is not a member now, nor was at a position, was one at
// some time since.
func (b *builder) stayedSince(m *storage.Membership, since id.Pos) (bool, error) {
	nid := m.Event
	for range 1000 {
		e, err := b.tx.GetEventByNID(nid)
		if err != nil || e.Replaces == 0 {
			return false, err
		}
		ord, ok, err := b.tx.GetOrd(e.Replaces)
		if err != nil || !ok || ord <= storage.Ord(since) {
			return false, err
		}
		before, err := b.tx.GetEventByNID(e.Replaces)
		if err != nil {
			return false, err
		}
		if gjson.GetBytes(before.JSON, "content.membership").Str == "join" {
			return true, nil
		}
		nid = e.Replaces
	}
	return false, nil
}

// onlyAccountData writes a room that the user has long left.
func (b *builder) onlyAccountData(room id.RoomID) (bool, error) {
	if !b.req.filter.Room.IncludeLeave {
		return false, nil
	}
	b.out.open('{')
	told, err := b.roomAccountData(room, false)
	b.out.close('}')
	return told, err
}

// joined writes a room that the user is in.
func (b *builder) joined(m *storage.Membership) (bool, error) {
	c := roomChange{m: m, since: b.from(), to: storage.Ord(b.head.Pos)}
	if !b.req.filter.Room.State.LazyLoadMembers {
		// Who wants all members is shown the room when they are known.
		if m.Partial {
			return false, nil
		}
		c.whole, c.gap = m.Complete > c.since, m.Complete > c.since && !b.req.initial
	}
	if b.req.initial {
		c.whole = true
		return b.room(&c)
	}
	before, err := b.membershipAt(m, c.since)
	if err != nil {
		return false, err
	}
	if before != "join" {
		c.whole, c.gap = true, true
	}
	return b.room(&c)
}
