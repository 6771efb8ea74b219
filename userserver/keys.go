package userserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// maxOneTimeKeys bounds the one-time keys that a device may have here.
	maxOneTimeKeys = 1000
	// maxKeyBytes bounds a key of any kind.
	maxKeyBytes = 64 << 10
)

// deviceKeys is what we look at in the identity keys of a device.
type deviceKeys struct {
	UserID     id.UserID                       `json:"user_id"`
	DeviceID   id.DeviceID                     `json:"device_id"`
	Algorithms []string                        `json:"algorithms"`
	Keys       map[string]string               `json:"keys"`
	Signatures map[id.UserID]map[string]string `json:"signatures"`
}

// KeyUpload is what a device uploads; each part may be nil.
type KeyUpload struct {
	DeviceKeys   json.RawMessage
	OneTimeKeys  map[string]json.RawMessage
	FallbackKeys map[string]json.RawMessage
}

// UploadKeys takes in a device's keys, and gives the numbers of its one-time keys that are left.
//
// spec: client-server-api/modules/end_to_end_encryption.md#uploading-keys
func (s *Server) UploadKeys(ctx context.Context, user id.UserID, device id.DeviceID, deviceNID int64, up KeyUpload) (map[string]int, error) {
	keys, err := up.check(user, device)
	if err != nil {
		return nil, err
	}
	if keys.identity == nil && len(keys.oneTime)+len(keys.fallback) > 0 {
		known, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]byte, error) { return tx.GetDeviceKeys(deviceNID) })
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
		if err := keys.checkSigned(user, device, known); err != nil {
			return nil, err
		}
	}
	if keys.identity == nil && len(keys.oneTime) == 0 && len(keys.fallback) == 0 {
		// Clients ask so for the counts.
		return storage.Get(ctx, s.db, func(tx *storage.Tx) (map[string]int, error) { return tx.CountOneTimeKeys(deviceNID) })
	}
	var counts map[string]int
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		if err := keys.put(tx, user, device, deviceNID); err != nil {
			return err
		}
		counts, err = tx.CountOneTimeKeys(deviceNID)
		return err
	})
	return counts, err
}

// checkedKeys is a KeyUpload in the form in which it is kept.
type checkedKeys struct {
	identity          []byte // nil for none
	oneTime, fallback []storage.OneTimeKey
}

func (up *KeyUpload) check(user id.UserID, device id.DeviceID) (k checkedKeys, err error) {
	if k.identity, err = checkDeviceKeys(up.DeviceKeys, user, device); err != nil {
		return k, err
	}
	if k.oneTime, err = parseKeys(up.OneTimeKeys); err != nil {
		return k, err
	}
	if k.fallback, err = parseKeys(up.FallbackKeys); err != nil {
		return k, err
	}
	return k, k.checkSigned(user, device, k.identity)
}

