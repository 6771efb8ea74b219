package sender

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/storage"
)

// loaded is what items stand for.
type loaded struct {
	events map[storage.EventNID]storage.Event
	rooms  map[storage.RoomNID]storage.Room
	// horizons are the times up to which the messages of rooms are due to leave.
	horizons map[storage.RoomNID]int64
	// before is the membership that a member event put an end to.
	before map[storage.EventNID]string
	// newest is, of a room of which a server gets but the newest events, these.
	newest  map[storage.RoomNID][]storage.EventNID
	changes map[id.UserID]storage.DeviceChange // the last of each user that a server is told of
	devices map[deviceName]storage.Device      // those that changed, and are there
	keys    *serverapi.Keys
}

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

// gather reads what has a place in the log and is for the server, and what it stands for.
func (b *batch) gather(ctx context.Context) error {
	var users []id.UserID
	err := b.s.o.DB.Read(ctx, func(tx *storage.Tx) error {
		b.items, b.done = nil, b.to
		b.loaded = loaded{
			events: make(map[storage.EventNID]storage.Event), rooms: make(map[storage.RoomNID]storage.Room),
			horizons: make(map[storage.RoomNID]int64),
			before:   make(map[storage.EventNID]string), newest: make(map[storage.RoomNID][]storage.EventNID),
			changes: make(map[id.UserID]storage.DeviceChange), devices: make(map[deviceName]storage.Device),
		}
		if err := b.list(tx); err != nil {
			return err
		}
		if err := b.loadEvents(tx); err != nil {
			return err
		}
		var err error
		users, err = b.loadDevices(tx)
		return err
	})
	if err != nil || len(users) == 0 {
		return err
	}
	b.loaded.keys, err = b.s.o.Users.PublicKeys(ctx, users)
	return err
}

// list lists the items, in their order, as far as one transaction may need them.
func (b *batch) list(tx *storage.Tx) error {
	listEvents := tx.ListOutgoingFor
	if b.to-b.from <= near {
		listEvents = tx.ListOutgoingNear
	}
	outgoing, err := listEvents(b.server, b.from, b.to, maxStale+1)
	if err != nil {
		return err
	}
	if b.stale = len(outgoing) > maxStale; b.stale {
		if outgoing, err = tx.ListLastOutgoing(b.server, b.from, b.to, serverapi.MaxPDUs); err != nil {
			return err
		}
		if len(outgoing) == serverapi.MaxPDUs { // there may be others
			b.done = outgoing[len(outgoing)-1].Pos
		}
	}
	slices.SortFunc(outgoing, func(x, y storage.Outgoing) int { return cmp.Compare(x.Pos, y.Pos) })
	if len(outgoing) > serverapi.MaxPDUs {
		b.done = outgoing[serverapi.MaxPDUs].Pos - 1
		outgoing = outgoing[:serverapi.MaxPDUs]
	}
	for i := range outgoing {
		b.items = append(b.items, item{pos: outgoing[i].Pos, event: &outgoing[i]})
	}
	changes, err := tx.ListDeviceChangesFor(b.server, b.from, b.done, serverapi.MaxEDUs)
	if err != nil {
		return err
	}
	if len(changes) == serverapi.MaxEDUs {
		b.done = min(b.done, changes[len(changes)-1].Pos)
	}
	for i := range changes {
		b.items = append(b.items, item{pos: changes[i].Pos, change: &changes[i]})
	}
	queued, err := tx.ListQueued(b.server, b.to, serverapi.MaxEDUs)
	if err != nil {
		return err
	}
	if len(queued) == serverapi.MaxEDUs { // of those at the last position there may be others
		b.done = min(b.done, queued[len(queued)-1].Pos-1)
	}
	for i := range queued {
		b.items = append(b.items, item{pos: queued[i].Pos, queued: &queued[i]})
	}
	slices.SortStableFunc(b.items, func(x, y item) int { return cmp.Compare(x.pos, y.pos) })
	return nil
}

// loadEvents loads the events, and of joins of our users what these were before.
func (b *batch) loadEvents(tx *storage.Tx) error {
	var nids []storage.EventNID
	for _, it := range b.items {
		if it.event == nil {
			continue
		}
		if _, ok := b.rooms[it.event.Room]; !ok {
			room, err := tx.GetRoomByNID(it.event.Room)
			if err != nil {
				return err
			}
			b.rooms[room.NID] = room
			if b.horizons[room.NID], err = b.s.o.Rooms.Horizon(tx, &room); err != nil {
				return err
			}
		}
		if !b.stale {
			nids = append(nids, it.event.Event)
			continue
		}
		newest, err := b.newestOf(tx, it.event)
		if err != nil {
			return err
		}
		b.newest[it.event.Room] = newest
		nids = append(nids, newest...)
	}
	events, err := tx.ListEventsByNID(nids)
	if err != nil {
		return err
	}
	var replaced []storage.EventNID
	for _, e := range events {
		b.events[e.NID] = e
		if e.Replaces != 0 && b.ownJoin(&e) != "" {
			replaced = append(replaced, e.Replaces)
		}
	}
	old, err := tx.ListEventsByNID(replaced)
	for _, e := range old {
		b.before[e.NID] = gjson.GetBytes(e.JSON, "content.membership").Str
	}
	return err
}

