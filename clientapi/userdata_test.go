package clientapi_test

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"parley/roomserver"
)

func TestDevices(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		second := n.do(t, "POST", v3+"/login", "", strings.TrimSuffix(auth("alice"), "}")+`,"device_id":"D2","initial_device_display_name":"Two"}`).want(200, "").get("access_token")
		third := n.do(t, "POST", v3+"/login", "", strings.TrimSuffix(auth("alice"), "}")+`,"device_id":"D/3"}`).want(200, "").get("access_token")
		list := n.do(t, "GET", v3+"/devices", token, "").want(200, "").body["devices"].([]any)
		if len(list) != 3 {
			t.Errorf("devices %v", list)
		}
		d := n.do(t, "GET", v3+"/devices/D2", token, "").want(200, "")
		if d.get("device_id") != "D2" || d.get("display_name") != "Two" || d.get("last_seen_ip") != "127.0.0.1" || d.body["last_seen_ts"].(float64) == 0 {
			t.Errorf("device %s", d.text)
		}
		n.do(t, "PUT", v3+"/devices/D%2F3", token, `{"display_name":"Three"}`).json(`{}`)
		n.do(t, "GET", v3+"/devices/D%2F3", token, "").want(200, "").get("display_name")
		n.do(t, "PUT", v3+"/devices/D2", token, `{}`).json(`{}`)
		n.do(t, "PUT", v3+"/devices/D9", token, `{"display_name":"Nine"}`).want(404, "M_NOT_FOUND")
		n.do(t, "PUT", v3+"/devices/D9", token, `{}`).want(404, "M_NOT_FOUND")
		n.do(t, "GET", v3+"/devices/D9", token, "").want(404, "M_NOT_FOUND")
		n.do(t, "PUT", v3+"/devices/D2", token, `{"display_name":7}`).want(400, "M_BAD_JSON")

		n.do(t, "DELETE", v3+"/devices/D2", token, "").want(401, "")
		n.do(t, "DELETE", v3+"/devices/D2", token, `{"auth":`+strings.Replace(auth("alice"), "of", "off", 1)+`}`).want(401, "M_FORBIDDEN")
		n.do(t, "DELETE", v3+"/devices/D2", token, `{"auth":`+auth("alice")+`}`).json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", second, "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", v3+"/delete_devices", token, `{"auth":`+auth("alice")+`}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", v3+"/delete_devices", token, `{"devices":["D/3","D9"],"auth":`+auth("alice")+`}`).json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", third, "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "GET", v3+"/account/whoami", token, "").want(200, "")
	})
}

