package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
	"parley/storage/storagetest"
)

// mesh is some nodes that ask each other directly, as resident servers answer. A node asks
// through a link of its own.
type mesh map[id.ServerName]*node

// link is how one node asks the others. What they answer can be changed on the way.
type wire struct {
	peer
	self id.ServerName
	mesh mesh
	// change and knocked are what becomes of the answers on the way.
	change  func(*serverapi.SendJoin)
	knocked func(*serverapi.SendKnock)
	mu      sync.Mutex // guards asked
	asked   []string
	dead    map[id.ServerName]bool
	page    int // the most that is given of history at once
	// partial says that members may be left out of the state of rooms that the node joins.
	partial bool
	// version is that of the room whose events a policy server signs; forges says that it signs badly.
	version id.RoomVersion
	forges  bool
}

func (l *wire) to(server id.ServerName, what string) (*node, error) {
	l.mu.Lock()
	l.asked = append(l.asked, what+" "+string(server))
	l.mu.Unlock()
	if n := l.mesh[server]; n != nil && !l.dead[server] {
		return n, nil
	}
	return nil, fmt.Errorf("%s can't be reached", server)
}

func (l *wire) make(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, membership string, versions []id.RoomVersion) (*serverapi.Template, error) {
	n, err := l.to(server, "make_"+membership)
	if err != nil {
		return nil, err
	}
	return n.MakeMember(ctx, l.self, room, user, membership, versions)
}

func (l *wire) MakeJoin(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error) {
	return l.make(ctx, server, room, user, spec.Join, versions)
}

func (l *wire) MakeKnock(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (*serverapi.Template, error) {
	return l.make(ctx, server, room, user, spec.Knock, versions)
}

func (l *wire) MakeLeave(ctx context.Context, server id.ServerName, room id.RoomID, user id.UserID) (*serverapi.Template, error) {
	return l.make(ctx, server, room, user, spec.Leave, nil)
}

func (l *wire) SendJoin(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage, omitMembers bool) (*serverapi.SendJoin, error) {
	n, err := l.to(server, "send_join")
	if err != nil {
		return nil, err
	}
	signed, err := n.TakeMember(ctx, l.self, room, event, spec.Join, pdu)
	if err != nil {
		return nil, err
	}
	out, err := n.JoinAnswer(ctx, room, event, omitMembers && l.partial)
	if err != nil {
		return nil, err
	}
	out.Event = signed
	if l.change != nil {
		l.change(out)
	}
	return out, nil
}

func (l *wire) SendKnock(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) (*serverapi.SendKnock, error) {
	n, err := l.to(server, "send_knock")
	if err != nil {
		return nil, err
	}
	if _, err := n.TakeMember(ctx, l.self, room, event, spec.Knock, pdu); err != nil {
		return nil, err
	}
	answer, err := n.KnockAnswer(ctx, room)
	if err == nil && l.knocked != nil {
		l.knocked(answer)
	}
	return answer, err
}

func (l *wire) SendLeave(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, pdu json.RawMessage) error {
	n, err := l.to(server, "send_leave")
	if err != nil {
		return err
	}
	_, err = n.TakeMember(ctx, l.self, room, event, spec.Leave, pdu)
	return err
}

func (l *wire) Invite(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID, invite *serverapi.Invite) (json.RawMessage, error) {
	n, err := l.to(server, "invite")
	if err != nil {
		return nil, err
	}
	return n.ReceiveInvite(ctx, l.self, room, event, invite)
}

func (l *wire) MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, r serverapi.MissingEvents) ([]json.RawMessage, error) {
	n, err := l.to(server, "missing")
	if err != nil {
		return nil, err
	}
	return n.ServeMissing(ctx, l.self, room, r)
}

func (l *wire) Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	n, err := l.to(server, "backfill")
	if err != nil {
		return nil, err
	}
	return n.ServeHistory(ctx, l.self, room, from, min(limit, l.page))
}

func (l *wire) StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.StateIDs, error) {
	n, err := l.to(server, "state_ids")
	if err != nil {
		return nil, err
	}
	return n.ServeStateIDs(ctx, l.self, room, event)
}

