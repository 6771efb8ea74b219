package resolve

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/roomserver/rules"
	"parley/roomserver/state"
)

// op is an event of a test room as it is written down: short enough to read in a report of
// a failure, and to replay without some of the others.
type op struct {
	ID       int
	Prev     []int // of other ops
	Sender   string
	Type     string
	StateKey string
	Content  string
	TS       int
	// Lag is how many events back the event takes its auth events from the state of.
	Lag int
	// Stale events enter the state if their auth events allow them, whatever the state
	// does: as when another server has seen less.
	Stale bool
	// Rejected marks the event as rejected here, although others have it in their state.
	Rejected bool
}

func (o op) String() string {
	var flags strings.Builder
	if o.Lag > 0 {
		fmt.Fprintf(&flags, " lag=%d", o.Lag)
	}
	if o.Stale {
		flags.WriteString(" stale")
	}
	if o.Rejected {
		flags.WriteString(" rejected")
	}
	return fmt.Sprintf("%3d <- %v ts=%d %s %s %q %s%s", o.ID, o.Prev, o.TS, o.Sender, o.Type, o.StateKey, o.Content, flags.String())
}

// testEvent is an event of a test room.
type testEvent struct {
	*Event
	op    op
	hash  state.Hash
	auth  []*testEvent
	chain map[*testEvent]bool // all events in the auth chain
	depth int
}

func (e *testEvent) key() state.Key { return state.Key{Type: e.op.Type, StateKey: e.op.StateKey} }

type stateMap map[state.Key]*testEvent

// room is a room in memory: a DAG, and what Resolver asks for.
type room struct {
	version  id.RoomVersion
	rules    gomatrixserverlib.IRoomVersion
	seed     uint64
	roomID   string
	events   []*testEvent // event with number n is at n-1
	byOp     map[int]*testEvent
	byEvent  map[string]*testEvent
	citing   map[state.EventNID][]state.EventNID
	after    map[int]stateMap // state after an op
	roots    map[int]state.Root
	nodes    *memNodes
	tree     *state.Tree
	resolver *Resolver
	// onResolve is called at each merge, with the states and what they came to.
	onResolve func(r *room, states []stateMap, got stateMap) error
	gets      int // calls of Get, GetLinks and ListCiting
}

type memNodes struct {
	bodies map[int64][]byte
	last   int64
	read   int
}

func (m *memNodes) AfterCommit(fn func()) { fn() }

func (m *memNodes) GetNodes(nids []int64) (map[int64][]byte, error) {
	found := make(map[int64][]byte)
	for _, nid := range nids {
		found[nid] = m.bodies[nid]
		m.read++
	}
	return found, nil
}

func (m *memNodes) InsertNode(body []byte) (int64, error) {
	m.last++
	m.bodies[m.last] = body
	return m.last, nil
}

func newRoom(version id.RoomVersion, seed uint64) *room {
	rules, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		panic(err)
	}
	tree := state.New(state.NewCache(1 << 20))
	resolver := New(tree, 64)
	resolver.page = 2 // so that small rooms have several
	return &room{
		version: version, rules: rules, seed: seed, roomID: "!room:a",
		byOp: make(map[int]*testEvent), byEvent: make(map[string]*testEvent),
		citing: make(map[state.EventNID][]state.EventNID),
		after:  make(map[int]stateMap), roots: make(map[int]state.Root),
		nodes: &memNodes{bodies: make(map[int64][]byte)}, tree: tree, resolver: resolver,
	}
}

func (r *room) Get(nids []state.EventNID) (map[state.EventNID]*Event, error) {
	r.gets++
	found := make(map[state.EventNID]*Event)
	for _, nid := range nids {
		found[nid] = r.events[nid-1].Event
	}
	return found, nil
}

func (r *room) GetLinks(nids []state.EventNID) (map[state.EventNID]Links, error) {
	r.gets++
	found := make(map[state.EventNID]Links)
	for _, nid := range nids {
		e := r.events[nid-1]
		l := Links{Hash: e.hash}
		for _, a := range e.auth {
			if a.op.Type != spec.MRoomCreate {
				l.Auth = append(l.Auth, a.NID)
			}
		}
		found[nid] = l
	}
	return found, nil
}

func (r *room) ListCiting(nid, before state.EventNID, limit int) ([]state.EventNID, error) {
	r.gets++
	var list []state.EventNID
	for _, c := range slices.Backward(r.citing[nid]) {
		if c < before && len(list) < limit {
			list = append(list, c)
		}
	}
	return list, nil
}

