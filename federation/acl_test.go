package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/testserver"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
)

// TestACL has a room shut out one of two servers that are in it: each endpoint refuses that one what it goes on to
// give the other.
//
// spec: server-server-api.md#server-access-control-lists-acls
func TestACL(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, database string) {
		ctx := context.Background()
		a, b, c := three(t, database)
		room := create(t, a, "10")
		join(t, b, room, a.Name)
		join(t, c, room, a.Name)
		event := say(t, a, room, "hello")
		set := func(eventType, content string) {
			t.Helper()
			_, err := a.Rooms.Send(ctx, roomserver.SendRequest{Room: room, Sender: a.User("u"), Type: eventType, StateKey: new(string), Content: []byte(content)})
			ok(t, err)
		}
		template := func(s *testserver.Server, membership, user string) (status int, answer []byte) {
			t.Helper()
			return s.Ask(t, a.Name, http.MethodGet, "/_matrix/federation/v1/make_"+membership+"/"+url.PathEscape(string(room))+"/"+string(s.User(user))+"?ver=10", nil)
		}
		send := func(s *testserver.Server, version, membership string, made id.EventID, raw json.RawMessage) (status int, answer []byte) {
			t.Helper()
			return s.Ask(t, a.Name, http.MethodPut, "/_matrix/federation/"+version+"/send_"+membership+"/"+url.PathEscape(string(room))+"/"+url.PathEscape(string(made)), raw)
		}
		refused := func(what string, status int, answer []byte) {
			t.Helper()
			if status != http.StatusForbidden || gjson.GetBytes(answer, "errcode").Str != string(matrixerr.Forbidden) {
				t.Errorf("one who is shut out asks for %s, and is answered %d %s", what, status, answer)
			}
		}
		served := func(what string, status int, answer []byte) {
			t.Helper()
			if status != http.StatusOK {
				t.Errorf("one who is not shut out asks for %s, and is answered %d %s", what, status, answer)
			}
		}

		// What they have made ready before one of them is shut out.
		type member struct {
			membership, user string
			id               id.EventID
			raw              json.RawMessage
		}
		ready := func(s *testserver.Server, membership, user string) member {
			t.Helper()
			status, answer := template(s, membership, user)
			served("make_"+membership, status, answer)
			made, raw := complete(t, s, "10", gjson.GetBytes(answer, "event").Raw)
			return member{membership, user, id.EventID(made), raw}
		}
		joins, leaves := ready(b, spec.Join, "v"), ready(b, spec.Leave, "u")
		otherLeaves := ready(c, spec.Leave, "u")
		set(spec.MRoomJoinRules, `{"join_rule":"knock"}`)
		knocks := ready(b, spec.Knock, "w")
		set("m.room.server_acl", `{"allow":["*"],"deny":["B.Example"]}`)

		for name, q := range reads(event) {
			status, answer := c.Ask(t, a.Name, q.method, q.at(room, event), q.body)
			served(name, status, answer)
			status, answer = b.Ask(t, a.Name, q.method, q.at(room, event), q.body)
			refused(name, status, answer)
		}
		for _, m := range []member{joins, leaves, knocks} {
			status, answer := template(b, m.membership, m.user)
			refused("make_"+m.membership, status, answer)
			for _, version := range []string{"v1", "v2"} {
				if version == "v2" && m.membership == spec.Knock {
					continue // there is none
				}
				status, answer = send(b, version, m.membership, m.id, m.raw)
				refused(version+"/send_"+m.membership, status, answer)
			}
		}
		status, answer := c.Ask(t, a.Name, http.MethodGet, "/_matrix/federation/v1/hierarchy/"+url.PathEscape(string(room)), nil)
		served("hierarchy", status, answer)
		// A room that a server may not come to is as one that is not there.
		status, answer = b.Ask(t, a.Name, http.MethodGet, "/_matrix/federation/v1/hierarchy/"+url.PathEscape(string(room)), nil)
		if status != http.StatusNotFound || gjson.GetBytes(answer, "errcode").Str != string(matrixerr.NotFound) {
			t.Errorf("one who is shut out asks for the hierarchy, and is answered %d %s", status, answer)
		}
		inviteV1 := func(s *testserver.Server) (status int, answer []byte) {
			t.Helper()
			made, raw := complete(t, s, "1", fmt.Sprintf(`{"type":"m.room.member","room_id":%q,"sender":%q,"state_key":%q,"content":{"membership":"invite"},
				"depth":1,"prev_events":[],"auth_events":[]}`, room, s.User("u"), a.User("w")))
			return s.Ask(t, a.Name, http.MethodPut, "/_matrix/federation/v1/invite/"+url.PathEscape(string(room))+"/"+url.PathEscape(made), raw)
		}
		status, answer = inviteV1(c)
		served("v1/invite", status, answer)
		status, answer = inviteV1(b)
		refused("v1/invite", status, answer)
		// Who is shut out has not heard of it, and goes on.
		err := b.Rooms.Invite(ctx, roomserver.MemberRequest{Room: room, Sender: b.User("u"), Target: a.User("w")})
		if !matrixerr.Is(err, matrixerr.Forbidden) {
			t.Errorf("one who is shut out invites: %v", err)
		}
		for _, s := range []*testserver.Server{b, c} {
			said := say(t, s, room, "hello from "+string(s.Name))
			rows, err := storage.Get(ctx, s.DB, func(tx *storage.Tx) ([]storage.Event, error) { return tx.ListEvents([]id.EventID{said}) })
			ok(t, err)
			result, err := s.Remote.SendTransaction(ctx, a.Name, "1", &serverapi.Transaction{Origin: s.Name, PDUs: []json.RawMessage{rows[0].JSON}})
			ok(t, err)
			_, err = storage.Get(ctx, a.DB, func(tx *storage.Tx) (storage.Event, error) { return tx.GetEvent(said) })
			if in := err == nil; in != (s == c) || in != (result.PDUs[said].Error == "") {
				t.Errorf("what %s says: %v, and it is answered %+v", s.Name, err, result)
			}
		}
		status, answer = send(c, "v2", spec.Leave, otherLeaves.id, otherLeaves.raw)
		served("v2/send_leave", status, answer)
	})
}
