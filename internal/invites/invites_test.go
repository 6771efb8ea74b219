package invites

import (
	"testing"

	"parley/internal/id"
)

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name, permission, filter string
		sender                   id.UserID
		want                     Decision
	}{
		{"nothing is set", "", "", "@a:x", Allow},
		{"all are blocked", `{"default_action":"block"}`, "", "@a:x", Block},
		{"all are blocked, whoever is allowed", `{"default_action":"block"}`, `{"allowed_users":["@a:x"]}`, "@a:x", Block},
		{"another action", `{"default_action":"BLOCK"}`, "", "@a:x", Allow},
		{"an action that is none", `{"default_action":1}`, "", "@a:x", Allow},
		{"no object", `[]`, `"x"`, "@a:x", Allow},
		{"no lists", "", `{"blocked_users":null,"ignored_servers":{},"blocked_servers":["x",1]}`, "@a:y", Allow},
		{"a list with more than names", "", `{"blocked_servers":[1,null,"x"]}`, "@a:x", Block},
		{"a user", "", `{"blocked_users":["@a:x"]}`, "@a:x", Block},
		{"another user", "", `{"blocked_users":["@a:x"]}`, "@b:x", Allow},
		{"an ignored user", "", `{"ignored_users":["@?:x"]}`, "@a:x", Ignore},
		{"a server", "", `{"ignored_servers":["*.x"]}`, "@a:b.x", Ignore},
		{"a user of a server", "", `{"allowed_users":["@a:x"],"blocked_servers":["*"]}`, "@a:x", Allow},
		{"a user from a server", "", `{"blocked_users":["@a:x"],"allowed_servers":["x"]}`, "@a:x", Block},
		{"ignored before blocked", "", `{"blocked_users":["@a:x"],"ignored_users":["@a:x"]}`, "@a:x", Ignore},
		{"turned off", "", `{"enabled":false,"blocked_users":["*"]}`, "@a:x", Allow},
	} {
		if got := Parse([]byte(c.permission), []byte(c.filter)).Decide(c.sender); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default_action":"block"}`), []byte(`{"blocked_users":["*"]}`), "@a:x")
	f.Fuzz(func(t *testing.T, permission, filter []byte, sender string) {
		got := Parse(permission, filter).Decide(id.UserID(sender))
		if got > Block || got == Ignore && len(filter) == 0 {
			t.Errorf("%d", got)
		}
	})
}
