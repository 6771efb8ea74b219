package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ListPartialRooms are up to limit rooms with members of ours of which we have not heard yet who
// else is in them, in the order of their numbers, those after the given one.
func (tx *Tx) ListPartialRooms(after RoomNID, limit int) ([]Room, error) {
	return sqldb.List(tx.Tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE partial_join <> 0 AND nid > $1 AND EXISTS
		(SELECT 1 FROM memberships m WHERE m.room_nid = rooms.nid AND m.membership = 'join' AND m.local) ORDER BY nid LIMIT $2`, after, limit)
}

// UpdateRoomComplete notes from which position on it is known who is in a room.
func (tx *Tx) UpdateRoomComplete(room RoomNID, since id.Pos) error {
	_, err := tx.Exec(`UPDATE rooms SET complete_since = $2 WHERE nid = $1`, room, since)
	return err
}

// InsertPresumedServer notes that another server is said to be in a room; those of lower rank are
// listed first.
func (tx *Tx) InsertPresumedServer(room RoomNID, rank int, server id.ServerName) error {
	_, err := tx.Exec(`INSERT INTO presumed_servers (room_nid, server, rank) VALUES ($1, $2, $3)`, room, server, rank)
	return err
}

// ListPresumedServers are the servers that are said to be in a room.
func (tx *Tx) ListPresumedServers(room RoomNID) ([]id.ServerName, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (s id.ServerName, err error) { return s, row.Scan(&s) },
		`SELECT server FROM presumed_servers WHERE room_nid = $1 ORDER BY rank`, room)
}

// DeletePartialJoin forgets which servers were said to be in a room, and which events were doubtful.
func (tx *Tx) DeletePartialJoin(room RoomNID) error {
	if _, err := tx.Exec(`DELETE FROM presumed_servers WHERE room_nid = $1`, room); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM doubtful_events WHERE room_nid = $1`, room)
	return err
}

// InsertDoubtfulEvent notes that an event was not accepted by what was known of a partial room.
func (tx *Tx) InsertDoubtfulEvent(room RoomNID, event EventNID) error {
	_, err := tx.Exec(`INSERT INTO doubtful_events (room_nid, event_nid) VALUES ($1, $2) ON CONFLICT (room_nid, event_nid) DO NOTHING`, room, event)
	return err
}

// ListDoubtfulEvents are the events that were not accepted in a partial room.
func (tx *Tx) ListDoubtfulEvents(room RoomNID) ([]Event, error) {
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events
		WHERE nid IN (SELECT event_nid FROM doubtful_events WHERE room_nid = $1) ORDER BY nid`, room)
}

// UpdateTimelineRoot corrects what was the room's current state once an event had come.
func (tx *Tx) UpdateTimelineRoot(room RoomNID, ord Ord, root int64) error {
	_, err := tx.Exec(`UPDATE timeline SET root = $3 WHERE room_nid = $1 AND ord = $2`, room, ord, root)
	return err
}

// DeleteTimeline takes an event out of the room's timeline.
func (tx *Tx) DeleteTimeline(room RoomNID, ord Ord) error {
	_, err := tx.Exec(`DELETE FROM timeline WHERE room_nid = $1 AND ord = $2`, room, ord)
	return err
}
