package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/storage"
)

// The devices of users of other servers are kept while these tell us of every change: as long as
// such a user shares a room with one of ours. Each change names those before it, so that one
// that is missed shows: then the list is stale, which is written with the change, and is asked
// for anew, by whoever wants it next and by ourselves. What was asked for before a change was
// heard of is not taken to have it.
//
// spec: server-server-api.md#device-management

const (
	// refreshTime is how long a server may take to tell us a user's devices.
	refreshTime = 30 * time.Second
	// refreshesAtOnce bounds the users who are asked for at the same time.
	refreshesAtOnce = 20
	// listsAtOnce is how many lists are looked at, at a time.
	listsAtOnce = 200
	// lookEvery is how often it is looked for lists that are still stale, or of no use any more.
	lookEvery = time.Minute
	// A server that does not tell is not asked again for firstRest, and for twice as long after
	// each further failure, up to longestRest; of restsKept servers that is remembered.
	firstRest   = 10 * time.Second
	longestRest = time.Hour
	restsKept   = 10_000
)

// refreshes are the lists that are being asked for.
type refreshes struct {
	slots chan struct{}
	stale chan id.UserID     // lists that have just become stale
	back  chan id.ServerName // servers that did not tell, and were heard from

	mu      sync.Mutex
	flights map[id.UserID]*flight
	rests   map[id.ServerName]rest
}

type flight struct {
	done chan struct{}
	err  error
}

type rest struct {
	failures     int
	since, until time.Time
}

func newRefreshes() *refreshes {
	return &refreshes{
		slots: make(chan struct{}, refreshesAtOnce), stale: make(chan id.UserID, 1024), back: make(chan id.ServerName, 64),
		flights: make(map[id.UserID]*flight), rests: make(map[id.ServerName]rest),
	}
}

// refresh asks for a user's devices and keeps them, so that they are as of now or later; those who
// want the same wait for one.
func (s *Server) refresh(ctx context.Context, user id.UserID) error {
	late, err := s.fly(ctx, user)
	if err != nil || !late {
		return err
	}
	fresh, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.ListFreshDeviceLists([]id.UserID{user}) })
	if err != nil || len(fresh) > 0 {
		return err
	}
	_, err = s.fly(ctx, user) // any that is under way now has begun since
	return err
}

// fly asks for a user's devices, or waits for who does; late says that these had asked before.
func (s *Server) fly(ctx context.Context, user id.UserID) (late bool, err error) {
	r := s.refreshes
	r.mu.Lock()
	f, late := r.flights[user]
	if !late {
		f = &flight{done: make(chan struct{})}
		r.flights[user] = f
		s.done.Go(func() {
			f.err = s.refreshNow(user)
			r.mu.Lock()
			delete(r.flights, user)
			r.mu.Unlock()
			close(f.done)
		})
	}
	r.mu.Unlock()
	select {
	case <-f.done:
		return late, f.err
	case <-ctx.Done():
		return late, ctx.Err()
	}
}

func (s *Server) refreshNow(user id.UserID) error {
	ctx, cancel := context.WithTimeout(s.running, refreshTime)
	defer cancel()
	select {
	case s.refreshes.slots <- struct{}{}:
		defer func() { <-s.refreshes.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	before, err := s.beginKeeping(ctx, []id.UserID{user})
	if err != nil {
		return err
	}
	answer, err := s.remote.UserDevices(ctx, user)
	if err == nil && answer.User != user {
		err = fmt.Errorf("the answer is about %.300q", answer.User)
	}
	s.refreshes.note(user.Server(), err, s.now())
	if err != nil {
		return fmt.Errorf("ask for the devices of %s: %w", user, err)
	}
	return s.keep(ctx, []remoteList{listOfDevices(user, answer)}, before)
}

// note remembers whether a server tells.
func (r *refreshes) note(server id.ServerName, err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.rests, server)
		return
	}
	was, ok := r.rests[server]
	if !ok && len(r.rests) >= restsKept || now.Before(was.until) { // what fails while it rests is nothing new
		return
	}
	r.rests[server] = rest{was.failures + 1, now, now.Add(min(firstRest<<min(was.failures, 20), longestRest))}
}

// resting says whether a server is not to be asked by ourselves for now.
func (r *refreshes) resting(server id.ServerName, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.rests[server].until)
}

// Heard says that another server was heard from: if it did not tell its users' devices, it may be
// worth asking again. One that we can't reach all the same is asked the less often the longer.
func (s *Server) Heard(server id.ServerName) {
	r := s.refreshes
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.rests[server]
	if !ok || s.now().Sub(was.since) < time.Duration(was.failures)*time.Second {
		return
	}
	select {
	case r.back <- server:
		was.until = was.since
		r.rests[server] = was
	default:
	}
}

