package userserver

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// The states of presence.
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
)

const (
	// idleAfter is how long after their last act a user counts as idle.
	idleAfter = 5 * time.Minute
	// activeFor is how long after their last act a user counts as currently active.
	activeFor = time.Minute
	// offlineAfter is how long after their last sync a user counts as gone.
	offlineAfter = 30 * time.Second
	// repeatEvery is how often the process that sees a user says so to the others.
	repeatEvery = 5 * time.Minute
	// forgetAfter is how long an entry is kept that no process speaks of, and remoteAfter one
	// that its server does not speak of.
	forgetAfter = 3 * repeatEvery
	remoteAfter = 30 * time.Minute
	// maxPresence bounds the users whose presence is known; the others are offline.
	maxPresence = 100_000
	// maxChanges bounds the changes that can be asked for.
	maxChanges = 8192
	// maxStatus bounds a status message.
	maxStatus = 1024
)

// Presence is how a user shows themselves.
//
// spec: client-server-api/modules/presence.md#presence
type Presence struct {
	State      string
	StatusMsg  string
	LastActive time.Time
	// CurrentlyActive says that LastActive is not worth following for now.
	CurrentlyActive bool
}

// presence is who is there. It is in memory alone.
type presence struct {
	off     bool
	now     func() time.Time
	publish func(stream.Notice)

	mu    sync.Mutex
	users map[id.UserID]*presenceEntry
	// serial counts the changes; changes are the last of them, in order.
	serial  uint64
	changes []presenceChange
}

type presenceEntry struct {
	Presence
	// wanted is the state that the user's clients last asked for.
	wanted string
	// own says that the user was last seen by this process; here is until when a client is
	// expected to be connected.
	own  bool
	here time.Time
	// remote says that the user is of another server, which alone knows.
	remote bool
	// told is when the other processes were last told, or told us.
	told time.Time
}

type presenceChange struct {
	serial uint64
	user   id.UserID
}

