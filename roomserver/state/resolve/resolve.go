// Package resolve computes what the states of a fork come to: state resolution, in the
// three forms that room versions have. It decides between events; whether an event may
// follow a state is for gomatrixserverlib's authorisation rules to say, and storing events
// and states is for others.
//
// spec: rooms/v1.md#state-resolution (version 1), rooms/v2.md#state-resolution (2 to 11),
// rooms/v12.md#state-resolution (12)
//
// # The work grows with what differs
//
// The states are given by their roots, and the conflicted state set is what differs
// between the trees. The rest is never listed. What the algorithms then want to know of it
// is answered from the graph of auth events, of which three facts make it enough to walk a
// small part:
//
//   - An event has a higher number than its auth events (see [Events]), so that a walk
//     which takes the highest number first has seen all ways that lead to an event when it
//     comes to it.
//   - The auth chains of unconflicted state belong to the auth chains of every state. So a
//     walk ends where it meets an unconflicted event: nothing below is in the auth
//     difference.
//   - Whether an event that a walk meets is itself in such a chain is asked of the index in
//     the other direction, of the events that cite it, and the newest of them mostly answer.
package resolve

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/roomserver/state"
)

// Event is an event that takes part in a resolution.
type Event struct {
	NID state.EventNID
	PDU gomatrixserverlib.PDU
	// Rejected events are not used to authorise others.
	Rejected bool
}

// Links is a state event's place in the graph of auth events.
type Links struct {
	// Hash is where the event lies in a state.
	Hash state.Hash
	// Auth are the event's auth events, as far as they are known, and without the create
	// event, which authorises all: nothing depends on who cites it.
	Auth []state.EventNID
}

// Events are a room's events, seen through a transaction of the caller's. The number of an
// event must be higher than those of its auth events, which are known before it, and than
// those of all events of the room that other transactions could see before.
type Events interface {
	// Get reads events. It may leave out what does not exist.
	Get(nids []state.EventNID) (map[state.EventNID]*Event, error)
	// GetLinks reads the places of state events in the graph of auth events.
	GetLinks(nids []state.EventNID) (map[state.EventNID]Links, error)
	// ListCiting lists state events that have an event among their auth events, from the
	// highest number below before downwards, at most limit.
	ListCiting(nid, before state.EventNID, limit int) ([]state.EventNID, error)
	// ListCitingAny lists state events that have any of some events among their auth events, from
	// the lowest number above after upwards, at most limit.
	ListCitingAny(nids []state.EventNID, after state.EventNID, limit int) ([]state.EventNID, error)
	// GetCreate is the room's create event.
	GetCreate() (*Event, error)
}

// Nodes are the nodes of state trees, in the same transaction. *storage.Tx is one.
type Nodes interface {
	state.Nodes
	// AfterCommit runs a function once what the transaction wrote is durable, and never if
	// it is not.
	AfterCommit(func())
}

// Resolver resolves the states of all rooms. It may be used by many at once.
type Resolver struct {
	tree    *state.Tree
	results *memory[string, state.Root]
	// citers remembers, for an event, a state event that cites it.
	citers *memory[state.EventNID, state.EventNID]
	// scans remembers, for an event, that unconflicted state had none that cites it.
	scans *memory[state.EventNID, *scan]
	// links remembers the places of events in the graph, which do not change.
	links *memory[state.EventNID, Links]
	// page is how many citing events are read at once.
	page int
}

// New makes a Resolver that remembers so many results.
func New(tree *state.Tree, remember int) *Resolver {
	return &Resolver{
		tree:    tree,
		results: newMemory[string, state.Root](remember),
		citers:  newMemory[state.EventNID, state.EventNID](4 * remember),
		scans:   newMemory[state.EventNID, *scan](remember),
		links:   newMemory[state.EventNID, Links](4 * remember),
		page:    64,
	}
}

// Verdict says what a resolution did with an event.
type Verdict struct {
	NID state.EventNID
	// Err is why the authorisation rules did not allow the event; nil when they did.
	Err error
	// Power says that the event was judged among the power events and what they rest on,
	// before all others.
	Power bool
	// Disputed events are in some states, but not in all. The others only help to decide.
	Disputed bool
	// Won says that the event is in the resolved state.
	Won bool
}

