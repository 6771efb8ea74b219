package stream

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sort"
	"sync"
	"time"

	"parley/internal/id"
)

// ErrClosed says that the hub was closed: whoever waits goes home.
var ErrClosed = errors.New("the hub is closed")

// Mark is a place in the stream of notices: all with a position up to Pos, and all of typing
// and presence up to the number Seq, of this process. Seq 0 is before all of them.
type Mark struct {
	Pos id.Pos
	Seq uint64
}

// HubOptions is what a hub needs. Rooms must be given.
type HubOptions struct {
	// Rooms are the rooms that a user is joined to, at a position of the log.
	Rooms func(ctx context.Context, user id.UserID) (rooms []id.RoomID, at id.Pos, err error)
	// Size is how many notices are remembered.
	Size int
	// Users and Memberships bound what is remembered of users of whom nobody waits: how many,
	// and in how many rooms all of them are.
	Users, Memberships int
	// PresenceEvery is the shortest time between two rounds of waking for presence, and
	// PresenceCost how much is added to it for each one woken in the last round.
	PresenceEvery, PresenceCost time.Duration
	Log                         *slog.Logger
}

// Hub remembers the last notices and wakes users when something happens that concerns them.
// Its methods may be called concurrently.
type Hub struct {
	o    HubOptions
	life string
	// signal has one token when there is something for the waking goroutine to do.
	signal chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// ring has the notices with the numbers (head.Seq-len, head.Seq], each at its number
	// modulo Size.
	ring []entry
	// head is the newest mark, base the one from which on the ring is complete.
	head, base Mark
	opened     bool
	// woken is the number up to which the waking goroutine has come, and presented up to which it has
	// woken those whom a presence concerns.
	woken, presented uint64

	users       map[id.UserID]*user
	rooms       map[id.RoomID]*room
	memberships int
	idle        *list.List // of *user: those of whom nobody waits, the longest idle first
}

// entry is a notice in the ring; at is the newest position when it came.
type entry struct {
	Notice
	at id.Pos
}

// room has those users who are in it.
type room struct{ members map[*user]struct{} }

// user is somebody whose rooms the hub knows.
type user struct {
	id    id.UserID
	rooms map[id.RoomID]*room
	// at is the position since which rooms was kept up to date.
	at id.Pos
	// account is the position of the last change of the user's account data that is known of.
	account id.Pos
	waiters []*waiter
	idle    *list.Element
}

// waiter is one request that waits; it is woken once.
type waiter struct {
	wake chan struct{}
}

// NewHub starts a hub; Close ends it.
func NewHub(o HubOptions) *Hub {
	if o.Size == 0 {
		o.Size = 1 << 14
	}
	if o.Users == 0 {
		o.Users = 20_000
	}
	if o.Memberships == 0 {
		o.Memberships = 1_000_000
	}
	if o.PresenceEvery == 0 {
		o.PresenceEvery = time.Second
	}
	if o.PresenceCost == 0 {
		o.PresenceCost = 15 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Hub{
		o: o, life: rand.Text()[:4], signal: make(chan struct{}, 1), cancel: cancel,
		ring: make([]entry, 0, min(o.Size, 1024)), users: make(map[id.UserID]*user),
		rooms: make(map[id.RoomID]*room), idle: list.New(),
	}
	// The first number is that of a notice that concerns nobody: so whoever was told of all
	// that there is has a number, and is known to be one of ours.
	h.head.Seq = 1
	h.ring = append(h.ring, entry{})
	h.woken = h.head.Seq
	h.done.Go(func() { h.run(ctx) })
	return h
}

// Life names this hub among those that were before it and those of other processes: a
// Mark's Seq means nothing to another one.
func (h *Hub) Life() string { return h.life }

// Close wakes all who wait, and returns when the hub's goroutine has ended.
func (h *Hub) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	all := h.allWaiters()
	h.mu.Unlock()
	fire(all)
	h.cancel()
	h.done.Wait()
}

