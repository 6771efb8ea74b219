//go:build goolm

package soak

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// address is a device as others know it.
type address struct {
	user   id.UserID
	device id.DeviceID
}

// device is one device of a person. What it does, it does one after the other: a turn of /sync, then what it was asked
// to do.
type device struct {
	address
	world   *world
	person  *person
	client  *mautrix.Client
	machine *crypto.OlmMachine
	asked   chan func(context.Context) error
	since   string

	mu sync.Mutex
	// seen are the encrypted events that came, true for those that it could decrypt; waiting are the others.
	seen    map[id.EventID]bool
	waiting map[id.EventID]*event.Event
	reasons map[id.EventID]error
	turns   int
	// over is closed by who has the device end; gone says that its account has no such device any more.
	over chan struct{}
	gone bool
}

// newDevice logs a person in and gives the device its keys.
func newDevice(ctx context.Context, w *world, p *person) (*device, error) {
	client, err := mautrix.NewClient(p.node.URL, "", "")
	if err != nil {
		return nil, err
	}
	client.Client = &http.Client{Timeout: time.Minute, Transport: w.transport}
	client.DefaultHTTPRetries, client.DefaultHTTPBackoff = 8, 100*time.Millisecond
	client.StateStore = mautrix.NewMemoryStateStore()
	if _, err := client.Login(ctx, &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: p.user.String()},
		Password:         p.password,
		StoreCredentials: true,
	}); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	d := &device{
		address: address{p.user, client.DeviceID}, world: w, person: p, client: client, asked: make(chan func(context.Context) error, 4),
		seen: make(map[id.EventID]bool), waiting: make(map[id.EventID]*event.Event), reasons: make(map[id.EventID]error), over: make(chan struct{}),
	}
	d.machine = crypto.NewOlmMachine(client, nil, crypto.NewMemoryStore(nil), client.StateStore.(crypto.StateStore))
	if err := d.machine.Load(ctx); err != nil {
		return nil, fmt.Errorf("make an olm account: %w", err)
	}
	if err := d.machine.ShareKeys(ctx, 0); err != nil {
		return nil, fmt.Errorf("upload keys: %w", err)
	}
	// From now on it is told of its owner's other devices.
	if _, err := d.machine.FetchKeys(ctx, []id.UserID{d.user}, true); err != nil {
		return nil, fmt.Errorf("look up the owner's devices: %w", err)
	}
	return d, nil
}

// live is what the device does until it ends.
func (d *device) live(ctx context.Context) {
	for {
		if err := d.turn(ctx); err != nil && ctx.Err() == nil {
			d.world.note("sync", err)
			time.Sleep(100 * time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.over:
			return
		case do := <-d.asked:
			if err := do(ctx); err != nil && ctx.Err() == nil {
				d.world.note("action", err)
			}
		default:
		}
	}
}

// ask has the device do something after its turn; false says that it has enough to do.
func (d *device) ask(do func(context.Context) error) bool {
	select {
	case d.asked <- do:
		return true
	default:
		return false
	}
}

// everything is a filter that leaves out what nobody here looks at.
const everything = `{"presence":{"not_types":["*"]},"room":{"timeline":{"limit":200},"ephemeral":{"not_types":["*"]},"include_leave":true}}`

// turn is one request to /sync and all that follows from its answer.
func (d *device) turn(ctx context.Context) error {
	resp, err := d.client.FullSyncRequest(ctx, mautrix.ReqSync{Timeout: 500, Since: d.since, FilterID: everything})
	if err != nil {
		return err
	}
	// An answer whose keys could not be asked for comes again. Servers of others that don't answer are another matter:
	// then ours says once more that their lists changed.
	if _, err := d.machine.FetchKeys(ctx, resp.DeviceLists.Changed, false); err != nil {
		return err
	}
	resp.DeviceLists.Changed = nil
	d.machine.ProcessSyncResponse(ctx, resp, d.since)
	for room, joined := range resp.Rooms.Join {
		if err := d.room(ctx, room, joined.State.Events, &joined.Timeline); err != nil {
			return err
		}
	}
	for room, left := range resp.Rooms.Leave {
		if err := d.room(ctx, room, left.State.Events, &left.Timeline); err != nil {
			return err
		}
	}
	d.retry(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since = resp.NextBatch
	d.turns++
	return nil
}

func (d *device) room(ctx context.Context, room id.RoomID, state []*event.Event, timeline *mautrix.SyncTimeline) error {
	if timeline.Limited && d.since != "" {
		if err := d.pageBack(ctx, room, timeline.PrevBatch); err != nil {
			return err
		}
	}
	for _, evt := range slices.Concat(state, timeline.Events) {
		d.event(ctx, room, evt)
	}
	return nil
}

// lookBack reads all of the rooms that the person is in.
func (d *device) lookBack(ctx context.Context) error {
	for _, room := range d.person.joined() {
		for from := ""; ; {
			page, err := d.client.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 500)
			if err != nil {
				return err
			}
			for _, evt := range page.Chunk {
				if evt.StateKey == nil {
					d.event(ctx, room, evt)
				}
			}
			if from = page.End; from == "" {
				break
			}
		}
	}
	d.retry(ctx)
	return nil
}

// pageBack reads what is missing before a timeline, back to something that is known.
func (d *device) pageBack(ctx context.Context, room id.RoomID, from string) error {
	for from != "" {
		page, err := d.client.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 100)
		if err != nil {
			return err
		}
		known := false
		for _, evt := range page.Chunk {
			d.mu.Lock()
			_, seen := d.seen[evt.ID]
			d.mu.Unlock()
			known = known || seen
			d.event(ctx, room, evt)
		}
		if known || page.End == from {
			return nil
		}
		from = page.End
	}
	return nil
}

