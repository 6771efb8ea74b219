package storage

import (
	"database/sql"

	"parley/internal/id"
	"parley/storage/sqldb"
)

// ServiceTransaction is a row of appservice_transactions: what an application service was last sent.
type ServiceTransaction struct {
	Service string
	// Number counts the transactions of the service.
	Number int64
	// From and Pos say what of the log it has: From < pos <= Pos.
	From, Pos id.Pos
	// Body is nil once the service has taken it.
	Body []byte
}

// GetServiceTransaction is what a service was last sent.
func (tx *Tx) GetServiceTransaction(service string) (ServiceTransaction, error) {
	t := ServiceTransaction{Service: service}
	var body sql.NullString
	err := tx.QueryRow(`SELECT number, from_pos, pos, body FROM appservice_transactions WHERE service = $1`, []any{service},
		&t.Number, &t.From, &t.Pos, &body)
	if body.Valid {
		t.Body = []byte(body.String)
	}
	return t, err
}

// InsertServiceTransaction writes what a service is sent next.
func (tx *Tx) InsertServiceTransaction(t *ServiceTransaction) error {
	_, err := tx.Exec(`INSERT INTO appservice_transactions (service, number, from_pos, pos, body) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (service) DO UPDATE SET number = excluded.number, from_pos = excluded.from_pos, pos = excluded.pos, body = excluded.body`,
		t.Service, t.Number, t.From, t.Pos, string(t.Body))
	return err
}

// UpdateServiceTransactionTaken notes that a service has taken a transaction: the messages to devices
// that were in it go.
func (tx *Tx) UpdateServiceTransactionTaken(t *ServiceTransaction, messages bool) error {
	n, err := tx.Exec(`UPDATE appservice_transactions SET body = NULL WHERE service = $1 AND number = $2 AND body IS NOT NULL`, t.Service, t.Number)
	if err != nil || n == 0 || !messages {
		return err
	}
	_, err = tx.Exec(`DELETE FROM to_device WHERE pos > $2 AND pos <= $3 AND device_nid IN
		(SELECT d.nid FROM users u JOIN devices d ON d.user_id = u.user_id WHERE u.appservice <> '' AND u.appservice = $1)`, t.Service, t.From, t.Pos)
	return err
}

// ServiceMessage is a message to a device of a user whom an application service registered.
type ServiceMessage struct {
	ToDevice
	Service   string
	User      id.UserID
	Device    id.DeviceID
	DeviceNID int64
}

// ListServiceMessages are up to limit messages with from < pos <= to for the devices of users whom a service
// registered, or with service "" any service, in the order of the log.
func (tx *Tx) ListServiceMessages(service string, from, to id.Pos, limit int) ([]ServiceMessage, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (m ServiceMessage, err error) {
		return m, row.Scan(&m.Pos, &m.JSON, &m.Service, &m.User, &m.Device, &m.DeviceNID)
	}, `SELECT t.pos, t.json, u.appservice, d.user_id, d.device_id, d.nid FROM to_device t JOIN devices d ON d.nid = t.device_nid
		JOIN users u ON u.user_id = d.user_id WHERE t.pos > $2 AND t.pos <= $3 AND u.appservice <> '' AND ($1 = '' OR u.appservice = $1)
		ORDER BY t.pos LIMIT $4`, service, from, to, limit)
}

// HasServiceUsers says whether an application service registered any users.
func (tx *Tx) HasServiceUsers() (bool, error) {
	var one int
	err := tx.QueryRow(`SELECT 1 FROM users WHERE appservice <> '' LIMIT 1`, nil, &one)
	return found(err)
}

// LocalMember is what a user of ours is to a room, and since when.
type LocalMember struct {
	User   id.UserID
	Joined bool
	Since  id.Pos
}

// ListLocalMembers are the users of ours who are or were something to a room.
func (tx *Tx) ListLocalMembers(room RoomNID) ([]LocalMember, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (m LocalMember, err error) {
		return m, row.Scan(&m.User, &m.Joined, &m.Since)
	}, `SELECT user_id, membership = 'join', since FROM memberships WHERE room_nid = $1 AND local ORDER BY user_id`, room)
}

// ListInvitesAfar are up to limit invitations of users of ours with from < pos <= to that are in no timeline, as
// nobody of ours is in the room.
func (tx *Tx) ListInvitesAfar(from, to id.Pos, limit int) ([]Membership, error) {
	return sqldb.List(tx.Tx, scanMembership, `SELECT `+membershipColumns+` FROM memberships m JOIN rooms r ON r.nid = m.room_nid
		WHERE m.stripped IS NOT NULL AND m.local AND m.membership = 'invite' AND m.pos > $1 AND m.pos <= $2
		AND NOT EXISTS (SELECT 1 FROM timeline t WHERE t.event_nid = m.event_nid) ORDER BY m.pos LIMIT $3`, from, to, limit)
}

// ListReceiptsInLog are up to limit receipts of any room with from < pos <= to, in the order of the log.
func (tx *Tx) ListReceiptsInLog(from, to id.Pos, limit int) ([]Receipt, error) {
	return sqldb.List(tx.Tx, scanReceipt, `SELECT `+receiptColumns+` FROM receipts WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`, from, to, limit)
}

// ListUsersWithNewDevices are the users whose devices or keys last changed with from < pos <= to.
func (tx *Tx) ListUsersWithNewDevices(from, to id.Pos) ([]UserRead, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (u UserRead, err error) { return u, row.Scan(&u.User, &u.Pos) },
		`SELECT user_id, pos FROM device_lists WHERE pos > $1 AND pos <= $2 ORDER BY pos`, from, to)
}

// NetworkRoom is a row of appservice_rooms: a room in the directory of a network.
type NetworkRoom struct {
	Service, Network string
	Room             id.RoomID
}

// InsertNetworkRoom shows a room in a network's directory.
func (tx *Tx) InsertNetworkRoom(r NetworkRoom) error {
	_, err := tx.Exec(`INSERT INTO appservice_rooms (service, network, room_id) VALUES ($1, $2, $3) ON CONFLICT (service, network, room_id) DO NOTHING`,
		r.Service, r.Network, r.Room)
	return err
}

// DeleteNetworkRoom shows a room no longer.
func (tx *Tx) DeleteNetworkRoom(r NetworkRoom) error {
	_, err := tx.Exec(`DELETE FROM appservice_rooms WHERE service = $1 AND network = $2 AND room_id = $3`, r.Service, r.Network, r.Room)
	return err
}

// ListNetworkRooms are the rooms in a network's directory, or with network "" in that of any; with service ""
// those of all services.
func (tx *Tx) ListNetworkRooms(service, network string) ([]Room, error) {
	return sqldb.List(tx.Tx, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE room_id IN (SELECT room_id FROM appservice_rooms
		WHERE ($1 = '' OR service = $1) AND ($2 = '' OR network = $2)) ORDER BY joined DESC, nid`, service, network)
}
