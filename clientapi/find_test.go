package clientapi_test

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/storage"
)

// makeRoom makes a room and gives its ID.
func (n *node) makeRoom(t *testing.T, token, body string) string {
	t.Helper()
	room, _ := n.do(t, "POST", v3+"/createRoom", token, body).want(200, "").body["room_id"].(string)
	return room
}

func strs(list any, field string) (out []string) {
	items, _ := list.([]any)
	for _, i := range items {
		m, _ := i.(map[string]any)
		s, _ := m[field].(string)
		out = append(out, s)
	}
	return out
}

func TestHierarchy(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		space := n.makeRoom(t, alice, `{"preset":"public_chat","creation_content":{"type":"m.space"},"name":"root"}`)
		sub := n.makeRoom(t, alice, `{"preset":"public_chat","creation_content":{"type":"m.space"},"name":"sub"}`)
		open := n.makeRoom(t, alice, `{"preset":"public_chat","name":"open"}`)
		closed := n.makeRoom(t, alice, `{"preset":"private_chat","name":"closed"}`)
		deep := n.makeRoom(t, alice, `{"preset":"public_chat","name":"deep"}`)
		child := func(parent, room, more string) {
			n.do(t, "PUT", v3+"/rooms/"+url.PathEscape(parent)+"/state/m.space.child/"+url.PathEscape(room), alice,
				`{"via":["x.org"]`+more+`}`).want(200, "")
		}
		child(space, open, `,"order":"b","suggested":true`)
		child(space, sub, `,"order":"a"`)
		child(space, closed, ``)
		child(sub, deep, ``)
		child(sub, space, ``) // a loop
		n.do(t, "PUT", v3+"/rooms/"+url.PathEscape(space)+"/state/m.space.child/!gone:x.org", alice, `{}`).want(200, "")

		base := v1 + "/rooms/" + url.PathEscape(space) + "/hierarchy"
		names := func(token, query string) []string {
			return strs(n.do(t, "GET", base+query, token, "").want(200, "").body["rooms"], "name")
		}
		check := func(got []string, want ...string) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		check(names(alice, ""), "root", "sub", "deep", "open", "closed")
		check(names(bob, ""), "root", "sub", "deep", "open")
		check(names(bob, "?max_depth=1"), "root", "sub", "open")
		check(names(bob, "?suggested_only=true"), "root", "open")
		check(names(bob, "?max_depth=0"), "root")

		var all []string
		for from := ""; ; {
			page := n.do(t, "GET", base+"?limit=2"+from, bob, "").want(200, "")
			all = append(all, strs(page.body["rooms"], "name")...)
			next, _ := page.body["next_batch"].(string)
			if next == "" || len(all) > 9 {
				break
			}
			from = "&from=" + url.QueryEscape(next)
			n.do(t, "GET", base+"?limit=2&max_depth=3"+from, bob, "").want(400, "M_INVALID_PARAM")
		}
		check(all, "root", "sub", "deep", "open")
		n.do(t, "GET", v1+"/rooms/"+url.PathEscape(closed)+"/hierarchy", bob, "").want(403, "M_FORBIDDEN")
		n.do(t, "GET", v1+"/rooms/!none:x.org/hierarchy", bob, "").want(403, "M_FORBIDDEN")
		n.do(t, "GET", base+"?limit=0", bob, "").want(400, "M_INVALID_PARAM")
		n.do(t, "GET", base+"?from=x", bob, "").want(400, "M_INVALID_PARAM")

		first, _ := n.do(t, "GET", base, bob, "").body["rooms"].([]any)
		root, _ := first[0].(map[string]any)
		check(strs(root["children_state"], "state_key"), sub, open, closed)
	})
}

func TestRoomSummary(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		room := n.makeRoom(t, alice, `{"preset":"public_chat","name":"open","topic":"all","room_alias_name":"here"}`)
		secret := n.makeRoom(t, alice, `{"preset":"private_chat","name":"secret","initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.megolm.v1.aes-sha2"}}]}`)
		friends := n.makeRoom(t, alice, `{"preset":"private_chat","name":"friends","initial_state":[{"type":"m.room.join_rules","content":{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+room+`"}]}}]}`)
		of := func(token, room string) *answer {
			return n.do(t, "GET", v1+"/room_summary/"+url.PathEscape(room), token, "")
		}

		if s := of("", "#here:x.org").want(200, "").body; s["room_id"] != room || s["name"] != "open" || s["join_rule"] != "public" ||
			s["membership"] != nil || s["room_version"] != "12" {
			t.Errorf("for nobody: %v", s)
		}
		if s := of(alice, room).want(200, "").body; s["membership"] != "join" {
			t.Errorf("for a member: %v", s)
		}
		of(bob, secret).want(404, "M_NOT_FOUND")
		of("", secret).want(404, "M_NOT_FOUND")
		if s := of(alice, secret).want(200, "").body; s["encryption"] != "m.megolm.v1.aes-sha2" {
			t.Errorf("encrypted: %v", s)
		}
		of(bob, friends).want(404, "M_NOT_FOUND")
		n.do(t, "POST", v3+"/rooms/"+url.PathEscape(room)+"/join", bob, "{}").want(200, "")
		if s := of(bob, friends).want(200, "").body; fmt.Sprint(s["allowed_room_ids"]) != "["+room+"]" || s["membership"] != "leave" {
			t.Errorf("restricted: %v", s)
		}
		of(bob, "!none:x.org").want(404, "M_NOT_FOUND")
		of(bob, "nonsense").want(400, "M_INVALID_PARAM")
	})
}

