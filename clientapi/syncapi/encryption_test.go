package syncapi_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"parley/clientapi/syncapi"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// syncNode is a node that answers /sync over HTTP.
type syncNode struct {
	t     *testing.T
	rooms *roomserver.Server
	users *userserver.Server
	http  *httptest.Server
}

func eachSyncNode(t *testing.T, run func(t *testing.T, n *syncNode)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		var db *storage.DB
		hub := stream.NewHub(stream.HubOptions{Rooms: func(ctx context.Context, user id.UserID) ([]id.RoomID, id.Pos, error) {
			return syncapi.JoinedRooms(ctx, db, user)
		}})
		t.Cleanup(hub.Close)
		db = storagetest.Open(t, url, hub.Publish)
		rooms, err := roomserver.New(roomserver.Options{DB: db, Name: "test", KeyID: "ed25519:1",
			Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "12"})
		if err != nil {
			t.Fatal(err)
		}
		users := userserver.New(userserver.Options{DB: db, ServerName: "test", Rooms: rooms, Publish: hub.Publish, NoPresence: true,
			Hashing: userserver.Hashing{Memory: 64, Passes: 1, AtOnce: 2}})
		t.Cleanup(users.Close)
		api, err := syncapi.New(syncapi.Options{DB: db, Rooms: rooms, Hub: hub, Users: users})
		if err != nil {
			t.Fatal(err)
		}
		handler, err := httpapi.New(httpapi.Options{Authenticate: func(ctx context.Context, _ *httpapi.Request, token string) (*httpapi.Caller, error) {
			c, err := users.Authenticate(ctx, token, "")
			return &httpapi.Caller{User: c.User, Device: c.Device, DeviceNID: c.DeviceNID}, err
		}}, api.Routes())
		if err != nil {
			t.Fatal(err)
		}
		n := &syncNode{t: t, rooms: rooms, users: users, http: httptest.NewServer(handler)}
		t.Cleanup(n.http.Close)
		run(t, n)
	})
}

// syncClient is a device that syncs.
type syncClient struct {
	*syncNode
	userserver.Session
	since string
}

func (n *syncNode) client(user string) *syncClient {
	n.t.Helper()
	s, err := n.users.Register(context.Background(), userserver.Registration{Localpart: user})
	if err != nil {
		n.t.Fatal(err)
	}
	return &syncClient{syncNode: n, Session: s}
}

// answer is what the tests here look at of a sync's answer.
type answer struct {
	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []json.RawMessage `json:"events"`
	} `json:"to_device"`
	DeviceLists struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	} `json:"device_lists"`
	Counts map[string]int `json:"device_one_time_keys_count"`
	Unused []string       `json:"device_unused_fallback_key_types"`
}

// peek syncs and stays where it was.
func (c *syncClient) peek(timeout int) *answer {
	c.t.Helper()
	req, err := http.NewRequest("GET", fmt.Sprintf("%s/_matrix/client/v3/sync?timeout=%d&since=%s", c.http.URL, timeout, url.QueryEscape(c.since)), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.AccessToken)
	resp, err := c.http.Client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != 200 {
		c.t.Fatalf("sync is answered with %d, %v", resp.StatusCode, err)
	}
	return &a
}

// sync syncs and goes on from there.
func (c *syncClient) sync(timeout int) *answer {
	c.t.Helper()
	a := c.peek(timeout)
	c.since = a.NextBatch
	return a
}

// until syncs until there is what is waited for.
func (c *syncClient) until(what string, there func(a *answer) bool) *answer {
	c.t.Helper()
	for range 20 {
		if a := c.sync(10_000); there(a) {
			return a
		}
	}
	c.t.Fatalf("waited in vain for %s", what)
	return nil
}