func TestProfile(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		room := n.room(t, "@alice:x.org")
		const profile = v3 + "/profile/@alice:x.org"
		n.do(t, "GET", profile, "", "").json(`{}`)
		n.do(t, "GET", profile+"/displayname", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "PUT", profile+"/displayname", token, `{"displayname":"Älice"}`).json(`{}`)
		n.do(t, "PUT", profile+"/avatar_url", token, `{"avatar_url":"mxc://x.org/a"}`).json(`{}`)
		n.do(t, "PUT", profile+"/org.example.a", token, `{"org.example.a":{"b":[1]}}`).json(`{}`)
		n.do(t, "GET", v3+"/profile/"+url.PathEscape("@alice:x.org"), "", "").json(
			`{"displayname":"Älice","avatar_url":"mxc://x.org/a","org.example.a":{"b":[1]}}`)
		n.do(t, "GET", profile+"/org.example.a", "", "").json(`{"org.example.a":{"b":[1]}}`)
		member, err := n.rooms.StateEvent(context.Background(), room, "m.room.member", "@alice:x.org", false, roomserver.Reader{User: "@alice:x.org"})
		if err != nil || !strings.Contains(string(member), `"displayname":"Älice"`) || !strings.Contains(string(member), `"avatar_url":"mxc://x.org/a"`) {
			t.Errorf("the room shows %s, %v", member, err)
		}
		n.do(t, "DELETE", profile+"/org.example.a", token, "").json(`{}`)
		n.do(t, "DELETE", profile+"/org.example.a", token, "").json(`{}`)
		n.do(t, "GET", profile+"/org.example.a", "", "").want(404, "M_NOT_FOUND")
		for _, test := range []struct {
			path, body string
			status     int
			code       string
		}{
			{profile + "/displayname", `{}`, 400, "M_MISSING_PARAM"},
			{profile + "/displayname", `{"displayname":1}`, 400, "M_BAD_JSON"},
			{profile + "/avatar_url", `{"avatar_url":"mxc://x.org/` + strings.Repeat("x", 1024) + `"}`, 400, "M_INVALID_PARAM"},
			{profile + "/Bad", `{"Bad":1}`, 400, "M_INVALID_PARAM"},
			{profile + "/a." + strings.Repeat("x", 254), `{"a.` + strings.Repeat("x", 254) + `":1}`, 400, "M_KEY_TOO_LARGE"},
			{profile + "/a.b", `{"a.b":"` + strings.Repeat("x", 65536) + `"}`, 400, "M_PROFILE_TOO_LARGE"},
			{v3 + "/profile/@bob:x.org/displayname", `{"displayname":"Bob"}`, 403, "M_FORBIDDEN"},
			{v3 + "/profile/bob/displayname", `{"displayname":"Bob"}`, 400, "M_INVALID_PARAM"},
		} {
			n.do(t, "PUT", test.path, token, test.body).want(test.status, test.code)
		}
		n.do(t, "PUT", profile+"/displayname", "", `{"displayname":"A"}`).want(401, "M_MISSING_TOKEN")
		n.do(t, "GET", v3+"/profile/@bob:x.org", "", "").want(404, "M_NOT_FOUND")
		guest := n.do(t, "POST", v3+"/register?kind=guest", "", `{}`).want(200, "")
		own := v3 + "/profile/" + guest.get("user_id")
		n.do(t, "PUT", own+"/displayname", guest.get("access_token"), `{"displayname":"G"}`).json(`{}`)
		n.do(t, "PUT", own+"/avatar_url", guest.get("access_token"), `{"avatar_url":"mxc://x.org/a"}`).want(403, "M_GUEST_ACCESS_FORBIDDEN")

		bob := n.user(t, "bob")
		n.do(t, "POST", v3+"/user_directory/search", bob, `{"search_term":"ALI"}`).json(
			`{"limited":false,"results":[{"user_id":"@alice:x.org","display_name":"Älice","avatar_url":"mxc://x.org/a"}]}`)
		n.do(t, "POST", v3+"/user_directory/search", bob, `{"search_term":"@alice:x.org","limit":0}`).json(`{"limited":true,"results":[]}`)
		n.do(t, "POST", v3+"/user_directory/search", bob, `{"search_term":"nobody"}`).json(`{"limited":false,"results":[]}`)
		n.do(t, "POST", v3+"/user_directory/search", bob, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", v3+"/user_directory/search", bob, `{"search_term":"a","limit":-1}`).want(400, "M_INVALID_PARAM")
	})
}

