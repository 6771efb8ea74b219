package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Device is a row of devices.
type Device struct {
	NID         int64
	User        id.UserID
	ID          id.DeviceID
	DisplayName string
	// Seen is when the device was last heard of, in milliseconds since 1970, and SeenIP where;
	// 0 and "" for never.
	Seen   int64
	SeenIP string
}

const deviceColumns = `nid, user_id, device_id, display_name, seen, seen_ip`

func scanDevice(row sqldb.Scanner) (d Device, err error) {
	return d, row.Scan(&d.NID, &d.User, &d.ID, &d.DisplayName, &d.Seen, &d.SeenIP)
}

// InsertDevice adds a device and sets its number.
func (tx *Tx) InsertDevice(d *Device) error {
	return tx.QueryRow(`INSERT INTO devices (user_id, device_id, display_name, seen, seen_ip)
		VALUES ($1, $2, $3, $4, $5) RETURNING nid`,
		[]any{d.User, d.ID, d.DisplayName, d.Seen, d.SeenIP}, &d.NID)
}

// GetDevice is one device of a user.
func (tx *Tx) GetDevice(user id.UserID, device id.DeviceID) (Device, error) {
	return one(tx, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE user_id = $1 AND device_id = $2`, user, device)
}

// ListDevices are all devices of a user.
func (tx *Tx) ListDevices(user id.UserID) ([]Device, error) {
	return sqldb.List(tx.Tx, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE user_id = $1 ORDER BY nid`, user)
}

// UpdateDeviceName names a device.
func (tx *Tx) UpdateDeviceName(nid int64, name string) error {
	_, err := tx.Exec(`UPDATE devices SET display_name = $2 WHERE nid = $1`, nid, name)
	return err
}

// UpdateDeviceSeen notes when and where a device was last heard of.
func (tx *Tx) UpdateDeviceSeen(nid, seen int64, ip string) error {
	_, err := tx.Exec(`UPDATE devices SET seen = $2, seen_ip = $3 WHERE nid = $1`, nid, seen, ip)
	return err
}

// DeleteDevice removes a device, with its tokens, its pushers, its keys, its notification settings and what it remembered
// of requests. hadKeys says that it had identity keys, which others may have seen.
func (tx *Tx) DeleteDevice(d *Device) (hadKeys bool, err error) {
	for _, query := range [...]string{
		`DELETE FROM tokens WHERE device_nid = $1`,
		`DELETE FROM send_txns WHERE device_nid = $1`,
		`DELETE FROM dehydrated_devices WHERE device_nid = $1`,
		`DELETE FROM sliding_connections WHERE device_nid = $1`,
		`DELETE FROM devices WHERE nid = $1`,
	} {
		if _, err := tx.Exec(query, d.NID); err != nil {
			return false, err
		}
	}
	if err := tx.DeletePushersOfDevice(d.User, d.NID); err != nil {
		return false, err
	}
	// It is MSC3890: https://github.com/matrix-org/matrix-spec-proposals/pull/3890
	for _, prefix := range [...]string{"m", "org.matrix.msc3890"} {
		_, err := tx.Exec(`DELETE FROM account_data WHERE user_id = $1 AND room_id = '' AND type = $2`,
			d.User, prefix+".local_notification_settings."+string(d.ID))
		if err != nil {
			return false, err
		}
	}
	return tx.DeleteDeviceEncryption(d)
}

// UpdateDeviceList notes that a user's devices or keys changed.
func (tx *Tx) UpdateDeviceList(user id.UserID, pos id.Pos) error {
	_, err := tx.Exec(`INSERT INTO device_lists (user_id, pos) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos`, user, pos)
	return err
}

// ListDeviceLists are the users whose devices or keys last changed with from < pos <= to, or
// after to: whoever changed again since then is among them.
func (tx *Tx) ListDeviceLists(from id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT user_id FROM device_lists WHERE pos > $1 ORDER BY pos`, from)
}

// ListNewAcquaintances are the users who share a room with user to which one of the two has come since from.
// They may have shared another before.
func (tx *Tx) ListNewAcquaintances(user id.UserID, from id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' AND o.membership = 'join' AND (m.since > $2 OR o.since > $2)`, user, from)
}

// ListLostAcquaintances are the users who may have ceased to share a room with user since from:
// one of the two has left one. They may share another.
func (tx *Tx) ListLostAcquaintances(user id.UserID, from id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid
		WHERE m.user_id = $1 AND o.user_id <> $1
		AND (m.membership <> 'join' AND m.since > $2 OR o.membership <> 'join' AND o.since > $2)`, user, from)
}
