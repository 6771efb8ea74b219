//go:build goolm

package e2ee

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// duringOutage is how many messages are sent while a server is down.
const duringOutage = 200

// TestMautrix tells the story with mautrix-go.
func TestMautrix(t *testing.T) {
	each(t, func(t *testing.T, aliceServer, bobServer *harness.Server, _ ...string) {
		s := &story{T: t, one: aliceServer == bobServer}
		s.alice, s.bob = newDevice(t, aliceServer.Register(t, "alice")), newDevice(t, bobServer.Register(t, "bob"))
		s.begin()
		s.verify()
		s.backUp()
		s.leaveAndReturn()
		s.deleteDevice()
		s.outage()
		t.Logf("%d messages to devices in the room, all decrypted", s.decrypted)
	})
}

type story struct {
	*testing.T
	one        bool // server, for both
	alice, bob *device
	tablet     *device // of Bob's
	recovery   string  // Bob's key
	room       id.RoomID
	said       []string
	decrypted  int
}

// must ends the story where something fails.
func (s *story) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// until waits for what comes of itself.
func until(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var done bool
		if done, err = ok(); done {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %v", what, err)
}

// device is a device with keys, and a sync loop that runs until the test ends. The library's store is not made for two
// at a time, so who uses it holds the lock.
type device struct {
	*harness.User
	mu       *sync.Mutex
	machine  *crypto.OlmMachine
	verifier *verificationhelper.VerificationHelper
	verified *verification
}

// patient is a syncer that soon tries again.
type patient struct {
	*mautrix.DefaultSyncer
	mu *sync.Mutex
}

func (p patient) ProcessResponse(ctx context.Context, resp *mautrix.RespSync, since string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.DefaultSyncer.ProcessResponse(ctx, resp, since)
}

func (patient) OnFailedSync(*mautrix.RespSync, error) (time.Duration, error) {
	return 200 * time.Millisecond, nil
}

func newDevice(t *testing.T, u *harness.User) *device {
	t.Helper()
	d := &device{User: u, mu: new(sync.Mutex), verified: newVerification()}
	syncer := patient{mautrix.NewDefaultSyncer(), d.mu}
	u.StateStore, u.Syncer = mautrix.NewMemoryStateStore(), syncer
	u.DefaultHTTPRetries, u.DefaultHTTPBackoff = 6, 100*time.Millisecond
	syncer.OnEvent(u.StateStoreSyncHandler)
	helper, err := cryptohelper.NewCryptoHelper(u.Client, []byte("pickle"), crypto.NewMemoryStore(nil))
	if err == nil {
		err = helper.Init(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	u.Client.Crypto, d.machine = helper, helper.Machine()
	d.verifier = verificationhelper.NewVerificationHelper(u.Client, d.machine, nil, d.verified, false, false, true)
	if err := d.verifier.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.SyncWithContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

// do does something with the library's store.
func (d *device) do(what func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return what()
}

// read are the messages of a room that the device can decrypt, and why it can't the others.
func (d *device) read(ctx context.Context, room id.RoomID) (map[string]bool, error) {
	out := make(map[string]bool)
	var failed error
	for from := ""; ; {
		page, err := d.Client.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 100)
		if err != nil {
			return out, err
		}
		for _, evt := range page.Chunk {
			evt.RoomID, evt.Type.Class = room, event.MessageEventType
			if evt.Type != event.EventEncrypted || evt.Content.ParseRaw(evt.Type) != nil {
				continue
			}
			var plain *event.Event
			err := d.do(func() (err error) { plain, err = d.machine.DecryptMegolmEvent(ctx, evt); return err })
			if err != nil {
				failed = fmt.Errorf("%s: %w", evt.ID, err)
				continue
			}
			out[plain.Content.AsMessage().Body] = true
		}
		if from = page.End; from == "" || len(page.Chunk) == 0 {
			return out, failed
		}
	}
}

func (d *device) send(ctx context.Context, room id.RoomID, text string) error {
	_, err := d.SendMessageEvent(ctx, room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": text})
	return err
}

// hears waits until a device has decrypted messages.
func (s *story) hears(d *device, texts ...string) {
	s.Helper()
	missing := texts
	until(s.T, fmt.Sprintf("%s on %s to read %d messages", d.UserID, d.DeviceID, len(texts)), func() (bool, error) {
		read, err := d.read(s.Context(), s.room)
		missing = slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return read[text] })
		return len(missing) == 0, fmt.Errorf("%d are missing: %w", len(missing), err)
	})
	s.decrypted += len(texts)
}

// say has a device say something that others hear.
func (s *story) say(from *device, text string, to ...*device) {
	s.Helper()
	s.must("say something", from.do(func() error { return from.send(s.Context(), s.room, text) }))
	s.said = append(s.said, text)
	for _, d := range to {
		s.hears(d, text)
	}
}

// sees waits until a device knows what somebody is to the room.
func (s *story) sees(d *device, user id.UserID, want event.Membership) {
	s.Helper()
	until(s.T, fmt.Sprintf("%s to see %s %s", d.UserID, user, want), func() (bool, error) {
		member, err := d.StateStore.TryGetMember(s.Context(), s.room, user)
		encrypted, _ := d.StateStore.IsEncrypted(s.Context(), s.room)
		return member != nil && member.Membership == want && encrypted, err
	})
}

func (s *story) enter(devices ...*device) {
	s.Helper()
	until(s.T, "the invite", func() (bool, error) {
		_, err := s.bob.JoinRoom(s.Context(), string(s.room), &mautrix.ReqJoinRoom{Via: []string{s.alice.UserID.Homeserver()}})
		return err == nil, err
	})
	s.sees(s.alice, s.bob.UserID, event.MembershipJoin)
	for _, d := range devices {
		s.sees(d, s.bob.UserID, event.MembershipJoin)
		s.sees(d, s.alice.UserID, event.MembershipJoin)
	}
}

func (s *story) begin() {
	for _, d := range []*device{s.alice, s.bob} {
		s.must("cross-signing keys", d.do(func() (err error) {
			s.recovery, err = d.machine.GenerateAndVerifyWithRecoveryKey(s.Context())
			return err
		}))
	}
	s.room = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{s.bob.UserID}, InitialState: []*event.Event{
		{Type: event.StateEncryption, Content: event.Content{Raw: map[string]any{"algorithm": id.AlgorithmMegolmV1}}}}})
	s.enter(s.bob)
	for i := range 5 {
		s.say(s.alice, fmt.Sprint("alice says ", i), s.bob)
		s.say(s.bob, fmt.Sprint("bob says ", i), s.alice)
	}
}

