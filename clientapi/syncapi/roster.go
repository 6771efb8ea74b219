package syncapi

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// rosterRooms bounds the rooms in all rosters that are kept, a room counted for each user.
	rosterRooms = 400_000
	// maxLogGap bounds the events that are looked through to bring a roster up to date.
	maxLogGap = 2000
	// maxStays bounds the changes of a user's membership that are looked through.
	maxStays = 1000
)

// roster is the list of a user's rooms, that with the newest activity first: what the lists of
// sliding sync are windows on. It is kept from answer to answer, as a user may be in thousands
// of rooms; without it the list is the same.
type roster struct {
	mu sync.Mutex
	// at says as of when it is; read is false where it is as of never.
	at   stream.Mark
	read bool
	// rooms are never changed, but replaced.
	rooms map[id.RoomID]*listedRoom
	order []*listedRoom
	// direct are the rooms that the user takes for conversations of two, tags the names of the
	// tags of each room.
	direct map[id.RoomID]bool
	tags   map[id.RoomID][]string
	// kinds are those that had to be looked up.
	kinds  map[storage.RoomNID]storage.RoomKind
	weight int
}

// listedRoom is a room as lists need it.
type listedRoom struct {
	nid        storage.RoomNID
	id         id.RoomID
	membership string
	// pos is since when the membership is what it is; activity is that, or, for members, the place
	// of the room's newest event.
	pos      id.Pos
	activity storage.Ord
	// ifSent says that it is listed only for one who was told of it before: a room that the user
	// left, or never came to be in.
	ifSent bool
	// inviter is who invited the user.
	inviter id.UserID
	// kind is what the room is, to the user: nil where it must be looked up. event is the one that
	// made the user what they are.
	kind  *storage.RoomKind
	event storage.EventNID
}

// rosters are the rosters that are kept.
type rosters struct {
	mu     sync.Mutex
	lru    *simplelru.LRU[id.UserID, *roster]
	weight int
}

func newRosters() (*rosters, error) {
	lru, err := simplelru.NewLRU[id.UserID, *roster](rosterRooms, nil)
	if err != nil {
		return nil, fmt.Errorf("rosters: %w", err)
	}
	return &rosters{lru: lru}, nil
}

// get is a user's roster.
func (rs *rosters) get(user id.UserID) *roster {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r, ok := rs.lru.Get(user)
	if !ok {
		r = &roster{weight: 1}
		rs.lru.Add(user, r)
		rs.weight++
	}
	return r
}

// weigh notes how large a roster has become, and drops those that were not used for long.
func (rs *rosters) weigh(user id.UserID, r *roster) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if kept, ok := rs.lru.Peek(user); !ok || kept != r {
		return
	}
	weight := 1 + len(r.order)
	rs.weight += weight - r.weight
	r.weight = weight
	for rs.weight > rosterRooms && rs.lru.Len() > 1 {
		_, old, _ := rs.lru.RemoveOldest()
		rs.weight -= old.weight
	}
}

// update brings a roster, which is locked, up to the builder's snapshot.
func (r *roster) update(b *builder, pos id.Pos) error {
	news, ok := b.Hub.Since(b.req.user, r.at, nil)
	at := stream.Mark{Pos: pos, Seq: news.Head.Seq}
	if !r.read || !ok {
		if err := r.load(b); err != nil {
			return err
		}
		r.at, r.read = at, true
		return nil
	}
	touched := make(map[id.RoomID]bool)
	data := false
	for i := range news.Notices {
		switch n := &news.Notices[i]; n.Kind {
		case stream.Event:
			touched[n.Room] = true
		case stream.AccountData:
			data = true
		}
	}
	if news.Head.Pos < pos {
		// The hub has not heard yet of all that the snapshot shows.
		complete, err := r.readLog(b, pos, touched)
		if err != nil {
			return err
		}
		if !complete {
			r.read = false
			return r.update(b, pos)
		}
		data = true
	}
	for room := range touched {
		if err := r.refresh(b, room); err != nil {
			return err
		}
	}
	if data {
		if err := r.readData(b); err != nil {
			return err
		}
	}
	r.at = at
	return nil
}

// readLog adds the rooms in which something happened since the roster was brought up to date.
func (r *roster) readLog(b *builder, pos id.Pos, touched map[id.RoomID]bool) (complete bool, err error) {
	nids, complete, err := b.tx.ListRoomsInLog(r.at.Pos, pos, maxLogGap)
	if err != nil || !complete {
		return false, err
	}
	for _, room := range r.order {
		if _, ok := nids[room.nid]; ok {
			touched[room.id] = true
		}
	}
	changed, err := b.tx.ListMembershipsSince(b.req.user, r.at.Pos)
	if err != nil {
		return false, err
	}
	for _, nid := range changed {
		room, err := b.tx.GetRoomByNID(nid)
		if err != nil {
			return false, err
		}
		touched[room.ID] = true
	}
	return true, nil
}

// load reads all rooms.
func (r *roster) load(b *builder) error {
	rows, err := b.tx.ListListedRooms(b.req.user)
	if err != nil {
		return err
	}
	r.rooms = make(map[id.RoomID]*listedRoom, len(rows))
	r.order = r.order[:0]
	r.kinds = make(map[storage.RoomNID]storage.RoomKind)
	for i := range rows {
		room, err := b.listed(&rows[i])
		if err != nil {
			return err
		}
		if room != nil {
			r.rooms[room.id] = room
			r.order = append(r.order, room)
		}
	}
	slices.SortFunc(r.order, compareListed)
	return r.readData(b)
}

