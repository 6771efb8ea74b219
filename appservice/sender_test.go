package appservice_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/appservice"
	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const (
	alice = id.UserID("@alice:x.org")
	ghost = id.UserID("@ghost_a:x.org")
)

// node is a server with an application service that registered ghosts.
type node struct {
	*testing.T
	url    string
	db     *storage.DB
	rooms  *roomserver.Server
	users  *userserver.Server
	sender *appservice.Sender
	file   string
	end    func()

	mu   sync.Mutex
	away bool
	// got is what the service has taken, and tried the names of what it was sent.
	got   []gjson.Result
	tried []string
	// sent is the bodies by their names: of one name there is one.
	sent map[string]string
}

func each(t *testing.T, extra string, run func(n *node)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		n := &node{T: t, url: url, sent: make(map[string]string), file: filepath.Join(t.TempDir(), "r.yaml")}
		service := httptest.NewServer(http.HandlerFunc(n.take))
		t.Cleanup(service.Close)
		text := fmt.Sprintf(`{id: bridge, url: "%s", as_token: a, hs_token: h, sender_localpart: bot, namespaces: {users: [{exclusive: true, regex: "@ghost_"}]}, %s}`, service.URL, extra)
		n.ok(os.WriteFile(n.file, []byte(text), 0o600))
		n.start()
		t.Cleanup(func() { n.end() })
		for _, name := range []string{"alice", "bob", "ghost_a"} {
			r := userserver.Registration{Localpart: name, Session: userserver.NewSession{Device: "D"}}
			if name == "ghost_a" {
				r.Service = "bridge"
			}
			_, err := n.users.Register(t.Context(), r)
			n.ok(err)
		}
		run(n)
	})
}

