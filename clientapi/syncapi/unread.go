package syncapi

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
)

const (
	// countedRooms bounds the counts that are remembered, each of one user and one room, and
	// compiledRules the users whose push rules are.
	countedRooms  = 50_000
	compiledRules = 10_000
	// maxUnread bounds the events that are looked at to count from nothing: a room that was
	// not read for longer shows what the newest of them come to.
	maxUnread = 10_000
	// pushRulesType is the account data that keeps what a user has changed of the push rules.
	pushRulesType = "m.push_rules"
	// mainThread is how receipts name the events that are in no thread.
	mainThread = "main"
)

// Counter counts what users have not read. Nothing is written for it: the counts follow from
// the log, the user's receipts and push rules, and are carried on from event to event. What
// it remembers is checked against receipts and rules each time, so that it may be forgotten
// or shared by nobody.
//
// spec: client-server-api/modules/push.md#receiving-notifications
type Counter struct {
	rooms  *roomserver.Server
	counts *lru.Cache[countKey, counted]
	rules  *lru.Cache[id.UserID, compiled]
	// standard are the rules of all who have changed nothing.
	standard *pushrules.Evaluator
}

type countKey struct {
	user id.UserID
	room storage.RoomNID
}

// counted is what a user had not read of a room, when the timeline had come to upTo.
type counted struct {
	upTo storage.Ord
	// receipts and rules are what it was counted by: positions that grow with each change.
	receipts, rules id.Pos
	read            readUpTo
	unread          Unread
}

type compiled struct {
	pos       id.Pos
	evaluator *pushrules.Evaluator
}

// readUpTo is how far a user has read: all of the room up to a place, and single threads.
type readUpTo struct {
	all     storage.Ord
	threads map[string]storage.Ord
}

func (r *readUpTo) in(thread string) storage.Ord { return max(r.all, r.threads[thread]) }

// NewCounter makes a counter that remembers nothing yet.
func NewCounter(rooms *roomserver.Server) (*Counter, error) {
	counts, err := lru.New[countKey, counted](countedRooms)
	if err != nil {
		return nil, fmt.Errorf("unread counts: %w", err)
	}
	rules, err := lru.New[id.UserID, compiled](compiledRules)
	if err != nil {
		return nil, fmt.Errorf("unread counts: %w", err)
	}
	return &Counter{rooms: rooms, counts: counts, rules: rules, standard: pushrules.Compile(nil)}, nil
}

// Count is what a user, who is joined, has not read of a room in a snapshot.
func (c *Counter) Count(tx *storage.Tx, user id.UserID, room *storage.Room) (Unread, error) {
	key := countKey{user, room.NID}
	receipts, read, err := readReceipts(tx, user, room.NID)
	if err != nil {
		return Unread{}, err
	}
	rules, rulesPos, err := c.rulesOf(tx, user)
	if err != nil {
		return Unread{}, err
	}
	pos, err := tx.GetPos()
	if err != nil {
		return Unread{}, err
	}
	last, ok := c.counts.Get(key)
	if !ok || last.receipts != receipts || last.rules != rulesPos || last.upTo > storage.Ord(pos) {
		if last, err = c.fresh(tx, user, room, read); err != nil {
			return Unread{}, err
		}
		last.receipts, last.rules = receipts, rulesPos
	}
	next, err := c.carryOn(tx, user, room, rules, last, storage.Ord(pos))
	if err != nil {
		return Unread{}, err
	}
	c.counts.Add(key, next)
	return next.unread, nil
}

// fresh is the count at the place where the user began to have something unread: where they
// joined, or where they have read up to.
func (c *Counter) fresh(tx *storage.Tx, user id.UserID, room *storage.Room, read readUpTo) (counted, error) {
	m, err := tx.GetMembership(user, room.NID)
	if err != nil {
		return counted{}, err
	}
	joined, err := c.joinedAt(tx, &m)
	if err != nil {
		return counted{}, err
	}
	return counted{upTo: max(read.all, joined, 0), read: read}, nil
}

// joinedAt is the place of the event by which a member became one: member events that change
// but the name or the picture are gone back over.
func (c *Counter) joinedAt(tx *storage.Tx, m *storage.Membership) (storage.Ord, error) {
	nid := m.Event
	for range 1000 {
		e, err := tx.GetEventByNID(nid)
		if err != nil {
			return 0, err
		}
		if e.Replaces != 0 {
			before, err := tx.GetEventByNID(e.Replaces)
			if err != nil {
				return 0, err
			}
			if gjson.GetBytes(before.JSON, "content.membership").Str == "join" {
				nid = before.NID
				continue
			}
		}
		ord, _, err := tx.GetOrd(nid)
		return ord, err
	}
	return storage.Ord(m.Pos), nil
}

