package roomserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

// policySeed is that of a policy server's key for rooms.
var policySeed = bytes.Repeat([]byte("p"), ed25519.SeedSize)

// SignByPolicy signs what has no spam in it.
func (l *wire) SignByPolicy(_ context.Context, server id.ServerName, pdu json.RawMessage) (serverapi.Signatures, error) {
	if _, err := l.to(server, "policy"); err != nil {
		return nil, err
	}
	if bytes.Contains(pdu, []byte("spam")) {
		return nil, matrixerr.New(matrixerr.Forbidden, "This looks like spam.")
	}
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(l.version))
	if err != nil {
		return nil, err
	}
	redacted, err := v.RedactEventJSON(pdu)
	if err != nil {
		return nil, err
	}
	signed, err := gomatrixserverlib.SignJSON(string(server), policyKey, ed25519.NewKeyFromSeed(policySeed), redacted)
	if err != nil {
		return nil, err
	}
	signature := gjson.GetBytes(signed, "signatures").Get(gjson.Escape(string(server))).Get(gjson.Escape(policyKey)).Str
	if l.forges {
		signature = base64.RawStdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))
	}
	return serverapi.Signatures{server: {policyKey: signature}}, nil
}

func (l *wire) times(what string) (n int) {
	for _, asked := range l.asked {
		if asked == what {
			n++
		}
	}
	return n
}

func TestPolicyServer(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "6", "11", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b", "c", "d")
		a, b, c := m["a"], m["b"], m["c"]
		for _, l := range links {
			l.version = version
		}
		room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version, Preset: "public_chat"})
		ok(t, err)
		send := func(n *node, eventType string, stateKey *string, content string) error {
			_, err := n.Send(ctx, SendRequest{Room: room, Sender: n.user, Type: eventType, StateKey: stateKey, Content: []byte(content)})
			return err
		}
		key := base64.RawStdEncoding.EncodeToString(ed25519.NewKeyFromSeed(policySeed).Public().(ed25519.PublicKey))
		policy := fmt.Sprintf(`{"via":"c","public_keys":{"ed25519":%q}}`, key)
		// A policy server that is not in the room is none; one that is does not sign who it is.
		ok(t, send(a, mRoomPolicy, new(string), policy))
		ok(t, send(a, "m.room.message", nil, `{"body":"spam"}`))
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		ok(t, c.Join(ctx, MemberRequest{Room: room, Sender: c.user, Via: []id.ServerName{"a"}}))
		m.carry(t, "a", "b", room)
		if n := links["a"].times("policy c"); n != 0 {
			t.Errorf("asked %d times", n)
		}
		ok(t, send(a, mRoomPolicy, new(string), policy[:len(policy)-1]+`,"more":1}`))
		if n := links["a"].times("policy c"); n != 0 {
			t.Errorf("asked %d times", n)
		}

		ok(t, send(a, "m.room.message", nil, `{"body":"hello"}`))
		last := a.events(t, room)[len(a.events(t, room))-1]
		if n := links["a"].times("policy c"); n != 1 || !gjson.GetBytes(last.JSON, "signatures.c").Exists() {
			t.Errorf("asked %d times; the last event is %s", n, last.JSON)
		}
		before := len(a.events(t, room))
		refused(t, send(a, "m.room.message", nil, `{"body":"spam"}`), matrixerr.Forbidden)
		refused(t, send(a, "m.room.topic", new(string), `{"topic":"spam"}`), matrixerr.Forbidden)
		refused(t, a.Kick(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user, Reason: "spam"}), matrixerr.Forbidden)
		refused(t, a.Invite(ctx, MemberRequest{Room: room, Sender: a.user, Target: "@u:d", Reason: "spam"}), matrixerr.Forbidden)
		if n := len(a.events(t, room)); n != before || links["a"].times("invite d") != 0 {
			t.Errorf("%d events were sent after all", n-before)
		}
		txn := Txn{DeviceNID: 1, ID: "1"}
		first, err := a.Send(ctx, SendRequest{Room: room, Sender: a.user, Type: "m.room.message", Content: []byte(`{}`), Txn: txn})
		ok(t, err)
		again, err := a.Send(ctx, SendRequest{Room: room, Sender: a.user, Type: "m.room.message", Content: []byte(`{}`), Txn: txn})
		if ok(t, err); again != first {
			t.Error("the same request became two events")
		}
		m.carry(t, "a", "b", room)
		if n := links["b"].times("policy c"); n != 0 {
			t.Errorf("b has asked %d times for what is signed", n)
		}

		// A server that has not asked is asked for: who is refused is not shown.
		for _, body := range []string{"unasked", "spam"} {
			fields := map[string]any{}
			ok(t, json.Unmarshal(last.JSON, &fields))
			delete(fields, "signatures")
			delete(fields, "hashes")
			fields["content"], fields["event_id"] = map[string]any{"body": body}, "$"+body+":a"
			if version != "1" {
				delete(fields, "event_id")
			}
			raw := signAs(t, version, "a", fields)
			taken, err := b.Take(ctx, "a", []json.RawMessage{raw})
			ok(t, err)
			ok(t, taken[0].Err)
			row, err := storage.Get(ctx, b.db, func(tx *storage.Tx) (storage.Event, error) { return tx.GetEvent(taken[0].Event) })
			want := storage.Accepted
			if body == "spam" {
				want = storage.SoftFailed
			}
			if ok(t, err); row.Status != want {
				t.Errorf("what says %s has status %d", body, row.Status)
			}
		}
		if n := links["b"].times("policy c"); n != 2 {
			t.Errorf("b has asked %d times", n)
		}

		// Whoever comes has not asked: who lets them in does.
		ok(t, m["d"].Join(ctx, MemberRequest{Room: room, Sender: m["d"].user, Via: []id.ServerName{"a"}}))
		if i := slices.IndexFunc(a.events(t, room), func(e storage.TimelineEvent) bool {
			return gjson.GetBytes(e.JSON, "sender").Str == "@u:d" && gjson.GetBytes(e.JSON, "signatures.c").Exists()
		}); i < 0 {
			t.Error("the join was not signed")
		}
		links["a"].forges = true
		refused(t, send(a, "m.room.message", nil, `{"body":"hello"}`), matrixerr.Forbidden)
		links["a"].forges, links["a"].dead["c"] = false, true
		refused(t, send(a, "m.room.message", nil, `{"body":"hello"}`), matrixerr.Unknown)
		links["a"].dead["c"] = false

		// Many at once, of which each changes what the others follow.
		errs := make(chan error)
		for i := range 8 {
			go func() { errs <- send(a, "m.room.message", nil, fmt.Sprintf(`{"body":"%d"}`, i)) }()
		}
		for range 8 {
			ok(t, <-errs)
		}
		if _, err := a.Upgrade(ctx, a.user, room, version, nil); err != nil {
			t.Errorf("upgrade: %v", err)
		}
		if e, err := a.StateEvent(ctx, room, "m.room.tombstone", "", true, Reader{User: a.user}); err != nil {
			t.Errorf("the tombstone: %s, %v", e, err)
		}
		// It can be done without.
		ok(t, send(a, mRoomPolicy, new(string), `{}`))
		ok(t, send(a, "m.room.message", nil, `{"body":"spam"}`))
		if got, err := a.Membership(ctx, "@u:d", room); err != nil || got != spec.Join {
			t.Errorf("d is %s, %v", got, err)
		}
	})
}
