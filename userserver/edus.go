package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

const (
	// remoteTyping is for how long a user of another server types who says nothing more.
	remoteTyping = time.Minute
	// maxPush bounds the users of one m.presence, and maxReceived the receipts of one m.receipt;
	// what is beyond is not looked at.
	maxPush     = 500
	maxReceived = 500
	// messageMemory is for how long the ID of a message to devices is remembered, so that it is
	// taken in once however often its server sends it.
	messageMemory = 30 * 24 * time.Hour
)

// ReceiveEDU takes in an EDU of another server. A [matrixerr.Error] says that it is of no use.
//
// spec: server-server-api.md#edus
func (s *Server) ReceiveEDU(ctx context.Context, origin id.ServerName, edu serverapi.EDU) error {
	switch edu.Type {
	case "m.typing":
		return decoded(ctx, origin, edu, s.receiveTyping)
	case "m.presence":
		return decoded(ctx, origin, edu, s.receivePresence)
	case "m.receipt":
		return decoded(ctx, origin, edu, s.receiveReceipts)
	case "m.direct_to_device":
		return decoded(ctx, origin, edu, s.receiveToDevice)
	case "m.device_list_update":
		return decoded(ctx, origin, edu, s.receiveDeviceList)
	case "m.signing_key_update":
		return decoded(ctx, origin, edu, s.receiveSigningKeys)
	}
	return matrixerr.New(matrixerr.Unrecognized, "EDUs of type %.50q are not known here.", edu.Type)
}

// decoded calls a function with an EDU's content.
func decoded[T any](ctx context.Context, origin id.ServerName, edu serverapi.EDU, fn func(context.Context, id.ServerName, *T) error) error {
	content := new(T)
	if err := json.Unmarshal(edu.Content, content); err != nil {
		return matrixerr.New(matrixerr.BadJSON, "The content of an %s is not as it should be.", edu.Type)
	}
	return fn(ctx, origin, content)
}

// speaksFor refuses an EDU of a server about a user of another.
func speaksFor(origin id.ServerName, user id.UserID) error {
	if user.Server() != origin || len(user) > id.MaxLength || !cleanText(string(user)) {
		return matrixerr.New(matrixerr.Forbidden, "%s does not speak for user %.300q.", origin, user)
	}
	return nil
}

// admitted refuses an EDU about a room that does not let its server take part.
//
// spec: server-server-api.md#server-access-control-lists-acls
func (s *Server) admitted(ctx context.Context, origin id.ServerName, room id.RoomID) error {
	if !cleanText(string(room)) {
		return matrixerr.New(matrixerr.InvalidParam, "%.50q is no room ID.", room)
	}
	ok, err := s.rooms.ServerAllowed(ctx, room, origin)
	if err == nil && !ok {
		err = matrixerr.New(matrixerr.Forbidden, "Room %s does not let %s take part.", room, origin)
	}
	return err
}

type typingEDU struct {
	Room   id.RoomID `json:"room_id"`
	User   id.UserID `json:"user_id"`
	Typing bool      `json:"typing"`
}

// spec: server-server-api.md#typing-notifications
func (s *Server) receiveTyping(ctx context.Context, origin id.ServerName, e *typingEDU) error {
	if err := speaksFor(origin, e.User); err != nil {
		return err
	}
	if err := s.admitted(ctx, origin, e.Room); err != nil {
		return err
	}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := joinedRoom(tx, e.User, e.Room)
		return err
	})
	if err != nil {
		return err
	}
	var timeout time.Duration
	var until time.Time
	if e.Typing {
		timeout = remoteTyping
		until = s.now().Add(timeout)
	}
	if s.typing.set(e.Room, e.User, until) || e.Typing {
		s.typing.publish(typingNotice(e.Room, e.User, timeout))
	}
	return nil
}

type presenceEDU struct {
	Push []struct {
		User            id.UserID `json:"user_id"`
		Presence        string    `json:"presence"`
		StatusMsg       string    `json:"status_msg"`
		LastActiveAgo   int64     `json:"last_active_ago"`
		CurrentlyActive bool      `json:"currently_active"`
	} `json:"push"`
}

