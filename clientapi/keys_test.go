package clientapi_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
)

func TestKeys(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		const keys = `{"user_id":"@alice:x.org","device_id":"DEVALICE","algorithms":["a"],"keys":{"ed25519:DEVALICE":"k"},"signatures":{}}`
		n.do(t, "POST", v3+"/keys/upload", alice, `{"device_keys":`+keys+`,"one_time_keys":{"signed_curve25519:1":{"key":"1"},"signed_curve25519:2":{"key":"2"}},`+
			`"fallback_keys":{"signed_curve25519:F":{"key":"F","fallback":true}}}`).json(`{"one_time_key_counts":{"signed_curve25519":2}}`)
		n.do(t, "POST", v3+"/keys/upload", alice, `{}`).json(`{"one_time_key_counts":{"signed_curve25519":2}}`)
		n.do(t, "POST", v3+"/keys/upload", bob, `{"device_keys":`+keys+`}`).want(400, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/keys/upload", alice, `{"one_time_keys":{"signed_curve25519:1":{"key":"other"}}}`).want(400, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/keys/upload", alice, `{"one_time_keys":{"signed_curve25519:1":null}}`).want(400, "M_BAD_JSON")
		n.do(t, "POST", v3+"/keys/upload", alice, `{"one_time_keys":[]}`).want(400, "M_BAD_JSON")

		n.do(t, "POST", v3+"/keys/query", bob, `{"device_keys":{"@alice:x.org":[],"@none:x.org":[],"@c:y.org":[]}}`).json(
			`{"device_keys":{"@alice:x.org":{"DEVALICE":` + keys + `},"@none:x.org":{}},"failures":{"y.org":{}}}`)
		n.do(t, "POST", v3+"/keys/query", bob, `{"device_keys":{"alice":[]}}`).want(400, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/keys/query", bob, `{"device_keys":{"@alice:x.org":{}}}`).want(400, "M_BAD_JSON")
		n.do(t, "POST", v3+"/keys/query", bob, `{}`).want(400, "M_MISSING_PARAM")

		claim := `{"one_time_keys":{"@alice:x.org":{"DEVALICE":"signed_curve25519"}}}`
		for _, want := range []string{`1":{"key":"1"}`, `2":{"key":"2"}`, `F":{"key":"F","fallback":true}`, `F":{"key":"F","fallback":true}`} {
			n.do(t, "POST", v3+"/keys/claim", bob, claim).json(
				`{"failures":{},"one_time_keys":{"@alice:x.org":{"DEVALICE":{"signed_curve25519:` + want + `}}}}`)
		}
		n.do(t, "POST", v3+"/keys/claim", bob, `{}`).want(400, "M_MISSING_PARAM")

		// Bob comes to share a room with Alice, and leaves it again.
		room := n.room(t, "@alice:x.org")
		pos := func() string {
			p, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) (id.Pos, error) { return tx.GetPos() })
			if err != nil {
				t.Fatal(err)
			}
			return token.Format(n.db.Epoch(), int64(p))
		}
		start := pos()
		changes := func(from string) *answer {
			return n.do(t, "GET", v3+"/keys/changes?from="+url.QueryEscape(from)+"&to="+url.QueryEscape(pos()), bob, "")
		}
		changes(start).json(`{"changed":[],"left":[]}`)
		if err := n.rooms.Join(context.Background(), roomserver.MemberRequest{Room: room, Sender: "@bob:x.org"}); err != nil {
			t.Fatal(err)
		}
		joined := pos()
		changes(start).json(`{"changed":["@alice:x.org","@bob:x.org"],"left":[]}`)
		changes(joined).json(`{"changed":[],"left":[]}`)
		n.do(t, "PUT", v3+"/devices/DEVALICE", alice, `{"display_name":"New"}`).json(`{}`)
		changes(joined).json(`{"changed":["@alice:x.org"],"left":[]}`)
		if err := n.rooms.Leave(context.Background(), roomserver.MemberRequest{Room: room, Sender: "@bob:x.org", Target: "@bob:x.org"}); err != nil {
			t.Fatal(err)
		}
		changes(joined).json(`{"changed":[],"left":["@alice:x.org"]}`)
		n.do(t, "GET", v3+"/keys/changes?from=nonsense&to=s1", bob, "").want(400, "M_INVALID_PARAM")
		n.do(t, "GET", v3+"/keys/changes", bob, "").want(400, "M_MISSING_PARAM")
	})
}

