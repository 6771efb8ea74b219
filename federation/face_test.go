package federation_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/internal/testserver"
	"parley/internal/testserver/testnet"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// three servers that know nothing of each other yet.
func three(t testing.TB, url string) (a, b, c *testserver.Server) {
	t.Helper()
	if url == "" {
		url = filepath.Join(t.TempDir(), "parley.db")
	}
	net := testnet.New(t)
	return testserver.New(t, net, url, "a.example"), testserver.New(t, net, storagetest.Another(t, url), "b.example"),
		testserver.New(t, net, storagetest.Another(t, url), "c.example")
}

func say(t testing.TB, s *testserver.Server, room id.RoomID, text string) id.EventID {
	t.Helper()
	event, err := s.Rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: s.User("u"), Type: "m.room.message",
		Content: fmt.Appendf(nil, `{"body":%q}`, text)})
	ok(t, err)
	return event
}

func join(t testing.TB, s *testserver.Server, room id.RoomID, via id.ServerName) {
	t.Helper()
	ok(t, s.Rooms.Join(context.Background(), roomserver.MemberRequest{Room: room, Sender: s.User("u"), Via: []id.ServerName{via}}))
}

func create(t testing.TB, s *testserver.Server, version id.RoomVersion, state ...roomserver.StateEvent) id.RoomID {
	t.Helper()
	room, err := s.Rooms.Create(context.Background(), roomserver.CreateRequest{Creator: s.User("u"), Version: version, Preset: "public_chat", InitialState: state})
	ok(t, err)
	return room
}

// read is a request by which a server reads of a room at an event.
type read struct {
	method, path string // with the room and the event for %s, as far as the path has them
	args         int
	body         any
	// lists says that the answer is a list in which an event may be missing; of the others, one
	// that must not be given is refused.
	lists bool
}

func reads(event id.EventID) map[string]read {
	const v1 = "/_matrix/federation/v1"
	return map[string]read{
		"event":              {http.MethodGet, v1 + "/event/%[2]s", 1, nil, false},
		"event_auth":         {http.MethodGet, v1 + "/event_auth/%[1]s/%[2]s", 2, nil, false},
		"state":              {http.MethodGet, v1 + "/state/%[1]s?event_id=%[2]s", 2, nil, false},
		"state_ids":          {http.MethodGet, v1 + "/state_ids/%[1]s?event_id=%[2]s", 2, nil, false},
		"backfill":           {http.MethodGet, v1 + "/backfill/%[1]s?v=%[2]s&limit=10", 2, nil, true},
		"get_missing_events": {http.MethodPost, v1 + "/get_missing_events/%[1]s", 1, map[string]any{"earliest_events": []string{}, "latest_events": []id.EventID{event}, "limit": 20}, true},
		"timestamp_to_event": {http.MethodGet, v1 + "/timestamp_to_event/%[1]s?ts=0&dir=f", 1, nil, true},
	}
}

func (r read) at(room id.RoomID, event id.EventID) string {
	path := strings.NewReplacer("%[1]s", url.PathEscape(string(room)), "%[2]s", url.QueryEscape(string(event))).Replace(r.path)
	return path
}