// spec: server-server-api.md#presence
func (s *Server) receivePresence(ctx context.Context, origin id.ServerName, e *presenceEDU) error {
	if s.ownPresence {
		return nil
	}
	seen := make(map[id.UserID]Presence)
	var users []id.UserID
	for i := range e.Push[:min(len(e.Push), maxPush)] {
		p := &e.Push[i]
		if speaksFor(origin, p.User) != nil || ValidatePresence(p.Presence) != nil || len(p.StatusMsg) > maxStatus || !cleanText(p.StatusMsg) {
			continue
		}
		ago := time.Duration(min(max(p.LastActiveAgo, 0), int64(100*365*24*time.Hour/time.Millisecond))) * time.Millisecond
		seen[p.User] = Presence{p.Presence, p.StatusMsg, s.now().Add(-ago), p.CurrentlyActive}
		users = append(users, p.User)
	}
	known, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.ListKnownUsers(users) })
	for _, user := range known {
		s.presence.receive(user, seen[user])
	}
	return err
}

type receiptEDU map[id.RoomID]map[string]map[id.UserID]struct {
	Data struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id"`
	} `json:"data"`
	Events []id.EventID `json:"event_ids"`
}

// Only those of the kind that is for all to see: a private one has no business here.
//
// spec: server-server-api.md#receipts
func (s *Server) receiveReceipts(ctx context.Context, origin id.ServerName, e *receiptEDU) error {
	left := maxReceived
	for room, kinds := range *e {
		if s.admitted(ctx, origin, room) != nil {
			continue
		}
		for user, r := range kinds[storage.ReceiptRead] {
			if speaksFor(origin, user) != nil || len(r.Events) == 0 || !cleanText(string(r.Events[0])) ||
				len(r.Data.Thread) > id.MaxLength || !cleanText(r.Data.Thread) || r.Data.TS < 0 {
				continue
			}
			if left--; left < 0 {
				return nil
			}
			receipt := storage.Receipt{User: user, Type: storage.ReceiptRead, Thread: r.Data.Thread, Event: r.Events[0], TS: r.Data.TS}
			err := s.db.Write(ctx, func(tx *storage.Tx) (err error) {
				if receipt.Room, err = joinedRoom(tx, user, room); err != nil {
					return err
				}
				return putReceipt(tx, room, &receipt)
			})
			// One about an event that we don't have says nothing to us.
			var refused *matrixerr.Error
			if err != nil && !errors.As(err, &refused) {
				return err
			}
		}
	}
	return nil
}

type toDeviceEDU struct {
	Sender   id.UserID `json:"sender"`
	Type     string    `json:"type"`
	Message  string    `json:"message_id"`
	Messages Messages  `json:"messages"`
}

// spec: server-server-api.md#send-to-device-messaging
func (s *Server) receiveToDevice(ctx context.Context, origin id.ServerName, e *toDeviceEDU) error {
	if err := speaksFor(origin, e.Sender); err != nil {
		return err
	}
	if e.Type == "" || len(e.Type) > id.MaxLength || !utf8.ValidString(e.Type) ||
		e.Message == "" || len(e.Message) > id.MaxLength || !cleanText(e.Message) {
		return matrixerr.New(matrixerr.InvalidParam, "A message to devices has no type or ID, or one that is too long.")
	}
	local, _ := splitUsers(s, e.Messages)
	for _, contents := range local {
		for _, content := range contents {
			if len(content) == 0 || content[0] != '{' {
				return matrixerr.New(matrixerr.BadJSON, "The content of a message to a device is not an object.")
			}
		}
	}
	sweep := s.messageSweep.due(s.now(), time.Hour)
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if sweep {
			if err := tx.DeleteReceivedMessages(s.now().Add(-messageMemory).UnixMilli()); err != nil {
				return err
			}
		}
		inserted, err := tx.InsertReceivedMessage(e.Sender, e.Message, s.millis())
		if err != nil || !inserted {
			return err
		}
		if err := putToDevice(tx, e.Sender, e.Type, local); err != nil {
			return fmt.Errorf("take in a message to devices: %w", err)
		}
		return nil
	})
}
