package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/internal/eventually"
	"parley/test/harness"
)

// withBridge runs a story on a server that has a bridge.
func withBridge(t *testing.T, story func(t *testing.T, srv *harness.Server, b *harness.Bridge)) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		b := harness.NewBridge(t)
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n"+b.Settings())
		b.Connect(srv)
		story(t, srv, b)
	})
}

// heard waits until a bridge has heard texts in a room, and says which it heard in all.
func heard(t *testing.T, b *harness.Bridge, room id.RoomID, last string) []string {
	t.Helper()
	var texts []string
	eventually.OK(t, func() error {
		b.Call()
		texts = nil
		for _, e := range b.Got() {
			if e.RoomID == room && e.Type.Type == "m.room.message" {
				body, _ := e.Content.Raw["body"].(string)
				texts = append(texts, body)
			}
		}
		if !slices.Contains(texts, last) {
			return fmt.Errorf("the bridge has not heard %q, but %d texts", last, len(texts))
		}
		return nil
	})
	return texts
}

// TestBridge has a bridge's ghost talk with somebody, and nothing get lost while the bridge is away and the server is
// killed.
// spec: application-service-api.md#pushing-events
func TestBridge(t *testing.T) {
	withBridge(t, func(t *testing.T, srv *harness.Server, b *harness.Bridge) {
		alice := srv.Register(t, "alice")
		ghost := b.As("carol")
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{ghost.UserID}})
		eventually.OK(t, func() error {
			if !slices.ContainsFunc(b.Got(), func(e *event.Event) bool {
				return e.RoomID == room && e.GetStateKey() == string(ghost.UserID) && e.Content.AsMember().Membership == "invite"
			}) {
				return errors.New("the bridge is not told of the invitation")
			}
			return nil
		})
		if err := ghost.EnsureJoined(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		alice.Say(room, "hello")
		heard(t, b, room, "hello")

		// A ghost speaks at a time of its own, once, though it asks twice.
		req := mautrix.ReqSendEvent{TransactionID: "once", Timestamp: 1_500_000_000_000}
		first, err := ghost.SendMessageEvent(t.Context(), room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": "coo"}, req)
		if err != nil {
			t.Fatal(err)
		}
		second, err := ghost.SendMessageEvent(t.Context(), room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": "coo"}, req)
		if err != nil || second.EventID != first.EventID {
			t.Errorf("the same transaction gave %v and %v, %v", first, second, err)
		}
		said, err := alice.GetEvent(t.Context(), room, first.EventID)
		if err != nil || said.Timestamp != 1_500_000_000_000 || said.Sender != ghost.UserID {
			t.Errorf("the ghost's event is %+v, %v", said, err)
		}
		edit := map[string]any{"msgtype": "m.text", "body": "* coo coo", "m.new_content": map[string]any{"msgtype": "m.text", "body": "coo coo"},
			"m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": first.EventID}}
		if _, err := ghost.SendMessageEvent(t.Context(), room, event.EventMessage, edit); err != nil {
			t.Error(err)
		}
		if bundled := alice.Do("GET", harness.Path("v3", "rooms", string(room), "event", string(first.EventID)), nil); !strings.Contains(string(bundled.Body), "coo coo") {
			t.Errorf("the edit is not shown: %s", bundled.Body)
		}

		// While the bridge is away a lot is said, and the server is killed.
		heard(t, b, room, "* coo coo")
		b.Leave()
		const many = 230
		for i := range many {
			alice.Say(room, fmt.Sprint("message ", i))
			if i == many/2 {
				srv.Kill()
				srv.Run()
			}
		}
		b.Return()
		texts := heard(t, b, room, fmt.Sprint("message ", many-1))
		at := slices.Index(texts, "message 0")
		if at < 0 || len(texts[at:]) != many {
			t.Fatalf("the bridge heard %d messages from %d on; want %d", len(texts), at, many)
		}
		for i, text := range texts[at:] {
			if text != fmt.Sprint("message ", i) {
				t.Fatalf("the bridge heard %q as number %d", text, i)
			}
		}
	})
}