func (l *wire) State(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) (*serverapi.State, error) {
	n, err := l.to(server, "state")
	if err != nil {
		return nil, err
	}
	return n.ServeState(ctx, l.self, room, event)
}

func (l *wire) Event(ctx context.Context, server id.ServerName, event id.EventID) (json.RawMessage, error) {
	n, err := l.to(server, "event")
	if err != nil {
		return nil, err
	}
	return n.ServeEvent(ctx, l.self, event)
}

func (l *wire) EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	n, err := l.to(server, "event_auth")
	if err != nil {
		return nil, err
	}
	return n.ServeAuth(ctx, l.self, room, event)
}

func (l *wire) TimestampToEvent(ctx context.Context, server id.ServerName, room id.RoomID, ts int64, dir string) (*serverapi.NearestEvent, error) {
	n, err := l.to(server, "timestamp_to_event")
	if err != nil {
		return nil, err
	}
	return n.ServeNearest(ctx, l.self, room, ts, dir == "b")
}

// newMesh makes nodes of the given names.
func newMesh(t *testing.T, url string, names ...id.ServerName) (mesh, map[id.ServerName]*wire) {
	t.Helper()
	m, links := make(mesh), make(map[id.ServerName]*wire)
	for i, name := range names {
		if i > 0 {
			url = storagetest.Another(t, url)
		}
		seed := make([]byte, 32)
		copy(seed, name)
		links[name] = &wire{self: name, mesh: m, dead: make(map[id.ServerName]bool), page: 1000}
		n := &node{user: id.NewUserID("u", name)}
		var err error
		n.Server, err = New(Options{DB: storagetest.Open(t, url, n.hear), Name: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed),
			DefaultVersion: "12", Remote: links[name]})
		ok(t, err)
		m[name] = n
	}
	return m, links
}

// carry has a node take everything that another has in a room's timeline since the newest join
// or knock of the node's user.
func (m mesh) carry(t *testing.T, from, to id.ServerName, room id.RoomID) {
	t.Helper()
	events := m[from].events(t, room)
	for i := len(events) - 1; i >= 0; i-- {
		f := gjson.GetManyBytes(events[i].JSON, "state_key", "sender")
		if f[0].Str == string(m[to].user) && f[1].Str == string(m[to].user) {
			events = events[i+1:]
			break
		}
	}
	for part := range slices.Chunk(events, serverapi.MaxPDUs) {
		var raw []json.RawMessage
		for _, e := range part {
			raw = append(raw, e.JSON)
		}
		_, err := m[to].Take(context.Background(), from, raw)
		ok(t, err)
	}
}

// agree fails where nodes have another state of a room.
func (m mesh) agree(t *testing.T, room id.RoomID, names ...id.ServerName) {
	t.Helper()
	for _, name := range names[1:] {
		if a, b := m[names[0]].state(t, room), m[name].state(t, room); !slices.Equal(a, b) {
			t.Errorf("%s has\n%q\nand %s\n%q", names[0], a, name, b)
		}
	}
}

