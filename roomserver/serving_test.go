package roomserver

import (
	"context"
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

// come has a user of another server join.
func (n *node) come(t *testing.T, version id.RoomVersion, room id.RoomID, user id.UserID) {
	t.Helper()
	n.change(t, version, room, user, spec.Join)
}

func (n *node) change(t *testing.T, version id.RoomVersion, room id.RoomID, user id.UserID, membership string) {
	t.Helper()
	template, err := n.MakeMember(context.Background(), user.Server(), room, user, membership, nil)
	ok(t, err)
	event, raw := complete(t, version, template, user.Server())
	_, err = n.TakeMember(context.Background(), user.Server(), room, event, membership, raw)
	ok(t, err)
}

// reads are all the ways in which a server reads a room at an event; each gives the events
// that it got, with their contents as far as it may see them.
func (n *node) reads(origin id.ServerName, room id.RoomID, event id.EventID) map[string]func() ([]json.RawMessage, error) {
	ctx := context.Background()
	ids := func(list []id.EventID) (out []json.RawMessage) {
		for _, e := range list {
			out = append(out, json.RawMessage(`"`+e+`"`))
		}
		return out
	}
	return map[string]func() ([]json.RawMessage, error){
		"event": func() ([]json.RawMessage, error) {
			raw, err := n.ServeEvent(ctx, origin, event)
			return []json.RawMessage{raw}, err
		},
		"event_auth": func() ([]json.RawMessage, error) { return n.ServeAuth(ctx, origin, room, event) },
		"state": func() ([]json.RawMessage, error) {
			s, err := n.ServeState(ctx, origin, room, event)
			return slices.Concat(s.PDUs, s.AuthChain), err
		},
		"state_ids": func() ([]json.RawMessage, error) {
			s, err := n.ServeStateIDs(ctx, origin, room, event)
			return ids(slices.Concat(s.PDUs, s.AuthChain)), err
		},
		"backfill": func() ([]json.RawMessage, error) {
			return n.ServeHistory(ctx, origin, room, []id.EventID{event}, 10)
		},
		"get_missing_events": func() ([]json.RawMessage, error) {
			return n.ServeMissing(ctx, origin, room, serverapi.MissingEvents{Latest: []id.EventID{event}})
		},
		"timestamp_to_event": func() ([]json.RawMessage, error) {
			near, err := n.ServeNearest(ctx, origin, room, 0, false)
			if err != nil {
				return nil, err
			}
			return ids([]id.EventID{near.Event}), nil
		},
	}
}

// TestErasedForOthers has servers read what one of our users wrote who had it erased: those that came before it
// get it, and one that came later gets it redacted.
func TestErasedForOthers(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		a := host(t, url)
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		a.come(t, version, room, "@v:b")
		ok(t, a.Join(ctx, MemberRequest{Room: room, Sender: "@alice:a"}))
		secret := a.mustSend(t, room, "@alice:a", "secret")
		last := a.mustSend(t, room, a.user, "open")
		a.come(t, version, room, "@v:c")
		ok(t, a.db.Write(ctx, func(tx *storage.Tx) error {
			if _, err := tx.InsertUser(&storage.User{ID: "@alice:a"}); err != nil {
				return err
			}
			return tx.UpdateUserErased("@alice:a")
		}))
		a.come(t, version, room, "@v:d")
		for server, sees := range map[id.ServerName]bool{"b": true, "c": true, "d": false} {
			got, err := a.ServeEvent(ctx, server, secret)
			ok(t, err)
			history, err := a.ServeHistory(ctx, server, room, []id.EventID{last}, 100)
			ok(t, err)
			missing, err := a.ServeMissing(ctx, server, room, serverapi.MissingEvents{Latest: []id.EventID{last}, Limit: 100})
			ok(t, err)
			for _, list := range [][]json.RawMessage{{got}, history, missing} {
				there, shown := false, false
				for _, raw := range list {
					pdu, err := Parse(version, raw)
					ok(t, err)
					there = there || pdu.EventID() == string(secret)
					shown = shown || gjson.GetBytes(raw, "content.body").Str == "secret"
				}
				if !there || shown != sees {
					t.Errorf("%s is given %s", server, list)
				}
			}
		}
	})
}

