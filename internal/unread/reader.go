package unread

import (
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
)

// reader reads what one user is notified of in one room, in one snapshot. It is for one
// goroutine.
type reader struct {
	c      *Counter
	tx     *storage.Tx
	room   *storage.Room
	rules  *rules
	member pushrules.Member

	named   bool
	viewing *roomserver.View
	// horizon is up to when the room's messages are due; nil until it is asked for.
	horizon *int64
}

// update brings a list up to the snapshot. One that was there already stays as it is.
func (r *reader) update(l *list) error {
	pos, err := r.tx.GetPos()
	if err != nil {
		return err
	}
	read, err := r.receipts()
	if err != nil {
		return err
	}
	l.seen = max(l.seen, pos)
	if !l.counted || l.version != r.rules.version {
		return r.recount(l, read)
	}
	l.markRead(read)
	rows, err := r.tx.ListTimelineForwards(r.room.NID, l.at, math.MaxInt64, maxScan)
	if err != nil {
		return err
	}
	if len(rows) == maxScan {
		return r.recount(l, read)
	}
	for i := range rows {
		row := &rows[i]
		e, err := r.event(row)
		if err != nil {
			return err
		}
		if e.member == r.member.User || e.redacts != 0 && e.redactedSender == r.member.User {
			// They may have left and come back; or it isn't known any more in what thread they
			// sent something.
			return r.recount(l, read)
		}
		if e.redacts != 0 {
			l.remove(e.redacts)
		}
		if r.own(e) {
			l.markRead(marks{e.thread: row.Ord})
		}
		found, err := r.notification(l.read, row, e)
		if err != nil {
			return err
		}
		if found != nil {
			l.add(*found)
		}
		l.at = row.Ord
	}
	return nil
}

// receipts are up to where the user's receipts say that they have read.
//
// spec: client-server-api/modules/push.md#marking-notifications-as-read
func (r *reader) receipts() (marks, error) {
	receipts, err := r.tx.ListReceiptsOfUser(r.room.NID, r.member.User)
	if err != nil {
		return nil, err
	}
	read := make(marks, len(receipts)+1)
	for i := range receipts {
		if t := receipts[i].Type; t == storage.ReceiptRead || t == storage.ReceiptReadPrivate {
			read.raise(receipts[i].Thread, receipts[i].Ord)
		}
	}
	return read, nil
}

// own says that who sends an event has read what is before it in its thread. Events of the
// state don't say that: clients send them in all rooms at once, as for a new name.
//
// spec: client-server-api/modules/push.md#marking-notifications-as-read
func (r *reader) own(e *event) bool {
	return e.sender == r.member.User && !e.state && e.rules != nil
}

// recount makes a list anew: from the room's newest event back to where all is read.
func (r *reader) recount(l *list, read marks) error {
	l.counted, l.items = false, nil
	view, err := r.view()
	if err != nil {
		return err
	}
	if !view.Joined() {
		return nil
	}
	since, err := view.JoinedSince()
	if err != nil {
		return err
	}
	read.raise("", since)
	l.at = read.in(mainThread)
	add := func(rows []storage.TimelineEvent) error {
		for i := range rows {
			row := &rows[i]
			e, err := r.event(row)
			if err != nil {
				return err
			}
			if r.own(e) {
				read.raise(e.thread, row.Ord)
			}
			found, err := r.notification(read, row, e)
			if err != nil {
				return err
			}
			if found != nil {
				l.items = append(l.items, *found)
			}
			l.at = max(l.at, row.Ord)
		}
		return nil
	}
	// Down to where the main timeline is read, any event may be unread; from there on, only
	// those that relate to another may be, as they may be in threads.
	from, left := storage.Ord(math.MaxInt64), maxScan
	for batch := 50; left > 0 && from > read.in(mainThread); batch *= 4 {
		limit := min(batch, left)
		rows, err := r.tx.ListTimelineBackwards(r.room.NID, from, read.in(mainThread), limit)
		if err != nil {
			return err
		}
		left -= len(rows)
		if from = read.in(mainThread); len(rows) == limit {
			from = rows[limit-1].Ord - 1
		}
		if err := add(rows); err != nil {
			return err
		}
	}
	if left > 0 && from > read[""] {
		rows, err := r.tx.ListRelatingBackwards(r.room.NID, from, read[""], left)
		if err != nil {
			return err
		}
		if err := add(rows); err != nil {
			return err
		}
	}
	slices.Reverse(l.items)
	l.read, l.version, l.counted = read, r.rules.version, true
	return nil
}

// notification is what an event is for the user; nil where it is none, or is read.
func (r *reader) notification(read marks, row *storage.TimelineEvent, e *event) (*item, error) {
	if row.Ord <= read.in(e.thread) {
		return nil, nil
	}
	actions, err := r.actions(row, e)
	if err != nil || actions == nil || !actions.Notify {
		return nil, err
	}
	return &item{ord: row.Ord, event: row.NID, ts: e.ts, thread: e.thread, highlight: actions.Highlight}, nil
}