// TestReads asks each endpoint for what is none of the asker's business: events and state of another
// room than the URL's, of rooms that the asker is not in, and of events from before it came, under
// each history visibility.
func TestReads(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		a, b, c := three(t, url)
		shared, private := create(t, a, "12"), create(t, a, "12")
		join(t, b, shared, a.Name)
		join(t, c, private, a.Name)
		known, secret := say(t, a, shared, "hello"), say(t, a, private, "a secret")
		gone := c.User("u")
		left, err := c.Rooms.Send(context.Background(), roomserver.SendRequest{Room: private, Sender: gone, Type: spec.MRoomMember,
			StateKey: new(string(gone)), Content: []byte(`{"membership":"leave"}`)})
		ok(t, err)
		c.Push(t, a.Name, "1", left)

		for name, r := range reads(known) {
			if status, answer := b.Ask(t, a.Name, r.method, r.at(shared, known), r.body); status != http.StatusOK {
				t.Errorf("%s gives one who may read %d %s", name, status, answer)
			}
		}
		for _, q := range []struct {
			what   string
			asker  *testserver.Server
			room   id.RoomID
			event  id.EventID
			status []int
		}{
			{"an event of another room", b, shared, secret, []int{403, 404}},
			{"a room that the asker is not in", b, private, secret, []int{403}},
			{"an event of a room that the asker is in, in another", b, private, known, []int{403}},
			{"a room that nobody knows", b, "!nothing", secret, []int{403, 404}},
			{"an event that nobody knows", b, shared, "$nothing", []int{404}},
		} {
			for name, r := range reads(q.event) {
				status, answer := q.asker.Ask(t, a.Name, r.method, r.at(q.room, q.event), r.body)
				if strings.Contains(string(answer), "a secret") || strings.Contains(string(answer), string(private)) {
					t.Errorf("%s: %s gives %s", q.what, name, answer)
				}
				listed := r.lists && q.room == shared && status == http.StatusOK
				unaware := name == "event" && q.event == known // it is not asked with a room
				if !listed && !unaware && !slices.Contains(q.status, status) {
					t.Errorf("%s: %s answers %d %s", q.what, name, status, answer)
				}
			}
		}
		// Who has left may have what was said while they were there, and nothing of what was said later.
		later := say(t, a, private, "a later secret")
		for name, r := range reads(later) {
			if _, answer := c.Ask(t, a.Name, r.method, r.at(private, later), r.body); strings.Contains(string(answer), "a later secret") {
				t.Errorf("a room that the asker has left: %s gives %s", name, answer)
			}
		}
		for _, visibility := range []string{"world_readable", "shared", "invited", "joined"} {
			open := visibility == "world_readable" || visibility == "shared"
			room := create(t, a, "12", roomserver.StateEvent{Type: spec.MRoomHistoryVisibility, Content: fmt.Appendf(nil, `{"history_visibility":%q}`, visibility)})
			past := say(t, a, room, "a secret")
			say(t, a, room, "a secret, too") // whose state the server is let in with
			join(t, b, room, a.Name)
			present := say(t, a, room, "no secret")
			for _, at := range []id.EventID{past, present} {
				for name, r := range reads(at) {
					status, answer := b.Ask(t, a.Name, r.method, r.at(room, at), r.body)
					if told := strings.Contains(string(answer), "a secret"); told && !open {
						t.Errorf("%s: %s gives %s", visibility, name, answer)
					}
					hidden := !open && at == past && (name == "state" || name == "state_ids")
					if hidden != (status == http.StatusForbidden) || status != http.StatusOK && at == present {
						t.Errorf("%s: %s answers %d %s", visibility, name, status, answer)
					}
				}
			}
		}
	})
}