// Resolve is the state that the states after a fork's branches come to. The roots may be in
// any order.
func (r *Resolver) Resolve(nodes Nodes, events Events, version id.RoomVersion, roots []state.Root) (state.Root, error) {
	roots = distinct(roots)
	if len(roots) == 0 {
		return 0, nil
	}
	if len(roots) == 1 {
		return roots[0], nil
	}
	memo := memoKey(version, roots)
	if root, ok := r.results.get(memo); ok {
		return root, nil
	}
	x, err := r.run(nodes, events, version, roots)
	if err != nil {
		return 0, fmt.Errorf("resolve states %v: %w", roots, err)
	}
	root, err := x.write()
	if err != nil {
		return 0, fmt.Errorf("resolve states %v: %w", roots, err)
	}
	// Not before: the numbers of a transaction that fails may be given again.
	nodes.AfterCommit(func() {
		r.results.put(memo, root)
		for nid, s := range x.uncited {
			if len(s.through) <= maxThrough {
				r.scans.put(nid, s)
			}
		}
		for nid := range x.read {
			r.links.put(nid, x.links[nid])
		}
	})
	return root, nil
}

// Explain resolves without writing, and says what became of each event that was judged, in
// the order in which they were.
func (r *Resolver) Explain(nodes state.Nodes, events Events, version id.RoomVersion, roots []state.Root) ([]Verdict, error) {
	roots = distinct(roots)
	if len(roots) < 2 {
		return nil, nil
	}
	x, err := r.run(nodes, events, version, roots)
	if err != nil {
		return nil, fmt.Errorf("explain states %v: %w", roots, err)
	}
	for i := range x.verdicts {
		v := &x.verdicts[i]
		h := x.links[v.NID].Hash
		if nids, ok := x.conflicted[h]; ok {
			v.Won = x.resolved[h] == v.NID
			v.Disputed = slices.Contains(nids, v.NID)
		} else if v.Won, err = x.isUnconflicted(v.NID); err != nil {
			return nil, err
		}
	}
	return x.verdicts, nil
}

