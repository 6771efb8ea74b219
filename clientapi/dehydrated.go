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

// dehydratedPath is of MSC3814, which clients use at this path and the specification does not
// have yet.
const dehydratedPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

func (a *API) dehydratedRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPut, Path: dehydratedPath, Auth: httpapi.User, Handler: httpapi.Handle(a.putDehydrated)},
		{Method: http.MethodGet, Path: dehydratedPath, Auth: httpapi.User, Handler: httpapi.Handle(a.getDehydrated)},
		{Method: http.MethodDelete, Path: dehydratedPath, Auth: httpapi.User, Handler: httpapi.Handle(a.deleteDehydrated)},
		{Method: http.MethodPost, Path: dehydratedPath + "/{deviceId}/events", Auth: httpapi.User, Handler: httpapi.Handle(a.dehydratedEvents)},
	}
}

type putDehydratedRequest struct {
	Device       id.DeviceID                `json:"device_id"`
	DisplayName  string                     `json:"initial_device_display_name"`
	Data         json.RawMessage            `json:"device_data"`
	DeviceKeys   json.RawMessage            `json:"device_keys"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys"`
}

type dehydratedResponse struct {
	Device id.DeviceID     `json:"device_id"`
	Data   json.RawMessage `json:"device_data,omitempty"`
}

func (a *API) putDehydrated(ctx context.Context, r *httpapi.Request, in *putDehydratedRequest) (*dehydratedResponse, error) {
	if in.Device == "" || in.Data == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "device_id or device_data is missing")
	}
	if in.Data[0] != '{' {
		return nil, matrixerr.New(matrixerr.BadJSON, "device_data is not an object")
	}
	return &dehydratedResponse{Device: in.Device}, a.users.PutDehydratedDevice(ctx, r.Caller.User, userserver.Dehydrated{
		Device: in.Device, DisplayName: in.DisplayName, Data: in.Data,
		Keys: userserver.KeyUpload{DeviceKeys: in.DeviceKeys, OneTimeKeys: in.OneTimeKeys, FallbackKeys: in.FallbackKeys},
	})
}

func (a *API) getDehydrated(ctx context.Context, r *httpapi.Request, _ *empty) (*dehydratedResponse, error) {
	d, err := a.users.GetDehydratedDevice(ctx, r.Caller.User)
	return &dehydratedResponse{d.Device, d.Data}, err
}

func (a *API) deleteDehydrated(ctx context.Context, r *httpapi.Request, _ *empty) (*dehydratedResponse, error) {
	device, err := a.users.DeleteDehydratedDevice(ctx, r.Caller.User)
	return &dehydratedResponse{Device: device}, err
}

type dehydratedEventsRequest struct {
	Device    id.DeviceID `path:"deviceId"`
	NextBatch string      `json:"next_batch"`
}

type dehydratedEventsResponse struct {
	Events    []json.RawMessage `json:"events"`
	NextBatch string            `json:"next_batch"`
}

func (a *API) dehydratedEvents(ctx context.Context, r *httpapi.Request, in *dehydratedEventsRequest) (*dehydratedEventsResponse, error) {
	events, next, err := a.users.DehydratedMessages(ctx, r.Caller.User, in.Device, in.NextBatch)
	return &dehydratedEventsResponse{events, next}, err
}
