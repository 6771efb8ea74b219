package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/testclock"
	"parley/storage"
	"parley/storage/storagetest"
)

func TestLifetime(t *testing.T) {
	const day = 24 * time.Hour
	server := Retention{Enabled: true, Default: 30 * day, Min: day, Max: 365 * day}
	for _, c := range []struct {
		server  Retention
		content string
		want    time.Duration
	}{
		{Retention{}, `{}`, 0},
		{Retention{}, `{"max_lifetime":60000}`, time.Minute},
		{Retention{}, `{"max_lifetime":0}`, time.Millisecond},
		{Retention{}, `{"max_lifetime":null}`, 0},
		{Retention{}, `{"max_lifetime":"60000"}`, 0},
		{Retention{}, `{"max_lifetime":-1}`, 0},
		{Retention{}, `{"max_lifetime":1.5}`, 0},
		{Retention{}, `{"max_lifetime":9007199254740992}`, 0},
		{Retention{}, `{"max_lifetime":1e300}`, 0},
		{Retention{}, `{"max_lifetime":2147483648}`, 1 << 31 * time.Millisecond},
		{Retention{}, `{"max_lifetime":9007199254740991}`, math.MaxInt64 / time.Millisecond * time.Millisecond},
		{Retention{}, `{"min_lifetime":60000}`, 0},
		{Retention{}, `{"max_lifetime":60000,"min_lifetime":120000}`, 2 * time.Minute},
		{server, ``, 30 * day},
		{server, `{"max_lifetime":172800000}`, 2 * day},
		{server, `{"max_lifetime":60000}`, day},
		{server, `{"max_lifetime":9007199254740991}`, 365 * day},
		{server, `{"min_lifetime":5184000000}`, 60 * day},
		{server, `{"min_lifetime":9007199254740991}`, 365 * day},
		{Retention{Max: day}, ``, day},
		{Retention{Min: day}, ``, 0},
	} {
		if got := c.server.Lifetime([]byte(c.content)); got != c.want {
			t.Errorf("with %+v, %s is %v and not %v", c.server, c.content, got, c.want)
		}
	}
}

// aging is a node that lets messages go, in a test that has the time in its hands.
type aging struct {
	*node
	time *testclock.Clock
}

func age(n *node, r Retention) *aging {
	a := &aging{n, testclock.New(time.UnixMilli(1_700_000_000_000))}
	r.Enabled, r.Interval = true, time.Minute
	n.retention = r
	n.clock = a.time.Now
	return a
}

func (a *aging) keepFor(t *testing.T, room id.RoomID, seconds int) {
	t.Helper()
	content := fmt.Appendf(nil, `{"max_lifetime":%d}`, seconds*1000)
	if seconds < 0 {
		content = []byte(`{}`)
	}
	_, err := a.Send(context.Background(), SendRequest{Room: room, Sender: a.user, Type: retentionEvent, StateKey: new(string), Content: content})
	ok(t, err)
}

// due are the messages that a node has in its timeline and that are due.
func (a *aging) dueNow(t *testing.T, room id.RoomID) (due []id.EventID, extremities []storage.Extremity) {
	t.Helper()
	ok(t, a.db.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		horizon, err := a.Horizon(tx, &r)
		due, extremities = nil, r.Extremities
		for _, e := range a.events(t, room) {
			if e.Due(horizon) {
				due = append(due, e.ID)
			}
		}
		return err
	}))
	return due, extremities
}

// shown are the events that a user is shown who pages back through a room.
func (a *aging) shown(t *testing.T, room id.RoomID) map[id.EventID]bool {
	t.Helper()
	out := make(map[id.EventID]bool)
	var from *storage.Ord
	for {
		page, err := a.Messages(context.Background(), PageRequest{Room: room, From: from, Backward: true, Limit: 10, Reader: Reader{User: a.user, Bundle: true}})
		ok(t, err)
		for _, raw := range page.Events {
			out[id.EventID(gjson.GetBytes(raw, "event_id").Str)] = true
		}
		if from = page.End; from == nil {
			return out
		}
	}
}

