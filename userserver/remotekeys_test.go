package userserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// peer is another server with users, whose devices have a number each time that they change.
type peer struct {
	mu    sync.Mutex
	down  bool
	asked map[string]int // how often, by what was asked
	users map[id.UserID]*peerUser
	// meanwhile, where it is not nil, is called when an answer is made and not yet given.
	meanwhile func()
}

// versions say for each device of a user which change of theirs it is as of.
type versions map[id.DeviceID]int64

type peerUser struct {
	name            id.UserID
	stream          int64
	past            map[int64]versions // what was after each change
	now             versions
	master, signing *signer
	edus            []serverapi.EDU // that were not sent yet
}

func newPeer(names ...id.UserID) *peer {
	p := &peer{asked: make(map[string]int), users: make(map[id.UserID]*peerUser)}
	for _, name := range names {
		p.users[name] = &peerUser{name: name, past: map[int64]versions{0: {}}, now: versions{}}
	}
	return p
}

func (u *peerUser) keys(device id.DeviceID) json.RawMessage {
	return fmt.Appendf(nil, `{"user_id":%q,"device_id":%q,"algorithms":["a"],"keys":{"curve25519:%s":"v%d"}}`, u.name, device, device, u.now[device])
}

// change changes a device, or removes it.
func (u *peerUser) change(device id.DeviceID, deleted bool) {
	before := u.stream
	u.stream++
	content := map[string]any{"user_id": u.name, "device_id": device, "stream_id": u.stream, "prev_id": []int64{}}
	if before > 0 {
		content["prev_id"] = []int64{before}
	}
	if deleted {
		delete(u.now, device)
		content["deleted"] = true
	} else {
		u.now[device] = u.stream
		content["keys"] = u.keys(device)
	}
	u.past[u.stream] = maps.Clone(u.now)
	text, err := json.Marshal(content)
	if err != nil {
		panic(err)
	}
	u.edus = append(u.edus, serverapi.EDU{Type: "m.device_list_update", Content: text})
}

var errDown = errors.New("the server is down")

// answer has make look at the users, and then lets time pass.
func (p *peer) answer(kind string, make func()) error {
	p.mu.Lock()
	p.asked[kind]++
	if p.down {
		p.mu.Unlock()
		return errDown
	}
	make()
	meanwhile := p.meanwhile
	p.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	return nil
}

func (p *peer) Profile(context.Context, id.UserID, string) (map[string]json.RawMessage, error) {
	return nil, errDown
}

func (p *peer) QueryKeys(_ context.Context, _ id.ServerName, users map[id.UserID][]id.DeviceID) (*serverapi.Keys, error) {
	out := &serverapi.Keys{DeviceKeys: make(map[id.UserID]map[id.DeviceID]json.RawMessage), MasterKeys: make(map[id.UserID]json.RawMessage),
		SelfSigningKeys: make(map[id.UserID]json.RawMessage)}
	return out, p.answer("query", func() {
		for name := range users {
			u := p.users[name]
			if u == nil {
				continue
			}
			out.DeviceKeys[name] = make(map[id.DeviceID]json.RawMessage)
			for device := range u.now {
				out.DeviceKeys[name][device] = u.keys(device)
			}
			out.MasterKeys[name], out.SelfSigningKeys[name] = u.crossSigning()
		}
		// What nobody asked for.
		out.DeviceKeys["@alice:x.org"] = map[id.DeviceID]json.RawMessage{"FORGED": json.RawMessage(`{}`)}
	})
}

func (u *peerUser) crossSigning() (master, selfSigning json.RawMessage) {
	if u.master != nil {
		master = u.master.key("master")
	}
	if u.signing != nil {
		selfSigning = u.signing.key("self_signing")
	}
	return master, selfSigning
}

func (p *peer) UserDevices(_ context.Context, user id.UserID) (*serverapi.UserDevices, error) {
	out := &serverapi.UserDevices{User: user}
	return out, p.answer("devices", func() {
		u := p.users[user]
		out.StreamID = u.stream
		for device := range u.now {
			d := serverapi.UserDevice{Device: device, Keys: u.keys(device)}
			out.Devices = append(out.Devices, d, d)
		}
		out.MasterKey, out.SelfSigningKey = u.crossSigning()
	})
}

