package userserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/words"
	"parley/storage"
	"parley/userserver"
)

// room makes a room with members, and some events in it, "$0", "$1" and so on.
func (f *fixture) room(t testing.TB, room id.RoomID, members []id.UserID, events ...string) {
	t.Helper()
	err := f.db.Write(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.InsertRoom(room, "12")
		if err != nil {
			return err
		}
		for i, user := range members {
			member := storage.Event{ID: id.EventID(fmt.Sprintf("$%s-%d", room, i)), Room: r.NID,
				JSON: fmt.Appendf(nil, `{"content":{"displayname":"Name of %s"}}`, user)}
			if err := tx.InsertEvent(&member); err != nil {
				return err
			}
			m := storage.Membership{User: user, Room: r.NID, Membership: "join", Event: member.NID, Local: user.Server() == "x.org"}
			if !m.Local {
				m.Phrases = words.Phrases(user, "Name of "+string(user))
			}
			if err := tx.InsertMembership(&m); err != nil {
				return err
			}
		}
		for i, content := range events {
			e := storage.Event{ID: id.EventID(fmt.Sprintf("$%d", i)), Room: r.NID, JSON: []byte(`{"content":` + content + `}`)}
			if err := tx.InsertEvent(&e); err != nil {
				return err
			}
			if relates := gjson.Get(content, `m\.relates_to`); relates.Exists() {
				err := tx.InsertRelation(&storage.Relation{Room: r.NID, Target: id.EventID(relates.Get("event_id").Str),
					Event: e.NID, RelType: relates.Get("rel_type").Str})
				if err != nil {
					return err
				}
			}
			tx.OnPos(1, func(pos id.Pos) error { return tx.InsertTimeline(r.NID, storage.Ord(pos), e.NID, 0) })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestProfileUnreachable: that another server can't be reached is told, and is no fault of ours.
func TestProfileUnreachable(t *testing.T) {
	eachWithPeer(t, nil, func(t *testing.T, f *fixture, _ *peer) {
		for _, field := range []string{"", "displayname"} {
			_, err := f.GetProfile(context.Background(), "@bob:y.org", field)
			var told *matrixerr.Error
			if !errors.As(err, &told) || told.Code != matrixerr.Unknown || told.Status != 502 {
				t.Errorf("field %q: %v", field, err)
			}
		}
	})
}

func TestProfile(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		for _, test := range []struct {
			field, value string
			code         matrixerr.Code
		}{
			{"displayname", `"Älice"`, ""},
			{"displayname", `"\u00c4lice"`, ""}, // the same
			{"avatar_url", `"mxc://x.org/abc"`, ""},
			{"avatar_url", `"mxc://x.org/` + strings.Repeat("x", 1024) + `"`, matrixerr.InvalidParam},
			{"displayname", `7`, matrixerr.BadJSON},
			{"displayname", `null`, matrixerr.BadJSON},
			{"displayname", `"a\u0000b"`, matrixerr.InvalidParam},
			{"displayname", `"` + strings.Repeat("x", 257) + `"`, matrixerr.InvalidParam},
			{"m.tz", `"Europe/London"`, ""},
			{"org.example.job", `{"title":["cook",1,null]}`, ""},
			{"org.example.nothing", `null`, ""},
			{"job", `"cook"`, matrixerr.InvalidParam},
			{"", `"cook"`, matrixerr.InvalidParam},
			{"org.example.Job", `"cook"`, matrixerr.InvalidParam},
			{"org." + strings.Repeat("x", 252), `1`, matrixerr.KeyTooLarge},
			{"org.example.large", `"` + strings.Repeat("x", 65_480) + `"`, matrixerr.ProfileTooLarge},
		} {
			wantCode(t, f.SetProfileField(ctx, user, test.field, json.RawMessage(test.value)), test.code)
		}
		want := map[string]json.RawMessage{
			"displayname": json.RawMessage(`"Älice"`), "avatar_url": json.RawMessage(`"mxc://x.org/abc"`),
			"m.tz": json.RawMessage(`"Europe/London"`), "org.example.job": json.RawMessage(`{"title":["cook",1,null]}`),
			"org.example.nothing": json.RawMessage(`null`),
		}
		if got := must[map[string]json.RawMessage](t)(f.GetProfile(ctx, user, "")); !reflect.DeepEqual(got, want) {
			t.Errorf("profile %.2000s", got)
		}
		if got := must[map[string]json.RawMessage](t)(f.GetProfile(ctx, user, "m.tz")); len(got) != 1 || string(got["m.tz"]) != `"Europe/London"` {
			t.Errorf("field %s", got)
		}
		if err := f.SetProfileField(ctx, user, "displayname", nil); err != nil {
			t.Error(err)
		}
		if err := f.SetProfileField(ctx, user, "m.tz", nil); err != nil {
			t.Error(err)
		}
		for _, field := range []string{"displayname", "m.tz", "org.example.other"} {
			_, err := f.GetProfile(ctx, user, field)
			wantCode(t, err, matrixerr.NotFound)
		}
		_, err := f.GetProfile(ctx, "@bob:x.org", "")
		wantCode(t, err, matrixerr.NotFound)
		_, err = f.GetProfile(ctx, "@bob:y.org", "")
		wantCode(t, err, matrixerr.NotFound)
		wantRooms := []string{
			`profile @alice:x.org "Älice" ""`,
			`profile @alice:x.org "Älice" "mxc://x.org/abc"`,
			`profile @alice:x.org "" "mxc://x.org/abc"`,
		}
		if !reflect.DeepEqual(f.rooms.calls, wantRooms) {
			t.Errorf("asked of the rooms: %q", f.rooms.calls)
		}
	})
}

func TestSearchUsers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		bob := f.register(t, "bob_b").User
		if err := f.SetProfileField(ctx, bob, "displayname", json.RawMessage(`"Robert 100%"`)); err != nil {
			t.Fatal(err)
		}
		f.room(t, "!r:x.org", []id.UserID{alice, "@carol:y.org", "@dave:y.org"})
		f.room(t, "!s:x.org", []id.UserID{alice, "@carol:y.org"})
		f.room(t, "!t:x.org", []id.UserID{bob, "@eve:y.org"})
		if found, _, err := f.SearchUsers(ctx, alice, "robert", 10); err != nil || len(found) > 0 {
			t.Errorf("found one whom they don't know: %v, %v", found, err)
		}
		f.room(t, "!u:x.org", []id.UserID{alice, bob})
		for _, test := range []struct {
			term string
			want []id.UserID
		}{
			{"ROBERT", []id.UserID{bob}},
			{"100%", []id.UserID{bob}},
			{"b_b", []id.UserID{bob}},
			{"%", nil},
			{"alice", nil}, // who asks is not shown
			{"name of @carol", []id.UserID{"@carol:y.org"}},
			{"@dave", []id.UserID{"@dave:y.org"}},
			{"eve", nil},
			{" ", nil},
		} {
			found, limited, err := f.SearchUsers(ctx, alice, test.term, 10)
			var got []id.UserID
			for _, u := range found {
				got = append(got, u.User)
			}
			if err != nil || limited || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%q finds %v, %v, %v", test.term, got, limited, err)
			}
		}
		if found, limited, _ := f.SearchUsers(ctx, alice, "name", 1); len(found) != 1 || !limited {
			t.Errorf("found %v, limited %v", found, limited)
		}
		if found, _, _ := f.SearchUsers(ctx, alice, "bob", 5); len(found) != 1 || found[0].DisplayName != "Robert 100%" {
			t.Errorf("found %v", found)
		}

		stranger := f.register(t, "stranger").User
		finds := func(term string, want int) {
			t.Helper()
			if found, _, err := f.SearchUsers(ctx, stranger, term, 10); err != nil || len(found) != want {
				t.Errorf("a stranger finds %v, %v for %q", found, err, term)
			}
		}
		set := func(column string, value bool) {
			t.Helper()
			if err := f.db.Write(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(`UPDATE rooms SET `+column+` = $1 WHERE room_id = '!t:x.org'`, value)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		finds("robert", 0)
		finds("eve", 0)
		for _, column := range []string{"open", "published"} {
			set(column, true)
			finds("robert", 1)
			finds("eve", 1)
			finds("alice", 0)
			set(column, false)
		}
	})
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.register(t, "bob")
		all := userserver.New(userserver.Options{DB: f.db, ServerName: "x.org", Rooms: f.rooms, FindAllUsers: true})
		t.Cleanup(all.Close)
		if found, _, err := all.SearchUsers(ctx, alice, "bob", 5); err != nil || len(found) != 1 {
			t.Errorf("found %v, %v", found, err)
		}
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		f.taken()
		set := func(room id.RoomID, typ, content string) error {
			return f.SetAccountData(ctx, user, room, typ, json.RawMessage(content))
		}
		for _, err := range []error{set("", "m.x", `{"a":1}`), set("!r:x", "m.x", `{"b":1}`), set("", "m.x", `{"a":1}`)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		notices := f.taken()
		if len(notices) != 2 || notices[1].Kind != stream.AccountData || notices[1].Room != "" || notices[1].Users[0] != user {
			t.Fatalf("notices %+v", notices)
		}
		rows := must[[]storage.AccountData](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]storage.AccountData, error) {
			return tx.ListAccountData(user, notices[0].Pos, notices[1].Pos, true)
		}))
		if len(rows) != 1 || rows[0].Room != "!r:x" || string(rows[0].Content) != `{"b":1}` {
			t.Errorf("account data since then: %+v", rows)
		}
		if got := must[json.RawMessage](t)(f.GetAccountData(ctx, user, "", "m.x")); string(got) != `{"a":1}` {
			t.Errorf("account data %s", got)
		}
		_, err := f.GetAccountData(ctx, user, "", "m.y")
		wantCode(t, err, matrixerr.NotFound)
		for _, typ := range []string{userserver.FullyReadType, userserver.PushRulesType} {
			err := set("", typ, `{}`)
			wantCode(t, err, matrixerr.BadJSON)
			var e *matrixerr.Error
			if errors.As(err, &e) && e.Status != 405 {
				t.Errorf("%s is refused with %d", typ, e.Status)
			}
		}
		wantCode(t, set("", "", `{}`), matrixerr.InvalidParam)
		wantCode(t, set("", strings.Repeat("x", 256), `{}`), matrixerr.InvalidParam)

		if ignored := must[map[id.UserID]bool](t)(f.IgnoredUsers(ctx, user)); len(ignored) != 0 {
			t.Errorf("ignored %v", ignored)
		}
		if err := set("", userserver.IgnoredUserType, `{"ignored_users":{"@bob:x":{}}}`); err != nil {
			t.Fatal(err)
		}
		if ignored := must[map[id.UserID]bool](t)(f.IgnoredUsers(ctx, user)); !ignored["@bob:x"] || len(ignored) != 1 {
			t.Errorf("ignored %v", ignored)
		}
	})
}

