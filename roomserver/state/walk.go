package state

import (
	"bytes"
	"crypto/sha256"
	"iter"
	"slices"
)

// List goes through all entries of a state, in the order of their hashes. After an error,
// which comes with an empty entry, it ends.
func (t *Tree) List(nodes Nodes, root Root) iter.Seq2[HashEntry, error] {
	return t.list(nodes, root, func(*Hash, int) bool { return true })
}

// ListType goes through the entries of one type, and reads only what leads to them. See
// [Hash.HasType] for how sure that is.
func (t *Tree) ListType(nodes Nodes, root Root, eventType string) iter.Seq2[HashEntry, error] {
	p := typePrefix(eventType)
	return t.list(nodes, root, func(h *Hash, depth int) bool {
		return commonNibbles(h, &p) >= min(depth, 2*prefixSize)
	})
}

// ListExceptType goes through the entries that are not of one type, and skips the part of
// the tree that has the others: a large room without its members.
func (t *Tree) ListExceptType(nodes Nodes, root Root, eventType string) iter.Seq2[HashEntry, error] {
	p := typePrefix(eventType)
	return t.list(nodes, root, func(h *Hash, depth int) bool {
		return depth < 2*prefixSize || commonNibbles(h, &p) < 2*prefixSize
	})
}

func typePrefix(eventType string) Hash {
	var h Hash
	t := sha256.Sum256([]byte(eventType))
	copy(h[:prefixSize], t[:])
	return h
}

// list goes through the entries below root that are wanted: it asks with the first depth
// digits of a hash whether a hash that begins so may be.
func (t *Tree) list(nodes Nodes, root Root, wanted func(h *Hash, depth int) bool) iter.Seq2[HashEntry, error] {
	return func(yield func(HashEntry, error) bool) {
		if root == 0 {
			return
		}
		top, err := t.reader(nodes).get(int64(root))
		if err != nil {
			yield(HashEntry{}, err)
			return
		}
		t.listNode(nodes, top, wanted, yield)
	}
}

// listNode says whether to go on.
func (t *Tree) listNode(nodes Nodes, n *node, wanted func(*Hash, int) bool, yield func(HashEntry, error) bool) bool {
	if n.isLeaf() {
		for _, e := range n.entries {
			if wanted(&e.Hash, nibbles) && !yield(e, nil) {
				return false
			}
		}
		return true
	}
	if !wanted(&n.prefix, n.depth) {
		return true
	}
	var digits []int
	var nids []int64
	for d, nid := range n.children {
		if nid == 0 {
			continue
		}
		h := n.prefix
		h[n.depth/2] |= byte(d) << (4 * (1 - n.depth%2))
		if wanted(&h, n.depth+1) {
			digits = append(digits, d)
			nids = append(nids, nid)
		}
	}
	// A reader for each node holds its children only, never the whole state.
	r := t.reader(nodes)
	if err := r.load(nids); err != nil {
		yield(HashEntry{}, err)
		return false
	}
	for _, d := range digits {
		child, err := r.child(n, d)
		if err != nil {
			yield(HashEntry{}, err)
			return false
		}
		if !t.listNode(nodes, child, wanted, yield) {
			return false
		}
	}
	return true
}

// Change is an entry in which two states differ. Where a state does not have it, its number
// is 0.
type Change struct {
	Hash Hash
	A, B EventNID
}

// Diff lists in what states a and b differ, by hash. It walks only those parts of the trees
// that are not shared, all of them level by level, with one read of storage each.
func (t *Tree) Diff(nodes Nodes, a, b Root) ([]Change, error) {
	if a == b {
		return nil, nil
	}
	r := t.reader(nodes)
	var changes []Change
	level := []pair{{part{nid: int64(a)}, part{nid: int64(b)}}}
	for len(level) > 0 {
		var nids []int64
		for _, p := range level {
			for _, s := range []part{p.a, p.b} {
				if s.n == nil {
					nids = append(nids, s.nid)
				}
			}
		}
		if err := r.load(nids); err != nil {
			return nil, err
		}
		var next []pair
		for _, p := range level {
			x, err := r.open(p.a)
			if err != nil {
				return nil, err
			}
			y, err := r.open(p.b)
			if err != nil {
				return nil, err
			}
			if (x == nil || x.isLeaf()) && (y == nil || y.isLeaf()) {
				changes = diffLeaves(changes, x, y)
			} else {
				next = append(next, splitPair(p, x, y)...)
			}
		}
		level = next
	}
	slices.SortFunc(changes, func(a, b Change) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	return changes, nil
}

// part is a part of a tree that is to be compared: a stored node, or some entries of a leaf
// as a leaf of their own, or nothing.
type part struct {
	nid int64
	n   *node
	// parent and digit say where a stored node was found, if not at the top.
	parent *node
	digit  int
}

func (p part) empty() bool { return p.nid == 0 && p.n == nil }

type pair struct{ a, b part }

func (r *reader) open(p part) (*node, error) {
	switch {
	case p.n != nil || p.nid == 0:
		return p.n, nil
	case p.parent != nil:
		return r.child(p.parent, p.digit)
	}
	return r.get(p.nid)
}

// splitPair parts two nodes at the first digit in which anything below them may differ.
func splitPair(p pair, x, y *node) []pair {
	depth := nibbles
	var prefixes []*Hash
	for _, n := range []*node{x, y} {
		if n != nil {
			h, d := n.extent()
			depth = min(depth, d)
			prefixes = append(prefixes, h)
		}
	}
	if len(prefixes) == 2 {
		depth = min(depth, commonNibbles(prefixes[0], prefixes[1]))
	}
	var pairs []pair
	for d := range fanout {
		a, b := p.a.below(x, depth, d), p.b.below(y, depth, d)
		same := a.nid != 0 && a.nid == b.nid
		if !same && !(a.empty() && b.empty()) {
			pairs = append(pairs, pair{a, b})
		}
	}
	return pairs
}

// below is what of the part, whose node is n, has the given digit at the given depth.
func (p part) below(n *node, depth, digit int) part {
	switch {
	case n == nil:
		return part{}
	case n.isLeaf():
		if entries := byDigit(n.entries, depth)[digit]; entries != nil {
			return part{n: &node{entries: entries}}
		}
		return part{}
	case n.depth > depth:
		if n.prefix.nibble(depth) == digit {
			return part{nid: p.nid, n: n}
		}
		return part{}
	case n.children[digit] != 0:
		return part{nid: n.children[digit], parent: n, digit: digit}
	}
	return part{}
}

func diffLeaves(changes []Change, x, y *node) []Change {
	var a, b []HashEntry
	if x != nil {
		a = x.entries
	}
	if y != nil {
		b = y.entries
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && compareHashes(a[0], b[0]) < 0:
			changes = append(changes, Change{Hash: a[0].Hash, A: a[0].NID})
			a = a[1:]
		case len(a) == 0 || compareHashes(a[0], b[0]) > 0:
			changes = append(changes, Change{Hash: b[0].Hash, B: b[0].NID})
			b = b[1:]
		default:
			if a[0].NID != b[0].NID {
				changes = append(changes, Change{a[0].Hash, a[0].NID, b[0].NID})
			}
			a, b = a[1:], b[1:]
		}
	}
	return changes
}