func (p *peer) ClaimKeys(_ context.Context, _ id.ServerName, devices map[id.UserID]map[id.DeviceID]string) (userserver.ClaimedKeys, error) {
	out := make(userserver.ClaimedKeys)
	return out, p.answer("claim", func() {
		for user, list := range devices {
			out[user] = make(map[id.DeviceID]map[string]json.RawMessage)
			for device, algorithm := range list {
				out[user][device] = map[string]json.RawMessage{algorithm + ":1": json.RawMessage(`{"key":"1"}`), "other:1": json.RawMessage(`"2"`)}
			}
		}
		out["@alice:x.org"] = map[id.DeviceID]map[string]json.RawMessage{"D": {"a:1": json.RawMessage(`"forged"`)}}
	})
}

func eachWithPeer(t *testing.T, names []id.UserID, run func(t *testing.T, f *fixture, p *peer)) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		p := newPeer(names...)
		run(t, newFixtureWith(t, url, p), p)
	})
}

// member has a user's membership of a room change.
func (f *fixture) member(t *testing.T, user id.UserID, room id.RoomID, membership string) {
	t.Helper()
	err := f.db.Write(context.Background(), func(tx *storage.Tx) error {
		tx.OnPos(1, func(pos id.Pos) error {
			_, err := tx.Exec(`UPDATE memberships SET membership = $3, pos = $4, since = $4 WHERE user_id = $1 AND room_nid = (SELECT nid FROM rooms WHERE room_id = $2)`,
				user, room, membership, pos)
			return err
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// seen are the versions of the devices in an answer.
func seen(keys map[id.DeviceID]json.RawMessage) versions {
	out := versions{}
	for device, text := range keys {
		v, err := strconv.ParseInt(strings.TrimPrefix(gjson.GetBytes(text, "keys.curve25519:"+string(device)).Str, "v"), 10, 64)
		if err == nil {
			out[device] = v
		}
	}
	return out
}

// TestRemoteListsAreNeverStale has a server lose, repeat and reorder what it sends, change devices
// while it answers, and be down: what is given for a user's devices is never older than the
// newest change that was heard of.
func TestRemoteListsAreNeverStale(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob, "@b1:y.org", "@b2:y.org", "@b3:y.org"}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob, "@b1:y.org", "@b2:y.org", "@b3:y.org"})
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		var lock sync.Mutex // of what follows, as answers are made by the server's own goroutines too
		roll := func(n int) int {
			lock.Lock()
			defer lock.Unlock()
			return r.IntN(n)
		}
		heard := int64(0) // the newest change of bob's that was heard of
		joined := true
		u := p.users[bob]
		change := func() { // with p.mu
			u.change(id.DeviceID("D"+fmt.Sprint(roll(3))), roll(4) == 0)
		}
		deliver := func() {
			p.mu.Lock()
			var edus []serverapi.EDU
			for i := 0; i < len(u.edus); {
				switch roll(6) {
				case 0: // lost
					u.edus = slices.Delete(u.edus, i, i+1)
				case 1: // late
					i++
				default:
					edus = append(edus, u.edus[i])
					if roll(3) > 0 { // else sent twice
						u.edus = slices.Delete(u.edus, i, i+1)
					} else {
						i++
					}
				}
			}
			if roll(3) == 0 {
				slices.Reverse(edus)
			}
			p.mu.Unlock()
			for _, e := range edus {
				if err := f.ReceiveEDU(ctx, "y.org", e); err != nil {
					t.Error(err)
				}
				lock.Lock()
				heard = max(heard, gjson.GetBytes(e.Content, "stream_id").Int())
				lock.Unlock()
			}
		}
		p.meanwhile = func() {
			p.mu.Lock()
			act := roll(3) == 0
			if act {
				change()
			}
			p.mu.Unlock()
			if act {
				deliver()
			}
		}
		answered := 0
		for range 150 {
			switch roll(8) {
			case 0, 1, 2:
				p.mu.Lock()
				change()
				p.mu.Unlock()
			case 3, 4:
				deliver()
			case 5:
				p.mu.Lock()
				p.down = !p.down && roll(2) == 0
				p.mu.Unlock()
			case 6:
				if roll(4) == 0 {
					joined = !joined
					f.member(t, bob, "!r:x.org", map[bool]string{true: "join", false: "leave"}[joined])
					continue
				}
				f.forgetLists(t)
			}
			users := []id.UserID{bob}
			if roll(3) == 0 {
				users = append(users, "@b1:y.org", "@b2:y.org", "@b3:y.org")
			}
			lock.Lock()
			least := heard
			lock.Unlock()
			answer := query(t, f, alice, users...)
			if _, failed := answer.Failures["y.org"]; failed || answer.DeviceKeys[bob] == nil {
				continue
			}
			answered++
			got := seen(answer.DeviceKeys[bob])
			p.mu.Lock()
			found := false
			for n := least; n <= u.stream && !found; n++ {
				found = reflect.DeepEqual(u.past[n], got)
			}
			p.mu.Unlock()
			if !found {
				t.Fatalf("change %d was heard of, and the devices are %v", least, got)
			}
			if answer.DeviceKeys[alice]["FORGED"] != nil {
				t.Fatal("a key of ours came from another server")
			}
		}
		if answered == 0 {
			t.Error("there was no answer")
		}
		t.Logf("%d answers, asked %v", answered, p.asked)
	})
}