// TestServiceRights has an application service act as those whom it may, and be refused to be others; and nobody else
// be them.
// spec: application-service-api.md#client-server-api-extensions
func TestServiceRights(t *testing.T) {
	withBridge(t, func(t *testing.T, srv *harness.Server, b *harness.Bridge) {
		alice := srv.Register(t, "alice")
		token := b.Registration.AppToken
		const v3 = "/_matrix/client/v3"
		query := func(path string, values ...string) string {
			q := url.Values{}
			for i := 0; i < len(values); i += 2 {
				q.Set(values[i], values[i+1])
			}
			return v3 + path + "?" + q.Encode()
		}
		want := func(resp harness.Response, status int, code string) harness.Response {
			t.Helper()
			if resp.Status != status || resp.Get("errcode").Str != code {
				t.Errorf("got %d %s; want %d %s", resp.Status, resp.Body, status, code)
			}
			return resp
		}
		service := func(username string, more string) string {
			return `{"type":"m.login.application_service","username":"` + username + `"` + more + `}`
		}
		login := func(user string) string {
			return `{"type":"m.login.application_service","identifier":{"type":"m.id.user","user":"` + user + `"}}`
		}
		// Accounts.
		want(srv.Do(t, "POST", v3+"/register", "", service("ghost_a", "")), 401, "M_MISSING_TOKEN")
		want(srv.Do(t, "POST", v3+"/register", "nothing", service("ghost_a", "")), 401, "M_UNKNOWN_TOKEN")
		want(srv.Do(t, "POST", v3+"/register", alice.AccessToken, service("ghost_a", "")), 401, "M_UNKNOWN_TOKEN")
		want(srv.Do(t, "POST", v3+"/register", token, service("zoe", "")), 400, "M_EXCLUSIVE")
		want(srv.Do(t, "POST", v3+"/register", token, service("", "")), 400, "M_MISSING_PARAM")
		if made := want(srv.Do(t, "POST", v3+"/register", token, service("ghost_a", `,"inhibit_login":true`)), 200, ""); made.Get("access_token").Exists() {
			t.Errorf("a login that was not asked for: %s", made.Body)
		}
		want(srv.Do(t, "POST", v3+"/register", token, service("ghost_a", "")), 400, "M_USER_IN_USE")
		if made := want(srv.Do(t, "POST", v3+"/register", token, service("ghost_b", "")), 200, ""); made.Get("access_token").Str == "" {
			t.Errorf("no login: %s", made.Body)
		}
		for _, name := range []string{"ghost_c", "bridgebot"} {
			want(srv.Do(t, "POST", v3+"/register", "", `{"username":"`+name+`","password":"a good one","auth":{"type":"m.login.dummy"}}`), 400, "M_EXCLUSIVE")
			want(srv.Do(t, "GET", query("/register/available", "username", name), "", nil), 400, "M_EXCLUSIVE")
		}
		// Logins.
		want(srv.Do(t, "POST", v3+"/login", "", login("ghost_a")), 401, "M_MISSING_TOKEN")
		want(srv.Do(t, "POST", v3+"/login", alice.AccessToken, login("ghost_a")), 401, "M_UNKNOWN_TOKEN")
		want(srv.Do(t, "POST", v3+"/login", token, login(string(alice.UserID))), 400, "M_EXCLUSIVE")
		own := want(srv.Do(t, "POST", v3+"/login", token, login("ghost_a")), 200, "")
		want(srv.Do(t, "GET", v3+"/account/whoami", own.Get("access_token").Str, nil), 200, "")
		// Whom it acts for.
		ghost := "@ghost_a:localhost"
		for _, as := range []struct {
			query  []string
			status int
			code   string
			user   string
			device string
		}{
			{nil, 200, "", "@bridgebot:localhost", ""},
			{[]string{"user_id", ghost}, 200, "", ghost, ""},
			{[]string{"user_id", ghost, "device_id", own.Get("device_id").Str}, 200, "", ghost, own.Get("device_id").Str},
			{[]string{"user_id", ghost, "org.matrix.msc3202.device_id", own.Get("device_id").Str}, 200, "", ghost, own.Get("device_id").Str},
			{[]string{"user_id", ghost, "device_id", "none"}, 400, "M_UNKNOWN_DEVICE", "", ""},
			{[]string{"device_id", own.Get("device_id").Str}, 400, "M_UNKNOWN_DEVICE", "", ""},
			{[]string{"user_id", "@ghost_none:localhost"}, 403, "M_FORBIDDEN", "", ""},
			{[]string{"user_id", "@ghost_a:example.org"}, 403, "M_FORBIDDEN", "", ""},
			{[]string{"user_id", string(alice.UserID)}, 403, "M_FORBIDDEN", "", ""},
			{[]string{"user_id", "ghost"}, 403, "M_FORBIDDEN", "", ""},
		} {
			resp := want(srv.Do(t, "GET", query("/account/whoami", as.query...), token, nil), as.status, as.code)
			if resp.Get("user_id").Str != as.user || resp.Get("device_id").Str != as.device {
				t.Errorf("%v: %s", as.query, resp.Body)
			}
		}
		// A person can't act for another.
		if resp := want(srv.Do(t, "GET", query("/account/whoami", "user_id", ghost), alice.AccessToken, nil), 200, ""); resp.Get("user_id").Str != string(alice.UserID) {
			t.Errorf("alice is %s", resp.Body)
		}
		// Devices.
		want(srv.Do(t, "PUT", query("/devices/NEW", "user_id", ghost), token, `{"display_name":"new"}`), 200, "")
		want(srv.Do(t, "PUT", query("/devices/NEW", "user_id", ghost), token, `{"display_name":"newer"}`), 200, "")
		if d := want(srv.Do(t, "GET", query("/devices/NEW", "user_id", ghost), token, nil), 200, ""); d.Get("display_name").Str != "newer" {
			t.Errorf("the device is %s", d.Body)
		}
		want(alice.Do("PUT", v3+"/devices/NEW", map[string]any{"display_name": "new"}), 404, "M_NOT_FOUND")
		want(srv.Do(t, "POST", query("/keys/upload", "user_id", ghost), token, `{}`), 400, "M_MISSING_PARAM")
		want(srv.Do(t, "POST", query("/keys/upload", "user_id", ghost, "device_id", "NEW"), token, `{}`), 200, "")
		want(srv.Do(t, "DELETE", query("/devices/NEW", "user_id", ghost), token, `{}`), 200, "")
		want(srv.Do(t, "POST", query("/delete_devices", "user_id", ghost), token, map[string]any{"devices": []string{own.Get("device_id").Str}}), 200, "")
		want(srv.Do(t, "GET", v3+"/account/whoami", own.Get("access_token").Str, nil), 401, "M_UNKNOWN_TOKEN")
		// Aliases.
		room := alice.NewRoom(nil)
		alias := func(name string) string { return harness.Path("v3", "directory", "room", "#"+name+":localhost") }
		body := map[string]any{"room_id": room}
		want(alice.Do("PUT", alias("bridged_a"), body), 400, "M_EXCLUSIVE")
		want(alice.Do("POST", v3+"/createRoom", map[string]any{"room_alias_name": "bridged_a"}), 400, "M_EXCLUSIVE")
		want(srv.Do(t, "PUT", alias("mine"), token, body), 400, "M_EXCLUSIVE")
		want(srv.Do(t, "PUT", alias("bridged_a"), token, body), 200, "")
		want(alice.Do("DELETE", alias("bridged_a"), nil), 400, "M_EXCLUSIVE")
		want(srv.Do(t, "DELETE", alias("bridged_a")+"?user_id="+ghost, token, nil), 200, "")
		want(srv.Do(t, "DELETE", alias("bridged_a"), token, nil), 404, "M_NOT_FOUND")
		// Times.
		for _, ts := range []string{"-1", "later", "99999999999999999"} {
			want(srv.Do(t, "PUT", query("/rooms/"+string(room)+"/send/m.x/1", "ts", ts), token, `{}`), 400, "M_INVALID_PARAM")
		}
		want(alice.Do("PUT", query("/rooms/"+string(room)+"/send/m.x/1", "ts", "later"), map[string]any{}), 200, "")
	})
}