// checkSigned refuses keys with a wrong signature of the device whose identity keys are given.
func (k *checkedKeys) checkSigned(user id.UserID, device id.DeviceID, identity []byte) error {
	if identity == nil {
		return nil
	}
	var own deviceKeys
	if err := json.Unmarshal(identity, &own); err != nil {
		return fmt.Errorf("identity keys of a device: %w", err)
	}
	name := "ed25519:" + string(device)
	for _, list := range [][]storage.OneTimeKey{k.oneTime, k.fallback} {
		for i := range list {
			if err := checkOwnSignature(list[i].JSON, user, name, own.Keys[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOwnSignature refuses an object with a wrong signature by a device's own key. One without is
// let pass: who uses a key looks for the signature, as they don't trust this server.
func checkOwnSignature(object []byte, user id.UserID, name, public string) error {
	if object[0] != '{' {
		return nil
	}
	var given struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(object, &given); err != nil {
		return matrixerr.New(matrixerr.BadJSON, "the signatures of a key are not as they should be")
	}
	signature, ok := given.Signatures[user][name]
	if !ok || public == "" {
		return nil
	}
	if err := signedjson.Verify(object, public, signature); err != nil {
		return matrixerr.New(matrixerr.InvalidSignature, "the signature by %.80s: %v", name, err)
	}
	return nil
}

func (k *checkedKeys) put(tx *storage.Tx, user id.UserID, name id.DeviceID, device int64) error {
	if k.identity != nil {
		if err := putDeviceKeys(tx, user, name, device, k.identity); err != nil {
			return err
		}
	}
	if err := putOneTimeKeys(tx, device, k.oneTime); err != nil {
		return err
	}
	for i := range k.fallback {
		key := &k.fallback[i]
		old, _, err := tx.GetFallbackKey(device, key.Algorithm)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err == nil && old.KeyID == key.KeyID && bytes.Equal(old.JSON, key.JSON) {
			continue // the same again is no fresh one
		}
		if err := tx.InsertFallbackKey(device, key); err != nil {
			return err
		}
	}
	if len(k.oneTime)+len(k.fallback) > 0 {
		keyCountsChanged(tx, user)
	}
	return nil
}

// keyCountsChanged has users' devices learn how many keys they have left.
func keyCountsChanged(tx *storage.Tx, users ...id.UserID) {
	tx.Notify(stream.Notice{Kind: stream.KeyCounts, Users: users})
}

// checkDeviceKeys are the keys in the form in which they are kept, nil for none.
func checkDeviceKeys(text json.RawMessage, user id.UserID, device id.DeviceID) ([]byte, error) {
	if text == nil || string(text) == "null" {
		return nil, nil
	}
	if len(text) > maxKeyBytes {
		return nil, matrixerr.New(matrixerr.TooLarge, "device_keys is larger than %d bytes", maxKeyBytes)
	}
	var k deviceKeys
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "device_keys is not as it should be")
	}
	if k.UserID != user || k.DeviceID != device {
		return nil, matrixerr.New(matrixerr.InvalidParam, "device_keys is for another user or device")
	}
	if k.Algorithms == nil || len(k.Keys) == 0 {
		return nil, matrixerr.New(matrixerr.BadJSON, "device_keys has no algorithms or no keys")
	}
	for name := range k.Keys {
		if !strings.HasSuffix(name, ":"+string(device)) {
			return nil, matrixerr.New(matrixerr.InvalidParam, "device_keys has a key %.80q, which is not named after the device", name)
		}
	}
	name := "ed25519:" + string(device)
	if err := checkOwnSignature(text, user, name, k.Keys[name]); err != nil {
		return nil, err
	}
	return withoutUnsigned(text)
}

// withoutUnsigned drops what is not signed, which is for servers to add.
func withoutUnsigned(text json.RawMessage) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "a key is not an object")
	}
	delete(fields, "unsigned")
	return json.Marshal(fields)
}

func putDeviceKeys(tx *storage.Tx, user id.UserID, name id.DeviceID, device int64, keys []byte) error {
	old, err := tx.GetDeviceKeys(device)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err == nil && bytes.Equal(old, keys) {
		return nil
	}
	deviceListChanged(tx, user, name)
	return tx.InsertDeviceKeys(device, keys)
}

// parseKeys splits the names of keys, "algorithm:id".
func parseKeys(keys map[string]json.RawMessage) ([]storage.OneTimeKey, error) {
	out := make([]storage.OneTimeKey, 0, len(keys))
	for name, text := range keys {
		algorithm, keyID, ok := strings.Cut(name, ":")
		if !ok || algorithm == "" || keyID == "" || len(name) > id.MaxLength || !cleanText(name) {
			return nil, matrixerr.New(matrixerr.InvalidParam, "%.50q is not the name of a key", name)
		}
		if len(text) > maxKeyBytes {
			return nil, matrixerr.New(matrixerr.TooLarge, "key %.50q is larger than %d bytes", name, maxKeyBytes)
		}
		if text[0] != '{' && text[0] != '"' {
			return nil, matrixerr.New(matrixerr.BadJSON, "key %.50q is neither an object nor a string", name)
		}
		out = append(out, storage.OneTimeKey{Algorithm: algorithm, KeyID: keyID, JSON: text})
	}
	slices.SortFunc(out, func(a, b storage.OneTimeKey) int { return strings.Compare(a.KeyID, b.KeyID) })
	return out, nil
}

