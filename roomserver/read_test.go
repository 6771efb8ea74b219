package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

func (s *Server) mustRelate(t testing.TB, room id.RoomID, sender id.UserID, relType string, target id.EventID, body string) id.EventID {
	t.Helper()
	e, err := s.Send(context.Background(), SendRequest{Room: room, Sender: sender, Type: "m.room.message", Content: []byte(fmt.Sprintf(
		`{"body":%q,"m.new_content":{"body":%q},"m.relates_to":{"rel_type":%q,"event_id":%q}}`, body, body, relType, target))})
	ok(t, err)
	return e
}

func TestSecondAnnotation(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		root := s.mustSend(t, room, alice, "root")
		react := func(sender id.UserID, eventType, key string) (id.EventID, matrixerr.Code) {
			e, err := s.Send(ctx, SendRequest{Room: room, Sender: sender, Type: eventType, Content: fmt.Appendf(nil,
				`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":%q}}`, root, key)})
			return e, matrixerr.CodeOf(err)
		}
		first, _ := react(bob, "m.reaction", "+1")
		for _, c := range []struct {
			sender         id.UserID
			eventType, key string
			want           matrixerr.Code
		}{
			{bob, "m.reaction", "+1", matrixerr.Duplicate},
			{bob, "m.reaction", "-1", ""},
			{bob, "org.example.reaction", "+1", ""},
			{alice, "m.reaction", "+1", ""},
		} {
			if _, code := react(c.sender, c.eventType, c.key); code != c.want {
				t.Errorf("%s's %s %s gives %q instead of %q", c.sender, c.eventType, c.key, code, c.want)
			}
		}
		_, err := s.Redact(ctx, RedactRequest{Room: room, Sender: bob, Event: first})
		ok(t, err)
		if _, code := react(bob, "m.reaction", "+1"); code != "" {
			t.Errorf("after the first was redacted, another is refused: %s", code)
		}
	})
}

func TestRelations(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		other := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		root := s.mustSend(t, room, alice, "root")
		s.mustRelate(t, room, alice, "m.replace", root, "first edit")
		last := s.mustRelate(t, room, alice, "m.replace", root, "second edit")
		s.mustRelate(t, room, bob, "m.replace", root, "not bob's to edit")
		reply := s.mustRelate(t, room, bob, "m.thread", root, "reply")
		nested := s.mustRelate(t, room, alice, "m.replace", reply, "edits bob's reply")
		reference := s.mustRelate(t, room, bob, "m.reference", root, "see there")
		s.mustRelate(t, other, alice, "m.thread", root, "from another room")

		e, err := s.Event(ctx, room, root, Reader{User: bob, Bundle: true})
		ok(t, err)
		relations := gjson.GetBytes(e, "unsigned.m\\.relations")
		if got := relations.Get("m\\.replace.event_id").Str; got != string(last) {
			t.Errorf("the edit is %s instead of %s", got, last)
		}
		thread := relations.Get("m\\.thread")
		if thread.Get("count").Int() != 1 || !thread.Get("current_user_participated").Bool() || thread.Get("latest_event.event_id").Str != string(reply) {
			t.Errorf("the thread is %s", thread.Raw)
		}
		if got := relations.Get("m\\.reference.chunk.0.event_id").Str; got != string(reference) {
			t.Errorf("the reference is %s", got)
		}

		list := func(r RelationsRequest) []string {
			r.Room, r.Event, r.Reader = room, root, Reader{User: alice}
			var out []string
			for {
				page, _, err := s.Relations(ctx, r)
				ok(t, err)
				for _, e := range page.Events {
					out = append(out, gjson.GetBytes(e, "event_id").Str)
				}
				if page.End == nil {
					return out
				}
				r.From = page.End
			}
		}
		if got := list(RelationsRequest{Limit: 2, Backward: true}); len(got) != 5 || got[0] != string(reference) {
			t.Errorf("newest first: %v", got)
		}
		if got := list(RelationsRequest{Limit: 2}); len(got) != 5 || got[4] != string(reference) {
			t.Errorf("oldest first: %v", got)
		}
		if got := list(RelationsRequest{Limit: 9, RelType: "m.thread"}); len(got) != 1 {
			t.Errorf("of the thread: %v", got)
		}
		if got := list(RelationsRequest{Limit: 9, Recurse: true}); len(got) != 6 || got[4] != string(nested) {
			t.Errorf("with relations of relations: %v", got)
		}

		// What is redacted relates to nothing any more.
		_, err = s.Redact(ctx, RedactRequest{Room: room, Sender: alice, Event: last})
		ok(t, err)
		e, err = s.Event(ctx, room, root, Reader{User: bob, Bundle: true})
		ok(t, err)
		if got := gjson.GetBytes(e, "unsigned.m\\.relations.m\\.replace.content.m\\.new_content.body").Str; got != "first edit" {
			t.Errorf("after the redaction the edit is %q", got)
		}
	})
}