// mark is where we stood before we asked: what is heard of later is not in the answer for sure.
type mark struct {
	pos         id.Pos
	generations map[id.UserID]int64
}

// beginKeeping notes that the devices of some users are to be kept.
func (s *Server) beginKeeping(ctx context.Context, users []id.UserID) (m mark, err error) {
	if len(users) == 0 {
		return m, nil
	}
	read := func(tx *storage.Tx) (complete bool, err error) {
		m.generations = make(map[id.UserID]int64)
		if m.pos, err = tx.GetPos(); err != nil {
			return false, err
		}
		lists, err := tx.ListRemoteDeviceLists(users)
		for _, l := range lists {
			m.generations[l.User] = l.Generation
		}
		return len(lists) == len(users), err
	}
	complete := false
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		complete, err = read(tx)
		return err
	})
	if err != nil || complete {
		return m, err
	}
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		for _, user := range users {
			if err := tx.InsertRemoteDeviceList(user); err != nil {
				return err
			}
		}
		_, err := read(tx)
		return err
	})
	return m, err
}

// keep writes lists over those that we had. A list of which a change was heard since it was asked
// for is stale.
func (s *Server) keep(ctx context.Context, lists []remoteList, before mark) error {
	if len(lists) == 0 {
		return nil
	}
	var stale []id.UserID
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		stale = nil
		for i := range lists {
			l := &lists[i]
			row, err := tx.LockRemoteDeviceList(l.user)
			if errors.Is(err, storage.ErrNotFound) {
				continue // who has left the last room that they shared
			}
			if err != nil {
				return err
			}
			moved := row.Generation != before.generations[l.user]
			if row.Pos > before.pos || moved && !row.Stale {
				continue // what is there was asked for later, or has all changes since
			}
			// Who asked while the list could not be had got no answer, or an old one.
			anew := !moved && (row.Unanswered || row.Stale && row.Pos > 0)
			row.Stale, row.Unanswered = moved, moved && row.Unanswered
			row.StreamID, row.Pos = l.streamID, before.pos
			if row.Stale {
				stale = append(stale, l.user)
			}
			if err := tx.UpdateRemoteDeviceList(&row); err != nil {
				return err
			}
			if err := tx.DeleteRemoteDevices(l.user); err != nil {
				return err
			}
			for i := range l.devices {
				if err := tx.InsertRemoteDevice(&l.devices[i]); err != nil {
					return err
				}
			}
			if err := putRemoteKeys(tx, l.user, l.keys); err != nil {
				return err
			}
			if anew {
				remoteListChanged(tx, l.user)
			}
		}
		return nil
	})
	for _, user := range stale {
		s.isStale(user)
	}
	return err
}

// remoteListChanged has those of ours who share a room with a user of another server ask for their
// devices anew.
func remoteListChanged(tx *storage.Tx, user id.UserID) {
	tx.OnPos(1, func(pos id.Pos) error {
		tx.Notify(stream.Notice{Pos: pos, Kind: stream.DeviceList, User: user})
		return tx.UpdateDeviceList(user, pos)
	})
}

// unanswered notes that somebody got no answer about users who share a room with one of ours: when
// their devices can be had, it is told as a change, as clients need not ask again by themselves.
func (s *Server) unanswered(ctx context.Context, users []id.UserID) error {
	noted, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.RemoteDeviceList, error) { return tx.ListRemoteDeviceLists(users) })
	if err != nil {
		return err
	}
	users = slices.DeleteFunc(slices.Clone(users), func(user id.UserID) bool {
		return slices.ContainsFunc(noted, func(l storage.RemoteDeviceList) bool { return l.User == user && l.Stale && l.Unanswered })
	})
	if len(users) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		known, err := tx.ListKnownUsers(users)
		if err != nil {
			return err
		}
		fresh, err := tx.ListFreshDeviceLists(known)
		if err != nil {
			return err
		}
		for _, user := range known {
			if slices.Contains(fresh, user) { // since a moment ago
				remoteListChanged(tx, user)
				continue
			}
			if err := tx.InsertRemoteDeviceList(user); err != nil {
				return err
			}
			l, err := tx.LockRemoteDeviceList(user)
			if err != nil {
				return err
			}
			l.Stale, l.Unanswered = true, true
			if err := tx.UpdateRemoteDeviceList(&l); err != nil {
				return err
			}
		}
		return nil
	})
}

