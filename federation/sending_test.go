package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/internal/testserver"
	"parley/roomserver"
	"parley/storage"
)

// text is an event as its server has it.
func text(t testing.TB, s *testserver.Server, event id.EventID) json.RawMessage {
	t.Helper()
	row, err := storage.Get(context.Background(), s.DB, func(tx *storage.Tx) (storage.Event, error) { return tx.GetEvent(event) })
	ok(t, err)
	return row.JSON
}

// TestTransaction sends good events among bad ones: each has a result of its own, and a transaction
// that comes again has the same, whatever it says then.
func TestTransaction(t *testing.T) {
	a, b, c := three(t, "")
	room, other := create(t, a, "12"), create(t, c, "12")
	join(t, b, room, a.Name)
	join(t, c, room, a.Name)
	first, second, third := say(t, b, room, "one"), say(t, b, room, "two"), say(t, b, room, "three")
	forged, elsewhere := say(t, c, room, "signed by another"), say(t, c, other, "a room that nobody here is in")
	badSignature := json.RawMessage(strings.Replace(string(text(t, c, forged)), `"c.example":{"ed25519:1":"`, `"c.example":{"ed25519:1":"AAAA`, 1))
	edited := json.RawMessage(strings.Replace(string(text(t, b, third)), `"three"`, `"3"`, 1))
	const path = "/_matrix/federation/v1/send/"
	send := func(txn string, pdus ...any) gjson.Result {
		t.Helper()
		status, answer := b.Ask(t, a.Name, "PUT", path+txn, map[string]any{"origin": b.Name, "origin_server_ts": 1, "pdus": pdus})
		if status != http.StatusOK {
			t.Fatalf("transaction %s answers %d %s", txn, status, answer)
		}
		return gjson.GetBytes(answer, "pdus")
	}
	refused := func(results gjson.Result, event id.EventID) bool {
		return results.Get(gjson.Escape(string(event)) + ".error").Exists()
	}

	pdus := []any{7, map[string]any{}, text(t, b, first), badSignature, text(t, c, elsewhere), text(t, b, second), edited}
	results := send("1", pdus...)
	for event, bad := range map[id.EventID]bool{first: false, second: false, third: false, forged: true} {
		if !results.Get(gjson.Escape(string(event))).Exists() || refused(results, event) != bad {
			t.Errorf("of %s the results say %s", event, results.Raw)
		}
	}
	if again := send("1", text(t, c, forged)); again.Raw != results.Raw {
		t.Errorf("a transaction that comes again has %s", again.Raw)
	}
	// What was edited on its way is there without what it said.
	status, answer := b.Ask(t, a.Name, "GET", "/_matrix/federation/v1/event/"+url.PathEscape(string(third)), nil)
	if status != http.StatusOK || gjson.GetBytes(answer, "pdus.0.content").Raw != "{}" {
		t.Errorf("the edited event is %d %s", status, answer)
	}
	// The event whose signature was spoilt is not lost to the room: as its sender made it, it is taken,
	// whoever passes it on.
	if results := send("2", text(t, c, forged)); refused(results, forged) {
		t.Errorf("of the event of another server the results say %s", results.Raw)
	}
	if status, answer := b.Ask(t, a.Name, "PUT", path+"3", []any{}); status != http.StatusBadRequest || gjson.GetBytes(answer, "errcode").Str != "M_BAD_JSON" {
		t.Errorf("a list instead of a transaction answers %d %s", status, answer)
	}
	// One that holds too much is refused as a whole; where it would take much memory to see what, that is not looked at.
	for _, large := range []struct {
		list, entry string
		n           int
		says        string
	}{
		{"pdus", "0", 51, "PDUs"}, {"edus", "{}", 101, "EDUs"},
		{"pdus", "0", 2000, "entries"}, {"edus", "{}", 2000, "entries"}, {"others", "[]", 2000, "entries"},
	} {
		body := json.RawMessage(`{"` + large.list + `":[` + strings.Repeat(large.entry+",", large.n-1) + large.entry + `]}`)
		status, answer := b.Ask(t, a.Name, "PUT", path+"4", body)
		if e := gjson.ParseBytes(answer); status != http.StatusBadRequest || e.Get("errcode").Str != "M_INVALID_PARAM" || !strings.Contains(e.Get("error").Str, large.says) {
			t.Errorf("%d %s answer %d %s", large.n, large.list, status, answer)
		}
	}
}

