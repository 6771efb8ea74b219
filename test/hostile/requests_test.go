package hostile

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix"

	"parley/test/harness"
)

// refusedRequests are the lines of the server's log that say that a request of another server was refused.
func refusedRequests(s *harness.Server) []string {
	var lines []string
	for line := range strings.Lines(s.Logs()) {
		if strings.Contains(line, "a server's request was refused") && strings.Contains(line, "route=") && strings.Contains(line, "reason=") {
			lines = append(lines, line)
		}
	}
	return lines
}

// refused is a request that must be refused with the errcode, logged and counted once.
func (s *scene) refused(t *testing.T, route, status, errcode string, ask func() harness.Response) {
	t.Helper()
	logged := len(refusedRequests(s.parley))
	series := fmt.Sprintf(`parley_http_requests_total{method="PUT",route="%s",status="%s"}`, route, status)
	counted := s.parley.Figure(series)
	resp := ask()
	if fmt.Sprint(resp.Status) != status || resp.Get("errcode").Str != errcode {
		t.Errorf("the answer is %d %s; want %s %s", resp.Status, resp.Body, status, errcode)
	}
	if lines := refusedRequests(s.parley)[logged:]; len(lines) != 1 {
		t.Errorf("the log has %d lines on it: %q; want one", len(lines), lines)
	}
	if now := s.parley.Figure(series); now != counted+1 {
		t.Errorf("%s is %v; it was %v", series, now, counted)
	}
}

// TestOrigins sends a good event in requests of which it does not show who made them.
// spec: server-server-api.md#request-authentication
func TestOrigins(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		p := s.peer
		other := strings.Replace(p.name, "127.0.0.1", "localhost", 1) // reached at the same place, and has another name
		var path string
		var body []byte
		good := func() string { return p.authorization("PUT", path, body, s.parley.Name) }
		swap := func(old, new string) func() string {
			return func() string { return strings.Replace(good(), old, new, 1) }
		}
		cases := map[string]func() string{
			"nobody":                     func() string { return "" },
			"an access token":            func() string { return "Bearer " + s.alice.AccessToken },
			"a scheme that is none":      swap("X-Matrix", "Y-Matrix"),
			"Parley itself":              swap(`origin="`+p.name, `origin="`+s.parley.Name),
			"another server":             swap(`origin="`+p.name, `origin="`+other),
			"a server that is not there": swap(`origin="`+p.name, `origin="127.0.0.1:1`),
			"a name that is none":        swap(`origin="`+p.name, `origin="a/b`),
			"no origin":                  swap(`origin="`+p.name+`",`, ``),
			"for another server":         func() string { return p.authorization("PUT", path, body, other) },
			"by a key that nobody has":   swap(p.keyID, "ed25519:none"),
			"by a key of another kind":   swap(p.keyID, "rsa:a"),
			"no signature":               func() string { h, _, _ := strings.Cut(good(), ",sig="); return h },
			"a signature that is none":   swap(`sig="`, `sig="!`),
			"signed for another path":    func() string { return p.authorization("PUT", path+"x", body, s.parley.Name) },
			"signed for another method":  func() string { return p.authorization("POST", path, body, s.parley.Name) },
			"signed for another body":    func() string { return p.authorization("PUT", path, []byte("{}"), s.parley.Name) },
			"signed for no body":         func() string { return p.authorization("PUT", path, nil, s.parley.Name) },
			"the origin twice":           func() string { return good() + `,origin="` + other + `"` },
			"a header without end":       func() string { return good() + `,more="` + strings.Repeat("x", 10_000) + `"` },
			"a quote without end":        func() string { return good() + `,more="` },
		}
		before := s.state(t)
		for name, header := range cases {
			t.Run(name, func(t *testing.T) {
				path = "/_matrix/federation/v1/send/" + nextTransaction()
				body = marshal(p.transaction([]json.RawMessage{p.seal(s.room.message(evil)).raw}))
				s.refused(t, "/_matrix/federation/v1/send/{txnId}", "401", "M_UNAUTHORIZED", func() harness.Response {
					return p.doSigned("PUT", path, body, header())
				})
			})
		}
		s.unharmed(t, before)
	})
}

