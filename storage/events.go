package storage

import (
	"database/sql"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// EventStatus is what we make of an event.
type EventStatus int64

const (
	// Accepted events are part of the room.
	Accepted EventStatus = iota
	// SoftFailed events are part of the DAG, and passed their own state, but not the current
	// one: nobody is shown them, and nothing of ours follows them.
	SoftFailed
	// Rejected events broke the rules where they stand: kept so that we need not judge them
	// again.
	Rejected
	// Outlier events are known, but not yet placed in the DAG: part of an auth chain, or the
	// state of a room when we joined.
	Outlier
)

// Event is a row of events.
type Event struct {
	NID  EventNID
	ID   id.EventID
	Room RoomNID
	// Root is the room's state after the event.
	Root int64
	// Replaces is the state event whose place this one took, 0 for none.
	Replaces EventNID
	Status   EventStatus
	// RedactedBy is the event that redacted this one, 0 for none; JSON is then the redacted form.
	RedactedBy EventNID
	// DeviceNID and TxnID say which local client sent it, and under what transaction ID.
	DeviceNID int64
	TxnID     string
	// Expired says that its text has left: JSON is what holds the DAG together, and no more.
	Expired bool
	// JSON is the event as it was signed, in canonical form.
	JSON []byte
}

// Due says whether an event is a message that has left, or is due to by a room's horizon: the time, in milliseconds since
// 1970, up to which its messages are, 0 for none.
func (e *Event) Due(horizon int64) bool {
	if e.Expired || horizon == 0 {
		return e.Expired
	}
	f := gjson.GetManyBytes(e.JSON, "origin_server_ts", "state_key")
	return f[0].Int() <= horizon && !f[1].Exists()
}

const eventColumns = `nid, event_id, room_nid, root, replaces, status, redacted_by, device_nid, txn_id, kind, json`

func scanEvent(row sqldb.Scanner) (e Event, err error) {
	var replaces, redactedBy, device sql.NullInt64
	var txn sql.NullString
	var kind eventKind
	err = row.Scan(&e.NID, &e.ID, &e.Room, &e.Root, &replaces, &e.Status, &redactedBy, &device, &txn, &kind, &e.JSON)
	e.Replaces, e.RedactedBy = EventNID(replaces.Int64), EventNID(redactedBy.Int64)
	e.DeviceNID, e.TxnID, e.Expired = device.Int64, txn.String, kind == expiredKind
	return e, err
}

// InsertEvent adds an event and sets its number.
func (tx *Tx) InsertEvent(e *Event) error {
	f := gjson.GetManyBytes(e.JSON, "origin_server_ts", "state_key")
	kind := messageKind
	if f[1].Exists() {
		kind = stateKind
	}
	return tx.QueryRow(`INSERT INTO events (event_id, room_nid, root, replaces, status, redacted_by, device_nid, txn_id, kind, json, ts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING nid`,
		[]any{e.ID, e.Room, e.Root, nullable(e.Replaces), e.Status, nullable(e.RedactedBy),
			nullable(e.DeviceNID), nullable(e.TxnID), kind, string(e.JSON), f[0].Int()}, &e.NID)
}

// UpdateEventPlace writes where an event stands: the state after it, what it replaced, its status.
func (tx *Tx) UpdateEventPlace(e *Event) error {
	_, err := tx.Exec(`UPDATE events SET root = $2, replaces = $3, status = $4 WHERE nid = $1`,
		e.NID, e.Root, nullable(e.Replaces), e.Status)
	return err
}

// UpdateEventRedacted replaces an event's text by its redacted form.
func (tx *Tx) UpdateEventRedacted(nid, by EventNID, json []byte) error {
	_, err := tx.Exec(`UPDATE events SET redacted_by = $2, json = $3 WHERE nid = $1`, nid, by, string(json))
	return err
}

// GetEvent is an event by its ID, in whatever room and of whatever status.
func (tx *Tx) GetEvent(event id.EventID) (Event, error) {
	return one(tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE event_id = $1`, event)
}

// GetEventByNID is an event by its number.
func (tx *Tx) GetEventByNID(nid EventNID) (Event, error) {
	return one(tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE nid = $1`, nid)
}

// ListEvents are those of the given events that there are, in no order.
func (tx *Tx) ListEvents(events []id.EventID) ([]Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE event_id = ANY($1)`, sqldb.Array(events))
}

// ListEventIDs are the IDs of events, in no order.
func (tx *Tx) ListEventIDs(nids []EventNID) ([]id.EventID, error) {
	if len(nids) == 0 {
		return []id.EventID{}, nil
	}
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (e id.EventID, err error) { return e, row.Scan(&e) },
		`SELECT event_id FROM events WHERE nid = ANY($1)`, sqldb.Array(nids))
}

// ListEventStatuses says what is made of those of the given events that there are.
func (tx *Tx) ListEventStatuses(events []id.EventID) (map[id.EventID]EventStatus, error) {
	out := make(map[id.EventID]EventStatus, len(events))
	if len(events) == 0 {
		return out, nil
	}
	_, err := sqldb.List(tx.Tx, func(row sqldb.Scanner) (struct{}, error) {
		var event id.EventID
		var status EventStatus
		err := row.Scan(&event, &status)
		out[event] = status
		return struct{}{}, err
	}, `SELECT event_id, status FROM events WHERE event_id = ANY($1)`, sqldb.Array(events))
	return out, err
}

// EventRef is an event's number, room and standing.
type EventRef struct {
	NID    EventNID
	Room   RoomNID
	Status EventStatus
}

// ListEventRefs are those of the given events that there are.
func (tx *Tx) ListEventRefs(events []id.EventID) (map[id.EventID]EventRef, error) {
	out := make(map[id.EventID]EventRef, len(events))
	if len(events) == 0 {
		return out, nil
	}
	err := tx.Query(`SELECT event_id, nid, room_nid, status FROM events WHERE event_id = ANY($1)`, []any{sqldb.Array(events)},
		func(row sqldb.Scanner) error {
			var event id.EventID
			var r EventRef
			err := row.Scan(&event, &r.NID, &r.Room, &r.Status)
			out[event] = r
			return err
		})
	return out, err
}

// ListEventsByNID are those of the given events that there are, in no order.
func (tx *Tx) ListEventsByNID(nids []EventNID) ([]Event, error) {
	switch len(nids) {
	case 0:
		return nil, nil
	case 1:
		return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE nid = $1`, nids[0])
	}
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE nid = ANY($1)`, sqldb.Array(nids))
}

// ListRoomEvents are up to limit events of a room, placed or not, with numbers below before,
// the highest number first. It reads the events of all rooms on its way, and is meant for
// tools.
func (tx *Tx) ListRoomEvents(room RoomNID, before EventNID, limit int) ([]Event, error) {
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events
		WHERE room_nid = $1 AND nid < $2 ORDER BY nid DESC LIMIT $3`, room, before, limit)
}

