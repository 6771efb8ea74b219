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
	// Created is when it was set, in milliseconds since 1970. A pusher that is set again has a later one.
	Created int64
	// Badge says that its gateway may have been told that something is unread, and not yet that
	// nothing is any more.
	Badge bool
	// JSON is the pusher as clients see it.
	JSON []byte
}

const pusherColumns = `user_id, app_id, pushkey, device_nid, created, badge, json`

func scanPusher(row sqldb.Scanner) (p Pusher, err error) {
	return p, row.Scan(&p.User, &p.AppID, &p.PushKey, &p.DeviceNID, &p.Created, &p.Badge, &p.JSON)
}

// InsertPusher writes a pusher over the user's one of the same app and key. What that one's gateway
// was told is told.
func (tx *Tx) InsertPusher(p *Pusher) error {
	_, err := tx.Exec(`INSERT INTO pushers (`+pusherColumns+`) VALUES ($1, $2, $3, $4, $5, FALSE, $6)
		ON CONFLICT (app_id, pushkey, user_id) DO UPDATE SET device_nid = excluded.device_nid, json = excluded.json,
			created = CASE WHEN excluded.created > pushers.created THEN excluded.created ELSE pushers.created + 1 END`,
		p.User, p.AppID, p.PushKey, p.DeviceNID, p.Created, string(p.JSON))
	return err
}

// UpdatePusherBadge notes whether a pusher's gateway may have been told that something is unread.
func (tx *Tx) UpdatePusherBadge(p *Pusher, badge bool) error {
	_, err := tx.Exec(`UPDATE pushers SET badge = $4 WHERE user_id = $1 AND app_id = $2 AND pushkey = $3`, p.User, p.AppID, p.PushKey, badge)
	return err
}

// UserRead is a user who has read on, last at Pos.
type UserRead struct {
	User id.UserID
	Pos  id.Pos
}

// ListPushUsersRead are the users with pushers who have read on with from < pos <= to.
func (tx *Tx) ListPushUsersRead(from, to id.Pos) ([]UserRead, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (r UserRead, err error) { return r, row.Scan(&r.User, &r.Pos) },
		`SELECT user_id, MAX(pos) FROM receipts r WHERE pos > $1 AND pos <= $2
		AND EXISTS (SELECT 1 FROM pushers p WHERE p.user_id = r.user_id) GROUP BY user_id`, from, to)
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
	// Badge says that a gateway may have been told that something is unread.
	Badge bool
}

// ListPushMembers are the members of a room who have pushers.
func (tx *Tx) ListPushMembers(room RoomNID) ([]PushMember, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (m PushMember, err error) {
		return m, row.Scan(&m.User, &m.Since, &m.PushRules, &m.Ignored, &m.Badge)
	}, `SELECT m.user_id, m.pos,
			COALESCE((SELECT pos FROM account_data a WHERE a.user_id = m.user_id AND a.room_id = '' AND a.type = 'm.push_rules'), 0),
			COALESCE((SELECT pos FROM account_data a WHERE a.user_id = m.user_id AND a.room_id = '' AND a.type = 'm.ignored_user_list'), 0),
			EXISTS (SELECT 1 FROM pushers p WHERE p.user_id = m.user_id AND p.badge)
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

// DeletePusherAsSet removes a user's pusher, if it was not set again since it was read.
func (tx *Tx) DeletePusherAsSet(p *Pusher) error {
	_, err := tx.Exec(`DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND created = $4`, p.User, p.AppID, p.PushKey, p.Created)
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
