package storage

import (
	"database/sql"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// RoomNID is a room's number in this database.
type RoomNID int64

// EventNID is an event's number in this database. It says nothing of order.
type EventNID int64

// Room is a row of rooms: a room, the head of its DAG, and some counts of its members.
type Room struct {
	NID     RoomNID
	ID      id.RoomID
	Version id.RoomVersion
	// Root is the current state; 0 where we know none, as for a room we are only invited to.
	Root int64
	// Extremities are the forward extremities.
	Extremities []Extremity
	// Depth is the greatest depth among the extremities.
	Depth           int64
	Joined, Invited int64
	Published       bool
	// Servers is how many other servers have members in it.
	Servers int64
	// Kind is what the room is; nil where that was not looked up yet.
	Kind *RoomKind
	// Partial is the join by which we came into a room of which we have not heard yet who is in it;
	// 0 where we have.
	Partial EventNID
}

// RoomKind is what a room is, as lists of rooms are filtered by it.
type RoomKind struct {
	// Type is what the create event says, as of a space; "" for an ordinary room.
	Type      string
	Encrypted bool
	// Open says that anybody may join the room, or read it.
	Open bool
}

// roomKind is a RoomKind as it is kept.
type roomKind struct {
	typ             sql.NullString
	encrypted, open sql.NullBool
}

func (k *roomKind) kind() *RoomKind {
	if !k.open.Valid {
		return nil
	}
	return &RoomKind{Type: k.typ.String, Encrypted: k.encrypted.Bool, Open: k.open.Bool}
}

func (k *RoomKind) row() roomKind {
	if k == nil {
		return roomKind{}
	}
	return roomKind{sql.NullString{String: k.Type, Valid: true}, sql.NullBool{Bool: k.Encrypted, Valid: true}, sql.NullBool{Bool: k.Open, Valid: true}}
}

// Extremity is an event that no other event follows.
type Extremity struct {
	NID EventNID
	ID  id.EventID
}

const roomColumns = `nid, room_id, version, root, extremities, depth, joined, invited, published, servers, room_type, encrypted, open,
	partial_join`

func scanRoom(row sqldb.Scanner) (r Room, err error) {
	var extremities string
	var kind roomKind
	if err = row.Scan(&r.NID, &r.ID, &r.Version, &r.Root, &extremities, &r.Depth, &r.Joined, &r.Invited, &r.Published, &r.Servers,
		&kind.typ, &kind.encrypted, &kind.open, &r.Partial); err != nil {
		return r, err
	}
	r.Kind = kind.kind()
	r.Extremities, err = parseExtremities(extremities)
	return r, err
}

// GetRoom is a room by its ID.
func (tx *Tx) GetRoom(room id.RoomID) (Room, error) {
	return one(tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE room_id = $1`, room)
}

// LockRoom is GetRoom for one who is about to change the room: others wait until the end of
// the transaction. It comes before every other lock.
func (tx *Tx) LockRoom(room id.RoomID) (Room, error) {
	return one(tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE room_id = $1 FOR UPDATE`, room)
}

// GetRoomByNID is a room by its number.
func (tx *Tx) GetRoomByNID(nid RoomNID) (Room, error) {
	return one(tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE nid = $1`, nid)
}

// InsertRoom adds a room that has no events yet.
func (tx *Tx) InsertRoom(room id.RoomID, version id.RoomVersion) (Room, error) {
	r := Room{ID: room, Version: version}
	err := tx.QueryRow(`INSERT INTO rooms (room_id, version) VALUES ($1, $2) RETURNING nid`, []any{room, version}, &r.NID)
	return r, err
}

// UpdateRoomHead writes the room's current state, extremities, depth, counts and kind, and whether it is partial.
func (tx *Tx) UpdateRoomHead(r *Room) error {
	kind := r.Kind.row()
	_, err := tx.Exec(`UPDATE rooms SET root = $2, extremities = $3, depth = $4, joined = $5, invited = $6, servers = $7, room_type = $8,
		encrypted = $9, open = $10, partial_join = $11 WHERE nid = $1`,
		r.NID, r.Root, formatExtremities(r.Extremities), r.Depth, r.Joined, r.Invited, r.Servers, kind.typ, kind.encrypted, kind.open, r.Partial)
	return err
}

// UpdateRoomVersion corrects the version of a room of which we have no state.
func (tx *Tx) UpdateRoomVersion(nid RoomNID, version id.RoomVersion) error {
	_, err := tx.Exec(`UPDATE rooms SET version = $2 WHERE nid = $1`, nid, version)
	return err
}

// UpdateRoomPublished puts the room into the public directory or takes it out.
func (tx *Tx) UpdateRoomPublished(nid RoomNID, published bool) error {
	_, err := tx.Exec(`UPDATE rooms SET published = $2 WHERE nid = $1`, nid, published)
	return err
}

// ListPublishedRooms are the rooms of the public directory, those with most members first.
func (tx *Tx) ListPublishedRooms() ([]Room, error) {
	return sqldb.List(tx.Tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE published ORDER BY joined DESC, nid`)
}

// one is the first row of a query.
func one[T any](tx *Tx, scan func(sqldb.Scanner) (T, error), query string, args ...any) (T, error) {
	var out T
	n := 0
	err := tx.Query(query, args, func(row sqldb.Scanner) (err error) {
		if n++; n > 1 {
			return nil
		}
		out, err = scan(row)
		return err
	})
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return out, err
}

// formatExtremities and parseExtremities keep the list in one column: "3 $id,17 $id". Event
// IDs of room versions 1 and 2 are chosen by their servers, so ',' and ' ' are escaped.
func formatExtremities(list []Extremity) string {
	var b strings.Builder
	for i, e := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(int64(e.NID), 10))
		b.WriteByte(' ')
		b.WriteString(url.PathEscape(string(e.ID)))
	}
	return b.String()
}

func parseExtremities(s string) ([]Extremity, error) {
	if s == "" {
		return nil, nil
	}
	var out []Extremity
	for part := range strings.SplitSeq(s, ",") {
		number, escaped, _ := strings.Cut(part, " ")
		nid, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("forward extremities: %w", err)
		}
		event, err := url.PathUnescape(escaped)
		if err != nil {
			return nil, fmt.Errorf("forward extremities: %w", err)
		}
		out = append(out, Extremity{EventNID(nid), id.EventID(event)})
	}
	return out, nil
}
