package httpapi

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"parley/internal/matrixerr"
)

// FuzzServe sends any path, query and body to every endpoint of the specification. The answer
// is always a JSON object, and never "it's our fault".
func FuzzServe(f *testing.F) {
	table := specTable(f)
	type request struct {
		A     string   `query:"a"`
		B     []int    `query:"b"`
		C     *bool    `query:"c"`
		Text  string   `json:"text"`
		Deep  any      `json:"deep"`
		Lists [][]bool `json:"lists"`
	}
	for i := range table {
		if m := table[i].Method; m != "GET" {
			table[i].Handler = Handle(func(context.Context, *Request, *request) (*struct{}, error) { return nil, nil })
		}
	}
	api, err := New(Options{MaxBody: 2000}, table)
	if err != nil {
		f.Fatal(err)
	}
	methods := []string{"GET", "PUT", "POST", "DELETE", "OPTIONS", "BREW", "CONNECT"}
	f.Add(byte(0), "/_matrix/client/v3/rooms/!a%2Fb:c/state/m.x/", "a=1&b=2&b=3&c=true", "")
	f.Add(byte(1), "/_matrix/client/v3/rooms/!a/send/x/y", "a=%zz", `{"text":"a","deep":[[{}]],"lists":[[true]]}`)
	f.Add(byte(2), "/_matrix/client/v3/join/%00", "c=", "{\"text\":\"\xff\"}")
	f.Add(byte(1), "*", "", "")
	f.Add(byte(6), "/", "", "nul")
	f.Fuzz(func(t *testing.T, method byte, path, query, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		req := httptest.NewRequest("GET", "/", strings.NewReader(body))
		req.Method = methods[int(method)%len(methods)]
		u.RawQuery, u.Host, u.Scheme = query, "", ""
		req.URL = u
		w := httptest.NewRecorder()
		api.ServeHTTP(w, req)
		if w.Code == 204 && req.Method == "OPTIONS" {
			return
		}
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 500 {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		if (w.Code == 200) == (answer["errcode"] != nil) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// FuzzDecode compares what we decode with net/url and encoding/json.
func FuzzDecode(f *testing.F) {
	type request struct {
		Key  string   `path:"key"`
		A    string   `query:"a"`
		B    []string `query:"b"`
		Text string   `json:"text"`
		N    *int     `json:"n"`
		Any  any      `json:"any"`
	}
	p, err := makePlan(reflect.TypeFor[request](), &Route{Method: "PUT", Path: "/{key}"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a%2Fb", true, "a=1&b=2&a=3&b=%2B+", `{"text":"x","n":3,"any":[1,{}]}`)
	f.Add("a%2Fb", false, "a&&=&b", `{"Key":"x","A":"y","b":["z"],"TEXT":"q"}`)
	f.Add("%", true, "%61=%zz;", `{"any":"\"[["}`)
	f.Add("\xff", false, "a=%ff", "[]")
	f.Fuzz(func(t *testing.T, key string, escaped bool, query, body string) {
		var got request
		err := p.decode(reflect.ValueOf(&got).Elem(), args{path: []string{key}, escaped: escaped, query: query, body: []byte(body)})
		if body == "" {
			body = "{}"
		}
		good := func(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

		var fromBody struct {
			Text string `json:"text"`
			N    *int   `json:"n"`
			Any  any    `json:"any"`
		}
		bodyErr := json.Unmarshal([]byte(body), &fromBody)
		if err != nil {
			if matrixerr.CodeOf(err) == "" {
				t.Fatalf("not an error for the client: %v", err)
			}
			values, queryErr := url.ParseQuery(query)
			wrong := true
			switch code := matrixerr.CodeOf(err); code {
			case matrixerr.NotJSON:
				wrong = json.Valid([]byte(body)) && utf8.ValidString(body)
			case matrixerr.BadJSON:
				wrong = json.Unmarshal([]byte(body), new(request)) == nil && strings.HasPrefix(strings.TrimSpace(body), "{") && depth(body) <= maxDepth
			case matrixerr.InvalidParam:
				path, pathErr := url.PathUnescape(key)
				wrong = good(key) && (pathErr == nil && good(path) || !escaped) && queryErr == nil &&
					good(values.Get("a")) && good(strings.ReplaceAll(strings.Join(values["b"], ""), ";", ""))
			}
			if wrong {
				t.Errorf("%q, %q, %q: %v", key, query, body, err)
			}
			return
		}
		if bodyErr != nil || depth(body) > maxDepth || !utf8.ValidString(body) {
			t.Fatalf("%q was taken: %v", body, bodyErr)
		}
		if got.Text != fromBody.Text || !reflect.DeepEqual(got.N, fromBody.N) || !reflect.DeepEqual(got.Any, fromBody.Any) {
			t.Errorf("%q: got %+v, want %+v", body, got, fromBody)
		}

		want := key
		if escaped {
			if want, err = url.PathUnescape(key); err != nil {
				t.Fatalf("%q was taken: %v", key, err)
			}
		}
		if got.Key != want || !good(got.Key) {
			t.Errorf("%q: got %q, want %q", key, got.Key, want)
		}
		if strings.Contains(query, ";") {
			return // which net/url takes for a mistake
		}
		values, _ := url.ParseQuery(query)
		if got.A != values.Get("a") || !good(got.A) || strings.Join(got.B, "\x00") != strings.Join(values["b"], "\x00") || len(got.B) != len(values["b"]) {
			t.Errorf("%q: got %q and %q, want %q", query, got.A, got.B, values)
		}
	})
}

// depth is how deep valid JSON nests.
func depth(body string) int {
	d := json.NewDecoder(strings.NewReader(body))
	deepest, now := 0, 0
	for {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			now++
			deepest = max(deepest, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
}
