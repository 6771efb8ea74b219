package clientapi_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestErasure: what somebody wrote who had it erased is hidden from those who come later, and from nobody else.
func TestErasure(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		early, gone, late := n.user(t, "early"), n.user(t, "gone"), n.user(t, "late")
		room := n.makeRoom(t, bob, `{"preset":"public_chat"}`)
		in := v3 + "/rooms/" + url.PathEscape(room)
		do := func(token, what string) { t.Helper(); n.do(t, "POST", in+what, token, "{}").want(200, "") }
		count := 0
		say := func(token, body, relates string) string {
			t.Helper()
			count++
			return n.do(t, "PUT", fmt.Sprintf("%s/send/m.room.message/%d", in, count), token,
				`{"msgtype":"m.text","body":"`+body+`"`+relates+`}`).want(200, "").get("event_id")
		}
		thread := func(root string) string { return `,"m.relates_to":{"rel_type":"m.thread","event_id":"` + root + `"}` }
		do(alice, "/join")
		n.do(t, "PUT", in+"/state/m.room.member/@alice:x.org", alice, `{"membership":"join","displayname":"secret name"}`).want(200, "")
		secret := say(alice, "secret", "")
		root := say(bob, "open", "")
		reply := say(alice, "secret reply", thread(root))
		do(early, "/join")
		do(gone, "/join")
		do(gone, "/leave")
		n.do(t, "POST", v3+"/account/deactivate", alice, `{"erase":true,"auth":`+auth("alice")+`}`).want(200, "")
		do(late, "/join")
		do(gone, "/join")

		for _, c := range []struct {
			name, token string
			sees        bool
		}{
			{"who was there", bob, true}, {"who came before it was erased", early, true}, {"who was there in between", gone, true},
			{"who came later", late, false},
		} {
			for what, answer := range map[string]string{
				"messages":  n.do(t, "GET", in+"/messages?dir=b&limit=100", c.token, "").want(200, "").text,
				"event":     n.do(t, "GET", in+"/event/"+url.PathEscape(secret), c.token, "").want(200, "").text,
				"context":   n.do(t, "GET", in+"/context/"+url.PathEscape(root), c.token, "").want(200, "").text,
				"relations": n.do(t, "GET", strings.Replace(in, "v3", "v1", 1)+"/relations/"+url.PathEscape(root), c.token, "").want(200, "").text,
				"threads":   n.do(t, "GET", strings.Replace(in, "v3", "v1", 1)+"/threads", c.token, "").want(200, "").text,
			} {
				if strings.Contains(answer, "secret") != c.sees {
					t.Errorf("%s gets from %s %s", c.name, what, answer)
				}
				if want := map[string]string{"messages": secret, "event": secret, "context": secret, "relations": reply, "threads": root}[what]; !strings.Contains(answer, want) {
					t.Errorf("%s does not get %s from %s: %s", c.name, want, what, answer)
				}
			}
			found := n.search(t, c.token, "", `{"search_term":"secret","order_by":"recent"}`)
			if c.sees {
				found.check("secret reply", "secret")
			} else {
				found.check()
			}
		}
	})
}
