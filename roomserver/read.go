package roomserver

import (
	"context"
	"encoding/json"
	"math"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/state"
	"parley/storage"
)

// view is View with the error that a client is given.
func (s *Server) view(tx *storage.Tx, user id.UserID, room id.RoomID) (*View, error) {
	v, err := s.View(tx, user, room)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if missing {
		return nil, errUnknownRoom
	}
	if v.Member.Forgotten {
		return nil, errUnknownRoom
	}
	return v, nil
}

// stateView is view and the root of the state that the user may see.
func (s *Server) stateView(tx *storage.Tx, user id.UserID, room id.RoomID) (*View, int64, error) {
	v, err := s.view(tx, user, room)
	if err != nil {
		return nil, 0, err
	}
	root, ok, err := v.StateRoot()
	if err == nil && !ok {
		err = errUnknownRoom
	}
	return v, root, err
}

// Membership is what a user is to a room now, "leave" where nothing is known.
func (s *Server) Membership(ctx context.Context, user id.UserID, room id.RoomID) (string, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (string, error) {
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); missing || err != nil {
			return spec.Leave, err
		}
		m, err := tx.GetMembership(user, r.NID)
		if missing, err := notFound(err); missing || err != nil {
			return spec.Leave, err
		}
		return m.Membership, nil
	})
}

// JoinedRooms are the rooms that a user is joined to.
func (s *Server) JoinedRooms(ctx context.Context, user id.UserID) ([]id.RoomID, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.RoomID, error) { return tx.ListJoinedRooms(user) })
}

// StateEvents loads the events at all places of a state, or at all but those of member
// events, in no order.
func (s *Server) StateEvents(tx *storage.Tx, root int64, withMembers bool) ([]storage.Event, error) {
	list := s.tree.List(tx, state.Root(root))
	if !withMembers {
		list = s.tree.ListExceptType(tx, state.Root(root), spec.MRoomMember)
	}
	return loadListed(tx, list)
}

// MemberEvents loads the member events of a state, in no order.
func (s *Server) MemberEvents(tx *storage.Tx, root int64) ([]storage.Event, error) {
	return loadListed(tx, s.tree.ListType(tx, state.Root(root), spec.MRoomMember))
}

// loadBatch is how many events are loaded at once.
const loadBatch = 500

func loadListed(tx *storage.Tx, list func(func(state.HashEntry, error) bool)) ([]storage.Event, error) {
	var nids []storage.EventNID
	for entry, err := range list {
		if err != nil {
			return nil, err
		}
		nids = append(nids, storage.EventNID(entry.NID))
	}
	out := make([]storage.Event, 0, len(nids))
	for len(nids) > 0 {
		n := min(len(nids), loadBatch)
		rows, err := tx.ListEventsByNID(nids[:n])
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
		nids = nids[n:]
	}
	return out, nil
}

// StateDelta loads the events that state b has and state a has not.
func (s *Server) StateDelta(tx *storage.Tx, a, b int64) ([]storage.Event, error) {
	changes, err := s.tree.Diff(tx, state.Root(a), state.Root(b))
	if err != nil {
		return nil, err
	}
	return loadListed(tx, func(yield func(state.HashEntry, error) bool) {
		for _, c := range changes {
			if c.B != 0 && !yield(state.HashEntry{Hash: c.Hash, NID: c.B}, nil) {
				return
			}
		}
	})
}

// MembersAt loads the member events of some users in a state.
func (s *Server) MembersAt(tx *storage.Tx, root int64, users []id.UserID) ([]storage.Event, error) {
	keys := make([]state.Key, len(users))
	for i, u := range users {
		keys[i] = state.Key{Type: spec.MRoomMember, StateKey: string(u)}
	}
	found, err := s.tree.GetMany(tx, state.Root(root), keys)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.EventNID, 0, len(found))
	for _, nid := range found {
		nids = append(nids, storage.EventNID(nid))
	}
	return tx.ListEventsByNID(nids)
}

