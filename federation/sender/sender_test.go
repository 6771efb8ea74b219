package sender_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/federation/sender"
	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const alice = id.UserID("@alice:a")

// network takes in what is sent.
type network struct {
	mu     sync.Mutex
	down   map[id.ServerName]bool
	lossy  bool // some answers get lost
	got    map[id.ServerName][]serverapi.Transaction
	bodies map[string]string // of transaction IDs by server
	faults []string
}

func (n *network) SendTransaction(_ context.Context, server id.ServerName, txn string, t *serverapi.Transaction) (*serverapi.TransactionResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down[server] {
		return nil, errors.New("no route to host")
	}
	if len(t.PDUs) > serverapi.MaxPDUs || len(t.EDUs) > serverapi.MaxEDUs || len(t.PDUs)+len(t.EDUs) == 0 || t.Origin != "a" {
		n.faults = append(n.faults, fmt.Sprintf("a transaction of %d PDUs and %d EDUs from %s", len(t.PDUs), len(t.EDUs), t.Origin))
	}
	content, err := json.Marshal([]any{t.PDUs, t.EDUs})
	if err != nil {
		return nil, err
	}
	key := string(server) + " " + txn
	if before, ok := n.bodies[key]; ok && before != string(content) {
		n.faults = append(n.faults, "one transaction ID for two contents")
	}
	n.bodies[key] = string(content)
	n.got[server] = append(n.got[server], *t)
	if n.lossy && rand.N(10) == 0 {
		return nil, errors.New("the answer got lost")
	}
	return &serverapi.TransactionResult{}, nil
}

func (n *network) set(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fn()
}

// bodiesOf are the bodies of the messages of a room that a server has got, each once, in order.
func (n *network) bodiesOf(server id.ServerName, room id.RoomID) (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := make(map[string]bool)
	for _, t := range n.got[server] {
		for _, pdu := range t.PDUs {
			body := gjson.GetBytes(pdu, "content.body").Str
			if gjson.GetBytes(pdu, "room_id").Str == string(room) && body != "" && !seen[body] {
				seen[body] = true
				out = append(out, body)
			}
		}
	}
	return out
}

// edus are the contents of the EDUs of a type that a server has got.
func (n *network) edus(server id.ServerName, kind string) (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.got[server] {
		for _, edu := range t.EDUs {
			if edu.Type == kind {
				out = append(out, string(edu.Content))
			}
		}
	}
	return out
}

// node is a server whose sender can be started again.
type node struct {
	t       *testing.T
	db      *storage.DB
	broker  *stream.Broker
	rooms   *roomserver.Server
	users   *userserver.Server
	network *network
	every   time.Duration // for what is soon old; 0 for the default
	*sender.Sender
}

func each(t *testing.T, run func(t *testing.T, n *node)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		n := &node{t: t, broker: stream.NewBroker(), network: &network{
			down: make(map[id.ServerName]bool), got: make(map[id.ServerName][]serverapi.Transaction), bodies: make(map[string]string)}}
		n.db = storagetest.Open(t, url, n.broker.Publish)
		var err error
		n.rooms, err = roomserver.New(roomserver.Options{DB: n.db, Name: "a", KeyID: "ed25519:1",
			Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "11",
			Retention: roomserver.Retention{Enabled: true, Interval: time.Hour}})
		n.ok(err)
		n.users = userserver.New(userserver.Options{DB: n.db, ServerName: "a", Rooms: n.rooms, Publish: n.broker.Publish,
			Hashing: userserver.Hashing{Memory: 64, Passes: 1, AtOnce: 2}})
		t.Cleanup(n.users.Close)
		n.start()
		t.Cleanup(func() {
			n.Close()
			n.network.set(func() {
				if len(n.network.faults) > 0 {
					t.Errorf("%d faults, such as %s", len(n.network.faults), n.network.faults[0])
				}
			})
		})
		run(t, n)
	})
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) start() {
	n.t.Helper()
	var err error
	n.Sender, err = sender.New(sender.Options{DB: n.db, ServerName: "a", Remote: n.network, Rooms: n.rooms, Users: n.users, Broker: n.broker,
		Presence: func(user id.UserID) sender.Presence { return sender.Presence(n.users.GetPresence(user)) },
		Allowed:  func(server id.ServerName) bool { return server != "denied" },
		MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond, PassingEvery: n.every})
	n.ok(err)
}

