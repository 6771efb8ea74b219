package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ServerKey is a row of server_keys: a key with which another server signs, or did. Times are in
// milliseconds since 1970.
type ServerKey struct {
	Server id.ServerName
	KeyID  string
	// Public is in unpadded base64.
	Public     string
	ValidUntil int64
	// Expired is 0 for a key that the server still signs with.
	Expired int64
}

const serverKeyColumns = `server, key_id, public, valid_until, expired`

func scanServerKey(row sqldb.Scanner) (k ServerKey, err error) {
	return k, row.Scan(&k.Server, &k.KeyID, &k.Public, &k.ValidUntil, &k.Expired)
}

// ListServerKeys are the keys of servers.
func (tx *Tx) ListServerKeys(servers []id.ServerName) ([]ServerKey, error) {
	return sqldb.List(tx.Tx, scanServerKey,
		`SELECT `+serverKeyColumns+` FROM server_keys WHERE server = ANY($1) ORDER BY server, key_id`, sqldb.Array(servers))
}

// InsertServerKey writes a key over what was known of it.
func (tx *Tx) InsertServerKey(k *ServerKey) error {
	_, err := tx.Exec(`INSERT INTO server_keys (`+serverKeyColumns+`) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (server, key_id) DO UPDATE
		SET public = excluded.public, valid_until = excluded.valid_until, expired = excluded.expired`,
		k.Server, k.KeyID, k.Public, k.ValidUntil, k.Expired)
	return err
}

// DeleteServerKeys removes the keys of a server.
func (tx *Tx) DeleteServerKeys(server id.ServerName) error {
	_, err := tx.Exec(`DELETE FROM server_keys WHERE server = $1`, server)
	return err
}

// ServerKeyList is a row of server_key_lists: what a server said of its keys, with its signature.
type ServerKeyList struct {
	Server     id.ServerName
	Fetched    int64
	ValidUntil int64
	JSON       []byte
}

// GetServerKeyList is the newest list of a server.
func (tx *Tx) GetServerKeyList(server id.ServerName) (ServerKeyList, error) {
	l := ServerKeyList{Server: server}
	err := tx.QueryRow(`SELECT fetched, valid_until, json FROM server_key_lists WHERE server = $1`,
		[]any{server}, &l.Fetched, &l.ValidUntil, &l.JSON)
	return l, err
}

// InsertServerKeyList writes a list over an older one.
func (tx *Tx) InsertServerKeyList(l *ServerKeyList) error {
	_, err := tx.Exec(`INSERT INTO server_key_lists (server, fetched, valid_until, json) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server) DO UPDATE
		SET fetched = excluded.fetched, valid_until = excluded.valid_until, json = excluded.json
		WHERE server_key_lists.valid_until <= excluded.valid_until`,
		l.Server, l.Fetched, l.ValidUntil, string(l.JSON))
	return err
}
