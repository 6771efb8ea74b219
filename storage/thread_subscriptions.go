package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ThreadSubscription is a row of thread_subscriptions.
type ThreadSubscription struct {
	User id.UserID
	Room id.RoomID
	Root id.EventID
	// Automatic says that the user's client subscribed by itself.
	Automatic bool
	// UnsubscribedAt is the end of the log when the user unsubscribed, 0 while they are subscribed.
	UnsubscribedAt id.Pos
	Pos            id.Pos
}

const threadSubscriptionColumns = `user_id, room_id, root, automatic, unsubscribed_at, pos`

func scanThreadSubscription(row sqldb.Scanner) (s ThreadSubscription, err error) {
	return s, row.Scan(&s.User, &s.Room, &s.Root, &s.Automatic, &s.UnsubscribedAt, &s.Pos)
}

// InsertThreadSubscription writes what a user is to a thread over what they were.
func (tx *Tx) InsertThreadSubscription(s *ThreadSubscription) error {
	_, err := tx.Exec(`INSERT INTO thread_subscriptions (`+threadSubscriptionColumns+`) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, room_id, root) DO UPDATE SET automatic = excluded.automatic,
			unsubscribed_at = excluded.unsubscribed_at, pos = excluded.pos`,
		s.User, s.Room, s.Root, s.Automatic, s.UnsubscribedAt, s.Pos)
	return err
}

// GetThreadSubscription is what a user is to a thread.
func (tx *Tx) GetThreadSubscription(user id.UserID, room id.RoomID, root id.EventID) (ThreadSubscription, error) {
	return one(tx, scanThreadSubscription, `SELECT `+threadSubscriptionColumns+` FROM thread_subscriptions
		WHERE user_id = $1 AND room_id = $2 AND root = $3`, user, room, root)
}

// ListThreadSubscriptions are up to limit threads to which a user came to be what they are with
// from < pos <= to, the newest first.
func (tx *Tx) ListThreadSubscriptions(user id.UserID, from, to id.Pos, limit int) ([]ThreadSubscription, error) {
	return sqldb.List(tx.Tx, scanThreadSubscription, `SELECT `+threadSubscriptionColumns+` FROM thread_subscriptions
		WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4`, user, from, to, limit)
}

// DeleteThreadSubscriptions removes all of a user.
func (tx *Tx) DeleteThreadSubscriptions(user id.UserID) error {
	_, err := tx.Exec(`DELETE FROM thread_subscriptions WHERE user_id = $1`, user)
	return err
}
