package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// MainThread is the thread of the events that are in none.
const MainThread = "main"

// Markers says how far a user has read; each is "" where it stays as it is.
type Markers struct {
	FullyRead   id.EventID
	Read        id.EventID
	ReadPrivate id.EventID
	// Thread is for Read and ReadPrivate: "" for all threads, [MainThread], or a thread's root.
	Thread string
}

// SetMarkers notes how far a user has read in a room. A receipt never moves backwards.
//
// spec: client-server-api/modules/receipts.md#receipts
// spec: client-server-api/modules/read_markers.md#fully-read-markers
func (s *Server) SetMarkers(ctx context.Context, user id.UserID, room id.RoomID, m Markers) error {
	if m.Thread != "" && m.Thread != MainThread && !strings.HasPrefix(m.Thread, "$") {
		return matrixerr.New(matrixerr.InvalidParam, "thread_id is neither main nor an event ID")
	}
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		nid, err := joinedRoom(tx, user, room)
		if err != nil {
			return err
		}
		for _, r := range []storage.Receipt{
			{Type: storage.ReceiptRead, Event: m.Read}, {Type: storage.ReceiptReadPrivate, Event: m.ReadPrivate},
		} {
			if r.Event == "" {
				continue
			}
			r.Room, r.User, r.Thread, r.TS = nid, user, m.Thread, s.millis()
			if err := putReceipt(tx, room, &r); err != nil {
				return err
			}
		}
		if m.FullyRead == "" {
			return nil
		}
		content, err := json.Marshal(map[string]id.EventID{"event_id": m.FullyRead})
		if err != nil {
			return err
		}
		return putAccountData(tx, user, room, FullyReadType, content)
	})
	if err == nil {
		s.presence.active(user)
	}
	return err
}

// joinedRoom is the room's number, if the user is joined to it; or may be, as one of another
// server in a room of which we have not heard yet who is in it.
func joinedRoom(tx *storage.Tx, user id.UserID, room id.RoomID) (storage.RoomNID, error) {
	refused := matrixerr.New(matrixerr.Forbidden, "you are not in room %s", room)
	r, err := tx.GetRoom(room)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, refused
	}
	if err != nil {
		return 0, err
	}
	m, err := tx.GetMembership(user, r.NID)
	if errors.Is(err, storage.ErrNotFound) && r.Partial != 0 {
		there, err := tx.HasMemberOf(r.NID, user.Server())
		if err == nil && !there {
			err = refused
		}
		return r.NID, err
	}
	if errors.Is(err, storage.ErrNotFound) || err == nil && m.Membership != "join" {
		return 0, refused
	}
	return r.NID, err
}

// putReceipt writes a receipt and tells those who may see it, unless the user has read on
// already.
func putReceipt(tx *storage.Tx, room id.RoomID, r *storage.Receipt) error {
	event, err := tx.GetEvent(r.Event)
	if errors.Is(err, storage.ErrNotFound) || err == nil && event.Room != r.Room {
		return matrixerr.New(matrixerr.NotFound, "there is no event %s in this room", r.Event)
	}
	if err != nil {
		return err
	}
	if r.Thread != "" {
		thread := MainThread
		root, ok, err := tx.GetThread(event.NID)
		if err != nil {
			return err
		}
		if ok {
			thread = string(root)
		}
		// A thread's root is in the main timeline, but stands for the start of its thread, too.
		if thread != r.Thread && string(r.Event) != r.Thread {
			return matrixerr.New(matrixerr.InvalidParam, "event %s is not in thread %s", r.Event, r.Thread)
		}
	}
	ord, shown, err := tx.GetOrd(event.NID)
	if err != nil {
		return err
	}
	if shown {
		r.Ord = ord
	}
	old, err := tx.GetReceipt(r.Room, r.User, r.Type, r.Thread)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return err
	case old.Event == r.Event, old.Ord != 0 && r.Ord != 0 && r.Ord < old.Ord:
		return nil
	}
	receipt := *r
	receipt.Pos = old.Pos
	if err := tx.InsertReceipt(&receipt); err != nil {
		return err
	}
	tx.OnPos(1, func(pos id.Pos) error {
		receipt.Pos = pos
		n := stream.Notice{Pos: pos, Kind: stream.Receipt, Room: room, User: receipt.User}
		if receipt.Type == storage.ReceiptReadPrivate {
			n.Users = []id.UserID{receipt.User}
		}
		tx.Notify(n)
		return tx.UpdateReceiptPos(&receipt)
	})
	return nil
}
