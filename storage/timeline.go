package storage

import (
	"database/sql"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// Ord is an event's place in its room's timeline. Above 0 it is the event's position in the
// log; events from before we came to the room have numbers below 0, further back the lower.
type Ord int64

// TimelineEvent is an event with its place in the timeline.
type TimelineEvent struct {
	Ord Ord
	// Current is the root of the room's current state once the event had come. It is the
	// event's own Root but where the DAG is forked. 0 for events from before we came.
	Current int64
	// Gap says that we don't have all events that the event follows.
	Gap bool
	Event
}

const timelineColumns = `t.ord, t.root, EXISTS (SELECT 1 FROM missing_events m WHERE m.wanted_by = e.nid), e.nid, e.event_id, e.room_nid, e.root, e.replaces, e.status, e.redacted_by, e.device_nid, e.txn_id, e.kind, e.json`

// prefixed scans some columns before the rest of a row.
type prefixed struct {
	row    sqldb.Scanner
	prefix []any
}

func (p prefixed) Scan(dest ...any) error { return p.row.Scan(append(p.prefix, dest...)...) }

func scanTimelineEvent(row sqldb.Scanner) (e TimelineEvent, err error) {
	e.Event, err = scanEvent(prefixed{row, []any{&e.Ord, &e.Current, &e.Gap}})
	return e, err
}

// InsertTimeline places an event in its room's timeline. History waits to be searchable; what
// is in the log is found there.
func (tx *Tx) InsertTimeline(room RoomNID, ord Ord, event EventNID, current int64) error {
	if ord < 0 {
		if _, err := tx.Exec(`INSERT INTO search_pending (event_nid) VALUES ($1) ON CONFLICT (event_nid) DO NOTHING`, event); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`INSERT INTO timeline (room_nid, ord, event_nid, root) VALUES ($1, $2, $3, $4)`, room, ord, event, current)
	return err
}

// InsertHistory is InsertTimeline for an event that comes to a place where the log has passed.
func (tx *Tx) InsertHistory(room RoomNID, ord Ord, event EventNID, current int64) error {
	if _, err := tx.Exec(`INSERT INTO search_pending (event_nid) VALUES ($1) ON CONFLICT (event_nid) DO NOTHING`, event); err != nil {
		return err
	}
	return tx.InsertTimeline(room, ord, event, current)
}

// ListTimelineBackwards are up to limit events of the room's timeline with to < ord <= from,
// the newest first.
func (tx *Tx) ListTimelineBackwards(room RoomNID, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM timeline t JOIN events e ON e.nid = t.event_nid
		WHERE t.room_nid = $1 AND t.ord <= $2 AND t.ord > $3 ORDER BY t.ord DESC LIMIT $4`, room, from, to, limit)
}

// ListRelatingBackwards are, of the newest limit events of the room's timeline with to < ord <= from,
// those that relate to another, the newest first.
func (tx *Tx) ListRelatingBackwards(room RoomNID, from, to Ord, limit int) ([]TimelineEvent, error) {
	return sqldb.List(tx.Tx, scanTimelineEvent, `SELECT `+timelineColumns+`
		FROM (SELECT ord, root, event_nid FROM timeline
			WHERE room_nid = $1 AND ord <= $2 AND ord > $3 ORDER BY ord DESC LIMIT $4) t
		JOIN events e ON e.nid = t.event_nid
		WHERE EXISTS (SELECT 1 FROM relations r WHERE r.event_nid = t.event_nid) ORDER BY t.ord DESC`, room, from, to, limit)
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

// GetCurrentAt is the root of what was the room's current state at a place of the timeline,
// and the place of the event that led to it; ok is false where the timeline begins later.
func (tx *Tx) GetCurrentAt(room RoomNID, at Ord) (root int64, ord Ord, ok bool, err error) {
	err = tx.QueryRow(`SELECT root, ord FROM timeline WHERE room_nid = $1 AND ord <= $2 ORDER BY ord DESC LIMIT 1`,
		[]any{room, at}, &root, &ord)
	ok, err = found(err)
	return root, ord, ok, err
}

// GetFirstOrd is the place of the oldest event of the room's timeline; ok is false where there is none.
func (tx *Tx) GetFirstOrd(room RoomNID) (ord Ord, ok bool, err error) {
	err = tx.QueryRow(`SELECT ord FROM timeline WHERE room_nid = $1 ORDER BY ord LIMIT 1`, []any{room}, &ord)
	ok, err = found(err)
	return ord, ok, err
}

// ListNearest are up to limit events of the room's timeline by the time at which they say that
// they were sent: those at ts and before it, the latest first, or those at ts and after it, the
// earliest first. skip leaves out as many of them.
func (tx *Tx) ListNearest(room RoomNID, ts int64, before bool, skip, limit int) ([]TimelineEvent, error) {
	const query = `SELECT ` + timelineColumns + ` FROM events e JOIN timeline t ON t.event_nid = e.nid WHERE e.room_nid = $1 AND e.kind < 2 `
	if before {
		return sqldb.List(tx.Tx, scanTimelineEvent, query+`AND e.ts <= $2 ORDER BY e.ts DESC, t.ord DESC LIMIT $3 OFFSET $4`, room, ts, limit, skip)
	}
	return sqldb.List(tx.Tx, scanTimelineEvent, query+`AND e.ts >= $2 ORDER BY e.ts, t.ord LIMIT $3 OFFSET $4`, room, ts, limit, skip)
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
	}, `SELECT ord, room_nid, event_nid FROM timeline WHERE ord > $1 AND ord <= $2 ORDER BY ord LIMIT $3`, from, to, limit)
}

// ListRoomsInLog are the rooms that have events in the log with from < pos <= to. Nothing
// is listed, and complete is false, when there are more than limit events to look at.
func (tx *Tx) ListRoomsInLog(from, to id.Pos, limit int) (rooms map[RoomNID]struct{}, complete bool, err error) {
	rooms = make(map[RoomNID]struct{})
	n := 0
	err = tx.Query(`SELECT room_nid FROM timeline WHERE ord > $1 AND ord <= $2 ORDER BY ord LIMIT $3`,
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
	// TargetSender is who sent the event that is related to; "" where we don't have it.
	TargetSender id.UserID
}

// InsertRelation notes that an event relates to another.
func (tx *Tx) InsertRelation(r *Relation) error {
	_, err := tx.Exec(`INSERT INTO relations (room_nid, target, event_nid, rel_type, type, sender, target_sender)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (room_nid, target, event_nid) DO NOTHING`,
		r.Room, r.Target, r.Event, r.RelType, r.Type, r.Sender, r.TargetSender)
	return err
}

// DeleteRelation forgets what an event related to, as its redaction does.
func (tx *Tx) DeleteRelation(event EventNID) error {
	_, err := tx.Exec(`DELETE FROM relations WHERE event_nid = $1`, event)
	return err
}

// RelationsQuery selects events that relate to others.
type RelationsQuery struct {
	Room    RoomNID
	Targets []id.EventID
	RelType string // "": any
	Type    string // "": any
	// Backward lists the newest first, with To < ord <= From; else the oldest, with From < ord <= To.
	From, To Ord
	Backward bool
	Limit    int
}

// ListRelations are events that relate to others.
func (tx *Tx) ListRelations(q RelationsQuery) ([]TimelineEvent, error) {
	const query = `SELECT ` + timelineColumns + `
		FROM relations r JOIN timeline t ON t.event_nid = r.event_nid JOIN events e ON e.nid = r.event_nid
		WHERE r.room_nid = $1 AND r.target = ANY($2) AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.type = $4)
		AND t.ord > $5 AND t.ord <= $6 ORDER BY t.ord `
	if q.Backward {
		return sqldb.List(tx.Tx, scanTimelineEvent, query+`DESC LIMIT $7`,
			q.Room, sqldb.Array(q.Targets), q.RelType, q.Type, q.To, q.From, q.Limit)
	}
	return sqldb.List(tx.Tx, scanTimelineEvent, query+`LIMIT $7`,
		q.Room, sqldb.Array(q.Targets), q.RelType, q.Type, q.From, q.To, q.Limit)
}

// ListRelatedBy are the events of one type with which a user related to an event in one way.
func (tx *Tx) ListRelatedBy(sender id.UserID, room RoomNID, target id.EventID, relType, eventType string) ([]Event, error) {
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events WHERE nid IN (
		SELECT event_nid FROM relations WHERE room_nid = $1 AND target = $2 AND rel_type = $3 AND type = $4 AND sender = $5)`,
		room, target, relType, eventType, sender)
}

