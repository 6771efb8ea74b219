package roomserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
	"parley/storage"
	"parley/storage/storagetest"
)

// peer is another node as it is asked over the network: it tells all that it has. Its
// methods that no test needs are nil.
type peer struct {
	Remote
	node  *node
	mu    sync.Mutex // guards asked where several events are asked for at once
	asked []string
	// silent peers answer nothing, liars something else.
	silent bool
	lie    func([]json.RawMessage) []json.RawMessage
}

var errSilent = errors.New("no answer")

func (p *peer) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	out := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		seed := make([]byte, 32)
		copy(seed, r.ServerName)
		public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		out[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), "ed25519:1", public, r.Message)
	}
	return out, nil
}

func (p *peer) event(event id.EventID) (raw json.RawMessage, found storage.Event) {
	err := p.node.db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		found, err = tx.GetEvent(event)
		return err
	})
	if err != nil {
		return nil, found
	}
	return found.JSON, found
}

func (p *peer) MissingEvents(_ context.Context, _ id.ServerName, room id.RoomID, r serverapi.MissingEvents) ([]json.RawMessage, error) {
	p.asked = append(p.asked, "missing")
	if p.silent {
		return nil, errSilent
	}
	out := []json.RawMessage{}
	next := slices.Clone(r.Latest)
	seen := make(map[id.EventID]bool)
	for len(next) > 0 && len(out) < min(r.Limit, 7) {
		raw, _ := p.event(next[0])
		next = next[1:]
		pdu, err := Parse(p.version(room), raw)
		if err != nil {
			return nil, err
		}
		for _, prev := range pdu.PrevEventIDs() {
			e := id.EventID(prev)
			if !seen[e] && !slices.Contains(r.Earliest, e) {
				seen[e] = true
				next = append(next, e)
				raw, _ := p.event(e)
				out = append(out, raw)
			}
		}
	}
	if p.lie != nil {
		out = p.lie(out)
	}
	return out, nil
}

func (p *peer) version(room id.RoomID) (v id.RoomVersion) {
	_ = p.node.db.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		v = r.Version
		return err
	})
	return v
}

// before is the state before an event.
func (p *peer) before(event id.EventID) (ids []id.EventID, raw []json.RawMessage) {
	_ = p.node.db.Read(context.Background(), func(tx *storage.Tx) error {
		row, err := tx.GetEvent(event)
		if err != nil {
			return err
		}
		room, err := tx.GetRoomByNID(row.Room)
		if err != nil {
			return err
		}
		e, err := parseEvent(room.Version, row)
		if err != nil {
			return err
		}
		prev, err := tx.GetEvent(id.EventID(e.PrevEventIDs()[0]))
		if err != nil {
			return err
		}
		events, err := p.node.StateEvents(tx, prev.Root, true)
		for _, e := range events {
			ids = append(ids, e.ID)
			raw = append(raw, json.RawMessage(e.JSON))
		}
		return err
	})
	return ids, raw
}

func (p *peer) StateIDs(_ context.Context, _ id.ServerName, _ id.RoomID, event id.EventID) (*serverapi.StateIDs, error) {
	p.asked = append(p.asked, "state_ids")
	if p.silent {
		return nil, errSilent
	}
	ids, _ := p.before(event)
	return &serverapi.StateIDs{PDUs: append(ids, ids...)}, nil // twice is as good as once
}

func (p *peer) State(_ context.Context, _ id.ServerName, _ id.RoomID, event id.EventID) (*serverapi.State, error) {
	p.asked = append(p.asked, "state")
	_, raw := p.before(event)
	return &serverapi.State{PDUs: raw}, nil
}

func (p *peer) Event(_ context.Context, _ id.ServerName, event id.EventID) (json.RawMessage, error) {
	p.mu.Lock()
	p.asked = append(p.asked, "event")
	p.mu.Unlock()
	raw, _ := p.event(event)
	return raw, nil
}

func (p *peer) EventAuth(_ context.Context, _ id.ServerName, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	p.asked = append(p.asked, "event_auth")
	if p.silent {
		return nil, errSilent
	}
	_, raw := p.before(event)
	return raw, nil
}

// pair is two nodes that share a room, as far as each other's events have been carried.
type pair struct {
	a, b *node
	peer *peer // a, as b asks it
	room id.RoomID
}

func eachPair(t *testing.T, version id.RoomVersion, run func(t *testing.T, p *pair)) {
	storagetest.EachURL(t, func(t *testing.T, url string) { run(t, newPair(t, version, url)) })
}