func TestToDevice(t *testing.T) {
	eachSyncNode(t, func(t *testing.T, n *syncNode) {
		alice, bob := n.client("alice"), n.client("bob")
		txn := 0
		send := func(count int) {
			t.Helper()
			for range count {
				txn++
				err := n.users.SendToDevice(context.Background(), alice.User, alice.DeviceNID, "m.test", fmt.Sprint(txn),
					userserver.Messages{bob.User: {bob.Device: fmt.Appendf(nil, `{"n":%d}`, txn)}})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		got := func(a *answer) (ns []int) {
			for _, e := range a.ToDevice.Events {
				var event struct {
					Sender  id.UserID `json:"sender"`
					Content struct{ N int }
				}
				if err := json.Unmarshal(e, &event); err != nil || event.Sender != alice.User {
					t.Errorf("message %s, %v", e, err)
				}
				ns = append(ns, event.Content.N)
			}
			return ns
		}
		send(1)
		if ns := got(bob.sync(0)); !slices.Equal(ns, []int{1}) {
			t.Errorf("the first sync has %v", ns)
		}
		if ns := got(bob.sync(0)); len(ns) != 0 {
			t.Errorf("what was acknowledged came again: %v", ns)
		}
		woken := make(chan *answer)
		go func() { woken <- bob.until("a message", func(a *answer) bool { return len(a.ToDevice.Events) > 0 }) }()
		send(1)
		if ns := got(<-woken); !slices.Equal(ns, []int{2}) {
			t.Errorf("who waits is given %v", ns)
		}
		// Until the new token is used, the message comes again; many come in their order.
		send(250)
		a := bob.peek(0)
		ns := got(a)
		if len(ns) != 250 || !slices.IsSorted(ns) || ns[0] != 3 {
			t.Errorf("%d messages: %v", len(ns), ns)
		}
		if same := got(bob.peek(0)); !slices.Equal(same, ns) {
			t.Errorf("%d messages the second time", len(same))
		}
		bob.since = a.NextBatch
		if ns := got(bob.sync(0)); len(ns) != 0 {
			t.Errorf("what was acknowledged came again: %v", ns)
		}
		// It is gone, even for one who begins anew.
		bob.since = ""
		if ns := got(bob.sync(0)); len(ns) != 0 {
			t.Errorf("what was acknowledged was kept: %v", ns)
		}
	})
}

func TestKeyCounts(t *testing.T) {
	eachSyncNode(t, func(t *testing.T, n *syncNode) {
		ctx := context.Background()
		alice := n.client("alice")
		upload := func(up userserver.KeyUpload) {
			t.Helper()
			if _, err := n.users.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, up); err != nil {
				t.Fatal(err)
			}
		}
		if a := alice.sync(0); len(a.Counts) != 0 || a.Unused == nil || len(a.Unused) != 0 {
			t.Errorf("without keys: %v, %v", a.Counts, a.Unused)
		}
		upload(userserver.KeyUpload{
			OneTimeKeys:  map[string]json.RawMessage{"x:1": json.RawMessage(`{}`), "x:2": json.RawMessage(`{}`)},
			FallbackKeys: map[string]json.RawMessage{"x:F": json.RawMessage(`{}`)},
		})
		claim := func() {
			t.Helper()
			if _, _, err := n.users.ClaimKeys(ctx, map[id.UserID]map[id.DeviceID]string{alice.User: {alice.Device: "x"}}, 0); err != nil {
				t.Error(err)
			}
		}
		want := func(count int, unused ...string) func(*answer) bool {
			return func(a *answer) bool { return a.Counts["x"] == count && slices.Equal(a.Unused, unused) }
		}
		for range 3 { // each answer has them, even where nothing is new
			if a := alice.sync(0); !want(2, "x")(a) {
				t.Errorf("counts %v, unused %v", a.Counts, a.Unused)
			}
		}
		// Whoever waits is told when keys are given away.
		for _, left := range []func(*answer) bool{want(1, "x"), want(0, "x"), want(0)} {
			told := make(chan *answer)
			go func() { told <- alice.until("a change", left) }()
			claim()
			<-told
			if a := alice.sync(0); !left(a) {
				t.Errorf("counts %v, unused %v", a.Counts, a.Unused)
			}
		}
	})
}

func TestDeviceLists(t *testing.T) {
	eachSyncNode(t, func(t *testing.T, n *syncNode) {
		ctx := context.Background()
		alice, bob, carol := n.client("alice"), n.client("bob"), n.client("carol")
		upload := func(c *syncClient, key string) {
			t.Helper()
			keys := fmt.Appendf(nil, `{"user_id":%q,"device_id":%q,"algorithms":[],"keys":{"ed25519:%[2]s":%[3]q}}`, c.User, c.Device, key)
			if _, err := n.users.UploadKeys(ctx, c.User, c.Device, c.DeviceNID, userserver.KeyUpload{DeviceKeys: keys}); err != nil {
				t.Fatal(err)
			}
		}
		join := func(c *syncClient, room id.RoomID) {
			t.Helper()
			if err := n.rooms.Join(ctx, roomserver.MemberRequest{Room: room, Sender: c.User}); err != nil {
				t.Fatal(err)
			}
		}
		leave := func(c *syncClient, room id.RoomID) {
			t.Helper()
			if err := n.rooms.Leave(ctx, roomserver.MemberRequest{Room: room, Sender: c.User, Target: c.User}); err != nil {
				t.Fatal(err)
			}
		}
		room, err := n.rooms.Create(ctx, roomserver.CreateRequest{Creator: alice.User, Preset: "public_chat",
			InitialState: []roomserver.StateEvent{{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)}}})
		if err != nil {
			t.Fatal(err)
		}
		changed := func(user id.UserID) func(*answer) bool {
			return func(a *answer) bool { return slices.Contains(a.DeviceLists.Changed, user) }
		}
		left := func(user id.UserID) func(*answer) bool {
			return func(a *answer) bool { return slices.Contains(a.DeviceLists.Left, user) }
		}
		for _, c := range []*syncClient{alice, bob, carol} {
			if a := c.sync(0); len(a.DeviceLists.Changed) != 0 {
				t.Errorf("the first sync has %v", a.DeviceLists)
			}
		}
		upload(alice, "one")
		alice.until("alice's own change", changed(alice.User))
		join(bob, room)
		bob.until("alice, with whom there is a room now", changed(alice.User))
		alice.until("bob, with whom there is a room now", changed(bob.User))
		upload(alice, "two")
		bob.until("alice's change", changed(alice.User))
		upload(bob, "one")
		alice.until("bob's change", changed(bob.User))
		// Carol shares no room with anybody.
		if a := carol.sync(0); len(a.DeviceLists.Changed) != 0 || len(a.DeviceLists.Left) != 0 {
			t.Errorf("carol is told %v", a.DeviceLists)
		}
		leave(bob, room)
		alice.until("bob, who left", left(bob.User))
		bob.until("alice, whom bob left", left(alice.User))
		upload(alice, "three")
		if a := bob.sync(0); len(a.DeviceLists.Changed) != 0 {
			t.Errorf("bob is told %v", a.DeviceLists)
		}
	})
}
