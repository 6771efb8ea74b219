package client

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestErrors is the chapter on what clients must not send, and on what they are told then.
// spec: client-server-api/index.md#standard-error-response
func TestErrors(t *testing.T) {
	harness.Stories(t, unknownEndpoints, tokens, brokenBodies, wrongTypes, noBody, canonicalNumbers,
		nesting, bigEvents, longIdentifiers, oddIdentifiers, oddKeys, nulBytes, everyPathWithNonsense)
}

// sendPath is a place to send an event to, of a type without rules for its content, with a fresh transaction.
func sendPath(room id.RoomID) string {
	return roomPath("v3", room, "send", "org.example.thing", suffix())
}

// spec: client-server-api/index.md#common-error-codes
func unknownEndpoints(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	for _, path := range []string{
		"/_matrix/client/v3/nonsense", "/_matrix/client/v99/sync", "/_matrix/client/unstable/org.example/nothing",
		"/_matrix/client", "/_matrix/client/v3", "/_matrix/nonsense", "/_matrix/client/v3/rooms", "/_matrix/client/v3/sync/",
	} {
		t.Run(path, func(t *testing.T) {
			srv.Do(t, "GET", path, alice.AccessToken, nil).WantError(t, 404, "M_UNRECOGNIZED")
			srv.Do(t, "POST", path, "", "{}").WantError(t, 404, "M_UNRECOGNIZED")
		})
	}
	for _, c := range []struct{ method, path string }{
		{"POST", "/_matrix/client/v3/sync"}, {"DELETE", "/_matrix/client/v3/createRoom"}, {"PATCH", "/_matrix/client/v3/login"},
		{"GET", "/_matrix/client/v3/logout"}, {"PUT", "/_matrix/client/versions"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			srv.Do(t, c.method, c.path, alice.AccessToken, "{}").WantError(t, 405, "M_UNRECOGNIZED")
		})
	}
}

func tokens(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	path := harness.Path("v3", "account", "whoami")
	srv.Do(t, "GET", path, "", nil).WantError(t, 401, "M_MISSING_TOKEN")
	srv.Do(t, "GET", path, "nonsense", nil).WantError(t, 401, "M_UNKNOWN_TOKEN")
	srv.Do(t, "GET", path, alice.AccessToken+"x", nil).WantError(t, 401, "M_UNKNOWN_TOKEN")
	// The query parameter is deprecated, and still a way to send it.
	// spec: client-server-api/index.md#using-access-tokens
	srv.Do(t, "GET", path+"?access_token="+alice.AccessToken, "", nil).WantOK(t)
	// A token is asked for before the body is looked at.
	srv.Do(t, "POST", harness.Path("v3", "createRoom"), "", "{broken").WantError(t, 401, "M_MISSING_TOKEN")
}

func brokenBodies(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	for _, c := range []struct{ name, body, errcode string }{
		{"nothing", "", "M_NOT_JSON"},
		{"no JSON", "hello", "M_NOT_JSON"},
		{"cut short", `{"body":"x"`, "M_NOT_JSON"},
		{"two values", `{"body":"x"}{"body":"y"}`, "M_NOT_JSON"},
		{"a trailing comma", `{"body":"x",}`, "M_NOT_JSON"},
		{"bad UTF-8", "{\"body\":\"\xff\xfe\"}", "M_NOT_JSON"},
		{"a list", `[]`, "M_BAD_JSON"},
		{"a string", `"x"`, "M_BAD_JSON"},
		{"a number", `7`, "M_BAD_JSON"},
		{"null", `null`, "M_BAD_JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []struct{ method, path string }{
				{"PUT", sendPath(room)},
				{"PUT", roomPath("v3", room, "state", "org.example.state", "")},
				{"POST", harness.Path("v3", "createRoom")},
				{"PUT", harness.Path("v3", "user", alice.UserID.String(), "account_data", "org.example.data")},
			} {
				srv.Do(t, r.method, r.path, alice.AccessToken, c.body).WantError(t, 400, c.errcode)
			}
		})
	}
}

