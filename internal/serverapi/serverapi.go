// Package serverapi is the bodies of requests and answers of the server-server API. Who
// answers them (federation) and who asks (federation/remote, for roomserver, userserver and
// the sender) share one type for each, so that the two sides can't come to differ.
//
// Events are raw JSON here: what they must look like depends on the room's version, and
// judging them is the room server's business. It has no behaviour.
//
// spec: server-server-api.md
package serverapi

import (
	"encoding/json"
	"io"

	"parley/internal/id"
)

// The most that one transaction may hold.
//
// spec: server-server-api.md#transactions
const (
	MaxPDUs = 50
	MaxEDUs = 100
)

// Transaction is what a server pushes to another.
//
// spec: server-server-api.md#transactions
type Transaction struct {
	Origin   id.ServerName     `json:"origin"`
	OriginTS int64             `json:"origin_server_ts"` // milliseconds
	PDUs     []json.RawMessage `json:"pdus"`
	EDUs     []EDU             `json:"edus,omitempty"`
}

// EDU is news that is no part of a room's history.
//
// spec: server-server-api.md#edus
type EDU struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// TransactionResult says of each PDU by its ID what became of it.
type TransactionResult struct {
	PDUs map[id.EventID]PDUResult `json:"pdus"`
}

// PDUResult is empty where the event was taken in or known.
type PDUResult struct {
	Error string `json:"error,omitempty"`
}

// Template is an event to be completed and signed by who asked for it: the answer of
// make_join, make_leave and make_knock.
//
// spec: server-server-api.md#joining-rooms
type Template struct {
	RoomVersion id.RoomVersion  `json:"room_version,omitempty"`
	Event       json.RawMessage `json:"event"`
}

// SendJoin is the answer of send_join.
//
// spec: server-server-api.md#put_matrixfederationv2send_joinroomideventid
type SendJoin struct {
	// Event is the join with the resident server's signature, where it had to sign.
	Event     json.RawMessage   `json:"event,omitempty"`
	State     []json.RawMessage `json:"state"`
	AuthChain []json.RawMessage `json:"auth_chain"`
	// MembersOmitted says that State has no member events but those that are needed to judge
	// and name the room; ServersInRoom is then given.
	MembersOmitted bool            `json:"members_omitted"`
	ServersInRoom  []id.ServerName `json:"servers_in_room,omitempty"`
}

// SendKnock is the answer of send_knock: events from which the room can be recognised.
//
// spec: server-server-api.md#put_matrixfederationv1send_knockroomideventid
type SendKnock struct {
	KnockRoomState []json.RawMessage `json:"knock_room_state"`
}

// Invite asks a server to sign an invite of one of its users.
//
// spec: server-server-api.md#put_matrixfederationv2inviteroomideventid
type Invite struct {
	RoomVersion     id.RoomVersion    `json:"room_version"`
	Event           json.RawMessage   `json:"event"`
	InviteRoomState []json.RawMessage `json:"invite_room_state,omitempty"`
}

// Invited is the invite with the signature of the invited user's server.
type Invited struct {
	Event json.RawMessage `json:"event"`
}

// MissingEvents asks for the events between two sets of events.
//
// spec: server-server-api.md#post_matrixfederationv1get_missing_eventsroomid
type MissingEvents struct {
	Earliest []id.EventID `json:"earliest_events"`
	Latest   []id.EventID `json:"latest_events"`
	Limit    int          `json:"limit,omitempty"`
	MinDepth int64        `json:"min_depth,omitempty"`
}

// Events is a list of events.
type Events struct {
	Events []json.RawMessage `json:"events"`
}

// PDUs is the answer of event and backfill: a transaction in form.
type PDUs struct {
	Origin   id.ServerName     `json:"origin"`
	OriginTS int64             `json:"origin_server_ts"`
	PDUs     []json.RawMessage `json:"pdus"`
}

// State is a room's state before an event, and the auth chain of it.
//
// spec: server-server-api.md#get_matrixfederationv1stateroomid
type State struct {
	PDUs      []json.RawMessage `json:"pdus"`
	AuthChain []json.RawMessage `json:"auth_chain"`
}

// StateIDs is State by IDs.
type StateIDs struct {
	PDUs      []id.EventID `json:"pdu_ids"`
	AuthChain []id.EventID `json:"auth_chain_ids"`
}

// AuthChain is the answer of event_auth.
type AuthChain struct {
	AuthChain []json.RawMessage `json:"auth_chain"`
}

// NearestEvent is the answer of timestamp_to_event.
type NearestEvent struct {
	Event    id.EventID `json:"event_id"`
	OriginTS int64      `json:"origin_server_ts"`
}