func newPair(t testing.TB, version id.RoomVersion, url string) *pair {
	t.Helper()
	ctx := context.Background()
	a := newNode(t, "a", url)
	p := &pair{a: a, peer: &peer{node: a}}
	second := storagetest.Open(t, storagetest.Another(t, url), nil)
	seed := make([]byte, 32)
	copy(seed, "b")
	s, err := New(Options{DB: second, Name: "b", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed), DefaultVersion: "12", Remote: p.peer})
	ok(t, err)
	p.b = &node{Server: s, user: id.NewUserID("u", "b")}
	p.room, err = a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
	ok(t, err)
	ok(t, p.b.AddRoom(ctx, p.room, version))
	for _, e := range a.events(t, p.room) {
		pdu, err := Parse(version, e.JSON)
		ok(t, err)
		ok(t, p.b.Receive(ctx, pdu))
	}
	ok(t, p.b.joinHere(ctx, &MemberRequest{Room: p.room, Sender: p.b.user}))
	joined := p.b.events(t, p.room)
	pdu, err := Parse(version, joined[len(joined)-1].JSON)
	ok(t, err)
	ok(t, p.a.Receive(ctx, pdu))
	return p
}

// say has a send a message, or b's copy of it.
func (p *pair) say(t testing.TB, text string) json.RawMessage {
	t.Helper()
	e, err := p.a.Send(context.Background(), SendRequest{Room: p.room, Sender: p.a.user, Type: "m.room.message",
		Content: fmt.Appendf(nil, `{"body":%q}`, text)})
	ok(t, err)
	raw, _ := p.peer.event(e)
	return raw
}

func (p *pair) topic(t testing.TB, text string) json.RawMessage {
	t.Helper()
	e, err := p.a.Send(context.Background(), SendRequest{Room: p.room, Sender: p.a.user, Type: "m.room.topic", StateKey: new(string),
		Content: fmt.Appendf(nil, `{"topic":%q}`, text)})
	ok(t, err)
	raw, _ := p.peer.event(e)
	return raw
}

func (p *pair) take(t testing.TB, events ...json.RawMessage) []Taken {
	t.Helper()
	taken, err := p.b.Take(context.Background(), "a", events)
	ok(t, err)
	if len(taken) != len(events) {
		t.Fatalf("%d results for %d events", len(taken), len(events))
	}
	return taken
}

func (p *pair) same(t testing.TB) {
	t.Helper()
	if a, b := p.a.state(t, p.room), p.b.state(t, p.room); !slices.Equal(a, b) {
		t.Errorf("a has\n%q\nand b\n%q", a, b)
	}
}

func TestTake(t *testing.T) {
	for _, version := range []id.RoomVersion{"1", "6", "10", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			eachPair(t, version, func(t *testing.T, p *pair) {
				first, second := p.say(t, "one"), p.topic(t, "two")
				for range 2 { // the same again is as good
					for _, r := range p.take(t, first, second) {
						if r.Err != nil || r.Event == "" {
							t.Errorf("%s: %v", r.Event, r.Err)
						}
					}
				}
				p.same(t)
				if len(p.peer.asked) > 0 {
					t.Errorf("asked for %q", p.peer.asked)
				}

				// A gap is filled in pages, oldest first.
				for i := range 30 {
					p.topic(t, fmt.Sprint("missed ", i))
					p.say(t, fmt.Sprint("missed ", i))
				}
				for _, r := range p.take(t, p.say(t, "last")) {
					ok(t, r.Err)
				}
				p.same(t)
				if a, b := len(p.a.events(t, p.room)), len(p.b.events(t, p.room)); a != b {
					t.Errorf("a shows %d events, b %d", a, b)
				}
				if slices.Contains(p.peer.asked, "state_ids") {
					t.Errorf("asked for %q", p.peer.asked)
				}
			})
		})
	}
}

// TestTakeWithState is a gap that nobody fills.
func TestTakeWithState(t *testing.T) {
	for _, changes := range []int{3, maxFetches + 10} {
		t.Run(fmt.Sprint(changes, " changes"), func(t *testing.T) {
			eachPair(t, "10", func(t *testing.T, p *pair) {
				p.peer.lie = func([]json.RawMessage) []json.RawMessage { return []json.RawMessage{} }
				for i := range changes {
					key := fmt.Sprint(i)
					_, err := p.a.Send(context.Background(), SendRequest{Room: p.room, Sender: p.a.user, Type: "m.test", StateKey: &key, Content: []byte(`{}`)})
					ok(t, err)
				}
				for _, r := range p.take(t, p.say(t, "last")) {
					ok(t, r.Err)
				}
				if got, want := slices.Contains(p.peer.asked, "state"), changes > maxFetches; got != want {
					t.Errorf("asked for the whole state: %v; %q", got, p.peer.asked)
				}
				p.same(t)
				// And on it goes.
				for _, r := range p.take(t, p.topic(t, "on")) {
					ok(t, r.Err)
				}
				p.same(t)
			})
		})
	}
}

