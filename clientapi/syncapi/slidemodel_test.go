package syncapi

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// What follows has clients of sliding sync follow random histories, with windows, filters and
// configurations that change as they go. After each answer the client's picture of what it has
// in sight is held against a plain model, made from the tables and the room server without
// anything that sliding sync has; and the answer is asked for again, of the same server and of
// one that knows nothing but the database.

// slidingClient is one that follows a user.
type slidingClient struct {
	user id.UserID
	// token is that of a device of their own.
	token string
	conn  string
	old   bool
	// pos is from where it goes on, before from where it did when it was given that.
	pos, before string
	// timeout is for how many milliseconds it waits.
	timeout int
	want    slidingWant
	// rooms is what it has made of the rooms it was told of; seen are those it ever was.
	rooms map[id.RoomID]*slidingPicture
	data  map[string]string
}

// slidingWant is what a client asks for.
type slidingWant struct {
	lists  map[string]*wantList
	rooms  map[id.RoomID]wantRoom
	extend bool
}

type wantRoom struct {
	limit int
	state string // "", "all", "some", "lazy"
}

type wantList struct {
	wantRoom
	from, to int
	filter   string // "", "dm", "not_dm", "invited", "encrypted"
}

type slidingPicture struct {
	membership string
	name       string
	direct     bool
	joined     int64
	timeline   []string
	state      map[string]string
	receipts   map[string]string
	bump       int64
}

// requiredStates are what clients ask for of state, in both dialects.
var requiredStates = map[string][2]string{
	"":     {`{}`, `[]`},
	"all":  {`{"include":[{}]}`, `[["*","*"]]`},
	"some": {`{"include":[{"type":"m.room.topic"},{"type":"m.room.member","state_key":"@u1:x.org"}]}`, `[["m.room.topic","*"],["m.room.member","@u1:x.org"]]`},
	"lazy": {`{"include":[{"type":"m.room.name"}],"lazy_members":true}`, `[["m.room.name","*"],["m.room.member","$LAZY"]]`},
}

func (w wantRoom) config(old bool) string {
	states := requiredStates[w.state]
	state := states[0]
	if old {
		state = states[1]
	}
	return fmt.Sprintf(`"timeline_limit":%d,"required_state":%s`, w.limit, state)
}

// stateMatches says whether a place of the state is asked for, but for members who are asked for
// lazily.
func (w wantRoom) stateMatches(typ, key string) bool {
	switch w.state {
	case "all":
		return true
	case "some":
		return typ == "m.room.topic" || typ == "m.room.member" && key == "@u1:x.org"
	case "lazy":
		return typ == "m.room.name"
	}
	return false
}

func (c *slidingClient) body() string {
	var lists, rooms []string
	for name, l := range c.want.lists {
		filter := map[string]string{"": `{}`, "dm": `{"is_dm":true}`, "not_dm": `{"is_dm":false}`,
			"invited": `{"is_invited":true,"is_invite":true}`, "encrypted": `{"is_encrypted":true}`}[l.filter]
		window := fmt.Sprintf(`"range":[%d,%d]`, l.from, l.to)
		if c.old {
			window = fmt.Sprintf(`"ranges":[[%d,%d]]`, l.from, l.to)
		}
		lists = append(lists, fmt.Sprintf(`%q:{%s,"filters":%s,%s}`, name, window, filter, l.config(c.old)))
	}
	for room, w := range c.want.rooms {
		rooms = append(rooms, fmt.Sprintf(`%q:{%s}`, room, w.config(c.old)))
	}
	slices.Sort(lists)
	slices.Sort(rooms)
	return fmt.Sprintf(`{"conn_id":%q,"pos":%q,"timeout":%d,"set_presence":"offline","lists":{%s},"room_subscriptions":{%s},
		"extensions":{"account_data":{"enabled":%v},"receipts":{"enabled":%v}}}`,
		c.conn, c.pos, c.timeout, strings.Join(lists, ","), strings.Join(rooms, ","), c.want.extend, c.want.extend)
}

func (c *slidingClient) path() string {
	if c.old {
		return oldPath
	}
	return newPath
}

