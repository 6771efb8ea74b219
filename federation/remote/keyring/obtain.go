package keyring

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/storage"
)

// maxQuery bounds of how many servers a notary is asked at once.
const maxQuery = 100

// ensure gets keys that are lacking: from storage, then from their servers, then from notaries.
func (r *Ring) ensure(ctx context.Context, wanted Wanted, lacking func() Wanted) error {
	if err := r.load(ctx, wanted); err != nil {
		return err
	}
	missing := lacking()
	if len(missing) == 0 {
		return nil
	}
	r.fetchAll(ctx, missing)
	if missing = lacking(); len(missing) > 0 {
		r.queryAll(ctx, missing)
	}
	return context.Cause(ctx)
}

// fetchAll asks servers for their keys. Whatever goes wrong is noted, and seen in what is still
// lacking.
func (r *Ring) fetchAll(ctx context.Context, wanted Wanted) {
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for server := range wanted {
		if server == r.o.Name {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			r.fetch(ctx, server)
			<-slots
		})
	}
}

// fetch asks a server for its keys, unless it was asked a short time ago.
func (r *Ring) fetch(ctx context.Context, server id.ServerName) {
	if r.asked(server) {
		return
	}
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	// The place is held until the server has answered, although who asks may go before.
	free := sync.OnceFunc(func() { <-r.slots })
	var began atomic.Bool
	// The error is that of a context, which whoever asks for the key sees too.
	_, _ = r.fetching.Do(ctx, server, func(ctx context.Context) (struct{}, error) {
		began.Store(true)
		defer free()
		if !r.asked(server) { // since
			r.fetchNow(ctx, server)
		}
		return struct{}{}, nil
	})
	if !began.Load() { // somebody else has it asked
		free()
	}
}

// asked says whether a server was asked a short time ago.
func (r *Ring) asked(server id.ServerName) (soon bool) {
	r.update(server, func(k *known) { soon = r.now().Before(k.nextFetch) })
	return soon
}

func (r *Ring) fetchNow(ctx context.Context, server id.ServerName) {
	before := r.keys(server)
	text, err := r.o.Fetch(ctx, server)
	if ctx.Err() != nil {
		return
	}
	outcome := "failed"
	if err == nil {
		outcome = "refused"
		var list *List
		if list, err = ParseList(text, server); err == nil && list.ValidUntil <= r.now().UnixMilli() {
			err = fmt.Errorf("%w: %s: it was valid until %s", ErrList, server, time.UnixMilli(list.ValidUntil).UTC())
		}
		if err == nil {
			outcome = "taken"
			if err = r.take(ctx, list, true); err != nil {
				r.log.Error("cannot keep the keys of a server", "server", server, "error", err)
			}
		}
	}
	r.fetches.WithLabelValues("server", outcome).Inc()
	if outcome != "taken" {
		r.log.Info("a server's keys can't be had from it", "server", server, "error", err)
	}
	r.update(server, func(k *known) {
		if outcome == "taken" && !maps.EqualFunc(before, k.keys, Key.equal) {
			k.vain = 0
		}
		wait := min(firstWait<<min(k.vain, 10), longestWait)
		k.vain++
		k.nextFetch = r.now().Add(wait - rand.N(wait/4))
	})
}

// queryAll asks the notaries, one after the other, for what is wanted.
func (r *Ring) queryAll(ctx context.Context, wanted Wanted) {
	left := make(Wanted)
	r.mu.Lock()
	now := r.now()
	for server, keys := range wanted {
		if k, ok := r.servers.Get(server); ok && server != r.o.Name && !now.Before(k.nextQuery) {
			left[server] = keys
		}
	}
	r.mu.Unlock()
	asked := slices.Collect(maps.Keys(left))
	answered := make(map[id.ServerName]bool)
	for _, notary := range r.o.Notaries {
		for batch := range slices.Chunk(slices.Sorted(maps.Keys(left)), maxQuery) {
			if ctx.Err() != nil {
				return
			}
			part := make(Wanted, len(batch))
			for _, server := range batch {
				if server != notary { // who didn't answer itself
					part[server] = left[server]
				}
			}
			if len(part) == 0 {
				continue
			}
			taken, err := r.query(ctx, notary, part)
			if err != nil {
				r.fetches.WithLabelValues("notary", "failed").Inc()
				r.log.Info("a notary does not answer", "notary", notary, "servers", len(part), "error", err)
				break
			}
			for _, server := range taken {
				answered[server] = true
				if r.has(server, left[server]) {
					delete(left, server)
				}
			}
		}
	}
	for _, server := range asked {
		wait := time.Minute
		if !answered[server] {
			wait = 10 * time.Minute
		}
		r.update(server, func(k *known) { k.nextQuery = now.Add(wait) })
	}
}