// Thread is a thread: the event that it hangs on, and the place of its newest reply.
type Thread struct {
	Root   id.EventID
	Newest Ord
	// Count is how many replies there are, where that was asked for.
	Count int
}

// ListThreadsBetween are the threads of a room that have replies with from < ord <= to, those with
// the newest first, with how many of those replies there are.
func (tx *Tx) ListThreadsBetween(room RoomNID, from, to Ord, limit int) ([]Thread, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (t Thread, err error) { return t, row.Scan(&t.Root, &t.Newest, &t.Count) },
		`SELECT r.target, MAX(t.ord) AS newest, COUNT(*) FROM relations r JOIN timeline t ON t.event_nid = r.event_nid
		WHERE r.room_nid = $1 AND r.rel_type = 'm.thread' AND t.ord > $2 AND t.ord <= $3
		GROUP BY r.target ORDER BY newest DESC LIMIT $4`, room, from, to, limit)
}

// ListThreads are a room's threads with their newest reply before a place of the timeline,
// those with the newest first; with a participant, those that the user started or replied in.
func (tx *Tx) ListThreads(room RoomNID, participant id.UserID, before Ord, limit int) ([]Thread, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (t Thread, err error) { return t, row.Scan(&t.Root, &t.Newest) },
		`SELECT r.target, MAX(t.ord) AS newest FROM relations r JOIN timeline t ON t.event_nid = r.event_nid
		WHERE r.room_nid = $1 AND r.rel_type = 'm.thread'
		AND ($2 = '' OR r.target_sender = $2 OR EXISTS (SELECT 1 FROM relations p WHERE p.room_nid = r.room_nid
			AND p.target = r.target AND p.rel_type = 'm.thread' AND p.sender = $2))
		GROUP BY r.target HAVING MAX(t.ord) < $3 ORDER BY newest DESC LIMIT $4`,
		room, participant, before, limit)
}

