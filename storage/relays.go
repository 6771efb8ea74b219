package storage

import "parley/storage/sqldb"

// InsertRelay has an event of another server's user be passed on as if it were ours.
func (tx *Tx) InsertRelay(event EventNID) error {
	_, err := tx.Exec(`INSERT INTO relays (event_nid) VALUES ($1) ON CONFLICT (event_nid) DO NOTHING`, event)
	return err
}

// ListRelays are those of the given events that are passed on, in no order.
func (tx *Tx) ListRelays(events []EventNID) ([]EventNID, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, scanNID, `SELECT event_nid FROM relays WHERE event_nid = ANY($1)`, sqldb.Array(events))
}
