package remote

import (
	"math/rand/v2"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"parley/internal/id"
)

const (
	// noted bounds of how many servers it is noted that they can't be reached.
	noted = 8192
	// A server that could not be reached is taken to be down for firstRest, for twice as long
	// after each further failure, and not for longer than longestRest.
	firstRest   = time.Second
	longestRest = 5 * time.Minute
)

// down notes which servers can't be reached just now, so that people needn't wait for them. It is
// in memory alone; the durable queues have a back-off of their own.
type down struct {
	now func() time.Time

	mu      sync.Mutex
	servers *lru.Cache[id.ServerName, rest]
}

type rest struct {
	failures int
	until    time.Time
}

func newDown(now func() time.Time) (*down, error) {
	servers, err := lru.New[id.ServerName, rest](noted)
	return &down{now: now, servers: servers}, err
}

// is says whether a server is taken to be down.
func (d *down) is(server id.ServerName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.servers.Peek(server)
	return ok && d.now().Before(r.until)
}

// failed notes that a server could not be reached. What fails while it is taken to be down anyway
// says nothing new.
func (d *down) failed(server id.ServerName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.servers.Get(server)
	if ok && d.now().Before(r.until) {
		return
	}
	wait := min(firstRest<<min(r.failures, 20), longestRest)
	wait -= rand.N(wait / 4) // not for all who wait at the same time
	d.servers.Add(server, rest{r.failures + 1, d.now().Add(wait)})
}

// alive notes that a server was heard of.
func (d *down) alive(server id.ServerName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.servers.Remove(server)
}

// count is how many servers are taken to be down.
func (d *down) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, now := 0, d.now()
	for _, r := range d.servers.Values() {
		if now.Before(r.until) {
			n++
		}
	}
	return n
}
