package resolve

import (
	"container/heap"
	"maps"
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/roomserver/state"
)

// The keys at which a state has what everything is authorised by.
var (
	createHash      = state.Key{Type: spec.MRoomCreate}.Hash()
	powerLevelsHash = state.Key{Type: spec.MRoomPowerLevels}.Hash()
	joinRulesHash   = state.Key{Type: spec.MRoomJoinRules}.Hash()
)

// canAuthorise says whether an event of the hash's type may be in [Links].Auth.
//
// spec: server-server-api.md#auth-events-selection
func canAuthorise(h state.Hash) bool {
	return h == powerLevelsHash || h == joinRulesHash ||
		h.HasType(spec.MRoomMember) || h.HasType(spec.MRoomThirdPartyInvite)
}

// maxHeap gives the highest number first.
type maxHeap []state.EventNID

func (h maxHeap) Len() int           { return len(h) }
func (h maxHeap) Less(i, j int) bool { return h[i] > h[j] }
func (h maxHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *maxHeap) Push(x any)        { *h = append(*h, x.(state.EventNID)) }
func (h *maxHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// sets is a set of states, by their indices.
type sets []uint64

func newSets(n int) sets { return make(sets, (n+63)/64) }

func (s sets) add(i int) { s[i/64] |= 1 << (i % 64) }
func (s sets) addAll(o sets) { // s and o are of one size
	for i := range s {
		s[i] |= o[i]
	}
}

// authDifference are the events that are in the auth chains of some states, but not of all.
//
// It walks from the conflicted events towards the past, the highest number first, and
// notes by which states an event was reached; all, if it is in the auth chain of an
// unconflicted event. When only events that all states reach are left, so is everything
// further back.
//
// spec: rooms/v2.md#definitions
func (x *resolution) authDifference() ([]state.EventNID, error) {
	all := newSets(len(x.roots))
	for i := range x.roots {
		all.add(i)
	}
	reached := make(map[state.EventNID]sets)
	var front maxHeap
	partial := 0 // how many in front are not reached by all
	reach := func(nid state.EventNID, by sets) {
		s, ok := reached[nid]
		if !ok {
			s = newSets(len(x.roots))
			reached[nid] = s
			heap.Push(&front, nid)
			partial++
		} else if slices.Equal(s, all) {
			return
		}
		s.addAll(by)
		if slices.Equal(s, all) {
			partial--
		}
	}

	if err := x.loadLinks(x.conflictedSet()); err != nil {
		return nil, err
	}
	for _, nids := range x.conflicted {
		for i, nid := range nids {
			if nid == 0 {
				continue
			}
			by := newSets(len(x.roots))
			by.add(i)
			for _, a := range x.links[nid].Auth {
				reach(a, by)
			}
		}
	}

	var difference []state.EventNID
	for partial > 0 {
		if _, ok := x.links[front[0]]; !ok {
			// It and what is beside it: the walk will come to them all, or nearly.
			if err := x.loadUnconflicted(front); err != nil {
				return nil, err
			}
		}
		nid := heap.Pop(&front).(state.EventNID)
		by := reached[nid]
		if !slices.Equal(by, all) {
			partial--
			cited, err := x.isCited(nid)
			if err != nil {
				return nil, err
			}
			unconflicted, err := x.isUnconflicted(nid)
			if err != nil {
				return nil, err
			}
			if !cited {
				difference = append(difference, nid)
			}
			if cited || unconflicted {
				by = all
			}
		}
		for _, a := range x.links[nid].Auth {
			reach(a, by)
		}
	}
	return difference, nil
}

// scan is what was found when unconflicted state was asked for events in whose auth chains
// some others are, and had none.
type scan struct {
	// root is the first of the states, and newest the highest number that an event had.
	root   state.Root
	newest state.EventNID
	// through are the events asked for, and the events that have one of them in their auth
	// chains and may be in those of others.
	through map[state.EventNID]bool
	// standing are the events of the state that cite any of these; they were in conflict.
	standing map[state.EventNID]bool
}

func (x *resolution) newScan(newest state.EventNID) *scan {
	return &scan{root: x.roots[0], newest: newest, through: make(map[state.EventNID]bool), standing: make(map[state.EventNID]bool)}
}

// maxThrough bounds what is remembered of a scan.
const maxThrough = 4096

// uncite notes what a scan has found, together with what others of this resolution have on which
// it rests: from then on these are one.
func (x *resolution) uncite(now *scan, others map[*scan]bool) {
	whole := now
	for other := range others {
		if len(other.through) > len(whole.through) {
			whole = other
		}
	}
	others[now] = true
	for other := range others {
		if other == whole {
			continue
		}
		whole.newest = max(whole.newest, other.newest)
		maps.Copy(whole.through, other.through)
		maps.Copy(whole.standing, other.standing)
		for nid := range other.through {
			x.uncited[nid] = whole
		}
	}
	for nid := range now.through {
		x.uncited[nid] = whole
	}
}

// isCited says whether an event is in the auth chain of an unconflicted event. It asks the
// events that cite it, and the events that cite those; of an event that it was asked about
// before, only what changed since then.
func (x *resolution) isCited(nid state.EventNID) (bool, error) {
	if x.uncited[nid] != nil {
		return false, nil
	}
	if citer, ok := x.r.citers.get(nid); ok {
		// Checked, as the numbers of a transaction that failed may be given again.
		unconflicted, err := x.isUnconflicted(citer)
		if err != nil {
			return false, err
		}
		if unconflicted && slices.Contains(x.links[citer].Auth, nid) {
			return true, nil
		}
	}
	if before, ok := x.r.scans.get(nid); ok && !x.rescanned[before] {
		x.rescanned[before] = true
		if err := x.rescan(before); err != nil || x.uncited[nid] != nil {
			return false, err
		}
	}
	now, others := x.newScan(nid), make(map[*scan]bool)
	now.through[nid] = true
	queue := []state.EventNID{nid}
	for len(queue) > 0 {
		cited := queue[0]
		queue = queue[1:]
		for from := state.EventNID(math.MaxInt64); ; {
			citers, err := x.events.ListCiting(cited, from, x.r.page)
			if err != nil {
				return false, err
			}
			found, err := x.look(now, citers)
			if err != nil || found {
				return found, err
			}
			queue = append(queue, x.through(now, others, citers)...)
			if len(citers) < x.r.page {
				break
			}
			from = citers[len(citers)-1]
		}
	}
	x.uncite(now, others)
	return false, nil
}

// rescan brings a scan of an earlier resolution up to date: what unconflicted state has that it did
// not have then, and what has come since. It finds nothing if some of the events are cited now.
func (x *resolution) rescan(before *scan) error {
	now, others := x.newScan(before.newest), make(map[*scan]bool)
	maps.Copy(now.through, before.through)
	changes, err := x.changesSince(before.root)
	if err != nil {
		return err
	}
	candidates := slices.Collect(maps.Keys(before.standing))
	for _, c := range changes {
		if c.B != 0 && c.B <= before.newest {
			candidates = append(candidates, c.B)
		}
	}
	if found, err := x.look(now, candidates); err != nil || found {
		return err
	}
	for fresh := slices.Collect(maps.Keys(now.through)); len(fresh) > 0; {
		asked := fresh
		fresh = nil
		for after := before.newest; ; {
			citers, err := x.events.ListCitingAny(asked, after, x.r.page)
			if err != nil {
				return err
			}
			if found, err := x.look(now, citers); err != nil || found {
				return err
			}
			fresh = append(fresh, x.through(now, others, citers)...)
			if len(citers) < x.r.page {
				break
			}
			after = citers[len(citers)-1]
		}
	}
	x.uncite(now, others)
	return nil
}

// through has a scan go on through those of some citing events that may be cited themselves. It gives those
// of which nothing is known; of the others a scan of this resolution knows.
func (x *resolution) through(now *scan, others map[*scan]bool, citers []state.EventNID) (fresh []state.EventNID) {
	for _, c := range citers {
		switch other := x.uncited[c]; {
		case now.through[c] || !canAuthorise(x.links[c].Hash):
		case other != nil:
			others[other] = true
		default:
			now.through[c] = true
			fresh = append(fresh, c)
		}
	}
	return fresh
}

// look looks for an unconflicted event that cites what the scan goes through, and notes
// those that are in conflict.
func (x *resolution) look(now *scan, citers []state.EventNID) (found bool, err error) {
	if err := x.loadUnconflicted(citers); err != nil {
		return false, err
	}
	for _, c := range citers {
		l := x.links[c]
		i := slices.IndexFunc(l.Auth, func(a state.EventNID) bool { return now.through[a] })
		if i < 0 {
			continue
		}
		if x.unconflicted[c] {
			x.r.citers.put(l.Auth[i], c)
			return true, nil
		}
		if nids := x.conflicted[l.Hash]; nids != nil && nids[0] == c {
			now.standing[c] = true
		}
		now.newest = max(now.newest, c)
	}
	return false, nil
}

// changesSince is how the first state differs from another.
func (x *resolution) changesSince(root state.Root) ([]state.Change, error) {
	if changes, ok := x.since[root]; ok {
		return changes, nil
	}
	changes, err := x.r.tree.Diff(x.nodes, root, x.roots[0])
	if err == nil {
		x.since[root] = changes
	}
	return changes, err
}

// region is the part of the graph of auth events that can be reached from some events, down
// to the lowest numbered of them that an event may cite: all paths between two of them, and
// more. It includes the events.
type region map[state.EventNID]bool

func (x *resolution) regionOf(events []state.EventNID) (region, error) {
	if err := x.loadLinks(events); err != nil {
		return nil, err
	}
	lowest := state.EventNID(math.MaxInt64)
	g := make(region)
	for _, nid := range events {
		g[nid] = true
		if nid < lowest && canAuthorise(x.links[nid].Hash) {
			lowest = nid
		}
	}
	level := events
	for len(level) > 0 {
		var next []state.EventNID
		for _, nid := range level {
			for _, a := range x.links[nid].Auth {
				if a >= lowest && !g[a] {
					g[a] = true
					next = append(next, a)
				}
			}
		}
		if err := x.loadLinks(next); err != nil {
			return nil, err
		}
		level = next
	}
	return g, nil
}

// conflictedSubgraph are the events on the paths from one conflicted event to another.
//
// spec: rooms/v12.md#definitions
func (x *resolution) conflictedSubgraph(conflicted []state.EventNID) ([]state.EventNID, error) {
	g, err := x.regionOf(conflicted)
	if err != nil {
		return nil, err
	}
	// All of the region is reached from a conflicted event; what reaches one is found from
	// the lowest number up.
	reaches := make(map[state.EventNID]bool)
	for _, nid := range conflicted {
		reaches[nid] = true
	}
	var subgraph []state.EventNID
	for _, nid := range slices.Sorted(maps.Keys(g)) {
		if reaches[nid] || slices.ContainsFunc(x.links[nid].Auth, func(a state.EventNID) bool { return reaches[a] }) {
			reaches[nid] = true
			subgraph = append(subgraph, nid)
		}
	}
	return subgraph, nil
}
