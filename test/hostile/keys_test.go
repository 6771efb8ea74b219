package hostile

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"parley/test/harness"
)

const keyRequest = "GET /_matrix/key/v2/server"

func publicKey(key ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

// newKey gives the peer another key to sign with.
func (p *peer) newKey(keyID string) {
	p.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.keyID, p.key = keyID, key
}

// twin is one who speaks in the peer's name, with the key that it has now.
func (p *peer) twin() *peer {
	return &peer{name: p.name, keyID: p.keyID, key: p.key, target: p.target, client: p.client, t: p.t}
}

// TestKeyLists has peers tell of their keys what can't be believed: nothing that they sign is.
// spec: server-server-api.md#publishing-keys
func TestKeyLists(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		outer := t
		network := harness.NewNetwork(t)
		parley := network.Parley(t, db, "")
		var sent atomic.Int64
		list := func(p *peer, changes ...any) []byte {
			fields := object{
				"server_name": p.name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(), "old_verify_keys": object{},
				"verify_keys": object{p.keyID: object{"key": publicKey(p.key)}},
			}
			for i := 0; i < len(changes); i += 2 {
				fields[changes[i].(string)] = changes[i+1]
			}
			return p.sign(fields)
		}
		for name, answers := range map[string]func(*peer) http.HandlerFunc{
			"none": func(*peer) http.HandlerFunc { return http.NotFound },
			"unsigned": func(p *peer) http.HandlerFunc {
				return answer(object{"server_name": p.name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(),
					"verify_keys": object{p.keyID: object{"key": publicKey(p.key)}}})
			},
			"signed by another key": func(p *peer) http.HandlerFunc {
				good := publicKey(p.key)
				forger := p.twin() // with a key that is not in the list
				forger.newKey(p.keyID)
				return text(string(list(forger, "verify_keys", object{p.keyID: object{"key": good}})))
			},
			"expired": func(p *peer) http.HandlerFunc {
				return text(string(list(p, "valid_until_ts", time.Now().Add(-time.Hour).UnixMilli())))
			},
			"without end of time": func(p *peer) http.HandlerFunc { return text(string(list(p, "valid_until_ts", "never"))) },
			"another server's":    func(p *peer) http.HandlerFunc { return text(string(list(p, "server_name", parley.Name))) },
			"an old key alone": func(p *peer) http.HandlerFunc {
				return text(string(list(p, "verify_keys", object{}, "old_verify_keys", object{p.keyID: object{"key": publicKey(p.key), "expired_ts": time.Now().UnixMilli()}})))
			},
			"a key that is none": func(p *peer) http.HandlerFunc {
				return text(string(list(p, "verify_keys", object{p.keyID: object{"key": "AAAA"}})))
			},
			"100 MB":  func(*peer) http.HandlerFunc { return flood(100<<20, &sent) },
			"endless": func(*peer) http.HandlerFunc { return flood(1<<50, &sent) },
		} {
			t.Run(name, func(t *testing.T) {
				p := newPeer(outer, network, parley) // to the end, as Parley remembers whom it asked in vain
				p.answer(keyRequest, answers(p))
				sent.Store(0)
				for range 3 { // the peer is asked once, or the answer would cost it nothing
					p.push(p.transaction(nil)).WantError(t, http.StatusUnauthorized, "M_UNAUTHORIZED")
				}
				if n := p.times(keyRequest); n != 1 {
					t.Errorf("the peer was asked %d times", n)
				}
				if n := sent.Load(); n > 20<<20 {
					t.Errorf("Parley read %d MB", n>>20)
				}
			})
		}
	})
}

// TestKeysThatChange: a server may take another key; nobody else may take it for them, and what is signed with a key of
// which it says that it is over is refused.
// spec: rooms/v5.md#signing-key-validity-period
func TestKeysThatChange(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := newScene(t, db)
		p := s.peer
		before := s.state(t)
		thief := p.twin() // has the first key

		// Another key under another ID, and of the first one it says that it is over.
		p.newKey("ed25519:b")
		over := time.Now().Add(-time.Minute).UnixMilli()
		p.answer(keyRequest, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(p.sign(object{
				"server_name": p.name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(),
				"verify_keys":     object{p.keyID: object{"key": publicKey(p.key)}},
				"old_verify_keys": object{thief.keyID: object{"key": publicKey(thief.key), "expired_ts": over}},
			}))
		})
		// A server is not asked again at once, lest somebody have us ask it all the time.
		for deadline := time.Now().Add(time.Minute); p.push(p.transaction(nil)).Status != http.StatusOK; time.Sleep(time.Second) {
			if time.Now().After(deadline) {
				t.Fatal("the peer's new key is not believed")
			}
		}
		s.unharmed(t, before)
		thief.push(thief.transaction(nil)).WantError(t, http.StatusUnauthorized, "M_UNAUTHORIZED")
		stolen := thief.seal(s.room.message(evil))
		if text := s.room.send(t, stolen); text == "" {
			t.Error("an event by a key that is over was taken")
		}
		s.unharmed(t, before)

		// An event of the time of the old key is good.
		fields := s.room.message("of old")
		fields["origin_server_ts"] = over - 60_000
		old := thief.seal(fields)
		if text := s.room.send(t, old); text != "" {
			t.Errorf("an event of the time of its key was refused: %s", text)
		}
		s.room.advance(old)
		s.unharmed(t, before)

		// Another key under the same ID, as of a server that was set up anew.
		forger := p.twin()
		forger.newKey(p.keyID)
		forged := forger.seal(s.room.message(evil))
		resp := p.push(p.transaction([]json.RawMessage{forged.raw})).WantOK(t)
		if resp.Get("pdus."+escape(forged.id)+".error").Str == "" {
			t.Errorf("an event by a key that the peer does not have was taken: %s", resp.Body)
		}
		forger.push(forger.transaction(nil)).WantError(t, http.StatusUnauthorized, "M_UNAUTHORIZED")
		s.unharmed(t, before)
	})
}