func TestMutualRooms(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		room := n.makeRoom(t, alice, `{"preset":"public_chat"}`)
		n.makeRoom(t, alice, `{"preset":"public_chat"}`)
		of := func(token, user, more string) *answer {
			return n.do(t, "GET", v1+"/mutual_rooms?user_id="+url.QueryEscape(user)+more, token, "")
		}
		if b := of(alice, "@bob:x.org", "").want(200, "").body; fmt.Sprint(b["joined"], b["count"]) != "[] 0" {
			t.Errorf("before: %v", b)
		}
		n.do(t, "POST", v3+"/rooms/"+url.PathEscape(room)+"/join", bob, "{}").want(200, "")
		if b := of(alice, "@bob:x.org", "").want(200, "").body; fmt.Sprint(b["joined"], b["count"]) != "["+room+"] 1" {
			t.Errorf("after: %v", b)
		}
		of(alice, "@alice:x.org", "").want(400, "M_INVALID_PARAM")
		of(alice, "bob", "").want(400, "M_INVALID_PARAM")
		of(alice, "@bob:x.org", "&from=x").want(400, "M_INVALID_PARAM")
		n.do(t, "GET", v1+"/mutual_rooms", alice, "").want(400, "M_MISSING_PARAM")
	})
}

func TestTimestampToEvent(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		room := url.PathEscape(n.makeRoom(t, alice, `{"preset":"private_chat"}`))
		var sent []string
		for i := range 3 {
			e, _ := n.do(t, "PUT", v3+"/rooms/"+room+"/send/m.room.message/"+strconv.Itoa(i), alice, `{"msgtype":"m.text","body":"x"}`).want(200, "").body["event_id"].(string)
			sent = append(sent, e)
		}
		last := n.do(t, "GET", v3+"/rooms/"+room+"/event/"+url.PathEscape(sent[2]), alice, "").want(200, "")
		ts, _ := last.body["origin_server_ts"].(float64)
		at := func(token string, ts int64, dir string) *answer {
			return n.do(t, "GET", v1+"/rooms/"+room+"/timestamp_to_event?ts="+strconv.FormatInt(ts, 10)+dir, token, "")
		}
		if b := at(alice, int64(ts)+1000, "&dir=b").want(200, "").body; b["event_id"] != sent[2] || b["origin_server_ts"] != ts {
			t.Errorf("before the end: %v", b)
		}
		if b := at(alice, 0, "&dir=f").want(200, "").body; !strings.HasPrefix(fmt.Sprint(b["event_id"]), "$") {
			t.Errorf("after the beginning: %v", b)
		}
		at(alice, int64(ts)+1000, "&dir=f").want(404, "M_NOT_FOUND")
		at(alice, 0, "&dir=b").want(404, "M_NOT_FOUND")
		at(alice, 0, "").want(400, "M_MISSING_PARAM")
		at(alice, 0, "&dir=x").want(400, "M_INVALID_PARAM")
		at(bob, 0, "&dir=f").want(403, "M_FORBIDDEN")
	})
}

