package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// memNodes are nodes in memory, with counts of what was read and written.
type memNodes struct {
	bodies  map[int64][]byte
	last    int64
	reads   int // calls of GetNodes
	read    int // nodes read
	written int // bytes
}

func newMemNodes() *memNodes { return &memNodes{bodies: make(map[int64][]byte)} }

func (m *memNodes) GetNodes(nids []int64) (map[int64][]byte, error) {
	m.reads++
	m.read += len(nids)
	found := make(map[int64][]byte)
	for _, nid := range nids {
		if body, ok := m.bodies[nid]; ok {
			found[nid] = body
		}
	}
	return found, nil
}

func (m *memNodes) InsertNode(body []byte) (int64, error) {
	m.last++
	m.bodies[m.last] = bytes.Clone(body)
	m.written += len(body)
	return m.last, nil
}

// form describes a tree without the numbers of its nodes.
func (m *memNodes) form(t testing.TB, nid int64) string {
	t.Helper()
	if nid == 0 {
		return ""
	}
	n, err := decode(m.bodies[nid])
	if err != nil {
		t.Fatal(err)
	}
	if n.isLeaf() {
		return fmt.Sprintf("%x", m.bodies[nid])
	}
	s := fmt.Sprintf("(%x/%d/%d", n.prefix, n.depth, n.count)
	for d, c := range n.children {
		if c != 0 {
			s += fmt.Sprintf(" %x:%s", d, m.form(t, c))
		}
	}
	return s + ")"
}

func set(t testing.TB, tree *Tree, m *memNodes, root Root, entries ...Entry) Root {
	t.Helper()
	root, err := tree.Set(m, root, entries)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

var testTypes = []string{
	"m.room.member", "m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name",
	"m.room.topic", "m.room.history_visibility", "org.example.widget", "",
}

func randomKey(rng *rand.Rand, users int) Key {
	if rng.IntN(10) < 7 {
		return Key{"m.room.member", fmt.Sprintf("@u%d:example.org", rng.IntN(users))}
	}
	return Key{testTypes[rng.IntN(len(testTypes))], []string{"", "a", "b"}[rng.IntN(3)]}
}

// check compares a state with a plain map, by every way to read it.
func check(t *testing.T, tree *Tree, m *memNodes, root Root, want map[Key]EventNID, absent []Key) {
	t.Helper()
	byHash := make(map[Hash]EventNID)
	keys := slices.Clone(absent)
	for k, nid := range want {
		byHash[k.Hash()] = nid
		keys = append(keys, k)
	}
	got, err := tree.GetMany(m, root, keys)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("GetMany: %v, want %v", got, want)
	}
	collect := func(what string, keep func(Hash) bool, list func(func(HashEntry, error) bool)) {
		t.Helper()
		var last Hash
		n, expect := 0, 0
		for e, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 && bytes.Compare(last[:], e.Hash[:]) >= 0 {
				t.Fatalf("%s: out of order", what)
			}
			last = e.Hash
			n++
			if !keep(e.Hash) || byHash[e.Hash] != e.NID {
				t.Fatalf("%s: has %x %d", what, e.Hash, e.NID)
			}
		}
		for h := range byHash {
			if keep(h) {
				expect++
			}
		}
		if n != expect {
			t.Fatalf("%s: %d entries, want %d", what, n, expect)
		}
	}
	collect("List", func(Hash) bool { return true }, tree.List(m, root))
	for _, typ := range testTypes {
		collect("ListType "+typ, func(h Hash) bool { return h.HasType(typ) }, tree.ListType(m, root, typ))
		collect("ListExceptType "+typ, func(h Hash) bool { return !h.HasType(typ) }, tree.ListExceptType(m, root, typ))
	}
}

