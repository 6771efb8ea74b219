package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
	"parley/storage"
)

// remoteTimeout is how long other servers may take to answer, where the client doesn't say.
const remoteTimeout = 10 * time.Second

// QueryKeys are the keys of users, as asker may see them; an empty list stands for all devices.
//
// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func (s *Server) QueryKeys(ctx context.Context, asker id.UserID, users map[id.UserID][]id.DeviceID, timeout time.Duration) (*KeyAnswer, error) {
	local, remote := splitUsers(s, users)
	out, err := s.LocalKeys(ctx, asker, local)
	if err != nil {
		return nil, err
	}
	if len(remote) == 0 {
		return out, nil
	}
	fresh, known, err := s.keptUsers(ctx, remote)
	if err != nil {
		return nil, err
	}
	kept := make(map[id.UserID][]id.DeviceID, len(fresh))
	asked := make(map[id.ServerName]map[id.UserID][]id.DeviceID)
	for server, users := range remote {
		for user, devices := range users {
			switch {
			case fresh[user]:
				kept[user] = devices
			case asked[server] == nil:
				asked[server] = make(map[id.UserID][]id.DeviceID)
				fallthrough
			default:
				asked[server][user] = devices
			}
		}
	}
	answer, err := s.storedKeys(ctx, asker, kept, freshDevices)
	switch {
	case errors.Is(err, errNotKept): // since a moment ago
		asked = remote
	case err != nil:
		return nil, err
	default:
		out.add(answer)
	}
	s.eachServer(ctx, slices.Collect(maps.Keys(asked)), timeout, out.Failures, func(ctx context.Context, server id.ServerName, mu *sync.Mutex) error {
		answer, err := s.askKeys(ctx, asker, server, asked[server], known)
		if answer != nil {
			mu.Lock()
			defer mu.Unlock()
			out.add(answer)
		}
		return err
	})
	var waiting []id.UserID
	for server := range out.Failures {
		for user := range asked[server] {
			if known[user] && out.DeviceKeys[user] == nil {
				waiting = append(waiting, user)
			}
		}
	}
	if len(waiting) > 0 {
		err = s.unanswered(context.WithoutCancel(ctx), waiting)
	}
	return out, err
}

// errNotKept says that the devices of a user of another server are not kept, or not fresh.
var errNotKept = errors.New("the devices are not kept")

// freshDevices are the devices of users of other servers whose lists must all be fresh.
func freshDevices(tx *storage.Tx, users []id.UserID) ([]storage.DeviceKeys, error) {
	fresh, err := tx.ListFreshDeviceLists(users)
	if err != nil {
		return nil, err
	}
	if len(fresh) < len(users) {
		return nil, errNotKept
	}
	return tx.ListRemoteDevices(users)
}

// keptDevices are the devices of users of other servers as they were told a moment ago.
func keptDevices(tx *storage.Tx, users []id.UserID) ([]storage.DeviceKeys, error) {
	lists, err := tx.ListRemoteDeviceLists(users)
	if err != nil {
		return nil, err
	}
	if len(lists) < len(users) {
		return nil, errNotKept
	}
	return tx.ListRemoteDevices(users)
}

// add adds keys of other users.
func (a *KeyAnswer) add(b *KeyAnswer) {
	maps.Copy(a.DeviceKeys, b.DeviceKeys)
	maps.Copy(a.MasterKeys, b.MasterKeys)
	maps.Copy(a.SelfSigningKeys, b.SelfSigningKeys)
}

// keptUsers says of which users of other servers we know all devices, and whose we may come to
// know, as they share a room with a user of ours.
func (s *Server) keptUsers(ctx context.Context, remote map[id.ServerName]map[id.UserID][]id.DeviceID) (fresh, known map[id.UserID]bool, err error) {
	fresh, known = make(map[id.UserID]bool), make(map[id.UserID]bool)
	var names []id.UserID
	for _, users := range remote {
		for user := range users {
			if cleanText(string(user)) {
				names = append(names, user)
			}
		}
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.ListFreshDeviceLists(names)
		if err != nil {
			return err
		}
		for _, user := range list {
			fresh[user] = true
		}
		list, err = tx.ListKnownUsers(names)
		for _, user := range list {
			known[user] = true
		}
		return err
	})
	return fresh, known, err
}

// maxServersAtOnce bounds the servers that are asked at the same time for one request.
const maxServersAtOnce = 20

