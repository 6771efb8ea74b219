package roomserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
	"parley/storage/storagetest"
)

// node is one of some servers that share a room; what it sends, the test carries.
type node struct {
	*Server
	user id.UserID

	mu sync.Mutex
	// joined are those of whom a notice said that they are in a room.
	joined map[id.UserID]bool
}

func (n *node) hear(notice stream.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.joined == nil {
		n.joined = make(map[id.UserID]bool)
	}
	for _, user := range notice.Joined {
		n.joined[user] = true
	}
}

// saidToBeIn says whether a notice said of a user that they are in a room.
func (n *node) saidToBeIn(user id.UserID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.joined[user]
}

func newNode(t testing.TB, name id.ServerName, url string) *node {
	t.Helper()
	seed := make([]byte, 32)
	copy(seed, name)
	s, err := New(Options{DB: storagetest.Open(t, url, nil), Name: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed), DefaultVersion: "12"})
	ok(t, err)
	return &node{Server: s, user: id.NewUserID("u", name)}
}

// events are all that a node has in a room's timeline, in its order.
func (n *node) events(t testing.TB, room id.RoomID) []storage.TimelineEvent {
	t.Helper()
	events, err := storage.Get(context.Background(), n.db, func(tx *storage.Tx) ([]storage.TimelineEvent, error) {
		r, err := tx.GetRoom(room)
		if err != nil {
			return nil, err
		}
		return tx.ListTimelineForwards(r.NID, 0, 1<<40, 1<<20)
	})
	ok(t, err)
	return events
}

// state is the current state of a room, as the IDs of its events.
func (n *node) state(t testing.TB, room id.RoomID) []string {
	t.Helper()
	var out []string
	err := n.db.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		events, err := n.StateEvents(tx, r.Root, true)
		for _, e := range events {
			f := gjson.GetManyBytes(e.JSON, "type", "state_key")
			out = append(out, f[0].Str+" "+f[1].Str+" "+string(e.ID))
		}
		return err
	})
	ok(t, err)
	slices.Sort(out)
	return out
}

// members is what the table of memberships says, which must follow from the state.
func (n *node) members(t testing.TB, room id.RoomID, users []id.UserID) (out []string) {
	t.Helper()
	for _, u := range users {
		m, err := n.Membership(context.Background(), u, room)
		ok(t, err)
		out = append(out, string(u)+" "+m)
	}
	return out
}

// carry has a node receive an event, and before it what it finds missing.
func (n *node) carry(t testing.TB, version id.RoomVersion, from map[id.EventID][]byte, event id.EventID) error {
	t.Helper()
	pdu, err := Parse(version, from[event])
	ok(t, err)
	for range 50 {
		err := n.Receive(context.Background(), pdu)
		var missing *MissingError
		if !errors.As(err, &missing) {
			return err
		}
		for _, m := range append(slices.Clone(missing.Auth), missing.Prev...) {
			if from[m] == nil {
				t.Fatalf("%s names %s, which nobody sent", event, m)
			}
			if err := n.carry(t, version, from, m); err != nil && !errors.Is(err, ErrRejected) {
				return err
			}
		}
	}
	return fmt.Errorf("%s goes on missing events", event)
}

// TestConvergence has three servers change one room at random, hearing of each other late,
// out of order and twice, and compares what they come to. PARLEY_TEST_SEED repeats one history.
func TestConvergence(t *testing.T) {
	runs := 12
	first := rand.Uint64()
	if seed, err := strconv.ParseUint(os.Getenv("PARLEY_TEST_SEED"), 10, 64); err == nil {
		first, runs = seed, 1
	}
	storagetest.EachURL(t, func(t *testing.T, url string) {
		if !filepath.IsAbs(url) {
			runs = min(runs, 3) // a database of its own takes a while to make
		}
		for run := range runs {
			seed := first + uint64(run)
			version := []id.RoomVersion{"1", "6", "10", "12"}[run%4]
			t.Run(fmt.Sprintf("version %s, PARLEY_TEST_SEED=%d", version, seed), func(t *testing.T) {
				var urls []string
				for i := range 3 {
					if filepath.IsAbs(url) {
						urls = append(urls, filepath.Join(t.TempDir(), fmt.Sprint(i, ".db")))
					} else {
						urls = append(urls, storagetest.Postgres(t))
					}
				}
				converge(t, rand.New(rand.NewPCG(seed, 0)), version, urls)
			})
		}
	})
}

