package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

const (
	// maxDehydratedData bounds the data of a dehydrated device, which is a few KiB.
	maxDehydratedData = 128 << 10
	// dehydratedPage is how many of its messages are given at once.
	dehydratedPage = 100
)

// Dehydrated is a device that nobody holds: it gets messages while its user is logged out, and
// the next device that they log in with reads them. Its secrets are encrypted in Data.
//
// This is MSC3814, which the specification does not have yet.
type Dehydrated struct {
	Device      id.DeviceID
	DisplayName string
	Data        json.RawMessage
	Keys        KeyUpload
}

// PutDehydratedDevice makes a user's dehydrated device, in place of the one that they had.
func (s *Server) PutDehydratedDevice(ctx context.Context, user id.UserID, d Dehydrated) error {
	session := NewSession{Device: d.Device, DisplayName: d.DisplayName}
	if err := session.validate(); err != nil {
		return err
	}
	if len(d.Data) > maxDehydratedData {
		return matrixerr.New(matrixerr.TooLarge, "device_data is larger than %d bytes", maxDehydratedData)
	}
	keys, err := d.Keys.check(user, d.Device)
	if err != nil {
		return err
	}
	if keys.identity == nil {
		return matrixerr.New(matrixerr.MissingParam, "device_keys is missing")
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		old, err := tx.GetDehydratedDevice(user)
		if err == nil {
			err = deleteDevices(tx, user, []storage.Device{old.Device})
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		_, err = tx.GetDevice(user, d.Device)
		if err == nil {
			return matrixerr.New(matrixerr.InvalidParam, "there is a device %s already", d.Device)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err := notCrossSigningKey(tx, user, d.Device); err != nil {
			return err
		}
		row := storage.Device{User: user, ID: d.Device, DisplayName: d.DisplayName}
		if err := tx.InsertDevice(&row); err != nil {
			return err
		}
		if err := keys.put(tx, user, d.Device, row.NID); err != nil {
			return err
		}
		return tx.InsertDehydratedDevice(user, row.NID, d.Data)
	})
}

// GetDehydratedDevice is a user's dehydrated device; of its keys there are none.
func (s *Server) GetDehydratedDevice(ctx context.Context, user id.UserID) (Dehydrated, error) {
	d, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.DehydratedDevice, error) { return tx.GetDehydratedDevice(user) })
	return Dehydrated{Device: d.ID, DisplayName: d.DisplayName, Data: d.Data}, notFound(err, "there is no dehydrated device")
}

// DeleteDehydratedDevice removes a user's dehydrated device with all that waits for it.
func (s *Server) DeleteDehydratedDevice(ctx context.Context, user id.UserID) (id.DeviceID, error) {
	var device id.DeviceID
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		d, err := tx.GetDehydratedDevice(user)
		if err != nil {
			return notFound(err, "there is no dehydrated device")
		}
		device = d.ID
		return deleteDevices(tx, user, []storage.Device{d.Device})
	})
	return device, err
}

// DehydratedMessages are messages for a user's dehydrated device, those behind a token of an
// earlier call. They stay until the device goes, so that a new device which is interrupted can
// start again.
func (s *Server) DehydratedMessages(ctx context.Context, user id.UserID, device id.DeviceID, since string) (events []json.RawMessage, next string, err error) {
	var from int64
	if since != "" {
		if from, err = strconv.ParseInt(since, 10, 64); err != nil || from < 0 {
			return nil, "", matrixerr.New(matrixerr.InvalidParam, "next_batch is no token of ours")
		}
	}
	list, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
		d, err := tx.GetDehydratedDevice(user)
		if err != nil {
			return nil, notFound(err, "there is no dehydrated device")
		}
		if d.ID != device {
			return nil, matrixerr.New(matrixerr.Forbidden, "%s is not the dehydrated device", device)
		}
		return tx.ListToDevice(d.NID, id.Pos(from), math.MaxInt64, dehydratedPage)
	})
	if err != nil {
		return nil, "", err
	}
	events = make([]json.RawMessage, len(list))
	for i, m := range list {
		events[i], from = m.JSON, int64(m.Pos)
	}
	return events, strconv.FormatInt(from, 10), nil
}
