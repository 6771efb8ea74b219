package syncapi

import (
	"context"
	"net/http"
	"slices"

	"parley/internal/filter"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

// quick answers from memory where that can be done: the hub knows all that is news to the
// user, and it is nothing but events, typing and receipts in rooms that they are in and stay
// in. So a message to a room of many costs each of them a look at the hub and a copy of what
// was read and rendered once. known is false where the database must be asked; then nothing
// was done. told is as answer has it.
func (a *API) quick(ctx context.Context, req *request, w http.ResponseWriter, last bool) (told, known bool, err error) {
	req.news = nil
	if req.initial || req.fullState || req.since.Seq == 0 {
		return false, false, nil
	}
	news, ok := a.Hub.Since(req.user, req.since, nil)
	if !ok {
		return false, false, nil
	}
	req.news = &news
	counts, ok := a.knownKeyCounts(req.deviceNID)
	if !ok {
		return false, false, nil
	}
	if err := a.acknowledge(ctx, req, true); err != nil {
		return false, false, err
	}
	if news.Early && !last {
		return false, true, nil
	}
	q := quickAnswer{API: a, req: req, news: &news, out: newOut(w), counts: counts}
	defer q.out.free()
	if len(news.Notices) > 0 {
		if plan, ok := q.plan(); !ok {
			return false, false, nil
		} else if some, ok, err := q.write(ctx, plan); err != nil || !ok {
			return false, false, err
		} else if some {
			return true, true, q.send(w)
		}
	}
	if !last {
		req.since = news.Head
		return false, true, nil
	}
	o := q.out
	o.buf = o.buf[:0]
	o.open('{')
	a.nextBatch(o, news.Head)
	o.raw(counts)
	o.close('}')
	return true, true, q.send(w)
}

// quickAnswer is one answer from memory.
type quickAnswer struct {
	*API
	req     *request
	news    *stream.News
	out     *out
	ignored map[id.UserID]bool
	now     int64
	// counts are the fields on the device's keys.
	counts []byte
}

func (q *quickAnswer) send(w http.ResponseWriter) error {
	w.Header()["Content-Type"] = headerJSON
	return q.out.flush()
}

// quickRoom says what is news in a room.
type quickRoom struct {
	id                       id.RoomID
	events, typing, receipts bool
	// own says that the user's own receipt has moved.
	own bool
}

// plan sorts the news by room; ok is false where there is something that memory can't tell.
func (q *quickAnswer) plan() (rooms []quickRoom, ok bool) {
	f := q.req.filter
	if f.EventFields != nil || f.EventFormat == "federation" || q.API.Unread != nil && q.UnreadNow == nil {
		return nil, false
	}
	for i := range q.news.Notices {
		n := &q.news.Notices[i]
		if len(n.Users) > 0 || n.Room == "" {
			return nil, false
		}
		if !f.Room.MatchRoom(n.Room) {
			continue
		}
		at := slices.IndexFunc(rooms, func(r quickRoom) bool { return r.id == n.Room })
		if at < 0 {
			at = len(rooms)
			rooms = append(rooms, quickRoom{id: n.Room})
		}
		switch r := &rooms[at]; n.Kind {
		case stream.Event:
			r.events = true
		case stream.Typing:
			r.typing = true
		case stream.Receipt:
			r.receipts = true
			r.own = r.own || n.User == q.req.user
		default:
			return nil, false
		}
	}
	ignored, ok := q.API.ignored.Get(q.req.user)
	q.ignored = ignored.users
	return rooms, ok && ignored.at >= q.news.Account
}

// write writes the answer; some says whether there is anything in it.
func (q *quickAnswer) write(ctx context.Context, rooms []quickRoom) (some, ok bool, err error) {
	q.now = q.Now().UnixMilli()
	o := q.out
	o.open('{')
	q.nextBatch(o, q.news.Head)
	o.key("rooms")
	o.open('{')
	o.key("join")
	o.open('{')
	for i := range rooms {
		mark := len(o.buf)
		o.anyKey(string(rooms[i].id))
		told, ok, err := q.room(ctx, &rooms[i])
		if err != nil || !ok {
			return false, false, err
		}
		if !told {
			o.buf = o.buf[:mark]
		}
		some = some || told
	}
	o.close('}')
	o.close('}')
	o.raw(q.counts)
	o.close('}')
	return some, true, nil
}

// room writes what is new in a room.
func (q *quickAnswer) room(ctx context.Context, r *quickRoom) (told, ok bool, err error) {
	var t *tail
	if r.events || r.receipts || r.typing {
		var covers bool
		t, covers, err = q.tails.get(ctx, r.id, q.req.since.Pos, q.news.Head.Pos)
		if err != nil {
			return false, false, err
		}
		defer t.mu.Unlock()
		if !covers || t.partial || t.fleeting {
			return false, false, nil
		}
	}
	o := q.out
	o.open('{')
	if r.events {
		if told, ok, err = q.timeline(ctx, r, t); err != nil || !ok {
			return false, false, err
		}
	}
	ephemeral := q.ephemeral(r, t)
	told = told || ephemeral || r.own && q.UnreadNow != nil
	if told && q.UnreadNow != nil {
		if r.own {
			return false, false, nil // what is read now must be counted
		}
		u, ok, err := q.UnreadNow(ctx, q.req.user, r.id, q.req.since.Pos, q.news.Head.Pos)
		if err != nil || !ok {
			return false, false, err
		}
		o.unread(&u, q.req.filter.Room.Timeline.UnreadThreads)
	}
	o.close('}')
	return told, true, nil
}

// timeline writes state and timeline of a room.
func (q *quickAnswer) timeline(ctx context.Context, r *quickRoom, t *tail) (told, ok bool, err error) {
	f := &q.req.filter.Room
	var events []*tailEvent
	for _, e := range t.events {
		if e.pos <= q.req.since.Pos || e.pos > q.news.Head.Pos {
			continue
		}
		if !e.plain || q.req.stateAfter && e.state {
			return false, false, nil
		}
		if q.ignored[e.sender] && !e.state || !f.Timeline.MatchEvent(r.id, e.typ, e.sender, e.hasURL, e.relType) {
			// What the filter takes out of the timeline may yet be part of the state.
			if e.state {
				return false, false, nil
			}
			continue
		}
		events = append(events, e)
	}
	if len(events) > min(f.Timeline.Most(defaultLimit), maxLimit) {
		return false, false, nil
	}
	if len(events) == 0 {
		return false, true, nil
	}
	o := q.out
	o.events(q.req.stateSection())
	if f.State.LazyLoadMembers {
		if err := q.senders(ctx, r, t, events, &f.State); err != nil {
			return false, false, err
		}
	}
	o.endEvents()
	o.beginTimeline()
	for _, e := range events {
		o.comma()
		txnID := ""
		if e.deviceNID == q.req.deviceNID {
			txnID = e.txnID
		}
		o.buf = e.append(o.buf, q.now, txnID, "join")
	}
	o.endTimeline(q.DB.Epoch(), false, events[0].pos-1)
	return true, true, nil
}

// senders writes the member events of those who sent something.
func (q *quickAnswer) senders(ctx context.Context, r *quickRoom, t *tail, events []*tailEvent, f *filter.RoomEvents) error {
	var users []id.UserID
	for _, e := range events {
		if !slices.Contains(users, e.sender) && f.MatchEvent(r.id, "m.room.member", e.sender, false, "") {
			users = append(users, e.sender)
		}
	}
	members, err := q.tails.senderEvents(ctx, t, users)
	if err != nil {
		return err
	}
	for _, m := range members {
		q.out.comma()
		q.out.buf = m.append(q.out.buf, q.now, "", "")
	}
	return nil
}

// ephemeral writes typing and receipts of a room.
func (q *quickAnswer) ephemeral(r *quickRoom, t *tail) bool {
	f := &q.req.filter.Room.Ephemeral
	if !f.MatchRoom(r.id) {
		return false
	}
	o := q.out
	told := false
	if r.typing && f.Match("m.typing", "") {
		typing, _ := q.Users.Typing(r.id)
		typing = slices.DeleteFunc(typing, func(u id.UserID) bool { return q.ignored[u] })
		o.events("ephemeral")
		told = true
		o.writeTyping(typing)
	}
	if r.receipts && f.Match("m.receipt", "") {
		var receipts []storage.Receipt
		for _, receipt := range t.receipts {
			if receipt.Pos > q.req.since.Pos && receipt.Pos <= q.news.Head.Pos {
				receipts = append(receipts, receipt)
			}
		}
		if len(receipts) > 0 {
			if !told {
				o.events("ephemeral")
			}
			told = true
			o.writeReceipts(receipts)
		}
	}
	if told {
		o.endEvents()
	}
	return told
}
