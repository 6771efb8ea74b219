package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Alias is a row of room_aliases.
type Alias struct {
	Alias   id.RoomAlias
	Room    id.RoomID
	Creator id.UserID
}

func scanAlias(row sqldb.Scanner) (a Alias, err error) {
	return a, row.Scan(&a.Alias, &a.Room, &a.Creator)
}

// InsertAlias adds an alias; inserted is false when it is taken.
func (tx *Tx) InsertAlias(a Alias) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO room_aliases (alias, room_id, creator) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING`,
		a.Alias, a.Room, a.Creator)
	return n > 0, err
}

// GetAlias is an alias of ours.
func (tx *Tx) GetAlias(alias id.RoomAlias) (Alias, error) {
	return one(tx, scanAlias, `SELECT alias, room_id, creator FROM room_aliases WHERE alias = $1`, alias)
}

// DeleteAlias removes an alias.
func (tx *Tx) DeleteAlias(alias id.RoomAlias) error {
	_, err := tx.Exec(`DELETE FROM room_aliases WHERE alias = $1`, alias)
	return err
}

// ListAliases are a room's aliases on this node.
func (tx *Tx) ListAliases(room id.RoomID) ([]Alias, error) {
	return sqldb.List(tx.Tx, scanAlias, `SELECT alias, room_id, creator FROM room_aliases WHERE room_id = $1 ORDER BY alias`, room)
}

// UpdateAliasRoom moves all aliases from one room to another, as an upgrade does.
func (tx *Tx) UpdateAliasRoom(from, to id.RoomID) error {
	_, err := tx.Exec(`UPDATE room_aliases SET room_id = $2 WHERE room_id = $1`, from, to)
	return err
}