// StateContent is the content of one state event; nil where there is none.
func (s *Server) StateContent(tx *storage.Tx, room *storage.Room, root int64, eventType, stateKey string) ([]byte, error) {
	e, err := s.stateEvent(tx, room, root, eventType, stateKey)
	if err != nil || e == nil {
		return nil, err
	}
	return e.Content(), nil
}

// State is the state of a room that a user may see, as client events.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidstate
func (s *Server) State(ctx context.Context, room id.RoomID, r Reader) ([]json.RawMessage, error) {
	if err := s.awaitMembers(ctx, room); err != nil {
		return nil, err
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]json.RawMessage, error) {
		v, root, err := s.stateView(tx, r.User, room)
		if err != nil {
			return nil, err
		}
		events, err := s.StateEvents(tx, root, true)
		if err != nil {
			return nil, err
		}
		return s.Render(tx, nil, &v.Room, events, r)
	})
}

// StateEvent is one event of the state that a user may see: its content, or all of it.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Server) StateEvent(ctx context.Context, room id.RoomID, eventType, stateKey string, whole bool, r Reader) (json.RawMessage, error) {
	if eventType == spec.MRoomMember && id.UserID(stateKey) != r.User {
		if err := s.awaitMembers(ctx, room); err != nil {
			return nil, err
		}
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (json.RawMessage, error) {
		v, root, err := s.stateView(tx, r.User, room)
		if err != nil {
			return nil, err
		}
		e, err := s.stateEvent(tx, &v.Room, root, eventType, stateKey)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, matrixerr.New(matrixerr.NotFound, "The room has no such state.")
		}
		if !whole {
			return json.RawMessage(e.Content()), nil
		}
		out, err := s.Render(tx, nil, &v.Room, []storage.Event{e.Event}, r)
		if err != nil {
			return nil, err
		}
		return out[0], nil
	})
}

// MembersRequest selects member events.
type MembersRequest struct {
	Room id.RoomID
	// At asks for the members at a position of the log; nil for those that the reader may see now.
	At *storage.Ord
	// Membership and NotMembership select; "" selects all.
	Membership, NotMembership string
	Reader                    Reader
}

// Members are a room's member events.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidmembers
func (s *Server) Members(ctx context.Context, m MembersRequest) ([]json.RawMessage, error) {
	if err := s.awaitMembers(ctx, m.Room); err != nil {
		return nil, err
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]json.RawMessage, error) {
		v, root, err := s.stateView(tx, m.Reader.User, m.Room)
		if err != nil {
			return nil, err
		}
		if m.At != nil {
			if root, err = s.rootAt(tx, v, *m.At, root); err != nil {
				return nil, err
			}
		}
		events, err := s.MemberEvents(tx, root)
		if err != nil {
			return nil, err
		}
		kept := events[:0]
		for _, e := range events {
			membership := gjson.GetBytes(e.JSON, "content.membership").Str
			if (m.Membership == "" || m.Membership == membership) && (m.NotMembership == "" || m.NotMembership != membership) {
				kept = append(kept, e)
			}
		}
		return s.Render(tx, nil, &v.Room, kept, m.Reader)
	})
}

// rootAt is the state after the newest event at or before a place of the timeline, but
// never one later than the reader may see.
func (s *Server) rootAt(tx *storage.Tx, v *View, at storage.Ord, newest int64) (int64, error) {
	if !v.Joined() && v.lastJoined <= at {
		return newest, nil
	}
	root, _, ok, err := tx.GetCurrentAt(v.Room.NID, at)
	if err != nil || ok {
		return root, err
	}
	// Before the room there was nobody: the nearest is who made it, alone in it.
	first, err := tx.ListTimelineForwards(v.Room.NID, at, math.MaxInt64, 2)
	if err != nil || len(first) == 0 {
		return newest, err
	}
	return first[len(first)-1].Current, nil
}

// JoinedMember is what joined_members shows of a member.
type JoinedMember struct {
	DisplayName *string `json:"display_name"`
	AvatarURL   *string `json:"avatar_url"`
}

