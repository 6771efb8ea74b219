package client

import (
	"slices"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestRelations is the chapter on events about other events: replacements, annotations, references and threads.
func TestRelations(t *testing.T) {
	harness.Stories(t, relations, relationPages, replacement, duplicateAnnotation, threads)
}

// relate is the content of an event that relates to another.
func relate(kind string, target id.EventID, body string) map[string]any {
	return map[string]any{
		"msgtype": "m.text", "body": body,
		"m.relates_to": map[string]any{"rel_type": kind, "event_id": target},
	}
}

// spec: client-server-api/index.md#relationships-api
func relations(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	root := alice.Say(room, "root")
	reference := bob.Send(room, event.EventMessage, relate("m.reference", root, "see above"))
	odd := bob.Send(room, custom("odd", event.MessageEventType), relate("org.example.rel", root, "odd"))
	reaction := bob.Send(room, event.EventReaction, map[string]any{
		"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": root, "key": "👍"},
	})
	alice.Say(room, "unrelated")

	list := func(segments ...string) []id.EventID {
		t.Helper()
		var ids []id.EventID
		path := roomPath("v1", room, append([]string{"relations", string(root)}, segments...)...)
		for _, evt := range alice.Do("GET", path, nil).WantOK(t).Get("chunk").Array() {
			ids = append(ids, id.EventID(evt.Get("event_id").String()))
		}
		return ids
	}
	for _, c := range []struct {
		name string
		got  []id.EventID
		want []id.EventID
	}{
		{"all", list(), []id.EventID{reaction, odd, reference}},
		{"by relation", list("m.reference"), []id.EventID{reference}},
		{"by relation and type", list("m.annotation", "m.reaction"), []id.EventID{reaction}},
		{"by relation and another type", list("m.annotation", "m.room.message"), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v; want %v", c.name, c.got, c.want)
		}
	}

	bob.Redact(room, odd, "")
	if got, want := list(), []id.EventID{reaction, reference}; !slices.Equal(got, want) {
		t.Errorf("after a redaction: %v; want %v", got, want)
	}
	stranger := srv.Register(t, "stranger")
	if got := stranger.Do("GET", roomPath("v1", room, "relations", string(root)), nil); got.Status == 200 {
		t.Errorf("a stranger was told the relations: %s", got.Body)
	}
}

func relationPages(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	root := alice.Say(room, "root")
	var want []id.EventID
	for range 7 {
		want = append(want, alice.Send(room, event.EventMessage, relate("m.reference", root, "again")))
		alice.Say(room, "in between")
	}
	page := func(dir mautrix.Direction) []id.EventID {
		var got []id.EventID
		req := &mautrix.ReqGetRelations{Dir: dir, Limit: 3}
		for {
			resp, err := alice.GetRelations(t.Context(), room, root, req)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, harness.IDs(resp.Chunk)...)
			if resp.NextBatch == "" {
				return got
			}
			req.From = resp.NextBatch
		}
	}
	if got := page(mautrix.DirectionBackward); !slices.Equal(got, reversed(want)) {
		t.Errorf("backwards: %v; want %v", got, reversed(want))
	}
	if got := page(mautrix.DirectionForward); !slices.Equal(got, want) {
		t.Errorf("forwards: %v; want %v", got, want)
	}
}

// spec: client-server-api/modules/event_replacements.md#server-side-aggregation-of-mreplace-relationships
func replacement(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	said := alice.Say(room, "helo")
	edit := func(u *harness.User, body string) id.EventID {
		content := relate("m.replace", said, "* "+body)
		content["m.new_content"] = map[string]any{"msgtype": "m.text", "body": body}
		return u.Send(room, event.EventMessage, content)
	}
	edit(alice, "hallo")
	second := edit(alice, "hello")
	edit(bob, "good bye") // another's edit counts for nothing

	original := bob.Do("GET", roomPath("v3", room, "event", string(said)), nil).WantOK(t)
	equal(t, "the original body", original.Get("content.body").String(), "helo")
	latest := original.Get(`unsigned.m\.relations.m\.replace`)
	equal(t, "the latest edit", latest.Get("event_id").String(), string(second))
	equal(t, "the latest body", latest.Get(`content.m\.new_content.body`).String(), "hello")

	resp := bob.Do("GET", harness.Path("v3", "sync"), nil).WantOK(t)
	var synced gjson.Result
	for _, evt := range resp.Get("rooms.join." + gjsonKey(string(room)) + ".timeline.events").Array() {
		if evt.Get("event_id").String() == string(said) {
			synced = evt
		}
	}
	equal(t, "the latest edit by /sync", synced.Get(`unsigned.m\.relations.m\.replace.event_id`).String(), string(second))
}