func (n *node) say(t *testing.T, room id.RoomID, text string) id.EventID {
	t.Helper()
	e, err := n.Send(context.Background(), SendRequest{Room: room, Sender: n.user, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q}`, text)})
	ok(t, err)
	return e
}

func (n *node) is(t *testing.T, membership string, room id.RoomID) {
	t.Helper()
	if got, err := n.Membership(context.Background(), n.user, room); err != nil || got != membership {
		t.Errorf("the membership is %s, %v, and not %s", got, err, membership)
	}
}

func eachVersion(t *testing.T, versions []id.RoomVersion, run func(t *testing.T, version id.RoomVersion, url string)) {
	for _, version := range versions {
		t.Run("version "+string(version), func(t *testing.T) {
			storagetest.EachURL(t, func(t *testing.T, url string) { run(t, version, url) })
		})
	}
}

func TestJoinAfar(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "3", "6", "10", "11", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b", "c")
		a, b, c := m["a"], m["b"], m["c"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		a.say(t, room, "before")

		err = b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"gone", "b"}})
		if version == "12" { // whose room IDs say nothing of servers
			refused(t, err, matrixerr.Unknown)
			ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"gone", "a"}}))
		} else {
			ok(t, err)
		}
		b.is(t, spec.Join, room)
		m.agree(t, room, "a", "b")
		if shown := b.events(t, room); len(shown) != 1 {
			t.Errorf("the timeline begins with %d events", len(shown))
		}
		// What b says, a takes; and the other way round.
		b.say(t, room, "hello")
		m.carry(t, "b", "a", room)
		a.say(t, room, "hello")
		m.carry(t, "a", "b", room)
		if sent := links["b"].asked; slices.Contains(sent, "state_ids a") {
			t.Errorf("asked %q", sent)
		}

		// A third joins by the second; the first hears of it.
		ok(t, c.Join(ctx, MemberRequest{Room: room, Sender: c.user, Via: []id.ServerName{"b"}}))
		m.carry(t, "b", "a", room)
		m.agree(t, room, "a", "b", "c")

		// All of b leave, things change, and b comes back.
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.carry(t, "b", "a", room)
		refusedAll(t, b, "a", a.events(t, room)[len(a.events(t, room))-1].JSON)
		_, err = a.Send(ctx, SendRequest{Room: room, Sender: a.user, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"later"}`)})
		ok(t, err)
		a.say(t, room, "while b was away")
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		m.agree(t, room, "a", "b")
		a.say(t, room, "welcome back")
		m.carry(t, "a", "b", room)
		m.agree(t, room, "a", "b")
		if n := b.extremities(t, room); n != 1 {
			t.Errorf("%d forward extremities", n)
		}
	})
}

// refusedAll fails if a node takes in events from a server.
func refusedAll(t *testing.T, n *node, from id.ServerName, raw ...json.RawMessage) {
	t.Helper()
	taken, err := n.Take(context.Background(), from, raw)
	ok(t, err)
	for _, r := range taken {
		refused(t, r.Err, matrixerr.Forbidden)
	}
}

func (n *node) extremities(t *testing.T, room id.RoomID) int {
	t.Helper()
	r, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) (storage.Room, error) { return tx.GetRoom(room) })
	ok(t, err)
	return len(r.Extremities)
}

func TestJoinRestrictedAfar(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"8", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, _ := newMesh(t, url, "a", "b", "c")
		a, b, c := m["a"], m["b"], m["c"]
		club, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		rules := fmt.Appendf(nil, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club)
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version,
			InitialState: []StateEvent{{Type: spec.MRoomJoinRules, Content: rules}},
			PowerLevels:  map[string]json.RawMessage{"invite": json.RawMessage("50")}})
		ok(t, err)
		via := []id.ServerName{"a"}
		refused(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: via}), matrixerr.Forbidden)
		b.is(t, spec.Leave, room)
		ok(t, b.Join(ctx, MemberRequest{Room: club, Sender: b.user, Via: via}))
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: via}))
		m.agree(t, room, "a", "b")

		// b is in both rooms now, but none of its users may invite: a must let the next one in,
		// of b or of another server.
		second := id.UserID("@second:b")
		ok(t, b.Join(ctx, MemberRequest{Room: club, Sender: second}))
		m.carry(t, "b", "a", club)
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: second}))
		m.agree(t, room, "a", "b")
		ok(t, c.Join(ctx, MemberRequest{Room: club, Sender: c.user, Via: via}))
		m.carry(t, "a", "b", club)
		// The one server that c names can't let its user in, and c asks no other.
		refused(t, c.Join(ctx, MemberRequest{Room: room, Sender: c.user, Via: []id.ServerName{"b"}}), matrixerr.UnableToGrantJoin)
		ok(t, c.Join(ctx, MemberRequest{Room: room, Sender: c.user, Via: []id.ServerName{"b", "a"}}))
		m.agree(t, room, "a", "c")
	})
}

