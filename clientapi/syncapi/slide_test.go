package syncapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/userserver"
)

const (
	newPath = "/_matrix/client/v4/sync"
	oldPath = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
)

// askSliding asks for sliding sync.
func askSliding(t testing.TB, h http.Handler, path, token, body string) answer {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !gjson.ValidBytes(w.Body.Bytes()) {
		t.Fatalf("not JSON: %s", w.Body)
	}
	return answer{gjson.ParseBytes(w.Body.Bytes()), w.Code}
}

// slide asks for sliding sync, which must succeed. The body's fields follow pos.
func (n *node) slide(user id.UserID, pos, fields string) answer {
	n.Helper()
	a := askSliding(n, n.http, newPath, string(user), fmt.Sprintf(`{"pos":%q,"set_presence":"offline",%s}`, pos, fields))
	if a.status != http.StatusOK {
		n.Fatalf("status %d: %s", a.status, a.Raw)
	}
	return a
}

func (a answer) pos() string                      { return a.Get("pos").Str }
func (a answer) slid(room id.RoomID) gjson.Result { return a.Get("rooms." + escape(string(room))) }

const allRooms = `"lists":{"all":{"timeline_limit":10,"required_state":{"include":[{"type":"m.room.name"}]}}}`

func TestSlidingWindow(t *testing.T) {
	each(t, func(n *node) {
		var rooms []id.RoomID
		for range 5 {
			rooms = append(rooms, n.create(alice, nil))
		}
		n.say(alice, rooms[1], "newest")
		fields := `"lists":{"top":{"range":[0,1],"timeline_limit":1,"required_state":{}}}`
		a := n.slide(alice, "", fields)
		equal(n, "count", a.Get("lists.top.count").Int(), int64(5))
		equal(n, "rooms", len(a.Get("rooms").Map()), 2)
		first := a.slid(rooms[1])
		equal(n, "initial", first.Get("initial").Bool(), true)
		equal(n, "membership", first.Get("membership").Str, "join")
		equal(n, "lists", first.Get("lists.0").Str, "top")
		equal(n, "timeline", first.Get("timeline.#").Int(), int64(1))
		equal(n, "limited", first.Get("limited").Bool(), true)
		equal(n, "body", first.Get("timeline.0.content.body").Str, "newest")
		equal(n, "joined_count", first.Get("joined_count").Int(), int64(1))
		if !a.slid(rooms[4]).Exists() {
			t.Errorf("the second is not there: %s", a.Raw)
		}
		// A room that comes into sight is told whole, with what is live in it.
		n.say(alice, rooms[0], "bump")
		b := n.slide(alice, a.pos(), fields)
		equal(n, "rooms", len(b.Get("rooms").Map()), 1)
		equal(n, "initial", b.slid(rooms[0]).Get("initial").Bool(), true)
		equal(n, "live", b.slid(rooms[0]).Get("num_live").Int(), int64(1))
		// What fell out of sight is told from there when it comes back.
		n.say(alice, rooms[4], "x")
		n.say(alice, rooms[4], "y")
		c := n.slide(alice, b.pos(), fields)
		equal(n, "initial", c.slid(rooms[4]).Get("initial").Bool(), false)
		equal(n, "limited", c.slid(rooms[4]).Get("limited").Bool(), true)
		equal(n, "body", c.slid(rooms[4]).Get("timeline.0.content.body").Str, "y")
		// Nothing new is an empty answer.
		d := n.slide(alice, c.pos(), fields)
		equal(n, "rooms", len(d.Get("rooms").Map()), 0)
	})
}

func TestSlidingPositions(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		a := n.slide(alice, "", allRooms)
		n.say(alice, room, "one")
		b := n.slide(alice, a.pos(), allRooms)
		again := n.slide(alice, a.pos(), allRooms)
		equal(n, "the same again", ages.ReplaceAllString(again.Get("rooms").Raw, ""), ages.ReplaceAllString(b.Get("rooms").Raw, ""))
		c := n.slide(alice, again.pos(), allRooms)
		equal(n, "rooms", len(c.Get("rooms").Map()), 0)

		// Another API, as after a restart, knows the connection.
		restarted := serve(n, n.newAPI(n.hub))
		body := func(pos string) string { return fmt.Sprintf(`{"pos":%q,%s}`, pos, allRooms) }
		n.say(alice, room, "two")
		d := askSliding(n, restarted, newPath, string(alice), body(c.pos()))
		equal(n, "after a restart", d.slid(room).Get("timeline.#").Int(), int64(1))
		equal(n, "initial", d.slid(room).Get("initial").Bool(), false)
		for _, x := range []struct{ name, who, pos string }{
			{"another device", string(alice) + " 1", c.pos()},
			{"another user's device", string(bob) + " 3", c.pos()},
			{"nonsense", string(alice), "x"},
			{"a token of /sync", string(alice), n.sync(alice).next()},
			{"a state that there never was", string(alice), strings.TrimSuffix(c.pos(), "1") + "77"},
		} {
			got := askSliding(n, restarted, newPath, x.who, body(x.pos))
			if got.status != http.StatusBadRequest || got.Get("errcode").Str != "M_UNKNOWN_POS" {
				t.Errorf("%s: %d %s", x.name, got.status, got.Raw)
			}
		}
		// The token is a place to page from.
		if _, err := n.rooms.Messages(t.Context(), roomserver.PageRequest{Room: room, Limit: 1, Reader: roomserver.Reader{User: alice}}); err != nil {
			t.Error(err)
		}
	})
}

