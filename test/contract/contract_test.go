// Package contract holds a node's answers against the specification's OpenAPI definitions: it tells stories in which
// every endpoint of the client-server API answers well at least once, and with an error where one is specified, and
// every answer must be of the form that the specification gives it.
//
// What an answer means is for the other tests. The definitions are in testdata, made by internal/gen/openapi; from them
// and from these stories internal/gen/speccoverage makes docs/spec-coverage.md.
package contract

//go:generate go run parley/internal/gen/speccoverage -root ../..

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"parley/internal/mail/mailtest"
	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// settings are those of the node, but for what the stories' own servers add.
const settings = `registration:
  allow: anyone
  guests: true
  shared_secret: of the contract
rate_limits:
  enabled: false
well_known:
  client_base_url: https://matrix.example.org
  support_page: https://example.org/help
limits:
  upload_size: 50 KiB
media:
  user_quota: 100 KiB
  unauthenticated_before: 2100-01-01T00:00:00Z
  previews:
    enabled: true
turn:
  uris: ["turn:turn.example.org?transport=udp"]
  shared_secret: of the relay
`

// notOffered are the endpoints of what this server does not offer, with the errcode that says so.
var notOffered = map[string]string{
	// spec: client-server-api/index.md#server-metadata-discovery
	"getAuthMetadata": "M_UNRECOGNIZED",
	// spec: client-server-api/modules/sso_login.md#sso-client-loginauthentication
	"redirectToSSO": "M_NOT_FOUND",
	"redirectToIdP": "M_NOT_FOUND",
	// spec: client-server-api/modules/policy_servers.md#policy-servers
	"getWellknownPolicy": "M_NOT_FOUND",
	// spec: client-server-api/index.md#adding-account-administrative-contact-information
	"requestTokenToRegisterMSISDN":      "M_THREEPID_MEDIUM_NOT_SUPPORTED",
	"requestTokenTo3PIDMSISDN":          "M_THREEPID_MEDIUM_NOT_SUPPORTED",
	"requestTokenToResetPasswordMSISDN": "M_THREEPID_MEDIUM_NOT_SUPPORTED",
}

// noErrors are the endpoints whose specified errors a server of this kind has no cause for.
var noErrors = map[string]string{
	"getLoginFlows": "that there is no login but by OAuth 2.0",
}

// TestClientServer tells the stories, and then looks whether an endpoint was left out.
//
// spec: client-server-api/index.md
func TestClientServer(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		d, err := loadDefinition()
		if err != nil {
			t.Fatal(err)
		}
		s := &scene{t: t, definition: d, db: db, seen: make(map[string]*seen)}
		for id := range d.operations {
			s.seen[id] = &seen{}
		}
		s.post = mailtest.Open(t)
		network := harness.NewNetwork(t)
		s.identity = newIdentityServer(t, network)
		s.bridge = harness.NewBridge(t)
		s.server = network.ParleyConfigured(t, db, settings+s.post.Settings()+s.bridge.Settings())
		s.bridge.Connect(s.server)
		s.root = s.server.Administrator(t, "root")
		for _, story := range []func(*scene){
			tokens, closed, invited,
			discovery, registration, sessions, passwords, addresses, devices, administration, profiles, clientData, pushing, reports,
			making, memberships, talking, state, spaces, networks, keys, backup, files,
		} {
			name := runtime.FuncForPC(reflect.ValueOf(story).Pointer()).Name()
			t.Run(name[strings.LastIndexByte(name, '.')+1:], func(t *testing.T) { story(s.in(t)) })
		}
		for _, id := range slices.Sorted(maps.Keys(s.seen)) {
			op, seen := d.operations[id], s.seen[id]
			if code, not := notOffered[id]; not && !slices.Contains(seen.codes, code) {
				t.Errorf("%s %s (%s) never said that it is not offered", op.method, op.path, id)
			} else if !not && !seen.good {
				t.Errorf("%s %s (%s) never answered well", op.method, op.path, id)
			}
			if errors := op.errors(); seen.codes == nil && len(errors) > 0 && noErrors[id] == "" {
				t.Errorf("%s %s (%s) never answered with an error, of which %s are specified", op.method, op.path, id, errors)
			}
		}
	})
}

// seen is which answers of an endpoint the stories had.
type seen struct {
	good  bool
	codes []string // of its errors
}

// scene is where a story is told.
type scene struct {
	t          *testing.T
	definition *definition
	db         harness.Database
	server     *harness.Server
	post       *mailtest.Office
	identity   *identityServer
	bridge     *harness.Bridge
	root       *harness.User // an administrator
	seen       map[string]*seen
}