func wrongTypes(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	for _, c := range []struct{ method, path, body string }{
		{"POST", harness.Path("v3", "createRoom"), `{"name":7}`},
		{"POST", harness.Path("v3", "createRoom"), `{"invite":"@bob:localhost"}`},
		{"POST", harness.Path("v3", "createRoom"), `{"preset":"chaos"}`},
		{"POST", harness.Path("v3", "createRoom"), `{"visibility":"sideways"}`},
		{"POST", harness.Path("v3", "createRoom"), `{"initial_state":{}}`},
		{"POST", harness.Path("v3", "login"), `{"type":["m.login.password"]}`},
		{"POST", harness.Path("v3", "login"), `{"type":"m.login.password","identifier":"alice","password":"x"}`},
		{"POST", roomPath("v3", room, "invite"), `{"user_id":["@bob:localhost"]}`},
		{"POST", roomPath("v3", room, "join"), `{"reason":{}}`},
		{"PUT", roomPath("v3", room, "typing", alice.UserID.String()), `{"typing":"yes"}`},
		{"POST", roomPath("v3", room, "read_markers"), `{"m.read":7}`},
		{"PUT", harness.Path("v3", "profile", alice.UserID.String(), "displayname"), `{"displayname":{}}`},
	} {
		t.Run(strings.ReplaceAll(c.path, string(room), "ROOM")+" "+c.body, func(t *testing.T) {
			srv.Do(t, c.method, c.path, alice.AccessToken, c.body).WantError(t, 400, badValue)
		})
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", harness.Path("v3", "login"), `{}`},
		{"POST", roomPath("v3", room, "invite"), `{}`},
		{"POST", roomPath("v3", room, "kick"), `{}`},
		{"POST", harness.Path("v3", "refresh"), `{}`},
		{"PUT", roomPath("v3", room, "typing", alice.UserID.String()), `{}`},
	} {
		t.Run(strings.ReplaceAll(c.path, string(room), "ROOM")+" without its keys", func(t *testing.T) {
			srv.Do(t, c.method, c.path, alice.AccessToken, c.body).WantError(t, 400, missingKey)
		})
	}
}

// noBody: the endpoints that the specification excepts take none.
// spec: client-server-api/index.md#api-standards
func noBody(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	alice.Login().Do("POST", harness.Path("v3", "logout"), nil).WantOK(t)
	alice.Do("POST", harness.Path("v3", "logout", "all"), nil).WantOK(t)
}

// spec: appendices.md#canonical-json
func canonicalNumbers(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	for _, number := range []string{"9007199254740992", "-9007199254740992", "1.5", "1e100", "123456789012345678901234567890"} {
		t.Run(number, func(t *testing.T) {
			srv.Do(t, "PUT", sendPath(room), alice.AccessToken, `{"body":{"n":[`+number+`]}}`).WantError(t, 400, badValue)
			srv.Do(t, "PUT", roomPath("v3", room, "state", "org.example.state", ""), alice.AccessToken, `{"n":`+number+`}`).WantError(t, 400, badValue)
		})
	}
	for _, number := range []string{"9007199254740991", "-9007199254740991", "0", "-1"} {
		sent := alice.Do("PUT", sendPath(room), `{"body":{"n":`+number+`}}`).WantOK(t).Get("event_id").String()
		got := alice.Do("GET", roomPath("v3", room, "event", sent), nil).WantOK(t)
		equal(t, "the number", got.Get("content.body.n").Raw, number)
	}
	// What is no event may hold any JSON.
	data := harness.Path("v3", "user", alice.UserID.String(), "account_data", "org.example.float")
	alice.Do("PUT", data, `{"n":1.5}`).WantOK(t)
	equal(t, "the float", alice.Do("GET", data, nil).WantOK(t).Get("n").Raw, "1.5")
}

