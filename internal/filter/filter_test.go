package filter

import (
	"encoding/json"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		text string
		code matrixerr.Code
	}{
		{`{}`, ""},
		{` {"unknown": [1]}`, ""},
		{`{"room":{"timeline":{"limit":0}}}`, ""},
		{`{"event_format":"federation","room":{"rooms":["!a:b"],"state":{"lazy_load_members":true}}}`, ""},
		{`{"room":null,"presence":{"types":null}}`, ""},
		{``, matrixerr.NotJSON},
		{`{`, matrixerr.NotJSON},
		{`[]`, matrixerr.BadJSON},
		{`null`, matrixerr.BadJSON},
		{`{"room":[]}`, matrixerr.BadJSON},
		{`{"room":{"timeline":{"limit":"10"}}}`, matrixerr.BadJSON},
		{`{"room":{"timeline":{"limit":1.5}}}`, matrixerr.BadJSON},
		{`{"room":{"timeline":{"limit":99999999999999999999}}}`, matrixerr.BadJSON},
		{`{"room":{"timeline":{"limit":-1}}}`, matrixerr.InvalidParam},
		{`{"room":{"timeline":{"types":"m.room"}}}`, matrixerr.BadJSON},
		{`{"room":{"state":{"contains_url":"yes"}}}`, matrixerr.BadJSON},
		{`{"presence":{"senders":["alice"]}}`, matrixerr.InvalidParam},
		{`{"presence":{"not_senders":["@alice"]}}`, matrixerr.InvalidParam},
		{`{"room":{"not_rooms":["#a:b"]}}`, matrixerr.InvalidParam},
		{`{"room":{"ephemeral":{"rooms":[""]}}}`, matrixerr.InvalidParam},
		{`{"event_format":"xml"}`, matrixerr.InvalidParam},
		{`{"event_fields":{}}`, matrixerr.BadJSON},
	} {
		_, err := Parse([]byte(test.text))
		if matrixerr.CodeOf(err) != test.code || (err == nil) != (test.code == "") {
			t.Errorf("%s: %v instead of %q", test.text, err, test.code)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		filter string
		room   id.RoomID
		typ    string // and behind a space, how it relates to another
		sender id.UserID
		url    bool
		want   bool
	}{
		{`{}`, "!a:b", "m.x", "@a:b", false, true},
		{`{"types":[]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"types":["m.*"]}`, "!a:b", "m.x", "@a:b", false, true},
		{`{"types":["m.*"],"not_types":["*.x"]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"types":["m.room.*.b"]}`, "!a:b", "m.room.a.b", "@a:b", false, true},
		{`{"types":["m.room.*.b"]}`, "!a:b", "m.room.b", "@a:b", false, false},
		{`{"types":["a*b*a"]}`, "!a:b", "aba", "@a:b", false, true},
		{`{"types":["a*b*a"]}`, "!a:b", "abc", "@a:b", false, false},
		{`{"types":["ab*ba"]}`, "!a:b", "aba", "@a:b", false, false},
		{`{"types":["**"]}`, "!a:b", "", "@a:b", false, true},
		{`{"senders":["@a:b"]}`, "!a:b", "m.x", "@a:b", false, true},
		{`{"senders":["@a:b"],"not_senders":["@a:b"]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"senders":[]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"rooms":["!c:b"]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"rooms":["!a:b"],"not_rooms":["!a:b"]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"contains_url":true}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"contains_url":true}`, "!a:b", "m.x", "@a:b", true, true},
		{`{"contains_url":false}`, "!a:b", "m.x", "@a:b", true, false},
		{`{"org.matrix.msc3874.rel_types":["m.thread","m.x"]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"org.matrix.msc3874.rel_types":[]}`, "!a:b", "m.x", "@a:b", false, false},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, "!a:b", "m.x", "@a:b", false, true},
		{`{"org.matrix.msc3874.rel_types":["m.thread","m.x"]}`, "!a:b", "m.x m.thread", "@a:b", false, true},
		{`{"org.matrix.msc3874.rel_types":["m.thread"]}`, "!a:b", "m.x m.reference", "@a:b", false, false},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, "!a:b", "m.x m.thread", "@a:b", false, false},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, "!a:b", "m.x m.reference", "@a:b", false, true},
		{`{"org.matrix.msc3874.rel_types":["m.thread"],"org.matrix.msc3874.not_rel_types":["m.thread"]}`, "!a:b", "m.x m.thread", "@a:b", false, false},
	} {
		f, err := ParseRoomEvents([]byte(test.filter))
		if err != nil {
			t.Fatalf("%s: %v", test.filter, err)
		}
		typ, relType, _ := strings.Cut(test.typ, " ")
		got := f.MatchEvent(test.room, typ, test.sender, test.url, relType)
		if got != test.want {
			t.Errorf("%s lets %s %s %s pass: %v", test.filter, test.room, test.typ, test.sender, got)
		}
		if f.Everything() && !f.Match(typ, test.sender) {
			t.Errorf("%s lets not everything pass", test.filter)
		}
	}
}

func TestFields(t *testing.T) {
	const event = `{"type":"m.x","content":{"body":"b","a.b":1,"c":{"d":2,"e":3}},"sender":"@a:b"}`
	for _, test := range []struct{ fields, want string }{
		{`["type"]`, `{"type":"m.x"}`},
		{`["content.body","sender"]`, `{"content":{"body":"b"},"sender":"@a:b"}`},
		{`["content.a\\.b"]`, `{"content":{"a.b":1}}`},
		{`["content.a.b"]`, `{}`},
		{`["content.c.d"]`, `{"content":{"c":{"d":2}}}`},
		{`["content.c","content.c.d"]`, `{"content":{"c":{"d":2,"e":3}}}`},
		{`["content.c.d","content.c"]`, `{"content":{"c":{"d":2,"e":3}}}`},
		{`["type.x"]`, `{}`},
		{`[]`, `{}`},
		{`null`, event},
	} {
		f, err := Parse([]byte(`{"event_fields":` + test.fields + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Fields([]byte(event))
		if err != nil || string(got) != test.want {
			t.Errorf("%s gives %s, %v", test.fields, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{}`, `[]`, `{"event_fields":["a.b","a\\.b","a"],"event_format":"client"}`,
		`{"room":{"rooms":["!a:b"],"timeline":{"limit":10,"types":["m.*"],"contains_url":true,"senders":["@a:b"]}}}`} {
		f.Add(seed, `{"type":"m.x","content":{"a":{"b":[1]}}}`, "m.*x*")
	}
	f.Fuzz(func(t *testing.T, text, event, pattern string) {
		parsed, err := Parse([]byte(text))
		if err != nil {
			if matrixerr.CodeOf(err) == "" {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		parsed.Room.Timeline.MatchEvent("!a:b", event, "@a:b", true, event)
		if json.Valid([]byte(event)) && strings.HasPrefix(event, "{") {
			out, err := parsed.Fields([]byte(event))
			if err != nil || !json.Valid(out) {
				t.Errorf("fields of %s: %s, %v", event, out, err)
			}
		}
		// A pattern matches the text that it becomes when each '*' is filled in.
		if !matchGlob(pattern, strings.ReplaceAll(pattern, "*", event)) {
			t.Errorf("%q does not match itself with %q for each '*'", pattern, event)
		}
	})
}