// TestReadsOfOthers asks for what is none of the asker's business.
func TestReadsOfOthers(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		a := host(t, url)
		var rooms []id.RoomID
		var events []id.EventID
		for range 2 {
			room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", Preset: "public_chat"})
			ok(t, err)
			rooms = append(rooms, room)
			events = append(events, a.mustSend(t, room, a.user, "hello"))
		}
		a.come(t, "10", rooms[0], "@v:b")
		a.come(t, "10", rooms[1], "@v:c")
		a.change(t, "10", rooms[1], "@v:c", spec.Leave)

		for name, read := range a.reads("b", rooms[0], events[0]) {
			if got, err := read(); err != nil || len(got) == 0 {
				t.Errorf("%s gives one who may read %d events, %v", name, len(got), err)
			}
		}
		for _, c := range []struct {
			name   string
			origin id.ServerName
			room   id.RoomID
			event  id.EventID
			code   matrixerr.Code
			silent []string // those that leave the event out, and those to which it doesn't matter
		}{
			{"an event of another room", "b", rooms[0], events[1], matrixerr.NotFound, []string{"backfill", "get_missing_events", "timestamp_to_event", "event"}},
			{"an event of a room that the server is not in", "b", rooms[0], events[1], matrixerr.Forbidden, []string{"event_auth", "state", "state_ids", "backfill", "get_missing_events", "timestamp_to_event"}},
			{"a room that the server is not in", "b", rooms[1], events[1], matrixerr.Forbidden, nil},
			{"a room that the server has left", "c", rooms[1], events[1], matrixerr.Forbidden, nil},
			{"a room that nobody knows", "b", "!nowhere:a", "$nothing", matrixerr.NotFound, nil},
			{"an event that nobody knows", "b", rooms[0], "$nothing", matrixerr.NotFound, []string{"backfill", "get_missing_events", "timestamp_to_event"}},
		} {
			for name, read := range a.reads(c.origin, c.room, c.event) {
				got, err := read()
				if slices.Contains(c.silent, name) {
					for _, raw := range got {
						if err == nil && gjson.GetBytes(raw, "room_id").Str == string(rooms[1]) {
							t.Errorf("%s: %s gives %s", c.name, name, raw)
						}
					}
				} else if matrixerr.CodeOf(err) != c.code {
					t.Errorf("%s: %s gives %d events, %v", c.name, name, len(got), err)
				}
			}
		}
		// What the room's access control list says holds for reads, too.
		_, err := a.Send(ctx, SendRequest{Room: rooms[0], Sender: a.user, Type: "m.room.server_acl", StateKey: new(string), Content: []byte(`{"allow":["*"],"deny":["b"]}`)})
		ok(t, err)
		for name, read := range a.reads("b", rooms[0], events[0]) {
			if _, err := read(); matrixerr.CodeOf(err) != matrixerr.Forbidden {
				t.Errorf("%s serves one that is denied: %v", name, err)
			}
		}
	})
}

// stateOf is the event that the room's state has of a type.
func (n *node) stateOf(t *testing.T, room id.RoomID, eventType string) id.EventID {
	t.Helper()
	e, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) (*event, error) {
		r, err := tx.GetRoom(room)
		if err != nil {
			return nil, err
		}
		return n.stateEvent(tx, &r, r.Root, eventType, "")
	})
	ok(t, err)
	return e.ID
}

// TestReadsOfThePast asks for what was said before one came, under each history visibility.
func TestReadsOfThePast(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		a := host(t, url)
		for _, visibility := range []string{"world_readable", "shared", "invited", "joined"} {
			open := visibility == "world_readable" || visibility == "shared"
			room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", Preset: "public_chat", InitialState: []StateEvent{
				{Type: spec.MRoomHistoryVisibility, Content: fmt.Appendf(nil, `{"history_visibility":%q}`, visibility)}}})
			ok(t, err)
			past := a.mustSend(t, room, a.user, "a secret")
			last := a.mustSend(t, room, a.user, "another")
			a.come(t, "10", room, "@v:b")
			present := a.mustSend(t, room, a.user, "not one")
			for name, read := range a.reads("b", room, past) {
				got, err := read()
				for _, raw := range got {
					if gjson.GetBytes(raw, "content.body").Exists() && !open {
						t.Errorf("%s: %s gives %s", visibility, name, raw)
					}
				}
				switch {
				case !open && (name == "state" || name == "state_ids"):
					if matrixerr.CodeOf(err) != matrixerr.Forbidden {
						t.Errorf("%s: %s gives %d events, %v", visibility, name, len(got), err)
					}
				case err != nil:
					t.Errorf("%s: %s: %v", visibility, name, err)
				}
			}
			// What it was let in with it may have again.
			for name, read := range a.reads("b", room, last) {
				if got, err := read(); (name == "state" || name == "state_ids") && (err != nil || len(got) == 0) {
					t.Errorf("%s: %s gives %d events of the state before the join, %v", visibility, name, len(got), err)
				}
			}
			given, err := a.ServeEvent(ctx, "b", a.stateOf(t, room, spec.MRoomHistoryVisibility))
			if err != nil || gjson.GetBytes(given, "content.history_visibility").Str != visibility {
				t.Errorf("%s: of the state before the join comes %s, %v", visibility, given, err)
			}
			for name, read := range a.reads("b", room, present) {
				if got, err := read(); err != nil || len(got) == 0 {
					t.Errorf("%s: %s gives %d events of the present, %v", visibility, name, len(got), err)
				}
			}
			// The DAG comes whole, the secret redacted or not.
			history, err := a.ServeHistory(ctx, "b", room, []id.EventID{present}, 4)
			ok(t, err)
			var shown []string
			for _, raw := range history {
				shown = append(shown, gjson.GetBytes(raw, "content.body").Str)
			}
			want := []string{"not one", "", "", ""}
			if open {
				want[2], want[3] = "another", "a secret"
			}
			if !slices.Equal(shown, want) {
				t.Errorf("%s: shown %q", visibility, shown)
			}
		}
	})
}