func TestThreads(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		var roots []id.EventID
		for i := range 3 {
			root := s.mustSend(t, room, alice, fmt.Sprint("root", i))
			roots = append(roots, root)
			s.mustRelate(t, room, alice, "m.thread", root, "reply")
		}
		s.mustRelate(t, room, bob, "m.thread", roots[0], "bumps the oldest")
		list := func(user id.UserID, participated bool) (out []id.EventID) {
			r := ThreadsRequest{Room: room, Participated: participated, Limit: 1, Reader: Reader{User: user}}
			for {
				page, err := s.Threads(ctx, r)
				ok(t, err)
				for _, e := range page.Events {
					out = append(out, id.EventID(gjson.GetBytes(e, "event_id").Str))
				}
				if page.End == nil {
					return out
				}
				r.From = page.End
			}
		}
		if got := list(bob, false); fmt.Sprint(got) != fmt.Sprint([]id.EventID{roots[0], roots[2], roots[1]}) {
			t.Errorf("all threads: %v", got)
		}
		if got := list(bob, true); fmt.Sprint(got) != fmt.Sprint(roots[:1]) {
			t.Errorf("bob's threads: %v", got)
		}
		if got := list(alice, true); len(got) != 3 {
			t.Errorf("alice's threads: %v", got)
		}
	})
}

func TestContext(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{})
		var events []id.EventID
		for i := range 9 {
			events = append(events, s.mustSend(t, room, alice, fmt.Sprint(i)))
		}
		c, err := s.Context(ctx, ContextRequest{Room: room, Event: events[4], Limit: 4, LazyMembers: true, Reader: Reader{User: alice}})
		ok(t, err)
		if got := bodies(c.Before) + "|" + bodies([]json.RawMessage{c.Event}) + "|" + bodies(c.After); got != "3 2|4|5 6" {
			t.Errorf("around the event: %s", got)
		}
		page, err := s.Messages(ctx, PageRequest{Room: room, From: &c.Start, Backward: true, Limit: 2, Reader: Reader{User: alice}})
		ok(t, err)
		if got := bodies(page.Events); got != "1 0" {
			t.Errorf("before the context: %s", got)
		}
		page, err = s.Messages(ctx, PageRequest{Room: room, From: &c.End, Limit: 2, Reader: Reader{User: alice}})
		ok(t, err)
		if got := bodies(page.Events); got != "7 8" {
			t.Errorf("behind the context: %s", got)
		}
		_, err = s.Context(ctx, ContextRequest{Room: room, Event: events[4], Limit: 4, Reader: Reader{User: bob}})
		refused(t, err, matrixerr.NotFound)
	})
}

// TestOtherRooms asks for what is in one room by the name of another.
func TestOtherRooms(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		secret := s.mustCreate(t, CreateRequest{})
		event := s.mustSend(t, secret, alice, "secret")
		own := s.mustCreate(t, CreateRequest{Creator: bob})
		for _, room := range []id.RoomID{own, secret, "!nowhere:test"} {
			_, err := s.Event(ctx, room, event, Reader{User: bob})
			refused(t, err, matrixerr.NotFound)
			_, err = s.Context(ctx, ContextRequest{Room: room, Event: event, Limit: 2, Reader: Reader{User: bob}})
			refused(t, err, matrixerr.NotFound)
			if _, _, err = s.Relations(ctx, RelationsRequest{Room: room, Event: event, Limit: 2, Reader: Reader{User: bob}}); matrixerr.CodeOf(err) == "" {
				t.Errorf("relations in %s: %v", room, err)
			}
			if _, err = s.Redact(ctx, RedactRequest{Room: room, Event: event, Sender: bob}); matrixerr.CodeOf(err) == "" {
				t.Errorf("redaction in %s: %v", room, err)
			}
		}
		for _, room := range []id.RoomID{secret, "!nowhere:test"} {
			_, err := s.State(ctx, room, Reader{User: bob})
			refused(t, err, matrixerr.Forbidden)
			_, err = s.Members(ctx, MembersRequest{Room: room, Reader: Reader{User: bob}})
			refused(t, err, matrixerr.Forbidden)
			_, err = s.Messages(ctx, PageRequest{Room: room, Backward: true, Limit: 5, Reader: Reader{User: bob}})
			refused(t, err, matrixerr.Forbidden)
			_, err = s.Threads(ctx, ThreadsRequest{Room: room, Limit: 5, Reader: Reader{User: bob}})
			refused(t, err, matrixerr.Forbidden)
			_, err = s.JoinedMembers(ctx, bob, room)
			refused(t, err, matrixerr.Forbidden)
			_, err = s.ListAliases(ctx, bob, room)
			refused(t, err, matrixerr.Forbidden)
		}
	})
}

