package pushrules

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"parley/internal/id"
)

const me id.UserID = "@me:example.org"

// holds says whether a condition holds for an event.
func holds(t *testing.T, condition, event string, context Context, m Member) bool {
	t.Helper()
	r := compileRule("x", []json.RawMessage{json.RawMessage(condition)}, nil)
	return r.matches(NewEvent([]byte(event), context), m)
}

func TestConditions(t *testing.T) {
	body := func(s string) string {
		b, _ := json.Marshal(s)
		return `{"type":"m.room.message","content":{"body":` + string(b) + `}}`
	}
	context := Context{
		ID: "$ctx", Room: "!ctx:example.org", Members: 2, Powers: &Powers{50, map[string]int64{"easy": 10, "hard": 51, "none": 0}},
	}
	create := `{"type":"m.room.create","state_key":"","content":{"m.federate":true,"n":1,"null":null,"big":9007199254740992,
		"float":1.0,"s":"1","a\\b":"back","deep":{"er":{"":"empty"}},"lists":[["x"],{"y":1},"z",5,null,false],"\u0062ody2":"escaped"}}`
	alias := `{"type":"m.room.canonical_alias","state_key":"","content":{"alias":"#somewhere:localhost",
		"alt_aliases":["#somewhere:example.org","#myroom:example.com"]}}`
	tests := []struct {
		condition, event string
		want             bool
	}{
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, `{"content":{"topic":"Lunch plans"}}`, true},
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, `{"content":{"topic":" lunch"}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":{"topic":null}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":{"topic":5}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":{"topic":["x"]}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":{}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":"topic"}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"content":["topic"]}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":""}`, `{"content":{"topic":""}}`, true},
		{`{"kind":"event_match","key":"content.topic","pattern":""}`, `{"content":{}}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("An example event."), true},
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("An exciting triple-whammy"), true},
		{`{"kind":"event_match","key":"content.body","pattern":"ample"}`, body("An example event."), false},
		{`{"kind":"event_match","key":"type","pattern":"message"}`, body(""), false},
		{`{"kind":"event_match","key":"type","pattern":"M.Room.Message"}`, body(""), true},
		{`{"kind":"event_match","key":"room_id","pattern":"!ctx:*"}`, body(""), true},
		{`{"kind":"event_match","key":"event_id","pattern":"$ctx"}`, body(""), true},
		{`{"kind":"event_match","key":"content.body2","pattern":"escaped"}`, create, true},
		{`{"kind":"event_match","key":"content.deep.er.","pattern":"empty"}`, create, true},
		{`{"kind":"event_match","key":"content.deep.er","pattern":"*"}`, create, false},
		{`{"kind":"event_match","key":"content.a\\b","pattern":"back"}`, create, true},
		{`{"kind":"event_match","key":"content.a\\\\b","pattern":"back"}`, create, true},
		{`{"kind":"event_match","key":"content.lists.2","pattern":"z"}`, create, false},
		{`{"kind":"event_match","key":"content.#","pattern":"*"}`, create, false},
		{`{"kind":"event_match","key":"","pattern":"*"}`, `{"":"x"}`, true},
		{`{"kind":"event_match","key":"content.topic"}`, `{"content":{"topic":"x"}}`, false},
		{`{"kind":"event_match","key":"content.topic","pattern":5}`, `{"content":{"topic":"5"}}`, false},
		{`{"kind":"event_match","pattern":"*"}`, `{"content":{"topic":"x"}}`, false},

		{`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, create, true},
		{`{"kind":"event_property_is","key":"content.m.federate","value":true}`, create, false},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":"true"}`, create, false},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":1}`, create, false},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":false}`, create, false},
		{`{"kind":"event_property_is","key":"content.n","value":1}`, create, true},
		{`{"kind":"event_property_is","key":"content.n","value":"1"}`, create, false},
		{`{"kind":"event_property_is","key":"content.s","value":"1"}`, create, true},
		{`{"kind":"event_property_is","key":"content.s","value":1}`, create, false},
		{`{"kind":"event_property_is","key":"content.null","value":null}`, create, true},
		{`{"kind":"event_property_is","key":"content.absent","value":null}`, create, false},
		{`{"kind":"event_property_is","key":"content.float","value":1}`, create, false},
		{`{"kind":"event_property_is","key":"content.n","value":1.0}`, create, false},
		{`{"kind":"event_property_is","key":"content.big","value":9007199254740992}`, create, false},
		{`{"kind":"event_property_is","key":"content.deep","value":null}`, create, false},
		{`{"kind":"event_property_is","key":"content.n"}`, create, false},
		{`{"kind":"event_property_is","key":"content.deep","value":{"er":{"":"empty"}}}`, create, false},
		{`{"kind":"event_property_is","key":"type","value":"M.ROOM.CREATE"}`, create, false},

		{`{"kind":"event_property_contains","key":"content.alt_aliases","value":"#myroom:example.com"}`, alias, true},
		{`{"kind":"event_property_contains","key":"content.alt_aliases","value":":example.com"}`, alias, false},
		{`{"kind":"event_property_contains","key":"content.alt_aliases","value":"#MYROOM:example.com"}`, alias, false},
		{`{"kind":"event_property_contains","key":"content.alias","value":"#somewhere:localhost"}`, alias, false},
		{`{"kind":"event_property_contains","key":"content.absent","value":null}`, alias, false},
		{`{"kind":"event_property_contains","key":"content.lists","value":"x"}`, create, false},
		{`{"kind":"event_property_contains","key":"content.lists","value":1}`, create, false},
		{`{"kind":"event_property_contains","key":"content.lists","value":"z"}`, create, true},
		{`{"kind":"event_property_contains","key":"content.lists","value":5}`, create, true},
		{`{"kind":"event_property_contains","key":"content.lists","value":"5"}`, create, false},
		{`{"kind":"event_property_contains","key":"content.lists","value":null}`, create, true},
		{`{"kind":"event_property_contains","key":"content.lists","value":false}`, create, true},
		{`{"kind":"event_property_contains","key":"content.lists","value":true}`, create, false},
		{`{"kind":"event_property_contains","key":"content.deep","value":"empty"}`, create, false},

		{`{"kind":"contains_display_name"}`, body("hello, Mo E*!"), true},
		{`{"kind":"contains_display_name"}`, body("hello, mo e* and all"), true},
		{`{"kind":"contains_display_name"}`, body("hello, Mo Eve"), false},
		{`{"kind":"contains_display_name"}`, body("hello, Emo E*"), false},
		{`{"kind":"contains_display_name"}`, `{"content":{"body":5}}`, false},

		{`{"kind":"room_member_count","is":"2"}`, "{}", true},
		{`{"kind":"room_member_count","is":"==2"}`, "{}", true},
		{`{"kind":"room_member_count","is":"3"}`, "{}", false},
		{`{"kind":"room_member_count","is":"<2"}`, "{}", false},
		{`{"kind":"room_member_count","is":"<3"}`, "{}", true},
		{`{"kind":"room_member_count","is":"<=2"}`, "{}", true},
		{`{"kind":"room_member_count","is":">1"}`, "{}", true},
		{`{"kind":"room_member_count","is":">2"}`, "{}", false},
		{`{"kind":"room_member_count","is":">=2"}`, "{}", true},
		{`{"kind":"room_member_count","is":">=3"}`, "{}", false},
		{`{"kind":"room_member_count","is":"<0"}`, "{}", false},
		{`{"kind":"room_member_count","is":">=-1"}`, "{}", false},
		{`{"kind":"room_member_count","is":"=>1"}`, "{}", false},
		{`{"kind":"room_member_count","is":">="}`, "{}", false},
		{`{"kind":"room_member_count","is":""}`, "{}", false},
		{`{"kind":"room_member_count","is":"+2"}`, "{}", false},
		{`{"kind":"room_member_count","is":" 2"}`, "{}", false},
		{`{"kind":"room_member_count","is":">=99999999999999999999"}`, "{}", false},
		{`{"kind":"room_member_count","is":2}`, "{}", false},
		{`{"kind":"room_member_count"}`, "{}", false},

		{`{"kind":"sender_notification_permission","key":"room"}`, "{}", true},
		{`{"kind":"sender_notification_permission","key":"easy"}`, "{}", true},
		{`{"kind":"sender_notification_permission","key":"none"}`, "{}", true},
		{`{"kind":"sender_notification_permission","key":"hard"}`, "{}", false},
		{`{"kind":"sender_notification_permission"}`, "{}", false},

		{`{"kind":"org.example.unknown"}`, "{}", false},
		{`{"kind":5}`, "{}", false},
		{`{}`, "{}", false},
		{`"event_match"`, "{}", false},
		{`null`, "{}", false},
	}
	for _, test := range tests {
		if got := holds(t, test.condition, test.event, context, Member{me, "Mo E*"}); got != test.want {
			t.Errorf("%s holds for %s: %v", test.condition, test.event, got)
		}
	}
	if holds(t, `{"kind":"contains_display_name"}`, body("anything"), context, Member{User: me}) {
		t.Error("somebody without a name is named")
	}
}

