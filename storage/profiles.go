package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ProfileField is a row of profiles.
type ProfileField struct {
	Field string
	// Value is JSON.
	Value []byte
}

func scanProfileField(row sqldb.Scanner) (f ProfileField, err error) {
	return f, row.Scan(&f.Field, &f.Value)
}

// ListProfile are the fields of the profile of a user of ours, by name.
func (tx *Tx) ListProfile(user id.UserID) ([]ProfileField, error) {
	return sqldb.List(tx.Tx, scanProfileField, `SELECT field, value FROM profiles WHERE user_id = $1 ORDER BY field`, user)
}

// GetProfileField is one field's value.
func (tx *Tx) GetProfileField(user id.UserID, field string) ([]byte, error) {
	f, err := one(tx, scanProfileField, `SELECT field, value FROM profiles WHERE user_id = $1 AND field = $2`, user, field)
	return f.Value, err
}

// InsertProfileField sets a field of a user's profile.
func (tx *Tx) InsertProfileField(user id.UserID, field string, value []byte) error {
	_, err := tx.Exec(`INSERT INTO profiles (user_id, field, value) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value`, user, field, string(value))
	return err
}

// DeleteProfileField removes a field from a user's profile.
func (tx *Tx) DeleteProfileField(user id.UserID, field string) error {
	_, err := tx.Exec(`DELETE FROM profiles WHERE user_id = $1 AND field = $2`, user, field)
	return err
}

// DeleteProfile removes a user's profile.
func (tx *Tx) DeleteProfile(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM profiles WHERE user_id = $1`, user)
	return err
}