// verification notes what a verification comes to.
type verification struct {
	requested, ready, done chan id.VerificationTransactionID
	shown                  chan []int
	cancelled              chan string
}

func newVerification() *verification {
	return &verification{make(chan id.VerificationTransactionID, 9), make(chan id.VerificationTransactionID, 9), make(chan id.VerificationTransactionID, 9),
		make(chan []int, 9), make(chan string, 9)}
}

func (v *verification) VerificationRequested(_ context.Context, txn id.VerificationTransactionID, _ id.UserID, _ id.DeviceID) {
	v.requested <- txn
}

func (v *verification) VerificationReady(_ context.Context, txn id.VerificationTransactionID, _ id.DeviceID, _, _ bool, _ *verificationhelper.QRCode) {
	v.ready <- txn
}

func (v *verification) VerificationCancelled(_ context.Context, _ id.VerificationTransactionID, _ event.VerificationCancelCode, reason string) {
	v.cancelled <- reason
}

func (v *verification) VerificationDone(_ context.Context, txn id.VerificationTransactionID, _ event.VerificationMethod) {
	v.done <- txn
}

func (v *verification) ShowSAS(_ context.Context, _ id.VerificationTransactionID, _ []rune, _ []string, decimals []int) {
	v.shown <- decimals
}

// next takes what comes next.
func next[T any](s *story, what string, c chan T, of *device) (v T) {
	s.Helper()
	select {
	case v = <-c:
	case reason := <-of.verified.cancelled:
		s.Fatalf("%s: cancelled: %s", what, reason)
	case <-time.After(90 * time.Second):
		s.Fatalf("%s: waited in vain", what)
	}
	return v
}

// verify has the two compare short strings.
func (s *story) verify() {
	ctx := s.Context()
	var txn id.VerificationTransactionID
	s.must("ask for a verification", s.alice.do(func() (err error) {
		txn, err = s.alice.verifier.StartVerification(ctx, s.bob.UserID)
		return err
	}))
	next(s, "the request", s.bob.verified.requested, s.bob)
	s.must("accept it", s.bob.do(func() error { return s.bob.verifier.AcceptVerification(ctx, txn) }))
	next(s, "ready", s.alice.verified.ready, s.alice)
	s.must("begin", s.alice.do(func() error { return s.alice.verifier.StartSAS(ctx, txn) }))
	here, there := next(s, "what Alice is shown", s.alice.verified.shown, s.alice), next(s, "what Bob is shown", s.bob.verified.shown, s.bob)
	if len(here) != 3 || !slices.Equal(here, there) {
		s.Fatalf("Alice is shown %v and Bob %v", here, there)
	}
	// Neither may hear of the other's confirmation before it has confirmed: the library then compares its own master
	// key with the other's.
	s.must("confirm", s.alice.do(func() error {
		return s.bob.do(func() error {
			return errors.Join(s.alice.verifier.ConfirmSAS(ctx, txn), s.bob.verifier.ConfirmSAS(ctx, txn))
		})
	}))
	next(s, "Alice's end", s.alice.verified.done, s.alice)
	next(s, "Bob's end", s.bob.verified.done, s.bob)
	for _, pair := range [][2]*device{{s.alice, s.bob}, {s.bob, s.alice}} {
		until(s.T, "trust", func() (ok bool, err error) {
			err = pair[0].do(func() (err error) { ok, err = pair[0].machine.IsUserTrusted(ctx, pair[1].UserID); return err })
			return ok, err
		})
	}
}