// TestTakeMalformedPast has what comes before an event be no event, or no answer at all: then it is not
// taken in, nor is more asked for it.
func TestTakeMalformedPast(t *testing.T) {
	for name, answer := range map[string][]json.RawMessage{"no event": {json.RawMessage(`{"content":{"x":1.5}}`)}, "no answer": nil} {
		t.Run(name, func(t *testing.T) {
			eachPair(t, "10", func(t *testing.T, p *pair) {
				p.peer.lie = func([]json.RawMessage) []json.RawMessage { return answer }
				p.say(t, "between")
				var missing *MissingError
				if err := p.take(t, p.say(t, "last"))[0].Err; !errors.As(err, &missing) {
					t.Errorf("%v", err)
				}
				if slices.Contains(p.peer.asked, "state_ids") || slices.Contains(p.peer.asked, "state") {
					t.Errorf("asked %q", p.peer.asked)
				}
				p.peer.lie = nil
				for _, r := range p.take(t, p.say(t, "later")) {
					ok(t, r.Err)
				}
				p.same(t)
			})
		})
	}
}

// TestTakeHostile gives a node what no honest server sends; none of it changes the room.
func TestTakeHostile(t *testing.T) {
	eachPair(t, "10", func(t *testing.T, p *pair) {
		ctx := context.Background()
		before, shown := p.b.state(t, p.room), len(p.b.events(t, p.room))
		good := p.say(t, "good")
		change := func(fn func(map[string]any)) json.RawMessage {
			var fields map[string]any
			ok(t, json.Unmarshal(good, &fields))
			fn(fields)
			raw, err := json.Marshal(fields)
			ok(t, err)
			return raw
		}
		forged := func(fn func(map[string]any)) json.RawMessage { // signed well, by a
			var fields map[string]any
			ok(t, json.Unmarshal(good, &fields))
			delete(fields, "signatures")
			delete(fields, "hashes")
			fn(fields)
			return signAs(t, "10", "a", fields)
		}
		many := func(n int) (out []string) {
			for i := range n {
				out = append(out, fmt.Sprintf("$%043d", i))
			}
			return out
		}
		p.peer.silent = true
		for name, c := range map[string]struct {
			raw  json.RawMessage
			code matrixerr.Code // "": rejected or missing
		}{
			"no JSON":         {json.RawMessage(`{`), matrixerr.NotFound},
			"no event":        {json.RawMessage(`{"room_id":"` + string(p.room) + `"}`), matrixerr.BadJSON},
			"unknown room":    {change(func(f map[string]any) { f["room_id"] = "!other:a" }), matrixerr.NotFound},
			"no signature":    {change(func(f map[string]any) { f["signatures"] = map[string]any{} }), matrixerr.InvalidParam},
			"other sender":    {change(func(f map[string]any) { f["sender"] = "@u:b" }), matrixerr.InvalidParam},
			"negative depth":  {forged(func(f map[string]any) { f["depth"] = -1 }), matrixerr.BadJSON},
			"large depth":     {change(func(f map[string]any) { f["depth"] = 1 << 60 }), matrixerr.BadJSON},
			"many prev":       {forged(func(f map[string]any) { f["prev_events"] = many(21) }), matrixerr.BadJSON},
			"many auth":       {forged(func(f map[string]any) { f["auth_events"] = many(30) }), matrixerr.BadJSON},
			"unknown auth":    {forged(func(f map[string]any) { f["auth_events"] = many(2) }), ""},
			"unknown prev":    {forged(func(f map[string]any) { f["prev_events"] = many(2) }), ""},
			"no auth":         {forged(func(f map[string]any) { f["auth_events"] = []string{} }), ""},
			"a second create": {forged(func(f map[string]any) { f["type"] = "m.room.create"; f["state_key"] = "" }), matrixerr.BadJSON},
			"somebody else's join": {forged(func(f map[string]any) {
				f["type"], f["state_key"], f["content"] = "m.room.member", "@v:a", map[string]any{"membership": "join"}
			}), ""},
			"a nobody's topic": {forged(func(f map[string]any) {
				f["sender"], f["type"], f["state_key"], f["content"] = "@nobody:a", "m.room.topic", "", map[string]any{"topic": "x"}
			}), ""},
		} {
			t.Run(name, func(t *testing.T) {
				r := p.take(t, c.raw)[0]
				var missing *MissingError
				if c.code == "" && !errors.Is(r.Err, ErrRejected) && !errors.As(r.Err, &missing) || c.code != "" && matrixerr.CodeOf(r.Err) != c.code {
					t.Errorf("%v", r.Err)
				}
				if got := p.b.state(t, p.room); !slices.Equal(got, before) || len(p.b.events(t, p.room)) != shown {
					t.Errorf("the room is now %q", got)
				}
			})
		}
		// Whose content is not what was hashed is taken in without it.
		changed := change(func(f map[string]any) { f["content"] = map[string]any{"body": "forged"} })
		ok(t, p.take(t, changed)[0].Err)
		events := p.b.events(t, p.room)
		if last := events[len(events)-1]; string(last.JSON) == string(changed) || len(events) != shown+1 {
			t.Errorf("shown: %s", last.JSON)
		}
		// A server that the room's list denies is not listened to.
		_, err := p.a.Send(ctx, SendRequest{Room: p.room, Sender: p.a.user, Type: "m.room.server_acl", StateKey: new(string),
			Content: []byte(`{"allow":["*"],"deny":["A"]}`)})
		ok(t, err)
		all := p.a.events(t, p.room)
		p.peer.silent = false
		ok(t, p.take(t, all[len(all)-1].JSON)[0].Err)
		if err := p.take(t, p.say(t, "unheard"))[0].Err; matrixerr.CodeOf(err) != matrixerr.Forbidden {
			t.Errorf("%v", err)
		}
	})
}

