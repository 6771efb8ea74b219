package sliding

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"parley/internal/id"
	"parley/storage"
)

func text(s string) *string { return &s }

func TestRequired(t *testing.T) {
	lazy := Required{{Include: []Element{{}, {Type: text("m.room.member"), StateKey: text("@me:x")}}, Lazy: true}}
	for _, c := range []struct {
		name     string
		r        Required
		typ, key string
		want     bool
	}{
		{"nothing", nil, "m.room.name", "", false},
		{"everything", Required{{Include: []Element{{}}}}, "a", "b", true},
		{"a type", Required{{Include: []Element{{Type: text("a")}}}}, "a", "b", true},
		{"another type", Required{{Include: []Element{{Type: text("a")}}}}, "b", "b", false},
		{"a state key", Required{{Include: []Element{{StateKey: text("k")}}}}, "b", "k", true},
		{"excluded", Required{{Include: []Element{{}}, Exclude: []Element{{Type: text("a")}}}}, "a", "", false},
		{"excluded by one only", Required{{Include: []Element{{}}, Exclude: []Element{{Type: text("a")}}}, {Include: []Element{{Type: text("a")}}}}, "a", "", true},
		{"lazily: no member", lazy, "m.room.name", "", true},
		{"lazily: a member", lazy, "m.room.member", "@you:x", false},
		{"lazily: one who is named", lazy, "m.room.member", "@me:x", true},
	} {
		if got := c.r.Matches(c.typ, c.key); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if !lazy.Lazy() || lazy.AllMembers() {
		t.Error("lazy is not lazy")
	}
	both := Config{State: lazy}
	both.Merge(&Config{TimelineLimit: 3, State: Required{{Include: []Element{{}}}}})
	if both.State.Lazy() || !both.State.AllMembers() || both.TimelineLimit != 3 {
		t.Errorf("one wants all members: %+v", both)
	}
	if got := lazy.Members(); !reflect.DeepEqual(got, []id.UserID{"@me:x"}) {
		t.Errorf("named: %v", got)
	}
	if again, err := ParseRequired(both.State.Text()); err != nil || again.Text() != both.State.Text() {
		t.Errorf("%s became %s, %v", both.State.Text(), again.Text(), err)
	}
}

func TestStateIsKept(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := (&State{}).Clone()
		for range r.IntN(50) {
			sent := Sent{UpTo: id.Pos(r.IntN(1000)), Limit: r.IntN(100), Flags: Flags(r.IntN(8))}
			s.Rooms[storage.RoomNID(r.IntN(1000))] = s.WithConfig(sent, []string{"", "a", "b", "c"}[r.IntN(4)])
		}
		again, err := ParseState(s.Append(nil))
		if err != nil || len(again.Rooms) != len(s.Rooms) {
			t.Fatal(err, len(again.Rooms))
		}
		for nid, sent := range s.Rooms {
			got := again.Rooms[nid]
			if again.Config(got) != s.Config(sent) {
				t.Fatalf("the configuration of %d", nid)
			}
			if got.config = sent.config; got != sent {
				t.Fatalf("%+v became %+v", sent, got)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"lists":{"a":{"range":[0,1],"timeline_limit":1,"required_state":{"include":[{"type":"m.room.create","state_key":""}],"lazy_members":true}}}}`,
		`{"lists":{"a":{"ranges":[[0,1]],"required_state":[["m.room.member","$LAZY"],["m.room.member","$ME"],["*","*"]],"filters":{"room_types":[null,"m.space"]}}}}`,
		`{"room_subscriptions":{"!a:x":{"timeline_limit":20}},"extensions":{"to_device":{"enabled":true,"since":"s1_A"}}}`,
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, old bool) {
		r, err := Parse([]byte(s), "@u:x", old)
		if err != nil {
			return
		}
		for _, l := range r.Lists {
			if l.TimelineLimit < 0 || l.TimelineLimit > MaxTimeline {
				t.Errorf("timeline_limit %d", l.TimelineLimit)
			}
			if again, err := ParseRequired(l.State.Text()); err != nil || again.Text() != l.State.Text() {
				t.Errorf("%q: %v", l.State.Text(), err)
			}
			l.Contains(3)
			l.State.Members()
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte{1, 0, 0})
	f.Add([]byte{1, 1, 1, 'a', 1, 3, 0, 2, 1, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		if again, err := ParseState(s.Append(nil)); err != nil || len(again.Rooms) != len(s.Rooms) {
			t.Errorf("%v became %v, %v", s, again, err)
		}
	})
}
