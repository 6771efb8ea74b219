package syncapi

import (
	"slices"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// maxReceipts bounds the receipts of one room in one answer; the newest are given.
	maxReceipts = 500
	// maxPresent bounds the users whose presence is in one answer.
	maxPresent = 500
)

// ephemeral writes who types in a room and how far who has read, and says whether there was
// anything; own says that the user's own receipt has moved.
func (b *builder) ephemeral(c *roomChange) (told, own bool, err error) {
	f := &b.req.filter.Room.Ephemeral
	if !f.MatchRoom(c.m.RoomID) {
		return false, false, nil
	}
	o := b.out
	begin := func() {
		if !told {
			o.events("ephemeral")
			told = true
		}
	}
	if f.Match("m.typing", "") {
		typing, _ := b.Users.Typing(c.m.RoomID)
		typing = slices.DeleteFunc(typing, func(u id.UserID) bool { return b.ignored[u] })
		if b.typing[c.m.RoomID] || len(typing) > 0 && (c.whole || !b.heard) {
			begin()
			o.writeTyping(typing)
		}
	}
	since := c.since
	if c.whole {
		since = 0
	}
	receipts, err := b.tx.ListReceipts(c.m.Room, b.req.user, since, b.head.Pos, maxReceipts)
	if err != nil {
		return false, false, err
	}
	own = slices.ContainsFunc(receipts, func(r storage.Receipt) bool { return r.User == b.req.user })
	if len(receipts) > 0 && f.Match("m.receipt", "") {
		begin()
		o.writeReceipts(receipts)
	}
	if c.whole { // nobody types, and nothing was read: an answer as well
		begin()
	}
	if told {
		o.endEvents()
	}
	return told, own, nil
}

// writeTyping writes who types.
//
// spec: client-server-api/modules/typing_notifications.md#events
func (o *out) writeTyping(users []id.UserID) {
	o.open('{')
	o.key("type")
	o.string("m.typing")
	o.key("content")
	o.open('{')
	o.key("user_ids")
	o.open('[')
	for _, u := range users {
		o.string(string(u))
	}
	o.close(']')
	o.close('}')
	o.close('}')
}

// writeReceipts writes receipts. One event has one receipt of a user for each event and type,
// so two that differ in their thread alone go into two.
//
// spec: client-server-api/modules/receipts.md#events
func (o *out) writeReceipts(receipts []storage.Receipt) {
	sortReceipts(receipts)
	for len(receipts) > 0 {
		receipts = o.writeReceiptEvent(receipts)
	}
}

func sortReceipts(receipts []storage.Receipt) {
	slices.SortFunc(receipts, func(x, y storage.Receipt) int {
		return cmpAll(string(x.Event), string(y.Event), x.Type, y.Type, string(x.User), string(y.User), x.Thread, y.Thread)
	})
}

// writeReceiptEvent writes one event of receipts that are sorted, and gives those for which
// there was no place in it: of two of a user that differ in their thread alone, the second.
func (o *out) writeReceiptEvent(receipts []storage.Receipt) (later []storage.Receipt) {
	o.open('{')
	o.key("type")
	o.string("m.receipt")
	o.key("content")
	o.open('{')
	for i := range receipts {
		r := &receipts[i]
		if i > 0 {
			p := &receipts[i-1]
			switch sameType := p.Event == r.Event && p.Type == r.Type; {
			case sameType && p.User == r.User:
				later = append(later, *r)
				continue
			case p.Event != r.Event:
				o.buf = append(o.buf, '}', '}')
			case !sameType:
				o.close('}')
			}
		}
		if i == 0 || receipts[i-1].Event != r.Event {
			o.anyKey(string(r.Event))
			o.open('{')
		}
		if i == 0 || receipts[i-1].Event != r.Event || receipts[i-1].Type != r.Type {
			o.anyKey(r.Type)
			o.open('{')
		}
		o.anyKey(string(r.User))
		o.open('{')
		o.key("ts")
		o.int(r.TS)
		if r.Thread != "" {
			o.key("thread_id")
			o.string(r.Thread)
		}
		o.close('}')
	}
	o.buf = append(o.buf, '}', '}', '}', '}')
	return later
}

// cmpAll compares pairs of strings, one after the other.
func cmpAll(pairs ...string) int {
	for i := 0; i < len(pairs); i += 2 {
		switch {
		case pairs[i] < pairs[i+1]:
			return -1
		case pairs[i] > pairs[i+1]:
			return 1
		}
	}
	return 0
}

// presence writes the presence of those whom the user shares a room with, where it has
// changed, or where they came to share one; and the user's own.
//
// spec: client-server-api/modules/presence.md#presence
func (b *builder) presence() (bool, error) {
	if b.Presence == nil {
		return false, nil
	}
	users, err := b.presenceOf()
	if err != nil || len(users) == 0 {
		return false, err
	}
	o := b.out
	n := 0
	for _, user := range users {
		if !b.req.filter.Presence.Match("m.presence", user) || b.ignored[user] || n == maxPresent {
			continue
		}
		if n == 0 {
			o.events("presence")
		}
		n++
		b.writePresence(user)
	}
	if n > 0 {
		o.endEvents()
	}
	return n > 0, nil
}

// presenceOf are the users whose presence is to be told.
func (b *builder) presenceOf() ([]id.UserID, error) {
	var own bool
	var users, candidates []id.UserID // those who share a room, and those who may
	seen := make(map[id.UserID]bool)
	add := func(u id.UserID, shared bool) {
		switch own = own || u == b.req.user; {
		case u == b.req.user || seen[u]:
		case shared:
			users = append(users, u)
		default:
			candidates = append(candidates, u)
		}
		seen[u] = true
	}
	everybody := !b.heard
	for i := range b.notices {
		switch n := &b.notices[i]; n.Kind {
		case stream.Presence:
			add(n.User, n.Shared)
		case stream.Event:
			everybody = everybody || slices.Contains(n.Joined, b.req.user)
			for _, u := range n.Joined {
				if u != b.req.user && b.Presence(u).State != "offline" {
					add(u, false)
				}
			}
		}
	}
	if everybody {
		for _, u := range b.Users.ListPresent(maxPresent) {
			add(u, false)
		}
	}
	if own {
		users = append(users, b.req.user)
	}
	if len(candidates) == 0 {
		return users, nil
	}
	sharing, err := b.tx.ListSharedRooms(b.req.user, candidates)
	return append(users, sharing...), err
}

func (b *builder) writePresence(user id.UserID) {
	p := b.Presence(user)
	o := b.out
	o.open('{')
	o.key("type")
	o.string("m.presence")
	o.key("sender")
	o.string(string(user))
	o.key("content")
	o.open('{')
	o.key("presence")
	o.string(p.State)
	if !p.LastActive.IsZero() {
		o.key("last_active_ago")
		o.int(max(0, b.now-p.LastActive.UnixMilli()))
	}
	if p.StatusMsg != "" {
		o.key("status_msg")
		o.string(p.StatusMsg)
	}
	if p.State == "online" {
		o.key("currently_active")
		o.bool(p.CurrentlyActive)
	}
	o.close('}')
	o.close('}')
}
