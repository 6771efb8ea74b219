package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/storage"
)

const (
	// maxEvents bounds the events of a transaction, maxMessages the messages to devices, and maxReceipts the receipts.
	maxEvents   = 100
	maxMessages = 100
	maxReceipts = 500
)

// item is something that has a place in the log and is for a service.
type item struct {
	pos     id.Pos
	room    *storage.Room
	event   *storage.Event
	invite  *storage.Membership
	message *storage.ServiceMessage
	receipt *storage.Receipt
	user    id.UserID // whose devices changed
}

// transaction is what a service is sent. What is not in the specification has the names that it was
// proposed by: MSC2409, MSC4203 and MSC3202.
//
// spec: application-service-api.md#put_matrixappv1transactionstxnid
type transaction struct {
	Events       []json.RawMessage `json:"events"`
	Ephemeral    []json.RawMessage `json:"ephemeral,omitempty"`
	OldEphemeral []json.RawMessage `json:"de.sorunome.msc2409.ephemeral,omitempty"`
	ToDevice     []json.RawMessage `json:"de.sorunome.msc2409.to_device,omitempty"`
	DeviceLists  *deviceLists      `json:"org.matrix.msc3202.device_lists,omitempty"`
	KeyCounts    keyCounts         `json:"org.matrix.msc3202.device_one_time_keys_count,omitempty"`
	FallbackKeys fallbackKeys      `json:"org.matrix.msc3202.device_unused_fallback_key_types,omitempty"`
}

type deviceLists struct {
	Changed []id.UserID `json:"changed"`
}

type (
	keyCounts    map[id.UserID]map[id.DeviceID]map[string]int
	fallbackKeys map[id.UserID]map[id.DeviceID][]string
)

func (t *transaction) empty() bool {
	return len(t.Events)+len(t.Ephemeral)+len(t.OldEphemeral)+len(t.ToDevice)+len(t.KeyCounts) == 0 && t.DeviceLists == nil
}

// gathering finds what is for one service, in one snapshot.
type gathering struct {
	*watch
	service *Service
}

// gather is a service's next transaction, and up to where it has all then. There is none, and body is nil, where
// nothing is for it.
func (s *Sender) gather(ctx context.Context, service *Service, from, to id.Pos) (done id.Pos, body []byte, err error) {
	passing := s.takePassing(service.ID)
	var t transaction
	err = s.o.DB.Read(ctx, func(tx *storage.Tx) error {
		g := gathering{watch: s.watch(tx), service: service}
		t = transaction{Events: []json.RawMessage{}}
		var items []item
		if items, done, err = g.log(from, to); err != nil {
			return err
		}
		if err := g.fill(&t, items); err != nil {
			return err
		}
		return g.pass(&t, &passing, items)
	})
	if err != nil || t.empty() {
		return done, nil, err
	}
	body, err = json.Marshal(&t)
	return done, body, err
}

// log is what the log has for the service, in its order, as far as one transaction has room for it.
func (g *gathering) log(from, to id.Pos) (items []item, done id.Pos, err error) {
	done = to
	for _, list := range []func(from, to id.Pos) (id.Pos, []item, error){
		g.messages, g.receipts, g.invites, g.deviceLists,
		func(from, to id.Pos) (id.Pos, []item, error) { return g.events(from, to, maxEvents, maxScan) },
	} {
		last, found, err := list(from, done)
		if err != nil {
			return nil, 0, err
		}
		done = min(done, last)
		items = append(items, found...)
	}
	items = slices.DeleteFunc(items, func(it item) bool { return it.pos > done })
	slices.SortStableFunc(items, func(a, b item) int { return int(a.pos - b.pos) })
	return items, done, nil
}