// slidingHistory is a history that sliding clients follow, too.
type slidingHistory struct {
	*history
	sliders []*slidingClient
}

func newSlidingHistory(n *node, seed uint64) *slidingHistory {
	h := &slidingHistory{history: newHistory(n, seed)}
	for i, user := range h.users {
		for j := range 2 {
			c := &slidingClient{user: user, token: fmt.Sprintf("%s %d", user, 10+i), conn: strconv.Itoa(j), old: (i+j)%2 == 0}
			c.forget()
			c.want.lists = make(map[string]*wantList)
			c.want.rooms = make(map[id.RoomID]wantRoom)
			h.rewish(c)
			h.sliders = append(h.sliders, c)
		}
	}
	return h
}

func (c *slidingClient) forget() {
	c.pos, c.before, c.rooms, c.data = "", "", make(map[id.RoomID]*slidingPicture), make(map[string]string)
}

func (h *slidingHistory) wish() wantRoom {
	return wantRoom{limit: h.r.IntN(6), state: []string{"", "all", "some", "lazy"}[h.r.IntN(4)]}
}

// rewish changes what a client asks for.
func (h *slidingHistory) rewish(c *slidingClient) {
	switch h.r.IntN(4) {
	case 0:
		delete(c.want.lists, "b")
		clear(c.want.rooms)
	case 1:
		if len(h.rooms) > 0 {
			c.want.rooms[h.rooms[h.r.IntN(len(h.rooms))]] = h.wish()
		}
	default:
		from := h.r.IntN(2)
		c.want.lists[[]string{"a", "b"}[h.r.IntN(2)]] = &wantList{wantRoom: h.wish(), from: from, to: from + h.r.IntN(5),
			filter: []string{"", "", "dm", "not_dm", "invited", "encrypted"}[h.r.IntN(6)]}
	}
	c.want.extend = h.r.IntN(4) > 0
}

