package clientapi_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"parley/clientapi"
	"parley/internal/id"
	"parley/storage"
	"parley/userserver"
)

func TestDiscovery(t *testing.T) {
	each(t, func(o *clientapi.Options, _ *userserver.Options) {
		o.WellKnown = clientapi.WellKnown{ClientBaseURL: "https://m.x.org", Contacts: []clientapi.Contact{{Role: "m.role.admin", MatrixID: "@a:x.org"}}}
		o.TURN = clientapi.TURN{URIs: []string{"turn:t.x.org"}, SharedSecret: "s", Lifetime: time.Hour}
		o.Now = func() time.Time { return time.Unix(1000, 0) }
	}, func(t *testing.T, n *node) {
		versions := n.do(t, "GET", "/_matrix/client/versions", "", "").want(200, "").body["versions"].([]any)
		if len(versions) != 19 || versions[0] != "v1.1" || versions[18] != "v1.19" {
			t.Errorf("versions %v", versions)
		}
		n.do(t, "GET", "/.well-known/matrix/client", "", "").json(`{"m.homeserver":{"base_url":"https://m.x.org"}}`)
		n.do(t, "GET", "/.well-known/matrix/support", "", "").json(`{"contacts":[{"role":"m.role.admin","matrix_id":"@a:x.org"}]}`)
		n.do(t, "GET", v3+"/capabilities", "", "").want(401, "M_MISSING_TOKEN")
		n.do(t, "GET", v3+"/capabilities", "nonsense", "").want(401, "M_UNKNOWN_TOKEN")
		token := n.user(t, "alice")
		c := n.do(t, "GET", v3+"/capabilities", token, "").want(200, "").body["capabilities"].(map[string]any)
		if c["m.room_versions"].(map[string]any)["default"] != "12" || c["m.change_password"].(map[string]any)["enabled"] != true ||
			c["m.3pid_changes"].(map[string]any)["enabled"] != false {
			t.Errorf("capabilities %v", c)
		}
		// The password is from: printf '4600:@alice:x.org' | openssl sha1 -hmac s -binary | base64
		n.do(t, "GET", v3+"/voip/turnServer", token, "").json(
			`{"username":"4600:@alice:x.org","password":"` + turnPassword + `","uris":["turn:t.x.org"],"ttl":3600}`)
	})
	each(t, nil, func(t *testing.T, n *node) {
		n.do(t, "GET", "/.well-known/matrix/client", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", "/.well-known/matrix/support", "", "").want(404, "M_NOT_FOUND")
		n.do(t, "GET", v3+"/voip/turnServer", n.user(t, "alice"), "").json(`{}`)
	})
}

func TestRegister(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		body := `{"username":"Alice","password":"password of alice","device_id":"D1","initial_device_display_name":"Phone"`
		a := n.do(t, "POST", v3+"/register", "", body+"}").want(401, "")
		if fmt.Sprint(a.body["flows"]) != "[map[stages:[m.login.dummy]]]" || a.body["completed"] != nil {
			t.Errorf("flows %s", a.text)
		}
		body += `,"auth":{"type":"m.login.dummy","session":"` + a.get("session") + `"}`
		a = n.do(t, "POST", v3+"/register", "", body+"}").want(200, "")
		if a.get("user_id") != "@alice:x.org" || a.get("device_id") != "D1" || a.body["refresh_token"] != nil {
			t.Errorf("registered %s", a.text)
		}
		n.do(t, "GET", v3+"/account/whoami", a.get("access_token"), "").json(`{"user_id":"@alice:x.org","device_id":"D1","is_guest":false}`)
		dummy := `,"auth":{"type":"m.login.dummy"}}`
		a = n.do(t, "POST", v3+"/register", "", `{"password":"password","refresh_token":true`+dummy).want(200, "")
		if a.get("user_id") == "" || a.get("refresh_token") == "" || a.body["expires_in_ms"].(float64) <= 0 {
			t.Errorf("registered %s", a.text)
		}
		a = n.do(t, "POST", v3+"/register", "", `{"username":"bob","password":"password","inhibit_login":true`+dummy)
		a.json(`{"user_id":"@bob:x.org"}`)
		for _, test := range []struct {
			query, body string
			status      int
			code        string
		}{
			{"", `{"username":"alice"}`, 400, "M_USER_IN_USE"}, // even before the stages
			{"", `{"username":"a b"}`, 400, "M_INVALID_USERNAME"},
			{"", `{"username":"carol","password":"short"}`, 400, "M_WEAK_PASSWORD"},
			{"", `{"username":"carol"` + dummy, 400, "M_MISSING_PARAM"},
			{"", `{"username":"carol","password":"password","auth":{"type":"m.login.password"}}`, 401, "M_UNRECOGNIZED"},
			{"", `{"username":"carol","password":"password","auth":7}`, 400, "M_BAD_JSON"},
			{"", `{"username":7}`, 400, "M_BAD_JSON"},
			{"", `[]`, 400, "M_BAD_JSON"},
			{"", `{`, 400, "M_NOT_JSON"},
			{"?kind=other", `{}`, 400, "M_INVALID_PARAM"},
			{"", `{"type":"m.login.application_service","username":"carol"}`, 401, "M_MISSING_TOKEN"},
		} {
			n.do(t, "POST", v3+"/register"+test.query, "", test.body).want(test.status, test.code)
		}
		n.do(t, "GET", v3+"/register/available?username=carol", "", "").json(`{"available":true}`)
		n.do(t, "GET", v3+"/register/available?username=alice", "", "").want(400, "M_USER_IN_USE")
		n.do(t, "GET", v3+"/register/available?username=a%20b", "", "").want(400, "M_INVALID_USERNAME")
		n.do(t, "GET", v3+"/register/available", "", "").want(400, "M_MISSING_PARAM")
		n.do(t, "GET", v1+"/register/m.login.registration_token/validity?token=x", "", "").want(403, "M_FORBIDDEN")

		guest := n.do(t, "POST", v3+"/register?kind=guest", "", `{"device_id":"D1"}`).want(200, "")
		if guest.get("device_id") == "D1" {
			t.Error("a guest chose the device's ID")
		}
		token := guest.get("access_token")
		n.do(t, "GET", v3+"/devices", token, "").want(200, "")
		n.do(t, "GET", v3+"/pushers", token, "").want(403, "M_GUEST_ACCESS_FORBIDDEN")
		n.do(t, "POST", v3+"/account/password", token, "{}").want(403, "M_GUEST_ACCESS_FORBIDDEN")
	})
}

