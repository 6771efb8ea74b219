//go:build goolm

package soak

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// patience is for how long what must become true in the end may take: nodes that were down have
// much to catch up with, which on a busy machine is slow.
const patience = 10 * time.Minute

func TestSoak(t *testing.T) {
	s := os.Getenv("PARLEY_SOAK")
	if s == "" {
		t.Skip("PARLEY_SOAK does not say for how long: make soak")
	}
	last, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("PARLEY_SOAK: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, for %v", seed, last)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer w.alive.Wait()
	defer cancel()
	w.settle(ctx)

	end := time.Now().Add(last)
	crash := time.Now().Add(5 * time.Second)
	for n := 0; time.Now().Before(end); n++ {
		w.step(r, n)
		time.Sleep(time.Duration(20+r.IntN(80)) * time.Millisecond)
		if time.Now().After(crash) {
			node := w.nodes[r.IntN(len(w.nodes))]
			w.count("crashes")
			node.Kill()
			time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			node.Run()
			crash = time.Now().Add(time.Duration(10+r.IntN(20)) * time.Second)
		}
	}
	w.finish(ctx)
	w.report()
}

// newWorld starts the nodes, one of them on PostgreSQL where there is one, and makes people and rooms.
func newWorld(t *testing.T) *world {
	w := &world{t: t, messages: make(map[id.EventID]*message), bodies: make(map[id.EventID]string), counts: make(map[string]int), errors: make(map[string]int),
		transport: &http.Transport{MaxIdleConnsPerHost: 100, IdleConnTimeout: 10 * time.Second}}
	network := harness.NewNetwork(t)
	for i := range 3 {
		db := harness.Database{Kind: "sqlite"}
		if i == 1 && os.Getenv("PARLEY_TEST_POSTGRES") != "" {
			db = harness.Database{Kind: "postgres", URL: harness.NewPostgres(t)}
		}
		w.nodes = append(w.nodes, network.Parley(t, db, ""))
	}
	for i := range people {
		node := w.nodes[i%len(w.nodes)]
		u := node.Register(t, fmt.Sprintf("person%d", i))
		w.people = append(w.people, &person{user: u.UserID, password: u.Password, node: node, anchored: i < len(w.nodes), in: make(map[id.RoomID]bool)})
		if i == 0 {
			for n := range rooms {
				room := u.NewRoom(&mautrix.ReqCreateRoom{Name: fmt.Sprintf("room %d", n), Preset: "public_chat"})
				u.SetState(room, event.StateEncryption, "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
				w.rooms = append(w.rooms, room)
				w.people[0].put(room, true)
			}
		}
	}
	return w
}

// settle gives everybody a device, and has them join some rooms.
func (w *world) settle(ctx context.Context) {
	w.t.Helper()
	for i, p := range w.people {
		if err := w.add(ctx, p); err != nil {
			w.t.Fatal(err)
		}
		for n, room := range w.rooms {
			if !p.isIn(room) && (p.anchored || (i+n)%2 == 0) {
				if err := w.move(ctx, p.all()[0], room); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	}
	clear(w.counts)
}

// finish waits until all is quiet, all nodes know who is in which room, and everybody knows of everybody; then each device says something to all, and in the
// end all must have been heard.
func (w *world) finish(ctx context.Context) {
	w.t.Helper()
	w.quiet(ctx)
	w.await("that all nodes know who is where", func() error { return w.sameMembers(ctx) })
	w.await("that all devices know of each other", func() error { return w.knowEachOther(ctx) })
	w.eachInTurn(ctx, func(ctx context.Context, d *device) error {
		for _, room := range d.person.joined() {
			if err := d.say(ctx, room, "to all from "+string(d.device), true); err != nil {
				return err
			}
		}
		return nil
	})
	w.complete(ctx)
	w.await("that all is decrypted", func() error {
		if err := w.undecrypted(); err == nil {
			return nil
		}
		// What came to a node late, into a part of the room that had passed, is found by who looks for it.
		w.eachInTurn(ctx, func(ctx context.Context, d *device) error { return d.lookBack(ctx) })
		return w.undecrypted()
	})
	w.await("that all nodes tell the same", func() error { return w.sameEverywhere(ctx) })
}

// quiet waits until everybody has done what they were asked.
func (w *world) quiet(ctx context.Context) {
	w.eachInTurn(ctx, func(context.Context, *device) error { return nil })
}

// eachInTurn has each device do something, and waits until it is done.
func (w *world) eachInTurn(ctx context.Context, do func(context.Context, *device) error) {
	w.t.Helper()
	var done sync.WaitGroup
	for _, d := range w.everyone() {
		done.Go(func() {
			answer := make(chan error, 1)
			select {
			case d.asked <- func(ctx context.Context) error { answer <- do(ctx, d); return nil }:
			case <-d.over:
				return
			}
			select {
			case err := <-answer:
				if err != nil {
					w.t.Errorf("%s of %s: %v", d.device, d.user, err)
				}
			case <-d.over:
			}
		})
	}
	done.Wait()
}

// await tries until there is no error.
func (w *world) await(what string, try func() error) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s: not after %v: %v", what, patience, err)
			return
		}
	}
}

