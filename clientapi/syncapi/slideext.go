package syncapi

import (
	"cmp"
	"slices"

	"parley/clientapi/syncapi/sliding"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
)

const (
	// maxThreads bounds the threads in one answer.
	maxThreads = 100
)

// extensions writes what the client wants beside rooms, and says whether there is news in it.
func (s *slider) extensions() (news bool, err error) {
	o := s.out
	o.key("extensions")
	o.open('{')
	e := &s.in.Extensions
	for _, extension := range [...]struct {
		on    bool
		write func() (bool, error)
	}{
		{e.ToDevice != nil, s.slidingToDevice},
		{e.E2EE != nil, s.slidingE2EE},
		{e.AccountData != nil, s.slidingAccountData},
		{e.Receipts != nil, s.slidingReceipts},
		{e.Typing != nil, s.slidingTyping},
		{e.Threads != nil, s.slidingThreads},
		{e.Subscriptions != nil, s.slidingSubscriptions},
	} {
		if !extension.on {
			continue
		}
		some, err := extension.write()
		if err != nil {
			return false, err
		}
		news = news || some
	}
	o.close('}')
	return news, nil
}

// slidingToDevice writes messages for the device.
//
// It is MSC3885: https://github.com/matrix-org/matrix-spec-proposals/pull/3885
func (s *slider) slidingToDevice() (news bool, err error) {
	limit := s.in.Extensions.ToDevice.Limit
	if limit <= 0 || limit > toDeviceAtOnce {
		limit = toDeviceAtOnce
	}
	list, err := s.tx.ListToDevice(s.req.deviceNID, s.toDeviceSince, s.head.Pos, limit)
	if err != nil {
		return false, err
	}
	next := s.head.Pos
	if len(list) == limit {
		next = list[limit-1].Pos
	}
	o := s.out
	o.key("to_device")
	o.open('{')
	o.key("next_batch")
	o.open('"')
	o.buf = token.Append(o.buf, s.DB.Epoch(), int64(next))
	o.close('"')
	o.key("events")
	o.open('[')
	for i := range list {
		o.raw(list[i].JSON)
	}
	o.close(']')
	o.close('}')
	if len(list) > 0 {
		s.given.Add(s.req.deviceNID, list[len(list)-1].Pos)
	}
	return len(list) > 0, nil
}

// slidingE2EE writes whose devices changed, and how many keys the device has left.
//
// It is MSC3884: https://github.com/matrix-org/matrix-spec-proposals/pull/3884
func (s *slider) slidingE2EE() (news bool, err error) {
	o := s.out
	o.key("e2ee")
	o.open('{')
	news, err = s.deviceLists()
	if err == nil {
		err = s.keyCounts()
	}
	o.close('}')
	return news || s.hasNotice(stream.KeyCounts), err
}

// slidingAccountData writes account data: the global one, and that of the rooms in sight.
//
// It is MSC3959: https://github.com/matrix-org/matrix-spec-proposals/pull/3959
func (s *slider) slidingAccountData() (news bool, err error) {
	whole := s.wanting(s.in.Extensions.AccountData, sliding.AccountData)
	behind := slices.ContainsFunc(s.wanted, func(w *wantedRoom) bool { return w.since < s.from() })
	if !whole.any && !behind && s.known && !s.hasNotice(stream.AccountData) {
		return false, nil
	}
	from := s.from()
	if whole.any {
		from = 0
	}
	for _, w := range s.wanted {
		if w.since < from {
			from = w.since
		}
	}
	data, err := s.tx.ListAccountData(s.req.user, from, s.head.Pos, s.from() > 0)
	if err != nil {
		return false, err
	}
	var global []storage.AccountData
	for _, d := range data {
		if d.Room == "" && d.Pos > s.from() {
			global = append(global, d)
		}
	}
	if global, err = s.showPushRules(global); err != nil {
		return false, err
	}
	o := s.out
	mark := len(o.buf)
	o.key("account_data")
	o.open('{')
	if len(global) > 0 {
		news = true
		o.key("global")
		o.open('[')
		for i := range global {
			s.writeAccountData(&global[i])
		}
		o.close(']')
	}
	some := s.roomsOfAccountData(byRoom(data), whole)
	if news = news || some; !news {
		o.buf = o.buf[:mark]
		return false, nil
	}
	o.close('}')
	return true, nil
}

// roomsOfAccountData writes the account data of rooms.
func (s *slider) roomsOfAccountData(data map[id.RoomID][]storage.AccountData, whole wholeRooms) (news bool) {
	o := s.out
	for _, w := range s.wanted {
		if !s.in.Extensions.AccountData.Covers(w.id, w.lists, w.subscribed) {
			continue
		}
		open := false
		for i := range data[w.id] {
			d := &data[w.id][i]
			if !whole.rooms[w.id] && d.Pos <= w.since {
				continue
			}
			if !news {
				o.key("rooms")
				o.open('{')
				news = true
			}
			if !open {
				o.anyKey(string(w.id))
				o.open('[')
				open = true
			}
			s.writeAccountData(d)
		}
		if open {
			o.close(']')
		}
	}
	if news {
		o.close('}')
	}
	return news
}

