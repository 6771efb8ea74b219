package roomserver

import (
	"encoding/json"
	"maps"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/signedjson"
)

// What the library reads of events it reads by encoding/json, and so has it for the same as its lookalikes.
var (
	// eventNames are what the library reads of an event.
	eventNames = []string{
		"auth_events", "content", "depth", "event_id", "hashes", "membership", "origin", "origin_server_ts", "prev_events",
		"prev_state", "redacts", "room_id", "sender", "signatures", "state_key", "type", "unsigned",
	}
	// contentNames are what it reads of the content of those events of which it does.
	contentNames = map[string][]string{
		spec.MRoomCreate:            {"additional_creators", "creator", "m.federate", "predecessor", "room_version", "type"},
		spec.MRoomMember:            {"join_authorised_via_users_server", "membership", "mxid_mapping", "third_party_invite"},
		spec.MRoomJoinRules:         {"allow", "join_rule"},
		spec.MRoomHistoryVisibility: {"history_visibility"},
		spec.MRoomPowerLevels: {
			"ban", "events", "events_default", "invite", "kick", "notifications", "redact", "state_default", "users", "users_default",
		},
	}
)

// exact is an event without names that the library would read as others. Its hash is wrong then, and
// so only what redaction leaves counts, as it does for everybody; that has none of these names, and so
// neither the event's ID nor its signatures are others. Where redaction leaves all, they are, and the
// event is nobody's.
//
// spec: rooms/v12.md#redactions
func exact(raw []byte) []byte {
	if !signedjson.Lookalikes(raw, eventNames) && !contentLookalikes(gjson.GetBytes(raw, "type").Str, []byte(gjson.GetBytes(raw, "content").Raw)) {
		return raw
	}
	raw = withoutLookalikes(raw, eventNames)
	content := gjson.GetBytes(raw, "content")
	if !content.IsObject() {
		return raw
	}
	out, err := sjson.SetRawBytes(raw, "content", withoutLookalikes([]byte(content.Raw), contentNames[gjson.GetBytes(raw, "type").Str]))
	if err != nil {
		return raw
	}
	return out
}

// contentLookalikes says whether the content of a type of events has names that the library would read
// as others.
func contentLookalikes(eventType string, content []byte) bool {
	names := contentNames[eventType]
	return names != nil && signedjson.Lookalikes(content, names)
}

// withoutLookalikes is an object without the names that would be read as one of some others.
func withoutLookalikes(object []byte, names []string) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil || fields == nil {
		return object // which nobody can read
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return signedjson.Lookalike(name, names) })
	out, err := json.Marshal(fields)
	if err != nil {
		return object
	}
	return out
}