// gjsonKey escapes a key for a gjson path.
func gjsonKey(key string) string {
	var out []byte
	for i := range len(key) {
		if c := key[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			out = append(out, '\\')
		}
		out = append(out, key[i])
	}
	return string(out)
}

// spec: client-server-api/modules/event_annotations.md#avoiding-duplicate-annotations
func duplicateAnnotation(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	said := alice.Say(room, "like me")
	if _, err := bob.SendReaction(t.Context(), room, said, "👍"); err != nil {
		t.Fatal(err)
	}
	_, err := bob.SendReaction(t.Context(), room, said, "👍")
	harness.WantError(t, err, 400, "M_DUPLICATE_ANNOTATION")
	if _, err = bob.SendReaction(t.Context(), room, said, "🎉"); err != nil {
		t.Fatal(err)
	}
	if _, err = alice.SendReaction(t.Context(), room, said, "👍"); err != nil {
		t.Fatal(err)
	}
}

// spec: client-server-api/modules/threading.md#server-behaviour
func threads(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	first, second := alice.Say(room, "first root"), alice.Say(room, "second root")
	reply := func(u *harness.User, root id.EventID, body string) id.EventID {
		return u.Send(room, event.EventMessage, relate("m.thread", root, body))
	}
	inThread := reply(bob, first, "one")
	_, err := bob.SendMessageEvent(t.Context(), room, event.EventMessage, relate("m.thread", inThread, "a thread in a thread"))
	harness.WantError(t, err, 400, "M_UNKNOWN")
	reply(bob, second, "two")
	last := reply(alice, first, "three") // makes the first thread the latest

	list := func(u *harness.User, query string) ([]string, harness.Response) {
		t.Helper()
		resp := u.Do("GET", roomPath("v1", room, "threads")+query, nil).WantOK(t)
		var roots []string
		for _, evt := range resp.Get("chunk").Array() {
			roots = append(roots, evt.Get("event_id").String())
		}
		return roots, resp
	}
	roots, resp := list(bob, "")
	if want := []string{string(first), string(second)}; !slices.Equal(roots, want) {
		t.Fatalf("the threads are %v; want %v", roots, want)
	}
	thread := resp.Get(`chunk.0.unsigned.m\.relations.m\.thread`)
	equal(t, "the thread's length", thread.Get("count").Int(), 2)
	equal(t, "the latest event", thread.Get("latest_event.event_id").String(), string(last))
	equal(t, "bob's participation", thread.Get("current_user_participated").Bool(), true)
	if roots, _ = list(alice, "?include=participated"); !slices.Equal(roots, []string{string(first), string(second)}) {
		t.Errorf("alice's threads are %v; she wrote both roots", roots)
	}
	carol := srv.Register(t, "carol")
	alice.Invite(room, carol)
	carol.Join(room)
	if roots, _ = list(carol, "?include=participated"); len(roots) != 0 {
		t.Errorf("carol took part in %v; want none", roots)
	}
	roots, resp = list(alice, "?limit=1")
	if !slices.Equal(roots, []string{string(first)}) {
		t.Errorf("the first page is %v; want %v", roots, first)
	}
	if roots, _ = list(alice, "?limit=1&from="+resp.Get("next_batch").String()); !slices.Equal(roots, []string{string(second)}) {
		t.Errorf("the second page is %v; want %v", roots, second)
	}
	alice.Do("GET", roomPath("v1", room, "threads")+"?include=nonsense", nil).WantError(t, 400, "M_INVALID_PARAM")
}
