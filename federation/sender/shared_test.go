package sender_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"parley/federation/sender"
	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// process makes one of several that have one database.
func process(t *testing.T, url string, n *network) *node {
	t.Helper()
	p := &node{t: t, broker: stream.NewBroker(), network: n}
	p.db = storagetest.Open(t, url, p.broker.Publish)
	var err error
	p.rooms, err = roomserver.New(roomserver.Options{DB: p.db, Name: "a", KeyID: "ed25519:1",
		Key: ed25519.NewKeyFromSeed(make([]byte, 32)), DefaultVersion: "11"})
	p.ok(err)
	p.users = userserver.New(userserver.Options{DB: p.db, ServerName: "a", Rooms: p.rooms, Publish: p.broker.Publish})
	t.Cleanup(p.users.Close)
	p.Sender, err = sender.New(sender.Options{DB: p.db, ServerName: "a", Remote: n, Rooms: p.rooms, Users: p.users, Broker: p.broker, Shared: true})
	p.ok(err)
	return p
}

// TestTwoProcesses has two processes on one database, of which neither hears what the other writes: one
// of them sends what both have, once; and when it ends the other goes on.
func TestTwoProcesses(t *testing.T) {
	url := storagetest.Postgres(t)
	n := &network{down: make(map[id.ServerName]bool), got: make(map[id.ServerName][]serverapi.Transaction), bodies: make(map[string]string)}
	first, second := process(t, url, n), process(t, url, n)
	room := first.room("b", "c")
	var said []string
	say := func(p *node) {
		body := strconv.Itoa(len(said))
		p.say(room, body)
		said = append(said, body)
	}
	arrived := func() error {
		for _, server := range []id.ServerName{"b", "c"} {
			if got := n.bodiesOf(server, room); !slices.Equal(got, said) {
				return fmt.Errorf("%s has got %v of %v", server, got, said)
			}
		}
		return nil
	}
	for range 5 {
		say(first)
		say(second)
	}
	eventually.OK(t, arrived)
	n.set(func() {
		for server, list := range n.got {
			events := 0
			for _, txn := range list {
				events += len(txn.PDUs)
			}
			if events != len(said) {
				t.Errorf("%s has got %d events, some of them twice; want %d", server, events, len(said))
			}
		}
	})
	first.Close()
	say(first) // its clients are still there
	say(second)
	eventually.OK(t, arrived)
	second.Close()
	if len(n.faults) > 0 {
		t.Error(n.faults)
	}
	if err := first.db.Read(context.Background(), func(tx *storage.Tx) error {
		c, err := tx.GetConsumer("federation")
		if err == nil && c.Holder != "" {
			t.Errorf("%s still holds the lease", c.Holder)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