// start starts the node, anew where it had been ended.
func (n *node) start() {
	broker := stream.NewBroker()
	db, end := storagetest.OpenForProcess(n, n.url, broker.Publish)
	n.db = db
	var err error
	n.rooms, err = roomserver.New(roomserver.Options{
		DB: n.db, Name: "x.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12",
	})
	n.ok(err)
	n.users = userserver.New(userserver.Options{DB: n.db, ServerName: "x.org", Rooms: n.rooms, Publish: broker.Publish})
	list, err := appservice.Load([]string{n.file}, "x.org")
	n.ok(err)
	services, err := appservice.New(appservice.Options{DB: n.db, List: list})
	n.ok(err)
	n.sender, err = appservice.NewSender(appservice.SenderOptions{
		DB: n.db, Services: services, Rooms: n.rooms, Users: n.users, Broker: broker, MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond,
		Presence: func(user id.UserID) appservice.Presence { return appservice.Presence(n.users.GetPresence(user)) },
	})
	n.ok(err)
	n.end = sync.OnceFunc(func() {
		n.sender.Close()
		services.Close()
		n.users.Close()
		end()
	})
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) take(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	name := path.Base(r.URL.Path)
	n.mu.Lock()
	defer n.mu.Unlock()
	if before, ok := n.sent[name]; ok && before != string(body) {
		n.Errorf("transaction %s was %s, and is %s", name, before, body)
	}
	n.sent[name] = string(body)
	n.tried = append(n.tried, name)
	if n.away {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	n.got = append(n.got, gjson.ParseBytes(body))
	w.Write([]byte("{}"))
}

func (n *node) set(away bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = away
}

// list is one list of all that the service has taken.
func (n *node) list(field string) []gjson.Result {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []gjson.Result
	for _, t := range n.got {
		out = append(out, t.Get(field).Array()...)
	}
	return out
}

// until waits until the service has taken something in a list.
func (n *node) until(what, field string, ok func(gjson.Result) bool) (found gjson.Result) {
	n.Helper()
	eventually.OK(n, func() error {
		all := n.list(field)
		i := slices.IndexFunc(all, ok)
		if i < 0 {
			return fmt.Errorf("the service has not got %s, but %v", what, all)
		}
		found = all[i]
		return nil
	})
	return found
}

func (n *node) texts() []string {
	var out []string
	for _, e := range n.list("events") {
		if e.Get("type").Str == "m.room.message" {
			out = append(out, e.Get("content.body").Str)
		}
	}
	return out
}

func (n *node) say(room id.RoomID, text string) id.EventID {
	n.Helper()
	event, err := n.rooms.Send(n.Context(), roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q}`, text)})
	n.ok(err)
	return event
}

func (n *node) room(members ...id.UserID) id.RoomID {
	n.Helper()
	room, err := n.rooms.Create(n.Context(), roomserver.CreateRequest{Creator: alice, Preset: "private_chat", Invite: members})
	n.ok(err)
	for _, user := range members {
		n.ok(n.rooms.Join(n.Context(), roomserver.MemberRequest{Room: room, Sender: user}))
	}
	return room
}

func (n *node) heard(text string) {
	n.Helper()
	n.until(text, "events", func(e gjson.Result) bool { return e.Get("content.body").Str == text })
}

// spec: application-service-api.md#pushing-events
func TestEvents(t *testing.T) {
	each(t, "", func(n *node) {
		apart := n.room("@bob:x.org")
		room := n.room(ghost)
		n.say(apart, "not for ghosts")
		n.say(room, "while away: no")
		n.heard("while away: no")

		// A ghost leaves: what was said before is for the service, what is said after is not. It is sent by what was so then.
		n.set(true)
		n.say(room, "before")
		n.ok(n.rooms.Leave(n.Context(), roomserver.MemberRequest{Room: room, Sender: ghost}))
		n.say(room, "after")
		other := n.room(ghost)
		redacted := n.say(other, "to be redacted")
		_, err := n.rooms.Redact(n.Context(), roomserver.RedactRequest{Room: other, Sender: alice, Event: redacted})
		n.ok(err)
		n.say(other, "last")
		n.end()
		n.start()
		n.set(false)
		n.heard("last")
		if got, want := n.texts(), []string{"while away: no", "before", "", "last"}; !slices.Equal(got, want) {
			n.Errorf("the service got %q; want %q", got, want)
		}
		e := n.until("the redacted event", "events", func(e gjson.Result) bool { return e.Get("event_id").Str == string(redacted) })
		if e.Get("unsigned.redacted_because.type").Str != "m.room.redaction" || e.Get("room_id").Str != string(other) {
			n.Errorf("the redacted event is %s", e)
		}
		left := n.until("the leaving", "events", func(e gjson.Result) bool {
			return e.Get("state_key").Str == string(ghost) && e.Get("content.membership").Str == "leave"
		})
		if left.Get("unsigned.prev_content.membership").Str != "join" {
			n.Errorf("the leaving is %s", left)
		}
	})
}

// TestTransactionsStay has a service be away for long, the node start again and again: what it was sent once comes
// again by the same name and as it was (see take), and nothing twice by two names.
func TestTransactionsStay(t *testing.T) {
	each(t, "", func(n *node) {
		room := n.room(ghost)
		const many = 250
		var want []string
		for i := range many {
			if i%90 == 45 {
				n.set(true)
				n.mu.Lock()
				before := len(n.tried)
				n.mu.Unlock()
				n.say(room, "to be tried")
				want = append(want, "to be tried")
				eventually.True(n, "nothing was tried", func() bool {
					n.mu.Lock()
					defer n.mu.Unlock()
					return len(n.tried) > before
				})
				n.end()
				n.start()
			}
			text := fmt.Sprint(i)
			want = append(want, text)
			n.say(room, text)
			if i%90 == 80 {
				n.set(false)
			}
		}
		n.set(false)
		n.heard(fmt.Sprint(many - 1))
		if got := n.texts(); !slices.Equal(got, want) {
			n.Errorf("the service got %d messages; want %d", len(got), len(want))
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, t := range n.got {
			if len(t.Get("events").Array()) > 100 {
				n.Errorf("a transaction has %d events", len(t.Get("events").Array()))
			}
		}
	})
}

// spec: application-service-api.md#pushing-ephemeral-data
func TestEphemeral(t *testing.T) {
	each(t, "receive_ephemeral: true, org.matrix.msc3202: true", func(n *node) {
		ctx := n.Context()
		room, apart := n.room(ghost), n.room("@bob:x.org")
		event := n.say(room, "read this")
		n.ok(n.users.SetMarkers(ctx, alice, apart, userserver.Markers{Read: n.say(apart, "not for ghosts")}))
		n.ok(n.users.SetMarkers(ctx, alice, room, userserver.Markers{ReadPrivate: event}))
		n.ok(n.users.SetMarkers(ctx, alice, room, userserver.Markers{Read: event}))
		n.until("a receipt", "ephemeral", func(e gjson.Result) bool {
			return e.Get("type").Str == "m.receipt" && e.Get("room_id").Str == string(room) && e.Get("content."+gjson.Escape(string(event))+".m\\.read").Exists()
		})
		n.ok(n.users.SetTyping(ctx, alice, apart, time.Minute))
		n.ok(n.users.SetTyping(ctx, alice, room, time.Minute))
		n.until("who types", "ephemeral", func(e gjson.Result) bool {
			return e.Get("type").Str == "m.typing" && e.Get("room_id").Str == string(room) && e.Get("content.user_ids.0").Str == string(alice)
		})
		n.ok(n.users.SetPresence(alice, userserver.Unavailable, "away"))
		n.until("the presence", "ephemeral", func(e gjson.Result) bool {
			return e.Get("type").Str == "m.presence" && e.Get("sender").Str == string(alice) && e.Get("content.presence").Str == "unavailable"
		})
		for _, e := range n.list("ephemeral") {
			if e.Get("room_id").Str == string(apart) || e.Get("content.*.m\\.read\\.private").Exists() {
				n.Errorf("the service got %s", e)
			}
		}

		// Messages to a ghost's device come once, whatever happens, and then are gone.
		const many = 120
		session, err := n.users.Login(ctx, alice, userserver.NewSession{Device: "D"})
		n.ok(err)
		n.set(true)
		for i := range many {
			messages := userserver.Messages{ghost: {"D": json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}, "@bob:x.org": {"D": json.RawMessage(`{}`)}}
			n.ok(n.users.SendToDevice(ctx, alice, session.DeviceNID, "m.x", fmt.Sprint(i), messages))
		}
		n.end()
		n.start()
		n.set(false)
		const field = "de\\.sorunome\\.msc2409\\.to_device"
		n.until("the last message", field, func(e gjson.Result) bool { return e.Get("content.n").Int() == many-1 })
		for i, e := range n.list(field) {
			if e.Get("content.n").Int() != int64(i) || e.Get("to_user_id").Str != string(ghost) || e.Get("to_device_id").Str != "D" || e.Get("sender").Str != string(alice) {
				n.Fatalf("message %d is %s", i, e)
			}
		}
		waiting := func(user id.UserID) (all []storage.ToDevice) {
			n.ok(n.db.Read(context.Background(), func(tx *storage.Tx) error {
				d, err := tx.GetDevice(user, "D")
				if err == nil {
					all, err = tx.ListToDevice(d.NID, 0, 1<<60, 1000)
				}
				return err
			}))
			return all
		}
		eventually.True(n, "what was taken still waits", func() bool { return len(waiting(ghost)) == 0 })
		if left := len(waiting("@bob:x.org")); left != many {
			n.Errorf("of %d messages to somebody else %d are there", many, left)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if !slices.ContainsFunc(n.got, func(t gjson.Result) bool {
			return t.Get("org\\.matrix\\.msc3202\\.device_one_time_keys_count." + gjson.Escape(string(ghost)) + ".D.signed_curve25519").Exists()
		}) {
			n.Error("the service was not told how many keys its ghost has left")
		}
	})
}