// TestArguments gives each endpoint what no server should.
func TestArguments(t *testing.T) {
	a, b, _ := three(t, "")
	room := create(t, a, "12")
	join(t, b, room, a.Name)
	event := say(t, a, room, "hello")
	const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
	r, e := url.PathEscape(string(room)), url.PathEscape(string(event))
	many := strings.Repeat("&v="+e, 200)
	for _, q := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"GET", v1 + "/state/" + r, nil, 400, "M_MISSING_PARAM"},
		{"GET", v1 + "/state_ids/" + r, nil, 400, "M_MISSING_PARAM"},
		{"GET", v1 + "/backfill/" + r + "?limit=10", nil, 400, "M_MISSING_PARAM"},
		{"GET", v1 + "/backfill/" + r + "?limit=10" + many, nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/backfill/" + r + "?limit=-1&v=" + e, nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/backfill/" + r + "?limit=1000000000&v=" + e, nil, 200, ""},
		{"POST", v1 + "/get_missing_events/" + r, map[string]any{"latest_events": []any{1}}, 400, "M_BAD_JSON"},
		{"POST", v1 + "/get_missing_events/" + r, map[string]any{"latest_events": []any{event}, "limit": -5, "min_depth": -5}, 200, ""},
		{"GET", v1 + "/timestamp_to_event/" + r + "?ts=0&dir=up", nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/timestamp_to_event/" + r + "?ts=9223372036854775807&dir=b", nil, 200, ""},
		{"GET", v1 + "/timestamp_to_event/" + r + "?ts=9223372036854775808&dir=b", nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/make_join/" + r + "/@u:b.example?ver=1", nil, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"GET", v1 + "/make_join/" + r + "/@u:b.example", nil, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"GET", v1 + "/make_join/" + r + "/@u:c.example?ver=12", nil, 403, "M_FORBIDDEN"},
		{"GET", v1 + "/make_join/" + r + "/u?ver=12", nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/user/devices/@u:c.example", nil, 400, "M_INVALID_PARAM"},
		{"POST", v1 + "/user/keys/query", map[string]any{"device_keys": 1}, 400, "M_BAD_JSON"},
		{"POST", v1 + "/user/keys/claim", map[string]any{"one_time_keys": 1}, 400, "M_BAD_JSON"},
		{"PUT", v1 + "/invite/" + r + "/$x", map[string]any{}, 400, "M_BAD_JSON"},
		{"PUT", v2 + "/send_leave/" + r + "/$x", map[string]any{}, 400, "M_BAD_JSON"},
		{"PUT", v1 + "/send_knock/" + r + "/$x", map[string]any{}, 400, "M_BAD_JSON"},
		{"POST", v1 + "/publicRooms", map[string]any{"limit": "x"}, 400, "M_BAD_JSON"},
		{"POST", "/_matrix/policy/v1/sign", map[string]any{}, 404, "M_UNRECOGNIZED"},
		{"GET", v1 + "/make_join/!nothing/@u:b.example?ver=12", nil, 404, "M_NOT_FOUND"},
		{"GET", v1 + "/make_knock/" + r + "/@v:b.example?ver=12", nil, 403, "M_FORBIDDEN"},
		{"GET", v1 + "/make_leave/" + r + "/@v:b.example", nil, 403, "M_FORBIDDEN"},
		{"PUT", v2 + "/send_join/" + r + "/$x", map[string]any{}, 400, "M_BAD_JSON"},
		{"PUT", v2 + "/send_join/" + r + "/$x", []any{}, 400, "M_BAD_JSON"},
		{"PUT", v2 + "/invite/" + r + "/$x", map[string]any{}, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"PUT", v2 + "/invite/" + r + "/$x", map[string]any{"room_version": "12", "event": 7}, 400, "M_BAD_JSON"},
		{"PUT", v1 + "/exchange_third_party_invite/" + r, map[string]any{}, 400, "M_INVALID_PARAM"},
		{"PUT", v1 + "/3pid/onbind", map[string]any{"mxid": "@u:b.example"}, 400, "M_INVALID_PARAM"},
		{"PUT", v1 + "/send/1", map[string]any{"origin": "c.example", "pdus": []any{}}, 403, "M_FORBIDDEN"},
		{"PUT", v1 + "/send/2", map[string]any{"origin": "b.example", "pdus": make([]any, 51)}, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/hierarchy/!nothing", nil, 404, "M_NOT_FOUND"},
		{"GET", v1 + "/query/directory?room_alias=nothing", nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/query/directory?room_alias=%23x:c.example", nil, 404, "M_NOT_FOUND"},
		{"GET", v1 + "/query/profile?user_id=@u:c.example", nil, 404, "M_NOT_FOUND"},
		{"GET", v1 + "/publicRooms?since=-1", nil, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/publicRooms?include_all_networks=true&third_party_instance_id=irc", nil, 400, "M_INVALID_PARAM"},
		{"POST", v1 + "/publicRooms", map[string]any{"include_all_networks": true, "third_party_instance_id": "irc"}, 400, "M_INVALID_PARAM"},
		{"GET", v1 + "/openid/userinfo?access_token=x", nil, 401, "M_UNKNOWN_TOKEN"},
	} {
		status, answer := b.Ask(t, a.Name, q.method, q.path, q.body)
		if code := gjson.GetBytes(answer, "errcode").Str; status != q.status || code != q.code {
			t.Errorf("%s %s answers %d %s", q.method, q.path, status, answer)
		}
	}
}

// TestNetworkDirectories: a server is asked for the directories of the networks behind it as its own users ask.
func TestNetworkDirectories(t *testing.T) {
	a, b, _ := three(t, "")
	ctx := context.Background()
	own, bridged := create(t, a, "12"), create(t, a, "12")
	ok(t, a.DB.Write(ctx, func(tx *storage.Tx) error {
		return tx.InsertNetworkRoom(storage.NetworkRoom{Service: "bridge", Network: "irc", Room: bridged})
	}))
	ok(t, a.Rooms.Publish(ctx, a.User("u"), own, true))
	for _, c := range []struct {
		instance string
		all      bool
		want     []id.RoomID
	}{
		{"", false, []id.RoomID{own}},
		{"", true, []id.RoomID{own, bridged}},
		{"bridge|irc", false, []id.RoomID{bridged}},
		{"irc", false, []id.RoomID{bridged}},
		{"bridge|", false, []id.RoomID{bridged}},
		{"other|irc", false, nil},
	} {
		network, err := roomserver.ParseNetwork(c.instance, c.all)
		ok(t, err)
		page, err := b.Rooms.PublicRoomsOf(ctx, a.Name, roomserver.PublicRoomsFilter{Network: network}, "", 10)
		ok(t, err)
		same := func(how string, chunk gjson.Result) {
			t.Helper()
			var got []id.RoomID
			for _, room := range chunk.Array() {
				got = append(got, id.RoomID(room.Get("room_id").Str))
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("%s, network %q, all %v: %q; want %q", how, c.instance, c.all, got, c.want)
			}
		}
		posted, err := json.Marshal(page.Chunk)
		ok(t, err)
		same("POST", gjson.ParseBytes(posted))
		_, answer := b.Ask(t, a.Name, http.MethodGet, "/_matrix/federation/v1/publicRooms?third_party_instance_id="+
			url.QueryEscape(c.instance)+"&include_all_networks="+strconv.FormatBool(c.all), nil)
		same("GET", gjson.GetBytes(answer, "chunk"))
	}
}

// TestMembers goes through all that one server's users can become in another's room.
func TestMembers(t *testing.T) {
	for _, version := range []id.RoomVersion{"1", "7", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			ctx := context.Background()
			a, b, _ := three(t, "")
			room := create(t, a, version)
			user := b.User("u")
			is := func(want string) {
				t.Helper()
				for _, s := range []*testserver.Server{a, b} {
					if got, err := s.Rooms.Membership(ctx, user, room); err != nil || got != want {
						t.Errorf("for %s the user is %s, %v", s.Name, got, err)
					}
				}
			}
			join(t, b, room, a.Name)
			is(spec.Join)
			a.Push(t, b.Name, "1", say(t, a, room, "hello"))
			b.Push(t, a.Name, "2", say(t, b, room, "hello to you"))
			left, err := b.Rooms.Send(ctx, roomserver.SendRequest{Room: room, Sender: user, Type: spec.MRoomMember, StateKey: new(string(user)), Content: []byte(`{"membership":"leave"}`)})
			ok(t, err)
			b.Push(t, a.Name, "3", left)
			is(spec.Leave)
			ok(t, a.Rooms.Invite(ctx, roomserver.MemberRequest{Room: room, Sender: a.User("u"), Target: user}))
			is(spec.Invite)
			ok(t, b.Rooms.Leave(ctx, roomserver.MemberRequest{Room: room, Sender: user}))
			is(spec.Leave)
			if version != "1" {
				_, err := a.Rooms.Send(ctx, roomserver.SendRequest{Room: room, Sender: a.User("u"), Type: spec.MRoomJoinRules, StateKey: new(string), Content: []byte(`{"join_rule":"knock"}`)})
				ok(t, err)
				ok(t, b.Rooms.Knock(ctx, roomserver.MemberRequest{Room: room, Sender: user, Via: []id.ServerName{a.Name}}))
				is(spec.Knock)
			}
			ok(t, a.Rooms.Invite(ctx, roomserver.MemberRequest{Room: room, Sender: a.User("u"), Target: user}))
			is(spec.Invite)
			join(t, b, room, a.Name)
			is(spec.Join)
		})
	}
}

// TestFirstVersions asks by the first versions of requests, which answer with a status inside.
func TestFirstVersions(t *testing.T) {
	a, b, _ := three(t, "")
	room := create(t, a, "1")
	r := url.PathEscape(string(room))
	const v1 = "/_matrix/federation/v1"
	enter := func(membership string) {
		t.Helper()
		status, answer := b.Ask(t, a.Name, "GET", v1+"/make_"+membership+"/"+r+"/@u:b.example", nil)
		if status != http.StatusOK || gjson.GetBytes(answer, "room_version").Str != "1" {
			t.Fatalf("make_%s answers %d %s", membership, status, answer)
		}
		event, raw := complete(t, b, "1", gjson.GetBytes(answer, "event").Raw)
		status, answer = b.Ask(t, a.Name, "PUT", v1+"/send_"+membership+"/"+r+"/"+url.PathEscape(event), raw)
		list := gjson.ParseBytes(answer).Array()
		if status != http.StatusOK || len(list) != 2 || list[0].Int() != 200 || !list[1].IsObject() {
			t.Fatalf("send_%s answers %d %s", membership, status, answer)
		}
		if membership == spec.Join && (len(list[1].Get("state").Array()) < 5 || len(list[1].Get("auth_chain").Array()) < 4) {
			t.Errorf("send_join answers %s", answer)
		}
	}
	enter(spec.Join)
	enter(spec.Leave)
	if got, err := a.Rooms.Membership(context.Background(), b.User("u"), room); err != nil || got != spec.Leave {
		t.Errorf("the user is %s, %v", got, err)
	}
}

// complete makes an event of a template, as the server of its sender would.
func complete(t testing.TB, s *testserver.Server, version gomatrixserverlib.RoomVersion, template string) (event string, raw json.RawMessage) {
	t.Helper()
	v, err := gomatrixserverlib.GetRoomVersion(version)
	ok(t, err)
	var proto gomatrixserverlib.ProtoEvent
	ok(t, json.Unmarshal([]byte(template), &proto))
	pdu, err := v.NewEventBuilderFromProtoEvent(&proto).Build(time.Now(), spec.ServerName(s.Name), "ed25519:1", s.Key)
	ok(t, err)
	return pdu.EventID(), pdu.JSON()
}

// identityServer vouches for whoever asks.
var (
	identityServer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	identityKey    = base64.RawStdEncoding.EncodeToString(identityServer.Public().(ed25519.PublicKey))
)

func vouch(t *testing.T, user id.UserID, token string, by ed25519.PrivateKey) json.RawMessage {
	t.Helper()
	signed, err := signedjson.Sign(fmt.Appendf(nil, `{"mxid":%q,"token":%q}`, user, token), "id.example", "ed25519:0", by)
	ok(t, err)
	return signed
}

// inviteAddress makes a room to which an address is invited by a token.
func inviteAddress(t *testing.T, s *testserver.Server, token string) id.RoomID {
	t.Helper()
	room := create(t, s, "12")
	_, err := s.Rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: s.User("u"), Type: spec.MRoomThirdPartyInvite, StateKey: &token,
		Content: fmt.Appendf(nil, `{"display_name":"u","public_key":%q}`, identityKey)})
	ok(t, err)
	return room
}

