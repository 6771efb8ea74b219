package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Ord is an event's place in its room's timeline. Above 0 it is the event's position in the
// log; events from before we came to the room have numbers below 0, further back the lower.
type Ord int64

// TimelineEvent is an event with its place in the timeline.
type TimelineEvent struct {
	Ord Ord
	Event
}

const timelineColumns = `t.ord, e.nid, e.event_id, e.room_nid, e.root, e.replaces, e.status, e.redacted_by, e.device_nid, e.txn_id, e.json`

// prefixed scans some columns before the rest of a row.
type prefixed struct {
	row    sqldb.Scanner
	prefix []any
}

func (p prefixed) Scan(dest ...any) error { return p.row.Scan(append(p.prefix, dest...)...) }

func scanTimelineEvent(row sqldb.Scanner) (e TimelineEvent, err error) {
	e.Event, err = scanEvent(prefixed{row, []any{&e.Ord}})
	return e, err
}

// InsertTimeline places an event in its room's timeline.
func (tx *Tx) InsertTimeline(room RoomNID, ord Ord, event EventNID) error {
	_, err := tx.Exec(`INSERT INTO timeline (room_nid, ord, event_nid) VALUES ($1, $2, $3)`, room, ord, event)
	return err
}

// ListTimelineBackwards are up to limit events of the room's timeline with to < ord <= from,
// the newest first.
func (tx *Tx) ListTimelineBackwards(room RoomNID, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM timeline t JOIN events e ON e.nid = t.event_nid
		WHERE t.room_nid = $1 AND t.ord <= $2 AND t.ord > $3 ORDER BY t.ord DESC LIMIT $4`, room, from, to, limit)
}

// ListTimelineForwards are up to limit events of the room's timeline with from < ord <= to,
// the oldest first.
func (tx *Tx) ListTimelineForwards(room RoomNID, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM timeline t JOIN events e ON e.nid = t.event_nid
		WHERE t.room_nid = $1 AND t.ord > $2 AND t.ord <= $3 ORDER BY t.ord LIMIT $4`, room, from, to, limit)
}

// GetOrd is an event's place in the timeline; ok is false for an event that is not shown.
func (tx *Tx) GetOrd(event EventNID) (ord Ord, ok bool, err error) {
	err = tx.QueryRow(`SELECT ord FROM timeline WHERE event_nid = $1`, []any{event}, &ord)
	ok, err = found(err)
	return ord, ok, err
}

// GetLastOrd is the place of the newest event of the room's timeline at or before ord;
// ok is false where there is none.
func (tx *Tx) GetLastOrd(room RoomNID, at Ord) (ord Ord, event EventNID, ok bool, err error) {
	err = tx.QueryRow(`SELECT ord, event_nid FROM timeline WHERE room_nid = $1 AND ord <= $2 ORDER BY ord DESC LIMIT 1`,
		[]any{room, at}, &ord, &event)
	ok, err = found(err)
	return ord, event, ok, err
}

// GetFirstOrd is the place of the oldest event of the room's timeline; ok is false where there is none.
func (tx *Tx) GetFirstOrd(room RoomNID) (ord Ord, ok bool, err error) {
	err = tx.QueryRow(`SELECT ord FROM timeline WHERE room_nid = $1 ORDER BY ord LIMIT 1`, []any{room}, &ord)
	ok, err = found(err)
	return ord, ok, err
}

// LogEntry is an event's place in the log of the whole node.
type LogEntry struct {
	Pos   id.Pos
	Room  RoomNID
	Event EventNID
}

// ListLog are up to limit events of the log with from < pos <= to, the oldest first.
func (tx *Tx) ListLog(from, to id.Pos, limit int) ([]LogEntry, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (l LogEntry, err error) {
		return l, row.Scan(&l.Pos, &l.Room, &l.Event)
	}, `SELECT ord, room_nid, event_nid FROM timeline WHERE ord > 0 AND ord > $1 AND ord <= $2 ORDER BY ord LIMIT $3`, from, to, limit)
}

// ListRoomsInLog are the rooms that have events in the log with from < pos <= to. Nothing
// is listed, and complete is false, when there are more than limit events to look at.
func (tx *Tx) ListRoomsInLog(from, to id.Pos, limit int) (rooms map[RoomNID]struct{}, complete bool, err error) {
	rooms = make(map[RoomNID]struct{})
	n := 0
	err = tx.Query(`SELECT room_nid FROM timeline WHERE ord > 0 AND ord > $1 AND ord <= $2 ORDER BY ord LIMIT $3`,
		[]any{from, to, limit + 1}, func(row sqldb.Scanner) error {
			var room RoomNID
			n++
			if err := row.Scan(&room); err != nil {
				return err
			}
			rooms[room] = struct{}{}
			return nil
		})
	if n > limit {
		return nil, false, err
	}
	return rooms, true, err
}

// Relation is how an event relates to another.
type Relation struct {
	Room    RoomNID
	Target  id.EventID
	Event   EventNID
	RelType string
	Type    string
	Sender  id.UserID
}

// InsertRelation notes that an event relates to another.
func (tx *Tx) InsertRelation(r *Relation) error {
	_, err := tx.Exec(`INSERT INTO relations (room_nid, target, event_nid, rel_type, type, sender) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (room_nid, target, event_nid) DO NOTHING`,
		r.Room, r.Target, r.Event, r.RelType, r.Type, r.Sender)
	return err
}

// DeleteRelation forgets what an event related to, as its redaction does.
func (tx *Tx) DeleteRelation(event EventNID) error {
	_, err := tx.Exec(`DELETE FROM relations WHERE event_nid = $1`, event)
	return err
}

// ListRelations are up to limit events that relate to target and stand in the timeline with
// to < ord <= from, the newest first. An empty relType or eventType means any.
func (tx *Tx) ListRelations(room RoomNID, target id.EventID, relType, eventType string, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM relations r JOIN timeline t ON t.event_nid = r.event_nid JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = $1 AND r.target = $2 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.type = $4)
		AND t.ord <= $5 AND t.ord > $6 ORDER BY t.ord DESC LIMIT $7`, room, target, relType, eventType, from, to, limit)
}

// ListRelationsForwards is ListRelations with the oldest first.
func (tx *Tx) ListRelationsForwards(room RoomNID, target id.EventID, relType, eventType string, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM relations r JOIN timeline t ON t.event_nid = r.event_nid JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = $1 AND r.target = $2 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.type = $4)
		AND t.ord > $5 AND t.ord <= $6 ORDER BY t.ord LIMIT $7`, room, target, relType, eventType, from, to, limit)
}