// presenceBody is the body of a notice of presence.
type presenceBody struct {
	Presence        string `json:"presence"`
	StatusMsg       string `json:"status_msg,omitempty"`
	LastActive      int64  `json:"last_active_ts"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

// update changes a user's entry: fn is given it, and says by its changes what is news.
func (p *presence) update(user id.UserID, fn func(e *presenceEntry, now time.Time)) {
	if p.off {
		return
	}
	now := p.now()
	p.mu.Lock()
	e := p.users[user]
	if e == nil {
		if len(p.users) >= maxPresence {
			p.mu.Unlock()
			return
		}
		e = &presenceEntry{Presence: Presence{State: Offline}}
		p.users[user] = e
	}
	before, wasOwn := e.Presence, e.own
	e.own = true
	fn(e, now)
	e.CurrentlyActive = e.State == Online && now.Sub(e.LastActive) < activeFor
	changed := before.State != e.State || before.StatusMsg != e.StatusMsg || before.CurrentlyActive != e.CurrentlyActive
	if changed {
		p.changed(user)
	}
	tell := changed || !wasOwn || now.Sub(e.told) >= repeatEvery
	if tell {
		e.told = now
	}
	after := e.Presence
	p.mu.Unlock()
	if tell {
		p.publish(presenceNotice(user, &after))
	}
}

// changed notes that a user's presence is not what it was.
func (p *presence) changed(user id.UserID) {
	p.serial++
	p.changes = append(p.changes, presenceChange{p.serial, user})
	if len(p.changes) > 2*maxChanges {
		p.changes = append(p.changes[:0], p.changes[maxChanges:]...)
	}
}

func presenceNotice(user id.UserID, p *Presence) stream.Notice {
	body, _ := json.Marshal(presenceBody{p.State, p.StatusMsg, p.LastActive.UnixMilli(), p.CurrentlyActive}) // cannot fail
	return stream.Notice{Kind: stream.Presence, User: user, Body: body}
}

// active notes that the user did something.
func (p *presence) active(user id.UserID) {
	p.update(user, func(e *presenceEntry, now time.Time) {
		e.LastActive = now
		if e.State != Offline {
			e.State, e.wanted = Online, Online
		}
	})
}

// touch has those who see the user's presence see it again, as their profile has changed.
func (p *presence) touch(user id.UserID) {
	p.mu.Lock()
	e := p.users[user]
	if e == nil || e.State == Offline {
		p.mu.Unlock()
		return
	}
	p.changed(user)
	n := presenceNotice(user, &e.Presence)
	p.mu.Unlock()
	p.publish(n)
}

// observe takes in a notice of another process.
func (p *presence) observe(n stream.Notice) {
	var body presenceBody
	if p.off || json.Unmarshal(n.Body, &body) != nil {
		return
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.users[n.User]
	seen := Presence{body.Presence, body.StatusMsg, time.UnixMilli(body.LastActive), body.CurrentlyActive}
	switch {
	case e == nil && (len(p.users) >= maxPresence || body.Presence == Offline):
		return
	case e == nil:
		e = &presenceEntry{}
		p.users[n.User] = e
	case e.State == seen.State && e.StatusMsg == seen.StatusMsg && e.CurrentlyActive == seen.CurrentlyActive &&
		e.LastActive.UnixMilli() == body.LastActive:
		e.told = now
		return // our own, or nothing new
	}
	e.Presence, e.wanted, e.own, e.told = seen, seen.State, false, now
	p.changed(n.User)
}

// receive takes in what another server says of a user of its own.
func (p *presence) receive(user id.UserID, seen Presence) {
	if p.off {
		return
	}
	p.mu.Lock()
	e := p.users[user]
	if e == nil {
		if len(p.users) >= maxPresence || seen.State == Offline {
			p.mu.Unlock()
			return
		}
		e = &presenceEntry{Presence: Presence{State: Offline}}
		p.users[user] = e
	}
	before := e.Presence
	e.Presence, e.remote, e.told = seen, true, p.now()
	changed := before.State != seen.State || before.StatusMsg != seen.StatusMsg || before.CurrentlyActive != seen.CurrentlyActive
	if changed {
		p.changed(user)
	}
	p.mu.Unlock()
	if changed {
		p.publish(presenceNotice(user, &seen))
	}
}

// expire lets time pass: who does nothing becomes idle, who is not connected goes offline.
func (p *presence) expire(now time.Time) {
	var notices []stream.Notice
	p.mu.Lock()
	for user, e := range p.users {
		before := e.Presence
		switch {
		case !e.own:
			if now.Sub(e.told) >= forgetAfter && (!e.remote || now.Sub(e.told) >= remoteAfter) {
				e.State = Offline
			}
		case now.After(e.here.Add(offlineAfter)):
			e.State = Offline
		case e.State == Online && now.Sub(e.LastActive) >= idleAfter:
			e.State = Unavailable
		}
		if e.own {
			e.CurrentlyActive = e.State == Online && now.Sub(e.LastActive) < activeFor
		}
		if before.State != e.State || before.CurrentlyActive != e.CurrentlyActive {
			p.changed(user)
			e.told = now
			if e.own {
				notices = append(notices, presenceNotice(user, &e.Presence))
			}
		}
		if e.State == Offline && e.StatusMsg == "" && now.Sub(e.told) >= forgetAfter {
			delete(p.users, user)
		}
	}
	p.mu.Unlock()
	for _, n := range notices {
		p.publish(n)
	}
}

// SetPresence sets what a user shows of themselves.
func (s *Server) SetPresence(user id.UserID, state, status string) error {
	if err := ValidatePresence(state); err != nil {
		return err
	}
	if len(status) > maxStatus || !cleanText(status) {
		return matrixerr.New(matrixerr.InvalidParam, "the status is longer than %d bytes or has characters that are not allowed", maxStatus)
	}
	s.presence.update(user, func(e *presenceEntry, now time.Time) {
		e.State, e.wanted, e.StatusMsg, e.LastActive = state, state, status, now
		if e.here.Before(now) {
			e.here = now
		}
	})
	return nil
}

// ValidatePresence refuses what is no state of presence.
func ValidatePresence(state string) error {
	if state != Online && state != Unavailable && state != Offline {
		return matrixerr.New(matrixerr.InvalidParam, "presence is none of online, unavailable, offline")
	}
	return nil
}

// Syncing notes that a client of the user waits for news for so long. state is what it asks
// for; a client that asks for offline leaves the user's presence as it is.
//
// spec: client-server-api/index.md#syncing
func (s *Server) Syncing(user id.UserID, state string, hold time.Duration) {
	if state == Offline {
		return
	}
	s.presence.update(user, func(e *presenceEntry, now time.Time) {
		if until := now.Add(hold); until.After(e.here) {
			e.here = until
		}
		// Asking for the same again and again is no act of the user's.
		if e.State == Offline || e.wanted != state {
			e.State, e.wanted, e.LastActive = state, state, now
		}
	})
}

// Active notes that a user did something themselves, such as sending a message.
func (s *Server) Active(user id.UserID) { s.presence.active(user) }

// GetPresence is a user's presence, as one sees it who may.
func (s *Server) GetPresence(user id.UserID) Presence {
	p := s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.users[user]; e != nil {
		return e.Presence
	}
	return Presence{State: Offline}
}

// ListPresent are up to limit users who are not offline.
func (s *Server) ListPresent(limit int) []id.UserID {
	p := s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []id.UserID
	for user, e := range p.users {
		if len(out) == limit {
			break
		}
		if e.State != Offline {
			out = append(out, user)
		}
	}
	return out
}

// PresenceFor is a user's presence for one who asks; it is M_FORBIDDEN to those who share no
// room with the user.
func (s *Server) PresenceFor(ctx context.Context, asker, user id.UserID) (Presence, error) {
	if asker != user {
		shared, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.UserID, error) {
			return tx.ListSharedRooms(asker, []id.UserID{user})
		})
		if err != nil {
			return Presence{}, err
		}
		if len(shared) == 0 {
			return Presence{}, matrixerr.New(matrixerr.Forbidden, "you share no room with %s", user)
		}
	}
	return s.GetPresence(user), nil
}

// PresenceSince are the users whose presence has changed since the given serial, each once, and
// the serial to ask with the next time. known is false when that is too long ago, or in another
// life of the process: whoever asks must look at all users that they care for.
func (s *Server) PresenceSince(since uint64) (users []id.UserID, serial uint64, known bool) {
	p := s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if since == p.serial {
		return nil, p.serial, true
	}
	oldest := p.serial - uint64(len(p.changes))
	if since > p.serial || since < oldest {
		return nil, p.serial, false
	}
	seen := make(map[id.UserID]bool)
	for _, c := range p.changes[since-oldest:] {
		if !seen[c.user] {
			seen[c.user] = true
			users = append(users, c.user)
		}
	}
	return users, p.serial, true
}
