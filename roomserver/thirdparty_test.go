package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
	"parley/storage"
)

func (l *wire) ExchangeThirdPartyInvite(ctx context.Context, server id.ServerName, room id.RoomID, event json.RawMessage) error {
	n, err := l.to(server, "exchange")
	if err != nil {
		return err
	}
	return n.ExchangeThirdPartyInvite(ctx, l.self, room, event)
}

// CheckIdentityKey: a URL that ends in "good" is one of an identity server that stands by its key.
func (l *wire) CheckIdentityKey(_ context.Context, url, _ string) (bool, error) {
	switch url {
	case "https://id/good":
		return true, nil
	case "https://id/bad":
		return false, nil
	}
	return false, errSilent
}

// identityServer signs for whoever asks.
var identityServer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func vouch(t *testing.T, user id.UserID, token string) json.RawMessage {
	t.Helper()
	signed, err := signedjson.Sign(fmt.Appendf(nil, `{"mxid":%q,"token":%q}`, user, token), "id", "ed25519:0", identityServer)
	ok(t, err)
	return signed
}

// inviteAddress has a user of a node invite somebody's address.
func (n *node) inviteAddress(t *testing.T, room id.RoomID, token, validity string) {
	t.Helper()
	public := base64.RawStdEncoding.EncodeToString(identityServer.Public().(ed25519.PublicKey))
	content := fmt.Appendf(nil, `{"display_name":"v...","public_key":%q,"key_validity_url":%q,"public_keys":[{"public_key":%q,"key_validity_url":%q}]}`, public, validity, public, validity)
	_, err := n.Send(context.Background(), SendRequest{Room: room, Sender: n.user, Type: spec.MRoomThirdPartyInvite, StateKey: &token, Content: content})
	ok(t, err)
}

