package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// CrossSigningKeys stands for a user's cross-signing keys in the place of a device.
const CrossSigningKeys id.DeviceID = ""

// DeviceChange is a row of device_changes: when a device of a user of ours last changed.
type DeviceChange struct {
	User   id.UserID
	Device id.DeviceID
	Pos    id.Pos
	// Previous is when a device of the user had changed before, 0 for never.
	Previous id.Pos
}

func scanDeviceChange(row sqldb.Scanner) (c DeviceChange, err error) {
	return c, row.Scan(&c.User, &c.Device, &c.Pos, &c.Previous)
}

// UpdateDeviceChange notes that a device changed, or the cross-signing keys.
func (tx *Tx) UpdateDeviceChange(user id.UserID, device id.DeviceID, pos id.Pos) error {
	_, err := tx.Exec(`INSERT INTO device_changes (user_id, device_id, pos, previous)
		VALUES ($1, $2, $3, (SELECT COALESCE(MAX(pos), 0) FROM device_changes WHERE user_id = $1 AND device_id <> ''))
		ON CONFLICT (user_id, device_id) DO UPDATE SET pos = excluded.pos, previous = excluded.previous`, user, device, pos)
	return err
}

// ListDeviceChanges are up to limit changes with from < pos <= to, the oldest first.
func (tx *Tx) ListDeviceChanges(from, to id.Pos, limit int) ([]DeviceChange, error) {
	return sqldb.List(tx.Tx, scanDeviceChange, `SELECT user_id, device_id, pos, previous FROM device_changes
		WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`, from, to, limit)
}

// ListDeviceChangesFor are up to limit changes with from < pos <= to of users who share a room
// with a server, the oldest first.
func (tx *Tx) ListDeviceChangesFor(server id.ServerName, from, to id.Pos, limit int) ([]DeviceChange, error) {
	return sqldb.List(tx.Tx, scanDeviceChange, `SELECT c.user_id, c.device_id, c.pos, c.previous FROM device_changes c
		WHERE c.pos > $2 AND c.pos <= $3 AND EXISTS (SELECT 1 FROM memberships m JOIN room_servers s ON s.room_nid = m.room_nid
			WHERE m.user_id = c.user_id AND m.membership = 'join' AND s.server = $1 AND s.joined > 0)
		ORDER BY c.pos LIMIT $4`, server, from, to, limit)
}

// GetLastDeviceChange is the newest change of a device of a user.
func (tx *Tx) GetLastDeviceChange(user id.UserID) (DeviceChange, error) {
	return one(tx, scanDeviceChange, `SELECT user_id, device_id, pos, previous FROM device_changes
		WHERE user_id = $1 AND device_id <> '' ORDER BY pos DESC LIMIT 1`, user)
}
