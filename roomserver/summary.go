package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

// RoomSummary is what one who may come to a room is shown of it.
//
// spec: client-server-api/index.md#get_matrixclientv1room_summaryroomidoralias
type RoomSummary struct {
	PublicRoom
	AllowedRoomIDs []id.RoomID    `json:"allowed_room_ids,omitempty"`
	Encryption     string         `json:"encryption,omitempty"`
	RoomVersion    id.RoomVersion `json:"room_version,omitempty"`
	// Membership is what the reader is to the room; "" in a hierarchy, and for one who is nobody.
	Membership string `json:"membership,omitempty"`
}

// spaceType is the type of rooms that hold others.
//
// spec: client-server-api/modules/spaces.md#spaces
const spaceType = "m.space"

// roomSummary is what is shown of a room whose state we have.
func (s *Server) roomSummary(tx *storage.Tx, room *storage.Room) (RoomSummary, error) {
	p, err := s.summary(tx, room)
	if err != nil {
		return RoomSummary{}, err
	}
	out := RoomSummary{PublicRoom: p, RoomVersion: room.Version}
	keys := []state.Key{{Type: spec.MRoomEncryption}, {Type: spec.MRoomJoinRules}}
	found, err := s.stateEvents(tx, room, room.Root, keys)
	if err != nil {
		return RoomSummary{}, err
	}
	out.Encryption = found[keys[0]].field("algorithm")
	if rules := found[keys[1]]; rules != nil && (p.JoinRule == spec.Restricted || p.JoinRule == spec.KnockRestricted) {
		for _, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
			if room := allow.Get("room_id").Str; allow.Get("type").Str == "m.room_membership" && len(room) > 1 && room[0] == '!' {
				out.AllowedRoomIDs = append(out.AllowedRoomIDs, id.RoomID(room))
			}
		}
	}
	return out, nil
}

// known is a room of which we have the current state: one that a user of ours is in.
func (s *Server) known(tx *storage.Tx, room id.RoomID) (r storage.Room, ok bool, err error) {
	r, err = tx.GetRoom(room)
	if missing, err := notFound(err); missing || err != nil || r.Root == 0 {
		return r, false, err
	}
	ok, err = tx.HasLocalMember(r.NID)
	return r, ok, err
}

// mayCome says whether one may be shown a room's summary: who is in it, is asked to come or
// may come, and everybody where all may read it or ask to come in. user is "" for one who is
// nobody. membership is what the user is to the room.
//
// spec: client-server-api/modules/spaces.md#get_matrixclientv1roomsroomidhierarchy
func (s *Server) mayCome(tx *storage.Tx, sum *RoomSummary, user id.UserID) (ok bool, membership string, err error) {
	if user != "" {
		if membership, err = memberOf(tx, user, sum.RoomID); err != nil {
			return false, "", err
		}
	}
	switch {
	case membership == spec.Join || membership == spec.Invite || sum.WorldReadable:
		return true, membership, nil
	case membership == spec.Ban:
		return false, membership, nil
	}
	switch sum.JoinRule {
	case spec.Public, spec.Knock, spec.KnockRestricted:
		return true, membership, nil
	case spec.Restricted:
		for _, room := range sum.AllowedRoomIDs {
			if user == "" {
				break
			}
			if m, err := memberOf(tx, user, room); err != nil || m == spec.Join {
				return err == nil, membership, err
			}
		}
	}
	return false, membership, nil
}

// memberOf is what a user is to a room, "" where nothing is known.
func memberOf(tx *storage.Tx, user id.UserID, room id.RoomID) (string, error) {
	r, err := tx.GetRoom(room)
	if missing, err := notFound(err); missing || err != nil {
		return "", err
	}
	m, err := tx.GetMembership(user, r.NID)
	if missing, err := notFound(err); missing || err != nil {
		return "", err
	}
	return m.Membership, nil
}

// Summary is what a user, or with "" one who is nobody, is shown of a room that they may come
// to. via are servers that may know the room where we don't.
//
// spec: client-server-api/index.md#get_matrixclientv1room_summaryroomidoralias
func (s *Server) Summary(ctx context.Context, room id.RoomID, user id.UserID, via []id.ServerName) (*RoomSummary, error) {
	n, err := s.hierarchyNode(ctx, &walk{user: user}, visit{room: room, via: via})
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, matrixerr.New(matrixerr.NotFound, "The room is not known here, or you may not see it.")
	}
	sum := n.RoomSummary
	if user != "" && n.membership == "" {
		n.membership = spec.Leave
	}
	sum.Membership = n.membership
	return &sum, nil
}

