package clientapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"parley/clientapi"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/unread"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// node is a whole server but for its process.
type node struct {
	t     *testing.T
	db    *storage.DB
	users *userserver.Server
	rooms *roomserver.Server
	http  *httptest.Server
}

// each runs a test on a node on each database. change may change how it is set up.
func each(t *testing.T, change func(*clientapi.Options, *userserver.Options), run func(t *testing.T, n *node)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		n := &node{t: t, db: storagetest.Open(t, url, nil)}
		var err error
		n.rooms, err = roomserver.New(roomserver.Options{
			DB: n.db, Name: "x.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12",
		})
		if err != nil {
			t.Fatal(err)
		}
		counter, err := unread.New(n.db, n.rooms)
		if err != nil {
			t.Fatal(err)
		}
		users := userserver.Options{DB: n.db, ServerName: "x.org", Rooms: n.rooms,
			Hashing: userserver.Hashing{Memory: 64, Passes: 1, AtOnce: 2}}
		options := clientapi.Options{ServerName: "x.org", Rooms: n.rooms, Unread: counter, Epoch: n.db.Epoch(), Registration: clientapi.Registration{Open: true, Guests: true}}
		if change != nil {
			change(&options, &users)
		}
		n.users = userserver.New(users)
		t.Cleanup(n.users.Close)
		options.Users = n.users
		api, err := clientapi.New(options)
		if err != nil {
			t.Fatal(err)
		}
		handler, err := httpapi.New(httpapi.Options{Authenticate: api.Authenticate}, api.Routes())
		if err != nil {
			t.Fatal(err)
		}
		n.http = httptest.NewServer(handler)
		t.Cleanup(n.http.Close)
		run(t, n)
	})
}

// answer is what the server said.
type answer struct {
	t      *testing.T
	what   string
	status int
	text   string
	body   map[string]any
}

// do makes a request. token may be "", body may be "" for none.
func (n *node) do(t *testing.T, method, path, token, body string) *answer {
	t.Helper()
	req, err := http.NewRequest(method, n.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := n.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := &answer{t: t, what: method + " " + path + " " + body, status: resp.StatusCode, text: string(text)}
	if err := json.Unmarshal(text, &a.body); err != nil {
		t.Errorf("%s is answered with %q", a.what, text)
	}
	return a
}

// want checks the status, and the errcode of an error.
func (a *answer) want(status int, code string) *answer {
	a.t.Helper()
	got, _ := a.body["errcode"].(string)
	if a.status != status || got != code {
		a.t.Errorf("%.300s: got %d %.1000s, want %d %s", a.what, a.status, a.text, status, code)
	}
	return a
}

// json checks the whole answer.
func (a *answer) json(want string) *answer {
	a.t.Helper()
	a.want(200, "")
	var got, expected bytes.Buffer
	if json.Compact(&got, []byte(a.text)) != nil || json.Compact(&expected, []byte(want)) != nil || !equalJSON(got.Bytes(), expected.Bytes()) {
		a.t.Errorf("%s: got %s, want %s", a.what, a.text, want)
	}
	return a
}

func equalJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

// get is a string of the answer.
func (a *answer) get(key string) string {
	a.t.Helper()
	s, ok := a.body[key].(string)
	if !ok {
		a.t.Errorf("%s: %s has no string %s", a.what, a.text, key)
	}
	return s
}

// user registers a user and gives their access token.
func (n *node) user(t *testing.T, name string) string {
	t.Helper()
	s, err := n.users.Register(context.Background(), userserver.Registration{
		Localpart: name, Password: passwordOf(name), Session: userserver.NewSession{Device: id.DeviceID("DEV" + strings.ToUpper(name))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.AccessToken
}

func passwordOf(name string) string { return "password of " + name }

// auth is the "auth" with which a user confirms what they ask for.
func auth(name string) string {
	return fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":%q}`, name, passwordOf(name))
}

// room makes a room of a user.
func (n *node) room(t *testing.T, user id.UserID) id.RoomID {
	t.Helper()
	room, err := n.rooms.Create(context.Background(), roomserver.CreateRequest{Creator: user, Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	return room
}
