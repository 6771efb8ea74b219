package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/internal/id"
)

// specTable has a route for each endpoint of the specification, which says in its answer which it
// is, and what its parameters are.
func specTable(t testing.TB) Table {
	t.Helper()
	list, err := os.ReadFile("testdata/endpoints.txt")
	if err != nil {
		t.Fatal(err)
	}
	var table Table
	for line := range strings.Lines(string(list)) {
		method, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		r := Route{Method: method, Path: path, Auth: None, LastMayBeEmpty: strings.HasSuffix(path, "/{stateKey}")}
		names := pathNames(path)
		r.Handler = Handler{build: func(*Route) (*endpoint, error) {
			return &endpoint{plan: &plan{}, call: func(_ context.Context, _ *Request, w http.ResponseWriter, a args) error {
				values := make([]string, len(names))
				for i := range values {
					if i < len(a.path) {
						values[i] = a.path[i]
					}
					if a.escaped {
						values[i], _ = url.PathUnescape(values[i])
					}
				}
				return writeJSON(w, 200, found{method + " " + path, values})
			}}, nil
		}}
		table = append(table, r)
	}
	if len(table) < 200 {
		t.Fatalf("only %d endpoints", len(table))
	}
	return table
}

type found struct {
	Route  string
	Values []string
}

func pathNames(path string) (names []string) {
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, "{") {
			names = append(names, segment)
		}
	}
	return names
}

// TestEveryEndpoint asks for each endpoint of the specification, with parameters that look like
// the fixed parts of others, and compares what is found with a search that is too simple to be
// wrong.
func TestEveryEndpoint(t *testing.T) {
	table := specTable(t)
	f := newFixture(t, Options{}, table)
	values := []string{"!r:a.example", "s", "a/b", "a+b c", "%2F", "é", ".", "..", ":x", "*", "m.room.member"}
	for _, r := range table {
		for segment := range strings.SplitSeq(r.Path, "/") {
			if segment != "" && segment[0] != '{' && !slices.Contains(values, segment) {
				values = append(values, segment)
			}
		}
	}
	for _, r := range table {
		for _, value := range values {
			for _, escape := range []func(string) string{url.PathEscape, escapeAll} {
				var target []string
				for segment := range strings.SplitSeq(r.Path, "/") {
					if strings.HasPrefix(segment, "{") {
						segment = escape(value)
					}
					target = append(target, segment)
				}
				want := find(table, r.Method, target)
				w := f.do("-", r.Method, strings.Join(target, "/"), "")
				var got found
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || !reflect.DeepEqual(got, want) {
					t.Errorf("%s %s: got %d %+v, want %+v (%v)", r.Method, strings.Join(target, "/"), w.Code, got, want, err)
				}
			}
		}
	}
}

// find is the route for a path: of those that fit, the one that has a fixed part where another
// first has a parameter.
func find(table Table, method string, target []string) found {
	var best []string
	for _, r := range table {
		if r.Method != method || strings.Count(r.Path, "/") != len(target)-1 {
			continue
		}
		segments := strings.Split(r.Path, "/")
		fits := true
		for i := 0; fits && i < len(segments); i++ {
			fits = segments[i] == target[i] || strings.HasPrefix(segments[i], "{")
		}
		// '{' comes after all that fixed parts are made of.
		if fits && (best == nil || slices.Compare(segments, best) < 0) {
			best = segments
		}
	}
	result := found{Route: method + " " + strings.Join(best, "/"), Values: []string{}}
	for i, segment := range best {
		if strings.HasPrefix(segment, "{") {
			value, _ := url.PathUnescape(target[i])
			result.Values = append(result.Values, value)
		}
	}
	return result
}

func escapeAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

