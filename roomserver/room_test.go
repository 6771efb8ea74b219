package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
	"parley/storage/storagetest"
)

const (
	alice = id.UserID("@alice:test")
	bob   = id.UserID("@bob:test")
	carol = id.UserID("@carol:test")
)

func newServer(t testing.TB, db *storage.DB) *Server {
	t.Helper()
	s, err := New(Options{DB: db, Name: "test", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// each runs a test with a room server on each database.
func each(t *testing.T, run func(t *testing.T, s *Server)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { run(t, newServer(t, db)) })
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, err error, code matrixerr.Code) {
	t.Helper()
	if !matrixerr.Is(err, code) {
		t.Fatalf("got %v instead of %s", err, code)
	}
}

func (s *Server) mustCreate(t testing.TB, r CreateRequest) id.RoomID {
	t.Helper()
	if r.Creator == "" {
		r.Creator = alice
	}
	room, err := s.Create(context.Background(), r)
	ok(t, err)
	return room
}

func (s *Server) mustSend(t testing.TB, room id.RoomID, sender id.UserID, body string) id.EventID {
	t.Helper()
	e, err := s.Send(context.Background(), SendRequest{Room: room, Sender: sender, Type: "m.room.message",
		Content: []byte(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))})
	ok(t, err)
	return e
}

func bodies(events []json.RawMessage) string {
	var out []string
	for _, e := range events {
		if b := gjson.GetBytes(e, "content.body"); b.Exists() {
			out = append(out, b.Str)
		}
	}
	return strings.Join(out, " ")
}

func TestRoomOfEveryVersion(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		for version := range Versions() {
			t.Run(string(version), func(t *testing.T) {
				name, topic := "Lobby", "All welcome"
				room := s.mustCreate(t, CreateRequest{Version: version, Preset: "public_chat", Name: &name, Topic: &topic, Invite: []id.UserID{carol}})
				ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
				ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob})) // again is no error
				first := s.mustSend(t, room, alice, "one")
				s.mustSend(t, room, bob, "two")
				_, err := s.Redact(ctx, RedactRequest{Room: room, Sender: bob, Event: first})
				refused(t, err, matrixerr.Forbidden)
				_, err = s.Redact(ctx, RedactRequest{Room: room, Sender: alice, Event: first, Reason: "typo"})
				ok(t, err)
				page, err := s.Messages(ctx, PageRequest{Room: room, Backward: true, Limit: 100, Reader: Reader{User: bob}})
				ok(t, err)
				if got := bodies(page.Events); got != "two" {
					t.Errorf("the messages are %q", got)
				}
				checkSigned(t, s, room)
				_, err = s.Send(ctx, SendRequest{Room: room, Sender: bob, Type: "m.room.name", StateKey: new(string), Content: []byte(`{"name":"x"}`)})
				refused(t, err, matrixerr.Forbidden)
				_, err = s.Send(ctx, SendRequest{Room: room, Sender: carol, Type: "m.room.message", Content: []byte(`{}`)})
				refused(t, err, matrixerr.Forbidden)
				ok(t, s.Kick(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
				ok(t, s.Ban(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
				refused(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}), matrixerr.Forbidden)
				ok(t, s.Unban(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
				ok(t, s.Leave(ctx, MemberRequest{Room: room, Sender: carol}))
				ok(t, s.Forget(ctx, carol, room))
			})
		}
	})
}

// checkSigned has the library read every event of a room as if another server had sent it:
// its hash must hold, its ID be the same, and its signature ours.
func checkSigned(t *testing.T, s *Server, room id.RoomID) {
	t.Helper()
	err := s.db.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		events, err := tx.ListTimelineForwards(r.NID, 0, 1<<40, 1000)
		if err != nil {
			return err
		}
		v := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(r.Version))
		for _, e := range events {
			pdu, err := v.NewEventFromUntrustedJSON(e.JSON)
			if err != nil {
				t.Errorf("%s: %v", e.JSON, err)
				continue
			}
			if pdu.EventID() != string(e.ID) {
				t.Errorf("the library calls %s %s", e.ID, pdu.EventID())
			}
			if pdu.Redacted() && e.RedactedBy == 0 {
				t.Errorf("the hash of %s does not hold", e.JSON)
			}
			redacted, err := v.RedactEventJSON(e.JSON)
			if err != nil {
				return err
			}
			if err := gomatrixserverlib.VerifyJSON("test", "ed25519:1", s.key.Public().(ed25519.PublicKey), redacted); err != nil {
				t.Errorf("%s: %v", e.JSON, err)
			}
		}
		return nil
	})
	ok(t, err)
}

func TestTransactionIDs(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		room := s.mustCreate(t, CreateRequest{})
		send := func(device int64, scope, txn string) id.EventID {
			e, err := s.Send(context.Background(), SendRequest{Room: room, Sender: alice, Type: "m.room.message",
				Content: []byte(`{"body":"x"}`), Txn: Txn{DeviceNID: device, Scope: scope, ID: txn}})
			ok(t, err)
			return e
		}
		first := send(1, "send", "a")
		if again := send(1, "send", "a"); again != first {
			t.Errorf("the same transaction became %s and %s", first, again)
		}
		for _, other := range []id.EventID{send(2, "send", "a"), send(1, "send", "b"), send(1, "redact", "a")} {
			if other == first {
				t.Error("another transaction became the same event")
			}
		}
	})
}

