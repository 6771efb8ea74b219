package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// InsertReceivedMessage remembers that a message to devices came from another server; inserted
// is false where it came before.
func (tx *Tx) InsertReceivedMessage(sender id.UserID, message string, ts int64) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO received_messages (sender, message_id, ts) VALUES ($1, $2, $3)
		ON CONFLICT (sender, message_id) DO NOTHING`, sender, message, ts)
	return n > 0, err
}

// DeleteReceivedMessages forgets the messages from before a time.
func (tx *Tx) DeleteReceivedMessages(before int64) error {
	_, err := tx.Exec(`DELETE FROM received_messages WHERE ts < $1`, before)
	return err
}

// ListKnownUsers are those of the given users who share a joined room with any user of ours.
func (tx *Tx) ListKnownUsers(users []id.UserID) ([]id.UserID, error) {
	if len(users) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u id.UserID, err error) { return u, row.Scan(&u) },
		`SELECT DISTINCT m.user_id FROM memberships m WHERE m.user_id = ANY($1) AND m.membership = 'join'
			AND EXISTS (SELECT 1 FROM memberships o WHERE o.room_nid = m.room_nid AND o.membership = 'join' AND o.local)`,
		sqldb.Array(users))
}