// Publish takes in a notice. It is a sink of a Broker.
func (h *Hub) Publish(n Notice) {
	h.mu.Lock()
	if n.Pos > h.head.Pos {
		h.head.Pos = n.Pos
	}
	if !h.opened {
		// Nothing was published before, so nothing before this one is missing.
		h.opened = true
		h.base = Mark{Pos: n.Pos}
		if n.Kind != Opened && n.Pos > 0 {
			h.base.Pos--
		}
	}
	if n.Kind == Opened {
		h.mu.Unlock()
		return
	}
	h.head.Seq++
	e := entry{n, h.head.Pos}
	if len(h.ring) < h.o.Size {
		h.ring = append(h.ring, e)
	} else {
		slot := &h.ring[(h.head.Seq-1)%uint64(h.o.Size)]
		h.base = Mark{Pos: max(h.base.Pos, slot.at), Seq: h.head.Seq - uint64(h.o.Size)}
		*slot = e
	}
	for _, id := range n.Users {
		if u := h.users[id]; u != nil {
			h.learn(u, &n)
		}
	}
	h.mu.Unlock()
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// learn keeps what is known of a user up to date with a notice that names them.
func (h *Hub) learn(u *user, n *Notice) {
	switch {
	case n.Pos <= u.at:
	case n.Kind == AccountData:
		u.account = n.Pos
	case n.Kind != Event || n.Room == "":
	case slices.Contains(n.Joined, u.id):
		h.enter(u, n.Room)
	default:
		h.leave(u, n.Room)
	}
}

func (h *Hub) enter(u *user, name id.RoomID) {
	if u.rooms[name] != nil {
		return
	}
	r := h.rooms[name]
	if r == nil {
		r = &room{make(map[*user]struct{})}
		h.rooms[name] = r
	}
	u.rooms[name] = r
	r.members[u] = struct{}{}
	h.memberships++
}

func (h *Hub) leave(u *user, name id.RoomID) {
	r := u.rooms[name]
	if r == nil {
		return
	}
	delete(u.rooms, name)
	h.memberships--
	if delete(r.members, u); len(r.members) == 0 {
		delete(h.rooms, name)
	}
}

// Track has the hub know a user's rooms from now on, until there are others who need the
// space more. Whoever wants to ask Since or to Wait does it first; it is cheap when the hub
// knows them already.
func (h *Hub) Track(ctx context.Context, user id.UserID) error {
	for range 3 {
		if h.touch(user) {
			return nil
		}
		rooms, at, err := h.o.Rooms(ctx, user)
		if err != nil {
			return err
		}
		if h.add(user, rooms, at) {
			return nil
		}
	}
	return nil // more notices than the ring holds came in between, thrice: nobody is worse off for not being known
}

// touch says whether a user is known, and that they are in use.
func (h *Hub) touch(user id.UserID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil {
		return false
	}
	if u.idle != nil {
		h.idle.MoveToBack(u.idle)
	}
	return true
}

// add takes in a user, and what has happened to them since their rooms were read.
func (h *Hub) add(who id.UserID, rooms []id.RoomID, at id.Pos) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users[who] != nil {
		return true
	}
	if !h.opened || at < h.base.Pos {
		return false
	}
	u := &user{id: who, rooms: make(map[id.RoomID]*room, len(rooms)), at: at, account: at}
	h.users[who] = u
	for _, room := range rooms {
		h.enter(u, room)
	}
	for seq := h.after(Mark{Pos: at}); seq <= h.head.Seq; seq++ {
		if n := h.at(seq); slices.Contains(n.Users, who) {
			h.learn(u, &n.Notice)
		}
	}
	u.idle = h.idle.PushBack(u)
	for h.idle.Len() > 1 && (len(h.users) > h.o.Users || h.memberships > h.o.Memberships) {
		h.drop(h.idle.Front().Value.(*user))
	}
	return true
}

func (h *Hub) drop(u *user) {
	for room := range u.rooms {
		h.leave(u, room)
	}
	h.idle.Remove(u.idle)
	delete(h.users, u.id)
}

// at is the notice with a number that the ring still has.
func (h *Hub) at(seq uint64) *entry { return &h.ring[(seq-1)%uint64(h.o.Size)] }

// after is the number of the first notice that may be news to one who is at a mark: who is
// ahead in positions may lag behind in typing, and the other way round.
func (h *Hub) after(m Mark) uint64 {
	first := h.head.Seq - uint64(len(h.ring)) + 1
	seq := first + uint64(sort.Search(len(h.ring), func(i int) bool { return h.at(first+uint64(i)).at > m.Pos }))
	if m.Seq > 0 {
		seq = max(first, min(seq, m.Seq+1))
	}
	return seq
}

// concerns says whether a notice is news to a user. Of a change of somebody whose rooms are
// not known it may say so wrongly.
func (h *Hub) concerns(u *user, n *Notice) bool {
	switch n.Kind {
	case Presence, DeviceList:
		if n.User == u.id || slices.Contains(n.Users, u.id) {
			return true
		}
		other := h.users[n.User]
		return other == nil || share(u, other)
	case Receipt:
		if len(n.Users) > 0 { // a private one
			return slices.Contains(n.Users, u.id)
		}
	}
	if n.Room != "" {
		if _, ok := u.rooms[n.Room]; ok {
			return true
		}
	}
	return slices.Contains(n.Users, u.id)
}

// share says whether two users have a room in common.
func share(a, b *user) bool {
	if len(a.rooms) > len(b.rooms) {
		a, b = b, a
	}
	for _, r := range a.rooms {
		if _, ok := r.members[b]; ok {
			return true
		}
	}
	return false
}

// maxScan bounds the notices that are looked through for one who was away.
const maxScan = 4096

