// Package flight has work that several ask for at the same time done once, for all of them. It
// remembers nothing: who asks when it is done has it done again.
package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed says that the group was closed before the work was done.
var ErrClosed = errors.New("closed")

// Group is a kind of work, by key. Its work goes on when the one who began it has gone, as others
// may wait; so it runs on goroutines of the group, which Close waits for.
type Group[K comparable, V any] struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	calls  map[K]*call[V]
}

type call[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// New makes a group.
func New[K comparable, V any]() *Group[K, V] {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group[K, V]{ctx: ctx, cancel: cancel, calls: make(map[K]*call[V])}
}

// Do has fn run, unless it runs already for the same key, and waits for its result or for the
// end of ctx. The context of fn ends with the group, and not with ctx.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	c, ok := g.calls[key]
	if !ok && !g.closed {
		c = &call[V]{done: make(chan struct{})}
		g.calls[key] = c
		g.wg.Go(func() { g.run(key, c, fn) })
	}
	g.mu.Unlock()
	var none V
	if c == nil {
		return none, ErrClosed
	}
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

func (g *Group[K, V]) run(key K, c *call[V], fn func(context.Context) (V, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("panic: %v", p)
		}
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(c.done)
	}()
	c.value, c.err = fn(g.ctx)
}

// Close ends what runs, and waits for it.
func (g *Group[K, V]) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}
