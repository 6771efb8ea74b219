package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// TokenHash is the SHA-256 of a token that somebody holds.
type TokenHash [32]byte

// Token is a row of tokens: an access or a refresh token of a device.
type Token struct {
	Hash      TokenHash
	DeviceNID int64
	// Generation counts the refreshes of the device's session.
	Generation int64
	Refresh    bool
	// Expires is in milliseconds since 1970, 0 for never.
	Expires int64
}

// TokenOwner is what a token stands for.
type TokenOwner struct {
	Token
	// Older says that there are tokens of a generation before this one.
	Older  bool
	User   User
	Device Device
}

// InsertToken adds a token.
func (tx *Tx) InsertToken(t *Token) error {
	_, err := tx.Exec(`INSERT INTO tokens (hash, device_nid, generation, refresh, expires) VALUES ($1, $2, $3, $4, $5)`,
		t.Hash[:], t.DeviceNID, t.Generation, t.Refresh, t.Expires)
	return err
}

// GetToken is a token with its device and its user.
func (tx *Tx) GetToken(hash TokenHash, refresh bool) (TokenOwner, error) {
	t := TokenOwner{Token: Token{Hash: hash, Refresh: refresh}}
	u, d := &t.User, &t.Device
	err := tx.QueryRow(`SELECT t.generation, t.expires,
		EXISTS (SELECT 1 FROM tokens o WHERE o.device_nid = t.device_nid AND o.generation < t.generation),
		u.user_id, u.password, u.created, u.appservice, u.admin, u.guest, u.deactivated, u.erased, u.locked, u.suspended,
		d.nid, d.user_id, d.device_id, d.display_name, d.seen, d.seen_ip
		FROM tokens t JOIN devices d ON d.nid = t.device_nid JOIN users u ON u.user_id = d.user_id
		WHERE t.hash = $1 AND t.refresh = $2`, []any{hash[:], refresh},
		&t.Generation, &t.Expires, &t.Older,
		&u.ID, &u.Password, &u.Created, &u.AppService, &u.Admin, &u.Guest, &u.Deactivated, &u.Erased, &u.Locked, &u.Suspended,
		&d.NID, &d.User, &d.ID, &d.DisplayName, &d.Seen, &d.SeenIP)
	t.DeviceNID = d.NID
	return t, err
}

// DeleteTokensBefore ends the generations of a device's tokens before the given one.
func (tx *Tx) DeleteTokensBefore(device, generation int64) error {
	_, err := tx.Exec(`DELETE FROM tokens WHERE device_nid = $1 AND generation < $2`, device, generation)
	return err
}

// DeleteTokens ends all tokens of a device.
func (tx *Tx) DeleteTokens(device int64) error {
	_, err := tx.Exec(`DELETE FROM tokens WHERE device_nid = $1`, device)
	return err
}

// GetLastGeneration is the newest generation of a device's tokens, 0 where there are none.
func (tx *Tx) GetLastGeneration(device int64) (generation int64, err error) {
	err = tx.QueryRow(`SELECT COALESCE(MAX(generation), 0) FROM tokens WHERE device_nid = $1`, []any{device}, &generation)
	return generation, err
}

// The kinds of tokens that stand for a user alone.
const (
	LoginToken  = "login"
	OpenIDToken = "openid"
)

// InsertUserToken adds a token that stands for a user until it expires.
func (tx *Tx) InsertUserToken(hash TokenHash, kind string, user id.UserID, expires int64) error {
	_, err := tx.Exec(`INSERT INTO user_tokens (hash, kind, user_id, expires) VALUES ($1, $2, $3, $4)`, hash[:], kind, user, expires)
	return err
}

// GetUserToken is the user that a token stands for.
func (tx *Tx) GetUserToken(hash TokenHash, kind string, now int64) (user id.UserID, err error) {
	err = tx.QueryRow(`SELECT user_id FROM user_tokens WHERE hash = $1 AND kind = $2 AND expires > $3`,
		[]any{hash[:], kind, now}, &user)
	return user, err
}

// DeleteUserToken uses a token up: only one caller is ever given its user.
func (tx *Tx) DeleteUserToken(hash TokenHash, kind string, now int64) (user id.UserID, err error) {
	err = tx.QueryRow(`DELETE FROM user_tokens WHERE hash = $1 AND kind = $2 AND expires > $3 RETURNING user_id`,
		[]any{hash[:], kind, now}, &user)
	return user, err
}

