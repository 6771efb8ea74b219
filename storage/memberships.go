package storage

import (
	"database/sql"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// Membership is a row of memberships: what a user is to a room in its current state.
type Membership struct {
	User       id.UserID
	Room       RoomNID
	RoomID     id.RoomID
	Membership string // "join", "invite", "knock", "leave", "ban"
	// Event is the member event; 0 where the state came to have none.
	Event EventNID
	// Pos is when it came to be so.
	Pos id.Pos
	// Local says that the user is one of ours.
	Local     bool
	Forgotten bool
	// Stripped is what an invite or a knock was shown of the room: a JSON list.
	Stripped []byte
	// Phrases are what the directory finds a user of another server by. They are only written.
	Phrases []string
	// Partial says that we have not heard yet who is in the room; Complete is the position from
	// which on we have again, 0 where there was no doubt.
	Partial  bool
	Complete id.Pos
}

const membershipColumns = `m.user_id, m.room_nid, r.room_id, m.membership, m.event_nid, m.pos, m.local, m.forgotten, m.stripped,
	r.partial_join, r.complete_since`

func scanMembership(row sqldb.Scanner) (m Membership, err error) {
	var stripped sql.NullString
	var partial EventNID
	err = row.Scan(&m.User, &m.Room, &m.RoomID, &m.Membership, &m.Event, &m.Pos, &m.Local, &m.Forgotten, &stripped, &partial, &m.Complete)
	m.Partial = partial != 0
	if stripped.Valid {
		m.Stripped = []byte(stripped.String)
	}
	return m, err
}

// InsertMembership writes what a user is to a room from now on, whose position follows with
// UpdateMembershipPos. What they were shown of it stays as long as the event does.
func (tx *Tx) InsertMembership(m *Membership) error {
	var stripped any
	if m.Stripped != nil {
		stripped = string(m.Stripped)
	}
	// Who is joined by an event that does not follow the one before may have been away in between, while
	// their server told us nothing.
	_, err := tx.Exec(`INSERT INTO memberships (user_id, room_nid, membership, event_nid, pos, since, local, forgotten, stripped)
		VALUES ($1, $2, $3, $4, 0, 0, $5, FALSE, $6)
		ON CONFLICT (user_id, room_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid,
			since = CASE WHEN memberships.membership = excluded.membership AND (excluded.membership <> 'join' OR memberships.event_nid
				IN (excluded.event_nid, (SELECT replaces FROM events WHERE nid = excluded.event_nid))) THEN memberships.since ELSE 0 END,
			forgotten = FALSE, stripped = COALESCE(excluded.stripped,
				CASE WHEN memberships.event_nid = excluded.event_nid THEN memberships.stripped END)`,
		m.User, m.Room, m.Membership, m.Event, m.Local, stripped)
	if err != nil {
		return err
	}
	return tx.InsertDirectory(m.User, m.Phrases)
}

// UpdateMembershipPos writes the position from which on users are to a room what they are.
func (tx *Tx) UpdateMembershipPos(room RoomNID, users []id.UserID, pos id.Pos) error {
	if len(users) == 0 {
		return nil
	}
	_, err := tx.Exec(`UPDATE memberships SET pos = $1, since = CASE WHEN since = 0 THEN $1 ELSE since END WHERE room_nid = $2 AND user_id = ANY($3)`, pos, room, sqldb.Array(users))
	return err
}

// UpdateForgotten has a user forget a room that they left, and says whether there was one to forget.
func (tx *Tx) UpdateForgotten(user id.UserID, room RoomNID) (bool, error) {
	n, err := tx.Exec(`UPDATE memberships SET forgotten = TRUE WHERE user_id = $1 AND room_nid = $2
		AND membership IN ('leave', 'ban')`, user, room)
	return n > 0, err
}

// GetMembership is what a user is to a room.
func (tx *Tx) GetMembership(user id.UserID, room RoomNID) (Membership, error) {
	return one(tx, scanMembership, `SELECT `+membershipColumns+` FROM memberships m JOIN rooms r ON r.nid = m.room_nid
		WHERE m.user_id = $1 AND m.room_nid = $2`, user, room)
}

// ListMemberships are all rooms that a user has to do with, the forgotten ones included.
func (tx *Tx) ListMemberships(user id.UserID) ([]Membership, error) {
	return sqldb.List(tx.Tx, scanMembership, `SELECT `+membershipColumns+` FROM memberships m JOIN rooms r ON r.nid = m.room_nid
		WHERE m.user_id = $1 ORDER BY m.room_nid`, user)
}

// ListJoinedRooms are the rooms that a user is joined to.
func (tx *Tx) ListJoinedRooms(user id.UserID) ([]id.RoomID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (r id.RoomID, err error) { return r, row.Scan(&r) },
		`SELECT r.room_id FROM memberships m JOIN rooms r ON r.nid = m.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' ORDER BY m.room_nid`, user)
}