// TestRetention has a node that lets messages go and one that keeps all in the same room. Whatever
// they do: what was not due is not lost, what is due is shown to nobody and leaves, and both
// nodes go on to have the same room.
func TestRetention(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "6", "11", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b")
		a, b := age(m["a"], Retention{}), m["b"]
		b.clock = a.clock
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		a.keepFor(t, room, 600)
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))

		gone := make(map[id.EventID]bool)
		queues := make(map[*node][]json.RawMessage) // what the other has not heard of
		sent := func(n *node, event id.EventID) { queues[n] = append(queues[n], row(t, n.Server, event).JSON) }
		send := func(n *node, eventType string, stateKey *string, content string) {
			event, err := n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: eventType, StateKey: stateKey, Content: []byte(content)})
			ok(t, err)
			sent(n, event)
		}
		carry := func(from, to *node) {
			for part := range slices.Chunk(queues[from], serverapi.MaxPDUs) {
				_, err := to.Take(ctx, from.name, part)
				ok(t, err)
			}
			queues[from] = nil
		}
		flush := func() { carry(a.node, b); carry(b, a.node) }
		for i := range 80 {
			a.time.Pass(time.Duration(r.IntN(120)) * time.Second)
			one := m[[]id.ServerName{"a", "b"}[r.IntN(2)]]
			all := b.events(t, room)
			some := all[r.IntN(len(all))]
			switch r.IntN(10) {
			case 0:
				send(one, spec.MRoomMember, (*string)(&one.user), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))
			case 1:
				seconds := []int{300, 600, 3600, -1}[r.IntN(4)]
				send(a.node, retentionEvent, new(string), fmt.Sprintf(`{"max_lifetime":%d,"i":%d}`, seconds*1000, i))
			case 2, 3:
				rel := []string{"m.thread", "m.replace", "m.annotation", "m.reference"}[r.IntN(4)]
				if rel == "m.thread" && gjson.GetBytes(some.JSON, `content.m\.relates_to`).Exists() {
					rel = "m.reference" // no thread begins there
				}
				send(one, "m.room.message", nil, fmt.Sprintf(`{"body":"secret","m.relates_to":{"rel_type":%q,"event_id":%q,"key":"%d"}}`, rel, some.ID, i))
			case 4:
				if gjson.GetBytes(some.JSON, "type").Str == "m.room.message" && gjson.GetBytes(some.JSON, "sender").Str == string(one.user) {
					event, err := one.Redact(ctx, RedactRequest{Room: room, Sender: one.user, Event: some.ID})
					ok(t, err) // who has the power may redact what is not there any more
					sent(one, event)
				}
			case 5:
				carry(a.node, b)
			case 6:
				carry(b, a.node)
			case 7:
				a.time.Pass(a.retention.Interval)
				due, _ := a.dueNow(t, room)
				for _, e := range due {
					gone[e] = true
				}
				ok(t, a.expireAll(ctx, "this process"))
			default:
				send(one, "m.room.message", nil, fmt.Sprintf(`{"body":"secret %d"}`, i))
			}
		}
		flush()
		m.agree(t, room, "a", "b")
		a.time.Pass(a.retention.Interval)
		due, extremities := a.dueNow(t, room)
		for _, e := range due {
			gone[e] = true
		}
		asked := len(links["a"].asked)
		before := a.shown(t, room)
		ok(t, a.expireAll(ctx, "this process"))
		shown := a.shown(t, room)
		if !maps.Equal(before, shown) {
			t.Errorf("before what was due was taken away %v were shown, and then %v", before, shown)
		}
		for _, e := range b.events(t, room) {
			mine := row(t, a.Server, e.ID)
			isDue := slices.Contains(due, e.ID)
			if !gone[e.ID] && (!shown[e.ID] || string(mine.JSON) != string(e.JSON)) {
				t.Errorf("%s was not due, and is %s", e.JSON, mine.JSON)
			}
			if isDue && shown[e.ID] {
				t.Errorf("%s is due and shown", e.JSON)
			}
			if mine.Root == 0 || mine.Status != storage.Accepted {
				t.Errorf("%s has lost its place: %+v", e.ID, mine)
			}
			if isDue {
				_, err := a.Event(ctx, room, e.ID, Reader{User: a.user})
				refused(t, err, matrixerr.NotFound)
				if strings.Contains(string(mine.JSON), "secret") {
					t.Errorf("%s has not left", mine.JSON)
				}
				extremity := slices.ContainsFunc(extremities, func(x storage.Extremity) bool { return x.ID == e.ID })
				redaction := gjson.GetBytes(e.JSON, "type").Str == spec.MRoomRedaction // which may stay with what it redacts
				if mine.Expired == extremity && !redaction {
					t.Errorf("%s: expired is %v, extremity %v", mine.JSON, mine.Expired, extremity)
				}
				if _, err := a.ServeEvent(ctx, "b", e.ID); !extremity {
					refused(t, err, matrixerr.NotFound)
				}
			}
			// What it was part of can be asked for.
			if _, err := a.ServeStateIDs(ctx, "b", room, e.ID); err != nil {
				t.Errorf("the state at %s: %v", e.ID, err)
			}
		}
		history, err := a.ServeHistory(ctx, "b", room, []id.EventID{extremities[0].ID}, 100)
		ok(t, err)
		if len(history) == 0 {
			t.Error("there is no history")
		}
		for _, raw := range history {
			if strings.Contains(string(raw), "secret") {
				event := eventIDOf(t, version, raw)
				if slices.Contains(due, event) {
					t.Errorf("%s is given to another server", raw)
				}
			}
		}
		// Nothing of it is fetched again, and the room goes on.
		send(a.node, "m.room.message", nil, `{"body":"more"}`)
		flush()
		send(b, "m.room.message", nil, `{"body":"the last word"}`)
		flush()
		if events := a.events(t, room); gjson.GetBytes(events[len(events)-1].JSON, "content.body").Str != "the last word" {
			t.Error("the room does not go on")
		}
		m.agree(t, room, "a", "b")
		if again := links["a"].asked[asked:]; len(again) > 0 {
			t.Errorf("a asked for %q", again)
		}
	})
}

