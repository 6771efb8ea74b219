package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// The types of what waits for a server.
const (
	// QueuedToDevice is a message to devices; Content is the content of its EDU.
	QueuedToDevice = "m.direct_to_device"
	// QueuedIntroduction is a user whose devices a server is to be told of, as it came to share
	// a room with them.
	QueuedIntroduction = "m.device_list_update"
)

// Queued is a row of server_queue: what waits for a server beside events, until it has it.
type Queued struct {
	Server id.ServerName
	Pos    id.Pos
	// Subject is a message's ID, or a user.
	Subject string
	Type    string
	Content []byte
}

// InsertQueued has something wait for a server.
func (tx *Tx) InsertQueued(q *Queued) error {
	_, err := tx.Exec(`INSERT INTO server_queue (server, pos, subject, type, content) VALUES ($1, $2, $3, $4, $5)`,
		q.Server, q.Pos, q.Subject, q.Type, string(q.Content))
	return err
}

// InsertIntroductions has the servers that came to a room at a position told of the devices of
// our users there, or of those alone that have keys: of others nothing need be known.
func (tx *Tx) InsertIntroductions(room RoomNID, pos id.Pos, withKeys bool) error {
	all := 1
	if withKeys {
		all = 0
	}
	_, err := tx.Exec(`INSERT INTO server_queue (server, pos, subject, type, content)
		SELECT s.server, s.since, m.user_id, 'm.device_list_update', ''
		FROM room_servers s JOIN memberships m ON m.room_nid = s.room_nid
		WHERE s.room_nid = $1 AND s.since = $2 AND s.joined > 0 AND m.membership = 'join' AND m.local
			AND ($3 = 1 OR EXISTS (SELECT 1 FROM devices d JOIN device_keys k ON k.device_nid = d.nid WHERE d.user_id = m.user_id))
		ON CONFLICT (server, pos, subject) DO NOTHING`, room, pos, all)
	return err
}

// ListQueued are up to limit things that wait for a server up to a position, the oldest first.
func (tx *Tx) ListQueued(server id.ServerName, to id.Pos, limit int) ([]Queued, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (q Queued, err error) {
		return q, row.Scan(&q.Server, &q.Pos, &q.Subject, &q.Type, &q.Content)
	}, `SELECT server, pos, subject, type, content FROM server_queue
		WHERE server = $1 AND pos <= $2 ORDER BY pos, subject LIMIT $3`, server, to, limit)
}

// ListQueuedServers are the servers for which something waits with from < pos <= to.
func (tx *Tx) ListQueuedServers(from, to id.Pos) ([]id.ServerName, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (s id.ServerName, err error) { return s, row.Scan(&s) },
		`SELECT DISTINCT server FROM server_queue WHERE pos > $1 AND pos <= $2`, from, to)
}

// DeleteQueued removes what a server has got.
func (tx *Tx) DeleteQueued(q *Queued) error {
	_, err := tx.Exec(`DELETE FROM server_queue WHERE server = $1 AND pos = $2 AND subject = $3`, q.Server, q.Pos, q.Subject)
	return err
}