// TestHistories applies random changes to a tree and to a map, with forks, and compares
// them, their differences, and the forms of trees that have the same entries.
func TestHistories(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			users := []int{3, 30, 40, 300, 1000}[rng.IntN(5)]
			m := newMemNodes()
			tree := New(NewCache(int64(rng.IntN(2)) * 100_000))
			type version struct {
				root Root
				want map[Key]EventNID
			}
			versions := []version{{0, map[Key]EventNID{}}}
			for range 12 {
				base := versions[rng.IntN(len(versions))]
				want := maps.Clone(base.want)
				var entries []Entry
				for range 1 + rng.IntN(1+rng.IntN(2*users)) {
					e := Entry{randomKey(rng, users), EventNID(1 + rng.IntN(5))}
					if rng.IntN(3) == 0 {
						e.NID = 0
					}
					if rng.IntN(20) == 0 {
						e.NID = 1 << 40
					}
					entries = append(entries, e)
					if e.NID == 0 {
						delete(want, e.Key)
					} else {
						want[e.Key] = e.NID
					}
				}
				if rng.IntN(8) == 0 { // most of it goes away
					for k := range want {
						if rng.IntN(10) > 0 {
							entries = append(entries, Entry{k, 0})
							delete(want, k)
						}
					}
				}
				root := set(t, tree, m, base.root, entries...)
				if (root == base.root) != maps.Equal(want, base.want) {
					t.Fatalf("root %d after %d: same entries %t", root, base.root, maps.Equal(want, base.want))
				}
				check(t, tree, m, root, want, []Key{randomKey(rng, users), {"m.none", ""}})

				// The same entries, one by one, in another order.
				var again Root
				keys := slices.Collect(maps.Keys(want))
				rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
				for i := 0; i < len(keys); {
					n := min(1+rng.IntN(20), len(keys)-i)
					var part []Entry
					for _, k := range keys[i : i+n] {
						part = append(part, Entry{k, want[k]})
					}
					again = set(t, tree, m, again, part...)
					i += n
				}
				if a, b := m.form(t, int64(root)), m.form(t, int64(again)); a != b {
					t.Fatalf("two forms of the same state:\n%s\n%s", a, b)
				}
				if changes, err := tree.Diff(m, root, again); err != nil || len(changes) != 0 {
					t.Fatalf("equal states differ: %v, %v", changes, err)
				}
				versions = append(versions, version{root, want})
			}
			for _, a := range versions {
				for _, b := range versions {
					changes, err := tree.Diff(m, a.root, b.root)
					if err != nil {
						t.Fatal(err)
					}
					if want := diffMaps(a.want, b.want); !slices.Equal(changes, want) {
						t.Fatalf("Diff: %v, want %v", changes, want)
					}
				}
			}
		})
	}
}

