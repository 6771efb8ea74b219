package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// fixture is an API with a user for each kind of token, and its log.
type fixture struct {
	api *API
	log bytes.Buffer
	now time.Time
	reg *prometheus.Registry
}

var callers = map[string]*Caller{
	"alice":     {User: "@alice:a.example", Device: "DEV"},
	"guest":     {User: "@guest:a.example", Guest: true},
	"admin":     {User: "@admin:a.example", Admin: true},
	"locked":    {User: "@locked:a.example", Locked: true},
	"suspended": {User: "@suspended:a.example", Suspended: true},
	"bridge":    {User: "@bridge:a.example", AppService: "irc", Unlimited: true},
}

func newFixture(t *testing.T, o Options, tables ...Table) *fixture {
	t.Helper()
	f := &fixture{now: time.Unix(1700000000, 0), reg: prometheus.NewRegistry()}
	o.Log = slog.New(slog.NewTextHandler(&f.log, nil))
	o.Metrics = f.reg
	o.Now = func() time.Time { return f.now }
	o.Authenticate = func(_ context.Context, _ *Request, token string) (*Caller, error) {
		if c := callers[token]; c != nil {
			return c, nil
		}
		return nil, matrixerr.New(matrixerr.UnknownToken, "unknown token").With("soft_logout", true)
	}
	o.VerifyServer = func(_ context.Context, req *http.Request, body []byte) (id.ServerName, error) {
		if req.Header.Get("Authorization") != "X-Matrix "+string(body) {
			return "", matrixerr.New(matrixerr.Unauthorized, "bad signature")
		}
		return "b.example", nil
	}
	api, err := New(o, tables...)
	if err != nil {
		t.Fatal(err)
	}
	f.api = api
	return f
}

// do sends a request; "alice GET /path" is one by alice, "- GET /path" one without a token.
func (f *fixture) do(who, method, target, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	if who != "-" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	return w
}

func errcode(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e struct{ Errcode, Error string }
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("the answer %q is not JSON: %v", w.Body, err)
	}
	return e.Errcode
}

type echoRequest struct {
	Room  id.RoomID `path:"room"`
	Type  string    `path:"type"`
	Key   string    `path:"key"`
	Dir   string    `query:"dir"`
	Limit *int      `query:"limit"`
	Via   []string  `query:"via"`
	Full  bool      `query:"full"`
	Text  string    `json:"text"`
	N     int       `json:"n"`
}

func echo(_ context.Context, _ *Request, in *echoRequest) (*echoAnswer, error) {
	return &echoAnswer{string(in.Room), in.Type, in.Key, in.Dir, in.Limit, in.Via, in.Full, in.Text, in.N}, nil
}

type echoAnswer struct {
	Room, Type, Key, Dir string
	Limit                *int
	Via                  []string
	Full                 bool
	Text                 string
	N                    int
}

func ok(context.Context, *Request, *struct{}) (RawJSON, error) { return nil, nil }

func okRoute(method, path string, auth Auth) Route {
	return Route{Method: method, Path: path, Auth: auth, Handler: Handle(ok)}
}

