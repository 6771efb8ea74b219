package roomserver

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// FuzzContent gives the room server contents as clients may send them. What it accepts must
// be an event that the library, reading it as another server would, accepts too and calls
// by the same name; what it refuses must be refused with an errcode.
func FuzzContent(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"body":"hi"}`, `{"n":9007199254740991}`, `{"n":-0}`, `{"n":1e2}`, `{"a":{"b":[1,null,true,"\u0000"]}}`,
		`{"a":"\ud83d\ude00","\u00e9":1}`, `{"content":{"content":"\"content\":"}}`, `{"a":1,"a":2}`, `[]`, `"x"`, `{"x":"\ud800"}`,
		`{"a\":1},\"sender\":\"@alice:test\",\"x\":{\"b":1}`, `{"\u0000\n\\":1}`, `{"n":1E5,"z":0.0}`,
	} {
		f.Add("m.room.message", "", false, []byte(seed))
		f.Add("m.room.topic", "key", true, []byte(seed))
	}
	f.Add("m.room.power_levels", "", true, []byte(`{"users":{"@a:b":100},"ban":50}`))
	f.Add("m.room.member", "@bob:test", true, []byte(`{"membership":"invite","x":1}`))
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	s := &Server{name: "test", keyID: "ed25519:1", key: key}
	f.Fuzz(func(t *testing.T, eventType, stateKey string, isState bool, content []byte) {
		for _, version := range []storage.Room{{Version: "6"}, {Version: "10"}, {Version: "12"}} {
			version.ID = "!room:test"
			canonical, err := canonicalContent(version.Version, content)
			if err != nil {
				if matrixerr.CodeOf(err) == "" {
					t.Fatalf("refused without an errcode: %v", err)
				}
				continue
			}
			if !json.Valid(canonical) {
				t.Fatalf("version %s: %q became %q, which is no JSON", version.Version, content, canonical)
			}
			if canonical[0] != '{' {
				continue // the edge lets only objects through
			}
			if theirs, err := gomatrixserverlib.CanonicalJSON(canonical); err != nil || !bytes.Equal(theirs, canonical) {
				continue // keys with escapes, which the library writes without
			}
			d := &draft{Room: version.ID, Sender: alice, Type: eventType, Content: canonical, TS: 1}
			if isState {
				d.StateKey = &stateKey
			}
			e, err := s.build(&version, d, []link{{id: "$prev"}}, []link{{id: "$auth"}}, 7)
			if err != nil {
				continue
			}
			v := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(version.Version))
			pdu, err := v.NewEventFromUntrustedJSON(e.Event.JSON)
			if err != nil {
				t.Fatalf("version %s: the library refuses %s: %v", version.Version, e.Event.JSON, err)
			}
			if pdu.EventID() != string(e.ID) || pdu.Redacted() {
				t.Fatalf("version %s: the library reads %s as %s, redacted %v", version.Version, e.Event.JSON, pdu.EventID(), pdu.Redacted())
			}
		}
	})
}

// FuzzParse gives the room server events as other servers may send them. What it takes in can be
// asked for all that judging it asks; what it refuses is refused with an errcode.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"type":"m.room.message","room_id":"!r:x","sender":"@a:x","content":{"body":"hi"},"prev_events":["$p"],"auth_events":["$a"],"depth":1,"origin_server_ts":1,"hashes":{"sha256":"x"},"signatures":{"x":{"ed25519:a":"y"}}}`,
		`{"type":"m.room.message","room_id":"!r:x","sender":"@a:x","content":"evil"}`,
		`{"type":"m.room.message","sender":"@a:x","content":{}}`,
		`{"type":"m.room.message","room_id":"","sender":"@a:x","content":{}}`,
		`{"type":"m.room.message","room_id":"!","sender":"a","content":{},"prev_events":[["$p",{"sha256":"x"}]],"event_id":"$e:x"}`,
		`{"type":"m.room.create","state_key":"","sender":"@a:x","content":{"room_version":"12","additional_creators":7}}`,
		`{"type":"m.room.member","state_key":"@b:x","room_id":"!r:x","sender":"@a:x","content":{"membership":1},"unsigned":[]}`,
		`{"type":"m.room.message","room_id":"!r:x","sender":"@a:x","content":{},"prev_events":[],"auth_events":[],"depth":1,"origin_server_ts":1,"hashes":{},"SENDER":"@b:x","Type":"x","\u017ftate_key":""}`,
		`{"type":7,"content":null}`, `[]`, `{}`, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, version := range []id.RoomVersion{"1", "3", "6", "10", "11", "12"} {
			pdu, err := Parse(version, raw)
			if err != nil {
				if matrixerr.CodeOf(err) == "" {
					t.Fatalf("refused without an errcode: %v", err)
				}
				continue
			}
			if room := pdu.RoomID(); room.String() == "" || pdu.EventID() == "" {
				t.Fatalf("version %s: an event of room %q with ID %q", version, room.String(), pdu.EventID())
			}
			// What it is judged by is what is kept of it.
			kept, err := parseEvent(version, storage.Event{ID: id.EventID(pdu.EventID()), JSON: pdu.JSON()})
			if err != nil {
				t.Fatalf("version %s: %s can't be read again: %v", version, pdu.JSON(), err)
			}
			about := func(e gomatrixserverlib.PDU) string {
				return fmt.Sprint(e.RoomID(), e.SenderID(), e.Type(), e.StateKey() == nil, e.StateKeyEquals(""), e.Depth(), e.PrevEventIDs(), e.AuthEventIDs(), e.Redacts())
			}
			if was, is := about(pdu), about(kept.PDU); was != is {
				t.Fatalf("version %s: %s is %s, and later %s", version, raw, was, is)
			}
			pdu.Redact()
			if !json.Valid(pdu.JSON()) {
				t.Fatalf("version %s: %q is no JSON", version, pdu.JSON())
			}
		}
	})
}
