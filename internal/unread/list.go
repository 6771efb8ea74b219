package unread

import (
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2"

	"parley/internal/id"
	"parley/storage"
)

// mainThread is the thread of the events that are in none.
const mainThread = "main"

// marks are the places of the timeline up to which a user has read: by thread, and that of ""
// for all of them.
type marks map[string]storage.Ord

// in is up to where a thread is read.
func (m marks) in(thread string) storage.Ord { return max(m[""], m[thread]) }

// raise moves a mark, never back.
func (m marks) raise(thread string, ord storage.Ord) (moved bool) {
	if ord <= m[thread] {
		return false
	}
	m[thread] = ord
	return true
}

// item is a notification that is not read.
type item struct {
	ord       storage.Ord
	event     storage.EventNID
	ts        int64 // of a message, when it says that it was sent
	thread    string
	highlight bool
}

// list is what one user has not read in one room.
type list struct {
	mu sync.Mutex
	// counted says that the rest means something: items are the notifications up to the place
	// at, the oldest first, by rules of that version, and none that read says is read.
	counted bool
	version rulesVersion
	at      storage.Ord
	// seen is the position of the log up to which receipts and rules are taken into account.
	seen  id.Pos
	read  marks
	items []item

	// These two belong to lists.
	weight    int
	forgotten bool
}

// markRead notes how far a thread is read, "" for all.
func (l *list) markRead(m marks) {
	moved := false
	for thread, ord := range m {
		moved = l.read.raise(thread, ord) || moved
	}
	if moved {
		l.items = slices.DeleteFunc(l.items, func(i item) bool { return i.ord <= l.read.in(i.thread) })
	}
}

// add adds a notification; the oldest makes room for it where there are too many.
func (l *list) add(i item) {
	if len(l.items) >= maxScan {
		l.items = slices.Delete(l.items, 0, 1)
	}
	l.items = append(l.items, i)
}

func (l *list) remove(event storage.EventNID) {
	l.items = slices.DeleteFunc(l.items, func(i item) bool { return i.event == event })
}

// expire removes the messages that are due by a room's horizon.
func (l *list) expire(horizon int64) {
	l.items = slices.DeleteFunc(l.items, func(i item) bool { return i.ts != 0 && i.ts <= horizon })
}

func (l *list) counts() Counts {
	var out Counts
	for i := range l.items {
		thread := &l.items[i]
		count := out.Main
		if thread.thread != mainThread {
			count = out.Threads[id.EventID(thread.thread)]
		}
		count.Notifications++
		if thread.highlight {
			count.Highlights++
		}
		if thread.thread == mainThread {
			out.Main = count
			continue
		}
		if out.Threads == nil {
			out.Threads = make(map[id.EventID]Count)
		}
		out.Threads[id.EventID(thread.thread)] = count
	}
	return out
}

type listKey struct {
	user id.UserID
	room storage.RoomNID
}

// lists remembers lists, as many as their items allow. Its lock is taken after a list's own.
type lists struct {
	mu       sync.Mutex
	lru      *lru.Cache[listKey, *list]
	items    int
	maxItems int
}

func newLists(maxLists, maxItems int) (*lists, error) {
	s := &lists{maxItems: maxItems}
	// It is called by Add and RemoveOldest, and so with the lock held.
	forget := func(_ listKey, l *list) {
		s.items -= l.weight
		l.forgotten = true
	}
	var err error
	s.lru, err = lru.NewWithEvict(maxLists, forget)
	return s, err
}

func (s *lists) get(key listKey) *list {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.lru.Get(key)
	if !ok {
		l = new(list)
		s.lru.Add(key, l)
	}
	return l
}

// weigh notes how many items a list has now, and forgets the lists that were not asked for
// the longest where there are too many.
func (s *lists) weigh(l *list) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.forgotten {
		return
	}
	s.items += len(l.items) - l.weight
	l.weight = len(l.items)
	for s.items > s.maxItems && s.lru.Len() > 1 {
		s.lru.RemoveOldest()
	}
}
