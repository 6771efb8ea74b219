package syncapi

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// toDeviceAtOnce is how many messages for a device are read at a time.
	toDeviceAtOnce = 100
	// cachedDevices bounds the devices of which is remembered that they were given messages, and
	// how many keys they have.
	cachedDevices = 100_000
)

// acknowledge removes the messages that a device has, as its token tells. Where it is not known
// whether this process gave it some, the database is asked.
//
// spec: client-server-api/modules/send_to_device.md#server-behaviour
func (a *API) acknowledge(ctx context.Context, req *request, known bool) error {
	if req.initial {
		return nil
	}
	return a.acknowledgeUpTo(ctx, req.deviceNID, req.since.Pos, known)
}

func (a *API) acknowledgeUpTo(ctx context.Context, device int64, pos id.Pos, known bool) error {
	given, ok := a.given.Get(device)
	if known && !ok || ok && given > pos {
		return nil
	}
	a.given.Remove(device)
	return a.Users.GotToDevice(ctx, device, pos)
}

// toDevice writes the messages for the device. All of them, as the token that the client is
// given says that it has them; what is much is sent piece by piece.
func (b *builder) toDevice() (news bool, err error) {
	if b.known && !b.hasNotice(stream.ToDevice) {
		return false, nil
	}
	from := b.from()
	for {
		list, err := b.tx.ListToDevice(b.req.deviceNID, from, b.head.Pos, toDeviceAtOnce)
		if err != nil {
			return false, err
		}
		if len(list) == 0 {
			break
		}
		if !news {
			b.out.events("to_device")
			news = true
		}
		for i := range list {
			b.out.raw(list[i].JSON)
		}
		from = list[len(list)-1].Pos
		if err := b.out.rest(&b.spooled); err != nil {
			return false, err
		}
	}
	if news {
		b.out.endEvents()
		b.given.Add(b.req.deviceNID, from)
	}
	return news, nil
}

// deviceLists writes whose devices the client must ask for anew, and whose it need not follow
// any more.
//
// spec: client-server-api/modules/end_to_end_encryption.md#e2e-extensions-to-sync
func (b *builder) deviceLists() (news bool, err error) {
	if b.req.initial {
		return false, nil
	}
	var changed, left []id.UserID
	if b.known {
		changed, left, err = b.heardDeviceLists()
	} else {
		changed, left, err = b.readDeviceLists()
	}
	if err != nil || len(changed) == 0 && len(left) == 0 {
		return false, err
	}
	o := b.out
	o.key("device_lists")
	o.open('{')
	for _, list := range [...]struct {
		name  string
		users []id.UserID
	}{{"changed", changed}, {"left", left}} {
		o.key(list.name)
		o.open('[')
		for _, u := range list.users {
			o.string(string(u))
		}
		o.close(']')
	}
	o.close('}')
	return true, nil
}

// readDeviceLists finds it in the database.
func (b *builder) readDeviceLists() (changed, left []id.UserID, err error) {
	updated, err := b.tx.ListDeviceLists(b.from())
	if err != nil {
		return nil, nil, err
	}
	signed, err := b.tx.ListSignatureLists(b.req.user, b.from())
	if err != nil {
		return nil, nil, err
	}
	met, err := b.tx.ListNewAcquaintances(b.req.user, b.from())
	if err != nil {
		return nil, nil, err
	}
	lost, err := b.tx.ListLostAcquaintances(b.req.user, b.from())
	if err != nil {
		return nil, nil, err
	}
	return b.sortDeviceLists(updated, signed, met, lost)
}

// heardDeviceLists finds it in what the hub has told.
func (b *builder) heardDeviceLists() (changed, left []id.UserID, err error) {
	var updated, signed, met, lost []id.UserID
	for i := range b.notices {
		n := &b.notices[i]
		switch {
		case n.Kind == stream.DeviceList && n.User == b.req.user:
			if signed, err = b.tx.ListSignatureLists(b.req.user, b.from()); err != nil {
				return nil, nil, err
			}
			updated = append(updated, b.req.user)
		case n.Kind == stream.DeviceList:
			updated = append(updated, n.User)
		case n.Kind == stream.Event && len(n.Users) > 0:
			came, went, err := b.encounters(n)
			if err != nil {
				return nil, nil, err
			}
			met, lost = append(met, came...), append(lost, went...)
		}
	}
	return b.sortDeviceLists(updated, signed, met, lost)
}

// encounters are those whom the user may have come to share a room with by a change of membership,
// and those whom they may share none with any more. The specification asks for encrypted rooms alone;
// a client that is told of the others too has their keys when a room becomes encrypted.
func (b *builder) encounters(n *stream.Notice) (met, parted []id.UserID, err error) {
	room, err := b.tx.GetRoom(n.Room)
	if err != nil || room.Root == 0 {
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		return nil, nil, err
	}
	others := n.Users
	if slices.Contains(n.Users, b.req.user) {
		if others, err = b.tx.ListMembersSince(room.NID, b.from()); err != nil {
			return nil, nil, err
		}
		if !slices.Contains(n.Joined, b.req.user) {
			return nil, others, nil
		}
		return others, nil, nil
	}
	for _, u := range others {
		if slices.Contains(n.Joined, u) {
			met = append(met, u)
		} else {
			parted = append(parted, u)
		}
	}
	return met, parted, nil
}

// sortDeviceLists are the lists to be told: of updated those who share a room, all of signed, of met those
// with whom the user did not share one all the time; and of lost those with whom they shared one, and
// share none any more.
func (b *builder) sortDeviceLists(updated, signed, met, lost []id.UserID) (changed, left []id.UserID, err error) {
	me := b.req.user
	met, left, err = b.Rooms.Encounters(b.tx, me, b.from(), met, lost)
	if err != nil {
		return nil, nil, err
	}
	if len(updated) > 0 {
		if changed, err = b.tx.ListSharedRooms(me, updated); err != nil {
			return nil, nil, err
		}
		if slices.Contains(updated, me) {
			changed = append(changed, me)
		}
	}
	changed = slices.Concat(changed, signed, met)
	slices.Sort(changed)
	slices.Sort(left)
	return slices.Compact(changed), slices.Compact(left), nil
}

// keyCounts writes how many one-time keys the device has left, and which fallback keys nobody
// was given yet.
//
// spec: client-server-api/modules/end_to_end_encryption.md#e2e-extensions-to-sync
func (b *builder) keyCounts() error {
	counts, unused, err := b.tx.CountDeviceKeys(b.req.deviceNID)
	if err != nil {
		return err
	}
	o := b.out
	o.key("device_one_time_keys_count")
	start := len(o.buf) - len(`"device_one_time_keys_count":`)
	o.open('{')
	for algorithm, n := range counts {
		o.anyKey(algorithm)
		o.int(int64(n))
	}
	o.close('}')
	o.key("device_unused_fallback_key_types")
	o.open('[')
	for _, algorithm := range unused {
		o.string(algorithm)
	}
	o.close(']')
	b.counts.Add(b.req.deviceNID, bytes.Clone(o.buf[start:]))
	return nil
}

// knownKeyCounts are the fields that keyCounts wrote for a device the last time, for an answer
// that is made without the database: they are as they were while the hub has had no notice of the
// kind [stream.KeyCounts] for the user. ok is false where they are not remembered.
func (a *API) knownKeyCounts(device int64) (fields []byte, ok bool) { return a.counts.Get(device) }