// TestGuestUpgrade makes a guest's account a full one, with all that it has.
func TestGuestUpgrade(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		guest := n.do(t, "POST", v3+"/register?kind=guest", "", `{}`).want(200, "")
		token, user := guest.get("access_token"), guest.get("user_id")
		name := id.UserID(user).Localpart()
		other := n.do(t, "POST", v3+"/register?kind=guest", "", `{}`).want(200, "")
		full := n.do(t, "POST", v3+"/register", "", `{"username":"alice","password":"password","auth":{"type":"m.login.dummy"}}`).want(200, "")
		n.do(t, "PUT", v3+"/profile/"+user+"/displayname", token, `{"displayname":"Guest"}`).want(200, "")
		register := func(name, token string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"`+name+`","guest_access_token":"`+token+`","password":"password","auth":{"type":"m.login.dummy"}}`)
		}
		register("", token).want(400, "M_MISSING_PARAM")
		for _, bad := range [][2]string{{name, "made up"}, {name, other.get("access_token")}, {"bob", token}, {"alice", full.get("access_token")}} {
			register(bad[0], bad[1]).want(403, "M_FORBIDDEN")
		}
		n.do(t, "POST", v3+"/register", "", `{"username":"`+name+`","password":"password","auth":{"type":"m.login.dummy"}}`).want(400, "M_USER_IN_USE")
		now := register(name, token).want(200, "")
		if now.get("user_id") != user {
			t.Errorf("the guest has become %s", now.text)
		}
		for _, token := range []string{token, now.get("access_token")} {
			a := n.do(t, "GET", v3+"/account/whoami", token, "").want(200, "")
			if a.get("user_id") != user || a.body["is_guest"] != false {
				t.Errorf("afterwards: %s", a.text)
			}
			n.do(t, "GET", v3+"/pushers", token, "").want(200, "")
		}
		n.do(t, "GET", v3+"/profile/"+user+"/displayname", "", "").json(`{"displayname":"Guest"}`)
		n.do(t, "POST", v3+"/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"`+name+`"},"password":"password"}`).want(200, "")
		register(name, token).want(403, "M_FORBIDDEN")
	})
}

