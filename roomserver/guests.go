package roomserver

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// guestsCanJoin says whether an m.room.guest_access lets guests in; nil is none.
func guestsCanJoin(access *event) bool {
	return access != nil && access.field("guest_access") == "can_join"
}

// admitGuest refuses a guest whom the room does not want.
//
// spec: client-server-api/modules/guest_access.md#server-behaviour
func (s *Server) admitGuest(w *work, user id.UserID) error {
	guest, err := isGuest(w.tx, user)
	if err != nil || !guest {
		return err
	}
	access, err := s.stateEvent(w.tx, &w.room, w.room.Root, spec.MRoomGuestAccess, "")
	if err == nil && !guestsCanJoin(access) {
		err = matrixerr.New(matrixerr.GuestAccessForbidden, "The room is not for guests.")
	}
	return err
}

// keepGuestHere refuses a guest a room that this server is not in: what the room lets guests do is known when it is
// too late.
func (s *Server) keepGuestHere(ctx context.Context, user id.UserID) error {
	guest, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) { return isGuest(tx, user) })
	if err == nil && guest {
		err = matrixerr.New(matrixerr.GuestAccessForbidden, "Guests can't join rooms that this server is not in.")
	}
	return err
}

func isGuest(tx *storage.Tx, user id.UserID) (bool, error) {
	u, err := tx.GetUser(user)
	_, err = notFound(err)
	return u.Guest, err
}

// dismissGuests has our guests leave a room that no longer wants any, with the event that says so.
//
// spec: client-server-api/modules/guest_access.md#server-behaviour
func (s *Server) dismissGuests(w *work) error {
	if !w.guestsGo {
		return nil
	}
	w.guestsGo = false
	guests, err := w.tx.ListGuests(w.room.NID)
	if err != nil {
		return err
	}
	for _, guest := range guests {
		if _, err := s.appendMember(w, guest, guest, spec.Leave, nil, Txn{}); err != nil {
			return err
		}
	}
	return nil
}