// has says whether a key is known for each that is wanted, good for its time or not.
func (r *Ring) has(server id.ServerName, wanted map[string]int64) bool {
	keys := r.keys(server)
	for name := range wanted {
		if _, ok := keys[name]; !ok {
			return false
		}
	}
	return true
}

// query asks one notary, and says from which servers it had lists that were taken.
func (r *Ring) query(ctx context.Context, notary id.ServerName, wanted Wanted) ([]id.ServerName, error) {
	lists, err := r.o.Query(ctx, notary, wanted)
	if err != nil {
		return nil, err
	}
	// What a notary says counts by its signature, not by its connection.
	if err := r.load(ctx, Wanted{notary: nil}); err != nil {
		return nil, err
	}
	now := r.now().UnixMilli()
	if !slices.ContainsFunc(slices.Collect(maps.Values(r.keys(notary))), func(k Key) bool { return k.current(now) }) {
		r.fetch(ctx, notary)
	}
	var taken []id.ServerName
	for _, text := range lists {
		server := id.ServerName(gjson.GetBytes(text, "server_name").Str)
		if _, ok := wanted[server]; !ok {
			continue
		}
		list, err := r.notarised(text, notary, server)
		if err == nil {
			err = r.take(ctx, list, false)
		}
		if err != nil {
			r.fetches.WithLabelValues("notary", "refused").Inc()
			r.log.Info("a list of keys from a notary is refused", "notary", notary, "server", server, "error", err)
			continue
		}
		r.fetches.WithLabelValues("notary", "taken").Inc()
		taken = append(taken, server)
	}
	return taken, nil
}

