package storage

import (
	"fmt"
	"strings"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// DirectoryEntry is a user as a search of the directory shows them: a user of ours has a profile, others a
// member event.
type DirectoryEntry struct {
	User id.UserID
	// Name and Avatar are JSON, "" for none.
	Name, Avatar string
	// Content is the event.
	Content []byte
}

func scanDirectoryEntry(row sqldb.Scanner) (e DirectoryEntry, err error) {
	return e, row.Scan(&e.User, &e.Name, &e.Avatar, &e.Content)
}

// InsertDirectory lets a user be found by phrases, which are sorted.
func (tx *Tx) InsertDirectory(user id.UserID, phrases []string) error {
	if len(phrases) == 0 {
		return nil
	}
	rows := make([]string, len(phrases))
	args := []any{user}
	for i, p := range phrases {
		rows[i] = fmt.Sprintf("($%d, $1)", i+2)
		args = append(args, p)
	}
	_, err := tx.Exec(`INSERT INTO directory (phrase, user_id) VALUES `+strings.Join(rows, ", ")+` ON CONFLICT (phrase, user_id) DO NOTHING`, args...)
	return err
}

// DeleteDirectory has a user not be found by phrases any more.
func (tx *Tx) DeleteDirectory(user id.UserID, phrases []string) error {
	_, err := tx.Exec(`DELETE FROM directory WHERE phrase = ANY($1) AND user_id = $2`, sqldb.Array(phrases), user)
	return err
}

// ListDirectory are up to limit users of whom a phrase begins with the given one, a user once for each of them. Who may be
// found is not looked at.
func (tx *Tx) ListDirectory(phrase string, limit int) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM directory WHERE phrase >= $1 AND phrase < $2 ORDER BY phrase, user_id LIMIT $3`,
		phrase, phrase+"\U0010ffff", limit)
}

// mayBeFound is true of a membership m in a room r which lets $1 find the member: the two share the room, or it is open to all.
const mayBeFound = `m.membership || '' = 'join' AND (r.open OR r.published OR EXISTS
	(SELECT 1 FROM memberships a WHERE a.user_id = $1 AND a.room_nid = m.room_nid AND a.membership = 'join'))`

// ListFindable are those of some users whom asker may find, in no order: of ours all, or those who share a room with asker or
// are in one that is open to all; of others the latter, each with the newest member event that asker may know.
func (tx *Tx) ListFindable(asker id.UserID, all bool, users []id.UserID) ([]DirectoryEntry, error) {
	return sqldb.List(tx.Tx, scanDirectoryEntry, `SELECT u.user_id, COALESCE(n.value, ''), COALESCE(v.value, ''), '' FROM users u
			LEFT JOIN profiles n ON n.user_id = u.user_id AND n.field = 'displayname'
			LEFT JOIN profiles v ON v.user_id = u.user_id AND v.field = 'avatar_url'
			WHERE u.user_id = ANY($2) AND NOT u.deactivated AND NOT u.guest AND ($3 OR EXISTS
				(SELECT 1 FROM memberships m JOIN rooms r ON r.nid = m.room_nid WHERE m.user_id = u.user_id AND `+mayBeFound+`))
		UNION ALL SELECT o.user_id, '', '', e.json FROM (SELECT m.user_id, MAX(m.event_nid) AS nid
				FROM memberships m JOIN rooms r ON r.nid = m.room_nid
				WHERE m.user_id = ANY($2) AND NOT m.local AND `+mayBeFound+` GROUP BY m.user_id) o
			JOIN events e ON e.nid = o.nid`, asker, sqldb.Array(users), all)
}

// ListNeighbours are the members of those smallest of a user's rooms that have no more than most members in all, but of one at
// least: then not more than most of them.
func (tx *Tx) ListNeighbours(user id.UserID, most int) ([]id.UserID, error) {
	var rooms []RoomNID
	sum := 0
	err := tx.Query(`SELECT r.nid, r.joined FROM memberships m JOIN rooms r ON r.nid = m.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' ORDER BY r.joined, r.nid LIMIT $2`, []any{user, most}, func(row sqldb.Scanner) error {
		var room RoomNID
		var joined int
		err := row.Scan(&room, &joined)
		if sum += joined; sum <= most || len(rooms) == 0 {
			rooms = append(rooms, room)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM memberships WHERE room_nid = ANY($1) AND membership = 'join' LIMIT $2`,
		sqldb.Array(rooms), most)
}

// ListDirectoryPending are up to limit users who are still to be taken into the directory, and the names of these: a user of ours
// has one at most, others one for each room.
func (tx *Tx) ListDirectoryPending(limit int) (users []id.UserID, names []DirectoryEntry, err error) {
	users, err = sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM directory_pending ORDER BY user_id LIMIT $1`, limit)
	if err != nil || len(users) == 0 {
		return nil, nil, err
	}
	names, err = sqldb.List(tx.Tx, scanDirectoryEntry, `SELECT u.user_id, COALESCE(n.value, ''), '', '' FROM users u
			LEFT JOIN profiles n ON n.user_id = u.user_id AND n.field = 'displayname' WHERE u.user_id = ANY($1) AND NOT u.deactivated
		UNION ALL SELECT m.user_id, '', '', e.json FROM memberships m JOIN events e ON e.nid = m.event_nid
			WHERE m.user_id = ANY($1) AND m.membership = 'join' AND NOT m.local`, sqldb.Array(users))
	return users, names, err
}

// DeleteDirectoryPending notes that users are in the directory.
func (tx *Tx) DeleteDirectoryPending(users []id.UserID) error {
	_, err := tx.Exec(`DELETE FROM directory_pending WHERE user_id = ANY($1)`, sqldb.Array(users))
	return err
}