func TestDecode(t *testing.T) {
	f := newFixture(t, Options{MaxBody: 1000}, Table{{
		Method: "PUT", Path: "/_matrix/client/v3/rooms/{room}/state/{type}/{key}", Auth: None, LastMayBeEmpty: true,
		Handler: Handle(echo),
	}})
	const base = "/_matrix/client/v3/rooms/!r%3Aa.example/state/"
	tests := []struct {
		name, path, body, want string
	}{
		{"all", base + "m.x/k?dir=f&limit=3&via=a&via=b%2Fc&full=true", `{"text":"hé","n":5}`,
			`{"Room":"!r:a.example","Type":"m.x","Key":"k","Dir":"f","Limit":3,"Via":["a","b/c"],"Full":true,"Text":"hé","N":5}`},
		{"no key", base + "m.x", `{}`, `{"Room":"!r:a.example","Type":"m.x"`},
		{"empty key", base + "m.x/", `{}`, `"Type":"m.x","Key":"",`},
		{"empty type and key", base + "/", `{}`, `"Type":"","Key":"",`},
		{"escaped slash", base + "m%2Fx/a%2Fb", `{}`, `"Type":"m/x","Key":"a/b",`},
		{"only the id is escaped", base + "m.x/@u:a.example", `{}`, `"Key":"@u:a.example"`},
		{"percent twice", base + "m.x/%2525", `{}`, `"Key":"%25"`},
		{"percent alone", "/_matrix/client/v3/rooms/!r:a.example/state/m.x/%25", `{}`, `"Key":"%"`},
		{"space", "/_matrix/client/v3/rooms/!r:a.example/state/m.x/a%20b", `{}`, `"Key":"a b"`},
		{"plus in the path", base + "m.x/a+b", `{}`, `"Key":"a+b"`},
		{"plus in the query", base + "m.x/k?dir=a+b%2B", `{}`, `"Dir":"a b+"`},
		{"first of two", base + "m.x/k?dir=a&dir=b", `{}`, `"Dir":"a"`},
		{"escaped name", base + "m.x/k?d%69r=a", `{}`, `"Dir":"a"`},
		{"semicolon", base + "m.x/k?dir=a;b", `{}`, `"Dir":"a;b"`},
		{"not ours", base + "m.x/k?%zz=1&x=%zz&dir=a", `{}`, `"Dir":"a"`},
		{"no body", base + "m.x/k", ``, `"Text":"","N":0`},
		{"twice the same key", base + "m.x/k", `{"n":1,"n":2}`, `"N":2`},
		{"body says a path parameter", base + "m.x/k", `{"Key":"evil","Dir":"evil","Room":"!evil"}`, `"Key":"k","Dir":"",`},
		{"spaces before", base + "m.x/k", " \r\n\t{}", `"N":0`},
		{"null field", base + "m.x/k", `{"n":null}`, `"N":0`},

		{"not a room", "/_matrix/client/v3/rooms/r/state/m.x/k", `{}`, "400 M_INVALID_PARAM room: "},
		{"no room", "/_matrix/client/v3/rooms//state/m.x/k", `{}`, "400 M_INVALID_PARAM room: "},
		{"NUL", base + "m.x/a%00", `{}`, "400 M_INVALID_PARAM key: "},
		{"no UTF-8", base + "m.x/%ff", `{}`, "400 M_INVALID_PARAM key: "},
		{"not a number", base + "m.x/k?limit=x", `{}`, "400 M_INVALID_PARAM limit: "},
		{"not a bool", base + "m.x/k?full=yes", `{}`, "400 M_INVALID_PARAM full: "},
		{"badly escaped", base + "m.x/k?dir=%zz", `{}`, "400 M_INVALID_PARAM dir: "},
		{"NUL in the query", base + "m.x/k?dir=%00", `{}`, "400 M_INVALID_PARAM dir: "},
		{"not JSON", base + "m.x/k", `{"n":`, "400 M_NOT_JSON "},
		{"something after", base + "m.x/k", `{} {}`, "400 M_NOT_JSON "},
		{"spaces only", base + "m.x/k", `  `, "400 M_NOT_JSON "},
		{"no UTF-8 in the body", base + "m.x/k", "{\"text\":\"\xff\"}", "400 M_NOT_JSON "},
		{"an array", base + "m.x/k", `[]`, "400 M_BAD_JSON "},
		{"null", base + "m.x/k", `null`, "400 M_BAD_JSON "},
		{"neither", base + "m.x/k", `nul`, "400 M_NOT_JSON "},
		{"wrong type", base + "m.x/k", `{"n":"5"}`, "400 M_BAD_JSON n: wrong type (string)"},
		{"fraction", base + "m.x/k", `{"n":1.5}`, "400 M_BAD_JSON n: wrong type (number 1.5)"},
		{"too deep", base + "m.x/k", `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "400 M_BAD_JSON "},
		{"as deep as may be", base + "m.x/k", `{"x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, `"N":0`},
		{"brackets in a string", base + "m.x/k", `{"text":"\"` + strings.Repeat("[", 200) + `"}`, `[[[`},
		{"too large", base + "m.x/k", `{"text":"` + strings.Repeat("x", 1000) + `"}`, "413 M_TOO_LARGE "},
		{"unknown path", "/_matrix/client/v3/rooms/r/nothing", `{}`, "404 M_UNRECOGNIZED "},
		{"slash too many", base + "m.x/k/", `{}`, "404 M_UNRECOGNIZED "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := f.do("-", "PUT", tt.path, tt.body)
			got := strings.TrimSpace(w.Body.String())
			if w.Code != 200 {
				var e struct{ Errcode, Error string }
				if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
					t.Fatal(err)
				}
				got = strings.Join([]string{itoa(w.Code), e.Errcode, e.Error}, " ")
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
	if f.log.Len() > 0 {
		t.Errorf("clients' mistakes were logged: %s", &f.log)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// TestChunkedBody has bodies whose length isn't known before.
func TestChunkedBody(t *testing.T) {
	f := newFixture(t, Options{MaxBody: 50 << 10}, Table{{Method: "PUT", Path: "/a", Auth: None, Handler: Handle(
		func(_ context.Context, _ *Request, in *struct {
			Body json.RawMessage `body:"raw"`
		}) (RawJSON, error) {
			return RawJSON(in.Body), nil
		})}})
	for _, size := range []int{2, 511, 512, 513, 40 << 10, 50 << 10, 50<<10 + 1, 200 << 10} {
		body := "{" + strings.Repeat(" ", size-2) + "}"
		for _, known := range []bool{false, true} {
			req := httptest.NewRequest("PUT", "/a", strings.NewReader(body))
			if !known {
				req.ContentLength = -1
			}
			w := httptest.NewRecorder()
			f.api.ServeHTTP(w, req)
			if want := size <= 50<<10; want != (w.Code == 200 && w.Body.String() == body) || !want && w.Code != 413 {
				t.Errorf("size %d, known %v: status %d, %d bytes", size, known, w.Code, w.Body.Len())
			}
		}
	}
}

func TestAuth(t *testing.T) {
	locked, active := okRoute("POST", "/locked", User), okRoute("POST", "/active", User)
	locked.AllowLocked, active.RefuseSuspended = true, true
	f := newFixture(t, Options{}, Table{
		okRoute("GET", "/none", None), okRoute("GET", "/user", User), okRoute("GET", "/guest", UserOrGuest),
		okRoute("GET", "/optional", Optional), okRoute("GET", "/admin", Admin), okRoute("GET", "/appservice", AppService),
		locked, active,
	})
	tests := []struct{ who, request, want string }{
		{"-", "GET /none", ""}, {"nobody", "GET /none", ""},
		{"-", "GET /user", "401 M_MISSING_TOKEN"}, {"nobody", "GET /user", "401 M_UNKNOWN_TOKEN"},
		{"alice", "GET /user", ""}, {"alice", "GET /guest", ""}, {"alice", "GET /optional", ""},
		{"alice", "GET /admin", "403 M_FORBIDDEN"}, {"alice", "GET /appservice", "403 M_FORBIDDEN"},
		{"guest", "GET /user", "403 M_GUEST_ACCESS_FORBIDDEN"}, {"guest", "GET /guest", ""}, {"guest", "GET /admin", "403 M_FORBIDDEN"},
		{"-", "GET /guest", "401 M_MISSING_TOKEN"}, {"-", "GET /admin", "401 M_MISSING_TOKEN"},
		{"-", "GET /appservice", "401 M_MISSING_TOKEN"},
		{"-", "GET /optional", ""}, {"nobody", "GET /optional", "401 M_UNKNOWN_TOKEN"}, {"guest", "GET /optional", ""},
		{"admin", "GET /admin", ""}, {"admin", "GET /user", ""},
		{"bridge", "GET /appservice", ""}, {"bridge", "GET /user", ""},
		{"locked", "GET /user", "401 M_USER_LOCKED"}, {"locked", "GET /optional", "401 M_USER_LOCKED"}, {"locked", "POST /locked", ""},
		{"suspended", "GET /user", ""}, {"suspended", "POST /active", "403 M_USER_SUSPENDED"}, {"alice", "POST /active", ""},
		{"alice", "POST /user", "405 M_UNRECOGNIZED"}, {"alice", "GET /users", "404 M_UNRECOGNIZED"},
		{"-", "GET /user?access_token=alice", ""}, {"-", "GET /user?access_token=bob", "401 M_UNKNOWN_TOKEN"},
		{"nobody", "GET /user?access_token=alice", "401 M_UNKNOWN_TOKEN"},
	}
	for _, tt := range tests {
		method, path, _ := strings.Cut(tt.request, " ")
		w := f.do(tt.who, method, path, "")
		got := ""
		if w.Code != 200 {
			got = itoa(w.Code) + " " + errcode(t, w)
		} else if w.Body.String() != "{}" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s by %s: answer %q, %v", tt.request, tt.who, w.Body, w.Header())
		}
		if got != tt.want {
			t.Errorf("%s by %s: got %q, want %q", tt.request, tt.who, got, tt.want)
		}
	}
	for _, header := range []string{"Basic alice", "Bearer", "bearer  ", "alice"} {
		req := httptest.NewRequest("GET", "/user?access_token=alice", nil)
		req.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, req)
		if code := errcode(t, w); code != "M_MISSING_TOKEN" {
			t.Errorf("Authorization %q: %s", header, code)
		}
	}
	if w := f.do("locked", "GET", "/user", ""); !strings.Contains(w.Body.String(), `"soft_logout":true`) {
		t.Errorf("a locked user is not logged out softly: %s", w.Body)
	}
}

func TestServerAuth(t *testing.T) {
	f := newFixture(t, Options{}, Table{{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Auth: Server, MaxBody: 100,
		Handler: Handle(func(_ context.Context, r *Request, in *struct {
			TxnID string          `path:"txnId"`
			Body  json.RawMessage `body:"raw"`
		}) (map[string]any, error) {
			return map[string]any{"origin": r.Origin, "txn": in.TxnID, "body": in.Body, "caller": r.Caller}, nil
		})}})
	for _, tt := range []struct{ auth, body, want string }{
		{`X-Matrix {"a":1}`, `{"a":1}`, `{"body":{"a":1},"caller":null,"origin":"b.example","txn":"7"}`},
		{`X-Matrix {"a":2}`, `{"a":1}`, `{"errcode":"M_UNAUTHORIZED","error":"bad signature"}`},
		{``, `{"a":1}`, `{"errcode":"M_UNAUTHORIZED","error":"bad signature"}`},
		{`X-Matrix []`, `[]`, `{"errcode":"M_BAD_JSON","error":"the request body is not a JSON object"}`},
	} {
		req := httptest.NewRequest("PUT", "/_matrix/federation/v1/send/7", strings.NewReader(tt.body))
		req.Header.Set("Authorization", tt.auth)
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, req)
		if w.Body.String() != tt.want {
			t.Errorf("%s with body %s: got %s", tt.auth, tt.body, w.Body)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Error("a federation answer has CORS headers")
		}
	}
}

func TestCORS(t *testing.T) {
	called := 0
	f := newFixture(t, Options{}, Table{
		{Method: "GET", Path: "/_matrix/client/v3/sync", Auth: User, Handler: Handle(
			func(context.Context, *Request, *struct{}) (*struct{}, error) { called++; return nil, nil })},
		okRoute("GET", "/_matrix/key/v2/server", None),
	})
	for _, tt := range []struct {
		who, method, path string
		status            int
		cors              bool
	}{
		{"-", "OPTIONS", "/_matrix/client/v3/sync", 204, true},
		{"-", "OPTIONS", "/_matrix/client/v3/no/such", 204, true},
		{"-", "OPTIONS", "/.well-known/matrix/client", 204, true},
		{"-", "GET", "/_matrix/client/v3/sync", 401, true},
		{"alice", "GET", "/_matrix/client/v3/sync", 200, true},
		{"alice", "POST", "/_matrix/client/v3/sync", 405, true},
		{"alice", "GET", "/_matrix/media/v3/no/such", 404, true},
		{"-", "OPTIONS", "/_matrix/key/v2/server", 405, false},
		{"-", "GET", "/_matrix/key/v2/server", 200, false},
		{"-", "GET", "/_matrix/federation/v1/version", 404, false},
		{"-", "GET", "/.well-known/matrix/server", 404, false},
	} {
		w := f.do(tt.who, tt.method, tt.path, "")
		want := map[string]string{"Origin": "*", "Methods": "GET, POST, PUT, DELETE, OPTIONS",
			"Headers": "X-Requested-With, Content-Type, Authorization"}
		for name, value := range want {
			if !tt.cors {
				value = ""
			}
			if got := w.Header().Get("Access-Control-Allow-" + name); got != value {
				t.Errorf("%s %s: %s is %q", tt.method, tt.path, name, got)
			}
		}
		if w.Code != tt.status {
			t.Errorf("%s %s: status %d", tt.method, tt.path, w.Code)
		}
	}
	if called != 1 {
		t.Errorf("the handler was called %d times", called)
	}
}

func TestErrors(t *testing.T) {
	var fail error
	f := newFixture(t, Options{}, Table{{Method: "GET", Path: "/a", Auth: Optional, Handler: Handle(
		func(context.Context, *Request, *struct{}) (*struct{}, error) { return nil, fail })}})
	limit := matrixerr.New(matrixerr.LimitExceeded, "slow")
	limit.RetryAfter = 1200*time.Millisecond + 1
	tests := []struct {
		err    error
		status int
		want   string
		logged bool
	}{
		{matrixerr.New(matrixerr.Forbidden, "no %s", "way"), 403, `{"errcode":"M_FORBIDDEN","error":"no way"}`, false},
		{errorsWrap(matrixerr.New(matrixerr.NotFound, "none")), 404, `{"errcode":"M_NOT_FOUND","error":"none"}`, false},
		{matrixerr.New(matrixerr.RoomInUse, "in use").WithStatus(409), 409, `{"errcode":"M_ROOM_IN_USE","error":"in use"}`, false},
		{matrixerr.New("ORG.EXAMPLE_ODD", "odd"), 400, `{"errcode":"ORG.EXAMPLE_ODD","error":"odd"}`, false},
		{matrixerr.New(matrixerr.UnknownToken, "x").With("soft_logout", true), 401,
			`{"errcode":"M_UNKNOWN_TOKEN","error":"x","soft_logout":true}`, false},
		{(&matrixerr.Error{Status: 401}).With("session", "s"), 401, `{"session":"s"}`, false},
		{limit, 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"slow","retry_after_ms":1201}`, false},
		{errors.New("disk on fire"), 500, `{"errcode":"M_UNKNOWN","error":"Internal server error."}`, true},
		{context.DeadlineExceeded, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error."}`, true},
	}
	for _, tt := range tests {
		f.log.Reset()
		fail = tt.err
		w := f.do("alice", "GET", "/a", "")
		if w.Code != tt.status || w.Body.String() != tt.want {
			t.Errorf("%v: got %d %s", tt.err, w.Code, w.Body)
		}
		if retry := w.Header().Get("Retry-After"); (retry == "2") != (tt.status == 429) {
			t.Errorf("%v: Retry-After %q", tt.err, retry)
		}
		log := f.log.String()
		if tt.logged != (strings.Count(log, "\n") == 1) {
			t.Errorf("%v: log %q", tt.err, log)
		}
		if tt.logged && (!strings.Contains(log, "request="+w.Header().Get("X-Request-Id")) || !strings.Contains(log, "user=@alice:a.example")) {
			t.Errorf("%v: log %q", tt.err, log)
		}
	}
	// Nobody is told of what happens when nobody waits.
	f.log.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fail = context.Canceled
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/a", nil))
	if f.log.Len() > 0 || w.Code != statusClientGone {
		t.Errorf("a client that has gone: status %d, log %q", w.Code, &f.log)
	}
}

func errorsWrap(err error) error { return errors.Join(errors.New("while at it"), err) }

func TestPanic(t *testing.T) {
	f := newFixture(t, Options{}, Table{
		{Method: "GET", Path: "/before", Auth: None, Handler: Handle(
			func(context.Context, *Request, *struct{}) (*struct{}, error) { panic("oh no") })},
		{Method: "GET", Path: "/amid", Auth: None, Handler: Stream(
			func(_ context.Context, _ *Request, _ *struct{}, w http.ResponseWriter) error {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 10000))
				panic("oh no")
			})},
		{Method: "GET", Path: "/error", Auth: None, Handler: Stream(
			func(_ context.Context, _ *Request, _ *struct{}, w http.ResponseWriter) error {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 10000))
				return errors.New("disk on fire")
			})},
	})
	w := f.do("-", "GET", "/before", "")
	log := f.log.String()
	if w.Code != 500 || errcode(t, w) != "M_UNKNOWN" || strings.Count(log, "level=ERROR") != 1 ||
		!strings.Contains(log, "oh no") || !strings.Contains(log, "server_test.go") || !strings.Contains(log, w.Header().Get("X-Request-Id")) {
		t.Errorf("status %d, log %s", w.Code, log)
	}
	server := httptest.NewServer(f.api)
	defer server.Close()
	for _, path := range []string{"/amid", "/error"} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: half an answer looks whole", path)
		}
		resp.Body.Close()
	}
}

