package unread

import (
	"encoding/json"
	"errors"
	"sync"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/storage"
)

const (
	// cachedTotals bounds the users of whom is remembered how much they have not read in all.
	cachedTotals = 4096
	// maxTotalGap bounds the events that are looked through to bring that up to date.
	maxTotalGap = 2000
)

// Notified are those of a room's members who are to be notified of an event.
func (c *Counter) Notified(tx *storage.Tx, room *storage.Room, row *storage.TimelineEvent, members []storage.PushMember) ([]id.UserID, error) {
	r := &reader{c: c, tx: tx, room: room}
	e, err := r.event(row)
	if err != nil || e.rules == nil || row.Status != storage.Accepted || row.RedactedBy != 0 {
		return nil, err
	}
	var out []id.UserID
	for i := range members {
		m := &members[i]
		one := &reader{c: c, tx: tx, room: room, member: pushrules.Member{User: m.User}}
		if one.rules, err = c.rulesAt(tx, m.User, rulesVersion{m.PushRules, m.Ignored}); err != nil {
			return nil, err
		}
		if storage.Ord(m.Since) > row.Ord {
			// They joined since, or have another name now.
			there, err := c.rooms.MembersAt(tx, row.Root, []id.UserID{m.User})
			if err != nil {
				return nil, err
			}
			if len(there) == 0 || gjson.GetBytes(there[0].JSON, "content.membership").Str != "join" {
				continue
			}
		}
		actions, err := one.actions(row, e)
		if err != nil {
			return nil, err
		}
		if actions != nil && actions.Notify {
			out = append(out, m.User)
		}
	}
	return out, nil
}

// Pending is a notification that is to be told to its user.
type Pending struct {
	Actions []json.RawMessage
	// Highlight and Sound are what the actions ask for; Sound is "" for none.
	Highlight bool
	Sound     string
}

// Pending is what a user is notified of by an event; nil for nothing, and for what they have
// read. One who is not joined is notified of what concerns their own membership.
func (c *Counter) Pending(tx *storage.Tx, user id.UserID, room *storage.Room, row *storage.TimelineEvent) (*Pending, error) {
	rules, err := c.rulesOf(tx, user)
	if err != nil {
		return nil, err
	}
	r := &reader{c: c, tx: tx, room: room, rules: rules, member: pushrules.Member{User: user}}
	e, err := r.event(row)
	if err != nil {
		return nil, err
	}
	view, err := r.view()
	if err != nil {
		return nil, err
	}
	if view.Joined() {
		unread := false
		err := c.withList(tx, user, room, func(l *list) {
			for i := range l.items {
				unread = unread || l.items[i].event == row.NID
			}
		})
		if err != nil || !unread {
			return nil, err
		}
	} else if e.member != user {
		return nil, nil
	}
	actions, err := r.actions(row, e)
	if err != nil || actions == nil || !actions.Notify {
		return nil, err
	}
	out := &Pending{Actions: actions.List, Highlight: actions.Highlight}
	for _, a := range actions.List {
		if gjson.GetBytes(a, "set_tweak").Str == "sound" {
			out.Sound = gjson.GetBytes(a, "value").Str
		}
	}
	return out, nil
}

// total is how much a user has not read, in all rooms.
type total struct {
	mu      sync.Mutex
	counted bool
	at      id.Pos
	version rulesVersion
	rooms   map[storage.RoomNID]int
}

// Total is how many notifications a user has not read in all their rooms.
func (c *Counter) Total(tx *storage.Tx, user id.UserID) (int, error) {
	t, ok := c.totals.Get(user)
	if !ok {
		t = new(total)
		if before, there, _ := c.totals.PeekOrAdd(user, t); there {
			t = before
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := c.countTotal(tx, user, t); err != nil {
		t.counted = false
		return 0, err
	}
	sum := 0
	for _, n := range t.rooms {
		sum += n
	}
	return sum, nil
}

// countTotal brings a total up to the snapshot.
func (c *Counter) countTotal(tx *storage.Tx, user id.UserID, t *total) error {
	pos, err := tx.GetPos()
	if err != nil {
		return err
	}
	rules, err := c.rulesOf(tx, user)
	if err != nil {
		return err
	}
	touched, complete := make(map[storage.RoomNID]bool), t.counted && t.version == rules.version
	if complete {
		if complete, err = touchedSince(tx, user, t.at, pos, touched); err != nil {
			return err
		}
	}
	if complete {
		if err := c.touchFleeting(tx, t, touched); err != nil {
			return err
		}
	}
	if !complete {
		t.rooms = make(map[storage.RoomNID]int)
		list, err := tx.ListMemberships(user)
		if err != nil {
			return err
		}
		for i := range list {
			touched[list[i].Room] = list[i].Membership == "join"
		}
	}
	for nid, may := range touched {
		if !may {
			continue
		}
		delete(t.rooms, nid)
		room, err := tx.GetRoomByNID(nid)
		if err != nil {
			return err
		}
		if room.Root == 0 {
			continue
		}
		counts, err := c.Count(tx, user, &room)
		if err != nil {
			return err
		}
		n := counts.Main.Notifications
		for _, thread := range counts.Threads {
			n += thread.Notifications
		}
		if n > 0 {
			t.rooms[nid] = n
		}
	}
	t.at, t.version, t.counted = max(t.at, pos), rules.version, true
	return nil
}

// touchFleeting adds the rooms whose messages may have become due since they were counted.
func (c *Counter) touchFleeting(tx *storage.Tx, t *total, touched map[storage.RoomNID]bool) error {
	if !c.rooms.Retention().Enabled {
		return nil
	}
	for nid := range t.rooms {
		room, err := tx.GetRoomByNID(nid)
		if err != nil {
			return err
		}
		horizon, err := c.rooms.Horizon(tx, &room)
		if err != nil {
			return err
		}
		touched[nid] = touched[nid] || horizon != 0
	}
	return nil
}

// touchedSince adds the rooms in which what a user has not read may have changed; complete is
// false where there are too many events to look through.
func touchedSince(tx *storage.Tx, user id.UserID, from, to id.Pos, touched map[storage.RoomNID]bool) (complete bool, err error) {
	rooms, complete, err := tx.ListRoomsInLog(from, to, maxTotalGap)
	if err != nil || !complete {
		return false, err
	}
	read, err := tx.ListRoomsRead(user, from)
	if err != nil {
		return false, err
	}
	for _, nid := range read {
		touched[nid] = true
	}
	for nid := range rooms {
		m, err := tx.GetMembership(user, nid)
		if missing := errors.Is(err, storage.ErrNotFound); err != nil && !missing {
			return false, err
		} else if !missing {
			touched[m.Room] = true
		}
	}
	return true, nil
}
