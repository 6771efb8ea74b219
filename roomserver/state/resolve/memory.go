package resolve

import "sync"

// memory remembers at most so many things: when it is full, it starts a new page and
// forgets the page before the last. It may be used by many at once.
type memory[K comparable, V any] struct {
	mu        sync.Mutex
	pageSize  int
	page, old map[K]V
}

func newMemory[K comparable, V any](size int) *memory[K, V] {
	return &memory[K, V]{pageSize: size / 2, page: make(map[K]V)}
}

func (m *memory[K, V]) get(k K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.page[k]
	if !ok {
		if v, ok = m.old[k]; ok {
			m.add(k, v)
		}
	}
	return v, ok
}

func (m *memory[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(k, v)
}

func (m *memory[K, V]) add(k K, v V) {
	if _, ok := m.page[k]; !ok && len(m.page) >= m.pageSize {
		m.page, m.old = make(map[K]V), m.page
	}
	m.page[k] = v
}