func TestRates(t *testing.T) {
	route := func(path string, auth Auth, rate Rate) Route {
		r := okRoute("GET", path, auth)
		r.Rate = rate
		return r
	}
	f := newFixture(t, Options{
		Rates:          map[Rate]Limit{RateLogin: {PerSecond: 0.5, Burst: 2}, RateSend: {PerSecond: 1, Burst: 1}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}, Table{route("/login", None, RateLogin), route("/send", User, RateSend), route("/free", User, RateDefault),
		{Method: "GET", Path: "/account", Auth: None, Rate: RateNone, Handler: Handle(
			func(_ context.Context, r *Request, _ *struct{}) (*struct{}, error) {
				return nil, r.Limit(RateLogin, "bob")
			})}})
	get := func(who, path, ip string) *httptest.ResponseRecorder {
		req := httptest.NewRequest("GET", path, nil)
		req.Header.Set("Authorization", "Bearer "+who)
		req.Header.Set("X-Forwarded-For", ip)
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, req)
		return w
	}
	steps := []struct {
		after         time.Duration
		who, path, ip string
		status        int
		retry         string
	}{
		{0, "", "/login", "198.51.100.1", 200, ""},
		{0, "", "/login", "198.51.100.1", 200, ""},
		{0, "", "/login", "198.51.100.1", 429, "2"},
		{0, "", "/login", "198.51.100.2", 200, ""},
		{1500 * time.Millisecond, "", "/login", "198.51.100.1", 429, "1"},
		{500 * time.Millisecond, "", "/login", "198.51.100.1", 200, ""},
		{0, "", "/login", "198.51.100.1", 429, "2"},
		{0, "", "/login", "2001:db8::1", 200, ""},
		{0, "", "/login", "2001:db8::2", 200, ""},
		{0, "", "/login", "2001:db8::3", 429, "2"},
		{0, "", "/login", "2001:db8:0:1::3", 200, ""},
		{0, "alice", "/send", "198.51.100.1", 200, ""},
		{0, "alice", "/send", "198.51.100.7", 429, "1"},
		{0, "admin", "/send", "198.51.100.1", 200, ""},
		{0, "bridge", "/send", "", 200, ""},
		{0, "bridge", "/send", "", 200, ""},
		{0, "alice", "/free", "", 200, ""},
		{0, "alice", "/free", "", 200, ""},
		{0, "", "/account", "198.51.100.1", 200, ""},
		{0, "", "/account", "198.51.100.2", 200, ""},
		{0, "", "/account", "198.51.100.3", 429, "2"},
	}
	for i, s := range steps {
		f.now = f.now.Add(s.after)
		w := get(s.who, s.path, s.ip)
		if w.Code != s.status || w.Header().Get("Retry-After") != s.retry {
			t.Errorf("step %d: status %d, Retry-After %q", i, w.Code, w.Header().Get("Retry-After"))
		}
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(map[Rate]Limit{RateLogin: {PerSecond: 1, Burst: 1}})
	now := time.Unix(1, 0)
	for i := range 3 * maxLimited {
		l.take(limitKey{rate: RateLogin, who: itoa(i)}, now)
		if len(l.full) > maxLimited {
			t.Fatalf("%d are remembered", len(l.full))
		}
	}
	// Those whose bucket is full again go first.
	l.forget(now.Add(time.Second))
	if len(l.full) != 0 {
		t.Errorf("%d are remembered for nothing", len(l.full))
	}
}

func TestClientIP(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, tt := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"198.51.100.1:5", nil, "198.51.100.1"},
		{"198.51.100.1:5", []string{"203.0.113.9"}, "198.51.100.1"},
		{"127.0.0.1:5", nil, "127.0.0.1"},
		{"127.0.0.1:5", []string{"203.0.113.9"}, "203.0.113.9"},
		{"[::ffff:127.0.0.1]:5", []string{"203.0.113.9"}, "203.0.113.9"},
		{"127.0.0.1:5", []string{"1.1.1.1, 203.0.113.9, 10.1.1.1"}, "203.0.113.9"},
		{"127.0.0.1:5", []string{"1.1.1.1", "203.0.113.9", "10.1.1.1"}, "203.0.113.9"},
		{"127.0.0.1:5", []string{"10.1.1.1"}, "10.1.1.1"},
		{"127.0.0.1:5", []string{"203.0.113.9, nonsense, 10.1.1.1"}, "10.1.1.1"},
		{"127.0.0.1:5", []string{"2001:db8::1"}, "2001:db8::1"},
		{"@", nil, "invalid IP"},
	} {
		req := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.xff}}
		if got, _ := clientIP(req, trusted); got.String() != tt.want {
			t.Errorf("%s, %q: %s", tt.peer, tt.xff, got)
		}
	}
}

