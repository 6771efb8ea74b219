package userserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
	"parley/internal/stream"
	"parley/storage"
)

// CrossSigningUpload is a user's cross-signing keys; each may be nil.
type CrossSigningUpload struct {
	Master, SelfSigning, UserSigning json.RawMessage
}

// crossSigningKey is what we look at in such a key.
type crossSigningKey struct {
	UserID     id.UserID                       `json:"user_id"`
	Usage      []string                        `json:"usage"`
	Keys       map[string]string               `json:"keys"`
	Signatures map[id.UserID]map[string]string `json:"signatures"`
}

// parseCrossSigningKey checks a key's form; a nil text is a zero row.
func parseCrossSigningKey(text json.RawMessage, user id.UserID, usage string) (row storage.CrossSigningKey, k crossSigningKey, err error) {
	if text == nil || string(text) == "null" {
		return row, k, nil
	}
	if len(text) > maxKeyBytes {
		return row, k, matrixerr.New(matrixerr.TooLarge, "the %s key is larger than %d bytes", usage, maxKeyBytes)
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return row, k, matrixerr.New(matrixerr.BadJSON, "the %s key is not as it should be", usage)
	}
	if k.UserID != user || !slices.Contains(k.Usage, usage) || len(k.Keys) != 1 {
		return row, k, matrixerr.New(matrixerr.InvalidParam, "the %s key is for another user or use, or not one key", usage)
	}
	row = storage.CrossSigningKey{User: user, Usage: usage}
	for name, public := range k.Keys {
		if name != "ed25519:"+public || len(public) > id.MaxLength || !cleanText(public) {
			return row, k, matrixerr.New(matrixerr.InvalidParam, "the %s key is not named ed25519 and itself", usage)
		}
		row.Public = public
	}
	row.JSON, err = withoutUnsigned(text)
	return row, k, err
}

// MustConfirmCrossSigning says whether the user must confirm an upload: it has keys other than
// those that they have, who have some already.
//
// spec: client-server-api/modules/end_to_end_encryption.md#key-and-signature-security
func (s *Server) MustConfirmCrossSigning(ctx context.Context, user id.UserID, up CrossSigningUpload) (bool, error) {
	keys, err := checkCrossSigning(user, up)
	if err != nil {
		return false, err
	}
	have, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (map[string]storage.CrossSigningKey, error) {
		return crossSigningKeys(tx, user)
	})
	if err != nil || have[storage.MasterKey].Public == "" {
		return false, err
	}
	return slices.ContainsFunc(keys, func(k uploadedKey) bool { return have[k.row.Usage].Public != k.row.Public }), nil
}

func crossSigningKeys(tx *storage.Tx, user id.UserID) (map[string]storage.CrossSigningKey, error) {
	rows, err := tx.ListCrossSigningKeys([]id.UserID{user})
	out := make(map[string]storage.CrossSigningKey, len(rows))
	for _, k := range rows {
		out[k.Usage] = k
	}
	return out, err
}

type uploadedKey struct {
	row    storage.CrossSigningKey
	parsed crossSigningKey
}

func checkCrossSigning(user id.UserID, up CrossSigningUpload) ([]uploadedKey, error) {
	var out []uploadedKey
	for _, k := range []struct {
		usage string
		text  json.RawMessage
	}{{storage.MasterKey, up.Master}, {storage.SelfSigningKey, up.SelfSigning}, {storage.UserSigningKey, up.UserSigning}} {
		row, parsed, err := parseCrossSigningKey(k.text, user, k.usage)
		if err != nil {
			return nil, err
		}
		if row.Public != "" {
			out = append(out, uploadedKey{row, parsed})
		}
	}
	return out, nil
}

// UploadCrossSigning takes in a user's cross-signing keys. With a new master key, those that
// the old one signed go.
//
// spec: client-server-api/modules/end_to_end_encryption.md#cross-signing
func (s *Server) UploadCrossSigning(ctx context.Context, user id.UserID, up CrossSigningUpload) error {
	keys, err := checkCrossSigning(user, up)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return notFound(err, "there is no user %s", user)
		}
		have, err := crossSigningKeys(tx, user)
		if err != nil {
			return err
		}
		master := have[storage.MasterKey].Public
		if len(keys) > 0 && keys[0].row.Usage == storage.MasterKey {
			master = keys[0].row.Public
		}
		if master == "" {
			return matrixerr.New(matrixerr.MissingParam, "there is no master key")
		}
		if err := checkSignedByMaster(tx, user, keys, master); err != nil {
			return err
		}
		if old := have[storage.MasterKey]; old.Public != "" && old.Public != master {
			for _, k := range have {
				if err := tx.DeleteCrossSigningKey(&k); err != nil {
					return err
				}
			}
			clear(have)
		}
		changed := false
		for _, k := range keys {
			old := have[k.row.Usage]
			if bytes.Equal(old.JSON, k.row.JSON) {
				continue
			}
			changed = true
			if old.Public != "" && old.Public != k.row.Public {
				if err := tx.DeleteCrossSigningKey(&old); err != nil {
					return err
				}
			}
			if err := tx.InsertCrossSigningKey(&k.row); err != nil {
				return err
			}
		}
		if changed {
			deviceListChanged(tx, user, storage.CrossSigningKeys)
		}
		return nil
	})
}