// newestOf are the newest events of a room from which a server that was away finds its way: the
// room's forward extremities, or the last event that it is to hear of where it is not in the
// room any more.
func (b *batch) newestOf(tx *storage.Tx, last *storage.Outgoing) ([]storage.EventNID, error) {
	list, err := tx.ListRoomServers(last.Room)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(r storage.RoomServer) bool { return r.Server == b.server })
	room := b.rooms[last.Room]
	if i < 0 || list[i].Until != 0 || len(room.Extremities) == 0 {
		return []storage.EventNID{last.Event}, nil
	}
	var out []storage.EventNID
	for _, x := range room.Extremities[max(0, len(room.Extremities)-maxExtremities):] {
		out = append(out, x.NID)
	}
	return out, nil
}

// ownJoin is the user of ours whom an event has join the room; "" for every other event.
func (b *batch) ownJoin(e *storage.Event) id.UserID {
	fields := gjson.GetManyBytes(e.JSON, "type", "state_key", "content.membership")
	user := id.UserID(fields[1].Str)
	if fields[0].Str != "m.room.member" || fields[2].Str != "join" || user.Server() != b.s.o.ServerName {
		return ""
	}
	return user
}

// newcomer is the user of ours who by an event came to a room, not to be in it already.
func (b *batch) newcomer(e *storage.Event) id.UserID {
	user := b.ownJoin(e)
	if user != "" && e.Replaces != 0 && b.before[e.Replaces] == "join" {
		return ""
	}
	return user
}

