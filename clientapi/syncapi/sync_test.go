package syncapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"parley/internal/id"
	"parley/internal/token"
	"parley/roomserver"
	"parley/userserver"
)

func TestTimeline(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		first := n.sync(bob)
		equal(n, "the newest ten", bodies(first.room("join", room)), "m.room.create a:join m.room.power_levels m.room.join_rules m.room.history_visibility b:join")
		equal(n, "state before the beginning", types(first.room("join", room).Get("state.events")), "")
		equal(n, "limited", first.room("join", room).Get("timeline.limited").Bool(), false)

		nothing := n.sync(bob, "since", first.next())
		equal(n, "rooms without news", nothing.Get("rooms").Raw, "")
		n.say(alice, room, "one")
		n.say(bob, room, "two")
		second := n.sync(bob, "since", first.next())
		equal(n, "news", bodies(second.room("join", room)), "one two")
		equal(n, "membership", second.room("join", room).Get("timeline.events.0.unsigned.membership").Str, "join")
		equal(n, "again", n.sync(bob, "since", first.next()).Raw, second.Raw)
		equal(n, "from where there was nothing", n.sync(bob, "since", nothing.next()).room("join", room).Raw, second.room("join", room).Raw)
		equal(n, "after the news", n.sync(bob, "since", second.next()).Get("rooms").Raw, "")

		for _, body := range strings.Fields("a b c d e f g h i j k l") {
			n.say(alice, room, body)
		}
		n.setState(alice, room, "m.room.topic", "", `{"topic":"x"}`)
		third := n.sync(bob, "since", second.next(), "filter", `{"room":{"timeline":{"limit":3,"types":["m.room.message"]}}}`)
		gap := third.room("join", room)
		equal(n, "the newest three", bodies(gap), "j k l")
		equal(n, "limited", gap.Get("timeline.limited").Bool(), true)
		page, err := n.rooms.Messages(n.Context(), roomserver.PageRequest{Room: room, Backward: true, Limit: 2,
			From: ord(n, gap.Get("timeline.prev_batch").Str), Reader: roomserver.Reader{User: bob}})
		n.ok(err)
		if len(page.Events) != 2 || !strings.Contains(string(page.Events[0]), `"body":"i"`) || !strings.Contains(string(page.Events[1]), `"body":"h"`) {
			n.Errorf("before the gap: %s", page.Events)
		}
		equal(n, "a filter of other rooms", n.sync(bob, "since", second.next(), "filter", `{"room":{"not_rooms":["`+string(room)+`"]}}`).Get("rooms").Raw, "")
	})
}

// Who is in more rooms than one goroutine takes at once is told of each of them, and that as one who asks for it alone.
func TestManyRooms(t *testing.T) {
	each(t, func(n *node) {
		rooms := make([]id.RoomID, 3*shareSize+1)
		for i := range rooms {
			rooms[i] = n.create(alice, nil)
			n.join(bob, rooms[i])
			n.say(alice, rooms[i], strconv.Itoa(i))
		}
		n.leave(bob, rooms[0])
		const form = `{"event_format":"federation","room":{"include_leave":true,"rooms":[` // without ages
		all := n.sync(bob, "filter", strings.TrimSuffix(form, `,"rooms":[`)+"}}")
		equal(n, "joined", len(all.Get("rooms.join").Map()), len(rooms)-1)
		equal(n, "left", len(all.Get("rooms.leave").Map()), 1)
		for i, room := range rooms {
			section := "join"
			if i == 0 {
				section = "leave"
			}
			alone := n.sync(bob, "filter", form+`"`+string(room)+`"]}}`)
			equal(n, string(room), all.room(section, room).Raw, alone.room(section, room).Raw)
		}
	})
}

func ord(t testing.TB, s string) *roomserver.Ord {
	t.Helper()
	pos, err := token.Parse(strings.Split(s, "_")[1], s)
	if err != nil {
		t.Fatal(err)
	}
	o := roomserver.Ord(pos)
	return &o
}