// TestOnDemand has a bridge make users and rooms when they are asked for.
// spec: application-service-api.md#querying
func TestOnDemand(t *testing.T) {
	withBridge(t, func(t *testing.T, srv *harness.Server, b *harness.Bridge) {
		alice := srv.Register(t, "alice")
		var mu sync.Mutex
		asked := make(map[string]int)
		b.Asked = func(name string) bool {
			mu.Lock()
			asked[name]++
			mu.Unlock()
			switch name {
			case "#bridged_there:localhost":
				_, err := b.BotIntent().CreateRoom(context.Background(), &mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: "bridged_there"})
				return err == nil
			case "@ghost_there:localhost":
				return b.Intent("@ghost_there:localhost").SetDisplayName(context.Background(), "There") == nil
			}
			return false
		}
		if _, err := alice.JoinRoom(t.Context(), "#bridged_there:localhost", nil); err != nil {
			t.Error(err)
		}
		if _, err := alice.ResolveAlias(t.Context(), "#bridged_gone:localhost"); !errors.Is(err, mautrix.MNotFound) {
			t.Errorf("an alias that nobody makes: %v", err)
		}
		if p, err := alice.GetProfile(t.Context(), "@ghost_there:localhost"); err != nil || p.DisplayName != "There" {
			t.Errorf("the profile is %+v, %v", p, err)
		}
		if _, err := alice.GetProfile(t.Context(), "@ghost_gone:localhost"); !errors.Is(err, mautrix.MNotFound) {
			t.Errorf("a user whom nobody makes: %v", err)
		}
		alice.NewRoom(&mautrix.ReqCreateRoom{Invite: []id.UserID{"@ghost_invited:localhost"}})
		alice.GetProfile(t.Context(), alice.UserID)
		mu.Lock()
		defer mu.Unlock()
		want := map[string]int{"#bridged_there:localhost": 1, "#bridged_gone:localhost": 1, "@ghost_there:localhost": 1, "@ghost_gone:localhost": 1, "@ghost_invited:localhost": 1}
		if !maps.Equal(asked, want) {
			t.Errorf("the bridge was asked for %v; want %v", asked, want)
		}
	})
}

