package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/token"
	"parley/userserver"
)

func (a *API) keyRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPost, Path: v3 + "/keys/upload", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.uploadKeys)},
		{Method: http.MethodPost, Path: v3 + "/keys/query", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.queryKeys)},
		{Method: http.MethodPost, Path: v3 + "/keys/claim", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.claimKeys)},
		{Method: http.MethodGet, Path: v3 + "/keys/changes", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.keyChanges)},
		{Method: http.MethodPost, Path: v3 + "/keys/device_signing/upload", Auth: httpapi.User, Handler: httpapi.Handle(a.uploadCrossSigning)},
		{Method: http.MethodPost, Path: v3 + "/keys/signatures/upload", Auth: httpapi.User, Handler: httpapi.Handle(a.uploadSignatures)},
		{Method: http.MethodPut, Path: v3 + "/sendToDevice/{eventType}/{txnId}", Auth: httpapi.UserOrGuest, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.sendToDevice)},
	}
}

type uploadKeysRequest struct {
	DeviceKeys   json.RawMessage            `json:"device_keys"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys"`
}

type uploadKeysResponse struct {
	Counts map[string]int `json:"one_time_key_counts"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#uploading-keys
func (a *API) uploadKeys(ctx context.Context, r *httpapi.Request, in *uploadKeysRequest) (*uploadKeysResponse, error) {
	if r.Caller.Device == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "the application service must say which device_id the keys are of")
	}
	counts, err := a.users.UploadKeys(ctx, r.Caller.User, r.Caller.Device, r.Caller.DeviceNID,
		userserver.KeyUpload{DeviceKeys: in.DeviceKeys, OneTimeKeys: in.OneTimeKeys, FallbackKeys: in.FallbackKeys})
	return &uploadKeysResponse{counts}, err
}

type queryKeysRequest struct {
	Timeout    *int64                      `json:"timeout"`
	DeviceKeys map[id.UserID][]id.DeviceID `json:"device_keys"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func (a *API) queryKeys(ctx context.Context, r *httpapi.Request, in *queryKeysRequest) (*userserver.KeyAnswer, error) {
	if in.DeviceKeys == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "device_keys is missing")
	}
	if err := checkUsers(in.DeviceKeys); err != nil {
		return nil, err
	}
	return a.users.QueryKeys(ctx, r.Caller.User, in.DeviceKeys, timeoutOf(in.Timeout))
}

// checkUsers refuses names of users that cannot be any.
func checkUsers[V any](users map[id.UserID]V) error {
	for user := range users {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return matrixerr.New(matrixerr.InvalidParam, "%.50q: %v", string(user), err)
		}
	}
	return nil
}

// timeoutOf is what a client gave in milliseconds, 0 for the default.
func timeoutOf(ms *int64) time.Duration {
	if ms == nil {
		return 0
	}
	return time.Duration(min(max(*ms, 0), time.Minute.Milliseconds())) * time.Millisecond
}

type claimKeysRequest struct {
	Timeout     *int64                               `json:"timeout"`
	OneTimeKeys map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
}

type claimKeysResponse struct {
	Failures    map[id.ServerName]struct{} `json:"failures"`
	OneTimeKeys userserver.ClaimedKeys     `json:"one_time_keys"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#one-time-and-fallback-keys
func (a *API) claimKeys(ctx context.Context, _ *httpapi.Request, in *claimKeysRequest) (*claimKeysResponse, error) {
	if in.OneTimeKeys == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "one_time_keys is missing")
	}
	if err := checkUsers(in.OneTimeKeys); err != nil {
		return nil, err
	}
	keys, failures, err := a.users.ClaimKeys(ctx, in.OneTimeKeys, timeoutOf(in.Timeout))
	return &claimKeysResponse{failures, keys}, err
}

type keyChangesRequest struct {
	From string `query:"from,required"`
	// To is a hint, and the newest is as good.
	To string `query:"to,required"`
}

type keyChangesResponse struct {
	Changed []id.UserID `json:"changed"`
	Left    []id.UserID `json:"left"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func (a *API) keyChanges(ctx context.Context, r *httpapi.Request, in *keyChangesRequest) (*keyChangesResponse, error) {
	from, err := token.Parse(a.epoch, in.From)
	if err != nil {
		return nil, matrixerr.New(matrixerr.InvalidParam, "from: %v", err)
	}
	changed, left, err := a.users.ChangedDeviceLists(ctx, r.Caller.User, id.Pos(from))
	out := &keyChangesResponse{changed, left}
	if out.Changed == nil {
		out.Changed = []id.UserID{}
	}
	if out.Left == nil {
		out.Left = []id.UserID{}
	}
	return out, err
}

type crossSigningRequest struct {
	Auth        json.RawMessage `json:"auth"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
	UserSigning json.RawMessage `json:"user_signing_key"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#cross-signing
func (a *API) uploadCrossSigning(ctx context.Context, r *httpapi.Request, in *crossSigningRequest) (*empty, error) {
	up := userserver.CrossSigningUpload{Master: in.Master, SelfSigning: in.SelfSigning, UserSigning: in.UserSigning}
	confirm, err := a.users.MustConfirmCrossSigning(ctx, r.Caller.User, up)
	if err != nil {
		return nil, err
	}
	if confirm && r.Caller.AppService == "" { // spec: application-service-api.md#cross-signing
		if _, err := a.confirm(ctx, r, in.Auth, "cross-signing keys"); err != nil {
			return nil, err
		}
	}
	return nil, a.users.UploadCrossSigning(ctx, r.Caller.User, up)
}

type signaturesRequest struct {
	Objects map[id.UserID]map[string]json.RawMessage `body:"json"`
}

type signatureFailure struct {
	Code    matrixerr.Code `json:"errcode"`
	Message string         `json:"error"`
}

type signaturesResponse struct {
	Failures map[id.UserID]map[string]signatureFailure `json:"failures"`
}

// spec: client-server-api/modules/end_to_end_encryption.md#cross-signing
func (a *API) uploadSignatures(ctx context.Context, r *httpapi.Request, in *signaturesRequest) (*signaturesResponse, error) {
	failures, err := a.users.UploadSignatures(ctx, r.Caller.User, in.Objects)
	out := &signaturesResponse{make(map[id.UserID]map[string]signatureFailure)}
	for user, keys := range failures {
		out.Failures[user] = make(map[string]signatureFailure)
		for key, e := range keys {
			out.Failures[user][key] = signatureFailure{e.Code, e.Message}
		}
	}
	return out, err
}

type sendToDeviceRequest struct {
	Type     string              `path:"eventType"`
	TxnID    string              `path:"txnId"`
	Messages userserver.Messages `json:"messages"`
}

// spec: client-server-api/modules/send_to_device.md#send-to-device-messaging
func (a *API) sendToDevice(ctx context.Context, r *httpapi.Request, in *sendToDeviceRequest) (*empty, error) {
	if in.Messages == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "messages is missing")
	}
	if err := checkUsers(in.Messages); err != nil {
		return nil, err
	}
	for user, devices := range in.Messages {
		for device, content := range devices {
			if len(content) == 0 || content[0] != '{' {
				return nil, matrixerr.New(matrixerr.BadJSON, "the message for %s %.50q is not an object", user, string(device))
			}
		}
	}
	return nil, a.users.SendToDevice(ctx, r.Caller.User, r.Caller.DeviceNID, in.Type, in.TxnID, in.Messages)
}