func TestStateInTheGapAndAfter(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		since := n.sync(bob).next()
		n.setState(alice, room, "m.room.name", "", `{"name":"old"}`)
		n.setState(alice, room, "m.room.name", "", `{"name":"new"}`)
		n.say(alice, room, "one")
		n.setState(alice, room, "m.room.topic", "", `{"topic":"x"}`)
		n.say(alice, room, "two")
		const limit = `{"room":{"timeline":{"limit":3}}}`
		r := n.sync(bob, "since", since, "filter", limit).room("join", room)
		equal(n, "timeline", bodies(r), "one m.room.topic two")
		equal(n, "state", types(r.Get("state.events")), "name")
		equal(n, "name", r.Get("state.events.0.content.name").Str, "new")
		equal(n, "state_after", r.Get("state_after").Exists(), false)
		r = n.sync(bob, "since", since, "filter", limit, "use_state_after", "true").room("join", room)
		equal(n, "state", r.Get("state").Exists(), false)
		equal(n, "state_after", types(r.Get("state_after.events")), "name topic")
		r = n.sync(bob, "since", since, "filter", limit, "org.matrix.msc4222.use_state_after", "true").room("join", room)
		equal(n, "state_after by its old name", types(r.Get(`org\.matrix\.msc4222\.state_after.events`)), "name topic")
		n.say(alice, room, "three")
		r = n.sync(bob, "since", n.sync(bob).next(), "use_state_after", "true").room("join", room)
		equal(n, "nothing new", r.Raw, "")
		r = n.sync(bob, "use_state_after", "true").room("join", room)
		equal(n, "all state", types(r.Get("state_after.events")), "@alice:x.org @bob:x.org create history_visibility join_rules name power_levels topic")

		r = n.sync(bob, "since", n.sync(bob).next(), "full_state", "true").room("join", room)
		equal(n, "full state", types(r.Get("state.events")), "@alice:x.org @bob:x.org create history_visibility join_rules name power_levels topic")
		equal(n, "timeline of a full state", bodies(r), "")
	})
}

func TestLazyMembers(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		n.join(carol, room)
		n.join("@dan:x.org", room)
		for range 3 {
			n.say(alice, room, "x")
		}
		const f = `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`
		a := n.sync(bob, "filter", f)
		r := a.room("join", room)
		// The heroes name a room without a name, so their events are there, too.
		equal(n, "state", types(r.Get("state.events")), "@alice:x.org @bob:x.org @carol:x.org @dan:x.org create history_visibility join_rules power_levels")
		n.setState(alice, room, "m.room.name", "", `{"name":"x"}`)
		n.say(alice, room, "x")
		n.say(alice, room, "x")
		r = n.sync(bob, "filter", f).room("join", room)
		equal(n, "state of a room with a name", types(r.Get("state.events")), "@alice:x.org @bob:x.org create history_visibility join_rules name power_levels")
		a = n.sync(bob, "filter", f)
		n.say(carol, room, "y")
		r = n.sync(bob, "filter", f, "since", a.next()).room("join", room)
		equal(n, "state with a message", types(r.Get("state.events")), "@carol:x.org")
		// What happens to members in a gap is told, whoever they are.
		n.leave("@dan:x.org", room)
		n.say(carol, room, "y")
		n.say(carol, room, "z")
		r = n.sync(bob, "filter", f, "since", a.next()).room("join", room)
		equal(n, "timeline", bodies(r), "y z")
		equal(n, "state of the gap", types(r.Get("state.events")), "@carol:x.org @dan:x.org")
		equal(n, "members", r.Get(`summary.m\.joined_member_count`).Int(), int64(3))
	})
}

func TestSummary(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, func(r *roomserver.CreateRequest) { r.Invite = []id.UserID{carol} })
		n.join(bob, room)
		a := n.sync(alice)
		s := a.room("join", room).Get("summary")
		equal(n, "heroes", s.Get(`m\.heroes`).Raw, `["@carol:x.org","@bob:x.org"]`)
		equal(n, "joined", s.Get(`m\.joined_member_count`).Int(), int64(2))
		equal(n, "invited", s.Get(`m\.invited_member_count`).Int(), int64(1))
		n.say(bob, room, "x")
		b := n.sync(alice, "since", a.next())
		equal(n, "a summary that did not change", b.room("join", room).Get("summary").Exists(), false)
		n.leave(carol, room)
		b = n.sync(alice, "since", b.next())
		equal(n, "heroes", b.room("join", room).Get(`summary.m\.heroes`).Raw, `["@bob:x.org"]`)
		n.setState(alice, room, "m.room.name", "", `{"name":"x"}`)
		b = n.sync(alice, "since", b.next())
		equal(n, "heroes of a room with a name", b.room("join", room).Get(`summary.m\.heroes`).Exists(), false)
		n.setState(alice, room, "m.room.name", "", `{"name":""}`)
		n.leave(bob, room)
		b = n.sync(alice, "since", b.next())
		equal(n, "heroes of an empty room", len(b.room("join", room).Get(`summary.m\.heroes`).Array()), 2)
	})
}

