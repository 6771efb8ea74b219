package syncapi

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/tidwall/gjson"

	"parley/internal/clientevent"
	"parley/internal/id"
	"parley/roomserver"
	"parley/storage"
)

const (
	// tailRooms bounds the rooms whose tails are kept, tailEvents and tailBytes each of them.
	tailRooms  = 512
	tailEvents = 64
	tailBytes  = 128 << 10
	// tailBegin is how many events one begins with: most who are told of news have heard of what was before.
	tailBegin = 8
	// tailReceipts and tailMembers bound what is kept of a room's receipts and senders.
	tailReceipts = 256
	tailMembers  = 256
)

// tails are the newest parts of rooms, read and rendered once for all who are told of them.
// They are an optimisation: an answer without them is the same.
type tails struct {
	db    *storage.DB
	rooms *roomserver.Server
	lru   *lru.Cache[id.RoomID, *tail]
}

// tail is an unbroken part of what happened in a room.
type tail struct {
	mu   sync.Mutex
	read bool
	nid  storage.RoomNID
	// partial says that it is not known yet who is in the room.
	partial bool
	// fleeting says that the room does not keep its messages for ever.
	fleeting bool
	// from and to bound it: it has all events, and all receipts but private ones, with
	// from < position <= to.
	from, to id.Pos
	// events and receipts are in the order of their positions.
	events   []*tailEvent
	bytes    int
	receipts []storage.Receipt
	// root is the room's state after the newest event; members are the member events of senders
	// in it, nil for one who has none.
	root    int64
	members map[id.UserID]*rendered
}

// rendered is an event in the client's form, but for what depends on the reader and on the time.
type rendered struct {
	// fields stand before the event's age, rest behind what depends on the reader.
	fields, rest []byte
	ts           int64
}

// tailEvent is an event of a tail.
type tailEvent struct {
	rendered
	pos       id.Pos
	event     id.EventID
	sender    id.UserID
	typ       string
	hasURL    bool
	relType   string
	state     bool
	deviceNID int64
	txnID     string
	// plain says that every member of the room at that time may see it, was shown as joined
	// in it, and is told nothing besides it.
	plain bool
}

func newTails(db *storage.DB, rooms *roomserver.Server) (*tails, error) {
	cache, err := lru.New[id.RoomID, *tail](tailRooms)
	if err != nil {
		return nil, fmt.Errorf("tails of rooms: %w", err)
	}
	return &tails{db: db, rooms: rooms, lru: cache}, nil
}

// get is the tail of a room, locked, and read up to a position at least; covers is false
// where it does not reach back to another.
func (ts *tails) get(ctx context.Context, room id.RoomID, since, upTo id.Pos) (t *tail, covers bool, err error) {
	t, ok := ts.lru.Get(room)
	if !ok {
		t = &tail{}
		if before, there, _ := ts.lru.PeekOrAdd(room, t); there {
			t = before
		}
	}
	t.mu.Lock()
	if !t.read || t.to < upTo {
		if err := ts.extend(ctx, t, room); err != nil {
			t.mu.Unlock()
			return nil, false, err
		}
	}
	return t, t.from <= since, nil
}

// extend reads what is new in the room.
func (ts *tails) extend(ctx context.Context, t *tail, room id.RoomID) error {
	return ts.db.Read(ctx, func(tx *storage.Tx) error {
		pos, err := tx.GetPos()
		if err != nil {
			return err
		}
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		horizon, err := ts.rooms.Horizon(tx, &r)
		if err != nil {
			return err
		}
		if t.partial && r.Partial == 0 || t.fleeting && horizon == 0 {
			t.read, t.members = false, nil // what was told of it has been judged again, or may have left
		}
		t.partial, t.fleeting = r.Partial != 0, horizon != 0
		if !t.read {
			t.nid, t.to = r.NID, 0
		}
		return ts.read(tx, t, pos)
	})
}

// read brings a tail up to a position.
func (ts *tails) read(tx *storage.Tx, t *tail, pos id.Pos) error {
	most := tailEvents
	if !t.read {
		most = tailBegin
	}
	rows, err := tx.ListTimelineBackwards(t.nid, storage.Ord(pos), storage.Ord(t.to), most+1)
	if err != nil {
		return err
	}
	receipts, err := tx.ListReceipts(t.nid, "", t.to, pos, tailReceipts+1)
	if err != nil {
		return err
	}
	redacted := false
	for i := range rows {
		if gjson.GetBytes(rows[i].JSON, "type").Str == "m.room.redaction" {
			redacted = true // of an event in the tail, perhaps
		}
		if rows[i].Current != t.root || i == most {
			t.members = nil
		}
	}
	if len(rows) > 0 {
		t.root = rows[0].Current
	}
	from := t.from
	if !t.read || redacted {
		t.drop(len(t.events))
		from = t.to
	}
	if len(rows) > most {
		rows = rows[:most]
		t.drop(len(t.events))
		from = max(from, id.Pos(rows[most-1].Ord)-1)
	}
	if len(receipts) > tailReceipts {
		receipts = receipts[:tailReceipts]
		t.receipts = t.receipts[:0]
		from = max(from, receipts[tailReceipts-1].Pos-1)
	}
	if err := ts.render(tx, t, rows); err != nil {
		return err
	}
	t.addReceipts(receipts)
	for len(t.events) > tailEvents || t.bytes > tailBytes && len(t.events) > 0 {
		from = max(from, t.events[0].pos)
		t.drop(1)
	}
	for len(t.receipts) > tailReceipts {
		from = max(from, t.receipts[0].Pos)
		t.receipts = t.receipts[1:]
	}
	t.read, t.from, t.to = true, from, pos
	return nil
}

