package hostile

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix"
	mxevent "maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// scene is a Parley with a room in it, which a user of the peer has joined as one should.
type scene struct {
	parley *harness.Server
	peer   *peer
	alice  *harness.User
	bob    *harness.User // of Parley, too, and in the room
	id     id.RoomID
	room   *room
}

func newScene(t *testing.T, db harness.Database) *scene {
	t.Helper()
	network := harness.NewNetwork(t)
	s := &scene{parley: network.Parley(t, db, "")}
	s.peer = newPeer(t, network, s.parley)
	s.alice, s.bob = s.parley.Register(t, "alice"), s.parley.Register(t, "bob")
	s.id = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: version})
	s.bob.Join(s.id)
	s.room = s.peer.join(string(s.id), "@mallory:"+s.peer.name)
	return s
}

// state is the room's state as alice sees it.
func (s *scene) state(t *testing.T) map[string]string {
	t.Helper()
	state, err := s.alice.StateAsArray(t.Context(), s.id)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, evt := range state {
		ids[evt.Type.Type+" "+evt.GetStateKey()] = evt.ID.String()
	}
	return ids
}

// unharmed fails the test when the room's state is not as it was, when anything evil is to be read in it, or when it
// does not go on, for those of Parley and for those of the peer.
func (s *scene) unharmed(t *testing.T, before map[string]string) {
	t.Helper()
	if after := s.state(t); !maps.Equal(before, after) {
		t.Errorf("the state is %v; it was %v", after, before)
	}
	page, err := s.alice.Messages(t.Context(), s.id, "", "", mautrix.DirectionBackward, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(harness.Bodies(page.Chunk), evil) {
		t.Errorf("what is evil can be read: %q", harness.Bodies(page.Chunk))
	}
	s.goesOn(t)
}

// goesOn fails the test unless alice can speak, and the peer's user too.
func (s *scene) goesOn(t *testing.T) {
	t.Helper()
	s.alice.In(t).Say(s.id, "life goes on")
	good := s.peer.seal(s.room.message("a good word"))
	if text := s.room.send(t, good); text != "" {
		t.Fatalf("a good event was refused: %s", text)
	}
	s.room.advance(good)
	if evt := s.alice.In(t).Event(s.id, id.EventID(good.id)); evt.Content.Raw["body"] != "a good word" {
		t.Errorf("the good event reads %v", evt.Content.Raw)
	}
}

// TestEvents sends what is wrong with one event, a transaction each.
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func TestEvents(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		r, p := s.room, s.peer
		mine := spec.MRoomMember + " " + r.user
		of := func(u *harness.User) string { return spec.MRoomMember + " " + string(u.UserID) }
		change := func(changes ...any) event {
			fields := r.message(evil)
			for i := 0; i < len(changes); i += 2 {
				fields[changes[i].(string)] = changes[i+1]
			}
			return p.seal(fields)
		}
		many := func(n int) []string {
			ids := make([]string, n)
			for i := range ids {
				ids[i] = fmt.Sprintf("$%043d", i)
			}
			return ids
		}
		// What was signed is the event with another text; the hash tells.
		tampered := func(e event, field string, value any) event {
			var fields object
			if err := json.Unmarshal(e.raw, &fields); err != nil {
				t.Fatal(err)
			}
			fields[field] = value
			raw := canonical(fields)
			return event{eventID(raw), raw}
		}
		other := s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: version})
		elsewhere := p.join(string(other), r.user)

		cases := []struct {
			name string
			make func() event
		}{
			{"no signature", func() event { return tampered(change(), "signatures", object{}) }},
			{"another's signature alone", func() event {
				return tampered(change(), "signatures", object{s.parley.Name: object{"ed25519:a": strings.Repeat("A", 86)}})
			}},
			{"a signature that does not fit", func() event { return tampered(change(), "depth", 7) }},
			{"a key that nobody has", func() event {
				was := p.keyID
				p.keyID = "ed25519:none"
				defer func() { p.keyID = was }()
				return change()
			}},
			{"a sender of Parley's", func() event { return change("sender", s.alice.UserID, "auth_events", r.auth(of(s.alice))) }},
			{"a sender of a third server", func() event { return change("sender", "@carol:carol.example.org") }},
			{"a sender that is no user", func() event { return change("sender", "mallory") }},
			{"a sender who is not in the room", func() event { return change("sender", "@trudy:"+p.name) }},
			{"a room that nobody knows", func() event { return change("room_id", "!nothing:"+p.name) }},
			{"a room ID that is none", func() event { return change("room_id", "nothing") }},
			{"the prev events of another room", func() event { return change("prev_events", elsewhere.last) }},
			{"the auth events of another room", func() event { return change("auth_events", elsewhere.auth()) }},
			{"no auth events", func() event { return change("auth_events", []string{}) }},
			{"an auth event too many", func() event { return change("auth_events", r.auth(of(s.alice))) }},
			{"an auth event twice", func() event { return change("auth_events", r.auth(mine)) }},
			{"without the create event", func() event { return change("auth_events", r.auth()[1:]) }},
			{"no prev events", func() event { return change("prev_events", []string{}) }},
			{"21 prev events", func() event { return change("prev_events", many(21)) }},
			{"11 auth events", func() event { return change("auth_events", many(11)) }},
			{"prev events that are no list", func() event { return change("prev_events", object{"a": "b"}) }},
			{"prev events that are no IDs", func() event { return change("prev_events", []any{1, nil}) }},
			{"negative depth", func() event { return change("depth", -5) }},
			{"depth beyond what canonical JSON has", func() event { return change("depth", int64(1)<<60) }},
			{"depth with a fraction", func() event { return change("depth", json.RawMessage("1.5")) }},
			{"depth that is no number", func() event { return change("depth", "deep") }},
			{"a number beyond what canonical JSON has", func() event {
				return change("content", object{"msgtype": "m.text", "body": evil, "n": int64(1) << 53})
			}},
			{"a content that is no object", func() event { return change("content", evil) }},
			{"no type", func() event { return change("type", nil) }},
			{"a type that is too long", func() event { return change("type", strings.Repeat("t", 256)) }},
			{"a state key that is too long", func() event {
				return p.seal(r.stateEvent("org.example", strings.Repeat("k", 256), object{"body": evil}))
			}},
			{"a key twice", func() event {
				fields := r.message(evil)
				fields["content"] = json.RawMessage(`{"body":"` + evil + `","body":"` + evil + `","msgtype":"m.text"}`)
				return p.seal(fields)
			}},
			{"no content", func() event { return change("content", nil) }},
			{"a state key that is no string", func() event { return change("state_key", 7) }},
			{"a time that is no number", func() event { return change("origin_server_ts", "now") }},
			{"64 KiB and more", func() event { return change("content", object{"body": evil, "more": strings.Repeat("x", 65<<10)}) }},
			{"another create event", func() event {
				return p.seal(r.stateEvent(spec.MRoomCreate, "", object{"creator": r.user, "room_version": version}))
			}},
			{"power levels without power", func() event {
				return p.seal(r.stateEvent(spec.MRoomPowerLevels, "", object{"users": object{r.user: 100}}))
			}},
			{"a topic without power", func() event { return p.seal(r.stateEvent("m.room.topic", "", object{"topic": evil})) }},
			{"state under another user's ID", func() event {
				return p.seal(r.stateEvent("org.example", string(s.alice.UserID), object{"body": evil}))
			}},
			{"a kick without power", func() event {
				return p.seal(r.stateEvent(spec.MRoomMember, string(s.bob.UserID), object{"membership": "leave"}, of(s.bob)))
			}},
			{"a ban without power", func() event {
				return p.seal(r.stateEvent(spec.MRoomMember, string(s.alice.UserID), object{"membership": "ban"}, of(s.alice)))
			}},
			{"a join for somebody else", func() event {
				return p.seal(r.stateEvent(spec.MRoomMember, "@carol:"+p.name, object{"membership": "join"}, spec.MRoomJoinRules+" "))
			}},
			{"a join in the name of Parley's user", func() event {
				e := r.stateEvent(spec.MRoomMember, string(s.bob.UserID), object{"membership": "join", "displayname": evil}, of(s.bob), spec.MRoomJoinRules+" ")
				e["sender"] = s.bob.UserID
				return p.seal(e)
			}},
			{"a membership that does not exist", func() event {
				return p.seal(r.stateEvent(spec.MRoomMember, r.user, object{"membership": evil}, spec.MRoomJoinRules+" "))
			}},
			{"an invite for one who is in the room", func() event {
				return p.seal(r.stateEvent(spec.MRoomMember, string(s.bob.UserID), object{"membership": "invite"}, of(s.bob), spec.MRoomJoinRules+" "))
			}},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				before := s.state(t)
				e := c.make()
				logged := len(refusals(s.parley))
				counted := s.parley.Figure(`parley_federation_received_pdus_total{result="accepted"}`)
				resp := p.push(p.transaction([]json.RawMessage{e.raw})).WantOK(t)
				if result := resp.Get("pdus." + escape(e.id)); result.Exists() && result.Get("error").Str == "" {
					t.Errorf("the event was taken: %s", resp.Body)
				}
				if _, err := s.alice.GetEvent(t.Context(), s.id, id.EventID(e.id)); err == nil {
					t.Error("alice can fetch the event")
				}
				if now := s.parley.Figure(`parley_federation_received_pdus_total{result="accepted"}`); now != counted {
					t.Errorf("it counts as accepted: %v, before it %v", now, counted)
				}
				if lines := refusals(s.parley)[logged:]; len(lines) != 1 {
					t.Errorf("the log has %d lines on it: %q; want one", len(lines), lines)
				}
				s.unharmed(t, before)
			})
		}
		if n := s.parley.Figure(`parley_federation_received_pdus_total{result="rejected"}`) +
			s.parley.Figure(`parley_federation_received_pdus_total{result="refused"}`) +
			s.parley.Figure(`parley_federation_received_pdus_total{result="missing"}`); int(n) < len(cases) {
			t.Errorf("%v refusals were counted; %d events were refused", n, len(cases))
		}
	})
}

