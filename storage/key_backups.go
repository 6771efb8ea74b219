package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// KeyBackup is a row of key_backups.
type KeyBackup struct {
	User      id.UserID
	Version   int64
	Algorithm string
	// AuthData is a JSON object.
	AuthData []byte
	// ETag changes with the keys; Keys is how many there are.
	ETag, Keys int64
	Deleted    bool
}

const keyBackupColumns = `user_id, version, algorithm, auth_data, etag, keys, deleted`

func scanKeyBackup(row sqldb.Scanner) (b KeyBackup, err error) {
	return b, row.Scan(&b.User, &b.Version, &b.Algorithm, &b.AuthData, &b.ETag, &b.Keys, &b.Deleted)
}

// InsertKeyBackup adds a backup and sets its version, which comes after all that the user had.
func (tx *Tx) InsertKeyBackup(b *KeyBackup) error {
	return tx.QueryRow(`INSERT INTO key_backups (`+keyBackupColumns+`)
		SELECT $1, COALESCE(MAX(version), 0) + 1, $2, $3, 0, 0, FALSE FROM key_backups WHERE user_id = $1
		RETURNING version`, []any{b.User, b.Algorithm, string(b.AuthData)}, &b.Version)
}

// GetKeyBackup is one of a user's backups, a deleted one too.
func (tx *Tx) GetKeyBackup(user id.UserID, version int64) (KeyBackup, error) {
	return one(tx, scanKeyBackup, `SELECT `+keyBackupColumns+` FROM key_backups WHERE user_id = $1 AND version = $2`, user, version)
}

// GetLastKeyBackup is the newest of a user's backups that is not deleted.
func (tx *Tx) GetLastKeyBackup(user id.UserID) (KeyBackup, error) {
	return one(tx, scanKeyBackup, `SELECT `+keyBackupColumns+` FROM key_backups
		WHERE user_id = $1 AND NOT deleted ORDER BY version DESC LIMIT 1`, user)
}

// UpdateKeyBackup writes a backup's data, tag and count.
func (tx *Tx) UpdateKeyBackup(b *KeyBackup) error {
	_, err := tx.Exec(`UPDATE key_backups SET auth_data = $3, etag = $4, keys = $5, deleted = $6 WHERE user_id = $1 AND version = $2`,
		b.User, b.Version, string(b.AuthData), b.ETag, b.Keys, b.Deleted)
	return err
}

// BackupKey is a row of key_backup_keys: the key of a session, as its owner encrypted it.
type BackupKey struct {
	Room       id.RoomID
	Session    string
	FirstIndex int64
	Forwarded  int64
	Verified   bool
	// Data is a JSON object.
	Data []byte
}

const backupKeyColumns = `room_id, session_id, first_index, forwarded, verified, data`

func scanBackupKey(row sqldb.Scanner) (k BackupKey, err error) {
	return k, row.Scan(&k.Room, &k.Session, &k.FirstIndex, &k.Forwarded, &k.Verified, &k.Data)
}

// InsertBackupKey writes a key over the one of the same session.
func (tx *Tx) InsertBackupKey(b *KeyBackup, k *BackupKey) error {
	_, err := tx.Exec(`INSERT INTO key_backup_keys (user_id, version, `+backupKeyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_index = excluded.first_index,
		forwarded = excluded.forwarded, verified = excluded.verified, data = excluded.data`,
		b.User, b.Version, k.Room, k.Session, k.FirstIndex, k.Forwarded, k.Verified, string(k.Data))
	return err
}

// GetBackupKey is the key of one session.
func (tx *Tx) GetBackupKey(b *KeyBackup, room id.RoomID, session string) (BackupKey, error) {
	return one(tx, scanBackupKey, `SELECT `+backupKeyColumns+` FROM key_backup_keys
		WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`, b.User, b.Version, room, session)
}

// ListBackupKeys are the keys of a backup; room "" means all rooms, session "" all sessions.
func (tx *Tx) ListBackupKeys(b *KeyBackup, room id.RoomID, session string) ([]BackupKey, error) {
	const all = `SELECT ` + backupKeyColumns + ` FROM key_backup_keys WHERE user_id = $1 AND version = $2`
	switch {
	case room == "":
		return sqldb.List(tx.Tx, scanBackupKey, all, b.User, b.Version)
	case session == "":
		return sqldb.List(tx.Tx, scanBackupKey, all+` AND room_id = $3`, b.User, b.Version, room)
	}
	return sqldb.List(tx.Tx, scanBackupKey, all+` AND room_id = $3 AND session_id = $4`, b.User, b.Version, room, session)
}

// DeleteBackupKeys removes keys of a backup, named as in ListBackupKeys, and says how many.
func (tx *Tx) DeleteBackupKeys(b *KeyBackup, room id.RoomID, session string) (int64, error) {
	const all = `DELETE FROM key_backup_keys WHERE user_id = $1 AND version = $2`
	switch {
	case room == "":
		return tx.Exec(all, b.User, b.Version)
	case session == "":
		return tx.Exec(all+` AND room_id = $3`, b.User, b.Version, room)
	}
	return tx.Exec(all+` AND room_id = $3 AND session_id = $4`, b.User, b.Version, room, session)
}
