package unread

import (
	"errors"
	"fmt"

	"github.com/hashicorp/golang-lru/v2"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
)

const (
	// maxScan bounds how many of a room's newest events are looked at, and how many
	// notifications are counted: who has missed more is told that it is about as many.
	maxScan = 1000
	// cachedEvents bounds the events that are kept ready for further users, and
	// cachedEventSize the bytes of one that is.
	cachedEvents    = 4096
	cachedEventSize = 8192
	// cachedRules bounds the users whose push rules are kept ready.
	cachedRules = 8192
	// cachedLists bounds the lists that are remembered, one for a user and room, and
	// cachedItems the notifications in all of them.
	cachedLists = 1 << 16
	cachedItems = 1 << 20
)

// Count is how many notifications there are.
type Count struct {
	Notifications, Highlights int
}

// Counts are the notifications that a user has not read in a room: outside of its threads,
// and in each thread that has any, by the thread's root.
type Counts struct {
	Main    Count
	Threads map[id.EventID]Count
}

// Counter counts what users have not read. It is safe for concurrent use.
type Counter struct {
	db     *storage.DB
	rooms  *roomserver.Server
	events *lru.Cache[storage.EventNID, *event]
	rules  *lru.Cache[id.UserID, *rules]
	lists  *lists
	tails  *lru.Cache[id.RoomID, *tail]
	totals *lru.Cache[id.UserID, *total]
}

// New makes a Counter.
func New(db *storage.DB, rooms *roomserver.Server) (*Counter, error) {
	if db == nil || rooms == nil {
		return nil, errors.New("unread: database and rooms must be given")
	}
	events, err := lru.New[storage.EventNID, *event](cachedEvents)
	if err != nil {
		return nil, fmt.Errorf("unread: %w", err)
	}
	rules, err := lru.New[id.UserID, *rules](cachedRules)
	if err != nil {
		return nil, fmt.Errorf("unread: %w", err)
	}
	lists, err := newLists(cachedLists, cachedItems)
	if err != nil {
		return nil, fmt.Errorf("unread: %w", err)
	}
	tails, err := newTails()
	if err != nil {
		return nil, fmt.Errorf("unread: %w", err)
	}
	totals, err := lru.New[id.UserID, *total](cachedTotals)
	if err != nil {
		return nil, fmt.Errorf("unread: %w", err)
	}
	return &Counter{db: db, rooms: rooms, events: events, rules: rules, lists: lists, tails: tails, totals: totals}, nil
}

// Count counts what a user has not read in a room, as the snapshot has it. There is nothing
// unread for one who is not joined.
func (c *Counter) Count(tx *storage.Tx, user id.UserID, room *storage.Room) (Counts, error) {
	var out Counts
	err := c.withList(tx, user, room, func(l *list) { out = l.counts() })
	return out, err
}

// withList shows fn, until it returns, what a user has not read.
func (c *Counter) withList(tx *storage.Tx, user id.UserID, room *storage.Room, fn func(*list)) error {
	rules, err := c.rulesOf(tx, user)
	if err != nil {
		return err
	}
	r := &reader{c: c, tx: tx, room: room, rules: rules, member: pushrules.Member{User: user}}
	l := &list{forgotten: true}
	if !tx.Writing() { // else what it sees may yet be rolled back
		l = c.lists.get(listKey{user, room.NID})
	}
	// Whoever waits here has its transaction already, and so has the one who is waited for.
	l.mu.Lock()
	defer l.mu.Unlock()
	defer c.lists.weigh(l)
	err = r.update(l)
	var horizon int64
	if err == nil {
		horizon, err = r.due()
	}
	if err != nil {
		l.counted = false
		return fmt.Errorf("count what %s has not read in %s: %w", user, room.ID, err)
	}
	l.expire(horizon)
	fn(l)
	return nil
}
