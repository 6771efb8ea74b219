// Package keyring knows the keys with which other servers sign, and checks signatures by them. It
// asks a server itself for its keys, and notaries where the server does not answer; what they say
// it keeps in storage and, as far as it is in use, in memory.
//
// A list of keys is taken from its server when it is signed and valid now, and from a notary when
// it is signed by the server and by the notary. A notary's may be one from long ago, as it is for
// events of servers that are no more; its keys are then good for what was signed back then.
//
// How servers are found and asked is not its business: that is two functions in [Options].
//
// spec: server-server-api.md#retrieving-server-keys
package keyring

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/flight"
	"parley/internal/id"
	"parley/storage"
)

const (
	// remembered is of how many servers the keys are kept in memory.
	remembered = 16384
	// atOnce is how many servers are asked at the same time for the keys of one batch of objects, and
	// allAtOnce how many for all.
	atOnce    = 64
	allAtOnce = 256
	// A server that was asked is not asked again for firstWait, whatever is signed in its name: it may
	// be that it has a new key, and it may be that somebody plays with us. When it did not answer, or with
	// nothing new, the next pause is twice as long.
	firstWait   = 10 * time.Second
	longestWait = 5 * time.Minute
	// longestValidity is the most that a key is believed before it is asked for again.
	//
	// spec: rooms/v5.md#signing-key-validity-period
	longestValidity = 7 * 24 * time.Hour
	// ownValidity is for how long others may believe our keys.
	ownValidity = 24 * time.Hour
)

// Options is what a ring needs. DB, Name, Keys and Fetch must be given.
type Options struct {
	DB *storage.DB
	// Name is this server's; Keys sign for it, the first alone in the name of a notary.
	Name id.ServerName
	Keys []SigningKey
	// OldKeys are those with which this server no longer signs.
	OldKeys map[string]Key
	// Notaries are asked for the keys of servers that don't answer.
	Notaries []id.ServerName
	// Fetch asks a server for its keys.
	Fetch func(ctx context.Context, server id.ServerName) ([]byte, error)
	// Query asks a notary for lists of keys; at is until when they should be valid at least.
	Query   func(ctx context.Context, notary id.ServerName, wanted Wanted) ([]json.RawMessage, error)
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Now is the clock.
	Now func() time.Time
}

// SigningKey is a key with which this server signs.
type SigningKey struct {
	ID  string // "ed25519:a_Jxyz"
	Key ed25519.PrivateKey
}

// Wanted are keys by server and key ID; the number is the time for which a key is wanted, in
// milliseconds. Without key IDs it stands for all of a server.
type Wanted map[id.ServerName]map[string]int64

func (w Wanted) add(server id.ServerName, key string, at int64) {
	if w[server] == nil {
		w[server] = make(map[string]int64)
	}
	w[server][key] = max(w[server][key], at)
}

// Ring is the key ring. It is safe for concurrent use.
type Ring struct {
	o        Options
	log      *slog.Logger
	now      func() time.Time
	own      map[string]Key
	fetching *flight.Group[id.ServerName, struct{}]
	fetches  *prometheus.CounterVec

	mu      sync.Mutex
	servers *lru.Cache[id.ServerName, *known]

	// slots has a place for each server that is being asked.
	slots chan struct{}
}

// known is what the ring has in memory of a server.
type known struct {
	keys map[string]Key // replaced, and never changed
	// nextFetch and nextQuery are before when neither the server nor a notary is asked again.
	nextFetch, nextQuery time.Time
	// vain is how often it was asked in vain since there was something new.
	vain int
}

// New makes a ring; Close ends it.
func New(o Options) (*Ring, error) {
	if o.DB == nil || o.Name == "" || len(o.Keys) == 0 || o.Fetch == nil || o.Query == nil && len(o.Notaries) > 0 {
		return nil, errors.New("key ring: database, name, signing keys and ways to ask must be given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	servers, err := lru.New[id.ServerName, *known](remembered)
	if err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	r := &Ring{
		o: o, log: o.Log, now: o.Now, own: make(map[string]Key),
		fetching: flight.New[id.ServerName, struct{}](),
		servers:  servers, slots: make(chan struct{}, allAtOnce),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_federation_key_fetches_total",
			Help: "Lists of keys that were asked for, by who was asked (server or notary) and outcome (taken, refused, failed).",
		}, []string{"asked", "outcome"}),
	}
	for name, k := range o.OldKeys {
		r.own[name] = k
	}
	for _, k := range o.Keys {
		// Signatures of our own are good as long as the operator has the key.
		r.own[k.ID] = Key{Public: k.Key.Public().(ed25519.PublicKey), ValidUntil: 1 << 62}
	}
	if o.Metrics != nil {
		if err := o.Metrics.Register(r.fetches); err != nil {
			return nil, fmt.Errorf("key ring: %w", err)
		}
	}
	return r, nil
}

// Close ends what runs, and waits for it.
func (r *Ring) Close() { r.fetching.Close() }

// load reads from storage what it has of servers of which memory has nothing.
func (r *Ring) load(ctx context.Context, wanted Wanted) error {
	var missing []id.ServerName
	r.mu.Lock()
	for server := range wanted {
		if _, ok := r.servers.Get(server); !ok && server != r.o.Name {
			missing = append(missing, server)
		}
	}
	r.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	rows, err := storage.Get(ctx, r.o.DB, func(tx *storage.Tx) ([]storage.ServerKey, error) { return tx.ListServerKeys(missing) })
	if err != nil {
		return fmt.Errorf("read the keys of servers: %w", err)
	}
	found := make(map[id.ServerName]map[string]Key, len(missing))
	for _, server := range missing {
		found[server] = make(map[string]Key)
	}
	for _, row := range rows {
		if public, err := parseKey(row.KeyID, row.Public); err == nil {
			found[row.Server][row.KeyID] = Key{Public: public, ValidUntil: row.ValidUntil, Expired: row.Expired}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for server, keys := range found {
		if !r.servers.Contains(server) {
			r.servers.Add(server, &known{keys: keys})
		}
	}
	return nil
}

// keys are the keys of a server that are in memory.
func (r *Ring) keys(server id.ServerName) map[string]Key {
	if server == r.o.Name {
		return r.own
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.servers.Get(server); ok {
		return k.keys
	}
	return nil
}

// update changes what is in memory of a server.
func (r *Ring) update(server id.ServerName, change func(*known)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.servers.Get(server)
	if !ok {
		k = &known{}
		r.servers.Add(server, k)
	}
	change(k)
}