// room makes a room of alice's, with members of other servers.
func (n *node) room(servers ...id.ServerName) id.RoomID {
	n.t.Helper()
	room, err := n.rooms.Create(context.Background(), roomserver.CreateRequest{Creator: alice, Preset: "public_chat"})
	n.ok(err)
	for _, s := range servers {
		n.join(room, s)
	}
	return room
}

// join has a server have a member in a room from now on, as far as the sender can see.
func (n *node) join(room id.RoomID, server id.ServerName) {
	n.t.Helper()
	n.ok(n.db.Write(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.LockRoom(room)
		if err != nil {
			return err
		}
		if _, err := tx.AddRoomServer(r.NID, server, 1); err != nil {
			return err
		}
		tx.OnPos(1, func(pos id.Pos) error {
			tx.Notify(stream.Notice{Pos: pos, Kind: stream.Event, Room: room, User: id.UserID("@u:" + server),
				Users: []id.UserID{id.UserID("@u:" + server)}, Joined: []id.UserID{id.UserID("@u:" + server)}, Away: true})
			if err := tx.UpdateRoomServer(r.NID, server, pos, 0); err != nil {
				return err
			}
			return tx.InsertIntroductions(r.NID, pos, false)
		})
		r.Servers++
		return tx.UpdateRoomHead(&r)
	}))
}

func (n *node) say(room id.RoomID, body string) {
	n.t.Helper()
	_, err := n.rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.message",
		Content: []byte(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))})
	n.ok(err)
}

// TestOrderAndNoLoss has alice talk in three rooms while servers fail, answers get lost and the
// sender starts again: each server gets all of its rooms' messages, in the order of each room,
// and none of other rooms.
func TestOrderAndNoLoss(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		n.network.lossy = true
		servers := []id.ServerName{"b", "c", "d"}
		rooms := []id.RoomID{n.room("b", "denied"), n.room("b", "c"), n.room("b", "c", "d")}
		said := make(map[id.RoomID][]string)
		for i := range 300 {
			switch rand.N(25) {
			case 0:
				n.Close()
				n.start()
			case 1, 2:
				n.network.set(func() { n.network.down[servers[rand.N(3)]] = true })
			case 3, 4:
				n.network.set(func() { clear(n.network.down) })
			}
			room := rooms[rand.N(3)]
			body := fmt.Sprint(i)
			n.say(room, body)
			said[room] = append(said[room], body)
		}
		n.network.set(func() {
			clear(n.network.down)
			n.network.lossy = false
		})
		for i, room := range rooms {
			for j, server := range servers {
				var want []string
				if j <= i {
					want = said[room]
				}
				eventually.OK(t, func() error {
					if got := n.network.bodiesOf(server, room); !slices.Equal(got, want) {
						return fmt.Errorf("%s got %d of room %d's %d messages", server, len(got), i, len(want))
					}
					return nil
				})
			}
		}
		n.network.set(func() {
			if len(n.network.got["denied"]) > 0 {
				t.Error("something was sent to a server that we have nothing to do with")
			}
		})
	})
}

