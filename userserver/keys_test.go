package userserver_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
	"parley/internal/stream"
	"parley/storage"
	"parley/userserver"
)

// signer is a key pair and its owner.
type signer struct {
	user    id.UserID
	private ed25519.PrivateKey
	public  string
	// name is how signatures are named: "ed25519:" and the device, or the key itself.
	name string
}

func newSigner(t *testing.T, user id.UserID, device id.DeviceID) *signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{user: user, private: private, public: base64.RawStdEncoding.EncodeToString(public)}
	s.name = "ed25519:" + string(device)
	if device == "" {
		s.name = "ed25519:" + s.public
	}
	return s
}

// sign adds a signature to an object.
func (s *signer) sign(t *testing.T, object json.RawMessage) json.RawMessage {
	t.Helper()
	signed, err := signedjson.Signed(object)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(object, &fields); err != nil {
		t.Fatal(err)
	}
	all, _ := fields["signatures"].(map[string]any)
	if all == nil {
		all = make(map[string]any)
	}
	mine, _ := all[string(s.user)].(map[string]any)
	if mine == nil {
		mine = make(map[string]any)
	}
	mine[s.name] = base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.private, signed))
	all[string(s.user)], fields["signatures"] = mine, all
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// key is the signer's public key as a cross-signing key.
func (s *signer) key(usage string) json.RawMessage {
	return fmt.Appendf(nil, `{"user_id":%q,"usage":[%q],"keys":{%q:%q}}`, s.user, usage, s.name, s.public)
}

// deviceKeys are the signer's identity keys as a device's.
func (s *signer) deviceKeys(t *testing.T) json.RawMessage {
	return s.sign(t, fmt.Appendf(nil, `{"user_id":%q,"device_id":%q,"algorithms":["a"],"keys":{%q:%q}}`,
		s.user, s.name[len("ed25519:"):], s.name, s.public))
}

func upload(t *testing.T, f *fixture, s userserver.Session, up userserver.KeyUpload) map[string]int {
	t.Helper()
	return must[map[string]int](t)(f.UploadKeys(context.Background(), s.User, s.Device, s.DeviceNID, up))
}

func query(t *testing.T, f *fixture, asker id.UserID, users ...id.UserID) *userserver.KeyAnswer {
	t.Helper()
	wanted := make(map[id.UserID][]id.DeviceID)
	for _, u := range users {
		wanted[u] = nil
	}
	return must[*userserver.KeyAnswer](t)(f.QueryKeys(context.Background(), asker, wanted, 0))
}

func lists(notices []stream.Notice) []id.UserID {
	var out []id.UserID
	for _, n := range notices {
		if n.Kind == stream.DeviceList {
			out = append(out, n.User)
		}
	}
	return out
}