// nesting: what is too deep is refused, and nothing falls over.
func nesting(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	nested := func(depth int) string {
		return `{"body":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
	}
	alice.Do("PUT", sendPath(room), nested(20)).WantOK(t)
	for _, depth := range []int{20_000, 30_000} {
		equal(t, fmt.Sprintf("the status of depth %d", depth), alice.Do("PUT", sendPath(room), nested(depth)).Status, 400)
	}
	alice.Say(room, "still here")
}

// spec: client-server-api/index.md#size-limits
func bigEvents(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	body := func(n int) map[string]any {
		return map[string]any{"msgtype": "m.text", "body": strings.Repeat("x", n)}
	}
	alice.Do("PUT", sendPath(room), body(60_000)).WantOK(t)
	alice.Do("PUT", sendPath(room), body(65_400)).WantError(t, 413, "M_TOO_LARGE")
	alice.Do("PUT", sendPath(room), body(70_000)).WantError(t, 413, "M_TOO_LARGE")
	alice.Do("PUT", roomPath("v3", room, "state", "org.example.state", ""), body(70_000)).WantError(t, 413, "M_TOO_LARGE")
	// The bytes count, not the characters, and not those of the request: escapes are a writer's choice.
	alice.Do("PUT", sendPath(room), map[string]any{"body": strings.Repeat("€", 30_000)}).WantError(t, 413, "M_TOO_LARGE")
	alice.Do("PUT", sendPath(room), `{"body":"`+strings.Repeat(`\u0041`, 15_000)+`"}`).WantOK(t)
	// A body of no sensible size is not read to its end: the answer may come, or the connection end, while the client
	// still writes.
	req, err := http.NewRequestWithContext(t.Context(), "PUT", srv.URL+sendPath(room), strings.NewReader(`{"body":"`+strings.Repeat("x", 64<<20)+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice.AccessToken)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		equal(t, "the status of 64 MiB", resp.StatusCode, http.StatusRequestEntityTooLarge)
	}
	alice.Say(room, "still here")
}

// spec: appendices.md#identifier-grammar
func longIdentifiers(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	long := strings.Repeat("x", 256)
	alice.Do("PUT", roomPath("v3", room, "send", "org.example."+long[:243], suffix()), "{}").WantOK(t) // of 255 bytes
	for _, c := range []struct {
		name, method, path string
		body               any
	}{
		{"type", "PUT", roomPath("v3", room, "send", long, suffix()), map[string]any{}},
		{"state key", "PUT", roomPath("v3", room, "state", "org.example.state", long), map[string]any{}},
		{"state type", "PUT", roomPath("v3", room, "state", long, ""), map[string]any{}},
		{"invited user", "POST", roomPath("v3", room, "invite"), map[string]any{"user_id": "@" + long + ":localhost"}},
		{"alias", "PUT", harness.Path("v3", "directory", "room", "#"+long+":localhost"), map[string]any{"room_id": room}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := srv.Do(t, c.method, c.path, alice.AccessToken, c.body)
			if resp.Status != 400 && resp.Status != 413 || resp.Get("errcode").String() == "" {
				t.Errorf("answered with %d %s; want 400 or 413 and an errcode", resp.Status, resp.Body)
			}
		})
	}
	_, err := srv.Anonymous(t).RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: long, Password: "a password"})
	harness.WantError(t, err, 400, "M_INVALID_USERNAME")
}

