package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"parley/internal/matrixerr"
)

// Limit is how often one user, address or server may ask: PerSecond for long, and Burst at
// once after a rest. There is none when either is 0.
type Limit struct {
	PerSecond float64
	Burst     int
}

// maxLimited is how many who asked lately are remembered. Beyond that some are forgotten,
// which gives them a new burst: it costs less than to let memory grow or to refuse the innocent.
const maxLimited = 1 << 16

// limiter is a token bucket for each who asks. A bucket is one time: when it will be full
// again. So one whose time has come is the same as none, and need not be kept.
type limiter struct {
	// step is how long a bucket takes to gain one token, and burst to fill; 0 for no limit.
	step, burst [numRates]time.Duration

	mu   sync.Mutex
	full map[limitKey]time.Time
}

type limitKey struct {
	rate Rate
	who  string
	ip   netip.Addr
}

func newLimiter(limits map[Rate]Limit) *limiter {
	l := &limiter{full: make(map[limitKey]time.Time)}
	for rate, limit := range limits {
		if rate >= numRates || rate == RateNone || limit.PerSecond <= 0 || limit.Burst <= 0 {
			continue
		}
		l.step[rate] = time.Duration(float64(time.Second) / limit.PerSecond)
		l.burst[rate] = time.Duration(limit.Burst) * l.step[rate]
	}
	return l
}

// take takes a token, and says how long to wait when there is none.
func (l *limiter) take(key limitKey, now time.Time) time.Duration {
	step := l.step[key.rate]
	if step == 0 {
		return 0
	}
	// Whoever has one IPv6 address has at least a /64 of them.
	if key.ip.Is6() {
		p, _ := key.ip.WithZone("").Prefix(64)
		key.ip = p.Addr()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	full, known := l.full[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(step)
	if wait := full.Sub(now) - l.burst[key.rate]; wait > 0 {
		return wait
	}
	if !known && len(l.full) >= maxLimited {
		l.forget(now)
	}
	l.full[key] = full
	return 0
}

// forget makes room: all that are full, and if those are few then any, so that a pass over
// all of them pays for many requests.
func (l *limiter) forget(now time.Time) {
	for k, full := range l.full {
		if !full.After(now) {
			delete(l.full, k)
		}
	}
	for k := range l.full {
		if len(l.full) <= maxLimited*3/4 {
			return
		}
		delete(l.full, k)
	}
}

func (l *limiter) check(key limitKey, now time.Time) error {
	wait := l.take(key, now)
	if wait == 0 {
		return nil
	}
	e := matrixerr.New(matrixerr.LimitExceeded, "too many requests")
	e.RetryAfter = wait
	return e
}
