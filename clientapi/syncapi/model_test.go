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
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// What follows are random histories, and clients who follow them by /sync in their own
// ways. Each answer is held against a plain picture of the rooms ([world]), from which it is known
// what there is to tell between two positions; and against what the database alone answers, by a hub
// that knows nothing. What a client makes of the answers must be what there is.

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
	world   *world
	// ignored are whom each ignores, everIgnored whom they ever did.
	ignored, everIgnored map[id.UserID]map[id.UserID]bool
	serial               int
	// cases counts the answers that were checked.
	cases int
}

// client is one that follows a user.
type client struct {
	user       id.UserID
	limit      int
	lazy       bool
	stateAfter bool
	tokens     []string
	rooms      map[id.RoomID]*picture
	data       map[string]string
}

// picture is what a client has made of a room.
type picture struct {
	section  string
	state    map[string]string
	receipts map[string]string
}

func newHistory(n *node, seed uint64) *history {
	h := &history{node: n, r: rand.New(rand.NewPCG(seed, 7)), sent: make(map[id.RoomID][]id.EventID),
		world: newWorld(), ignored: make(map[id.UserID]map[id.UserID]bool), everIgnored: make(map[id.UserID]map[id.UserID]bool)}
	h.serve()
	for i := range 4 {
		h.users = append(h.users, id.UserID(fmt.Sprintf("@u%d:x.org", i)))
		for j := range 2 {
			c := &client{user: h.users[i], rooms: make(map[id.RoomID]*picture), data: make(map[string]string)}
			c.lazy, c.stateAfter = j == 1, h.r.IntN(2) == 0
			c.limit = 1 + h.r.IntN(6)
			h.clients = append(h.clients, c)
		}
	}
	return h
}

// serve begins to answer.
func (h *history) serve() {
	unopened := stream.NewHub(stream.HubOptions{Rooms: h.joinedRooms})
	h.Cleanup(unopened.Close)
	h.blank = serve(h, h.plainAPI(unopened))
	h.http = serve(h, h.plainAPI(h.hub))
}