// notarised reads a list that a notary must have signed.
func (r *Ring) notarised(text []byte, notary, server id.ServerName) (*List, error) {
	list, err := ParseList(text, server)
	if err != nil {
		return nil, err
	}
	signed, err := signedjson.Signed(text)
	if err != nil {
		return nil, err
	}
	now, keys := r.now().UnixMilli(), r.keys(notary)
	for _, s := range signatures(text, notary) {
		if k, ok := keys[s.key]; ok && k.current(now) && s.signature.of(k.Public, signed) {
			return list, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: the notary %s has not signed it", ErrList, server, notary)
}

// take keeps a list. One that comes from its server itself is the newest word; a notary's may be
// old, and changes no key that is known.
func (r *Ring) take(ctx context.Context, list *List, newest bool) error {
	keys := make(map[string]Key)
	maps.Copy(keys, r.keys(list.Server))
	limit := r.now().Add(longestValidity).UnixMilli()
	for name, k := range list.Keys {
		k.ValidUntil = min(k.ValidUntil, limit)
		if old, ok := keys[name]; ok {
			changed := !bytes.Equal(old.Public, k.Public)
			if changed {
				r.log.Warn("a server's key has changed under the same name", "server", list.Server, "key", name,
					"was", base64.RawStdEncoding.EncodeToString(old.Public), "is", base64.RawStdEncoding.EncodeToString(k.Public), "taken", newest)
			}
			switch {
			case newest:
			case changed || old.Expired != 0:
				continue
			case k.Expired == 0:
				k.ValidUntil = max(k.ValidUntil, old.ValidUntil)
			}
		}
		keys[name] = k
	}
	full := len(keys) > 2*maxKeys
	if full {
		// It changes its keys all the time, and so has none by which old events could be checked.
		maps.DeleteFunc(keys, func(name string, _ Key) bool { _, ok := list.Keys[name]; return !ok })
	}
	row := &storage.ServerKeyList{Server: list.Server, Fetched: r.now().UnixMilli(), ValidUntil: list.ValidUntil, JSON: list.JSON}
	err := r.o.DB.Write(ctx, func(tx *storage.Tx) error {
		if full {
			if err := tx.DeleteServerKeys(list.Server); err != nil {
				return err
			}
		}
		for name := range list.Keys {
			k := keys[name]
			if err := tx.InsertServerKey(&storage.ServerKey{
				Server: list.Server, KeyID: name, Public: base64.RawStdEncoding.EncodeToString(k.Public),
				ValidUntil: k.ValidUntil, Expired: k.Expired,
			}); err != nil {
				return err
			}
		}
		return tx.InsertServerKeyList(row)
	})
	r.update(list.Server, func(k *known) { k.keys = keys })
	return err
}

// Lists are the newest lists of servers for somebody who asks us as a notary, signed by us: those
// that we have, and where they aren't good for long enough and their servers answer, new ones.
//
// spec: server-server-api.md#querying-keys-through-another-server
func (r *Ring) Lists(ctx context.Context, wanted Wanted) ([]json.RawMessage, error) {
	stale := make(Wanted)
	have := make(map[id.ServerName]json.RawMessage)
	read := func(servers Wanted) error {
		return r.o.DB.Read(ctx, func(tx *storage.Tx) error {
			for server := range servers {
				switch l, err := tx.GetServerKeyList(server); {
				case err == nil:
					have[server] = l.JSON
					if !r.freshEnough(l, wanted[server]) {
						stale[server] = wanted[server]
					}
				case isNotFound(err):
					stale[server] = wanted[server]
				default:
					return err
				}
			}
			return nil
		})
	}
	if err := read(wanted); err != nil {
		return nil, fmt.Errorf("read lists of keys: %w", err)
	}
	delete(stale, r.o.Name)
	if len(stale) > 0 {
		r.fetchAll(ctx, stale)
		if err := read(maps.Clone(stale)); err != nil {
			return nil, fmt.Errorf("read lists of keys: %w", err)
		}
	}
	out := []json.RawMessage{}
	if _, ok := wanted[r.o.Name]; ok {
		own, err := r.OwnList()
		if err != nil {
			return nil, err
		}
		out = append(out, own)
	}
	for _, server := range slices.Sorted(maps.Keys(have)) {
		signed, err := signedjson.Sign(have[server], string(r.o.Name), r.o.Keys[0].ID, r.o.Keys[0].Key)
		if err != nil {
			return nil, fmt.Errorf("sign the keys of %s: %w", server, err)
		}
		out = append(out, signed)
	}
	return out, nil
}

// freshEnough says whether a list that we have may be given to somebody who wants these keys.
//
// spec: server-server-api.md#get_matrixkeyv2server
func (r *Ring) freshEnough(l storage.ServerKeyList, wanted map[string]int64) bool {
	now := r.now().UnixMilli()
	if now > l.Fetched+(l.ValidUntil-l.Fetched)/2 {
		return false
	}
	for name, at := range wanted {
		path := "verify_keys." + gjson.Escape(name)
		if l.ValidUntil < at || name != "" && !gjson.GetBytes(l.JSON, path).Exists() && !gjson.GetBytes(l.JSON, "old_"+path).Exists() {
			return false
		}
	}
	return true
}

// OwnList is what we say of our own keys.
//
// spec: server-server-api.md#publishing-keys
func (r *Ring) OwnList() (json.RawMessage, error) {
	type verifyKey struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts,omitempty"`
	}
	list := struct {
		Server     id.ServerName        `json:"server_name"`
		ValidUntil int64                `json:"valid_until_ts"`
		Keys       map[string]verifyKey `json:"verify_keys"`
		OldKeys    map[string]verifyKey `json:"old_verify_keys"`
	}{r.o.Name, r.now().Add(ownValidity).UnixMilli(), make(map[string]verifyKey), make(map[string]verifyKey)}
	for name, k := range r.own {
		v := verifyKey{base64.RawStdEncoding.EncodeToString(k.Public), k.Expired}
		if k.Expired != 0 {
			list.OldKeys[name] = v
		} else {
			list.Keys[name] = v
		}
	}
	text, err := json.Marshal(list)
	for _, k := range r.o.Keys {
		if err == nil {
			text, err = signedjson.Sign(text, string(r.o.Name), k.ID, k.Key)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("our list of keys: %w", err)
	}
	return text, nil
}
