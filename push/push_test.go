package push_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/unread"
	"parley/push"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const (
	alice = id.UserID("@alice:x.org")
	bob   = id.UserID("@bob:x.org")
)

// node is a server with rooms, accounts and pushers, and a gateway that it pushes to.
type node struct {
	testing.TB
	db     *storage.DB
	broker *stream.Broker
	rooms  *roomserver.Server
	users  *userserver.Server
	pusher *push.Pusher

	gateway *httptest.Server
	got     chan gjson.Result

	mu       sync.Mutex
	status   int
	rejected []string
	asked    int
	// later is how much later it is for the pusher, mailed what was sent by mail.
	later  atomic.Int64
	mailed chan *mail.News
	// hang has the gateway keep those who ask waiting until they go; before is what happens before it answers.
	hang   bool
	before func()
}

func each(t *testing.T, run func(n *node)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		n := &node{TB: t, got: make(chan gjson.Result, 100), mailed: make(chan *mail.News, 100), status: http.StatusOK}
		n.gateway = httptest.NewServer(http.HandlerFunc(n.notify))
		t.Cleanup(n.gateway.Close)
		n.broker = stream.NewBroker()
		n.db = storagetest.Open(t, url, n.broker.Publish)
		var err error
		n.rooms, err = roomserver.New(roomserver.Options{
			DB: n.db, Name: "x.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12",
		})
		n.ok(err)
		mailer, err := mail.New(mail.Options{Host: "localhost", Port: 25, From: "x@x.org", ServerName: "x.org"})
		n.ok(err)
		n.users = userserver.New(userserver.Options{DB: n.db, ServerName: "x.org", Rooms: n.rooms, Publish: n.broker.Publish, Mailer: mailer})
		t.Cleanup(n.users.Close)
		n.start()
		t.Cleanup(func() { n.pusher.Close() })
		run(n)
	})
}

func (n *node) start() {
	n.Helper()
	counter, err := unread.New(n.db, n.rooms)
	n.ok(err)
	n.pusher, err = push.New(push.Options{DB: n.db, Rooms: n.rooms, Unread: counter, Broker: n.broker,
		MinDelay: 20 * time.Millisecond, MaxDelay: 50 * time.Millisecond, Mail: n, MailDelay: 10 * time.Minute, MailEvery: 30 * time.Minute,
		Now: func() time.Time { return time.Now().Add(time.Duration(n.later.Load())) }})
	n.ok(err)
}

// notify is the gateway.
func (n *node) notify(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n.mu.Lock()
	status, rejected, hang, before := n.status, n.rejected, n.hang, n.before
	n.asked++
	n.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	if before != nil {
		before()
	}
	if r.URL.Path != "/_matrix/push/v1/notify" || r.Header.Get("Content-Type") != "application/json" {
		status = http.StatusNotFound
	}
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	if rejected == nil {
		rejected = []string{}
	}
	json.NewEncoder(w).Encode(map[string]any{"rejected": rejected})
	n.got <- gjson.GetBytes(body, "notification")
}

func (n *node) answers(status int, rejected ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status, n.rejected = status, rejected
}

// tried waits until the gateway was asked so many times.
func (n *node) tried(times int) {
	n.Helper()
	count := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.asked
	}
	for count() < times {
		select {
		case <-time.After(time.Millisecond):
		case <-n.Context().Done():
			n.Fatal("the gateway is not asked")
		}
	}
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// next is what the gateway is told next.
func (n *node) next() gjson.Result {
	n.Helper()
	select {
	case g := <-n.got:
		return g
	case <-time.After(20 * time.Second):
		n.Fatal("the gateway was told nothing")
		return gjson.Result{}
	}
}

// quiet says that the gateway was told nothing more, once a message that it is told of has come
// after all others.
func (n *node) quiet(room id.RoomID) {
	n.Helper()
	last := n.say(alice, room, "the end")
	if g := n.next(); g.Get("event_id").Str != string(last) {
		n.Errorf("the gateway was told %s", g.Raw)
	}
}

func (n *node) setPusher(user id.UserID, format string) {
	n.Helper()
	data, _ := json.Marshal(map[string]string{"url": n.gateway.URL + "/_matrix/push/v1/notify", "format": format, "brand": "x"})
	n.ok(n.users.SetPusher(n.Context(), user, 1, &userserver.Pusher{
		PushKey: "key of " + string(user), Kind: "http", AppID: "org.x", AppDisplayName: "X", DeviceDisplayName: "phone", Lang: "en", Data: data,
	}, false))
}

func (n *node) room(members ...id.UserID) id.RoomID {
	n.Helper()
	name := "Tea"
	room, err := n.rooms.Create(n.Context(), roomserver.CreateRequest{Creator: alice, Preset: "public_chat", Name: &name})
	n.ok(err)
	for _, m := range members {
		n.ok(n.rooms.Join(n.Context(), roomserver.MemberRequest{Room: room, Sender: m}))
	}
	return room
}

