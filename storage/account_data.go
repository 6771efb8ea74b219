package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// AccountData is a row of account_data: something that a user's clients keep here.
type AccountData struct {
	// Room is "" for what is global.
	Room id.RoomID
	Type string
	Pos  id.Pos
	// Content is a JSON object; NoAccountData where it was deleted.
	Content []byte
}

// NoAccountData is the content of account data that was deleted: the row stays, so that clients learn of it.
const NoAccountData = `{}`

func scanAccountData(row sqldb.Scanner) (d AccountData, err error) {
	return d, row.Scan(&d.Room, &d.Type, &d.Pos, &d.Content)
}

// GetAccountData is one piece of account data; room is "" for what is global.
func (tx *Tx) GetAccountData(user id.UserID, room id.RoomID, typ string) (AccountData, error) {
	return one(tx, scanAccountData, `SELECT room_id, type, pos, content FROM account_data
		WHERE user_id = $1 AND room_id = $2 AND type = $3`, user, room, typ)
}

// GetAccountDataPos is when a piece of account data was last written; 0 where there is none.
func (tx *Tx) GetAccountDataPos(user id.UserID, room id.RoomID, typ string) (pos id.Pos, err error) {
	err = tx.QueryRow(`SELECT pos FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3`, []any{user, room, typ}, &pos)
	_, err = found(err)
	return pos, err
}

// ListAccountData is all account data of a user with from < pos <= to, global and of rooms,
// by room and type; with what was deleted, if that is asked for.
func (tx *Tx) ListAccountData(user id.UserID, from, to id.Pos, deleted bool) ([]AccountData, error) {
	return sqldb.List(tx.Tx, scanAccountData, `SELECT room_id, type, pos, content FROM account_data
		WHERE user_id = $1 AND pos > $2 AND pos <= $3 AND ($4 OR content <> '`+NoAccountData+`') ORDER BY room_id, type`, user, from, to, deleted)
}

// ListAccountDataOfType is a user's account data of one type, global and of rooms.
func (tx *Tx) ListAccountDataOfType(user id.UserID, typ string) ([]AccountData, error) {
	return sqldb.List(tx.Tx, scanAccountData, `SELECT room_id, type, pos, content FROM account_data
		WHERE user_id = $1 AND type = $2 ORDER BY room_id`, user, typ)
}

// InsertAccountData writes a piece of account data over what was there. Its position follows
// with UpdateAccountDataPos, when it is known: what is written here is seen by the functions
// that share the transaction, and what waits for a position isn't.
func (tx *Tx) InsertAccountData(user id.UserID, d *AccountData) error {
	_, err := tx.Exec(`INSERT INTO account_data (user_id, room_id, type, pos, content) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, room_id, type) DO UPDATE SET pos = excluded.pos, content = excluded.content`,
		user, d.Room, d.Type, d.Pos, string(d.Content))
	return err
}

// UpdateAccountDataPos gives a piece of account data its position.
func (tx *Tx) UpdateAccountDataPos(user id.UserID, room id.RoomID, typ string, pos id.Pos) error {
	_, err := tx.Exec(`UPDATE account_data SET pos = $4 WHERE user_id = $1 AND room_id = $2 AND type = $3`, user, room, typ, pos)
	return err
}

// DeleteAccountData removes all account data of a user.
func (tx *Tx) DeleteAccountData(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM account_data WHERE user_id = $1`, user)
	return err
}

// InsertFilter keeps a filter under a name that stands for its text.
func (tx *Tx) InsertFilter(user id.UserID, filterID string, json []byte) error {
	_, err := tx.Exec(`INSERT INTO filters (user_id, filter_id, json) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, filter_id) DO NOTHING`, user, filterID, string(json))
	return err
}

// GetFilter is a user's filter.
func (tx *Tx) GetFilter(user id.UserID, filterID string) (json []byte, err error) {
	err = tx.QueryRow(`SELECT json FROM filters WHERE user_id = $1 AND filter_id = $2`, []any{user, filterID}, &json)
	return json, err
}

// DeleteFilters removes all filters of a user.
func (tx *Tx) DeleteFilters(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM filters WHERE user_id = $1`, user)
	return err
}