// JoinedMembers are the members of a room that the user is joined to.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidjoined_members
func (s *Server) JoinedMembers(ctx context.Context, user id.UserID, room id.RoomID) (map[id.UserID]JoinedMember, error) {
	if err := s.awaitMembers(ctx, room); err != nil {
		return nil, err
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (map[id.UserID]JoinedMember, error) {
		v, err := s.view(tx, user, room)
		if err != nil {
			return nil, err
		}
		if !v.Joined() {
			return nil, errUnknownRoom
		}
		events, err := s.MemberEvents(tx, v.Room.Root)
		if err != nil {
			return nil, err
		}
		out := make(map[id.UserID]JoinedMember, len(events))
		for _, e := range events {
			f := gjson.GetManyBytes(e.JSON, "content.membership", "state_key", "content.displayname", "content.avatar_url")
			if f[0].Str != spec.Join {
				continue
			}
			var m JoinedMember
			if f[2].Type == gjson.String {
				m.DisplayName = &f[2].Str
			}
			if f[3].Type == gjson.String {
				m.AvatarURL = &f[3].Str
			}
			out[id.UserID(f[1].Str)] = m
		}
		return out, nil
	})
}

// timelineEvent finds an event of the room that the user may see.
func (s *Server) timelineEvent(tx *storage.Tx, v *View, event id.EventID) (storage.TimelineEvent, error) {
	none := matrixerr.New(matrixerr.NotFound, "The event is not in this room, or you may not see it.")
	row, err := tx.GetEvent(event)
	if missing, err := notFound(err); err != nil {
		return storage.TimelineEvent{}, err
	} else if missing || row.Room != v.Room.NID {
		return storage.TimelineEvent{}, none
	}
	ord, ok, err := tx.GetOrd(row.NID)
	if err != nil {
		return storage.TimelineEvent{}, err
	}
	if !ok {
		return storage.TimelineEvent{}, none
	}
	e := storage.TimelineEvent{Ord: ord, Event: row}
	visible, err := v.Visible(&e)
	if err == nil && !visible {
		err = none
	}
	return e, err
}

// Event is one event of a room.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomideventeventid
func (s *Server) Event(ctx context.Context, room id.RoomID, event id.EventID, r Reader) (json.RawMessage, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (json.RawMessage, error) {
		v, err := s.view(tx, r.User, room)
		if err != nil {
			return nil, matrixerr.New(matrixerr.NotFound, "The event is not in this room, or you may not see it.")
		}
		e, err := s.timelineEvent(tx, v, event)
		if err != nil {
			return nil, err
		}
		out, err := s.Render(tx, v, &v.Room, []storage.Event{e.Event}, r)
		if err != nil {
			return nil, err
		}
		return out[0], nil
	})
}

// EventFilter says which events a request wants; it gets the event as it was signed.
type EventFilter func(raw []byte) bool

// PageRequest asks for a page of a room's timeline.
type PageRequest struct {
	Room id.RoomID
	// From and To are places between events: behind the event with that Ord. nil means the
	// end in the direction of reading.
	From, To *storage.Ord
	Backward bool
	Limit    int
	Filter   EventFilter // nil: all
	// Members asks for the member events of the senders, too.
	Members bool
	Reader  Reader
}

// Page is a part of a timeline, in the order of reading.
type Page struct {
	Events []json.RawMessage
	State  []json.RawMessage
	Start  storage.Ord
	// End is where to go on; nil when there is nothing more.
	End *storage.Ord
}

// maxScan bounds the events that one request looks at to find some that its filter and
// the history visibility let through.
const maxScan = 5000