func TestRegisterByToken(t *testing.T) {
	each(t, func(o *clientapi.Options, u *userserver.Options) {
		u.RegistrationToken = "fixed"
		o.Registration = clientapi.Registration{Token: true, Terms: []clientapi.Terms{{Name: "terms", Version: "1", Title: "Rules", URL: "https://x.org/rules"}}}
	}, func(t *testing.T, n *node) {
		if err := n.users.AddRegistrationToken(context.Background(), storage.RegistrationToken{Token: "once", UsesAllowed: 1}); err != nil {
			t.Fatal(err)
		}
		for token, valid := range map[string]string{"fixed": "true", "once": "true", "other": "false"} {
			n.do(t, "GET", v1+"/register/m.login.registration_token/validity?token="+token, "", "").json(`{"valid":` + valid + `}`)
		}
		register := func(name, auth string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"`+name+`","password":"password","auth":`+auth+`}`)
		}
		for _, test := range []struct {
			name, token string
			status      int
		}{{"a", "once", 200}, {"b", "once", 401}, {"c", "fixed", 200}, {"d", "fixed", 200}} {
			a := register(test.name, "null").want(401, "")
			if fmt.Sprint(a.body["flows"]) != "[map[stages:[m.login.registration_token m.login.terms]]]" ||
				fmt.Sprint(a.body["params"]) != "map[m.login.terms:map[policies:map[terms:map[en:map[name:Rules url:https://x.org/rules] version:1]]]]" {
				t.Errorf("challenge %s", a.text)
			}
			session := `","session":"` + a.get("session") + `"}`
			a = register(test.name, `{"type":"m.login.registration_token","token":"`+test.token+session)
			if test.status != 200 {
				a.want(401, "M_UNAUTHORIZED")
				continue
			}
			if a.want(401, ""); fmt.Sprint(a.body["completed"]) != "[m.login.registration_token]" {
				t.Errorf("challenge %s", a.text)
			}
			register(test.name, `{"type":"m.login.terms`+session).want(200, "")
		}
		n.do(t, "POST", v3+"/register?kind=guest", "", `{}`).want(403, "M_GUEST_ACCESS_FORBIDDEN")
	})
	each(t, func(o *clientapi.Options, _ *userserver.Options) { o.Registration = clientapi.Registration{} }, func(t *testing.T, n *node) {
		n.do(t, "POST", v3+"/register", "", `{}`).want(403, "M_FORBIDDEN")
	})
}

func TestSharedSecretRegister(t *testing.T) {
	const path = "/_synapse/admin/v1/register"
	now := time.Unix(1_700_000_000, 0)
	each(t, func(o *clientapi.Options, _ *userserver.Options) {
		o.Registration = clientapi.Registration{SharedSecret: "sesame"}
		o.Now = func() time.Time { return now }
	}, func(t *testing.T, n *node) {
		request := func(secret, nonce, name, role string) string {
			mac := hmac.New(sha1.New, []byte(secret))
			fmt.Fprintf(mac, "%s\x00%s\x00password\x00%s", nonce, name, role)
			return fmt.Sprintf(`{"nonce":%q,"username":%q,"password":"password","displayname":"Name","admin":%v,"mac":%q}`,
				nonce, name, role == "admin", hex.EncodeToString(mac.Sum(nil)))
		}
		nonce := n.do(t, "GET", path, "", "").want(200, "").get("nonce")
		a := n.do(t, "POST", path, "", request("sesame", nonce, "root", "admin")).want(200, "")
		if a.get("user_id") != "@root:x.org" || a.get("home_server") != "x.org" || a.get("device_id") == "" {
			t.Errorf("registered %s", a.text)
		}
		n.do(t, "GET", v3+"/profile/@root:x.org/displayname", "", "").json(`{"displayname":"Name"}`)
		u, err := n.users.GetUser(context.Background(), "@root:x.org")
		if err != nil || !u.Admin {
			t.Errorf("user %+v, %v", u, err)
		}
		n.do(t, "POST", path, "", request("sesame", nonce, "plain", "notadmin")).want(200, "")
		if u, err := n.users.GetUser(context.Background(), "@plain:x.org"); err != nil || u.Admin {
			t.Errorf("user %+v, %v", u, err)
		}
		n.do(t, "POST", path, "", request("sesame", nonce, "root", "admin")).want(400, "M_USER_IN_USE")
		n.do(t, "POST", path, "", request("guess", nonce, "eve", "admin")).want(403, "M_FORBIDDEN")
		n.do(t, "POST", path, "", request("sesame", "made up", "eve", "admin")).want(400, "M_UNKNOWN")
		n.do(t, "POST", path, "", strings.Replace(request("sesame", nonce, "eve", "notadmin"), "false", "true", 1)).want(403, "M_FORBIDDEN")
		n.do(t, "POST", path, "", `{"nonce":"a"}`).want(400, "M_MISSING_PARAM")
		now = now.Add(time.Hour)
		n.do(t, "POST", path, "", request("sesame", nonce, "eve", "admin")).want(400, "M_UNKNOWN")
		now = now.Add(-time.Hour)
	})
	each(t, nil, func(t *testing.T, n *node) {
		n.do(t, "GET", path, "", "").want(400, "M_UNKNOWN")
		n.do(t, "POST", path, "", `{}`).want(400, "M_UNKNOWN")
	})
}