// putRemoteKeys writes the cross-signing keys of a user of another server in place of those that
// we had.
func putRemoteKeys(tx *storage.Tx, user id.UserID, keys []storage.CrossSigningKey) error {
	have, err := crossSigningKeys(tx, user)
	if err != nil {
		return err
	}
	for usage, old := range have {
		i := slices.IndexFunc(keys, func(k storage.CrossSigningKey) bool { return k.Usage == usage })
		if i < 0 || keys[i].Public != old.Public {
			if err := tx.DeleteCrossSigningKey(&old); err != nil {
				return err
			}
		}
	}
	for i := range keys {
		if err := tx.InsertCrossSigningKey(&keys[i]); err != nil {
			return err
		}
	}
	return nil
}

// isStale has a list asked for anew.
func (s *Server) isStale(user id.UserID) {
	if s.remote == nil {
		return
	}
	select {
	case s.refreshes.stale <- user:
	default: // it is found by its row
	}
}

// keepFresh asks anew for lists that are stale, and forgets those of users who share no room with
// one of ours any more, until the server is closed.
func (s *Server) keepFresh() {
	look := time.NewTimer(0) // what was stale when the server was closed
	defer look.Stop()
	var stale, unshared id.UserID // as far as it was looked
	for {
		var users []id.UserID
		var err error
		select {
		case <-s.running.Done():
			return
		case user := <-s.refreshes.stale:
			users = []id.UserID{user}
		case server := <-s.refreshes.back:
			users, err = storage.Get(s.running, s.db, func(tx *storage.Tx) ([]id.UserID, error) {
				return tx.ListStaleDeviceListsOf(server, listsAtOnce)
			})
		case <-look.C:
			look.Reset(lookEvery)
			if unshared, err = s.forgetLists(s.running, unshared); err != nil {
				s.log.Warn("cannot forget device lists", "err", err)
			}
			users, err = storage.Get(s.running, s.db, func(tx *storage.Tx) ([]id.UserID, error) {
				return tx.ListStaleDeviceLists(stale, listsAtOnce)
			})
			stale = ""
			if len(users) == listsAtOnce {
				stale = users[len(users)-1]
			}
		}
		if err != nil && s.running.Err() == nil {
			s.log.Warn("cannot list stale device lists", "err", err)
		}
		for _, user := range users {
			if s.refreshes.resting(user.Server(), s.now()) {
				continue
			}
			s.done.Go(func() {
				if err := s.refresh(s.running, user); err != nil && s.running.Err() == nil {
					s.log.Debug("cannot ask for devices", "user", user, "err", err)
				}
			})
		}
	}
}

// forgetLists forgets, of some lists after the given one, those of users who share no room with
// one of ours any more; it gives how far it has looked, "" for the end.
func (s *Server) forgetLists(ctx context.Context, after id.UserID) (id.UserID, error) {
	var names, shared []id.UserID
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if names, err = tx.ListKeptUsers(after, listsAtOnce); err != nil {
			return err
		}
		shared, err = tx.ListKnownUsers(names)
		return err
	})
	if err != nil {
		return after, err
	}
	after = ""
	if len(names) == listsAtOnce {
		after = names[len(names)-1]
	}
	for _, user := range names {
		if slices.Contains(shared, user) {
			continue
		}
		err := s.db.Write(ctx, func(tx *storage.Tx) error {
			if now, err := tx.ListKnownUsers([]id.UserID{user}); err != nil || len(now) > 0 {
				return err
			}
			return tx.DeleteRemoteDeviceList(user)
		})
		if err != nil {
			return after, err
		}
	}
	return after, nil
}

type deviceListEDU struct {
	User        id.UserID       `json:"user_id"`
	Device      id.DeviceID     `json:"device_id"`
	DisplayName string          `json:"device_display_name"`
	StreamID    int64           `json:"stream_id"`
	PrevID      []int64         `json:"prev_id"`
	Deleted     bool            `json:"deleted"`
	Keys        json.RawMessage `json:"keys"`
}

// follows says whether nothing lies between what we know and a change. One with a number below
// what we know may be old, or its server may have begun to count anew.
func (e *deviceListEDU) follows(known int64) bool {
	return known > 0 && e.StreamID > known && len(e.PrevID) > 0 && slices.Max(e.PrevID) <= known
}

