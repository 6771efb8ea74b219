package sliding

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"parley/internal/id"
	"parley/storage"
)

// maxConfigs bounds the selections of state that a connection remembers. What is beyond it is
// remembered as if nothing had been asked for, so that more is sent than need be.
const maxConfigs = 250

// State is what a connection has told a client, beside its position in the log: which rooms,
// and how much of each. An answer goes out from one, and makes another. The zero State is that of
// a client that knows of no room.
type State struct {
	// Rooms are the rooms that were sent.
	Rooms map[storage.RoomNID]Sent
	// configs are the selections of state with which rooms were sent, as texts.
	configs []string
}

// Sent is what was told of a room.
type Sent struct {
	// UpTo is the position up to which the client was told; 0 where that is the position of the
	// connection itself, as it is for all rooms that have been in sight all along.
	UpTo id.Pos
	// Limit is how many of the room's newest events, at the least, the client was given.
	Limit int
	// config is the place of what state was asked for, 0 for none.
	config int
	Flags
}

// Flags are what else was told of a room.
type Flags uint8

// The flags.
const (
	// DM says that the client takes the room for a conversation of two.
	DM Flags = 1 << iota
	// Receipts and AccountData say that those extensions have told all that there is.
	Receipts
	AccountData
)

// Has says whether a flag is set.
func (f Flags) Has(flag Flags) bool { return f&flag != 0 }

// With sets a flag, or takes it away.
func (f Flags) With(flag Flags, set bool) Flags {
	if set {
		return f | flag
	}
	return f &^ flag
}

// Config is the state that was asked for when a room was sent.
func (s *State) Config(sent Sent) string {
	if sent.config == 0 {
		return ""
	}
	return s.configs[sent.config-1]
}

// WithConfig notes what state was asked for of a room.
func (s *State) WithConfig(sent Sent, config string) Sent {
	sent.config = 0
	if config == "" {
		return sent
	}
	i := slices.Index(s.configs, config)
	if i < 0 && len(s.configs) < maxConfigs {
		i = len(s.configs)
		s.configs = append(s.configs[:i:i], config)
	}
	sent.config = i + 1
	return sent
}

// Clone is a copy that can be changed.
func (s *State) Clone() *State {
	rooms := make(map[storage.RoomNID]Sent, len(s.Rooms)+1)
	maps.Copy(rooms, s.Rooms)
	return &State{Rooms: rooms, configs: s.configs}
}

// Append writes a state in the form in which it is kept: the selections that are in use, and
// the rooms in the order of their numbers, all as numbers of variable length.
func (s *State) Append(b []byte) []byte {
	rooms := slices.Sorted(maps.Keys(s.Rooms))
	used := make([]int, len(s.configs)+1)
	var configs []string
	for _, nid := range rooms {
		if c := s.Rooms[nid].config; c > 0 && used[c] == 0 {
			configs = append(configs, s.configs[c-1])
			used[c] = len(configs)
		}
	}
	b = append(b, stateFormat)
	b = binary.AppendUvarint(b, uint64(len(configs)))
	for _, c := range configs {
		b = append(binary.AppendUvarint(b, uint64(len(c))), c...)
	}
	b = binary.AppendUvarint(b, uint64(len(rooms)))
	last := storage.RoomNID(0)
	for _, nid := range rooms {
		r := s.Rooms[nid]
		b = binary.AppendUvarint(b, uint64(nid-last))
		b = binary.AppendUvarint(b, uint64(r.UpTo))
		b = binary.AppendUvarint(b, uint64(r.Limit))
		b = binary.AppendUvarint(b, uint64(used[r.config]))
		b = append(b, byte(r.Flags))
		last = nid
	}
	return b
}

// stateFormat is the first byte of the form.
const stateFormat = 1

var errState = errors.New("what a connection remembers cannot be read")

// ParseState reads what Append wrote; nothing is the state of one that was told nothing.
func ParseState(b []byte) (*State, error) {
	if len(b) == 0 {
		return &State{}, nil
	}
	d := decoder{b[1:], b[0] != stateFormat}
	s := &State{}
	for range d.count(1) {
		s.configs = append(s.configs, string(d.bytes(d.count(1))))
	}
	n := d.count(5)
	s.Rooms = make(map[storage.RoomNID]Sent, n)
	nid := uint64(0)
	for range n {
		nid += d.number()
		r := Sent{UpTo: id.Pos(d.number()), Limit: int(d.number()), config: int(d.number())}
		if flags := d.bytes(1); len(flags) == 1 {
			r.Flags = Flags(flags[0])
		}
		if r.config > len(s.configs) || r.config < 0 {
			d.bad = true
			break
		}
		s.Rooms[storage.RoomNID(nid)] = r
	}
	if d.bad || len(d.b) > 0 {
		return nil, errState
	}
	return s, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 || n > 1<<62 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

// count is a number of things of at least so many bytes each.
func (d *decoder) count(size int) int {
	n := d.number()
	if n > uint64(len(d.b)/size) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}