func TestLogin(t *testing.T) {
	each(t, func(o *clientapi.Options, _ *userserver.Options) { o.WellKnown.ClientBaseURL = "https://m.x.org" }, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		n.do(t, "GET", v3+"/login", "", "").json(`{"flows":[{"type":"m.login.password"},{"type":"m.login.token","get_login_token":true},{"type":"m.login.application_service"}]}`)
		for _, test := range []struct {
			body   string
			status int
			code   string
		}{
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"password of alice"`, 200, ""},
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"@alice:x.org"},"password":"password of alice"`, 200, ""},
			{`"type":"m.login.password","user":"alice","password":"password of alice"`, 200, ""},
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"wrong"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"bob"},"password":"wrong"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"@alice:y.org"},"password":"password of alice"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.password","identifier":{"type":"m.id.thirdparty","medium":"email","address":"a@b"},"password":"x"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.password","medium":"email","address":"a@b","password":"x"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.password","identifier":{"type":"m.id.other"},"password":"x"`, 400, "M_UNKNOWN"},
			{`"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"}`, 400, "M_MISSING_PARAM"},
			{`"type":"m.login.password","password":"x"`, 400, "M_MISSING_PARAM"},
			{`"type":"m.login.password","identifier":"alice"`, 400, "M_BAD_JSON"},
			{`"type":"m.login.magic"`, 400, "M_UNKNOWN"},
			{`"user":"alice"`, 400, "M_MISSING_PARAM"},
			{`"type":"m.login.application_service","identifier":{"type":"m.id.user","user":"alice"}`, 401, "M_MISSING_TOKEN"},
			{`"type":"m.login.token","token":"none"`, 403, "M_FORBIDDEN"},
			{`"type":"m.login.token"`, 400, "M_MISSING_PARAM"},
		} {
			a := n.do(t, "POST", v3+"/login", "", "{"+test.body+"}").want(test.status, test.code)
			if test.status == 200 && (a.get("user_id") != "@alice:x.org" || a.get("access_token") == "" ||
				fmt.Sprint(a.body["well_known"]) != "map[m.homeserver:map[base_url:https://m.x.org]]") {
				t.Errorf("%s: %s", test.body, a.text)
			}
		}

		n.do(t, "POST", v1+"/login/get_token", token, `{}`).want(401, "")
		a := n.do(t, "POST", v1+"/login/get_token", token, `{"auth":`+auth("alice")+`}`).want(200, "")
		if a.body["expires_in_ms"] != 120000.0 {
			t.Errorf("login token %s", a.text)
		}
		login := `{"type":"m.login.token","token":"` + a.get("login_token") + `","device_id":"NEW","refresh_token":true}`
		a = n.do(t, "POST", v3+"/login", "", login).want(200, "")
		if a.get("device_id") != "NEW" {
			t.Errorf("login %s", a.text)
		}
		n.do(t, "POST", v3+"/login", "", login).want(403, "M_FORBIDDEN")

		b := n.do(t, "POST", v3+"/refresh", "", `{"refresh_token":"`+a.get("refresh_token")+`"}`).want(200, "")
		n.do(t, "GET", v3+"/account/whoami", b.get("access_token"), "").want(200, "")
		n.do(t, "GET", v3+"/account/whoami", a.get("access_token"), "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", v3+"/refresh", "", `{"refresh_token":"`+a.get("refresh_token")+`"}`).want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", v3+"/refresh", "", `{}`).want(400, "M_MISSING_PARAM")

		n.do(t, "POST", v3+"/logout", b.get("access_token"), "").json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", b.get("access_token"), "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "GET", v3+"/devices/NEW", token, "").want(404, "M_NOT_FOUND")
		n.do(t, "POST", v3+"/logout/all", token, "{}").json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", token, "").want(401, "M_UNKNOWN_TOKEN")
	})
}