func TestReports(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		room := url.PathEscape(n.makeRoom(t, alice, `{"preset":"private_chat"}`))
		e, _ := n.do(t, "PUT", v3+"/rooms/"+room+"/send/m.room.message/1", alice, `{"msgtype":"m.text","body":"x"}`).want(200, "").body["event_id"].(string)
		n.do(t, "POST", v3+"/rooms/"+room+"/report", bob, `{"reason":"spam"}`).want(200, "")
		n.do(t, "POST", v3+"/rooms/"+room+"/report", bob, `{}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", v3+"/users/@alice:x.org/report", bob, `{"reason":""}`).want(200, "")
		n.do(t, "POST", v3+"/users/@alice:x.org/report", bob, `{"reason":"`+strings.Repeat("x", 5000)+`"}`).want(400, "M_INVALID_PARAM")
		n.do(t, "POST", v3+"/rooms/"+room+"/report/"+url.PathEscape(e), bob, `{"reason":"x"}`).want(404, "M_NOT_FOUND")
		n.do(t, "POST", v3+"/rooms/"+room+"/report/"+url.PathEscape(e), alice, `{"reason":"x","score":-50}`).want(200, "")
		n.do(t, "POST", v3+"/rooms/"+room+"/report/$none", alice, `{}`).want(404, "M_NOT_FOUND")
		got, err := n.rooms.ListReports(t.Context(), 1<<62, 10)
		if err != nil || len(got) != 3 || got[0].Event != id.EventID(e) || *got[0].Score != -50 || got[1].User != "@alice:x.org" || got[2].Reason != "spam" {
			t.Errorf("kept: %+v, %v", got, err)
		}
	})
}

func TestModeration(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		admin, alice := n.user(t, "admin"), n.user(t, "alice")
		if err := n.users.UpdateUser(t.Context(), "@admin:x.org", func(u *storage.User) { u.Admin = true }); err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"lock", "suspend"} {
			field := what + "ed"
			path := v1 + "/admin/" + what + "/"
			n.do(t, "GET", path+"@alice:x.org", alice, "").want(403, "M_FORBIDDEN")
			n.do(t, "GET", path+"@nobody:x.org", alice, "").want(403, "M_FORBIDDEN")
			n.do(t, "GET", path+"@nobody:x.org", admin, "").want(404, "M_NOT_FOUND")
			n.do(t, "GET", path+"@a:y.org", admin, "").want(400, "M_INVALID_PARAM")
			n.do(t, "PUT", path+"@admin:x.org", admin, `{"`+field+`":true}`).want(403, "M_FORBIDDEN")
			n.do(t, "PUT", path+"@alice:x.org", admin, `{}`).want(400, "M_MISSING_PARAM")
			n.do(t, "PUT", path+"@alice:x.org", admin, `{"`+field+`":true}`).want(200, "")
			if got := n.do(t, "GET", path+"@alice:x.org", admin, "").want(200, "").body[field]; got != true {
				t.Errorf("%s is %v", field, got)
			}
			if what == "lock" {
				n.do(t, "GET", v3+"/account/whoami", alice, "").want(401, "M_USER_LOCKED")
			} else {
				n.do(t, "GET", v3+"/account/whoami", alice, "").want(200, "")
				n.do(t, "POST", v3+"/createRoom", alice, "{}").want(403, "M_USER_SUSPENDED")
			}
			n.do(t, "PUT", path+"@alice:x.org", admin, `{"`+field+`":false}`).want(200, "")
			n.do(t, "GET", v3+"/account/whoami", alice, "").want(200, "")
		}
		n.do(t, "GET", v3+"/admin/whois/@admin:x.org", alice, "").want(403, "M_FORBIDDEN")
		n.do(t, "GET", v3+"/admin/whois/@nobody:x.org", admin, "").want(404, "M_NOT_FOUND")
		for _, who := range []string{alice, admin} {
			if got, _ := n.do(t, "GET", v3+"/admin/whois/@alice:x.org", who, "").want(200, "").body["devices"].(map[string]any); len(got) != 1 {
				t.Errorf("whois: %v", got)
			}
		}
	})
}

func TestOldEndpoints(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		open := n.makeRoom(t, alice, `{"preset":"public_chat","initial_state":[{"type":"m.room.history_visibility","content":{"history_visibility":"world_readable"}}]}`)
		closed := n.makeRoom(t, alice, `{"preset":"private_chat"}`)
		e, _ := n.do(t, "PUT", v3+"/rooms/"+url.PathEscape(open)+"/send/m.room.message/1", alice, `{"msgtype":"m.text","body":"x"}`).want(200, "").body["event_id"].(string)
		look := n.do(t, "GET", v3+"/rooms/"+url.PathEscape(open)+"/initialSync", bob, "").want(200, "").body
		messages, _ := look["messages"].(map[string]any)
		if chunk := strs(messages["chunk"], "event_id"); len(chunk) == 0 || chunk[len(chunk)-1] != e {
			t.Errorf("a look into the room: %v", chunk)
		}
		n.do(t, "GET", v3+"/rooms/"+url.PathEscape(closed)+"/initialSync", bob, "").want(403, "M_FORBIDDEN")
		if got := n.do(t, "GET", v3+"/events/"+url.PathEscape(e), alice, "").want(200, "").body["room_id"]; got != open {
			t.Errorf("the event's room is %v", got)
		}
		n.do(t, "GET", v3+"/events/$none", alice, "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", v3+"/login/sso/redirect?redirectUrl=x", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", v3+"/login/sso/redirect/x", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", "/.well-known/matrix/policy_server", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", v3+"/thirdparty/protocols", alice, "").want(200, "")
		for _, path := range []string{"protocol/irc", "location/irc", "user/irc", "location?alias=%23a:x.org", "user?userid=@a:x.org"} {
			n.do(t, "GET", v3+"/thirdparty/"+path, alice, "").want(404, "M_NOT_FOUND")
		}
	})
}
