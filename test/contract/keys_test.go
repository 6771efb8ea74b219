package contract

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix"
)

// signingKey is a key of a device or of a user.
type signingKey struct {
	name   string
	secret ed25519.PrivateKey
}

func newSigningKey(t *testing.T) signingKey {
	t.Helper()
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{base64.RawStdEncoding.EncodeToString(public), secret}
}

func (k signingKey) public() string {
	return base64.RawStdEncoding.EncodeToString(k.secret.Public().(ed25519.PublicKey))
}

// sign adds a user's signature. What is signed here has no characters that canonical JSON writes otherwise than Go.
//
// spec: appendices.md#signing-json
func (k signingKey) sign(t *testing.T, user string, o object) object {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(k.secret, text))
	signed := object{"signatures": object{user: object{"ed25519:" + k.name: signature}}}
	for key, value := range o {
		signed[key] = value
	}
	return signed
}

// keys is the chapter on end-to-end encryption, as far as the server has a part in it.
//
// spec: client-server-api/modules/end_to_end_encryption.md#end-to-end-encryption
func keys(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	user, device := alice.UserID.String(), alice.DeviceID.String()
	own := newSigningKey(s.t)
	own.name = device
	deviceKeys := object{"user_id": user, "device_id": device, "algorithms": list{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": object{"ed25519:" + device: own.public(), "curve25519:" + device: newSigningKey(s.t).public()}}
	s.ok("uploadKeys", alice, object{"device_keys": own.sign(s.t, user, deviceKeys),
		"one_time_keys": object{"signed_curve25519:AAAA": own.sign(s.t, user, object{"key": newSigningKey(s.t).public()})},
		"fallback_keys": object{"signed_curve25519:AAAB": own.sign(s.t, user, object{"key": newSigningKey(s.t).public(), "fallback": true})}})
	s.refused("uploadKeys", bob, 400, "M_INVALID_PARAM", object{"device_keys": own.sign(s.t, user, deviceKeys)})

	usage := func(k signingKey, usage string) object {
		return object{"user_id": user, "usage": list{usage}, "keys": object{"ed25519:" + k.public(): k.public()}}
	}
	master, self, others := newSigningKey(s.t), newSigningKey(s.t), newSigningKey(s.t)
	body := object{"master_key": usage(master, "master"), "self_signing_key": master.sign(s.t, user, usage(self, "self_signing")),
		"user_signing_key": master.sign(s.t, user, usage(others, "user_signing"))}
	s.refused("uploadCrossSigningKeys", alice, 400, "M_INVALID_SIGNATURE", object{"master_key": body["master_key"],
		"self_signing_key": others.sign(s.t, user, usage(self, "self_signing"))})
	s.ok("uploadCrossSigningKeys", alice, body)
	again := object{"master_key": usage(newSigningKey(s.t), "master")}
	first := s.refused("uploadCrossSigningKeys", alice, 401, "", again)
	wrong := alice.UIA(session(first)).(object)
	wrong["password"] = "wrong"
	again["auth"] = wrong
	s.refused("uploadCrossSigningKeys", alice, 401, "M_FORBIDDEN", again)

	s.ok("uploadCrossSigningSignatures", alice, object{user: object{device: self.sign(s.t, user, deviceKeys), "NONE": object{}}})
	s.ok("queryKeys", alice, object{"device_keys": object{user: list{}, s.at("@nobody"): list{}}, "timeout": 1000})
	s.ok("queryKeys", bob, object{"device_keys": object{user: list{device}}})
	s.refused("queryKeys", bob, 400, "M_MISSING_PARAM", object{})
	for range 2 {
		s.ok("claimKeys", bob, object{"one_time_keys": object{user: object{device: "signed_curve25519"}}})
	}
	s.refused("claimKeys", bob, 400, "M_MISSING_PARAM", object{})

	from := s.ok("sync", bob).Get("next_batch").Str
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
	bob.Join(room)
	to := s.ok("sync", bob, query{"since": from}).Get("next_batch").Str
	s.ok("getKeysChanges", bob, query{"from": from, "to": to})
	s.refused("getKeysChanges", bob, 400, "M_INVALID_PARAM", query{"from": "nothing", "to": to})
}

// backup is the chapter on keys that the server keeps for a user.
//
// spec: client-server-api/modules/end_to_end_encryption.md#server-side-key-backups
func backup(s *scene) {
	alice := s.user("alice")
	info := object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": newSigningKey(s.t).public()}}
	s.refused("getRoomKeysVersionCurrent", alice, 404, "M_NOT_FOUND")
	old := s.ok("postRoomKeysVersion", alice, info).Get("version").Str
	version := s.ok("postRoomKeysVersion", alice, info).Get("version").Str
	s.refused("postRoomKeysVersion", alice, 400, "M_MISSING_PARAM", object{})
	s.ok("getRoomKeysVersionCurrent", alice)
	s.ok("getRoomKeysVersion", alice, version)
	s.refused("getRoomKeysVersion", alice, 404, "M_NOT_FOUND", "100")
	s.ok("putRoomKeysVersion", alice, version, info)
	s.refused("putRoomKeysVersion", alice, 404, "M_NOT_FOUND", "100", info)
	s.refused("putRoomKeysVersion", alice, 400, "M_INVALID_PARAM", version, object{"algorithm": "another", "auth_data": object{}})

	in := query{"version": version}
	key := object{"first_message_index": 1, "forwarded_count": 0, "is_verified": true,
		"session_data": object{"ephemeral": "AAAA", "ciphertext": "AAAA", "mac": "AAAA"}}
	sessions := object{"sessions": object{"s": key}}
	rooms := object{"rooms": object{s.at("!r"): sessions}}
	s.ok("putRoomKeyBySessionId", alice, s.at("!r"), "s", in, key)
	s.ok("putRoomKeysByRoomId", alice, s.at("!r"), in, sessions)
	s.ok("putRoomKeys", alice, in, rooms)
	s.ok("getRoomKeyBySessionId", alice, s.at("!r"), "s", in)
	s.ok("getRoomKeysByRoomId", alice, s.at("!r"), in)
	s.ok("getRoomKeys", alice, in)
	for status, in := range map[int]query{404: {"version": "100"}, 403: {"version": old}} {
		code := "M_NOT_FOUND"
		if status == 403 {
			code = "M_WRONG_ROOM_KEYS_VERSION"
		}
		s.refused("putRoomKeys", alice, status, code, in, rooms)
		s.refused("putRoomKeysByRoomId", alice, status, code, s.at("!r"), in, sessions)
		s.refused("putRoomKeyBySessionId", alice, status, code, s.at("!r"), "s", in, key)
	}
	nowhere := query{"version": "100"}
	s.refused("getRoomKeys", alice, 404, "M_NOT_FOUND", nowhere)
	s.refused("getRoomKeysByRoomId", alice, 404, "M_NOT_FOUND", s.at("!r"), nowhere)
	s.refused("getRoomKeyBySessionId", alice, 404, "M_NOT_FOUND", s.at("!r"), "nothing", in)
	s.ok("deleteRoomKeyBySessionId", alice, s.at("!r"), "s", in)
	s.ok("deleteRoomKeysByRoomId", alice, s.at("!r"), in)
	s.ok("deleteRoomKeys", alice, in)
	s.refused("deleteRoomKeyBySessionId", alice, 404, "M_NOT_FOUND", s.at("!r"), "s", nowhere)
	s.refused("deleteRoomKeysByRoomId", alice, 404, "M_NOT_FOUND", s.at("!r"), nowhere)
	s.refused("deleteRoomKeys", alice, 404, "M_NOT_FOUND", nowhere)
	s.ok("deleteRoomKeysVersion", alice, version)
	s.refused("deleteRoomKeysVersion", alice, 404, "M_NOT_FOUND", "100")
}
