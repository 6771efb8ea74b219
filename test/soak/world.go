//go:build goolm

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

const (
	people     = 20
	maxDevices = 3
	rooms      = 4
)

// person is a user of one of the nodes.
type person struct {
	user     id.UserID
	password string
	node     *harness.Server
	// anchored says that the person stays in all rooms, so that their node always has a part in them.
	anchored bool

	mu      sync.Mutex
	devices []*device
	in      map[id.RoomID]bool
}

func (p *person) joined() (in []id.RoomID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, joined := range p.in {
		if joined {
			in = append(in, room)
		}
	}
	slices.Sort(in)
	return in
}

func (p *person) isIn(room id.RoomID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in[room]
}

func (p *person) put(room id.RoomID, joined bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in[room] = joined
}

func (p *person) all() []*device {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.devices)
}

// message is one that was sent; due are the devices that its key was sent to.
type message struct {
	room  id.RoomID
	from  address
	body  string
	due   []address
	final bool
}

// world is all that there is.
type world struct {
	t         *testing.T
	nodes     []*harness.Server
	people    []*person
	rooms     []id.RoomID
	transport http.RoundTripper
	alive     sync.WaitGroup

	mu       sync.Mutex
	messages map[id.EventID]*message
	bodies   map[id.EventID]string
	counts   map[string]int
	errors   map[string]int
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// note keeps an error that is no failure by itself: nodes are down at times.
func (w *world) note(where string, err error) {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors[where+": "+text]++
}

func (w *world) said(event id.EventID, m *message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages[event] = m
}

// heard notes what a device has decrypted, which must be what all others have.
func (w *world) heard(event id.EventID, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other, ok := w.bodies[event]; ok && other != body {
		w.t.Errorf("%s is %q for one and %q for another", event, other, body)
	}
	w.bodies[event] = body
}

func (w *world) sent() map[id.EventID]*message {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[id.EventID]*message, len(w.messages))
	for event, m := range w.messages {
		out[event] = m
	}
	return out
}

// add gives a person a device that lives from now on.
func (w *world) add(ctx context.Context, p *person) error {
	d, err := newDevice(ctx, w, p)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.devices = append(p.devices, d)
	p.mu.Unlock()
	w.alive.Go(func() { d.live(ctx) })
	return nil
}

// drop has a device log out.
func (w *world) drop(ctx context.Context, d *device) error {
	if _, err := d.client.Logout(ctx); err != nil {
		return err
	}
	d.person.mu.Lock()
	d.person.devices = slices.DeleteFunc(d.person.devices, func(other *device) bool { return other == d })
	d.person.mu.Unlock()
	d.mu.Lock()
	d.gone = true
	d.mu.Unlock()
	close(d.over)
	return nil
}

func (w *world) everyone() (all []*device) {
	for _, p := range w.people {
		all = append(all, p.all()...)
	}
	return all
}

// step has somebody do something.
func (w *world) step(r *rand.Rand, n int) {
	p := w.people[r.IntN(len(w.people))]
	devices := p.all()
	d := devices[r.IntN(len(devices))]
	room := w.rooms[r.IntN(len(w.rooms))]
	switch dice := r.IntN(100); {
	case dice < 84:
		in := p.joined()
		if len(in) == 0 {
			return
		}
		room = in[r.IntN(len(in))]
		d.ask(func(ctx context.Context) error { return d.say(ctx, room, fmt.Sprintf("message %d", n), false) })
	case dice < 94 && !p.anchored:
		d.ask(func(ctx context.Context) error { return w.move(ctx, d, room) })
	case dice < 97 && len(devices) < maxDevices:
		d.ask(func(ctx context.Context) error {
			w.count("new devices")
			// It lives longer than the action that made it.
			return w.add(ctx, p)
		})
	case dice >= 97 && len(devices) > 1:
		d.ask(func(ctx context.Context) error {
			if len(p.all()) == 1 {
				return nil // another was quicker
			}
			w.count("devices lost")
			return w.drop(ctx, d)
		})
	}
}

// move has a person leave a room that they are in, or join it.
func (w *world) move(ctx context.Context, d *device, room id.RoomID) error {
	p := d.person
	if p.isIn(room) {
		w.count("leaves")
		if _, err := d.client.LeaveRoom(ctx, room); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
		p.put(room, false)
		return nil
	}
	w.count("joins")
	if _, err := d.client.JoinRoom(ctx, room.String(), &mautrix.ReqJoinRoom{Via: w.names()}); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	p.put(room, true)
	return nil
}

func (w *world) names() (names []string) {
	for _, node := range w.nodes {
		names = append(names, node.Name)
	}
	return names
}