// ListMembers are a room's members of one membership; all of them, or our own users alone.
func (tx *Tx) ListMembers(room RoomNID, membership string, localOnly bool) ([]id.UserID, error) {
	scan := func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) }
	if localOnly {
		return sqldb.List(tx.Tx, scan, `SELECT user_id FROM memberships
			WHERE room_nid = $1 AND membership = $2 AND local ORDER BY user_id`, room, membership)
	}
	return sqldb.List(tx.Tx, scan, `SELECT user_id FROM memberships
		WHERE room_nid = $1 AND membership = $2 ORDER BY user_id`, room, membership)
}

// ListMembersSince are who is joined to a room, and who may have been at some time since a position.
func (tx *Tx) ListMembersSince(room RoomNID, since id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, scanUserID, `SELECT user_id FROM memberships WHERE room_nid = $1 AND (membership = 'join' OR since > $2)`, room, since)
}

// ListGuests are the guests of ours who are joined to a room.
func (tx *Tx) ListGuests(room RoomNID) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT m.user_id FROM memberships m JOIN users u ON u.user_id = m.user_id
		WHERE m.room_nid = $1 AND m.membership = 'join' AND m.local AND u.guest ORDER BY m.user_id`, room)
}

// heroes is how many members stand for a room that has no name.
const heroes = 5

// ListHeroes are the members that stand for a room without a name as a user sees it: those who came first, and
// those who were there where nobody is.
//
// spec: client-server-api/modules/instant_messaging.md#calculating-the-display-name-for-a-room
func (tx *Tx) ListHeroes(room RoomNID, user id.UserID) ([]id.UserID, error) {
	var out []id.UserID
	for _, memberships := range [][]string{{"join", "invite"}, {"leave", "ban"}} {
		var err error
		out, err = sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
			`SELECT user_id FROM memberships WHERE room_nid = $1 AND membership = ANY($2) AND user_id <> $3
			ORDER BY event_nid LIMIT $4`, room, sqldb.Array(memberships), user, heroes)
		if err != nil || len(out) > 0 {
			return out, err
		}
	}
	return out, nil
}

// ListSharedRooms says which of the given users share a joined room with user.
func (tx *Tx) ListSharedRooms(user id.UserID, with []id.UserID) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT o.user_id FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid
		WHERE o.user_id = ANY($2) AND o.membership || '' = 'join' AND m.user_id = $1 AND m.membership = 'join'`,
		user, sqldb.Array(with)) // the || keeps SQLite from going through all members of the rooms
}

