package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// User is a row of users: an account of this node.
type User struct {
	ID id.UserID
	// Password is the hash of the password, empty where nobody can log in with one.
	Password string
	// Created is when, in milliseconds since 1970.
	Created int64
	// AppService is the application service that the account belongs to, "" for none.
	AppService  string
	Admin       bool
	Guest       bool
	Deactivated bool
	// Erased says that the user asked for what they wrote to be hidden when they left.
	Erased    bool
	Locked    bool
	Suspended bool
}

const userColumns = `user_id, password, created, appservice, admin, guest, deactivated, erased, locked, suspended`

func scanUser(row sqldb.Scanner) (u User, err error) {
	return u, row.Scan(&u.ID, &u.Password, &u.Created, &u.AppService,
		&u.Admin, &u.Guest, &u.Deactivated, &u.Erased, &u.Locked, &u.Suspended)
}

// InsertUser adds an account; inserted is false when the name is taken.
func (tx *Tx) InsertUser(u *User) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO users (`+userColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (user_id) DO NOTHING`,
		u.ID, u.Password, u.Created, u.AppService, u.Admin, u.Guest, u.Deactivated, u.Erased, u.Locked, u.Suspended)
	return n > 0, err
}

// GetUser is an account.
func (tx *Tx) GetUser(user id.UserID) (User, error) {
	return one(tx, scanUser, `SELECT `+userColumns+` FROM users WHERE user_id = $1`, user)
}

// LockUser is GetUser for one who is about to change what belongs to the account: others wait
// until the end of the transaction. It comes after the room's lock.
func (tx *Tx) LockUser(user id.UserID) (User, error) {
	return one(tx, scanUser, `SELECT `+userColumns+` FROM users WHERE user_id = $1 FOR UPDATE`, user)
}

// CountUsers is how many accounts people use: neither guests nor those that have ended.
func (tx *Tx) CountUsers() (n int, err error) {
	return n, tx.QueryRow(`SELECT COUNT(*) FROM users WHERE NOT deactivated AND NOT guest`, nil, &n)
}

// ListUsers are up to limit accounts in the order of their IDs, those after the given one.
func (tx *Tx) ListUsers(after id.UserID, limit int) ([]User, error) {
	return sqldb.List(tx.Tx, scanUser, `SELECT `+userColumns+` FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2`, after, limit)
}

// UpdateUser writes all of an account but its name and the time it was made.
func (tx *Tx) UpdateUser(u *User) error {
	n, err := tx.Exec(`UPDATE users SET password = $2, appservice = $3, admin = $4, guest = $5, deactivated = $6,
		erased = $7, locked = $8, suspended = $9 WHERE user_id = $1`,
		u.ID, u.Password, u.AppService, u.Admin, u.Guest, u.Deactivated, u.Erased, u.Locked, u.Suspended)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// UpdateUserErased notes that whoever comes to a room from now on is shown nothing of what a user wrote there.
func (tx *Tx) UpdateUserErased(user id.UserID) error {
	_, err := tx.Exec(`UPDATE users SET erased = TRUE, erased_pos = (SELECT pos FROM log) WHERE user_id = $1 AND NOT erased`, user)
	return err
}

// ListErased are those of some users who had erased what they wrote, with the position of the log at which they had.
func (tx *Tx) ListErased(users []id.UserID) (map[id.UserID]id.Pos, error) {
	if len(users) == 0 {
		return nil, nil
	}
	out := make(map[id.UserID]id.Pos)
	return out, tx.Query(`SELECT user_id, erased_pos FROM users WHERE erased AND user_id = ANY($1)`, []any{sqldb.Array(users)},
		func(row sqldb.Scanner) error {
			var user id.UserID
			var pos id.Pos
			err := row.Scan(&user, &pos)
			out[user] = pos
			return err
		})
}
