package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
	"parley/storage/storagetest"
)

// testTime is long ago.
var testTime = time.Unix(0, 0)

// asked is a service that answers by its paths, and Services that ask it.
func asked(t *testing.T, answers map[string]string) *Services {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.EscapedPath()]
		if r.Header.Get("Authorization") != "Bearer from us" {
			t.Errorf("%s: wrong token", r.URL)
		}
		if old := !strings.HasPrefix(r.URL.Path, "/_matrix/app/v1/"); old != (r.URL.Query().Get("access_token") == "from us") {
			t.Errorf("%s: the token is where it should not be, or not where it should", r.URL)
		}
		if !ok {
			answer = `404 {"errcode":"M_UNRECOGNIZED"}`
		}
		status := 200
		if _, err := fmt.Sscanf(answer, "%d ", &status); err == nil {
			answer = answer[4:]
		}
		w.WriteHeader(status)
		w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	return servicesAt(t, server.URL)
}

func servicesAt(t *testing.T, address string) *Services {
	t.Helper()
	service, err := parse([]byte(strings.Replace(good, "http://127.0.0.1:9999/", address, 1)), "x.org")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{DB: storagetest.Open(t, filepath.Join(t.TempDir(), "parley.db"), nil), List: []*Service{service}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestFind(t *testing.T) {
	s := asked(t, map[string]string{
		"/_matrix/app/v1/users/@_irc_a:x.org":           "{}",
		"/users/@_irc_old:x.org":                        "{}",
		"/_matrix/app/v1/users/@_irc_none:x.org":        `404 {"errcode":"COM.EXAMPLE.NOT_FOUND"}`,
		"/_matrix/app/v1/users/@_irc_bad:x.org":         "500 {}",
		"/_matrix/app/v1/rooms/%23_irc_a%2Fb%3Ax.org":   "{}",
		"/_matrix/app/v1/rooms/%23_irc_a%2Fb:x.org":     "{}",
		"/_matrix/app/v1/users/@somebody_else:x.org":    "{}",
		"/_matrix/app/v1/rooms/%23somebody_elses:x.org": "{}",
	})
	ctx := context.Background()
	for user, want := range map[id.UserID]bool{
		"@_irc_a:x.org": true, "@_irc_old:x.org": true, "@_irc_none:x.org": false, "@_irc_bad:x.org": false, "@somebody_else:x.org": false,
	} {
		if made, err := s.FindUser(ctx, user); made != want || err != nil {
			t.Errorf("%s: %t, %v", user, made, err)
		}
	}
	for alias, want := range map[id.RoomAlias]bool{"#_irc_a/b:x.org": true, "#_irc_c:x.org": false, "#somebody_elses:x.org": false} {
		if made, err := s.FindAlias(ctx, alias); made != want || err != nil {
			t.Errorf("%s: %t, %v", alias, made, err)
		}
	}
	gone, cancel := context.WithDeadline(ctx, testTime)
	defer cancel()
	var e *matrixerr.Error
	if _, err := s.FindUser(gone, "@_irc_a:x.org"); !errors.As(err, &e) || e.Status != http.StatusRequestTimeout {
		t.Errorf("a service that does not answer in time: %v", err)
	}
}

func TestThirdParty(t *testing.T) {
	s := asked(t, map[string]string{
		"/_matrix/app/v1/thirdparty/protocol/irc":       `{"instances":[{"network_id":"oftc"},{"network_id":"libera"}]}`,
		"/_matrix/app/v1/thirdparty/user/irc":           `[{"userid":"@_irc_a:x.org"}]`,
		"/_matrix/app/unstable/thirdparty/location/irc": `[{"alias":"#_irc_a:x.org"}]`,
		"/_matrix/app/v1/thirdparty/user":               `[{},{}]`,
		"/_matrix/app/v1/thirdparty/location":           `{"not":"a list"}`,
	})
	ctx := context.Background()
	protocols, err := s.Protocols(ctx)
	if err != nil || gjson.GetBytes(protocols["irc"], "instances.1.instance_id").Str != "irc|libera" {
		t.Errorf("%s, %v", protocols["irc"], err)
	}
	count := func(list []json.RawMessage, err error) int {
		if err != nil {
			t.Error(err)
		}
		return len(list)
	}
	got := []int{
		count(s.Users(ctx, "irc", url.Values{"nick": {"a"}})), count(s.Locations(ctx, "irc", nil)), count(s.Users(ctx, "xmpp", nil)),
		count(s.UsersOf(ctx, "@_irc_a:x.org")), count(s.LocationsOf(ctx, "#_irc_a:x.org")),
	}
	if want := []int{1, 1, 0, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("found %v; want %v", got, want)
	}
	merged, err := merged([]byte(`{"instances":[{"a":1}]}`), []byte(`{"instances":[{"b":2}]}`))
	if err != nil || string(merged) != `{"instances":[{"a":1},{"b":2}]}` {
		t.Errorf("%s, %v", merged, err)
	}
}

// spec: application-service-api.md#post_matrixclientv1appserviceappserviceidping
func TestPing(t *testing.T) {
	ctx := context.Background()
	if _, err := asked(t, map[string]string{"/_matrix/app/v1/ping": "{}"}).Ping(ctx, "irc", "7"); err != nil {
		t.Error(err)
	}
	_, err := asked(t, map[string]string{"/_matrix/app/v1/ping": "403 no"}).Ping(ctx, "irc", "")
	var e *matrixerr.Error
	if !errors.As(err, &e) || e.Code != matrixerr.BadStatus || e.Extra["status"] != 403 || e.Extra["body"] != "no" {
		t.Errorf("%v", err)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	if _, err := servicesAt(t, closed.URL).Ping(ctx, "irc", ""); !matrixerr.Is(err, matrixerr.ConnectionFailed) {
		t.Errorf("%v", err)
	}
	gone, cancel := context.WithDeadline(ctx, testTime)
	defer cancel()
	if _, err := servicesAt(t, closed.URL).Ping(gone, "irc", ""); !matrixerr.Is(err, matrixerr.ConnectionTimeout) {
		t.Errorf("%v", err)
	}
	if _, err := servicesAt(t, `""`).Ping(ctx, "irc", ""); !matrixerr.Is(err, matrixerr.URLNotSet) {
		t.Errorf("%v", err)
	}
}

func TestPublish(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		s, err := New(Options{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := s.Publish(ctx, "irc", "oftc", "!a:x.org", true); !matrixerr.Is(err, matrixerr.NotFound) {
			t.Errorf("%v", err)
		}
		if err := db.Write(ctx, func(tx *storage.Tx) error { _, err := tx.InsertRoom("!a:x.org", "12"); return err }); err != nil {
			t.Fatal(err)
		}
		for _, public := range []bool{true, true, false, false} {
			if err := s.Publish(ctx, "irc", "oftc", "!a:x.org", public); err != nil {
				t.Fatal(err)
			}
			for _, of := range []struct {
				service, network string
				want             bool
			}{{"irc", "oftc", public}, {"", "", public}, {"", "oftc", public}, {"irc", "libera", false}, {"other", "oftc", false}} {
				rooms, err := storage.Get(ctx, db, func(tx *storage.Tx) ([]storage.Room, error) { return tx.ListNetworkRooms(of.service, of.network) })
				if err != nil || (len(rooms) == 1) != of.want {
					t.Errorf("%+v: %d rooms, %v", of, len(rooms), err)
				}
			}
		}
	})
}
