package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
	"parley/storage/storagetest"
)

// complete makes an event of a template, as the server of its sender would.
func complete(t *testing.T, version id.RoomVersion, template *serverapi.Template, server id.ServerName) (id.EventID, json.RawMessage) {
	t.Helper()
	var fields map[string]any
	ok(t, json.Unmarshal(template.Event, &fields))
	if version == "1" || version == "2" {
		fields["event_id"] = fmt.Sprintf("$%s:%s", gjson.GetBytes(template.Event, "state_key").Str[1:2]+fmt.Sprint(fields["depth"]), server)
	}
	raw := signAs(t, version, server, fields)
	pdu, err := Parse(version, raw)
	ok(t, err)
	return id.EventID(pdu.EventID()), raw
}

// host is a node with a peer that knows everybody's keys.
func host(t *testing.T, url string) *node {
	t.Helper()
	seed := make([]byte, 32)
	copy(seed, "a")
	s, err := New(Options{DB: storagetest.Open(t, url, nil), Name: "a", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed), DefaultVersion: "12", Remote: &peer{}})
	ok(t, err)
	return &node{Server: s, user: id.NewUserID("u", "a")}
}

func TestResidentJoin(t *testing.T) {
	for _, version := range []id.RoomVersion{"1", "6", "10", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			storagetest.EachURL(t, func(t *testing.T, url string) {
				ctx := context.Background()
				a := host(t, url)
				room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
				ok(t, err)
				user := id.UserID("@v:b")
				_, err = a.MakeMember(ctx, "c", room, user, spec.Join, nil)
				refused(t, err, matrixerr.Forbidden)
				_, err = a.MakeMember(ctx, "b", "!other:a", user, spec.Join, nil)
				refused(t, err, matrixerr.NotFound)
				_, err = a.MakeMember(ctx, "b", room, user, spec.Join, []id.RoomVersion{"99"})
				refused(t, err, matrixerr.IncompatibleRoomVersion)
				template, err := a.MakeMember(ctx, "b", room, user, spec.Join, []id.RoomVersion{"99", version})
				ok(t, err)
				event, raw := complete(t, version, template, "b")

				_, err = a.TakeMember(ctx, "c", room, event, spec.Join, raw)
				refused(t, err, matrixerr.InvalidParam)
				_, err = a.TakeMember(ctx, "b", room, "$another", spec.Join, raw)
				refused(t, err, matrixerr.InvalidParam)
				_, err = a.TakeMember(ctx, "b", room, event, spec.Leave, raw)
				refused(t, err, matrixerr.InvalidParam)
				_, unsigned := complete(t, version, template, "c")
				pdu, err := Parse(version, unsigned)
				ok(t, err)
				_, err = a.TakeMember(ctx, "b", room, id.EventID(pdu.EventID()), spec.Join, unsigned)
				refused(t, err, matrixerr.InvalidParam)

				before := a.state(t, room)
				for range 2 { // an answer may get lost
					_, err = a.TakeMember(ctx, "b", room, event, spec.Join, raw)
					ok(t, err)
					answer, err := a.JoinAnswer(ctx, room, event, false)
					ok(t, err)
					if len(answer.State) != len(before) || !slices.Equal(slices.Sorted(slices.Values(answer.ServersInRoom)), []id.ServerName{"a"}) {
						t.Errorf("%d state events for %d, servers %q", len(answer.State), len(before), answer.ServersInRoom)
					}
					inChain(t, version, answer, raw)
				}
				small, err := a.JoinAnswer(ctx, room, event, true)
				ok(t, err)
				members := 0
				for _, raw := range small.State {
					if gjson.GetBytes(raw, "type").Str == spec.MRoomMember {
						members++
					}
				}
				if members != 1 || !small.MembersOmitted { // who is in the room names it
					t.Errorf("%d members in the state without members", members)
				}
				inChain(t, version, small, raw)
				sent, err := storage.Get(ctx, a.db, func(tx *storage.Tx) ([]storage.Outgoing, error) {
					return tx.ListOutgoing(0, 1<<40, 10)
				})
				if ok(t, err); len(sent) != 1 {
					t.Errorf("%d events are to be sent, and not the join alone", len(sent))
				}

				// And out again.
				template, err = a.MakeMember(ctx, "b", room, user, spec.Leave, nil)
				ok(t, err)
				event, raw = complete(t, version, template, "b")
				_, err = a.TakeMember(ctx, "b", room, event, spec.Leave, raw)
				ok(t, err)
				if m, err := a.Membership(ctx, user, room); err != nil || m != spec.Leave {
					t.Errorf("the user's membership is %s, %v", m, err)
				}
			})
		})
	}
}

