package resolve

import (
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/roomserver/state"
)

// scenario is a room whose events are written down in order, each with a name, and whose
// states are put together by hand.
type scenario struct {
	*testing.T
	*room
	names map[string]*testEvent
	last  int
}

func newScenario(t *testing.T, version id.RoomVersion) *scenario {
	return &scenario{T: t, room: newRoom(version, 1), names: make(map[string]*testEvent), last: -1}
}

// send adds an event after the last one, or after another that is named.
func (s *scenario) send(name, after, sender, eventType, stateKey, content string) {
	s.Helper()
	o := op{ID: s.last + 1, Sender: sender, Type: eventType, StateKey: stateKey, Content: content, TS: s.last + 1}
	if after != "" {
		o.Prev = []int{s.names[after].op.ID}
	} else if s.last >= 0 {
		o.Prev = []int{s.last}
	}
	s.last++
	e, err := s.add(o)
	if err != nil {
		s.Fatal(err)
	}
	if e == nil {
		s.Fatalf("%s is not allowed", name)
	}
	s.names[name] = e
}

// open makes a public room of Alice's in which Bob has joined and has a power level.
func (s *scenario) open(bob int) {
	s.send("create", "", "@alice:a", spec.MRoomCreate, "", `{"creator":"@alice:a"}`)
	s.send("alice", "", "@alice:a", spec.MRoomMember, "@alice:a", `{"membership":"join"}`)
	s.send("power", "", "@alice:a", spec.MRoomPowerLevels, "", s.users(bob))
	s.send("public", "", "@alice:a", spec.MRoomJoinRules, "", `{"join_rule":"public"}`)
	s.send("bob", "", "@bob:b", spec.MRoomMember, "@bob:b", `{"membership":"join"}`)
}

// users is the content of power levels that give Bob some, and Alice hers where she needs it.
func (s *scenario) users(bob int) string {
	if s.version == "12" {
		return fmt.Sprintf(`{"users":{"@bob:b":%d}}`, bob)
	}
	return fmt.Sprintf(`{"users":{"@alice:a":100,"@bob:b":%d}}`, bob)
}

// state is a state of the named events.
func (s *scenario) state(names ...string) state.Root {
	s.Helper()
	var entries []state.Entry
	for _, name := range names {
		e := s.names[name]
		entries = append(entries, state.Entry{Key: e.key(), NID: e.NID})
	}
	root, err := s.tree.Set(s.nodes, 0, entries)
	if err != nil {
		s.Fatal(err)
	}
	return root
}

// resolvesTo checks what states come to at one place: a named event, or "".
func (s *scenario) resolvesTo(name, eventType, stateKey string, roots ...state.Root) {
	s.Helper()
	root, err := s.resolver.Resolve(s.nodes, s.room, s.version, roots)
	if err != nil {
		s.Fatal(err)
	}
	nid, _, err := s.tree.Get(s.nodes, root, state.Key{Type: eventType, StateKey: stateKey})
	if err != nil {
		s.Fatal(err)
	}
	got := ""
	for n, e := range s.names {
		if e.NID == nid {
			got = n
		}
	}
	if got != name {
		s.Errorf("%s %q is %q, want %q", eventType, stateKey, got, name)
	}
	states := make([]stateMap, len(roots))
	for i, root := range roots {
		states[i] = make(stateMap)
		for e, err := range s.tree.List(s.nodes, root) {
			if err != nil {
				s.Fatal(err)
			}
			event := s.events[e.NID-1]
			states[i][event.key()] = event
		}
	}
	if want := (reference{s.room, states}).resolve()[state.Key{Type: eventType, StateKey: stateKey}]; want != s.names[name] {
		s.Errorf("the reference does not think that %s %q is %q", eventType, stateKey, name)
	}
}

// Bob joined while the room was public, and all agree that it is not, now. One branch does
// not know of Bob. Version 2 judges his join by the join rules that nobody disputes, and so
// Bob is out of a room that he never left; version 2.1 judges it by the rules it was sent
// under.
//
// spec: rooms/v12.md#algorithm, step 2: from an empty state map
func TestResetByUndisputedState(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{"11": "", "12": "bob"} {
		t.Run(string(version), func(t *testing.T) {
			s := newScenario(t, version)
			s.open(0)
			// All know of Carol, who joined as Bob did: the old rules are in no auth difference.
			s.send("carol", "", "@carol:c", spec.MRoomMember, "@carol:c", `{"membership":"join"}`)
			s.send("invite-only", "", "@alice:a", spec.MRoomJoinRules, "", `{"join_rule":"invite"}`)
			without := s.state("create", "alice", "power", "invite-only", "carol")
			with := s.state("create", "alice", "power", "invite-only", "carol", "bob")
			s.resolvesTo(want, spec.MRoomMember, "@bob:b", with, without)
		})
	}
}

