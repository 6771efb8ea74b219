package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// RemoteDeviceList is a row of remote_device_lists: a user of another server whose devices we
// keep.
type RemoteDeviceList struct {
	User id.UserID
	// StreamID is the last change of theirs that we know of, 0 where we don't know its number.
	StreamID int64
	// Pos is since when we know of every change, 0 where the devices were never asked for.
	Pos id.Pos
	// Stale says that we may have missed one.
	Stale bool
	// Generation moves with every change that we learn of.
	Generation int64
	// Unanswered says that somebody asked for the devices when they could not be had.
	Unanswered bool
}

const remoteDeviceListColumns = `user_id, stream_id, pos, stale, generation, unanswered`

func scanRemoteDeviceList(row sqldb.Scanner) (l RemoteDeviceList, err error) {
	return l, row.Scan(&l.User, &l.StreamID, &l.Pos, &l.Stale, &l.Generation, &l.Unanswered)
}

func scanUserID(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) }

// LockRemoteDeviceList is a user's list for one who is about to change it.
func (tx *Tx) LockRemoteDeviceList(user id.UserID) (RemoteDeviceList, error) {
	return one(tx, scanRemoteDeviceList, `SELECT `+remoteDeviceListColumns+` FROM remote_device_lists WHERE user_id = $1 FOR UPDATE`, user)
}

// ListRemoteDeviceLists are those of the given users whose devices are kept, or are to be.
func (tx *Tx) ListRemoteDeviceLists(users []id.UserID) ([]RemoteDeviceList, error) {
	return sqldb.List(tx.Tx, scanRemoteDeviceList, `SELECT `+remoteDeviceListColumns+` FROM remote_device_lists
		WHERE user_id = ANY($1)`, sqldb.Array(users))
}

// ListFreshDeviceLists are those of the given users of whose devices we know every change: their
// server has told us since Pos, as since before then they and a user of ours have been in a room.
func (tx *Tx) ListFreshDeviceLists(users []id.UserID) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT l.user_id FROM remote_device_lists l WHERE l.user_id = ANY($1) AND NOT l.stale AND EXISTS (
			SELECT 1 FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid
			WHERE m.user_id = l.user_id AND m.membership = 'join' AND m.since <= l.pos
				AND o.membership = 'join' AND o.local AND o.since <= l.pos)`, sqldb.Array(users))
}

// ListStaleDeviceLists are up to limit users after the given one of whose devices we may have
// missed a change since somebody asked for them, or never had any answer.
func (tx *Tx) ListStaleDeviceLists(after id.UserID, limit int) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM remote_device_lists
		WHERE stale AND (pos > 0 OR unanswered) AND user_id > $1 ORDER BY user_id LIMIT $2`, after, limit)
}

// ListStaleDeviceListsOf is ListStaleDeviceLists for the users of one server.
func (tx *Tx) ListStaleDeviceListsOf(server id.ServerName, limit int) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM remote_device_lists
		WHERE stale AND (pos > 0 OR unanswered) AND substr(user_id, length(user_id) - length($1) + 1) = $1
		ORDER BY user_id LIMIT $2`, ":"+string(server), limit)
}

// ListKeptUsers are up to limit users after the given one whose devices are kept.
func (tx *Tx) ListKeptUsers(after id.UserID, limit int) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM remote_device_lists WHERE user_id > $1 ORDER BY user_id LIMIT $2`, after, limit)
}

// InsertRemoteDeviceList adds a user whose devices are to be kept; one who is there stays.
func (tx *Tx) InsertRemoteDeviceList(user id.UserID) error {
	_, err := tx.Exec(`INSERT INTO remote_device_lists (`+remoteDeviceListColumns+`) VALUES ($1, 0, 0, TRUE, 0, FALSE)
		ON CONFLICT (user_id) DO NOTHING`, user)
	return err
}

// UpdateRemoteDeviceList writes a list's row.
func (tx *Tx) UpdateRemoteDeviceList(l *RemoteDeviceList) error {
	_, err := tx.Exec(`UPDATE remote_device_lists SET stream_id = $2, pos = $3, stale = $4, generation = $5, unanswered = $6
		WHERE user_id = $1`, l.User, l.StreamID, l.Pos, l.Stale, l.Generation, l.Unanswered)
	return err
}

// DeleteRemoteDeviceList forgets a user's devices, and their cross-signing keys but for those that
// a user of ours has signed: whom somebody has verified they need not verify again.
func (tx *Tx) DeleteRemoteDeviceList(user id.UserID) error {
	if _, err := tx.Exec(`DELETE FROM remote_device_lists WHERE user_id = $1`, user); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM cross_signing_keys WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM key_signatures s
		WHERE s.user_id = cross_signing_keys.user_id AND s.key_id = cross_signing_keys.public)`, user)
	if err != nil {
		return err
	}
	return tx.DeleteRemoteDevices(user)
}

// InsertRemoteDevice writes a device over the one that was there.
func (tx *Tx) InsertRemoteDevice(k *DeviceKeys) error {
	_, err := tx.Exec(`INSERT INTO remote_devices (user_id, device_id, display_name, json) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name, json = excluded.json`,
		k.User, k.Device, k.DisplayName, string(k.JSON))
	return err
}

// ListRemoteDevices are the devices of some users of other servers that have identity keys.
func (tx *Tx) ListRemoteDevices(users []id.UserID) ([]DeviceKeys, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (k DeviceKeys, err error) {
		return k, row.Scan(&k.User, &k.Device, &k.DisplayName, &k.JSON)
	}, `SELECT user_id, device_id, display_name, json FROM remote_devices WHERE user_id = ANY($1) AND json <> ''
		ORDER BY user_id, device_id`, sqldb.Array(users))
}

// DeleteRemoteDevice removes a device, and says whether it had keys.
func (tx *Tx) DeleteRemoteDevice(user id.UserID, device id.DeviceID) (hadKeys bool, err error) {
	err = tx.QueryRow(`DELETE FROM remote_devices WHERE user_id = $1 AND device_id = $2 RETURNING json <> ''`, []any{user, device}, &hadKeys)
	_, err = found(err)
	return hadKeys, err
}

// DeleteRemoteDevices removes all devices of a user of another server.
func (tx *Tx) DeleteRemoteDevices(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM remote_devices WHERE user_id = $1`, user)
	return err
}