func converge(t *testing.T, r *rand.Rand, version id.RoomVersion, urls []string) {
	ctx := context.Background()
	var nodes []*node
	var users []id.UserID
	for i, url := range urls {
		nodes = append(nodes, newNode(t, id.ServerName(fmt.Sprintf("s%d", i)), url))
		users = append(users, nodes[i].user)
	}
	room, err := nodes[0].Create(ctx, CreateRequest{Creator: users[0], Version: version, Preset: "public_chat"})
	ok(t, err)
	raw := make(map[id.EventID][]byte)
	have := make([]map[id.EventID]bool, len(nodes))
	for i := range have {
		have[i] = make(map[id.EventID]bool)
	}
	// collect takes what a node has made itself into the pool of what can be carried.
	collect := func(i int) {
		for _, e := range nodes[i].events(t, room) {
			have[i][e.ID] = true
			if _, ok := raw[e.ID]; !ok {
				raw[e.ID] = e.JSON
			}
		}
	}
	deliver := func(i int, e id.EventID) {
		if err := nodes[i].carry(t, version, raw, e); err != nil && !errors.Is(err, ErrRejected) {
			t.Fatalf("%s to %s: %v", raw[e], nodes[i].name, err)
		}
		have[i][e] = true
	}
	sorted := func() []id.EventID {
		var all []id.EventID
		for e := range raw {
			all = append(all, e)
		}
		slices.Sort(all)
		return all
	}
	// Everybody gets the beginning, and joins.
	collect(0)
	for _, n := range nodes[1:] {
		ok(t, n.AddRoom(ctx, room, version))
	}
	for i, n := range nodes[1:] {
		for _, e := range sorted() {
			deliver(i+1, e)
		}
		ok(t, n.joinHere(ctx, &MemberRequest{Room: room, Sender: n.user}))
		collect(i + 1)
		for j := range nodes {
			for _, e := range sorted() {
				deliver(j, e)
			}
		}
	}
	levels := []byte(`{"users":{"` + string(users[0]) + `":100,"` + string(users[1]) + `":100,"` + string(users[2]) + `":50},"state_default":50}`)
	if version == "12" {
		levels = []byte(`{"users":{"` + string(users[1]) + `":100,"` + string(users[2]) + `":50},"state_default":50}`)
	}
	_, err = nodes[0].Send(ctx, SendRequest{Room: room, Sender: users[0], Type: "m.room.power_levels", StateKey: new(string), Content: levels})
	ok(t, err)
	collect(0)

	for range 40 {
		i := r.IntN(len(nodes))
		n := nodes[i]
		other := users[r.IntN(len(users))]
		var err error
		switch r.IntN(9) {
		case 0:
			err = n.Ban(ctx, MemberRequest{Room: room, Sender: n.user, Target: other})
		case 1:
			err = n.Unban(ctx, MemberRequest{Room: room, Sender: n.user, Target: other})
		case 2:
			err = n.Kick(ctx, MemberRequest{Room: room, Sender: n.user, Target: other})
		case 3:
			err = n.Join(ctx, MemberRequest{Room: room, Sender: n.user})
		case 4:
			rule := []string{"public", "invite"}[r.IntN(2)]
			_, err = n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: "m.room.join_rules", StateKey: new(string),
				Content: []byte(`{"join_rule":"` + rule + `"}`)})
		case 5:
			content := fmt.Sprintf(`{"users":{%q:%d,%q:%d},"state_default":50}`, users[1], 50*r.IntN(3), users[2], 50*r.IntN(3))
			if version != "12" {
				content = fmt.Sprintf(`{"users":{%q:100,%q:%d,%q:%d},"state_default":50}`, users[0], users[1], 50*r.IntN(3), users[2], 50*r.IntN(3))
			}
			_, err = n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: "m.room.power_levels", StateKey: new(string), Content: []byte(content)})
		case 6:
			_, err = n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: "m.room.topic", StateKey: new(string),
				Content: []byte(fmt.Sprintf(`{"topic":"t%d"}`, r.IntN(1000)))})
		case 7:
			_, err = n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: "m.room.message", Content: []byte(`{"body":"x"}`)})
		case 8:
			// Somebody hears of something.
			var unheard []id.EventID
			for _, e := range sorted() {
				if !have[i][e] {
					unheard = append(unheard, e)
				}
			}
			if len(unheard) > 0 {
				e := unheard[r.IntN(len(unheard))]
				deliver(i, e)
				deliver(i, e)
			}
		}
		if err != nil && matrixerr.CodeOf(err) == "" {
			t.Fatal(err)
		}
		collect(i)
	}
	// Everybody hears of everything, each in an order of their own; and one who still may
	// writes what ties all ends together.
	for i := range nodes {
		all := sorted()
		r.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
		for _, e := range all {
			deliver(i, e)
		}
	}
	last, err := nodes[0].Send(ctx, SendRequest{Room: room, Sender: users[0], Type: "m.room.message", Content: []byte(`{"body":"done"}`)})
	if matrixerr.CodeOf(err) != "" {
		return // the creator was put out of the room: nobody is left to tie the ends
	}
	ok(t, err)
	collect(0)
	before := make([][]string, len(nodes))
	for i, n := range nodes {
		deliver(i, last)
		before[i] = n.at(t, room, last)
		if !slices.Equal(before[i], before[0]) {
			t.Errorf("%s has\n%q\nand %s\n%q", nodes[0].name, before[0], n.name, before[i])
		}
		// The table of memberships is what the state says.
		var want []string
		current := n.state(t, room)
		for _, u := range users {
			membership := "leave"
			for _, line := range current {
				var eventType, key, event string
				fmt.Sscan(line, &eventType, &key, &event)
				if eventType == "m.room.member" && key == string(u) {
					membership = gjson.GetBytes(raw[id.EventID(event)], "content.membership").Str
				}
			}
			want = append(want, string(u)+" "+membership)
		}
		if got := n.members(t, room, users); !slices.Equal(got, want) {
			t.Errorf("%s: the members are %q, the state says %q", n.name, got, want)
		}
	}
}

