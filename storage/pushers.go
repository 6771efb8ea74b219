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

// PushMember is a local member of a room who has pushers, with when what decides on their
// notifications last changed.
type PushMember struct {
	User id.UserID
	// Since is when the user's membership came to be what it is.
	Since id.Pos
	// PushRules and Ignored are when their push rules and whom they ignore last changed, 0 for never.
	PushRules, Ignored id.Pos
}

// ListPushMembers are the members of a room who have pushers.
func (tx *Tx) ListPushMembers(room RoomNID) ([]PushMember, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (m PushMember, err error) {
		return m, row.Scan(&m.User, &m.Since, &m.PushRules, &m.Ignored)
	}, `SELECT m.user_id, m.pos,
			COALESCE((SELECT pos FROM account_data a WHERE a.user_id = m.user_id AND a.room_id = '' AND a.type = 'm.push_rules'), 0),
			COALESCE((SELECT pos FROM account_data a WHERE a.user_id = m.user_id AND a.room_id = '' AND a.type = 'm.ignored_user_list'), 0)
		FROM memberships m WHERE m.room_nid = $1 AND m.membership = 'join' AND m.local
		AND EXISTS (SELECT 1 FROM pushers p WHERE p.user_id = m.user_id)`, room)
}

// HasPushers says whether anybody has a pusher.
func (tx *Tx) HasPushers() (bool, error) {
	var one int
	return found(tx.QueryRow(`SELECT 1 FROM pushers LIMIT 1`, nil, &one))
}

// GetPusher is one pusher of a user.
func (tx *Tx) GetPusher(user id.UserID, appID, pushKey string) (Pusher, error) {
	return one(tx, scanPusher, `SELECT `+pusherColumns+` FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3`, user, appID, pushKey)
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