func (r *room) ListCitingAny(nids []state.EventNID, after state.EventNID, limit int) ([]state.EventNID, error) {
	r.gets++
	var list []state.EventNID
	for _, nid := range nids {
		for _, c := range r.citing[nid] {
			if c > after {
				list = append(list, c)
			}
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), limit)], nil
}

func (r *room) GetCreate() (*Event, error) {
	if len(r.events) == 0 {
		return nil, nil
	}
	return r.events[0].Event, nil
}

// eventID is the same for an op whatever other ops there are, and in no order.
func (r *room) eventID(op int) string {
	x := (uint64(op)+1)*0x9e3779b97f4a7c15 ^ r.seed*0xbf58476d1ce4e5b9
	x ^= x >> 29
	x *= 0x94d049bb133111eb
	// As long as a hash would be, which room version 12 wants of a create event.
	return fmt.Sprintf("$%010x%033d", x>>24, op)
}

// before is the state before an event that follows these.
func (r *room) before(prev []int) (stateMap, state.Root, error) {
	roots := make([]state.Root, 0, len(prev))
	var states []stateMap
	for _, p := range prev {
		if !slices.Contains(roots, r.roots[p]) {
			roots = append(roots, r.roots[p])
			states = append(states, r.after[p])
		}
	}
	if len(roots) == 0 {
		return stateMap{}, 0, nil
	}
	root, err := r.resolver.Resolve(r.nodes, r, r.version, roots)
	if err != nil {
		return nil, 0, err
	}
	got := make(stateMap)
	for e, err := range r.tree.List(r.nodes, root) {
		if err != nil {
			return nil, 0, err
		}
		event := r.events[e.NID-1]
		got[event.key()] = event
	}
	if len(roots) > 1 && r.onResolve != nil {
		if err := r.onResolve(r, states, got); err != nil {
			return nil, 0, err
		}
	}
	return got, root, nil
}

// authKeys are the keys from which an event takes its auth events.
//
// spec: server-server-api.md#auth-events-selection
func authKeys(pdu gomatrixserverlib.PDU) []state.Key {
	var keys []state.Key
	needed := gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{pdu})
	for _, k := range needed.Tuples() {
		keys = append(keys, state.Key{Type: k.EventType, StateKey: k.StateKey})
	}
	return keys
}

// add appends an op's event to the room, if its auth events allow it, and says what became
// of it.
func (r *room) add(o op) (*testEvent, error) {
	before, root, err := r.before(o.Prev)
	if err != nil {
		return nil, err
	}
	authState := before
	for at, lag := o.Prev, o.Lag; lag > 0 && len(at) > 0; lag-- {
		authState = r.after[at[0]]
		at = r.byOp[at[0]].op.Prev
	}
	depth := 1
	var prev, auth []string
	for _, p := range o.Prev {
		prev = append(prev, r.eventID(p))
		depth = max(depth, r.byOp[p].depth+1)
	}
	// First without auth events, to see which it needs.
	pdu, err := r.build(o, depth, prev, nil)
	if err != nil {
		return nil, err
	}
	e := &testEvent{op: o, depth: depth, chain: make(map[*testEvent]bool)}
	e.hash = e.key().Hash()
	own := make(authSet)
	for _, k := range authKeys(pdu) {
		a := authState[k]
		if a == nil {
			continue
		}
		own[k] = a
		if k.Type == spec.MRoomCreate && r.rules.DomainlessRoomIDs() {
			continue
		}
		if !slices.Contains(e.auth, a) {
			e.auth = append(e.auth, a)
			auth = append(auth, a.PDU.EventID())
			e.chain[a] = true
			maps.Copy(e.chain, a.chain)
		}
	}
	if pdu, err = r.build(o, depth, prev, auth); err != nil {
		return nil, err
	}
	e.Event = &Event{NID: state.EventNID(len(r.events) + 1), PDU: pdu, Rejected: o.Rejected}
	r.after[o.ID], r.roots[o.ID] = before, root
	r.byOp[o.ID] = e
	if own.allows(pdu) != nil {
		return nil, nil // it can't be in anybody's state
	}
	if !o.Stale {
		current := make(authSet)
		for _, k := range authKeys(pdu) {
			if a := before[k]; a != nil {
				current[k] = a
			}
		}
		if current.allows(pdu) != nil {
			return nil, nil
		}
	}
	r.events = append(r.events, e)
	r.byEvent[pdu.EventID()] = e
	for _, a := range e.auth { // create events' citers are never asked for
		r.citing[a.NID] = append(r.citing[a.NID], e.NID)
	}
	after := maps.Clone(before)
	after[e.key()] = e
	r.after[o.ID] = after
	if r.roots[o.ID], err = r.tree.Set(r.nodes, root, []state.Entry{{Key: e.key(), NID: e.NID}}); err != nil {
		return nil, err
	}
	return e, nil
}