// events are up to limit events of the log that are for the service, from among scan; all up to last are
// among them.
func (g *gathering) events(from, to id.Pos, limit, scan int) (last id.Pos, out []item, err error) {
	for at := from; at < to; {
		entries, err := g.tx.ListLog(at, to, min(logAtOnce, scan))
		if err != nil {
			return 0, nil, err
		}
		nids := make([]storage.EventNID, len(entries))
		for i := range entries {
			nids[i] = entries[i].Event
		}
		rows, err := g.tx.ListEventsByNID(nids)
		if err != nil {
			return 0, nil, err
		}
		byNID := make(map[storage.EventNID]*storage.Event, len(rows))
		for i := range rows {
			byNID[rows[i].NID] = &rows[i]
		}
		for i := range entries {
			it, err := g.event(&entries[i], byNID[entries[i].Event])
			if err != nil {
				return 0, nil, err
			}
			if it == nil {
				continue
			}
			out = append(out, *it)
			if len(out) == limit {
				return it.pos, out, nil
			}
		}
		if len(entries) < min(logAtOnce, scan) {
			return to, out, nil
		}
		at = entries[len(entries)-1].Pos
		if scan -= len(entries); scan <= 0 {
			return at, out, nil
		}
	}
	return to, out, nil
}

// event is an event of the log if it is for the service, else nil.
func (g *gathering) event(l *storage.LogEntry, e *storage.Event) (*item, error) {
	if e == nil || e.Expired {
		return nil, nil
	}
	room, err := g.room(l.Room)
	if err != nil || room == nil {
		return nil, err
	}
	if gjson.GetBytes(e.JSON, "type").Str == "m.room.member" {
		// As it comes before what is known of the members without it.
		g.s.members.forget(room.ID)
	}
	is, err := g.ofEvent(g.service, room, e, l.Pos)
	if err != nil || !is {
		return nil, err
	}
	return &item{pos: l.Pos, room: room, event: e}, nil
}

// page says up to where all is listed when of limit rows there are n, the last at a position.
func page(to id.Pos, n, limit int, last func() id.Pos) id.Pos {
	if n < limit {
		return to
	}
	return last()
}

// invites are those of the service's users to rooms that none of ours is in.
func (g *gathering) invites(from, to id.Pos) (id.Pos, []item, error) {
	rows, err := g.tx.ListInvitesAfar(from, to, maxEvents)
	var out []item
	for i := range rows {
		m := &rows[i]
		if !g.service.hasUser(m.User) {
			continue
		}
		room, err := g.room(m.Room)
		if err != nil {
			return 0, nil, err
		}
		e, err := g.tx.GetEventByNID(m.Event)
		if errors.Is(err, storage.ErrNotFound) || room == nil {
			continue
		} else if err != nil {
			return 0, nil, err
		}
		out = append(out, item{pos: m.Pos, room: room, event: &e, invite: m})
	}
	return page(to, len(rows), maxEvents, func() id.Pos { return rows[len(rows)-1].Pos }), out, err
}

// messages are those to devices of users whom the service registered.
func (g *gathering) messages(from, to id.Pos) (id.Pos, []item, error) {
	if !g.service.hearsEphemeral() {
		return to, nil, nil
	}
	rows, err := g.tx.ListServiceMessages(g.service.ID, from, to, maxMessages)
	out := make([]item, len(rows))
	for i := range rows {
		out[i] = item{pos: rows[i].Pos, message: &rows[i]}
	}
	return page(to, len(rows), maxMessages, func() id.Pos { return rows[len(rows)-1].Pos }), out, err
}

// receipts are those in the service's rooms; private ones only of its own users.
//
// spec: application-service-api.md#pushing-ephemeral-data
func (g *gathering) receipts(from, to id.Pos) (id.Pos, []item, error) {
	if !g.service.hearsEphemeral() {
		return to, nil, nil
	}
	rows, err := g.tx.ListReceiptsInLog(from, to, maxReceipts)
	if err != nil {
		return 0, nil, err
	}
	var out []item
	for i := range rows {
		r := &rows[i]
		if r.Type == storage.ReceiptReadPrivate && !g.service.hasUser(r.User) {
			continue
		}
		room, err := g.room(r.Room)
		if err != nil {
			return 0, nil, err
		}
		if room == nil {
			continue
		}
		is, err := g.now(g.service, room)
		if err != nil {
			return 0, nil, err
		}
		if is {
			out = append(out, item{pos: r.Pos, room: room, receipt: r})
		}
	}
	return page(to, len(rows), maxReceipts, func() id.Pos { return rows[len(rows)-1].Pos }), out, nil
}

