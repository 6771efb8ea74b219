package roomserver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// TestEventsNobodyMaySend has events that are wrong whoever sends them.
func TestEventsNobodyMaySend(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{})
		send := func(eventType, content string) error {
			_, err := s.Send(ctx, SendRequest{Room: room, Sender: alice, Type: eventType, StateKey: new(string), Content: []byte(content)})
			return err
		}
		refused(t, send(spec.MRoomCreate, `{}`), matrixerr.BadState)
		refused(t, send(spec.MRoomPowerLevels, fmt.Sprintf(`{"users":{%q:100}}`, alice)), matrixerr.BadJSON)
		ok(t, send(spec.MRoomPowerLevels, fmt.Sprintf(`{"users":{%q:100}}`, bob)))
	})
}

// TestRedactElsewhere redacts events that are not here: one with the power to may.
func TestRedactElsewhere(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room, other := s.mustCreate(t, CreateRequest{Preset: "public_chat"}), s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		unknown := id.EventID("$" + strings.Repeat("x", 43))
		redact := func(user id.UserID, event id.EventID) error {
			_, err := s.Redact(ctx, RedactRequest{Room: room, Sender: user, Event: event})
			return err
		}
		ok(t, redact(alice, unknown))
		refused(t, redact(bob, unknown), matrixerr.NotFound)
		refused(t, redact(alice, s.mustSend(t, other, alice, "in another room")), matrixerr.NotFound)
	})
}

// TestClientsDontAuthorise has a user say who let them in: nobody asked for that.
func TestClientsDontAuthorise(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat"})
		key := string(alice)
		sent, err := s.Send(context.Background(), SendRequest{Room: room, Sender: alice, Type: spec.MRoomMember, StateKey: &key,
			Content: []byte(`{"membership":"join","displayname":"A","join_authorised_via_users_server":"unused"}`)})
		ok(t, err)
		raw, err := s.Event(context.Background(), room, sent, Reader{User: alice})
		ok(t, err)
		if text := string(raw); strings.Contains(text, "join_authorised") || !strings.Contains(text, `"displayname":"A"`) {
			t.Errorf("alice's membership is %s", text)
		}
	})
}