// inChain checks that whatever the events of an answer name as auth events is in it.
func inChain(t *testing.T, version id.RoomVersion, answer *serverapi.SendJoin, join json.RawMessage) {
	t.Helper()
	have := make(map[string]bool)
	var auth []string
	for _, raw := range append(slices.Concat(answer.State, answer.AuthChain), join) {
		pdu, err := Parse(version, raw)
		ok(t, err)
		have[pdu.EventID()] = true
		auth = append(auth, pdu.AuthEventIDs()...)
	}
	for _, a := range auth {
		if !have[a] {
			t.Errorf("%s is not in the answer", a)
		}
	}
}

func TestResidentRestricted(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		a := host(t, url)
		user := id.UserID("@v:b")
		club, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", Preset: "public_chat"})
		ok(t, err)
		rules := func(allow ...id.RoomID) []StateEvent {
			var list []map[string]any
			for _, r := range allow {
				list = append(list, map[string]any{"type": "m.room_membership", "room_id": r})
			}
			content, err := json.Marshal(map[string]any{"join_rule": "restricted", "allow": list})
			ok(t, err)
			return []StateEvent{{Type: spec.MRoomJoinRules, Content: content}}
		}
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", InitialState: rules(club)})
		ok(t, err)
		elsewhere, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", InitialState: rules("!other:b")})
		ok(t, err)

		_, err = a.MakeMember(ctx, "b", elsewhere, user, spec.Join, nil)
		refused(t, err, matrixerr.UnableToAuthoriseJoin)
		_, err = a.MakeMember(ctx, "b", room, user, spec.Join, nil)
		refused(t, err, matrixerr.Forbidden)
		template, err := a.MakeMember(ctx, "b", club, user, spec.Join, nil)
		ok(t, err)
		event, raw := complete(t, "10", template, "b")
		_, err = a.TakeMember(ctx, "b", club, event, spec.Join, raw)
		ok(t, err)

		template, err = a.MakeMember(ctx, "b", room, user, spec.Join, nil)
		ok(t, err)
		if via := gjson.GetBytes(template.Event, "content.join_authorised_via_users_server").Str; via != string(a.user) {
			t.Errorf("authorised via %q", via)
		}
		event, raw = complete(t, "10", template, "b")
		signed, err := a.TakeMember(ctx, "b", room, event, spec.Join, raw)
		ok(t, err)
		if !gjson.GetBytes(signed, "signatures.a").Exists() {
			t.Error("we have not signed what we authorised")
		}
		if m, err := a.Membership(ctx, user, room); err != nil || m != spec.Join {
			t.Errorf("the user's membership is %s, %v", m, err)
		}

		// One that is no member of the club makes the event without asking.
		forged := make(map[string]any)
		ok(t, json.Unmarshal(template.Event, &forged))
		forged["sender"], forged["state_key"] = "@w:c", "@w:c"
		raw = signAs(t, "10", "c", forged)
		pdu, err := Parse("10", raw)
		ok(t, err)
		_, err = a.TakeMember(ctx, "c", room, id.EventID(pdu.EventID()), spec.Join, raw)
		refused(t, err, matrixerr.Forbidden)
	})
}
