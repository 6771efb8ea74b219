package clientapi_test

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// found is what a search gave.
type found struct {
	t    *testing.T
	body map[string]any
}

func (n *node) search(t *testing.T, token, next, criteria string) found {
	t.Helper()
	path := v3 + "/search"
	if next != "" {
		path += "?next_batch=" + url.QueryEscape(next)
	}
	all, _ := n.do(t, "POST", path, token, `{"search_categories":{"room_events":`+criteria+`}}`).want(200, "").body["search_categories"].(map[string]any)
	events, _ := all["room_events"].(map[string]any)
	return found{t, events}
}

func (f found) bodies() []string {
	var out []string
	results, _ := f.body["results"].([]any)
	for _, r := range results {
		event, _ := r.(map[string]any)["result"].(map[string]any)
		content, _ := event["content"].(map[string]any)
		for _, field := range []string{"body", "name", "topic"} {
			if s, ok := content[field].(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

func (f found) check(want ...string) {
	f.t.Helper()
	if got := f.bodies(); fmt.Sprint(got) != fmt.Sprint(want) {
		f.t.Errorf("found %q, want %q", got, want)
	}
}

func TestSearch(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		first := n.makeRoom(t, alice, `{"preset":"public_chat","name":"Garden of apples"}`)
		second := n.makeRoom(t, alice, `{"preset":"private_chat","topic":"all about apples"}`)
		count := 0
		say := func(token, room, text string) string {
			t.Helper()
			count++
			return n.do(t, "PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+strconv.Itoa(count), token,
				`{"msgtype":"m.text","body":"`+text+`"}`).want(200, "").get("event_id")
		}
		say(alice, first, "I like apples.")
		gone := say(alice, first, "Secret: apples cost 5€")
		say(alice, second, "Äpfel und Birnen")
		n.do(t, "POST", v3+"/rooms/"+url.PathEscape(first)+"/join", bob, "{}").want(200, "")
		say(bob, first, "an APPLE a day; 日本語も")

		recent := func(term string) string { return `{"search_term":"` + term + `","order_by":"recent"}` }
		n.search(t, alice, "", recent("apples")).check("Secret: apples cost 5€", "I like apples.", "all about apples", "Garden of apples")
		n.search(t, alice, "", recent("appl DAY")).check("an APPLE a day; 日本語も")
		n.search(t, alice, "", recent("äpfel")).check("Äpfel und Birnen")
		n.search(t, alice, "", recent("本語")).check("an APPLE a day; 日本語も")
		n.search(t, alice, "", recent(`\" OR * : NEAR( -`)).check()
		n.search(t, alice, "", recent("")).check()
		n.search(t, alice, "", recent("nothing")).check()
		n.search(t, bob, "", recent("all about")).check() // bob isn't in that room
		n.search(t, alice, "", `{"search_term":"apples","order_by":"recent","keys":["content.name"]}`).check("Garden of apples")
		n.search(t, alice, "", `{"search_term":"apple","order_by":"recent","filter":{"senders":["@bob:x.org"]}}`).check("an APPLE a day; 日本語も")
		n.search(t, alice, "", `{"search_term":"apples","order_by":"recent","filter":{"rooms":["`+second+`"]}}`).check("all about apples")

		f := n.search(t, alice, "", `{"search_term":"apple","order_by":"rank","include_state":true,
			"event_context":{"before_limit":1,"after_limit":1,"include_profile":true},
			"groupings":{"group_by":[{"key":"room_id"},{"key":"sender"}]}}`)
		if fmt.Sprint(f.body["count"]) != "5" || len(f.bodies()) != 5 {
			t.Errorf("by rank: %v", f.body)
		}
		if got := fmt.Sprint(f.body["highlights"]); !strings.Contains(got, "apples") || !strings.Contains(got, "apple ") && !strings.Contains(got, "apple]") {
			t.Errorf("highlights: %v", got)
		}
		groups, _ := f.body["groups"].(map[string]any)
		rooms, _ := groups["room_id"].(map[string]any)
		senders, _ := groups["sender"].(map[string]any)
		if len(rooms) != 2 || len(senders) != 2 {
			t.Errorf("groups: %v", groups)
		}
		if state, _ := f.body["state"].(map[string]any); len(state) != 2 {
			t.Errorf("state of %d rooms", len(state))
		}
		results, _ := f.body["results"].([]any)
		for _, r := range results {
			context, _ := r.(map[string]any)["context"].(map[string]any)
			if context["start"] == nil || context["events_before"] == nil || context["profile_info"] == nil {
				t.Errorf("context: %v", context)
			}
		}

		for _, order := range []string{"recent", "rank"} {
			criteria := `{"search_term":"apple","order_by":"` + order + `","filter":{"limit":2},"groupings":{"group_by":[{"key":"sender"}]}}`
			var all []string
			next := ""
			for pages := 0; pages < 5; pages++ {
				f := n.search(t, alice, next, criteria)
				all = append(all, f.bodies()...)
				if next, _ = f.body["next_batch"].(string); next == "" {
					break
				}
			}
			if len(all) != 5 {
				t.Errorf("by %s in pages: %q", order, all)
			}
		}

		n.do(t, "PUT", v3+"/rooms/"+url.PathEscape(first)+"/redact/"+url.PathEscape(gone)+"/r", alice, "{}").want(200, "")
		n.search(t, alice, "", recent("secret")).check()
		n.do(t, "POST", v3+"/rooms/"+url.PathEscape(first)+"/leave", bob, "{}").want(200, "")
		say(alice, first, "apples after bob")
		n.search(t, bob, "", recent("apples")).check("I like apples.", "Garden of apples")

		bad := func(body, code string) { n.do(t, "POST", v3+"/search", alice, body).want(400, code) }
		bad(`{}`, "M_MISSING_PARAM")
		bad(`{"search_categories":{"room_events":{}}}`, "M_MISSING_PARAM")
		bad(`{"search_categories":{"room_events":{"search_term":"x","order_by":"x"}}}`, "M_INVALID_PARAM")
		bad(`{"search_categories":{"room_events":{"search_term":"x","keys":["x"]}}}`, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/search?next_batch=x", alice, `{"search_categories":{"room_events":{"search_term":"x"}}}`).want(400, "M_INVALID_PARAM")
	})
}