func TestDeviceKeys(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice")
		bob := f.register(t, "bob").User
		device := newSigner(t, alice.User, alice.Device)
		keys := device.deviceKeys(t)
		f.taken()
		upload(t, f, alice, userserver.KeyUpload{DeviceKeys: keys})
		upload(t, f, alice, userserver.KeyUpload{DeviceKeys: keys})
		if got := lists(f.taken()); !slices.Equal(got, []id.UserID{alice.User}) {
			t.Errorf("lists that changed: %v", got)
		}
		answer := query(t, f, bob, alice.User, bob, "@none:x.org", "@carol:y.org")
		got := answer.DeviceKeys[alice.User][alice.Device]
		if want := `"unsigned":{"device_display_name":"Phone"}`; len(answer.DeviceKeys) != 3 || !contains(got, want) || !contains(got, device.public) {
			t.Errorf("keys %s", got)
		}
		if err := signedjson.Verify(got, device.public, signatureOf(t, got, alice.User, device.name)); err != nil {
			t.Errorf("keys %s: %v", got, err)
		}
		if _, failed := answer.Failures["y.org"]; !failed || len(answer.Failures) != 1 {
			t.Errorf("failures %v", answer.Failures)
		}
		one := must[*userserver.KeyAnswer](t)(f.QueryKeys(ctx, bob, map[id.UserID][]id.DeviceID{alice.User: {"OTHER"}}, 0))
		if len(one.DeviceKeys) != 1 || len(one.DeviceKeys[alice.User]) != 0 {
			t.Errorf("keys of another device: %v", one.DeviceKeys)
		}
		for text, code := range map[string]matrixerr.Code{
			`[]`: matrixerr.BadJSON,
			fmt.Sprintf(`{"user_id":"@bob:x.org","device_id":%q,"algorithms":[],"keys":{"a:b":"c"}}`, alice.Device): matrixerr.InvalidParam,
			`{"user_id":"@alice:x.org","device_id":"OTHER","algorithms":[],"keys":{"a:b":"c"}}`:                     matrixerr.InvalidParam,
			fmt.Sprintf(`{"user_id":"@alice:x.org","device_id":%q}`, alice.Device):                                  matrixerr.BadJSON,
		} {
			_, err := f.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, userserver.KeyUpload{DeviceKeys: json.RawMessage(text)})
			wantCode(t, err, code)
		}

		// Who shares a room learns of the change, and of the end of the device.
		f.room(t, "!r:x.org", []id.UserID{alice.User, bob})
		before := must[id.Pos](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) (id.Pos, error) { return tx.GetPos() }))
		if err := f.RenameDevice(ctx, alice.User, alice.Device, "Tablet"); err != nil {
			t.Fatal(err)
		}
		changed, left, err := f.ChangedDeviceLists(ctx, bob, before)
		if err != nil || !slices.Equal(changed, []id.UserID{alice.User}) || len(left) != 0 {
			t.Errorf("changed %v, left %v, %v", changed, left, err)
		}
		if changed, _, _ := f.ChangedDeviceLists(ctx, "@stranger:x.org", 0); len(changed) != 0 {
			t.Errorf("changed for a stranger: %v", changed)
		}
		f.taken()
		if err := f.Logout(ctx, alice.User, alice.Device); err != nil {
			t.Fatal(err)
		}
		if got := lists(f.taken()); len(got) != 1 {
			t.Errorf("lists that changed: %v", got)
		}
		if answer := query(t, f, bob, alice.User); len(answer.DeviceKeys[alice.User]) != 0 {
			t.Errorf("keys of a device that is gone: %v", answer.DeviceKeys)
		}
	})
}

func contains(text []byte, part string) bool { return strings.Contains(string(text), part) }

func signatureOf(t *testing.T, object json.RawMessage, user id.UserID, name string) string {
	t.Helper()
	var o struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		t.Fatal(err)
	}
	return o.Signatures[user][name]
}

func TestOneTimeKeys(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice")
		const algorithm = "signed_curve25519"
		otk := func(n int) map[string]json.RawMessage {
			return map[string]json.RawMessage{fmt.Sprintf("%s:%03d", algorithm, n): fmt.Appendf(nil, `{"key":"%d"}`, n)}
		}
		const total = 30
		for i := range total {
			counts := upload(t, f, alice, userserver.KeyUpload{OneTimeKeys: otk(total - i)}) // the last name first
			if counts[algorithm] != i+1 {
				t.Fatalf("counts %v after %d", counts, i+1)
			}
		}
		if counts := upload(t, f, alice, userserver.KeyUpload{OneTimeKeys: otk(3)}); counts[algorithm] != total {
			t.Errorf("the same key again makes %v", counts)
		}
		_, err := f.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, userserver.KeyUpload{
			OneTimeKeys: map[string]json.RawMessage{algorithm + ":003": json.RawMessage(`{"key":"other"}`)}})
		wantCode(t, err, matrixerr.InvalidParam)
		for _, name := range []string{"", "a", ":a", "a:", "a:\x00"} {
			_, err := f.UploadKeys(ctx, alice.User, alice.Device, alice.DeviceNID, userserver.KeyUpload{
				OneTimeKeys: map[string]json.RawMessage{name: json.RawMessage(`{}`)}})
			wantCode(t, err, matrixerr.InvalidParam)
		}

		want := map[id.UserID]map[id.DeviceID]string{alice.User: {alice.Device: algorithm}}
		claim := func() string {
			got, _, err := f.ClaimKeys(ctx, want, 0)
			if err != nil {
				t.Error(err)
			}
			for name := range got[alice.User][alice.Device] {
				return name
			}
			return ""
		}
		if name := claim(); name != algorithm+":030" {
			t.Errorf("the first key to be given is %s", name)
		}
		// Each key is given once, however many ask.
		var mu sync.Mutex
		given := make(map[string]int)
		var wg sync.WaitGroup
		for range total + 20 {
			wg.Go(func() {
				name := claim()
				mu.Lock()
				defer mu.Unlock()
				given[name]++
			})
		}
		wg.Wait()
		if given[""] != 21 || len(given) != total {
			t.Errorf("given %v", given)
		}

		// A fallback key is given again and again, and its owner learns of the first time.
		unused := func() []string {
			return must[[]string](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]string, error) { return tx.ListUnusedFallbackKeys(alice.DeviceNID) }))
		}
		fallback := userserver.KeyUpload{FallbackKeys: map[string]json.RawMessage{algorithm + ":F": json.RawMessage(`{"key":"f","fallback":true}`)}}
		upload(t, f, alice, fallback)
		if got := unused(); !slices.Equal(got, []string{algorithm}) {
			t.Errorf("unused %v", got)
		}
		for range 3 {
			if name := claim(); name != algorithm+":F" {
				t.Errorf("given %s", name)
			}
		}
		upload(t, f, alice, fallback) // the same is as used as before
		if got := unused(); len(got) != 0 {
			t.Errorf("unused %v", got)
		}
		upload(t, f, alice, userserver.KeyUpload{OneTimeKeys: otk(99)})
		if name := claim(); name != algorithm+":099" {
			t.Errorf("given %s", name)
		}
		got, failures, err := f.ClaimKeys(ctx, map[id.UserID]map[id.DeviceID]string{
			alice.User: {"OTHER": algorithm}, "@none:x.org": {"D": algorithm}, "@carol:y.org": {"D": algorithm}}, 0)
		if _, failed := failures["y.org"]; err != nil || len(got) != 0 || !failed {
			t.Errorf("given %v, failed %v, %v", got, failures, err)
		}
	})
}

