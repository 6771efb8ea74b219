package appservice

import (
	"errors"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// knownRooms bounds the rooms of which the members are remembered.
const knownRooms = 4096

// members remembers which users of ours have to do with rooms, as far as they are some service's.
type members struct {
	services []*Service

	mu    sync.Mutex
	known *lru.Cache[storage.RoomNID, roomMembers]
	nids  map[id.RoomID]storage.RoomNID // of the known
	// forgotten counts what was forgotten, so that nothing older is remembered after it.
	forgotten uint64
}

type roomMembers struct {
	room id.RoomID
	of   map[*Service][]storage.LocalMember
}

func newMembers(services []*Service) (*members, error) {
	m := &members{services: services, nids: make(map[id.RoomID]storage.RoomNID)}
	var err error
	m.known, err = lru.NewWithEvict(knownRooms, func(_ storage.RoomNID, r roomMembers) { delete(m.nids, r.room) })
	return m, err
}

// in are the users of each service who are or were something to a room.
func (m *members) in(tx *storage.Tx, room *storage.Room) (map[*Service][]storage.LocalMember, error) {
	m.mu.Lock()
	r, ok := m.known.Get(room.NID)
	before := m.forgotten
	m.mu.Unlock()
	if ok {
		return r.of, nil
	}
	all, err := tx.ListLocalMembers(room.NID)
	if err != nil {
		return nil, err
	}
	r = roomMembers{room: room.ID, of: make(map[*Service][]storage.LocalMember)}
	for _, service := range m.services {
		for i := range all {
			if service.hasUser(all[i].User) {
				r.of[service] = append(r.of[service], all[i])
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forgotten == before {
		m.known.Add(room.NID, r)
		m.nids[room.ID] = room.NID
	}
	return r.of, nil
}

// forget drops what is remembered of a room whose members have changed.
func (m *members) forget(room id.RoomID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten++
	if nid, ok := m.nids[room]; ok {
		m.known.Remove(nid)
	}
}

func (m *members) purge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten++
	m.known.Purge()
}

// watch is one snapshot in which it is found out what concerns services.
type watch struct {
	s     *Sender
	tx    *storage.Tx
	rooms map[storage.RoomNID]*storage.Room
}

func (s *Sender) watch(tx *storage.Tx) *watch {
	return &watch{s: s, tx: tx, rooms: make(map[storage.RoomNID]*storage.Room)}
}

// room is a room, nil where it is not known any more.
func (w *watch) room(nid storage.RoomNID) (*storage.Room, error) {
	if room, ok := w.rooms[nid]; ok {
		return room, nil
	}
	room, err := w.tx.GetRoomByNID(nid)
	if errors.Is(err, storage.ErrNotFound) {
		w.rooms[nid] = nil
		return nil, nil
	}
	w.rooms[nid] = &room
	return &room, err
}

// ofEvent says whether an event of the log is for a service: by its room, by its sender, by whom it is about, or
// by who was in the room.
//
// spec: application-service-api.md#registration
func (w *watch) ofEvent(service *Service, room *storage.Room, e *storage.Event, pos id.Pos) (bool, error) {
	f := gjson.GetManyBytes(e.JSON, "sender", "state_key", "type")
	if service.hasUser(id.UserID(f[0].Str)) || f[1].Exists() && service.hasUser(id.UserID(f[1].Str)) {
		return true, nil
	}
	if always, err := w.always(service, room); always || err != nil {
		return always, err
	}
	// Mostly it is the one who acts for the service.
	bot, err := w.tx.GetMembership(service.Sender, room.NID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	if err == nil && bot.Membership == "join" && bot.Pos <= pos {
		return true, nil
	}
	of, err := w.s.members.in(w.tx, room)
	if err != nil {
		return false, err
	}
	var perhaps []id.UserID
	for _, m := range of[service] {
		switch {
		case m.Since > pos:
			perhaps = append(perhaps, m.User) // they have come or gone since
		case m.Joined:
			return true, nil
		}
	}
	if len(perhaps) == 0 {
		return false, nil
	}
	events, err := w.s.o.Rooms.MembersAt(w.tx, e.Root, perhaps)
	for i := range events {
		if gjson.GetBytes(events[i].JSON, "content.membership").Str == "join" {
			return true, err
		}
	}
	return false, err
}

// always says whether all that happens in a room is for a service.
func (w *watch) always(service *Service, room *storage.Room) (bool, error) {
	if service.rooms.has(string(room.ID)) {
		return true, nil
	}
	if len(service.aliases) == 0 {
		return false, nil
	}
	aliases, err := w.tx.ListAliases(room.ID)
	for _, a := range aliases {
		if service.aliases.has(string(a.Alias)) {
			return true, err
		}
	}
	return false, err
}

// now says whether what passes in a room, and is no event, is for a service.
func (w *watch) now(service *Service, room *storage.Room) (bool, error) {
	if always, err := w.always(service, room); always || err != nil {
		return always, err
	}
	of, err := w.s.members.in(w.tx, room)
	for _, m := range of[service] {
		if m.Joined {
			return true, err
		}
	}
	return false, err
}

// shares says whether a user is of a service, or in a room with one who is.
func (w *watch) shares(service *Service, user id.UserID) (bool, error) {
	if service.hasUser(user) {
		return true, nil
	}
	memberships, err := w.tx.ListMemberships(user)
	if err != nil {
		return false, err
	}
	for i := range memberships {
		if memberships[i].Membership != "join" {
			continue
		}
		room, err := w.room(memberships[i].Room)
		if err != nil || room == nil {
			return false, err
		}
		if is, err := w.now(service, room); is || err != nil {
			return is, err
		}
	}
	return false, nil
}