// spec: server-server-api.md#device-management
func (s *Server) receiveDeviceList(ctx context.Context, origin id.ServerName, e *deviceListEDU) error {
	if err := speaksFor(origin, e.User); err != nil {
		return err
	}
	if !validDevice(e.Device) {
		return matrixerr.New(matrixerr.InvalidParam, "The device's name is empty or too long.")
	}
	// Keys that are not what they should be are not kept, but something has changed: it is asked for what.
	keys, invalid := checkDeviceKeys(e.Keys, e.User, e.Device)
	// That one is gone is news where the list is not kept: a client may have it from before.
	return s.heardOfChange(ctx, e.User, invalid != nil || len(keys) > 0 || e.Deleted, func(tx *storage.Tx, l *storage.RemoteDeviceList) (change, error) {
		switch {
		case !l.Stale && e.StreamID > 0 && e.StreamID == l.StreamID:
			return known, nil
		case l.Stale || invalid != nil || !e.follows(l.StreamID):
			l.Stale = true
			return news, nil
		}
		l.StreamID = e.StreamID
		hadKeys, err := tx.DeleteRemoteDevice(e.User, e.Device)
		if err == nil && !e.Deleted {
			err = tx.InsertRemoteDevice(&storage.DeviceKeys{User: e.User, Device: e.Device, DisplayName: cleanName(e.DisplayName), JSON: keys})
		}
		if hadKeys || len(keys) > 0 && !e.Deleted {
			return news, err
		}
		return noted, err
	})
}

type signingKeyEDU struct {
	User        id.UserID       `json:"user_id"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
}

// Such an EDU has no number, and it is the last word: what it does not hold is there no more.
//
// spec: server-server-api.md#device-management
func (s *Server) receiveSigningKeys(ctx context.Context, origin id.ServerName, e *signingKeyEDU) error {
	if err := speaksFor(origin, e.User); err != nil {
		return err
	}
	master, _, err := parseCrossSigningKey(e.Master, e.User, storage.MasterKey)
	if err != nil {
		return err
	}
	l := remoteList{user: e.User}
	l.addKeys(e.Master, e.SelfSigning)
	return s.heardOfChange(ctx, e.User, true, func(tx *storage.Tx, row *storage.RemoteDeviceList) (change, error) {
		// A self-signing key alone, or one that is not what it should be, is reason to ask.
		if row.Stale || master.Public == "" || len(e.SelfSigning) > 0 && len(l.keys) < 2 {
			row.Stale = true
			return news, nil
		}
		return news, putRemoteKeys(tx, e.User, l.keys)
	})
}

// change is what becomes of a change that was heard of.
type change int

const (
	known change = iota // it is in the list already
	noted               // it is now, and means nothing to our users: a device without keys
	news
)

// heardOfChange takes in a change of the devices of a user of another server. apply writes it where
// the list is kept; where nobody has asked for it yet, isNews says whether it may be.
func (s *Server) heardOfChange(ctx context.Context, user id.UserID, isNews bool, apply func(*storage.Tx, *storage.RemoteDeviceList) (change, error)) error {
	stale := false
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		stale = false
		isNews := isNews
		sharing, err := tx.ListKnownUsers([]id.UserID{user})
		if err != nil {
			return err
		}
		if len(sharing) == 0 {
			return tx.DeleteRemoteDeviceList(user)
		}
		l, err := tx.LockRemoteDeviceList(user)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err == nil {
			what, err := apply(tx, &l)
			if err != nil || what == known {
				return err
			}
			l.Generation++
			stale, isNews = l.Stale && l.Pos > 0, what == news
			if err := tx.UpdateRemoteDeviceList(&l); err != nil {
				return err
			}
		}
		if isNews {
			remoteListChanged(tx, user)
		}
		return nil
	})
	if err == nil && stale {
		s.isStale(user)
	}
	return err
}

// UserDevices is all devices of a user of ours that have keys, as other servers see them.
//
// spec: server-server-api.md#get_matrixfederationv1userdevicesuserid
func (s *Server) UserDevices(ctx context.Context, user id.UserID) (*serverapi.UserDevices, error) {
	if !s.Local(user) {
		return nil, matrixerr.New(matrixerr.InvalidParam, "%s is not a user of this server", user)
	}
	out := &serverapi.UserDevices{User: user, Devices: []serverapi.UserDevice{}}
	// The number first: a change that comes in between is told again, which does no harm.
	last, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.DeviceChange, error) { return tx.GetLastDeviceChange(user) })
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	out.StreamID = int64(last.Pos)
	keys, err := s.PublicKeys(ctx, []id.UserID{user})
	if err != nil {
		return nil, err
	}
	names, err := s.ListDevices(ctx, user)
	if err != nil {
		return nil, err
	}
	for _, d := range names {
		if k := keys.DeviceKeys[user][d.ID]; k != nil {
			out.Devices = append(out.Devices, serverapi.UserDevice{Device: d.ID, DisplayName: d.DisplayName, Keys: k})
		}
	}
	out.MasterKey, out.SelfSigningKey = keys.MasterKeys[user], keys.SelfSigningKeys[user]
	return out, nil
}