// deviceLists are the users who share a room with one of the service and whose devices changed.
func (g *gathering) deviceLists(from, to id.Pos) (id.Pos, []item, error) {
	if !g.service.devices {
		return to, nil, nil
	}
	rows, err := g.tx.ListUsersWithNewDevices(from, to)
	var out []item
	for i := range rows {
		is, err := g.shares(g.service, rows[i].User)
		if err != nil {
			return 0, nil, err
		}
		if is {
			out = append(out, item{pos: rows[i].Pos, user: rows[i].User})
		}
	}
	return to, out, err
}

// fill puts into a transaction what the log has.
func (g *gathering) fill(t *transaction, items []item) error {
	changed := make(map[id.UserID]struct{})
	receipts := make(map[id.RoomID]*receiptContent)
	var rooms []id.RoomID
	for i := range items {
		it := &items[i]
		switch {
		case it.event != nil:
			text, err := g.render(it)
			if err != nil {
				return err
			}
			t.Events = append(t.Events, text)
			if g.service.devices {
				if err := g.met(changed, it); err != nil {
					return err
				}
			}
		case it.message != nil:
			text, err := sjson.SetBytes(it.message.JSON, "to_user_id", it.message.User)
			if err == nil {
				text, err = sjson.SetBytes(text, "to_device_id", it.message.Device)
			}
			if err != nil {
				return err
			}
			t.ToDevice = append(t.ToDevice, text)
		case it.receipt != nil:
			c := receipts[it.room.ID]
			if c == nil {
				c = &receiptContent{}
				receipts[it.room.ID] = c
				rooms = append(rooms, it.room.ID)
			}
			c.add(it.receipt)
		default:
			changed[it.user] = struct{}{}
		}
	}
	for _, room := range rooms {
		if err := g.ephemeral(t, ephemeralEvent{Type: "m.receipt", RoomID: room, Content: receipts[room]}); err != nil {
			return err
		}
	}
	if len(changed) > 0 {
		t.DeviceLists = &deviceLists{Changed: slices.Sorted(maps.Keys(changed))}
	}
	return nil
}

// met notes those with whom the service's users come to share a room: nothing was heard of their devices before.
func (g *gathering) met(changed map[id.UserID]struct{}, it *item) error {
	f := gjson.GetManyBytes(it.event.JSON, "type", "state_key", "content.membership")
	if f[0].Str != "m.room.member" || f[2].Str != "join" || it.room.Kind != nil && !it.room.Kind.Encrypted {
		return nil
	}
	user := id.UserID(f[1].Str)
	if !g.service.hasUser(user) {
		changed[user] = struct{}{}
		return nil
	}
	all, err := g.tx.ListMembers(it.room.NID, "join", false)
	for _, other := range all {
		if !g.service.hasUser(other) {
			changed[other] = struct{}{}
		}
	}
	return err
}

// render is an event as a service is shown it.
func (g *gathering) render(it *item) (json.RawMessage, error) {
	list, err := g.s.o.Rooms.RenderWhole(g.tx, it.room, []storage.Event{*it.event})
	if err != nil {
		return nil, err
	}
	if it.invite == nil || it.invite.Stripped == nil {
		return list[0], nil
	}
	return sjson.SetRawBytes(list[0], "unsigned.invite_room_state", it.invite.Stripped)
}

// receiptContent is the content of m.receipt: by event, type and user.
//
// spec: client-server-api/modules/receipts.md#mreceipt
type receiptContent map[id.EventID]map[string]map[id.UserID]receiptTime

