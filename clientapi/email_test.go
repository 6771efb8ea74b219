package clientapi_test

import (
	"fmt"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"parley/clientapi"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/mail/mailtest"
	"parley/userserver"
)

// withMail sets a node up with a post office.
func withMail(t *testing.T) (*mailtest.Office, func(*clientapi.Options, *userserver.Options)) {
	office := mailtest.Open(t)
	mailer, err := mail.New(mail.Options{Host: "127.0.0.1", Port: office.Port, Encryption: mail.None,
		From: "x.org <noreply@x.org>", ServerName: "x.org"})
	if err != nil {
		t.Fatal(err)
	}
	return office, func(o *clientapi.Options, u *userserver.Options) {
		u.Mailer, u.PublicURL = mailer, "https://public.example/"
		o.Registration.Email = true
	}
}

// link is the link in a mail, which must be the same in both its parts.
func link(t *testing.T, text string) *url.URL {
	t.Helper()
	msg, err := netmail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("a mail of type %q", kind)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	var found []string
	for _, want := range []string{"text/plain", "text/html"} {
		part, err := parts.NextRawPart()
		if err != nil || !strings.HasPrefix(part.Header.Get("Content-Type"), want) {
			t.Fatalf("a part of type %q, want %q: %v", part.Header.Get("Content-Type"), want, err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, html.UnescapeString(regexp.MustCompile(`https://public\.example/[^\s"<]+`).FindString(string(body))))
	}
	if found[0] == "" || found[0] != found[1] {
		t.Errorf("links %q", found)
	}
	u, err := url.Parse(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// follow opens a mail's link as a person does, and presses the button.
func (n *node) follow(t *testing.T, u *url.URL) (status int, location string) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, method := range []string{"GET", "POST"} {
		req, err := http.NewRequest(method, n.http.URL+u.RequestURI(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if method == "GET" && (resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")) {
			t.Errorf("the page of a link: %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		status, location = resp.StatusCode, resp.Header.Get("Location")
	}
	return status, location
}

func TestEmailOnRegistration(t *testing.T) {
	office, change := withMail(t)
	each(t, change, func(t *testing.T, n *node) {
		ask := func(body string) *answer {
			return n.do(t, "POST", v3+"/register/email/requestToken", "", body)
		}
		ask(`{"client_secret":"s","email":"x@y.org"}`).want(400, "M_MISSING_PARAM")
		ask(`{"client_secret":"s/","email":"x@y.org","send_attempt":1}`).want(400, "M_INVALID_PARAM")
		ask(`{"client_secret":"s","email":"X <x@y.org>","send_attempt":1}`).want(400, "M_INVALID_PARAM")
		ask(`{"client_secret":"s","email":"x@y.org\r\nBcc: z@y.org","send_attempt":1}`).want(400, "M_INVALID_PARAM")
		ask(`{"client_secret":"s","email":"x@y.org","send_attempt":1,"next_link":"javascript:alert(1)"}`).want(400, "M_INVALID_PARAM")
		ask(`{"client_secret":"s","email":"refused@y.org","send_attempt":1}`).want(500, "M_UNKNOWN")
		sid := ask(`{"client_secret":"s","email":"Alice@y.org","send_attempt":1,"next_link":"https://app.example/done"}`).want(200, "").get("sid")
		if again := ask(`{"client_secret":"s","email":"alice@y.org","send_attempt":1}`).want(200, "").get("sid"); again != sid {
			t.Errorf("the same attempt has the session %s, want %s", again, sid)
		}
		mails := office.Take("Alice@y.org")
		if len(mails) != 1 || len(office.Take("alice@y.org")) != 0 {
			t.Fatalf("%d mails", len(mails))
		}
		register := func(session string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"alice","password":"password of alice","auth":{"type":"m.login.email.identity",
				"threepid_creds":{"sid":"`+sid+`","client_secret":"s"},"session":"`+session+`"}}`)
		}
		session := n.do(t, "POST", v3+"/register", "", `{"username":"alice","password":"password of alice"}`).want(401, "").get("session")
		register(session).want(401, "M_THREEPID_AUTH_FAILED")
		u := link(t, mails[0])
		wrong := *u
		wrong.RawQuery = strings.Replace(u.RawQuery, "token=", "token=A", 1)
		if status, _ := n.follow(t, &wrong); status != 403 {
			t.Errorf("a wrong link: %d", status)
		}
		register(session).want(401, "M_THREEPID_AUTH_FAILED")
		if status, to := n.follow(t, u); status != 303 || to != "https://app.example/done" {
			t.Errorf("the link leads to %d %q", status, to)
		}
		token := register(session).want(200, "").get("access_token")
		got := n.do(t, "GET", v3+"/account/3pid", token, "").want(200, "").body["threepids"]
		if fmt.Sprint(strs(got, "address")) != "[alice@y.org]" {
			t.Errorf("addresses: %v", got)
		}
		ask(`{"client_secret":"t","email":"ALICE@y.org","send_attempt":1}`).want(400, "M_THREEPID_IN_USE")
		n.do(t, "POST", v3+"/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.thirdparty","medium":"email","address":"alice@Y.org"},
			"password":"password of alice"}`).want(200, "")
		n.do(t, "POST", v3+"/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.thirdparty","medium":"email","address":"bob@y.org"},
			"password":"password of alice"}`).want(403, "M_FORBIDDEN")
	})
}

func TestAddressesOfAnAccount(t *testing.T) {
	office, change := withMail(t)
	each(t, change, func(t *testing.T, n *node) {
		alice := n.user(t, "alice")
		if c, _ := n.do(t, "GET", v3+"/capabilities", alice, "").body["capabilities"].(map[string]any); fmt.Sprint(c["m.3pid_changes"]) != "map[enabled:true]" {
			t.Errorf("capabilities: %v", c)
		}
		sid := n.do(t, "POST", v3+"/account/3pid/email/requestToken", alice, `{"client_secret":"s","email":"a@y.org","send_attempt":1}`).want(200, "").get("sid")
		add := func(auth string) *answer {
			return n.do(t, "POST", v3+"/account/3pid/add", alice, `{"sid":"`+sid+`","client_secret":"s","auth":`+auth+`}`)
		}
		add("null").want(401, "")
		add(auth("alice")).want(403, "M_THREEPID_AUTH_FAILED")
		n.follow(t, link(t, office.Take("a@y.org")[0]))
		add(auth("alice")).want(200, "")
		add(auth("alice")).want(403, "M_THREEPID_AUTH_FAILED") // it is used up
		n.do(t, "POST", v3+"/account/3pid/bind", alice, `{"sid":"x","client_secret":"s","id_server":"id.org","id_access_token":"t"}`).want(400, "M_SERVER_NOT_TRUSTED")
		n.do(t, "POST", v3+"/account/3pid/unbind", alice, `{"medium":"email","address":"a@y.org"}`).json(`{"id_server_unbind_result":"success"}`)

		// A new password, by one who has lost the old one.
		reset := func(body string) *answer { return n.do(t, "POST", v3+"/account/password", "", body) }
		ask := func(secret, address string) *answer {
			return n.do(t, "POST", v3+"/account/password/email/requestToken", "", `{"client_secret":"`+secret+`","email":"`+address+`","send_attempt":1}`)
		}
		ask("r", "nobody@y.org").want(400, "M_THREEPID_NOT_FOUND")
		challenge := reset(`{"new_password":"another password"}`).want(401, "")
		if got := fmt.Sprint(challenge.body["flows"]); got != "[map[stages:[m.login.password]] map[stages:[m.login.email.identity]]]" {
			t.Errorf("flows: %s", got)
		}
		sid2 := ask("r", "a@y.org").want(200, "").get("sid")
		by := func() *answer {
			return reset(`{"new_password":"another password","auth":{"type":"m.login.email.identity","session":"` + challenge.get("session") + `",
				"threepid_creds":{"sid":"` + sid2 + `","client_secret":"r"}}}`)
		}
		by().want(401, "M_THREEPID_AUTH_FAILED")
		n.follow(t, link(t, office.Take("a@y.org")[0]))
		by().want(200, "")
		n.do(t, "POST", v3+"/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"another password"}`).want(200, "")
		n.do(t, "GET", v3+"/account/whoami", alice, "").want(401, "M_UNKNOWN_TOKEN")

		s, err := n.users.Login(t.Context(), id.UserID("@alice:x.org"), userserver.NewSession{})
		if err != nil {
			t.Fatal(err)
		}
		n.do(t, "POST", v3+"/account/3pid/delete", s.AccessToken, `{"medium":"email","address":"A@y.org"}`).json(`{"id_server_unbind_result":"success"}`)
		n.do(t, "GET", v3+"/account/3pid", s.AccessToken, "").json(`{"threepids":[]}`)
		ask("r2", "a@y.org").want(400, "M_THREEPID_NOT_FOUND")
	})
}

func TestNoMail(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		alice := n.user(t, "alice")
		for _, path := range []string{"/register", "/account/password", "/account/3pid"} {
			n.do(t, "POST", v3+path+"/email/requestToken", "", `{"client_secret":"s","email":"a@y.org","send_attempt":1}`).want(403, "M_THREEPID_DENIED")
			n.do(t, "POST", v3+path+"/msisdn/requestToken", "", `{"client_secret":"s","country":"GB","phone_number":"1","send_attempt":1}`).want(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
		}
		n.do(t, "POST", v3+"/account/3pid", alice, `{"three_pid_creds":{"sid":"x","client_secret":"s"}}`).want(403, "M_THREEPID_AUTH_FAILED")
		n.do(t, "POST", v3+"/account/3pid", alice, `{}`).want(400, "M_MISSING_PARAM")
	})
}

// page asks for the page of a stage, or sends its form.
func (n *node) page(t *testing.T, method, stage, session, form string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, n.http.URL+v3+"/auth/"+stage+"/fallback/web?session="+url.QueryEscape(session), strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := n.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == 200 && resp.Header.Get("X-Frame-Options") != "DENY" {
		t.Error("a page can be framed")
	}
	return resp.StatusCode, string(body)
}

// TestEmailFallback shows that an address is one's own in a browser: for an account, and for a new password, without
// the page being told for which.
func TestEmailFallback(t *testing.T) {
	office, change := withMail(t)
	each(t, change, func(t *testing.T, n *node) {
		const stage = "m.login.email.identity"
		hidden := regexp.MustCompile(`name="(sid|client_secret)" type="hidden" value="([^"]*)"`)
		prove := func(session, address string) {
			t.Helper()
			if status, text := n.page(t, "GET", stage, session, ""); status != 200 || !strings.Contains(text, `name="email"`) {
				t.Fatalf("the page: %d %s", status, text)
			}
			_, text := n.page(t, "POST", stage, session, url.Values{"email": {address}}.Encode())
			form := url.Values{}
			for _, field := range hidden.FindAllStringSubmatch(text, -1) {
				form.Set(field[1], field[2])
			}
			if status, text := n.page(t, "POST", stage, session, form.Encode()); status != 401 || !strings.Contains(text, form.Get("sid")) {
				t.Errorf("before the link was followed: %d %s", status, text)
			}
			mails := office.Take(address)
			if len(mails) != 1 {
				t.Fatalf("%d mails", len(mails))
			}
			n.follow(t, link(t, mails[0]))
			if status, text := n.page(t, "POST", stage, session, form.Encode()); status != 200 || !strings.Contains(text, "onAuthDone") {
				t.Errorf("after the link was followed: %d %s", status, text)
			}
		}
		register := func(name, auth string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"`+name+`","password":"password of `+name+`"`+auth+`}`)
		}
		by := func(session string) string { return `,"auth":{"session":"` + session + `"}` }
		session := register("alice", "").want(401, "").get("session")
		prove(session, "alice@y.org")
		token := register("alice", by(session)).want(200, "").get("access_token")
		if got := n.do(t, "GET", v3+"/account/3pid", token, "").want(200, "").body["threepids"]; fmt.Sprint(strs(got, "address")) != "[alice@y.org]" {
			t.Errorf("addresses: %v", got)
		}

		// That an account's address is one's own does not do for another account, and then a free one does.
		session = register("bob", "").want(401, "").get("session")
		prove(session, "alice@y.org")
		register("bob", by(session)).want(401, "")
		prove(session, "bob@y.org")
		bob := register("bob", by(session)).want(200, "").get("access_token")

		reset := func(token, auth string) *answer {
			return n.do(t, "POST", v3+"/account/password", token, `{"new_password":"another password"`+auth+`}`)
		}
		session = reset(bob, "").want(401, "").get("session")
		prove(session, "alice@y.org")
		reset(bob, by(session)).want(403, "M_FORBIDDEN")
		session = reset("", "").want(401, "").get("session")
		prove(session, "alice@y.org")
		reset("", by(session)).want(200, "")
		n.do(t, "POST", v3+"/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"another password"}`).want(200, "")

		if status, text := n.page(t, "POST", stage, session, "email=x"); status != 401 || !strings.Contains(text, "not an email address") {
			t.Errorf("what is no address: %d %s", status, text)
		}
	})
}

// TestFallback completes stages in a browser without scripts.
func TestFallback(t *testing.T) {
	each(t, func(o *clientapi.Options, u *userserver.Options) {
		u.RegistrationToken = "fixed"
		o.Registration = clientapi.Registration{Token: true, Terms: []clientapi.Terms{{Name: "p", Version: "1", Title: "Privacy <&>", URL: "https://x.org/p"}}}
	}, func(t *testing.T, n *node) {
		register := func(auth string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"alice","password":"password of alice"`+auth+`}`)
		}
		session := register("").want(401, "").get("session")
		if status, text := n.page(t, "GET", "m.login.terms", session, ""); status != 200 || !strings.Contains(text, "Privacy &lt;&amp;&gt;") {
			t.Errorf("the page of terms: %d %s", status, text)
		}
		if status, text := n.page(t, "POST", "m.login.registration_token", session, "token=wrong"); status != 401 || !strings.Contains(text, "not valid") {
			t.Errorf("a wrong token: %d %s", status, text)
		}
		if status, text := n.page(t, "POST", "m.login.registration_token", session, "token=fixed"); status != 200 || !strings.Contains(text, "onAuthDone") {
			t.Errorf("the token: %d %s", status, text)
		}
		register(`,"auth":{"session":"`+session+`"}`).want(401, "")
		n.page(t, "POST", "m.login.terms", session, "")
		token := register(`,"auth":{"session":"`+session+`"}`).want(200, "").get("access_token")

		// A password, given for one request, does not do for another, nor another's password.
		n.user(t, "bob")
		deactivate := func(auth string) *answer {
			return n.do(t, "POST", v3+"/account/deactivate", token, `{"auth":`+auth+`}`)
		}
		session = deactivate("null").want(401, "").get("session")
		n.page(t, "POST", "m.login.password", session, url.Values{"user": {"bob"}, "password": {passwordOf("bob")}}.Encode())
		deactivate(`{"session":"`+session+`"}`).want(403, "M_FORBIDDEN")
		session = deactivate("null").want(401, "").get("session")
		n.page(t, "POST", "m.login.password", session, url.Values{"user": {"alice"}, "password": {passwordOf("alice")}}.Encode())
		n.do(t, "POST", v3+"/account/password", token, `{"new_password":"a new password","auth":{"session":"`+session+`"}}`).want(403, "M_FORBIDDEN")
		deactivate(`{"session":"`+session+`"}`).want(200, "")
		resp, err := n.http.Client().Get(n.http.URL + "/_matrix/static/client/login/?device_id=D")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(text), "matrixLogin.onLogin") ||
			!strings.Contains(string(text), `nonce="`) || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "connect-src 'self'") {
			t.Errorf("the page of logins: %d %v %s", resp.StatusCode, err, text)
		}
		if status, _ := n.page(t, "GET", "m.login.sso", session, ""); status != 404 {
			t.Errorf("a page for single sign-on: %d", status)
		}
		if status, _ := n.page(t, "POST", "m.login.dummy", "nonsense", ""); status != 401 {
			t.Errorf("a session of nobody: %d", status)
		}
	})
}

func TestUserLimit(t *testing.T) {
	each(t, func(_ *clientapi.Options, u *userserver.Options) { u.MaxUsers = 1 }, func(t *testing.T, n *node) {
		register := func(name string) *answer {
			return n.do(t, "POST", v3+"/register", "", `{"username":"`+name+`","password":"password","auth":{"type":"m.login.dummy"}}`)
		}
		register("alice").want(200, "")
		register("bob").want(403, "M_RESOURCE_LIMIT_EXCEEDED")
		n.user(t, "carol") // as an operator makes one
	})
}
