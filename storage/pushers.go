package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Pusher is a row of pushers: where a user's notifications are pushed to.
type Pusher struct {
	User    id.UserID
	AppID   string
	PushKey string
	// DeviceNID is the device that made it; the pusher ends with it.
	DeviceNID int64
	// Created is in milliseconds since 1970.
	Created int64
	// JSON is the pusher as clients see it.
	JSON []byte
}

const pusherColumns = `user_id, app_id, pushkey, device_nid, created, json`

func scanPusher(row sqldb.Scanner) (p Pusher, err error) {
	return p, row.Scan(&p.User, &p.AppID, &p.PushKey, &p.DeviceNID, &p.Created, &p.JSON)
}

// InsertPusher writes a pusher over the user's one of the same app and key.
func (tx *Tx) InsertPusher(p *Pusher) error {
	_, err := tx.Exec(`INSERT INTO pushers (`+pusherColumns+`) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (app_id, pushkey, user_id) DO UPDATE SET device_nid = excluded.device_nid, json = excluded.json`,
		p.User, p.AppID, p.PushKey, p.DeviceNID, p.Created, string(p.JSON))
	return err
}

// ListPushers are a user's pushers.
func (tx *Tx) ListPushers(user id.UserID) ([]Pusher, error) {
	return sqldb.List(tx.Tx, scanPusher, `SELECT `+pusherColumns+` FROM pushers WHERE user_id = $1 ORDER BY created, app_id, pushkey`, user)
}

// ListUsersWithPusher says which of the users have a pusher.
func (tx *Tx) ListUsersWithPusher(users []id.UserID) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT user_id FROM pushers WHERE user_id = ANY($1)`, sqldb.Array(users))
}

// DeletePusher removes a user's pusher.
func (tx *Tx) DeletePusher(user id.UserID, appID, pushKey string) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3`, user, appID, pushKey)
	return err
}

// DeleteOtherPushers removes the pushers that other users have with the same app and key.
func (tx *Tx) DeleteOtherPushers(user id.UserID, appID, pushKey string) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id <> $1 AND app_id = $2 AND pushkey = $3`, user, appID, pushKey)
	return err
}

// DeletePushersOfDevice removes the pushers that a device made.
func (tx *Tx) DeletePushersOfDevice(user id.UserID, device int64) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id = $1 AND device_nid = $2`, user, device)
	return err
}

// DeletePushersOfOthers removes a user's pushers that were made by other devices than this one.
func (tx *Tx) DeletePushersOfOthers(user id.UserID, device int64) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id = $1 AND device_nid <> $2`, user, device)
	return err
}

// DeletePushers removes all pushers of a user.
func (tx *Tx) DeletePushers(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id = $1`, user)
	return err
}