// nullWriter is a connection to nobody.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) WriteHeader(int)             {}

func BenchmarkServe(b *testing.B) {
	type syncRequest struct {
		Since   string `query:"since"`
		Timeout int64  `query:"timeout"`
		Filter  string `query:"filter"`
	}
	type sendRequest struct {
		RoomID  id.RoomID       `path:"roomId"`
		Type    string          `path:"eventType"`
		TxnID   string          `path:"txnId"`
		Content json.RawMessage `body:"raw"`
	}
	type sendAnswer struct {
		EventID id.EventID `json:"event_id"`
	}
	answer := RawJSON(`{"next_batch":"s123_4"}`)
	api, err := New(Options{
		Log:          slog.New(slog.NewTextHandler(io.Discard, nil)),
		Metrics:      prometheus.NewRegistry(),
		Rates:        map[Rate]Limit{RateSend: {PerSecond: 1e9, Burst: 1e6}},
		Authenticate: func(context.Context, *Request, string) (*Caller, error) { return callers["alice"], nil },
	}, Table{
		{Method: "GET", Path: "/_matrix/client/v3/sync", Auth: UserOrGuest, Rate: RateNone, Handler: Handle(
			func(context.Context, *Request, *syncRequest) (RawJSON, error) { return answer, nil })},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", Auth: UserOrGuest, Rate: RateSend,
			Handler: Handle(func(context.Context, *Request, *sendRequest) (*sendAnswer, error) {
				return &sendAnswer{"$abc"}, nil
			})},
	})
	if err != nil {
		b.Fatal(err)
	}
	run := func(method, target, body string) func(*testing.B) {
		return func(b *testing.B) {
			req := httptest.NewRequest(method, target, nil)
			req.Header.Set("Authorization", "Bearer alice")
			w := &nullWriter{h: make(http.Header)}
			reader := strings.NewReader(body)
			if body != "" {
				req.Body, req.ContentLength = io.NopCloser(reader), int64(len(body))
			}
			b.ReportAllocs()
			for b.Loop() {
				reader.Reset(body)
				clear(w.h)
				api.ServeHTTP(w, req)
			}
		}
	}
	b.Run("sync", run("GET", "/_matrix/client/v3/sync?since=s123_4&timeout=30000&filter=0", ""))
	b.Run("send", run("PUT", "/_matrix/client/v3/rooms/!abc%3Aa.example/send/m.room.message/m123.4",
		`{"msgtype":"m.text","body":"`+strings.Repeat("hello ", 20)+`"}`))
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	api, err := New(Options{Log: log.With("package", "http"), TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, Table{
		{Method: "GET", Path: "/a/{b}", Auth: None, Handler: Handle(
			func(ctx context.Context, _ *Request, _ *struct{}) (*struct{}, error) {
				log.With("n", 1).WithGroup("g").InfoContext(ctx, "hello", "x", 2)
				log.Info("elsewhere")
				return nil, nil
			})}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"from-proxy.1", "no good", strings.Repeat("x", 65)} {
		out.Reset()
		req := httptest.NewRequest("GET", "/a/b?access_token=secret", nil)
		req.Header.Set("X-Request-Id", id)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, req)
		got := w.Header().Get("X-Request-Id")
		if (got == id) != (id == "from-proxy.1") {
			t.Errorf("id %q became %q", id, got)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 4 || !strings.HasSuffix(lines[0], "msg=hello n=1 g.x=2 g.request="+got) || !strings.HasSuffix(lines[1], "msg=elsewhere") ||
			!strings.Contains(lines[2], "msg=request package=http method=GET route=/a/{b} status=200 bytes=2 ") || strings.Count(lines[2], "request="+got) != 1 {
			t.Errorf("log:\n%s", &out)
		}
		if strings.Contains(out.String(), "secret") {
			t.Error("the log has the token")
		}
	}
}

type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }
func (brokenBody) Close() error               { return nil }

