package pushrules

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"parley/internal/matrixerr"
)

// describe are the user's own rules and the changed defaults in one line.
func describe(c *Changes) string {
	var b strings.Builder
	for _, kind := range []Kind{Override, Content, Room, Sender, Underride} {
		rules, _ := c.Own.of(kind)
		for _, r := range *rules {
			fmt.Fprintf(&b, "%s:%s", kind, r.ID)
			if r.Pattern != nil {
				fmt.Fprintf(&b, "=%s", *r.Pattern)
			}
			for _, c := range r.Conditions {
				fmt.Fprintf(&b, "?%s", c)
			}
			for _, a := range r.Actions {
				fmt.Fprintf(&b, "!%s", a)
			}
			if !r.Enabled {
				b.WriteString(" off")
			}
			b.WriteString("; ")
		}
	}
	if len(c.Defaults) > 0 {
		d, _ := json.Marshal(c.Defaults)
		b.Write(d)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func draft(t *testing.T, s string) Draft {
	t.Helper()
	var d Draft
	if err := json.Unmarshal([]byte(s), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestEdit applies one edit after the other to the same rules.
func TestEdit(t *testing.T) {
	put := func(kind Kind, ruleID, body, before, after string) func(*Changes) error {
		return func(c *Changes) error { return c.Put(kind, ruleID, draft(t, body), before, after) }
	}
	enable := func(kind Kind, ruleID string, on bool) func(*Changes) error {
		return func(c *Changes) error { return c.SetEnabled(kind, ruleID, on) }
	}
	act := func(kind Kind, ruleID, actions string) func(*Changes) error {
		return func(c *Changes) error {
			var list []json.RawMessage
			if err := json.Unmarshal([]byte(actions), &list); err != nil {
				t.Fatal(err)
			}
			return c.SetActions(kind, ruleID, list)
		}
	}
	remove := func(kind Kind, ruleID string) func(*Changes) error {
		return func(c *Changes) error { return c.Delete(kind, ruleID) }
	}
	const none = `{"actions":[]}`
	var stored []byte
	for i, step := range []struct {
		edit func(*Changes) error
		// want are the rules then, or the errcode, and then nothing has changed.
		want string
	}{
		// The most important first, unless it is said otherwise.
		{put(Sender, "a", none, "", ""), "sender:a"},
		{put(Sender, "b", none, "", ""), "sender:b; sender:a"},
		{put(Sender, "c", none, "", "b"), "sender:b; sender:c; sender:a"},
		{put(Sender, "d", none, "a", ""), "sender:b; sender:c; sender:d; sender:a"},
		{put(Sender, "e", none, "b", "a"), "sender:e; sender:b; sender:c; sender:d; sender:a"},
		{put(Sender, "e", none, "", "a"), "sender:b; sender:c; sender:d; sender:a; sender:e"},
		{put(Sender, "c", none, "", "d"), "sender:b; sender:d; sender:c; sender:a; sender:e"},
		{put(Sender, "b", none, "c", ""), "sender:d; sender:b; sender:c; sender:a; sender:e"},
		{put(Sender, "f", none, "x", ""), "M_UNKNOWN"},
		{put(Sender, "f", none, "", "x"), "M_UNKNOWN"},
		{put(Sender, "f", none, "d", "x"), "M_UNKNOWN"},
		{put(Sender, "d", none, "d", ""), "M_UNKNOWN"},
		{put(Override, "f", none, "d", ""), "M_UNKNOWN"}, // of another kind
		{put(Override, "f", none, "", ".m.rule.suppress_notices"), "M_UNKNOWN"},
		{remove(Sender, "a"), "sender:d; sender:b; sender:c; sender:e"},
		{remove(Sender, "a"), "M_NOT_FOUND"},
		{remove(Room, "b"), "M_NOT_FOUND"},
		{remove(Sender, "c"), "sender:d; sender:b; sender:e"},
		{remove(Sender, "d"), "sender:b; sender:e"},
		{remove(Sender, "e"), "sender:b"},

		// A rule keeps its place and whether it is enabled when it is changed.
		{put(Sender, "a", none, "", ""), "sender:a; sender:b"},
		{enable(Sender, "b", false), "sender:a; sender:b off"},
		{put(Sender, "b", `{"actions":["notify"]}`, "", ""), `sender:a; sender:b!"notify" off`},
		{enable(Sender, "b", true), `sender:a; sender:b!"notify"`},
		{act(Sender, "b", `["dont_notify",{"set_tweak": "sound", "value": "x y"},"coalesce"]`), `sender:a; sender:b!"dont_notify"!{"set_tweak":"sound","value":"x y"}!"coalesce"`},
		{act(Sender, "b", `[]`), `sender:a; sender:b`},
		{act(Sender, "b", `["other"]`), `M_BAD_JSON`},
		{act(Sender, "b", `[5]`), `M_BAD_JSON`},
		{act(Sender, "b", `[{"value":"x"}]`), `M_BAD_JSON`},
		{act(Sender, "b", `[{"set_tweak":true}]`), `M_BAD_JSON`},
		{act(Sender, "b", `null`), `M_MISSING_PARAM`},
		{act(Sender, "x", `[]`), `M_NOT_FOUND`},
		{enable(Sender, "x", true), `M_NOT_FOUND`},
		{remove(Sender, "a"), "sender:b"},
		{remove(Sender, "b"), ""},

		// What each kind has.
		{put(Content, "a", none, "", ""), "M_MISSING_PARAM"},
		{put(Content, "a", `{"pattern":"x*"}`, "", ""), "M_MISSING_PARAM"},
		{put(Content, "a", `{"pattern":"`+strings.Repeat("x?", 200)+`","actions":[]}`, "", ""), "M_INVALID_PARAM"},
		{put(Content, "a", `{"pattern":"x*","actions":[],"conditions":[{"kind":"x"}]}`, "", ""), "content:a=x*"},
		{remove(Content, "a"), ""},
		{put(Room, "!a", `{"pattern":"x*","actions":[],"conditions":[{"kind":"x"}]}`, "", ""), "room:!a"},
		{remove(Room, "!a"), ""},
		{put(Underride, "a", `{"actions":[],"pattern":"x","conditions":[{"kind": "x", "y": [1, 2]}, {"kind":"contains_display_name"}]}`, "", ""),
			`underride:a?{"kind":"x","y":[1,2]}?{"kind":"contains_display_name"}`},
		{put(Underride, "b", `{"actions":[],"conditions":[{"kind":"event_match","key":"type"}]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, "b", `{"actions":[],"conditions":[{"kind":"event_property_is","key":"type","value":{}}]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, "b", `{"actions":[],"conditions":[{"key":"type"}]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, "b", `{"actions":[],"conditions":["x"]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, "b", `{"actions":[],"conditions":[{"kind":"room_member_count","is":"many"}]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, "b", `{"conditions":[]}`, "", ""), "M_MISSING_PARAM"},
		{put(Underride, "b", `{"actions":null}`, "", ""), "M_MISSING_PARAM"},
		{put(Underride, "b", `{"actions":["noise"]}`, "", ""), "M_BAD_JSON"},
		{put(Underride, ".b", none, "", ""), "M_INVALID_PARAM"},
		{put(Underride, ".m.rule.message", none, "", ""), "M_INVALID_PARAM"},
		{put(Underride, "a/b", none, "", ""), "M_INVALID_PARAM"},
		{put(Underride, `a\b`, none, "", ""), "M_INVALID_PARAM"},
		{put(Underride, "", none, "", ""), "M_INVALID_PARAM"},
		{put(Underride, strings.Repeat("x", 256), none, "", ""), "M_INVALID_PARAM"},
		{put("device", "b", none, "", ""), "M_INVALID_PARAM"},
		{remove("device", "b"), "M_INVALID_PARAM"},
		{enable("", "b", true), "M_NOT_FOUND"},
		{remove(Underride, "a"), ""},

		// Rules of the server.
		{enable(Override, ".m.rule.master", true), `{".m.rule.master":{"enabled":true}}`},
		{enable(Override, ".m.rule.master", false), ""},
		{enable(Underride, ".m.rule.message", false), `{".m.rule.message":{"enabled":false}}`},
		{act(Underride, ".m.rule.message", `["dont_notify"]`), `{".m.rule.message":{"enabled":false,"actions":["dont_notify"]}}`},
		{enable(Underride, ".m.rule.message", true), `{".m.rule.message":{"actions":["dont_notify"]}}`},
		{act(Underride, ".m.rule.message", `["notify"]`), ""},
		{enable(Override, ".m.rule.message", false), "M_NOT_FOUND"},
		{act(Override, ".m.rule.contains_display_name", `[]`), "M_NOT_FOUND"},
		{remove(Underride, ".m.rule.message"), "M_INVALID_PARAM"},
		{remove(Underride, ".m.rule.master"), "M_NOT_FOUND"},
	} {
		next, err := Edit(stored, step.edit)
		var own *matrixerr.Error
		if err != nil {
			if !errors.As(err, &own) || string(own.Code) != step.want {
				t.Fatalf("step %d: %v instead of %q", i, err, step.want)
			}
			continue
		}
		c, err := Parse(next)
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(c); got != step.want {
			t.Fatalf("step %d: %s\ninstead of: %s", i, got, step.want)
		}
		stored = next
	}
}

func TestBounds(t *testing.T) {
	fill := func(kind Kind, body string, n int) error {
		_, err := Edit(nil, func(c *Changes) error {
			rules, err := c.Own.of(kind)
			if err != nil {
				return err
			}
			d := draft(t, body)
			for i := range n {
				r, err := d.rule(kind, fmt.Sprintf("!some-identifier-%d:example.org", i))
				if err != nil {
					return err
				}
				*rules = append(*rules, r)
			}
			return nil
		})
		return err
	}
	for _, test := range []struct {
		kind Kind
		body string
		n    int
		good bool
	}{
		{Room, `{"actions":[]}`, 5000, true},
		{Room, `{"actions":[]}`, 50_000, false},
		{Content, `{"actions":[],"pattern":"x"}`, 1000, true},
		{Content, `{"actions":[],"pattern":"x"}`, 1001, false},
		{Override, `{"actions":[],"conditions":[{"kind":"x"}]}`, 500, true},
		{Override, `{"actions":[],"conditions":[{"kind":"x"}]}`, 501, false},
	} {
		if err := fill(test.kind, test.body, test.n); err != nil != !test.good || err != nil && !matrixerr.Is(err, matrixerr.TooLarge) {
			t.Errorf("%d rules of kind %s: %v", test.n, test.kind, err)
		}
	}
}

// TestRulesets is what a client sees.
func TestRulesets(t *testing.T) {
	ids := func(rules []Rule) (all []string) {
		for _, r := range rules {
			all = append(all, r.ID)
		}
		return all
	}
	c := changes(t, func(c *Changes) error {
		for _, kind := range []Kind{Override, Room, Sender, Underride} {
			if err := c.Put(kind, "mine", draft(t, `{"actions":["notify"]}`), "", ""); err != nil {
				return err
			}
		}
		if err := c.SetEnabled(Override, ".m.rule.suppress_edits", false); err != nil {
			return err
		}
		// A rule that the server doesn't have any more.
		c.Defaults[".m.rule.contains_display_name"] = c.Defaults[".m.rule.suppress_edits"]
		return nil
	})
	s := c.Rulesets(me).Global
	const override = "[.m.rule.master mine .m.rule.suppress_notices .m.rule.invite_for_me .m.rule.member_event .m.rule.is_user_mention " +
		".m.rule.is_room_mention .m.rule.tombstone .m.rule.reaction .m.rule.room.server_acl .org.matrix.msc3930.rule.poll_response .m.rule.suppress_edits]"
	if got := fmt.Sprint(ids(s.Override)); got != override {
		t.Errorf("override: %s", got)
	}
	const underride = "[mine .m.rule.call .m.rule.encrypted_room_one_to_one .m.rule.room_one_to_one .m.rule.message .m.rule.encrypted " +
		".org.matrix.msc3930.rule.poll_start_one_to_one .org.matrix.msc3930.rule.poll_start " +
		".org.matrix.msc3930.rule.poll_end_one_to_one .org.matrix.msc3930.rule.poll_end]"
	if got := fmt.Sprint(ids(s.Underride)); got != underride {
		t.Errorf("underride: %s", got)
	}
	for _, test := range []struct {
		kind   Kind
		ruleID string
		want   string
	}{
		{Override, ".m.rule.master", `{"rule_id":".m.rule.master","default":true,"enabled":false,"conditions":[],"actions":[]}`},
		{Override, ".m.rule.suppress_edits", `{"rule_id":".m.rule.suppress_edits","default":true,"enabled":false,` +
			`"conditions":[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}],"actions":[]}`},
		{Override, ".m.rule.is_user_mention", `{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,` +
			`"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@me:example.org"}],` +
			`"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]}`},
		{Override, "mine", `{"rule_id":"mine","default":false,"enabled":true,"conditions":[],"actions":["notify"]}`},
		{Sender, "mine", `{"rule_id":"mine","default":false,"enabled":true,"actions":["notify"]}`},
	} {
		r, err := s.Get(test.kind, test.ruleID)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(r); err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v", test.ruleID, got, err)
		}
	}
	if _, err := s.Get(Content, "mine"); !matrixerr.Is(err, matrixerr.NotFound) {
		t.Errorf("a rule that isn't there: %v", err)
	}
	if _, err := s.Get("x", "mine"); !matrixerr.Is(err, matrixerr.NotFound) {
		t.Errorf("a kind that isn't there: %v", err)
	}
	var none *Changes
	b, err := json.Marshal(none.Rulesets(`@"quote:example.org`))
	if err != nil || !strings.Contains(string(b), `"content":[],"room":[],"sender":[],"underride":[{`) || !strings.Contains(string(b), `"value":"@\"quote:example.org"`) {
		t.Errorf("without changes: %s, %v", b, err)
	}
}

func TestParse(t *testing.T) {
	if _, err := Parse([]byte(`{"own":5}`)); err == nil {
		t.Error("what isn't ours is taken")
	}
	if c, err := Parse(nil); err != nil || describe(c) != "" {
		t.Errorf("nothing: %v, %v", c, err)
	}
}
