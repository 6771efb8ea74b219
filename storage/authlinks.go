package storage

import (
	"fmt"
	"strconv"
	"strings"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// AuthLinks is a row of auth_links: a state event's place in the graph of auth events.
type AuthLinks struct {
	Event EventNID
	// Hash is where the event lies in a state.
	Hash []byte
	// Auth are the auth events that were known when the event was written, but for the
	// create event. Their numbers are lower than the event's.
	Auth []EventNID
}

// InsertAuthLinks notes which events a state event cites.
func (tx *Tx) InsertAuthLinks(l *AuthLinks) error {
	if _, err := tx.Exec(`INSERT INTO auth_links (event_nid, hash, auth) VALUES ($1, $2, $3)`,
		l.Event, l.Hash, formatNIDs(l.Auth)); err != nil {
		return err
	}
	for _, auth := range l.Auth {
		if _, err := tx.Exec(`INSERT INTO auth_citers (auth_nid, event_nid) VALUES ($1, $2)
			ON CONFLICT (auth_nid, event_nid) DO NOTHING`, auth, l.Event); err != nil {
			return err
		}
	}
	return nil
}

// ListAuthLinks are the places of those of the given events that have one, in no order.
func (tx *Tx) ListAuthLinks(events []EventNID) ([]AuthLinks, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (l AuthLinks, err error) {
		var auth string
		if err = row.Scan(&l.Event, &l.Hash, &auth); err != nil {
			return l, err
		}
		l.Auth, err = parseNIDs(auth)
		return l, err
	}, `SELECT event_nid, hash, auth FROM auth_links WHERE event_nid = ANY($1)`, sqldb.Array(events))
}

// ListCiting are up to limit state events that cite an event, from the highest number below
// before downwards.
func (tx *Tx) ListCiting(auth, before EventNID, limit int) ([]EventNID, error) {
	return sqldb.List(tx.Tx, scanNID, `SELECT event_nid FROM auth_citers
		WHERE auth_nid = $1 AND event_nid < $2 ORDER BY event_nid DESC LIMIT $3`, auth, before, limit)
}

// ListCitingAny are up to limit state events that cite any of some events, from the lowest number above
// after upwards.
func (tx *Tx) ListCitingAny(auth []EventNID, after EventNID, limit int) ([]EventNID, error) {
	return sqldb.List(tx.Tx, scanNID, `SELECT DISTINCT event_nid FROM auth_citers
		WHERE auth_nid = ANY($1) AND event_nid > $2 ORDER BY event_nid LIMIT $3`, sqldb.Array(auth), after, limit)
}

// ListEventNIDs are the numbers of those of the given events that the room has, in no order.
// (The plus keeps SQLite from going through all events of the room.)
func (tx *Tx) ListEventNIDs(room RoomNID, events []id.EventID) ([]EventNID, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return sqldb.List(tx.Tx, scanNID, `SELECT nid FROM events WHERE event_id = ANY($1) AND +room_nid = $2`, sqldb.Array(events), room)
}

func scanNID(row sqldb.Scanner) (nid EventNID, err error) { return nid, row.Scan(&nid) }

// formatNIDs and parseNIDs keep a short list of numbers in one column: "3,17".
func formatNIDs(nids []EventNID) string {
	var b strings.Builder
	for i, nid := range nids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(int64(nid), 10))
	}
	return b.String()
}

func parseNIDs(s string) ([]EventNID, error) {
	if s == "" {
		return nil, nil
	}
	var nids []EventNID
	for part := range strings.SplitSeq(s, ",") {
		nid, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("auth events: %w", err)
		}
		nids = append(nids, EventNID(nid))
	}
	return nids, nil
}
