// Package testclock is a clock for tests: time passes on it when they say so.
package testclock

import (
	"sync"
	"time"
)

// Clock is a clock that stands still until it is moved. Its methods may be called concurrently.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// New makes a clock that shows a time.
func New(now time.Time) *Clock { return &Clock{now: now} }

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Pass moves the clock on.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