func account(t *testing.T, s *testserver.Server, localpart string) id.UserID {
	t.Helper()
	session, err := s.Users.Register(context.Background(), userserver.Registration{Localpart: localpart})
	ok(t, err)
	return session.User
}

// TestOnBind has an address invited on one server that turns out to be a user's of another,
// of whom the identity server tells that one.
func TestOnBind(t *testing.T) {
	a, b, _ := three(t, "")
	token := "token"
	room := inviteAddress(t, a, token)
	body := func(user id.UserID) map[string]any {
		return map[string]any{"medium": "email", "address": "u@b.example", "mxid": user, "invites": []any{
			map[string]any{"medium": "email", "address": "u@b.example", "mxid": user, "room_id": room, "sender": a.User("u"),
				"signed": vouch(t, user, token, identityServer)},
		}}
	}
	user := account(t, b, "u")
	if status, answer := a.Ask(t, b.Name, "PUT", "/_matrix/federation/v1/3pid/onbind", body(user)); status != http.StatusOK || string(answer) != "{}" {
		t.Errorf("answers %d %s", status, answer)
	}
	if got, err := b.Rooms.Membership(context.Background(), user, room); err != nil || got != spec.Invite {
		t.Errorf("the user is %s, %v", got, err)
	}
	if status, answer := a.Ask(t, b.Name, "PUT", "/_matrix/federation/v1/3pid/onbind", body(b.User("nobody"))); status != http.StatusNotFound {
		t.Errorf("answers %d %s", status, answer)
	}
}

