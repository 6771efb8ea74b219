// Package rules is the authorisation rules of rooms: whether an event may follow a state. They
// are gomatrixserverlib's, but for invites on the word of an identity server, of which the
// library checks less than the specification asks for, and fields of member events of which it
// checks more.
//
// spec: rooms/v12.md#authorisation-rules
package rules

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/signedjson"
)

// Allowed judges an event by a state: nil lets it be.
func Allowed(e gomatrixserverlib.PDU, state gomatrixserverlib.AuthEventProvider) error {
	if IsThirdPartyInvite(e) {
		return thirdPartyInvite(e, state)
	}
	return gomatrixserverlib.Allowed(readable(e), readableState{state}, UserOf)
}

// readable is an event as the library can read it. Of the content of a member event it would refuse fields of
// which the rules say nothing if they are not as it knows them.
func readable(e gomatrixserverlib.PDU) gomatrixserverlib.PDU {
	if e == nil || e.Type() != spec.MRoomMember {
		return e
	}
	var fields map[string]json.RawMessage
	f := gjson.GetManyBytes(e.Content(), "mxid_mapping", "third_party_invite")
	if !f[0].Exists() && !f[1].Exists() || json.Unmarshal(e.Content(), &fields) != nil {
		return e
	}
	delete(fields, "mxid_mapping")
	delete(fields, "third_party_invite")
	content, err := json.Marshal(fields)
	if err != nil {
		return e
	}
	return memberEvent{e, content}
}

// memberEvent is a member event with a part of its content.
type memberEvent struct {
	gomatrixserverlib.PDU
	content []byte
}

// Content is that part.
func (m memberEvent) Content() []byte { return m.content }

// readableState is a state with its member events as the library can read them.
type readableState struct {
	gomatrixserverlib.AuthEventProvider
}

// Member is a user's member event.
func (s readableState) Member(user spec.SenderID) (gomatrixserverlib.PDU, error) {
	e, err := s.AuthEventProvider.Member(user)
	if err != nil || e == nil {
		return e, err
	}
	return readable(e), nil
}

// MayFollow is Allowed for an event that is new here. To the library who was never there has
// left, and may leave; anybody could fill the state of a room with such leaves. What others have
// taken in before is resolved as they do it.
func MayFollow(e gomatrixserverlib.PDU, state gomatrixserverlib.AuthEventProvider) error {
	if e.Type() == spec.MRoomMember && e.StateKeyEquals(string(e.SenderID())) && gjson.GetBytes(e.Content(), "membership").Str == spec.Leave {
		if member, err := state.Member(e.SenderID()); err != nil {
			return err
		} else if member == nil {
			return refuse("%s is not there to leave", e.SenderID())
		}
	}
	return Allowed(e, state)
}

// UserOf is the user that a sender is: themselves, in all room versions that we know.
func UserOf(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

// IsThirdPartyInvite says whether an event is an invite of somebody whose address was invited
// before. Its sender need not have signed it.
func IsThirdPartyInvite(e gomatrixserverlib.PDU) bool {
	if e.Type() != spec.MRoomMember || e.StateKey() == nil {
		return false
	}
	f := gjson.GetManyBytes(e.Content(), "membership", "third_party_invite")
	return f[0].Str == spec.Invite && f[1].Exists()
}

// thirdPartyInvite is the rules for invites that have a third_party_invite, and those for all
// events that come before.
func thirdPartyInvite(e gomatrixserverlib.PDU, state gomatrixserverlib.AuthEventProvider) error {
	target := *e.StateKey()
	create, err := state.Create()
	switch {
	case err != nil:
		return err
	case create == nil:
		return refuse("the room has no create event")
	case create.RoomID().String() != e.RoomID().String():
		return refuse("the create event is of another room")
	case gjson.GetBytes(create.Content(), `m\.federate`).Type == gjson.False && id.UserID(e.SenderID()).Server() != id.UserID(create.SenderID()).Server():
		return refuse("the room is not for users of other servers")
	}
	if _, err := id.ParseUserID(target); err != nil {
		return refuse("the state key is no user ID")
	}
	member, err := state.Member(spec.SenderID(target))
	if err != nil {
		return err
	}
	if member != nil && gjson.GetBytes(member.Content(), "membership").Str == spec.Ban {
		return refuse("%s is banned", target)
	}
	signed := gjson.GetBytes(e.Content(), "third_party_invite.signed")
	token := signed.Get("token")
	if !signed.IsObject() || signed.Get("mxid").Str != target || token.Type != gjson.String {
		return refuse("the identity server's word is not for %s", target)
	}
	invite, err := state.ThirdPartyInvite(token.Str)
	switch {
	case err != nil:
		return err
	case invite == nil:
		return refuse("no address was invited with that token")
	case invite.SenderID() != e.SenderID():
		return refuse("the address was invited by another user")
	}
	if _, ok := SigningKey(invite.Content(), []byte(signed.Raw)); !ok {
		return refuse("the identity server's word has no signature by a key that the invite names")
	}
	return nil
}

func refuse(format string, args ...any) error {
	return &gomatrixserverlib.NotAllowed{Message: fmt.Sprintf(format, args...)}
}

// Key is one by which an m.room.third_party_invite lets an identity server vouch for a user.
type Key struct {
	Public string // base64
	// ValidityURL is where to ask whether the key is still good; it may be empty.
	ValidityURL string
}

// maxChecks bounds the signatures that are checked for one event. An identity server makes one,
// and an invite has two keys.
const maxChecks = 32

// SigningKey is the key of an m.room.third_party_invite, by its content, with which what an
// identity server says was signed.
//
// spec: client-server-api/modules/third_party_invites.md#mroomthird_party_invite
func SigningKey(invite, signed []byte) (Key, bool) {
	var keys []Key
	add := func(r gjson.Result) {
		if key := r.Get("public_key"); key.Type == gjson.String {
			keys = append(keys, Key{key.Str, r.Get("key_validity_url").Str})
		}
	}
	content := gjson.ParseBytes(invite)
	for _, k := range content.Get("public_keys").Array() {
		add(k)
	}
	add(content)

	checks := 0
	var found Key
	gjson.GetBytes(signed, "signatures").ForEach(func(_, byKey gjson.Result) bool {
		byKey.ForEach(func(name, signature gjson.Result) bool {
			if !strings.HasPrefix(name.Str, "ed25519:") {
				return true
			}
			for _, k := range keys {
				if checks++; checks > maxChecks {
					return false
				}
				if signedjson.Verify(signed, unpadded(k.Public), unpadded(signature.Str)) == nil {
					found = k
					return false
				}
			}
			return true
		})
		return found == Key{} && checks <= maxChecks
	})
	return found, found != Key{}
}

// unpadded brings base64 of either alphabet, with padding or not, into the form that is used
// in Matrix: identity servers have given all of them.
func unpadded(s string) string {
	s = strings.TrimRight(s, "=")
	if raw, err := base64.RawURLEncoding.DecodeString(s); err == nil {
		return base64.RawStdEncoding.EncodeToString(raw)
	}
	return s
}
