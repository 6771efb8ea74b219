package syncapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// What follows are random histories, and clients who follow them by /sync in their own
// ways. Each answer is held against two plain things: what the database alone answers, by a
// hub that knows nothing; and what a client who asks for everything afresh is told by the
// room server, which the client's own picture must have become.

// history makes random things happen on a node.
type history struct {
	*node
	r     *rand.Rand
	users []id.UserID
	rooms []id.RoomID
	sent  map[id.RoomID][]id.EventID
	// blank answers from the database alone.
	blank   http.Handler
	clients []*client
	serial  int
	// cases counts the answers that were checked.
	cases int
}

// client is one that follows a user.
type client struct {
	user       id.UserID
	filter     string
	lazy       bool
	stateAfter bool
	tokens     []string
	rooms      map[id.RoomID]*picture
	data       map[string]string
}

// picture is what a client has made of a room.
type picture struct {
	section  string
	timeline []string
	state    map[string]string
	receipts map[string]string
}

func newHistory(n *node, seed uint64) *history {
	h := &history{node: n, r: rand.New(rand.NewPCG(seed, 7)), sent: make(map[id.RoomID][]id.EventID)}
	unopened := stream.NewHub(stream.HubOptions{Rooms: n.joinedRooms})
	n.Cleanup(unopened.Close)
	h.blank = serve(n, h.plainAPI(unopened))
	h.http = serve(n, h.plainAPI(n.hub))
	for i := range 4 {
		h.users = append(h.users, id.UserID(fmt.Sprintf("@u%d:x.org", i)))
		for j := range 2 {
			c := &client{user: h.users[i], rooms: make(map[id.RoomID]*picture), data: make(map[string]string)}
			c.lazy, c.stateAfter = j == 1, h.r.IntN(2) == 0
			c.filter = fmt.Sprintf(`{"room":{"timeline":{"limit":%d},"state":{"lazy_load_members":%v}}}`, 1+h.r.IntN(6), c.lazy)
			h.clients = append(h.clients, c)
		}
	}
	return h
}

// plainAPI is an API without presence, which is not in the log.
func (h *history) plainAPI(hub *stream.Hub) *API {
	api, err := New(Options{DB: h.db, Rooms: h.node.rooms, Hub: hub, Users: h.node.users, Now: now})
	h.ok(err)
	return api
}

func (h *history) user() id.UserID { return h.users[h.r.IntN(len(h.users))] }

