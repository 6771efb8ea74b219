package client

import (
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestDirectory is the chapter on finding rooms and people.
func TestDirectory(t *testing.T) {
	harness.Stories(t, publicRooms, publicRoomPages, listed, userDirectory)
}

// find looks rooms up in the public directory by a word that only the story's rooms have.
func find(t *testing.T, u *harness.User, word string, more map[string]any) harness.Response {
	t.Helper()
	body := map[string]any{"filter": map[string]any{"generic_search_term": word}}
	for key, value := range more {
		body[key] = value
	}
	return u.Do("POST", harness.Path("v3", "publicRooms"), body).WantOK(t)
}

// spec: client-server-api/index.md#published-room-directory
func publicRooms(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	word := "word" + suffix()
	alias := "found-" + suffix()
	room := alice.NewRoom(&mautrix.ReqCreateRoom{
		Preset: "public_chat", Visibility: "public", Name: "A Room of " + word, Topic: "the topic", RoomAliasName: alias,
	})
	alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", Name: "A hidden room of " + word})
	bob.Join(room)

	resp := find(t, bob, word, nil)
	equal(t, "the number of rooms", len(resp.Get("chunk").Array()), 1)
	found := resp.Get("chunk.0")
	equal(t, "the room", found.Get("room_id").String(), string(room))
	equal(t, "the name", found.Get("name").String(), "A Room of "+word)
	equal(t, "the topic", found.Get("topic").String(), "the topic")
	equal(t, "the alias", found.Get("canonical_alias").String(), string(id.NewRoomAlias(alias, alice.UserID.Homeserver())))
	equal(t, "the number of members", found.Get("num_joined_members").Int(), 2)
	equal(t, "the join rule", found.Get("join_rule").String(), "public")
	equal(t, "world_readable", found.Get("world_readable").Bool(), false)
	equal(t, "guest_can_join", found.Get("guest_can_join").Bool(), false)

	everything, err := bob.PublicRooms(t.Context(), &mautrix.ReqPublicRooms{})
	if err != nil {
		t.Fatal(err)
	}
	if everything.TotalRoomCountEstimate < 1 {
		t.Errorf("the estimate of all rooms is %d", everything.TotalRoomCountEstimate)
	}
}

func publicRoomPages(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	word := "word" + suffix()
	want := map[string]bool{}
	for range 5 {
		want[string(alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", Visibility: "public", Name: word}))] = true
	}
	more := map[string]any{"limit": 2}
	for {
		resp := find(t, alice, word, more)
		chunk := resp.Get("chunk").Array()
		if len(chunk) > 2 {
			t.Fatalf("a page of %d rooms; asked for 2", len(chunk))
		}
		for _, room := range chunk {
			if !want[room.Get("room_id").String()] {
				t.Errorf("%s came twice, or was not asked for", room.Get("room_id"))
			}
			delete(want, room.Get("room_id").String())
		}
		if !resp.Get("next_batch").Exists() {
			break
		}
		more["since"] = resp.Get("next_batch").String()
	}
	if len(want) > 0 {
		t.Errorf("the pages lack %v", want)
	}
}

func listed(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	word := "word" + suffix()
	room := alice.NewRoom(public(word))
	path := harness.Path("v3", "directory", "list", "room", string(room))
	equal(t, "the visibility", srv.Do(t, "GET", path, "", nil).WantOK(t).Get("visibility").String(), "private")
	bob.Do("PUT", path, map[string]any{"visibility": "public"}).WantError(t, 403, "M_FORBIDDEN")
	alice.Do("PUT", path, map[string]any{"visibility": "public"}).WantOK(t)
	equal(t, "the visibility", srv.Do(t, "GET", path, "", nil).WantOK(t).Get("visibility").String(), "public")
	equal(t, "the number of rooms", len(find(t, bob, word, nil).Get("chunk").Array()), 1)
	alice.SetState(room, event.StateRoomName, "", map[string]any{"name": "renamed"})
	equal(t, "the number of rooms of the old name", len(find(t, bob, word, nil).Get("chunk").Array()), 0)
	alice.Do("PUT", path, map[string]any{"visibility": "private"}).WantOK(t)
	alice.Do("PUT", path, map[string]any{"visibility": "sideways"}).WantError(t, 400, badValue)
	nowhere := harness.Path("v3", "directory", "list", "room", "!nowhere:localhost")
	srv.Do(t, "GET", nowhere, "", nil).WantError(t, 404, "M_NOT_FOUND")
}

// spec: client-server-api/index.md#user-directory
func userDirectory(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	name := "Robert " + suffix()
	if err := bob.SetDisplayName(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	room := alice.NewRoomWith(bob) // who shares a room can be found
	equal[any](t, "the name in the room", alice.StateContent(room, event.StateMember, bob.UserID.String())["displayname"], name)
	resp := alice.Do("POST", harness.Path("v3", "user_directory", "search"), map[string]any{"search_term": name, "limit": 5}).WantOK(t)
	equal(t, "the number of people", resp.Get("results.#").Int(), 1)
	equal(t, "the user", resp.Get("results.0.user_id").String(), bob.UserID.String())
	equal(t, "the name", resp.Get("results.0.display_name").String(), name)
}