// TestTransactions sends transactions that are wrong as a whole.
// spec: server-server-api.md#transactions
func TestTransactions(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		p := s.peer
		pdus := func(n int) []json.RawMessage {
			list := make([]json.RawMessage, n)
			for i := range list {
				list[i] = p.seal(s.room.message(evil)).raw
			}
			return list
		}
		edus := make([]any, 101)
		for i := range edus {
			edus[i] = object{"edu_type": "m.typing", "content": object{"room_id": s.id, "user_id": s.room.user, "typing": true}}
		}
		with := func(field string, value any) []byte {
			txn := p.transaction(pdus(1))
			txn[field] = value
			return marshal(txn)
		}
		before := s.state(t)
		for name, c := range map[string]struct {
			body         []byte
			status, code string
		}{
			"of another origin":      {with("origin", s.parley.Name), "403", "M_FORBIDDEN"},
			"51 PDUs":                {marshal(p.transaction(pdus(51))), "400", "M_INVALID_PARAM"},
			"101 EDUs":               {marshal(p.transaction(pdus(1), edus...)), "400", "M_INVALID_PARAM"},
			"PDUs that are no list":  {with("pdus", object{"a": "b"}), "400", "M_BAD_JSON"},
			"EDUs that are no list":  {with("edus", "typing"), "400", "M_BAD_JSON"},
			"an EDU that is none":    {with("edus", []any{1}), "400", "M_BAD_JSON"},
			"a time that is none":    {with("origin_server_ts", "now"), "400", "M_BAD_JSON"},
			"a list":                 {[]byte("[]"), "400", "M_BAD_JSON"},
			"no body":                {nil, "400", "M_NOT_JSON"},
			"larger than one can be": {with("more", strings.Repeat("x", 10<<20)), "413", "M_TOO_LARGE"},
		} {
			t.Run(name, func(t *testing.T) {
				s.refused(t, "/_matrix/federation/v1/send/{txnId}", c.status, c.code, func() harness.Response {
					return p.do("PUT", "/_matrix/federation/v1/send/"+nextTransaction(), c.body)
				})
			})
		}
		t.Run("not JSON", func(t *testing.T) {
			s.refused(t, "/_matrix/federation/v1/send/{txnId}", "400", "M_NOT_JSON", func() harness.Response {
				path := "/_matrix/federation/v1/send/" + nextTransaction()
				return p.doSigned("PUT", path, []byte(`{"pdus":`), p.authorization("PUT", path, []byte("{}"), s.parley.Name))
			})
		})
		// Of PDUs that are no events, each is refused, and not the transaction.
		for name, pdu := range map[string]string{"number": `1`, "null": `null`, "list": `[]`, "empty": `{}`, "text": `"evil"`} {
			t.Run("a PDU that is "+name, func(t *testing.T) {
				txn := p.transaction([]json.RawMessage{json.RawMessage(pdu)})
				if resp := p.push(txn).WantOK(t); resp.Get("pdus.@keys.#").Int() != 0 {
					t.Errorf("the answer is %s", resp.Body)
				}
			})
		}
		s.unharmed(t, before)
	})
}

