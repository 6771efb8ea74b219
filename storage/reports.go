package storage

import (
	"database/sql"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// Report is a row of reports: something that a user told those who run this node of.
type Report struct {
	NID      int64
	Reporter id.UserID
	Room     id.RoomID
	Event    id.EventID
	User     id.UserID
	Reason   string
	// Score is how bad the reporter finds it, from -100 (very) to 0; nil where they didn't say.
	Score *int64
	// TS is when, in milliseconds since 1970.
	TS int64
}

// InsertReport adds a report and sets its number.
func (tx *Tx) InsertReport(r *Report) error {
	return tx.QueryRow(`INSERT INTO reports (reporter, room_id, event_id, user_id, reason, score, ts)
		VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING nid`,
		[]any{r.Reporter, r.Room, r.Event, r.User, r.Reason, r.Score, r.TS}, &r.NID)
}

// CountReports is how many reports there are by a user.
func (tx *Tx) CountReports(by id.UserID) (n int, err error) {
	return n, tx.QueryRow(`SELECT COUNT(*) FROM reports WHERE reporter = $1`, []any{by}, &n)
}

// ListReports are up to limit reports with numbers below before, the newest first.
func (tx *Tx) ListReports(before int64, limit int) ([]Report, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (r Report, err error) {
		var score sql.NullInt64
		err = row.Scan(&r.NID, &r.Reporter, &r.Room, &r.Event, &r.User, &r.Reason, &score, &r.TS)
		if score.Valid {
			r.Score = &score.Int64
		}
		return r, err
	}, `SELECT nid, reporter, room_id, event_id, user_id, reason, score, ts FROM reports WHERE nid < $1
		ORDER BY nid DESC LIMIT $2`, before, limit)
}