func TestTags(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := f.SetTag(ctx, user, "!r:x", fmt.Sprintf("u.%d", i), json.RawMessage(`{"order":0.5}`)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := f.DeleteTag(ctx, user, "!r:x", "u.3"); err != nil {
			t.Fatal(err)
		}
		tags := must[userserver.Tags](t)(f.GetTags(ctx, user, "!r:x"))
		if len(tags) != 19 || tags["u.3"] != nil || string(tags["u.4"]) != `{"order":0.5}` {
			t.Errorf("tags %v", tags)
		}
		wantCode(t, f.SetTag(ctx, user, "!r:x", strings.Repeat("x", 256), json.RawMessage(`{}`)), matrixerr.InvalidParam)
		if tags := must[userserver.Tags](t)(f.GetTags(ctx, user, "!s:x")); tags == nil || len(tags) != 0 {
			t.Errorf("tags of another room %v", tags)
		}
		// Account data that is no tags is as good as none.
		if err := f.SetAccountData(ctx, user, "!r:x", "m.tag", json.RawMessage(`{"tags":[]}`)); err != nil {
			t.Fatal(err)
		}
		if err := f.SetTag(ctx, user, "!r:x", "u.a", json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		text := json.RawMessage(`{"room":{"timeline":{"limit":5}}}`)
		name := must[string](t)(f.AddFilter(ctx, user, text))
		if again := must[string](t)(f.AddFilter(ctx, user, text)); again != name || strings.HasPrefix(name, "{") {
			t.Errorf("filter is called %q, then %q", name, again)
		}
		if got := must[json.RawMessage](t)(f.GetFilter(ctx, user, name)); string(got) != string(text) {
			t.Errorf("filter %s", got)
		}
		_, err := f.GetFilter(ctx, "@bob:x.org", name)
		wantCode(t, err, matrixerr.NotFound)
		_, err = f.AddFilter(ctx, user, json.RawMessage(`{"room":1}`))
		wantCode(t, err, matrixerr.BadJSON)
	})
}