// TestTakeLong sends an event of a room with a name of a megabyte, of which the log says little.
func TestTakeLong(t *testing.T) {
	var log bytes.Buffer
	s, err := New(Options{DB: storagetest.Open(t, filepath.Join(t.TempDir(), "parley.db"), nil), Name: "b", KeyID: "ed25519:1",
		Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12", Log: slog.New(slog.NewTextHandler(&log, nil))})
	ok(t, err)
	taken, err := s.Take(context.Background(), "a", []json.RawMessage{fmt.Appendf(nil, `{"room_id":"!%s:a"}`, strings.Repeat("x", 1<<20))})
	ok(t, err)
	refused(t, taken[0].Err, matrixerr.NotFound)
	if n := log.Len(); n == 0 || n > 1000 {
		t.Errorf("the log has %d bytes", n)
	}
}

// TestTakeNoText sends events with characters that no text of a database can have, wherever an event
// has a text: they are taken in or refused, and keep nobody from being heard.
func TestTakeNoText(t *testing.T) {
	eachPair(t, "10", func(t *testing.T, p *pair) {
		good := p.say(t, "good")
		event := func(change map[string]any) json.RawMessage {
			var fields map[string]any
			ok(t, json.Unmarshal(good, &fields))
			delete(fields, "signatures")
			delete(fields, "hashes")
			maps.Copy(fields, change)
			return signAs(t, "10", "a", fields)
		}
		content := func(content map[string]any) map[string]any { return map[string]any{"content": content} }
		state := func(eventType, key string, content map[string]any) map[string]any {
			return map[string]any{"type": eventType, "state_key": key, "content": content}
		}
		const no = "\x00"
		for name, change := range map[string]map[string]any{
			"room":          {"room_id": "!" + no + ":a"},
			"prev event":    {"prev_events": []string{"$" + no}},
			"auth event":    {"auth_events": []string{"$" + no}},
			"type":          {"type": no},
			"state key":     {"state_key": no},
			"sender":        {"sender": "@" + no + ":a"},
			"body":          content(map[string]any{"body": no, "msgtype": "m.text" + no}),
			"relation":      content(map[string]any{"m.relates_to": map[string]any{"event_id": "$" + no, "rel_type": no, "key": no}}),
			"reply":         content(map[string]any{"m.relates_to": map[string]any{"m.in_reply_to": map[string]any{"event_id": "$" + no}}}),
			"redaction":     {"type": spec.MRoomRedaction, "redacts": "$" + no, "content": map[string]any{"redacts": "$" + no}},
			"name":          state(spec.MRoomName, "", map[string]any{"name": no}),
			"topic":         state("m.room.topic", "", map[string]any{"topic": no}),
			"alias":         state(spec.MRoomCanonicalAlias, "", map[string]any{"alias": "#" + no + ":a", "alt_aliases": []string{no}}),
			"avatar":        state(spec.MRoomAvatar, "", map[string]any{"url": "mxc://a/" + no}),
			"encryption":    state(spec.MRoomEncryption, "", map[string]any{"algorithm": no}),
			"access list":   state("m.room.server_acl", "", map[string]any{"allow": []string{"*", no}}),
			"policy server": state("m.room.policy", "", map[string]any{"via": no, "public_keys": map[string]any{"ed25519": no}}),
			"tombstone":     state("m.room.tombstone", "", map[string]any{"replacement_room": "!" + no}),
			"space":         state("m.space.child", "!"+no+":a", map[string]any{"via": []string{no}}),
			"invite":        state(spec.MRoomMember, "@"+no+":b", map[string]any{"membership": spec.Invite}),
			"ban":           state(spec.MRoomMember, "@"+no+":c", map[string]any{"membership": spec.Ban, "reason": no}),
			"display name":  state(spec.MRoomMember, string(p.a.user), map[string]any{"membership": spec.Join, "displayname": no, "avatar_url": no}),
			"guests":        state(spec.MRoomGuestAccess, "", map[string]any{"guest_access": no}),
			"join rules":    state(spec.MRoomJoinRules, "", map[string]any{"join_rule": no, "allow": []any{map[string]any{"type": no, "room_id": no}}}),
			"visibility":    state(spec.MRoomHistoryVisibility, "", map[string]any{"history_visibility": no}),
			"address":       state(spec.MRoomThirdPartyInvite, no, map[string]any{"display_name": no, "public_key": no}),
		} {
			if _, err := p.b.Take(context.Background(), "a", []json.RawMessage{event(change)}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// What other servers hand on of such an event is refused as well, and not its followers.
		p.peer.lie = func([]json.RawMessage) []json.RawMessage {
			return []json.RawMessage{event(map[string]any{"prev_events": []string{"$" + no}})}
		}
		p.say(t, "unheard")
		if _, err := p.b.Take(context.Background(), "a", []json.RawMessage{p.say(t, "last")}); err != nil {
			t.Error(err)
		}
	})
}

// signAs makes an event of fields as its server would, good or bad.
func signAs(t *testing.T, version id.RoomVersion, server id.ServerName, fields map[string]any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(fields)
	ok(t, err)
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	ok(t, err)
	raw, err = signedjson.Canonical(raw)
	ok(t, err)
	sum := sha256.Sum256(raw)
	fields["hashes"] = map[string]any{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	raw, err = json.Marshal(fields)
	ok(t, err)
	redacted, err := v.RedactEventJSON(raw)
	ok(t, err)
	seed := make([]byte, 32)
	copy(seed, server)
	signed, err := gomatrixserverlib.SignJSON(string(server), "ed25519:1", ed25519.NewKeyFromSeed(seed), redacted)
	ok(t, err)
	var s struct {
		Signatures json.RawMessage `json:"signatures"`
	}
	ok(t, json.Unmarshal(signed, &s))
	fields["signatures"] = s.Signatures
	raw, err = json.Marshal(fields)
	ok(t, err)
	return raw
}

func TestACL(t *testing.T) {
	for _, c := range []struct {
		content string
		allowed []id.ServerName
		denied  []id.ServerName
	}{
		{`{}`, nil, []id.ServerName{"example.org"}},
		{`{"allow":["*"]}`, []id.ServerName{"example.org", "1.2.3.4", "[::1]:8448"}, nil},
		{`{"allow":["*"],"allow_ip_literals":false}`, []id.ServerName{"example.org", "example.org:8448"}, []id.ServerName{"1.2.3.4", "1.2.3.4:80", "[::1]", "[::1]:8448"}},
		{`{"allow":["*"],"allow_ip_literals":"no"}`, []id.ServerName{"1.2.3.4"}, nil},
		{`{"allow":["*.Example.org"],"deny":["EVIL.*"]}`, []id.ServerName{"a.example.org", "A.EXAMPLE.ORG:1"}, []id.ServerName{"example.org", "evil.example.org", "Evil.example.org:8448"}},
		{`{"allow":["*"],"deny":["evil.example.org:8448"]}`, []id.ServerName{"evil.example.org:8448"}, nil},
		{`{"allow":"*","deny":7}`, nil, []id.ServerName{"example.org"}},
	} {
		a := parseACL([]byte(c.content))
		for _, s := range c.allowed {
			if !a.allows(s) {
				t.Errorf("%s denies %s", c.content, s)
			}
		}
		for _, s := range c.denied {
			if a.allows(s) {
				t.Errorf("%s allows %s", c.content, s)
			}
		}
	}
}
