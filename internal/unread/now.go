package unread

import (
	"context"
	"sync"

	"github.com/hashicorp/golang-lru/v2"

	"parley/internal/id"
	"parley/storage"
)

const (
	// cachedTails bounds the rooms whose newest events are kept, tailRows how many of each, and tailBegin is
	// with how many one begins.
	cachedTails = 512
	tailRows    = 64
	tailBegin   = 8
)

// tail is an unbroken part of a room's timeline, read once for all who count by it.
type tail struct {
	mu  sync.Mutex
	nid storage.RoomNID
	// from and to bound it: it has all events with from < ord <= to, or none of them yet.
	from, to storage.Ord
	rows     []tailRow
	// fleeting says that the room does not keep its messages for ever.
	fleeting bool
}

// tailRow is an event as far as counting asks for it.
type tailRow struct {
	nid storage.EventNID
	ord storage.Ord
	*event
	// plain says that every member of the room may see it, and that it changes nothing of
	// what was counted before.
	plain bool
}

func newTails() (*lru.Cache[id.RoomID, *tail], error) { return lru.New[id.RoomID, *tail](cachedTails) }

// Now is Count from memory, for one who knows that neither the user's receipts nor their
// push rules nor whom they ignore has changed after since and up to at. So when many are
// told of one message, it is read once for all of them. ok is false where it can't be told
// so; then Count tells.
func (c *Counter) Now(ctx context.Context, user id.UserID, room id.RoomID, since, at id.Pos) (counts Counts, ok bool, err error) {
	t, err := c.tail(ctx, room, storage.Ord(at))
	if err != nil {
		return Counts{}, false, err
	}
	defer t.mu.Unlock()
	l := c.lists.get(listKey{user, t.nid})
	l.mu.Lock()
	defer l.mu.Unlock()
	defer c.lists.weigh(l)
	if t.fleeting || !l.counted || l.seen < since || l.at < t.from && l.seen < id.Pos(t.from) {
		return Counts{}, false, nil
	}
	rules := unchanged
	if l.version != unchanged.version {
		if rules, ok = c.rules.Get(user); !ok || rules.version != l.version {
			return Counts{}, false, nil
		}
	}
	if rules.byName {
		return Counts{}, false, nil
	}
	r := &reader{c: c, rules: rules}
	r.member.User = user
	for i := range t.rows {
		row := &t.rows[i]
		if row.ord <= l.at || row.ord > storage.Ord(at) {
			continue
		}
		if !row.plain || row.member == user {
			return Counts{}, false, nil
		}
		if r.own(row.event) {
			l.markRead(marks{row.thread: row.ord})
		}
		if _, ignored := rules.ignored[row.sender]; ignored || row.ord <= l.read.in(row.thread) {
			l.at = row.ord
			continue
		}
		row.mu.Lock()
		actions, unsure := rules.evaluator.Evaluate(row.rules, r.member), row.rules.AsksPowers()
		row.mu.Unlock()
		if unsure {
			return Counts{}, false, nil
		}
		l.at = row.ord
		if actions.Notify {
			l.add(item{ord: row.ord, event: row.nid, ts: row.ts, thread: row.thread, highlight: actions.Highlight})
		}
	}
	l.seen = max(l.seen, at)
	return l.counts(), true, nil
}

// tail is a room's tail, locked, and read up to a place at least.
func (c *Counter) tail(ctx context.Context, room id.RoomID, to storage.Ord) (*tail, error) {
	t, ok := c.tails.Get(room)
	if !ok {
		t = new(tail)
		if before, there, _ := c.tails.PeekOrAdd(room, t); there {
			t = before
		}
	}
	t.mu.Lock()
	if t.nid != 0 && t.to >= to {
		return t, nil
	}
	if err := c.db.Read(ctx, func(tx *storage.Tx) error { return c.extend(tx, t, room) }); err != nil {
		t.mu.Unlock()
		return nil, err
	}
	return t, nil
}

// extend reads what is new in a room.
func (c *Counter) extend(tx *storage.Tx, t *tail, id id.RoomID) error {
	pos, err := tx.GetPos()
	if err != nil {
		return err
	}
	room, err := tx.GetRoom(id)
	if err != nil {
		return err
	}
	most := tailRows
	if t.nid == 0 {
		most = tailBegin
	}
	rows, err := tx.ListTimelineBackwards(room.NID, storage.Ord(pos), t.to, most+1)
	if err != nil {
		return err
	}
	if len(rows) > most {
		rows = rows[:most]
		t.rows, t.from = nil, rows[most-1].Ord-1
	}
	r := &reader{c: c, tx: tx, room: &room}
	horizon, err := r.due()
	if err != nil {
		return err
	}
	t.fleeting = horizon != 0
	for i := len(rows) - 1; i >= 0; i-- {
		e, err := r.event(&rows[i])
		if err != nil {
			// What was added is read again: the tail ends where it did.
			t.rows, t.from, t.to, t.nid = nil, 0, 0, 0
			return err
		}
		t.rows = append(t.rows, tailRow{
			nid: rows[i].NID, ord: rows[i].Ord, event: e,
			plain: rows[i].Status == storage.Accepted && rows[i].Root == rows[i].Current && e.rules != nil && e.redacts == 0,
		})
	}
	if drop := len(t.rows) - tailRows; drop > 0 {
		t.from = t.rows[drop-1].ord
		t.rows = append(t.rows[:0:0], t.rows[drop:]...)
	}
	t.nid, t.to = room.NID, storage.Ord(pos)
	return nil
}
