package remote

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"parley/internal/id"
	"parley/internal/serverapi"
)

// Profile is the profile of a user of another server; field is "" for all of it.
//
// spec: server-server-api.md#get_matrixfederationv1queryprofile
func (c *Client) Profile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	q := url.Values{"user_id": {string(user)}}
	if field != "" {
		q.Set("field", field)
	}
	var out map[string]json.RawMessage
	err := c.get(ctx, user.Server(), query, v1+"/query/profile", q, &out)
	return out, err
}

// QueryKeys are the keys of users of one server; an empty list stands for all devices.
//
// spec: server-server-api.md#post_matrixfederationv1userkeysquery
func (c *Client) QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID) (*serverapi.Keys, error) {
	out := new(serverapi.Keys)
	return out, c.post(ctx, server, devices, v1+"/user/keys/query", serverapi.QueryKeys{DeviceKeys: users}, out)
}

// ClaimKeys takes a one-time key of each device of users of one server; a device's value is the
// algorithm.
//
// spec: server-server-api.md#post_matrixfederationv1userkeysclaim
func (c *Client) ClaimKeys(ctx context.Context, server id.ServerName, devices map[id.UserID]map[id.DeviceID]string) (serverapi.OneTimeKeys, error) {
	var out serverapi.ClaimedKeys
	err := c.ask(ctx, server, request{kind: query, method: http.MethodPost, path: v1 + "/user/keys/claim", once: true,
		body: serverapi.ClaimKeys{OneTimeKeys: devices}}, &out)
	return out.OneTimeKeys, err
}

// UserDevices is all devices of a user.
//
// spec: server-server-api.md#get_matrixfederationv1userdevicesuserid
func (c *Client) UserDevices(ctx context.Context, user id.UserID) (*serverapi.UserDevices, error) {
	out := new(serverapi.UserDevices)
	return out, c.get(ctx, user.Server(), query, join(v1+"/user/devices", string(user)), nil, out)
}