func diffMaps(a, b map[Key]EventNID) []Change {
	var changes []Change
	for k, x := range a {
		if y := b[k]; x != y {
			changes = append(changes, Change{k.Hash(), x, y})
		}
	}
	for k, y := range b {
		if a[k] == 0 {
			changes = append(changes, Change{k.Hash(), 0, y})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return changes
}

func bigRoom(t testing.TB, tree *Tree, m *memNodes, members int) Root {
	t.Helper()
	entries := []Entry{
		{Key{"m.room.create", ""}, 1}, {Key{"m.room.power_levels", ""}, 2}, {Key{"m.room.join_rules", ""}, 3},
		{Key{"m.room.name", ""}, 4}, {Key{"m.room.topic", ""}, 5}, {Key{"m.room.avatar", ""}, 6},
		{Key{"m.room.history_visibility", ""}, 7}, {Key{"m.room.canonical_alias", ""}, 8},
	}
	for i := range members {
		entries = append(entries, Entry{Key{"m.room.member", fmt.Sprintf("@user%d:example.org", i)}, EventNID(10_000_000 + i)})
	}
	return set(t, tree, m, 0, entries...)
}

func TestSmallRoomIsOneNode(t *testing.T) {
	m := newMemNodes()
	tree := New(NewCache(1 << 20))
	bigRoom(t, tree, m, 20)
	if len(m.bodies) != 1 {
		t.Errorf("28 entries take %d nodes", len(m.bodies))
	}
}

func TestCostInLargeRoom(t *testing.T) {
	const members = 100_000
	m := newMemNodes()
	root := bigRoom(t, New(NewCache(0)), m, members)
	rng := rand.New(rand.NewPCG(1, 2))

	worst := 0
	for i := range 200 {
		m.written = 0
		k := Key{"m.room.member", fmt.Sprintf("@user%d:example.org", rng.IntN(members+members/10))}
		root = set(t, New(NewCache(1<<20)), m, root, Entry{k, EventNID(20_000_000 + i)})
		worst = max(worst, m.written)
	}
	if worst > 3000 {
		t.Errorf("one change wrote %d bytes", worst)
	}

	m.reads, m.read = 0, 0
	n := 0
	for _, err := range New(NewCache(1<<20)).ListExceptType(m, root, "m.room.member") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 8 || m.read > 20 {
		t.Errorf("all but members: %d entries, %d nodes read", n, m.read)
	}

	m.read = 0
	fork := set(t, New(NewCache(1<<20)), m, root, Entry{Key{"m.room.topic", ""}, 30_000_000})
	m.reads, m.read = 0, 0
	changes, err := New(NewCache(1<<20)).Diff(m, root, fork)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || m.read > 10 || m.reads > 6 {
		t.Errorf("%d changes found with %d nodes in %d reads", len(changes), m.read, m.reads)
	}
}

// TestNumberGivenTwice is what SQLite does: the number of a node that was rolled back is
// given to another.
func TestNumberGivenTwice(t *testing.T) {
	m := newMemNodes()
	tree := New(NewCache(1 << 20))
	first := set(t, tree, m, 0, Entry{Key{"a", ""}, 1})
	delete(m.bodies, m.last)
	m.last--
	second := set(t, tree, m, 0, Entry{Key{"a", ""}, 2})
	if first != second {
		t.Fatalf("numbers %d and %d", first, second)
	}
	if nid, ok, err := tree.Get(m, second, Key{"a", ""}); nid != 2 || !ok || err != nil {
		t.Errorf("got %d, %t, %v", nid, ok, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	const limit = 200_000
	cache := NewCache(limit)
	tree, m := New(cache), newMemNodes()
	root := bigRoom(t, tree, m, 5000)
	for _, err := range tree.List(m, root) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b := cache.Bytes(); b > limit || b < limit/2 {
		t.Errorf("cache of %d bytes has %d", limit, b)
	}
}

func TestCorruptTrees(t *testing.T) {
	m := newMemNodes()
	root := bigRoom(t, New(NewCache(0)), m, 2000)
	top, err := decode(m.bodies[int64(root)])
	if err != nil {
		t.Fatal(err)
	}
	digit := slices.IndexFunc(top.children[:], func(c int64) bool { return c != 0 })
	for name, nid := range map[string]int64{"loop": int64(root), "missing": 1 << 30, "misplaced": top.children[15-slices.IndexFunc(reversed(top.children), func(c int64) bool { return c != 0 })]} {
		t.Run(name, func(t *testing.T) {
			broken := *top
			broken.children[digit] = nid
			bad, _ := m.InsertNode(broken.encode())
			var failed error
			for _, err := range New(NewCache(0)).List(m, Root(bad)) {
				failed = err
			}
			if failed == nil {
				t.Error("List found nothing wrong")
			}
			if _, err := New(NewCache(0)).Diff(m, Root(bad), 0); err == nil {
				t.Error("Diff found nothing wrong")
			}
		})
	}
}

func reversed(c [fanout]int64) []int64 {
	s := c[:]
	slices.Reverse(s)
	return s
}

func FuzzDecode(f *testing.F) {
	m := newMemNodes()
	bigRoom(f, New(NewCache(0)), m, 300)
	for _, body := range m.bodies {
		f.Add(body)
	}
	f.Add([]byte{})
	f.Add([]byte{kindInner, nibbles})
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := decode(body)
		if err != nil {
			if !errors.Is(err, errCorrupt) {
				t.Fatalf("%v is not errCorrupt", err)
			}
			return
		}
		if !bytes.Equal(n.encode(), body) {
			t.Fatal("encodes to something else")
		}
		// Whatever decodes can be walked, if only to an error.
		m := newMemNodes()
		root, _ := m.InsertNode(body)
		tree := New(NewCache(1 << 16))
		for _, err := range tree.List(m, Root(root)) {
			if err != nil {
				return
			}
		}
		set(t, tree, m, Root(root), Entry{Key{"a", ""}, 1})
	})
}

func BenchmarkSet(b *testing.B) {
	for _, members := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			m := newMemNodes()
			tree := New(NewCache(64 << 20))
			root := bigRoom(b, tree, m, members)
			rng := rand.New(rand.NewPCG(1, 2))
			m.written = 0
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				k := Key{"m.room.member", fmt.Sprintf("@user%d:example.org", rng.IntN(members))}
				root = set(b, tree, m, root, Entry{k, EventNID(20_000_000 + i)})
			}
			b.ReportMetric(float64(m.written)/float64(b.N), "node-bytes/op")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	m := newMemNodes()
	tree := New(NewCache(64 << 20))
	root := bigRoom(b, tree, m, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := tree.Get(m, root, Key{"m.room.power_levels", ""}); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}