func TestTrailingSlash(t *testing.T) {
	f := newFixture(t, Options{}, specTable(t))
	for target, want := range map[string]string{
		"/_matrix/client/v3/pushrules":         "GET /_matrix/client/v3/pushrules/",
		"/_matrix/client/v3/pushrules/":        "GET /_matrix/client/v3/pushrules/",
		"/_matrix/client/v3/pushrules/global":  "GET /_matrix/client/v3/pushrules/global/",
		"/_matrix/client/v3/rooms/!r/state":    "GET /_matrix/client/v3/rooms/{roomId}/state",
		"/_matrix/client/v3/rooms/!r/state/t":  "GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
		"/_matrix/client/v3/rooms/!r/state/t/": "GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
		"/_matrix/client/v3/sync/":             "",
		"/_matrix/client/v3//sync":             "",
		"/_matrix/client/v3/rooms/!r/state/":   "",
	} {
		w := f.do("-", "GET", target, "")
		var got found
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Route != want {
			t.Errorf("%s: got %d %s", target, w.Code, w.Body)
		}
	}
}

func TestAlso(t *testing.T) {
	f := newFixture(t, Options{}, Table{{Method: "GET", Path: "/v3/{a}/x", Also: []string{"/unstable/org.example/{old}/x", "/x/{a}/"}, Auth: None,
		Handler: Handle(func(_ context.Context, _ *Request, in *struct {
			A string `path:"a"`
		}) (*string, error) {
			return &in.A, nil
		})}})
	for _, target := range []string{"/v3/v/x", "/unstable/org.example/v/x", "/x/v/", "/x/v"} {
		if w := f.do("-", "GET", target, ""); w.Body.String() != `"v"` {
			t.Errorf("%s: %s", target, w.Body)
		}
	}
}

type (
	upper string
	base  struct {
		Room id.RoomID `path:"room"`
	}
)

func (u *upper) UnmarshalText(b []byte) error { *u = upper(strings.ToUpper(string(b))); return nil }

// TestKinds has a field of each kind that a request may have.
func TestKinds(t *testing.T) {
	type request struct {
		base
		Upper   upper               `query:"upper"`
		Uppers  []upper             `query:"uppers"`
		Pos     id.Pos              `query:"pos"`
		Small   uint8               `query:"small"`
		Maybe   *bool               `query:"maybe"`
		User    id.UserID           `query:"user,required"`
		Servers []id.ServerName     `query:"server"`
		Numbers []*int              `query:"n"`
		Body    map[id.UserID][]int `body:"json"`
		skipped int
		Ignored int `json:"-"`
	}
	f := newFixture(t, Options{}, Table{{Method: "POST", Path: "/{room}", Auth: None, NeedBody: true, Handler: Handle(
		func(_ context.Context, _ *Request, in *request) (map[string]any, error) {
			return map[string]any{"room": in.Room, "upper": in.Upper, "uppers": in.Uppers, "pos": in.Pos, "small": in.Small, "maybe": in.Maybe,
				"user": in.User, "servers": in.Servers, "n": in.Numbers, "body": in.Body, "skipped": in.skipped + in.Ignored}, nil
		})}})
	for _, tt := range []struct{ query, body, want string }{
		{"upper=a&uppers=b&uppers=c&pos=-5&small=255&maybe=false&user=@u:h&server=a.b&server=c:1&n=1&n=2", `{"@u:h":[1]}`,
			`{"body":{"@u:h":[1]},"maybe":false,"n":[1,2],"pos":-5,"room":"!r","servers":["a.b","c:1"],"skipped":0,"small":255,"upper":"A","uppers":["B","C"],"user":"@u:h"}`},
		{"user=@u:h", `{}`, `{"body":{},"maybe":null,"n":null,"pos":0,"room":"!r","servers":null,"skipped":0,"small":0,"upper":"","uppers":null,"user":"@u:h"}`},
		{"", `{}`, `{"errcode":"M_MISSING_PARAM","error":"the query has no user"}`},
		{"user=@u:h", ``, `{"errcode":"M_NOT_JSON","error":"the request body is not valid JSON"}`},
		{"user=@u:h&small=256", `{}`, `{"errcode":"M_INVALID_PARAM","error":"small: is not a positive integer, or too large"}`},
		{"user=@u:h&server=a&server=", `{}`, `{"errcode":"M_INVALID_PARAM","error":"server: server name is empty"}`},
		{"user=@u:h", `{"@u:h":{}}`, `{"errcode":"M_BAD_JSON","error":"the request body has a value of a wrong type (object)"}`},
	} {
		if w := f.do("-", "POST", "/!r?"+tt.query, tt.body); w.Body.String() != tt.want {
			t.Errorf("%s %s: got %s", tt.query, tt.body, w.Body)
		}
	}
}