func TestMarkers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice, bob := f.register(t, "alice").User, f.register(t, "bob").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob}, `{}`, `{}`,
			`{"m.relates_to":{"rel_type":"m.thread","event_id":"$0"}}`,
			`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$2"}}`, `{}`)
		f.room(t, "!s:x.org", []id.UserID{bob})
		set := func(m userserver.Markers) error {
			t.Helper()
			return f.SetMarkers(ctx, alice, "!r:x.org", m)
		}
		seen := func(user id.UserID) map[string]id.EventID {
			t.Helper()
			out := make(map[string]id.EventID)
			err := f.db.Read(ctx, func(tx *storage.Tx) error {
				r, err := tx.GetRoom("!r:x.org")
				if err != nil {
					return err
				}
				pos, err := tx.GetPos()
				if err != nil {
					return err
				}
				receipts, err := tx.ListReceipts(r.NID, user, 0, pos, 100)
				for _, r := range receipts {
					out[fmt.Sprint(r.User, r.Type, r.Thread)] = r.Event
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		f.taken()
		for i, test := range []struct {
			m    userserver.Markers
			code matrixerr.Code
			news int
		}{
			{userserver.Markers{Read: "$1"}, "", 1},
			{userserver.Markers{Read: "$1"}, "", 0},
			{userserver.Markers{Read: "$0"}, "", 0}, // backwards
			{userserver.Markers{Read: "$4", ReadPrivate: "$4", FullyRead: "$3"}, "", 3},
			{userserver.Markers{Read: "$2", Thread: "$0"}, "", 1},
			{userserver.Markers{Read: "$3", Thread: "$0"}, "", 1},
			{userserver.Markers{Read: "$0", Thread: "main"}, "", 1},
			{userserver.Markers{ReadPrivate: "$0", Thread: "$0"}, "", 1},
			{userserver.Markers{Read: "$2", Thread: "main"}, matrixerr.InvalidParam, 0},
			{userserver.Markers{Read: "$1", Thread: "$0"}, matrixerr.InvalidParam, 0},
			{userserver.Markers{Read: "$1", Thread: "other"}, matrixerr.InvalidParam, 0},
			{userserver.Markers{Read: "$99"}, matrixerr.NotFound, 0},
			{userserver.Markers{Read: "$!s:x.org-0"}, matrixerr.NotFound, 0},
		} {
			wantCode(t, set(test.m), test.code)
			if n := f.taken(); len(positioned(n)) != test.news {
				t.Errorf("%d: %+v gives %+v", i, test.m, n)
			}
		}
		wantCode(t, f.SetMarkers(ctx, alice, "!s:x.org", userserver.Markers{Read: "$1"}), matrixerr.Forbidden)
		wantCode(t, f.SetMarkers(ctx, alice, "!none:x.org", userserver.Markers{Read: "$1"}), matrixerr.Forbidden)
		public := map[string]id.EventID{
			"@alice:x.orgm.read": "$4", "@alice:x.orgm.read$0": "$3", "@alice:x.orgm.readmain": "$0",
		}
		if got := seen(bob); !reflect.DeepEqual(got, public) {
			t.Errorf("bob sees %v", got)
		}
		public["@alice:x.orgm.read.private"] = "$4"
		public["@alice:x.orgm.read.private$0"] = "$0"
		if got := seen(alice); !reflect.DeepEqual(got, public) {
			t.Errorf("alice sees %v", got)
		}
		if got := must[json.RawMessage](t)(f.GetAccountData(ctx, alice, "!r:x.org", userserver.FullyReadType)); string(got) != `{"event_id":"$3"}` {
			t.Errorf("m.fully_read is %s", got)
		}
		// A private receipt is nobody else's business.
		if err := set(userserver.Markers{ReadPrivate: "$1", Thread: "main"}); err != nil {
			t.Fatal(err)
		}
		if n := positioned(f.taken()); len(n) != 1 || n[0].Room != "!r:x.org" || len(n[0].Users) != 1 || n[0].Users[0] != alice {
			t.Errorf("notices %+v", n)
		}
	})
}

// positioned are the notices of what is in the log.
func positioned(all []stream.Notice) []stream.Notice {
	var out []stream.Notice
	for _, n := range all {
		if n.Pos != 0 {
			out = append(out, n)
		}
	}
	return out
}

func TestTyping(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice})
		other := f.another(t)
		pass := func() {
			for _, n := range f.taken() {
				other.Observe(n)
				f.Observe(n)
			}
		}
		typing := func(s *userserver.Server, want ...id.UserID) uint64 {
			t.Helper()
			users, serial := s.Typing("!r:x.org")
			if len(users) != len(want) || len(want) > 0 && !reflect.DeepEqual(users, want) {
				t.Errorf("%v type instead of %v", users, want)
			}
			return serial
		}
		if err := f.SetTyping(ctx, alice, "!r:x.org", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		first := typing(f.Server, alice)
		pass()
		typing(other, alice)
		// To go on is no news to clients, but it is to other processes.
		if err := f.SetTyping(ctx, alice, "!r:x.org", 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if n := f.taken(); len(n) == 0 {
			t.Error("other processes are not told")
		}
		if typing(f.Server, alice) != first {
			t.Error("the serial changed and nothing else")
		}
		f.clock.Pass(15 * time.Second)
		f.Expire()
		typing(f.Server, alice)
		f.clock.Pass(10 * time.Second)
		f.Expire()
		if typing(f.Server) <= first {
			t.Error("the serial did not grow")
		}
		pass()
		typing(other)
		if err := f.SetTyping(ctx, alice, "!r:x.org", 0); err != nil || len(f.taken()) != 0 {
			t.Errorf("to stop twice: %v", err)
		}
		wantCode(t, f.SetTyping(ctx, "@bob:x.org", "!r:x.org", time.Second), matrixerr.Forbidden)
		wantCode(t, f.SetTyping(ctx, alice, "!s:x.org", time.Second), matrixerr.Forbidden)
	})
}