func TestCrossSigningUpload(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice := n.user(t, "alice")
		master := func(key string) string {
			return `"master_key":{"user_id":"@alice:x.org","usage":["master"],"keys":{"ed25519:` + key + `":"` + key + `"}}`
		}
		const path = v3 + "/keys/device_signing/upload"
		n.do(t, "POST", path, alice, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", path, alice, `{`+master("one")+`,"self_signing_key":{"user_id":"@alice:x.org","usage":["self_signing"],"keys":{"ed25519:s":"s"}}}`).want(400, "M_INVALID_SIGNATURE")
		n.do(t, "POST", path, alice, `{`+master("DEVALICE")+`}`).want(403, "M_FORBIDDEN")
		n.do(t, "POST", path, alice, `{`+master("one")+`}`).json(`{}`)
		n.do(t, "POST", path, alice, `{`+master("one")+`}`).json(`{}`)
		n.do(t, "POST", path, alice, `{`+master("two")+`}`).want(401, "")
		n.do(t, "POST", path, alice, `{`+master("two")+`,"auth":`+auth("alice")+`}`).json(`{}`)
		a := n.do(t, "POST", v3+"/keys/query", alice, `{"device_keys":{"@alice:x.org":[]}}`).want(200, "")
		if !strings.Contains(a.text, `"ed25519:two"`) || strings.Contains(a.text, "ed25519:one") {
			t.Errorf("keys %s", a.text)
		}
		n.do(t, "POST", v3+"/keys/signatures/upload", alice, `{"@alice:x.org":{"NONE":{}}}`).json(
			`{"failures":{"@alice:x.org":{"NONE":{"errcode":"M_NOT_FOUND","error":"there is no key \"NONE\" of @alice:x.org to sign"}}}}`)
		n.do(t, "POST", v3+"/keys/signatures/upload", alice, `{"@alice:x.org":[]}`).want(400, "M_BAD_JSON")
	})
}

func TestSendToDevice(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice := n.user(t, "alice")
		n.user(t, "bob")
		n.do(t, "PUT", v3+"/sendToDevice/m.test/1", alice, `{"messages":{"@bob:x.org":{"*":{"a":1}}}}`).json(`{}`)
		n.do(t, "PUT", v3+"/sendToDevice/m.test/1", alice, `{"messages":{"@bob:x.org":{"*":{"a":1}}}}`).json(`{}`)
		d, err := n.users.GetDevice(context.Background(), "@bob:x.org", "DEVBOB")
		if err != nil {
			t.Fatal(err)
		}
		list, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
			return tx.ListToDevice(d.NID, 0, 1<<40, 10)
		})
		if err != nil || len(list) != 1 || string(list[0].JSON) != `{"sender":"@alice:x.org","type":"m.test","content":{"a":1}}` {
			t.Errorf("waiting %+v, %v", list, err)
		}
		n.do(t, "PUT", v3+"/sendToDevice/m.test/2", alice, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "PUT", v3+"/sendToDevice/m.test/2", alice, `{"messages":{"bob":{"*":{}}}}`).want(400, "M_INVALID_PARAM")
		n.do(t, "PUT", v3+"/sendToDevice/m.test/2", alice, `{"messages":{"@bob:x.org":{"*":[]}}}`).want(400, "M_BAD_JSON")
	})
}