// TestStreamReadsBody lets a handler read its body itself, however large it is.
func TestStreamReadsBody(t *testing.T) {
	f := newFixture(t, Options{MaxBody: 10}, Table{{Method: "POST", Path: "/upload", Auth: None, Handler: Stream(
		func(_ context.Context, r *Request, in *struct {
			Name string `query:"filename"`
		}, w http.ResponseWriter) error {
			b, err := io.ReadAll(r.HTTP.Body)
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, in.Name+itoa(len(b)))
			return err
		})}})
	w := f.do("-", "POST", "/upload?filename=n", strings.Repeat("x", 5000))
	if w.Code != 201 || w.Body.String() != "n5000" || w.Header().Get("Content-Type") != "text/plain" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestNewRefuses(t *testing.T) {
	with := func(change func(*Route)) Table {
		r := okRoute("GET", "/a/{b}", None)
		change(&r)
		return Table{r}
	}
	handler := func(h Handler) Table { return with(func(r *Route) { r.Method, r.Handler = "POST", h }) }
	tests := []struct {
		table Table
		want  string
	}{
		{with(func(*Route) {}), ""},
		{with(func(r *Route) { r.Auth = 0 }), "who may call"},
		{with(func(r *Route) { r.Auth = Server + 1 }), "who may call"},
		{with(func(r *Route) { r.Auth = User }), "find out who asks (user)"},
		{with(func(r *Route) { r.Auth = Server }), "find out who asks (server)"},
		{with(func(r *Route) { r.Rate = numRates }), "rate class"},
		{with(func(r *Route) { r.Method = "get" }), "method"},
		{with(func(r *Route) { r.Method = "OPTIONS" }), "method"},
		{with(func(r *Route) { r.Handler = Handler{} }), "no handler"},
		{with(func(r *Route) { r.Path = "" }), "does not start"},
		{with(func(r *Route) { r.Path = "/a{b}" }), "between two slashes"},
		{with(func(r *Route) { r.Path = "/{b" }), "between two slashes"},
		{with(func(r *Route) { r.Path = "/:b" }), "between two slashes"},
		{with(func(r *Route) { r.Path = "/{}" }), "without a name"},
		{with(func(r *Route) { r.Also = []string{"/b"} }), "other parameters"},
		{with(func(r *Route) { r.Also = []string{"/a/{c}"} }), "twice"},
		{with(func(r *Route) { r.Path, r.LastMayBeEmpty = "/a/{b}/c", true }), "could be empty"},
		{Table{okRoute("GET", "/a/{b}", None), okRoute("GET", "/a/{c}", None)}, "twice"},
		{Table{okRoute("GET", "/a/{b}", None), okRoute("GET", "/a/b", None), okRoute("POST", "/a/{c}", None), okRoute("GET", "/a/{c}/d", None)}, ""},
		{handler(Handle(func(context.Context, *Request, *struct {
			C string `path:"c"`
		}) (*int, error) {
			return nil, nil
		})), "no {c} in the path"},
		{handler(Handle(func(context.Context, *Request, *struct{ C string }) (*int, error) { return nil, nil })), "field C: must be exported"},
		{handler(Handle(func(context.Context, *Request, *struct {
			b string `path:"b"`
		}) (*int, error) {
			return nil, nil
		})), "must be exported"},
		{handler(Handle(func(context.Context, *Request, *struct {
			B string `path:"b" query:"b"`
		}) (*int, error) {
			return nil, nil
		})), "one of the tags"},
		{handler(Handle(func(context.Context, *Request, *struct {
			B map[string]int `query:"b"`
		}) (*int, error) {
			return nil, nil
		})), "cannot be a map"},
		{handler(Handle(func(context.Context, *Request, *struct {
			B string `query:"b,omitempty"`
		}) (*int, error) {
			return nil, nil
		})), "not understood"},
		{handler(Handle(func(context.Context, *Request, *struct {
			B string `body:"raw"`
		}) (*int, error) {
			return nil, nil
		})), "not understood"},
		{handler(Handle(func(context.Context, *Request, *struct {
			B json.RawMessage `body:"raw"`
			C int             `json:"c"`
		}) (*int, error) {
			return nil, nil
		})), "has the body already"},
		{with(func(r *Route) {
			r.Handler = Handle(func(context.Context, *Request, *map[string]int) (*int, error) { return nil, nil })
		}), "GET has none"},
	}
	for i, tt := range tests {
		_, err := New(Options{}, tt.table)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%d: got %v, want %q", i, err, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for a := None; a <= Server; a++ {
		seen[a.String()] = true
	}
	for r := RateDefault; r < numRates; r++ {
		seen["rate "+r.String()] = true
	}
	if len(seen) != int(Server)+int(numRates) || seen[""] {
		t.Errorf("not everything has a name of its own: %v", seen)
	}
	table := Table{okRoute("GET", "/a", None)}
	f := newFixture(t, Options{}, table, Table{okRoute("GET", "/b", None)})
	if got := f.api.Routes(); len(got) != 2 || got[0].Path != "/a" || got[1].Path != "/b" {
		t.Errorf("routes %v", got)
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, Options{}, Table{okRoute("GET", "/a/{b}", User)})
	// A second server of the process shares the metrics.
	if _, err := New(Options{Metrics: f.reg}, Table{okRoute("GET", "/c", None)}); err != nil {
		t.Fatal(err)
	}
	f.do("alice", "GET", "/a/1", "")
	f.do("alice", "GET", "/a/2", "")
	f.do("-", "GET", "/a/2", "")
	f.do("-", "GET", "/b", "")
	f.do("-", "BREW", "/a/1", "")
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for labels, want := range map[string]float64{
		"GET /a/{b} 200": 2, "GET /a/{b} 401": 1, "any unknown 404": 1, "any wrong method 405": 1, "GET /a/{b}": 3,
	} {
		if got[labels] != want {
			t.Errorf("%s: got %v, want %v of %v", labels, got[labels], want, got)
		}
	}
}

