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

// DirectoryEntry is a user as a search of the directory shows them.
type DirectoryEntry struct {
	User id.UserID
	// Content is the user's member event in one of the rooms, or nil; Name is the display
	// name of a user of ours as JSON, or "".
	Content []byte
	Name    string
}

// ListDirectory are up to limit active users of ours whose ID or display name contains term,
// which is in lower case: all of them, or those who share a room with asker or are in one that
// is open to all.
func (tx *Tx) ListDirectory(asker id.UserID, all bool, term string, limit int) ([]DirectoryEntry, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (e DirectoryEntry, err error) {
		return e, row.Scan(&e.User, &e.Name)
	}, `SELECT u.user_id, COALESCE(p.value, '') FROM users u
		LEFT JOIN profiles p ON p.user_id = u.user_id AND p.field = 'displayname'
		WHERE NOT u.deactivated AND NOT u.guest AND (u.user_id LIKE $1 ESCAPE '\' OR lower(p.value) LIKE $1 ESCAPE '\')
		AND ($2 OR EXISTS (SELECT 1 FROM memberships m JOIN rooms r ON r.nid = m.room_nid
			WHERE m.user_id = u.user_id AND m.membership = 'join' AND (r.open OR r.published OR EXISTS
				(SELECT 1 FROM memberships a WHERE a.user_id = $3 AND a.room_nid = m.room_nid AND a.membership = 'join'))))
		ORDER BY u.user_id LIMIT $4`, likeContains(term), all, asker, limit)
}

// ListAcquaintances are the users of other servers who share a room with user or are in one that
// is open to all, each with a member event; no more than limit memberships are looked at.
func (tx *Tx) ListAcquaintances(user id.UserID, limit int) ([]DirectoryEntry, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (e DirectoryEntry, err error) {
		return e, row.Scan(&e.User, &e.Content)
	}, `SELECT o.user_id, e.json FROM (SELECT user_id, event_nid FROM memberships
			WHERE room_nid IN (SELECT room_nid FROM memberships WHERE user_id = $1 AND membership = 'join'
				UNION SELECT nid FROM rooms WHERE open OR published)
			AND membership = 'join' AND NOT local LIMIT $2) o
		JOIN events e ON e.nid = o.event_nid ORDER BY o.event_nid DESC`, user, limit)
}

// likeContains is the pattern of LIKE … ESCAPE '\' for a text that contains s.
func likeContains(s string) string {
	out := []byte{'%'}
	for i := range len(s) {
		if c := s[i]; c == '%' || c == '_' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return string(append(out, '%'))
}