func TestMembership(t *testing.T) {
	each(t, func(n *node) {
		since := n.sync(bob).next()
		room := n.create(alice, func(r *roomserver.CreateRequest) { r.Preset = "private_chat" })
		n.say(alice, room, "before")
		n.invite(alice, bob, room)
		a := n.sync(bob, "since", since)
		invite := a.room("invite", room).Get("invite_state.events")
		equal(n, "invite", types(invite), "@alice:x.org @bob:x.org create join_rules")
		equal(n, "other sections", a.room("join", room).Exists() || a.room("leave", room).Exists(), false)
		equal(n, "the invite again", n.sync(bob, "since", a.next()).Get("rooms").Raw, "")
		equal(n, "the invite to a newcomer", n.sync(bob).room("invite", room).Exists(), true)

		n.leave(bob, room)
		b := n.sync(bob, "since", a.next())
		equal(n, "the refusal", bodies(b.room("leave", room)), "b:leave")
		equal(n, "state after a refusal", types(b.room("leave", room).Get("state.events")), "")
		equal(n, "the refusal of an invite that was not told of", bodies(n.sync(bob, "since", since).room("leave", room)), "b:leave")

		n.invite(alice, bob, room)
		n.say(alice, room, "invited")
		n.join(bob, room)
		n.say(alice, room, "joined")
		c := n.sync(bob, "since", b.next())
		r := c.room("join", room)
		if got := bodies(r); !strings.HasSuffix(got, "m.room.guest_access before b:invite b:leave b:invite invited b:join joined") {
			n.Errorf("what a newcomer sees: %s", got)
		}
		equal(n, "limited", r.Get("timeline.limited").Bool(), true)

		n.kick(alice, bob, room)
		n.say(alice, room, "gone")
		d := n.sync(bob, "since", c.next())
		equal(n, "the kick", bodies(d.room("leave", room)), "b:leave")
		equal(n, "after the kick", n.sync(bob, "since", d.next()).Get("rooms").Raw, "")
		equal(n, "a newcomer after the kick", n.sync(bob).Get("rooms").Raw, "")
		left := n.sync(bob, "filter", `{"room":{"include_leave":true}}`).room("leave", room)
		if got := bodies(left); !strings.HasSuffix(got, "b:join joined b:leave") {
			n.Errorf("a room left long ago: %s", got)
		}

		// Away for a while: what happened then is not the user's to see.
		n.invite(alice, bob, room)
		n.join(bob, room)
		e := n.sync(bob, "since", d.next())
		if got := bodies(e.room("join", room)); !strings.HasSuffix(got, "gone b:invite b:join") {
			n.Errorf("a room come back to: %s", got)
		}
		equal(n, "limited", e.room("join", room).Get("timeline.limited").Bool(), true)
		n.setState(alice, room, "m.room.history_visibility", "", `{"history_visibility":"joined"}`)
		e = n.sync(bob, "since", e.next())
		n.say(alice, room, "seen")
		n.kick(alice, bob, room)
		n.say(alice, room, "unseen")
		n.setState(alice, room, "m.room.topic", "", `{"topic":"unseen"}`)
		n.invite(alice, bob, room)
		n.join(bob, room)
		f := n.sync(bob, "since", e.next()).room("join", room)
		equal(n, "while away", bodies(f), "seen b:leave b:join")

		// Came and went between two syncs.
		n.invite(alice, carol, room)
		n.join(carol, room)
		n.say(alice, room, "carol sees")
		n.leave(carol, room)
		n.say(alice, room, "carol is gone")
		g := n.sync(carol, "since", since).room("leave", room)
		if got := bodies(g); !strings.HasSuffix(got, "c:join carol sees c:leave") {
			n.Errorf("a short visit: %s", got)
		}
		n.ok(n.rooms.Forget(n.Context(), carol, room))
		equal(n, "a forgotten room, as another device hears of it", n.sync(carol, "since", since).room("leave", room).Exists(), true)
		equal(n, "a forgotten room", n.sync(carol, "filter", `{"room":{"include_leave":true}}`).Get("rooms").Raw, "")

		n.ok(n.rooms.Ban(n.Context(), roomserver.MemberRequest{Room: room, Sender: alice, Target: bob}))
		equal(n, "a ban", bodies(n.sync(bob, "since", n.sync(alice, "since", e.next()).next()).room("leave", room)), "")
		equal(n, "a ban", strings.HasSuffix(bodies(n.sync(bob, "since", e.next()).room("leave", room)), "b:ban"), true)
	})
}

