package resolve

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/roomserver/state"
)

// resolveV2 is the algorithm of room versions 2 to 11, and that of 12, called 2.1.
//
// spec: rooms/v2.md#algorithm
// spec: rooms/v12.md#algorithm
func (x *resolution) resolveV2() error {
	fromEmpty := x.algorithm == gomatrixserverlib.StateResV2_1
	full, err := x.fullConflictedSet(fromEmpty)
	if err != nil {
		return err
	}
	events, err := x.load(full)
	if err != nil {
		return err
	}
	if len(events) != len(full) {
		return fmt.Errorf("of %d events in the full conflicted set only %d exist", len(full), len(events))
	}
	g, err := x.regionOf(full)
	if err != nil {
		return err
	}

	power := x.powerSet(events, g)
	if !fromEmpty {
		if err := x.loadBase(events); err != nil {
			return err
		}
	}
	sorted, err := x.byPower(power, g)
	if err != nil {
		return err
	}
	if err := x.applyAllowed(sorted, true); err != nil {
		return err
	}

	var rest []*Event
	for _, e := range events {
		if !power[e.NID] {
			rest = append(rest, e)
		}
	}
	if rest, err = x.byMainline(rest); err != nil {
		return err
	}
	// Step 5, that unconflicted state prevails, is in how the result is written.
	return x.applyAllowed(rest, false)
}

func (x *resolution) fullConflictedSet(subgraph bool) ([]state.EventNID, error) {
	full := make(map[state.EventNID]bool)
	add := func(nids []state.EventNID, err error) error {
		for _, nid := range nids {
			full[nid] = true
		}
		return err
	}
	conflicted := x.conflictedSet()
	if err := add(conflicted, nil); err != nil {
		return nil, err
	}
	if err := add(x.authDifference()); err != nil {
		return nil, err
	}
	if subgraph {
		if err := add(x.conflictedSubgraph(conflicted)); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(full)), nil
}

// isPower says whether an event may remove somebody's ability to do something.
//
// spec: rooms/v2.md#definitions
func isPower(e gomatrixserverlib.PDU) bool {
	switch e.Type() {
	case spec.MRoomPowerLevels, spec.MRoomJoinRules:
		return true
	case spec.MRoomMember:
		var content struct {
			Membership string `json:"membership"`
		}
		if json.Unmarshal(e.Content(), &content) != nil || e.StateKeyEquals(string(e.SenderID())) {
			return false
		}
		return content.Membership == spec.Leave || content.Membership == spec.Ban
	}
	return false
}

// powerSet are the power events of the full conflicted set, and what of the set is in their
// auth chains.
func (x *resolution) powerSet(full []*Event, g region) map[state.EventNID]bool {
	inFull := make(map[state.EventNID]bool, len(full))
	var queue []state.EventNID
	for _, e := range full {
		inFull[e.NID] = true
		if isPower(e.PDU) {
			queue = append(queue, e.NID)
		}
	}
	seen := make(map[state.EventNID]bool)
	power := make(map[state.EventNID]bool)
	for len(queue) > 0 {
		nid := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen[nid] {
			continue
		}
		seen[nid] = true
		if inFull[nid] {
			power[nid] = true
		}
		for _, a := range x.links[nid].Auth {
			if g[a] {
				queue = append(queue, a)
			}
		}
	}
	return power
}

// ranked is an event with what the reverse topological power ordering compares.
type ranked struct {
	*Event
	level int64
}

func compareRanked(a, b ranked) int {
	return cmp.Or(
		cmp.Compare(b.level, a.level),
		cmp.Compare(a.PDU.OriginServerTS(), b.PDU.OriginServerTS()),
		cmp.Compare(a.PDU.EventID(), b.PDU.EventID()),
	)
}

type rankedHeap []ranked

func (h rankedHeap) Len() int           { return len(h) }
func (h rankedHeap) Less(i, j int) bool { return compareRanked(h[i], h[j]) < 0 }
func (h rankedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *rankedHeap) Push(v any)        { *h = append(*h, v.(ranked)) }
func (h *rankedHeap) Pop() any {
	old := *h
	v := old[len(old)-1]
	*h = old[:len(old)-1]
	return v
}

// byPower sorts events by the reverse topological power ordering: Kahn's algorithm over the
// part of the graph that has all paths between them. Other events on such a path have no
// place in the result, and are passed as soon as all before them are.
//
// spec: rooms/v2.md#definitions
func (x *resolution) byPower(set map[state.EventNID]bool, g region) ([]*Event, error) {
	waits := make(map[state.EventNID]int, len(g)) // for how many auth events
	citing := make(map[state.EventNID][]state.EventNID)
	var ready []state.EventNID
	for nid := range g {
		for _, a := range x.links[nid].Auth {
			if g[a] {
				waits[nid]++
				citing[a] = append(citing[a], nid)
			}
		}
		if waits[nid] == 0 {
			ready = append(ready, nid)
		}
	}
	var candidates rankedHeap
	var sorted []*Event
	for len(ready) > 0 || len(candidates) > 0 {
		for len(ready) > 0 {
			nid := ready[len(ready)-1]
			ready = ready[:len(ready)-1]
			if !set[nid] {
				ready = x.pass(ready, nid, waits, citing)
				continue
			}
			e := x.loaded[nid]
			level, err := x.senderLevel(e)
			if err != nil {
				return nil, err
			}
			heap.Push(&candidates, ranked{e, level})
		}
		if len(candidates) > 0 {
			e := heap.Pop(&candidates).(ranked).Event
			sorted = append(sorted, e)
			ready = x.pass(ready, e.NID, waits, citing)
		}
	}
	return sorted, nil
}