// changes are what edit makes of nothing.
func changes(t *testing.T, edit func(c *Changes) error) *Changes {
	t.Helper()
	stored, err := Edit(nil, edit)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(stored)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDefaults goes through the default rules.
func TestDefaults(t *testing.T) {
	event := func(typ, more string) string {
		return `{"type":"` + typ + `","sender":"@other:example.org","room_id":"!r:example.org",` + more + `}`
	}
	message := func(content string) string { return event("m.room.message", `"content":`+content) }
	tests := []struct {
		name, event string
		members     int
		power       int64
		// what is the rule, and after a space: n for notify, h for highlight, and the sound.
		want string
	}{
		{"a message", message(`{"body":"x"}`), 3, 0, ".m.rule.message n "},
		{"a message between two", message(`{"body":"x"}`), 2, 0, ".m.rule.room_one_to_one n default"},
		{"a notice", message(`{"body":"x","msgtype":"m.notice"}`), 2, 0, ".m.rule.suppress_notices  "},
		{"an encrypted message", event("m.room.encrypted", `"content":{}`), 3, 0, ".m.rule.encrypted n "},
		{"an encrypted message between two", event("m.room.encrypted", `"content":{}`), 2, 0, ".m.rule.encrypted_room_one_to_one n default"},
		{"an invitation", event("m.room.member", `"state_key":"@me:example.org","content":{"membership":"invite"}`), 2, 0, ".m.rule.invite_for_me n default"},
		{"another's invitation", event("m.room.member", `"state_key":"@you:example.org","content":{"membership":"invite"}`), 2, 0, ".m.rule.member_event  "},
		{"my ban", event("m.room.member", `"state_key":"@me:example.org","content":{"membership":"ban"}`), 2, 0, ".m.rule.member_event  "},
		{"a mention", message(`{"body":"x","m.mentions":{"user_ids":["@you:example.org","@me:example.org"]}}`), 3, 0, ".m.rule.is_user_mention nh default"},
		{"a mention of another", message(`{"body":"x","m.mentions":{"user_ids":["@ME:example.org","@m*:example.org"]}}`), 3, 0, ".m.rule.message n "},
		{"a mention that is no list", message(`{"body":"x","m.mentions":{"user_ids":"@me:example.org"}}`), 3, 0, ".m.rule.message n "},
		{"a name in the body is no mention", message(`{"body":"Me and @me:example.org"}`), 3, 0, ".m.rule.message n "},
		{"a mention of the room", message(`{"body":"x","m.mentions":{"room":true}}`), 3, 50, ".m.rule.is_room_mention nh "},
		{"a mention of the room by nobody", message(`{"body":"x","m.mentions":{"room":true}}`), 3, 49, ".m.rule.message n "},
		{"a mention of the room that is none", message(`{"body":"x","m.mentions":{"room":"true"}}`), 3, 50, ".m.rule.message n "},
		{"a mention in what cannot be read", event("m.room.encrypted", `"content":{"m.mentions":{"user_ids":["@me:example.org"]}}`), 3, 0, ".m.rule.is_user_mention nh default"},
		{"an upgrade", event("m.room.tombstone", `"state_key":"","content":{}`), 3, 0, ".m.rule.tombstone nh "},
		{"an upgrade that is none", event("m.room.tombstone", `"state_key":"x","content":{}`), 3, 0, "  "},
		{"an upgrade that is no state", event("m.room.tombstone", `"content":{}`), 3, 0, "  "},
		{"a reaction", event("m.reaction", `"content":{}`), 2, 0, ".m.rule.reaction  "},
		{"server ACLs", event("m.room.server_acl", `"state_key":"","content":{}`), 2, 0, ".m.rule.room.server_acl  "},
		{"an edit", message(`{"body":"* x","m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`), 2, 0, ".m.rule.suppress_edits  "},
		{"an edit that now mentions", message(`{"body":"* x","m.mentions":{"user_ids":["@me:example.org"]},"m.relates_to":{"rel_type":"m.replace"}}`), 2, 0, ".m.rule.is_user_mention nh default"},
		{"a reply in a thread", message(`{"body":"x","m.relates_to":{"rel_type":"m.thread"}}`), 3, 0, ".m.rule.message n "},
		{"a call", event("m.call.invite", `"content":{}`), 3, 0, ".m.rule.call n ring"},
		{"a topic", event("m.room.topic", `"state_key":"","content":{"topic":"x"}`), 2, 0, "  "},
		{"a redaction", event("m.room.redaction", `"redacts":"$x","content":{}`), 2, 0, "  "},
		{"my own", strings.Replace(message(`{"body":"x"}`), "@other:", "@me:", 1), 2, 100, "  "},
	}
	describe := func(a *Actions) string {
		s := a.Rule + " "
		if a.Notify {
			s += "n"
		}
		if a.Highlight {
			s += "h"
		}
		return s + " " + a.Sound
	}
	master := Compile(changes(t, func(c *Changes) error { return c.SetEnabled(Override, ".m.rule.master", true) }))
	for _, test := range tests {
		e := NewEvent([]byte(test.event), Context{Room: "!r:example.org", Members: test.members, Powers: &Powers{Sender: test.power}})
		if got := describe(Compile(nil).Evaluate(e, Member{me, "Me"})); got != test.want {
			t.Errorf("%s: %q instead of %q", test.name, got, test.want)
		}
		if got := master.Evaluate(e, Member{me, "Me"}); got.Notify || got.Rule != ".m.rule.master" && test.name != "my own" {
			t.Errorf("%s: when all is off: %q", test.name, describe(got))
		}
	}
}

// TestPriorities has a rule of each kind match, and takes away one after the other.
func TestPriorities(t *testing.T) {
	notify := []json.RawMessage{json.RawMessage(`"notify"`)}
	pattern := "cake"
	order := []struct {
		kind Kind
		id   string
	}{
		{Override, "over"}, {Override, "over2"}, {Content, "cake"}, {Content, "cake2"}, {Room, "!r:example.org"},
		{Sender, "@other:example.org"}, {Underride, "under"}, {Underride, ".m.rule.message"},
	}
	edit := func(c *Changes) error {
		for i := len(order) - 1; i >= 0; i-- {
			if o := order[i]; o.id[0] != '.' {
				if err := c.Put(o.kind, o.id, Draft{Actions: notify, Pattern: &pattern}, "", ""); err != nil {
					return err
				}
			}
		}
		// These are not to match.
		if err := c.Put(Room, "!other:example.org", Draft{Actions: notify}, "", ""); err != nil {
			return err
		}
		return c.Put(Sender, "@another:example.org", Draft{Actions: notify}, "", "")
	}
	c := changes(t, edit)
	e := NewEvent([]byte(`{"type":"m.room.message","sender":"@other:example.org","content":{"body":"the cake"}}`), Context{Room: "!r:example.org", Members: 3})
	for _, o := range order {
		if got := Compile(c).Evaluate(e, Member{User: me}); got.Rule != o.id {
			t.Errorf("%q decides before %q", got.Rule, o.id)
		}
		if err := c.SetEnabled(o.kind, o.id, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := Compile(c).Evaluate(e, Member{User: me}); got.Rule != "" || got.Notify {
		t.Errorf("without rules, %q decides", got.Rule)
	}
}

func TestActions(t *testing.T) {
	tests := []struct {
		list, want string
	}{
		{`[]`, `{}`},
		{`["notify"]`, `{"Notify":true}`},
		{`["dont_notify"]`, `{}`},
		{`["notify","coalesce"]`, `{"Notify":true}`},
		{`["notify",{"set_tweak":"highlight"}]`, `{"Notify":true,"Highlight":true,"Tweaks":{"highlight":true}}`},
		{`["notify",{"set_tweak":"highlight","value":false}]`, `{"Notify":true,"Tweaks":{"highlight":false}}`},
		{`["notify",{"set_tweak":"highlight","value":"true"}]`, `{"Notify":true,"Tweaks":{"highlight":"true"}}`},
		{`[{"set_tweak":"highlight"}]`, `{"Tweaks":{"highlight":true}}`},
		{`["notify",{"set_tweak":"sound","value":"b\u00efng"}]`, `{"Notify":true,"Sound":"bïng","Tweaks":{"sound":"b\u00efng"}}`},
		{`["notify",{"set_tweak":"sound"}]`, `{"Notify":true}`},
		{`["notify",{"set_tweak":"light","value":{"blink":1}}]`, `{"Notify":true,"Tweaks":{"light":{"blink":1}}}`},
		{`["future",5,null,{"set_tweak":5},"notify"]`, `{"Notify":true}`},
	}
	for _, test := range tests {
		var list []json.RawMessage
		var want Actions
		if err := json.Unmarshal([]byte(test.list), &list); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		got := *compileActions("", list)
		got.List = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", test.list, got)
		}
	}
}

// TestShared evaluates one event for members with and without rules of their own, in any order, as
// what is remembered for one must not be another's.
func TestShared(t *testing.T) {
	var ids []string
	members := make([]Member, 200)
	for i := range members {
		members[i] = Member{id.UserID(fmt.Sprintf("@u%d:example.org", i)), fmt.Sprint("name", i)}
		if i%3 == 0 {
			ids = append(ids, `"`+string(members[i].User)+`"`)
		}
	}
	named := Compile(changes(t, func(c *Changes) error {
		return c.Put(Override, "named", Draft{Actions: []json.RawMessage{}, Conditions: []json.RawMessage{[]byte(`{"kind":"contains_display_name"}`)}}, "", "")
	}))
	plain := Compile(nil)
	e := NewEvent([]byte(`{"type":"m.room.message","sender":"@o:p","content":{"body":"name5 name7 NAME9!","m.mentions":{"user_ids":[`+strings.Join(ids, ",")+`]}}}`), Context{Members: 200})
	for _, i := range rand.Perm(len(members)) {
		want := ".m.rule.message"
		if i%3 == 0 {
			want = ".m.rule.is_user_mention"
		}
		if got := plain.Evaluate(e, members[i]).Rule; got != want {
			t.Errorf("member %d: %s", i, got)
		}
		if i == 5 || i == 7 || i == 9 {
			want = "named"
		}
		if got := named.Evaluate(e, members[i]).Rule; got != want {
			t.Errorf("member %d with a rule for names: %s", i, got)
		}
	}
}

func FuzzCondition(f *testing.F) {
	f.Add(`{"kind":"event_match","key":"content.body","pattern":"a*?"}`, `{"content":{"body":"abc"}}`)
	f.Add(`{"kind":"event_property_is","key":"content.m\\.x","value":null}`, `{"content":{"m.x":null}}`)
	f.Add(`{"kind":"event_property_contains","key":"a.b","value":5}`, `{"a":{"b":[5]}}`)
	f.Add(`{"kind":"room_member_count","is":">=1"}`, `[`)
	f.Add(`{"kind":"sender_notification_permission","key":"room"}`, `{"sender":5}`)
	f.Fuzz(func(t *testing.T, condition, event string) {
		r := compileRule("x", []json.RawMessage{[]byte(condition)}, []json.RawMessage{[]byte(condition)})
		e := NewEvent([]byte(event), Context{Members: 2})
		first := r.matches(e, Member{me, "a"})
		if r.matches(e, Member{me, "a"}) != first {
			t.Error("what is remembered is something else")
		}
		if first && !json.Valid([]byte(condition)) {
			t.Skip() // no such condition is stored
		}
		// What a client may store is stored, and read again the same.
		draft := Draft{Actions: []json.RawMessage{}, Conditions: []json.RawMessage{[]byte(condition)}}
		if !json.Valid([]byte(condition)) {
			return
		}
		stored, err := Edit(nil, func(c *Changes) error { return c.Put(Override, "x", draft, "", "") })
		if err != nil {
			return
		}
		c, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		if got := Compile(c).Evaluate(NewEvent([]byte(event), Context{Members: 2}), Member{me, "a"}).Rule == "x"; got != first {
			t.Errorf("%s holds for %s: %v, and when it was stored: %v", condition, event, first, got)
		}
	})
}

// BenchmarkRoom is a message evaluated for 10,000 members, a tenth of them with rules of their own.
func BenchmarkRoom(b *testing.B) {
	plain := Compile(nil)
	var own []*Evaluator
	for i := range 100 {
		stored, err := Edit(nil, func(c *Changes) error {
			for j := range 10 {
				pattern := fmt.Sprintf("wo?d%d*%d", j, i)
				if err := c.Put(Content, fmt.Sprint(j), Draft{Actions: rawMessages([]string{notify}), Pattern: &pattern}, "", ""); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		c, err := Parse(stored)
		if err != nil {
			b.Fatal(err)
		}
		own = append(own, Compile(c))
	}
	members := make([]Member, 10_000)
	for i := range members {
		members[i] = Member{id.UserID(fmt.Sprintf("@somebody%d:example.org", i)), "Somebody"}
	}
	json := []byte(`{"type":"m.room.message","sender":"@o:example.org","content":{"msgtype":"m.text","body":"` +
		strings.Repeat("Some words of a message. ", 8) + `","m.mentions":{"user_ids":["@somebody5:example.org"]}}}`)
	b.ReportAllocs()
	for b.Loop() {
		e := NewEvent(json, Context{Room: "!a:example.org", Members: len(members)})
		notified := 0
		for i := range members {
			evaluator := plain
			if i%10 == 0 {
				evaluator = own[i/10%100]
			}
			if evaluator.Evaluate(e, members[i]).Notify {
				notified++
			}
		}
		if notified != len(members) {
			b.Fatalf("%d are notified", notified)
		}
	}
}