// wholeRooms are the rooms of which an extension has told nothing before.
type wholeRooms struct {
	rooms map[id.RoomID]bool
	any   bool
}

func (s *slider) wanting(e *sliding.Extension, flag sliding.Flags) wholeRooms {
	out := wholeRooms{rooms: make(map[id.RoomID]bool)}
	for _, w := range s.wanted {
		if e.Covers(w.id, w.lists, w.subscribed) && (!w.known || !w.flags.Has(flag)) {
			out.rooms[w.id], out.any = true, true
		}
	}
	return out
}

// stirs says whether anything may have happened in a room that the client was told of: where it
// is not in sight all along, or the hub can't tell, it may.
func (s *slider) stirs(w *wantedRoom, touched map[id.RoomID]bool) bool {
	return !s.known || w.since != s.from() || touched[w.id]
}

// slidingReceipts writes how far who has read. Of a room that was not told of before these are
// the user's own receipts, and those at the events of its timeline.
//
// It is MSC3960: https://github.com/matrix-org/matrix-spec-proposals/pull/3960
func (s *slider) slidingReceipts() (news bool, err error) {
	e := s.in.Extensions.Receipts
	o := s.out
	for _, w := range s.wanted {
		if w.membership != "join" || !e.Covers(w.id, w.lists, w.subscribed) {
			continue
		}
		var receipts []storage.Receipt
		switch whole := !w.known || !w.flags.Has(sliding.Receipts); {
		case whole:
			receipts, err = s.receiptsShown(w)
		case s.stirs(w, s.touched):
			receipts, err = s.tx.ListReceipts(w.nid, s.req.user, w.since, s.head.Pos, maxReceipts)
		}
		if err != nil {
			return false, err
		}
		if len(receipts) == 0 {
			continue
		}
		if !news {
			o.key("receipts")
			o.open('{')
			o.key("rooms")
			o.open('{')
			news = true
		}
		sortReceipts(receipts)
		o.anyKey(string(w.id))
		o.writeReceiptEvent(receipts)
	}
	if news {
		o.close('}')
		o.close('}')
	}
	return news, nil
}

// receiptsShown are the receipts of a room that are told first.
func (s *slider) receiptsShown(w *wantedRoom) ([]storage.Receipt, error) {
	own, err := s.tx.ListReceiptsOfUser(w.nid, s.req.user)
	if err != nil {
		return nil, err
	}
	newest, err := s.tx.ListReceipts(w.nid, s.req.user, 0, s.head.Pos, maxReceipts)
	return append(own, slices.DeleteFunc(newest, func(r storage.Receipt) bool {
		return r.User == s.req.user || !s.shown[r.Event]
	})...), err
}

// slidingTyping writes who types.
//
// It is MSC3961: https://github.com/matrix-org/matrix-spec-proposals/pull/3961
func (s *slider) slidingTyping() (news bool, err error) {
	e := s.in.Extensions.Typing
	o := s.out
	for _, w := range s.wanted {
		if w.membership != "join" || !e.Covers(w.id, w.lists, w.subscribed) {
			continue
		}
		if w.known && s.heard && !s.typing[w.id] {
			continue
		}
		typing, _ := s.Users.Typing(w.id)
		typing = slices.DeleteFunc(typing, func(u id.UserID) bool { return s.ignored[u] })
		if len(typing) == 0 && !s.typing[w.id] {
			continue
		}
		if !news {
			o.key("typing")
			o.open('{')
			o.key("rooms")
			o.open('{')
			news = true
		}
		o.anyKey(string(w.id))
		o.writeTyping(typing)
	}
	if news {
		o.close('}')
		o.close('}')
	}
	return news, nil
}

// slidingThread is a thread that has news.
type slidingThread struct {
	room *listedRoom
	storage.Thread
}