func TestAccountData(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		const user = v3 + "/user/@alice:x.org"
		for _, at := range []string{user, user + "/rooms/!r:x.org"} {
			path := at + "/account_data/"
			n.do(t, "GET", path+"m.x", token, "").want(404, "M_NOT_FOUND")
			n.do(t, "PUT", path+"m.x", token, `{"at":"`+at+`"}`).json(`{}`)
			n.do(t, "GET", path+"m.x", token, "").json(`{"at":"` + at + `"}`)
			deleting := strings.Replace(path, v3, "/_matrix/client/unstable/org.matrix.msc3391", 1)
			for _, test := range []struct{ method, path, body string }{{"DELETE", deleting, ""}, {"PUT", path, `{ }`}} {
				n.do(t, "PUT", path+"m.y", token, `{"y":1}`).json(`{}`)
				n.do(t, test.method, test.path+"m.y", token, test.body).json(`{}`)
				n.do(t, "DELETE", deleting+"m.y", token, "").json(`{}`) // and once more
				n.do(t, "GET", path+"m.y", token, "").want(404, "M_NOT_FOUND")
			}
			n.do(t, "DELETE", deleting+"m.push_rules", token, "").want(405, "M_BAD_JSON")
			n.do(t, "DELETE", strings.Replace(deleting, "alice", "bob", 1)+"m.x", token, "").want(403, "M_FORBIDDEN")
			n.do(t, "PUT", path+"m.fully_read", token, `{}`).want(405, "M_BAD_JSON")
			n.do(t, "PUT", path+"m.push_rules", token, `{}`).want(405, "M_BAD_JSON")
			n.do(t, "PUT", path+"m.x", token, `[]`).want(400, "M_BAD_JSON")
			n.do(t, "PUT", path+"m.x", token, `{`).want(400, "M_NOT_JSON")
			n.do(t, "PUT", path+"m.x", token, ``).want(400, "M_NOT_JSON")
			n.do(t, "PUT", path+"m.x", token, "{\"a\":\"\xff\"}").want(400, "M_NOT_JSON")
			n.do(t, "PUT", strings.Replace(path, "alice", "bob", 1)+"m.x", token, `{}`).want(403, "M_FORBIDDEN")
			n.do(t, "GET", strings.Replace(path, "alice", "bob", 1)+"m.x", token, "").want(403, "M_FORBIDDEN")
		}
		n.do(t, "PUT", user+"/account_data/m.nul", token, `{"a":"\u0000"}`).json(`{}`)
		n.do(t, "GET", user+"/account_data/m.nul", token, "").json(`{"a":"\u0000"}`)
		n.do(t, "PUT", user+"/account_data/a%00b", token, `{}`).want(400, "M_INVALID_PARAM")
		n.do(t, "PUT", user+"/rooms/nonsense/account_data/m.x", token, `{}`).want(400, "M_INVALID_PARAM")

		const tags = user + "/rooms/!r:x.org/tags"
		n.do(t, "GET", tags, token, "").json(`{"tags":{}}`)
		n.do(t, "PUT", tags+"/u.work", token, `{"order":0.7}`).json(`{}`)
		n.do(t, "PUT", tags+"/m.favourite", token, `{}`).json(`{}`)
		n.do(t, "GET", tags, token, "").json(`{"tags":{"u.work":{"order":0.7},"m.favourite":{}}}`)
		n.do(t, "GET", user+"/rooms/!r:x.org/account_data/m.tag", token, "").json(`{"tags":{"u.work":{"order":0.7},"m.favourite":{}}}`)
		n.do(t, "DELETE", tags+"/u.work", token, "").json(`{}`)
		n.do(t, "GET", tags, token, "").json(`{"tags":{"m.favourite":{}}}`)
		n.do(t, "PUT", tags+"/"+strings.Repeat("x", 256), token, `{}`).want(400, "M_INVALID_PARAM")
		n.do(t, "GET", v3+"/user/@bob:x.org/rooms/!r:x.org/tags", token, "").want(403, "M_FORBIDDEN")
		n.do(t, "PUT", v3+"/user/@bob:x.org/rooms/!r:x.org/tags/a", token, "{}").want(403, "M_FORBIDDEN")
		n.do(t, "DELETE", v3+"/user/@bob:x.org/rooms/!r:x.org/tags/a", token, "").want(403, "M_FORBIDDEN")

		const text = `{"room":{"timeline":{"limit":3}}}`
		name := n.do(t, "POST", user+"/filter", token, text).want(200, "").get("filter_id")
		n.do(t, "GET", user+"/filter/"+name, token, "").json(text)
		n.do(t, "GET", user+"/filter/none", token, "").want(404, "M_NOT_FOUND")
		n.do(t, "POST", user+"/filter", token, `{"room":[]}`).want(400, "M_BAD_JSON")
		n.do(t, "POST", user+"/filter", token, `{"presence":{"senders":["alice"]}}`).want(400, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/user/@bob:x.org/filter", token, `{}`).want(403, "M_FORBIDDEN")
		n.do(t, "GET", v3+"/user/@bob:x.org/filter/"+name, token, "").want(403, "M_FORBIDDEN")
	})
}