// Messages is a page of a room's timeline.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidmessages
func (s *Server) Messages(ctx context.Context, p PageRequest) (*Page, error) {
	if p.Backward {
		s.fillIn(ctx, &p)
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (*Page, error) {
		v, err := s.view(tx, p.Reader.User, p.Room)
		if err != nil {
			return nil, err
		}
		if _, ok, err := v.StateRoot(); err != nil || !ok {
			return nil, errOr(err, errUnknownRoom)
		}
		events, start, end, err := s.scan(tx, v, &p)
		if err != nil {
			return nil, err
		}
		if end == nil && p.Backward && len(events) > 0 {
			// What other servers did not tell now, they may later.
			if more, err := tx.HasGaps(v.Room.NID); err != nil {
				return nil, err
			} else if more {
				below := events[len(events)-1].Ord - 1
				end = &below
			}
		}
		page := &Page{Start: start, End: end}
		rows := plain(events)
		if page.Events, err = s.Render(tx, v, &v.Room, rows, p.Reader); err != nil {
			return nil, err
		}
		if p.Members && len(rows) > 0 {
			members, err := s.MembersAt(tx, rows[0].Root, senders(rows))
			if err != nil {
				return nil, err
			}
			page.State, err = s.Render(tx, nil, &v.Room, members, p.Reader)
			return page, err
		}
		return page, nil
	})
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// Timeline is scan for one who has a view: what /sync shows of a room.
func (s *Server) Timeline(tx *storage.Tx, v *View, p *PageRequest) ([]storage.TimelineEvent, error) {
	events, _, _, err := s.scan(tx, v, p)
	return events, err
}

// scan reads the timeline in the request's direction until it has enough events that the
// reader wants and may see.
func (s *Server) scan(tx *storage.Tx, v *View, p *PageRequest) (events []storage.TimelineEvent, start storage.Ord, end *storage.Ord, err error) {
	from, to := storage.Ord(math.MinInt64), storage.Ord(math.MaxInt64)
	if p.Backward {
		from, to = to, from
		pos, err := tx.GetPos()
		if err != nil {
			return nil, 0, nil, err
		}
		from = storage.Ord(pos)
	} else if first, ok, err := tx.GetFirstOrd(v.Room.NID); err != nil {
		return nil, 0, nil, err
	} else if ok {
		from = first - 1
	}
	if p.From != nil {
		from = *p.From
	}
	if p.To != nil {
		to = *p.To
	}
	start = from
	for scanned := 0; scanned < maxScan && len(events) < p.Limit; {
		batch := min(max(p.Limit-len(events), 20), 1000)
		var rows []storage.TimelineEvent
		if p.Backward {
			rows, err = tx.ListTimelineBackwards(v.Room.NID, from, to, batch)
		} else {
			rows, err = tx.ListTimelineForwards(v.Room.NID, from, to, batch)
		}
		if err != nil {
			return nil, 0, nil, err
		}
		for i := range rows {
			if from = rows[i].Ord; p.Backward {
				from--
			}
			if p.Filter != nil && !p.Filter(rows[i].JSON) {
				continue
			}
			visible, err := v.Visible(&rows[i])
			if err != nil {
				return nil, 0, nil, err
			}
			if visible {
				if events = append(events, rows[i]); len(events) == p.Limit {
					break
				}
			}
		}
		scanned += len(rows)
		if len(rows) < batch && len(events) < p.Limit {
			return events, start, nil, nil
		}
	}
	return events, start, &from, nil
}

// ContextRequest asks for an event and what is around it.
type ContextRequest struct {
	Room   id.RoomID
	Event  id.EventID
	Limit  int
	Filter EventFilter
	// LazyMembers leaves out of the state the members who sent none of the events.
	LazyMembers bool
	Reader      Reader
}

// EventContext is an event and what is around it.
type EventContext struct {
	Event         json.RawMessage
	Before, After []json.RawMessage
	State         []json.RawMessage
	Start, End    storage.Ord
}

// Context is an event and what is around it.
//
// spec: client-server-api/modules/event_context.md#get_matrixclientv3roomsroomidcontexteventid
func (s *Server) Context(ctx context.Context, r ContextRequest) (*EventContext, error) {
	if at, ok := s.ordOf(ctx, r.Event); ok && r.Limit > 1 {
		before := at - 1
		s.fillIn(ctx, &PageRequest{Room: r.Room, From: &before, Backward: true, Limit: r.Limit / 2, Filter: r.Filter, Reader: r.Reader})
	}
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (*EventContext, error) {
		v, err := s.view(tx, r.Reader.User, r.Room)
		if err != nil {
			return nil, matrixerr.New(matrixerr.NotFound, "The event is not in this room, or you may not see it.")
		}
		e, err := s.timelineEvent(tx, v, r.Event)
		if err != nil {
			return nil, err
		}
		out := &EventContext{Start: e.Ord - 1, End: e.Ord}
		before, after := e.Ord-1, e.Ord
		var around [2][]storage.TimelineEvent
		for i, p := range []PageRequest{
			{From: &before, Backward: true, Limit: r.Limit / 2, Filter: r.Filter},
			{From: &after, Limit: r.Limit - r.Limit/2, Filter: r.Filter},
		} {
			if p.Limit == 0 {
				continue
			}
			if around[i], _, _, err = s.scan(tx, v, &p); err != nil {
				return nil, err
			}
		}
		if n := len(around[0]); n > 0 {
			out.Start = around[0][n-1].Ord - 1
		}
		last := e
		if n := len(around[1]); n > 0 {
			last = around[1][n-1]
			out.End = last.Ord
		}
		if out.Before, err = s.Render(tx, v, &v.Room, plain(around[0]), r.Reader); err != nil {
			return nil, err
		}
		if out.After, err = s.Render(tx, v, &v.Room, plain(around[1]), r.Reader); err != nil {
			return nil, err
		}
		one, err := s.Render(tx, v, &v.Room, []storage.Event{e.Event}, r.Reader)
		if err != nil {
			return nil, err
		}
		out.Event = one[0]
		stateEvents, err := s.StateEvents(tx, last.Root, !r.LazyMembers)
		if err != nil {
			return nil, err
		}
		if r.LazyMembers {
			all := append(plain(around[0]), append(plain(around[1]), e.Event)...)
			members, err := s.MembersAt(tx, last.Root, senders(all))
			if err != nil {
				return nil, err
			}
			stateEvents = append(stateEvents, members...)
		}
		out.State, err = s.Render(tx, nil, &v.Room, stateEvents, r.Reader)
		return out, err
	})
}