// ListRoomEventsFrom are up to limit events of a room with numbers of at least from, the lowest
// number first. It is like ListRoomEvents otherwise.
func (tx *Tx) ListRoomEventsFrom(room RoomNID, from EventNID, limit int) ([]Event, error) {
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events
		WHERE room_nid = $1 AND nid >= $2 ORDER BY nid LIMIT $3`, room, from, limit)
}

// GetSendTxn is the event that a device's request became, if it was made before.
func (tx *Tx) GetSendTxn(deviceNID int64, key []byte) (event id.EventID, ok bool, err error) {
	err = tx.QueryRow(`SELECT e.event_id FROM send_txns t JOIN events e ON e.nid = t.event_nid
		WHERE t.device_nid = $1 AND t.txn_key = $2`, []any{deviceNID, key}, &event)
	ok, err = found(err)
	return event, ok, err
}

// InsertSendTxn remembers which event a device's request became.
func (tx *Tx) InsertSendTxn(deviceNID int64, key []byte, event EventNID) error {
	_, err := tx.Exec(`INSERT INTO send_txns (device_nid, txn_key, event_nid) VALUES ($1, $2, $3)`, deviceNID, key, event)
	return err
}

// InsertMissingEvent notes that an event names a previous event that we don't have.
func (tx *Tx) InsertMissingEvent(room RoomNID, missing id.EventID, wantedBy EventNID) error {
	_, err := tx.Exec(`INSERT INTO missing_events (room_nid, event_id, wanted_by) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, event_id, wanted_by) DO NOTHING`, room, missing, wantedBy)
	return err
}

// DeleteMissingEvent notes that we have it now, and says whether anything wanted it.
func (tx *Tx) DeleteMissingEvent(room RoomNID, event id.EventID) (wanted bool, err error) {
	n, err := tx.Exec(`DELETE FROM missing_events WHERE room_nid = $1 AND event_id = $2`, room, event)
	return n > 0, err
}

// ListMissingEvents are the events that others of the room name and that we don't have: its
// backward extremities.
func (tx *Tx) ListMissingEvents(room RoomNID, limit int) ([]id.EventID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (e id.EventID, err error) { return e, row.Scan(&e) },
		`SELECT DISTINCT event_id FROM missing_events WHERE room_nid = $1 ORDER BY event_id LIMIT $2`, room, limit)
}

// Gap is an event that we don't have, and the newest event of the timeline that names it.
type Gap struct {
	Event    id.EventID
	WantedBy EventNID
	Ord      Ord
}

// HasGaps says whether a room has missing events at all.
func (tx *Tx) HasGaps(room RoomNID) (bool, error) {
	var one int
	return found(tx.QueryRow(`SELECT 1 FROM missing_events WHERE room_nid = $1 LIMIT 1`, []any{room}, &one))
}

// ListGaps are up to limit missing events that events of the timeline with to < ord <= from
// name, those that the newest name first.
func (tx *Tx) ListGaps(room RoomNID, from, to Ord, limit int) ([]Gap, error) {
	gaps, err := sqldb.List(tx.Tx, func(row sqldb.Scanner) (g Gap, err error) { return g, row.Scan(&g.Event, &g.WantedBy, &g.Ord) },
		`SELECT m.event_id, m.wanted_by, t.ord FROM missing_events m JOIN timeline t ON t.event_nid = m.wanted_by
		WHERE m.room_nid = $1 AND t.ord <= $2 AND t.ord > $3 ORDER BY t.ord DESC, m.event_id LIMIT $4`, room, from, to, limit)
	seen := make(map[id.EventID]bool, len(gaps))
	return slices.DeleteFunc(gaps, func(g Gap) bool {
		again := seen[g.Event]
		seen[g.Event] = true
		return again
	}), err
}

// InsertEarlyRedaction notes that an event redacts one that we don't have yet.
func (tx *Tx) InsertEarlyRedaction(room RoomNID, target id.EventID, redaction EventNID) error {
	_, err := tx.Exec(`INSERT INTO early_redactions (room_nid, target, redaction_nid) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, target, redaction_nid) DO NOTHING`, room, target, redaction)
	return err
}

// ListEarlyRedactions are the events that redact one and came before it, the first to come first.
func (tx *Tx) ListEarlyRedactions(room RoomNID, target id.EventID) ([]EventNID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (n EventNID, err error) { return n, row.Scan(&n) },
		`SELECT redaction_nid FROM early_redactions WHERE room_nid = $1 AND target = $2 ORDER BY redaction_nid`, room, target)
}

// GetNodes are the bodies of nodes of state trees, by number.
func (tx *Tx) GetNodes(nids []int64) (map[int64][]byte, error) {
	out := make(map[int64][]byte, len(nids))
	if len(nids) == 1 {
		var body []byte
		if err := tx.QueryRow(`SELECT body FROM state_nodes WHERE nid = $1`, []any{nids[0]}, &body); err != nil {
			return nil, err
		}
		out[nids[0]] = body
		return out, nil
	}
	err := tx.Query(`SELECT nid, body FROM state_nodes WHERE nid = ANY($1)`, []any{sqldb.Array(nids)}, func(row sqldb.Scanner) error {
		var nid int64
		var body []byte
		if err := row.Scan(&nid, &body); err != nil {
			return err
		}
		out[nid] = body
		return nil
	})
	return out, err
}

// InsertNode adds a node of a state tree. A number is never given twice while the process
// runs, not even one whose insertion was rolled back: caches of nodes rely on it. SQLite by
// itself would give it again.
func (tx *Tx) InsertNode(body []byte) (nid int64, err error) {
	if tx.Dialect() == sqldb.SQLite {
		err = tx.QueryRow(`INSERT INTO state_nodes (nid, body)
			VALUES (MAX((SELECT COALESCE(MAX(nid), 0) FROM state_nodes), $2) + 1, $1) RETURNING nid`,
			[]any{body, tx.db.lastNode.Load()}, &nid)
	} else {
		err = tx.QueryRow(`INSERT INTO state_nodes (body) VALUES ($1) RETURNING nid`, []any{body}, &nid)
	}
	if err == nil {
		tx.db.lastNode.Store(nid)
	}
	return nid, err
}

// nullable stores a zero value as NULL.
func nullable[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}