// TestLongOutage has a server miss more than it is worth telling: it gets the newest event of each
// room, and then goes on as before.
func TestLongOutage(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		busy, quiet := n.room("b"), n.room("b")
		n.network.set(func() { n.network.down["b"] = true })
		n.say(quiet, "quiet")
		for i := range 1100 {
			n.say(busy, fmt.Sprint(i))
		}
		n.network.set(func() { clear(n.network.down) })
		n.Heard("b")
		eventually.OK(t, func() error {
			// Events that were said while the newest were on their way may follow these.
			if got := n.network.bodiesOf("b", busy); !slices.Contains(got, "1099") {
				return fmt.Errorf("the newest event is not there: %v", got)
			}
			if got := n.network.bodiesOf("b", quiet); !slices.Equal(got, []string{"quiet"}) {
				return fmt.Errorf("the quiet room got %v", got)
			}
			return nil
		})
		n.say(busy, "on")
		eventually.OK(t, func() error {
			if got := n.network.bodiesOf("b", busy); got[len(got)-1] != "on" {
				return errors.New("nothing follows")
			}
			return nil
		})
		if got := n.network.bodiesOf("b", busy); len(got) > 100 {
			t.Errorf("%d events were sent", len(got))
		}
	})
}

// TestTooOld has a message's time be up before the server can be reached that was to get it.
func TestTooOld(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		passing, lasting := n.room("b"), n.room("b")
		n.network.set(func() { n.network.down["b"] = true })
		key := ""
		_, err := n.rooms.Send(context.Background(), roomserver.SendRequest{Room: passing, Sender: alice, Type: "m.room.retention", StateKey: &key,
			Content: []byte(`{"max_lifetime":1}`)})
		n.ok(err)
		n.say(passing, "old news")
		n.say(lasting, "kept")
		eventually.True(t, "the message's time is up", func() bool {
			var due bool
			n.ok(n.db.Read(context.Background(), func(tx *storage.Tx) error {
				room, err := tx.GetRoom(passing)
				if err != nil {
					return err
				}
				horizon, err := n.rooms.Horizon(tx, &room)
				if err != nil {
					return err
				}
				last, err := tx.ListEventsByNID([]storage.EventNID{room.Extremities[0].NID})
				due = last[0].Due(horizon)
				return err
			}))
			return due
		})
		n.network.set(func() { clear(n.network.down) })
		n.Heard("b")
		eventually.True(t, "what lasts is there", func() bool { return slices.Equal(n.network.bodiesOf("b", lasting), []string{"kept"}) })
		if got := n.network.bodiesOf("b", passing); len(got) > 0 {
			t.Errorf("%q was sent", got)
		}
	})
}

// TestWhoHears has servers come and go: each hears of what happened while it was there, and of the
// event that made it go.
func TestWhoHears(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.room("b")
		n.say(room, "1")
		n.join(room, "c")
		n.say(room, "2")
		n.ok(n.db.Write(context.Background(), func(tx *storage.Tx) error {
			r, err := tx.LockRoom(room)
			if err != nil {
				return err
			}
			if _, err := tx.AddRoomServer(r.NID, "b", -1); err != nil {
				return err
			}
			tx.OnPos(1, func(pos id.Pos) error {
				tx.Notify(stream.Notice{Pos: pos, Kind: stream.Event, Room: room, User: "@u:b", Users: []id.UserID{"@u:b"}})
				return tx.UpdateRoomServer(r.NID, "b", 0, pos)
			})
			r.Servers--
			return tx.UpdateRoomHead(&r)
		}))
		n.say(room, "3")
		for server, want := range map[id.ServerName][]string{"b": {"1", "2"}, "c": {"2", "3"}} {
			eventually.OK(t, func() error {
				if got := n.network.bodiesOf(server, room); !slices.Equal(got, want) {
					return fmt.Errorf("%s heard %v", server, got)
				}
				return nil
			})
		}
	})
}