// ordOf is where an event stands in its room's timeline.
func (s *Server) ordOf(ctx context.Context, event id.EventID) (ord storage.Ord, ok bool) {
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		e, err := tx.GetEvent(event)
		if err == nil {
			ord, ok, err = tx.GetOrd(e.NID)
		}
		return err
	})
	return ord, ok && err == nil
}

// RelationsRequest asks for the events that relate to one.
type RelationsRequest struct {
	Room      id.RoomID
	Event     id.EventID
	RelType   string // "": any
	EventType string // "": any
	From, To  *storage.Ord
	Backward  bool
	Limit     int
	// Recurse asks for relations of relations, too.
	Recurse bool
	Reader  Reader
}

// maxRecursion is how many steps a recursive request goes; the specification asks for
// three at least.
const maxRecursion = 3

// Relations are the events that relate to one.
//
// spec: client-server-api/index.md#get_matrixclientv1roomsroomidrelationseventid
func (s *Server) Relations(ctx context.Context, r RelationsRequest) (*Page, int, error) {
	depth := 1
	if r.Recurse {
		depth = maxRecursion
	}
	page, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (*Page, error) {
		v, err := s.view(tx, r.Reader.User, r.Room)
		if err != nil {
			return nil, err
		}
		if _, err := s.timelineEvent(tx, v, r.Event); err != nil {
			return nil, err
		}
		from, to := storage.Ord(math.MinInt64), storage.Ord(math.MaxInt64)
		if r.Backward {
			from, to = to, from
		}
		if r.From != nil {
			from = *r.From
		}
		if r.To != nil {
			to = *r.To
		}
		targets := []id.EventID{r.Event}
		for range depth - 1 {
			more, err := tx.ListRelationsOf(v.Room.NID, targets)
			if err != nil {
				return nil, err
			}
			if targets, err = s.addEventIDs(tx, targets, more); err != nil {
				return nil, err
			}
		}
		q := storage.RelationsQuery{Room: v.Room.NID, Targets: targets, RelType: r.RelType, Type: r.EventType,
			From: from, To: to, Backward: r.Backward, Limit: r.Limit + 1}
		rows, err := tx.ListRelations(q)
		if err != nil {
			return nil, err
		}
		page := &Page{}
		if len(rows) > r.Limit {
			rows = rows[:r.Limit]
			end := rows[r.Limit-1].Ord
			if r.Backward {
				end--
			}
			page.End = &end
		}
		visible, err := v.Filter(rows)
		if err != nil {
			return nil, err
		}
		page.Events, err = s.Render(tx, v, &v.Room, plain(visible), r.Reader)
		return page, err
	})
	return page, depth, err
}