func TestSlidingMemberships(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, func(r *roomserver.CreateRequest) { name := "Tea"; r.Name = &name; r.Preset = "private_chat" })
		n.invite(alice, bob, room)
		a := n.slide(bob, "", allRooms)
		r := a.slid(room)
		equal(n, "membership", r.Get("membership").Str, "invite")
		equal(n, "name", r.Get("name").Exists(), false)
		if !strings.Contains(types(r.Get("stripped_state")), "@bob:x.org") {
			t.Errorf("stripped state: %s", r.Raw)
		}
		old := askSliding(n, n.http, oldPath, string(bob), `{"conn_id":"o","lists":{"a":{"timeline_limit":1,"ranges":[[0,9]],"required_state":[["m.room.member","$ME"]]}}}`)
		equal(n, "invite_state", old.slid(room).Get("invite_state").IsArray(), true)

		n.join(bob, room)
		b := n.slide(bob, a.pos(), allRooms)
		r = b.slid(room)
		equal(n, "initial", r.Get("initial").Bool(), true)
		equal(n, "name", r.Get("name").Str, "Tea")
		equal(n, "state", types(r.Get("required_state")), "name")
		old = askSliding(n, n.http, oldPath, string(bob), fmt.Sprintf(`{"pos":%q,"conn_id":"o","lists":{"a":{"timeline_limit":1,"ranges":[[0,9]],"required_state":[["m.room.member","$ME"]]}}}`, old.pos()))
		equal(n, "its own member event", types(old.slid(room).Get("required_state")), "@bob:x.org")

		n.setState(alice, room, "m.room.name", "", `{}`)
		c := n.slide(bob, b.pos(), allRooms)
		equal(n, "no name", c.slid(room).Get("name").Raw, "null")
		equal(n, "heroes", c.slid(room).Get("heroes.0.user_id").Str, string(alice))

		n.kick(alice, bob, room)
		n.say(alice, room, "secret")
		d := n.slide(bob, c.pos(), allRooms)
		equal(n, "kicked", d.slid(room).Get("membership").Str, "leave")
		equal(n, "last seen", d.slid(room).Get("timeline.0.content.membership").Str, "leave")
		equal(n, "events", d.slid(room).Get("timeline.#").Int(), int64(1))
		// One who was kicked is told so even if they know of nothing, one who left is not.
		equal(n, "afresh", len(n.slide(bob, "", `"conn_id":"other",`+allRooms).Get("rooms").Map()), 1)
		mine := n.create(bob, nil)
		e := n.slide(bob, d.pos(), allRooms)
		n.leave(bob, mine)
		f := n.slide(bob, e.pos(), allRooms)
		equal(n, "left", f.slid(mine).Get("membership").Str, "leave")
		equal(n, "afresh", n.slide(bob, "", `"conn_id":"other",`+allRooms).slid(mine).Exists(), false)
	})
}

func TestSlidingExpansion(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		for i := range 6 {
			n.say(alice, room, fmt.Sprint(i))
		}
		fields := func(limit int, state string) string {
			return fmt.Sprintf(`"room_subscriptions":{%q:{"timeline_limit":%d,"required_state":{"include":[%s]}}}`, room, limit, state)
		}
		a := n.slide(alice, "", fields(2, ``))
		equal(n, "first", a.slid(room).Get("timeline.#").Int(), int64(2))
		b := n.slide(alice, a.pos(), fields(4, ``))
		equal(n, "more", b.slid(room).Get("timeline.#").Int(), int64(4))
		equal(n, "expanded", b.slid(room).Get("expanded_timeline").Bool(), true)
		equal(n, "live", b.slid(room).Get("num_live").Int(), int64(0))
		c := n.slide(alice, b.pos(), fields(3, `{"type":"m.room.create","state_key":""}`))
		equal(n, "no more", c.slid(room).Get("timeline").Exists(), false)
		equal(n, "new state", types(c.slid(room).Get("required_state")), "create")
		d := n.slide(alice, c.pos(), fields(3, `{"type":"m.room.create","state_key":""}`))
		equal(n, "rooms", len(d.Get("rooms").Map()), 0)
		n.setState(alice, room, "org.x", "k", `{"a":1}`)
		e := n.slide(alice, d.pos(), fields(3, `{}`))
		if got := types(e.slid(room).Get("required_state")); !strings.Contains(got, "org.x") || strings.Contains(got, "create") {
			t.Errorf("everything but what is known: %s", got)
		}
	})
}