// checkSignedByMaster refuses keys that the master key did not sign, or that have the name of a
// device.
func checkSignedByMaster(tx *storage.Tx, user id.UserID, keys []uploadedKey, master string) error {
	for _, k := range keys {
		_, err := tx.GetDevice(user, id.DeviceID(k.row.Public))
		if err == nil {
			return matrixerr.New(matrixerr.Forbidden, "a device has the name of the %s key", k.row.Usage)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if k.row.Usage == storage.MasterKey {
			continue
		}
		if err := signedjson.Verify(k.row.JSON, master, k.parsed.Signatures[user]["ed25519:"+master]); err != nil {
			return matrixerr.New(matrixerr.InvalidSignature, "the %s key is not signed by the master key: %v", k.row.Usage, err)
		}
	}
	return nil
}

// notCrossSigningKey refuses a device that has the name of one of the user's keys.
//
// spec: client-server-api/modules/end_to_end_encryption.md#cross-signing
func notCrossSigningKey(tx *storage.Tx, user id.UserID, device id.DeviceID) error {
	keys, err := tx.ListCrossSigningKeys([]id.UserID{user})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Public == string(device) {
			return matrixerr.New(matrixerr.Forbidden, "a device cannot have the name of a cross-signing key")
		}
	}
	return nil
}

// SignatureFailures are the errors of an upload of signatures, by user and key.
type SignatureFailures map[id.UserID]map[string]*matrixerr.Error

// UploadSignatures takes in signatures that a user's keys made of keys: of their own devices and
// master key, and of the master keys of other users. An object that is not as we know it, or
// whose signature is wrong, is among the failures.
//
// spec: client-server-api/modules/end_to_end_encryption.md#cross-signing
func (s *Server) UploadSignatures(ctx context.Context, signer id.UserID, objects map[id.UserID]map[string]json.RawMessage) (SignatureFailures, error) {
	strangers, err := s.unknownMasters(ctx, signer, objects)
	if err != nil {
		return nil, err
	}
	var failures SignatureFailures
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		failures = make(SignatureFailures)
		own, err := crossSigningKeys(tx, signer)
		if err != nil {
			return err
		}
		for user, keys := range objects {
			var signed []id.DeviceID
			if l := strangers[user]; l != nil {
				if err := putStranger(tx, signer, own, l, keys); err != nil {
					return err
				}
			}
			for keyID, object := range keys {
				err := putSignatures(tx, signer, own, user, keyID, object)
				var failed *matrixerr.Error
				switch {
				case err == nil && user == signer && keyID != own[storage.MasterKey].Public:
					signed = append(signed, id.DeviceID(keyID))
				case err == nil:
					signed = append(signed, storage.CrossSigningKeys)
				case !errors.As(err, &failed):
					return err
				default:
					if failures[user] == nil {
						failures[user] = make(map[string]*matrixerr.Error)
					}
					failures[user][keyID] = failed
				}
			}
			if len(signed) > 0 {
				signaturesChanged(tx, signer, user, signed)
			}
		}
		return nil
	})
	return failures, err
}

// unknownMasters are the cross-signing keys of those users of other servers who have the master key
// that was signed, while we don't: we keep those of users who share a room with one of ours alone, and
// somebody else may be verified as well.
func (s *Server) unknownMasters(ctx context.Context, signer id.UserID, objects map[id.UserID]map[string]json.RawMessage) (map[id.UserID]*remoteList, error) {
	wanted := make(map[id.UserID][]id.DeviceID)
	for user := range objects {
		if user != signer && !s.Local(user) && cleanText(string(user)) {
			wanted[user] = nil
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	have, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.CrossSigningKey, error) {
		return tx.ListCrossSigningKeys(slices.Collect(maps.Keys(wanted)))
	})
	if err != nil {
		return nil, err
	}
	for _, k := range have {
		if k.Usage == storage.MasterKey && objects[k.User][k.Public] != nil {
			delete(wanted, k.User)
		}
	}
	answer, err := s.QueryKeys(ctx, "", wanted, remoteTimeout) // as nobody in particular sees them
	if err != nil {
		return nil, err
	}
	out := make(map[id.UserID]*remoteList)
	for user := range wanted {
		l := &remoteList{user: user}
		l.addKeys(answer.MasterKeys[user], answer.SelfSigningKeys[user])
		if len(l.keys) > 0 && objects[user][l.keys[0].Public] != nil {
			out[user] = l
		}
	}
	return out, nil
}