// row is an event as a node has it.
func row(t *testing.T, s *Server, event id.EventID) (e storage.Event) {
	t.Helper()
	ok(t, s.db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		e, err = tx.GetEvent(event)
		return err
	}))
	return e
}

func eventIDOf(t *testing.T, version id.RoomVersion, raw json.RawMessage) id.EventID {
	t.Helper()
	pdu, err := Parse(version, raw)
	ok(t, err)
	return id.EventID(pdu.EventID())
}

// TestRetentionOwner has two processes share the work: one does it at a time, and where it ends in the
// middle another goes on.
func TestRetentionOwner(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		a := age(&node{Server: newServer(t, db), user: alice}, Retention{Default: time.Hour})
		b := newServer(t, db)
		b.retention, b.clock = a.retention, a.clock
		var rooms []id.RoomID
		for range 3 {
			a.time.Pass(time.Millisecond)
			room := a.mustCreate(t, CreateRequest{})
			for range 2*expireBatch + 1 {
				a.mustSend(t, room, alice, "old")
			}
			rooms = append(rooms, room)
		}
		a.time.Pass(2 * time.Hour)
		for _, room := range rooms {
			a.mustSend(t, room, alice, "new")
		}
		now := func() (r storage.Retention) {
			ok(t, db.Read(ctx, func(tx *storage.Tx) (err error) { r, err = tx.GetRetention(); return err }))
			return r
		}
		// Another process has begun, has seen to the first room, and was not heard of since.
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			first, err := tx.ListRoomsAfter(0, 1)
			if err != nil {
				return err
			}
			return tx.UpdateRetention(storage.Retention{Room: first[0].NID, Holder: "another", Until: a.time.Now().Add(retentionLease).UnixMilli()})
		}))
		ok(t, b.expireAll(ctx, "b"))
		if b.Expired() != 0 {
			t.Errorf("%d messages left while another process is at it", b.Expired())
		}
		a.time.Pass(retentionLease)
		ok(t, b.expireAll(ctx, "b"))
		if want := int64(2 * (2*expireBatch + 1)); b.Expired() != want {
			t.Errorf("%d messages left, and not %d", b.Expired(), want)
		}
		if r := now(); r.Holder != "" || r.Room != 0 || r.Next != a.time.Now().Add(a.retention.Interval).UnixMilli() {
			t.Errorf("at the end there is %+v", r)
		}
		ok(t, a.expireAll(ctx, "a"))
		if a.Expired() != 0 {
			t.Error("it is done again before it is time")
		}
		a.time.Pass(a.retention.Interval)
		ok(t, a.expireAll(ctx, "a"))
		if want := int64(2*expireBatch + 1); a.Expired() != want {
			t.Errorf("%d messages left, and not %d", a.Expired(), want)
		}
		for _, room := range rooms {
			page, err := a.Messages(ctx, PageRequest{Room: room, Backward: true, Limit: 1000, Reader: Reader{User: alice}})
			ok(t, err)
			if got := bodies(page.Events); got != "new" {
				t.Errorf("the messages are %q", got)
			}
		}
	})
}

