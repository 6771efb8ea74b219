package syncapi

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const (
	alice = id.UserID("@alice:x.org")
	bob   = id.UserID("@bob:x.org")
	carol = id.UserID("@carol:x.org")
)

// node is a server without its other endpoints.
type node struct {
	testing.TB
	url   string
	ring  stream.HubOptions
	db    *storage.DB
	end   func()
	rooms *roomserver.Server
	users *userserver.Server
	hub   *stream.Hub
	api   *API
	http  http.Handler
}

// each runs a test on a node on each database.
func each(t *testing.T, run func(n *node)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) { run(newNode(t, url, stream.HubOptions{})) })
}

func newNode(t testing.TB, url string, o stream.HubOptions) *node {
	t.Helper()
	n := &node{TB: t, url: url, ring: o}
	n.ring.Rooms = n.joinedRooms
	if o.PresenceEvery == 0 {
		n.ring.PresenceEvery = time.Millisecond
	}
	n.open()
	return n
}

// open makes everything that is in memory, anew.
func (n *node) open() {
	n.Helper()
	n.hub = stream.NewHub(n.ring)
	n.Cleanup(n.hub.Close)
	n.db, n.end = storagetest.OpenForProcess(n, n.url, n.hub.Publish)
	var err error
	n.rooms, err = roomserver.New(roomserver.Options{
		DB: n.db, Name: "x.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12",
	})
	n.ok(err)
	n.users = userserver.New(userserver.Options{DB: n.db, ServerName: "x.org", Rooms: n.rooms, Publish: n.hub.Publish})
	n.Cleanup(n.users.Close)
	n.api = n.newAPI(n.hub)
	n.http = serve(n, n.api)
}

func (n *node) joinedRooms(ctx context.Context, user id.UserID) ([]id.RoomID, id.Pos, error) {
	return JoinedRooms(ctx, n.db, user)
}

// now is when all tests happen: ages are part of answers.
func now() time.Time { return time.Unix(2_000_000_000, 0) }

// newAPI makes a further API on the same node, with a hub of its own choice.
func (n *node) newAPI(hub *stream.Hub) *API {
	api, err := New(Options{DB: n.db, Rooms: n.rooms, Hub: hub, Users: n.users,
		Presence: func(u id.UserID) Presence { return Presence(n.users.GetPresence(u)) },
		Now:      now})
	n.ok(err)
	return api
}

