package state

import (
	"bytes"
	"fmt"
	"slices"
)

// Set makes the state that has the given entries instead of what root has at their keys,
// and returns its root. When that is what root has already, it is root. If a key comes
// twice, the later entry counts.
func (t *Tree) Set(nodes Nodes, root Root, entries []Entry) (Root, error) {
	edits := make([]HashEntry, len(entries))
	for i, e := range entries {
		edits[i] = HashEntry{e.Key.Hash(), e.NID}
	}
	return t.SetHashes(nodes, root, edits)
}

// SetHashes is Set for those who know the hashes only, such as from Diff.
func (t *Tree) SetHashes(nodes Nodes, root Root, entries []HashEntry) (Root, error) {
	edits := slices.Clone(entries)
	slices.SortStableFunc(edits, compareHashes)
	n := 0
	for i, e := range edits {
		if e.NID < 0 {
			return 0, fmt.Errorf("event number %d in a state", e.NID)
		}
		if i+1 == len(edits) || edits[i+1].Hash != e.Hash {
			edits[n] = e
			n++
		}
	}
	edits = edits[:n]

	w := writer{t.reader(nodes)}
	hashes := make([]Hash, len(edits))
	for i := range edits {
		hashes[i] = edits[i].Hash
	}
	// Reads the paths to all changes, a level at a time, before apply looks at them.
	if err := w.descend(int64(root), hashes, func(*node, []Hash) {}); err != nil {
		return 0, err
	}
	var old *subtree
	if root != 0 {
		top, err := w.get(int64(root))
		if err != nil {
			return 0, err
		}
		old = &subtree{nid: int64(root), n: top}
	}
	made, err := w.apply(old, edits)
	if err != nil {
		return 0, err
	}
	nid, err := w.store(made)
	return Root(nid), err
}

func compareHashes(a, b HashEntry) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }

// writer makes new trees in memory, from parts of old ones, and then stores what is new.
// So it writes nothing that the finished tree does not have.
type writer struct {
	*reader
}

// subtree is a node on its way: one that is stored (nid is not 0), or a new one. An inner
// node that is new has its children in kids instead of in n.children.
type subtree struct {
	nid  int64
	n    *node
	kids [fanout]*subtree
}

// apply makes the tree of old's entries after the edits, which are sorted. Nil is the
// empty tree. If nothing changes it returns old itself.
func (w writer) apply(old *subtree, edits []HashEntry) (*subtree, error) {
	switch {
	case len(edits) == 0:
		return old, nil
	case old == nil:
		return build(merge(nil, edits)), nil
	case old.n.isLeaf():
		entries := merge(old.n.entries, edits)
		if slices.Equal(entries, old.n.entries) {
			return old, nil
		}
		return build(entries), nil
	}

	n := old.n
	var inside [fanout][]HashEntry
	var outside []HashEntry
	for _, e := range edits {
		if n.covers(&e.Hash) {
			d := e.Hash.nibble(n.depth)
			inside[d] = append(inside[d], e)
		} else if e.NID != 0 {
			outside = append(outside, e)
		}
	}
	made := &subtree{n: &node{prefix: n.prefix, depth: n.depth, count: n.count}}
	changed := false
	for d := range fanout {
		var kid *subtree
		if nid := n.children[d]; nid != 0 {
			kid = &subtree{nid: nid}
			if inside[d] != nil {
				var err error
				if kid.n, err = w.child(n, d); err != nil {
					return nil, err
				}
			}
		}
		after, err := w.apply(kid, inside[d])
		if err != nil {
			return nil, err
		}
		if after != kid {
			changed = true
			made.n.count += after.size() - kid.size()
		}
		made.kids[d] = after
	}
	if !changed {
		made = old
	}
	return w.extend(made, outside)
}

func (s *subtree) size() int {
	if s == nil {
		return 0
	}
	return s.n.size()
}

// extend brings an inner node to its canonical form, after its children may have lost
// entries, and adds entries that do not belong below it.
func (w writer) extend(s *subtree, outside []HashEntry) (*subtree, error) {
	if s.nid != 0 {
		return graft(s, outside), nil
	}
	if s.n.count <= leafMax {
		entries, err := w.gather(s)
		if err != nil {
			return nil, err
		}
		return build(merge(entries, outside)), nil
	}
	var only *subtree
	kids := 0
	for _, kid := range s.kids {
		if kid != nil {
			only = kid
			kids++
		}
	}
	if kids > 1 {
		return graft(s, outside), nil
	}
	if only == nil {
		return nil, fmt.Errorf("%w: count", errCorrupt)
	}
	if only.n == nil {
		var err error
		if only.n, err = w.get(only.nid); err != nil {
			return nil, err
		}
	}
	return graft(only, outside), nil
}

