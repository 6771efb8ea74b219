package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// keyBackupRoutes are server-side key backups.
//
// spec: client-server-api/modules/end_to_end_encryption.md#server-side-key-backups
func (a *API) keyBackupRoutes() httpapi.Table {
	const version, keys = v3 + "/room_keys/version", v3 + "/room_keys/keys"
	return httpapi.Table{
		{Method: http.MethodPost, Path: version, Auth: httpapi.User, Handler: httpapi.Handle(a.createBackup)},
		{Method: http.MethodGet, Path: version, Auth: httpapi.User, Handler: httpapi.Handle(a.lastBackup)},
		{Method: http.MethodGet, Path: version + "/{version}", Auth: httpapi.User, Handler: httpapi.Handle(a.getBackup)},
		{Method: http.MethodPut, Path: version + "/{version}", Auth: httpapi.User, Handler: httpapi.Handle(a.updateBackup)},
		{Method: http.MethodDelete, Path: version + "/{version}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteBackup)},

		{Method: http.MethodGet, Path: keys, Auth: httpapi.User, Handler: httpapi.Handle(a.getBackupKeys)},
		{Method: http.MethodPut, Path: keys, Auth: httpapi.User, Handler: httpapi.Handle(a.putBackupKeys)},
		{Method: http.MethodDelete, Path: keys, Auth: httpapi.User, Handler: httpapi.Handle(a.deleteBackupKeys)},
		{Method: http.MethodGet, Path: keys + "/{roomId}", Auth: httpapi.User, Handler: httpapi.Handle(a.getRoomBackupKeys)},
		{Method: http.MethodPut, Path: keys + "/{roomId}", Auth: httpapi.User, Handler: httpapi.Handle(a.putRoomBackupKeys)},
		{Method: http.MethodDelete, Path: keys + "/{roomId}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteRoomBackupKeys)},
		{Method: http.MethodGet, Path: keys + "/{roomId}/{sessionId}", Auth: httpapi.User, Handler: httpapi.Handle(a.getSessionBackupKey)},
		{Method: http.MethodPut, Path: keys + "/{roomId}/{sessionId}", Auth: httpapi.User, Handler: httpapi.Handle(a.putSessionBackupKey)},
		{Method: http.MethodDelete, Path: keys + "/{roomId}/{sessionId}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteSessionBackupKey)},
	}
}

type createBackupRequest struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
}

type backupVersionResponse struct {
	Version string `json:"version"`
}

func (a *API) createBackup(ctx context.Context, r *httpapi.Request, in *createBackupRequest) (*backupVersionResponse, error) {
	version, err := a.users.CreateBackup(ctx, r.Caller.User, in.Algorithm, in.AuthData)
	return &backupVersionResponse{version}, err
}

func (a *API) lastBackup(ctx context.Context, r *httpapi.Request, _ *empty) (*userserver.BackupInfo, error) {
	return a.users.GetBackup(ctx, r.Caller.User, "")
}

type backupRequest struct {
	Version string `path:"version"`
}

func (a *API) getBackup(ctx context.Context, r *httpapi.Request, in *backupRequest) (*userserver.BackupInfo, error) {
	return a.users.GetBackup(ctx, r.Caller.User, in.Version)
}

type updateBackupRequest struct {
	Version   string          `path:"version"`
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	// Again is the version once more, which must be the same.
	Again *string `json:"version"`
}

func (a *API) updateBackup(ctx context.Context, r *httpapi.Request, in *updateBackupRequest) (*empty, error) {
	if in.Again != nil && *in.Again != in.Version {
		return nil, matrixerr.New(matrixerr.InvalidParam, "version is another one than in the path")
	}
	return nil, a.users.UpdateBackup(ctx, r.Caller.User, in.Version, in.Algorithm, in.AuthData)
}

func (a *API) deleteBackup(ctx context.Context, r *httpapi.Request, in *backupRequest) (*empty, error) {
	return nil, a.users.DeleteBackup(ctx, r.Caller.User, in.Version)
}

// roomBackup is the keys of a room, as clients give and get them.
type roomBackup struct {
	Sessions map[string]userserver.BackupKey `json:"sessions"`
}

type backupKeysRequest struct {
	Version string `query:"version,required"`
}

type roomBackupKeysRequest struct {
	Version string    `query:"version,required"`
	RoomID  id.RoomID `path:"roomId"`
}

type sessionBackupKeyRequest struct {
	Version   string    `query:"version,required"`
	RoomID    id.RoomID `path:"roomId"`
	SessionID string    `path:"sessionId"`
}

type backupKeysResponse struct {
	Rooms map[id.RoomID]roomBackup `json:"rooms"`
}

func (a *API) getBackupKeys(ctx context.Context, r *httpapi.Request, in *backupKeysRequest) (*backupKeysResponse, error) {
	keys, err := a.users.GetBackupKeys(ctx, r.Caller.User, in.Version, "", "")
	out := &backupKeysResponse{make(map[id.RoomID]roomBackup, len(keys))}
	for room, sessions := range keys {
		out.Rooms[room] = roomBackup{sessions}
	}
	return out, err
}

func (a *API) getRoomBackupKeys(ctx context.Context, r *httpapi.Request, in *roomBackupKeysRequest) (*roomBackup, error) {
	keys, err := a.users.GetBackupKeys(ctx, r.Caller.User, in.Version, in.RoomID, "")
	out := &roomBackup{keys[in.RoomID]}
	if out.Sessions == nil {
		out.Sessions = make(map[string]userserver.BackupKey)
	}
	return out, err
}

func (a *API) getSessionBackupKey(ctx context.Context, r *httpapi.Request, in *sessionBackupKeyRequest) (*userserver.BackupKey, error) {
	keys, err := a.users.GetBackupKeys(ctx, r.Caller.User, in.Version, in.RoomID, in.SessionID)
	if err != nil {
		return nil, err
	}
	key, ok := keys[in.RoomID][in.SessionID]
	if !ok || in.SessionID == "" {
		return nil, matrixerr.New(matrixerr.NotFound, "there is no key of that session")
	}
	return &key, nil
}

type backupUpdateResponse struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

type putBackupKeysRequest struct {
	Version string                   `query:"version,required"`
	Rooms   map[id.RoomID]roomBackup `json:"rooms"`
}

func (a *API) putBackupKeys(ctx context.Context, r *httpapi.Request, in *putBackupKeysRequest) (*backupUpdateResponse, error) {
	if in.Rooms == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "rooms is missing")
	}
	keys := make(userserver.BackupKeys, len(in.Rooms))
	for room, b := range in.Rooms {
		keys[room] = b.Sessions
	}
	return a.writeBackupKeys(ctx, r, in.Version, keys)
}

