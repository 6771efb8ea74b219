package storage

import (
	"database/sql"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// SlidingConnection is a row of sliding_connections: what a connection of sliding sync was told.
type SlidingConnection struct {
	// Last is the newest number that was given to a state.
	Last int64
	// Base is the number of the state from which the client's last known answer went out, Next
	// that of the state that the newest answer made.
	Base      int64
	BaseState []byte
	Next      int64
	NextState []byte
}

// GetSlidingConnection is what a connection was told.
func (tx *Tx) GetSlidingConnection(device int64, conn string) (SlidingConnection, error) {
	return one(tx, func(row sqldb.Scanner) (c SlidingConnection, err error) {
		return c, row.Scan(&c.Last, &c.Base, &c.BaseState, &c.Next, &c.NextState)
	}, `SELECT last, base, base_state, next, next_state FROM sliding_connections WHERE device_nid = $1 AND conn_id = $2`, device, conn)
}

// InsertSlidingConnection writes what a connection was told over what was there. used is in
// milliseconds since 1970.
func (tx *Tx) InsertSlidingConnection(device int64, conn string, c *SlidingConnection, used int64) error {
	blob := func(b []byte) []byte {
		if b == nil {
			return []byte{}
		}
		return b
	}
	_, err := tx.Exec(`INSERT INTO sliding_connections (device_nid, conn_id, last, base, base_state, next, next_state, used)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (device_nid, conn_id) DO UPDATE SET last = excluded.last, base = excluded.base, base_state = excluded.base_state,
			next = excluded.next, next_state = excluded.next_state, used = excluded.used`,
		device, conn, c.Last, c.Base, blob(c.BaseState), c.Next, blob(c.NextState), used)
	return err
}

// DeleteSlidingConnections forgets the connections of a device that were last used before a time,
// and all but the keep that were used last.
func (tx *Tx) DeleteSlidingConnections(device, before int64, keep int) error {
	_, err := tx.Exec(`DELETE FROM sliding_connections WHERE device_nid = $1 AND (used < $2 OR conn_id NOT IN (
		SELECT conn_id FROM sliding_connections WHERE device_nid = $1 ORDER BY used DESC, conn_id LIMIT $3))`, device, before, keep)
	return err
}

// ListedRoom is a room of a user as lists of rooms need it.
type ListedRoom struct {
	Membership
	// Kind is what the room is; nil where that must be looked up.
	Kind *RoomKind
	// Newest is the place of the newest event of the room's timeline, 0 where there is none.
	Newest Ord
	// JSON is the member event of one who is not joined.
	JSON []byte
}

const listedRoomQuery = `SELECT r.room_type, r.encrypted,
	COALESCE((SELECT t.ord FROM timeline t WHERE t.room_nid = m.room_nid ORDER BY t.ord DESC LIMIT 1), 0), e.json, ` + membershipColumns + `
	FROM memberships m JOIN rooms r ON r.nid = m.room_nid
	LEFT JOIN events e ON e.nid = m.event_nid AND m.membership <> 'join'
	WHERE m.user_id = $1`

func scanListedRoom(row sqldb.Scanner) (l ListedRoom, err error) {
	var kind roomKind
	var json sql.NullString
	l.Membership, err = scanMembership(prefixed{row, []any{&kind.typ, &kind.encrypted, &l.Newest, &json}})
	l.Kind, l.JSON = kind.kind(), []byte(json.String)
	return l, err
}

// ListListedRooms are all rooms that a user has to do with.
func (tx *Tx) ListListedRooms(user id.UserID) ([]ListedRoom, error) {
	return sqldb.List(tx.Tx, scanListedRoom, listedRoomQuery, user)
}

// GetListedRoom is one of them.
func (tx *Tx) GetListedRoom(user id.UserID, room RoomNID) (ListedRoom, error) {
	return one(tx, scanListedRoom, listedRoomQuery+` AND m.room_nid = $2`, user, room)
}

// ListMembershipsSince are the rooms to which a user came to be something else after a position.
func (tx *Tx) ListMembershipsSince(user id.UserID, from id.Pos) ([]RoomNID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (nid RoomNID, err error) { return nid, row.Scan(&nid) },
		`SELECT room_nid FROM memberships WHERE user_id = $1 AND pos > $2`, user, from)
}
