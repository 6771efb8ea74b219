package state

import "sync"

// Cache keeps decoded nodes of all rooms, the most recently used, within a bound of bytes.
// It may be used by many at once.
//
// A node that was written in a transaction which then failed may stay here under its
// number. That is harmless: nothing refers to that number, unless the database gives it out
// again (SQLite does, as its sequence is rolled back too), and then [Tree.Set] replaces what
// was here.
type Cache struct {
	shards [cacheShards]cacheShard
}

const cacheShards = 16

type cacheShard struct {
	mu    sync.Mutex
	max   int64
	used  int64
	items map[int64]*cacheItem
	// ring is the list's fixed element: next is the most recently used, prev the least.
	ring cacheItem
}

type cacheItem struct {
	id         int64
	node       *node
	prev, next *cacheItem
}

// NewCache makes a cache of at most about maxBytes.
func NewCache(maxBytes int64) *Cache {
	c := &Cache{}
	for i := range c.shards {
		s := &c.shards[i]
		s.max = maxBytes / cacheShards
		s.items = make(map[int64]*cacheItem)
		s.ring.prev, s.ring.next = &s.ring, &s.ring
	}
	return c
}

// Bytes is about how much memory the cached nodes take.
func (c *Cache) Bytes() int64 {
	var sum int64
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		sum += s.used
		s.mu.Unlock()
	}
	return sum
}

func (c *Cache) shard(id int64) *cacheShard { return &c.shards[uint64(id)%cacheShards] }

func (c *Cache) get(id int64) *node {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[id]
	if it == nil {
		return nil
	}
	it.unlink()
	it.linkAfter(&s.ring)
	return it.node
}

func (c *Cache) put(id int64, n *node) {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.items[id]; old != nil {
		s.remove(old)
	}
	it := &cacheItem{id: id, node: n}
	s.items[id] = it
	s.used += itemBytes(it)
	it.linkAfter(&s.ring)
	for s.used > s.max && s.ring.prev != &s.ring {
		s.remove(s.ring.prev)
	}
}

func (s *cacheShard) remove(it *cacheItem) {
	it.unlink()
	delete(s.items, it.id)
	s.used -= itemBytes(it)
}

// itemBytes counts the node, its list element and its place in the map.
func itemBytes(it *cacheItem) int64 { return it.node.memory() + 64 }

func (it *cacheItem) unlink() {
	it.prev.next, it.next.prev = it.next, it.prev
}

func (it *cacheItem) linkAfter(at *cacheItem) {
	it.prev, it.next = at, at.next
	at.next.prev = it
	at.next = it
}