func (d *device) event(ctx context.Context, room id.RoomID, evt *event.Event) {
	evt.RoomID = room
	evt.Type.Class = event.MessageEventType
	if evt.StateKey != nil {
		evt.Type.Class = event.StateEventType
	}
	if err := evt.Content.ParseRaw(evt.Type); err != nil {
		return // nothing that anybody sends here
	}
	switch {
	case evt.StateKey != nil:
		mautrix.UpdateStateStore(ctx, d.client.StateStore, evt)
		if evt.Type == event.StateMember {
			d.machine.HandleMemberEvent(ctx, evt)
		}
	case evt.Type == event.EventEncrypted:
		d.mu.Lock()
		if !d.seen[evt.ID] {
			d.seen[evt.ID] = false
			d.waiting[evt.ID] = evt
		}
		d.mu.Unlock()
	}
}

// retry tries to decrypt what could not be decrypted so far.
func (d *device) retry(ctx context.Context) {
	d.mu.Lock()
	waiting := make([]*event.Event, 0, len(d.waiting))
	for _, evt := range d.waiting {
		waiting = append(waiting, evt)
	}
	d.mu.Unlock()
	for _, evt := range waiting {
		plain, err := d.machine.DecryptMegolmEvent(ctx, evt)
		d.mu.Lock()
		if err == nil {
			d.seen[evt.ID] = true
			delete(d.waiting, evt.ID)
			d.world.heard(evt.ID, plain.Content.AsMessage().Body)
		} else {
			d.reasons[evt.ID] = err
		}
		d.mu.Unlock()
	}
}

// say sends an encrypted message to a room, and notes for which devices it is. fresh has it encrypted with a new key.
func (d *device) say(ctx context.Context, room id.RoomID, body string, fresh bool) error {
	members, err := d.client.JoinedMembers(ctx, room)
	if err != nil {
		return fmt.Errorf("members: %w", err)
	}
	var users []id.UserID
	for user := range members.Joined {
		users = append(users, user)
	}
	if !slices.Contains(users, d.user) {
		return nil // removed in the meantime
	}
	session, err := d.share(ctx, room, users, fresh)
	if err != nil {
		return err
	}
	var due []address
	for to, state := range session.Users {
		if state == crypto.OGSAlreadyShared {
			due = append(due, address{to.UserID, to.DeviceID})
		}
	}
	content, err := d.machine.EncryptMegolmEvent(ctx, room, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: body})
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	sent, err := d.client.SendMessageEvent(ctx, room, event.EventEncrypted, content)
	if errors.Is(err, mautrix.MForbidden) {
		return nil // no member any more
	} else if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	d.world.said(sent.EventID, &message{room: room, from: d.address, body: body, due: due, final: fresh})
	return nil
}

// share sends the key of a room to the devices of users. A fresh one is sent to all that it knows of: while a server
// does not give one-time keys of its users, it is asked again, as clients do whose users wait.
func (d *device) share(ctx context.Context, room id.RoomID, users []id.UserID, fresh bool) (*crypto.OutboundGroupSession, error) {
	for tries := 0; ; tries++ {
		if fresh {
			if err := d.machine.CryptoStore.RemoveOutboundGroupSession(ctx, room); err != nil {
				return nil, err
			}
		}
		if err := d.machine.ShareGroupSession(ctx, room, users); err != nil {
			return nil, fmt.Errorf("send the key: %w", err)
		}
		session, err := d.machine.CryptoStore.GetOutboundGroupSession(ctx, room)
		if err != nil || session == nil {
			return nil, fmt.Errorf("no key to encrypt with: %w", err)
		}
		missed, err := d.missed(ctx, session, users)
		if err != nil || missed == 0 || !fresh || tries == 20 {
			return session, err
		}
		d.world.count("keys sent again")
		time.Sleep(500 * time.Millisecond)
	}
}

// missed is how many devices of users did not get a key.
func (d *device) missed(ctx context.Context, session *crypto.OutboundGroupSession, users []id.UserID) (n int, err error) {
	for _, user := range users {
		known, err := d.machine.CryptoStore.GetDevices(ctx, user)
		if err != nil {
			return 0, err
		}
		for device := range known {
			to := crypto.UserDevice{UserID: user, DeviceID: device}
			if session.Users[to] != crypto.OGSAlreadyShared && (address{user, device}) != d.address {
				n++
			}
		}
	}
	return n, nil
}

// knows says which of the devices of users this one has not heard of, or of which it has that are no more. Users of whom
// it has heard nothing yet it will ask for when it needs to know.
func (d *device) knows(ctx context.Context, devices map[id.UserID][]id.DeviceID) error {
	for user, want := range devices {
		known, err := d.machine.CryptoStore.GetDevices(ctx, user)
		if err != nil {
			return err
		}
		if known == nil {
			continue
		}
		for _, device := range want {
			if known[device] == nil {
				return fmt.Errorf("%s of %s does not know of %s of %s", d.device, d.user, device, user)
			}
		}
		for device, of := range known {
			if !of.Deleted && !slices.Contains(want, device) {
				return fmt.Errorf("%s of %s still knows of %s of %s", d.device, d.user, device, user)
			}
		}
	}
	return nil
}