func TestWithdrawnInviteAndKnock(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, func(r *roomserver.CreateRequest) {
			r.Preset = "private_chat"
			r.InitialState = []roomserver.StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}
		})
		since := n.sync(bob).next()
		n.invite(alice, bob, room)
		waiting := n.later(bob, "since", n.sync(bob, "since", since).next())
		quiet()
		n.kick(alice, bob, room)
		a := <-waiting
		equal(n, "the withdrawal", bodies(a.room("leave", room)), "b:leave")
		n.ok(n.rooms.Knock(n.Context(), roomserver.MemberRequest{Room: room, Sender: bob}))
		b := n.sync(bob, "since", a.next())
		if got := types(b.room("knock", room).Get("knock_state.events")); !strings.Contains(got, "@bob:x.org") || !strings.Contains(got, "join_rules") {
			n.Errorf("the knock: %s", got)
		}
	})
}

func TestIgnored(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		n.join(carol, room)
		since := n.sync(bob).next()
		n.ok(n.users.SetAccountData(n.Context(), bob, "", ignoredUserList, json.RawMessage(`{"ignored_users":{"@alice:x.org":{}}}`)))
		a := n.sync(bob, "since", since)
		equal(n, "account data", a.Get("account_data.events.0.type").Str, ignoredUserList)
		n.say(alice, room, "ignored")
		n.setState(alice, room, "m.room.topic", "", `{"topic":"x"}`)
		n.say(carol, room, "heard")
		other := n.create(alice, nil)
		n.invite(alice, bob, other)
		b := n.sync(bob, "since", a.next())
		equal(n, "without the ignored", bodies(b.room("join", room)), "m.room.topic heard")
		equal(n, "the invite", b.Get("rooms.invite").Raw, "")
		waiting := n.later(bob, "since", b.next())
		quiet()
		n.say(alice, room, "ignored")
		n.say(carol, room, "awake")
		equal(n, "who waits", bodies((<-waiting).room("join", room)), "awake")
		n.ok(n.users.SetAccountData(n.Context(), bob, "", ignoredUserList, json.RawMessage(`{"ignored_users":{}}`)))
		b = n.sync(bob, "since", b.next())
		n.say(alice, room, "again")
		equal(n, "no longer ignored", bodies(n.sync(bob, "since", b.next()).room("join", room)), "again")
	})
}

func TestTransactionID(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		since := n.sync(alice).next()
		_, err := n.rooms.Send(n.Context(), roomserver.SendRequest{Room: room, Sender: alice, Type: "m.room.message",
			Content: []byte(`{"body":"x"}`), Txn: roomserver.Txn{DeviceNID: 3, ID: "t1", Scope: "s"}})
		n.ok(err)
		path := "rooms.join." + escape(string(room)) + ".timeline.events.0.unsigned.transaction_id"
		for range 2 { // first from the database, then from memory, or the other way round
			equal(n, "the sending device", ask(n, n.http, "@alice:x.org 2", "since", since).Get(path).Str, "t1")
			equal(n, "another device", ask(n, n.http, "@alice:x.org 1", "since", since).Get(path).Exists(), false)
		}
		equal(n, "the first sync", strings.Contains(ask(n, n.http, "@alice:x.org 2").Raw, `"transaction_id":"t1"`), true)
	})
}

