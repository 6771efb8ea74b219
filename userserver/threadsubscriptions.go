package userserver

import (
	"context"
	"errors"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// The errors of subscriptions, by their unstable names.
const (
	errNotInThread   matrixerr.Code = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
	errUnsubscribing matrixerr.Code = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
)

// SubscribeThread subscribes a user to a thread that they may see. cause is the event in the
// thread for which their client did so by itself, "" where they did it themselves. What the
// user does themselves goes before: an event from before they unsubscribed causes nothing.
//
// It is MSC4306: https://github.com/matrix-org/matrix-spec-proposals/pull/4306
func (s *Server) SubscribeThread(ctx context.Context, user id.UserID, room id.RoomID, root, cause id.EventID) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		var ord storage.Ord
		if cause != "" {
			var err error
			if ord, err = inThread(tx, room, root, cause); err != nil {
				return err
			}
		}
		old, err := tx.GetThreadSubscription(user, room, root)
		missing := errors.Is(err, storage.ErrNotFound)
		switch {
		case err != nil && !missing:
			return err
		case !missing && old.UnsubscribedAt == 0 && (cause != "" || !old.Automatic):
			return nil // they are, and no less of their own will
		case !missing && cause != "" && ord <= storage.Ord(old.UnsubscribedAt):
			return matrixerr.New(errUnsubscribing, "you unsubscribed from the thread after that event").WithStatus(409)
		}
		return putThreadSubscription(tx, &storage.ThreadSubscription{User: user, Room: room, Root: root, Automatic: cause != ""})
	})
}

// inThread is an event's place in the room's timeline, if it is a reply in the thread.
func inThread(tx *storage.Tx, room id.RoomID, root, event id.EventID) (storage.Ord, error) {
	refused := matrixerr.New(errNotInThread, "event %s is no reply in the thread", event).WithStatus(400)
	r, err := tx.GetRoom(room)
	if err != nil {
		return 0, notFound(err, "there is no such room")
	}
	e, err := tx.GetEvent(event)
	if errors.Is(err, storage.ErrNotFound) || err == nil && e.Room != r.NID {
		return 0, refused
	} else if err != nil {
		return 0, err
	}
	of, ok, err := tx.GetThread(e.NID)
	if err != nil {
		return 0, err
	}
	ord, shown, err := tx.GetOrd(e.NID)
	if err == nil && (!ok || of != root || !shown) {
		err = refused
	}
	return ord, err
}

// UnsubscribeThread ends a subscription; there need not be one.
func (s *Server) UnsubscribeThread(ctx context.Context, user id.UserID, room id.RoomID, root id.EventID) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		old, err := tx.GetThreadSubscription(user, room, root)
		if errors.Is(err, storage.ErrNotFound) || err == nil && old.UnsubscribedAt != 0 {
			return nil
		} else if err != nil {
			return err
		}
		if old.UnsubscribedAt, err = tx.GetPos(); err != nil {
			return err
		}
		return putThreadSubscription(tx, &old)
	})
}

func putThreadSubscription(tx *storage.Tx, s *storage.ThreadSubscription) error {
	// What shares the transaction sees it, and its position follows when that is known.
	if err := tx.InsertThreadSubscription(s); err != nil {
		return err
	}
	tx.OnPos(1, func(pos id.Pos) error {
		s.Pos = pos
		if s.UnsubscribedAt != 0 {
			s.UnsubscribedAt = pos
		}
		tx.Notify(stream.Notice{Pos: pos, Kind: stream.AccountData, User: s.User, Users: []id.UserID{s.User}})
		return tx.InsertThreadSubscription(s)
	})
	return nil
}

// GetThreadSubscription says whether a user's subscription to a thread is their client's doing; it
// is not found where there is none.
func (s *Server) GetThreadSubscription(ctx context.Context, user id.UserID, room id.RoomID, root id.EventID) (automatic bool, err error) {
	row, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.ThreadSubscription, error) {
		return tx.GetThreadSubscription(user, room, root)
	})
	if err == nil && row.UnsubscribedAt != 0 {
		err = storage.ErrNotFound
	}
	return row.Automatic, notFound(err, "you are not subscribed to that thread")
}

// ThreadSubscription is what a user is to a thread, as storage has it.
type ThreadSubscription = storage.ThreadSubscription

// ListThreadSubscriptions are up to limit changes of a user's subscriptions with from < pos <= to,
// the newest first.
func (s *Server) ListThreadSubscriptions(ctx context.Context, user id.UserID, from, to id.Pos, limit int) ([]ThreadSubscription, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]ThreadSubscription, error) {
		return tx.ListThreadSubscriptions(user, from, to, limit)
	})
}