// gather lists the entries of a new inner node.
func (w writer) gather(s *subtree) ([]HashEntry, error) {
	var nids []int64
	for _, kid := range s.kids {
		if kid != nil && kid.n == nil {
			nids = append(nids, kid.nid)
		}
	}
	if err := w.load(nids); err != nil {
		return nil, err
	}
	var entries []HashEntry
	for _, kid := range s.kids {
		if kid == nil {
			continue
		}
		n := kid.n
		if n == nil {
			n = w.held[kid.nid]
		}
		if !n.isLeaf() {
			// It has more entries than its parent counts.
			return nil, fmt.Errorf("%w: count", errCorrupt)
		}
		entries = append(entries, n.entries...)
	}
	return entries, nil
}

// graft makes the tree of an inner node and of entries that lie outside its prefix.
func graft(s *subtree, outside []HashEntry) *subtree {
	if len(outside) == 0 {
		return s
	}
	depth := s.n.depth
	for i := range outside {
		depth = min(depth, commonNibbles(&s.n.prefix, &outside[i].Hash))
	}
	made := &subtree{n: &node{
		prefix: s.n.prefix.truncated(depth),
		depth:  depth,
		count:  s.n.count + len(outside),
	}}
	groups := byDigit(outside, depth)
	for d, group := range groups {
		if d == s.n.prefix.nibble(depth) {
			made.kids[d] = graft(s, group)
		} else {
			made.kids[d] = build(group)
		}
	}
	return made
}

// build makes the tree of entries, which are sorted.
func build(entries []HashEntry) *subtree {
	if len(entries) == 0 {
		return nil
	}
	if len(entries) <= leafMax {
		// A copy, as entries may be a window on a much longer slice.
		return &subtree{n: &node{entries: slices.Clone(entries)}}
	}
	first := entries[0].Hash
	depth := commonNibbles(&first, &entries[len(entries)-1].Hash)
	made := &subtree{n: &node{prefix: first.truncated(depth), depth: depth, count: len(entries)}}
	for d, group := range byDigit(entries, depth) {
		made.kids[d] = build(group)
	}
	return made
}

// byDigit parts sorted entries that agree in all digits before the given one by that digit.
func byDigit(entries []HashEntry, digit int) [fanout][]HashEntry {
	var groups [fanout][]HashEntry
	for start := 0; start < len(entries); {
		d := entries[start].Hash.nibble(digit)
		end := start + 1
		for end < len(entries) && entries[end].Hash.nibble(digit) == d {
			end++
		}
		groups[d] = entries[start:end:end]
		start = end
	}
	return groups
}

// merge puts edits over entries, both sorted; an edit with NID 0 removes.
func merge(entries, edits []HashEntry) []HashEntry {
	merged := make([]HashEntry, 0, len(entries)+len(edits))
	for len(entries) > 0 || len(edits) > 0 {
		var c int
		switch {
		case len(entries) == 0:
			c = 1
		case len(edits) == 0:
			c = -1
		default:
			c = compareHashes(entries[0], edits[0])
		}
		if c < 0 {
			merged = append(merged, entries[0])
			entries = entries[1:]
			continue
		}
		if edits[0].NID != 0 {
			merged = append(merged, edits[0])
		}
		edits = edits[1:]
		if c == 0 {
			entries = entries[1:]
		}
	}
	return merged
}

// store writes what is new of a tree, children first, and returns its number.
func (w writer) store(s *subtree) (int64, error) {
	if s == nil {
		return 0, nil
	}
	if s.nid != 0 {
		return s.nid, nil
	}
	if !s.n.isLeaf() {
		for d, kid := range s.kids {
			var err error
			if s.n.children[d], err = w.store(kid); err != nil {
				return 0, err
			}
		}
	}
	nid, err := w.nodes.InsertNode(s.n.encode())
	if err != nil {
		return 0, fmt.Errorf("write state node: %w", err)
	}
	if nid <= 0 {
		return 0, fmt.Errorf("write state node: got number %d", nid)
	}
	w.cache.put(nid, s.n)
	return nid, nil
}
