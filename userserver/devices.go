package userserver

import (
	"context"
	"errors"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// ListDevices are all devices of a user.
func (s *Server) ListDevices(ctx context.Context, user id.UserID) ([]storage.Device, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Device, error) { return tx.ListDevices(user) })
}

// GetDevice is one of a user's devices.
func (s *Server) GetDevice(ctx context.Context, user id.UserID, device id.DeviceID) (storage.Device, error) {
	d, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.Device, error) { return tx.GetDevice(user, device) })
	return d, notFound(err, "there is no device %s", device)
}

// RenameDevice names a device.
func (s *Server) RenameDevice(ctx context.Context, user id.UserID, device id.DeviceID, name string) error {
	if len(name) > id.MaxLength || !cleanText(name) {
		return matrixerr.New(matrixerr.InvalidParam, "the device's name is longer than %d bytes or has characters that are not allowed", id.MaxLength)
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		d, err := tx.GetDevice(user, device)
		if err != nil {
			return notFound(err, "there is no device %s", device)
		}
		if d.DisplayName == name {
			return nil
		}
		if err := tx.UpdateDeviceName(d.NID, name); err != nil {
			return err
		}
		// Users see a device, and its name, by its keys; servers see all.
		_, err = tx.GetDeviceKeys(d.NID)
		if errors.Is(err, storage.ErrNotFound) {
			deviceChanged(tx, user, device)
			return nil
		}
		if err == nil {
			deviceListChanged(tx, user, device)
		}
		return err
	})
}

// CreateDevice makes a device that nobody has a token of: an application service acts for it.
//
// spec: application-service-api.md#creating-devices
func (s *Server) CreateDevice(ctx context.Context, user id.UserID, n NewSession) error {
	if err := n.validate(); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		d := storage.Device{User: user, ID: n.Device, DisplayName: n.DisplayName, Seen: s.millis(), SeenIP: n.IP}
		return insertDevice(tx, &d)
	})
}

// insertDevice adds a device whose name the client chose.
func insertDevice(tx *storage.Tx, d *storage.Device) error {
	if err := notCrossSigningKey(tx, d.User, d.ID); err != nil {
		return err
	}
	deviceChanged(tx, d.User, d.ID)
	return tx.InsertDevice(d)
}

// DeleteDevices removes devices, and ends their sessions. Those that are not there are passed over.
func (s *Server) DeleteDevices(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		var found []storage.Device
		for _, device := range devices {
			d, err := tx.GetDevice(user, device)
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			found = append(found, d)
		}
		return deleteDevices(tx, user, found)
	})
	if err == nil {
		s.cache.drop(user)
	}
	return err
}

func (s *Server) deleteDevicesBut(ctx context.Context, user id.UserID, keep int64) error {
	err := s.db.Write(ctx, func(tx *storage.Tx) error { return deleteDevicesBut(tx, user, keep) })
	if err == nil {
		s.cache.drop(user)
	}
	return err
}

// deleteDevicesBut removes all devices of a user but one.
func deleteDevicesBut(tx *storage.Tx, user id.UserID, keep int64) error {
	all, err := tx.ListDevices(user)
	if err != nil {
		return err
	}
	var gone []storage.Device
	for _, d := range all {
		if d.NID != keep {
			gone = append(gone, d)
		}
	}
	return deleteDevices(tx, user, gone)
}

func deleteDevices(tx *storage.Tx, user id.UserID, devices []storage.Device) error {
	if len(devices) == 0 {
		return nil
	}
	hadKeys := false
	names := make([]id.DeviceID, len(devices))
	for i := range devices {
		had, err := tx.DeleteDevice(&devices[i])
		if err != nil {
			return err
		}
		hadKeys = hadKeys || had
		names[i] = devices[i].ID
	}
	if hadKeys {
		deviceListChanged(tx, user, names...)
	} else {
		deviceChanged(tx, user, names...)
	}
	return nil
}

// deviceListChanged has all who share a room with the user learn that their devices changed, or
// with [storage.CrossSigningKeys] for a device their cross-signing keys.
//
// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func deviceListChanged(tx *storage.Tx, user id.UserID, devices ...id.DeviceID) {
	tx.OnPos(len(devices), func(first id.Pos) error {
		last := first + id.Pos(len(devices)-1)
		tx.Notify(stream.Notice{Pos: last, Kind: stream.DeviceList, User: user, Users: []id.UserID{user}})
		if err := updateDeviceChanges(tx, user, devices, first); err != nil {
			return err
		}
		return tx.UpdateDeviceList(user, last)
	})
}

// deviceChanged has servers that share a room with the user learn of a change of a device that
// their users have no use for: it has no keys.
//
// spec: server-server-api.md#device-management
func deviceChanged(tx *storage.Tx, user id.UserID, devices ...id.DeviceID) {
	tx.OnPos(len(devices), func(first id.Pos) error {
		tx.Notify(stream.Notice{Pos: first + id.Pos(len(devices)-1), Kind: stream.Device, User: user})
		return updateDeviceChanges(tx, user, devices, first)
	})
}

func updateDeviceChanges(tx *storage.Tx, user id.UserID, devices []id.DeviceID, first id.Pos) error {
	for i, device := range devices {
		if err := tx.UpdateDeviceChange(user, device, first+id.Pos(i)); err != nil {
			return err
		}
	}
	return nil
}
