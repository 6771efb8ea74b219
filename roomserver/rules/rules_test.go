package rules

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/signedjson"
)

func key(seed string) (ed25519.PrivateKey, string) {
	b := make([]byte, ed25519.SeedSize)
	copy(b, seed)
	k := ed25519.NewKeyFromSeed(b)
	return k, base64.RawStdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

// word is what an identity server signs.
func word(t *testing.T, fields, seed string) string {
	t.Helper()
	k, _ := key(seed)
	signed, err := signedjson.Sign([]byte(fields), "id.example", "ed25519:0", k)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func pdu(t *testing.T, eventType, sender, stateKey, content string) gomatrixserverlib.PDU {
	t.Helper()
	v, err := gomatrixserverlib.GetRoomVersion("10")
	if err != nil {
		t.Fatal(err)
	}
	e, err := v.NewEventFromTrustedJSON(fmt.Appendf(nil, `{"room_id":"!r:a","type":%q,"sender":%q,"state_key":%q,"content":%s,
		"depth":1,"origin_server_ts":1,"auth_events":[],"prev_events":[],"hashes":{},"signatures":{}}`, eventType, sender, stateKey, content), false)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestThirdPartyInvite(t *testing.T) {
	_, good := key("good")
	_, other := key("other")
	// The rule asks neither for the power to invite nor for the sender to be there still.
	create := pdu(t, "m.room.create", "@u:a", "", `{"creator":"@u:a","room_version":"10"}`)
	state := func(invite string, more ...gomatrixserverlib.PDU) *gomatrixserverlib.AuthEvents {
		s, err := gomatrixserverlib.NewAuthEvents(append(more, create, pdu(t, "m.room.third_party_invite", "@u:a", "token", invite)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	byKey := `{"public_key":"` + good + `"}`
	byKeys := `{"public_key":"` + other + `","public_keys":[{"public_key":"` + other + `"},{"public_key":"` + good + `"}]}`
	standard := state(byKeys)
	plain := word(t, `{"mxid":"@v:b","token":"token"}`, "good")
	content := func(signed string) string {
		return `{"membership":"invite","third_party_invite":{"display_name":"v","signed":` + signed + `}}`
	}
	for name, c := range map[string]struct {
		state   *gomatrixserverlib.AuthEvents
		sender  string
		content string
		want    bool
	}{
		"in order":            {standard, "@u:a", content(plain), true},
		"one key":             {state(byKey), "@u:a", content(plain), true},
		"padded key":          {state(`{"public_key":"` + good + `="}`), "@u:a", content(plain), true},
		"with further fields": {standard, "@u:a", content(word(t, `{"mxid":"@v:b","token":"token","sender":"@u:a"}`, "good")), true},
		"of a member":         {state(byKey, pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"join"}`)), "@u:a", content(plain), true},
		"of one banned":       {state(byKey, pdu(t, "m.room.member", "@u:a", "@v:b", `{"membership":"ban"}`)), "@u:a", content(plain), false},
		"by another":          {standard, "@x:a", content(plain), false},
		"for another":         {standard, "@u:a", content(word(t, `{"mxid":"@x:b","token":"token"}`, "good")), false},
		"another token":       {standard, "@u:a", content(word(t, `{"mxid":"@v:b","token":"other"}`, "good")), false},
		"another's signature": {standard, "@u:a", content(word(t, `{"mxid":"@v:b","token":"token"}`, "bad")), false},
		"changed since":       {standard, "@u:a", content(strings.Replace(plain, `"token":"token"`, `"extra":1,"token":"token"`, 1)), false},
		"taken back":          {state(`{}`), "@u:a", content(plain), false},
		"not signed":          {standard, "@u:a", content(`{"mxid":"@v:b","token":"token"}`), false},
		"nothing signed":      {standard, "@u:a", `{"membership":"invite","third_party_invite":{}}`, false},
		"null":                {standard, "@u:a", `{"membership":"invite","third_party_invite":null}`, false},
	} {
		e := pdu(t, "m.room.member", c.sender, "@v:b", c.content)
		if err := Allowed(e, c.state); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Allowed(pdu(t, "m.room.member", "@u:a", "@v:b", content(plain)), mustState(t)); err == nil {
		t.Error("allowed in a room without a create event")
	}
	closed := mustState(t, pdu(t, "m.room.create", "@u:a", "", `{"creator":"@u:a","room_version":"10","m.federate":false}`),
		pdu(t, "m.room.third_party_invite", "@x:b", "token", byKey))
	if err := Allowed(pdu(t, "m.room.member", "@x:b", "@v:b", content(plain)), closed); err == nil {
		t.Error("allowed from another server in a room that is not for them")
	}
}

func mustState(t *testing.T, events ...gomatrixserverlib.PDU) *gomatrixserverlib.AuthEvents {
	t.Helper()
	s, err := gomatrixserverlib.NewAuthEvents(events)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzSigningKey gives what anybody may write into a room.
func FuzzSigningKey(f *testing.F) {
	_, good := key("good")
	f.Add(`{"public_key":"`+good+`"}`, `{"mxid":"@v:b","token":"t","signatures":{"i":{"ed25519:0":"AAAA"}}}`)
	f.Add(`{"public_keys":[{"public_key":"x","key_validity_url":1},7]}`, `{"signatures":[{"a":1}]}`)
	f.Fuzz(func(t *testing.T, invite, signed string) {
		if k, ok := SigningKey([]byte(invite), []byte(signed)); ok && k.Public == good && !json.Valid([]byte(signed)) {
			t.Errorf("%q is signed", signed)
		}
	})
}

// A leave is for those who are there, or were asked in, or ask to be let in.
//
// spec: rooms/v12.md#authorisation-rules
func TestLeave(t *testing.T) {
	create := pdu(t, "m.room.create", "@u:a", "", `{"creator":"@u:a","room_version":"10"}`)
	leave := pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"leave"}`)
	if err := MayFollow(leave, mustState(t, create)); err == nil {
		t.Error("who was never there may leave")
	}
	for _, membership := range []string{"join", "invite", "knock"} {
		if err := MayFollow(leave, mustState(t, create, pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"`+membership+`"}`))); err != nil {
			t.Errorf("from %s: %v", membership, err)
		}
	}
	if err := MayFollow(leave, mustState(t, create, pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"ban"}`))); err == nil {
		t.Error("who is banned may leave")
	}
}

// TestFieldsOfOthers has member events with fields that are not as the library knows them, and of which the rules say
// nothing: they are judged as without them, and so is what their senders do next.
func TestFieldsOfOthers(t *testing.T) {
	create := pdu(t, "m.room.create", "@u:a", "", `{"creator":"@u:a","room_version":"10"}`)
	rules := pdu(t, "m.room.join_rules", "@u:a", "", `{"join_rule":"public"}`)
	for _, fields := range []string{`"mxid_mapping":3`, `"mxid_mapping":"x"`, `"third_party_invite":7`, `"third_party_invite":{"signed":[]},"mxid_mapping":[]`} {
		join := pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"join",`+fields+`}`)
		banned := pdu(t, "m.room.member", "@u:a", "@v:b", `{"membership":"ban",`+fields+`}`)
		for _, c := range []struct {
			what  string
			event gomatrixserverlib.PDU
			state []gomatrixserverlib.PDU
			good  bool
		}{
			{"a join", join, nil, true},
			{"a second join", join, []gomatrixserverlib.PDU{join}, true},
			{"the join of one who is banned", join, []gomatrixserverlib.PDU{banned}, false},
			{"leaving", pdu(t, "m.room.member", "@v:b", "@v:b", `{"membership":"leave"}`), []gomatrixserverlib.PDU{join}, true},
		} {
			state, err := gomatrixserverlib.NewAuthEvents(append(c.state, create, rules))
			if err != nil {
				t.Fatal(err)
			}
			if err := Allowed(c.event, state); (err == nil) != c.good {
				t.Errorf("%s with %s: %v", c.what, fields, err)
			}
		}
	}
}