func TestRedaction(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		since := n.sync(bob).next()
		event := n.say(alice, room, "secret")
		equal(n, "before", bodies(n.sync(bob, "since", since).room("join", room)), "secret")
		_, err := n.rooms.Redact(n.Context(), roomserver.RedactRequest{Room: room, Sender: alice, Event: event})
		n.ok(err)
		r := n.sync(bob, "since", since).room("join", room)
		equal(n, "after", bodies(r), "m.room.message m.room.redaction")
		equal(n, "why", r.Get("timeline.events.0.unsigned.redacted_because.type").Str, "m.room.redaction")
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		set := func(room id.RoomID, typ, content string) {
			n.Helper()
			n.ok(n.users.SetAccountData(n.Context(), alice, room, typ, json.RawMessage(content)))
		}
		set("", "org.a", `{"x":1}`)
		set(room, "org.b", `{"x":1}`)
		a := n.sync(alice)
		equal(n, "global", a.Get(`account_data.events.#(type!="m.push_rules")#`).Raw, `[{"type":"org.a","content":{"x":1}}]`)
		equal(n, "of the room", a.room("join", room).Get("account_data.events").Raw, `[{"type":"org.b","content":{"x":1}}]`)
		waiting := n.later(alice, "since", a.next())
		quiet()
		set(room, "org.b", `{"x":2}`)
		b := <-waiting
		equal(n, "what changed", b.room("join", room).Get("account_data.events").Raw, `[{"type":"org.b","content":{"x":2}}]`)
		equal(n, "what did not", b.Get("account_data").Raw, "")
		equal(n, "by a filter", n.sync(alice, "filter", `{"account_data":{"not_types":["org.*"]},"room":{"account_data":{"types":["none"]}}}`).room("join", room).Get("account_data.events.0").Raw, "")
		equal(n, "others' account data", n.sync(bob).Get("account_data.events.#.type").Raw, `["m.push_rules"]`)
	})
}

func TestTypingAndReceipts(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		event := n.say(alice, room, "x")
		since := n.sync(alice).next()
		ephemeral := func(a answer) string { return a.room("join", room).Get("ephemeral.events").Raw }
		n.ok(n.users.SetTyping(n.Context(), bob, room, time.Minute))
		a := n.sync(alice, "since", since)
		equal(n, "typing", ephemeral(a), `[{"type":"m.typing","content":{"user_ids":["@bob:x.org"]}}]`)
		equal(n, "no longer news", ephemeral(n.sync(alice, "since", a.next())), "")
		equal(n, "the same token again", ephemeral(n.sync(alice, "since", since)), ephemeral(a))
		equal(n, "to a newcomer", ephemeral(n.sync(alice)), ephemeral(a))
		waiting := n.later(alice, "since", a.next())
		quiet()
		n.ok(n.users.SetTyping(n.Context(), bob, room, 0))
		b := <-waiting
		equal(n, "no typing", ephemeral(b), `[{"type":"m.typing","content":{"user_ids":[]}}]`)

		n.ok(n.users.SetMarkers(n.Context(), bob, room, userserver.Markers{Read: event}))
		c := n.sync(alice, "since", b.next())
		receipt := c.room("join", room).Get("ephemeral.events.0.content." + escape(string(event)))
		equal(n, "receipt", receipt.Get(`m\.read.@bob\:x\.org.ts`).Exists(), true)
		n.ok(n.users.SetMarkers(n.Context(), alice, room, userserver.Markers{ReadPrivate: event, Thread: "main"}))
		equal(n, "another's private receipt", n.sync(bob, "since", c.next()).Get("rooms").Raw, "")
		d := n.sync(alice, "since", c.next())
		equal(n, "a private receipt", d.room("join", room).Get("ephemeral.events.0.content."+escape(string(event))+`.m\.read\.private.@alice\:x\.org.thread_id`).Str, "main")
		equal(n, "by a filter", n.sync(alice, "since", b.next(), "filter", `{"room":{"ephemeral":{"types":["m.typing"]}}}`).Get("rooms").Raw, "")
		// One event can have two receipts of one user that differ in their thread alone.
		n.ok(n.users.SetMarkers(n.Context(), bob, room, userserver.Markers{Read: event, Thread: "main"}))
		both := n.sync(alice).room("join", room).Get("ephemeral.events")
		if strings.Count(both.Raw, `"m.read":{"@bob:x.org"`) != 2 || len(both.Array()) != 2 {
			n.Errorf("two receipts: %s", both.Raw)
		}
	})
}