func (r *Resolver) run(nodes state.Nodes, events Events, version id.RoomVersion, roots []state.Root) (*resolution, error) {
	rules, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, fmt.Errorf("room version %q: %w", version, err)
	}
	x := &resolution{
		r: r, nodes: nodes, events: events, roots: roots, rules: rules,
		algorithm:    rules.StateResAlgorithm(),
		links:        make(map[state.EventNID]Links),
		loaded:       make(map[state.EventNID]*Event),
		unconflicted: make(map[state.EventNID]bool),
		read:         make(map[state.EventNID]bool),
		uncited:      make(map[state.EventNID]*scan),
		rescanned:    make(map[*scan]bool),
		since:        make(map[state.Root][]state.Change),
		resolved:     make(map[state.Hash]state.EventNID),
	}
	if err := x.findConflicts(); err != nil {
		return nil, err
	}
	switch x.algorithm {
	case gomatrixserverlib.StateResV1:
		err = x.resolveV1()
	case gomatrixserverlib.StateResV2, gomatrixserverlib.StateResV2_1:
		err = x.resolveV2()
	default:
		err = fmt.Errorf("room version %q: unknown state resolution algorithm", version)
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// resolution is one resolution on its way.
type resolution struct {
	r         *Resolver
	nodes     state.Nodes
	events    Events
	roots     []state.Root
	rules     gomatrixserverlib.IRoomVersion
	algorithm gomatrixserverlib.StateResAlgorithm

	// conflicted has the keys that are in conflict, with the event that each state has
	// there, 0 for none.
	conflicted map[state.Hash][]state.EventNID

	links        map[state.EventNID]Links
	read         map[state.EventNID]bool // those of links that were not remembered
	loaded       map[state.EventNID]*Event
	unconflicted map[state.EventNID]bool // answers of isUnconflicted

	// uncited are events that are in no auth chain of unconflicted state, each with the scan that
	// found it; rescanned are those scans of earlier resolutions that were looked at again.
	uncited   map[state.EventNID]*scan
	rescanned map[*scan]bool
	since     map[state.Root][]state.Change // what changesSince found

	// resolved is the resolved state as far as it was decided, over the unconflicted state.
	resolved map[state.Hash]state.EventNID
	verdicts []Verdict
	create   *Event
}

// findConflicts parts what differs between the states into conflicts and, in room version
// 1, what is not one.
//
// spec: rooms/v2.md#definitions
func (x *resolution) findConflicts() error {
	x.conflicted = make(map[state.Hash][]state.EventNID)
	diffs := make([][]state.Change, len(x.roots))
	for i, root := range x.roots[1:] {
		var err error
		if diffs[i+1], err = x.r.tree.Diff(x.nodes, x.roots[0], root); err != nil {
			return err
		}
		for _, c := range diffs[i+1] {
			if x.conflicted[c.Hash] == nil {
				x.conflicted[c.Hash] = slices.Repeat([]state.EventNID{c.A}, len(x.roots))
			}
		}
	}
	for i, diff := range diffs {
		for _, c := range diff {
			x.conflicted[c.Hash][i] = c.B
		}
	}
	return nil
}

// write stores the resolved state, as a change of the state that is nearest to it.
func (x *resolution) write() (state.Root, error) {
	nearest, fewest := 0, -1
	for i := range x.roots {
		n := 0
		for h, nids := range x.conflicted {
			if nids[i] != x.resolved[h] {
				n++
			}
		}
		if fewest < 0 || n < fewest {
			nearest, fewest = i, n
		}
	}
	var edits []state.HashEntry
	for h, nids := range x.conflicted {
		if nid := x.resolved[h]; nids[nearest] != nid {
			edits = append(edits, state.HashEntry{Hash: h, NID: nid})
		}
	}
	// Events of the auth difference may have been taken at keys that are not in conflict.
	// There the unconflicted state decides, if it has the key.
	var others []state.Hash
	for h := range x.resolved {
		if x.conflicted[h] == nil {
			others = append(others, h)
		}
	}
	had, err := x.r.tree.GetHashes(x.nodes, x.roots[nearest], others)
	if err != nil {
		return 0, err
	}
	for _, h := range others {
		if had[h] == 0 {
			edits = append(edits, state.HashEntry{Hash: h, NID: x.resolved[h]})
		}
	}
	return x.r.tree.SetHashes(x.nodes, x.roots[nearest], edits)
}

// conflictedSet are the events in conflict, each once, by number.
func (x *resolution) conflictedSet() []state.EventNID {
	set := make(map[state.EventNID]bool)
	for _, nids := range x.conflicted {
		for _, nid := range nids {
			if nid != 0 {
				set[nid] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// load makes x.loaded have the given events, and says which there are.
func (x *resolution) load(nids []state.EventNID) ([]*Event, error) {
	var missing []state.EventNID
	for _, nid := range nids {
		if _, ok := x.loaded[nid]; !ok {
			missing = append(missing, nid)
		}
	}
	if len(missing) > 0 {
		found, err := x.events.Get(missing)
		if err != nil {
			return nil, err
		}
		for _, nid := range missing {
			x.loaded[nid] = found[nid]
		}
	}
	var events []*Event
	for _, nid := range nids {
		if e := x.loaded[nid]; e != nil {
			events = append(events, e)
		}
	}
	return events, nil
}

// loadLinks makes x.links have the given events.
func (x *resolution) loadLinks(nids []state.EventNID) error {
	var missing []state.EventNID
	for _, nid := range nids {
		if _, ok := x.links[nid]; ok {
			continue
		}
		if l, ok := x.r.links.get(nid); ok {
			x.links[nid] = l
			continue
		}
		missing = append(missing, nid)
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := x.events.GetLinks(missing)
	if err != nil {
		return err
	}
	for _, nid := range missing {
		l, ok := found[nid]
		if !ok {
			return fmt.Errorf("event %d has no place in the graph of auth events", nid)
		}
		for _, a := range l.Auth {
			if a >= nid {
				return fmt.Errorf("event %d cites event %d, which has no lower number", nid, a)
			}
		}
		x.links[nid], x.read[nid] = l, true
	}
	return nil
}

// isUnconflicted says whether an event is in all states.
func (x *resolution) isUnconflicted(nid state.EventNID) (bool, error) {
	err := x.loadUnconflicted([]state.EventNID{nid})
	return x.unconflicted[nid], err
}

// loadUnconflicted makes x.unconflicted have the given events.
func (x *resolution) loadUnconflicted(nids []state.EventNID) error {
	if err := x.loadLinks(nids); err != nil {
		return err
	}
	var hashes []state.Hash
	for _, nid := range nids {
		if _, ok := x.unconflicted[nid]; ok {
			continue
		}
		x.unconflicted[nid] = false
		if h := x.links[nid].Hash; x.conflicted[h] == nil {
			hashes = append(hashes, h)
		}
	}
	if len(hashes) == 0 {
		return nil
	}
	has, err := x.r.tree.GetHashes(x.nodes, x.roots[0], hashes)
	if err != nil {
		return err
	}
	for _, nid := range has {
		x.unconflicted[nid] = true
	}
	return nil
}

func distinct(roots []state.Root) []state.Root {
	roots = slices.Clone(roots)
	slices.Sort(roots)
	return slices.Compact(roots)
}

func memoKey(version id.RoomVersion, roots []state.Root) string {
	var b strings.Builder
	b.WriteString(string(version))
	for _, root := range roots {
		fmt.Fprintf(&b, " %d", root)
	}
	return b.String()
}