func TestInviteAfar(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Name: new("Den"), Invite: []id.UserID{b.user}, IsDirect: true})
		ok(t, err)
		b.is(t, spec.Invite, room)
		if got, err := a.Membership(ctx, b.user, room); err != nil || got != spec.Invite {
			t.Errorf("for a the user is %s, %v", got, err)
		}
		// One who is invited may look at the room, and so their server: not one whose name the server's ends with.
		_, err = a.ServeHierarchy(ctx, "b", room, false)
		ok(t, err)
		_, err = a.ServeHierarchy(ctx, "z.b", room, false)
		refused(t, err, matrixerr.NotFound)
		stripped := b.stripped(t, room)
		if len(stripped) < 4 {
			t.Errorf("the invited are shown %v", stripped)
		}

		// Turned down, asked again, withdrawn, asked again, accepted.
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user}))
		b.is(t, spec.Leave, room)
		if got, err := a.Membership(ctx, b.user, room); err != nil || got != spec.Leave {
			t.Errorf("for a the user is %s, %v", got, err)
		}
		_, err = a.ServeHierarchy(ctx, "b", room, false)
		refused(t, err, matrixerr.NotFound)
		ok(t, a.Invite(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		b.is(t, spec.Invite, room)
		ok(t, a.Kick(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		m.carry(t, "a", "b", room)
		b.is(t, spec.Leave, room)
		ok(t, a.Invite(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user})) // by who invited
		m.agree(t, room, "a", "b")

		// Only who invited can take an invite back: of others b can't know whether they may.
		users := fmt.Sprintf(`{%q:100,"@moderator:a":60}`, a.user)
		if version == "12" {
			users = `{"@moderator:a":60}`
		}
		kicked, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat", Invite: []id.UserID{b.user},
			PowerLevels: map[string]json.RawMessage{"users": json.RawMessage(users)}})
		ok(t, err)
		ok(t, a.Join(ctx, MemberRequest{Room: kicked, Sender: "@moderator:a"}))
		ok(t, a.Kick(ctx, MemberRequest{Room: kicked, Sender: "@moderator:a", Target: b.user}))
		refusedAll(t, b, "a", a.events(t, kicked)[len(a.events(t, kicked))-1].JSON)
		b.is(t, spec.Invite, kicked)

		// A server that is gone can't keep an invite open.
		other, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Invite: []id.UserID{b.user}})
		ok(t, err)
		links["b"].dead["a"] = true
		refused(t, b.Join(ctx, MemberRequest{Room: other, Sender: b.user}), matrixerr.Unknown)
		b.is(t, spec.Invite, other)
		ok(t, b.Leave(ctx, MemberRequest{Room: other, Sender: b.user, Reason: "gone"}))
		b.is(t, spec.Leave, other)
		links["a"].dead["b"] = true
		refused(t, a.Invite(ctx, MemberRequest{Room: other, Sender: a.user, Target: "@v:b"}), matrixerr.Unknown)
	})
}

// stripped is what a user who is invited or knocks was shown of a room.
func (n *node) stripped(t *testing.T, room id.RoomID) map[string]json.RawMessage {
	t.Helper()
	m, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) (storage.Membership, error) {
		r, err := tx.GetRoom(room)
		if err != nil {
			return storage.Membership{}, err
		}
		return tx.GetMembership(n.user, r.NID)
	})
	ok(t, err)
	var events []map[string]json.RawMessage
	ok(t, json.Unmarshal(m.Stripped, &events))
	out := make(map[string]json.RawMessage)
	for _, e := range events {
		if keys := slices.Sorted(maps.Keys(e)); !slices.Equal(keys, []string{"content", "sender", "state_key", "type"}) {
			t.Errorf("a stripped event has %q", keys)
		}
		out[string(e["type"])] = e["content"]
	}
	return out
}