func putOneTimeKeys(tx *storage.Tx, device int64, keys []storage.OneTimeKey) error {
	if len(keys) == 0 {
		return nil
	}
	have, err := tx.ListOneTimeKeys(device)
	if err != nil {
		return err
	}
	known := make(map[string][]byte, len(have))
	for _, k := range have {
		known[k.Algorithm+":"+k.KeyID] = k.JSON
	}
	batch, err := tx.GetLastBatch(device)
	if err != nil {
		return err
	}
	for i := range keys {
		name := keys[i].Algorithm + ":" + keys[i].KeyID
		if old, ok := known[name]; ok {
			if bytes.Equal(old, keys[i].JSON) {
				continue
			}
			return matrixerr.New(matrixerr.InvalidParam, "there is another one-time key %s already", name)
		}
		if len(known) >= maxOneTimeKeys {
			return matrixerr.New(matrixerr.InvalidParam, "a device has no more than %d one-time keys", maxOneTimeKeys)
		}
		known[name] = keys[i].JSON
		if err := tx.InsertOneTimeKey(device, batch+1, &keys[i]); err != nil {
			return err
		}
	}
	return nil
}

// splitUsers separates users of ours from those of each other server.
func splitUsers[V any](s *Server, users map[id.UserID]V) (local map[id.UserID]V, remote map[id.ServerName]map[id.UserID]V) {
	local, remote = make(map[id.UserID]V), make(map[id.ServerName]map[id.UserID]V)
	for user, v := range users {
		if s.Local(user) {
			local[user] = v
			continue
		}
		if remote[user.Server()] == nil {
			remote[user.Server()] = make(map[id.UserID]V)
		}
		remote[user.Server()][user] = v
	}
	return local, remote
}

// LocalKeys are the keys of users of ours, as asker may see them, who may be of another server.
func (s *Server) LocalKeys(ctx context.Context, asker id.UserID, users map[id.UserID][]id.DeviceID) (*KeyAnswer, error) {
	return s.storedKeys(ctx, asker, users, (*storage.Tx).ListDeviceKeys)
}

// storedKeys are keys that we have, of the devices that a query lists.
func (s *Server) storedKeys(ctx context.Context, asker id.UserID, users map[id.UserID][]id.DeviceID,
	listDevices func(*storage.Tx, []id.UserID) ([]storage.DeviceKeys, error)) (*KeyAnswer, error) {
	out := &KeyAnswer{
		DeviceKeys:      make(map[id.UserID]map[id.DeviceID]json.RawMessage),
		MasterKeys:      make(map[id.UserID]json.RawMessage),
		SelfSigningKeys: make(map[id.UserID]json.RawMessage),
		UserSigningKeys: make(map[id.UserID]json.RawMessage),
		Failures:        make(map[id.ServerName]struct{}),
	}
	if len(users) == 0 {
		return out, nil
	}
	names := slices.Collect(maps.Keys(users))
	var devices []storage.DeviceKeys
	var crossSigning []storage.CrossSigningKey
	var signatures []storage.KeySignature
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if devices, err = listDevices(tx, names); err != nil {
			return err
		}
		if crossSigning, err = tx.ListCrossSigningKeys(names); err != nil || len(crossSigning) == 0 {
			return err
		}
		signatures, err = tx.ListKeySignatures(names, asker)
		return err
	})
	if err != nil {
		return nil, err
	}
	of := make(map[id.UserID]map[string][]storage.KeySignature)
	for _, sig := range signatures {
		if of[sig.User] == nil {
			of[sig.User] = make(map[string][]storage.KeySignature)
		}
		of[sig.User][sig.KeyID] = append(of[sig.User][sig.KeyID], sig)
	}
	for _, user := range names { // one without keys is told apart from one that was not asked for
		out.DeviceKeys[user] = make(map[id.DeviceID]json.RawMessage)
	}
	for _, d := range devices {
		if wanted := users[d.User]; len(wanted) > 0 && !slices.Contains(wanted, d.Device) {
			continue
		}
		text, err := withSignatures(d.JSON, of[d.User][string(d.Device)], d.DisplayName)
		if err != nil {
			return nil, err
		}
		out.DeviceKeys[d.User][d.Device] = text
	}
	for _, k := range crossSigning {
		text, err := withSignatures(k.JSON, of[k.User][k.Public], "")
		if err != nil {
			return nil, err
		}
		switch {
		case k.Usage == storage.MasterKey:
			out.MasterKeys[k.User] = text
		case k.Usage == storage.SelfSigningKey:
			out.SelfSigningKeys[k.User] = text
		case k.User == asker:
			out.UserSigningKeys[k.User] = text
		}
	}
	return out, nil
}

