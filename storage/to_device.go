package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ToDevice is a row of to_device: a message that waits for a device.
type ToDevice struct {
	Pos id.Pos
	// JSON is the event as the client is shown it.
	JSON []byte
}

// InsertToDevice adds a message for a device.
func (tx *Tx) InsertToDevice(device int64, m *ToDevice) error {
	_, err := tx.Exec(`INSERT INTO to_device (device_nid, pos, json) VALUES ($1, $2, $3)`, device, m.Pos, string(m.JSON))
	return err
}

// ListToDevice are up to limit messages for a device with from < pos <= to, in the order in which
// they came.
func (tx *Tx) ListToDevice(device int64, from, to id.Pos, limit int) ([]ToDevice, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (m ToDevice, err error) {
		return m, row.Scan(&m.Pos, &m.JSON)
	}, `SELECT pos, json FROM to_device WHERE device_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`, device, from, to, limit)
}

// DeleteToDevice removes a device's messages up to a position: it has them.
func (tx *Tx) DeleteToDevice(device int64, to id.Pos) error {
	_, err := tx.Exec(`DELETE FROM to_device WHERE device_nid = $1 AND pos <= $2`, device, to)
	return err
}

// InsertToDeviceTxn remembers a request; inserted is false when it was made before.
func (tx *Tx) InsertToDeviceTxn(device int64, txn string, ts int64) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO to_device_txns (device_nid, txn_id, ts) VALUES ($1, $2, $3)
		ON CONFLICT (device_nid, txn_id) DO NOTHING`, device, txn, ts)
	return n > 0, err
}

// DeleteToDeviceTxns forgets a device's requests from before a time.
func (tx *Tx) DeleteToDeviceTxns(device, before int64) error {
	_, err := tx.Exec(`DELETE FROM to_device_txns WHERE device_nid = $1 AND ts < $2`, device, before)
	return err
}
