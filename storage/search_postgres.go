package storage

import "strings"

// postgresText searches with PostgreSQL's full text search, which leaves the words as they are:
// no language's rules are right for all.
type postgresText struct{}

func (postgresText) insert(tx *Tx, s *Searchable) error {
	_, err := tx.Exec(`INSERT INTO search (event_nid, room_nid, key, ts, words) VALUES ($1, $2, $3, $4, to_tsvector('simple', $5))
		ON CONFLICT (event_nid) DO UPDATE SET key = excluded.key, ts = excluded.ts, words = excluded.words`,
		s.Event, s.Room, s.Key, s.TS, s.Words)
	return err
}

func (postgresText) delete(tx *Tx, event EventNID) error {
	_, err := tx.Exec(`DELETE FROM search WHERE event_nid = $1`, event)
	return err
}

func (postgresText) match(words []string) string { return strings.Join(words, ":* & ") + ":*" }

func (postgresText) from() string { return `search s WHERE s.words @@ to_tsquery('simple', $1)` }

func (postgresText) rank() string { return `ts_rank(s.words, to_tsquery('simple', $1))` }