// actions are what is to be done about an event; nil for one that the user doesn't see.
func (r *reader) actions(row *storage.TimelineEvent, e *event) (*pushrules.Actions, error) {
	if horizon, err := r.due(); err != nil || row.Due(horizon) {
		return nil, err
	}
	if _, ok := r.rules.ignored[e.sender]; ok || e.rules == nil || row.Status != storage.Accepted || row.RedactedBy != 0 {
		return nil, nil
	}
	if row.Root != row.Current {
		// The user is joined, but perhaps not on this side of a fork.
		view, err := r.view()
		if err != nil {
			return nil, err
		}
		if visible, err := view.Visible(row); err != nil || !visible {
			return nil, err
		}
	}
	if r.rules.byName && !r.named {
		if err := r.name(); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	actions := r.rules.evaluator.Evaluate(e.rules, r.member)
	if e.rules.AsksPowers() {
		powers, err := r.c.rooms.Powers(r.tx, r.room)
		if err != nil {
			return nil, err
		}
		e.rules.Learn(&pushrules.Powers{Sender: powers.Of(e.sender), Notifications: powers.Notifications()})
		actions = r.rules.evaluator.Evaluate(e.rules, r.member)
	}
	return actions, nil
}

// due is up to when messages are shown to nobody any more, 0 where they stay.
func (r *reader) due() (int64, error) {
	if r.horizon == nil {
		horizon, err := r.c.rooms.Horizon(r.tx, r.room)
		if err != nil {
			return 0, err
		}
		r.horizon = &horizon
	}
	return *r.horizon, nil
}

// view is what the user may see of the room.
func (r *reader) view() (*roomserver.View, error) {
	if r.viewing == nil {
		var err error
		if r.viewing, err = r.c.rooms.ViewRoom(r.tx, r.member.User, *r.room); err != nil {
			return nil, err
		}
	}
	return r.viewing, nil
}

// name finds the user's name in the room.
func (r *reader) name() error {
	events, err := r.c.rooms.MembersAt(r.tx, r.room.Root, []id.UserID{r.member.User})
	if err != nil {
		return err
	}
	for i := range events {
		if name := gjson.GetBytes(events[i].JSON, "content.displayname"); name.Type == gjson.String {
			r.member.DisplayName = name.Str
		}
	}
	r.named = true
	return nil
}

// event is an event of a timeline with what is the same for all users. It is shared by them.
type event struct {
	sender id.UserID
	state  bool
	// ts is when a message says that it was sent; 0 for an event of the state.
	ts int64
	// member is whose membership it changes, "" where it changes none.
	member id.UserID
	// thread is the thread's root, or mainThread.
	thread string
	// redacts is the event that it has redacted, 0 for none, and redactedSender who sent that.
	redacts        storage.EventNID
	redactedSender id.UserID

	// mu guards rules, which remember what was asked of them. They are nil for a redacted event.
	mu    sync.Mutex
	rules *pushrules.Event
}

func (r *reader) event(row *storage.TimelineEvent) (*event, error) {
	if row.RedactedBy == 0 {
		if e, ok := r.c.events.Get(row.NID); ok {
			return e, nil
		}
	}
	f := gjson.GetManyBytes(row.JSON, "sender", "type", "state_key")
	e := &event{sender: id.UserID(f[0].Str), state: f[2].Exists(), thread: mainThread}
	switch {
	case e.state && f[1].Str == "m.room.member":
		e.member = id.UserID(f[2].Str)
	case e.state:
	default:
		e.ts = gjson.GetBytes(row.JSON, "origin_server_ts").Int()
		if err := r.setThread(e, row); err != nil {
			return nil, err
		}
		if f[1].Str != "m.room.redaction" {
			break
		}
		for _, redacts := range gjson.GetManyBytes(row.JSON, "redacts", "content.redacts") {
			if err := r.setRedacts(e, row.NID, id.EventID(redacts.Str)); err != nil {
				return nil, err
			}
		}
	}
	if row.RedactedBy != 0 {
		// What it was before is not known any more, so this isn't for those who see it as it was.
		return e, nil
	}
	e.rules = pushrules.NewEvent(row.JSON, pushrules.Context{ID: row.ID, Room: r.room.ID, Members: int(r.room.Joined)})
	if !r.tx.Writing() && len(row.JSON) <= cachedEventSize {
		r.c.events.Add(row.NID, e)
	}
	return e, nil
}

// setThread notes in which thread a message is.
func (r *reader) setThread(e *event, row *storage.TimelineEvent) error {
	if !gjson.GetBytes(row.JSON, `content.m\.relates_to`).IsObject() {
		return nil
	}
	root, ok, err := r.tx.GetThread(row.NID)
	if ok {
		e.thread = string(root)
	}
	return err
}

// setRedacts notes which event a redaction has redacted, if it was allowed to.
func (r *reader) setRedacts(e *event, redaction storage.EventNID, target id.EventID) error {
	if target == "" {
		return nil
	}
	row, err := r.tx.GetEvent(target)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err == nil && row.RedactedBy == redaction {
		e.redacts, e.redactedSender = row.NID, id.UserID(gjson.GetBytes(row.JSON, "sender").Str)
	}
	return err
}
