package userserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"parley/internal/id"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// processes are several of one node, each with a connection of its own to the database that they share.
func processes(t *testing.T, count int) (all []*fixture) {
	url := storagetest.Postgres(t)
	for range count {
		all = append(all, newFixture(t, url))
	}
	return all
}

// TestKeysAreGivenOnceByAllProcesses has devices' one-time keys claimed in all processes at once.
func TestKeysAreGivenOnceByAllProcesses(t *testing.T) {
	all := processes(t, 3)
	const algorithm = "signed_curve25519"
	const keys = 60
	alice, bob := all[0].register(t, "alice"), all[0].register(t, "bob")
	want := make(map[id.UserID]map[id.DeviceID]string)
	for _, s := range []userserver.Session{alice, bob} {
		up := userserver.KeyUpload{OneTimeKeys: make(map[string]json.RawMessage), FallbackKeys: map[string]json.RawMessage{
			algorithm + ":fallback": json.RawMessage(`{"key":"f","fallback":true}`)}}
		for i := range keys {
			up.OneTimeKeys[fmt.Sprintf("%s:%03d", algorithm, i)] = fmt.Appendf(nil, `{"key":"%d"}`, i)
		}
		upload(t, all[0], s, up)
		want[s.User] = map[id.DeviceID]string{s.Device: algorithm}
	}
	var mu sync.Mutex
	given := make(map[string]int)
	claim := func(f *fixture) (fallbacks int) {
		got, _, err := f.ClaimKeys(context.Background(), want, time.Minute)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, s := range []userserver.Session{alice, bob} {
			if len(got[s.User][s.Device]) != 1 {
				t.Errorf("a claim gives %v", got)
			}
			for name := range got[s.User][s.Device] {
				if name == algorithm+":fallback" {
					fallbacks++
				} else {
					given[string(s.User)+" "+name]++
				}
			}
		}
		return fallbacks
	}
	var wg sync.WaitGroup
	for i := range keys + 20 {
		wg.Go(func() { claim(all[i%len(all)]) })
	}
	wg.Wait()
	for claim(all[0]) < 2 { // a key that one process was about to give was none for the others
	}
	for name, n := range given {
		if n != 1 {
			t.Errorf("%s was given %d times", name, n)
		}
	}
	if len(given) != 2*keys {
		t.Errorf("%d keys were given", len(given))
	}
}

// TestMessagesComeOnceByAllProcesses has the same requests to send to a device come to all processes at once, as
// from a client that tries again, and messages of another server too: each message is there once.
func TestMessagesComeOnceByAllProcesses(t *testing.T) {
	all := processes(t, 3)
	ctx := context.Background()
	alice, bob := all[0].register(t, "alice"), all[0].register(t, "bob")
	const messages = 20
	var wg sync.WaitGroup
	for i := range messages {
		for _, f := range all {
			wg.Go(func() {
				err := f.SendToDevice(ctx, alice.User, alice.DeviceNID, "m.test", fmt.Sprint(i), userserver.Messages{
					bob.User: {userserver.AllDevices: fmt.Appendf(nil, `{"n":%d}`, i)}})
				if err != nil {
					t.Error(err)
				}
				err = f.ReceiveEDU(ctx, "y.org", edu("m.direct_to_device",
					`{"sender":"@carol:y.org","type":"m.test","message_id":"%d","messages":{%q:{%q:{"n":%[1]d}}}}`, i, bob.User, bob.Device))
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	list := must[[]storage.ToDevice](t)(storage.Get(ctx, all[1].db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
		return tx.ListToDevice(bob.DeviceNID, 0, 1<<40, 1000)
	}))
	seen := make(map[string]bool)
	for _, m := range list {
		if seen[string(m.JSON)] {
			t.Errorf("%s came twice", m.JSON)
		}
		seen[string(m.JSON)] = true
	}
	if len(seen) != 2*messages {
		t.Errorf("%d messages came", len(seen))
	}
}

// TestBackupByAllProcesses has keys be backed up by all processes at once: none is lost, and they are counted.
func TestBackupByAllProcesses(t *testing.T) {
	all := processes(t, 3)
	ctx := context.Background()
	user := all[0].register(t, "alice").User
	version := must[string](t)(all[0].CreateBackup(ctx, user, "a", json.RawMessage(`{}`)))
	const sessions = 30
	var wg sync.WaitGroup
	for i := range sessions {
		for n, f := range all {
			wg.Go(func() {
				index, none, verified := int64(n), int64(0), true
				_, err := f.PutBackupKeys(ctx, user, version, userserver.BackupKeys{"!r:x.org": {fmt.Sprint(i): {
					FirstMessageIndex: &index, ForwardedCount: &none, IsVerified: &verified, SessionData: fmt.Appendf(nil, `{"i":%d}`, n)}}})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	info := must[*userserver.BackupInfo](t)(all[1].GetBackup(ctx, user, ""))
	kept := must[userserver.BackupKeys](t)(all[2].GetBackupKeys(ctx, user, version, "", ""))["!r:x.org"]
	if info.Count != sessions || len(kept) != sessions {
		t.Errorf("%d sessions are counted, and %d kept", info.Count, len(kept))
	}
	for session, k := range kept {
		if string(k.SessionData) != `{"i":0}` {
			t.Errorf("session %s has %s, which is not the best", session, k.SessionData)
		}
	}
}
