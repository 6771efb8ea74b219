package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) deviceRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/devices", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.listDevices)},
		{Method: http.MethodGet, Path: v3 + "/devices/{deviceId}", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.getDevice)},
		{Method: http.MethodPut, Path: v3 + "/devices/{deviceId}", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.putDevice)},
		{Method: http.MethodDelete, Path: v3 + "/devices/{deviceId}", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteDevice)},
		{Method: http.MethodPost, Path: v3 + "/delete_devices", Auth: httpapi.User, Handler: httpapi.Handle(a.deleteDevices)},
	}
}

type device struct {
	ID          id.DeviceID `json:"device_id"`
	DisplayName string      `json:"display_name,omitempty"`
	LastSeenIP  string      `json:"last_seen_ip,omitempty"`
	LastSeenTS  int64       `json:"last_seen_ts,omitempty"`
}

type devicesResponse struct {
	Devices []device `json:"devices"`
}

// spec: client-server-api/modules/device_management.md#device-management
func (a *API) listDevices(ctx context.Context, r *httpapi.Request, _ *empty) (*devicesResponse, error) {
	list, err := a.users.ListDevices(ctx, r.Caller.User)
	out := &devicesResponse{make([]device, len(list))}
	for i, d := range list {
		out.Devices[i] = device{d.ID, d.DisplayName, d.SeenIP, d.Seen}
	}
	return out, err
}

type deviceRequest struct {
	Device id.DeviceID `path:"deviceId"`
}

func (a *API) getDevice(ctx context.Context, r *httpapi.Request, in *deviceRequest) (*device, error) {
	d, err := a.users.GetDevice(ctx, r.Caller.User, in.Device)
	return &device{d.ID, d.DisplayName, d.SeenIP, d.Seen}, err
}

type putDeviceRequest struct {
	Device      id.DeviceID `path:"deviceId"`
	DisplayName *string     `json:"display_name"`
}

func (a *API) putDevice(ctx context.Context, r *httpapi.Request, in *putDeviceRequest) (*empty, error) {
	if r.Caller.AppService != "" {
		if made, err := a.makeDevice(ctx, r, in); made || err != nil {
			return nil, err
		}
	}
	if in.DisplayName == nil {
		_, err := a.users.GetDevice(ctx, r.Caller.User, in.Device)
		return nil, err
	}
	return nil, a.users.RenameDevice(ctx, r.Caller.User, in.Device, *in.DisplayName)
}

// makeDevice makes a device for an application service, unless there is one of that name.
//
// spec: application-service-api.md#creating-devices
func (a *API) makeDevice(ctx context.Context, r *httpapi.Request, in *putDeviceRequest) (made bool, err error) {
	_, err = a.users.GetDevice(ctx, r.Caller.User, in.Device)
	if !matrixerr.Is(err, matrixerr.NotFound) {
		return false, err
	}
	n := userserver.NewSession{Device: in.Device, IP: ipString(r.IP)}
	if in.DisplayName != nil {
		n.DisplayName = *in.DisplayName
	}
	return true, a.users.CreateDevice(ctx, r.Caller.User, n)
}

type deleteDeviceRequest struct {
	Device id.DeviceID     `path:"deviceId"`
	Auth   json.RawMessage `json:"auth"`
}

func (a *API) deleteDevice(ctx context.Context, r *httpapi.Request, in *deleteDeviceRequest) (*empty, error) {
	return a.removeDevices(ctx, r, in.Auth, []id.DeviceID{in.Device})
}

type deleteDevicesRequest struct {
	Devices []id.DeviceID   `json:"devices"`
	Auth    json.RawMessage `json:"auth"`
}

func (a *API) deleteDevices(ctx context.Context, r *httpapi.Request, in *deleteDevicesRequest) (*empty, error) {
	if in.Devices == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "devices is missing")
	}
	return a.removeDevices(ctx, r, in.Auth, in.Devices)
}

func (a *API) removeDevices(ctx context.Context, r *httpapi.Request, auth json.RawMessage, devices []id.DeviceID) (*empty, error) {
	if r.Caller.AppService != "" { // spec: application-service-api.md#deleting-devices
		return nil, a.users.DeleteDevices(ctx, r.Caller.User, devices...)
	}
	operation := []string{"delete devices"}
	for _, d := range slices.Sorted(slices.Values(devices)) {
		operation = append(operation, string(d))
	}
	if _, err := a.confirm(ctx, r, auth, operation...); err != nil {
		return nil, err
	}
	return nil, a.users.DeleteDevices(ctx, r.Caller.User, devices...)
}
