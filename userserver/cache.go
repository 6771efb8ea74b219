package userserver

import (
	"sync"
	"time"

	"parley/internal/id"
	"parley/storage"
)

// cacheLife is for how long a token is believed without asking the database. What this
// process changes is seen at once, what another one changes after this time.
const cacheLife = 5 * time.Second

// maxCached bounds the tokens that are remembered.
const maxCached = 50_000

// tokenCache remembers what access tokens stand for.
type tokenCache struct {
	mu     sync.RWMutex
	byHash map[storage.TokenHash]cachedToken
	byUser map[id.UserID]map[storage.TokenHash]struct{}
	// dropped counts the calls of drop, so that what was read before one is not added after it.
	dropped uint64
}

type cachedToken struct {
	caller Caller
	until  time.Time
}

func newTokenCache() *tokenCache {
	c := &tokenCache{}
	c.clear()
	return c
}

func (c *tokenCache) clear() {
	c.byHash = make(map[storage.TokenHash]cachedToken)
	c.byUser = make(map[id.UserID]map[storage.TokenHash]struct{})
}

// get is what the token stands for; before goes with the call of add that follows a miss.
func (c *tokenCache) get(hash storage.TokenHash, now time.Time) (caller Caller, ok bool, before uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t, ok := c.byHash[hash]
	return t.caller, ok && now.Before(t.until), c.dropped
}

// add remembers a token, unless something was dropped since before.
func (c *tokenCache) add(hash storage.TokenHash, caller Caller, now, until time.Time, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped != before {
		return
	}
	if len(c.byHash) >= maxCached {
		for h, t := range c.byHash {
			if !now.Before(t.until) {
				c.remove(h, t.caller.User)
			}
		}
		if len(c.byHash) >= maxCached {
			c.clear()
		}
	}
	c.byHash[hash] = cachedToken{caller, until}
	if c.byUser[caller.User] == nil {
		c.byUser[caller.User] = make(map[storage.TokenHash]struct{})
	}
	c.byUser[caller.User][hash] = struct{}{}
}

// drop forgets all tokens of a user. It is called once a change is durable.
func (c *tokenCache) drop(user id.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped++
	for h := range c.byUser[user] {
		c.remove(h, user)
	}
}

func (c *tokenCache) remove(hash storage.TokenHash, user id.UserID) {
	delete(c.byHash, hash)
	delete(c.byUser[user], hash)
	if len(c.byUser[user]) == 0 {
		delete(c.byUser, user)
	}
}
