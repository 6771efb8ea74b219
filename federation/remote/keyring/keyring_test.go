package keyring_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/federation/remote/keyring"
	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/internal/testclock"
	"parley/storage"
	"parley/storage/storagetest"
)

const (
	strict = true
	lax    = false
)

var start = time.UnixMilli(1_800_000_000_000)

func at(d time.Duration) int64 { return start.Add(d).UnixMilli() }

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

func sign(t testing.TB, object string, server id.ServerName, keyID string, key ed25519.PrivateKey) []byte {
	t.Helper()
	out, err := signedjson.Sign([]byte(object), string(server), keyID, key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// server is another server: its keys by their IDs, and those that it has put down.
type server struct {
	name       id.ServerName
	keys       map[string]ed25519.PrivateKey
	old        map[string]int64 // of keys, when they were put down
	validUntil int64
}

func newServer(t testing.TB, name id.ServerName) *server {
	return &server{name: name, keys: map[string]ed25519.PrivateKey{"ed25519:1": newKey(t)}, validUntil: at(24 * time.Hour)}
}

// list is what the server says of its keys.
func (s *server) list(t testing.TB) []byte {
	t.Helper()
	keys, old := make(map[string]string), make(map[string]string)
	for name, key := range s.keys {
		public := encode(key.Public().(ed25519.PublicKey))
		if expired, ok := s.old[name]; ok {
			old[name] = fmt.Sprintf(`{"key":"%s","expired_ts":%d}`, public, expired)
		} else {
			keys[name] = fmt.Sprintf(`{"key":"%s"}`, public)
		}
	}
	object := func(m map[string]string) string {
		var parts []string
		for name, text := range m {
			parts = append(parts, fmt.Sprintf("%q:%s", name, text))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	text := fmt.Appendf(nil, `{"server_name":"%s","valid_until_ts":%d,"verify_keys":%s,"old_verify_keys":%s}`,
		s.name, s.validUntil, object(keys), object(old))
	for name := range keys {
		text = sign(t, string(text), s.name, name, s.keys[name])
	}
	return text
}

// event is an object that the server has signed.
func (s *server) event(t testing.TB, keyID string) []byte {
	return sign(t, `{"content":{"a.b":"<\u2028>"},"depth":1}`, s.name, keyID, s.keys[keyID])
}

// world is what the ring asks.
type world struct {
	*testclock.Clock
	t       *testing.T
	mu      sync.Mutex
	lists   map[id.ServerName][]byte // of those who answer
	notary  func(keyring.Wanted) ([]json.RawMessage, error)
	fetched []id.ServerName
	queried []int // how many servers a notary was asked for
}

func newWorld(t *testing.T) *world {
	return &world{Clock: testclock.New(start), t: t, lists: make(map[id.ServerName][]byte)}
}

// answer has servers answer for their keys.
func (w *world) answer(servers ...*server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range servers {
		w.lists[s.name] = s.list(w.t)
	}
}

func (w *world) fetch(_ context.Context, server id.ServerName) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetched = append(w.fetched, server)
	if text, ok := w.lists[server]; ok {
		return text, nil
	}
	return nil, errors.New("nobody is there")
}

func (w *world) query(_ context.Context, _ id.ServerName, wanted keyring.Wanted) ([]json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queried = append(w.queried, len(wanted))
	return w.notary(wanted)
}

// wantFetched checks who was asked since the last time.
func (w *world) wantFetched(what string, want ...id.ServerName) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.fetched)
	if !slices.Equal(w.fetched, want) {
		w.t.Errorf("%s: %v were asked for their keys, want %v", what, w.fetched, want)
	}
	w.fetched = nil
}

func (w *world) ring(db *storage.DB, change func(*keyring.Options)) *keyring.Ring {
	w.t.Helper()
	o := keyring.Options{
		DB: db, Name: "us.org", Keys: []keyring.SigningKey{{ID: "ed25519:us", Key: newKey(w.t)}},
		Fetch: w.fetch, Query: w.query, Now: w.Now,
	}
	if change != nil {
		change(&o)
	}
	r, err := keyring.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

func open(t *testing.T) *storage.DB {
	return storagetest.Open(t, filepath.Join(t.TempDir(), "parley.db"), nil)
}

func request(server id.ServerName, object []byte, ts int64, rule bool) gomatrixserverlib.VerifyJSONRequest {
	q := gomatrixserverlib.VerifyJSONRequest{ServerName: spec.ServerName(server), AtTS: spec.Timestamp(ts), Message: object,
		ValidityCheckingFunc: gomatrixserverlib.NoStrictValidityCheck}
	if rule == strict {
		// The library's own rule looks at the clock of the machine.
		q.ValidityCheckingFunc = func(at, until spec.Timestamp) bool { return until != 0 && at <= until }
	}
	return q
}

func verify(t *testing.T, r *keyring.Ring, requests ...gomatrixserverlib.VerifyJSONRequest) []error {
	t.Helper()
	results, err := r.VerifyJSONs(t.Context(), requests)
	if err != nil || len(results) != len(requests) {
		t.Fatalf("%d results for %d requests: %v", len(results), len(requests), err)
	}
	out := make([]error, len(results))
	for i := range results {
		out[i] = results[i].Error
	}
	return out
}

func TestParseList(t *testing.T) {
	a := newServer(t, "a.org")
	a.keys["ed25519:2"], a.keys["ed25519:old"] = newKey(t), newKey(t)
	a.old = map[string]int64{"ed25519:old": 5}
	good := string(a.list(t))
	l, err := keyring.ParseList([]byte(good), "a.org")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Keys) != 3 || l.Keys["ed25519:old"].Expired != 5 || l.Keys["ed25519:1"].ValidUntil != a.validUntil || l.Keys["ed25519:2"].Expired != 0 {
		t.Errorf("read %+v", l)
	}
	resigned := func(path string, value string) string {
		text, err := sjson.SetRaw(good, path, value)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = sjson.Delete(text, "signatures"); err != nil {
			t.Fatal(err)
		}
		return string(sign(t, text, "a.org", "ed25519:1", a.keys["ed25519:1"]))
	}
	without := func(path string) string {
		text, err := sjson.Delete(good, path)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if _, err := keyring.ParseList([]byte(without(`signatures.a\.org.ed25519:2`)), "a.org"); err != nil {
		t.Errorf("with the signature of one of two keys: %v", err)
	}
	if _, err := keyring.ParseList([]byte(resigned("verify_keys.rsa:1", `{"key":"?"}`)), "a.org"); err != nil {
		t.Errorf("with a key of another algorithm: %v", err)
	}
	many := make(map[string]map[string]string)
	for i := range 200 {
		many[fmt.Sprintf("ed25519:%d", i)] = map[string]string{"key": encode(newKey(t).Public().(ed25519.PublicKey))}
	}
	manyText, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":               "",
		"two readings":          resigned("Server_Name", `"a.org"`),
		"null":                  "null",
		"array":                 "[]",
		"text":                  "hello",
		"another server":        string(newServer(t, "b.org").list(t)),
		"unsigned":              without("signatures"),
		"signed by nobody":      without(`signatures.a\.org`),
		"changed":               strings.Replace(good, `"valid_until_ts":1`, `"valid_until_ts":2`, 1),
		"one wrong signature":   strings.Replace(good, gjson.Get(good, `signatures.a\.org.ed25519:2`).Str[:8], "AAAAAAAA", 1),
		"without an end":        resigned("valid_until_ts", "0"),
		"text as end":           resigned("valid_until_ts", `"1"`),
		"fraction as end":       strings.Replace(good, `"valid_until_ts":1`, `"valid_until_ts":1.`, 1),
		"no keys":               resigned("verify_keys", "{}"),
		"too many keys":         resigned("verify_keys", string(manyText)),
		"short key":             resigned("verify_keys.ed25519:2.key", `"AAAA"`),
		"key that isn't base64": resigned("verify_keys.ed25519:2.key", `"?"`),
		"nameless key":          resigned("verify_keys.ed25519:", `{"key":"`+encode(make([]byte, 32))+`"}`),
		"old key without end":   resigned("old_verify_keys.ed25519:old.expired_ts", "0"),
		"signed by an old key": func() string {
			return string(sign(t, without("signatures"), "a.org", "ed25519:old", a.keys["ed25519:old"]))
		}(),
	} {
		if _, err := keyring.ParseList([]byte(text), "a.org"); !errors.Is(err, keyring.ErrList) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(newServer(f, "a.org").list(f))
	f.Add([]byte(`{"server_name":"a.org","valid_until_ts":1,"verify_keys":{"ed25519:1":{"key":""}},"signatures":{"a.org":{"ed25519:1":null}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := keyring.ParseList(text, "a.org")
		if err == nil && (len(l.Keys) == 0 || l.ValidUntil <= 0) {
			t.Fatalf("%q was taken: %+v", text, l)
		}
	})
}

// Whatever keys a server has, with whatever of them events are signed, and whenever: the ring's
// verdict is that of the rule, written down in another way.
func TestVerdicts(t *testing.T) {
	const servers, events = 6, 40
	for seed := range uint64(5) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		r := w.ring(open(t), nil)
		var requests []gomatrixserverlib.VerifyJSONRequest
		var want []bool
		for i := range servers {
			s := newServer(t, id.ServerName(fmt.Sprintf("s%d.org", i)))
			s.validUntil, s.old = at(time.Duration(1+rnd.IntN(20*24))*time.Hour), make(map[string]int64)
			for k := range rnd.IntN(4) {
				name := fmt.Sprintf("ed25519:x%d", k)
				s.keys[name] = newKey(t)
				if rnd.IntN(2) == 0 {
					s.old[name] = at(-time.Duration(rnd.IntN(100)) * time.Hour)
				}
			}
			if rnd.IntN(5) > 0 {
				w.answer(s)
			}
			names := slices.Sorted(func(yield func(string) bool) {
				for name := range s.keys {
					if !yield(name) {
						return
					}
				}
			})
			for range events {
				ts := at(time.Duration(rnd.IntN(600)-200) * time.Hour)
				rule := rnd.IntN(2) == 0
				text := fmt.Sprintf(`{"n":%d}`, rnd.Int32())
				object := []byte(text)
				for range rnd.IntN(3) {
					name := names[rnd.IntN(len(names))]
					key := s.keys[name]
					switch rnd.IntN(6) {
					case 0:
						key = newKey(t)
					case 1:
						name = "ed25519:unknown"
					case 2:
						name = "rsa:1"
					}
					object = sign(t, string(object), s.name, name, key)
				}
				good := false
				signatures := gjson.GetBytes(object, "signatures."+strings.ReplaceAll(string(s.name), ".", `\.`))
				signatures.ForEach(func(name, sig gjson.Result) bool {
					key, ok := s.keys[name.Str]
					if !ok {
						return true
					}
					if encode(ed25519.Sign(key, []byte(text))) != sig.Str {
						return true
					}
					expired, isOld := s.old[name.Str]
					if isOld && ts < expired || !isOld && (rule == lax || ts <= min(s.validUntil, at(7*24*time.Hour))) {
						good = true
					}
					return true
				})
				if rnd.IntN(10) == 0 {
					object, good = []byte(strings.Replace(string(object), `"n":`, `"n":1`, 1)), false
				}
				requests = append(requests, request(s.name, object, ts, rule))
				want = append(want, good && w.lists[s.name] != nil)
			}
		}
		for i, err := range verify(t, r, requests...) {
			if (err == nil) != want[i] {
				t.Errorf("seed %d: %s at %d: %v, want that it is good: %t\n%s", seed, requests[i].ServerName, requests[i].AtTS, err, want[i], requests[i].Message)
			}
		}
	}
}

// Who is asked, and how often.
func TestWhoIsAsked(t *testing.T) {
	w := newWorld(t)
	a, b := newServer(t, "a.org"), newServer(t, "b.org")
	w.answer(a)
	db := open(t)
	r := w.ring(db, nil)
	event := func(s *server) gomatrixserverlib.VerifyJSONRequest {
		return request(s.name, s.event(t, "ed25519:1"), w.Now().UnixMilli(), strict)
	}
	good := func(what string, errs []error, want ...bool) {
		t.Helper()
		for i, err := range errs {
			if (err == nil) != want[i] {
				t.Errorf("%s: event %d: %v", what, i, err)
			}
		}
	}
	good("at first", verify(t, r, event(a), event(a), event(b)), true, true, false)
	w.wantFetched("at first", "a.org", "b.org")
	good("again", verify(t, r, event(a), event(b)), true, false)
	w.wantFetched("again")

	unknown := newServer(t, "a.org")
	unknown.keys["ed25519:2"] = newKey(t)
	forged := request("a.org", unknown.event(t, "ed25519:2"), w.Now().UnixMilli(), lax)
	for range 5 {
		good("an unknown key", verify(t, r, forged), false)
	}
	w.wantFetched("an unknown key, after a short time")
	w.Pass(time.Minute)
	for range 5 {
		good("an unknown key", verify(t, r, forged), false)
	}
	w.wantFetched("an unknown key, after a minute", "a.org")
	future := request("a.org", a.event(t, "ed25519:1"), at(100*24*time.Hour), strict)
	for range 5 {
		good("from the future", verify(t, r, future), false)
	}
	w.wantFetched("from the future")

	// The pauses grow as long as it does not answer.
	var asked int
	for range 24 * 60 {
		w.Pass(time.Minute)
		good("dead", verify(t, r, event(b)), false)
	}
	w.mu.Lock()
	asked, w.fetched = len(w.fetched), nil
	w.mu.Unlock()
	if asked < 200 || asked > 400 {
		t.Errorf("a dead server was asked %d times in a day", asked)
	}
	b.validUntil = w.Now().Add(time.Hour).UnixMilli()
	w.answer(b)
	w.Pass(2 * time.Hour)
	b.validUntil = w.Now().Add(time.Hour).UnixMilli()
	w.answer(b)
	good("back", verify(t, r, event(b)), true)
	w.wantFetched("back", "b.org")

	// What a ring has learned, another one with the same database knows.
	again := w.ring(db, nil)
	good("after a restart", verify(t, again, event(b), request("a.org", a.event(t, "ed25519:1"), at(0), strict)), true, true)
	w.wantFetched("after a restart")

	// Our own events need nobody.
	own := newServer(t, "us.org")
	r = w.ring(db, func(o *keyring.Options) { o.Keys[0] = keyring.SigningKey{ID: "ed25519:1", Key: own.keys["ed25519:1"]} })
	good("our own", verify(t, r, event(own), request("us.org", unknownKey(t, own), at(0), lax)), true, false)
	w.wantFetched("our own")
}

func unknownKey(t *testing.T, s *server) []byte {
	return sign(t, `{}`, s.name, "ed25519:unknown", newKey(t))
}

// Many who need the keys of one server ask it once.
func TestAskedOnceForAll(t *testing.T) {
	w := newWorld(t)
	a := newServer(t, "a.org")
	w.answer(a)
	r := w.ring(open(t), nil)
	event := a.event(t, "ed25519:1")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := verify(t, r, request("a.org", event, at(0), strict))[0]; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.wantFetched("at the same time", "a.org")
}

// What a server itself says is taken: only if it is signed, and now.
func TestAnswersOfServers(t *testing.T) {
	for name, change := range map[string]func(*server) []byte{
		"expired": func(s *server) []byte { s.validUntil = at(-time.Second); return s.list(t) },
		"another's": func(s *server) []byte {
			other := *s
			other.name = "b.org"
			return other.list(t)
		},
		"unsigned": func(s *server) []byte {
			text, err := sjson.DeleteBytes(s.list(t), "signatures")
			if err != nil {
				t.Fatal(err)
			}
			return text
		},
	} {
		w := newWorld(t)
		a := newServer(t, "a.org")
		w.lists["a.org"] = change(a)
		r := w.ring(open(t), nil)
		if err := verify(t, r, request("a.org", a.event(t, "ed25519:1"), at(-time.Hour), lax))[0]; !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server that comes back with another key under the same name is believed, as it is the only one
// who can know; its old list no longer counts.
func TestKeyThatChanges(t *testing.T) {
	w := newWorld(t)
	a := newServer(t, "a.org")
	w.answer(a)
	r := w.ring(open(t), nil)
	before := request("a.org", a.event(t, "ed25519:1"), at(0), strict)
	if err := verify(t, r, before)[0]; err != nil {
		t.Fatal(err)
	}
	again := newServer(t, "a.org")
	again.validUntil = at(72 * time.Hour)
	w.answer(again)
	after := request("a.org", again.event(t, "ed25519:1"), at(25*time.Hour), strict)
	w.Pass(25 * time.Hour)
	if err := verify(t, r, after)[0]; err != nil {
		t.Errorf("by the new key: %v", err)
	}
	if err := verify(t, r, before)[0]; !errors.Is(err, signedjson.ErrSignature) {
		t.Errorf("by the old key: %v", err)
	}
}

// A server that was set up anew is believed at once when it asks for something.
func TestRequestByKeyThatChanged(t *testing.T) {
	w := newWorld(t)
	a, again := newServer(t, "a.org"), newServer(t, "a.org")
	w.answer(a)
	r := w.ring(open(t), nil)
	ask := func(s *server) error {
		text := []byte(`{"method":"GET"}`)
		return r.VerifyNow(t.Context(), "a.org", "ed25519:1", encode(ed25519.Sign(s.keys["ed25519:1"], text)), text)
	}
	if err := ask(a); err != nil {
		t.Fatal(err)
	}
	w.answer(again)
	if err := ask(again); !errors.Is(err, signedjson.ErrSignature) {
		t.Errorf("a moment later: %v", err)
	}
	w.Pass(time.Minute)
	if err := ask(again); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	if err := ask(a); !errors.Is(err, signedjson.ErrSignature) {
		t.Errorf("by the old key: %v", err)
	}
}

// A server that has other keys each time it is asked costs a bounded number of rows.
func TestKeysThatAlwaysChange(t *testing.T) {
	w := newWorld(t)
	db := open(t)
	r := w.ring(db, nil)
	var a *server
	for i := range 20 {
		a = newServer(t, "a.org")
		a.validUntil = w.Now().Add(time.Hour).UnixMilli()
		for k := range 30 {
			a.keys[fmt.Sprintf("ed25519:%d_%d", i, k)] = newKey(t)
		}
		w.answer(a)
		w.Pass(time.Minute)
		if err := verify(t, r, request("a.org", a.event(t, fmt.Sprintf("ed25519:%d_0", i)), w.Now().UnixMilli(), strict))[0]; err != nil {
			t.Fatal(err)
		}
	}
	rows, err := storage.Get(t.Context(), db, func(tx *storage.Tx) ([]storage.ServerKey, error) {
		return tx.ListServerKeys([]id.ServerName{"a.org"})
	})
	if err != nil || len(rows) > 200 || len(rows) < 31 {
		t.Errorf("there are %d keys of the server, %v", len(rows), err)
	}
}

// notarised is a notary's answer, and its server.
func notarised(t *testing.T, w *world) *server {
	n := newServer(t, "notary.org")
	n.validUntil = at(1000 * time.Hour)
	w.answer(n)
	return n
}

func (n *server) signs(t *testing.T, lists ...[]byte) []json.RawMessage {
	var out []json.RawMessage
	for _, l := range lists {
		out = append(out, sign(t, string(l), n.name, "ed25519:1", n.keys["ed25519:1"]))
	}
	return out
}

func withNotary(o *keyring.Options) { o.Notaries = []id.ServerName{"notary.org"} }

func TestNotaries(t *testing.T) {
	w := newWorld(t)
	notary := notarised(t, w)
	alive, dead, long, evil := newServer(t, "alive.org"), newServer(t, "dead.org"), newServer(t, "long.org"), newServer(t, "evil.org")
	long.validUntil = at(-1000 * time.Hour)
	w.answer(alive)
	w.notary = func(wanted keyring.Wanted) ([]json.RawMessage, error) {
		if _, ok := wanted["alive.org"]; ok {
			t.Error("the notary was asked for a server that answers")
		}
		lists := notary.signs(t, dead.list(t), long.list(t))
		unasked := newServer(t, "alive.org") // whom nobody asked for
		return append(lists, append(notary.signs(t, unasked.list(t)), evil.list(t), json.RawMessage(`{}`), json.RawMessage(`1`))...), nil
	}
	r := w.ring(open(t), withNotary)
	errs := verify(t, r,
		request("alive.org", alive.event(t, "ed25519:1"), at(0), strict),
		request("dead.org", dead.event(t, "ed25519:1"), at(0), strict),
		request("long.org", long.event(t, "ed25519:1"), at(-2000*time.Hour), strict),
		request("long.org", long.event(t, "ed25519:1"), at(0), lax),
		request("long.org", long.event(t, "ed25519:1"), at(0), strict),
		request("evil.org", evil.event(t, "ed25519:1"), at(0), lax),
		request("nowhere.org", newServer(t, "nowhere.org").event(t, "ed25519:1"), at(0), lax),
	)
	for i, want := range []error{nil, nil, nil, nil, keyring.ErrNoKey, keyring.ErrNoKey, keyring.ErrNoKey} {
		if !errors.Is(errs[i], want) {
			t.Errorf("event %d: %v, want %v", i, errs[i], want)
		}
	}
	if !slices.Equal(w.queried, []int{4}) {
		t.Errorf("the notary was asked for %v servers, want 4 at once", w.queried)
	}
	if err := r.VerifyNow(t.Context(), "long.org", "ed25519:1", encode(ed25519.Sign(long.keys["ed25519:1"], []byte("{}"))), []byte("{}")); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a request by a key from long ago: %v", err)
	}
	if err := r.VerifyNow(t.Context(), "dead.org", "ed25519:1", encode(ed25519.Sign(dead.keys["ed25519:1"], []byte("{}"))), []byte("{}")); err != nil {
		t.Errorf("a request by a key that the notary knows: %v", err)
	}
}

// A notary can't put another key in the place of one that is known, nor end one, nor bring one back.
func TestNotaryChangesNoKey(t *testing.T) {
	w := newWorld(t)
	notary := notarised(t, w)
	a := newServer(t, "a.org")
	a.keys["ed25519:old"] = newKey(t)
	a.old = map[string]int64{"ed25519:old": at(-time.Hour)}
	w.answer(a)
	r := w.ring(open(t), withNotary)
	if err := verify(t, r, request("a.org", a.event(t, "ed25519:1"), at(0), strict))[0]; err != nil {
		t.Fatal(err)
	}
	delete(w.lists, "a.org")
	forged := newServer(t, "a.org")
	forged.validUntil = at(100 * time.Hour)
	forged.keys["ed25519:old"] = a.keys["ed25519:old"]
	w.notary = func(keyring.Wanted) ([]json.RawMessage, error) { return notary.signs(t, forged.list(t)), nil }
	w.Pass(25 * time.Hour)
	for i, tt := range []struct {
		object []byte
		ts     int64
		want   error
	}{
		{forged.event(t, "ed25519:1"), at(25 * time.Hour), keyring.ErrNoKey},
		{a.event(t, "ed25519:old"), at(25 * time.Hour), keyring.ErrNoKey},
		{a.event(t, "ed25519:old"), at(-2 * time.Hour), nil},
		{a.event(t, "ed25519:1"), at(0), nil},
	} {
		if err := verify(t, r, request("a.org", tt.object, tt.ts, strict))[0]; !errors.Is(err, tt.want) {
			t.Errorf("event %d: %v, want %v", i, err, tt.want)
		}
	}
	if len(w.queried) == 0 {
		t.Error("the notary was not asked")
	}
}

func TestLists(t *testing.T) {
	w := newWorld(t)
	ours := newKey(t)
	old := keyring.Key{Public: newKey(t).Public().(ed25519.PublicKey), Expired: at(-time.Hour)}
	r := w.ring(open(t), func(o *keyring.Options) {
		o.Keys = []keyring.SigningKey{{ID: "ed25519:us", Key: ours}, {ID: "ed25519:us2", Key: newKey(t)}}
		o.OldKeys = map[string]keyring.Key{"ed25519:was": old}
	})
	own, err := r.OwnList()
	if err != nil {
		t.Fatal(err)
	}
	l, err := keyring.ParseList(own, "us.org")
	if err != nil || len(l.Keys) != 3 || l.Keys["ed25519:was"].Expired != at(-time.Hour) || l.ValidUntil < at(time.Hour) {
		t.Errorf("our own list is %s, %v", own, err)
	}
	if n := len(gjson.GetBytes(own, `signatures.us\.org`).Map()); n != 2 {
		t.Errorf("our own list has %d signatures, want one by each key", n)
	}

	a := newServer(t, "a.org")
	w.answer(a)
	ask := func(wanted keyring.Wanted) (servers []id.ServerName) {
		t.Helper()
		lists, err := r.Lists(t.Context(), wanted)
		if err != nil || lists == nil {
			t.Fatalf("the lists are %v, %v", lists, err)
		}
		for _, text := range lists {
			server := id.ServerName(gjson.GetBytes(text, "server_name").Str)
			if _, err := keyring.ParseList(text, server); err != nil {
				t.Error(err)
			}
			if err := signedjson.Verify(text, encode(ours.Public().(ed25519.PublicKey)), gjson.GetBytes(text, `signatures.us\.org.ed25519:us`).Str); err != nil {
				t.Errorf("our signature of %s: %v", text, err)
			}
			servers = append(servers, server)
		}
		return servers
	}
	now := map[string]int64{"": at(0)}
	if got := ask(keyring.Wanted{"a.org": now, "us.org": now, "nowhere.org": now}); !slices.Equal(got, []id.ServerName{"us.org", "a.org"}) {
		t.Errorf("lists of %v", got)
	}
	w.wantFetched("at first", "a.org", "nowhere.org")
	ask(keyring.Wanted{"a.org": {"ed25519:1": at(time.Hour)}})
	w.wantFetched("a list that is known")
	w.Pass(time.Minute)
	ask(keyring.Wanted{"a.org": {"ed25519:2": at(0)}})
	w.wantFetched("a key that is not in it", "a.org")
	w.Pass(time.Minute)
	ask(keyring.Wanted{"a.org": {"": at(100 * time.Hour)}})
	w.wantFetched("for longer than it is valid", "a.org")
	w.Pass(13 * time.Hour)
	ask(keyring.Wanted{"a.org": now})
	w.wantFetched("after half of its life", "a.org")
	delete(w.lists, "a.org")
	w.Pass(100 * time.Hour)
	if got := ask(keyring.Wanted{"a.org": now}); !slices.Equal(got, []id.ServerName{"a.org"}) {
		t.Errorf("when the server is gone, its last list is to be had; got lists of %v", got)
	}
}

// Events of old rooms may have numbers that are not integers, and keys of objects with escapes; they
// are signed as they are.
func TestUnusualObjects(t *testing.T) {
	w := newWorld(t)
	a := newServer(t, "a.org")
	w.answer(a)
	r := w.ring(open(t), nil)
	for _, canonical := range []string{`{"a":1.50}`, `{"a\"b":1}`, "{\"\u2028\":\"</script>\"}", `{}`} {
		signature := encode(ed25519.Sign(a.keys["ed25519:1"], []byte(canonical)))
		object, err := sjson.SetRaw(canonical, "signatures", `{"a.org":{"ed25519:1":"`+signature+`"}}`)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(t, r, request("a.org", []byte(object), at(0), lax))[0]; err != nil {
			t.Errorf("%s: %v", object, err)
		}
	}
	for _, object := range []string{``, `{`, `[]`, `{"signatures":1}`, `{"signatures":{"a.org":[]}}`, `{"signatures":{"a.org":{"ed25519:1":1}}}`, `{"signatures":{"a.org":{"ed25519:1":""}}}`} {
		if err := verify(t, r, request("a.org", []byte(object), at(0), lax))[0]; err == nil {
			t.Errorf("%s is good", object)
		}
	}
}
