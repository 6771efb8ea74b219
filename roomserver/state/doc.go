// Package state keeps the state of rooms: what an event's (type, state key) means after
// any event of a room, as an immutable tree that all states with the same part share; and
// (in its sub-package resolve) what a fork's states come to.
//
// It knows no SQL and no events: a tree maps the hash of a (type, state key) to the number
// under which storage knows an event. It is not for deciding what may enter a state.
//
// # The tree
//
// A tree is a trie over 20-byte hashes, see [Key.Hash]. Its form is canonical, so that a
// set of entries has one form, whatever the history that led to it:
//
//   - a set of 1 to 32 entries is one leaf;
//   - a larger set is an inner node of 2 to 16 children: it names the hex digits that all
//     its entries begin with, and has a child for each digit that comes next.
//
// A node thus depends on the entries below it and on nothing above it, which lets it move
// up and down, unchanged, when its surroundings do. A small room is one leaf. A change
// writes the leaf and the inner nodes above it: in a room of 100,000 members five nodes,
// around a kilobyte.
//
// A node is written once, gets a number, and never changes. The tree that a number names
// is therefore worth caching for ever, and equal numbers mean equal states. (Different
// numbers may still mean equal states: two branches of a fork can write the same nodes.)
package state
