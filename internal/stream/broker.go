package stream

import (
	"context"
	"sync"
)

// Broker hands on notices inside one process.
type Broker struct {
	sinks []func(Notice)

	mu   sync.Mutex
	subs map[*Subscription]struct{}
}

// NewBroker makes a broker. Each sink is called with every notice on the goroutine that
// publishes it, and must not block.
func NewBroker(sinks ...func(Notice)) *Broker {
	return &Broker{sinks: sinks, subs: make(map[*Subscription]struct{})}
}

// Publish hands on a notice. It never blocks.
func (b *Broker) Publish(n Notice) {
	for _, sink := range b.sinks {
		sink(n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		if s.kinds[n.Kind] {
			s.put(n)
		}
	}
}

// Subscribe asks for notices of some kinds from now on. At most size of them are kept for a
// subscriber who is slow.
func (b *Broker) Subscribe(size int, kinds ...Kind) *Subscription {
	s := &Subscription{broker: b, size: max(size, 1), ready: make(chan struct{}, 1), kinds: make(map[Kind]bool, len(kinds))}
	for _, k := range kinds {
		s.kinds[k] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[s] = struct{}{}
	return s
}

// Subscription is a bounded queue of notices for one consumer of the log.
type Subscription struct {
	broker *Broker
	size   int
	kinds  map[Kind]bool
	ready  chan struct{}

	mu     sync.Mutex
	queue  []Notice
	missed bool
}

// put adds a notice to the queue, or notes that there was no room for it.
func (s *Subscription) put(n Notice) {
	s.mu.Lock()
	if len(s.queue) < s.size {
		s.queue = append(s.queue, n)
	} else {
		s.missed = true
	}
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for notices and takes all that there are, in their order. missed says that
// more came than the queue had room for: after the last of them others were dropped, so the
// log is to be read from the consumer's own cursor.
func (s *Subscription) Next(ctx context.Context) (notices []Notice, missed bool, err error) {
	for {
		s.mu.Lock()
		notices, missed = s.queue, s.missed
		s.queue, s.missed = nil, false
		s.mu.Unlock()
		if len(notices) > 0 || missed {
			return notices, missed, nil
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// Each calls hear for each notice until ctx is done, and missed after some if others
// were dropped.
func (s *Subscription) Each(ctx context.Context, hear func(*Notice), missed func()) {
	for {
		list, some, err := s.Next(ctx)
		if err != nil {
			return
		}
		for i := range list {
			hear(&list[i])
		}
		if some {
			missed()
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	delete(s.broker.subs, s)
}
