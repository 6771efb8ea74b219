package userserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// txnMemory is for how long a request to send to devices is remembered.
const txnMemory = time.Hour

// AllDevices stands for all devices of a user.
const AllDevices id.DeviceID = "*"

// Messages are the contents of messages to devices.
type Messages map[id.UserID]map[id.DeviceID]json.RawMessage

// SendToDevice sends messages to devices, which each get them once. The same request again sends
// nothing. Devices that are not there are passed over.
//
// spec: client-server-api/modules/send_to_device.md#server-behaviour
func (s *Server) SendToDevice(ctx context.Context, sender id.UserID, deviceNID int64, eventType, txn string, messages Messages) error {
	if eventType == "" || len(eventType) > id.MaxLength || len(txn) > id.MaxLength {
		return matrixerr.New(matrixerr.InvalidParam, "the type or the transaction ID is empty or longer than %d bytes", id.MaxLength)
	}
	local, remote := splitUsers(s, messages)
	out, err := s.remoteMessages(sender, eventType, remote)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		now := s.now()
		if err := tx.DeleteToDeviceTxns(deviceNID, now.Add(-txnMemory).UnixMilli()); err != nil {
			return err
		}
		inserted, err := tx.InsertToDeviceTxn(deviceNID, eventType+"/"+txn, now.UnixMilli())
		if err != nil || !inserted {
			return err
		}
		queueMessages(tx, sender, out)
		return putToDevice(tx, sender, eventType, local)
	})
}

// maxMessageBytes is how large an EDU with messages to devices gets, unless one message alone
// is larger.
const maxMessageBytes = 50_000

// remoteMessages makes EDUs of messages to devices of users of other servers, one or more for
// each server.
//
// spec: server-server-api.md#send-to-device-messaging
func (s *Server) remoteMessages(sender id.UserID, eventType string, messages map[id.ServerName]map[id.UserID]map[id.DeviceID]json.RawMessage) ([]storage.Queued, error) {
	if s.remote == nil {
		return nil, nil
	}
	var out []storage.Queued
	for server, users := range messages {
		if _, err := id.ParseServerName(string(server)); err != nil {
			continue
		}
		put := func(part Messages) error {
			message := rand.Text()
			content, err := json.Marshal(toDeviceEDU{sender, eventType, message, part})
			if err != nil {
				return fmt.Errorf("encode a message to devices: %w", err)
			}
			out = append(out, storage.Queued{Server: server, Subject: message, Type: storage.QueuedToDevice, Content: content})
			return nil
		}
		part, size := make(Messages), 0
		for user, contents := range users {
			if !cleanText(string(user)) || len(user) > id.MaxLength {
				continue
			}
			for device, content := range contents {
				if size > 0 && size+len(content) > maxMessageBytes {
					if err := put(part); err != nil {
						return nil, err
					}
					part, size = make(Messages), 0
				}
				if part[user] == nil {
					part[user] = make(map[id.DeviceID]json.RawMessage)
				}
				part[user][device] = content
				size += len(content) + len(device) + len(user)
			}
		}
		if size > 0 {
			if err := put(part); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// queueMessages has messages wait until their servers have them.
func queueMessages(tx *storage.Tx, sender id.UserID, messages []storage.Queued) {
	if len(messages) == 0 {
		return
	}
	tx.OnPos(len(messages), func(first id.Pos) error {
		for i, m := range messages {
			m.Pos = first + id.Pos(i)
			if err := tx.InsertQueued(&m); err != nil {
				return err
			}
		}
		tx.Notify(stream.Notice{Pos: first + id.Pos(len(messages)-1), Kind: stream.ToDevice, User: sender, Away: true})
		return nil
	})
}

// delivery is a message for one device.
type delivery struct {
	device int64
	json   []byte
}

// putToDevice queues messages for devices of ours.
func putToDevice(tx *storage.Tx, sender id.UserID, eventType string, messages Messages) error {
	var out []delivery
	var users []id.UserID
	for user, contents := range messages {
		if !cleanText(string(user)) {
			continue
		}
		before := len(out)
		for device, content := range contents {
			to, err := recipients(tx, user, device)
			if err != nil {
				return err
			}
			if len(to) == 0 {
				continue
			}
			event, err := json.Marshal(struct {
				Sender  id.UserID       `json:"sender"`
				Type    string          `json:"type"`
				Content json.RawMessage `json:"content"`
			}{sender, eventType, content})
			if err != nil {
				return err
			}
			for _, nid := range to {
				out = append(out, delivery{nid, event})
			}
		}
		if len(out) > before {
			users = append(users, user)
		}
	}
	if len(out) == 0 {
		return nil
	}
	tx.OnPos(len(out), func(first id.Pos) error {
		for i, d := range out {
			if err := tx.InsertToDevice(d.device, &storage.ToDevice{Pos: first + id.Pos(i), JSON: d.json}); err != nil {
				return err
			}
		}
		tx.Notify(stream.Notice{Pos: first + id.Pos(len(out)-1), Kind: stream.ToDevice, User: sender, Users: users})
		return nil
	})
	return nil
}

// recipients are the numbers of a user's device, or of all of them.
func recipients(tx *storage.Tx, user id.UserID, device id.DeviceID) ([]int64, error) {
	if device != AllDevices {
		if !cleanText(string(device)) {
			return nil, nil
		}
		d, err := tx.GetDevice(user, device)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, nil
		}
		return []int64{d.NID}, err
	}
	all, err := tx.ListDevices(user)
	out := make([]int64, len(all))
	for i, d := range all {
		out[i] = d.NID
	}
	return out, err
}

// GotToDevice notes that a device has its messages up to a position.
func (s *Server) GotToDevice(ctx context.Context, deviceNID int64, pos id.Pos) error {
	waiting, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
		return tx.ListToDevice(deviceNID, 0, pos, 1)
	})
	if err != nil || len(waiting) == 0 {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteToDevice(deviceNID, pos) })
}