func TestThirdPartyInvite(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, _ := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version})
		ok(t, err)
		a.inviteAddress(t, room, "one", "https://id/good")
		a.inviteAddress(t, room, "old", "https://id/bad")
		a.inviteAddress(t, room, "gone", "https://id/gone")

		for name, c := range map[string]struct {
			sender, user id.UserID
			signed       json.RawMessage
			code         matrixerr.Code
		}{
			"another token":         {a.user, b.user, vouch(t, b.user, "two"), matrixerr.Forbidden},
			"signed for another":    {a.user, b.user, vouch(t, "@w:b", "one"), matrixerr.Forbidden},
			"invited by another":    {"@x:a", b.user, vouch(t, b.user, "one"), matrixerr.Forbidden},
			"an invalid key":        {a.user, b.user, vouch(t, b.user, "old"), matrixerr.Forbidden},
			"no word about the key": {a.user, b.user, vouch(t, b.user, "gone"), matrixerr.Unknown},
			"not signed":            {a.user, b.user, json.RawMessage(`{"mxid":"@u:b","token":"one"}`), matrixerr.Forbidden},
			"no word":               {a.user, b.user, json.RawMessage(`"mxid"`), matrixerr.InvalidParam},
		} {
			err := b.ClaimThirdPartyInvite(ctx, ThirdPartyInvite{Room: room, Sender: c.sender, User: c.user, Signed: c.signed})
			if matrixerr.CodeOf(err) != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, event := range map[string]string{
			"nothing":               `{}`,
			"not JSON":              `{"type":`,
			"another type":          `{"type":"m.room.name","room_id":"` + string(room) + `","sender":"@u:a","state_key":"@u:b","content":{"membership":"invite","third_party_invite":{"signed":{}}}}`,
			"another room":          `{"type":"m.room.member","room_id":"!x:a","sender":"@u:a","state_key":"@u:b","content":{"membership":"invite","third_party_invite":{"signed":{}}}}`,
			"no user":               `{"type":"m.room.member","room_id":"` + string(room) + `","sender":"@u:a","state_key":"u","content":{"membership":"invite","third_party_invite":{"signed":{}}}}`,
			"another of membership": `{"type":"m.room.member","room_id":"` + string(room) + `","sender":"@u:a","state_key":"@u:b","content":{"membership":"join","third_party_invite":{"signed":{}}}}`,
		} {
			if err := a.ExchangeThirdPartyInvite(ctx, "b", room, []byte(event)); matrixerr.CodeOf(err) != matrixerr.InvalidParam {
				t.Errorf("%s: %v", name, err)
			}
		}
		b.is(t, spec.Leave, room)

		claim := ThirdPartyInvite{Room: room, Sender: a.user, User: b.user, Signed: vouch(t, b.user, "one")}
		for range 2 { // the identity server may ask twice
			ok(t, b.ClaimThirdPartyInvite(ctx, claim))
			b.is(t, spec.Invite, room)
		}
		invite, err := a.StateEvent(ctx, room, spec.MRoomMember, string(b.user), true, Reader{User: a.user})
		ok(t, err)
		if name := gjson.GetBytes(invite, "content.third_party_invite.display_name").Str; name != "v..." {
			t.Errorf("the invite is of %q", name)
		}
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.agree(t, room, "a", "b")
		ok(t, b.ClaimThirdPartyInvite(ctx, claim)) // which does not undo the join
		m.agree(t, room, "a", "b")

		// One of a's own, and one who is no longer welcome.
		ok(t, a.ClaimThirdPartyInvite(ctx, ThirdPartyInvite{Room: room, Sender: a.user, User: "@v:a", Signed: vouch(t, "@v:a", "one")}))
		if got, err := a.Membership(ctx, "@v:a", room); err != nil || got != spec.Invite {
			t.Errorf("a's user is %s, %v", got, err)
		}
		ok(t, a.Ban(ctx, MemberRequest{Room: room, Sender: a.user, Target: "@w:b"}))
		err = b.ClaimThirdPartyInvite(ctx, ThirdPartyInvite{Room: room, Sender: a.user, User: "@w:b", Signed: vouch(t, "@w:b", "one")})
		refused(t, err, matrixerr.Forbidden)

		// The invited user's server may send the invite itself, in the name of who invited.
		a.inviteAddress(t, room, "three", "")
		m.carry(t, "a", "b", room)
		var e *event
		ok(t, b.db.Read(ctx, func(tx *storage.Tx) error {
			r, err := tx.GetRoom(room)
			if err != nil {
				return err
			}
			user := "@y:b"
			content, err := canonicalContent(version, fmt.Appendf(nil, `{"membership":"invite","third_party_invite":{"display_name":"y","signed":%s}}`, vouch(t, id.UserID(user), "three")))
			if err != nil {
				return err
			}
			e, err = b.prepare(&work{tx: tx, room: r}, &draft{Room: room, Sender: a.user, Type: spec.MRoomMember, StateKey: &user, Content: content})
			return err
		}))
		taken, err := a.Take(ctx, "b", []json.RawMessage{e.Event.JSON})
		ok(t, err)
		ok(t, taken[0].Err)
		if got, err := a.Membership(ctx, "@y:b", room); err != nil || got != spec.Invite {
			t.Errorf("the invited is %s, %v", got, err)
		}
		// But not that of another.
		taken, err = a.Take(ctx, "b", []json.RawMessage{withTarget(t, version, e.Event.JSON)})
		ok(t, err)
		refused(t, taken[0].Err, matrixerr.InvalidParam)
	})
}

// withTarget is an invite on the word of an identity server, as a server sends it that is not the invited user's.
func withTarget(t *testing.T, version id.RoomVersion, invite json.RawMessage) json.RawMessage {
	t.Helper()
	var fields map[string]any
	ok(t, json.Unmarshal(invite, &fields))
	fields["state_key"] = "@z:c"
	delete(fields, "signatures")
	delete(fields, "hashes")
	return signAs(t, version, "b", fields)
}