func oddIdentifiers(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	for _, room := range []string{"nonsense", "!", "#alias:localhost", "@user:localhost", "!nowhere:localhost", "!ü:localhost", "!a/b:localhost", "!%2F:localhost"} {
		t.Run(room, func(t *testing.T) {
			for _, r := range []struct {
				method, path string
				body         any
			}{
				{"GET", roomPath("v3", id.RoomID(room), "state"), nil},
				{"GET", roomPath("v3", id.RoomID(room), "members"), nil},
				{"PUT", sendPath(id.RoomID(room)), map[string]any{}},
			} {
				resp := srv.Do(t, r.method, r.path, alice.AccessToken, r.body)
				if resp.Status < 400 || resp.Status > 404 || resp.Get("errcode").String() == "" {
					t.Errorf("%s %s was answered with %d %s; want 400, 403 or 404", r.method, r.path, resp.Status, resp.Body)
				}
			}
		})
	}
	for _, alias := range []string{"nonsense", "#nothing", "#none:localhost:99999x", "#" + strings.Repeat("a", 300) + ":localhost"} {
		resp := alice.Do("GET", harness.Path("v3", "directory", "room", alias), nil)
		if resp.Status != 400 && resp.Status != 404 {
			t.Errorf("the alias %q was answered with %d %s; want 400 or 404", alias, resp.Status, resp.Body)
		}
	}
	alice.Do("POST", harness.Path("v3", "join", "nonsense"), map[string]any{}).WantError(t, 400, "M_INVALID_PARAM")
}