// backUp has a new device read what was said, from the key backup.
func (s *story) backUp() {
	ctx := s.Context()
	key, err := backup.NewMegolmBackupKey()
	s.must("a backup's key", err)
	version, err := s.bob.CreateKeyBackupVersion(ctx, &mautrix.ReqRoomKeysVersionCreate[backup.MegolmAuthData]{
		Algorithm: id.KeyBackupAlgorithmMegolmBackupV1,
		AuthData:  backup.MegolmAuthData{PublicKey: id.Ed25519(base64.RawStdEncoding.EncodeToString(key.PublicKey().Bytes()))},
	})
	s.must("make a backup", err)
	var sessions []*crypto.InboundGroupSession
	s.must("list keys", s.bob.do(func() (err error) {
		sessions, err = s.bob.machine.CryptoStore.GetGroupSessionsForRoom(ctx, s.room).AsList()
		return err
	}))
	saved := make(map[id.SessionID]mautrix.ReqKeyBackupData)
	for _, session := range sessions {
		exported, err := session.Internal.Export(session.Internal.FirstKnownIndex())
		s.must("export a key", err)
		encrypted, err := backup.EncryptSessionData(key, backup.MegolmSessionData{
			Algorithm: id.AlgorithmMegolmV1, ForwardingKeyChain: []string{}, SenderKey: session.SenderKey,
			SenderClaimedKeys: backup.SenderClaimedKeys{Ed25519: session.SigningKey}, SessionKey: string(exported)})
		s.must("encrypt a key", err)
		data, err := json.Marshal(encrypted)
		s.must("encode a key", err)
		saved[session.ID()] = mautrix.ReqKeyBackupData{FirstMessageIndex: int(session.Internal.FirstKnownIndex()), SessionData: data}
	}
	_, err = s.bob.PutKeysInBackup(ctx, version.Version, &mautrix.ReqKeyBackup{Rooms: map[id.RoomID]mautrix.ReqRoomKeyBackup{s.room: {Sessions: saved}}})
	s.must("back keys up", err)

	s.tablet = newDevice(s.T, s.bob.Login())
	s.must("verify the new device", s.tablet.do(func() error { return s.tablet.machine.VerifyWithRecoveryKey(ctx, s.recovery) }))
	s.must("restore the backup", s.tablet.do(func() error {
		_, err := s.tablet.machine.DownloadAndStoreLatestKeyBackup(ctx, key)
		return err
	}))
	s.hears(s.tablet, s.said...)
	s.sees(s.tablet, s.alice.UserID, event.MembershipJoin)
	until(s.T, "Alice to trust the tablet", func() (ok bool, err error) {
		err = s.alice.do(func() error {
			d, err := s.alice.machine.CryptoStore.GetDevice(ctx, s.bob.UserID, s.tablet.DeviceID)
			ok = d != nil && s.alice.machine.IsDeviceTrusted(ctx, d)
			return err
		})
		return ok, err
	})
	s.say(s.alice, "for both devices", s.bob, s.tablet)
	s.say(s.tablet, "from the new one", s.alice, s.bob)
}

// leaveAndReturn has Bob come back, to what is encrypted anew for him.
func (s *story) leaveAndReturn() {
	s.bob.Leave(s.room)
	s.sees(s.alice, s.bob.UserID, event.MembershipLeave)
	s.say(s.alice, "while he is away")
	s.alice.Invite(s.room, s.bob.User)
	s.enter(s.bob, s.tablet)
	s.say(s.alice, "he is back", s.bob, s.tablet)
	s.say(s.bob, "I am", s.alice, s.tablet)
}

func (s *story) deleteDevice() {
	_, err := s.tablet.Logout(s.Context())
	s.must("log out", err)
	until(s.T, "Alice to know that the tablet is gone", func() (gone bool, err error) {
		err = s.alice.do(func() error {
			d, err := s.alice.machine.CryptoStore.GetDevice(s.Context(), s.bob.UserID, s.tablet.DeviceID)
			gone = d == nil || d.Deleted
			return err
		})
		return gone, err
	})
	s.say(s.alice, "for one device", s.bob)
	s.say(s.bob, "it was old", s.alice)
}

// outage has Bob's server be away. Where it is Alice's, too, she tries again.
func (s *story) outage() {
	ctx := s.Context()
	var texts []string
	for i := range duringOutage {
		texts = append(texts, fmt.Sprint("in the dark ", i))
	}
	if s.one {
		s.bob.Server.Kill()
	} else {
		s.bob.Server.Stop()
	}
	sent := make(chan error, 1)
	go func() {
		for _, text := range texts {
			for {
				err := s.alice.do(func() error { return s.alice.send(ctx, s.room, text) })
				if err == nil {
					break
				}
				if errors.Is(err, context.Canceled) || ctx.Err() != nil {
					sent <- err
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		sent <- nil
	}()
	if s.one {
		time.Sleep(500 * time.Millisecond)
		s.bob.Server.Run()
		s.must("send", <-sent)
	} else {
		s.must("send", <-sent)
		s.bob.Server.Run()
	}
	s.say(s.bob, "back", s.alice)
	s.hears(s.bob, texts...)
}