// TestMembers hands in joins, leaves, knocks and invites that are not what they must be.
// spec: server-server-api.md#joining-rooms
// spec: server-server-api.md#inviting-to-a-room
func TestMembers(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		p, r := s.peer, s.room
		other := s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: version})
		trudy := "@trudy:" + p.name
		const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
		member := func(membership string, changes ...any) event {
			fields := r.stateEvent(spec.MRoomMember, trudy, object{"membership": membership})
			fields["sender"] = trudy
			fields["auth_events"] = []string{r.state["m.room.create "], r.state["m.room.power_levels "], r.state["m.room.join_rules "]}
			for i := 0; i < len(changes); i += 2 {
				fields[changes[i].(string)] = changes[i+1]
			}
			return p.seal(fields)
		}
		unsigned := func(e event) event {
			var fields object
			if err := json.Unmarshal(e.raw, &fields); err != nil {
				t.Fatal(err)
			}
			fields["signatures"] = object{}
			return event{e.id, canonical(fields)}
		}
		invite := func(changes ...any) event {
			list := append([]any{"room_id", "!evil:" + p.name, "state_key", s.alice.UserID}, changes...)
			return member("invite", list...)
		}
		inviteBody := func(e event, version string) []byte {
			return marshal(object{"room_version": version, "event": e.raw, "invite_room_state": []any{}})
		}
		nothing := []string{"$" + strings.Repeat("A", 43)}
		cases := []struct {
			name, route, room string
			e                 event
			body              []byte // the event's, where nil
			status, code      string
		}{
			{"a join of a room that is not here", v2 + "/send_join", "!nothing:" + s.parley.Name, member("join"), nil, "404", "M_NOT_FOUND"},
			{"a join in another room", v2 + "/send_join", string(other), member("join"), nil, "400", "M_INVALID_PARAM"},
			{"a join that is none", v2 + "/send_join", "", member("leave"), nil, "400", "M_INVALID_PARAM"},
			{"a join that is a message", v2 + "/send_join", "", member("join", "type", "m.room.message"), nil, "400", "M_INVALID_PARAM"},
			{"a join of somebody else", v2 + "/send_join", "", member("join", "state_key", r.user), nil, "400", "M_INVALID_PARAM"},
			{"a join of Parley's user", v2 + "/send_join", "", member("join", "sender", "@carol:"+s.parley.Name, "state_key", "@carol:"+s.parley.Name), nil, "400", "M_INVALID_PARAM"},
			{"a join by another ID", v2 + "/send_join", "", event{nothing[0], member("join").raw}, nil, "400", "M_INVALID_PARAM"},
			{"a join without a signature", v2 + "/send_join", "", unsigned(member("join")), nil, "400", "M_INVALID_PARAM"},
			{"a join of negative depth", v2 + "/send_join", "", member("join", "depth", -1), nil, "400", "M_BAD_JSON"},
			{"a join behind nothing", v2 + "/send_join", "", member("join", "prev_events", nothing), nil, "400", "M_INVALID_PARAM"},
			{"a join by nothing", v2 + "/send_join", "", member("join", "auth_events", nothing), nil, "400", "M_INVALID_PARAM"},
			{"a join without join rules", v2 + "/send_join", "", member("join", "auth_events", r.auth()[:2]), nil, "403", "M_FORBIDDEN"},
			{"a leave of one who is not there", v2 + "/send_leave", "", member("leave", "auth_events", r.auth()[:2]), nil, "403", "M_FORBIDDEN"},
			{"a leave of Parley's user", v2 + "/send_leave", "", member("leave", "sender", s.bob.UserID, "state_key", s.bob.UserID), nil, "400", "M_INVALID_PARAM"},
			{"a kick as a leave", v2 + "/send_leave", "", member("leave", "sender", r.user, "state_key", s.bob.UserID), nil, "400", "M_INVALID_PARAM"},
			{"a knock where nobody knocks", v1 + "/send_knock", "", member("knock"), nil, "403", "M_FORBIDDEN"},
			{"an invite without a signature", v2 + "/invite", "!evil:" + p.name, unsigned(invite()), nil, "400", "M_INVALID_PARAM"},
			{"an invite in another's name", v2 + "/invite", "!evil:" + p.name, invite("sender", "@carol:"+s.parley.Name), nil, "400", "M_INVALID_PARAM"},
			{"an invite of a stranger", v2 + "/invite", "!evil:" + p.name, invite("state_key", "@carol:carol.example.org"), nil, "400", "M_INVALID_PARAM"},
			{"an invite that is a join", v2 + "/invite", "!evil:" + p.name, invite("content", object{"membership": "join"}), nil, "400", "M_INVALID_PARAM"},
			{"an invite to another room", v2 + "/invite", "!other:" + p.name, invite(), nil, "400", "M_INVALID_PARAM"},
			{"an invite by another ID", v2 + "/invite", "!evil:" + p.name, event{nothing[0], invite().raw}, nil, "400", "M_INVALID_PARAM"},
			{"an invite to a room of no version", v2 + "/invite", "!evil:" + p.name, invite(), inviteBody(invite(), "evil"), "400", "M_INCOMPATIBLE_ROOM_VERSION"},
		}
		before := s.state(t)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				room, route, body := c.room, c.route+"/{roomId}/{eventId}", c.body
				if room == "" {
					room = string(s.id)
				}
				if body == nil {
					if body = c.e.raw; strings.HasSuffix(c.route, "/invite") {
						body = inviteBody(c.e, version)
					}
				}
				s.refused(t, route, c.status, c.code, func() harness.Response {
					return p.do("PUT", c.route+"/"+url.PathEscape(room)+"/"+url.PathEscape(c.e.id), body)
				})
			})
		}
		s.unharmed(t, before)
		sync := s.alice.Do("GET", harness.Path("v3", "sync"), nil).WantOK(t)
		if invites := sync.Get("rooms.invite"); len(invites.Map()) > 0 {
			t.Errorf("alice is invited: %s", invites.Raw)
		}
		for name, c := range map[string]struct {
			path   string
			status int
			code   string
		}{
			"for Parley's user":      {"/make_join/" + url.PathEscape(string(s.id)) + "/" + url.PathEscape("@carol:"+s.parley.Name) + "?ver=" + version, 403, "M_FORBIDDEN"},
			"in a room that is none": {"/make_join/" + url.PathEscape("!nothing:"+s.parley.Name) + "/" + url.PathEscape(trudy) + "?ver=" + version, 404, "M_NOT_FOUND"},
			"of an unknown version":  {"/make_join/" + url.PathEscape(string(s.id)) + "/" + url.PathEscape(trudy) + "?ver=evil", 400, "M_INCOMPATIBLE_ROOM_VERSION"},
			"a knock":                {"/make_knock/" + url.PathEscape(string(s.id)) + "/" + url.PathEscape(trudy) + "?ver=" + version, 403, "M_FORBIDDEN"},
			"a leave":                {"/make_leave/" + url.PathEscape(string(s.id)) + "/" + url.PathEscape(trudy), 403, "M_FORBIDDEN"},
		} {
			t.Run("template "+name, func(t *testing.T) { p.do("GET", v1+c.path, nil).WantError(t, c.status, c.code) })
		}
	})
}