// company is, for each person, the people who are in a room with them, and their devices.
func (w *world) company() map[id.UserID]map[id.UserID][]id.DeviceID {
	out := make(map[id.UserID]map[id.UserID][]id.DeviceID)
	for _, p := range w.people {
		out[p.user] = make(map[id.UserID][]id.DeviceID)
		for _, other := range w.people {
			if !slices.ContainsFunc(p.joined(), other.isIn) {
				continue
			}
			for _, d := range other.all() {
				out[p.user][other.user] = append(out[p.user][other.user], d.device)
			}
		}
	}
	return out
}

func (w *world) knowEachOther(ctx context.Context) error {
	company := w.company()
	var errs []error
	for _, d := range w.everyone() {
		errs = append(errs, d.knows(ctx, company[d.user]))
	}
	return errors.Join(errs...)
}

// complete makes sure that what is said in the end is for all.
func (w *world) complete(ctx context.Context) {
	w.t.Helper()
	company := w.company()
	for _, m := range w.sent() {
		if !m.final {
			continue
		}
		for _, p := range w.people {
			if !p.isIn(m.room) {
				continue
			}
			for _, device := range company[m.from.user][p.user] {
				to := address{p.user, device}
				if to != m.from && !slices.Contains(m.due, to) {
					w.t.Errorf("the last message of %s of %s was not encrypted for %s of %s: %s", m.from.device, m.from.user, device, p.user, w.why(ctx, m.from, to))
				}
			}
		}
	}
}

// why says what a device has been told of another that it did not encrypt for.
func (w *world) why(ctx context.Context, from, to address) string {
	for _, d := range w.everyone() {
		if d.address != from {
			continue
		}
		known, err := d.machine.CryptoStore.GetDevices(ctx, to.user)
		if err != nil || known == nil {
			return fmt.Sprintf("nothing of that user: %v", err)
		}
		if known[to.device] == nil {
			return "not that it is there"
		}
		answer, err := d.client.ClaimKeys(ctx, &mautrix.ReqClaimKeys{OneTimeKeys: mautrix.OneTimeKeysRequest{to.user: {to.device: id.KeyAlgorithmSignedCurve25519}}})
		if err != nil {
			return fmt.Sprintf("no key: %v", err)
		}
		return fmt.Sprintf("keys %v, failures %v", answer.OneTimeKeys, answer.Failures)
	}
	return "it is gone"
}

