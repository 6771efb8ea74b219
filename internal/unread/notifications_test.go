package unread

import (
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/roomserver"
	"parley/storage"
	"parley/userserver"
)

// list are all notifications of bob, read page by page, the newest first. One that is not read
// has a star.
func (p *place) list(q Query) string {
	p.Helper()
	q.User = bob
	out := ""
	for range 1000 {
		found, next, err := p.counter.Notifications(p.ctx, q)
		p.ok(err)
		if len(found) > q.Limit {
			p.Fatalf("%d notifications, and the limit is %d", len(found), q.Limit)
		}
		for _, n := range found {
			out += gjson.GetBytes(n.Event, "content.body").Str
			if !n.Read {
				out += "*"
			}
			out += " "
			if gjson.GetBytes(n.Event, "room_id").Exists() || n.Room == "" || n.TS == 0 || string(n.Actions[0]) != `"notify"` {
				p.Errorf("the notification is %s in %s at %d", n.Event, n.Room, n.TS)
			}
		}
		if next == nil {
			return out
		}
		if q.From != nil && *next >= *q.From {
			p.Fatalf("after %d it goes on at %d", *q.From, *next)
		}
		q.From = next
	}
	p.Fatal("there is no end of pages")
	return ""
}

func TestNotifications(t *testing.T) {
	each(t, func(p *place) {
		if got := p.list(Query{Limit: 5}); got != "" {
			p.Errorf("notified of %q", got)
		}
		rooms := []id.RoomID{p.room, p.newRoom(bob), p.newRoom(bob, carol)}
		unseen := p.newRoom(carol)
		for i := range 30 {
			p.sendTo(rooms[i%3], alice, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, i))
			p.sendTo(unseen, alice, "m.room.message", `{"msgtype":"m.text","body":"unseen"}`)
		}
		p.sendTo(rooms[1], alice, "m.room.message", `{"msgtype":"m.notice","body":"notice"}`)
		p.sendTo(rooms[1], bob, "m.room.message", `{"msgtype":"m.text","body":"mine"}`)
		read := p.say(alice, "read")
		p.read(userserver.Markers{Read: read})
		gone := p.say(alice, "gone")
		p.redact(alice, gone)
		p.send(carol, "m.room.message", `{"msgtype":"m.text","body":"you","m.mentions":{"user_ids":["@bob:test"]}}`)
		want := "you* read "
		for i := 29; i >= 0; i-- {
			want += fmt.Sprint(i)
			if i%3 == 2 {
				want += "*"
			}
			want += " "
		}
		for _, limit := range []int{1, 2, 7, 1000} {
			if got := p.list(Query{Limit: limit}); got != want {
				p.Errorf("by %d it is %s\ninstead of %s", limit, got, want)
			}
		}
		if got := p.list(Query{Limit: 2, Highlights: true}); got != "you* " {
			p.Errorf("the highlights are %q", got)
		}
		p.ok(p.rooms.Leave(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
		p.ok(p.rooms.Join(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
		if got := p.list(Query{Limit: 2, Highlights: true}); got != "" {
			p.Errorf("the highlights of an earlier stay are %q", got)
		}
		from := storage.Ord(-5)
		if got := p.list(Query{Limit: 2, From: &from}); got != "" {
			p.Errorf("before the log there is %q", got)
		}
	})
}