func compareListed(x, y *listedRoom) int {
	return cmp.Or(cmp.Compare(y.activity, x.activity), cmp.Compare(y.nid, x.nid))
}

// refresh reads one room again.
func (r *roster) refresh(b *builder, name id.RoomID) error {
	if old := r.rooms[name]; old != nil {
		if i, ok := slices.BinarySearchFunc(r.order, old, compareListed); ok {
			r.order = slices.Delete(r.order, i, i+1)
		}
		delete(r.rooms, name)
		delete(r.kinds, old.nid)
	}
	room, err := b.tx.GetRoom(name)
	if gone, err := notFound(err); gone || err != nil {
		return err
	}
	row, err := b.tx.GetListedRoom(b.req.user, room.NID)
	if gone, err := notFound(err); gone || err != nil {
		return err
	}
	now, err := b.listed(&row)
	if err != nil || now == nil {
		return err
	}
	i, _ := slices.BinarySearchFunc(r.order, now, compareListed)
	r.order = slices.Insert(r.order, i, now)
	r.rooms[name] = now
	return nil
}

// readData reads the account data by which lists are filtered.
func (r *roster) readData(b *builder) error {
	direct, err := b.tx.GetAccountData(b.req.user, "", "m.direct")
	if _, err := notFound(err); err != nil {
		return err
	}
	r.direct = make(map[id.RoomID]bool)
	gjson.ParseBytes(direct.Content).ForEach(func(_, rooms gjson.Result) bool {
		for _, room := range rooms.Array() {
			r.direct[id.RoomID(room.Str)] = true
		}
		return true
	})
	tags, err := b.tx.ListAccountDataOfType(b.req.user, "m.tag")
	if err != nil {
		return err
	}
	r.tags = make(map[id.RoomID][]string)
	for i := range tags {
		gjson.GetBytes(tags[i].Content, "tags").ForEach(func(name, _ gjson.Result) bool {
			r.tags[tags[i].Room] = append(r.tags[tags[i].Room], name.Str)
			return true
		})
	}
	return nil
}

// listed is a room as lists need it; nil for one that is in none.
func (b *builder) listed(row *storage.ListedRoom) (*listedRoom, error) {
	m := &row.Membership
	if m.Forgotten || m.Event == 0 {
		return nil, nil
	}
	room := &listedRoom{nid: m.Room, id: m.RoomID, membership: m.Membership, pos: m.Pos, activity: storage.Ord(m.Pos), event: m.Event}
	switch m.Membership {
	case "join":
		room.activity, room.kind = max(room.activity, row.Newest), row.Kind
	case "invite", "knock":
		room.kind = strippedKind(m.Stripped)
		if m.Membership == "invite" {
			room.inviter = id.UserID(gjson.GetBytes(row.JSON, "sender").Str)
		}
	default:
		removed := gjson.GetBytes(row.JSON, "sender").Str != string(m.User)
		if removed {
			was, err := b.removed(m)
			if err != nil {
				return nil, err
			}
			removed = was
		}
		room.ifSent = !removed
	}
	return room, nil
}

// removed says whether a user was kicked or banned from a room that they had been in.
func (b *builder) removed(m *storage.Membership) (bool, error) {
	banned := m.Membership == "ban"
	e, err := b.tx.GetEventByNID(m.Event)
	for range maxStays {
		if err != nil || e.Replaces == 0 {
			return false, err
		}
		if e, err = b.tx.GetEventByNID(e.Replaces); err != nil {
			return false, err
		}
		switch membership := gjson.GetBytes(e.JSON, "content.membership").Str; {
		case membership == "join":
			return true, nil
		case membership == "ban":
			banned = true // and the ban was lifted
		case !banned:
			return false, nil // an invite that was withdrawn
		}
	}
	return false, nil
}

// strippedKind is what a room is by what one who is invited was shown of it.
func strippedKind(stripped []byte) *storage.RoomKind {
	kind := new(storage.RoomKind)
	gjson.ParseBytes(stripped).ForEach(func(_, e gjson.Result) bool {
		switch e.Get("type").Str {
		case "m.room.create":
			kind.Type = e.Get("content.type").Str
		case "m.room.encryption":
			kind.Encrypted = true
		}
		return true
	})
	return kind
}

// kindOf is what a listed room is; for one who has left it, what it was then.
func (r *roster) kindOf(b *builder, room *listedRoom) (storage.RoomKind, error) {
	if room.kind != nil {
		return *room.kind, nil
	}
	if kind, ok := r.kinds[room.nid]; ok {
		return kind, nil
	}
	row, err := b.tx.GetRoomByNID(room.nid)
	if err == nil && room.membership != "join" {
		var e storage.Event
		e, err = b.tx.GetEventByNID(room.event)
		row.Root = e.Root
	}
	if err != nil || row.Root == 0 {
		return storage.RoomKind{}, err
	}
	kind, err := b.Rooms.Kind(b.tx, &row)
	if err == nil {
		r.kinds[room.nid] = kind
	}
	return kind, err
}

// notFound turns "no such row" into an answer.
func notFound(err error) (missing bool, rest error) {
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return false, err
}