func TestReceipts(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token, stranger := n.user(t, "alice"), n.user(t, "bob")
		room := n.room(t, "@alice:x.org")
		event, err := n.rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: "@alice:x.org", Type: "m.room.message",
			Content: json.RawMessage(`{"body":"hello"}`)})
		if err != nil {
			t.Fatal(err)
		}
		at := v3 + "/rooms/" + url.PathEscape(string(room))
		receipt := func(typ string) string { return at + "/receipt/" + typ + "/" + url.PathEscape(string(event)) }
		for _, typ := range []string{"m.read", "m.read.private", "m.fully_read"} {
			n.do(t, "POST", receipt(typ), token, "{}").json(`{}`)
		}
		n.do(t, "POST", receipt("m.read"), token, "").json(`{}`) // some clients send no body
		n.do(t, "POST", receipt("m.read"), token, `{"thread_id":"main"}`).json(`{}`)
		n.do(t, "GET", v3+"/user/@alice:x.org/rooms/"+url.PathEscape(string(room))+"/account_data/m.fully_read", token, "").json(`{"event_id":"` + string(event) + `"}`)
		for _, test := range []struct {
			path, token, body string
			status            int
			code              string
		}{
			{receipt("m.read"), token, `{"thread_id":""}`, 400, "M_INVALID_PARAM"},
			{receipt("m.read"), token, `{"thread_id":7}`, 400, "M_INVALID_PARAM"},
			{receipt("m.read"), token, `{"thread_id":"$other"}`, 400, "M_INVALID_PARAM"},
			{receipt("m.fully_read"), token, `{"thread_id":"main"}`, 400, "M_INVALID_PARAM"},
			{receipt("m.other"), token, `{}`, 400, "M_INVALID_PARAM"},
			{at + "/receipt/m.read/$none", token, `{}`, 404, "M_NOT_FOUND"},
			{at + "/receipt/m.read/none", token, `{}`, 400, "M_INVALID_PARAM"},
			{receipt("m.read"), stranger, `{}`, 403, "M_FORBIDDEN"},
			{at + "/read_markers", stranger, `{"m.read":"` + string(event) + `"}`, 403, "M_FORBIDDEN"},
			{at + "/read_markers", token, `{"m.read":"` + string(event) + `","m.read.private":"` + string(event) + `","m.fully_read":"` + string(event) + `"}`, 200, ""},
			{at + "/read_markers", token, `{}`, 200, ""},
			{at + "/read_markers", token, `{"m.read":"x"}`, 400, "M_INVALID_PARAM"},
		} {
			n.do(t, "POST", test.path, test.token, test.body).want(test.status, test.code)
		}

		n.do(t, "PUT", at+"/typing/@alice:x.org", token, `{"typing":true,"timeout":10000}`).json(`{}`)
		if users, _ := n.users.Typing(room); len(users) != 1 || users[0] != "@alice:x.org" {
			t.Errorf("%v type", users)
		}
		n.do(t, "PUT", at+"/typing/@alice:x.org", token, `{"typing":false}`).json(`{}`)
		if users, _ := n.users.Typing(room); len(users) != 0 {
			t.Errorf("%v type", users)
		}
		n.do(t, "PUT", at+"/typing/@alice:x.org", token, `{"typing":true,"timeout":9223372036854775807}`).json(`{}`)
		n.do(t, "PUT", at+"/typing/@alice:x.org", token, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "PUT", at+"/typing/@bob:x.org", token, `{"typing":true}`).want(403, "M_FORBIDDEN")
		n.do(t, "PUT", at+"/typing/@bob:x.org", stranger, `{"typing":true}`).want(403, "M_FORBIDDEN")
	})
}

func TestPresence(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token, stranger := n.user(t, "alice"), n.user(t, "bob")
		const path = v3 + "/presence/@alice:x.org/status"
		n.do(t, "GET", path, token, "").json(`{"presence":"offline"}`)
		n.do(t, "PUT", path, token, `{"presence":"unavailable","status_msg":"lunch"}`).json(`{}`)
		a := n.do(t, "GET", path, token, "").want(200, "")
		if a.get("presence") != "unavailable" || a.get("status_msg") != "lunch" || a.body["last_active_ago"] == nil {
			t.Errorf("presence %s", a.text)
		}
		n.do(t, "GET", path, stranger, "").want(403, "M_FORBIDDEN")
		n.do(t, "PUT", path, stranger, `{"presence":"online"}`).want(403, "M_FORBIDDEN")
		n.do(t, "PUT", path, token, `{"presence":"busy"}`).want(400, "M_INVALID_PARAM")
		n.do(t, "PUT", path, token, `{}`).want(400, "M_MISSING_PARAM")
	})
}