// drop forgets the oldest events.
func (t *tail) drop(n int) {
	for _, e := range t.events[:n] {
		t.bytes -= e.size()
	}
	t.events = append(t.events[:0:0], t.events[n:]...)
}

func (e *tailEvent) size() int { return len(e.fields) + len(e.rest) + 256 }

// render adds rows, the newest first, to a tail.
func (ts *tails) render(tx *storage.Tx, t *tail, rows []storage.TimelineEvent) error {
	if len(rows) == 0 {
		return nil
	}
	plain := make([]storage.Event, len(rows))
	for i := range rows {
		plain[len(rows)-1-i] = rows[i].Event
	}
	forms, err := ts.renderEvents(tx, plain)
	if err != nil {
		return err
	}
	for i := range plain {
		e, row := &plain[i], &rows[len(rows)-1-i]
		p := gjson.GetManyBytes(e.JSON, "type", "sender", "state_key", "content.url", relTypePath)
		te := &tailEvent{
			rendered: forms[i], pos: id.Pos(row.Ord), event: e.ID, sender: id.UserID(p[1].Str), typ: p[0].Str,
			state: p[2].Exists(), hasURL: p[3].Exists(), relType: p[4].Str, deviceNID: e.DeviceNID, txnID: e.TxnID,
		}
		te.plain = !row.Gap && e.Status == storage.Accepted && e.Root == row.Current && e.RedactedBy == 0 && !changesSummary(e.JSON)
		t.bytes += te.size()
		t.events = append(t.events, te)
	}
	return nil
}

// renderEvents gives events the form that is the same for all readers.
func (ts *tails) renderEvents(tx *storage.Tx, events []storage.Event) ([]rendered, error) {
	whole, err := ts.rooms.Render(tx, nil, &storage.Room{}, events, roomserver.Reader{DeviceNID: -1})
	if err != nil {
		return nil, err
	}
	out := make([]rendered, len(events))
	for i := range events {
		fields := clientevent.AppendFields(nil, events[i].JSON, events[i].ID, "")
		rest, ok := bytes.CutPrefix(whole[i], append(fields, clientevent.AgeKey...))
		if !ok {
			return nil, fmt.Errorf("render %s: its fields are not its beginning", events[i].ID)
		}
		out[i] = rendered{
			fields: whole[i][:len(whole[i])-len(rest)],
			rest:   bytes.TrimLeft(rest, "0123456789"),
			ts:     gjson.GetBytes(events[i].JSON, "origin_server_ts").Int(),
		}
	}
	return out, nil
}

// append writes the event for one reader.
func (r *rendered) append(out []byte, now int64, txnID, membership string) []byte {
	out = append(out, r.fields...)
	out = strconv.AppendInt(out, max(0, now-r.ts), 10)
	out = clientevent.AppendForReader(out, txnID, membership)
	return append(out, r.rest...)
}

// addReceipts adds receipts, the newest first; each takes the place of an older one.
func (t *tail) addReceipts(receipts []storage.Receipt) {
	if len(receipts) == 0 {
		return
	}
	type key struct {
		user        id.UserID
		typ, thread string
	}
	replaced := make(map[key]bool, len(receipts))
	for i := range receipts {
		replaced[key{receipts[i].User, receipts[i].Type, receipts[i].Thread}] = true
	}
	kept := make([]storage.Receipt, 0, len(t.receipts)+len(receipts))
	for _, r := range t.receipts {
		if !replaced[key{r.User, r.Type, r.Thread}] {
			kept = append(kept, r)
		}
	}
	for i := len(receipts) - 1; i >= 0; i-- {
		kept = append(kept, receipts[i])
	}
	t.receipts = kept
}

// senderEvents are the member events of some users, in the newest state that the tail has seen.
func (ts *tails) senderEvents(ctx context.Context, t *tail, users []id.UserID) ([]*rendered, error) {
	out := make([]*rendered, 0, len(users))
	var missing []id.UserID
	for _, u := range users {
		if _, ok := t.members[u]; !ok {
			missing = append(missing, u)
		}
	}
	if len(missing) > 0 {
		if len(t.members)+len(missing) > tailMembers || t.members == nil {
			t.members = make(map[id.UserID]*rendered)
			missing = users
		}
		if err := ts.loadMembers(ctx, t, missing); err != nil {
			return nil, err
		}
	}
	for _, u := range users {
		if m := t.members[u]; m != nil {
			out = append(out, m)
		}
	}
	return out, nil
}

// loadMembers reads member events; who has none is remembered, too.
func (ts *tails) loadMembers(ctx context.Context, t *tail, users []id.UserID) error {
	return ts.db.Read(ctx, func(tx *storage.Tx) error {
		if t.root == 0 {
			return nil
		}
		events, err := ts.rooms.MembersAt(tx, t.root, users)
		if err != nil {
			return err
		}
		forms, err := ts.renderEvents(tx, events)
		if err != nil {
			return err
		}
		for _, u := range users {
			t.members[u] = nil
		}
		for i := range forms {
			t.members[id.UserID(gjson.GetBytes(events[i].JSON, "state_key").Str)] = &forms[i]
		}
		return nil
	})
}