// carryOn counts the events that have come since.
func (c *Counter) carryOn(tx *storage.Tx, user id.UserID, room *storage.Room, rules *pushrules.Evaluator, last counted, to storage.Ord) (counted, error) {
	if last.upTo >= to {
		return last, nil
	}
	rows, err := tx.ListTimelineBackwards(room.NID, to, last.upTo, maxUnread)
	if err != nil {
		return last, err
	}
	if len(rows) == 0 {
		last.upTo = to
		return last, nil
	}
	if startsAnew(&last, user, rows) {
		from, err := c.fresh(tx, user, room, last.read)
		if err != nil {
			return last, err
		}
		from.receipts, from.rules = last.receipts, last.rules
		if from.upTo != last.upTo || !last.isFresh() {
			return c.carryOn(tx, user, room, rules, from, to)
		}
	}
	evaluate, err := c.evaluation(tx, user, room, rules)
	if err != nil {
		return last, err
	}
	next := last
	next.upTo = to
	// What was given out before is not changed.
	next.unread.Threads = make(map[id.EventID]Counts, len(last.unread.Threads))
	for root, counts := range last.unread.Threads {
		next.unread.Threads[root] = counts
	}
	for i := range rows {
		e := &rows[i]
		thread := threadOf(e.JSON)
		if e.RedactedBy != 0 || e.Ord <= last.read.in(thread) {
			continue
		}
		actions := evaluate(&e.Event)
		if !actions.Notify {
			continue
		}
		counts := next.unread.Room
		if thread != mainThread {
			counts = next.unread.Threads[id.EventID(thread)]
		}
		counts.Notifications++
		if actions.Highlight {
			counts.Highlights++
		}
		if thread == mainThread {
			next.unread.Room = counts
		} else {
			next.unread.Threads[id.EventID(thread)] = counts
		}
	}
	return next, nil
}

// isFresh says that nothing is counted yet.
func (c *counted) isFresh() bool { return c.unread.Room == (Counts{}) && len(c.unread.Threads) == 0 }

// startsAnew says whether what was counted may not be carried on: something of it may have
// been redacted, or the user was away.
func startsAnew(last *counted, user id.UserID, rows []storage.TimelineEvent) bool {
	for i := range rows {
		f := gjson.GetManyBytes(rows[i].JSON, "type", "state_key")
		switch f[0].Str {
		case "m.room.redaction":
			if !last.isFresh() {
				return true
			}
		case "m.room.member":
			if f[1].Str == string(user) {
				return true
			}
		}
	}
	return false
}

// evaluation prepares to apply a user's rules to events of a room.
func (c *Counter) evaluation(tx *storage.Tx, user id.UserID, room *storage.Room, rules *pushrules.Evaluator) (func(*storage.Event) *pushrules.Actions, error) {
	powers, err := c.rooms.Powers(tx, room)
	if err != nil {
		return nil, err
	}
	content, err := c.rooms.StateContent(tx, room, room.Root, "m.room.member", string(user))
	if err != nil {
		return nil, err
	}
	member := pushrules.Member{User: user, DisplayName: gjson.GetBytes(content, "displayname").Str}
	return func(e *storage.Event) *pushrules.Actions {
		return rules.Evaluate(pushrules.NewEvent(e.JSON, pushrules.Context{
			ID: e.ID, Room: room.ID, Members: int(room.Joined),
			SenderPower:        powers.Of(id.UserID(gjson.GetBytes(e.JSON, "sender").Str)),
			NotificationLevels: powers.Notifications(),
		}), member)
	}, nil
}

// threadOf is the thread that an event is in.
//
// spec: client-server-api/modules/threading.md#threading
func threadOf(raw []byte) string {
	relates := gjson.GetBytes(raw, `content.m\.relates_to`)
	if relates.Get("rel_type").Str == "m.thread" && strings.HasPrefix(relates.Get("event_id").Str, "$") {
		return relates.Get("event_id").Str
	}
	return mainThread
}

// readReceipts is how far a user has read, and the position of the newest of the receipts
// that say so.
func readReceipts(tx *storage.Tx, user id.UserID, room storage.RoomNID) (newest id.Pos, read readUpTo, err error) {
	list, err := tx.ListReceiptsOfUser(room, user)
	if err != nil {
		return 0, read, err
	}
	read.all = math.MinInt64
	for i := range list {
		r := &list[i]
		newest = max(newest, r.Pos)
		if r.Thread == "" {
			read.all = max(read.all, r.Ord)
			continue
		}
		if read.threads == nil {
			read.threads = make(map[string]storage.Ord)
		}
		read.threads[r.Thread] = max(read.threads[r.Thread], r.Ord)
	}
	return newest, read, nil
}

// rulesOf are a user's push rules, and the position of their last change.
func (c *Counter) rulesOf(tx *storage.Tx, user id.UserID) (*pushrules.Evaluator, id.Pos, error) {
	stored, err := tx.GetAccountData(user, "", pushRulesType)
	if errors.Is(err, storage.ErrNotFound) {
		return c.standard, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if known, ok := c.rules.Get(user); ok && known.pos == stored.Pos {
		return known.evaluator, stored.Pos, nil
	}
	changes, err := pushrules.Parse(stored.Content)
	if err != nil {
		return nil, 0, fmt.Errorf("push rules of %s: %w", user, err)
	}
	evaluator := pushrules.Compile(changes)
	c.rules.Add(user, compiled{stored.Pos, evaluator})
	return evaluator, stored.Pos, nil
}
