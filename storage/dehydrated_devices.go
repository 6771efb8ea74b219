package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// DehydratedDevice is a row of dehydrated_devices, with its device.
type DehydratedDevice struct {
	Device
	// Data is JSON that means something to the user's clients alone.
	Data []byte
}

// GetDehydratedDevice is a user's dehydrated device.
func (tx *Tx) GetDehydratedDevice(user id.UserID) (DehydratedDevice, error) {
	return one(tx, func(row sqldb.Scanner) (d DehydratedDevice, err error) {
		return d, row.Scan(&d.NID, &d.User, &d.ID, &d.DisplayName, &d.Seen, &d.SeenIP, &d.Data)
	}, `SELECT d.nid, d.user_id, d.device_id, d.display_name, d.seen, d.seen_ip, h.data
		FROM dehydrated_devices h JOIN devices d ON d.nid = h.device_nid WHERE h.user_id = $1`, user)
}

// InsertDehydratedDevice says that one of a user's devices, who has no other such, is dehydrated.
func (tx *Tx) InsertDehydratedDevice(user id.UserID, device int64, data []byte) error {
	_, err := tx.Exec(`INSERT INTO dehydrated_devices (user_id, device_nid, data) VALUES ($1, $2, $3)`, user, device, string(data))
	return err
}

// DeleteDehydratedDevice makes a device an ordinary one.
func (tx *Tx) DeleteDehydratedDevice(device int64) error {
	_, err := tx.Exec(`DELETE FROM dehydrated_devices WHERE device_nid = $1`, device)
	return err
}
