package unread

import (
	"container/heap"
	"context"
	"encoding/json"
	"math"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
)

// maxListed bounds the events that one request for notifications looks at.
const maxListed = 5000

// Notification is an event that a user was notified of.
type Notification struct {
	Room id.RoomID
	// Event is as clients see it, without the room.
	Event json.RawMessage
	// Actions are those of the push rule that matched.
	Actions []json.RawMessage
	Read    bool
	// TS is when it was sent, in milliseconds since 1970.
	TS int64
}

// Query asks for notifications.
type Query struct {
	User id.UserID
	// DeviceNID is the device that is shown its own transaction IDs.
	DeviceNID int64
	// From is the place of the log to go on from, as the answer before has named it; nil begins at the end.
	From  *storage.Ord
	Limit int
	// Highlights asks for those alone that highlight.
	Highlights bool
}

// Notifications are what a user was notified of in the rooms that they are joined to, the newest
// first, and where to go on; nil when there is nothing more. There may be less than was asked for, as
// one request looks at no more than some thousand events.
//
// spec: client-server-api/modules/push.md#listing-notifications
func (c *Counter) Notifications(ctx context.Context, q Query) (found []Notification, next *storage.Ord, err error) {
	err = c.db.Read(ctx, func(tx *storage.Tx) error {
		found, next, err = c.notifications(tx, &q)
		return err
	})
	return found, next, err
}

func (c *Counter) notifications(tx *storage.Tx, q *Query) (found []Notification, next *storage.Ord, err error) {
	rooms, err := c.pages(tx, q)
	if err != nil {
		return nil, nil, err
	}
	heap.Init(&rooms)
	for scanned := 0; len(rooms) > 0; {
		p := rooms[0]
		switch {
		case len(p.rows) == 0 && !p.more:
			heap.Pop(&rooms)
		case len(found) == q.Limit || scanned >= maxListed:
			return found, &p.head, nil
		case len(p.rows) == 0:
			n, err := p.load(q)
			if err != nil {
				return nil, nil, err
			}
			scanned += n
			heap.Fix(&rooms, 0)
		default:
			n, err := p.notification(q)
			if err != nil {
				return nil, nil, err
			}
			if n != nil {
				found = append(found, *n)
			}
			p.next()
			heap.Fix(&rooms, 0)
		}
	}
	return found, nil, nil
}

// page is a room whose timeline is read backwards.
type page struct {
	*reader
	room storage.Room
	// head is the place of the next event; where that is not loaded yet, it is there or before.
	head storage.Ord
	// rows are the next events, and more says that there may be others behind them.
	rows []storage.TimelineEvent
	more bool
	// since is where the user joined.
	since  storage.Ord
	unread map[storage.Ord]struct{}
}

// pages are the rooms that the user is joined to.
func (c *Counter) pages(tx *storage.Tx, q *Query) (pages, error) {
	memberships, err := tx.ListMemberships(q.User)
	if err != nil {
		return nil, err
	}
	rules, err := c.rulesOf(tx, q.User)
	if err != nil {
		return nil, err
	}
	from := storage.Ord(math.MaxInt64)
	if q.From != nil {
		from = *q.From
	}
	var out pages
	for i := range memberships {
		m := &memberships[i]
		if m.Membership != "join" {
			continue
		}
		_, newest, ok, err := tx.GetCurrentAt(m.Room, from)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		room, err := tx.GetRoomByNID(m.Room)
		if err != nil {
			return nil, err
		}
		if room.Root == 0 {
			continue
		}
		p := &page{room: room, head: newest, more: true}
		p.reader = &reader{c: c, tx: tx, room: &p.room, rules: rules, member: pushrules.Member{User: q.User}}
		out = append(out, p)
	}
	return out, nil
}

// load reads on, and says how many events it has read.
func (p *page) load(q *Query) (int, error) {
	if p.unread == nil {
		if err := p.begin(q); err != nil {
			return 0, err
		}
	}
	const batch = 50
	rows, err := p.tx.ListTimelineBackwards(p.room.NID, p.head, p.since, batch)
	p.rows, p.more = rows, len(rows) == batch
	if len(rows) > 0 {
		p.head = rows[0].Ord
	}
	return len(rows), err
}

// next goes on to the next event.
func (p *page) next() {
	p.head--
	if p.rows = p.rows[1:]; len(p.rows) > 0 {
		p.head = p.rows[0].Ord
	}
}

// begin finds out what has been read.
func (p *page) begin(q *Query) error {
	view, err := p.view()
	if err != nil {
		return err
	}
	if p.since, err = view.JoinedSince(); err != nil {
		return err
	}
	p.unread = make(map[storage.Ord]struct{})
	return p.c.withList(p.tx, q.User, &p.room, func(l *list) {
		for i := range l.items {
			p.unread[l.items[i].ord] = struct{}{}
		}
	})
}

// notification is what the first of the rows is for the user; nil for nothing.
func (p *page) notification(q *Query) (*Notification, error) {
	row := &p.rows[0]
	e, err := p.event(row)
	if err != nil {
		return nil, err
	}
	actions, err := p.actions(row, e)
	if err != nil || actions == nil || !actions.Notify || q.Highlights && !actions.Highlight {
		return nil, err
	}
	view, err := p.view()
	if err != nil {
		return nil, err
	}
	rendered, err := p.c.rooms.Render(p.tx, view, &p.room, []storage.Event{row.Event},
		roomserver.Reader{User: q.User, DeviceNID: q.DeviceNID, Bundle: true})
	if err != nil {
		return nil, err
	}
	_, unread := p.unread[row.Ord]
	return &Notification{
		Room: p.room.ID, Event: rendered[0], Actions: actions.List, Read: !unread,
		TS: gjson.GetBytes(row.JSON, "origin_server_ts").Int(),
	}, nil
}

// pages is a heap: the one with the newest event is first.
type pages []*page

func (p pages) Len() int           { return len(p) }
func (p pages) Less(i, j int) bool { return p[i].head > p[j].head }
func (p pages) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pages) Push(x any)        { *p = append(*p, x.(*page)) }
func (p *pages) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}