// TestAccessControl has a room deny a server: it gets the room's events, and nothing else.
func TestAccessControl(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.room("b", "evil")
		key := ""
		_, err := n.rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.server_acl", StateKey: &key,
			Content: []byte(`{"allow":["*"],"deny":["evil"]}`)})
		n.ok(err)
		n.say(room, "secret")
		n.ok(n.users.SetTyping(context.Background(), alice, room, time.Minute))
		eventually.OK(t, func() error {
			if len(n.network.bodiesOf("b", room)) == 0 || len(n.network.bodiesOf("evil", room)) == 0 || len(n.network.edus("b", "m.typing")) == 0 {
				return errors.New("nothing came")
			}
			return nil
		})
		if len(n.network.edus("evil", "m.typing")) > 0 {
			t.Error("the server that is denied hears who types")
		}
	})
}

// TestPassingNews has alice type, read and be there: servers of her rooms learn of it, but for
// what is private.
func TestPassingNews(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		ctx := context.Background()
		room := n.room("b")
		event, err := n.rooms.Send(ctx, roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.message", Content: []byte(`{"body":"x"}`)})
		n.ok(err)
		n.ok(n.users.SetMarkers(ctx, alice, room, userserver.Markers{ReadPrivate: event}))
		n.ok(n.users.SetMarkers(ctx, alice, room, userserver.Markers{Read: event, Thread: "main"}))
		n.ok(n.users.SetMarkers(ctx, alice, room, userserver.Markers{Read: event}))
		n.ok(n.users.SetTyping(ctx, alice, room, time.Minute))
		n.ok(n.users.SetPresence(alice, userserver.Online, "here"))
		eventually.OK(t, func() error {
			typing, receipts, presence := n.network.edus("b", "m.typing"), n.network.edus("b", "m.receipt"), n.network.edus("b", "m.presence")
			threads := make(map[string]bool)
			for _, r := range receipts {
				data := gjson.Get(r, gjson.Escape(string(room))+`.m\.read.`+gjson.Escape(string(alice)))
				if data.Get("event_ids.0").Str != string(event) {
					return fmt.Errorf("a receipt is %s", r)
				}
				threads[data.Get("data.thread_id").Str] = true
			}
			last := func(list []string) string {
				if len(list) == 0 {
					return ""
				}
				return list[len(list)-1]
			}
			switch {
			case !gjson.Get(last(typing), "typing").Bool():
				return fmt.Errorf("typing: %v", typing)
			case !threads[""] || !threads["main"] || len(threads) > 2:
				return fmt.Errorf("receipts: %v", receipts)
			case gjson.Get(last(presence), "push.0.status_msg").Str != "here":
				return fmt.Errorf("presence: %v", presence)
			}
			return nil
		})
		for _, r := range n.network.edus("b", "m.receipt") {
			if gjson.Get(r, gjson.Escape(string(room))+`.m\.read\.private`).Exists() {
				t.Errorf("a private receipt left: %s", r)
			}
		}
	})
}

// TestPassingTogether has alice type and read much more often than servers are told: they hear of the first time, as it
// is, and of the rest only what is so in the end, with the next that is sent.
func TestPassingTogether(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		ctx := context.Background()
		n.Close()
		n.every = time.Hour
		n.start()
		room := n.room("b")
		come := func(body string) {
			t.Helper()
			n.say(room, body)
			eventually.OK(t, func() error {
				if got := n.network.bodiesOf("b", room); !slices.Contains(got, body) {
					return fmt.Errorf("%q has not come: %q", body, got)
				}
				return nil
			})
		}
		come("hello")
		for range 50 {
			n.ok(n.users.SetTyping(ctx, alice, room, time.Minute))
			n.ok(n.users.SetTyping(ctx, alice, room, 0))
		}
		come("goodbye")
		eventually.OK(t, func() error {
			got := n.network.edus("b", "m.typing")
			if len(got) == 0 || gjson.Get(got[len(got)-1], "typing").Bool() {
				return fmt.Errorf("typing: %v", got)
			}
			return nil
		})
		if got := n.network.edus("b", "m.typing"); len(got) > 3 {
			t.Errorf("told of alice's typing %d times", len(got))
		}
	})
}