func TestLockedAndSuspended(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		set := func(fn func(*storage.User)) {
			if err := n.users.UpdateUser(context.Background(), "@alice:x.org", fn); err != nil {
				t.Fatal(err)
			}
		}
		set(func(u *storage.User) { u.Suspended = true })
		n.do(t, "PUT", v3+"/profile/@alice:x.org/displayname", token, `{"displayname":"A"}`).want(403, "M_USER_SUSPENDED")
		n.do(t, "GET", v3+"/devices", token, "").want(200, "")
		set(func(u *storage.User) { u.Locked = true })
		a := n.do(t, "GET", v3+"/devices", token, "").want(401, "M_USER_LOCKED")
		if a.body["soft_logout"] != true {
			t.Errorf("locked: %s", a.text)
		}
		n.do(t, "POST", v3+"/login", "", auth("alice")).want(401, "M_USER_LOCKED")
		n.do(t, "POST", v3+"/logout", token, "").want(200, "")
	})
}

func TestPasswordAndDeactivation(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token, other := n.user(t, "alice"), n.user(t, "bob")
		login := func(password string) string {
			return `{"type":"m.login.password","user":"alice","password":"` + password + `"}`
		}
		second := n.do(t, "POST", v3+"/login", "", login("password of alice")).want(200, "").get("access_token")
		const path = v3 + "/account/password"
		n.do(t, "POST", path, token, `{"new_password":"another one"}`).want(401, "")
		n.do(t, "POST", path, token, `{"new_password":"short"}`).want(400, "M_WEAK_PASSWORD")
		n.do(t, "POST", path, token, `{"auth":`+auth("alice")+`}`).want(400, "M_MISSING_PARAM")
		n.do(t, "POST", path, other, `{"new_password":"another one","auth":`+auth("alice")+`}`).want(403, "M_FORBIDDEN")
		n.do(t, "POST", path, "nonsense", `{"new_password":"another one","auth":`+auth("alice")+`}`).want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", path, token, `{"new_password":"another one","logout_devices":false,"auth":`+auth("alice")+`}`).json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", second, "").want(200, "")
		n.do(t, "POST", v3+"/login", "", login("password of alice")).want(403, "M_FORBIDDEN")
		again := strings.Replace(auth("alice"), "password of alice", "another one", 1)
		n.do(t, "POST", path, token, `{"new_password":"password of alice","auth":`+again+`}`).json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", second, "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "GET", v3+"/account/whoami", token, "").want(200, "")
		// Who knows the password need not be logged in.
		n.do(t, "POST", path, "", `{"new_password":"password of alice","auth":`+auth("alice")+`}`).json(`{}`)
		n.do(t, "GET", v3+"/account/whoami", token, "").want(401, "M_UNKNOWN_TOKEN")

		token = n.do(t, "POST", v3+"/login", "", login("password of alice")).want(200, "").get("access_token")
		room := n.room(t, "@alice:x.org")
		n.do(t, "POST", v3+"/account/deactivate", token, `{}`).want(401, "")
		n.do(t, "POST", v3+"/account/deactivate", token, `{"erase":true,"auth":`+auth("alice")+`}`).json(`{"id_server_unbind_result":"success"}`)
		n.do(t, "GET", v3+"/account/whoami", token, "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", v3+"/login", "", login("password of alice")).want(403, "M_USER_DEACTIVATED")
		n.do(t, "GET", v3+"/register/available?username=alice", "", "").want(400, "M_USER_IN_USE")
		if m, err := n.rooms.Membership(context.Background(), "@alice:x.org", room); err != nil || m != "leave" {
			t.Errorf("a deactivated user is still in the room: %s, %v", m, err)
		}
	})
}

func TestThreePIDAndOpenID(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		n.do(t, "GET", v3+"/account/3pid", token, "").json(`{"threepids":[]}`)
		a := n.do(t, "POST", v3+"/user/@alice:x.org/openid/request_token", token, "{}").want(200, "")
		if a.get("token_type") != "Bearer" || a.get("matrix_server_name") != "x.org" || a.body["expires_in"] != 3600.0 {
			t.Errorf("openid %s", a.text)
		}
		if user, err := n.users.CheckOpenIDToken(context.Background(), a.get("access_token")); err != nil || user != "@alice:x.org" {
			t.Errorf("the token is for %q, %v", user, err)
		}
		// It is no access token.
		n.do(t, "GET", v3+"/account/whoami", a.get("access_token"), "").want(401, "M_UNKNOWN_TOKEN")
		n.do(t, "POST", v3+"/user/@bob:x.org/openid/request_token", token, "{}").want(403, "M_FORBIDDEN")
	})
}

const turnPassword = "jlzn2DwspRIXi3CAiMjqt5X0JYo="
