package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// DeviceKeys are the identity keys of a device of ours.
type DeviceKeys struct {
	User        id.UserID
	Device      id.DeviceID
	DisplayName string
	// JSON is as it was uploaded.
	JSON []byte
}

// InsertDeviceKeys writes a device's identity keys over those that were there.
func (tx *Tx) InsertDeviceKeys(device int64, json []byte) error {
	_, err := tx.Exec(`INSERT INTO device_keys (device_nid, json) VALUES ($1, $2)
		ON CONFLICT (device_nid) DO UPDATE SET json = excluded.json`, device, string(json))
	return err
}

// GetDeviceKeys are a device's identity keys.
func (tx *Tx) GetDeviceKeys(device int64) (json []byte, err error) {
	err = tx.QueryRow(`SELECT json FROM device_keys WHERE device_nid = $1`, []any{device}, &json)
	return json, err
}

// ListDeviceKeys are the identity keys of all devices of some users of ours.
func (tx *Tx) ListDeviceKeys(users []id.UserID) ([]DeviceKeys, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (k DeviceKeys, err error) {
		return k, row.Scan(&k.User, &k.Device, &k.DisplayName, &k.JSON)
	}, `SELECT d.user_id, d.device_id, d.display_name, k.json FROM devices d JOIN device_keys k ON k.device_nid = d.nid
		WHERE d.user_id = ANY($1) ORDER BY d.user_id, d.nid`, sqldb.Array(users))
}

// OneTimeKey is a row of one_time_keys or fallback_keys.
type OneTimeKey struct {
	Algorithm string
	KeyID     string
	JSON      []byte
}

// InsertOneTimeKey adds a key that is given out once.
func (tx *Tx) InsertOneTimeKey(device, batch int64, k *OneTimeKey) error {
	_, err := tx.Exec(`INSERT INTO one_time_keys (device_nid, algorithm, batch, key_id, json) VALUES ($1, $2, $3, $4, $5)`,
		device, k.Algorithm, batch, k.KeyID, string(k.JSON))
	return err
}

// ListOneTimeKeys are the keys of a device that were not given out yet.
func (tx *Tx) ListOneTimeKeys(device int64) ([]OneTimeKey, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (k OneTimeKey, err error) {
		return k, row.Scan(&k.Algorithm, &k.KeyID, &k.JSON)
	}, `SELECT algorithm, key_id, json FROM one_time_keys WHERE device_nid = $1`, device)
}

// GetLastBatch is the number of the newest batch of a device's keys, 0 where there are none.
func (tx *Tx) GetLastBatch(device int64) (batch int64, err error) {
	err = tx.QueryRow(`SELECT COALESCE(MAX(batch), 0) FROM one_time_keys WHERE device_nid = $1`, []any{device}, &batch)
	return batch, err
}

// CountOneTimeKeys is how many keys of each algorithm a device has left.
func (tx *Tx) CountOneTimeKeys(device int64) (map[string]int, error) {
	out := make(map[string]int)
	err := tx.Query(`SELECT algorithm, COUNT(*) FROM one_time_keys WHERE device_nid = $1 GROUP BY algorithm`, []any{device},
		func(row sqldb.Scanner) error {
			var algorithm string
			var n int
			err := row.Scan(&algorithm, &n)
			out[algorithm] = n
			return err
		})
	return out, err
}

// DeleteOneTimeKey takes the oldest key of an algorithm; nobody else is given it.
func (tx *Tx) DeleteOneTimeKey(device int64, algorithm string) (OneTimeKey, error) {
	k := OneTimeKey{Algorithm: algorithm}
	err := tx.QueryRow(`DELETE FROM one_time_keys WHERE device_nid = $1 AND algorithm = $2 AND (batch, key_id) =
		(SELECT batch, key_id FROM one_time_keys WHERE device_nid = $1 AND algorithm = $2
		ORDER BY batch, key_id LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING key_id, json`, []any{device, algorithm}, &k.KeyID, &k.JSON)
	return k, err
}

