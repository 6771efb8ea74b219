//go:build goolm

package client

import (
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestEncryption is end-to-end encryption as a real client does it, with the build tag goolm,
// which is olm without C. The server sees nothing of it but keys and messages to devices.
// spec: client-server-api/modules/end_to_end_encryption.md#end-to-end-encryption
func TestEncryption(t *testing.T) {
	harness.Stories(t, secretTalk, crossSigning)
}

// encrypt gives a user's client the means to encrypt, and notes what it decrypts.
func encrypt(t *testing.T, u *harness.User) *ear {
	t.Helper()
	u.StateStore = mautrix.NewMemoryStateStore()
	began := time.Now().UnixMilli()
	heard, start := prepare(u)
	u.Syncer.(mautrix.ExtensibleSyncer).OnEvent(u.StateStoreSyncHandler)
	helper, err := cryptohelper.NewCryptoHelper(u.Client, []byte("pickle"), crypto.NewMemoryStore(nil))
	if err != nil {
		t.Fatal(err)
	}
	helper.DecryptErrorCallback = func(evt *event.Event, err error) {
		// What was said before a device was there is not for it.
		if evt.Timestamp >= began {
			t.Errorf("%s cannot decrypt %s: %v", u.UserID, evt.ID, err)
		}
	}
	if err := helper.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.Client.Crypto = helper
	start(t)
	return heard
}

func secretTalk(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	phone := bob.Login()
	heardByAlice, heardByBob, heardByPhone := encrypt(t, alice), encrypt(t, bob), encrypt(t, phone)
	room := alice.NewRoomWith(bob)
	alice.SetState(room, event.StateEncryption, "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
	for _, heard := range []*ear{heardByAlice, heardByBob, heardByPhone} {
		heard.wait(t, "that the room is encrypted", func(evt *event.Event) bool { return evt.Type == event.StateEncryption })
	}
	said := func(text string) func(*event.Event) bool {
		return func(evt *event.Event) bool {
			return evt.Type == event.EventMessage && evt.Content.AsMessage().Body == text && evt.Mautrix.WasEncrypted
		}
	}
	for range 3 {
		alice.Say(room, "a secret")
		heardByBob.wait(t, "a secret", said("a secret"))
		heardByPhone.wait(t, "a secret", said("a secret"))
		bob.Say(room, "another secret")
		heardByAlice.wait(t, "another secret", said("another secret"))
	}
	// What the server has is not what was said.
	for _, evt := range alice.Page(room, "", mautrix.DirectionBackward, 50) {
		if evt.Type == event.EventMessage {
			t.Errorf("the server has %s in the clear", evt.ID)
		}
	}
	// A device that comes later is encrypted for, too.
	tablet := bob.Login()
	heardByTablet := encrypt(t, tablet)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		device, err := machine(alice).CryptoStore.GetDevice(t.Context(), bob.UserID, tablet.DeviceID)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("alice's client has not learnt of the new device: %v", err)
		}
		if device != nil {
			break
		}
	}
	alice.Say(room, "for all three")
	heardByTablet.wait(t, "a message to the new device", said("for all three"))
}

func machine(u *harness.User) *crypto.OlmMachine {
	return u.Client.Crypto.(*cryptohelper.CryptoHelper).Machine()
}

func crossSigning(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	encrypt(t, alice)
	encrypt(t, bob)
	for _, u := range []*harness.User{alice, bob} {
		keys, err := machine(u).GenerateCrossSigningKeys()
		if err != nil {
			t.Fatal(err)
		}
		if err := machine(u).PublishCrossSigningKeys(t.Context(), keys, func(uia *mautrix.RespUserInteractive) any { return u.UIA(uia.Session) }); err != nil {
			t.Fatal(err)
		}
		machine(u).CrossSigningKeys = keys
		if err := machine(u).SignOwnDevice(t.Context(), machine(u).OwnIdentity()); err != nil {
			t.Fatal(err)
		}
		if err := machine(u).SignOwnMasterKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	alice.NewRoomWith(bob)
	if _, err := machine(alice).FetchKeys(t.Context(), []id.UserID{bob.UserID}, true); err != nil {
		t.Fatal(err)
	}
	keys, err := machine(alice).GetCrossSigningPublicKeys(t.Context(), bob.UserID)
	if err != nil || keys == nil {
		t.Fatalf("bob's keys: %v, %v", keys, err)
	}
	if err := machine(alice).SignUser(t.Context(), bob.UserID, keys.MasterKey); err != nil {
		t.Fatal(err)
	}
	trusted, err := machine(alice).IsUserTrusted(t.Context(), bob.UserID)
	if err != nil || !trusted {
		t.Errorf("alice trusts bob: %v, %v", trusted, err)
	}
	device, err := machine(alice).GetOrFetchDevice(t.Context(), bob.UserID, bob.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	if !machine(alice).IsDeviceTrusted(t.Context(), device) {
		t.Error("bob's device is not trusted, which bob signed")
	}
}
