package hostile

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// oldVersion is that of a room in which an event's sender names the event, and so can have it follow itself.
const oldVersion = "1"

// sealOld hashes and signs an event of such a room.
// spec: rooms/v1.md#event-ids
func (p *peer) sealOld(t *testing.T, fields object) event {
	t.Helper()
	fields = clone(fields)
	delete(fields, "hashes")
	delete(fields, "signatures")
	sum := sha256.Sum256(canonical(fields))
	fields["hashes"] = object{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	redacted, err := gomatrixserverlib.MustGetRoomVersion(oldVersion).RedactEventJSON(canonical(fields))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := gomatrixserverlib.SignJSON(p.name, gomatrixserverlib.KeyID(p.keyID), p.key, redacted)
	if err != nil {
		t.Fatal(err)
	}
	fields["signatures"] = json.RawMessage(gjson.GetBytes(signed, "signatures").Raw)
	return event{fields["event_id"].(string), canonical(fields)}
}

// reference is how an event of such a room names another.
func reference(t *testing.T, raw []byte) []any {
	t.Helper()
	redacted, err := gomatrixserverlib.MustGetRoomVersion(oldVersion).RedactEventJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(redacted, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "signatures")
	delete(fields, "unsigned")
	sum := sha256.Sum256(canonical(fields))
	return []any{gjson.GetBytes(raw, "event_id").Str, object{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}}
}

// TestCircles sends events that follow themselves or each other, or take others' IDs, into a room of a version in which
// they can.
// spec: rooms/v1.md#event-format
func TestCircles(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		p := s.peer
		s.id = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: oldVersion})
		said := s.alice.Say(s.id, "said")
		mallory := "@mallory:" + p.name

		// The peer's user joins, as specified.
		template := p.do("GET", "/_matrix/federation/v1/make_join/"+url.PathEscape(string(s.id))+"/"+url.PathEscape(mallory)+"?ver="+oldVersion, nil).WantOK(t)
		var fields object
		if err := json.Unmarshal([]byte(template.Get("event").Raw), &fields); err != nil {
			t.Fatal(err)
		}
		depth := template.Get("event.depth").Int()
		fields["event_id"], fields["depth"], fields["origin"], fields["origin_server_ts"] = "$join:"+p.name, depth, p.name, time.Now().UnixMilli()
		join := p.sealOld(t, fields)
		joined := p.do("PUT", "/_matrix/federation/v2/send_join/"+url.PathEscape(string(s.id))+"/"+url.PathEscape(join.id), join.raw).WantOK(t)
		auth := []any{reference(t, join.raw)}
		for _, e := range joined.Get("state").Array() {
			if kind := e.Get("type").Str; kind == "m.room.create" || kind == "m.room.power_levels" {
				auth = append(auth, reference(t, []byte(e.Raw)))
			}
		}
		last := reference(t, join.raw)
		message := func(name, body string, prev, auth []any) event {
			depth++
			return p.sealOld(t, object{
				"event_id": name, "room_id": s.id, "sender": mallory, "origin": p.name, "type": "m.room.message", "depth": depth,
				"origin_server_ts": time.Now().UnixMilli(), "content": object{"msgtype": "m.text", "body": body}, "prev_events": prev, "auth_events": auth,
			})
		}
		own := func(name string) string { return "$" + name + ":" + p.name }
		to := func(name string) []any { return []any{own(name), object{"sha256": strings.Repeat("A", 43)}} }

		// What is right is taken.
		good := message(own("good"), "a good word", []any{last}, auth)
		if resp := p.push(p.transaction([]json.RawMessage{good.raw})).WantOK(t); resp.Get("pdus."+escape(good.id)+".error").Str != "" {
			t.Fatalf("a good event was refused: %s", resp.Body)
		}
		last = reference(t, good.raw)
		before := s.state(t)
		for name, events := range map[string][]event{
			"follows itself":       {message(own("self"), evil, []any{to("self")}, auth)},
			"follows itself, too":  {message(own("self2"), evil, []any{last, to("self2")}, auth)},
			"is allowed by itself": {message(own("self3"), evil, []any{last}, slices.Concat(auth, []any{to("self3")}))},
			"follow each other":    {message(own("a"), evil, []any{to("b")}, auth), message(own("b"), evil, []any{to("a")}, auth)},
			"allow each other": {message(own("c"), evil, []any{last}, slices.Concat(auth, []any{to("d")})),
				message(own("d"), evil, []any{last}, slices.Concat(auth, []any{to("c")}))},
			"is named by another server": {message("$theirs:carol.example.org", evil, []any{last}, auth)},
			"has no name":                {message("", evil, []any{last}, auth)},
			"has a name that is none":    {message("evil", evil, []any{last}, auth)},
		} {
			t.Run(name, func(t *testing.T) {
				var raw []json.RawMessage
				for _, e := range events {
					raw = append(raw, e.raw)
				}
				p.answer(missingEvents, answer(object{"events": raw}))
				resp := p.push(p.transaction(raw)).WantOK(t)
				for _, e := range events {
					if result := resp.Get("pdus." + escape(e.id)); e.id != "" && result.Exists() && result.Get("error").Str == "" {
						t.Errorf("%s was taken: %s", e.id, resp.Body)
					}
				}
				s.same(t, before)
			})
		}
		t.Run("takes another's name", func(t *testing.T) {
			p.push(p.transaction([]json.RawMessage{message(string(said), evil, []any{last}, auth).raw, message(good.id, evil, []any{last}, auth).raw})).WantOK(t)
			for event, body := range map[id.EventID]string{said: "said", id.EventID(good.id): "a good word"} {
				if evt := s.alice.Event(s.id, event); evt.Content.Raw["body"] != body {
					t.Errorf("%s reads %v", event, evt.Content.Raw)
				}
			}
			s.same(t, before)
		})
	})
}

// same fails the test when the state is not as it was, when anything evil can be read, or when alice can't speak.
func (s *scene) same(t *testing.T, before map[string]string) {
	t.Helper()
	if after := s.state(t); !maps.Equal(before, after) {
		t.Errorf("the state is %v; it was %v", after, before)
	}
	page, err := s.alice.Messages(t.Context(), s.id, "", "", mautrix.DirectionBackward, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(harness.Bodies(page.Chunk), evil) {
		t.Errorf("what is evil can be read: %q", harness.Bodies(page.Chunk))
	}
	s.alice.In(t).Say(s.id, "life goes on")
}