// TestRequest checks what a handler learns of its request, and that its context ends with the
// request's.
func TestRequest(t *testing.T) {
	var seen *Request
	f := newFixture(t, Options{TrustedProxies: nil}, Table{{Method: "GET", Path: "/a", Auth: User, Handler: Handle(
		func(ctx context.Context, r *Request, _ *struct{}) (*struct{}, error) {
			seen = r
			child, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if FromContext(child) != r {
				t.Error("the context does not know the request")
			}
			<-child.Done()
			return nil, child.Err()
		})}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, "GET", "/a?q=a%20b&q=c&bad=%zz", nil)
	req.Header.Set("Authorization", "Bearer alice")
	req.Header.Set("X-Request-Id", "made-up")
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, req)
	if seen.ID == "made-up" || seen.ID == "" || w.Header().Get("X-Request-Id") != seen.ID {
		t.Errorf("id %q, header %q", seen.ID, w.Header().Get("X-Request-Id"))
	}
	if seen.Query("q") != "a b" || seen.Query("bad") != "" || seen.Query("none") != "" || seen.IP.String() != "192.0.2.1" || seen.Caller != callers["alice"] {
		t.Errorf("request %+v", seen)
	}
	if FromContext(t.Context()) != nil {
		t.Error("a context without a request has one")
	}
}
