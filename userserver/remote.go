package userserver

import (
	"context"
	"encoding/json"

	"parley/internal/id"
	"parley/internal/serverapi"
)

// Remote asks other servers about their users.
type Remote interface {
	// Profile is the profile of a user of another server; field is "" for all of it.
	Profile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error)
	// QueryKeys are the keys of users of one server; an empty list stands for all devices.
	QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID) (*serverapi.Keys, error)
	// ClaimKeys takes a one-time key of each device of users of one server; a device's value is
	// the algorithm.
	ClaimKeys(ctx context.Context, server id.ServerName, devices map[id.UserID]map[id.DeviceID]string) (ClaimedKeys, error)
	// UserDevices is all devices of a user with the number of their list.
	UserDevices(ctx context.Context, user id.UserID) (*serverapi.UserDevices, error)
}

// KeyAnswer is what is known of users' keys.
//
// spec: client-server-api/modules/end_to_end_encryption.md#key-management-api
type KeyAnswer struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys,omitempty"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys,omitempty"`
	// UserSigningKeys has none but those of the user who asks.
	UserSigningKeys map[id.UserID]json.RawMessage `json:"user_signing_keys,omitempty"`
	// Failures are the servers that did not answer.
	Failures map[id.ServerName]struct{} `json:"failures"`
}

// ClaimedKeys are one-time keys that were claimed, by their names "algorithm:id".
type ClaimedKeys = serverapi.OneTimeKeys
