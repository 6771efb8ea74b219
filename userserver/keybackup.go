package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// BackupInfo is what a client is told of a backup of room keys.
//
// spec: client-server-api/modules/end_to_end_encryption.md#server-side-key-backups
type BackupInfo struct {
	Version   string          `json:"version"`
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
}

// BackupKey is the key of a session, as its owner encrypted it.
type BackupKey struct {
	FirstMessageIndex *int64          `json:"first_message_index"`
	ForwardedCount    *int64          `json:"forwarded_count"`
	IsVerified        *bool           `json:"is_verified"`
	SessionData       json.RawMessage `json:"session_data"`
}

// BackupKeys are keys by room and session.
type BackupKeys map[id.RoomID]map[string]BackupKey

func infoOf(b *storage.KeyBackup) *BackupInfo {
	return &BackupInfo{strconv.FormatInt(b.Version, 10), b.Algorithm, b.AuthData, b.Keys, strconv.FormatInt(b.ETag, 10)}
}

// errNoBackup is for a backup that never was, or was deleted.
func errNoBackup() error { return matrixerr.New(matrixerr.NotFound, "there is no such backup") }

// CreateBackup makes a backup, and gives its version.
func (s *Server) CreateBackup(ctx context.Context, user id.UserID, algorithm string, authData json.RawMessage) (string, error) {
	if err := checkBackup(algorithm, authData); err != nil {
		return "", err
	}
	b := storage.KeyBackup{User: user, Algorithm: algorithm, AuthData: authData}
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return err
		}
		return tx.InsertKeyBackup(&b)
	})
	return strconv.FormatInt(b.Version, 10), err
}

func checkBackup(algorithm string, authData json.RawMessage) error {
	switch {
	case algorithm == "":
		return matrixerr.New(matrixerr.MissingParam, "algorithm is missing")
	case len(algorithm) > id.MaxLength || !cleanText(algorithm):
		return matrixerr.New(matrixerr.InvalidParam, "algorithm is longer than %d bytes or has characters that are not allowed", id.MaxLength)
	case authData == nil:
		return matrixerr.New(matrixerr.MissingParam, "auth_data is missing")
	case authData[0] != '{':
		return matrixerr.New(matrixerr.BadJSON, "auth_data is not an object")
	}
	return nil
}

// getBackup is a backup that is there; version "" stands for the newest.
func getBackup(tx *storage.Tx, user id.UserID, version string) (storage.KeyBackup, error) {
	var b storage.KeyBackup
	var err error
	if version == "" {
		b, err = tx.GetLastKeyBackup(user)
	} else {
		n, perr := strconv.ParseInt(version, 10, 64)
		if perr != nil {
			return b, errNoBackup()
		}
		b, err = tx.GetKeyBackup(user, n)
	}
	if errors.Is(err, storage.ErrNotFound) || err == nil && b.Deleted {
		err = errNoBackup()
	}
	return b, err
}

// GetBackup says what a backup is; version "" stands for the newest.
func (s *Server) GetBackup(ctx context.Context, user id.UserID, version string) (*BackupInfo, error) {
	b, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.KeyBackup, error) { return getBackup(tx, user, version) })
	return infoOf(&b), err
}

// UpdateBackup changes what is said of a backup; its algorithm stays.
func (s *Server) UpdateBackup(ctx context.Context, user id.UserID, version, algorithm string, authData json.RawMessage) error {
	if err := checkBackup(algorithm, authData); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		b, err := getBackup(tx, user, version)
		if err != nil {
			return err
		}
		if b.Algorithm != algorithm {
			return matrixerr.New(matrixerr.InvalidParam, "the algorithm of a backup cannot change")
		}
		b.AuthData = authData
		return tx.UpdateKeyBackup(&b)
	})
}

// DeleteBackup removes a backup and its keys. One that was removed before is removed again.
func (s *Server) DeleteBackup(ctx context.Context, user id.UserID, version string) error {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return errNoBackup()
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		b, err := tx.GetKeyBackup(user, n)
		if errors.Is(err, storage.ErrNotFound) {
			return errNoBackup()
		}
		if err != nil || b.Deleted {
			return err
		}
		if _, err := tx.DeleteBackupKeys(&b, "", ""); err != nil {
			return err
		}
		b.Deleted, b.Keys, b.AuthData = true, 0, []byte("{}")
		return tx.UpdateKeyBackup(&b)
	})
}

