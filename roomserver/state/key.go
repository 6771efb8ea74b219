package state

import "crypto/sha256"

// EventNID is the number by which storage knows an event. "4711".
type EventNID int64

// Root names a state: the number of its tree's topmost node. 0 is the state without entries.
type Root int64

// Key is what a room's state is indexed by.
type Key struct {
	Type     string
	StateKey string
}

// prefixSize is how many bytes of a hash depend on the type alone. Four, because two types
// that shared them would be listed together: with two bytes that happens by accident.
const prefixSize = 4

// hashSize leaves 16 bytes for type and state key together, so that nobody finds two state
// keys with one hash.
const hashSize = prefixSize + 16

// Hash is where a key lies in the tree: 4 bytes that depend on the type alone, so that the
// entries of one type lie together, and 16 bytes of type and state key.
type Hash [hashSize]byte

// Hash computes the key's place in the tree.
func (k Key) Hash() Hash {
	var h Hash
	t := sha256.Sum256([]byte(k.Type))
	copy(h[:prefixSize], t[:])
	// The type's full hash has a fixed length, so no other split of the two texts
	// gives the same input.
	s := sha256.New()
	s.Write(t[:])
	s.Write([]byte(k.StateKey))
	copy(h[prefixSize:], s.Sum(t[:0]))
	return h
}

// HasType says whether the hash belongs to an entry of the given type. Two types agree by
// accident once in four thousand million; who can't have that looks at the event.
func (h Hash) HasType(eventType string) bool {
	t := sha256.Sum256([]byte(eventType))
	return [prefixSize]byte(h[:prefixSize]) == [prefixSize]byte(t[:prefixSize])
}

// nibbles is how many hex digits a hash has.
const nibbles = 2 * hashSize

// nibble is the hash's i-th hex digit.
func (h *Hash) nibble(i int) int {
	if i%2 == 0 {
		return int(h[i/2] >> 4)
	}
	return int(h[i/2] & 15)
}

// commonNibbles counts the hex digits that both begin with.
func commonNibbles(a, b *Hash) int {
	for i := range a {
		if x := a[i] ^ b[i]; x >= 16 {
			return 2 * i
		} else if x != 0 {
			return 2*i + 1
		}
	}
	return nibbles
}

// truncated is the hash with all but its first n hex digits zero.
func (h Hash) truncated(n int) Hash {
	for i := (n + 1) / 2; i < hashSize; i++ {
		h[i] = 0
	}
	if n%2 == 1 {
		h[n/2] &= 0xf0
	}
	return h
}