func TestHistoryVisibility(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		for _, test := range []struct{ visibility, wantJoined, wantLeft string }{
			{"world_readable", "before invited joined left back", "before invited joined left"},
			{"shared", "before invited joined left back", "before invited joined"},
			{"invited", "invited joined back", "invited joined"},
			{"joined", "joined back", "joined"},
		} {
			t.Run(test.visibility, func(t *testing.T) {
				room := s.mustCreate(t, CreateRequest{InitialState: []StateEvent{{Type: "m.room.history_visibility",
					Content: json.RawMessage(`{"history_visibility":"` + test.visibility + `"}`)}}})
				read := func() string {
					page, err := s.Messages(ctx, PageRequest{Room: room, Limit: 100, Reader: Reader{User: bob}})
					ok(t, err)
					return bodies(page.Events)
				}
				s.mustSend(t, room, alice, "before")
				ok(t, s.Invite(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
				s.mustSend(t, room, alice, "invited")
				ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
				s.mustSend(t, room, alice, "joined")
				ok(t, s.Leave(ctx, MemberRequest{Room: room, Sender: bob}))
				s.mustSend(t, room, alice, "left")
				if got := read(); got != test.wantLeft {
					t.Errorf("one who left sees %q instead of %q", got, test.wantLeft)
				}
				ok(t, s.Invite(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
				ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
				s.mustSend(t, room, alice, "back")
				got := read()
				want := test.wantJoined
				if test.visibility == "invited" {
					want = "invited joined back"
				}
				if got != want {
					t.Errorf("a member sees %q instead of %q", got, want)
				}
			})
		}
	})
}

func TestPages(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{})
		var want []string
		for i := range 57 {
			body := fmt.Sprint("m", i)
			s.mustSend(t, room, alice, body)
			want = append(want, body)
		}
		for _, backward := range []bool{true, false} {
			var got []string
			var from *storage.Ord
			for {
				page, err := s.Messages(ctx, PageRequest{Room: room, From: from, Backward: backward, Limit: 10, Reader: Reader{User: alice}})
				ok(t, err)
				if b := bodies(page.Events); b != "" {
					got = append(got, strings.Split(b, " ")...)
				}
				if page.End == nil {
					break
				}
				from = page.End
			}
			if backward {
				slices.Reverse(got)
			}
			if !slices.Equal(got, want) {
				t.Errorf("backward %v: %v", backward, got)
			}
		}
	})
}

func TestUpgrade(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		for _, versions := range [][2]id.RoomVersion{{"6", "11"}, {"10", "12"}, {"12", "12"}, {"12", "11"}} {
			name := "Old"
			room := s.mustCreate(t, CreateRequest{Version: versions[0], Name: &name, Preset: "public_chat", Visibility: "public",
				AliasLocalpart: "r" + string(versions[0]) + string(versions[1])})
			ok(t, s.Ban(ctx, MemberRequest{Room: room, Sender: alice, Target: carol}))
			_, err := s.Upgrade(ctx, bob, room, versions[1], nil)
			refused(t, err, matrixerr.Forbidden)
			fresh, err := s.Upgrade(ctx, alice, room, versions[1], nil)
			ok(t, err)
			tombstone, err := s.StateEvent(ctx, room, "m.room.tombstone", "", false, Reader{User: alice})
			ok(t, err)
			if got := gjson.GetBytes(tombstone, "replacement_room").Str; got != string(fresh) {
				t.Errorf("the tombstone leads to %q", got)
			}
			got, err := s.StateEvent(ctx, fresh, "m.room.name", "", false, Reader{User: alice})
			ok(t, err)
			if string(got) != `{"name":"Old"}` {
				t.Errorf("the new room is called %s", got)
			}
			refused(t, s.Join(ctx, MemberRequest{Room: fresh, Sender: carol}), matrixerr.Forbidden)
			aliases, err := s.ListAliases(ctx, alice, fresh)
			ok(t, err)
			if len(aliases) != 1 {
				t.Errorf("the aliases are %v", aliases)
			}
			checkSigned(t, s, fresh)
		}
	})
}

func TestRestrictedJoin(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		space := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		room := s.mustCreate(t, CreateRequest{InitialState: []StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(
			`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(space) + `"}]}`)}}})
		refused(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}), matrixerr.Forbidden)
		ok(t, s.Join(ctx, MemberRequest{Room: space, Sender: bob}))
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
	})
}

func TestBadContent(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		room := s.mustCreate(t, CreateRequest{})
		for _, test := range []struct {
			content string
			code    matrixerr.Code
		}{
			{`{"n":1.5}`, matrixerr.BadJSON},
			{`{"n":9007199254740993}`, matrixerr.BadJSON},
			{`{"n":1e3}`, matrixerr.BadJSON},
			{`{"body":"` + strings.Repeat("x", 65400) + `"}`, matrixerr.TooLarge},
			{`{"body":"` + strings.Repeat("x", 70000) + `"}`, matrixerr.TooLarge},
		} {
			_, err := s.Send(context.Background(), SendRequest{Room: room, Sender: alice, Type: "m.x", Content: []byte(test.content)})
			if !matrixerr.Is(err, test.code) {
				t.Errorf("%.40s: %v instead of %s", test.content, err, test.code)
			}
		}
		_, err := s.Send(context.Background(), SendRequest{Room: room, Sender: alice, Type: "m.room.join_rules", StateKey: new(string),
			Content: []byte(`{"join_rule":"public","Join_Rule":"invite"}`)})
		refused(t, err, matrixerr.BadJSON)
	})
}