// GetBackupKeys are the keys of a backup; room "" means all rooms, session "" all sessions.
func (s *Server) GetBackupKeys(ctx context.Context, user id.UserID, version string, room id.RoomID, session string) (BackupKeys, error) {
	rows, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.BackupKey, error) {
		b, err := getBackup(tx, user, version)
		if err != nil {
			return nil, err
		}
		return tx.ListBackupKeys(&b, room, session)
	})
	out := make(BackupKeys)
	for _, k := range rows {
		if out[k.Room] == nil {
			out[k.Room] = make(map[string]BackupKey)
		}
		out[k.Room][k.Session] = BackupKey{&k.FirstIndex, &k.Forwarded, &k.Verified, k.Data}
	}
	return out, err
}

// PutBackupKeys writes keys to the newest backup, which version must be. Of two keys of one
// session the better one is kept.
func (s *Server) PutBackupKeys(ctx context.Context, user id.UserID, version string, keys BackupKeys) (*BackupInfo, error) {
	rows, err := checkBackupKeys(keys)
	if err != nil {
		return nil, err
	}
	var b storage.KeyBackup
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return err
		}
		last, err := getBackup(tx, user, "")
		if err != nil {
			return err
		}
		if infoOf(&last).Version != version {
			if _, err := getBackup(tx, user, version); err != nil {
				return err
			}
			return matrixerr.New(matrixerr.WrongRoomKeysVersion, "this is not the newest backup").With("current_version", infoOf(&last).Version)
		}
		b = last
		for i := range rows {
			if err := putBackupKey(tx, &b, &rows[i]); err != nil {
				return err
			}
		}
		if b.ETag == last.ETag {
			return nil
		}
		return tx.UpdateKeyBackup(&b)
	})
	return infoOf(&b), err
}

func checkBackupKeys(keys BackupKeys) ([]storage.BackupKey, error) {
	var rows []storage.BackupKey
	for room, sessions := range keys {
		if _, err := id.ParseRoomID(string(room)); err != nil {
			return nil, matrixerr.New(matrixerr.InvalidParam, "%v", err)
		}
		for session, k := range sessions {
			switch {
			case session == "" || len(session) > id.MaxLength || !cleanText(session):
				return nil, matrixerr.New(matrixerr.InvalidParam, "%.50q is not the ID of a session", session)
			case k.FirstMessageIndex == nil || k.ForwardedCount == nil || k.IsVerified == nil || k.SessionData == nil:
				return nil, matrixerr.New(matrixerr.MissingParam, "the key of session %.50s has not all that it needs", session)
			case k.SessionData[0] != '{':
				return nil, matrixerr.New(matrixerr.BadJSON, "the session_data of session %.50s is not an object", session)
			}
			rows = append(rows, storage.BackupKey{Room: room, Session: session, FirstIndex: *k.FirstMessageIndex,
				Forwarded: *k.ForwardedCount, Verified: *k.IsVerified, Data: k.SessionData})
		}
	}
	return rows, nil
}

func putBackupKey(tx *storage.Tx, b *storage.KeyBackup, k *storage.BackupKey) error {
	old, err := tx.GetBackupKey(b, k.Room, k.Session)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		b.Keys++
	case err != nil:
		return err
	case !better(k, &old):
		return nil
	}
	b.ETag++
	return tx.InsertBackupKey(b, k)
}

// better says whether a key replaces another of the same session.
//
// spec: client-server-api/modules/end_to_end_encryption.md#server-side-key-backups
func better(k, old *storage.BackupKey) bool {
	switch {
	case k.Verified != old.Verified:
		return k.Verified
	case k.FirstIndex != old.FirstIndex:
		return k.FirstIndex < old.FirstIndex
	}
	return k.Forwarded < old.Forwarded
}

// DeleteBackupKeys removes keys from a backup, named as in GetBackupKeys.
func (s *Server) DeleteBackupKeys(ctx context.Context, user id.UserID, version string, room id.RoomID, session string) (*BackupInfo, error) {
	var b storage.KeyBackup
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return err
		}
		var err error
		if b, err = getBackup(tx, user, version); err != nil {
			return err
		}
		n, err := tx.DeleteBackupKeys(&b, room, session)
		if err != nil || n == 0 {
			return err
		}
		b.Keys -= n
		b.ETag++
		return tx.UpdateKeyBackup(&b)
	})
	return infoOf(&b), err
}
