package roomserver

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// back pages back through a room as a user, and gives what is shown: types, bodies of messages.
func (n *node) back(t *testing.T, room id.RoomID, user id.UserID, limit int) (shown []string) {
	t.Helper()
	var from *storage.Ord
	for range 100 {
		page, err := n.Messages(context.Background(), PageRequest{Room: room, From: from, Backward: true, Limit: limit, Reader: Reader{User: user}})
		ok(t, err)
		for _, raw := range page.Events {
			f := gjson.GetManyBytes(raw, "type", "content.body", "state_key")
			shown = append(shown, f[0].Str+" "+f[1].Str+f[2].Str)
		}
		if page.End == nil {
			return shown
		}
		from = page.End
	}
	t.Fatal("there is no end to it")
	return nil
}

// TestHistory has one who joins late read all of a room.
func TestHistory(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "6", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		links["b"].page = 7
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		for i := range 20 {
			a.say(t, room, fmt.Sprint("early ", i))
			_, err := a.Send(ctx, SendRequest{Room: room, Sender: a.user, Type: "m.room.topic", StateKey: new(string), Content: fmt.Appendf(nil, `{"topic":"%d"}`, i)})
			ok(t, err)
		}
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		want := a.back(t, room, a.user, 10)
		if got := b.back(t, room, b.user, 10); !slices.Equal(got, want) {
			t.Errorf("b is shown\n%q\nand a\n%q", got, want)
		}
		asked := len(links["b"].asked)
		b.back(t, room, b.user, 10)
		if again := links["b"].asked[asked:]; len(again) > 0 {
			t.Errorf("asked again for %q", again)
		}
		// Nothing of it moved the room.
		m.agree(t, room, "a", "b")

		// And what happened while all of b were away lies between.
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.carry(t, "b", "a", room)
		for i := range 30 {
			a.say(t, room, fmt.Sprint("away ", i))
		}
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		want = a.back(t, room, a.user, 10)
		if got := b.back(t, room, b.user, 10); !slices.Equal(got, want) {
			t.Errorf("b is shown\n%q\nand a\n%q", got, want)
		}
		m.agree(t, room, "a", "b")
	})
}

// TestHistoryVisibilityAfar has one read back to where they may.
func TestHistoryVisibilityAfar(t *testing.T) {
	for visibility, shown := range map[string]int{"shared": 4, "world_readable": 4, "invited": 0, "joined": 0} {
		t.Run(visibility, func(t *testing.T) {
			eachVersion(t, []id.RoomVersion{"10"}, func(t *testing.T, version id.RoomVersion, url string) {
				ctx := context.Background()
				m, _ := newMesh(t, url, "a", "b")
				a, b := m["a"], m["b"]
				room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat", InitialState: []StateEvent{
					{Type: spec.MRoomHistoryVisibility, Content: fmt.Appendf(nil, `{"history_visibility":%q}`, visibility)}}})
				ok(t, err)
				for range 4 {
					a.say(t, room, "secret")
				}
				ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
				n := 0
				for _, s := range b.back(t, room, b.user, 5) {
					if s == "m.room.message secret" {
						n++
					}
				}
				if n != shown {
					t.Errorf("%d messages are shown", n)
				}
			})
		})
	}
}

// TestHistoryDead has one read back when nobody answers, and again when somebody does.
func TestHistoryDead(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"10"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		said := a.say(t, room, "before")
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		links["b"].dead["a"] = true
		if got := b.back(t, room, b.user, 10); !slices.Equal(got, []string{"m.room.member @u:b"}) {
			t.Errorf("b is shown %q", got)
		}
		links["b"].dead["a"] = false
		b.intake.gaps.Purge() // time passes
		if got := b.back(t, room, b.user, 10); !slices.Contains(got, "m.room.message before") {
			t.Errorf("b is shown %q", got)
		}
		c, err := b.Context(ctx, ContextRequest{Room: room, Event: said, Limit: 4, Reader: Reader{User: b.user}})
		if ok(t, err); len(c.Before) != 2 || len(c.After) != 1 {
			t.Errorf("%d before and %d after", len(c.Before), len(c.After))
		}
	})
}

// TestNearestAfar finds events by a time from before the server was in the room.
func TestNearestAfar(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"10"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		now := time.Now()
		for _, n := range m {
			n.clock = func() time.Time { return now }
		}
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		now = now.Add(time.Hour)
		early := a.say(t, room, "early")
		at := now.UnixMilli()
		now = now.Add(time.Hour)
		for range 30 {
			a.say(t, room, "late")
		}
		now = now.Add(time.Hour)
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		links["b"].page = 9
		for _, before := range []bool{true, false} {
			event, sent, err := b.Nearest(ctx, b.user, room, at+map[bool]int64{true: 5, false: -5}[before], before)
			if ok(t, err); event != early || sent != at {
				t.Errorf("nearest is %s at %d, and not %s at %d", event, sent, early, at)
			}
		}
		_, err = b.Context(ctx, ContextRequest{Room: room, Event: early, Limit: 4, Reader: Reader{User: b.user}})
		ok(t, err)
		_, _, err = b.Nearest(ctx, b.user, room, now.Add(time.Hour).UnixMilli(), false)
		refused(t, err, matrixerr.NotFound)
	})
}