// change makes something happen that lists are filtered by.
func (h *slidingHistory) change() {
	if h.r.IntN(8) > 0 || len(h.rooms) == 0 {
		h.step()
		return
	}
	defer h.world.look(h.node)
	room, user := h.rooms[h.r.IntN(len(h.rooms))], h.user()
	if h.r.IntN(3) == 0 {
		h.maybeState(room, user, "m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
		return
	}
	content := `{}`
	if h.r.IntN(3) > 0 {
		content = fmt.Sprintf(`{"@u0:x.org":[%q]}`, room)
	}
	h.ok(h.node.users.SetAccountData(h.Context(), user, "", "m.direct", []byte(content)))
}

// slideOn has a client go on, and holds what it then knows against what there is.
func (h *slidingHistory) slideOn(c *slidingClient) {
	h.Helper()
	h.cases++
	body := c.body()
	a := askSliding(h, h.http, c.path(), c.token, body)
	if a.status != http.StatusOK {
		h.Fatalf("%s asks\n%s\nand gets %s", c.user, body, a.Raw)
	}
	switch h.r.IntN(8) {
	case 0, 1: // the answer got lost: the client asks again
		h.sameAgain(c, body, &a)
	case 2: // and the server has been started anew
		h.restart()
		h.sameAgain(c, body, &a)
	case 3: // and its messages are ancient
		h.tooOld(c, &a)
	}
	known := maps.Clone(c.rooms)
	c.take(h, a)
	h.hold(c, known, a, body)
}

func (h *slidingHistory) sameAgain(c *slidingClient, body string, a *answer) {
	h.Helper()
	again := askSliding(h, h.http, c.path(), c.token, body)
	x, y := ages.ReplaceAllString(a.Raw, ""), ages.ReplaceAllString(again.Raw, "")
	if d := difference(h, withoutPos(x), withoutPos(y)); d != "" {
		h.Fatalf("%s asks again\n%s\nand gets as %s", c.user, body, d)
	}
	*a = again
}

// tooOld has the client ask from where it was before it came to where it asked from last, which was told more
// since: the server knows that no more. Nor is anything changed by that.
func (h *slidingHistory) tooOld(c *slidingClient, a *answer) {
	h.Helper()
	before, asked, now := stateNumber(c.before), stateNumber(c.pos), stateNumber(a.pos())
	if c.pos == "" || before == asked || asked == now || before == "" || before == ".0" || asked == ".0" {
		return
	}
	h.restart()
	old := *c
	old.pos = c.before
	if again := askSliding(h, h.http, c.path(), c.token, old.body()); again.status != http.StatusBadRequest || again.Get("errcode").Str != "M_UNKNOWN_POS" {
		h.Fatalf("%s asked from %s, from %s and again from the first, and gets %d %s", c.user, c.before, c.pos, again.status, again.Raw)
	}
}

// stateNumber is the part of a position that names what the connection was told.
func stateNumber(pos string) string { return pos[max(0, strings.LastIndexByte(pos, '.')):] }

func withoutPos(s string) string {
	i := strings.LastIndex(s, `"pos":`)
	return strings.TrimSuffix(s[:i], ",") + "}"
}

// take brings the client's picture up to date with an answer.
func (c *slidingClient) take(t testing.TB, a answer) {
	c.before, c.pos = c.pos, a.pos()
	a.Get("rooms").ForEach(func(name, room gjson.Result) bool {
		p := c.rooms[id.RoomID(name.Str)]
		if p == nil && !room.Get("initial").Bool() {
			t.Errorf("%s is told of %s for the first time, but not as such: %s", c.user, name.Str, room.Raw)
		}
		if p == nil || room.Get("initial").Bool() {
			p = &slidingPicture{state: make(map[string]string), receipts: make(map[string]string)}
			c.rooms[id.RoomID(name.Str)] = p
		}
		p.take(room)
		return true
	})
	a.Get("extensions.account_data.rooms").ForEach(func(room, events gjson.Result) bool {
		for _, e := range events.Array() {
			c.data[room.Str+"/"+e.Get("type").Str] = e.Get("content").Raw
		}
		return true
	})
	for _, e := range a.Get("extensions.account_data.global").Array() {
		c.data["/"+e.Get("type").Str] = e.Get("content").Raw
	}
	a.Get("extensions.receipts.rooms").ForEach(func(room, e gjson.Result) bool {
		e.Get("content").ForEach(func(event, types gjson.Result) bool {
			types.ForEach(func(typ, users gjson.Result) bool {
				users.ForEach(func(user, receipt gjson.Result) bool {
					c.rooms[id.RoomID(room.Str)].receipts[user.Str+" "+typ.Str+" "+receipt.Get("thread_id").Str] = event.Str
					return true
				})
				return true
			})
			return true
		})
		return true
	})
}

func (p *slidingPicture) take(room gjson.Result) {
	set := func(field string, to *string) {
		if v := room.Get(field); v.Exists() {
			*to = v.Str
		}
	}
	set("membership", &p.membership)
	set("name", &p.name)
	if v := room.Get("is_dm"); v.Exists() {
		p.direct = v.Bool()
	}
	if v := room.Get("joined_count"); v.Exists() {
		p.joined = v.Int()
	}
	if v := room.Get("bump_stamp"); v.Exists() {
		p.bump = v.Int()
	}
	if room.Get("limited").Bool() || room.Get("expanded_timeline").Bool() || room.Get("unstable_expanded_timeline").Bool() {
		p.timeline = nil
	}
	for _, e := range room.Get("timeline").Array() {
		p.timeline = append(p.timeline, e.Get("event_id").Str)
	}
	for _, e := range room.Get("required_state").Array() {
		place := e.Get("type").Str + " " + e.Get("state_key").Str
		if !e.Get("content").Exists() {
			delete(p.state, place)
			continue
		}
		p.state[place] = e.Get("event_id").Str
	}
}

// modelRoom is a room as the model has it for a user.
type modelRoom struct {
	*worldRoom
	own       *worldEvent
	activity  id.Pos
	direct    bool
	encrypted bool
}

// listed is the list of a client's rooms, by a plain look at each; known are those that it was
// told of before.
func (h *slidingHistory) listed(c *slidingClient, known map[id.RoomID]*slidingPicture) []modelRoom {
	h.Helper()
	direct, err := storage.Get(h.Context(), h.db, func(tx *storage.Tx) (storage.AccountData, error) { return tx.GetAccountData(c.user, "", "m.direct") })
	if _, err := notFound(err); err != nil {
		h.Fatal(err)
	}
	var out []modelRoom
	for name, r := range h.world.rooms {
		own := last(r.events, "m.room.member "+string(c.user))
		if own == nil {
			continue
		}
		m := modelRoom{worldRoom: r, own: own, activity: own.pos, direct: strings.Contains(string(direct.Content), string(name))}
		seen := r.upTo(own.pos)
		switch own.membership {
		case "join":
			seen = r.events
			m.activity = r.events[len(r.events)-1].pos
		case "invite":
			if h.ignored[c.user][own.sender] {
				continue
			}
		default:
			if h.world.forgotten[own.id] || !r.removed(c.user) && known[name] == nil {
				continue
			}
		}
		m.encrypted = last(seen, "m.room.encryption ") != nil
		out = append(out, m)
	}
	slices.SortFunc(out, func(x, y modelRoom) int { return int(y.activity - x.activity) })
	return out
}

// removed says whether a user is out of a room by another's doing, and had been in it, from all
// of their member events in it.
func (r *worldRoom) removed(user id.UserID) bool {
	var stays []string
	var sender id.UserID
	for _, e := range r.events {
		if e.place == "m.room.member "+string(user) {
			stays, sender = append(stays, e.membership), e.sender
		}
	}
	if sender == user {
		return false
	}
	last := len(stays) - 1
	if stays[last] != "ban" && stays[last-1] != "ban" {
		return stays[last-1] == "join"
	}
	return slices.Contains(stays, "join")
}

func (r *modelRoom) passes(filter string) bool {
	switch filter {
	case "dm":
		return r.direct
	case "not_dm":
		return !r.direct
	case "invited":
		return r.own.membership == "invite"
	case "encrypted":
		return r.encrypted
	}
	return true
}

// hold holds the lists and all rooms in sight against the model.
func (h *slidingHistory) hold(c *slidingClient, known map[id.RoomID]*slidingPicture, a answer, body string) {
	h.Helper()
	sight := make(map[id.RoomID]wantRoom)
	add := func(room id.RoomID, w wantRoom) {
		if have, ok := sight[room]; ok {
			w.limit = max(w.limit, have.limit)
			if have.state != w.state {
				w.state = "mixed"
			}
		}
		sight[room] = w
	}
	all := h.listed(c, known)
	byID := make(map[id.RoomID]*modelRoom)
	for i := range all {
		byID[all[i].id] = &all[i]
	}
	for name, l := range c.want.lists {
		n := 0
		for i := range all {
			if !all[i].passes(l.filter) {
				continue
			}
			if l.from <= n && n <= l.to {
				add(all[i].id, l.wantRoom)
			}
			n++
		}
		if got := a.Get("lists." + name + ".count").Int(); got != int64(n) {
			h.Fatalf("%s asks\n%s\nand is told that list %s has %d rooms instead of %d: %s", c.user, body, name, got, n, a.Raw)
		}
	}
	for room, w := range c.want.rooms {
		if byID[room] != nil || c.rooms[room] != nil && known[room] == nil {
			add(room, w)
		}
	}
	for room, w := range sight {
		p := c.rooms[room]
		if p == nil {
			h.Fatalf("%s asks\n%s\nand is not told of %s", c.user, body, room)
		}
		if m := byID[room]; m == nil {
			continue // one that was left, and is told of as it was asked for
		} else if p.membership != m.own.membership {
			h.Fatalf("%s asks\n%s\nand thinks to be %s in %s instead of %s", c.user, body, p.membership, room, m.own.membership)
		} else if m.own.membership == "join" {
			h.holdRoom(c, m, p, w, body)
		}
	}
	for room := range a.Get("rooms").Map() {
		if _, ok := sight[id.RoomID(room)]; !ok && c.want.rooms[id.RoomID(room)] == (wantRoom{}) {
			h.Fatalf("%s asks\n%s\nand is told of %s, which is not in sight: %s", c.user, body, room, a.Raw)
		}
	}
}

// holdRoom holds what a client knows of a room that it is in against what there is.
func (h *slidingHistory) holdRoom(c *slidingClient, m *modelRoom, p *slidingPicture, w wantRoom, body string) {
	h.Helper()
	fail := func(what string, got, want any) {
		h.Helper()
		h.Fatalf("%s asks\n%s\nand has as %s of %s\n%v\ninstead of\n%v", c.user, body, what, m.id, got, want)
	}
	all := stateAfter(m.events)
	state, name, joined := make(map[string]string), "", all.joined()
	for place, e := range all {
		if place == "m.room.name " {
			name = e.name
		}
		if typ, key, _ := strings.Cut(place, " "); w.stateMatches(typ, key) {
			state[place] = e.id
		}
	}
	if p.name != name {
		fail("name", p.name, name)
	}
	if p.joined != joined {
		fail("number of members", p.joined, joined)
	}
	if p.direct != m.direct {
		fail("direct", p.direct, m.direct)
	}
	if w.state != "mixed" {
		got := maps.Clone(p.state)
		maps.DeleteFunc(got, func(place, _ string) bool {
			typ, key, _ := strings.Cut(place, " ")
			return !w.stateMatches(typ, key)
		})
		if !maps.Equal(got, state) {
			fail("state", got, state)
		}
	}
	// Whom the user ever ignored may have been shown or not.
	var shown, sees []string
	for i, e := range m.events {
		if (e.place != "" || !h.everIgnored[c.user][e.sender]) && visible(m.events, i, c.user) {
			sees = append(sees, e.id)
		}
	}
	for _, e := range p.timeline {
		if slices.Contains(sees, e) || !slices.ContainsFunc(m.events, func(x *worldEvent) bool { return x.id == e && h.everIgnored[c.user][x.sender] }) {
			shown = append(shown, e)
		}
	}
	if len(shown) > len(sees) || !slices.Equal(shown, sees[len(sees)-len(shown):]) {
		fail("timeline", shown, sees)
	}
	if len(p.timeline) < min(w.limit, len(sees)) {
		fail("short timeline", p.timeline, sees)
	}
	if c.want.extend {
		h.holdExtensions(c, m, p, fail)
	}
}

func (h *slidingHistory) holdExtensions(c *slidingClient, m *modelRoom, p *slidingPicture, fail func(string, any, any)) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		data, err := tx.ListAccountData(c.user, 0, math.MaxInt64, false)
		h.ok(err)
		for _, d := range data {
			if got := c.data[string(d.Room)+"/"+d.Type]; d.Room == m.id && got != string(d.Content) {
				fail("account data", got, string(d.Content))
			}
		}
		room, err := tx.GetRoom(m.id)
		h.ok(err)
		rows, err := tx.ListReceipts(room.NID, c.user, 0, math.MaxInt64, 1000)
		h.ok(err)
		for _, r := range rows {
			// Two receipts of a user at one event can't be told apart, and those of others are told
			// where the event is.
			if key := string(r.User) + " " + r.Type + " " + r.Thread; r.User == c.user && r.Thread == "" && p.receipts[key] != string(r.Event) {
				fail("receipt "+key, p.receipts[key], r.Event)
			}
		}
		return nil
	}))
}

// runSliding makes a history of some steps, and says how many answers were right.
func (h *slidingHistory) runSliding(steps int) int {
	for range steps {
		h.change()
		for range h.r.IntN(3) {
			c := h.sliders[h.r.IntN(len(h.sliders))]
			switch h.r.IntN(12) {
			case 0, 1:
				h.rewish(c)
			case 2:
				c.forget() // it begins a new connection under the same name
			}
			h.slideOn(c)
		}
	}
	for _, c := range h.sliders {
		h.slideOn(c)
	}
	return h.cases
}

func TestSlidingModel(t *testing.T) {
	onHistories(t, 17, 3000, func(n *node, seed uint64) int { return newSlidingHistory(n, seed).runSliding(180) })
}