func TestPresence(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice, bob := f.register(t, "alice").User, f.register(t, "bob").User
		other := f.another(t)
		state := func(want string) {
			t.Helper()
			for _, n := range f.taken() {
				other.Observe(n)
				f.Observe(n)
			}
			for _, s := range []*userserver.Server{f.Server, other} {
				if got := s.GetPresence(alice).State; got != want {
					t.Errorf("alice is %s instead of %s", got, want)
				}
			}
		}
		state(userserver.Offline)
		_, since, known := f.PresenceSince(0)
		if !known {
			t.Error("nothing happened, and that is not known")
		}
		f.Syncing(alice, userserver.Online, 30*time.Second)
		state(userserver.Online)
		users, serial, known := f.PresenceSince(since)
		if !known || len(users) != 1 || users[0] != alice {
			t.Errorf("changes %v, %v", users, known)
		}
		// Syncing on and on is no activity.
		for range 12 {
			f.clock.Pass(30 * time.Second)
			f.Syncing(alice, userserver.Online, 30*time.Second)
			f.Expire()
		}
		state(userserver.Unavailable)
		f.Active(alice)
		state(userserver.Online)
		if p := f.GetPresence(alice); !p.CurrentlyActive || !p.LastActive.Equal(f.clock.Now()) {
			t.Errorf("presence %+v", p)
		}
		f.clock.Pass(2 * time.Minute)
		f.Expire()
		state(userserver.Offline)
		if users, _, known := f.PresenceSince(serial); !known || len(users) != 1 {
			t.Errorf("changes %v, %v", users, known)
		}
		if _, _, known := f.PresenceSince(1_000_000); known {
			t.Error("the future is known")
		}
		f.Syncing(alice, userserver.Offline, 0)
		state(userserver.Offline)

		if err := f.SetPresence(alice, userserver.Unavailable, "at lunch"); err != nil {
			t.Fatal(err)
		}
		state(userserver.Unavailable)
		wantCode(t, f.SetPresence(alice, "busy", ""), matrixerr.InvalidParam)
		wantCode(t, f.SetPresence(alice, userserver.Online, strings.Repeat("x", 2000)), matrixerr.InvalidParam)
		_, err := f.PresenceFor(ctx, bob, alice)
		wantCode(t, err, matrixerr.Forbidden)
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		if p := must[userserver.Presence](t)(f.PresenceFor(ctx, bob, alice)); p.StatusMsg != "at lunch" {
			t.Errorf("presence %+v", p)
		}
	})
}