// loadDevices loads what the server is to be told of devices, and lists the users whose keys
// that takes.
func (b *batch) loadDevices(tx *storage.Tx) ([]id.UserID, error) {
	users := make(map[id.UserID]struct{})
	load := func(user id.UserID, device id.DeviceID) error {
		users[user] = struct{}{}
		if device == storage.CrossSigningKeys {
			return nil
		}
		d, err := tx.GetDevice(user, device)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		b.devices[deviceName{user, device}] = d
		return err
	}
	introduce := func(user id.UserID) error {
		c, err := tx.GetLastDeviceChange(user)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		b.loaded.changes[user] = c
		return load(user, c.Device)
	}
	for _, it := range b.items {
		var err error
		switch {
		case it.change != nil:
			err = load(it.change.User, it.change.Device)
		case it.queued != nil && it.queued.Type == storage.QueuedIntroduction:
			err = introduce(id.UserID(it.queued.Subject))
		case it.event != nil && !b.stale:
			e := b.events[it.event.Event]
			if user := b.newcomer(&e); user != "" {
				err = introduce(user)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	out := make([]id.UserID, 0, len(users))
	for user := range users {
		out = append(out, user)
	}
	return out, nil
}

// hasKeys says whether a user has devices with keys. As long as it is not known who is in a room, servers are told of
// nothing else: see [storage.Tx.InsertIntroductions].
func (b *batch) hasKeys(user id.UserID) bool {
	return b.loaded.keys != nil && len(b.loaded.keys.DeviceKeys[user]) > 0
}

// part is what one item puts into a transaction.
type part struct {
	pdus []json.RawMessage
	edus []serverapi.EDU
	keys []string
}

func (p *part) bytes() (n int) {
	for _, pdu := range p.pdus {
		n += len(pdu)
	}
	for _, edu := range p.edus {
		n += len(edu.Content)
	}
	return n
}

// fill fills the transaction with items as far as there is room, and says whether some are left.
func (b *batch) fill(ctx context.Context) (cut bool, err error) {
	size := 0
	for _, it := range b.items {
		if it.pos > b.done && it.queued == nil {
			return true, nil
		}
		p, err := b.part(ctx, &it)
		if err != nil {
			return false, err
		}
		n := p.bytes()
		if len(b.keys) > 0 && (len(b.txn.PDUs)+len(p.pdus) > serverapi.MaxPDUs ||
			len(b.txn.EDUs)+len(p.edus) > serverapi.MaxEDUs-reserved || size+n > maxBytes) {
			b.done = min(b.done, it.pos-1)
			return true, nil
		}
		b.txn.PDUs = append(b.txn.PDUs, p.pdus...)
		b.txn.EDUs = append(b.txn.EDUs, p.edus...)
		b.keys = append(b.keys, p.keys...)
		size += n
		if it.queued != nil {
			b.taken = append(b.taken, it.queued)
		}
	}
	return false, nil
}

func (b *batch) part(ctx context.Context, it *item) (p part, err error) {
	switch {
	case it.event != nil:
		p = b.eventPart(it.event)
	case it.change != nil:
		b.change(&p, it.change)
	case it.queued.Type == storage.QueuedToDevice:
		p.edus = []serverapi.EDU{{Type: storage.QueuedToDevice, Content: it.queued.Content}}
		p.keys = []string{"message " + it.queued.Subject}
	case it.queued.Type == storage.QueuedIntroduction:
		b.introduction(&p, id.UserID(it.queued.Subject), it.pos)
	}
	return p, nil
}

// eventPart is an event, unless it came from there. A server that the room's access control list
// denies gets it, too, as long as it has members in the room.
//
// spec: client-server-api/modules/server_acls.md#server-behaviour
func (b *batch) eventPart(o *storage.Outgoing) (p part) {
	nids := []storage.EventNID{o.Event}
	if b.stale {
		nids = b.newest[o.Room]
	}
	for _, nid := range nids {
		e, ok := b.events[nid]
		if !ok || e.Status != storage.Accepted || e.Due(b.horizons[e.Room]) || id.UserID(gjson.GetBytes(e.JSON, "sender").Str).Server() == b.server {
			continue
		}
		p.pdus = append(p.pdus, e.JSON)
		p.keys = append(p.keys, "event "+string(e.ID))
		if user := b.newcomer(&e); user != "" && !b.stale && (b.rooms[o.Room].Partial == 0 || b.hasKeys(user)) {
			b.introduction(&p, user, o.Pos)
		}
	}
	return p
}

// deviceUpdate is the content of an m.device_list_update.
//
// spec: server-server-api.md#device-management
type deviceUpdate struct {
	User        id.UserID       `json:"user_id"`
	Device      id.DeviceID     `json:"device_id"`
	DisplayName string          `json:"device_display_name,omitempty"`
	StreamID    id.Pos          `json:"stream_id"`
	PrevID      []id.Pos        `json:"prev_id"`
	Deleted     bool            `json:"deleted,omitempty"`
	Keys        json.RawMessage `json:"keys,omitempty"`
}

// change is what a server is told of a device, or of cross-signing keys.
//
// spec: server-server-api.md#device-management
func (b *batch) change(p *part, c *storage.DeviceChange) {
	if c.Device == storage.CrossSigningKeys {
		b.signingKeys(p, c.User, c.Pos)
		return
	}
	u := deviceUpdate{User: c.User, Device: c.Device, StreamID: c.Pos, PrevID: []id.Pos{}}
	if c.Previous != 0 {
		u.PrevID = append(u.PrevID, c.Previous)
	}
	d, ok := b.devices[deviceName{c.User, c.Device}]
	u.DisplayName, u.Deleted = d.DisplayName, !ok
	if ok && b.loaded.keys != nil {
		u.Keys = b.loaded.keys.DeviceKeys[c.User][c.Device]
	}
	p.edus = append(p.edus, serverapi.EDU{Type: "m.device_list_update", Content: raw(u)})
	p.keys = append(p.keys, "device "+string(c.User)+" "+string(c.Device)+" "+strconv.FormatInt(int64(c.Pos), 10))
}

// signingKeys is what a server is told of cross-signing keys.
//
// spec: server-server-api.md#device-management
func (b *batch) signingKeys(p *part, user id.UserID, pos id.Pos) {
	if b.loaded.keys == nil || b.loaded.keys.MasterKeys[user] == nil {
		return
	}
	content := map[string]any{"user_id": user, "master_key": b.loaded.keys.MasterKeys[user]}
	if k := b.loaded.keys.SelfSigningKeys[user]; k != nil {
		content["self_signing_key"] = k
	}
	p.edus = append(p.edus, serverapi.EDU{Type: "m.signing_key_update", Content: raw(content)})
	p.keys = append(p.keys, "signing "+string(user)+" "+strconv.FormatInt(int64(pos), 10))
}

// introduction tells a server that comes to share a room with a user of the last change of
// their devices. If it has seen all before, it knows all; else it sees that it has not, and asks.
func (b *batch) introduction(p *part, user id.UserID, pos id.Pos) {
	c, ok := b.loaded.changes[user]
	if !ok {
		return
	}
	b.change(p, &c)
	b.signingKeys(p, user, c.Pos)
	p.keys = append(p.keys, "introduction "+strconv.FormatInt(int64(pos), 10))
}