// refusals are the lines of the server's log that say that an event was refused, with its room, its sender's server and
// the reason.
func refusals(s *harness.Server) []string {
	var lines []string
	for line := range strings.Lines(s.Logs()) {
		if strings.Contains(line, "an event was refused") && strings.Contains(line, "room=") && strings.Contains(line, "origin=") &&
			strings.Contains(line, "reason=") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestHashes: an event whose hash does not fit its content is taken as if it had been redacted.
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func TestHashes(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		before := s.state(t)
		fields := s.room.message("good")
		fields["hashes"] = object{"sha256": strings.Repeat("A", 43)}
		fields["content"] = object{"msgtype": "m.text", "body": evil}
		e := s.peer.signEvent(fields)
		if text := s.room.send(t, e); text != "" {
			t.Errorf("it was refused: %s", text)
		}
		if evt := s.alice.Event(s.id, id.EventID(e.id)); len(evt.Content.Raw) != 0 {
			t.Errorf("it reads %v", evt.Content.Raw)
		}
		s.unharmed(t, before)
	})
}

// TestOtherContent: what was signed comes with another content beside it, or has keys that are hard to write. It may be
// refused or emptied, but nobody reads it, and the room stays readable.
func TestOtherContent(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		before := s.state(t)
		unsigned := `"content":{"body":"` + evil + `","msgtype":"m.text"}`
		for name, change := range map[string]func(event) []byte{
			"before": func(e event) []byte { return append([]byte(`{`+unsigned+`,`), e.raw[1:]...) },
			"after":  func(e event) []byte { return append(slices.Clone(e.raw[:len(e.raw)-1]), `,`+unsigned+`}`...) },
		} {
			t.Run(name, func(t *testing.T) {
				e := s.peer.seal(s.room.message("signed"))
				s.peer.push(s.peer.transaction([]json.RawMessage{change(e)})).WantOK(t)
				s.unharmed(t, before)
			})
		}
		for _, key := range []string{`a"b`, `a\b`, `"`, `\`, "\u0001", "\x7f", `a","type":"x`} {
			t.Run(key, func(t *testing.T) {
				fields := s.room.message("signed")
				fields["content"] = object{"body": "odd", "msgtype": "m.text", key: object{key: key}}
				e := s.peer.seal(fields)
				s.peer.push(s.peer.transaction([]json.RawMessage{e.raw})).WantOK(t)
				resp := s.alice.Do("GET", harness.Path("v3", "rooms", string(s.id), "messages")+"?dir=b&limit=50", nil).WantOK(t)
				if !json.Valid(resp.Body) {
					t.Fatalf("the room can't be read any more: %s", resp.Body)
				}
				s.unharmed(t, before)
			})
		}
	})
}

// TestDepth: the largest depth that there is leaves the room usable.
func TestDepth(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		fields := s.room.message("deep")
		fields["depth"] = int64(1)<<53 - 1
		e := s.peer.seal(fields)
		s.room.send(t, e)
		s.alice.Say(s.id, "after the deep")
		s.alice.SetState(s.id, mxevent.StateTopic, "", map[string]any{"topic": "deep"})
		s.goesOn(t)
	})
}

// TestSoftFailed: a user who was banned says that it was before the ban. The event is kept for those who build on it,
// and shown to nobody.
// spec: server-server-api.md#soft-failure
func TestSoftFailed(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		if _, err := s.alice.BanUser(t.Context(), s.id, &mautrix.ReqBanUser{UserID: id.UserID(s.room.user)}); err != nil {
			t.Fatal(err)
		}
		before := s.state(t)
		e := s.peer.seal(s.room.message(evil))
		s.room.send(t, e)
		page, err := s.alice.Messages(t.Context(), s.id, "", "", mautrix.DirectionBackward, nil, 100)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(harness.Bodies(page.Chunk), evil) {
			t.Error("alice reads what a banned user said")
		}
		if after := s.state(t); !maps.Equal(before, after) {
			t.Errorf("the state is %v; it was %v", after, before)
		}
		topic := s.peer.seal(s.room.stateEvent(spec.MRoomMember, s.room.user, object{"membership": "join"}, spec.MRoomJoinRules+" "))
		s.room.send(t, topic)
		if after := s.state(t); !maps.Equal(before, after) {
			t.Errorf("a banned user joined: %v; it was %v", after, before)
		}
		s.alice.Say(s.id, "quiet again")
	})
}
