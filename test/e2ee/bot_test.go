//go:build goolm

package e2ee

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// bot is an application service's user, whose device it makes and acts as, and which hears by what the service is sent.
type bot struct {
	*mautrix.Client
	bridge *harness.Bridge
	machine
}

// machine is one that is used by one at a time, as the library's store is made.
type machine struct {
	mu *sync.Mutex
	*crypto.OlmMachine
}

func (m machine) HandleToDeviceEvent(ctx context.Context, e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.OlmMachine.HandleToDeviceEvent(ctx, e)
}

func (m machine) HandleOTKCounts(ctx context.Context, counts *mautrix.OTKCount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.OlmMachine.HandleOTKCounts(ctx, counts)
}

func (m machine) HandleDeviceLists(ctx context.Context, changed *mautrix.DeviceLists, since string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.OlmMachine.HandleDeviceLists(ctx, changed, since)
}

func (m machine) HandleMemberEvent(ctx context.Context, e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.OlmMachine.HandleMemberEvent(ctx, e)
}

func newBot(t *testing.T, b *harness.Bridge) *bot {
	t.Helper()
	client := b.BotIntent().Client
	err := client.CreateDeviceMSC4190(t.Context(), "BOT", "the bot's device")
	var helper *cryptohelper.CryptoHelper
	if err == nil {
		helper, err = cryptohelper.NewCryptoHelper(client, []byte("pickle"), crypto.NewMemoryStore(nil))
	}
	if err == nil {
		err = helper.Init(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	client.Crypto = helper
	out := &bot{client, b, machine{new(sync.Mutex), helper.Machine()}}
	b.Attach(out.machine)
	return out
}

// read are the messages that the bot can decrypt, and why it can't the others.
func (b *bot) read(ctx context.Context, room id.RoomID) (texts []string, failed error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.bridge.Got() {
		if e.RoomID != room || e.Type != event.EventEncrypted || e.Sender == b.UserID {
			continue
		}
		plain, err := b.DecryptMegolmEvent(ctx, e)
		if err != nil {
			failed = fmt.Errorf("%s: %w", e.ID, err)
			continue
		}
		texts = append(texts, plain.Content.AsMessage().Body)
	}
	return texts, failed
}

// TestBot has somebody talk with an application service's bot in an encrypted room, also while it is away and the
// server is killed: every message is decrypted.
//
// spec: application-service-api.md#identity-assertion
func TestBot(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		bridge := harness.NewBridge(t)
		srv := harness.StartConfigured(t, db, "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\n"+bridge.Settings())
		bridge.Connect(srv)
		bot := newBot(t, bridge)
		s := &story{T: t, one: true, alice: newDevice(t, srv.Register(t, "alice"))}
		s.must("the bot's cross-signing keys", func() error {
			bot.mu.Lock()
			defer bot.mu.Unlock()
			_, err := bot.GenerateAndVerifyWithRecoveryKey(t.Context())
			if err == nil { // and others, which nobody has to confirm
				_, err = bot.GenerateAndVerifyWithRecoveryKey(t.Context())
			}
			return err
		}())
		s.room = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{bot.UserID}, InitialState: []*event.Event{
			{Type: event.StateEncryption, Content: event.Content{Raw: map[string]any{"algorithm": id.AlgorithmMegolmV1}}}}})
		_, err := bot.JoinRoomByID(t.Context(), s.room)
		s.must("join", err)
		_, err = bot.State(t.Context(), s.room)
		s.must("read the state", err)
		s.sees(s.alice, bot.UserID, event.MembershipJoin)

		// reads waits until the bot has read texts.
		reads := func(want ...string) {
			t.Helper()
			until(t, fmt.Sprintf("the bot to read %d messages", len(want)), func() (bool, error) {
				bridge.Call()
				texts, err := bot.read(t.Context(), s.room)
				missing := slices.DeleteFunc(slices.Clone(want), func(text string) bool { return slices.Contains(texts, text) })
				return len(missing) == 0, fmt.Errorf("%d are missing: %w", len(missing), err)
			})
		}
		answers := func(text string) {
			t.Helper()
			bot.mu.Lock()
			_, err := bot.SendMessageEvent(t.Context(), s.room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": text})
			bot.mu.Unlock()
			s.must("answer", err)
			s.hears(s.alice, text)
		}
		for i := range 3 {
			s.say(s.alice, fmt.Sprint("question ", i))
			reads(fmt.Sprint("question ", i))
			answers(fmt.Sprint("answer ", i))
		}

		// A second device of Alice's is heard of, so that it can read the bot; and it writes with a session of its own.
		tablet := newDevice(t, s.alice.Login())
		s.sees(tablet, bot.UserID, event.MembershipJoin)
		until(t, "the bot to know of the tablet", func() (bool, error) {
			bot.mu.Lock()
			defer bot.mu.Unlock()
			devices, err := bot.CryptoStore.GetDevices(t.Context(), s.alice.UserID)
			return devices[tablet.DeviceID] != nil, err
		})
		answers("to the tablet")
		s.hears(tablet, "to the tablet")

		bridge.Leave()
		var said []string
		for i := range 30 {
			text := fmt.Sprint("while the bot is away ", i)
			said = append(said, text)
			s.say([]*device{s.alice, tablet}[i%2], text)
			if i == 15 {
				srv.Kill()
				srv.Run()
			}
		}
		bridge.Return()
		reads(said...)
		answers("I am back")
	})
}
