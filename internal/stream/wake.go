package stream

import (
	"context"
	"time"

	"parley/internal/id"
)

// wakeBatch is how many notices are gone through while the lock is held.
const wakeBatch = 64

// wakeAtOnce is how many waiters are woken before others may run.
const wakeAtOnce = 8

// run wakes those whom notices concern, until the hub is closed.
func (h *Hub) run(ctx context.Context) {
	// Presence waits for its round: those who show themselves are many, and each concerns many.
	shown := make(map[id.UserID]struct{})
	var round <-chan time.Time
	every := h.o.PresenceEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.signal:
			var waiters []*waiter
			for more := true; more; {
				var changed []id.UserID
				waiters, changed, more = h.next(waiters[:0], shown)
				fire(waiters)
				for _, user := range changed {
					waiters, _ = h.aboutUser(ctx, user, waiters[:0])
					fire(waiters)
				}
			}
			if round == nil && len(shown) > 0 {
				round = time.After(every)
			}
		case <-round:
			round = nil
			h.mu.Lock()
			h.presented = h.woken // who asks from here on need not be woken
			h.mu.Unlock()
			// All are taken before any is woken: who is told and asks again is of the next round.
			var waiters []*waiter
			for user := range shown {
				var err error
				if waiters, err = h.aboutUser(ctx, user, waiters); err != nil {
					h.o.Log.Warn("cannot tell whom a presence concerns", "user", user, "err", err)
				}
			}
			fire(waiters)
			clear(shown)
			every = h.o.PresenceEvery + time.Duration(len(waiters))*h.o.PresenceCost
		}
	}
}

// next goes through some notices: it takes the waiters whom they concern, notes in shown
// those whose presence changed, and gives those whose devices did.
func (h *Hub) next(waiters []*waiter, shown map[id.UserID]struct{}) (_ []*waiter, changed []id.UserID, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first := h.head.Seq - uint64(len(h.ring)); h.woken < first {
		h.woken, h.presented = h.head.Seq, h.head.Seq
		return append(waiters, h.allWaiters()...), nil, false
	}
	for range wakeBatch {
		if h.woken == h.head.Seq {
			return waiters, changed, false
		}
		h.woken++
		n := h.at(h.woken)
		switch {
		case n.Kind == Presence:
			if len(shown) < maxScan {
				shown[n.User] = struct{}{}
			}
			continue
		case n.Kind == DeviceList:
			changed = append(changed, n.User)
		case n.Kind == Receipt && len(n.Users) > 0:
		default:
			if r := h.rooms[n.Room]; r != nil {
				for u := range r.members {
					waiters = h.take(u, waiters)
				}
			}
		}
		for _, user := range n.Users {
			if u := h.users[user]; u != nil {
				waiters = h.take(u, waiters)
			}
		}
	}
	return waiters, changed, true
}

// aboutUser takes the waiters who share a room with a user, and the user's own.
func (h *Hub) aboutUser(ctx context.Context, user id.UserID, waiters []*waiter) ([]*waiter, error) {
	if err := h.Track(ctx, user); err != nil {
		return waiters, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil {
		return waiters, nil
	}
	waiters = h.take(u, waiters)
	for _, r := range u.rooms {
		for other := range r.members {
			waiters = h.take(other, waiters)
		}
	}
	return waiters, nil
}