func TestPushers(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		const pusher = `"pushkey":"k","kind":"http","app_id":"a","app_display_name":"A","device_display_name":"D","lang":"en",` +
			`"data":{"url":"https://p.x.org/_matrix/push/v1/notify","format":"event_id_only"}`
		n.do(t, "GET", v3+"/pushers", token, "").json(`{"pushers":[]}`)
		n.do(t, "POST", v3+"/pushers/set", token, `{"append":false,`+pusher+`}`).json(`{}`)
		n.do(t, "GET", v3+"/pushers", token, "").json(`{"pushers":[{` + pusher + `}]}`)
		for body, code := range map[string]string{
			`{}`:                                    "M_MISSING_PARAM",
			`{"pushkey":"k"}`:                       "M_MISSING_PARAM",
			`{"pushkey":"k","app_id":"a"}`:          "M_MISSING_PARAM",
			`{"pushkey":"k","app_id":"a","kind":7}`: "M_BAD_JSON",
			`{"pushkey":"k","app_id":"a","kind":"http"}`:              "M_MISSING_PARAM",
			"{" + strings.Replace(pusher, "http", "email", 1) + "}":   "M_INVALID_PARAM",
			"{" + strings.Replace(pusher, "notify", "other", 1) + "}": "M_INVALID_PARAM",
		} {
			n.do(t, "POST", v3+"/pushers/set", token, body).want(400, code)
		}
		n.do(t, "POST", v3+"/pushers/set", token, `{"pushkey":"k","app_id":"a","kind":null}`).json(`{}`)
		n.do(t, "GET", v3+"/pushers", token, "").json(`{"pushers":[]}`)
	})
}

func TestUpgradeCarriesOver(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		old := n.makeRoom(t, alice, `{"preset":"public_chat","room_version":"10"}`)
		n.do(t, "POST", v3+"/join/"+old, bob, `{}`).want(200, "")
		rule := func(room string) string { return v3 + "/pushrules/global/room/" + room }
		n.do(t, "PUT", rule(old), bob, `{"actions":["dont_notify"]}`).json(`{}`)
		n.do(t, "PUT", rule(old)+"/enabled", bob, `{"enabled":false}`).json(`{}`)
		tags := func(room string) string { return v3 + "/user/@bob:x.org/rooms/" + room + "/tags" }
		n.do(t, "PUT", tags(old)+"/u.work", bob, `{"order":0.5}`).json(`{}`)
		direct := v3 + "/user/@bob:x.org/account_data/m.direct"
		n.do(t, "PUT", direct, bob, `{"@alice:x.org":["`+old+`"],"@carol:x.org":["!x:x.org"]}`).json(`{}`)

		next := n.do(t, "POST", v3+"/rooms/"+old+"/upgrade", alice, `{"new_version":"12"}`).want(200, "").get("replacement_room")
		n.do(t, "GET", rule(next), alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", rule(next), bob, "").want(404, "M_NOT_FOUND") // not before they join
		n.do(t, "POST", v3+"/join/"+next, bob, `{}`).want(200, "")
		n.do(t, "GET", rule(next), bob, "").json(`{"rule_id":"` + next + `","default":false,"enabled":false,"actions":["dont_notify"]}`)
		n.do(t, "GET", tags(next), bob, "").json(`{"tags":{"u.work":{"order":0.5}}}`)
		n.do(t, "GET", direct, bob, "").json(`{"@alice:x.org":["` + old + `","` + next + `"],"@carol:x.org":["!x:x.org"]}`)

		// What they set since stays when they come again.
		n.do(t, "DELETE", tags(next)+"/u.work", bob, "").json(`{}`)
		n.do(t, "PUT", tags(next)+"/u.home", bob, `{}`).json(`{}`)
		n.do(t, "PUT", rule(next)+"/enabled", bob, `{"enabled":true}`).json(`{}`)
		n.do(t, "POST", v3+"/join/"+next, bob, `{}`).want(200, "")
		n.do(t, "GET", rule(next)+"/enabled", bob, "").json(`{"enabled":true}`)
		n.do(t, "GET", tags(next), bob, "").json(`{"tags":{"u.home":{}}}`)
	})
}
