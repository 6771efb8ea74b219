package roomserver

import (
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
)

// serverTally is what a change of a room's state means for each other server: how many
// members it gained, or lost.
type serverTally map[id.ServerName]*serverChange

type serverChange struct {
	members int64
	// refused says that an invite or a knock of one of its users has come to nothing.
	refused bool
}

func (t serverTally) count(server id.ServerName, before, after string) {
	c := t[server]
	if c == nil {
		c = &serverChange{}
		t[server] = c
	}
	if before == spec.Join {
		c.members--
	}
	switch after {
	case spec.Join:
		c.members++
	case spec.Leave, spec.Ban:
		c.refused = c.refused || before == spec.Invite || before == spec.Knock
	}
}

// serverMove is a server that begins or ends to hear of a room.
type serverMove struct {
	server     id.ServerName
	begin, end bool
}

// moveServers brings the numbers of other servers' members up to date, and says which of
// these servers begin to hear of the room, and which end to. One whose user was invited or
// knocked, and is not let in, hears of that alone: it begins and ends.
func (w *work) moveServers(tally serverTally) ([]serverMove, error) {
	var out []serverMove
	for _, server := range slices.Sorted(maps.Keys(tally)) {
		c := tally[server]
		if c.members == 0 && !c.refused {
			continue
		}
		joined, err := w.tx.AddRoomServer(w.room.NID, server, c.members)
		if err != nil {
			return nil, err
		}
		m := serverMove{server: server, begin: joined > 0 && joined == c.members, end: joined == 0}
		switch {
		case m.begin:
			w.room.Servers++
		case m.end && c.members < 0:
			w.room.Servers--
		case m.end:
			m.begin = true
		default:
			continue
		}
		w.dirty = true
		out = append(out, m)
	}
	return out, nil
}

// placeServers writes the position at which servers begin and end to hear of the room. They
// hear of the event that leads to it, in both cases.
func (w *work) placeServers(moves []serverMove, pos id.Pos) error {
	for _, m := range moves {
		var since, until id.Pos
		if m.begin {
			since = pos
		}
		if m.end {
			until = pos
		}
		if err := w.tx.UpdateRoomServer(w.room.NID, m.server, since, until); err != nil {
			return err
		}
	}
	return w.introduce(moves, pos)
}

// introduce has servers that come to a room told of the devices of our users there: what they
// know of them may be old. Servers that are only said to be there hear of what has keys.
//
// spec: server-server-api.md#device-management
func (w *work) introduce(moves []serverMove, pos id.Pos) error {
	if slices.ContainsFunc(moves, func(m serverMove) bool { return m.begin && !m.end }) {
		return w.tx.InsertIntroductions(w.room.NID, pos, w.room.Partial != 0)
	}
	return nil
}
