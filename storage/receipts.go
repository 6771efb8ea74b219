package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// The types of receipts.
const (
	ReceiptRead        = "m.read"
	ReceiptReadPrivate = "m.read.private"
)

// Receipt is a row of receipts: how far a user has read.
type Receipt struct {
	Room RoomNID
	User id.UserID
	// Type is ReceiptRead or ReceiptReadPrivate, which nobody but User may see.
	Type string
	// Thread is "" for a receipt without one, "main", or the thread's root.
	Thread string
	Event  id.EventID
	// Ord is the event's place in the timeline, 0 where it is not known.
	Ord Ord
	// TS is in milliseconds since 1970.
	TS  int64
	Pos id.Pos
}

const receiptColumns = `room_nid, user_id, type, thread, event_id, ord, ts, pos`

func scanReceipt(row sqldb.Scanner) (r Receipt, err error) {
	return r, row.Scan(&r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.Ord, &r.TS, &r.Pos)
}

// InsertReceipt writes a receipt over the one that was there. Its position follows with
// UpdateReceiptPos, as with account data.
func (tx *Tx) InsertReceipt(r *Receipt) error {
	_, err := tx.Exec(`INSERT INTO receipts (`+receiptColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_nid, user_id, type, thread) DO UPDATE
		SET event_id = excluded.event_id, ord = excluded.ord, ts = excluded.ts, pos = excluded.pos`,
		r.Room, r.User, r.Type, r.Thread, r.Event, r.Ord, r.TS, r.Pos)
	return err
}

// UpdateReceiptPos gives a receipt its position.
func (tx *Tx) UpdateReceiptPos(r *Receipt) error {
	_, err := tx.Exec(`UPDATE receipts SET pos = $5 WHERE room_nid = $1 AND user_id = $2 AND type = $3 AND thread = $4`,
		r.Room, r.User, r.Type, r.Thread, r.Pos)
	return err
}

// GetReceipt is one receipt.
func (tx *Tx) GetReceipt(room RoomNID, user id.UserID, typ, thread string) (Receipt, error) {
	return one(tx, scanReceipt, `SELECT `+receiptColumns+` FROM receipts
		WHERE room_nid = $1 AND user_id = $2 AND type = $3 AND thread = $4`, room, user, typ, thread)
}

// ListReceiptsOfUser are all receipts of one user in a room.
func (tx *Tx) ListReceiptsOfUser(room RoomNID, user id.UserID) ([]Receipt, error) {
	return sqldb.List(tx.Tx, scanReceipt, `SELECT `+receiptColumns+` FROM receipts
		WHERE room_nid = $1 AND user_id = $2`, room, user)
}

// ListRoomsRead are the rooms of a user in which they have read on after a position.
func (tx *Tx) ListRoomsRead(user id.UserID, from id.Pos) ([]RoomNID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (nid RoomNID, err error) { return nid, row.Scan(&nid) },
		`SELECT DISTINCT m.room_nid FROM memberships m JOIN receipts r ON r.room_nid = m.room_nid AND r.user_id = m.user_id
		WHERE m.user_id = $1 AND r.pos > $2`, user, from)
}

// ListReceipts are up to limit receipts in a room with from < pos <= to that user may see,
// the newest first.
func (tx *Tx) ListReceipts(room RoomNID, user id.UserID, from, to id.Pos, limit int) ([]Receipt, error) {
	return sqldb.List(tx.Tx, scanReceipt, `SELECT `+receiptColumns+` FROM receipts
		WHERE room_nid = $1 AND pos > $2 AND pos <= $3 AND (type <> 'm.read.private' OR user_id = $4)
		ORDER BY pos DESC LIMIT $5`, room, from, to, user, limit)
}
