// Package clientevent turns an event as servers exchange it into what a client is shown:
// the fields that the client-server API has, and the unsigned data that the server adds.
//
// It is pure: what goes into the unsigned data is looked up by roomserver.
//
// spec: client-server-api/index.md#room-event-format
package clientevent

import (
	"strconv"

	"github.com/tidwall/gjson"

	"parley/internal/id"
)

// Unsigned is what the server adds to an event for one reader.
type Unsigned struct {
	// Age is how long ago the event was sent, in milliseconds.
	Age int64
	// TxnID is the transaction ID, for the device that sent the event.
	TxnID string
	// Replaces and PrevContent are the state event that this one took the place of.
	Replaces    id.EventID
	PrevContent []byte
	// PrevSender is who sent what it replaced: not specified, and what clients know by whom an
	// invite was.
	PrevSender string
	// RedactedBecause is the redaction, as a client is shown it.
	RedactedBecause []byte
	// Relations are the bundled aggregations: an object.
	Relations []byte
	// Membership is the reader's membership at the event.
	Membership string
}

// Append appends the client's form of raw to out. room is left out when it is empty, as in
// /sync, which names the room around the event.
func Append(out, raw []byte, event id.EventID, room id.RoomID, u *Unsigned) []byte {
	out = append(AppendFields(out, raw, event, room), AgeKey...)
	out = strconv.AppendInt(out, u.Age, 10)
	out = append(AppendForReader(out, u.TxnID, u.Membership), ',')
	if u.Replaces != "" {
		out = appendField(out, "replaces_state", quote(string(u.Replaces)))
	}
	if u.PrevContent != nil {
		out = appendField(out, "prev_content", string(u.PrevContent))
	}
	if u.PrevSender != "" {
		out = appendField(out, "prev_sender", quote(u.PrevSender))
	}
	if u.RedactedBecause != nil {
		out = appendField(out, "redacted_because", string(u.RedactedBecause))
	}
	if u.Relations != nil {
		out = appendField(out, "m.relations", string(u.Relations))
	}
	out[len(out)-1] = '}'
	return append(out, '}')
}

// AgeKey stands between the event's own fields and its age.
const AgeKey = `"unsigned":{"age":`

// AppendForReader appends what depends on the reader, and stands behind the age.
func AppendForReader(out []byte, txnID, membership string) []byte {
	if txnID != "" {
		out = append(append(out, `,"transaction_id":`...), quote(txnID)...)
	}
	if membership != "" {
		out = append(append(out, `,"membership":`...), quote(membership)...)
	}
	return out
}

// AppendFields appends the client's form of raw up to its unsigned data: with AgeKey, the age,
// what AppendForReader appends, and the rest of what Append has made of the same event,
// it becomes that again, for another time and reader.
func AppendFields(out, raw []byte, event id.EventID, room id.RoomID) []byte {
	out = append(out, '{')
	var redacts, contentRedacts, eventType string
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "type":
			eventType = value.Str
		case "content":
			if eventType == "" || eventType == "m.room.redaction" {
				contentRedacts = value.Get("redacts").Raw
			}
		case "redacts":
			redacts = value.Raw
			return true
		case "sender", "state_key", "origin_server_ts":
		default:
			return true
		}
		out = appendField(out, key.Str, value.Raw)
		return true
	})
	if eventType == "m.room.redaction" {
		// Clients look for it in either place, whatever the room version has it in.
		//
		// spec: client-server-api/index.md#mroomredaction
		if redacts == "" {
			redacts = contentRedacts
		}
		if redacts != "" {
			out = appendField(out, "redacts", redacts)
		}
	}
	out = appendField(out, "event_id", quote(string(event)))
	if room != "" {
		out = appendField(out, "room_id", quote(string(room)))
	}
	return out
}

func appendField(out []byte, name, raw string) []byte {
	out = append(out, '"')
	out = append(out, name...)
	out = append(out, '"', ':')
	out = append(out, raw...)
	return append(out, ',')
}

func quote(s string) string { return string(gjson.AppendJSONString(nil, s)) }