func (f *fixture) forgetLists(t *testing.T) {
	t.Helper()
	if err := f.ForgetLists(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// kept says whether a user's devices are kept, and whether they are stale.
func (f *fixture) kept(t *testing.T, user id.UserID) (kept, stale bool) {
	t.Helper()
	lists := must[[]storage.RemoteDeviceList](t)(storage.Get(context.Background(), f.db, func(tx *storage.Tx) ([]storage.RemoteDeviceList, error) {
		return tx.ListRemoteDeviceLists([]id.UserID{user})
	}))
	return len(lists) == 1, len(lists) == 1 && lists[0].Stale
}

func TestRemoteDeviceLists(t *testing.T) {
	const bob, carol id.UserID = "@bob:y.org", "@carol:y.org"
	eachWithPeer(t, []id.UserID{bob, carol}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		u := p.users[bob]
		tell := func(want ...id.UserID) {
			t.Helper()
			edus := u.edus
			u.edus = nil
			f.taken()
			for _, e := range edus {
				if err := f.ReceiveEDU(ctx, "y.org", e); err != nil {
					t.Fatal(err)
				}
			}
			if got := lists(f.taken()); !slices.Equal(got, want) {
				t.Errorf("lists that changed: %v instead of %v", got, want)
			}
		}
		asked := func(kind string, want int) {
			t.Helper()
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.asked[kind] != want {
				t.Errorf("asked %v, instead of %s %d times", p.asked, kind, want)
			}
		}
		devices := func(want versions) {
			t.Helper()
			if got := seen(query(t, f, alice, bob).DeviceKeys[bob]); !reflect.DeepEqual(got, want) {
				t.Errorf("devices %v instead of %v", got, want)
			}
		}
		u.change("A", false)
		u.edus = nil
		devices(versions{"A": 1})
		devices(versions{"A": 1})
		asked("devices", 1)

		// A change that follows is taken in, and nobody is asked; the same again is no news.
		u.change("B", false)
		again := u.edus
		tell(bob)
		u.edus = again
		tell()
		devices(versions{"A": 1, "B": 2})
		u.change("A", true)
		tell(bob)
		devices(versions{"B": 2})
		asked("devices", 1)

		// One that does not is a reason to ask, which happens by itself.
		u.change("C", false)
		u.edus = nil
		u.change("D", false)
		tell(bob)
		eventually.True(t, "what must come to be so does not", func() bool { _, stale := f.kept(t, bob); return !stale })
		asked("devices", 2)
		devices(versions{"B": 2, "C": 4, "D": 5})
		asked("devices", 2)

		// While the server is down, a stale list is not given.
		p.mu.Lock()
		p.down = true
		p.mu.Unlock()
		u.change("E", false)
		u.edus = nil
		u.change("E", true)
		tell(bob)
		if a := query(t, f, alice, bob); a.DeviceKeys[bob] != nil || len(a.Failures) != 1 {
			t.Errorf("keys %v, failures %v", a.DeviceKeys, a.Failures)
		}
		p.mu.Lock()
		p.down = false
		p.mu.Unlock()
		devices(versions{"B": 2, "C": 4, "D": 5})

		// Of one who shares no room the keys are not kept, and changes are no news.
		if a := query(t, f, alice, carol); a.DeviceKeys[carol] == nil {
			t.Errorf("keys %v", a.DeviceKeys)
		}
		if kept, _ := f.kept(t, carol); kept {
			t.Error("the devices of a stranger are kept")
		}
		f.member(t, bob, "!r:x.org", "leave")
		f.forgetLists(t)
		if kept, _ := f.kept(t, bob); kept {
			t.Error("the devices of one who left are kept")
		}
		u.change("F", false)
		tell()
		f.member(t, bob, "!r:x.org", "join")
		if err := f.ReceiveEDU(ctx, "y.org", edu("m.device_list_update", `{"user_id":%q,"device_id":"NONE","stream_id":8,"prev_id":[7]}`, bob)); err != nil {
			t.Fatal(err)
		}
		tell() // a device without keys is no news, and nobody has asked yet
		devices(versions{"B": 2, "C": 4, "D": 5, "F": 8})
	})
}

// TestUnansweredQueries has queries fail while a server is down: when it is heard from again, or the
// node was started anew, those who asked are told to ask again, once.
func TestUnansweredQueries(t *testing.T) {
	users := []id.UserID{"@b0:y.org", "@b1:y.org", "@b2:y.org", "@b3:y.org"}
	eachWithPeer(t, users, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", append([]id.UserID{alice}, users...))
		serverDown := func(down bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.down = down
		}
		changedSince := func(pos id.Pos) []id.UserID {
			changed, _, err := f.ChangedDeviceLists(ctx, alice, pos)
			if err != nil {
				t.Fatal(err)
			}
			return slices.DeleteFunc(changed, func(user id.UserID) bool { return f.Local(user) })
		}
		now := func() id.Pos {
			return must[id.Pos](t)(storage.Get(ctx, f.db, (*storage.Tx).GetPos))
		}
		heard := func() {
			f.clock.Pass(time.Minute)
			f.Heard("y.org")
		}
		restart := func() { f.another(t) }

		for name, test := range map[string]struct {
			before func() // the server goes down
			asked  []id.UserID
			back   func()
		}{
			"never asked before": {func() {
				f.member(t, users[0], "!r:x.org", "leave")
				f.forgetLists(t)
				f.member(t, users[0], "!r:x.org", "join")
			},
				users[:1], heard},
			"all at once": {func() {
				f.member(t, alice, "!r:x.org", "leave")
				f.forgetLists(t)
				f.member(t, alice, "!r:x.org", "join")
			}, users, heard},
			"after a restart": {func() {
				f.member(t, alice, "!r:x.org", "leave")
				f.forgetLists(t)
				f.member(t, alice, "!r:x.org", "join")
			}, users, restart},
			"met anew": {func() {
				query(t, f, alice, users...)
				f.member(t, alice, "!r:x.org", "leave")
				f.member(t, alice, "!r:x.org", "join")
			}, users[:2], heard},
			"no stream number": {func() { query(t, f, alice, users...); f.staleLists(t, p, users[:1]) }, users[:1], heard},
			"a stream number":  {func() { query(t, f, alice, users[0]); f.staleLists(t, p, users[:1]) }, users[:1], heard},
		} {
			serverDown(false)
			heard()
			test.before()
			serverDown(true)
			for range 10 { // as many clients do
				if a := query(t, f, alice, test.asked...); len(a.Failures) != 1 || len(a.DeviceKeys) > 0 {
					t.Errorf("%s: keys %v, failures %v", name, a.DeviceKeys, a.Failures)
				}
			}
			pos := now()
			if got := changedSince(pos); len(got) > 0 {
				t.Errorf("%s: %v changed already", name, got)
			}
			serverDown(false)
			test.back()
			eventually.True(t, "what must come to be so does not", func() bool { return slices.Equal(changedSince(pos), test.asked) })
			pos = now()
			for _, user := range test.asked {
				if a := query(t, f, alice, user); len(a.Failures) > 0 || a.DeviceKeys[user] == nil {
					t.Errorf("%s: keys %v, failures %v", name, a.DeviceKeys, a.Failures)
				}
			}
			if got := changedSince(pos); len(got) > 0 {
				t.Errorf("%s: %v changed again", name, got)
			}
		}
	})
}