// at is the state of a room after an event, as the IDs of its events.
func (n *node) at(t testing.TB, room id.RoomID, event id.EventID) (out []string) {
	t.Helper()
	err := n.db.Read(context.Background(), func(tx *storage.Tx) error {
		e, err := tx.GetEvent(event)
		if err != nil {
			return err
		}
		events, err := n.StateEvents(tx, e.Root, true)
		for _, e := range events {
			out = append(out, string(e.ID))
		}
		return err
	})
	ok(t, err)
	slices.Sort(out)
	return out
}

func TestReceiveJudges(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		n := newNode(t, "s0", url)
		room, err := n.Create(ctx, CreateRequest{Creator: n.user, Version: "11", Preset: "public_chat"})
		ok(t, err)
		remote := &Server{name: "s9", keyID: "ed25519:1", key: ed25519.NewKeyFromSeed(make([]byte, 32))}
		head := func() (r storage.Room, state map[string]id.EventID) {
			state = make(map[string]id.EventID)
			ok(t, n.db.Read(ctx, func(tx *storage.Tx) (err error) {
				if r, err = tx.GetRoom(room); err != nil {
					return err
				}
				events, err := n.StateEvents(tx, r.Root, true)
				for _, e := range events {
					f := gjson.GetManyBytes(e.JSON, "type", "state_key")
					state[f[0].Str+"|"+f[1].Str] = e.ID
				}
				return err
			}))
			return r, state
		}
		make := func(d draft, prev, auth []id.EventID) gomatrixserverlib.PDU {
			links := func(ids []id.EventID) (out []link) {
				for _, i := range ids {
					out = append(out, link{id: i})
				}
				return out
			}
			d.Room, d.TS = room, 1
			r, _ := head()
			e, err := remote.build(&storage.Room{Version: "11", NID: r.NID}, &d, links(prev), links(auth), r.Depth+1)
			ok(t, err)
			return e.PDU
		}
		r, state := head()
		tip := []id.EventID{r.Extremities[0].ID}
		key := "@m:s9"
		join := draft{Sender: "@m:s9", Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"join"}`)}
		auth := []id.EventID{state["m.room.create|"], state["m.room.join_rules|"], state["m.room.power_levels|"]}

		var missing *MissingError
		if err := n.Receive(ctx, make(join, tip, append(auth, "$unknown"))); !errors.As(err, &missing) || len(missing.Auth) != 1 {
			t.Errorf("an unknown auth event: %v", err)
		}
		if err := n.Receive(ctx, make(join, []id.EventID{"$unknown"}, auth)); !errors.As(err, &missing) || len(missing.Prev) != 1 {
			t.Errorf("an unknown previous event: %v", err)
		}
		for what, bad := range map[string]gomatrixserverlib.PDU{
			"a duplicate auth event":                      make(join, tip, append(auth, auth[1])),
			"an auth event that the rules do not ask for": make(join, tip, append(auth, state["m.room.history_visibility|"])),
			"no create event":                             make(join, tip, auth[1:]),
			"somebody else's membership":                  make(draft{Sender: "@m:s9", Type: "m.room.member", StateKey: &[]string{"@x:s9"}[0], Content: join.Content}, tip, auth),
			"a message of one who is not a member":        make(draft{Sender: "@m:s9", Type: "m.room.message", Content: []byte(`{}`)}, tip, []id.EventID{auth[0], auth[2]}),
		} {
			if err := n.Receive(ctx, bad); !errors.Is(err, ErrRejected) {
				t.Errorf("%s: %v", what, err)
			}
			if err := n.Receive(ctx, bad); !errors.Is(err, ErrRejected) {
				t.Errorf("%s, again: %v", what, err)
			}
		}
		if after, _ := head(); after.Root != r.Root || !slices.Equal(after.Extremities, r.Extremities) {
			t.Error("rejected events moved the room")
		}
		ok(t, n.Receive(ctx, make(join, tip, auth)))
		ok(t, n.Ban(ctx, MemberRequest{Room: room, Sender: n.user, Target: "@m:s9"}))
		// Where it stands, before the ban, this was allowed; now it is not: it is kept and not shown.
		_, joined := head()
		_ = joined
		banned, _ := head()
		late := make(draft{Sender: "@m:s9", Type: "m.room.message", Content: []byte(`{"body":"late"}`)},
			[]id.EventID{n.memberEvent(t, room, "@m:s9", "join")}, []id.EventID{auth[0], auth[2], n.memberEvent(t, room, "@m:s9", "join")})
		ok(t, n.Receive(ctx, late))
		if after, _ := head(); after.Root != banned.Root || !slices.Equal(after.Extremities, banned.Extremities) {
			t.Error("a soft-failed event moved the room")
		}
		for _, e := range n.events(t, room) {
			if string(e.ID) == late.EventID() {
				t.Error("a soft-failed event is shown")
			}
		}
		// An event of one room is refused in the name of another.
		otherRoom, err := n.Create(ctx, CreateRequest{Creator: n.user, Version: "11", Preset: "public_chat"})
		ok(t, err)
		foreign := n.events(t, otherRoom)[0].ID
		stolen := make(draft{Sender: "@q:s9", Type: "m.room.member", StateKey: &[]string{"@q:s9"}[0], Content: join.Content}, tip, []id.EventID{foreign, auth[1], auth[2]})
		if err := n.Receive(ctx, stolen); !errors.Is(err, ErrRejected) {
			t.Errorf("an auth event of another room: %v", err)
		}
	})
}

// memberEvent is the timeline's event by which a user came to be something.
func (n *node) memberEvent(t testing.TB, room id.RoomID, user id.UserID, membership string) id.EventID {
	t.Helper()
	for _, e := range n.events(t, room) {
		f := gjson.GetManyBytes(e.JSON, "type", "state_key", "content.membership")
		if f[0].Str == "m.room.member" && f[1].Str == string(user) && f[2].Str == membership {
			return e.ID
		}
	}
	t.Fatalf("%s never came to be %s", user, membership)
	return ""
}
