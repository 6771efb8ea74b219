package resolve

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"maps"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/roomserver/state"
)

// reference is the specification's text turned into code, sentence by sentence, with whole
// states and whole auth chains and without a thought for how long it takes. Resolver is held
// against it.
type reference struct {
	room   *room
	states []stateMap
}

type eventSet map[*testEvent]bool

func (r reference) resolve() stateMap {
	switch r.room.rules.StateResAlgorithm() {
	case gomatrixserverlib.StateResV1:
		return r.v1(false)
	case gomatrixserverlib.StateResV2:
		return r.v2(false)
	default:
		return r.v2(true)
	}
}

// conflicts is "Unconflicted state map and conflicted state set".
func (r reference) conflicts() (unconflicted stateMap, conflicted eventSet) {
	unconflicted, conflicted = make(stateMap), make(eventSet)
	for _, s := range r.states {
		for k, v := range s {
			if !slices.ContainsFunc(r.states, func(o stateMap) bool { return o[k] != v }) {
				unconflicted[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return unconflicted, conflicted
}

// authDifference is "Auth difference".
func (r reference) authDifference() eventSet {
	count := make(map[*testEvent]int)
	for _, s := range r.states {
		chain := make(eventSet)
		for _, e := range s {
			maps.Copy(chain, e.chain)
		}
		for e := range chain {
			count[e]++
		}
	}
	difference := make(eventSet)
	for e, n := range count {
		if n < len(r.states) {
			difference[e] = true
		}
	}
	return difference
}

// subgraph is "Conflicted state subgraph".
func (r reference) subgraph(conflicted eventSet) eventSet {
	result := make(eventSet)
	for from := range conflicted {
		for to := range conflicted {
			if !from.chain[to] {
				continue
			}
			for e := range from.chain {
				if e == to || e.chain[to] {
					result[e] = true
				}
			}
			result[from] = true
		}
	}
	return result
}

func (r reference) v2(v21 bool) stateMap {
	unconflicted, conflicted := r.conflicts()
	full := maps.Clone(conflicted)
	maps.Copy(full, r.authDifference())
	if v21 {
		maps.Copy(full, r.subgraph(conflicted))
	}

	// 1. Select the set X ...
	set := make(eventSet)
	for p := range full {
		if !isPower(p.PDU) {
			continue
		}
		set[p] = true
		for e := range p.chain {
			if full[e] {
				set[e] = true
			}
		}
	}
	// 2. Apply the iterative auth checks ...
	partial := make(stateMap)
	if !v21 {
		partial = maps.Clone(unconflicted)
	}
	partial = r.iterate(partial, r.topological(set))
	// 3. Take all remaining events ...
	var rest []*testEvent
	for e := range full {
		if !set[e] {
			rest = append(rest, e)
		}
	}
	// 4. Apply the iterative auth checks ...
	partial = r.iterate(partial, r.mainline(rest, partial[state.Key{Type: spec.MRoomPowerLevels}]))
	// 5. Update the result ...
	maps.Copy(partial, unconflicted)
	return partial
}

// topological is "Reverse topological power ordering", by looking for the next event again
// and again.
func (r reference) topological(set eventSet) []*testEvent { return topological(set, r.comparePower) }

func topological(set eventSet, compare func(a, b *testEvent) int) []*testEvent {
	var sorted []*testEvent
	left := maps.Clone(set)
	for len(left) > 0 {
		var best *testEvent
		for e := range left {
			waits := false
			for a := range e.chain {
				waits = waits || left[a]
			}
			if !waits && (best == nil || compare(e, best) < 0) {
				best = e
			}
		}
		sorted = append(sorted, best)
		delete(left, best)
	}
	return sorted
}

func (r reference) comparePower(a, b *testEvent) int {
	return cmp.Or(cmp.Compare(r.level(b), r.level(a)), compareTime(a, b))
}

func compareTime(a, b *testEvent) int {
	return cmp.Or(cmp.Compare(a.op.TS, b.op.TS), cmp.Compare(a.PDU.EventID(), b.PDU.EventID()))
}

func (r reference) level(e *testEvent) int64 {
	create := r.room.events[0]
	if r.room.version == "12" && slices.Contains(gomatrixserverlib.CreatorsFromCreateEvent(create.PDU), e.op.Sender) {
		return math.MaxInt64
	}
	p := powerLevelsAmong(e.auth)
	if p == nil {
		if e.op.Sender == create.op.Sender {
			return 100
		}
		return 0
	}
	content, err := gomatrixserverlib.NewPowerLevelContentFromEvent(p.PDU)
	if err != nil {
		return 0
	}
	return content.UserLevel(spec.SenderID(e.op.Sender))
}

func powerLevelsAmong(events []*testEvent) *testEvent {
	for _, e := range events {
		if e.op.Type == spec.MRoomPowerLevels && e.op.StateKey == "" {
			return e
		}
	}
	return nil
}

// mainline is "Mainline ordering".
func (r reference) mainline(events []*testEvent, p *testEvent) []*testEvent {
	positions := make(map[*testEvent]int)
	for p != nil {
		positions[p] = len(positions)
		p = powerLevelsAmong(p.auth)
	}
	position := func(e *testEvent) int {
		for e = powerLevelsAmong(e.auth); e != nil; e = powerLevelsAmong(e.auth) {
			if i, ok := positions[e]; ok {
				return i
			}
		}
		return math.MaxInt
	}
	slices.SortFunc(events, func(a, b *testEvent) int {
		return cmp.Or(cmp.Compare(position(b), position(a)), compareTime(a, b))
	})
	return events
}

// iterate is "Iterative auth checks".
func (r reference) iterate(s stateMap, events []*testEvent) stateMap {
	for _, e := range events {
		set := make(authSet)
		for _, k := range authKeys(e.PDU) {
			if s[k] != nil {
				set[k] = s[k]
				continue
			}
			for _, a := range e.auth {
				if a.key() == k && !a.Rejected {
					set[k] = a
				}
			}
			if k.Type == spec.MRoomCreate && r.room.version == "12" {
				set[k] = r.room.events[0]
			}
		}
		if set.allows(e.PDU) == nil {
			s[e.key()] = e
		}
	}
	return s
}

// v1 is rooms/v1.md#state-resolution, perhaps with third-party invites resolved like members
// and before them.
func (r reference) v1(invitesFirst bool) stateMap {
	// Start by setting R to the union of the states, excluding any conflicting events.
	union := make(map[state.Key]eventSet)
	for _, s := range r.states {
		for k, e := range s {
			if union[k] == nil {
				union[k] = make(eventSet)
			}
			union[k][e] = true
		}
	}
	result := make(stateMap)
	blocks := make(map[state.Key][]*testEvent)
	for k, events := range union {
		block := slices.Collect(maps.Keys(events))
		if len(block) == 1 {
			result[k] = block[0]
			continue
		}
		slices.SortFunc(block, func(a, b *testEvent) int {
			ha, hb := sha1.Sum([]byte(a.PDU.EventID())), sha1.Sum([]byte(b.PDU.EventID()))
			return cmp.Or(cmp.Compare(a.depth, b.depth), bytes.Compare(hb[:], ha[:]))
		})
		blocks[k] = block
	}
	allows := func(s stateMap, e *testEvent) bool {
		set := make(authSet)
		for _, k := range authKeys(e.PDU) {
			if s[k] != nil {
				set[k] = s[k]
			}
		}
		return set.allows(e.PDU) == nil
	}
	for _, of := range []func(state.Key) bool{
		func(k state.Key) bool { return k == state.Key{Type: spec.MRoomPowerLevels} },
		func(k state.Key) bool { return k == state.Key{Type: spec.MRoomJoinRules} },
		func(k state.Key) bool { return invitesFirst && k.Type == spec.MRoomThirdPartyInvite },
		func(k state.Key) bool { return k.Type == spec.MRoomMember },
	} {
		before := maps.Clone(result)
		for k, block := range blocks {
			if !of(k) {
				continue
			}
			trial := maps.Clone(before)
			trial[k] = block[0]
			for _, e := range block[1:] {
				if !allows(trial, e) {
					break
				}
				trial[k] = e
			}
			result[k] = trial[k]
			delete(blocks, k)
		}
	}
	before := maps.Clone(result)
	for k, block := range blocks {
		result[k] = block[0]
		for _, e := range slices.Backward(block) {
			if allows(before, e) {
				result[k] = e
				break
			}
		}
	}
	return result
}