// News is what has happened since a mark, as far as it concerns a user.
type News struct {
	// Notices are in the order in which they came. Those of typing and presence are left out
	// where the mark had no number of ours.
	Notices []Notice
	// Head is the mark that they lead up to.
	Head Mark
	// Account is the position of the last change of the user's account data that is known of.
	Account id.Pos
	// Early says that there is nothing but presence, and that its round of waking is yet to come: whoever
	// can wait waits for that. Else one who asks again right after a round is answered for each who has
	// come or gone since, and so are all others, who keep each other from ever catching up.
	Early bool
}

// Since appends what is news to a user to the list given. ok is false when the hub can't
// tell: the user is not known, or the mark is older than what is remembered, or newer than
// what has come; then the database must be asked.
//
// This is the one place that relies on the ring being complete.
func (h *Hub) Since(user id.UserID, since Mark, list []Notice) (news News, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil || !h.covers(since) || h.head.Pos < u.at {
		return News{Head: h.head}, false
	}
	news = News{Notices: list, Head: Mark{max(h.head.Pos, since.Pos), h.head.Seq}, Account: u.account}
	seq := h.after(since)
	if h.head.Seq-seq > maxScan && seq <= h.head.Seq {
		return news, false
	}
	due := false
	for ; seq <= h.head.Seq; seq++ {
		if h.isNews(u, seq, since) {
			n := h.at(seq).Notice
			if n.Kind == Presence {
				other := h.users[n.User]
				n.Shared = other != nil && other != u && share(u, other)
			}
			news.Notices = append(news.Notices, n)
			due = due || h.isDue(seq)
		}
	}
	news.Early = !due && len(news.Notices) > 0
	return news, true
}

// covers says whether the ring has all notices since a mark.
func (h *Hub) covers(since Mark) bool {
	return h.opened && since.Pos >= h.base.Pos && (since.Seq == 0 || since.Seq >= h.base.Seq) && since.Seq <= h.head.Seq
}

// isNews says whether a notice is news to a user who is at a mark. One without a position is
// not where the mark does not tell how many of them the user was told of.
func (h *Hub) isNews(u *user, seq uint64, since Mark) bool {
	n := h.at(seq)
	if n.Pos > 0 && n.Pos <= since.Pos || n.Pos == 0 && (since.Seq == 0 || seq <= since.Seq) {
		return false
	}
	return h.concerns(u, &n.Notice)
}

// isDue says whether a notice is to be told of at once: presence waits for its round.
func (h *Hub) isDue(seq uint64) bool { return h.at(seq).Kind != Presence || seq <= h.presented }

// Head is the newest mark.
func (h *Hub) Head() Mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.head
}

// Wait returns when there may be news for a user since a mark, when the time is up, or when
// ctx or the hub ends. The user must be known, or it returns at once.
func (h *Hub) Wait(ctx context.Context, user id.UserID, since Mark, timeout <-chan time.Time) (timedOut bool, err error) {
	w, err := h.register(user, since)
	if w == nil || err != nil {
		return false, err
	}
	select {
	case <-w.wake:
		return false, nil
	case <-timeout:
		timedOut = true
	case <-ctx.Done():
		err = ctx.Err()
	}
	h.unregister(user, w)
	return timedOut, err
}

// register looks for news, and makes a waiter when there are none.
func (h *Hub) register(user id.UserID, since Mark) (*waiter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	u := h.users[user]
	if u == nil || !h.covers(since) {
		return nil, nil
	}
	for seq := h.after(since); seq <= h.head.Seq; seq++ {
		if h.isDue(seq) && h.isNews(u, seq, since) {
			return nil, nil
		}
	}
	w := &waiter{wake: make(chan struct{}, 1)}
	u.waiters = append(u.waiters, w)
	if u.idle != nil {
		h.idle.Remove(u.idle)
		u.idle = nil
	}
	return w, nil
}

// unregister forgets a waiter that was not woken.
func (h *Hub) unregister(user id.UserID, w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil {
		return
	}
	if i := slices.Index(u.waiters, w); i >= 0 {
		u.waiters = slices.Delete(u.waiters, i, i+1)
		h.rest(u)
	}
}

// rest puts a user of whom nobody waits among those who may be forgotten.
func (h *Hub) rest(u *user) {
	if len(u.waiters) == 0 && u.idle == nil {
		u.waiters = nil
		u.idle = h.idle.PushBack(u)
	}
}

// take appends a user's waiters to a list of those to wake.
func (h *Hub) take(u *user, list []*waiter) []*waiter {
	if len(u.waiters) == 0 {
		return list
	}
	list = append(list, u.waiters...)
	u.waiters = u.waiters[:0]
	h.rest(u)
	return list
}

func (h *Hub) allWaiters() []*waiter {
	var all []*waiter
	for _, u := range h.users {
		all = h.take(u, all)
	}
	return all
}

func fire(waiters []*waiter) {
	for i, w := range waiters {
		if i%wakeAtOnce == wakeAtOnce-1 {
			runtime.Gosched() // or a processor's queue would be full of them, and all else wait until they are done
		}
		w.wake <- struct{}{} // has room for one, and is sent one
	}
}