// staleLists has changes be heard of that do not follow what is known, while the server is down.
func (f *fixture) staleLists(t *testing.T, p *peer, users []id.UserID) {
	t.Helper()
	p.mu.Lock()
	p.down = true
	var edus []serverapi.EDU
	for _, user := range users {
		u := p.users[user]
		u.change("MISSED", false)
		u.edus = nil
		u.change("GAP", false)
		edus = append(edus, u.edus...)
		u.edus = nil
	}
	p.mu.Unlock()
	for _, e := range edus {
		if err := f.ReceiveEDU(context.Background(), "y.org", e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoteCrossSigning(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		master, other, signing := newSigner(t, bob, ""), newSigner(t, bob, ""), newSigner(t, bob, "")
		signed := func(by *signer) json.RawMessage { return by.sign(t, signing.key("self_signing")) }
		p.users[bob].change("A", false)
		want := func(masterKey, selfSigning string) {
			t.Helper()
			a := query(t, f, alice, bob)
			if got := gjson.GetBytes(a.MasterKeys[bob], "keys.@values.0").Str; got != masterKey {
				t.Errorf("master key %q instead of %q", got, masterKey)
			}
			if got := gjson.GetBytes(a.SelfSigningKeys[bob], "keys.@values.0").Str; got != selfSigning {
				t.Errorf("self-signing key %q instead of %q", got, selfSigning)
			}
		}
		tell := func(code matrixerr.Code, user id.UserID, masterKey, selfSigning json.RawMessage) {
			t.Helper()
			content := map[string]any{"user_id": user}
			if masterKey != nil {
				content["master_key"] = masterKey
			}
			if selfSigning != nil {
				content["self_signing_key"] = selfSigning
			}
			text, err := json.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			wantCode(t, f.ReceiveEDU(ctx, "y.org", serverapi.EDU{Type: "m.signing_key_update", Content: text}), code)
		}
		want("", "")
		tell("", bob, master.key("master"), signed(master))
		want(master.public, signing.public)
		tell(matrixerr.Forbidden, alice, master.key("master"), nil)
		tell(matrixerr.InvalidParam, bob, master.key("self_signing"), nil)
		tell(matrixerr.InvalidParam, bob, newSigner(t, alice, "").key("master"), nil)
		want(master.public, signing.public)
		// What a new master key has not signed goes.
		tell("", bob, other.key("master"), nil)
		want(other.public, "")
		// One that it did not sign is not believed: the server is asked, and says what is.
		tell("", bob, other.key("master"), signed(master))
		want("", "")
		if got := p.asked["devices"]; got < 2 {
			t.Errorf("asked %d times", got)
		}
	})
}

// TestSignaturesOutlastRooms has whom somebody has verified stay so, when they share no room any more, and again one.
func TestSignaturesOutlastRooms(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		master, own, ownSigner := newSigner(t, bob, ""), newSigner(t, alice, ""), newSigner(t, alice, "")
		p.users[bob].master = master
		err := f.UploadCrossSigning(ctx, alice, userserver.CrossSigningUpload{Master: own.key("master"), UserSigning: own.sign(t, ownSigner.key("user_signing"))})
		if err != nil {
			t.Fatal(err)
		}
		query(t, f, alice, bob)
		failures, err := f.UploadSignatures(ctx, alice, map[id.UserID]map[string]json.RawMessage{bob: {master.public: ownSigner.sign(t, master.key("master"))}})
		if err != nil || len(failures) > 0 {
			t.Fatal(failures, err)
		}
		for _, membership := range []string{"join", "leave", "join"} {
			f.member(t, bob, "!r:x.org", membership)
			f.forgetLists(t)
			key := query(t, f, alice, bob).MasterKeys[bob]
			if err := signedjson.Verify(key, ownSigner.public, signatureOf(t, key, alice, ownSigner.name)); err != nil {
				t.Errorf("after a %s: %s: %v", membership, key, err)
			}
			if key := query(t, f, "@other:x.org", bob).MasterKeys[bob]; contains(key, ownSigner.public) {
				t.Errorf("another user sees the signature: %s", key)
			}
		}
	})
}