// TestRestricted asks for templates of joins to a room for the members of another.
func TestRestricted(t *testing.T) {
	a, b, c := three(t, "")
	ctx := context.Background()
	space, foreign := create(t, a, "12"), create(t, b, "12")
	restrict := func(to id.RoomID) id.RoomID {
		return create(t, a, "12", roomserver.StateEvent{Type: spec.MRoomJoinRules,
			Content: fmt.Appendf(nil, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, to)})
	}
	room, unknown := restrict(space), restrict(foreign)
	join(t, b, space, a.Name)
	template := func(s *testserver.Server, room id.RoomID) (int, []byte) {
		t.Helper()
		return s.Ask(t, a.Name, "GET", "/_matrix/federation/v1/make_join/"+url.PathEscape(string(room))+"/"+string(s.User("u"))+"?ver=12", nil)
	}
	if status, answer := template(b, room); status != http.StatusOK || gjson.GetBytes(answer, "event.content.join_authorised_via_users_server").Str != string(a.User("u")) {
		t.Errorf("a member of the space is answered %d %s", status, answer)
	}
	if status, answer := template(c, room); status != http.StatusForbidden || gjson.GetBytes(answer, "errcode").Str != "M_FORBIDDEN" {
		t.Errorf("one who is not is answered %d %s", status, answer)
	}
	if status, answer := template(b, unknown); status != http.StatusBadRequest || gjson.GetBytes(answer, "errcode").Str != "M_UNABLE_TO_AUTHORISE_JOIN" {
		t.Errorf("one whose membership can't be known is answered %d %s", status, answer)
	}
	// A join that names who authorises it, though nobody did.
	_, answer := template(b, room)
	forged := strings.NewReplacer(string(b.User("u")), string(c.User("u")), `"b.example"`, `"c.example"`).Replace(gjson.GetBytes(answer, "event").Raw)
	event, raw := complete(t, c, "12", forged)
	status, answer := c.Ask(t, a.Name, "PUT", "/_matrix/federation/v2/send_join/"+url.PathEscape(string(room))+"/"+url.PathEscape(event), raw)
	if status != http.StatusForbidden || gjson.GetBytes(answer, "errcode").Str != "M_FORBIDDEN" {
		t.Errorf("its join answers %d %s", status, answer)
	}
	join(t, b, room, a.Name)
	for user, want := range map[id.UserID]string{b.User("u"): spec.Join, c.User("u"): spec.Leave} {
		if got, err := a.Rooms.Membership(ctx, user, room); err != nil || got != want {
			t.Errorf("%s is %s, %v", user, got, err)
		}
	}
}

// FuzzRequests has a server that is in a room send any body to each endpoint that takes one, with its good signature:
// it is refused or taken in, and is never a failure of ours.
func FuzzRequests(f *testing.F) {
	a, b, _ := three(f, "")
	room := create(f, a, "10")
	join(f, b, room, a.Name)
	const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
	// With the room and the ID of the event that is the body, if it is one.
	endpoints := []string{
		"PUT " + v1 + "/send/%[3]d",
		"PUT " + v2 + "/send_join/%[1]s/%[2]s?omit_members=true",
		"PUT " + v2 + "/send_leave/%[1]s/%[2]s",
		"PUT " + v1 + "/send_knock/%[1]s/%[2]s",
		"PUT " + v1 + "/invite/%[1]s/%[2]s",
		"PUT " + v2 + "/invite/%[1]s/%[2]s",
		"PUT " + v1 + "/exchange_third_party_invite/%[1]s",
		"POST " + v1 + "/get_missing_events/%[1]s",
		"POST " + v1 + "/user/keys/query",
		"POST " + v1 + "/user/keys/claim",
		"POST " + v1 + "/publicRooms",
	}
	made := func(version gomatrixserverlib.RoomVersion, content string, user id.UserID) json.RawMessage {
		_, raw := complete(f, b, version, fmt.Sprintf(`{"type":"m.room.member","room_id":%q,"sender":%q,"state_key":%q,"content":%s,
			"depth":9,"prev_events":[],"auth_events":[]}`, room, b.User("u"), user, content))
		return raw
	}
	said := say(f, b, room, "hello")
	for i, body := range []string{
		fmt.Sprintf(`{"origin":"b.example","origin_server_ts":1,"pdus":[%s,7],"edus":[{"edu_type":"m.typing","content":{}}]}`, text(f, b, said)),
		string(made("10", `{"membership":"join"}`, b.User("u"))),
		string(made("10", `{"membership":"leave"}`, b.User("u"))),
		string(made("10", `{"membership":"knock"}`, b.User("u"))),
		string(made("1", `{"membership":"invite"}`, a.User("w"))),
		fmt.Sprintf(`{"room_version":"10","event":%s,"invite_room_state":[{"type":"m.room.name","state_key":"","sender":"@u:b.example","content":{}}]}`,
			made("10", `{"membership":"invite"}`, a.User("w"))),
		fmt.Sprintf(`{"type":%q,"room_id":%q,"sender":%q,"state_key":"@v:b.example","content":{"membership":"invite","third_party_invite":
			{"display_name":"u","signed":{"mxid":"@v:b.example","token":"t","signatures":{}}}}}`, spec.MRoomMember, room, a.User("u")),
		fmt.Sprintf(`{"earliest_events":[],"latest_events":[%q],"limit":20,"min_depth":1}`, said),
		`{"device_keys":{"@u:a.example":["D"],"@v:a.example":[]}}`,
		`{"one_time_keys":{"@u:a.example":{"D":"signed_curve25519"}}}`,
		`{"limit":3,"since":"1","filter":{"generic_search_term":"x","room_types":[null,"m.space"]}}`,
	} {
		f.Add(byte(i), body)
	}
	n := 0
	f.Fuzz(func(t *testing.T, endpoint byte, body string) {
		if _, err := signedjson.Canonical([]byte(body)); err != nil || !strings.HasPrefix(body, "{") {
			return // it can't be signed, which is the business of others
		}
		event := id.EventID("$x")
		for _, version := range []id.RoomVersion{"10", "1"} {
			if pdu, err := roomserver.Parse(version, []byte(body)); err == nil {
				event = id.EventID(pdu.EventID())
				break
			}
		}
		n++
		method, path, _ := strings.Cut(endpoints[int(endpoint)%len(endpoints)], " ")
		path = strings.NewReplacer("%[1]s", url.PathEscape(string(room)), "%[2]s", url.PathEscape(string(event)), "%[3]d", fmt.Sprint(n)).Replace(path)
		status, answer := b.Ask(t, a.Name, method, path, json.RawMessage(body))
		if status >= http.StatusInternalServerError || !json.Valid(answer) {
			t.Errorf("%s %s answers %d %s", method, path, status, answer)
		}
	})
}
