package sender

import (
	"context"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/storage"
)

// knownRooms bounds the rooms of which the servers are remembered.
const knownRooms = 4096

// servers remembers which servers are in rooms.
type servers struct {
	mu    sync.Mutex
	known *lru.Cache[storage.RoomNID, roomServers]
	nids  map[id.RoomID]storage.RoomNID // of the known
	// forgotten counts what was forgotten, so that nothing older is remembered after it.
	forgotten uint64
}

type roomServers struct {
	room id.RoomID
	list []storage.RoomServer
}

func newServers() (*servers, error) {
	s := &servers{nids: make(map[id.RoomID]storage.RoomNID)}
	var err error
	s.known, err = lru.NewWithEvict(knownRooms, func(_ storage.RoomNID, r roomServers) { delete(s.nids, r.room) })
	return s, err
}

// of are the other servers of a room, those that have left included.
func (s *servers) of(tx *storage.Tx, nid storage.RoomNID) ([]storage.RoomServer, error) {
	s.mu.Lock()
	r, ok := s.known.Get(nid)
	before := s.forgotten
	s.mu.Unlock()
	if ok {
		return r.list, nil
	}
	room, err := tx.GetRoomByNID(nid)
	if err != nil {
		return nil, err
	}
	list, err := tx.ListRoomServers(nid)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgotten == before {
		s.known.Add(nid, roomServers{room.ID, list})
		s.nids[room.ID] = nid
	}
	return list, nil
}

// in are the other servers that have members in a room now.
func (s *servers) in(ctx context.Context, db *storage.DB, room id.RoomID) ([]id.ServerName, error) {
	s.mu.Lock()
	nid, ok := s.nids[room]
	s.mu.Unlock()
	var list []storage.RoomServer
	err := db.Read(ctx, func(tx *storage.Tx) error {
		if !ok {
			r, err := tx.GetRoom(room)
			if err != nil {
				return err
			}
			nid = r.NID
		}
		var err error
		list, err = s.of(tx, nid)
		return err
	})
	var out []id.ServerName
	for i := range list {
		if list[i].Until == 0 {
			out = append(out, list[i].Server)
		}
	}
	return out, err
}

// forget drops what is remembered of a room whose members have changed.
func (s *servers) forget(room id.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten++
	if nid, ok := s.nids[room]; ok {
		s.known.Remove(nid)
	}
}

func (s *servers) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten++
	s.known.Purge()
}

// Route says whom a piece of the log concerns.
func (s *Sender) Route(ctx context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	found := make(map[id.ServerName]delivery.Concern)
	note := func(server id.ServerName, first, last id.Pos) {
		c, ok := found[server]
		if !ok {
			if server == s.o.ServerName || !s.o.Allowed(server) {
				return
			}
			c = delivery.Concern{Destination: string(server), First: first}
		}
		c.First, c.Last = min(c.First, first), max(c.Last, last)
		found[server] = c
	}
	err := s.o.DB.Read(ctx, func(tx *storage.Tx) error {
		clear(found)
		events, err := tx.ListOutgoing(from, to, int(to-from))
		if err != nil {
			return err
		}
		for _, e := range events {
			list, err := s.servers.of(tx, e.Room)
			if err != nil {
				return err
			}
			for i := range list {
				if list[i].In(e.Pos) {
					note(list[i].Server, e.Pos, e.Pos)
				}
			}
		}
		changes, err := tx.ListDeviceChanges(from, to, int(to-from))
		if err != nil {
			return err
		}
		for _, c := range changes {
			list, err := tx.ListServersOfUser(c.User)
			if err != nil {
				return err
			}
			for _, server := range list {
				note(server, c.Pos, c.Pos)
			}
		}
		queued, err := tx.ListQueuedServers(from, to)
		for _, server := range queued {
			note(server, from+1, to)
		}
		return err
	})
	out := make([]delivery.Concern, 0, len(found))
	for _, c := range found {
		out = append(out, c)
	}
	return out, err
}

// Forget drops the events that all servers have.
func (s *Sender) Forget(ctx context.Context, to id.Pos) error {
	return s.o.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteOutgoing(to) })
}