// TestSignStranger has alice verify somebody of another server with whom nobody here shares a room.
func TestSignStranger(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		master, own, ownSigner := newSigner(t, bob, ""), newSigner(t, alice, ""), newSigner(t, alice, "")
		p.users[bob].master = master
		err := f.UploadCrossSigning(ctx, alice, userserver.CrossSigningUpload{Master: own.key("master"), UserSigning: own.sign(t, ownSigner.key("user_signing"))})
		if err != nil {
			t.Fatal(err)
		}
		sign := func(want matrixerr.Code, by *signer, key *signer) {
			t.Helper()
			failures := must[userserver.SignatureFailures](t)(f.UploadSignatures(ctx, alice, map[id.UserID]map[string]json.RawMessage{
				bob: {key.public: by.sign(t, key.key("master"))}}))
			if e := failures[bob][key.public]; (e == nil) != (want == "") || e != nil && e.Code != want {
				t.Errorf("%v instead of %q", failures, want)
			}
		}
		signed := func(by id.UserID, key *signer) bool {
			return contains(query(t, f, by, bob).MasterKeys[bob], ownSigner.public) && contains(query(t, f, by, bob).MasterKeys[bob], key.public)
		}
		stored := func() int {
			return len(must[[]storage.CrossSigningKey](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]storage.CrossSigningKey, error) {
				return tx.ListCrossSigningKeys([]id.UserID{bob})
			})))
		}
		sign(matrixerr.NotFound, ownSigner, newSigner(t, bob, "")) // not Bob's key
		sign(matrixerr.NotFound, own, master)                      // not the key to sign others with, so it is not kept
		p.down = true
		sign(matrixerr.NotFound, ownSigner, master)
		p.down = false
		if n := stored(); n != 0 {
			t.Errorf("%d keys are kept", n)
		}
		sign("", ownSigner, master)
		if !signed(alice, master) || signed("@other:x.org", master) {
			t.Errorf("signed for alice: %v, for another: %v", signed(alice, master), signed("@other:x.org", master))
		}
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		if !signed(alice, master) {
			t.Error("the signature is gone since they share a room")
		}
		// Bob leaves, and has a new key, which is to be verified anew.
		f.member(t, bob, "!r:x.org", "leave")
		f.forgetLists(t)
		next := newSigner(t, bob, "")
		p.users[bob].master = next
		if signed(alice, next) {
			t.Error("the new key has the signature of the old one")
		}
		sign(matrixerr.NotFound, ownSigner, newSigner(t, bob, ""))
		sign("", ownSigner, next)
		if !signed(alice, next) || stored() != 1 {
			t.Errorf("the new key is not signed, or one of %d", stored())
		}
	})
}

