package storage

import "strings"

// sqliteText searches with SQLite's FTS5. The virtual table has no content of its own: it knows
// which event has which words, and no more.
type sqliteText struct{}

func (f sqliteText) insert(tx *Tx, s *Searchable) error {
	if err := f.delete(tx, s.Event); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO search (event_nid, room_nid, key, ts) VALUES ($1, $2, $3, $4)`, s.Event, s.Room, s.Key, s.TS); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO search_words (rowid, words) VALUES ($1, $2)`, s.Event, s.Words)
	return err
}

func (sqliteText) delete(tx *Tx, event EventNID) error {
	n, err := tx.Exec(`DELETE FROM search WHERE event_nid = $1`, event)
	if err != nil || n == 0 {
		return err
	}
	_, err = tx.Exec(`DELETE FROM search_words WHERE rowid = $1`, event)
	return err
}

func (sqliteText) match(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(`"` + w + `"* `)
	}
	return b.String()
}

func (sqliteText) from() string {
	return `search_words JOIN search s ON s.event_nid = search_words.rowid WHERE search_words MATCH $1`
}

// rank turns around what bm25 gives: the better it fits, the lower is that.
func (sqliteText) rank() string { return `-bm25(search_words)` }