// DeleteUserTokens ends all short-lived tokens of a user.
func (tx *Tx) DeleteUserTokens(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM user_tokens WHERE user_id = $1`, user)
	return err
}

// DeleteExpired removes the short-lived tokens, and the sessions of user-interactive
// authentication and of addresses that have expired.
func (tx *Tx) DeleteExpired(now int64) error {
	if _, err := tx.Exec(`DELETE FROM threepid_sessions WHERE expires <= $1`, now); err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM user_tokens WHERE expires <= $1`, now); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM uia_sessions WHERE expires <= $1`, now)
	return err
}

// UIASession is a row of uia_sessions: user-interactive authentication that has begun.
type UIASession struct {
	Session string
	// Operation is a hash of what was asked for.
	Operation string
	// Done is a JSON list of the stages that are complete.
	Done    string
	Expires int64
}

// InsertUIASession adds a session, or writes an existing one anew.
func (tx *Tx) InsertUIASession(s *UIASession) error {
	_, err := tx.Exec(`INSERT INTO uia_sessions (session, operation, done, expires) VALUES ($1, $2, $3, $4)
		ON CONFLICT (session) DO UPDATE SET operation = excluded.operation, done = excluded.done, expires = excluded.expires`,
		s.Session, s.Operation, s.Done, s.Expires)
	return err
}

// GetUIASession is a session that has not expired.
func (tx *Tx) GetUIASession(session string, now int64) (UIASession, error) {
	return one(tx, func(row sqldb.Scanner) (s UIASession, err error) {
		return s, row.Scan(&s.Session, &s.Operation, &s.Done, &s.Expires)
	}, `SELECT session, operation, done, expires FROM uia_sessions WHERE session = $1 AND expires > $2`, session, now)
}

// DeleteUIASession ends a session.
func (tx *Tx) DeleteUIASession(session string) error {
	_, err := tx.Exec(`DELETE FROM uia_sessions WHERE session = $1`, session)
	return err
}

// RegistrationToken is a row of registration_tokens.
type RegistrationToken struct {
	Token string
	// UsesAllowed is below 0 for no limit.
	UsesAllowed int64
	Used        int64
	// Expires is in milliseconds since 1970, 0 for never.
	Expires int64
	Created int64
}

const registrationTokenColumns = `token, COALESCE(uses_allowed, -1), used, expires, created`

func scanRegistrationToken(row sqldb.Scanner) (t RegistrationToken, err error) {
	return t, row.Scan(&t.Token, &t.UsesAllowed, &t.Used, &t.Expires, &t.Created)
}

// InsertRegistrationToken adds a token; inserted is false when there is one of that name.
func (tx *Tx) InsertRegistrationToken(t *RegistrationToken) (inserted bool, err error) {
	var uses any
	if t.UsesAllowed >= 0 {
		uses = t.UsesAllowed
	}
	n, err := tx.Exec(`INSERT INTO registration_tokens (token, uses_allowed, used, expires, created) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (token) DO NOTHING`, t.Token, uses, t.Used, t.Expires, t.Created)
	return n > 0, err
}

// GetRegistrationToken is a token, whether it can still be used or not.
func (tx *Tx) GetRegistrationToken(token string) (RegistrationToken, error) {
	return one(tx, scanRegistrationToken, `SELECT `+registrationTokenColumns+` FROM registration_tokens WHERE token = $1`, token)
}

// ListRegistrationTokens are all tokens.
func (tx *Tx) ListRegistrationTokens() ([]RegistrationToken, error) {
	return sqldb.List(tx.Tx, scanRegistrationToken, `SELECT `+registrationTokenColumns+` FROM registration_tokens ORDER BY created, token`)
}

// UpdateRegistrationTokenUsed counts one use of a token; ok is false when it allows no more.
func (tx *Tx) UpdateRegistrationTokenUsed(token string, now int64) (ok bool, err error) {
	n, err := tx.Exec(`UPDATE registration_tokens SET used = used + 1 WHERE token = $1
		AND (uses_allowed IS NULL OR used < uses_allowed) AND (expires = 0 OR expires > $2)`, token, now)
	return n > 0, err
}

// DeleteRegistrationToken removes a token.
func (tx *Tx) DeleteRegistrationToken(token string) error {
	_, err := tx.Exec(`DELETE FROM registration_tokens WHERE token = $1`, token)
	return err
}