// restart has the node lose everything that it has in memory.
func (h *history) restart() {
	h.hub.Close()
	h.node.users.Close()
	h.end()
	h.open()
	h.serve()
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
	defer h.world.look(h.node)
	if h.r.IntN(50) == 0 {
		h.restart()
	}
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
	switch h.r.IntN(23) {
	case 0, 1, 2, 3:
		_ = h.node.rooms.Join(ctx, m)
	case 4:
		_ = h.node.rooms.Leave(ctx, m)
	case 5, 6:
		_ = h.node.rooms.Invite(ctx, m)
	case 7:
		_ = []func() error{
			func() error { return h.node.rooms.Kick(ctx, m) }, func() error { return h.node.rooms.Ban(ctx, m) },
			func() error { return h.node.rooms.Unban(ctx, m) }, func() error { return h.forget(user, room) },
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
	case 15:
		ignored := make(map[id.UserID]bool)
		if h.r.IntN(2) == 0 && other != user {
			ignored[other] = true
			if h.everIgnored[user] == nil {
				h.everIgnored[user] = make(map[id.UserID]bool)
			}
			h.everIgnored[user][other] = true
		}
		h.ignored[user] = ignored
		text, _ := json.Marshal(map[string]any{"ignored_users": asObjects(ignored)})
		h.ok(h.node.users.SetAccountData(ctx, user, "", ignoredUserList, text))
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

// forget has a user forget a room.
func (h *history) forget(user id.UserID, room id.RoomID) error {
	err := h.node.rooms.Forget(h.Context(), user, room)
	if r := h.world.rooms[room]; err == nil && r != nil {
		if own := last(r.events, "m.room.member "+string(user)); own != nil {
			h.world.forgotten[own.id] = true
		}
	}
	return err
}

func asObjects(users map[id.UserID]bool) map[id.UserID]struct{} {
	out := make(map[id.UserID]struct{})
	for u := range users {
		out[u] = struct{}{}
	}
	return out
}

// query is a question as a client asks it.
func (q *question) query(since string) []string {
	timeline, state := fmt.Sprintf(`"limit":%d`, q.limit), fmt.Sprintf(`"lazy_load_members":%v`, q.lazy)
	if q.notSender != "" {
		timeline += fmt.Sprintf(`,"not_senders":[%q]`, q.notSender)
	}
	if q.notTopics {
		state += `,"not_types":["m.room.topic"]`
	}
	filter := fmt.Sprintf(`{"room":{"include_leave":%v,"timeline":{%s},"state":{%s}}}`, q.leave, timeline, state)
	return []string{"since", since, "filter", filter, "full_state", strconv.FormatBool(q.full), "use_state_after", strconv.FormatBool(q.after)}
}

// question is what a client asks from a token.
func (h *history) question(c *client, since string) *question {
	q := &question{user: c.user, limit: c.limit, lazy: c.lazy, after: c.stateAfter, initial: since == "", ignored: h.ignored[c.user]}
	if since != "" {
		q.since = h.position(since)
	}
	return q
}

// position is that of a token.
func (h *history) position(text string) id.Pos {
	h.Helper()
	pos, _, err := token.ParseSync(h.db.Epoch(), h.hub.Life(), text)
	h.ok(err)
	return id.Pos(pos)
}

// check asks for a client by one of its older tokens, and holds the answer against the
// database's alone.
func (h *history) check(c *client) {
	h.Helper()
	h.cases++
	since := ""
	if n := len(c.tokens); n > 0 {
		since = c.tokens[max(0, n-1-int(h.r.ExpFloat64()*4))]
		if h.r.IntN(4) == 0 {
			since = c.tokens[h.r.IntN(n)] // perhaps one of long ago
		}
	}
	q := h.question(c, since)
	switch h.r.IntN(6) {
	case 0:
		q.lazy, q.leave, q.notTopics, q.limit, q.notSender = false, true, true, 1+h.r.IntN(4), h.user()
	case 1:
		q.full = true
	case 2:
		q.full, q.leave = true, true
	}
	query := q.query(since)
	got, want := ask(h, h.http, string(c.user), query...), ask(h, h.blank, string(c.user), query...)
	if d := difference(h, got.Raw, want.Raw); d != "" {
		h.Fatalf("%s asks %q (of %d tokens), and gets as %s", c.user, query, len(c.tokens), d)
	}
	h.hold(q, got)
}

// hold holds an answer against what there is to tell.
func (h *history) hold(q *question, a answer) {
	h.Helper()
	q.next = h.position(a.next())
	fail := func(room id.RoomID, what string, got, want any) {
		h.Helper()
		h.Fatalf("%s asks %+v and is told as %s of %s\n%v\ninstead of\n%v\nin %s", q.user, *q, what, room, got, want, a.Raw)
	}
	for _, r := range h.world.rooms {
		want := h.world.answer(r, q)
		for _, section := range []string{"join", "invite", "leave"} {
			got := a.room(section, r.id)
			switch {
			case want == nil || want.section != section:
				if got.Exists() && (section != "leave" || !q.leave || got.Get("timeline").Exists()) {
					fail(r.id, section, got.Raw, want)
				}
			case !got.Exists():
				if want.any {
					fail(r.id, section, "", want)
				}
			case section != "invite":
				h.holdRoom(q, r, got, want, fail)
			}
		}
	}
	came, went := h.world.encounters(q.user, h.users, q.since, q.next)
	if q.initial {
		came, went = nil, nil
	}
	for list, want := range map[string][]string{"changed": came, "left": went} {
		var got []string
		for _, u := range a.Get("device_lists." + list).Array() {
			got = append(got, u.Str)
		}
		if !slices.Equal(got, want) {
			fail("", "device lists "+list, got, want)
		}
	}
}

// holdRoom holds what an answer says of a room against what there is to tell.
func (h *history) holdRoom(q *question, r *worldRoom, got gjson.Result, want *told, fail func(room id.RoomID, what string, got, want any)) {
	h.Helper()
	var timeline []string
	for _, e := range got.Get("timeline.events").Array() {
		name := e.Get("event_id").Str
		timeline = append(timeline, name)
		if redacted := r.redacted(name, q.next); redacted != e.Get("unsigned.redacted_because").Exists() || redacted && e.Get("content.body").Exists() {
			fail(r.id, "redacted "+name, e.Raw, redacted)
		}
	}
	if !slices.Equal(timeline, want.timeline) {
		fail(r.id, "timeline", timeline, want.timeline)
	}
	if got.Get("timeline.limited").Bool() != want.limited {
		fail(r.id, "limited", !want.limited, want.limited)
	}
	section := "state"
	if q.after {
		section = "state_after"
	}
	state, rest := make(map[string]string), maps.Clone(want.state)
	for _, e := range got.Get(section + ".events").Array() {
		state[e.Get("type").Str+" "+e.Get("state_key").Str] = e.Get("event_id").Str
	}
	if q.lazy {
		for _, s := range []map[string]string{state, rest} {
			maps.DeleteFunc(s, func(place, _ string) bool { return strings.HasPrefix(place, "m.room.member ") })
		}
	}
	if !maps.Equal(state, rest) {
		fail(r.id, "state", state, rest)
	}
	if n := got.Get(`summary.m\.joined_member_count`); n.Exists() && want.section == "join" && n.Int() != want.joined {
		fail(r.id, "number of members", n, want.joined)
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
	q := h.question(c, since)
	a := ask(h, h.http, string(c.user), q.query(since)...)
	if a.status != http.StatusOK {
		h.Fatal(a.Raw)
	}
	h.hold(q, a)
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
	if !c.stateAfter {
		for _, e := range room.Get("timeline.events").Array() {
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
	var joined []id.RoomID
	for name, r := range h.world.rooms {
		if membership(r.events, c.user) == "join" {
			joined = append(joined, name)
		}
	}
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
			if m.Membership == "join" {
				h.compareReceipts(tx, c, &m)
			}
		}
		if err != nil {
			return err
		}
		data, err := tx.ListAccountData(c.user, 0, 1<<40, false)
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
	got, want := maps.Clone(c.rooms[room].state), stateAfter(h.world.rooms[room].events).ids()
	if c.lazy {
		for _, state := range []map[string]string{got, want} {
			maps.DeleteFunc(state, func(key, _ string) bool { return strings.HasPrefix(key, "m.room.member ") })
		}
	}
	if !maps.Equal(got, want) {
		h.Fatalf("%s (after: %v) has the state of %s as\n%v\ninstead of\n%v", c.user, c.stateAfter, room, got, want)
	}
}

// run makes a history of some steps, and says how many answers were right.
func (h *history) run(steps int) int {
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
	return h.cases
}

func TestModel(t *testing.T) {
	onHistories(t, 15, 2000, func(n *node, seed uint64) int { return newHistory(n, seed).run(150) })
}

// onHistories makes so many histories on SQLite, each with its seed, and one on PostgreSQL. The hubs
// remember more or less. In all, at least so many answers must have been held against what there is.
func onHistories(t *testing.T, seeds uint64, least int, run func(n *node, seed uint64) (cases int)) {
	t.Helper()
	if testing.Short() {
		seeds, least = min(seeds, 5), 0
	}
	t.Run("sqlite", func(t *testing.T) {
		cases, whole := 0, true
		for seed := range seeds {
			ran := false
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				ring := []int{3, 40, 0}[seed%3]
				cases += run(newNode(t, filepath.Join(t.TempDir(), "parley.db"), stream.HubOptions{Size: ring}), seed)
				ran = true
			})
			whole = whole && ran // and not one of them alone
		}
		if t.Logf("%d answers checked", cases); whole && cases < least {
			t.Errorf("%d answers were checked, which must be %d", cases, least)
		}
	})
	t.Run("postgres", func(t *testing.T) { run(newNode(t, storagetest.Postgres(t), stream.HubOptions{}), 1000) })
}