func TestSlidingFilters(t *testing.T) {
	each(t, func(n *node) {
		plain := n.create(alice, nil)
		space := n.create(alice, func(r *roomserver.CreateRequest) {
			r.CreationContent = map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}
		})
		secret := n.create(alice, func(r *roomserver.CreateRequest) {
			r.InitialState = []roomserver.StateEvent{{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)}}
		})
		n.setState(alice, space, "m.space.child", string(plain), `{"via":["x.org"]}`)
		theirs := n.create(bob, nil)
		n.invite(bob, alice, theirs)
		n.ok(n.users.SetAccountData(t.Context(), alice, "", "m.direct", json.RawMessage(fmt.Sprintf(`{"@bob:x.org":[%q]}`, secret))))
		n.ok(n.users.SetAccountData(t.Context(), alice, plain, "m.tag", json.RawMessage(`{"tags":{"u.work":{}}}`)))
		names := map[id.RoomID]string{plain: "plain", space: "space", secret: "secret", theirs: "theirs"}
		for _, c := range []struct{ filter, want string }{
			{`{}`, "plain secret space theirs"},
			{`{"is_dm":true}`, "secret"},
			{`{"is_dm":false}`, "plain space theirs"},
			{`{"is_invited":true}`, "theirs"},
			{`{"is_invited":false}`, "plain secret space"},
			{`{"is_encrypted":true}`, "secret"},
			{`{"room_types":["m.space"]}`, "space"},
			{`{"room_types":[null,"m.space"],"not_room_types":["m.space"]}`, "plain secret theirs"},
			{`{"not_room_types":[null]}`, "space"},
			{`{"tags":["u.work","u.home"]}`, "plain"},
			{`{"not_tags":["u.work"]}`, "secret space theirs"},
			{fmt.Sprintf(`{"spaces":[%q,"!unknown:x.org"]}`, space), "plain"},
			{fmt.Sprintf(`{"spaces":[%q]}`, theirs), ""},
		} {
			a := n.slide(alice, "", `"lists":{"l":{"timeline_limit":0,"required_state":{},"filters":`+c.filter+`}}`)
			var got []string
			for room := range a.Get("rooms").Map() {
				got = append(got, names[id.RoomID(room)])
			}
			equal(n, c.filter, sorted(got), c.want)
			equal(n, c.filter+": count", int(a.Get("lists.l.count").Int()), len(got))
		}
	})
}

func TestSlidingExtensions(t *testing.T) {
	each(t, func(n *node) {
		room, other := n.create(alice, nil), n.create(alice, nil)
		n.join(bob, room)
		event := n.say(alice, room, "hello")
		n.ok(n.users.SetAccountData(t.Context(), alice, room, "org.x", json.RawMessage(`{"n":1}`)))
		n.ok(n.users.SetAccountData(t.Context(), alice, "", "org.y", json.RawMessage(`{"n":2}`)))
		n.ok(n.users.SetMarkers(t.Context(), bob, room, userserver.Markers{Read: event}))
		fields := fmt.Sprintf(`"room_subscriptions":{%q:{"timeline_limit":5,"required_state":{}}},"extensions":{`+
			`"account_data":{"enabled":true},"receipts":{"enabled":true},"typing":{"enabled":true},"e2ee":{"enabled":true},"to_device":{"enabled":true}}`, room)
		a := n.slide(alice, "", fields)
		x := a.Get("extensions")
		in := func(section string) gjson.Result { return x.Get(section + ".rooms." + escape(string(room))) }
		equal(n, "account data", in("account_data").Get("0.content.n").Int(), int64(1))
		if !strings.Contains(x.Get("account_data.global").Raw, "org.y") || !strings.Contains(x.Get("account_data.global").Raw, "m.push_rules") {
			t.Errorf("global account data: %s", x.Raw)
		}
		equal(n, "receipt", in("receipts").Get("content."+escape(string(event))+`.m\.read.@bob\:x\.org`).Exists(), true)
		equal(n, "key counts", x.Get("e2ee.device_one_time_keys_count").Exists(), true)
		equal(n, "next_batch", x.Get("to_device.next_batch").Exists(), true)

		// Of what is not in sight nothing is told, and of the rest what is new.
		n.ok(n.users.SetAccountData(t.Context(), alice, other, "org.x", json.RawMessage(`{"n":3}`)))
		n.ok(n.users.SetTyping(t.Context(), bob, room, time.Minute))
		b := n.slide(alice, a.pos(), fields)
		x = b.Get("extensions")
		equal(n, "account data", x.Get("account_data").Exists(), false)
		equal(n, "typing", in("typing").Get("content.user_ids.0").Str, string(bob))
		second := n.say(alice, room, "again")
		n.ok(n.users.SetMarkers(t.Context(), bob, room, userserver.Markers{Read: second}))
		c := n.slide(alice, b.pos(), fields)
		x = c.Get("extensions")
		equal(n, "receipt", in("receipts").Get("content."+escape(string(second))).Exists(), true)
	})
}