func TestCrossSigning(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice, bob := f.register(t, "alice"), f.register(t, "bob")
		device := newSigner(t, alice.User, alice.Device)
		upload(t, f, alice, userserver.KeyUpload{DeviceKeys: device.deviceKeys(t)})
		master, self, user := newSigner(t, alice.User, ""), newSigner(t, alice.User, ""), newSigner(t, alice.User, "")
		up := userserver.CrossSigningUpload{
			Master:      master.key("master"),
			SelfSigning: master.sign(t, self.key("self_signing")),
			UserSigning: master.sign(t, user.key("user_signing")),
		}
		mustConfirm := func(up userserver.CrossSigningUpload) bool {
			t.Helper()
			return must[bool](t)(f.MustConfirmCrossSigning(ctx, alice.User, up))
		}
		other := newSigner(t, alice.User, "")
		named := *other
		named.public = string(alice.Device)
		named.name = "ed25519:" + named.public
		for _, test := range []struct {
			up   userserver.CrossSigningUpload
			code matrixerr.Code
		}{
			{userserver.CrossSigningUpload{}, matrixerr.MissingParam},
			{userserver.CrossSigningUpload{SelfSigning: up.SelfSigning}, matrixerr.MissingParam},
			{userserver.CrossSigningUpload{Master: up.Master, SelfSigning: self.key("self_signing")}, matrixerr.InvalidSignature},
			{userserver.CrossSigningUpload{Master: up.Master, SelfSigning: other.sign(t, self.key("self_signing"))}, matrixerr.InvalidSignature},
			{userserver.CrossSigningUpload{Master: json.RawMessage(`[]`)}, matrixerr.BadJSON},
			{userserver.CrossSigningUpload{Master: self.key("self_signing")}, matrixerr.InvalidParam},
			{userserver.CrossSigningUpload{Master: newSigner(t, bob.User, "").key("master")}, matrixerr.InvalidParam},
			{userserver.CrossSigningUpload{Master: named.key("master")}, matrixerr.Forbidden},
		} {
			wantCode(t, f.UploadCrossSigning(ctx, alice.User, test.up), test.code)
		}
		if mustConfirm(up) {
			t.Error("the first keys must be confirmed")
		}
		f.taken()
		for range 2 {
			if err := f.UploadCrossSigning(ctx, alice.User, up); err != nil {
				t.Fatal(err)
			}
			if mustConfirm(up) {
				t.Error("the same keys must be confirmed")
			}
		}
		if got := lists(f.taken()); len(got) != 1 {
			t.Errorf("lists that changed: %v", got)
		}
		if !mustConfirm(userserver.CrossSigningUpload{Master: other.key("master")}) {
			t.Error("new keys need not be confirmed")
		}
		_, err := f.Login(ctx, alice.User, userserver.NewSession{Device: id.DeviceID(master.public)})
		wantCode(t, err, matrixerr.Forbidden)

		mine, theirs := query(t, f, alice.User, alice.User), query(t, f, bob.User, alice.User)
		if len(mine.MasterKeys) != 1 || len(mine.SelfSigningKeys) != 1 || len(mine.UserSigningKeys) != 1 ||
			len(theirs.MasterKeys) != 1 || len(theirs.SelfSigningKeys) != 1 || len(theirs.UserSigningKeys) != 0 {
			t.Errorf("alice sees %+v, bob sees %+v", mine, theirs)
		}

		// Signatures: of a device by the self-signing key, of the master key by a device, of
		// another's master key by the user-signing key.
		bobMaster, bobUser := newSigner(t, bob.User, ""), newSigner(t, bob.User, "")
		if err := f.UploadCrossSigning(ctx, bob.User, userserver.CrossSigningUpload{
			Master: bobMaster.key("master"), UserSigning: bobMaster.sign(t, bobUser.key("user_signing"))}); err != nil {
			t.Fatal(err)
		}
		type objects = map[id.UserID]map[string]json.RawMessage
		sign := func(who id.UserID, o objects, want map[string]matrixerr.Code) {
			t.Helper()
			failures := must[userserver.SignatureFailures](t)(f.UploadSignatures(ctx, who, o))
			got := make(map[string]matrixerr.Code)
			for _, keys := range failures {
				for key, e := range keys {
					got[key] = e.Code
				}
			}
			if want == nil {
				want = make(map[string]matrixerr.Code)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("failures %v instead of %v", failures, want)
			}
		}
		deviceKeys := device.deviceKeys(t)
		f.taken()
		sign(alice.User, objects{alice.User: {
			string(alice.Device): self.sign(t, deviceKeys), master.public: device.sign(t, master.key("master")),
		}}, nil)
		if got := lists(f.taken()); !slices.Equal(got, []id.UserID{alice.User}) {
			t.Errorf("lists that changed: %v", got)
		}
		before := must[id.Pos](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) (id.Pos, error) { return tx.GetPos() }))
		sign(bob.User, objects{alice.User: {master.public: bobUser.sign(t, master.key("master"))}}, nil)
		if changed, _, err := f.ChangedDeviceLists(ctx, bob.User, before); err != nil || !slices.Equal(changed, []id.UserID{alice.User}) {
			t.Errorf("for bob there changed %v, %v", changed, err)
		}
		if changed, _, err := f.ChangedDeviceLists(ctx, alice.User, before); err != nil || len(changed) != 0 {
			t.Errorf("for alice there changed %v, %v", changed, err)
		}
		sign(alice.User, objects{
			alice.User: {
				string(alice.Device): other.sign(t, deviceKeys),
				"OTHER":              self.sign(t, deviceKeys),
				master.public:        device.sign(t, self.key("master")),
			},
			bob.User: {bobMaster.public: master.sign(t, bobMaster.key("master")), "none": json.RawMessage(`{}`)},
		}, map[string]matrixerr.Code{
			string(alice.Device): matrixerr.InvalidSignature, "OTHER": matrixerr.NotFound, master.public: matrixerr.InvalidParam,
			bobMaster.public: matrixerr.InvalidSignature, "none": matrixerr.NotFound,
		})
		forged := json.RawMessage(fmt.Sprintf(`{"user_id":%q,"usage":["master"],"keys":{%q:%q},"signatures":{%q:{%q:%q}}}`, bob.User,
			bobMaster.name, bobMaster.public, alice.User, user.name, base64.RawStdEncoding.EncodeToString(make([]byte, 64))))
		sign(alice.User, objects{bob.User: {bobMaster.public: forged}}, map[string]matrixerr.Code{bobMaster.public: matrixerr.InvalidSignature})

		verify := func(what string, object json.RawMessage, by *signer, want bool) {
			t.Helper()
			if got := signatureOf(t, object, by.user, by.name) != "" &&
				signedjson.Verify(object, by.public, signatureOf(t, object, by.user, by.name)) == nil; got != want {
				t.Errorf("%s is signed by %s: %v", what, by.name, got)
			}
		}
		mine, theirs = query(t, f, alice.User, alice.User), query(t, f, bob.User, alice.User)
		for _, answer := range []*userserver.KeyAnswer{mine, theirs} {
			verify("the device", answer.DeviceKeys[alice.User][alice.Device], self, true)
			verify("the device", answer.DeviceKeys[alice.User][alice.Device], device, true)
			verify("the master key", answer.MasterKeys[alice.User], device, true)
		}
		// What others have signed is for them to know.
		verify("the master key for alice", mine.MasterKeys[alice.User], bobUser, false)
		verify("the master key for bob", theirs.MasterKeys[alice.User], bobUser, true)

		// A new master key ends what the old one signed.
		if err := f.UploadCrossSigning(ctx, alice.User, userserver.CrossSigningUpload{Master: other.key("master")}); err != nil {
			t.Fatal(err)
		}
		mine = query(t, f, alice.User, alice.User)
		if len(mine.SelfSigningKeys) != 0 || len(mine.UserSigningKeys) != 0 || !contains(mine.MasterKeys[alice.User], other.public) {
			t.Errorf("keys %+v", mine)
		}
	})
}

