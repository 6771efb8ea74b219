package unread

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/pushrules"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const (
	alice = id.UserID("@alice:test")
	bob   = id.UserID("@bob:test")
	carol = id.UserID("@carol:test")
)

// place is a room of alice, bob and carol, and a counter that is asked again and again.
type place struct {
	testing.TB
	ctx     context.Context
	db      *storage.DB
	rooms   *roomserver.Server
	users   *userserver.Server
	room    id.RoomID
	counter *Counter
}

func newPlace(t testing.TB, db *storage.DB) *place {
	t.Helper()
	p := &place{TB: t, ctx: context.Background(), db: db}
	var err error
	p.rooms, err = roomserver.New(roomserver.Options{DB: db, Name: "test", KeyID: "ed25519:1",
		Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12"})
	p.ok(err)
	p.users = userserver.New(userserver.Options{DB: db, ServerName: "test", Rooms: p.rooms,
		Hashing: userserver.Hashing{Memory: 64, Passes: 1, AtOnce: 2}})
	t.Cleanup(p.users.Close)
	for _, u := range []id.UserID{alice, bob, carol} {
		_, err := p.users.Register(p.ctx, userserver.Registration{Localpart: u.Localpart(), Password: "secret of " + string(u)})
		p.ok(err)
	}
	p.room = p.newRoom(bob, carol)
	p.counter = newCounter(t, p)
	return p
}

func newCounter(t testing.TB, p *place) *Counter {
	c, err := New(p.db, p.rooms)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *place) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// newRoom is a room of alice that others join.
func (p *place) newRoom(users ...id.UserID) id.RoomID {
	p.Helper()
	room, err := p.rooms.Create(p.ctx, roomserver.CreateRequest{Creator: alice, Preset: "public_chat"})
	p.ok(err)
	for _, u := range users {
		p.ok(p.rooms.Join(p.ctx, roomserver.MemberRequest{Room: room, Sender: u}))
	}
	return room
}

func (p *place) send(sender id.UserID, typ, content string) id.EventID {
	p.Helper()
	return p.sendTo(p.room, sender, typ, content)
}

func (p *place) sendTo(room id.RoomID, sender id.UserID, typ, content string) id.EventID {
	p.Helper()
	e, err := p.rooms.Send(p.ctx, roomserver.SendRequest{Room: room, Sender: sender, Type: typ, Content: []byte(content)})
	p.ok(err)
	return e
}

func (p *place) say(sender id.UserID, body string) id.EventID {
	p.Helper()
	return p.send(sender, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))
}

// relate sends a message that relates to another.
func (p *place) relate(sender id.UserID, relType string, to id.EventID) id.EventID {
	p.Helper()
	return p.send(sender, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":"x","m.relates_to":{"rel_type":%q,"event_id":%q}}`, relType, to))
}

func (p *place) redact(sender id.UserID, event id.EventID) {
	p.Helper()
	_, err := p.rooms.Redact(p.ctx, roomserver.RedactRequest{Room: p.room, Sender: sender, Event: event})
	p.ok(err)
}

func (p *place) read(m userserver.Markers) {
	p.Helper()
	p.ok(p.users.SetMarkers(p.ctx, bob, p.room, m))
}

func (p *place) changeRules(change func(*pushrules.Changes) error) {
	p.Helper()
	p.ok(p.users.ChangePushRules(p.ctx, bob, change))
}

// count is what a counter says of bob: notifications/highlights, and those of each thread, sorted.
func (p *place) count(c *Counter) string {
	p.Helper()
	out := ""
	p.ok(p.db.Read(p.ctx, func(tx *storage.Tx) error {
		room, err := tx.GetRoom(p.room)
		if err != nil {
			return err
		}
		u, err := c.Count(tx, bob, &room)
		if err != nil {
			return err
		}
		out = fmt.Sprintf("%d/%d", u.Main.Notifications, u.Main.Highlights)
		var threads []string
		for _, t := range u.Threads {
			threads = append(threads, fmt.Sprintf(" %d/%d", t.Notifications, t.Highlights))
		}
		slices.Sort(threads)
		out += strings.Join(threads, "")
		return nil
	}))
	return out
}

func (p *place) want(want string) {
	p.Helper()
	if got := p.count(p.counter); got != want {
		p.Errorf("bob has %s unread instead of %s", got, want)
	}
	if got := p.count(newCounter(p, p)); got != want {
		p.Errorf("counted anew, bob has %s unread instead of %s", got, want)
	}
}

func each(t *testing.T, run func(p *place)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { run(newPlace(t, db)) })
}

func TestWhatCounts(t *testing.T) {
	each(t, func(p *place) {
		p.want("0/0")
		first := p.say(alice, "one")
		p.want("1/0")
		p.send(alice, "m.room.message", `{"msgtype":"m.text","body":"two","m.mentions":{"user_ids":["@bob:test"]}}`)
		p.want("2/1")
		p.send(alice, "m.room.message", `{"msgtype":"m.text","body":"all","m.mentions":{"room":true}}`)
		p.want("3/2")
		p.send(carol, "m.room.message", `{"msgtype":"m.text","body":"all, says who may not","m.mentions":{"room":true}}`)
		p.want("4/2")
		p.send(alice, "m.room.message", `{"msgtype":"m.notice","body":"a bot speaks"}`)
		p.send(alice, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(first)+`","key":"+"}}`)
		p.relate(alice, "m.replace", first)
		p.want("4/2")
		p.send(alice, "m.room.message", `{"msgtype":"m.text","body":"* one","m.mentions":{"user_ids":["@bob:test"]},
			"m.new_content":{"msgtype":"m.text","body":"one"},"m.relates_to":{"rel_type":"m.replace","event_id":"`+string(first)+`"}}`)
		p.want("5/3") // an edit that mentions somebody new
		p.send(alice, "m.room.encrypted", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
		p.want("6/3")
	})
}

func TestRead(t *testing.T) {
	each(t, func(p *place) {
		one, two := p.say(alice, "one"), p.say(alice, "two")
		reply := p.relate(alice, "m.thread", one)
		three := p.say(alice, "three")
		p.relate(alice, "m.reference", reply)
		other := p.relate(carol, "m.thread", two)
		p.want("3/0 1/0 2/0")
		p.read(userserver.Markers{Read: two, Thread: "main"})
		p.want("1/0 1/0 2/0")
		p.read(userserver.Markers{Read: reply, Thread: string(one)})
		p.want("1/0 1/0 1/0")
		p.read(userserver.Markers{Read: three})
		p.want("0/0 1/0 1/0")
		p.read(userserver.Markers{ReadPrivate: other})
		p.want("0/0")
		four := p.say(alice, "four")
		p.want("1/0")
		p.read(userserver.Markers{Read: one}) // behind the private one
		p.want("1/0")
		p.read(userserver.Markers{Read: four})
		p.want("0/0")
	})
}

func TestOwnEventsRead(t *testing.T) {
	each(t, func(p *place) {
		one := p.say(alice, "one")
		p.relate(alice, "m.thread", one)
		p.want("1/0 1/0")
		p.ok(p.users.SetProfileField(p.ctx, bob, "displayname", json.RawMessage(`"Robert"`)))
		p.want("1/0 1/0") // a new name is told to all rooms, and reads none
		p.say(bob, "mine")
		p.want("0/0 1/0")
		p.say(alice, "two")
		p.relate(bob, "m.thread", one)
		p.want("1/0")
	})
}

func TestRedacted(t *testing.T) {
	each(t, func(p *place) {
		one, two := p.say(alice, "one"), p.say(carol, "two")
		p.want("2/0")
		p.redact(carol, two)
		p.want("1/0")
		reply := p.relate(alice, "m.thread", one)
		p.want("1/0 1/0")
		p.redact(alice, reply)
		p.want("1/0")
		// One that redacts nothing, as its sender may not.
		_, err := p.rooms.Redact(p.ctx, roomserver.RedactRequest{Room: p.room, Sender: carol, Event: one})
		if err == nil {
			p.Fatal("carol has redacted an event of alice")
		}
		p.want("1/0")
		mine := p.relate(bob, "m.thread", one)
		p.want("1/0")
		p.relate(alice, "m.thread", one)
		p.want("1/0 1/0")
		p.redact(alice, mine)
		p.want("1/0 1/0")
	})
}

func TestRulesChange(t *testing.T) {
	each(t, func(p *place) {
		p.say(alice, "one cake")
		p.say(carol, "two")
		p.want("2/0")
		draft := pushrules.Draft{Actions: []json.RawMessage{[]byte(`"notify"`), []byte(`{"set_tweak":"highlight"}`)}}
		pattern := "cake"
		draft.Pattern = &pattern
		p.changeRules(func(c *pushrules.Changes) error { return c.Put(pushrules.Content, "cake", draft, "", "") })
		p.want("2/1")
		p.say(carol, "Cake!")
		p.want("3/2")
		p.ok(p.users.SetAccountData(p.ctx, bob, "", userserver.IgnoredUserType, json.RawMessage(`{"ignored_users":{"@carol:test":{}}}`)))
		p.want("1/1")
		p.say(carol, "Cake!")
		p.want("1/1")
		p.ok(p.users.SetAccountData(p.ctx, bob, "", userserver.IgnoredUserType, json.RawMessage(`{"ignored_users":[1]}`)))
		p.want("4/3")
		p.ok(p.users.SetProfileField(p.ctx, bob, "displayname", json.RawMessage(`"Robert"`)))
		p.changeRules(func(c *pushrules.Changes) error {
			return c.Put(pushrules.Override, "name", pushrules.Draft{Actions: draft.Actions,
				Conditions: []json.RawMessage{[]byte(`{"kind":"contains_display_name"}`)}}, "", "")
		})
		p.say(carol, "hello robert")
		p.want("5/4")
		p.changeRules(func(c *pushrules.Changes) error {
			return c.Put(pushrules.Override, "mute", pushrules.Draft{Actions: []json.RawMessage{}}, "", "")
		})
		p.want("0/0")
	})
}

func TestStay(t *testing.T) {
	each(t, func(p *place) {
		p.say(alice, "one")
		p.want("1/0")
		p.ok(p.rooms.Leave(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
		p.want("0/0")
		p.say(alice, "two")
		p.ok(p.rooms.Join(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
		p.want("0/0") // nothing from before
		p.say(alice, "three")
		p.ok(p.users.SetProfileField(p.ctx, bob, "displayname", json.RawMessage(`"Robert"`)))
		p.want("1/0")
	})
}

func TestManyUnread(t *testing.T) {
	db := storagetest.Open(t, t.TempDir()+"/parley.db", nil)
	p := newPlace(t, db)
	read := p.say(alice, "before")
	p.read(userserver.Markers{Read: read, Thread: "main"})
	thread := p.relate(alice, "m.thread", read)
	for range maxScan / 2 {
		p.say(alice, "again")
	}
	p.want(fmt.Sprintf("%d/0 1/0", maxScan/2))
	for range maxScan/2 + 10 {
		p.say(alice, "again")
	}
	p.want(fmt.Sprintf("%d/0", maxScan))
	p.read(userserver.Markers{Read: thread})
	p.want(fmt.Sprintf("%d/0", maxScan))
	p.read(userserver.Markers{Read: p.say(alice, "last")})
	p.want("0/0")
}

// TestRememberingChangesNothing does things at random; a counter that remembers must say
// what one does that counts from nothing.
func TestRememberingChangesNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPlace(t, db)
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 1))
		var events []id.EventID
		var log []string
		kept := make(map[id.EventID]bool)
		pick := func() id.EventID { return events[random.IntN(len(events))] }
		events = append(events, p.say(alice, "first"))
		roots := []id.EventID{events[0]} // of threads: what relates to nothing
		senders := []id.UserID{alice, alice, carol, carol, carol, bob}
		for range 200 {
			sender := senders[random.IntN(len(senders))]
			var done string
			switch random.IntN(10) {
			case 0, 1, 2:
				events = append(events, p.say(sender, "hello"))
				roots = append(roots, events[len(events)-1])
				done = "say"
			case 3:
				e := roots[random.IntN(len(roots))]
				events = append(events, p.relate(sender, "m.thread", e))
				done = "thread of " + string(e)
			case 4:
				e := pick()
				events = append(events, p.relate(sender, "m.reference", e))
				kept[e] = true
				done = "reference to " + string(e)
			case 5:
				e := pick()
				if kept[e] {
					continue // it would take what relates to it out of its thread
				}
				p.redact(alice, e)
				done = "redact " + string(e)
			case 6, 7:
				m := userserver.Markers{Read: pick()}
				if random.IntN(3) == 0 {
					m = userserver.Markers{ReadPrivate: pick()}
				}
				if random.IntN(4) > 0 {
					m.Thread = "main"
				}
				// In a thread that it is not in, the marker is refused.
				done = fmt.Sprint("read ", m, p.users.SetMarkers(p.ctx, bob, p.room, m))
			case 8:
				thread := pick()
				m := userserver.Markers{Read: pick(), Thread: string(thread)}
				done = fmt.Sprint("read ", m, p.users.SetMarkers(p.ctx, bob, p.room, m))
			case 9:
				if random.IntN(5) > 0 {
					continue
				}
				p.ok(p.rooms.Leave(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
				p.ok(p.rooms.Join(p.ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}))
				done = "leave and join"
			}
			log = append(log, string(sender)+": "+done)
			if remembered, anew := p.count(p.counter), p.count(newCounter(p, p)); remembered != anew {
				t.Fatalf("seed %d: it remembers %s, but counted anew it is %s, after\n%s", seed, remembered, anew, strings.Join(log, "\n"))
			}
		}
	})
}

func TestListsAreBounded(t *testing.T) {
	s, err := newLists(10, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		l := s.get(listKey{alice, storage.RoomNID(i)})
		l.items = make([]item, i)
		s.weigh(l)
		sum := 0
		for _, l := range s.lru.Values() {
			sum += len(l.items)
		}
		if s.items != sum || s.lru.Len() > 10 || sum > 100 {
			t.Fatalf("%d lists of %d items, counted as %d", s.lru.Len(), sum, s.items)
		}
	}
	old := s.get(listKey{alice, 0})
	s.lru.Purge()
	old.items = make([]item, 7)
	if s.weigh(old); s.items != 0 {
		t.Errorf("a list that was forgotten is counted: %d", s.items)
	}
}