func TestSlidingWaits(t *testing.T) {
	n := newNode(t, t.TempDir()+"/parley.db", stream.HubOptions{})
	room, hidden := n.create(alice, nil), n.create(alice, nil)
	fields := fmt.Sprintf(`"timeout":20000,"room_subscriptions":{%q:{"timeline_limit":5,"required_state":{}}}`, room)
	a := n.slide(alice, "", fields)
	got := make(chan answer, 1)
	go func() { got <- n.slide(alice, a.pos(), fields) }()
	quiet()
	n.say(alice, hidden, "nobody asked for this room")
	quiet()
	select {
	case b := <-got:
		t.Fatalf("told of nothing: %s", b.Raw)
	default:
	}
	n.say(alice, room, "hello")
	equal(n, "body", (<-got).slid(room).Get("timeline.0.content.body").Str, "hello")
}

func TestSlidingThreads(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		root := n.say(alice, room, "root")
		reply := func(body string) {
			_, err := n.rooms.Send(t.Context(), roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.message",
				Content: fmt.Appendf(nil, `{"body":%q,"m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, body, root)})
			n.ok(err)
		}
		fields := func(roots bool) string {
			return fmt.Sprintf(`"lists":{"l":{"timeline_limit":1,"required_state":{}}},"extensions":{"threads":{"enabled":true,"include_roots":%v}}`, roots)
		}
		a := n.slide(alice, "", fields(false))
		reply("one")
		b := n.slide(alice, a.pos(), fields(false))
		equal(n, "what is in the timeline", b.Get("extensions.threads").Exists(), false)
		b = n.slide(alice, a.pos(), fields(true))
		thread := b.Get("extensions.threads.updates." + escape(string(room)) + "." + escape(string(root)))
		equal(n, "root", thread.Get("thread_root.event_id").Str, string(root))
		equal(n, "in the root", thread.Get(`thread_root.unsigned.m\.relations.m\.thread.count`).Int(), int64(1))
		equal(n, "prev_batch", thread.Get("prev_batch").Exists(), false)
		reply("two")
		reply("three")
		c := n.slide(alice, b.pos(), fields(false))
		thread = c.Get("extensions.threads.updates." + escape(string(room)) + "." + escape(string(root)))
		equal(n, "prev_batch", thread.Get("prev_batch").Exists(), true)
		equal(n, "root", thread.Get("thread_root").Exists(), false)
	})
}

func TestSlidingRefuses(t *testing.T) {
	n := newNode(t, t.TempDir()+"/parley.db", stream.HubOptions{})
	many := strings.Repeat(`"!%d:x.org":{},`, 101)
	for i := range 101 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	for body, code := range map[string]string{
		`{"lists":{"a b":{}}}`:                        "M_INVALID_PARAM",
		`{"lists":{"a":{"range":[3,1]}}}`:             "M_INVALID_PARAM",
		`{"lists":{"a":{"timeline_limit":-1}}}`:       "M_INVALID_PARAM",
		`{"lists":[]}`:                                "M_BAD_JSON",
		`{"set_presence":"asleep"}`:                   "M_INVALID_PARAM",
		`{"room_subscriptions":{` + many + `"x":{}}}`: "M_INVALID_PARAM",
		`{`: "M_NOT_JSON",
	} {
		a := askSliding(t, n.http, newPath, string(alice), body)
		if a.status != http.StatusBadRequest || a.Get("errcode").Str != code {
			t.Errorf("%.60s: %d %s", body, a.status, a.Raw)
		}
	}
}
