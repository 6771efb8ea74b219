package syncapi_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"testing"

	"parley/clientapi/syncapi"
	"parley/internal/id"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
)

const (
	alice = id.UserID("@alice:test")
	bob   = id.UserID("@bob:test")
)

// place is a room server with one room of alice and bob, and a counter that is asked again
// and again beside one that never remembers anything.
type place struct {
	t       *testing.T
	db      *storage.DB
	rooms   *roomserver.Server
	room    id.RoomID
	counter *syncapi.Counter
}

func newPlace(t *testing.T, db *storage.DB) *place {
	rooms, err := roomserver.New(roomserver.Options{DB: db, Name: "test", KeyID: "ed25519:1",
		Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12"})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, db: db, rooms: rooms}
	ctx := context.Background()
	if p.room, err = rooms.Create(ctx, roomserver.CreateRequest{Creator: alice, Preset: "public_chat"}); err != nil {
		t.Fatal(err)
	}
	// Three members: a room of two is one where every message counts anyway.
	for _, u := range []id.UserID{bob, "@carol:test"} {
		if err := rooms.Join(ctx, roomserver.MemberRequest{Room: p.room, Sender: u}); err != nil {
			t.Fatal(err)
		}
	}
	if p.counter, err = syncapi.NewCounter(rooms); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) send(sender id.UserID, content string) id.EventID {
	p.t.Helper()
	e, err := p.rooms.Send(context.Background(), roomserver.SendRequest{Room: p.room, Sender: sender, Type: "m.room.message", Content: []byte(content)})
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

func (p *place) read(user id.UserID, event id.EventID, thread string) {
	p.t.Helper()
	err := p.db.Write(context.Background(), func(tx *storage.Tx) error {
		room, err := tx.GetRoom(p.room)
		if err != nil {
			return err
		}
		e, err := tx.GetEvent(event)
		if err != nil {
			return err
		}
		ord, _, err := tx.GetOrd(e.NID)
		if err != nil {
			return err
		}
		r := storage.Receipt{Room: room.NID, User: user, Type: storage.ReceiptRead, Thread: thread, Event: event, Ord: ord}
		tx.OnPos(1, func(pos id.Pos) error { r.Pos = pos; return tx.InsertReceipt(&r) })
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) want(want string) {
	p.t.Helper()
	fresh, err := syncapi.NewCounter(p.rooms)
	if err != nil {
		p.t.Fatal(err)
	}
	for name, c := range map[string]*syncapi.Counter{"remembering": p.counter, "counting from nothing": fresh} {
		err := p.db.Read(context.Background(), func(tx *storage.Tx) error {
			room, err := tx.GetRoom(p.room)
			if err != nil {
				return err
			}
			u, err := c.Count(tx, bob, &room)
			got := fmt.Sprintf("%d/%d", u.Room.Notifications, u.Room.Highlights)
			for _, t := range u.Threads {
				got += fmt.Sprintf(" %d/%d", t.Notifications, t.Highlights)
			}
			if got != want {
				p.t.Errorf("%s: bob has %s unread instead of %s", name, got, want)
			}
			return err
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func TestUnread(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := newPlace(t, db)
		ctx := context.Background()
		p.want("0/0")
		first := p.send(alice, `{"msgtype":"m.text","body":"one"}`)
		p.want("1/0")
		p.send(bob, `{"msgtype":"m.text","body":"my own"}`)
		p.want("1/0")
		mention := p.send(alice, `{"msgtype":"m.text","body":"two","m.mentions":{"user_ids":["@bob:test"]}}`)
		p.want("2/1")
		p.send(alice, `{"msgtype":"m.notice","body":"a bot speaks"}`)
		p.want("2/1")
		p.send(alice, `{"msgtype":"m.text","body":"* one!","m.new_content":{"msgtype":"m.text","body":"one!"},"m.relates_to":{"rel_type":"m.replace","event_id":"`+string(first)+`"}}`)
		p.want("2/1")
		reply := p.send(alice, `{"msgtype":"m.text","body":"in a thread","m.relates_to":{"rel_type":"m.thread","event_id":"`+string(first)+`"}}`)
		p.want("2/1 1/0")
		p.read(bob, first, "main")
		p.want("1/1 1/0")
		if _, err := p.rooms.Redact(ctx, roomserver.RedactRequest{Room: p.room, Sender: alice, Event: mention}); err != nil {
			t.Fatal(err)
		}
		p.want("0/0 1/0")
		p.read(bob, reply, string(first))
		p.want("0/0")
		p.send(alice, `{"msgtype":"m.text","body":"three"}`)
		last := p.send(alice, `{"msgtype":"m.text","body":"four"}`)
		p.want("2/0")
		p.read(bob, last, "")
		p.want("0/0")
		// Whoever comes back has nothing from before.
		p.send(alice, `{"msgtype":"m.text","body":"five"}`)
		for _, change := range []func(context.Context, roomserver.MemberRequest) error{p.rooms.Leave, p.rooms.Join} {
			if err := change(ctx, roomserver.MemberRequest{Room: p.room, Sender: bob}); err != nil {
				t.Fatal(err)
			}
		}
		p.want("0/0")
	})
}
