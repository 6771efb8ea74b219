package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"parley/federation/remote"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/testserver/testnet"
)

// FuzzAnswers has a server answer anything at all to each question: it is an answer or none, and has no more events
// than were asked for.
func FuzzAnswers(f *testing.F) {
	a := newNode(f, testnet.New(f), "a.org", nil)
	var answer string
	a.AnswerBy(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: io.NopCloser(strings.NewReader(answer))}, nil
	})
	const b, room, event = id.ServerName("192.0.2.1"), id.RoomID("!r:b.org"), id.EventID("$e") // an address, which needs no finding
	const limit = 3
	bounded := func(events []json.RawMessage, err error) error {
		if len(events) > limit {
			return errors.New("there are more events than were asked for")
		}
		return err
	}
	pdu := json.RawMessage(`{}`)
	asks := []func(context.Context) error{
		func(ctx context.Context) error { _, err := a.MakeJoin(ctx, b, room, "@u:a.org", nil); return err },
		func(ctx context.Context) error { _, err := a.SendJoin(ctx, b, room, event, pdu, false); return err },
		func(ctx context.Context) error { _, err := a.SendJoin(ctx, b, room, event, pdu, true); return err },
		func(ctx context.Context) error { _, err := a.SendKnock(ctx, b, room, event, pdu); return err },
		func(ctx context.Context) error {
			_, err := a.Invite(ctx, b, room, event, &serverapi.Invite{RoomVersion: "10", Event: pdu})
			return err
		},
		func(ctx context.Context) error { _, err := a.StateIDs(ctx, b, room, event); return err },
		func(ctx context.Context) error { _, err := a.State(ctx, b, room, event); return err },
		func(ctx context.Context) error {
			return bounded(a.Backfill(ctx, b, room, []id.EventID{event}, limit))
		},
		func(ctx context.Context) error {
			return bounded(a.MissingEvents(ctx, b, room, serverapi.MissingEvents{Latest: []id.EventID{event}, Limit: limit}))
		},
		func(ctx context.Context) error { _, err := a.Event(ctx, b, event); return err },
		func(ctx context.Context) error { _, err := a.EventAuth(ctx, b, room, event); return err },
		func(ctx context.Context) error { _, err := a.Hierarchy(ctx, b, room, false); return err },
		func(ctx context.Context) error {
			_, err := a.PublicRooms(ctx, b, serverapi.PublicRoomsRequest{})
			return err
		},
		func(ctx context.Context) error { _, err := a.UserDevices(ctx, "@u:192.0.2.1"); return err },
		func(ctx context.Context) error { _, err := a.QueryKeys(ctx, b, nil); return err },
		func(ctx context.Context) error { _, err := a.ClaimKeys(ctx, b, nil); return err },
		func(ctx context.Context) error {
			_, err := a.SendTransaction(ctx, b, "1", &serverapi.Transaction{})
			return err
		},
	}
	for i, text := range []string{
		`{"room_version":"10","event":{"type":"m.room.member","sender":"@u:a.org"}}`,
		`{"event":{},"state":[{}],"auth_chain":[{}]}`,
		`{"event":{},"state":[{}],"auth_chain":[],"members_omitted":true,"servers_in_room":["b.org"]}`,
		`{"knock_room_state":[{"type":"m.room.name"}]}`,
		`{"event":{"signatures":{}}}`,
		`{"pdu_ids":["$a"],"auth_chain_ids":["$b"]}`,
		`{"pdus":[{}],"auth_chain":[{}]}`,
		`{"origin":"b.org","origin_server_ts":1,"pdus":[{},{},{},{}]}`,
		`{"events":[{},{},{},{}]}`,
		`{"pdus":[{}]}`,
		`{"auth_chain":[{}]}`,
		`{"room":{"room_id":"!r:b.org","children_state":[]},"children":[{}],"inaccessible_children":["!s:b.org"]}`,
		`{"chunk":[{"room_id":"!r:b.org"}],"next_batch":"n","total_room_count_estimate":1}`,
		`{"user_id":"@u:b.org","stream_id":1,"devices":[{"device_id":"D","keys":{}}],"master_key":{}}`,
		`{"device_keys":{"@u:b.org":{"D":{}}},"master_keys":{"@u:b.org":{}}}`,
		`{"one_time_keys":{"@u:b.org":{"D":{"signed_curve25519:A":{}}}}}`,
		`{"pdus":{"$e":{"error":"no"}}}`,
	} {
		f.Add(byte(i), text)
	}
	f.Fuzz(func(t *testing.T, ask byte, text string) {
		answer = text
		if err := asks[int(ask)%len(asks)](t.Context()); err != nil && !errors.Is(err, remote.ErrAnswer) {
			t.Errorf("%q: %v", answer, err)
		}
	})
}