func TestBodyDoesNotCome(t *testing.T) {
	f := newFixture(t, Options{}, Table{{Method: "PUT", Path: "/a", Auth: None, Handler: Handle(
		func(context.Context, *Request, *map[string]any) (*struct{}, error) { return nil, nil })}})
	for err, want := range map[error]int{os.ErrDeadlineExceeded: 408, io.ErrUnexpectedEOF: statusClientGone} {
		req := httptest.NewRequest("PUT", "/a", brokenBody{err})
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, req)
		if w.Code != want || f.log.Len() > 0 {
			t.Errorf("%v: status %d, log %s", err, w.Code, &f.log)
		}
	}
}

// TestConnection has what only a real connection shows: that reading a body leaves it as it
// was, for the next request and for learning that the client has gone.
func TestConnection(t *testing.T) {
	waiting, gone := make(chan struct{}), make(chan struct{})
	f := newFixture(t, Options{}, Table{
		{Method: "PUT", Path: "/echo", Auth: None, Handler: Handle(
			func(_ context.Context, _ *Request, in *json.RawMessage) (*json.RawMessage, error) { return in, nil })},
		{Method: "PUT", Path: "/wait", Auth: None, Handler: Handle(
			func(ctx context.Context, _ *Request, in *json.RawMessage) (*json.RawMessage, error) {
				close(waiting)
				<-ctx.Done()
				close(gone)
				return nil, ctx.Err()
			})},
	})
	server := httptest.NewServer(f.api)
	defer server.Close()
	put := func(ctx context.Context, path, body string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, "PUT", server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	for _, size := range []int{0, 10, 5000, 100_000} {
		want := `{"a":"` + strings.Repeat("x", size) + `"}`
		if got, err := put(t.Context(), "/echo", want); err != nil || got != want {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waiting
		cancel()
	}()
	if _, err := put(ctx, "/wait", `{}`); err == nil {
		t.Error("an answer came though nobody waited")
	}
	<-gone
}