// HierarchyRoom is a room of a space.
//
// spec: client-server-api/modules/spaces.md#get_matrixclientv1roomsroomidhierarchy
type HierarchyRoom struct {
	RoomSummary
	ChildrenState []json.RawMessage `json:"children_state"`
}

// HierarchyRequest asks for the rooms of a space.
type HierarchyRequest struct {
	Room          id.RoomID
	User          id.UserID
	SuggestedOnly bool
	// MaxDepth is how many steps down to go.
	MaxDepth int
	// After is the last room of the page before, "" for the first page.
	After id.RoomID
	Limit int
}

const (
	// maxHierarchy bounds the rooms that a walk through a space looks at.
	maxHierarchy = 2000
	// maxChildren bounds the children that are looked at of one space.
	maxChildren = 1000
	// maxVia bounds the servers that are asked for one room.
	maxVia = 3
	// maxAsked bounds the questions that one request asks of other servers.
	maxAsked = 50
	// remoteHierarchyLife is how long we believe what other servers said of rooms.
	remoteHierarchyLife = 5 * time.Minute
	// rememberedHierarchies bounds how many of those answers are kept.
	rememberedHierarchies = 500
)

// visit is a room on the walk: how deep it lies, who may know of it, and what the server that
// told of its parent said of it.
type visit struct {
	room  id.RoomID
	depth int
	via   []id.ServerName
	told  *HierarchyRoom
}

// walk is one request's: whose it is, and how many questions it asked of other servers.
type walk struct {
	user  id.UserID
	asked int
}

// spaceNode is a room that was reached.
type spaceNode struct {
	HierarchyRoom
	membership string
	children   []visit
}

// Hierarchy walks through a space, depth first, and gives the rooms that the user may come to.
// Each room is given once. next is where to go on, "" at the end.
//
// spec: client-server-api/modules/spaces.md#get_matrixclientv1roomsroomidhierarchy
func (s *Server) Hierarchy(ctx context.Context, r HierarchyRequest) (rooms []HierarchyRoom, next id.RoomID, err error) {
	rooms = []HierarchyRoom{}
	seen := make(map[id.RoomID]bool)
	stack := []visit{{room: r.Room}}
	found := r.After == ""
	w := &walk{user: r.User}
	for len(stack) > 0 && len(seen) < maxHierarchy {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[v.room] {
			continue
		}
		seen[v.room] = true
		n, err := s.hierarchyNode(ctx, w, v)
		if err != nil {
			return nil, "", err
		}
		if n == nil {
			if v.depth == 0 {
				return nil, "", matrixerr.New(matrixerr.Forbidden, "You may not see this room, or it is not known to this server.")
			}
			continue
		}
		n.suggested(r.SuggestedOnly)
		if found {
			if len(rooms) == r.Limit {
				return rooms, rooms[len(rooms)-1].RoomID, nil
			}
			rooms = append(rooms, n.HierarchyRoom)
		}
		found = found || v.room == r.After
		if v.depth == r.MaxDepth {
			continue
		}
		for _, child := range slices.Backward(n.children) {
			child.depth = v.depth + 1
			stack = append(stack, child)
		}
	}
	if !found {
		return nil, "", matrixerr.New(matrixerr.InvalidParam, "from names a place that is no longer in the space.")
	}
	return rooms, "", nil
}

// suggested leaves only the children that the space suggests.
func (n *spaceNode) suggested(only bool) {
	if !only {
		return
	}
	var state []json.RawMessage
	var children []visit
	for i, e := range n.ChildrenState {
		if gjson.GetBytes(e, "content.suggested").Bool() {
			state, children = append(state, e), append(children, n.children[i])
		}
	}
	if state == nil {
		state = []json.RawMessage{}
	}
	n.ChildrenState, n.children = state, children
}

// hierarchyNode is a room with its children as the user may see it; nil where they may not, or
// nobody knows it.
func (s *Server) hierarchyNode(ctx context.Context, w *walk, v visit) (*spaceNode, error) {
	var n *spaceNode
	var known bool
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		n = nil
		room, ok, err := s.known(tx, v.room)
		if known = ok; err != nil || !ok {
			return err
		}
		sum, err := s.roomSummary(tx, &room)
		if err != nil {
			return err
		}
		ok, membership, err := s.mayCome(tx, &sum, w.user)
		if err != nil || !ok {
			return err
		}
		n = &spaceNode{HierarchyRoom: HierarchyRoom{RoomSummary: sum}, membership: membership}
		n.ChildrenState, err = s.childrenState(tx, &room, sum.RoomType)
		n.children = childVisits(n.ChildrenState)
		return err
	})
	if err != nil || known {
		return n, err
	}
	return s.remoteNode(ctx, w, v)
}

