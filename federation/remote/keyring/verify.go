package keyring

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/signedjson"
	"parley/storage"
)

// maxSignatures bounds how many signatures of one server an object may have.
const maxSignatures = 20

var (
	// ErrUnsigned says that an object has no signature of a server that we could check.
	ErrUnsigned = errors.New("it has no signature of this server")
	// ErrNoKey says that the key of a signature can't be had, or was none of the server's at the time.
	ErrNoKey = errors.New("there is no good key for the signature")
)

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }

// named is a signature with the ID of its key.
type named struct {
	key       string
	signature signature
}

// signatures are those of one server of an object, by ed25519 keys.
func signatures(object []byte, server id.ServerName) []named {
	var out []named
	gjson.GetBytes(object, "signatures").ForEach(func(signer, of gjson.Result) bool {
		if signer.Str != string(server) {
			return true
		}
		out = nil // the last field of a name is the one that counts
		of.ForEach(func(key, s gjson.Result) bool {
			if strings.HasPrefix(key.Str, "ed25519:") && s.Type == gjson.String && len(out) < maxSignatures {
				out = append(out, named{key.Str, signature(s.Str)})
			}
			return true
		})
		return true
	})
	return out
}

// goodFor says whether the key may have signed an event of a time, by the rule of the room's
// version: since version 5 a current key is good for as long as its server has said.
//
// spec: rooms/v5.md#signing-key-validity-period
func (k Key) goodFor(at spec.Timestamp, rule gomatrixserverlib.SignatureValidityCheckFunc) bool {
	switch {
	case k.Expired != 0:
		return int64(at) < k.Expired
	case rule == nil:
		return int64(at) <= k.ValidUntil
	}
	return rule(at, spec.Timestamp(k.ValidUntil))
}

// current says whether a server may sign with the key now what is not an event.
func (k Key) current(now int64) bool { return k.Expired == 0 && now <= k.ValidUntil }

// VerifyJSONs implements gomatrixserverlib.JSONVerifier: an object is good when one of its signatures
// by the server is. The results are in the order of the requests.
func (r *Ring) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	signed := make([][]named, len(requests))
	wanted := make(Wanted)
	for i := range requests {
		server := id.ServerName(requests[i].ServerName)
		if signed[i] = signatures(requests[i].Message, server); len(signed[i]) == 0 {
			results[i].Error = fmt.Errorf("%s: %w", server, ErrUnsigned)
		}
		for _, s := range signed[i] {
			wanted.add(server, s.key, int64(requests[i].AtTS))
		}
	}
	lacking := func() Wanted {
		missing := make(Wanted)
		for i := range requests {
			if results[i].Error == nil && len(r.candidates(&requests[i], signed[i])) == 0 {
				for _, s := range signed[i] {
					missing.add(id.ServerName(requests[i].ServerName), s.key, int64(requests[i].AtTS))
				}
			}
		}
		return missing
	}
	if err := r.ensure(ctx, wanted, lacking); err != nil {
		return nil, err
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(requests), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(requests)); i = next.Add(1) - 1 {
				if results[i].Error == nil {
					results[i].Error = r.check(&requests[i], signed[i])
				}
			}
		})
	}
	wg.Wait()
	return results, nil
}

// candidate is a signature whose key is known, and good for the time.
type candidate struct {
	Key
	signature
}

func (r *Ring) candidates(q *gomatrixserverlib.VerifyJSONRequest, signed []named) []candidate {
	server := id.ServerName(q.ServerName)
	keys := r.keys(server)
	var out []candidate
	for _, s := range signed {
		k, ok := keys[s.key]
		// What we sign ourselves is not bound to what we tell others of our keys.
		if ok && (server == r.o.Name && k.Expired == 0 || k.goodFor(q.AtTS, q.ValidityCheckingFunc)) {
			out = append(out, candidate{k, s.signature})
		}
	}
	return out
}

func (r *Ring) check(q *gomatrixserverlib.VerifyJSONRequest, signed []named) error {
	found := r.candidates(q, signed)
	if len(found) == 0 {
		return fmt.Errorf("%s: %w", q.ServerName, ErrNoKey)
	}
	// Which numbers an event may have is for its room's version to say; in old ones it may be any.
	object, err := signedjson.Signed(q.Message)
	if err != nil {
		if object, err = signedjson.SignedOfOld(q.Message); err != nil {
			return err
		}
	}
	for _, c := range found {
		if c.signature.of(c.Public, object) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", q.ServerName, signedjson.ErrSignature)
}

// VerifyNow checks a server's signature of a text in canonical form, made now by one of its
// current keys.
func (r *Ring) VerifyNow(ctx context.Context, server id.ServerName, key, sig string, text []byte) error {
	if !strings.HasPrefix(key, "ed25519:") || len(key) > id.MaxLength {
		return fmt.Errorf("%s: %w", server, ErrNoKey)
	}
	now := r.now().UnixMilli()
	wanted := Wanted{server: {key: now}}
	lacking := func() Wanted {
		// A server that was set up anew has another key of the same name.
		if k, ok := r.keys(server)[key]; ok && k.current(now) && signature(sig).of(k.Public, text) {
			return nil
		}
		return wanted
	}
	if err := r.ensure(ctx, wanted, lacking); err != nil {
		return err
	}
	k, ok := r.keys(server)[key]
	switch {
	case !ok || !k.current(now):
		return fmt.Errorf("%s: %w", server, ErrNoKey)
	case !signature(sig).of(k.Public, text):
		return fmt.Errorf("%s: %w", server, signedjson.ErrSignature)
	}
	return nil
}