// Alice made Bob a moderator, and Bob raised the level for topics. One branch has the first
// power levels still. An event that nobody disputes cites those in between, and so they are
// in no auth difference; version 2 judges Bob's power levels by the first ones, in which he
// has no power, and all are back at those. Version 2.1 looks at what lies between.
//
// spec: rooms/v12.md#definitions, "Conflicted state subgraph"
func TestResetAcrossAGap(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{"11": "power", "12": "raised"} {
		t.Run(string(version), func(t *testing.T) {
			s := newScenario(t, version)
			s.open(0)
			s.send("moderator", "", "@alice:a", spec.MRoomPowerLevels, "", s.users(60))
			s.send("raised", "", "@bob:b", spec.MRoomPowerLevels, "", `{"events":{"m.room.topic":60},`+s.users(60)[1:])
			s.send("topic", "", "@bob:b", "m.room.topic", "", `{"topic":"x"}`)
			all := []string{"create", "alice", "public", "bob", "topic"}
			s.resolvesTo(want, spec.MRoomPowerLevels, "", s.state(append(all, "power")...), s.state(append(all, "raised")...))
		})
	}
}

// Bob was banned and let in again. A branch that stopped at the ban is merged, when all else
// has moved on: the ban, the pardon and the new join are one story, and Bob stays in.
//
// spec: rooms/v12.md#definitions, "Conflicted state subgraph"
func TestOldBanComesBack(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{"11": "ban", "12": "again"} {
		t.Run(string(version), func(t *testing.T) {
			s := newScenario(t, version)
			s.open(50)
			s.send("ban", "", "@alice:a", spec.MRoomMember, "@bob:b", `{"membership":"ban"}`)
			s.send("pardon", "", "@alice:a", spec.MRoomMember, "@bob:b", `{"membership":"leave"}`)
			s.send("again", "", "@bob:b", spec.MRoomMember, "@bob:b", `{"membership":"join"}`)
			s.send("renamed", "", "@alice:a", spec.MRoomMember, "@alice:a", `{"displayname":"A","membership":"join"}`)
			s.send("note", "", "@bob:b", "org.example.note", "@bob:b", `{}`)
			all := []string{"create", "renamed", "power", "public", "note"}
			s.resolvesTo(want, spec.MRoomMember, "@bob:b", s.state(append(all, "ban")...), s.state(append(all, "again")...))
		})
	}
}

// Whoever made a room of version 12 can't lose their power, even if a branch of power levels
// says so that somebody older in the mainline made.
//
// spec: rooms/v12.md#authorisation-rules
func TestCreatorKeepsPower(t *testing.T) {
	s := newScenario(t, "12")
	s.open(100)
	s.send("bobs", "bob", "@bob:b", spec.MRoomPowerLevels, "", `{"state_default":100,"users":{"@bob:b":100}}`)
	s.send("alices", "bob", "@alice:a", spec.MRoomPowerLevels, "", `{"users":{"@bob:b":0}}`)
	s.send("topic", "alices", "@alice:a", "m.room.topic", "", `{"topic":"mine"}`)
	bob := s.roots[s.names["bobs"].op.ID]
	alice := s.roots[s.names["topic"].op.ID]
	s.resolvesTo("alices", spec.MRoomPowerLevels, "", bob, alice)
	s.resolvesTo("topic", "m.room.topic", "", bob, alice)
}

// An auth event that was rejected here does not stand in for what the state lacks.
//
// spec: rooms/v2.md#definitions, "Iterative auth checks"
func TestRejectedAuthEvent(t *testing.T) {
	for rejected, want := range map[bool]string{false: "topic", true: ""} {
		t.Run(fmt.Sprint(rejected), func(t *testing.T) {
			s := newScenario(t, "12")
			s.open(50)
			s.send("name", "", "@bob:b", "m.room.name", "", `{"name":"x"}`)
			s.send("topic", "", "@bob:b", "m.room.topic", "", `{"topic":"x"}`)
			s.names["bob"].Rejected = rejected
			// As the undisputed name rests on Bob's join, that is not among what is in conflict.
			all := []string{"create", "alice", "power", "public", "bob", "name"}
			s.resolvesTo(want, "m.room.topic", "", s.state(all...), s.state(append(all, "topic")...))
		})
	}
}