// InsertFallbackKey writes the key that is given out when there is no other, as not used yet.
func (tx *Tx) InsertFallbackKey(device int64, k *OneTimeKey) error {
	_, err := tx.Exec(`INSERT INTO fallback_keys (device_nid, algorithm, key_id, json, used) VALUES ($1, $2, $3, $4, FALSE)
		ON CONFLICT (device_nid, algorithm) DO UPDATE SET key_id = excluded.key_id, json = excluded.json, used = FALSE`,
		device, k.Algorithm, k.KeyID, string(k.JSON))
	return err
}

// GetFallbackKey is the key that is given out when there is no other.
func (tx *Tx) GetFallbackKey(device int64, algorithm string) (k OneTimeKey, used bool, err error) {
	k.Algorithm = algorithm
	err = tx.QueryRow(`SELECT key_id, json, used FROM fallback_keys WHERE device_nid = $1 AND algorithm = $2`,
		[]any{device, algorithm}, &k.KeyID, &k.JSON, &used)
	return k, used, err
}

// UpdateFallbackKeyUsed notes that a key was given out.
func (tx *Tx) UpdateFallbackKeyUsed(device int64, algorithm string) error {
	_, err := tx.Exec(`UPDATE fallback_keys SET used = TRUE WHERE device_nid = $1 AND algorithm = $2`, device, algorithm)
	return err
}

// CountDeviceKeys is CountOneTimeKeys and ListUnusedFallbackKeys in one.
func (tx *Tx) CountDeviceKeys(device int64) (counts map[string]int, unused []string, err error) {
	err = tx.Query(`SELECT algorithm, COUNT(*), 1 AS kind FROM one_time_keys WHERE device_nid = $1 GROUP BY algorithm
		UNION ALL SELECT algorithm, 0, 2 FROM fallback_keys WHERE device_nid = $1 AND NOT used ORDER BY algorithm`, []any{device},
		func(row sqldb.Scanner) error {
			var algorithm string
			var n, kind int
			if err := row.Scan(&algorithm, &n, &kind); err != nil {
				return err
			}
			if kind == 2 {
				unused = append(unused, algorithm)
				return nil
			}
			if counts == nil {
				counts = make(map[string]int)
			}
			counts[algorithm] = n
			return nil
		})
	return counts, unused, err
}

// ListUnusedFallbackKeys are the algorithms for which a device has such a key that was not
// given out yet.
func (tx *Tx) ListUnusedFallbackKeys(device int64) ([]string, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (a string, err error) { return a, row.Scan(&a) },
		`SELECT algorithm FROM fallback_keys WHERE device_nid = $1 AND NOT used ORDER BY algorithm`, device)
}

// The uses of cross-signing keys.
const (
	MasterKey      = "master"
	SelfSigningKey = "self_signing"
	UserSigningKey = "user_signing"
)

// CrossSigningKey is a row of cross_signing_keys.
type CrossSigningKey struct {
	User   id.UserID
	Usage  string
	Public string
	JSON   []byte
}

// InsertCrossSigningKey writes a user's key over the one of the same use.
func (tx *Tx) InsertCrossSigningKey(k *CrossSigningKey) error {
	_, err := tx.Exec(`INSERT INTO cross_signing_keys (user_id, usage, public, json) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, usage) DO UPDATE SET public = excluded.public, json = excluded.json`,
		k.User, k.Usage, k.Public, string(k.JSON))
	return err
}

// ListCrossSigningKeys are the keys of some users.
func (tx *Tx) ListCrossSigningKeys(users []id.UserID) ([]CrossSigningKey, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (k CrossSigningKey, err error) {
		return k, row.Scan(&k.User, &k.Usage, &k.Public, &k.JSON)
	}, `SELECT user_id, usage, public, json FROM cross_signing_keys WHERE user_id = ANY($1)`, sqldb.Array(users))
}

