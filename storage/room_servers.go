package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// RoomServer is a row of room_servers: another server that has, or had, members in a room.
type RoomServer struct {
	Room   RoomNID
	Server id.ServerName
	// Joined is how many members it has there now.
	Joined int64
	// Since and Until are the first and the last position of which it hears; Until is 0
	// while it has members.
	Since, Until id.Pos
}

// In says whether the server hears of what is at a position.
func (r *RoomServer) In(pos id.Pos) bool {
	return r.Since <= pos && (r.Until == 0 || pos <= r.Until)
}

// AddRoomServer adds to the number of members that another server has in a room, and says
// how many there are then. UpdateRoomServer follows where that is the first or the last.
func (tx *Tx) AddRoomServer(room RoomNID, server id.ServerName, n int64) (joined int64, err error) {
	err = tx.QueryRow(`INSERT INTO room_servers (room_nid, server, joined, since, until) VALUES ($1, $2, $3, 0, 0)
		ON CONFLICT (room_nid, server) DO UPDATE SET joined = room_servers.joined + excluded.joined RETURNING joined`,
		[]any{room, server, n}, &joined)
	return joined, err
}

// UpdateRoomServer writes from when to when a server hears of a room; since is 0 where it stays.
func (tx *Tx) UpdateRoomServer(room RoomNID, server id.ServerName, since, until id.Pos) error {
	_, err := tx.Exec(`UPDATE room_servers SET since = CASE WHEN CAST($3 AS BIGINT) > 0 THEN CAST($3 AS BIGINT) ELSE since END, until = $4
		WHERE room_nid = $1 AND server = $2`, room, server, since, until)
	return err
}

// ListRoomServers are the other servers that have, or had, members in a room.
func (tx *Tx) ListRoomServers(room RoomNID) ([]RoomServer, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (r RoomServer, err error) {
		return r, row.Scan(&r.Room, &r.Server, &r.Joined, &r.Since, &r.Until)
	}, `SELECT room_nid, server, joined, since, until FROM room_servers WHERE room_nid = $1`, room)
}

// ListServersOfUser are the other servers that have members in the rooms that a user is joined to.
func (tx *Tx) ListServersOfUser(user id.UserID) ([]id.ServerName, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (s id.ServerName, err error) { return s, row.Scan(&s) },
		`SELECT DISTINCT s.server FROM memberships m JOIN room_servers s ON s.room_nid = m.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' AND s.joined > 0`, user)
}

// ListUsersOfServer are the users of ours among those given who are joined to a room in
// which another server has members.
func (tx *Tx) ListUsersOfServer(server id.ServerName, users []id.UserID) ([]id.UserID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT m.user_id FROM memberships m JOIN room_servers s ON s.room_nid = m.room_nid
		WHERE m.user_id = ANY($2) AND m.membership || '' = 'join' AND s.server = $1 AND s.joined > 0`,
		server, sqldb.Array(users)) // the || keeps SQLite from going through all members of the rooms
}

// Outgoing is a row of outgoing: an event that it is for us to send.
type Outgoing struct {
	Room  RoomNID
	Pos   id.Pos
	Event EventNID
}

func scanOutgoing(row sqldb.Scanner) (o Outgoing, err error) {
	return o, row.Scan(&o.Room, &o.Pos, &o.Event)
}

// InsertOutgoing notes that an event is for us to send.
func (tx *Tx) InsertOutgoing(room RoomNID, pos id.Pos, event EventNID) error {
	_, err := tx.Exec(`INSERT INTO outgoing (room_nid, pos, event_nid) VALUES ($1, $2, $3)`, room, pos, event)
	return err
}

// ListOutgoing are up to limit events to be sent with from < pos <= to, in their order.
func (tx *Tx) ListOutgoing(from, to id.Pos, limit int) ([]Outgoing, error) {
	return sqldb.List(tx.Tx, scanOutgoing, `SELECT room_nid, pos, event_nid FROM outgoing
		WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`, from, to, limit)
}

// ListOutgoingFor are up to limit of the events to be sent to a server with from < pos <= to,
// in no order. It goes through the server's rooms, and is meant for a long piece of the log.
func (tx *Tx) ListOutgoingFor(server id.ServerName, from, to id.Pos, limit int) ([]Outgoing, error) {
	return sqldb.List(tx.Tx, scanOutgoing, `SELECT o.room_nid, o.pos, o.event_nid FROM room_servers s JOIN outgoing o ON o.room_nid = s.room_nid
		WHERE s.server = $1 AND o.pos > $2 AND o.pos <= $3 AND o.pos >= s.since AND (s.until = 0 OR o.pos <= s.until)
		LIMIT $4`, server, from, to, limit)
}

// ListOutgoingNear is ListOutgoingFor for a short piece of the log, whose events it goes through.
func (tx *Tx) ListOutgoingNear(server id.ServerName, from, to id.Pos, limit int) ([]Outgoing, error) {
	return sqldb.List(tx.Tx, scanOutgoing, `SELECT o.room_nid, o.pos, o.event_nid
		FROM (SELECT room_nid, pos, event_nid FROM outgoing WHERE pos > $2 AND pos <= $3) o
		JOIN room_servers s ON s.room_nid = o.room_nid AND s.server = $1
		WHERE o.pos >= s.since AND (s.until = 0 OR o.pos <= s.until)
		LIMIT $4`, server, from, to, limit)
}

// ListLastOutgoing is, of each room of which a server has not heard since from, the last event to
// be sent to it up to to: up to limit of them, the earliest first.
func (tx *Tx) ListLastOutgoing(server id.ServerName, from, to id.Pos, limit int) ([]Outgoing, error) {
	return sqldb.List(tx.Tx, scanOutgoing, `SELECT o.room_nid, o.pos, o.event_nid
		FROM (SELECT s.room_nid, (SELECT MAX(l.pos) FROM outgoing l
				WHERE l.room_nid = s.room_nid AND l.pos > $2 AND l.pos <= $3 AND l.pos >= s.since AND (s.until = 0 OR l.pos <= s.until)) AS pos
			FROM room_servers s WHERE s.server = $1) r
		JOIN outgoing o ON o.room_nid = r.room_nid AND o.pos = r.pos
		ORDER BY o.pos LIMIT $4`, server, from, to, limit)
}

// DeleteOutgoing forgets the events up to a position: nobody waits for them.
func (tx *Tx) DeleteOutgoing(to id.Pos) error {
	_, err := tx.Exec(`DELETE FROM outgoing WHERE pos <= $1`, to)
	return err
}