// TestInvalidRemoteKeys has keys come that are not what they should be: they are not given to anybody, and the server is
// asked what there is.
func TestInvalidRemoteKeys(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		p.users[bob].change("A", false)
		p.users[bob].edus = nil
		query(t, f, alice, bob)
		good := string(newSigner(t, bob, "B").deviceKeys(t))
		for name, keys := range map[string]string{
			"another user's":   strings.ReplaceAll(good, "@bob:", "@eve:"),
			"another device's": string(newSigner(t, bob, "C").deviceKeys(t)),
			"wrong signature":  strings.Replace(good, `["a"]`, `["b"]`, 1),
			"wrong key ID":     `{"user_id":"@bob:y.org","device_id":"B","algorithms":[],"keys":{"a:C":"k"}}`,
			"too large":        `{"user_id":"@bob:y.org","device_id":"B","algorithms":[],"keys":{"a:B":"` + strings.Repeat("k", 70_000) + `"}}`,
			"no keys":          `{"user_id":"@bob:y.org","device_id":"B"}`,
			"no object":        `7`,
		} {
			before := must[id.Pos](t)(storage.Get(t.Context(), f.db, (*storage.Tx).GetPos))
			if err := f.ReceiveEDU(t.Context(), "y.org", edu("m.device_list_update", `{"user_id":%q,"device_id":"B","stream_id":2,"prev_id":[1],"keys":%s}`,
				bob, keys)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			changed := must[[]id.UserID](t)(storage.Get(t.Context(), f.db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.ListDeviceLists(before) }))
			if !slices.Contains(changed, bob) {
				t.Errorf("%s: nobody hears that something has changed", name)
			}
			if got := seen(query(t, f, alice, bob).DeviceKeys[bob]); !reflect.DeepEqual(got, versions{"A": 1}) {
				t.Errorf("%s: devices %v", name, got)
			}
		}
	})
}