// TestExchange has a server ask for the invite of a user of its own, on the word of an identity server.
//
// spec: server-server-api.md#put_matrixfederationv1exchange_third_party_inviteroomid
func TestExchange(t *testing.T) {
	a, b, _ := three(t, "")
	room, user := inviteAddress(t, a, "token"), account(t, b, "v")
	exchange := func(sender id.UserID, signed json.RawMessage) (status int, answer []byte) {
		t.Helper()
		return b.Ask(t, a.Name, http.MethodPut, "/_matrix/federation/v1/exchange_third_party_invite/"+url.PathEscape(string(room)), map[string]any{
			"type": spec.MRoomMember, "room_id": room, "sender": sender, "state_key": user,
			"content": map[string]any{"membership": spec.Invite, "third_party_invite": map[string]any{"display_name": "u", "signed": signed}},
		})
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	ok(t, err)
	for what, q := range map[string]struct {
		sender id.UserID
		signed json.RawMessage
	}{
		"for somebody else":    {a.User("u"), vouch(t, b.User("w"), "token", identityServer)},
		"for another token":    {a.User("u"), vouch(t, user, "another", identityServer)},
		"by somebody else":     {a.User("u"), vouch(t, user, "token", stranger)},
		"for another inviter":  {a.User("w"), vouch(t, user, "token", identityServer)},
		"for a foreign sender": {user, vouch(t, user, "token", identityServer)},
	} {
		if status, answer := exchange(q.sender, q.signed); status != http.StatusForbidden || gjson.GetBytes(answer, "errcode").Str != "M_FORBIDDEN" {
			t.Errorf("a word %s is answered %d %s", what, status, answer)
		}
	}
	is := func(want string) {
		t.Helper()
		for _, s := range []*testserver.Server{a, b} {
			if got, err := s.Rooms.Membership(context.Background(), user, room); got != want || err != nil && want != spec.Leave {
				t.Errorf("for %s the user is %q, %v", s.Name, got, err)
			}
		}
	}
	is(spec.Leave)
	// A server that the room shuts out gets nothing for a good word.
	acl := func(deny id.ServerName) {
		t.Helper()
		_, err := a.Rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: a.User("u"), Type: "m.room.server_acl", StateKey: new(string),
			Content: fmt.Appendf(nil, `{"allow":["*"],"deny":[%q]}`, deny)})
		ok(t, err)
	}
	acl(b.Name)
	if status, answer := exchange(a.User("u"), vouch(t, user, "token", identityServer)); status != http.StatusForbidden || gjson.GetBytes(answer, "errcode").Str != "M_FORBIDDEN" {
		t.Errorf("a good word of one who is shut out is answered %d %s", status, answer)
	}
	is(spec.Leave)
	acl("c.example")
	if status, answer := exchange(a.User("u"), vouch(t, user, "token", identityServer)); status != http.StatusOK {
		t.Errorf("a good word is answered %d %s", status, answer)
	}
	is(spec.Invite)
}