func TestPresence(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		since := n.sync(alice).next()
		n.ok(n.users.SetPresence(carol, "online", ""))
		n.ok(n.users.SetPresence(bob, "online", "here"))
		a := n.sync(alice, "since", since)
		equal(n, "one of the room", len(a.Get("presence.events").Array()), 1)
		equal(n, "one of the room", a.Get("presence.events.0.sender").Str, "@bob:x.org")
		equal(n, "status", a.Get("presence.events.0.content.status_msg").Str, "here")
		equal(n, "no longer news", n.sync(alice, "since", a.next()).Get("presence").Raw, "")
		waiting := n.later(alice, "since", a.next())
		quiet()
		n.ok(n.users.SetPresence(bob, "unavailable", ""))
		equal(n, "who waits", (<-waiting).Get("presence.events.0.content.presence").Str, "unavailable")
		n.join(carol, room)
		b := n.sync(alice, "since", a.next())
		if got := b.Get("presence").Raw; !strings.Contains(got, "@carol:x.org") {
			n.Errorf("one who came: %s", got)
		}
		equal(n, "by a filter", n.sync(alice, "filter", `{"presence":{"types":[]}}`).Get("presence").Raw, "")
	})
}

func TestFieldsAndFormat(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		since := n.sync(alice).next()
		n.say(alice, room, "x")
		r := n.sync(alice, "since", since, "filter", `{"event_fields":["content.body"]}`).room("join", room)
		equal(n, "fields", r.Get("timeline.events.0").Raw, `{"content":{"body":"x"}}`)
		r = n.sync(alice, "since", since, "filter", `{"event_format":"federation"}`).room("join", room)
		equal(n, "federation", r.Get("timeline.events.0.auth_events").Exists(), true)
	})
}

func TestTokens(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		since := n.sync(alice).next()
		n.say(alice, room, "x")
		pos, _, _ := strings.Cut(since, "_")
		// A token of an earlier life of the process, and one of before there was such a thing.
		for _, old := range []string{pos + "_" + n.db.Epoch() + "_zzzz.99", token.Format(n.db.Epoch(), int64(*ord(n, since)))} {
			equal(n, "after a restart", bodies(n.sync(alice, "since", old).room("join", room)), "x")
		}
		a := n.sync(alice, "since", pos+"_OTHERLOG")
		equal(n, "of another log", strings.HasPrefix(bodies(a.room("join", room)), "m.room.create"), true)
		for _, query := range [][]string{
			{"since", "s"}, {"since", "s-1_" + n.db.Epoch()}, {"since", "nonsense"}, {"filter", "{"}, {"filter", "none"},
			{"filter", `{"room":{"timeline":{"limit":-1}}}`}, {"set_presence", "asleep"}, {"timeout", "soon"},
		} {
			if got := ask(n, n.http, string(alice), query...); got.status != http.StatusBadRequest {
				n.Errorf("%v: status %d: %s", query, got.status, got.Raw)
			}
		}
	})
}

func TestLongPoll(t *testing.T) {
	each(t, func(n *node) {
		room := n.create(alice, nil)
		n.join(bob, room)
		since := n.sync(bob).next()
		waiting := n.later(bob, "since", since)
		quiet()
		n.say(alice, room, "hello")
		equal(n, "who waits", bodies((<-waiting).room("join", room)), "hello")
		// Joined while waiting.
		since = n.sync(carol).next()
		waiting = n.later(carol, "since", since)
		quiet()
		n.join(carol, room)
		a := <-waiting
		equal(n, "a room joined while waiting", a.room("join", room).Get("timeline.limited").Bool(), true)
		waiting = n.later(carol, "since", a.next())
		quiet()
		n.kick(alice, carol, room)
		equal(n, "kicked while waiting", bodies((<-waiting).room("leave", room)), "c:leave")
		empty := n.sync(carol, "since", n.sync(carol).next(), "timeout", "1")
		equal(n, "at the end", empty.Get("rooms").Exists(), false)
		waiting = n.later(carol, "since", empty.next())
		quiet()
		n.hub.Close()
		equal(n, "when the server stops", (<-waiting).next(), empty.next())
	})
}