// ListSharedRoomsSince says which of the given users share a room with user to which both have been
// joined all the time since a position.
func (tx *Tx) ListSharedRoomsSince(user id.UserID, with []id.UserID, since id.Pos) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT o.user_id FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid
		WHERE o.user_id = ANY($2) AND o.membership || '' = 'join' AND o.since <= $3
			AND m.user_id = $1 AND m.membership = 'join' AND m.since <= $3`,
		user, sqldb.Array(with), since)
}

// ListPartings are the rooms to which user or one of the given others is not joined any more since a position,
// each with the others who are or were something to it.
func (tx *Tx) ListPartings(user id.UserID, others []id.UserID, since id.Pos) (map[RoomNID][]id.UserID, error) {
	out := make(map[RoomNID][]id.UserID)
	err := tx.Query(`SELECT o.room_nid, o.user_id FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid
		WHERE o.user_id = ANY($2) AND m.user_id = $1
			AND (o.membership || '' <> 'join' AND o.since > $3 OR m.membership <> 'join' AND m.since > $3)`,
		[]any{user, sqldb.Array(others), since}, func(row sqldb.Scanner) error {
			var room RoomNID
			var other id.UserID
			err := row.Scan(&room, &other)
			out[room] = append(out[room], other)
			return err
		})
	return out, err
}

// ListMutualRooms are up to limit rooms that two users are both joined to, in the order of their
// numbers, those after the given one, and how many there are in all.
func (tx *Tx) ListMutualRooms(a, b id.UserID, after RoomNID, limit int) (rooms []Room, total int, err error) {
	const from = ` FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' AND o.user_id = $2 AND o.membership = 'join'`
	if err := tx.QueryRow(`SELECT COUNT(*)`+from, []any{a, b}, &total); err != nil {
		return nil, 0, err
	}
	rooms, err = sqldb.List(tx.Tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE nid > $3 AND nid IN (SELECT m.room_nid`+from+`)
		ORDER BY nid LIMIT $4`, a, b, after, limit)
	return rooms, total, err
}

// ListServers are the servers that have a member in a room.
func (tx *Tx) ListServers(room RoomNID) ([]id.ServerName, error) {
	scan := func(row sqldb.Scanner) (s id.ServerName, err error) { return s, row.Scan(&s) }
	others, err := sqldb.List(tx.Tx, scan, `SELECT server FROM room_servers WHERE room_nid = $1 AND joined > 0`, room)
	if err != nil {
		return nil, err
	}
	var local id.UserID
	err = tx.QueryRow(`SELECT user_id FROM memberships WHERE room_nid = $1 AND membership = 'join' AND local LIMIT 1`, []any{room}, &local)
	if ok, err := found(err); !ok {
		return others, err
	}
	return append([]id.ServerName{local.Server()}, others...), nil
}

// HasLocalMember says whether a user of ours is joined to a room.
func (tx *Tx) HasLocalMember(room RoomNID) (bool, error) {
	var one int
	err := tx.QueryRow(`SELECT 1 FROM memberships WHERE room_nid = $1 AND membership = 'join' AND local LIMIT 1`, []any{room}, &one)
	return found(err)
}

// HasMemberOf says whether a user of another server is joined to a room.
func (tx *Tx) HasMemberOf(room RoomNID, server id.ServerName) (bool, error) {
	var one int
	err := tx.QueryRow(`SELECT 1 FROM room_servers WHERE room_nid = $1 AND server = $2 AND joined > 0`, []any{room, server}, &one)
	return found(err)
}

// CountMembersOf is how many users of another server are joined to a room.
func (tx *Tx) CountMembersOf(room RoomNID, server id.ServerName) (int64, error) {
	var n int64
	err := tx.QueryRow(`SELECT joined FROM room_servers WHERE room_nid = $1 AND server = $2`, []any{room, server}, &n)
	_, err = found(err)
	return n, err
}

// HasInviteOf says whether a user of another server is invited to a room. It may go through all who
// are invited to it.
func (tx *Tx) HasInviteOf(room RoomNID, server id.ServerName) (bool, error) {
	name := ":" + string(server)
	var one int
	err := tx.QueryRow(`SELECT 1 FROM memberships WHERE room_nid = $1 AND membership = 'invite' AND NOT local
		AND SUBSTR(user_id, LENGTH(user_id) - $2 + 1) = $3 LIMIT 1`, []any{room, len(name), name}, &one)
	return found(err)
}

// ListUsersOf are the users of another server who are or were something to a room. It goes
// through all of the room's memberships.
func (tx *Tx) ListUsersOf(room RoomNID, server id.ServerName) ([]id.UserID, error) {
	name := ":" + string(server)
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT user_id FROM memberships WHERE room_nid = $1 AND NOT local AND SUBSTR(user_id, LENGTH(user_id) - $2 + 1) = $3`,
		room, len(name), name)
}