// nulBytes: PostgreSQL's text holds no NUL, and SQLite's does; a client must see no difference.
func nulBytes(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.CaughtUp()
	said := alice.Send(room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": "a\x00b", "a\x00key": "\x00"})
	equal[any](t, "the body", contents(seen.UntilEvent(room, said))["body"], "a\x00b")
	equal[any](t, "the value of the key", contents(alice.Event(room, said))["a\x00key"], "\x00")

	for _, c := range []struct {
		name, method, path string
		body               any
	}{
		{"a state key", "PUT", roomPath("v3", room, "state", "org.example.state", "a\x00b"), map[string]any{}},
		{"a type", "PUT", roomPath("v3", room, "send", "org.example\x00", suffix()), map[string]any{}},
		{"a transaction id", "PUT", roomPath("v3", room, "send", "m.room.message", "a\x00"+suffix()), map[string]any{"body": "x"}},
		{"an account data type", "PUT", harness.Path("v3", "user", alice.UserID.String(), "account_data", "a\x00b"), map[string]any{}},
		{"an event id", "GET", roomPath("v3", room, "event", "$\x00"), nil},
		{"an alias", "GET", harness.Path("v3", "directory", "room", "#\x00:localhost"), nil},
		{"a user", "GET", harness.Path("v3", "profile", "@\x00:localhost"), nil},
		{"a device", "GET", harness.Path("v3", "devices", "\x00"), nil},
		{"a device's name", "PUT", harness.Path("v3", "devices", alice.DeviceID.String()), map[string]any{"display_name": "\x00"}},
		{"a display name", "PUT", harness.Path("v3", "profile", alice.UserID.String(), "displayname"), map[string]any{"displayname": "\x00"}},
		{"a topic", "PUT", roomPath("v3", room, "state", "m.room.topic", ""), map[string]any{"topic": "a\x00b"}},
		{"a search for people", "POST", harness.Path("v3", "user_directory", "search"), map[string]any{"search_term": "\x00"}},
		{"a search for rooms", "POST", harness.Path("v3", "publicRooms"), map[string]any{"filter": map[string]any{"generic_search_term": "\x00"}}},
		{"a login", "POST", harness.Path("v3", "login"), map[string]any{
			"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": "\x00"}, "password": "\x00"}},
		{"a push rule", "PUT", harness.Path("v3", "pushrules", "global", "content", "a\x00"), map[string]any{"pattern": "\x00", "actions": []any{}}},
		{"a to-device message", "PUT", harness.Path("v3", "sendToDevice", "org.example.\x00", suffix()), map[string]any{
			"messages": map[string]any{alice.UserID.String(): map[string]any{"*": map[string]any{"a": "\x00"}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := srv.Do(t, c.method, c.path, alice.AccessToken, c.body)
			if resp.Status >= 500 {
				t.Errorf("answered with %d %s; want a refusal or a success, and no failure", resp.Status, resp.Body)
			}
			if resp.Status >= 400 && resp.Get("errcode").String() == "" {
				t.Errorf("refused with %d %s; want an errcode", resp.Status, resp.Body)
			}
		})
	}
	alice.Stream().Next()
}

// oddKeys: a key of a content is text like any other, quotes and line ends included, and can't break out of it.
func oddKeys(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	forged := `a":1},"sender":"` + alice.UserID.String() + `","unsigned":{"b`
	bob.Send(room, custom("odd", event.MessageEventType), map[string]any{forged: "x"})
	want := map[string]any{forged: "x", `"`: "quote", `\`: "backslash", "\n\t\r\b\f\x00\x1f": "control", "\u2028é😀<&>": "wide", "": "empty"}
	for _, said := range []id.EventID{
		bob.Send(room, custom("odd", event.MessageEventType), want),
		alice.SetState(room, custom("odd", event.StateEventType), "", want),
	} {
		evt := alice.Event(room, said)
		if !maps.Equal(contents(evt), want) {
			t.Errorf("the content came back as %q; want %q", contents(evt), want)
		}
	}
	for _, evt := range bob.Page(room, "", mautrix.DirectionBackward, 50) {
		if evt.Type.Type == "org.example.odd" && evt.StateKey == nil {
			equal(t, "the sender", evt.Sender, bob.UserID)
		}
	}
}

// everyPathWithNonsense calls endpoints with values that fit nowhere. Whatever the answer is, it is not the server's
// failure, and it is a JSON object.
func everyPathWithNonsense(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := string(alice.NewRoom(nil))
	bodies := []string{`{}`, `{"auth":{"type":7,"session":[]}}`, `{"user_id":{},"devices":7,"messages":[],"device_keys":7,"filter":7,"rooms":7}`}
	for _, c := range []struct{ method, path string }{
		{"GET", "/v3/sync?filter=%00&since=%00&timeout=-1"},
		{"GET", "/v3/sync?filter=99999999999999999999"},
		{"GET", "/v3/sync?timeout=99999999999999999999"},
		{"GET", "/v3/rooms/" + room + "/messages?dir=b&limit=-5"},
		{"GET", "/v3/rooms/" + room + "/messages?dir=b&limit=99999999999999999999"},
		{"GET", "/v3/rooms/" + room + "/messages?dir=b&from=s-1&to=%ff"},
		{"GET", "/v3/rooms/" + room + "/context/%00?limit=x"},
		{"GET", "/v3/rooms/" + room + "/members?at=nonsense&membership=dancing"},
		{"GET", "/v1/rooms/" + room + "/relations/$x?dir=q&limit=-1&from=x"},
		{"GET", "/v1/rooms/" + room + "/threads?limit=-1&from=x"},
		{"GET", "/v3/publicRooms?limit=-1&since=nonsense"},
		{"POST", "/v3/publicRooms"},
		{"POST", "/v3/search"},
		{"POST", "/v3/delete_devices"},
		{"POST", "/v3/account/password"},
		{"POST", "/v3/register?kind=robot"},
		{"POST", "/v3/user/" + alice.UserID.String() + "/filter"},
		{"POST", "/v3/rooms/" + room + "/read_markers"},
		{"POST", "/v3/rooms/" + room + "/receipt/m.read/%00"},
		{"PUT", "/v3/sendToDevice/x/%00"},
		{"POST", "/v3/keys/upload"},
		{"POST", "/v3/keys/query"},
		{"PUT", "/v3/pushrules/global/override/x"},
		{"PUT", "/v3/presence/" + alice.UserID.String() + "/status"},
	} {
		t.Run(c.method+" "+strings.ReplaceAll(c.path, room, "ROOM"), func(t *testing.T) {
			for _, body := range bodies {
				var sent any
				if c.method != http.MethodGet {
					sent = body
				}
				resp := srv.Do(t, c.method, "/_matrix/client"+c.path, alice.AccessToken, sent)
				if resp.Status >= 500 || !strings.HasPrefix(strings.TrimSpace(string(resp.Body)), "{") {
					t.Errorf("%s was answered with %d %s", body, resp.Status, resp.Body)
				}
			}
		})
	}
}
