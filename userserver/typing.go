package userserver

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

// maxTypingTime bounds for how long a client can say that its user types.
const maxTypingTime = 2 * time.Minute

// maxTyping bounds the users that are known to type.
const maxTyping = 100_000

// observedGrace is how much longer an entry of another process is kept than that process
// keeps it, so that usually it is that process which says that it ends.
const observedGrace = 3 * time.Second

// typing is who types where. It is in memory alone: a restart forgets it, and clients say it
// again within seconds.
type typing struct {
	publish func(stream.Notice)

	mu     sync.Mutex
	rooms  map[id.RoomID]*typingRoom
	users  int
	serial uint64
}

type typingRoom struct {
	serial uint64
	until  map[id.UserID]time.Time
}

// typingBody is the body of a notice of typing.
type typingBody struct {
	// Timeout is in milliseconds, 0 for a user who has stopped.
	Timeout int64 `json:"timeout"`
}

// set notes that a user types until a time, or with a zero time that they stopped, and says
// whether that is news.
func (t *typing) set(room id.RoomID, user id.UserID, until time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if until.IsZero() {
		return r != nil && t.remove(room, r, user)
	}
	if r == nil {
		r = &typingRoom{until: make(map[id.UserID]time.Time)}
	}
	_, known := r.until[user]
	if !known {
		if t.users >= maxTyping {
			return false
		}
		t.rooms[room] = r
		t.users++
		t.serial++
		r.serial = t.serial
	}
	r.until[user] = until
	return !known
}

func (t *typing) remove(room id.RoomID, r *typingRoom, user id.UserID) bool {
	if _, ok := r.until[user]; !ok {
		return false
	}
	delete(r.until, user)
	t.users--
	t.serial++
	r.serial = t.serial
	return true
}

// expire ends what has run out.
func (t *typing) expire(now time.Time) {
	var notices []stream.Notice
	t.mu.Lock()
	for room, r := range t.rooms {
		for user, until := range r.until {
			if !now.Before(until) {
				t.remove(room, r, user)
				notices = append(notices, typingNotice(room, user, 0))
			}
		}
		if len(r.until) == 0 && t.serial-r.serial > 1000 {
			// Whoever asks what changed has long seen that nobody types there.
			delete(t.rooms, room)
		}
	}
	t.mu.Unlock()
	for _, n := range notices {
		t.publish(n)
	}
}

func typingNotice(room id.RoomID, user id.UserID, timeout time.Duration) stream.Notice {
	body, _ := json.Marshal(typingBody{timeout.Milliseconds()}) // a number can always be encoded
	return stream.Notice{Kind: stream.Typing, Room: room, User: user, Body: body}
}

// SetTyping notes that a user types in a room, for so long if they say nothing more, or with
// timeout 0 that they stopped.
//
// spec: client-server-api/modules/typing_notifications.md#typing-notifications
func (s *Server) SetTyping(ctx context.Context, user id.UserID, room id.RoomID, timeout time.Duration) error {
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := joinedRoom(tx, user, room)
		return err
	})
	if err != nil {
		return err
	}
	timeout = min(max(timeout, 0), maxTypingTime)
	var until time.Time
	if timeout > 0 {
		until = s.now().Add(timeout)
		s.presence.active(user)
	}
	if s.typing.set(room, user, until) || timeout > 0 {
		s.typing.publish(typingNotice(room, user, timeout))
	}
	return nil
}

// Typing is who types in a room, and a number that is greater after each change of that.
func (s *Server) Typing(room id.RoomID) (users []id.UserID, serial uint64) {
	s.typing.mu.Lock()
	defer s.typing.mu.Unlock()
	r := s.typing.rooms[room]
	if r == nil {
		return nil, 0
	}
	return slices.Sorted(maps.Keys(r.until)), r.serial
}

// Observe takes in a notice of typing or presence that came from another process; others
// it passes over. Those of this process may come, too.
func (s *Server) Observe(n stream.Notice) {
	switch n.Kind {
	case stream.Typing:
		var body typingBody
		if err := json.Unmarshal(n.Body, &body); err != nil {
			s.log.Warn("cannot read a notice of typing", "err", err)
			return
		}
		var until time.Time
		if body.Timeout > 0 {
			until = s.now().Add(time.Duration(body.Timeout)*time.Millisecond + observedGrace)
		}
		s.typing.set(n.Room, n.User, until)
	case stream.Presence:
		s.presence.observe(n)
	}
}
