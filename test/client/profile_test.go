package client

import (
	"slices"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestProfile is the chapter on profiles, presence, account data and push rules: what belongs to a person.
func TestProfile(t *testing.T) {
	harness.Stories(t, displayName, avatar, customProfileFields, profileRefused, presence,
		accountData, accountDataRefused, tags, pushRules, pushRulesRefused)
}

// spec: client-server-api/index.md#profiles
func displayName(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	if err := alice.SetDisplayName(t.Context(), "Alice 🌱"); err != nil {
		t.Fatal(err)
	}
	name, err := bob.GetDisplayName(t.Context(), alice.UserID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the name", name.DisplayName, "Alice 🌱")
	seen.Until("alice's new name", func(resp *mautrix.RespSync) bool {
		evt := harness.FindState(harness.Timeline(resp, room), event.StateMember, alice.UserID.String())
		return evt != nil && contents(evt)["displayname"] == "Alice 🌱" && contents(evt)["membership"] == "join"
	})
	later := alice.NewRoom(nil)
	equal[any](t, "the name in a new room", alice.StateContent(later, event.StateMember, alice.UserID.String())["displayname"], "Alice 🌱")
	joined, err := bob.JoinedMembers(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the name by joined_members", joined.Joined[alice.UserID].DisplayName, "Alice 🌱")
}

func avatar(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.CaughtUp()
	uri := id.ContentURI{Homeserver: "localhost", FileID: "picture"}
	if err := alice.SetAvatarURL(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	seen.Until("the avatar in the room", func(resp *mautrix.RespSync) bool {
		evt := harness.FindState(harness.Timeline(resp, room), event.StateMember, alice.UserID.String())
		return evt != nil && contents(evt)["avatar_url"] == uri.String()
	})
	profile, err := alice.GetProfile(t.Context(), alice.UserID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the avatar", profile.AvatarURL, uri)
}

// spec: client-server-api/index.md#put_matrixclientv3profileuseridkeyname
func customProfileFields(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	field := func(key string) string { return harness.Path("v3", "profile", alice.UserID.String(), key) }
	value := map[string]any{"org.example.pronouns": []string{"she", "her"}}
	alice.Do("PUT", field("org.example.pronouns"), value).WantOK(t)
	got := bob.Do("GET", field("org.example.pronouns"), nil).WantOK(t)
	equal(t, "the field", got.Get(`org\.example\.pronouns.1`).String(), "her")
	whole := bob.Do("GET", harness.Path("v3", "profile", alice.UserID.String()), nil).WantOK(t)
	equal(t, "the field in the profile", whole.Get(`org\.example\.pronouns.0`).String(), "she")
	alice.Do("DELETE", field("org.example.pronouns"), nil).WantOK(t)
	bob.Do("GET", field("org.example.pronouns"), nil).WantError(t, 404, "M_NOT_FOUND")
}

func profileRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	_, err := bob.GetProfile(t.Context(), id.NewUserID("nobody-"+suffix(), alice.UserID.Homeserver()))
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	name := harness.Path("v3", "profile", alice.UserID.String(), "displayname")
	bob.Do("PUT", name, map[string]any{"displayname": "not alice"}).WantError(t, 403, "M_FORBIDDEN")
}

// spec: client-server-api/modules/presence.md#client-behaviour
func presence(t *testing.T, srv *harness.Server) {
	alice, bob, stranger := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "stranger")
	alice.NewRoomWith(bob)
	seen := bob.CaughtUp()
	err := alice.SetPresence(t.Context(), mautrix.ReqPresence{Presence: event.PresenceUnavailable, StatusMsg: "at lunch"})
	if err != nil {
		t.Fatal(err)
	}
	seen.Until("alice's presence", func(resp *mautrix.RespSync) bool {
		for _, evt := range resp.Presence.Events {
			if evt.Sender == alice.UserID && contents(evt)["status_msg"] == "at lunch" && contents(evt)["presence"] == "unavailable" {
				return true
			}
		}
		return false
	})
	got, err := bob.GetPresence(t.Context(), alice.UserID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the presence", got.Presence, event.PresenceUnavailable)
	equal(t, "the status", got.StatusMsg, "at lunch")
	_, err = stranger.GetPresence(t.Context(), alice.UserID)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	path := harness.Path("v3", "presence", alice.UserID.String(), "status")
	bob.Do("PUT", path, map[string]any{"presence": "online"}).WantError(t, 403, "M_FORBIDDEN")
	equal(t, "the status of an unknown state", alice.Do("PUT", path, map[string]any{"presence": "dancing"}).Status, 400)
}

// spec: client-server-api/modules/account_data.md#client-config
func accountData(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	phone := alice.Login()
	room := alice.NewRoom(nil)
	seen := phone.CaughtUp()
	if err := alice.SetAccountData(t.Context(), "org.example.settings", map[string]any{"dark": true}); err != nil {
		t.Fatal(err)
	}
	seen.Until("the account data", func(resp *mautrix.RespSync) bool {
		for _, evt := range resp.AccountData.Events {
			if evt.Type.Type == "org.example.settings" {
				return contents(evt)["dark"] == true
			}
		}
		return false
	})
	if err := alice.SetRoomAccountData(t.Context(), room, "org.example.settings", map[string]any{"dark": false}); err != nil {
		t.Fatal(err)
	}
	seen.Until("the room's account data", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		return joined != nil && len(joined.AccountData.Events) == 1 && contents(joined.AccountData.Events[0])["dark"] == false
	})
	for _, get := range []func(into any) error{
		func(into any) error { return phone.GetAccountData(t.Context(), "org.example.settings", into) },
		func(into any) error { return phone.GetRoomAccountData(t.Context(), room, "org.example.settings", into) },
	} {
		var got map[string]any
		if err := get(&got); err != nil {
			t.Fatal(err)
		}
		if _, ok := got["dark"].(bool); !ok {
			t.Errorf("the account data is %v", got)
		}
	}
	// What is deleted is shown as empty to who knows it, and not at all to others: MSC3391.
	deleted := harness.Path("unstable", "org.matrix.msc3391", "user", alice.UserID.String())
	alice.Do("DELETE", deleted+"/account_data/org.example.settings", nil).WantOK(t)
	alice.Do("DELETE", deleted+"/rooms/"+room.String()+"/account_data/org.example.settings", nil).WantOK(t)
	none := func(events []*event.Event) bool {
		return slices.ContainsFunc(events, func(evt *event.Event) bool { return evt.Type.Type == "org.example.settings" && len(contents(evt)) == 0 })
	}
	var global, inRoom bool
	seen.Until("the account data go", func(resp *mautrix.RespSync) bool {
		global = global || none(resp.AccountData.Events)
		inRoom = inRoom || resp.Rooms.Join[room] != nil && none(resp.Rooms.Join[room].AccountData.Events)
		return global && inRoom
	})
	first := phone.Stream().Next()
	for _, evt := range append(first.AccountData.Events, first.Rooms.Join[room].AccountData.Events...) {
		if evt.Type.Type == "org.example.settings" {
			t.Errorf("the first sync shows what was deleted")
		}
	}
}

func accountDataRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	path := func(u *harness.User, kind string) string {
		return harness.Path("v3", "user", u.UserID.String(), "account_data", kind)
	}
	alice.Do("GET", path(alice, "org.example.none"), nil).WantError(t, 404, "M_NOT_FOUND")
	bob.Do("GET", path(alice, "org.example.none"), nil).WantError(t, 403, "M_FORBIDDEN")
	bob.Do("PUT", path(alice, "org.example.none"), map[string]any{}).WantError(t, 403, "M_FORBIDDEN")
	// The push rules have endpoints of their own.
	alice.Do("PUT", path(alice, "m.push_rules"), map[string]any{}).WantError(t, 405, "M_BAD_JSON")
	alice.Do("PUT", path(alice, "org.example.none"), "[]").WantError(t, 400, "M_BAD_JSON")
}

// spec: client-server-api/modules/tags.md#client-behaviour
func tags(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.CaughtUp()
	if err := alice.AddTag(t.Context(), room, event.RoomTagFavourite, 0.25); err != nil {
		t.Fatal(err)
	}
	if err := alice.AddTag(t.Context(), room, "u.work", 0.5); err != nil {
		t.Fatal(err)
	}
	got, err := alice.GetTags(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of tags", len(got.Tags), 2)
	order, err := got.Tags[event.RoomTagFavourite].Order.Float64()
	if err != nil || order != 0.25 {
		t.Errorf("the order is %v (%v); want 0.25", order, err)
	}
	seen.Until("both tags", func(resp *mautrix.RespSync) bool {
		joined := resp.Rooms.Join[room]
		if joined == nil {
			return false
		}
		for _, evt := range joined.AccountData.Events {
			if evt.Type.Type == "m.tag" {
				return len(contents(evt)["tags"].(map[string]any)) == 2
			}
		}
		return false
	})
	if err := alice.RemoveTag(t.Context(), room, "u.work"); err != nil {
		t.Fatal(err)
	}
	if got, err = alice.GetTags(t.Context(), room); err != nil || len(got.Tags) != 1 {
		t.Errorf("after the removal the tags are %v (%v); want one", got.Tags, err)
	}
}

// spec: client-server-api/modules/push.md#push-rules-api
func pushRules(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	phone := alice.Login()
	rules, err := alice.GetPushRules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Override) == 0 || len(rules.Underride) == 0 {
		t.Fatalf("the default rules are %+v", rules)
	}
	path := func(segments ...string) string {
		return harness.Path(append([]string{"v3", "pushrules", "global"}, segments...)...)
	}
	seen := phone.CaughtUp()
	alice.Do("PUT", path("content", "mine"), map[string]any{
		"pattern": "parley", "actions": []any{"notify", map[string]any{"set_tweak": "highlight"}},
	}).WantOK(t)
	seen.Until("the new rule", func(resp *mautrix.RespSync) bool {
		for _, evt := range resp.AccountData.Events {
			if evt.Type.Type == "m.push_rules" {
				return true
			}
		}
		return false
	})
	equal(t, "the pattern", alice.Do("GET", path("content", "mine"), nil).WantOK(t).Get("pattern").String(), "parley")
	alice.Do("PUT", path("content", "other")+"?before=mine", map[string]any{"pattern": "x", "actions": []any{}}).WantOK(t)
	all := alice.Do("GET", path()+"/", nil).WantOK(t)
	equal(t, "the first content rule", all.Get("content.0.rule_id").String(), "other")
	equal(t, "the second content rule", all.Get("content.1.rule_id").String(), "mine")
	alice.Do("PUT", path("content", "mine", "enabled"), map[string]any{"enabled": false}).WantOK(t)
	equal(t, "enabled", alice.Do("GET", path("content", "mine", "enabled"), nil).WantOK(t).Get("enabled").Bool(), false)
	alice.Do("PUT", path("override", ".m.rule.master", "enabled"), map[string]any{"enabled": true}).WantOK(t)
	alice.Do("PUT", path("underride", ".m.rule.message", "actions"), map[string]any{"actions": []any{}}).WantOK(t)
	equal(t, "the actions", alice.Do("GET", path("underride", ".m.rule.message", "actions"), nil).WantOK(t).Get("actions.#").Int(), 0)
	alice.Do("DELETE", path("content", "mine"), nil).WantOK(t)
	alice.Do("GET", path("content", "mine"), nil).WantError(t, 404, "M_NOT_FOUND")
}

func pushRulesRefused(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	path := func(segments ...string) string {
		return harness.Path(append([]string{"v3", "pushrules", "global"}, segments...)...)
	}
	rule := map[string]any{"pattern": "x", "actions": []any{"notify"}}
	for _, c := range []struct {
		name, method, path string
		body               any
		status             int
	}{
		{"an unknown kind", "PUT", path("sideways", "mine"), rule, 400},
		{"a server's name", "PUT", path("content", ".mine"), rule, 400},
		{"a neighbour that is not there", "PUT", path("content", "mine") + "?before=none", rule, 400},
		{"no actions", "PUT", path("content", "mine"), map[string]any{"pattern": "x"}, 400},
		{"no pattern", "PUT", path("content", "mine"), map[string]any{"actions": []any{}}, 400},
		{"enabling what is not there", "PUT", path("content", "none", "enabled"), map[string]any{"enabled": true}, 404},
		{"deleting what is not there", "DELETE", path("content", "none"), nil, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := srv.Do(t, c.method, c.path, alice.AccessToken, c.body)
			equal(t, "the status", resp.Status, c.status)
			if resp.Get("errcode").String() == "" {
				t.Errorf("no errcode in %s", resp.Body)
			}
		})
	}
}