// PublicKeys are the keys of users of ours as any user may see them.
func (s *Server) PublicKeys(ctx context.Context, users []id.UserID) (*serverapi.Keys, error) {
	all := make(map[id.UserID][]id.DeviceID, len(users))
	for _, user := range users {
		all[user] = nil
	}
	a, err := s.LocalKeys(ctx, "", all)
	if err != nil {
		return nil, err
	}
	return &serverapi.Keys{DeviceKeys: a.DeviceKeys, MasterKeys: a.MasterKeys, SelfSigningKeys: a.SelfSigningKeys}, nil
}

// withSignatures is a key with the signatures that were made later, and with its device's name.
func withSignatures(key []byte, signatures []storage.KeySignature, displayName string) (json.RawMessage, error) {
	if len(signatures) == 0 && displayName == "" {
		return key, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(key, &fields); err != nil {
		return nil, err
	}
	if displayName != "" {
		unsigned, err := json.Marshal(map[string]string{"device_display_name": displayName})
		if err != nil {
			return nil, err
		}
		fields["unsigned"] = unsigned
	}
	if len(signatures) > 0 {
		all := make(map[id.UserID]map[string]string)
		if old := fields["signatures"]; old != nil {
			if err := json.Unmarshal(old, &all); err != nil {
				return nil, err
			}
		}
		for _, sig := range signatures {
			if all[sig.Signer] == nil {
				all[sig.Signer] = make(map[string]string)
			}
			all[sig.Signer][sig.SignerKey] = sig.Signature
		}
		text, err := json.Marshal(all)
		if err != nil {
			return nil, err
		}
		fields["signatures"] = text
	}
	return json.Marshal(fields)
}

// ClaimLocalKeys is ClaimKeys for devices of users of ours.
func (s *Server) ClaimLocalKeys(ctx context.Context, devices map[id.UserID]map[id.DeviceID]string) (ClaimedKeys, error) {
	out := make(ClaimedKeys)
	if len(devices) == 0 {
		return out, nil
	}
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		out = make(ClaimedKeys)
		for user, wanted := range devices {
			for device, algorithm := range wanted {
				k, err := claim(tx, user, device, algorithm)
				if errors.Is(err, storage.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				if out[user] == nil {
					out[user] = make(map[id.DeviceID]map[string]json.RawMessage)
				}
				out[user][device] = map[string]json.RawMessage{k.Algorithm + ":" + k.KeyID: k.JSON}
			}
		}
		if len(out) > 0 {
			keyCountsChanged(tx, slices.Collect(maps.Keys(out))...)
		}
		return nil
	})
	return out, err
}

// claim is a one-time key of a device, or its fallback key when none is left.
func claim(tx *storage.Tx, user id.UserID, device id.DeviceID, algorithm string) (storage.OneTimeKey, error) {
	if !cleanText(string(user)) || !cleanText(string(device)) || !cleanText(algorithm) {
		return storage.OneTimeKey{}, storage.ErrNotFound
	}
	d, err := tx.GetDevice(user, device)
	if err != nil {
		return storage.OneTimeKey{}, err
	}
	k, err := tx.DeleteOneTimeKey(d.NID, algorithm)
	if !errors.Is(err, storage.ErrNotFound) {
		return k, err
	}
	k, used, err := tx.GetFallbackKey(d.NID, algorithm)
	if err != nil || used {
		return k, err
	}
	return k, tx.UpdateFallbackKeyUsed(d.NID, algorithm)
}

// ChangedDeviceLists says whose devices a user must ask for anew since a position: those who
// share a room with the user and whose devices or keys changed, those who came to share one, and
// those whose keys the user has signed; and who shares none any more.
//
// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func (s *Server) ChangedDeviceLists(ctx context.Context, user id.UserID, from id.Pos) (changed, left []id.UserID, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		updated, err := tx.ListDeviceLists(from)
		if err != nil {
			return err
		}
		if changed, err = tx.ListSharedRooms(user, updated); err != nil {
			return err
		}
		if slices.Contains(updated, user) {
			changed = append(changed, user)
		}
		met, err := tx.ListNewAcquaintances(user, from)
		if err != nil {
			return err
		}
		signed, err := tx.ListSignatureLists(user, from)
		if err != nil {
			return err
		}
		lost, err := tx.ListLostAcquaintances(user, from)
		if err != nil {
			return err
		}
		met, left, err = s.rooms.Encounters(tx, user, from, met, lost)
		changed = slices.Concat(changed, met, signed)
		slices.Sort(changed)
		changed = slices.Compact(changed)
		return err
	})
	return changed, left, err
}