func TestRefusedRemoteDevices(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, bob})
		p.users[bob].change("A", false)
		p.users[bob].edus = nil
		query(t, f, alice, bob)
		device := newSigner(t, bob, "B")
		good := string(device.deviceKeys(t))
		for name, test := range map[string]struct {
			origin       id.ServerName
			user, device string
			keys         string
			code         matrixerr.Code
		}{
			"another server's": {"z.org", "@bob:y.org", "B", good, matrixerr.Forbidden},
			"ours":             {"y.org", "@alice:x.org", "B", good, matrixerr.Forbidden},
			"no device":        {"y.org", "@bob:y.org", "", `null`, matrixerr.InvalidParam},
			"long device":      {"y.org", "@bob:y.org", strings.Repeat("x", 256), `null`, matrixerr.InvalidParam},
		} {
			err := f.ReceiveEDU(ctx, test.origin, edu("m.device_list_update", `{"user_id":%q,"device_id":%q,"stream_id":2,"prev_id":[1],"keys":%s}`,
				test.user, test.device, test.keys))
			if err == nil || matrixerr.CodeOf(err) != test.code {
				t.Errorf("%s: %v instead of %s", name, err, test.code)
			}
		}
		if got := seen(query(t, f, alice, bob).DeviceKeys[bob]); !reflect.DeepEqual(got, versions{"A": 1}) || p.asked["devices"] != 1 {
			t.Errorf("devices %v, asked %v", got, p.asked)
		}
		if err := f.ReceiveEDU(ctx, "y.org", edu("m.device_list_update", `{"user_id":"@bob:y.org","device_id":"B","stream_id":2,"prev_id":[1],`+
			`"device_display_name":"Phone","keys":%s}`, good)); err != nil {
			t.Fatal(err)
		}
		got := query(t, f, alice, bob).DeviceKeys[bob]["B"]
		if gjson.GetBytes(got, "unsigned.device_display_name").Str != "Phone" ||
			signedjson.Verify(got, device.public, signatureOf(t, got, bob, device.name)) != nil {
			t.Errorf("keys %s", got)
		}
	})
}