func TestKeyBackup(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice := n.user(t, "alice")
		const version, keys = v3 + "/room_keys/version", v3 + "/room_keys/keys"
		const info = `"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"k"}`
		n.do(t, "GET", version, alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "POST", version, alice, `{"algorithm":"a"}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", version, alice, `{`+info+`}`).json(`{"version":"1"}`)
		n.do(t, "GET", version, alice, "").json(`{"version":"1","count":0,"etag":"0",` + info + `}`)
		n.do(t, "GET", version+"/1", alice, "").json(`{"version":"1","count":0,"etag":"0",` + info + `}`)
		n.do(t, "GET", version+"/2", alice, "").want(404, "M_NOT_FOUND")

		const key = `{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"c":"x"}}`
		n.do(t, "PUT", keys+"/!r:x.org/s%2F1?version=1", alice, key).json(`{"count":1,"etag":"1"}`)
		n.do(t, "PUT", keys+"/!r:x.org?version=1", alice, `{"sessions":{"s2":`+key+`}}`).json(`{"count":2,"etag":"2"}`)
		n.do(t, "PUT", keys+"?version=1", alice, `{"rooms":{"!q:x.org":{"sessions":{"s3":`+key+`}}}}`).json(`{"count":3,"etag":"3"}`)
		n.do(t, "PUT", keys+"?version=2", alice, `{"rooms":{}}`).want(404, "M_NOT_FOUND")
		n.do(t, "PUT", keys+"?version=1", alice, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "PUT", keys+"/!r:x.org/s?version=1", alice, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "PUT", keys+"/!r:x.org/s", alice, key).want(400, "M_MISSING_PARAM")
		n.do(t, "GET", keys+"/!r:x.org/s%2F1?version=1", alice, "").json(key)
		n.do(t, "GET", keys+"/!r:x.org/none?version=1", alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", keys+"/!r:x.org?version=1", alice, "").json(`{"sessions":{"s/1":` + key + `,"s2":` + key + `}}`)
		n.do(t, "GET", keys+"/!none:x.org?version=1", alice, "").json(`{"sessions":{}}`)
		n.do(t, "GET", keys+"?version=1", alice, "").json(`{"rooms":{"!r:x.org":{"sessions":{"s/1":` + key + `,"s2":` + key + `}},"!q:x.org":{"sessions":{"s3":` + key + `}}}}`)
		n.do(t, "GET", keys+"?version=2", alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "DELETE", keys+"/!r:x.org/s2?version=1", alice, "").json(`{"count":2,"etag":"4"}`)
		n.do(t, "DELETE", keys+"/!r:x.org?version=1", alice, "").json(`{"count":1,"etag":"5"}`)
		n.do(t, "DELETE", keys+"?version=1", alice, "").json(`{"count":0,"etag":"6"}`)

		n.do(t, "PUT", version+"/1", alice, `{`+info+`,"version":"1"}`).json(`{}`)
		n.do(t, "PUT", version+"/1", alice, `{`+info+`,"version":"2"}`).want(400, "M_INVALID_PARAM")
		n.do(t, "PUT", version+"/1", alice, strings.Replace(`{`+info+`}`, "sha2", "md5", 1)).want(400, "M_INVALID_PARAM")
		n.do(t, "PUT", version+"/9", alice, `{`+info+`}`).want(404, "M_NOT_FOUND")
		n.do(t, "POST", version, alice, `{`+info+`}`).json(`{"version":"2"}`)
		a := n.do(t, "PUT", keys+"?version=1", alice, `{"rooms":{}}`).want(403, "M_WRONG_ROOM_KEYS_VERSION")
		if a.get("current_version") != "2" {
			t.Errorf("error %s", a.text)
		}
		n.do(t, "DELETE", version+"/2", alice, "").json(`{}`)
		n.do(t, "DELETE", version+"/2", alice, "").json(`{}`)
		n.do(t, "DELETE", version+"/9", alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", version, alice, "").want(200, "").get("version")
	})
}