type putRoomBackupKeysRequest struct {
	Version  string                          `query:"version,required"`
	RoomID   id.RoomID                       `path:"roomId"`
	Sessions map[string]userserver.BackupKey `json:"sessions"`
}

func (a *API) putRoomBackupKeys(ctx context.Context, r *httpapi.Request, in *putRoomBackupKeysRequest) (*backupUpdateResponse, error) {
	if in.Sessions == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "sessions is missing")
	}
	return a.writeBackupKeys(ctx, r, in.Version, userserver.BackupKeys{in.RoomID: in.Sessions})
}

type putSessionBackupKeyRequest struct {
	Version   string               `query:"version,required"`
	RoomID    id.RoomID            `path:"roomId"`
	SessionID string               `path:"sessionId"`
	Key       userserver.BackupKey `body:"json"`
}

func (a *API) putSessionBackupKey(ctx context.Context, r *httpapi.Request, in *putSessionBackupKeyRequest) (*backupUpdateResponse, error) {
	return a.writeBackupKeys(ctx, r, in.Version, userserver.BackupKeys{in.RoomID: {in.SessionID: in.Key}})
}

func (a *API) writeBackupKeys(ctx context.Context, r *httpapi.Request, version string, keys userserver.BackupKeys) (*backupUpdateResponse, error) {
	b, err := a.users.PutBackupKeys(ctx, r.Caller.User, version, keys)
	if err != nil {
		return nil, err
	}
	return &backupUpdateResponse{b.Count, b.ETag}, nil
}

func (a *API) deleteBackupKeys(ctx context.Context, r *httpapi.Request, in *backupKeysRequest) (*backupUpdateResponse, error) {
	return a.removeBackupKeys(ctx, r, in.Version, "", "")
}

func (a *API) deleteRoomBackupKeys(ctx context.Context, r *httpapi.Request, in *roomBackupKeysRequest) (*backupUpdateResponse, error) {
	return a.removeBackupKeys(ctx, r, in.Version, in.RoomID, "")
}

func (a *API) deleteSessionBackupKey(ctx context.Context, r *httpapi.Request, in *sessionBackupKeyRequest) (*backupUpdateResponse, error) {
	return a.removeBackupKeys(ctx, r, in.Version, in.RoomID, in.SessionID)
}

func (a *API) removeBackupKeys(ctx context.Context, r *httpapi.Request, version string, room id.RoomID, session string) (*backupUpdateResponse, error) {
	b, err := a.users.DeleteBackupKeys(ctx, r.Caller.User, version, room, session)
	if err != nil {
		return nil, err
	}
	return &backupUpdateResponse{b.Count, b.ETag}, nil
}