// eachServer asks servers, some at a time, waits for all, and notes those that failed. What ask
// writes that others write too, it writes under the lock.
func (s *Server) eachServer(ctx context.Context, servers []id.ServerName, timeout time.Duration,
	failures map[id.ServerName]struct{}, ask func(context.Context, id.ServerName, *sync.Mutex) error) {
	if timeout <= 0 || timeout > time.Minute {
		timeout = remoteTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxServersAtOnce)
	for _, server := range servers {
		if s.remote == nil {
			mu.Lock()
			failures[server] = struct{}{}
			mu.Unlock()
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := ask(ctx, server, &mu); err != nil {
				s.log.Debug("another server did not answer about keys", "server", server, "err", err)
				mu.Lock()
				failures[server] = struct{}{}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// ClaimKeys takes a one-time key of each device, of the algorithm that is its value. Keys that
// are not to be had are not in the answer.
//
// spec: client-server-api/modules/end_to_end_encryption.md#one-time-and-fallback-keys
func (s *Server) ClaimKeys(ctx context.Context, devices map[id.UserID]map[id.DeviceID]string, timeout time.Duration) (ClaimedKeys, map[id.ServerName]struct{}, error) {
	local, remote := splitUsers(s, devices)
	out, err := s.ClaimLocalKeys(ctx, local)
	if err != nil {
		return nil, nil, err
	}
	failures := make(map[id.ServerName]struct{})
	s.eachServer(ctx, slices.Collect(maps.Keys(remote)), timeout, failures, func(ctx context.Context, server id.ServerName, mu *sync.Mutex) error {
		answer, err := s.remote.ClaimKeys(ctx, server, remote[server])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for user, devices := range remote[server] { // nothing that was not asked for
			for device, algorithm := range devices {
				for name, key := range answer[user][device] {
					if strings.HasPrefix(name, algorithm+":") {
						if out[user] == nil {
							out[user] = make(map[id.DeviceID]map[string]json.RawMessage)
						}
						out[user][device] = map[string]json.RawMessage{name: key}
					}
				}
			}
		}
		return nil
	})
	return out, failures, nil
}

// maxSingly is how many users of a server are asked for one by one, which tells the number of
// their list; more are asked for at once.
const maxSingly = 3

// askKeys asks a server for keys of its users, and keeps those of whom it will tell us changes.
// With an error there may be an answer too, of a part of the users.
func (s *Server) askKeys(ctx context.Context, asker id.UserID, server id.ServerName, users map[id.UserID][]id.DeviceID, known map[id.UserID]bool) (*KeyAnswer, error) {
	kept, direct := make(map[id.UserID][]id.DeviceID), make(map[id.UserID][]id.DeviceID)
	for user, devices := range users {
		if known[user] {
			kept[user] = devices
		} else {
			direct[user] = devices
		}
	}
	var failed error
	query := maps.Clone(direct)
	whole := slices.Collect(maps.Keys(kept)) // those whose whole lists are asked for at once
	if len(whole) > maxSingly {
		for _, user := range whole {
			query[user] = []id.DeviceID{}
		}
	} else {
		failed = s.refreshAll(ctx, whole, kept)
		whole = nil
	}
	answer, err := s.askAtOnce(ctx, server, query, whole)
	if err != nil {
		failed = errors.Join(failed, err)
		clear(direct)
		for _, user := range whole {
			delete(kept, user)
		}
	}
	out, err := s.storedKeys(ctx, asker, kept, keptDevices)
	if err != nil {
		return nil, err
	}
	if err := s.addDirect(ctx, out, asker, direct, answer); err != nil {
		return nil, err
	}
	return out, failed
}

// refreshAll refreshes the lists of some users, and takes those out of kept for whom it fails.
func (s *Server) refreshAll(ctx context.Context, users []id.UserID, kept map[id.UserID][]id.DeviceID) error {
	errs := make([]error, len(users))
	var wg sync.WaitGroup
	for i, user := range users {
		wg.Go(func() { errs[i] = s.refresh(ctx, user) })
	}
	wg.Wait()
	for i, user := range users {
		if errs[i] != nil {
			delete(kept, user)
		}
	}
	return errors.Join(errs...)
}

// askAtOnce asks a server for keys of users, and keeps those of the whole.
func (s *Server) askAtOnce(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID, whole []id.UserID) (*serverapi.Keys, error) {
	if len(users) == 0 {
		return nil, nil
	}
	before, err := s.beginKeeping(ctx, whole)
	if err != nil {
		return nil, err
	}
	answer, err := s.remote.QueryKeys(ctx, server, users)
	s.refreshes.note(server, err, s.now())
	if err != nil {
		return nil, err
	}
	lists := make([]remoteList, len(whole))
	for i, user := range whole {
		if answer.DeviceKeys[user] == nil {
			return nil, fmt.Errorf("%s says nothing of the devices of %s", server, user)
		}
		lists[i] = listOfKeys(user, answer)
	}
	return answer, s.keep(ctx, lists, before)
}

// addDirect adds the keys of users that are not kept, with the signatures that asker has made of
// them, so that whom they have verified stays so when they share no room.
func (s *Server) addDirect(ctx context.Context, out *KeyAnswer, asker id.UserID, users map[id.UserID][]id.DeviceID, answer *serverapi.Keys) error {
	if len(users) == 0 {
		return nil
	}
	names := slices.Collect(maps.Keys(users))
	made, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.KeySignature, error) { return tx.ListKeySignatures(names, asker) })
	if err != nil {
		return err
	}
	for user, wanted := range users {
		l := listOfKeys(user, answer)
		out.DeviceKeys[user] = make(map[id.DeviceID]json.RawMessage)
		for _, d := range l.devices {
			if len(wanted) > 0 && !slices.Contains(wanted, d.Device) || len(d.JSON) == 0 {
				continue
			}
			if text, err := withSignatures(d.JSON, nil, d.DisplayName); err == nil {
				out.DeviceKeys[user][d.Device] = text
			}
		}
		for _, k := range l.keys {
			var signatures []storage.KeySignature
			for _, sig := range made {
				if sig.User == user && sig.KeyID == k.Public {
					signatures = append(signatures, sig)
				}
			}
			text, err := withSignatures(k.JSON, signatures, "")
			switch {
			case err != nil:
			case k.Usage == storage.MasterKey:
				out.MasterKeys[user] = text
			default:
				out.SelfSigningKeys[user] = text
			}
		}
	}
	return nil
}

// remoteList is what another server says of the devices of a user of its.
type remoteList struct {
	user     id.UserID
	streamID int64 // 0: not known
	devices  []storage.DeviceKeys
	keys     []storage.CrossSigningKey
}

// maxRemoteDevices bounds the devices that a user of another server has for us.
const maxRemoteDevices = 1000

// add adds a device, unless it is not what it should be: that of this user, by this name.
func (l *remoteList) add(device id.DeviceID, name string, keys json.RawMessage) {
	if len(l.devices) >= maxRemoteDevices || !validDevice(device) {
		return
	}
	text, err := checkDeviceKeys(keys, l.user, device)
	if err != nil {
		return
	}
	l.devices = append(l.devices, storage.DeviceKeys{User: l.user, Device: device, DisplayName: cleanName(name), JSON: text})
}

// addKeys adds the cross-signing keys, but for what is not as it should be: a master key is any
// key of the user, and a self-signing key is signed by it.
func (l *remoteList) addKeys(master, selfSigning json.RawMessage) {
	m, _, err := parseCrossSigningKey(master, l.user, storage.MasterKey)
	if err != nil || m.Public == "" {
		return
	}
	l.keys = append(l.keys, m)
	k, parsed, err := parseCrossSigningKey(selfSigning, l.user, storage.SelfSigningKey)
	if err != nil || k.Public == "" || signedjson.Verify(k.JSON, m.Public, parsed.Signatures[l.user]["ed25519:"+m.Public]) != nil {
		return
	}
	l.keys = append(l.keys, k)
}

// validDevice says whether a name may be that of a device.
func validDevice(device id.DeviceID) bool {
	return device != "" && len(device) <= id.MaxLength && cleanText(string(device))
}

// cleanName is the name of a device of another server, or nothing where it is not to be shown.
func cleanName(name string) string {
	if len(name) > id.MaxLength || !cleanText(name) {
		return ""
	}
	return name
}

func listOfKeys(user id.UserID, answer *serverapi.Keys) remoteList {
	l := remoteList{user: user}
	for device, keys := range answer.DeviceKeys[user] {
		l.add(device, gjson.GetBytes(keys, "unsigned.device_display_name").Str, keys)
	}
	l.addKeys(answer.MasterKeys[user], answer.SelfSigningKeys[user])
	return l
}

func listOfDevices(user id.UserID, answer *serverapi.UserDevices) remoteList {
	l := remoteList{user: user, streamID: max(answer.StreamID, 0)}
	for _, d := range answer.Devices {
		l.add(d.Device, d.DisplayName, d.Keys)
	}
	l.addKeys(answer.MasterKey, answer.SelfSigningKey)
	return l
}