// TestBridgeAfar has somebody of another server invite a bridge's ghost, whom the bridge makes for that, to a room that
// nobody here is in.
// spec: application-service-api.md#pushing-events
func TestBridgeAfar(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		b := harness.NewBridge(t)
		srv, other := network.Parley(t, db, b.Settings()), network.Parley(t, harness.Database{Kind: "sqlite"}, "")
		b.Connect(srv)
		b.Asked = func(name string) bool { return b.Intent(id.UserID(name)).EnsureRegistered(context.Background()) == nil }
		ghost := id.NewUserID("ghost_afar", srv.Name)
		alice := other.Register(t, "alice")
		room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Name: "far away", Invite: []id.UserID{ghost}})
		var invited *event.Event
		eventually.OK(t, func() error {
			for _, e := range b.Got() {
				if e.RoomID == room && e.GetStateKey() == string(ghost) {
					invited = e
					return nil
				}
			}
			return errors.New("the bridge is not told of the invitation")
		})
		if !slices.ContainsFunc(invited.Unsigned.InviteRoomState, func(e *event.Event) bool { return e.Type == event.StateRoomName }) {
			t.Errorf("the invitation does not say what the room is called: %+v", invited.Unsigned)
		}
		if _, err := b.Client(ghost).JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{other.Name}}); err != nil {
			t.Fatal(err)
		}
		eventually.OK(t, func() error {
			members, err := alice.JoinedMembers(t.Context(), room)
			if err == nil && len(members.Joined) != 2 {
				err = fmt.Errorf("%d are in the room", len(members.Joined))
			}
			return err
		})
		alice.Say(room, "hello from afar")
		heard(t, b, room, "hello from afar")
	})
}
