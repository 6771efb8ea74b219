package client

import (
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestSpaces is about rooms that lead to rooms, and about finding one's way in and to them.
func TestSpaces(t *testing.T) {
	harness.Stories(t, hierarchy, roomSummary, searchMessages, searchForgets, byTime)
}

// spec: client-server-api/modules/spaces.md#spaces
func hierarchy(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	space := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", Name: "space", CreationContent: map[string]any{"type": "m.space"}})
	want := []id.RoomID{space}
	add := func(parent, child id.RoomID, content map[string]any) {
		content["via"] = []string{alice.UserID.Homeserver()}
		alice.SetState(parent, event.StateSpaceChild, string(child), content)
	}
	for _, order := range []string{"a", "b", "c"} {
		room := alice.NewRoom(public(order))
		add(space, room, map[string]any{"order": order, "suggested": order != "b"})
		want = append(want, room)
	}
	add(space, alice.NewRoom(nil), map[string]any{"order": "d"}) // which bob may not see
	inner := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}})
	add(space, inner, map[string]any{"order": "e"})
	deep := alice.NewRoom(public("deep"))
	add(inner, deep, map[string]any{})
	want = append(want, inner, deep)

	walk := func(req mautrix.ReqHierarchy) []id.RoomID {
		t.Helper()
		var rooms []id.RoomID
		for pages := 0; pages < 20; pages++ {
			page, err := bob.Hierarchy(t.Context(), space, &req)
			if err != nil {
				t.Fatal(err)
			}
			for _, room := range page.Rooms {
				rooms = append(rooms, room.RoomID)
			}
			if req.From = page.NextBatch; req.From == "" {
				return rooms
			}
		}
		t.Fatal("the pages have no end")
		return nil
	}
	for _, limit := range []int{0, 1, 2} {
		if got := walk(mautrix.ReqHierarchy{Limit: limit}); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v; want %v", limit, got, want)
		}
	}
	if got := walk(mautrix.ReqHierarchy{SuggestedOnly: true}); !slices.Equal(got, []id.RoomID{want[0], want[1], want[3]}) {
		t.Errorf("what is suggested: %v", got)
	}
	depth := 1
	if got := walk(mautrix.ReqHierarchy{MaxDepth: &depth}); !slices.Equal(got, want[:5]) {
		t.Errorf("one level: %v; want %v", got, want[:5])
	}
}

// spec: client-server-api/index.md#room-summaries
func roomSummary(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", Name: "A name", Topic: "A topic", RoomAliasName: "summary-" + suffix()})
	alias := alice.StateContent(room, event.StateCanonicalAlias, "")["alias"].(string)
	summary, err := bob.GetRoomSummary(t.Context(), alias)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the room", summary.RoomID, room)
	equal(t, "the name", summary.Name, "A name")
	equal(t, "the topic", summary.Topic, "A topic")
	equal(t, "the members", summary.NumJoinedMembers, 1)
	private := alice.NewRoom(nil)
	_, err = bob.GetRoomSummary(t.Context(), string(private))
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

// search asks for a term in the bodies of messages, and gives the events that are found, newest first.
func search(t *testing.T, who *harness.User, term string, more map[string]any) gjson.Result {
	t.Helper()
	events := map[string]any{"search_term": term, "order_by": "recent"}
	for k, v := range more {
		events[k] = v
	}
	resp := who.Do("POST", harness.Path("v3", "search"), map[string]any{"search_categories": map[string]any{"room_events": events}}).WantOK(t)
	return resp.Get("search_categories.room_events")
}

// hits are the events of what was found.
func hits(found gjson.Result) []id.EventID {
	var ids []id.EventID
	for _, hit := range found.Get("results").Array() {
		ids = append(ids, id.EventID(hit.Get("result.event_id").Str))
	}
	return ids
}

// spec: client-server-api/modules/search.md#server-side-search
func searchMessages(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	word := "w" + suffix()
	room, hidden := alice.NewRoomWith(bob), alice.NewRoom(nil)
	first := alice.Say(room, "the "+word+" of the day")
	alice.Say(room, "something else")
	second := bob.Say(room, "yes, "+word+"!")
	third := alice.Say(hidden, word)

	if got := hits(search(t, bob, word, nil)); !slices.Equal(got, []id.EventID{second, first}) {
		t.Errorf("bob finds %v; want %v", got, []id.EventID{second, first})
	}
	if got := hits(search(t, alice, word, nil)); !slices.Equal(got, []id.EventID{third, second, first}) {
		t.Errorf("alice finds %v", got)
	}
	found := search(t, bob, word, map[string]any{
		"filter":        map[string]any{"rooms": []id.RoomID{room}, "senders": []id.UserID{alice.UserID}},
		"event_context": map[string]any{"before_limit": 5, "after_limit": 1, "include_profile": true},
		"groupings":     map[string]any{"group_by": []any{map[string]any{"key": "room_id"}}},
	})
	if got := hits(found); !slices.Equal(got, []id.EventID{first}) {
		t.Errorf("of alice's: %v; want %v", got, first)
	}
	equal(t, "what came after", found.Get("results.0.context.events_after.0.content.body").Str, "something else")
	equal(t, "the highlight", found.Get("highlights.0").Str, word)
	if groups := found.Get("groups.room_id").Map(); len(groups) != 1 {
		t.Errorf("groups %v", groups)
	}
}

// searchForgets: what was redacted is found no more, at once.
func searchForgets(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	word := "w" + suffix()
	said := alice.Say(room, word)
	edited := alice.Say(room, word+" again")
	alice.Redact(room, said, "")
	if got := hits(search(t, alice, word, nil)); !slices.Equal(got, []id.EventID{edited}) {
		t.Errorf("found %v; want %v alone", got, edited)
	}
	alice.Redact(room, edited, "")
	if got := hits(search(t, alice, word, nil)); len(got) != 0 {
		t.Errorf("found %v, which is redacted", got)
	}
}

// spec: client-server-api/index.md#get_matrixclientv1roomsroomidtimestamp_to_event
func byTime(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	said := alice.Say(room, "then")
	at := time.UnixMilli(alice.Event(room, said).Timestamp)
	found, err := alice.TimestampToEvent(t.Context(), room, at.Add(time.Hour), mautrix.DirectionBackward)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the event before", found.EventID, said)
	_, err = alice.TimestampToEvent(t.Context(), room, at.Add(time.Hour), mautrix.DirectionForward)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}