// childrenState are the events by which a space holds rooms, in the order in which those are shown.
func (s *Server) childrenState(tx *storage.Tx, room *storage.Room, roomType string) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	if roomType != spaceType {
		return out, nil
	}
	rows, err := loadListed(tx, s.tree.ListType(tx, state.Root(room.Root), "m.space.child"))
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		f := gjson.GetManyBytes(row.JSON, "type", "state_key", "sender", "origin_server_ts", "content")
		if !validChild(f[1].Str, f[4]) {
			continue
		}
		out = append(out, mustObject(map[string]any{
			"type": f[0].Str, "state_key": f[1].Str, "sender": f[2].Str, "origin_server_ts": f[3].Int(),
			"content": json.RawMessage(f[4].Raw),
		}))
	}
	slices.SortFunc(out, compareChildren)
	return out[:min(len(out), maxChildren)], nil
}

// validChild says whether an event's content makes a room part of a space: it must name
// servers that know it.
func validChild(room string, content gjson.Result) bool {
	via := content.Get("via")
	return len(room) > 1 && room[0] == '!' && len(room) <= id.MaxLength && via.IsArray() && len(via.Array()) > 0
}

// compareChildren orders the rooms of a space.
//
// spec: client-server-api/modules/spaces.md#ordering-of-children-within-a-space
func compareChildren(a, b json.RawMessage) int {
	fa := gjson.GetManyBytes(a, "content.order", "origin_server_ts", "state_key")
	fb := gjson.GetManyBytes(b, "content.order", "origin_server_ts", "state_key")
	oa, ob := childOrder(fa[0]), childOrder(fb[0])
	switch {
	case oa != "" && ob == "":
		return -1
	case oa == "" && ob != "":
		return 1
	case oa != ob:
		return compare(oa, ob)
	case fa[1].Int() != fb[1].Int():
		return compare(fa[1].Int(), fb[1].Int())
	}
	return compare(fa[2].Str, fb[2].Str)
}

func compare[T int64 | string](a, b T) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// childOrder is a valid order of a child, "" for none.
func childOrder(order gjson.Result) string {
	if order.Type != gjson.String || len(order.Str) > 50 {
		return ""
	}
	for i := range len(order.Str) {
		if c := order.Str[i]; c < 0x20 || c > 0x7e {
			return ""
		}
	}
	return order.Str
}

// childVisits are the rooms that events of a space name.
func childVisits(events []json.RawMessage) []visit {
	out := make([]visit, len(events))
	for i, e := range events {
		f := gjson.GetManyBytes(e, "state_key", "content.via")
		out[i].room = id.RoomID(f[0].Str)
		for _, server := range f[1].Array() {
			if name, err := id.ParseServerName(server.Str); err == nil && len(out[i].via) < maxVia {
				out[i].via = append(out[i].via, name)
			}
		}
	}
	return out
}

// remoteHierarchies keeps what other servers said of rooms.
type remoteHierarchies = lru.Cache[id.RoomID, *remoteHierarchy]

func newRemoteHierarchies() (*remoteHierarchies, error) {
	c, err := lru.New[id.RoomID, *remoteHierarchy](rememberedHierarchies)
	if err != nil {
		return nil, fmt.Errorf("cache of spaces: %w", err)
	}
	return c, nil
}

// remoteHierarchy is a room and the rooms directly in it, by another server's account.
type remoteHierarchy struct {
	room     HierarchyRoom
	children map[id.RoomID]*HierarchyRoom
	expires  time.Time
}

// remoteNode is a room by what other servers say of it.
func (s *Server) remoteNode(ctx context.Context, w *walk, v visit) (*spaceNode, error) {
	answer := v.told
	var children map[id.RoomID]*HierarchyRoom
	if answer == nil || answer.RoomType == spaceType {
		h := s.askHierarchy(ctx, v, w)
		if h == nil {
			return nil, nil
		}
		answer, children = &h.room, h.children
	}
	n := &spaceNode{HierarchyRoom: *answer}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		ok, membership, err := s.mayCome(tx, &n.RoomSummary, w.user)
		if n.membership = membership; err == nil && !ok {
			n = nil
		}
		return err
	})
	if err != nil || n == nil {
		return nil, err
	}
	n.children = childVisits(n.ChildrenState)
	for i := range n.children {
		n.children[i].told = children[n.children[i].room]
	}
	return n, nil
}

