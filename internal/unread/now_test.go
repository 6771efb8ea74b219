package unread

import (
	"math/rand/v2"
	"testing"

	"parley/internal/id"
	"parley/storage"
	"parley/userserver"
)

// TestNow compares what is told from memory with what is counted anew, along a random history.
func TestNow(t *testing.T) {
	each(t, func(p *place) {
		r := rand.New(rand.NewPCG(1, 2))
		pos := func() (at id.Pos) {
			p.ok(p.db.Read(p.ctx, func(tx *storage.Tx) (err error) {
				at, err = tx.GetPos()
				return err
			}))
			return at
		}
		first := p.say(alice, "one")
		p.count(p.counter)
		since := pos()
		told := 0
		for range 120 {
			switch n := r.IntN(12); {
			case n < 5:
				p.say(alice, "more")
			case n < 7:
				p.relate(carol, "m.thread", first)
			case n == 7:
				p.say(bob, "I have read it")
			case n == 8:
				p.send(alice, "m.room.message", `{"msgtype":"m.text","body":"you","m.mentions":{"user_ids":["@bob:test"]}}`)
			case n == 9:
				p.redact(alice, p.say(alice, "oops"))
			case n == 10:
				p.read(userserver.Markers{Read: p.say(alice, "read me")})
				p.count(p.counter) // as a sync does that finds a receipt
				since = pos()
			}
			at := pos()
			counts, ok, err := p.counter.Now(p.ctx, bob, p.room, since, at)
			p.ok(err)
			var got Counts
			if got = counts; !ok {
				p.count(p.counter)
				since = at
				continue
			}
			told++
			want := Counts{}
			fresh := newCounter(p, p)
			p.ok(p.db.Read(p.ctx, func(tx *storage.Tx) error {
				room, err := tx.GetRoom(p.room)
				if err != nil {
					return err
				}
				want, err = fresh.Count(tx, bob, &room)
				return err
			}))
			if got.Main != want.Main || len(got.Threads) != len(want.Threads) || got.Threads[first] != want.Threads[first] {
				p.Fatalf("from memory %v, counted anew %v", got, want)
			}
			since = at
		}
		if told < 60 {
			p.Errorf("only %d of 120 were told from memory", told)
		}
		// One who was never counted, or not since a change, is not told from memory.
		if _, ok, err := newCounter(p, p).Now(p.ctx, bob, p.room, since, pos()); ok || err != nil {
			p.Errorf("told from no memory: %v, %v", ok, err)
		}
		if _, ok, err := p.counter.Now(p.ctx, bob, p.room, pos()+1, pos()+1); ok || err != nil {
			p.Errorf("told although something may have changed: %v, %v", ok, err)
		}
	})
}