func TestToDevice(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice, bob := f.register(t, "alice"), f.register(t, "bob")
		second := must[userserver.Session](t)(f.Login(ctx, bob.User, userserver.NewSession{Device: "B2"}))
		send := func(txn, device string, n int) {
			t.Helper()
			err := f.SendToDevice(ctx, alice.User, alice.DeviceNID, "m.test", txn, userserver.Messages{
				bob.User:       {id.DeviceID(device): fmt.Appendf(nil, `{"n":%d}`, n)},
				"@none:x.org":  {"D": json.RawMessage(`{}`)},
				"@carol:y.org": {"D": json.RawMessage(`{}`)},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		waiting := func(s userserver.Session) (texts []string, last id.Pos) {
			t.Helper()
			list := must[[]storage.ToDevice](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
				return tx.ListToDevice(s.DeviceNID, 0, 1<<40, 100)
			}))
			for _, m := range list {
				texts, last = append(texts, string(m.JSON)), m.Pos
			}
			return texts, last
		}
		event := func(n int) string {
			return fmt.Sprintf(`{"sender":"@alice:x.org","type":"m.test","content":{"n":%d}}`, n)
		}
		f.taken()
		send("1", "*", 1)
		send("1", "*", 1) // the same request again
		if n := f.taken(); len(n) != 1 || n[0].Kind != stream.ToDevice || !slices.Equal(n[0].Users, []id.UserID{bob.User}) {
			t.Errorf("notices %+v", n)
		}
		send("2", "B2", 2)
		send("3", "NONE", 3)
		if got, _ := waiting(bob); !slices.Equal(got, []string{event(1)}) {
			t.Errorf("for the first device %q", got)
		}
		got, last := waiting(second)
		if !slices.Equal(got, []string{event(1), event(2)}) {
			t.Errorf("for the second device %q", got)
		}
		// Who has them is not given them again, and the others stay.
		if err := f.GotToDevice(ctx, second.DeviceNID, last-1); err != nil {
			t.Fatal(err)
		}
		if got, _ := waiting(second); !slices.Equal(got, []string{event(2)}) {
			t.Errorf("then for the second device %q", got)
		}
		if got, _ := waiting(bob); len(got) != 1 {
			t.Errorf("then for the first device %q", got)
		}
	})
}

