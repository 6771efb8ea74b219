package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/internal/id"
)

const good = `id: irc
url: http://127.0.0.1:9999/
as_token: from the service
hs_token: from us
sender_localpart: ircbot
namespaces:
  users: [{exclusive: true, regex: "@_irc_.*:x\\.org"}, {exclusive: false, regex: "@al"}]
  aliases: [{exclusive: true, regex: "#_irc_"}]
  rooms: [{exclusive: false, regex: "!of_irc"}]
protocols: [irc]
push_what_is_not_known: [1, 2]
`

func TestRegistration(t *testing.T) {
	s, err := parse([]byte(good), "x.org")
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != "irc" || s.url != "http://127.0.0.1:9999" || s.Sender != "@ircbot:x.org" || !s.RateLimited || s.hearsEphemeral() || s.devices {
		t.Errorf("%+v", s)
	}
	all := &Services{list: []*Service{s}}
	for _, user := range []struct {
		name          string
		has, reserved bool
	}{
		{"@_irc_a:x.org", true, true}, {"@_irc_a:y.org", false, false}, {"@ircbot:x.org", true, true}, {"@ircbot:y.org", false, false},
		{"@alice:x.org", true, false}, {"@alice:y.org", false, false}, {"@bob:x.org", false, false}, {"@not_irc_a:x.org", false, false},
	} {
		if has, reserved := all.HasUser("irc", id.UserID(user.name)), all.ReservesUser(id.UserID(user.name), ""); has != user.has || reserved != user.reserved {
			t.Errorf("%s: has %t, reserved %t", user.name, has, reserved)
		}
	}
	if all.ReservesUser("@_irc_a:x.org", "irc") || all.HasUser("other", "@_irc_a:x.org") {
		t.Error("services are mixed up")
	}
	if !all.HasAlias("irc", "#_irc_a:x.org") || all.HasAlias("irc", "#a:x.org") || !all.ReservesAlias("#_irc_a:x.org", "") || all.ReservesAlias("#a:x.org", "") {
		t.Error("aliases are mixed up")
	}
}

func TestBadRegistration(t *testing.T) {
	for _, bad := range []struct{ replace, by, want string }{
		{"id: irc", "", "id is missing"},
		{"as_token: from the service", "as_token: ''", "as_token is missing"},
		{"hs_token: from us", "", "hs_token is missing"},
		{"hs_token: from us", "hs_token: from the service", "must not be the same"},
		{"hs_token: from us", `hs_token: "a\nb"`, "no single line"},
		{"ircbot", "", "sender_localpart is missing"},
		{"ircbot", "irc bot", "can't be the name of a user"},
		{"http://127.0.0.1:9999/", "127.0.0.1:9999", "is not a URL"},
		{"http://127.0.0.1:9999/", "ftp://127.0.0.1", "is not a URL"},
		{`"@_irc_.*:x\\.org"`, `"@_irc_("`, "namespaces.users[0].regex"},
		{`"@_irc_.*:x\\.org"`, `"(?!a).*"`, "namespaces.users[0].regex"},
		{`"@_irc_.*:x\\.org"`, `""`, "namespaces.users[0].regex is empty"},
		{`"@_irc_.*:x\\.org"`, `"(a{1000}){1000}"`, "namespaces.users[0].regex"},
		{"protocols: [irc]", "protocols: {", ""},
		{"users: [", "users: 7 #", ""},
	} {
		text := strings.Replace(good, bad.replace, bad.by, 1)
		if _, err := parse([]byte(text), "x.org"); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q for %q: %v", bad.by, bad.replace, err)
		}
	}
}

func TestLoad(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "r.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	other := strings.NewReplacer("id: irc", "id: other", "from the service", "x", "ircbot", "otherbot")
	if list, err := Load([]string{file(good), file(other.Replace(good))}, "x.org"); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	for _, same := range []struct{ was, want string }{{"id: irc", "its id"}, {"from the service", "its as_token"}, {"ircbot", "its sender_localpart"}} {
		text := other.Replace(strings.Replace(good, same.was, "SAME", 1))
		if _, err := Load([]string{file(good), file(strings.Replace(text, "SAME", same.was, 1))}, "x.org"); err == nil || !strings.Contains(err.Error(), same.want) {
			t.Errorf("two have the same %s: %v", same.was, err)
		}
	}
	for _, name := range []string{"/nowhere/r.yaml", file(strings.Repeat("#", maxFile+1))} {
		if _, err := Load([]string{name}, "x.org"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v", err)
		}
	}
}