// addEventIDs adds the IDs of the relating events to a list, each once.
func (s *Server) addEventIDs(tx *storage.Tx, ids []id.EventID, relations []storage.Relation) ([]id.EventID, error) {
	nids := make([]storage.EventNID, len(relations))
	for i, r := range relations {
		nids[i] = r.Event
	}
	rows, err := tx.ListEventsByNID(nids)
	if err != nil {
		return nil, err
	}
	seen := make(map[id.EventID]bool, len(ids))
	for _, e := range ids {
		seen[e] = true
	}
	for _, row := range rows {
		if !seen[row.ID] {
			seen[row.ID] = true
			ids = append(ids, row.ID)
		}
	}
	return ids, nil
}

// ThreadsRequest asks for the roots of a room's threads.
type ThreadsRequest struct {
	Room id.RoomID
	// Participated asks only for threads that the reader took part in.
	Participated bool
	// From is the place of the newest reply of the last thread that was given; nil for the first page.
	From   *storage.Ord
	Limit  int
	Reader Reader
}

// Threads are the roots of a room's threads, those with the newest replies first.
//
// spec: client-server-api/modules/threading.md#get_matrixclientv1roomsroomidthreads
func (s *Server) Threads(ctx context.Context, r ThreadsRequest) (*Page, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (*Page, error) {
		v, err := s.view(tx, r.Reader.User, r.Room)
		if err != nil {
			return nil, err
		}
		if _, ok, err := v.StateRoot(); err != nil || !ok {
			return nil, errOr(err, errUnknownRoom)
		}
		from := storage.Ord(math.MaxInt64)
		if r.From != nil {
			from = *r.From
		}
		var participant id.UserID
		if r.Participated {
			participant = r.Reader.User
		}
		roots, err := tx.ListThreads(v.Room.NID, participant, from, r.Limit+1)
		if err != nil {
			return nil, err
		}
		page := &Page{}
		if len(roots) > r.Limit {
			roots = roots[:r.Limit]
			end := roots[r.Limit-1].Newest
			page.End = &end
		}
		var visible []storage.Event
		for _, root := range roots {
			e, err := s.timelineEvent(tx, v, root.Root)
			if matrixerr.Is(err, matrixerr.NotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			visible = append(visible, e.Event)
		}
		page.Events, err = s.Render(tx, v, &v.Room, visible, r.Reader)
		return page, err
	})
}

func plain(events []storage.TimelineEvent) []storage.Event {
	out := make([]storage.Event, len(events))
	for i := range events {
		out[i] = events[i].Event
	}
	return out
}

// senders are who sent the events, each once.
func senders(events []storage.Event) []id.UserID {
	seen := make(map[id.UserID]bool)
	var out []id.UserID
	for i := range events {
		sender := id.UserID(gjson.GetBytes(events[i].JSON, "sender").Str)
		if !seen[sender] {
			seen[sender] = true
			out = append(out, sender)
		}
	}
	return out
}

// Ord is a place in a room's timeline, as storage counts them: between events, behind the
// one that has it.
type Ord = storage.Ord