func TestPushers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		callers := make([]userserver.Caller, 2)
		for i, name := range []string{"alice", "bob"} {
			callers[i] = must[userserver.Caller](t)(f.Authenticate(ctx, f.register(t, name).AccessToken, ""))
		}
		alice, bob := callers[0], callers[1]
		good := userserver.Pusher{PushKey: "k", Kind: "http", AppID: "a", AppDisplayName: "A", DeviceDisplayName: "D", Lang: "en",
			Data: json.RawMessage(`{"url":"https://push.x.org/_matrix/push/v1/notify"}`)}
		count := func(user id.UserID) int {
			t.Helper()
			return len(must[[]json.RawMessage](t)(f.ListPushers(ctx, user)))
		}
		if err := f.SetPusher(ctx, alice.User, alice.DeviceNID, &good, false); err != nil {
			t.Fatal(err)
		}
		if err := f.SetPusher(ctx, bob.User, bob.DeviceNID, &good, true); err != nil {
			t.Fatal(err)
		}
		if count(alice.User) != 1 || count(bob.User) != 1 {
			t.Error("a pusher is missing")
		}
		if err := f.SetPusher(ctx, bob.User, bob.DeviceNID, &good, false); err != nil {
			t.Fatal(err)
		}
		if count(alice.User) != 0 || count(bob.User) != 1 {
			t.Error("the key still pushes for two users")
		}
		for _, test := range []struct {
			change func(*userserver.Pusher)
			code   matrixerr.Code
		}{
			{func(p *userserver.Pusher) { p.PushKey = "" }, matrixerr.MissingParam},
			{func(p *userserver.Pusher) { p.PushKey = strings.Repeat("x", 513) }, matrixerr.InvalidParam},
			{func(p *userserver.Pusher) { p.AppID = strings.Repeat("x", 65) }, matrixerr.InvalidParam},
			{func(p *userserver.Pusher) { p.Kind = "email" }, matrixerr.InvalidParam},
			{func(p *userserver.Pusher) { p.Data = nil }, matrixerr.MissingParam},
			{func(p *userserver.Pusher) { p.Data = json.RawMessage(`{}`) }, matrixerr.MissingParam},
			{func(p *userserver.Pusher) { p.Data = json.RawMessage(`[]`) }, matrixerr.BadJSON},
			{func(p *userserver.Pusher) { p.Data = json.RawMessage(`{"url":"https://x.org/"}`) }, matrixerr.InvalidParam},
		} {
			p := good
			test.change(&p)
			wantCode(t, f.SetPusher(ctx, alice.User, alice.DeviceNID, &p, true), test.code)
		}
		if err := f.DeletePusher(ctx, bob.User, "a", "k"); err != nil || count(bob.User) != 0 {
			t.Errorf("the pusher is still there: %v", err)
		}
		// A pusher ends with the device that made it.
		if err := f.SetPusher(ctx, bob.User, bob.DeviceNID, &good, true); err != nil {
			t.Fatal(err)
		}
		if err := f.Logout(ctx, bob.User, bob.Device); err != nil || count(bob.User) != 0 {
			t.Errorf("the pusher is still there: %v", err)
		}
	})
}