func TestServeMissing(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		a := host(t, url)
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: "10", Preset: "public_chat"})
		ok(t, err)
		a.come(t, "10", room, "@v:b")
		var sent []id.EventID
		for i := range 30 {
			sent = append(sent, a.mustSend(t, room, a.user, fmt.Sprint(i)))
		}
		get := func(r serverapi.MissingEvents) (out []string) {
			list, err := a.ServeMissing(ctx, "b", room, r)
			ok(t, err)
			for _, raw := range list {
				out = append(out, gjson.GetBytes(raw, "content.body").Str)
			}
			return out
		}
		for _, c := range []struct {
			r    serverapi.MissingEvents
			want []string
		}{
			{serverapi.MissingEvents{Earliest: sent[25:26], Latest: sent[29:]}, []string{"26", "27", "28"}},
			{serverapi.MissingEvents{Earliest: sent[2:3], Latest: sent[29:], Limit: 2}, []string{"27", "28"}},
			{serverapi.MissingEvents{Earliest: sent[29:], Latest: sent[29:]}, []string{"19", "20", "21", "22", "23", "24", "25", "26", "27", "28"}},
			{serverapi.MissingEvents{Latest: []id.EventID{"$nothing"}}, nil},
			{serverapi.MissingEvents{Latest: sent[29:], MinDepth: 1 << 40}, nil},
		} {
			if got := get(c.r); !slices.Equal(got, c.want) {
				t.Errorf("%+v: %q", c.r, got)
			}
		}
		if got := get(serverapi.MissingEvents{Latest: sent[29:], Limit: 1 << 30}); len(got) > maxServed {
			t.Errorf("%d events", len(got))
		}
	})
}

func TestServeHierarchy(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		a := host(t, url)
		create := func(r CreateRequest) id.RoomID {
			r.Creator, r.Version = a.user, "10"
			return a.mustCreate(t, r)
		}
		open := create(CreateRequest{Preset: "public_chat"})
		closed := create(CreateRequest{Preset: "private_chat"})
		members := create(CreateRequest{InitialState: []StateEvent{{Type: spec.MRoomJoinRules,
			Content: fmt.Appendf(nil, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, open)}}})
		space := create(CreateRequest{Preset: "public_chat", CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}})
		for _, child := range []id.RoomID{open, closed, members, "!elsewhere:z"} {
			key := string(child)
			_, err := a.Send(ctx, SendRequest{Room: space, Sender: a.user, Type: "m.space.child", StateKey: &key, Content: fmt.Appendf(nil, `{"via":["a"],"suggested":%v}`, child == open)})
			ok(t, err)
		}
		look := func(origin id.ServerName, suggested bool) (shown, hidden []string) {
			h, err := a.ServeHierarchy(ctx, origin, space, suggested)
			ok(t, err)
			if n := len(gjson.GetBytes(h.Room, "children_state").Array()); n != 4 {
				t.Errorf("%d children in the space's state", n)
			}
			for _, c := range h.Children {
				shown = append(shown, gjson.GetBytes(c, "room_id").Str)
			}
			for _, c := range h.Inaccessible {
				hidden = append(hidden, string(c))
			}
			slices.Sort(shown)
			slices.Sort(hidden)
			return shown, hidden
		}
		sorted := func(rooms ...id.RoomID) (out []string) {
			for _, r := range rooms {
				out = append(out, string(r))
			}
			slices.Sort(out)
			return out
		}
		check := func(origin id.ServerName, suggested bool, wantShown, wantHidden []string) {
			t.Helper()
			if shown, hidden := look(origin, suggested); !slices.Equal(shown, wantShown) || !slices.Equal(hidden, wantHidden) {
				t.Errorf("%s is shown %q and not %q", origin, shown, hidden)
			}
		}
		check("b", false, sorted(open), sorted(closed, members))
		check("b", true, sorted(open), nil)
		a.come(t, "10", open, "@v:b")
		check("b", false, sorted(open, members), sorted(closed))
		_, err := a.ServeHierarchy(ctx, "b", closed, false)
		refused(t, err, matrixerr.NotFound)
		_, err = a.ServeHierarchy(ctx, "b", "!elsewhere:z", false)
		refused(t, err, matrixerr.NotFound)
	})
}
