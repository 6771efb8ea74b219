package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/storage/storagetest"
)

// TestTakenByTwo has two processes with one database take in the same transactions at the same time, as
// when a server has lost patience and comes again by another door: each event is there once, and all
// have the same state.
func TestTakenByTwo(t *testing.T) {
	url := storagetest.Postgres(t)
	ctx := context.Background()
	m, links := newMesh(t, storagetest.Postgres(t), "a")
	for _, name := range []id.ServerName{"b", "second"} { // both are b
		links[name] = &wire{self: "b", mesh: m, dead: make(map[id.ServerName]bool), page: 1000}
		seed := make([]byte, 32)
		copy(seed, "b")
		s, err := New(Options{DB: storagetest.Open(t, url, nil), Name: "b", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed),
			DefaultVersion: "12", Remote: links[name]})
		ok(t, err)
		m[name] = &node{Server: s, user: id.NewUserID("u", "b")}
	}
	a, b, second := m["a"], m["b"], m["second"]
	room, err := a.Create(ctx, CreateRequest{Creator: a.user, Preset: "public_chat"})
	ok(t, err)
	ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
	known := len(a.events(t, room))
	for i := range 120 {
		switch i % 4 {
		case 0:
			_, err := a.Send(ctx, SendRequest{Room: room, Sender: a.user, Type: "m.room.topic", StateKey: new(string), Content: fmt.Appendf(nil, `{"topic":"%d"}`, i)})
			ok(t, err)
		case 1:
			ok(t, a.Join(ctx, MemberRequest{Room: room, Sender: id.NewUserID(fmt.Sprint("v", i), "a")}))
		default:
			a.say(t, room, fmt.Sprint(i))
		}
	}
	events := a.events(t, room)[known:]
	var wg sync.WaitGroup
	for _, n := range []*node{b, second} {
		wg.Go(func() {
			for part := range slices.Chunk(events, serverapi.MaxPDUs/5) {
				var raw []json.RawMessage
				for _, e := range part {
					raw = append(raw, e.JSON)
				}
				taken, err := n.Take(ctx, "a", raw)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range taken {
					if e.Err != nil {
						t.Errorf("%s: %v", e.Event, e.Err)
					}
				}
				n.say(t, room, "and what b says meanwhile")
			}
		})
	}
	wg.Wait()
	m.carry(t, "b", "a", room)
	m.agree(t, room, "a", "b", "second")
	times := make(map[id.EventID]int)
	for _, e := range b.events(t, room) {
		times[e.ID]++
	}
	for _, e := range events {
		if times[e.ID] != 1 {
			t.Errorf("%s is %d times in the timeline", e.ID, times[e.ID])
		}
	}
}