// Hierarchy is a space, or a room, with the rooms directly in it.
//
// spec: server-server-api.md#get_matrixfederationv1hierarchyroomid
type Hierarchy struct {
	Room         json.RawMessage   `json:"room"` // a room summary with children_state
	Children     []json.RawMessage `json:"children"`
	Inaccessible []id.RoomID       `json:"inaccessible_children"`
}

// Directory is the answer to a query for an alias.
//
// spec: server-server-api.md#get_matrixfederationv1querydirectory
type Directory struct {
	Room    id.RoomID       `json:"room_id"`
	Servers []id.ServerName `json:"servers"`
}

// PublicRoomsRequest asks for a server's public rooms.
//
// spec: server-server-api.md#post_matrixfederationv1publicrooms
type PublicRoomsRequest struct {
	Limit         int                `json:"limit,omitempty"`
	Since         string             `json:"since,omitempty"`
	Filter        *PublicRoomsFilter `json:"filter,omitempty"`
	AllNetworks   bool               `json:"include_all_networks,omitempty"`
	ThirdPartyNet string             `json:"third_party_instance_id,omitempty"`
}

// PublicRoomsFilter selects rooms of a directory.
type PublicRoomsFilter struct {
	Term  string    `json:"generic_search_term,omitempty"`
	Types []*string `json:"room_types,omitempty"` // null stands for rooms without a type
}

// PublicRooms is a page of a server's public rooms.
type PublicRooms struct {
	Chunk     []json.RawMessage `json:"chunk"`
	NextBatch string            `json:"next_batch,omitempty"`
	PrevBatch string            `json:"prev_batch,omitempty"`
	Total     int               `json:"total_room_count_estimate,omitempty"`
}

// Signatures are an event's, by server and key ID: what a policy server answers with.
//
// spec: server-server-api.md#policy-servers
type Signatures map[id.ServerName]map[string]string

// UserDevices is all devices of a user.
//
// spec: server-server-api.md#get_matrixfederationv1userdevicesuserid
type UserDevices struct {
	User           id.UserID       `json:"user_id"`
	StreamID       int64           `json:"stream_id"`
	Devices        []UserDevice    `json:"devices"`
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is a device with its identity keys.
type UserDevice struct {
	Device      id.DeviceID     `json:"device_id"`
	DisplayName string          `json:"device_display_name,omitempty"`
	Keys        json.RawMessage `json:"keys"`
}

// QueryKeys asks for keys of a server's users; an empty list stands for all devices.
//
// spec: server-server-api.md#post_matrixfederationv1userkeysquery
type QueryKeys struct {
	DeviceKeys map[id.UserID][]id.DeviceID `json:"device_keys"`
}

// Keys are keys of a server's users.
type Keys struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys,omitempty"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys,omitempty"`
}

// ClaimKeys asks for a one-time key of each device; the value is the algorithm.
//
// spec: server-server-api.md#post_matrixfederationv1userkeysclaim
type ClaimKeys struct {
	OneTimeKeys map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
}

// ClaimedKeys are one-time keys that were claimed.
type ClaimedKeys struct {
	OneTimeKeys OneTimeKeys `json:"one_time_keys"`
}

// OneTimeKeys are keys by user, device, and their name "algorithm:id".
type OneTimeKeys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage

// File is a file of a server's media repository, as it comes; whoever gets it closes it.
//
// spec: server-server-api.md#content-repository
type File struct {
	Body io.ReadCloser
	// Type and Name are what the server says of it; Name may be "".
	Type, Name string
}

// IdentityInvite is what an identity server is told of an invite of an address that is nobody's yet.
//
// spec: identity-service-api.md#invitation-storage
type IdentityInvite struct {
	Medium            string    `json:"medium"`
	Address           string    `json:"address"`
	RoomID            id.RoomID `json:"room_id"`
	Sender            id.UserID `json:"sender"`
	RoomAlias         string    `json:"room_alias,omitempty"`
	RoomName          string    `json:"room_name,omitempty"`
	RoomAvatarURL     string    `json:"room_avatar_url,omitempty"`
	RoomJoinRules     string    `json:"room_join_rules,omitempty"`
	RoomType          string    `json:"room_type,omitempty"`
	SenderDisplayName string    `json:"sender_display_name,omitempty"`
	SenderAvatarURL   string    `json:"sender_avatar_url,omitempty"`
}

// StoredInvite is what the identity server says of it, for the room.
type StoredInvite struct {
	Token       string        `json:"token"`
	PublicKeys  []IdentityKey `json:"public_keys"`
	DisplayName string        `json:"display_name"`
}

// IdentityKey is a key by which an identity server will vouch for the address's owner.
type IdentityKey struct {
	PublicKey   string `json:"public_key"`
	ValidityURL string `json:"key_validity_url,omitempty"`
}