func TestKnockAfar(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"7", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, _ := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Name: new("Den"),
			InitialState: []StateEvent{{Type: spec.MRoomJoinRules, Content: []byte(`{"join_rule":"knock"}`)}}})
		ok(t, err)
		knock := MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}, Reason: "please"}
		ok(t, b.Knock(ctx, knock))
		b.is(t, spec.Knock, room)
		if string(b.stripped(t, room)[`"m.room.name"`]) != `{"name":"Den"}` {
			t.Errorf("the knocking are shown %s", b.stripped(t, room))
		}
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		b.is(t, spec.Leave, room)
		ok(t, b.Knock(ctx, knock))
		ok(t, a.Kick(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		m.carry(t, "a", "b", room)
		b.is(t, spec.Leave, room)
		ok(t, b.Knock(ctx, knock))
		ok(t, a.Invite(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		b.is(t, spec.Invite, room)
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.agree(t, room, "a", "b")
	})
}

// TestKnockHostile tells a knocking server of a room what nobody in it has said.
func TestKnockHostile(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "12", Name: new("Den"), Topic: new("tea"),
			InitialState: []StateEvent{{Type: spec.MRoomJoinRules, Content: []byte(`{"join_rule":"knock"}`)}}})
		ok(t, err)
		other, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "12", Name: new("Elsewhere")})
		ok(t, err)
		elsewhere, err := a.KnockAnswer(ctx, other)
		ok(t, err)
		links["b"].knocked = func(answer *serverapi.SendKnock) {
			for i, raw := range answer.KnockRoomState {
				switch gjson.GetBytes(raw, "type").Str {
				case spec.MRoomName:
					answer.KnockRoomState[i] = json.RawMessage(strings.Replace(string(raw), "Den", "Palace", 1))
				case spec.MRoomTopic:
					signature := gjson.GetBytes(raw, "signatures.a.*").Str
					answer.KnockRoomState[i] = json.RawMessage(strings.Replace(string(raw), signature, "AA"+signature[2:], 1))
				}
			}
			answer.KnockRoomState = append(answer.KnockRoomState, elsewhere.KnockRoomState...)
			answer.KnockRoomState = append(answer.KnockRoomState, json.RawMessage(`{"type":"m.room.avatar","state_key":"","sender":"@u:a","content":{}}`))
		}
		ok(t, b.Knock(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		shown := b.stripped(t, room)
		if string(shown[`"m.room.name"`]) != `{}` || shown[`"m.room.topic"`] != nil || shown[`"m.room.avatar"`] != nil || shown[`"m.room.create"`] == nil {
			t.Errorf("the knocking are shown %s", shown)
		}
	})
}

// TestJoinHostile gives a joining server what it must not believe.
func TestJoinHostile(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		for name, change := range map[string]func(*serverapi.SendJoin){
			"nothing":         func(s *serverapi.SendJoin) { s.State, s.AuthChain = nil, nil },
			"no create event": func(s *serverapi.SendJoin) { s.State = without(s.State, spec.MRoomCreate) },
			"no power levels": func(s *serverapi.SendJoin) {
				s.State, s.AuthChain = without(s.State, spec.MRoomPowerLevels), without(s.AuthChain, spec.MRoomPowerLevels)
			},
			"forged join rules": func(s *serverapi.SendJoin) {
				s.State = forge(s.State, spec.MRoomJoinRules)
				s.AuthChain = without(s.AuthChain, spec.MRoomJoinRules)
			},
			"no JSON": func(s *serverapi.SendJoin) {
				s.State, s.AuthChain = []json.RawMessage{[]byte("{")}, []json.RawMessage{[]byte("1"), nil}
			},
		} {
			t.Run(name, func(t *testing.T) {
				room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", Preset: "public_chat"})
				ok(t, err)
				links["b"].change = change
				if err := b.Join(ctx, MemberRequest{Room: room, Sender: b.user}); matrixerr.CodeOf(err) == "" {
					t.Errorf("joined: %v", err)
				}
				b.is(t, spec.Leave, room)
				refusedAll(t, b, "a", a.events(t, room)[0].JSON)
				links["b"].change = nil
				ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user}))
				m.agree(t, room, "a", "b")
			})
		}
	})
}

func without(events []json.RawMessage, eventType string) []json.RawMessage {
	return slices.DeleteFunc(slices.Clone(events), func(raw json.RawMessage) bool { return typeOf(raw) == eventType })
}

func typeOf(raw json.RawMessage) string {
	var e struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(raw, &e)
	return e.Type
}

// forge changes the content of events of a type, which their signatures do not cover then.
func forge(events []json.RawMessage, eventType string) []json.RawMessage {
	out := slices.Clone(events)
	for i, raw := range out {
		if typeOf(raw) == eventType {
			var fields map[string]json.RawMessage
			_ = json.Unmarshal(raw, &fields)
			fields["content"] = json.RawMessage(`{"join_rule":"invite"}`)
			out[i], _ = json.Marshal(fields)
		}
	}
	return out
}