func TestInteract(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		if err := f.AddRegistrationToken(ctx, storage.RegistrationToken{Token: "tok", UsesAllowed: 1}); err != nil {
			t.Fatal(err)
		}
		dummy := [][]string{{userserver.StageDummy}}
		token := [][]string{{userserver.StageRegistrationToken, userserver.StageTerms}}
		password := [][]string{{userserver.StagePassword}}
		session := ""
		for i, test := range []struct {
			flows     [][]string
			auth      string // %s is the session of the answer before
			op        string
			done      bool
			code      matrixerr.Code // of the error, or of the failed stage
			completed string
		}{
			{dummy, `null`, "a", false, "", ""},
			{dummy, `{"type":"m.login.dummy","session":"%s"}`, "a", true, "", ""},
			{dummy, `{"type":"m.login.dummy"}`, "a", true, "", ""},
			{dummy, `{"type":"m.login.password"}`, "a", false, matrixerr.Unrecognized, ""},
			{dummy, `{}`, "a", false, "", ""},
			{dummy, `[]`, "a", false, matrixerr.BadJSON, ""},
			{dummy, `{"type":1}`, "a", false, matrixerr.BadJSON, ""},
			{dummy, `{"session":"\u0000"}`, "a", false, matrixerr.InvalidParam, ""},
			{token, `null`, "a", false, "", ""},
			{token, `{"type":"m.login.terms","session":"%s"}`, "a", false, matrixerr.Forbidden, ""}, // not in order
			{token, `{"type":"m.login.registration_token","token":"bad","session":"%s"}`, "a", false, matrixerr.Unauthorized, ""},
			{token, `{"type":"m.login.registration_token","token":"tok","session":"%s"}`, "a", false, "", "m.login.registration_token"},
			{token, `{"session":"%s"}`, "a", false, "", "m.login.registration_token"},
			{token, `{"type":"m.login.registration_token","token":"bad","session":"%s"}`, "a", false, "", "m.login.registration_token"},
			{token, `{"type":"m.login.terms","session":"%s"}`, "b", false, matrixerr.Forbidden, ""}, // another request
			{token, `{"type":"m.login.terms","session":"%s"}`, "a", true, "", ""},
			{token, `{"type":"m.login.terms","session":"%s"}`, "a", false, matrixerr.Forbidden, ""}, // used up
			{password, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"password of alice"}`, "a", true, "", ""},
			{password, `{"type":"m.login.password","user":"@alice:x.org","password":"password of alice"}`, "a", true, "", ""},
			{password, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"wrong"}`, "a", false, matrixerr.Forbidden, ""},
			{password, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"bob"},"password":"wrong"}`, "a", false, matrixerr.Forbidden, ""},
			{password, `{"type":"m.login.password","identifier":{"type":"m.id.phone"},"password":"wrong"}`, "a", false, matrixerr.Forbidden, ""},
			{password, `{"type":"m.login.password","password":"wrong"}`, "a", false, matrixerr.MissingParam, ""},
		} {
			auth := strings.ReplaceAll(test.auth, "%s", session)
			done, err := f.Interact(ctx, userserver.Interaction{Operation: test.op, User: alice, Flows: test.flows, Auth: json.RawMessage(auth)})
			var c *userserver.Challenge
			switch {
			case test.done:
				if err != nil || len(done) == 0 {
					t.Errorf("%d: %s: %v, %v", i, auth, done, err)
				}
				if token, ok := done[userserver.StageRegistrationToken]; ok && token != "tok" {
					t.Errorf("%d: done %v", i, done)
				}
			case errors.As(err, &c):
				if c.Session == "" || strings.Join(c.Completed, " ") != test.completed ||
					(c.Failed == nil) != (test.code == "") || c.Failed != nil && c.Failed.Code != test.code {
					t.Errorf("%d: %s: challenge %+v", i, auth, c)
				}
				session = c.Session
			default:
				wantCode(t, err, test.code)
			}
		}
	})
}

func TestRegistrationTokens(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		in := f.clock.Now().Add(time.Hour).UnixMilli()
		for _, row := range []storage.RegistrationToken{
			{Token: "forever", UsesAllowed: -1}, {Token: "once", UsesAllowed: 1}, {Token: "hour", UsesAllowed: -1, Expires: in},
		} {
			if err := f.AddRegistrationToken(ctx, row); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, f.AddRegistrationToken(ctx, storage.RegistrationToken{Token: "once"}), matrixerr.InvalidParam)
		wantCode(t, f.AddRegistrationToken(ctx, storage.RegistrationToken{Token: "a b"}), matrixerr.InvalidParam)
		valid := func(want string) {
			t.Helper()
			var got []string
			for _, token := range []string{"forever", "once", "hour", "other", "", "\x00"} {
				if must[bool](t)(f.CheckRegistrationToken(ctx, token)) {
					got = append(got, token)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("valid are %q", got)
			}
		}
		valid("forever once hour")
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for range 10 {
			wg.Go(func() {
				_, err := f.Register(ctx, userserver.Registration{Token: "once"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else {
					wantCode(t, err, matrixerr.Unauthorized)
				}
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("%d accounts with a token for one", made)
		}
		f.clock.Pass(2 * time.Hour)
		valid("forever")
	})
}

func FuzzInteractionAuth(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"b","session":"s"}`,
		`{"type":"m.login.registration_token","token":"\u0000"}`, `{"identifier":[]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := userserver.CheckAuth(json.RawMessage(text)); err != nil && matrixerr.CodeOf(err) == "" {
			t.Errorf("%q: an error without a code: %v", text, err)
		}
	})
}
