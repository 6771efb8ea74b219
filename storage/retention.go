package storage

import (
	"parley/storage/sqldb"
)

// eventKind is what retention makes of an event.
type eventKind int64

const (
	stateKind eventKind = iota
	messageKind
	expiredKind
)

// DuePlace is an event's place among those of a room that are no state, the oldest first.
type DuePlace struct {
	TS    int64
	Event EventNID
}

// DueEvent is an event that may be due to leave.
type DueEvent struct {
	DuePlace
	Event
}

// ListDue are up to limit events of a room that are no state and whose text we have, of up to a time,
// the oldest first, behind a place.
func (tx *Tx) ListDue(room RoomNID, upTo int64, after DuePlace, limit int) ([]DueEvent, error) {
	// An index with a condition is only used where the query has the condition, too.
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (d DueEvent, err error) {
		d.Event, err = scanEvent(prefixed{row, []any{&d.TS}})
		d.DuePlace.Event = d.NID
		return d, err
	}, `SELECT ts, `+eventColumns+` FROM events WHERE room_nid = $1 AND kind < 2 AND kind = 1 AND ts <= $2 AND (ts, nid) > ($3, $4)
		ORDER BY ts, nid LIMIT $5`, room, upTo, after.TS, after.Event, limit)
}

// UpdateEventText replaces an event's text, as by its redacted form.
func (tx *Tx) UpdateEventText(nid EventNID, json []byte) error {
	_, err := tx.Exec(`UPDATE events SET json = $2 WHERE nid = $1`, nid, string(json))
	return err
}

// ExpireEvent leaves of an event the given text alone, and takes it out of the timeline, of search and of
// relations. Its place in the timeline stays where it says what the room's state was from there on,
// or that there is a gap.
func (tx *Tx) ExpireEvent(nid EventNID, json []byte) error {
	if _, err := tx.Exec(`UPDATE events SET json = $2, kind = $3, ts = 0, device_nid = NULL, txn_id = NULL WHERE nid = $1`,
		nid, string(json), expiredKind); err != nil {
		return err
	}
	if err := tx.DeleteSearch(nid); err != nil {
		return err
	}
	if err := tx.DeleteRelation(nid); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM timeline WHERE event_nid = $1
		AND root = (SELECT b.root FROM timeline b WHERE b.room_nid = timeline.room_nid AND b.ord < timeline.ord ORDER BY b.ord DESC LIMIT 1)
		AND NOT EXISTS (SELECT 1 FROM missing_events m WHERE m.wanted_by = timeline.event_nid)`, nid)
	return err
}

// ListRoomsAfter are up to limit rooms that we have the state of, with numbers above after, in their order.
func (tx *Tx) ListRoomsAfter(after RoomNID, limit int) ([]Room, error) {
	return sqldb.List(tx.Tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE nid > $1 AND root <> 0 ORDER BY nid LIMIT $2`, after, limit)
}

// Retention is how far the process has come that takes messages away.
type Retention struct {
	// Room is the last room that it has seen to, 0 at the beginning.
	Room RoomNID
	// Next is when it begins again, in milliseconds since 1970.
	Next int64
	// Holder is the process that does it, and Until the time to which others leave it alone.
	Holder string
	Until  int64
}

// GetRetention is how far it has come. In a write others wait who would take it over.
func (tx *Tx) GetRetention() (r Retention, err error) {
	return r, tx.QueryRow(`SELECT room_nid, next_at, holder, until FROM retention WHERE one = 1`+lockIf(tx.Writing()), nil,
		&r.Room, &r.Next, &r.Holder, &r.Until)
}

// UpdateRetention notes how far it has come.
func (tx *Tx) UpdateRetention(r Retention) error {
	_, err := tx.Exec(`UPDATE retention SET room_nid = $1, next_at = $2, holder = $3, until = $4 WHERE one = 1`, r.Room, r.Next, r.Holder, r.Until)
	return err
}