// DeleteCrossSigningKey removes a user's key of one use, and what was signed of it.
func (tx *Tx) DeleteCrossSigningKey(k *CrossSigningKey) error {
	if _, err := tx.Exec(`DELETE FROM cross_signing_keys WHERE user_id = $1 AND usage = $2`, k.User, k.Usage); err != nil {
		return err
	}
	return tx.DeleteKeySignatures(k.User, k.Public)
}

// KeySignature is a row of key_signatures.
type KeySignature struct {
	User      id.UserID
	KeyID     string
	Signer    id.UserID
	SignerKey string
	Signature string
}

// InsertKeySignature writes a signature over what that key signed before.
func (tx *Tx) InsertKeySignature(s *KeySignature) error {
	_, err := tx.Exec(`INSERT INTO key_signatures (user_id, key_id, signer, signer_key, signature) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, key_id, signer, signer_key) DO UPDATE SET signature = excluded.signature`,
		s.User, s.KeyID, s.Signer, s.SignerKey, s.Signature)
	return err
}

// ListKeySignatures are the signatures of some users' keys that the users themselves or viewer made.
func (tx *Tx) ListKeySignatures(users []id.UserID, viewer id.UserID) ([]KeySignature, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (s KeySignature, err error) {
		return s, row.Scan(&s.User, &s.KeyID, &s.Signer, &s.SignerKey, &s.Signature)
	}, `SELECT user_id, key_id, signer, signer_key, signature FROM key_signatures
		WHERE user_id = ANY($1) AND (signer = user_id OR signer = $2)`, sqldb.Array(users), viewer)
}

// DeleteKeySignatures removes the signatures of a key.
func (tx *Tx) DeleteKeySignatures(user id.UserID, keyID string) error {
	_, err := tx.Exec(`DELETE FROM key_signatures WHERE user_id = $1 AND key_id = $2`, user, keyID)
	return err
}

// UpdateSignatureList notes that signer signed the keys of another user.
func (tx *Tx) UpdateSignatureList(signer, user id.UserID, pos id.Pos) error {
	_, err := tx.Exec(`INSERT INTO signature_lists (signer, user_id, pos) VALUES ($1, $2, $3)
		ON CONFLICT (signer, user_id) DO UPDATE SET pos = excluded.pos`, signer, user, pos)
	return err
}

// ListSignatureLists are the users whose keys signer has signed since from.
func (tx *Tx) ListSignatureLists(signer id.UserID, from id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT user_id FROM signature_lists WHERE signer = $1 AND pos > $2`, signer, from)
}

// DeleteDeviceEncryption removes all that a device has for encryption, and what waits for it.
// had says that it had identity keys, which others may have seen.
func (tx *Tx) DeleteDeviceEncryption(d *Device) (had bool, err error) {
	n, err := tx.Exec(`DELETE FROM device_keys WHERE device_nid = $1`, d.NID)
	if err != nil {
		return false, err
	}
	for _, query := range [...]string{
		`DELETE FROM one_time_keys WHERE device_nid = $1`,
		`DELETE FROM fallback_keys WHERE device_nid = $1`,
		`DELETE FROM to_device WHERE device_nid = $1`,
		`DELETE FROM to_device_txns WHERE device_nid = $1`,
	} {
		if _, err := tx.Exec(query, d.NID); err != nil {
			return false, err
		}
	}
	return n > 0, tx.DeleteKeySignatures(d.User, string(d.ID))
}

// DeleteUserEncryption removes all that a user has for encryption beside their devices.
func (tx *Tx) DeleteUserEncryption(user id.UserID) error {
	for _, query := range [...]string{
		`DELETE FROM cross_signing_keys WHERE user_id = $1`,
		`DELETE FROM key_signatures WHERE user_id = $1`,
		`DELETE FROM key_signatures WHERE signer = $1`,
		`DELETE FROM signature_lists WHERE signer = $1`,
		`DELETE FROM key_backup_keys WHERE user_id = $1`,
		`DELETE FROM key_backups WHERE user_id = $1`,
	} {
		if _, err := tx.Exec(query, user); err != nil {
			return err
		}
	}
	return nil
}
