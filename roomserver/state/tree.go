package state

import (
	"fmt"
)

// Nodes is where nodes are kept: a table of numbered, immutable byte strings, seen through
// a transaction of the caller's. *storage.Tx is one.
type Nodes interface {
	// GetNodes reads nodes. It may leave out what does not exist.
	GetNodes(nids []int64) (map[int64][]byte, error)
	// InsertNode adds a node and returns its number, more than 0, which no other node that
	// anybody can see has.
	InsertNode(body []byte) (int64, error)
}

// Tree reads and writes the states of all rooms. It keeps nothing but the cache.
type Tree struct {
	cache *Cache
}

// New makes a Tree that keeps decoded nodes in cache.
func New(cache *Cache) *Tree { return &Tree{cache: cache} }

// Entry is an entry to set: an event at a key. NID 0 removes the entry.
type Entry struct {
	Key Key
	NID EventNID
}

// Get looks one entry up.
func (t *Tree) Get(nodes Nodes, root Root, key Key) (EventNID, bool, error) {
	h := key.Hash()
	found, err := t.GetHashes(nodes, root, []Hash{h})
	nid, ok := found[h]
	return nid, ok, err
}

// GetMany looks many entries up, with one read of storage a level of the tree. What the
// state does not have is not in the result.
func (t *Tree) GetMany(nodes Nodes, root Root, keys []Key) (map[Key]EventNID, error) {
	hashes := make([]Hash, len(keys))
	for i, k := range keys {
		hashes[i] = k.Hash()
	}
	found, err := t.GetHashes(nodes, root, hashes)
	if err != nil {
		return nil, err
	}
	result := make(map[Key]EventNID, len(found))
	for i, k := range keys {
		if nid, ok := found[hashes[i]]; ok {
			result[k] = nid
		}
	}
	return result, nil
}

// GetHashes is GetMany for those who know the hashes only.
func (t *Tree) GetHashes(nodes Nodes, root Root, hashes []Hash) (map[Hash]EventNID, error) {
	found := make(map[Hash]EventNID, len(hashes))
	r := t.reader(nodes)
	err := r.descend(int64(root), hashes, func(leaf *node, below []Hash) {
		for i := range below {
			if nid, ok := leaf.find(&below[i]); ok {
				found[below[i]] = nid
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// reader reads nodes for one call. It holds on to what it read, so that a call finds its
// nodes again even when the cache is too small for them.
type reader struct {
	nodes Nodes
	cache *Cache
	held  map[int64]*node
}

func (t *Tree) reader(nodes Nodes) *reader {
	return &reader{nodes: nodes, cache: t.cache, held: make(map[int64]*node)}
}

// load makes get find the given nodes; numbers 0 are skipped.
func (r *reader) load(nids []int64) error {
	var missing []int64
	for _, nid := range nids {
		if nid == 0 || r.held[nid] != nil {
			continue
		}
		if n := r.cache.get(nid); n != nil {
			r.held[nid] = n
			continue
		}
		missing = append(missing, nid)
	}
	if len(missing) == 0 {
		return nil
	}
	bodies, err := r.nodes.GetNodes(missing)
	if err != nil {
		return fmt.Errorf("read state nodes: %w", err)
	}
	for _, nid := range missing {
		body, ok := bodies[nid]
		if !ok {
			return fmt.Errorf("state node %d does not exist", nid)
		}
		n, err := decode(body)
		if err != nil {
			return fmt.Errorf("state node %d: %w", nid, err)
		}
		r.held[nid] = n
		r.cache.put(nid, n)
	}
	return nil
}

// get is a node that load has read.
func (r *reader) get(nid int64) (*node, error) {
	if n := r.held[nid]; n != nil {
		return n, nil
	}
	if err := r.load([]int64{nid}); err != nil {
		return nil, err
	}
	return r.held[nid], nil
}

// child is the node below digit i of parent, read by load before. It must lie where the
// parent says, which also makes every walk end.
func (r *reader) child(parent *node, i int) (*node, error) {
	n, err := r.get(parent.children[i])
	if err != nil {
		return nil, err
	}
	first, depth := n.extent()
	if depth <= parent.depth || !parent.covers(first) || first.nibble(parent.depth) != i {
		return nil, fmt.Errorf("state node %d: %w: not in its place", parent.children[i], errCorrupt)
	}
	return n, nil
}

// extent is what all hashes below a node begin with: the first so many digits of a hash.
func (n *node) extent() (*Hash, int) {
	if !n.isLeaf() {
		return &n.prefix, n.depth
	}
	first := &n.entries[0].Hash
	return first, commonNibbles(first, &n.entries[len(n.entries)-1].Hash)
}

// descend calls visit with each leaf on the way to one of the hashes, and with those
// hashes. Each level of the tree is one read.
func (r *reader) descend(root int64, hashes []Hash, visit func(leaf *node, below []Hash)) error {
	if root == 0 || len(hashes) == 0 {
		return nil
	}
	type step struct {
		n     *node
		below []Hash
	}
	top, err := r.get(root)
	if err != nil {
		return err
	}
	level := []step{{top, hashes}}
	for len(level) > 0 {
		var next []int64
		groups := make([][fanout][]Hash, len(level))
		for i, s := range level {
			if s.n.isLeaf() {
				visit(s.n, s.below)
				continue
			}
			for _, h := range s.below {
				d := h.nibble(s.n.depth)
				if s.n.children[d] == 0 || !s.n.covers(&h) {
					continue
				}
				if groups[i][d] == nil {
					next = append(next, s.n.children[d])
				}
				groups[i][d] = append(groups[i][d], h)
			}
		}
		if err := r.load(next); err != nil {
			return err
		}
		var deeper []step
		for i := range groups {
			for d, below := range groups[i] {
				if below == nil {
					continue
				}
				n, err := r.child(level[i].n, d)
				if err != nil {
					return err
				}
				deeper = append(deeper, step{n, below})
			}
		}
		level = deeper
	}
	return nil
}