func TestClaimRemoteKeys(t *testing.T) {
	const bob id.UserID = "@bob:y.org"
	eachWithPeer(t, []id.UserID{bob}, func(t *testing.T, f *fixture, p *peer) {
		ctx := context.Background()
		claim := func() (userserver.ClaimedKeys, map[id.ServerName]struct{}) {
			keys, failures, err := f.ClaimKeys(ctx, map[id.UserID]map[id.DeviceID]string{bob: {"B": "signed_curve25519"}}, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			return keys, failures
		}
		keys, failures := claim()
		if text := string(keys[bob]["B"]["signed_curve25519:1"]); text != `{"key":"1"}` || len(keys) != 1 || len(keys[bob]["B"]) != 1 || len(failures) != 0 {
			t.Errorf("keys %v, failures %v", keys, failures)
		}
		p.down = true
		if keys, failures := claim(); len(keys) != 0 || !reflect.DeepEqual(failures, map[id.ServerName]struct{}{"y.org": {}}) {
			t.Errorf("keys %v, failures %v", keys, failures)
		}
		if p.asked["claim"] != 2 {
			t.Errorf("asked %v", p.asked)
		}
	})
}

// TestUserDevices has another server follow a user of ours by what it is told and what it asks.
func TestUserDevices(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice")
		none := must[*serverapi.UserDevices](t)(f.UserDevices(ctx, alice.User))
		if none.User != alice.User || len(none.Devices) != 0 || none.Devices == nil {
			t.Errorf("devices %+v", none)
		}
		device, master := newSigner(t, alice.User, alice.Device), newSigner(t, alice.User, "")
		upload(t, f, alice, userserver.KeyUpload{DeviceKeys: device.deviceKeys(t)})
		if err := f.UploadCrossSigning(ctx, alice.User, userserver.CrossSigningUpload{Master: master.key("master")}); err != nil {
			t.Fatal(err)
		}
		got := must[*serverapi.UserDevices](t)(f.UserDevices(ctx, alice.User))
		last := must[storage.DeviceChange](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) (storage.DeviceChange, error) { return tx.GetLastDeviceChange(alice.User) }))
		if got.StreamID != int64(last.Pos) || got.StreamID <= none.StreamID || len(got.Devices) != 1 || got.Devices[0].Device != alice.Device ||
			got.Devices[0].DisplayName != "Phone" || !contains(got.Devices[0].Keys, device.public) || !contains(got.MasterKey, master.public) {
			t.Errorf("devices %+v", got)
		}
		_, err := f.UserDevices(ctx, "@bob:y.org")
		wantCode(t, err, matrixerr.InvalidParam)
		_, err = f.UserDevices(ctx, "@none:x.org")
		wantCode(t, err, "")
	})
}

func TestForgedUploads(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice")
		device, other := newSigner(t, alice.User, alice.Device), newSigner(t, alice.User, alice.Device)
		oneTime := func(s *signer) map[string]json.RawMessage {
			return map[string]json.RawMessage{"signed_curve25519:1": s.sign(t, json.RawMessage(`{"key":"k"}`))}
		}
		long := map[string]json.RawMessage{"signed_curve25519:1": json.RawMessage(`"` + strings.Repeat("k", 70_000) + `"`)}
		for name, test := range map[string]struct {
			up   userserver.KeyUpload
			code matrixerr.Code
		}{
			"device":           {userserver.KeyUpload{DeviceKeys: json.RawMessage(strings.Replace(string(device.deviceKeys(t)), `["a"]`, `["b"]`, 1))}, matrixerr.InvalidSignature},
			"one-time":         {userserver.KeyUpload{DeviceKeys: device.deviceKeys(t), OneTimeKeys: oneTime(other)}, matrixerr.InvalidSignature},
			"fallback":         {userserver.KeyUpload{DeviceKeys: device.deviceKeys(t), FallbackKeys: oneTime(other)}, matrixerr.InvalidSignature},
			"too large":        {userserver.KeyUpload{DeviceKeys: device.deviceKeys(t), OneTimeKeys: long}, matrixerr.TooLarge},
			"name of a device": {userserver.KeyUpload{DeviceKeys: json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":[],"keys":{"a:b":"c"}}`, alice.User, alice.Device))}, matrixerr.InvalidParam},
		} {
			if _, err := f.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, test.up); err == nil || matrixerr.CodeOf(err) != test.code {
				t.Errorf("%s: %v instead of %s", name, err, test.code)
			}
		}
		if counts := upload(t, f, alice, userserver.KeyUpload{}); len(counts) != 0 || len(query(t, f, alice.User, alice.User).DeviceKeys[alice.User]) != 0 {
			t.Errorf("something was kept: %v", counts)
		}
		upload(t, f, alice, userserver.KeyUpload{DeviceKeys: device.deviceKeys(t), OneTimeKeys: oneTime(device)})
		_, err := f.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, userserver.KeyUpload{FallbackKeys: oneTime(other)})
		wantCode(t, err, matrixerr.InvalidSignature)
	})
}
