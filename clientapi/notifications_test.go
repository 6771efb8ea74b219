package clientapi_test

import (
	"testing"

	"parley/internal/id"
)

func TestNotifications(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice, bob := n.user(t, "alice"), n.user(t, "bob")
		room := string(n.room(t, id.UserID("@alice:x.org")))
		n.do(t, "POST", v3+"/join/"+room, bob, `{}`).want(200, "")
		const path = v3 + "/notifications"
		n.do(t, "GET", path, "", "").want(401, "M_MISSING_TOKEN")
		n.do(t, "GET", path, bob, "").json(`{"notifications":[]}`)
		send := func(txn, body string) {
			n.do(t, "PUT", v3+"/rooms/"+room+"/send/m.room.message/"+txn, alice, body).want(200, "")
		}
		send("1", `{"msgtype":"m.text","body":"one"}`)
		send("2", `{"msgtype":"m.text","body":"two","m.mentions":{"user_ids":["@bob:x.org"]}}`)
		n.do(t, "GET", path, alice, "").json(`{"notifications":[]}`)

		list := func(query string) (bodies []string, next string) {
			a := n.do(t, "GET", path+query, bob, "").want(200, "")
			for _, x := range a.body["notifications"].([]any) {
				x := x.(map[string]any)
				event := x["event"].(map[string]any)
				bodies = append(bodies, event["content"].(map[string]any)["body"].(string))
				if x["room_id"] != room || x["read"] != false || x["actions"].([]any)[0] != "notify" || x["ts"].(float64) == 0 {
					t.Errorf("the notification is %v", x)
				}
			}
			next, _ = a.body["next_token"].(string)
			return bodies, next
		}
		want := func(query, first string, number int) string {
			t.Helper()
			bodies, next := list(query)
			if len(bodies) != number || bodies[0] != first {
				t.Errorf("%s gives %q", query, bodies)
			}
			return next
		}
		if next := want("", "two", 2); next != "" {
			t.Errorf("there is more behind %s", next)
		}
		want("?only=highlight", "two", 1)
		want("?limit=1&from="+want("?limit=1", "two", 1), "one", 1)
		n.do(t, "GET", path+"?from=nonsense", bob, "").want(400, "M_INVALID_PARAM")
		n.do(t, "GET", path+"?limit=-1", bob, "").want(400, "M_INVALID_PARAM")
	})
}