func (n *node) send(user id.UserID, room id.RoomID, content string) id.EventID {
	n.Helper()
	e, err := n.rooms.Send(n.Context(), roomserver.SendRequest{Room: room, Sender: user, Type: "m.room.message", Content: []byte(content)})
	n.ok(err)
	return e
}

func (n *node) say(user id.UserID, room id.RoomID, body string) id.EventID {
	n.Helper()
	return n.send(user, room, fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))
}

func (n *node) read(user id.UserID, room id.RoomID, event id.EventID) {
	n.Helper()
	n.ok(n.users.SetMarkers(n.Context(), user, room, userserver.Markers{Read: event}))
}

func (n *node) equal(what string, got, want any) {
	n.Helper()
	if got != want {
		n.Errorf("%s: got %v instead of %v", what, got, want)
	}
}

func TestNotification(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.setPusher(alice, "")
		event := n.say(alice, room, "hello")
		g := n.next()
		for path, want := range map[string]string{
			"event_id": string(event), "room_id": string(room), "type": "m.room.message", "sender": string(alice),
			"room_name": "Tea", "content.body": "hello", "prio": "high", "counts.unread": "1",
			"devices.0.app_id": "org.x", "devices.0.pushkey": "key of @bob:x.org", "devices.0.data.brand": "x",
			"devices.0.data.url": "", "devices.0.tweaks.sound": "default", "devices.#": "1",
		} {
			n.equal(path, g.Get(path).String(), want)
		}
		// In a room of three there is no sound.
		n.ok(n.rooms.Join(n.Context(), roomserver.MemberRequest{Room: room, Sender: "@carol:x.org"}))
		n.say(alice, room, "again")
		g = n.next()
		n.equal("prio", g.Get("prio").Str, "low")
		n.equal("unread", g.Get("counts.unread").Int(), int64(2))
		n.send(alice, room, `{"msgtype":"m.text","body":"you","m.mentions":{"user_ids":["@bob:x.org"]}}`)
		g = n.next()
		n.equal("prio", g.Get("prio").Str, "high")
		n.equal("highlight", g.Get("devices.0.tweaks.highlight").Bool(), true)
		// What a user sends themselves, and what is no notification, is not pushed to them.
		n.send(alice, room, `{"msgtype":"m.notice","body":"beep"}`)
		hi := n.say(bob, room, "hi")
		told := map[string]string{}
		for range 2 {
			g := n.next()
			told[g.Get("devices.0.pushkey").Str] = g.Get("event_id").Str + " " + g.Get("counts.unread").String()
		}
		n.equal("alice", told["key of @alice:x.org"], string(hi)+" 1")
		n.equal("bob, who has read by that", told["key of @bob:x.org"], " 0")
		n.read(alice, room, hi)
		n.badge("alice has read it", 0)
		n.quiet(room)
	})
}

func TestEventIDOnly(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "event_id_only")
		event := n.say(alice, room, "secret")
		g := n.next()
		n.equal("event_id", g.Get("event_id").Str, string(event))
		n.equal("room_id", g.Get("room_id").Str, string(room))
		n.equal("unread", g.Get("counts.unread").Int(), int64(1))
		for _, path := range []string{"content", "sender", "type", "room_name", "sender_display_name"} {
			n.equal(path, g.Get(path).Exists(), false)
		}
	})
}

func TestReading(t *testing.T) {
	each(t, func(n *node) {
		room, other := n.room(bob), n.room(bob)
		n.setPusher(bob, "")
		n.say(alice, other, "one")
		n.next()
		second := n.say(alice, room, "two")
		n.equal("unread", n.next().Get("counts.unread").Int(), int64(2))
		n.read(bob, room, second)
		g := n.next()
		n.equal("no event", g.Get("event_id").Exists(), false)
		n.equal("unread", g.Get("counts.unread").Int(), int64(1))
		n.quiet(room)
	})
}

func TestInvite(t *testing.T) {
	each(t, func(n *node) {
		room := n.room()
		n.setPusher(bob, "")
		n.ok(n.rooms.Invite(n.Context(), roomserver.MemberRequest{Room: room, Sender: alice, Target: bob}))
		g := n.next()
		n.equal("type", g.Get("type").Str, "m.room.member")
		n.equal("target", g.Get("user_is_target").Bool(), true)
		n.equal("membership", g.Get("content.membership").Str, "invite")
	})
}

func TestRejected(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.answers(http.StatusOK, "key of @bob:x.org")
		n.say(alice, room, "hello")
		n.next()
		for left := 1; left > 0; {
			list, err := n.users.ListPushers(n.Context(), bob)
			n.ok(err)
			left = len(list)
		}
	})
}