// TestWork checks that a resolution in a large room looks at what differs, not at the room.
func TestWork(t *testing.T) {
	for _, version := range []id.RoomVersion{"1", "11", "12"} {
		t.Run(string(version), func(t *testing.T) {
			s := newScenario(t, version)
			s.open(50)
			base := s.state("create", "alice", "power", "public", "bob")
			// Members that no event is known of: who looked at one would fail.
			var members []state.Entry
			for i := range 20_000 {
				key := state.Key{Type: spec.MRoomMember, StateKey: fmt.Sprintf("@m%d:m", i)}
				members = append(members, state.Entry{Key: key, NID: state.EventNID(1_000_000 + i)})
			}
			base, err := s.tree.Set(s.nodes, base, members)
			if err != nil {
				t.Fatal(err)
			}
			s.send("first", "bob", "@bob:b", "m.room.topic", "", `{"topic":"1"}`)
			s.send("second", "bob", "@alice:a", "m.room.topic", "", `{"topic":"2"}`)
			roots := make([]state.Root, 2)
			for i, name := range []string{"first", "second"} {
				if roots[i], err = s.tree.Set(s.nodes, base, []state.Entry{{Key: s.names[name].key(), NID: s.names[name].NID}}); err != nil {
					t.Fatal(err)
				}
			}
			cold := New(state.New(state.NewCache(1<<20)), 16)
			s.nodes.read, s.gets = 0, 0
			resolved, err := cold.Resolve(s.nodes, s.room, version, roots)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(roots, resolved) {
				t.Errorf("resolved to %d, but it is one of %d", resolved, roots)
			}
			if s.nodes.read > 40 || s.gets > 40 {
				t.Errorf("%d nodes read, %d questions asked", s.nodes.read, s.gets)
			}
			s.nodes.read, s.gets = 0, 0
			if again, err := cold.Resolve(s.nodes, s.room, version, []state.Root{roots[1], roots[0]}); again != resolved || err != nil {
				t.Errorf("the second time %d, %v", again, err)
			}
			if s.nodes.read+s.gets > 0 {
				t.Error("what was resolved was not remembered")
			}
		})
	}
}

func TestExplain(t *testing.T) {
	s := newScenario(t, "11")
	s.open(50)
	s.send("demotion", "bob", "@alice:a", spec.MRoomPowerLevels, "", `{"users":{"@alice:a":100}}`)
	s.send("topic", "bob", "@bob:b", "m.room.topic", "", `{"topic":"x"}`)
	verdicts, err := s.resolver.Explain(s.nodes, s.room, "11", []state.Root{s.roots[s.names["demotion"].op.ID], s.roots[s.names["topic"].op.ID]})
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[state.EventNID]Verdict)
	for _, v := range verdicts {
		said[v.NID] = v
	}
	if v := said[s.names["demotion"].NID]; v.Err != nil || !v.Power || !v.Won || !v.Disputed {
		t.Errorf("of the demotion it says %+v", v)
	}
	if v, ok := said[s.names["bob"].NID]; ok && (v.Disputed || !v.Won) {
		t.Errorf("of what nobody disputes it says %+v", v)
	}
	if v := said[s.names["topic"].NID]; v.Err == nil || v.Power || v.Won || !v.Disputed {
		t.Errorf("of the topic it says %+v", v)
	}
}

// unsure is a transaction that fails after all.
type unsure struct{ *memNodes }

func (unsure) AfterCommit(func()) {}

func TestFailedTransactionIsForgotten(t *testing.T) {
	s := newScenario(t, "11")
	s.open(50)
	s.send("one", "bob", "@alice:a", "m.room.topic", "", `{"topic":"1"}`)
	s.send("two", "bob", "@bob:b", "m.room.name", "", `{"name":"2"}`)
	roots := []state.Root{s.roots[s.names["one"].op.ID], s.roots[s.names["two"].op.ID]}
	for range 2 {
		s.gets = 0
		if _, err := s.resolver.Resolve(unsure{s.nodes}, s.room, "11", roots); err != nil {
			t.Fatal(err)
		}
		if s.gets == 0 {
			t.Error("remembered what a failed transaction wrote")
		}
	}
}
