package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// leafMax is how many entries a leaf holds before it splits. With 16-way inner nodes it
// leaves 24 entries to a leaf in a room of 100,000, and makes most rooms a single leaf.
const leafMax = 32

const fanout = 16

// HashEntry is an entry of a tree: an event at the hash of its type and state key.
type HashEntry struct {
	Hash Hash
	NID  EventNID
}

// node is a decoded node: a leaf if it has entries, else an inner node. It is shared by
// all who read the tree and must not be changed.
type node struct {
	// entries of a leaf, 1 to leafMax, by hash.
	entries []HashEntry

	// prefix is what all hashes below an inner node begin with, depth how many hex digits
	// that is; the rest of prefix is zero.
	prefix Hash
	depth  int
	// count is how many entries are below an inner node: more than leafMax. It tells when
	// removals make it a leaf, without a look at its children.
	count int
	// children of an inner node by the hex digit that follows the prefix; 0 is no child.
	// There are at least two.
	children [fanout]int64
}

func (n *node) isLeaf() bool { return n.entries != nil }

// size is how many entries are below the node.
func (n *node) size() int {
	if n == nil {
		return 0
	}
	if n.isLeaf() {
		return len(n.entries)
	}
	return n.count
}

// covers says whether an inner node is the place for h.
func (n *node) covers(h *Hash) bool { return commonNibbles(&n.prefix, h) >= n.depth }

// memory is about how many bytes the decoded node takes.
func (n *node) memory() int64 { return 224 + 32*int64(len(n.entries)) }

// find looks an entry of a leaf up.
func (n *node) find(h *Hash) (EventNID, bool) {
	lo, hi := 0, len(n.entries)
	for lo < hi {
		mid := (lo + hi) / 2
		switch c := bytes.Compare(n.entries[mid].Hash[:], h[:]); {
		case c == 0:
			return n.entries[mid].NID, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// The bytes of a node:
//
//	leaf   0x00  length of the common prefix in bytes  prefix  { rest of the hash  NID }...
//	inner  0x01  length of the prefix in hex digits    prefix  count  bitmap  { child }...
//
// The prefix takes whole bytes; NIDs, children and the count are varints; the bitmap has
// two bytes, and bit i says that there is a child for digit i.
const (
	kindLeaf  = 0
	kindInner = 1
)

func (n *node) encode() []byte {
	if n.isLeaf() {
		first, last := &n.entries[0].Hash, &n.entries[len(n.entries)-1].Hash
		common := min(commonNibbles(first, last)/2, hashSize-1)
		b := make([]byte, 0, 2+common+len(n.entries)*(hashSize-common+4))
		b = append(b, kindLeaf, byte(common))
		b = append(b, first[:common]...)
		for i := range n.entries {
			b = append(b, n.entries[i].Hash[common:]...)
			b = binary.AppendUvarint(b, uint64(n.entries[i].NID))
		}
		return b
	}
	b := make([]byte, 0, 96)
	b = append(b, kindInner, byte(n.depth))
	b = append(b, n.prefix[:(n.depth+1)/2]...)
	b = binary.AppendUvarint(b, uint64(n.count))
	var bitmap uint16
	for i, c := range n.children {
		if c != 0 {
			bitmap |= 1 << i
		}
	}
	b = binary.BigEndian.AppendUint16(b, bitmap)
	for _, c := range n.children {
		if c != 0 {
			b = binary.AppendUvarint(b, uint64(c))
		}
	}
	return b
}

var errCorrupt = errors.New("corrupt state node")

// decode is encode's inverse, and takes nothing that encode would not write.
func decode(b []byte) (*node, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("%w: %d bytes", errCorrupt, len(b))
	}
	var n *node
	var err error
	switch b[0] {
	case kindLeaf:
		n, err = decodeLeaf(int(b[1]), b[2:])
	case kindInner:
		n, err = decodeInner(int(b[1]), b[2:])
	default:
		return nil, fmt.Errorf("%w: kind %d", errCorrupt, b[0])
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(n.encode(), b) {
		return nil, fmt.Errorf("%w: not in canonical form", errCorrupt)
	}
	return n, nil
}

func decodeLeaf(common int, b []byte) (*node, error) {
	if common >= hashSize || len(b) < common {
		return nil, fmt.Errorf("%w: prefix of %d bytes", errCorrupt, common)
	}
	var h Hash
	copy(h[:], b[:common])
	b = b[common:]
	rest := hashSize - common
	n := &node{entries: make([]HashEntry, 0, min(leafMax, len(b)/(rest+1)))}
	for len(b) > 0 {
		if len(b) <= rest || len(n.entries) == leafMax {
			return nil, fmt.Errorf("%w: leaf with %d bytes too many", errCorrupt, len(b))
		}
		copy(h[common:], b)
		nid, size := binary.Uvarint(b[rest:])
		if size <= 0 || int64(nid) <= 0 {
			return nil, fmt.Errorf("%w: event number", errCorrupt)
		}
		if i := len(n.entries); i > 0 && bytes.Compare(n.entries[i-1].Hash[:], h[:]) >= 0 {
			return nil, fmt.Errorf("%w: entries out of order", errCorrupt)
		}
		n.entries = append(n.entries, HashEntry{h, EventNID(nid)})
		b = b[rest+size:]
	}
	if len(n.entries) == 0 {
		return nil, fmt.Errorf("%w: empty leaf", errCorrupt)
	}
	return n, nil
}

func decodeInner(depth int, b []byte) (*node, error) {
	size := (depth + 1) / 2
	if depth >= nibbles || len(b) < size {
		return nil, fmt.Errorf("%w: prefix of %d digits", errCorrupt, depth)
	}
	n := &node{depth: depth}
	copy(n.prefix[:], b[:size])
	if n.prefix != n.prefix.truncated(depth) {
		return nil, fmt.Errorf("%w: prefix goes on after its end", errCorrupt)
	}
	b = b[size:]
	count, size := binary.Uvarint(b)
	if size <= 0 || count <= leafMax || count > 1<<40 || len(b) < size+2 {
		return nil, fmt.Errorf("%w: count", errCorrupt)
	}
	n.count = int(count)
	bitmap := binary.BigEndian.Uint16(b[size:])
	if bitmap&(bitmap-1) == 0 {
		return nil, fmt.Errorf("%w: inner node with fewer than two children", errCorrupt)
	}
	b = b[size+2:]
	for i := range n.children {
		if bitmap&(1<<i) == 0 {
			continue
		}
		child, size := binary.Uvarint(b)
		if size <= 0 || int64(child) <= 0 {
			return nil, fmt.Errorf("%w: child", errCorrupt)
		}
		n.children[i] = int64(child)
		b = b[size:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", errCorrupt, len(b))
	}
	return n, nil
}