// serve answers for an API. The access token of a user is their ID, and perhaps the number
// of their device: "@alice:x.org 2".
func serve(t testing.TB, api *API) http.Handler {
	h, err := httpapi.New(httpapi.Options{
		Authenticate: func(_ context.Context, _ *httpapi.Request, token string) (*httpapi.Caller, error) {
			user, device, _ := strings.Cut(token, " ")
			nid, _ := strconv.ParseInt(device, 10, 64)
			return &httpapi.Caller{User: id.UserID(user), DeviceNID: 1 + nid}, nil
		},
	}, api.Routes())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// answer is what /sync gave.
type answer struct {
	gjson.Result
	status int
}

func (a answer) next() string { return a.Get("next_batch").Str }

// room is what the answer has of a room in a section.
func (a answer) room(section string, room id.RoomID) gjson.Result {
	return a.Get("rooms." + section + "." + escape(string(room)))
}

// escape makes a name part of a path.
func escape(s string) string { return strings.NewReplacer(".", `\.`, ":", `\:`).Replace(s) }

// ask asks for /sync of a handler; the query is given in pairs.
func ask(t testing.TB, h http.Handler, token string, query ...string) answer {
	t.Helper()
	q := url.Values{"set_presence": {"offline"}}
	for i := 0; i < len(query); i += 2 {
		if query[i+1] != "" {
			q.Set(query[i], query[i+1])
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/_matrix/client/v3/sync?"+q.Encode(), nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !gjson.ValidBytes(w.Body.Bytes()) {
		t.Fatalf("not JSON: %s", w.Body)
	}
	return answer{gjson.ParseBytes(w.Body.Bytes()), w.Code}
}

// sync asks for /sync, which must succeed.
func (n *node) sync(user id.UserID, query ...string) answer {
	n.Helper()
	a := ask(n, n.http, string(user), query...)
	if a.status != http.StatusOK {
		n.Fatalf("status %d: %s", a.status, a.Raw)
	}
	return a
}

func (n *node) create(creator id.UserID, change func(*roomserver.CreateRequest)) id.RoomID {
	n.Helper()
	r := roomserver.CreateRequest{Creator: creator, Preset: "public_chat"}
	if change != nil {
		change(&r)
	}
	room, err := n.rooms.Create(n.Context(), r)
	n.ok(err)
	return room
}

func (n *node) join(user id.UserID, rooms ...id.RoomID) {
	n.Helper()
	for _, room := range rooms {
		n.ok(n.rooms.Join(n.Context(), roomserver.MemberRequest{Room: room, Sender: user}))
	}
}

func (n *node) leave(user id.UserID, room id.RoomID) {
	n.Helper()
	n.ok(n.rooms.Leave(n.Context(), roomserver.MemberRequest{Room: room, Sender: user}))
}

func (n *node) kick(sender, target id.UserID, room id.RoomID) {
	n.Helper()
	n.ok(n.rooms.Kick(n.Context(), roomserver.MemberRequest{Room: room, Sender: sender, Target: target}))
}

func (n *node) invite(sender, target id.UserID, room id.RoomID) {
	n.Helper()
	n.ok(n.rooms.Invite(n.Context(), roomserver.MemberRequest{Room: room, Sender: sender, Target: target}))
}

func (n *node) say(user id.UserID, room id.RoomID, body string) id.EventID {
	n.Helper()
	e, err := n.rooms.Send(n.Context(), roomserver.SendRequest{Room: room, Sender: user, Type: "m.room.message",
		Content: fmt.Appendf(nil, `{"msgtype":"m.text","body":%q}`, body)})
	n.ok(err)
	return e
}

func (n *node) setState(user id.UserID, room id.RoomID, typ, key, content string) {
	n.Helper()
	_, err := n.rooms.Send(n.Context(), roomserver.SendRequest{Room: room, Sender: user, Type: typ, StateKey: &key, Content: []byte(content)})
	n.ok(err)
}

// bodies are the bodies of a room's timeline, and the types of what has none.
func bodies(room gjson.Result) string {
	var out []string
	for _, e := range room.Get("timeline.events").Array() {
		if body := e.Get("content.body"); body.Exists() {
			out = append(out, body.Str)
		} else if e.Get("type").Str == "m.room.member" {
			out = append(out, e.Get("state_key").Str[1:2]+":"+e.Get("content.membership").Str)
		} else {
			out = append(out, e.Get("type").Str)
		}
	}
	return strings.Join(out, " ")
}

// types are the types of a list of events; of member events their user.
func types(events gjson.Result) string {
	var out []string
	for _, e := range events.Array() {
		if e.Get("type").Str == "m.room.member" {
			out = append(out, e.Get("state_key").Str)
		} else {
			out = append(out, strings.TrimPrefix(e.Get("type").Str, "m.room."))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v instead of %v", what, got, want)
	}
}

// later runs a sync that waits, and gives its answer.
func (n *node) later(user id.UserID, query ...string) <-chan answer {
	n.Helper()
	c := make(chan answer, 1)
	go func() { c <- n.sync(user, append(query, "timeout", "20000")...) }()
	return c
}

// quiet waits until those who can are waiting, or have their answer.
func quiet() { time.Sleep(20 * time.Millisecond) }

// sorted are words in their order, in one.
func sorted(words []string) string {
	slices.Sort(words)
	return strings.Join(words, " ")
}