// pass adds to ready the events that waited for this one only.
func (x *resolution) pass(ready []state.EventNID, nid state.EventNID, waits map[state.EventNID]int, citing map[state.EventNID][]state.EventNID) []state.EventNID {
	for _, c := range citing[nid] {
		if waits[c]--; waits[c] == 0 {
			ready = append(ready, c)
		}
	}
	return ready
}

// creatorLevel is a creator's in rooms where creators are above all power levels.
const creatorLevel = math.MaxInt64

// senderLevel is the power level of the event's sender, by the event's auth events.
//
// spec: rooms/v12.md#definitions
// spec: client-server-api/index.md#permissions
func (x *resolution) senderLevel(e *Event) (int64, error) {
	create, err := x.getCreate()
	if err != nil {
		return 0, err
	}
	sender := e.PDU.SenderID()
	if x.rules.PrivilegedCreators() && slices.Contains(gomatrixserverlib.CreatorsFromCreateEvent(create.PDU), string(sender)) {
		return creatorLevel, nil
	}
	nid, err := x.powerLevelsOf(e.NID)
	if err != nil {
		return 0, err
	}
	if nid == 0 {
		// Before there are power levels the creator has 100, everybody else 0.
		if sender == create.PDU.SenderID() {
			return 100, nil
		}
		return 0, nil
	}
	loaded, err := x.load([]state.EventNID{nid})
	if err != nil || len(loaded) == 0 {
		return 0, err
	}
	content, err := gomatrixserverlib.NewPowerLevelContentFromEvent(loaded[0].PDU)
	if err != nil {
		return 0, nil // what gives nobody a level gives 0
	}
	return content.UserLevel(sender), nil
}

// powerLevelsOf is the power levels event among an event's auth events, or 0.
func (x *resolution) powerLevelsOf(nid state.EventNID) (state.EventNID, error) {
	if err := x.loadLinks([]state.EventNID{nid}); err != nil {
		return 0, err
	}
	auth := x.links[nid].Auth
	if err := x.loadLinks(auth); err != nil {
		return 0, err
	}
	for _, a := range auth {
		if x.links[a].Hash == powerLevelsHash {
			return a, nil
		}
	}
	return 0, nil
}

// mainline gives positions in the mainline of a power levels event, and follows it no
// further back than it is asked about.
type mainline struct {
	positions map[state.EventNID]int
	// last is the event at the end so far; 0 when there are no more.
	last state.EventNID
}

// position is the event's position, if it is in the mainline.
func (x *resolution) position(m *mainline, nid state.EventNID) (int, bool, error) {
	// Numbers fall along the mainline.
	for m.last > nid {
		next, err := x.powerLevelsOf(m.last)
		if err != nil {
			return 0, false, err
		}
		if next != 0 {
			m.positions[next] = len(m.positions)
		}
		m.last = next
	}
	i, ok := m.positions[nid]
	return i, ok, nil
}

// byMainline sorts events by the mainline ordering based on the resolved power levels.
//
// spec: rooms/v2.md#definitions
func (x *resolution) byMainline(events []*Event) ([]*Event, error) {
	m := &mainline{positions: make(map[state.EventNID]int)}
	p, err := x.resolvedPowerLevels()
	if err != nil {
		return nil, err
	}
	if p != 0 {
		m.positions[p] = 0
		m.last = p
	}
	type placed struct {
		*Event
		position int
	}
	list := make([]placed, len(events))
	for i, e := range events {
		list[i] = placed{e, math.MaxInt}
		for nid := e.NID; ; {
			if nid, err = x.powerLevelsOf(nid); err != nil {
				return nil, err
			}
			if nid == 0 {
				break
			}
			at, ok, err := x.position(m, nid)
			if err != nil {
				return nil, err
			}
			if ok {
				list[i].position = at
				break
			}
		}
	}
	slices.SortFunc(list, func(a, b placed) int {
		return cmp.Or(
			cmp.Compare(b.position, a.position),
			cmp.Compare(a.PDU.OriginServerTS(), b.PDU.OriginServerTS()),
			cmp.Compare(a.PDU.EventID(), b.PDU.EventID()),
		)
	})
	sorted := make([]*Event, len(list))
	for i, l := range list {
		sorted[i] = l.Event
	}
	return sorted, nil
}

// resolvedPowerLevels is the power levels event of the partially resolved state, or 0.
func (x *resolution) resolvedPowerLevels() (state.EventNID, error) {
	if nid, ok := x.resolved[powerLevelsHash]; ok || x.algorithm == gomatrixserverlib.StateResV2_1 || x.conflicted[powerLevelsHash] != nil {
		return nid, nil
	}
	found, err := x.r.tree.GetHashes(x.nodes, x.roots[0], []state.Hash{powerLevelsHash})
	return found[powerLevelsHash], err
}

// applyAllowed adds to the resolved state, one after the other, the events that it allows.
//
// spec: rooms/v2.md#definitions, "Iterative auth checks"
func (x *resolution) applyAllowed(events []*Event, power bool) error {
	for _, e := range events {
		verdict, err := x.allowed(e, true)
		if err != nil {
			return err
		}
		x.verdicts = append(x.verdicts, Verdict{NID: e.NID, Err: verdict, Power: power})
		if verdict == nil {
			x.resolved[x.links[e.NID].Hash] = e.NID
		}
	}
	return nil
}