func TestKeyBackup(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		user := f.register(t, "alice").User
		const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
		_, err := f.GetBackup(ctx, user, "")
		wantCode(t, err, matrixerr.NotFound)
		first := must[string](t)(f.CreateBackup(ctx, user, algorithm, json.RawMessage(`{"a":1}`)))
		key := func(index, forwarded int64, verified bool) userserver.BackupKey {
			return userserver.BackupKey{FirstMessageIndex: &index, ForwardedCount: &forwarded, IsVerified: &verified,
				SessionData: fmt.Appendf(nil, `{"i":%d,"f":%d,"v":%v}`, index, forwarded, verified)}
		}
		put := func(version string, keys userserver.BackupKeys) *userserver.BackupInfo {
			t.Helper()
			return must[*userserver.BackupInfo](t)(f.PutBackupKeys(ctx, user, version, keys))
		}
		etag := ""
		for i, test := range []struct {
			key  userserver.BackupKey
			kept string
		}{
			{key(5, 5, false), `{"i":5,"f":5,"v":false}`},
			{key(6, 0, false), `{"i":5,"f":5,"v":false}`},
			{key(5, 6, false), `{"i":5,"f":5,"v":false}`},
			{key(5, 4, false), `{"i":5,"f":4,"v":false}`},
			{key(4, 9, false), `{"i":4,"f":9,"v":false}`},
			{key(9, 9, true), `{"i":9,"f":9,"v":true}`},
			{key(1, 1, false), `{"i":9,"f":9,"v":true}`},
		} {
			b := put(first, userserver.BackupKeys{"!r:x": {"s": test.key}})
			if changed := string(test.key.SessionData) == test.kept; b.Count != 1 || changed != (b.ETag != etag) {
				t.Errorf("%d: backup %+v after %s", i, b, etag)
			}
			etag = b.ETag
			keys := must[userserver.BackupKeys](t)(f.GetBackupKeys(ctx, user, first, "!r:x", "s"))
			if got := string(keys["!r:x"]["s"].SessionData); got != test.kept {
				t.Errorf("%d: kept %s", i, got)
			}
		}
		if b := put(first, userserver.BackupKeys{"!r:x": {"t": key(1, 1, true)}, "!q:x": {"s": key(1, 1, true)}}); b.Count != 3 {
			t.Errorf("backup %+v", b)
		}
		for _, test := range []struct {
			keys userserver.BackupKeys
			code matrixerr.Code
		}{
			{userserver.BackupKeys{"r": {"s": key(1, 1, true)}}, matrixerr.InvalidParam},
			{userserver.BackupKeys{"!r:x": {"": key(1, 1, true)}}, matrixerr.InvalidParam},
			{userserver.BackupKeys{"!r:x": {"s": {}}}, matrixerr.MissingParam},
		} {
			_, err := f.PutBackupKeys(ctx, user, first, test.keys)
			wantCode(t, err, test.code)
		}
		all := must[userserver.BackupKeys](t)(f.GetBackupKeys(ctx, user, first, "", ""))
		if len(all) != 2 || len(all["!r:x"]) != 2 || *all["!q:x"]["s"].FirstMessageIndex != 1 {
			t.Errorf("keys %v", all)
		}
		if b := must[*userserver.BackupInfo](t)(f.DeleteBackupKeys(ctx, user, first, "!r:x", "")); b.Count != 1 || b.ETag == etag {
			t.Errorf("backup %+v", b)
		}

		second := must[string](t)(f.CreateBackup(ctx, user, algorithm, json.RawMessage(`{"a":2}`)))
		if b := must[*userserver.BackupInfo](t)(f.GetBackup(ctx, user, "")); b.Version != second || b.Count != 0 || string(b.AuthData) != `{"a":2}` {
			t.Errorf("newest backup %+v", b)
		}
		_, err = f.PutBackupKeys(ctx, user, first, userserver.BackupKeys{})
		wantCode(t, err, matrixerr.WrongRoomKeysVersion)
		if me, ok := err.(*matrixerr.Error); !ok || me.Extra["current_version"] != second {
			t.Errorf("error %#v", err)
		}
		if err := f.UpdateBackup(ctx, user, second, algorithm, json.RawMessage(`{"a":3}`)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.UpdateBackup(ctx, user, second, "other", json.RawMessage(`{}`)), matrixerr.InvalidParam)
		wantCode(t, f.UpdateBackup(ctx, user, "77", algorithm, json.RawMessage(`{}`)), matrixerr.NotFound)
		for range 2 {
			if err := f.DeleteBackup(ctx, user, second); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, f.DeleteBackup(ctx, user, "77"), matrixerr.NotFound)
		wantCode(t, f.DeleteBackup(ctx, user, "x"), matrixerr.NotFound)
		if b := must[*userserver.BackupInfo](t)(f.GetBackup(ctx, user, "")); b.Version != first || b.Count != 1 {
			t.Errorf("newest backup %+v", b)
		}
		if third := must[string](t)(f.CreateBackup(ctx, user, algorithm, json.RawMessage(`{}`))); third == second || third == first {
			t.Errorf("version %s was given again", third)
		}
		_, err = f.GetBackupKeys(ctx, user, second, "", "")
		wantCode(t, err, matrixerr.NotFound)
	})
}