// slidingThreads writes the threads of all joined rooms that have news since the client asked
// last, those with the newest first.
//
// It is MSC4360: https://github.com/matrix-org/matrix-spec-proposals/pull/4360
func (s *slider) slidingThreads() (news bool, err error) {
	e := s.in.Extensions.Threads
	limit := e.Limit
	if limit <= 0 || limit > maxThreads {
		limit = maxThreads
	}
	var threads []slidingThread
	for _, l := range s.joined {
		if len(threads) > limit && threads[limit].Newest >= l.activity {
			break // what follows is older than all that there is room for
		}
		some, err := s.tx.ListThreadsBetween(l.nid, storage.Ord(s.from()), storage.Ord(s.head.Pos), limit+1)
		if err != nil {
			return false, err
		}
		for _, t := range some {
			if !e.IncludeRoots && s.threaded[t.Root] == t.Count {
				continue
			}
			threads = append(threads, slidingThread{l, t})
		}
		slices.SortFunc(threads, func(x, y slidingThread) int { return cmp.Compare(y.Newest, x.Newest) })
		threads = threads[:min(len(threads), limit+1)]
	}
	if len(threads) == 0 {
		return false, nil
	}
	o := s.out
	o.key(e.Key)
	o.open('{')
	if len(threads) > limit {
		o.key("prev_batch")
		o.open('"')
		o.buf = token.Append(o.buf, s.DB.Epoch(), int64(threads[limit].Newest))
		o.close('"')
		threads = threads[:limit]
	}
	o.key("updates")
	o.open('{')
	slices.SortStableFunc(threads, func(x, y slidingThread) int { return cmp.Compare(x.room.nid, y.room.nid) })
	for i, t := range threads {
		if i == 0 || threads[i-1].room != t.room {
			o.anyKey(string(t.room.id))
			o.open('{')
		}
		if err := s.writeThread(&t, e.IncludeRoots); err != nil {
			return false, err
		}
		if i == len(threads)-1 || threads[i+1].room != t.room {
			o.close('}')
		}
	}
	o.close('}')
	o.close('}')
	return true, nil
}

// writeThread writes a thread: its root, if that is wanted and may be seen, and from where to
// page back if there is more in it than one event.
func (s *slider) writeThread(t *slidingThread, root bool) error {
	o := s.out
	o.anyKey(string(t.Root))
	o.open('{')
	if t.Count > 1 {
		o.key("prev_batch")
		o.open('"')
		o.buf = token.Append(o.buf, s.DB.Epoch(), int64(t.Newest)-1)
		o.close('"')
	}
	if root {
		if err := s.writeThreadRoot(t); err != nil {
			return err
		}
	}
	o.close('}')
	return nil
}

func (s *slider) writeThreadRoot(t *slidingThread) error {
	e, err := s.tx.GetEvent(t.Root)
	if missing, err := notFound(err); missing || err != nil {
		return err
	}
	if e.Room != t.room.nid {
		return nil
	}
	view, err := s.Rooms.View(s.tx, s.req.user, t.room.id)
	if err != nil {
		return err
	}
	ord, ok, err := s.tx.GetOrd(e.NID)
	if err != nil || !ok {
		return err
	}
	visible, err := view.Visible(&storage.TimelineEvent{Ord: ord, Event: e})
	if err != nil || !visible {
		return err
	}
	rendered, err := s.Rooms.Render(s.tx, view, &view.Room, []storage.Event{e},
		roomserver.Reader{User: s.req.user, DeviceNID: s.req.deviceNID, WithRoomID: true, Bundle: true})
	if err != nil {
		return err
	}
	s.out.key("thread_root")
	s.out.raw(rendered[0])
	return nil
}

// slidingSubscriptions writes to which threads the user came to be subscribed, or not any more.
//
// It is MSC4308: https://github.com/matrix-org/matrix-spec-proposals/pull/4308
func (s *slider) slidingSubscriptions() (news bool, err error) {
	e := s.in.Extensions.Subscriptions
	limit := e.Limit
	if limit <= 0 || limit > maxThreads {
		limit = maxThreads
	}
	list, err := s.tx.ListThreadSubscriptions(s.req.user, s.from(), s.head.Pos, limit+1)
	if err != nil || len(list) == 0 {
		return false, err
	}
	o := s.out
	o.key(e.Key)
	o.open('{')
	if len(list) > limit {
		list = list[:limit]
		o.key("prev_batch")
		o.open('"')
		o.buf = token.Append(o.buf, s.DB.Epoch(), int64(list[limit-1].Pos)-1)
		o.close('"')
	}
	slices.SortFunc(list, func(x, y storage.ThreadSubscription) int {
		return cmpAll(string(x.Room), string(y.Room), string(x.Root), string(y.Root))
	})
	for _, section := range [...]struct {
		name       string
		subscribed bool
	}{{"subscribed", true}, {"unsubscribed", false}} {
		var rows []storage.ThreadSubscription
		for i := range list {
			if (list[i].UnsubscribedAt == 0) == section.subscribed {
				rows = append(rows, list[i])
			}
		}
		if len(rows) > 0 {
			o.key(section.name)
			o.subscriptions(rows, section.subscribed)
		}
	}
	o.close('}')
	return true, nil
}

// subscriptions writes subscriptions to threads, which are sorted, by room and root.
func (o *out) subscriptions(rows []storage.ThreadSubscription, subscribed bool) {
	o.open('{')
	for i := range rows {
		r := &rows[i]
		if i == 0 || rows[i-1].Room != r.Room {
			o.anyKey(string(r.Room))
			o.open('{')
		}
		o.anyKey(string(r.Root))
		o.open('{')
		if subscribed {
			o.key("automatic")
			o.bool(r.Automatic)
		}
		o.key("bump_stamp")
		o.int(int64(r.Pos))
		o.close('}')
		if i == len(rows)-1 || rows[i+1].Room != r.Room {
			o.close('}')
		}
	}
	o.close('}')
}