type receiptTime struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

func (c *receiptContent) add(r *storage.Receipt) {
	if (*c)[r.Event] == nil {
		(*c)[r.Event] = make(map[string]map[id.UserID]receiptTime)
	}
	if (*c)[r.Event][r.Type] == nil {
		(*c)[r.Event][r.Type] = make(map[id.UserID]receiptTime)
	}
	(*c)[r.Event][r.Type][r.User] = receiptTime{r.TS, r.Thread}
}

// ephemeralEvent is an event that is in no room's history.
type ephemeralEvent struct {
	Type    string    `json:"type"`
	RoomID  id.RoomID `json:"room_id,omitempty"`
	Sender  id.UserID `json:"sender,omitempty"`
	Content any       `json:"content"`
}

func (g *gathering) ephemeral(t *transaction, e ephemeralEvent) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if g.service.ephemeral {
		t.Ephemeral = append(t.Ephemeral, text)
	}
	if g.service.oldEphemeral {
		t.OldEphemeral = append(t.OldEphemeral, text)
	}
	return nil
}

// pass puts into a transaction what is not in the log.
func (g *gathering) pass(t *transaction, p *passing, items []item) error {
	for _, room := range slices.Sorted(maps.Keys(p.typing)) {
		users, _ := g.s.o.Users.Typing(room)
		if users == nil {
			users = []id.UserID{}
		}
		if err := g.ephemeral(t, ephemeralEvent{Type: "m.typing", RoomID: room, Content: map[string][]id.UserID{"user_ids": users}}); err != nil {
			return err
		}
	}
	for _, user := range slices.Sorted(maps.Keys(p.presence)) {
		if err := g.ephemeral(t, g.presence(user)); err != nil {
			return err
		}
	}
	if !g.service.devices {
		return nil
	}
	users := maps.Clone(p.keys)
	if users == nil {
		users = make(map[id.UserID]struct{})
	}
	for i := range items {
		if items[i].message != nil {
			users[items[i].message.User] = struct{}{}
		}
	}
	return g.keys(t, users)
}

// presence is a user's presence as an event.
//
// spec: client-server-api/modules/presence.md#mpresence
func (g *gathering) presence(user id.UserID) ephemeralEvent {
	p := g.s.o.Presence(user)
	content := map[string]any{"presence": p.State}
	if p.StatusMsg != "" {
		content["status_msg"] = p.StatusMsg
	}
	if p.CurrentlyActive {
		content["currently_active"] = true
	}
	if !p.LastActive.IsZero() {
		content["last_active_ago"] = max(0, g.s.o.Now().Sub(p.LastActive).Milliseconds())
	}
	return ephemeralEvent{Type: "m.presence", Sender: user, Content: content}
}

// keys tells how many keys the devices of users have left that others can take.
func (g *gathering) keys(t *transaction, users map[id.UserID]struct{}) error {
	for user := range users {
		devices, err := g.tx.ListDevices(user)
		if err != nil {
			return err
		}
		for i := range devices {
			counts, unused, err := g.tx.CountDeviceKeys(devices[i].NID)
			if err != nil {
				return err
			}
			if counts == nil {
				counts = map[string]int{}
			}
			if counts["signed_curve25519"] == 0 {
				counts["signed_curve25519"] = 0 // that there are none is to be told
			}
			if unused == nil {
				unused = []string{}
			}
			if t.KeyCounts == nil {
				t.KeyCounts, t.FallbackKeys = make(keyCounts), make(fallbackKeys)
			}
			if t.KeyCounts[user] == nil {
				t.KeyCounts[user], t.FallbackKeys[user] = make(map[id.DeviceID]map[string]int), make(map[id.DeviceID][]string)
			}
			t.KeyCounts[user][devices[i].ID], t.FallbackKeys[user][devices[i].ID] = counts, unused
		}
	}
	return nil
}