// HasRelations says whether any event of a room relates to another.
func (tx *Tx) HasRelations(room RoomNID) (bool, error) {
	var one int
	return found(tx.QueryRow(`SELECT 1 FROM relations WHERE room_nid = $1 LIMIT 1`, []any{room}, &one))
}

// ListRelationsOf are all relations to the given events, the oldest first.
func (tx *Tx) ListRelationsOf(room RoomNID, targets []id.EventID) ([]Relation, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (r Relation, err error) {
		return r, row.Scan(&r.Room, &r.Target, &r.Event, &r.RelType, &r.Type, &r.Sender, &r.TargetSender)
	}, `SELECT r.room_nid, r.target, r.event_nid, r.rel_type, r.type, r.sender, r.target_sender
		FROM relations r JOIN timeline t ON t.event_nid = r.event_nid
		WHERE r.room_nid = $1 AND r.target = ANY($2) ORDER BY t.ord`, room, sqldb.Array(targets))
}

// maxThreadHops is how far relations are followed to find an event's thread.
//
// spec: client-server-api/modules/receipts.md#threaded-read-receipts
const maxThreadHops = 3

// GetThread is the root of the thread that an event is in; ok is false for one that is in the
// main timeline.
func (tx *Tx) GetThread(event EventNID) (root id.EventID, ok bool, err error) {
	for range maxThreadHops {
		var relType string
		var target sql.NullInt64
		err := tx.QueryRow(`SELECT r.rel_type, r.target, e.nid
			FROM relations r LEFT JOIN events e ON e.event_id = r.target AND e.room_nid = r.room_nid
			WHERE r.event_nid = $1`, []any{event}, &relType, &root, &target)
		if related, err := found(err); !related {
			return "", false, err
		}
		if relType == "m.thread" {
			return root, true, nil
		}
		event = EventNID(target.Int64)
	}
	return "", false, nil
}