func TestKnockAndInvite(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		name := "The pub"
		room := s.mustCreate(t, CreateRequest{Name: &name, InitialState: []StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
		refused(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}), matrixerr.Forbidden)
		ok(t, s.Knock(ctx, MemberRequest{Room: room, Sender: bob, Reason: "please"}))
		check := func(want string) {
			t.Helper()
			err := s.db.Read(ctx, func(tx *storage.Tx) error {
				r, err := tx.GetRoom(room)
				if err != nil {
					return err
				}
				m, err := tx.GetMembership(bob, r.NID)
				if m.Membership != want {
					t.Errorf("bob is %q instead of %q", m.Membership, want)
				}
				if want == "invite" || want == "knock" {
					if got := gjson.GetBytes(m.Stripped, `#(type=="m.room.name").content.name`).Str; got != name {
						t.Errorf("bob is shown the name %q", got)
					}
					if !gjson.GetBytes(m.Stripped, `#(type=="m.room.create")`).Exists() {
						t.Error("bob is not shown the create event")
					}
				}
				return err
			})
			ok(t, err)
		}
		check("knock")
		ok(t, s.Invite(ctx, MemberRequest{Room: room, Sender: alice, Target: bob}))
		check("invite")
		ok(t, s.Leave(ctx, MemberRequest{Room: room, Sender: bob}))
		check("leave")
		refused(t, s.Invite(ctx, MemberRequest{Room: room, Sender: bob, Target: carol}), matrixerr.Forbidden)
		refused(t, s.Knock(ctx, MemberRequest{Room: "!nowhere:test", Sender: bob}), matrixerr.NotFound)
		refused(t, s.Join(ctx, MemberRequest{Room: "!nowhere:test", Sender: bob}), matrixerr.NotFound)
	})
}

// What is remembered of a room for the directory is what the room says now.
func TestDirectorySearch(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		now := time.Now()
		s.clock = func() time.Time { return now }
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat", Visibility: "public"})
		found := func(term string, want int64) {
			t.Helper()
			for range 2 { // read, and remembered
				rooms, total, err := s.PublicRooms(ctx, PublicRoomsFilter{Term: term}, 0, 10)
				ok(t, err)
				if total != len(rooms) || (want > 0) != (total > 0) || total > 0 && rooms[0].NumJoinedMembers != want {
					t.Errorf("%q is found in %+v", term, rooms)
				}
			}
		}
		say := func(topic string) id.EventID {
			t.Helper()
			event, err := s.Send(ctx, SendRequest{Room: room, Sender: alice, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"` + topic + `"}`)})
			ok(t, err)
			return event
		}
		topic := say("About Apples")
		found("apple", 1)
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		found("apple", 2)
		_, err := s.Redact(ctx, RedactRequest{Room: room, Sender: alice, Event: topic})
		ok(t, err)
		found("apple", 0)
		now = now.Add(time.Hour)
		found("apple", 0)
		say("About Pears")
		found("apple", 0)
		found("PEARS", 2)
	})
}

func TestAliases(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat", AliasLocalpart: "pub", Visibility: "public"})
		_, err := s.Create(ctx, CreateRequest{Creator: bob, AliasLocalpart: "pub"})
		refused(t, err, matrixerr.RoomInUse)
		got, servers, err := s.ResolveAlias(ctx, "#pub:test")
		ok(t, err)
		if got != room || len(servers) != 1 || servers[0] != "test" {
			t.Errorf("#pub is %s on %v", got, servers)
		}
		ok(t, s.CreateAlias(ctx, bob, "#bar:test", room))
		refused(t, s.DeleteAlias(ctx, carol, "#bar:test"), matrixerr.Forbidden)
		ok(t, s.DeleteAlias(ctx, alice, "#bar:test"))
		refused(t, s.DeleteAlias(ctx, alice, "#bar:test"), matrixerr.NotFound)
		_, err = s.Send(ctx, SendRequest{Room: room, Sender: alice, Type: "m.room.canonical_alias", StateKey: new(string),
			Content: []byte(`{"alias":"#pub:test","alt_aliases":["#bar:test"]}`)})
		refused(t, err, matrixerr.BadAlias)

		rooms, total, err := s.PublicRooms(ctx, PublicRoomsFilter{}, 0, 10)
		ok(t, err)
		if total != 1 || len(rooms) != 1 || rooms[0].CanonicalAlias != "#pub:test" || rooms[0].NumJoinedMembers != 1 {
			t.Errorf("the directory has %d rooms: %+v", total, rooms)
		}
		refused(t, s.Publish(ctx, bob, room, false), matrixerr.Forbidden)
		ok(t, s.Publish(ctx, alice, room, false))
		if rooms, _, err := s.PublicRooms(ctx, PublicRoomsFilter{}, 0, 10); err != nil || len(rooms) != 0 {
			t.Errorf("the directory still has %v, %v", rooms, err)
		}
	})
}