func (r *room) build(o op, depth int, prev, auth []string) (gomatrixserverlib.PDU, error) {
	if r.version == "12" {
		r.roomID = "!" + r.eventID(0)[1:]
	}
	roomID := fmt.Sprintf("%q:%q,", "room_id", r.roomID)
	if r.version == "12" && o.Type == spec.MRoomCreate {
		roomID = ""
	}
	refs := func(ids []string) string {
		var quoted []string
		for _, id := range ids {
			if r.version == "1" || r.version == "2" {
				quoted = append(quoted, fmt.Sprintf(`[%q,{"sha256":""}]`, id))
			} else {
				quoted = append(quoted, fmt.Sprintf("%q", id))
			}
		}
		return "[" + strings.Join(quoted, ",") + "]"
	}
	body := fmt.Sprintf(`{"auth_events":%s,"content":%s,"depth":%d,"origin_server_ts":%d,"prev_events":%s,%s"sender":%q,"state_key":%q,"type":%q}`,
		refs(auth), o.Content, depth, o.TS, refs(prev), roomID, o.Sender, o.StateKey, o.Type)
	return r.rules.NewEventFromTrustedJSONWithEventID(r.eventID(o.ID), []byte(body), false)
}

// authSet is a set of auth events, as gomatrixserverlib looks at it.
type authSet map[state.Key]*testEvent

func (s authSet) at(k state.Key) (gomatrixserverlib.PDU, error) {
	if e := s[k]; e != nil {
		return e.PDU, nil
	}
	return nil, nil
}

func (s authSet) Create() (gomatrixserverlib.PDU, error) {
	return s.at(state.Key{Type: spec.MRoomCreate})
}
func (s authSet) JoinRules() (gomatrixserverlib.PDU, error) {
	return s.at(state.Key{Type: spec.MRoomJoinRules})
}
func (s authSet) PowerLevels() (gomatrixserverlib.PDU, error) {
	return s.at(state.Key{Type: spec.MRoomPowerLevels})
}
func (s authSet) Member(user spec.SenderID) (gomatrixserverlib.PDU, error) {
	return s.at(state.Key{Type: spec.MRoomMember, StateKey: string(user)})
}
func (s authSet) ThirdPartyInvite(token string) (gomatrixserverlib.PDU, error) {
	return s.at(state.Key{Type: spec.MRoomThirdPartyInvite, StateKey: token})
}
func (s authSet) Valid() bool { return true }

func (s authSet) allows(pdu gomatrixserverlib.PDU) error {
	if pdu.Type() != spec.MRoomCreate && s[state.Key{Type: spec.MRoomCreate}] == nil {
		return errNoCreate
	}
	return rules.Allowed(pdu, s)
}

// replay makes a room of ops. Where an op is missing, those after it follow what it followed.
func replay(version id.RoomVersion, seed uint64, ops []op, onResolve func(*room, []stateMap, stateMap) error) (*room, error) {
	r := newRoom(version, seed)
	r.onResolve = onResolve
	for _, o := range ops {
		if _, err := r.add(o); err != nil {
			return r, fmt.Errorf("at %v: %w", o, err)
		}
	}
	return r, nil
}

// shrink takes ops away, and then what is special about them, for as long as what is left
// still fails.
func shrink(ops []op, fails func([]op) bool) []op {
	for size := max(len(ops)/2, 1); size > 0; size /= 2 {
		for i := 1; i < len(ops); {
			rest := without(ops, i, min(i+size, len(ops)))
			if fails(rest) {
				ops = rest
			} else {
				i += size
			}
		}
	}
	for i := range ops {
		for _, simpler := range []func(o *op){
			func(o *op) { o.Lag, o.Stale = 0, false },
			func(o *op) { o.Stale = false },
			func(o *op) { o.Rejected = false },
			func(o *op) { o.TS = 0 },
		} {
			rest := slices.Clone(ops)
			simpler(&rest[i])
			if fails(rest) {
				ops = rest
			}
		}
	}
	return ops
}

func without(ops []op, from, to int) []op {
	gone := make(map[int][]int)
	var rest []op
	for i, o := range ops {
		var prev []int
		for _, p := range o.Prev {
			if instead, ok := gone[p]; ok {
				prev = append(prev, instead...)
			} else {
				prev = append(prev, p)
			}
		}
		slices.Sort(prev)
		prev = slices.Compact(prev)
		if i >= from && i < to {
			gone[o.ID] = prev
			continue
		}
		o.Prev = prev
		rest = append(rest, o)
	}
	return rest
}