// TestRetentionReads has messages that came before their time was set, an edit and a thread whose
// parts are of different age, and what is searched for.
func TestRetentionReads(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		a := age(&node{Server: newServer(t, db), user: alice}, Retention{})
		room := a.mustCreate(t, CreateRequest{})
		send := func(relType string, target id.EventID, body string) id.EventID {
			e, err := a.Send(ctx, SendRequest{Room: room, Sender: alice, Type: "m.room.message", Content: fmt.Appendf(nil,
				`{"msgtype":"m.text","body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, body, relType, target)})
			ok(t, err)
			return e
		}
		old := a.mustSend(t, room, alice, "apple")
		a.time.Pass(30 * time.Minute)
		root := a.mustSend(t, room, alice, "pear")
		first := send("m.thread", root, "plum")
		send("m.thread", old, "fig")
		a.keepFor(t, room, 3600)
		reader := Reader{User: alice, Bundle: true}
		for range 2 { // before what is due is taken away, and then
			a.time.Pass(40 * time.Minute)
			last := send("m.thread", root, "cherry")
			found := func(term string) int {
				r, err := a.Search(ctx, SearchRequest{Term: term, Limit: 10, Reader: reader, Before: -1, After: -1})
				ok(t, err)
				return len(r.Results)
			}
			for range 2 {
				_, err := a.Event(ctx, room, old, reader)
				refused(t, err, matrixerr.NotFound)
				_, err = a.Context(ctx, ContextRequest{Room: room, Event: old, Limit: 5, Reader: reader})
				refused(t, err, matrixerr.NotFound)
				_, _, err = a.Relations(ctx, RelationsRequest{Room: room, Event: old, Limit: 5, Backward: true, Reader: reader})
				refused(t, err, matrixerr.NotFound)
				_, err = a.Event(ctx, room, last, reader)
				ok(t, err)
				if found("apple") != 0 || found("cherry") == 0 {
					t.Errorf("apple is found %d times, cherry %d times", found("apple"), found("cherry"))
				}
				_, pearErr := a.Event(ctx, room, root, reader)
				threads, err := a.Threads(ctx, ThreadsRequest{Room: room, Limit: 5, Reader: reader})
				ok(t, err)
				if there := pearErr == nil; len(threads.Events) > 1 || there != (len(threads.Events) == 1) {
					t.Errorf("the threads are %s", threads.Events)
				} else if there {
					bundle := gjson.GetBytes(threads.Events[0], `unsigned.m\.relations.m\.thread`)
					_, err := a.Event(ctx, room, first, reader)
					if want := map[bool]int64{true: 2, false: 1}[err == nil]; bundle.Get("count").Int() != want {
						t.Errorf("the thread is %s, with %d", bundle.Raw, want)
					}
				}
				ok(t, a.expireAll(ctx, "this process"))
			}
		}
		ok(t, db.Read(ctx, func(tx *storage.Tx) error {
			for _, word := range []string{"apple", "pear", "plum", "fig"} {
				hits, _, err := tx.ListSearch(&storage.SearchQuery{Rooms: []storage.RoomNID{1}, Keys: []string{"content.body"}, Words: []string{word},
					Before: storage.SearchPlace{TS: 1 << 62}, Limit: 10}, 10)
				if err != nil || len(hits) > 0 {
					t.Errorf("%s is found: %v, %v", word, hits, err)
				}
			}
			return nil
		}))
	})
}