// askHierarchy asks the servers that may know a room; nil where none of them does, or the walk
// has asked enough.
func (s *Server) askHierarchy(ctx context.Context, v visit, w *walk) *remoteHierarchy {
	if h, ok := s.remoteRooms.Get(v.room); ok && s.clock().Before(h.expires) {
		return h
	}
	if s.remote == nil {
		return nil
	}
	for _, server := range v.via[:min(len(v.via), maxVia)] {
		if server == s.name || w.asked >= maxAsked {
			continue
		}
		w.asked++
		answer, err := s.remote.Hierarchy(ctx, server, v.room, false)
		if err != nil {
			s.log.Debug("ask for a space", "room", v.room, "server", server, "error", err)
			continue
		}
		if h := parseHierarchy(v.room, answer); h != nil {
			h.expires = s.clock().Add(remoteHierarchyLife)
			s.remoteRooms.Add(v.room, h)
			return h
		}
	}
	return nil
}

// parseHierarchy reads another server's answer; nil where it isn't one about the room.
func parseHierarchy(room id.RoomID, answer *serverapi.Hierarchy) *remoteHierarchy {
	h := &remoteHierarchy{children: make(map[id.RoomID]*HierarchyRoom)}
	if json.Unmarshal(answer.Room, &h.room) != nil || h.room.RoomID != room {
		return nil
	}
	h.room.Membership = ""
	valid := []json.RawMessage{}
	for _, e := range h.room.ChildrenState[:min(len(h.room.ChildrenState), maxChildren)] {
		f := gjson.GetManyBytes(e, "type", "state_key", "sender", "origin_server_ts", "content")
		if f[0].Str == "m.space.child" && f[3].Type == gjson.Number && validChild(f[1].Str, f[4]) {
			valid = append(valid, mustObject(map[string]any{
				"type": f[0].Str, "state_key": f[1].Str, "sender": f[2].Str, "origin_server_ts": f[3].Int(),
				"content": json.RawMessage(f[4].Raw),
			}))
		}
	}
	slices.SortStableFunc(valid, compareChildren)
	h.room.ChildrenState = valid
	for _, raw := range answer.Children[:min(len(answer.Children), maxChildren)] {
		var c HierarchyRoom
		if json.Unmarshal(raw, &c) == nil && c.RoomID != "" {
			c.Membership, c.ChildrenState = "", []json.RawMessage{}
			h.children[c.RoomID] = &c
		}
	}
	return h
}

// nearestBatch is how many events are looked at, at once, to find one that the reader may
// see, and maxNearest how many in all.
const (
	nearestBatch = 20
	maxNearest   = 1000
)

// Nearest is the event that was sent nearest to a time, in milliseconds since 1970, and before
// or after it; of those that the user may see.
//
// spec: client-server-api/index.md#get_matrixclientv1roomsroomidtimestamp_to_event
func (s *Server) Nearest(ctx context.Context, user id.UserID, room id.RoomID, ts int64, before bool) (event id.EventID, sent int64, err error) {
	if s.remote != nil {
		s.nearestAfar(ctx, user, room, ts, before)
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		v, err := s.view(tx, user, room)
		if err != nil {
			return err
		}
		if _, ok, err := v.StateRoot(); err != nil || !ok {
			return errOr(err, errUnknownRoom)
		}
		for skip := 0; skip < maxNearest; skip += nearestBatch {
			rows, err := tx.ListNearest(v.Room.NID, ts, before, skip, nearestBatch)
			if err != nil {
				return err
			}
			for i := range rows {
				visible, err := v.Visible(&rows[i])
				if err != nil {
					return err
				}
				if visible {
					event, sent = rows[i].ID, gjson.GetBytes(rows[i].JSON, "origin_server_ts").Int()
					return nil
				}
			}
			if len(rows) < nearestBatch {
				break
			}
		}
		return matrixerr.New(matrixerr.NotFound, "There is no event at that time or %s it.", map[bool]string{true: "before", false: "after"}[before])
	})
	return event, sent, err
}

// MutualRooms are up to limit rooms that two users are both joined to, after the one with the
// number given; how many there are in all, and the number to go on with, 0 at the end.
//
// spec: client-server-api/modules/mutual_rooms.md#mutual-rooms
func (s *Server) MutualRooms(ctx context.Context, a, b id.UserID, after int64, limit int) (rooms []id.RoomID, total int, next int64, err error) {
	rooms = []id.RoomID{}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		found, n, err := tx.ListMutualRooms(a, b, storage.RoomNID(after), limit+1)
		if err != nil {
			return err
		}
		if total = n; len(found) > limit {
			found = found[:limit]
			next = int64(found[limit-1].NID)
		}
		for _, r := range found {
			rooms = append(rooms, r.ID)
		}
		return nil
	})
	return rooms, total, next, err
}
