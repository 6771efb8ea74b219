package roomserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// last writes a field of an object behind all others.
func last(t *testing.T, object json.RawMessage, name string) json.RawMessage {
	t.Helper()
	value := gjson.GetBytes(object, name).Raw
	text := strings.Replace(string(object), fmt.Sprintf("%q:%s,", name, value), "", 1)
	if text == string(object) {
		t.Fatalf("%s is not in %s", name, object)
	}
	return json.RawMessage(fmt.Sprintf("%s,%q:%s}", strings.TrimSuffix(text, "}"), name, value))
}

// TestLookalikes sends events that one could take for another's, or for others, who does not look at
// each letter of a name. All that is true of them is what was signed.
func TestLookalikes(t *testing.T) {
	for _, version := range []id.RoomVersion{"1", "10", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			eachPair(t, version, func(t *testing.T, p *pair) {
				before, shown := p.b.state(t, p.room), len(p.b.events(t, p.room))
				good := p.say(t, "good")
				make := func(change map[string]any, behind ...string) json.RawMessage {
					var fields map[string]any
					ok(t, json.Unmarshal(good, &fields))
					delete(fields, "signatures")
					delete(fields, "hashes")
					for name, value := range change {
						fields[name] = value
					}
					raw := signAs(t, version, "a", fields)
					for _, name := range behind {
						raw = last(t, raw, name)
					}
					return raw
				}
				// Another's message, which the one who made it had to sign alone.
				forged := make(map[string]any{"sender": p.b.user, "SENDER": p.a.user}, "SENDER")
				if err := p.take(t, forged)[0].Err; matrixerr.CodeOf(err) != matrixerr.InvalidParam {
					t.Errorf("a message in another's name: %v", err)
				}
				// What only the room's creator may do, as something that anybody may.
				levels := make(map[string]any{
					"sender": "@nobody:a", "type": "m.room.power_levels", "TYPE": "m.room.message", "state_key": "", "\u017ftate_key": nil,
					"content": map[string]any{"users": map[string]int{"@nobody:a": 100}},
				}, "TYPE", "\u017ftate_key")
				if err := p.take(t, levels)[0].Err; err == nil {
					t.Error("power levels of somebody without power are taken in")
				}
				if got := p.b.state(t, p.room); !slices.Equal(got, before) || len(p.b.events(t, p.room)) != shown {
					t.Errorf("the room is now %q", got)
				}
				// An event of no other meaning has lost what its hash was of, for us as for everybody.
				odd := make(map[string]any{"Depth": 7, "content": map[string]any{"body": "odd"}}, "Depth")
				ok(t, p.take(t, odd)[0].Err)
				events := p.b.events(t, p.room)
				if f := gjson.GetManyBytes(events[len(events)-1].JSON, "content", "Depth", "depth"); f[0].Raw != "{}" || f[1].Exists() ||
					f[2].Raw != gjson.GetBytes(good, "depth").Raw || len(events) != shown+1 {
					t.Errorf("the last event is %s", events[len(events)-1].JSON)
				}
			})
		})
	}
}

// TestExact has the library read what has names that look like others.
func TestExact(t *testing.T) {
	for _, c := range []struct {
		raw, want string // "" for the same
	}{
		{`{"type":"m.room.message","content":{"Type":1,"MEMBERSHIP":2}}`, ""},
		{`{"type":"m.room.member","content":{"Displayname":"x","membership":"join"}}`, ""},
		{`{"Type":"x","type":"m.room.member","content":{"Membership":"join","x":"<"}}`, `{"content":{"x":"<"},"type":"m.room.member"}`},
		{`{"type":"m.room.member","content":{"Membership":"join"}}`, `{"content":{},"type":"m.room.member"}`},
		{`{"type":"m.room.power_levels","content":{"u\u017fers":{},"users":{"@A:b":1}}}`, `{"content":{"users":{"@A:b":1}},"type":"m.room.power_levels"}`},
		{`{"\u0053ender":1,"sender":2}`, `{"sender":2}`},
		{`{"Event_ID":"$x","content":7}`, `{"content":7}`},
		{`{"TYPE":1`, ""}, {`[{"TYPE":1}]`, ""}, {`null`, ""}, {``, ""},
	} {
		got := string(exact([]byte(c.raw)))
		if c.want == "" {
			c.want = c.raw
		} else if canonical, err := gomatrixserverlib.CanonicalJSON([]byte(got)); err == nil {
			got = string(canonical)
		}
		if got != c.want {
			t.Errorf("%s is %s; want %s", c.raw, got, c.want)
		}
	}
}