// putStranger keeps the cross-signing keys of a user who shares no room with one of ours, if signer has
// signed their master key.
func putStranger(tx *storage.Tx, signer id.UserID, own map[string]storage.CrossSigningKey, l *remoteList, objects map[string]json.RawMessage) error {
	known, err := tx.ListKnownUsers([]id.UserID{l.user})
	if err != nil || len(known) > 0 {
		return err // whose list is kept, with these keys
	}
	master := l.keys[0]
	var given crossSigningKey
	name := own[storage.UserSigningKey].Public
	if json.Unmarshal(objects[master.Public], &given) != nil || name == "" ||
		signedjson.Verify(master.JSON, name, given.Signatures[signer]["ed25519:"+name]) != nil {
		return nil
	}
	return putRemoteKeys(tx, l.user, l.keys)
}

// signaturesChanged has those learn of signatures who see them: of one's own keys all, of
// another's keys the signer alone.
func signaturesChanged(tx *storage.Tx, signer, user id.UserID, keys []id.DeviceID) {
	if signer == user {
		deviceListChanged(tx, user, keys...)
		return
	}
	tx.OnPos(1, func(pos id.Pos) error {
		tx.Notify(stream.Notice{Pos: pos, Kind: stream.DeviceList, User: signer, Users: []id.UserID{signer}})
		return tx.UpdateSignatureList(signer, user, pos)
	})
}

// putSignatures takes in the signatures of one object.
func putSignatures(tx *storage.Tx, signer id.UserID, own map[string]storage.CrossSigningKey, user id.UserID, keyID string, object json.RawMessage) error {
	known, signers, err := signable(tx, signer, own, user, keyID)
	if errors.Is(err, storage.ErrNotFound) {
		return matrixerr.New(matrixerr.NotFound, "there is no key %.50q of %s to sign", keyID, user)
	}
	if err != nil {
		return err
	}
	var given struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(object, &given); err != nil {
		return matrixerr.New(matrixerr.BadJSON, "the object is not as it should be")
	}
	want, err := signedjson.Signed(known)
	if err != nil {
		return err
	}
	if got, err := signedjson.Signed(object); err != nil || !bytes.Equal(got, want) {
		return matrixerr.New(matrixerr.InvalidParam, "the object is not the key that was uploaded")
	}
	found := false
	for name, signature := range given.Signatures[signer] {
		public, err := signers(name)
		if errors.Is(err, storage.ErrNotFound) {
			continue // by a key that is not to sign this, such as the device's own
		}
		if err != nil {
			return err
		}
		if err := signedjson.Verify(known, public, signature); err != nil {
			return matrixerr.New(matrixerr.InvalidSignature, "the signature by %.80s: %v", name, err)
		}
		err = tx.InsertKeySignature(&storage.KeySignature{User: user, KeyID: keyID, Signer: signer, SignerKey: name, Signature: signature})
		if err != nil {
			return err
		}
		found = true
	}
	if !found {
		return matrixerr.New(matrixerr.InvalidSignature, "there is no signature by a key that may sign this")
	}
	return nil
}

// signable is a key that may be signed, and a function that gives the public key for the name of
// one that may sign it.
func signable(tx *storage.Tx, signer id.UserID, own map[string]storage.CrossSigningKey, user id.UserID, keyID string) (
	known []byte, signers func(name string) (public string, err error), err error) {
	if !cleanText(string(user)) || !cleanText(keyID) {
		return nil, nil, storage.ErrNotFound
	}
	only := func(usage string) func(string) (string, error) {
		return func(name string) (string, error) {
			if public := own[usage].Public; public != "" && name == "ed25519:"+public {
				return public, nil
			}
			return "", storage.ErrNotFound
		}
	}
	if user != signer {
		keys, err := crossSigningKeys(tx, user)
		if err == nil && (keys[storage.MasterKey].Public != keyID || keyID == "") {
			err = storage.ErrNotFound
		}
		return keys[storage.MasterKey].JSON, only(storage.UserSigningKey), err
	}
	if master := own[storage.MasterKey]; master.Public == keyID && keyID != "" {
		return master.JSON, func(name string) (string, error) { return deviceKey(tx, signer, name) }, nil
	}
	d, err := tx.GetDevice(user, id.DeviceID(keyID))
	if err != nil {
		return nil, nil, err
	}
	known, err = tx.GetDeviceKeys(d.NID)
	return known, only(storage.SelfSigningKey), err
}

// deviceKey is the public key "ed25519:DEVICE" of one of a user's devices.
func deviceKey(tx *storage.Tx, user id.UserID, name string) (string, error) {
	device, ok := strings.CutPrefix(name, "ed25519:")
	if !ok || !cleanText(device) {
		return "", storage.ErrNotFound
	}
	d, err := tx.GetDevice(user, id.DeviceID(device))
	if err != nil {
		return "", err
	}
	text, err := tx.GetDeviceKeys(d.NID)
	if err != nil {
		return "", err
	}
	var k deviceKeys
	if err := json.Unmarshal(text, &k); err != nil {
		return "", err
	}
	return k.Keys[name], nil
}