// in is the scene in a subtest.
func (s *scene) in(t *testing.T) *scene {
	bound := *s
	bound.t = t
	return &bound
}

// at is an identifier of the server's.
func (s *scene) at(local string) string { return local + ":" + s.server.Name }

// user makes an account.
func (s *scene) user(name string) *harness.User {
	s.t.Helper()
	return s.server.Register(s.t, name)
}

type (
	object = map[string]any
	list   = []any
	// query is the parameters of a request's query.
	query map[string]string
	// file is a body that isn't JSON.
	file struct {
		kind string
		data []byte
	}
)

// ok calls an endpoint, which must answer well. who may be nil. args are the values of the path's parameters in their
// order (of any type whose kind is a string), a query, and a body: an object, or a file.
func (s *scene) ok(id string, who *harness.User, args ...any) harness.Response {
	s.t.Helper()
	resp := s.call(id, who, args)
	if resp.Status >= 400 {
		s.t.Fatalf("%s %v: got %d %s", id, args, resp.Status, resp.Body)
	}
	s.seen[id].good = true
	return resp
}

// refused calls an endpoint, which must answer with an error. code is "" for the first answer of user-interactive
// authentication, and names all that may come where the specification leaves the choice: "M_BAD_JSON|M_INVALID_PARAM".
func (s *scene) refused(id string, who *harness.User, status int, code string, args ...any) harness.Response {
	s.t.Helper()
	resp := s.call(id, who, args)
	if resp.Status != status || !slices.Contains(strings.Split(code, "|"), resp.Get("errcode").String()) {
		s.t.Errorf("%s %v: got %d %s; want %d %s", id, args, resp.Status, resp.Body, status, code)
	}
	s.seen[id].codes = append(s.seen[id].codes, resp.Get("errcode").Str)
	return resp
}

// call makes a request and holds the answer against the specification.
func (s *scene) call(id string, who *harness.User, args []any) harness.Response {
	s.t.Helper()
	op := s.definition.operations[id]
	if op == nil {
		s.t.Fatalf("there is no endpoint %s", id)
	}
	var values []string
	parameters := url.Values{}
	var body io.Reader
	kind := "application/json"
	for _, arg := range args {
		switch arg := arg.(type) {
		case query:
			for k, v := range arg {
				parameters.Set(k, v)
			}
		case object:
			text, err := json.Marshal(arg)
			if err != nil {
				s.t.Fatal(err)
			}
			body = bytes.NewReader(text)
		case file:
			body, kind = bytes.NewReader(arg.data), arg.kind
		default:
			if reflect.ValueOf(arg).Kind() != reflect.String {
				s.t.Fatalf("%s: cannot send a %T", id, arg)
			}
			values = append(values, fmt.Sprint(arg))
		}
	}
	path, err := op.fill(values)
	if err != nil {
		s.t.Fatal(err)
	}
	if body == nil && op.method == http.MethodPost {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(s.t.Context(), op.method, s.server.URL+path+"?"+parameters.Encode(), body)
	if err != nil {
		s.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if who != nil {
		req.Header.Set("Authorization", "Bearer "+who.AccessToken)
	}
	resp := harness.Send(req)
	if resp.Status == 0 {
		s.t.Fatalf("%s: %s", id, resp.Body)
	}
	if err := s.definition.check(s.t.Context(), op, req, resp); err != nil {
		s.t.Errorf("%s %v: %d %.2000s\nis not as specified: %.1500v", id, args, resp.Status, resp.Body, err)
	}
	return resp
}

func escape(segment string) string { return url.PathEscape(segment) }

// tokens asks every endpoint that wants an access token without one, and with one that is none.
//
// spec: client-server-api/index.md#using-access-tokens
func tokens(s *scene) {
	nobody := s.server.Anonymous(s.t)
	nobody.AccessToken = "nothing"
	for _, id := range slices.Sorted(maps.Keys(s.definition.operations)) {
		op := s.definition.operations[id]
		if !op.asksWho() || notOffered[id] != "" {
			continue
		}
		values := make([]any, strings.Count(op.path, "{"))
		for i := range values {
			values[i] = "x"
		}
		for code, who := range map[string]*harness.User{"M_MISSING_TOKEN": nil, "M_UNKNOWN_TOKEN": nobody} {
			if resp := s.call(id, who, values); resp.Status != http.StatusUnauthorized || resp.Get("errcode").Str != code {
				s.t.Errorf("%s: got %d %s; want 401 %s", id, resp.Status, resp.Body, code)
			}
		}
	}
}