// step makes something happen; what is against the rules of a room does not.
func (h *history) step() {
	h.serial++
	ctx, user, other := h.Context(), h.user(), h.user()
	if len(h.rooms) == 0 || len(h.rooms) < 5 && h.r.IntN(25) == 0 {
		preset := []string{"public_chat", "private_chat"}[h.r.IntN(2)]
		visibility := []string{"shared", "joined", "invited", "world_readable"}[h.r.IntN(4)]
		room := h.create(user, func(r *roomserver.CreateRequest) {
			r.Preset = preset
			r.InitialState = []roomserver.StateEvent{{Type: "m.room.history_visibility",
				Content: json.RawMessage(`{"history_visibility":"` + visibility + `"}`)}}
			if h.r.IntN(2) == 0 {
				r.Invite = []id.UserID{other}
			}
		})
		h.rooms = append(h.rooms, room)
		return
	}
	room := h.rooms[h.r.IntN(len(h.rooms))]
	m := roomserver.MemberRequest{Room: room, Sender: user, Target: other}
	switch h.r.IntN(22) {
	case 0, 1, 2, 3:
		_ = h.node.rooms.Join(ctx, m)
	case 4:
		_ = h.node.rooms.Leave(ctx, m)
	case 5, 6:
		_ = h.node.rooms.Invite(ctx, m)
	case 7:
		_ = []func() error{
			func() error { return h.node.rooms.Kick(ctx, m) }, func() error { return h.node.rooms.Ban(ctx, m) },
			func() error { return h.node.rooms.Unban(ctx, m) }, func() error { return h.node.rooms.Forget(ctx, user, room) },
		}[h.r.IntN(4)]()
	case 8:
		h.maybeState(room, user, "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, h.serial))
	case 9:
		h.maybeState(room, user, "m.room.name", fmt.Sprintf(`{"name":"%s"}`, []string{"", "x", strconv.Itoa(h.serial)}[h.r.IntN(3)]))
	case 10:
		visibility := []string{"shared", "joined", "invited", "world_readable"}[h.r.IntN(4)]
		h.maybeState(room, user, "m.room.history_visibility", `{"history_visibility":"`+visibility+`"}`)
	case 11:
		if sent := h.sent[room]; len(sent) > 0 {
			_, _ = h.node.rooms.Redact(ctx, roomserver.RedactRequest{Room: room, Sender: user, Event: sent[h.r.IntN(len(sent))]})
		}
	case 12, 13:
		if sent := h.sent[room]; len(sent) > 0 {
			m := userserver.Markers{Thread: []string{"", "main"}[h.r.IntN(2)]}
			if event := sent[h.r.IntN(len(sent))]; h.r.IntN(3) == 0 {
				m.ReadPrivate = event
			} else {
				m.Read = event
			}
			_ = h.node.users.SetMarkers(ctx, user, room, m)
		}
	case 14:
		in := []id.RoomID{"", room}[h.r.IntN(2)]
		h.ok(h.node.users.SetAccountData(ctx, user, in, "org.x", json.RawMessage(fmt.Sprintf(`{"n":%d}`, h.serial))))
	default:
		event, err := h.node.rooms.Send(ctx, roomserver.SendRequest{Room: room, Sender: user, Type: "m.room.message",
			Content: fmt.Appendf(nil, `{"body":"%d"}`, h.serial), Txn: roomserver.Txn{DeviceNID: 1, ID: strconv.Itoa(h.serial), Scope: string(user)}})
		if err == nil {
			h.sent[room] = append(h.sent[room], event)
		}
	}
}

func (h *history) maybeState(room id.RoomID, user id.UserID, typ, content string) {
	key := ""
	_, _ = h.node.rooms.Send(h.Context(), roomserver.SendRequest{Room: room, Sender: user, Type: typ, StateKey: &key, Content: []byte(content)})
}

// query is how a client asks.
func (c *client) query(since string) []string {
	return []string{"since", since, "filter", c.filter, "use_state_after", strconv.FormatBool(c.stateAfter)}
}

// check asks for a client by one of its older tokens, and holds the answer against the
// database's alone.
func (h *history) check(c *client) {
	h.cases++
	since := ""
	if n := len(c.tokens); n > 0 {
		since = c.tokens[max(0, n-1-int(h.r.ExpFloat64()*4))]
	}
	query := c.query(since)
	switch h.r.IntN(6) {
	case 0:
		query[3] = fmt.Sprintf(`{"room":{"include_leave":true,"timeline":{"limit":%d,"not_senders":[%q]},"state":{"not_types":["m.room.topic"]}}}`, 1+h.r.IntN(4), h.user())
	case 1:
		query = append(query, "full_state", "true")
	}
	got, want := ask(h, h.http, string(c.user), query...), ask(h, h.blank, string(c.user), query...)
	if d := difference(h, got.Raw, want.Raw); d != "" {
		h.Fatalf("%s asks %q (of %d tokens), and gets as %s", c.user, query, len(c.tokens), d)
	}
}

// ages are what is not the same again in the same answer.
var ages = regexp.MustCompile(`"age":\d+,?`)

// difference is where two answers differ but for their tokens, "" where they don't.
func difference(t testing.TB, a, b string) string {
	var x, y map[string]any
	for _, v := range []struct {
		s    string
		into *map[string]any
	}{{a, &x}, {b, &y}} {
		if err := json.Unmarshal(ages.ReplaceAll([]byte(v.s), nil), v.into); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []map[string]any{x, y} {
		delete(v, "next_batch")
	}
	return differ("", x, y)
}

func differ(path string, x, y any) string {
	if reflect.DeepEqual(x, y) {
		return ""
	}
	if p, ok := x.([]any); ok && strings.HasSuffix(path, "/events") && !strings.Contains(path, "/timeline/") {
		// The order of state tells nothing.
		if q, ok := y.([]any); ok && equalSets(p, q) {
			return ""
		}
	}
	m, ok := x.(map[string]any)
	n, ok2 := y.(map[string]any)
	if !ok || !ok2 {
		a, _ := json.Marshal(x)
		b, _ := json.Marshal(y)
		return fmt.Sprintf("%s:\n%s\ninstead of\n%s", path, a, b)
	}
	for key := range n {
		if _, ok := m[key]; !ok {
			m[key] = nil
		}
	}
	for key := range m {
		if d := differ(path+"/"+key, m[key], n[key]); d != "" {
			return d
		}
	}
	return ""
}

func equalSets(x, y []any) bool {
	var a, b []string
	for _, v := range x {
		text, _ := json.Marshal(v)
		a = append(a, string(text))
	}
	for _, v := range y {
		text, _ := json.Marshal(v)
		b = append(b, string(text))
	}
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// follow has a client go on, and holds its picture against what there is.
func (h *history) follow(c *client) {
	h.cases++
	since := ""
	if n := len(c.tokens); n > 0 {
		since = c.tokens[n-1]
	}
	a := ask(h, h.http, string(c.user), c.query(since)...)
	if a.status != http.StatusOK {
		h.Fatal(a.Raw)
	}
	c.tokens = append(c.tokens, a.next())
	c.take(h, a)
	h.compare(c)
}

// take brings the client's picture up to date with an answer, as the specification tells
// clients to.
func (c *client) take(t testing.TB, a answer) {
	for _, e := range a.Get("account_data.events").Array() {
		c.data["/"+e.Get("type").Str] = e.Get("content").Raw
	}
	a.Get("rooms").ForEach(func(section, rooms gjson.Result) bool {
		rooms.ForEach(func(name, room gjson.Result) bool {
			p := c.rooms[id.RoomID(name.Str)]
			if p == nil || section.Str == "join" && p.section != "join" {
				p = &picture{state: make(map[string]string), receipts: make(map[string]string)}
				c.rooms[id.RoomID(name.Str)] = p
			}
			p.section = section.Str
			c.takeRoom(t, id.RoomID(name.Str), p, room)
			return true
		})
		return true
	})
}

func (c *client) takeRoom(t testing.TB, name id.RoomID, p *picture, room gjson.Result) {
	apply := func(e gjson.Result) {
		if key := e.Get("state_key"); key.Exists() {
			p.state[e.Get("type").Str+" "+key.Str] = e.Get("event_id").Str
		}
	}
	if room.Get("state").Exists() && c.stateAfter || room.Get("state_after").Exists() && !c.stateAfter {
		t.Errorf("state in the wrong place: %s", room.Raw)
	}
	for _, e := range room.Get("state.events").Array() {
		apply(e)
	}
	if room.Get("timeline.limited").Bool() {
		p.timeline = nil
	}
	for _, e := range room.Get("timeline.events").Array() {
		p.timeline = append(p.timeline, e.Get("event_id").Str)
		if !c.stateAfter {
			apply(e)
		}
	}
	for _, e := range room.Get("state_after.events").Array() {
		apply(e)
	}
	if p.section == "join" && c.lazy {
		for _, e := range room.Get("timeline.events").Array() {
			if sender := e.Get("sender").Str; p.state["m.room.member "+sender] == "" {
				t.Errorf("%s: nothing says who %s is: %s", c.user, sender, room.Raw)
			}
		}
	}
	for _, e := range room.Get("account_data.events").Array() {
		c.data[string(name)+"/"+e.Get("type").Str] = e.Get("content").Raw
	}
	for _, e := range room.Get("ephemeral.events").Array() {
		e.Get("content").ForEach(func(event, types gjson.Result) bool {
			types.ForEach(func(typ, users gjson.Result) bool {
				users.ForEach(func(user, receipt gjson.Result) bool {
					p.receipts[user.Str+" "+typ.Str+" "+receipt.Get("thread_id").Str] = event.Str
					return true
				})
				return true
			})
			return true
		})
	}
}

// compare holds a client's picture against what there is.
func (h *history) compare(c *client) {
	h.Helper()
	ctx := h.Context()
	joined, err := h.node.rooms.JoinedRooms(ctx, c.user)
	h.ok(err)
	slices.Sort(joined)
	var sections = map[string][]id.RoomID{}
	for room, p := range c.rooms {
		sections[p.section] = append(sections[p.section], room)
	}
	slices.Sort(sections["join"])
	if !slices.Equal(sections["join"], joined) {
		h.Fatalf("%s thinks to be in %v instead of %v", c.user, sections["join"], joined)
	}
	h.ok(h.db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.ListMemberships(c.user)
		for _, m := range list {
			if m.Membership == "invite" && (c.rooms[m.RoomID] == nil || c.rooms[m.RoomID].section != "invite") {
				h.Fatalf("%s does not know of the invite to %s", c.user, m.RoomID)
			}
			if m.Membership == "join" {
				h.compareReceipts(tx, c, &m)
			}
		}
		if err != nil {
			return err
		}
		data, err := tx.ListAccountData(c.user, 0, 1<<40)
		for _, d := range data {
			known := c.rooms[d.Room] != nil && c.rooms[d.Room].section == "join" || d.Room == ""
			if got := c.data[string(d.Room)+"/"+d.Type]; known && got != string(d.Content) {
				h.Fatalf("%s has account data %s of %s instead of %s", c.user, got, d.Room, d.Content)
			}
		}
		return err
	}))
	for _, room := range joined {
		h.compareRoom(c, room)
	}
}

func (h *history) compareReceipts(tx *storage.Tx, c *client, m *storage.Membership) {
	receipts, err := tx.ListReceipts(m.Room, c.user, 0, 1<<40, 1000)
	h.ok(err)
	want := make(map[string]string)
	for _, r := range receipts {
		want[string(r.User)+" "+r.Type+" "+r.Thread] = string(r.Event)
	}
	if got := c.rooms[m.RoomID].receipts; !maps.Equal(got, want) {
		h.Fatalf("%s has receipts %v instead of %v", c.user, got, want)
	}
}

func (h *history) compareRoom(c *client, room id.RoomID) {
	h.Helper()
	p := c.rooms[room]
	reader := roomserver.Reader{User: c.user}
	events, err := h.node.rooms.State(h.Context(), room, reader)
	h.ok(err)
	want := make(map[string]string)
	for _, e := range events {
		f := gjson.GetManyBytes(e, "type", "state_key", "event_id")
		want[f[0].Str+" "+f[1].Str] = f[2].Str
	}
	got := maps.Clone(p.state)
	if c.lazy {
		for _, state := range []map[string]string{got, want} {
			maps.DeleteFunc(state, func(key, _ string) bool { return strings.HasPrefix(key, "m.room.member ") })
		}
	}
	if !maps.Equal(got, want) {
		h.Fatalf("%s (filter %s, after: %v) has the state of %s as\n%v\ninstead of\n%v", c.user, c.filter, c.stateAfter, room, got, want)
	}
	page, err := h.node.rooms.Messages(h.Context(), roomserver.PageRequest{Room: room, Limit: 5000, Reader: reader})
	h.ok(err)
	var all []string
	for _, e := range page.Events {
		all = append(all, gjson.GetBytes(e, "event_id").Str)
	}
	if len(p.timeline) > len(all) || !slices.Equal(p.timeline, all[len(all)-len(p.timeline):]) {
		h.Fatalf("%s has the timeline\n%v\nwhich is not the end of\n%v", c.user, p.timeline, all)
	}
}

// run makes a history of some steps.
func (h *history) run(steps int) {
	for range steps {
		h.step()
		for range h.r.IntN(3) {
			if c := h.clients[h.r.IntN(len(h.clients))]; h.r.IntN(2) == 0 {
				h.follow(c)
			} else {
				h.check(c)
			}
		}
	}
	for _, c := range h.clients {
		h.follow(c)
		h.check(c)
	}
	h.Logf("%d answers checked", h.cases)
}

func TestModel(t *testing.T) {
	// With those of sliding sync these are more than 5,000 answers that are checked.
	onHistories(t, 18, func(n *node, seed uint64) { newHistory(n, seed).run(150) })
}

// onHistories makes so many histories on SQLite, each with its seed, and one on PostgreSQL. The hubs
// remember more or less.
func onHistories(t *testing.T, seeds uint64, run func(n *node, seed uint64)) {
	t.Helper()
	if testing.Short() {
		seeds = 5
	}
	t.Run("sqlite", func(t *testing.T) {
		for seed := range seeds {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				ring := []int{3, 40, 0}[seed%3]
				run(newNode(t, filepath.Join(t.TempDir(), "parley.db"), stream.HubOptions{Size: ring}), seed)
			})
		}
	})
	t.Run("postgres", func(t *testing.T) { run(newNode(t, storagetest.Postgres(t), stream.HubOptions{}), 1000) })
}
