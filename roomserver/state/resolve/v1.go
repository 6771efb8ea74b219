package resolve

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/roomserver/state"
)

// resolveV1 is the algorithm of room version 1.
//
// spec: rooms/v1.md#state-resolution
func (x *resolution) resolveV1() error {
	// A key that some states lack is no conflict: R starts from the union of the states.
	conflicts := make(map[state.Hash][]state.EventNID)
	var all []state.EventNID
	for h, nids := range x.conflicted {
		var block []state.EventNID
		for _, nid := range nids {
			if nid != 0 && !slices.Contains(block, nid) {
				block = append(block, nid)
			}
		}
		if len(block) == 1 {
			x.resolved[h] = block[0]
			continue
		}
		conflicts[h] = block
		all = append(all, block...)
	}
	events, err := x.load(all)
	if err != nil {
		return err
	}
	if len(events) != len(all) {
		return fmt.Errorf("of %d events in conflict only %d exist", len(all), len(events))
	}
	if err := x.loadBase(events); err != nil {
		return err
	}

	var members, others []state.Hash
	for h := range conflicts {
		switch {
		case h == powerLevelsHash || h == joinRulesHash:
		case h.HasType(spec.MRoomMember):
			members = append(members, h)
		default:
			others = append(others, h)
		}
	}
	for _, keys := range [][]state.Hash{{powerLevelsHash}, {joinRulesHash}, members} {
		// Members are judged by the state before any of them: in no order among themselves.
		winners := make(map[state.Hash]state.EventNID)
		slices.SortFunc(keys, func(a, b state.Hash) int { return bytes.Compare(a[:], b[:]) })
		for _, h := range keys {
			if block := conflicts[h]; block != nil {
				if winners[h], err = x.pickAuth(h, x.byDepth(block)); err != nil {
					return err
				}
			}
		}
		for h, nid := range winners {
			x.resolved[h] = nid
		}
	}
	slices.SortFunc(others, func(a, b state.Hash) int { return bytes.Compare(a[:], b[:]) })
	for _, h := range others {
		nid, err := x.pickOther(x.byDepth(conflicts[h]))
		if err != nil {
			return err
		}
		x.resolved[h] = nid
	}
	return nil
}

// byDepth sorts by ascending depth, then by descending SHA-1 of the event ID.
func (x *resolution) byDepth(block []state.EventNID) []*Event {
	events := make([]*Event, len(block))
	for i, nid := range block {
		events[i] = x.loaded[nid]
	}
	slices.SortFunc(events, func(a, b *Event) int {
		if c := cmp.Compare(a.PDU.Depth(), b.PDU.Depth()); c != 0 {
			return c
		}
		ha, hb := sha1.Sum([]byte(a.PDU.EventID())), sha1.Sum([]byte(b.PDU.EventID()))
		return bytes.Compare(hb[:], ha[:])
	})
	return events
}

// pickAuth takes the first event, and then each that is allowed by a state with the one
// before it, up to one that is not. It leaves the state as it was.
func (x *resolution) pickAuth(h state.Hash, block []*Event) (state.EventNID, error) {
	defer delete(x.resolved, h)
	taken := block[0].NID
	x.resolved[h] = taken
	x.verdicts = append(x.verdicts, Verdict{NID: taken, Power: true})
	for _, e := range block[1:] {
		verdict, err := x.allowed(e, false)
		if err != nil {
			return 0, err
		}
		x.verdicts = append(x.verdicts, Verdict{NID: e.NID, Err: verdict, Power: true})
		if verdict != nil {
			break
		}
		taken = e.NID
		x.resolved[h] = taken
	}
	return taken, nil
}

// pickOther takes the last event that is allowed. Where none is, the specification does not
// say what to do; the first one, then, as for the events above.
func (x *resolution) pickOther(block []*Event) (state.EventNID, error) {
	for _, e := range slices.Backward(block) {
		verdict, err := x.allowed(e, false)
		if err != nil {
			return 0, err
		}
		x.verdicts = append(x.verdicts, Verdict{NID: e.NID, Err: verdict})
		if verdict == nil {
			return e.NID, nil
		}
	}
	return block[0].NID, nil
}