func TestGatewayIsAway(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.answers(http.StatusBadGateway)
		var events []id.EventID
		for i := range 4 {
			events = append(events, n.say(alice, room, fmt.Sprint(i)))
		}
		// The node is started anew while the gateway is away, and goes on where it was.
		n.pusher.Close()
		n.start()
		n.answers(http.StatusOK)
		for _, want := range events {
			g := n.next()
			for g.Get("event_id").Str != string(want) {
				// What was on its way when the node ended may come twice.
				n.Logf("again: %s", g.Get("event_id").Str)
				g = n.next()
			}
		}
		n.quiet(room)
	})
}

func TestReadMeanwhile(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.answers(http.StatusBadGateway)
		event := n.say(alice, room, "read elsewhere")
		n.tried(1)
		n.pusher.Close() // so that none is on its way that was made up before it was read
		n.read(bob, room, event)
		n.answers(http.StatusOK)
		n.start()
		// The gateway may have taken what it answered with an error.
		n.badge("after a failure", 0)
		n.quiet(room)
	})
}

// Notify is the post office.
func (n *node) Notify(_ context.Context, to string, news *mail.News) error {
	if to != "bob@y.org" {
		return fmt.Errorf("there is no %s", to)
	}
	n.mailed <- news
	return nil
}

func (n *node) mail() *mail.News {
	n.Helper()
	select {
	case news := <-n.mailed:
		return news
	case <-time.After(20 * time.Second):
		n.Fatal("no mail comes")
		return nil
	}
}

func TestMail(t *testing.T) {
	each(t, func(n *node) {
		set := func() error {
			return n.users.SetPusher(n.Context(), bob, 1, &userserver.Pusher{
				PushKey: "bob@y.org", Kind: "email", AppID: "m.email", AppDisplayName: "Mail", DeviceDisplayName: "bob@y.org", Lang: "en",
			}, false)
		}
		if err := set(); !matrixerr.Is(err, matrixerr.ThreepidNotFound) {
			n.Fatalf("an address of nobody is taken: %v", err)
		}
		n.ok(n.db.Write(n.Context(), func(tx *storage.Tx) error {
			_, err := tx.InsertThreePID(&storage.ThreePID{User: bob, Medium: "email", Address: "bob@y.org"})
			return err
		}))
		n.ok(set())
		tea, other := n.room(bob), n.room(bob)
		n.say(alice, tea, "one")
		read := n.say(alice, other, "read in time")
		n.say(alice, tea, strings.Repeat("ä", 300))
		n.read(bob, other, read)
		later := 11 * time.Minute
		// collect gives so many messages; what the pusher has not heard of when a mail is due comes with the next.
		collect := func(want int) (messages []mail.Message) {
			n.Helper()
			for told := 0; told < want; later += 31 * time.Minute {
				n.later.Store(int64(later))
				news, listed := n.mail(), 0
				for _, room := range news.Rooms {
					n.equal("the room", room.Name, "Tea")
					messages = append(messages, room.Messages...)
					listed += len(room.Messages)
				}
				if told += listed + news.More; listed > 50 || listed < 50 && news.More > 0 || told > want {
					n.Errorf("mailed %d and %d more, which makes %d", listed, news.More, told)
				}
			}
			return messages
		}
		time.Sleep(100 * time.Millisecond)
		if len(n.mailed) != 0 {
			n.Errorf("mailed too soon: %+v", <-n.mailed)
		}
		if got := collect(2); !slices.Equal(got, []mail.Message{{Sender: string(alice), Text: "one"}, {Sender: string(alice), Text: strings.Repeat("ä", 250) + "…"}}) {
			n.Errorf("mailed %+v", got)
		}
		// The next comes half an hour later, with what has come by then.
		for i := range 60 {
			n.say(alice, other, fmt.Sprint(i))
		}
		n.later.Store(int64(later - 5*time.Minute))
		time.Sleep(100 * time.Millisecond)
		if len(n.mailed) != 0 {
			n.Errorf("mailed too soon: %+v", <-n.mailed)
		}
		collect(60)
		// To an address that is not the user's any more nothing is sent.
		n.ok(n.db.Write(n.Context(), func(tx *storage.Tx) error { return tx.DeleteThreePID(bob, "email", "bob@y.org") }))
		n.say(alice, tea, "not for that address")
		for list := 1; list > 0; {
			pushers, err := n.users.ListPushers(n.Context(), bob)
			n.ok(err)
			list = len(pushers)
		}
		if len(n.mailed) != 0 {
			n.Errorf("mailed %+v", <-n.mailed)
		}
	})
}

func TestClose(t *testing.T) {
	each(t, func(n *node) {
		room := n.room(bob)
		n.setPusher(bob, "")
		n.mu.Lock()
		n.hang = true
		n.mu.Unlock()
		n.say(alice, room, "hello")
		n.tried(1)
		ctx, cancel := context.WithTimeout(n.Context(), 10*time.Second)
		defer cancel()
		done := make(chan struct{})
		go func() { n.pusher.Close(); close(done) }()
		select {
		case <-done:
		case <-ctx.Done():
			n.Error("closing waits for a gateway")
		}
		n.start()
	})
}
