package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ThreePID is a row of threepids: an address or a number by which an account is known.
type ThreePID struct {
	Medium, Address string
	User            id.UserID
	// Validated and Added are in milliseconds since 1970.
	Validated, Added int64
}

const threePIDColumns = `medium, address, user_id, validated, added`

func scanThreePID(row sqldb.Scanner) (p ThreePID, err error) {
	return p, row.Scan(&p.Medium, &p.Address, &p.User, &p.Validated, &p.Added)
}

// InsertThreePID adds an address to an account; inserted is false when it is another's.
func (tx *Tx) InsertThreePID(p *ThreePID) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO threepids (`+threePIDColumns+`) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (medium, address) DO UPDATE SET validated = excluded.validated WHERE threepids.user_id = excluded.user_id`,
		p.Medium, p.Address, p.User, p.Validated, p.Added)
	return n > 0, err
}

// GetThreePID is the account that an address belongs to.
func (tx *Tx) GetThreePID(medium, address string) (ThreePID, error) {
	return one(tx, scanThreePID, `SELECT `+threePIDColumns+` FROM threepids WHERE medium = $1 AND address = $2`, medium, address)
}

// ListThreePIDs are the addresses of an account.
func (tx *Tx) ListThreePIDs(user id.UserID) ([]ThreePID, error) {
	return sqldb.List(tx.Tx, scanThreePID, `SELECT `+threePIDColumns+` FROM threepids WHERE user_id = $1 ORDER BY added, medium, address`, user)
}

// DeleteThreePID takes an address from an account.
func (tx *Tx) DeleteThreePID(user id.UserID, medium, address string) error {
	_, err := tx.Exec(`DELETE FROM threepids WHERE user_id = $1 AND medium = $2 AND address = $3`, user, medium, address)
	return err
}

// DeleteThreePIDs takes all addresses from an account.
func (tx *Tx) DeleteThreePIDs(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM threepids WHERE user_id = $1`, user)
	return err
}

// ThreePIDSession is a row of threepid_sessions: an attempt to show that an address is one's own.
type ThreePIDSession struct {
	SID             string
	Medium, Address string
	// Secret is the client's; Attempt is by how many it has asked.
	Secret  string
	Attempt int64
	// Token is the hash of what was sent.
	Token    []byte
	NextLink string
	// Purpose is what the address is to be used for.
	Purpose string
	// Validated is when the token came back, 0 before that.
	Validated int64
	Expires   int64
}

const threePIDSessionColumns = `sid, medium, address, secret, attempt, token, next_link, purpose, validated, expires`

func scanThreePIDSession(row sqldb.Scanner) (s ThreePIDSession, err error) {
	return s, row.Scan(&s.SID, &s.Medium, &s.Address, &s.Secret, &s.Attempt, &s.Token, &s.NextLink, &s.Purpose, &s.Validated, &s.Expires)
}

// InsertThreePIDSession adds a session, or writes an existing one anew.
func (tx *Tx) InsertThreePIDSession(s *ThreePIDSession) error {
	_, err := tx.Exec(`INSERT INTO threepid_sessions (`+threePIDSessionColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (sid) DO UPDATE SET attempt = excluded.attempt, token = excluded.token, next_link = excluded.next_link,
			validated = excluded.validated, expires = excluded.expires`,
		s.SID, s.Medium, s.Address, s.Secret, s.Attempt, s.Token, s.NextLink, s.Purpose, s.Validated, s.Expires)
	return err
}

// GetThreePIDSession is a session that has not expired.
func (tx *Tx) GetThreePIDSession(sid string, now int64) (ThreePIDSession, error) {
	return one(tx, scanThreePIDSession, `SELECT `+threePIDSessionColumns+` FROM threepid_sessions WHERE sid = $1 AND expires > $2`, sid, now)
}

// FindThreePIDSession is the session of a client with an address, for a purpose.
func (tx *Tx) FindThreePIDSession(medium, address, secret, purpose string, now int64) (ThreePIDSession, error) {
	return one(tx, scanThreePIDSession, `SELECT `+threePIDSessionColumns+` FROM threepid_sessions
		WHERE address = $1 AND secret = $2 AND medium = $3 AND purpose = $4 AND expires > $5`, address, secret, medium, purpose, now)
}

// DeleteThreePIDSession ends a session.
func (tx *Tx) DeleteThreePIDSession(sid string) error {
	_, err := tx.Exec(`DELETE FROM threepid_sessions WHERE sid = $1`, sid)
	return err
}

// InsertBinding notes that an identity server was told of an address.
func (tx *Tx) InsertBinding(user id.UserID, medium, address, server string) error {
	_, err := tx.Exec(`INSERT INTO threepid_bindings (user_id, medium, address, id_server) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, medium, address, id_server) DO NOTHING`, user, medium, address, server)
	return err
}

// Binding is an address of which an identity server was told.
type Binding struct {
	Medium, Address, Server string
}

// ListBindings are the addresses of a user of which identity servers were told.
func (tx *Tx) ListBindings(user id.UserID) ([]Binding, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (b Binding, err error) { return b, row.Scan(&b.Medium, &b.Address, &b.Server) },
		`SELECT medium, address, id_server FROM threepid_bindings WHERE user_id = $1 ORDER BY medium, address, id_server`, user)
}

// DeleteBinding notes that an identity server has forgotten an address.
func (tx *Tx) DeleteBinding(user id.UserID, b Binding) error {
	_, err := tx.Exec(`DELETE FROM threepid_bindings WHERE user_id = $1 AND medium = $2 AND address = $3 AND id_server = $4`,
		user, b.Medium, b.Address, b.Server)
	return err
}
