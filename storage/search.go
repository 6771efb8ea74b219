package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Searchable is what of an event can be searched for.
type Searchable struct {
	Event EventNID
	Room  RoomNID
	// Key is where the words stand: "content.body".
	Key string
	// Words are in lower case, of letters and digits alone, with spaces between them.
	Words string
	// TS is when the event says that it was sent.
	TS int64
}

// SearchQuery asks for events that have words which begin as each of some words.
type SearchQuery struct {
	Rooms []RoomNID
	Keys  []string
	// Words are like those of Searchable.
	Words []string
	// ByRank puts first what fits best, leaving out the first Skip; else what is newest, behind
	// the place Before.
	ByRank bool
	Skip   int
	Before SearchPlace
	Limit  int
}

// SearchPlace is an event's place among those found, the newest first.
type SearchPlace struct {
	TS    int64
	Event EventNID
}

// SearchHit is an event that was found.
type SearchHit struct {
	TimelineEvent
	// Rank is how well it fits.
	Rank float64
	TS   int64
}

func scanSearchHit(row sqldb.Scanner) (h SearchHit, err error) {
	h.TimelineEvent, err = scanTimelineEvent(prefixed{row, []any{&h.Rank, &h.TS}})
	return h, err
}

// fullText is what the two databases do each in their own way.
type fullText interface {
	// insert takes in the words; delete forgets an event's.
	insert(tx *Tx, s *Searchable) error
	delete(tx *Tx, event EventNID) error
	// match is what the database searches for.
	match(words []string) string
	// from is the part of a query after FROM that finds what $1 matches, and rank what to
	// order by.
	from() string
	rank() string
}

func (tx *Tx) fullText() fullText {
	if tx.Dialect() == sqldb.Postgres {
		return postgresText{}
	}
	return sqliteText{}
}

// InsertSearch lets an event be found.
func (tx *Tx) InsertSearch(s *Searchable) error { return tx.fullText().insert(tx, s) }

// DeleteSearch has an event not be found any more.
func (tx *Tx) DeleteSearch(event EventNID) error { return tx.fullText().delete(tx, event) }

// ListSearch are events that were found, and how many there are, as far as most.
func (tx *Tx) ListSearch(q *SearchQuery, most int) (hits []SearchHit, count int, err error) {
	ft := tx.fullText()
	where := ft.from() + ` AND s.room_nid = ANY($2) AND s.key = ANY($3)`
	args := []any{ft.match(q.Words), sqldb.Array(q.Rooms), sqldb.Array(q.Keys)}
	err = tx.QueryRow(`SELECT COUNT(*) FROM (SELECT 1 FROM `+where+` LIMIT $4) found`, append(args, most), &count)
	if err != nil {
		return nil, 0, err
	}
	order := ` AND (s.ts, s.event_nid) < ($4, $5) ORDER BY s.ts DESC, s.event_nid DESC LIMIT $6`
	args = append(args, q.Before.TS, q.Before.Event, q.Limit)
	if q.ByRank {
		order = ` ORDER BY ` + ft.rank() + ` DESC, s.event_nid DESC LIMIT $4 OFFSET $5`
		args = append(args[:3], q.Limit, q.Skip)
	}
	hits, err = sqldb.List(tx.Tx, scanSearchHit, `SELECT h.rank, h.ts, `+timelineColumns+`
		FROM (SELECT s.event_nid, s.ts, `+ft.rank()+` AS rank FROM `+where+order+`) h
		JOIN timeline t ON t.event_nid = h.event_nid JOIN events e ON e.nid = h.event_nid
		ORDER BY `+map[bool]string{true: `h.rank DESC, h.event_nid DESC`, false: `h.ts DESC, h.event_nid DESC`}[q.ByRank], args...)
	return hits, count, err
}

// GetSearchCursor is the position of the log up to which events can be found. In a write
// others wait who would move it.
func (tx *Tx) GetSearchCursor() (pos id.Pos, err error) {
	return pos, tx.QueryRow(`SELECT pos FROM search_cursor WHERE one = 1`+lockIf(tx.Writing()), nil, &pos)
}

func lockIf(writing bool) string {
	if writing {
		return ` FOR UPDATE`
	}
	return ``
}

// UpdateSearchCursor notes up to where events can be found.
func (tx *Tx) UpdateSearchCursor(pos id.Pos) error {
	_, err := tx.Exec(`UPDATE search_cursor SET pos = $1 WHERE one = 1`, pos)
	return err
}

// ListSearchPending are up to limit events of history that can't be found yet.
func (tx *Tx) ListSearchPending(limit int) ([]EventNID, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (n EventNID, err error) { return n, row.Scan(&n) },
		`SELECT event_nid FROM search_pending ORDER BY event_nid LIMIT $1`, limit)
}

// DeleteSearchPending notes that events of history were looked at.
func (tx *Tx) DeleteSearchPending(events []EventNID) error {
	_, err := tx.Exec(`DELETE FROM search_pending WHERE event_nid = ANY($1)`, sqldb.Array(events))
	return err
}