// each calls back for each message and each device that is still there and that the key was sent to.
func (w *world) each(fn func(event id.EventID, m *message, d *device, seen, decrypted bool, reason error)) {
	devices := make(map[address]*device)
	for _, d := range w.everyone() {
		devices[d.address] = d
	}
	for event, m := range w.sent() {
		for _, to := range m.due {
			if d := devices[to]; d != nil {
				d.mu.Lock()
				decrypted, seen := d.seen[event]
				reason := d.reasons[event]
				d.mu.Unlock()
				fn(event, m, d, seen, decrypted, reason)
			}
		}
	}
}

// undecrypted says what is not decrypted that should be.
func (w *world) undecrypted() (err error) {
	n := 0
	w.each(func(event id.EventID, m *message, d *device, seen, decrypted bool, reason error) {
		// Who has left does not hear what was said after that, nor who has come since what was said before.
		if seen && !decrypted || !seen && m.final {
			n++
			err = fmt.Errorf("%d are not, for one %s by %s of %s, for %s of %s (it came: %v): %v", n, event, m.from.device, m.from.user, d.device, d.user, seen, reason)
		}
	})
	return err
}

// sameMembers says whether all nodes know who is in which room.
func (w *world) sameMembers(ctx context.Context) error {
	for _, p := range w.people[:len(w.nodes)] {
		for _, room := range w.rooms {
			members, err := p.all()[0].client.JoinedMembers(ctx, room)
			if err != nil {
				return err
			}
			for _, other := range w.people {
				if _, joined := members.Joined[other.user]; joined != other.isIn(room) {
					return fmt.Errorf("%s has it that %s is in %s: %v", p.node.Name, other.user, room, joined)
				}
			}
		}
	}
	return nil
}

// sameEverywhere says whether all nodes have all messages of all rooms.
func (w *world) sameEverywhere(ctx context.Context) error {
	want := make(map[id.RoomID]map[id.EventID]bool)
	for event, m := range w.sent() {
		if want[m.room] == nil {
			want[m.room] = make(map[id.EventID]bool)
		}
		want[m.room][event] = true
	}
	for _, p := range w.people[:len(w.nodes)] {
		for room, events := range want {
			missing := maps.Clone(events)
			client := p.all()[0].client
			for from := ""; ; {
				page, err := client.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 500)
				if err != nil {
					return err
				}
				for _, evt := range page.Chunk {
					delete(missing, evt.ID)
				}
				if from = page.End; from == "" {
					break
				}
			}
			for event := range missing {
				return fmt.Errorf("%s does not have %s in %s, nor %d others", p.node.Name, event, room, len(missing)-1)
			}
		}
	}
	return nil
}

// report prints the figures; those of what was lost must be 0.
func (w *world) report() {
	var received, decrypted, unseen, lost int
	w.each(func(_ id.EventID, _ *message, _ *device, seen, ok bool, _ error) {
		switch {
		case ok:
			received, decrypted = received+1, decrypted+1
		case seen:
			received, lost = received+1, lost+1
		default:
			unseen++
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("%d people with %d devices in %d rooms on %d nodes; %v", people, len(w.everyone()), rooms, len(w.nodes), w.counts)
	w.t.Logf("sent %d, received %d, decrypted %d, undecryptable %d (%d more are for those who were not in the room then)",
		len(w.messages), received, decrypted, lost, unseen)
	for _, text := range slices.SortedFunc(maps.Keys(w.errors), func(a, b string) int { return cmp.Compare(w.errors[b], w.errors[a]) }) {
		w.t.Logf("%d times %s", w.errors[text], text)
	}
	for _, node := range w.nodes {
		for line := range strings.Lines(node.Logs()) {
			if strings.Contains(line, "level=ERROR") {
				w.t.Logf("%s logged %s", node.Name, strings.TrimSpace(line))
			}
		}
	}
	if decrypted == 0 {
		w.t.Error("nothing was decrypted at all")
	}
	if lost != 0 {
		w.t.Errorf("%d messages can't be decrypted", lost)
	}
}
