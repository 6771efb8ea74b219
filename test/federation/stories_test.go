package federation

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// chat: two people talk, and both servers come to have the same room.
func chat(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	req := m.room("private_chat")
	req.Name, req.Invite = "a room", []id.UserID{bob.UserID}
	room := alice.NewRoom(req)
	alice.Say(room, "before bob is there")
	atAlice, atBob := alice.CaughtUp(), bob.Stream()
	atBob.UntilMember(room, event.MembershipInvite)
	bob.Join(room)
	atBob.UntilMember(room, event.MembershipJoin)
	for i := range 5 {
		atBob.UntilEvent(room, alice.Say(room, fmt.Sprint("alice ", i)))
		atAlice.UntilEvent(room, bob.Say(room, fmt.Sprint("bob ", i)))
	}
	sameState(t, room, alice, bob)
	sameHistory(t, room, alice, bob)
}

// roundTable: people of three servers talk, of which two know each other only through the room.
func roundTable(t *testing.T, servers ...*harness.Server) {
	m := meeting{host: servers[0], version: 11}
	users := []*harness.User{servers[0].Register(t, "first")}
	room := users[0].NewRoom(m.room("public_chat"))
	for i, s := range servers[1:] {
		u := s.Register(t, fmt.Sprint("next", i))
		join(t, u, room, servers[i]) // each through the one who came before
		users = append(users, u)
	}
	for _, u := range users {
		for _, other := range users {
			seesMember(t, u, room, other.UserID, event.MembershipJoin)
		}
	}
	streams := make([]*harness.Stream, len(users))
	for i, u := range users {
		streams[i] = u.CaughtUp()
	}
	for round := range 5 {
		for i, u := range users {
			said := u.Say(room, fmt.Sprintf("round %d, %d", round, i))
			for _, stream := range streams {
				stream.UntilEvent(room, said)
			}
		}
	}
	sameState(t, room, users...)
	sameHistory(t, room, users...)
}

// invite: an invite is shown with the room's name, declined, withdrawn, and taken up.
// spec: server-server-api.md#inviting-to-a-room
func invite(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	req := m.room("private_chat")
	req.Name = "the room's name"
	room := alice.NewRoom(req)
	atBob := bob.CaughtUp()

	alice.Invite(room, bob)
	shown := atBob.UntilMember(room, event.MembershipInvite).Rooms.Invite[room]
	name := harness.FindState(shown.State.Events, event.StateRoomName, "")
	if name == nil || name.Content.Raw["name"] != "the room's name" {
		t.Errorf("the invite does not show the room's name: %v", shown.State.Events)
	}
	bob.Leave(room)
	atBob.UntilMember(room, event.MembershipLeave)
	seesMember(t, alice, room, bob.UserID, event.MembershipLeave)

	alice.Invite(room, bob)
	atBob.UntilMember(room, event.MembershipInvite)
	if _, err := alice.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: bob.UserID}); err != nil {
		t.Fatal(err)
	}
	atBob.UntilMember(room, event.MembershipLeave)
	if _, err := bob.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{m.host.Name}}); err == nil {
		t.Error("bob joins by an invite that was withdrawn")
	}

	alice.Invite(room, bob)
	atBob.UntilMember(room, event.MembershipInvite)
	bob.Join(room)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	sameState(t, room, alice, bob)
}

// alias: a room is found by its alias on another server.
func alias(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	req := m.room("public_chat")
	req.RoomAliasName = alice.UserID.Localpart()
	room := alice.NewRoom(req)
	resp, err := bob.JoinRoom(t.Context(), "#"+req.RoomAliasName+":"+m.host.Name, nil)
	if err != nil || resp.RoomID != room {
		t.Fatalf("join by alias: %v, %v; want %s", resp, err, room)
	}
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	if _, err := bob.JoinRoom(t.Context(), "#nothing-of-this-name:"+m.host.Name, nil); err == nil {
		t.Error("bob joins by an alias that does not exist")
	}
}

// kickAndBan: who is kicked may come back, and who is banned may not.
func kickAndBan(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	room := alice.NewRoom(m.room("public_chat"))
	atBob := bob.CaughtUp()
	join(t, bob, room, m.host)
	atBob.UntilMember(room, event.MembershipJoin)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)

	if _, err := alice.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: bob.UserID, Reason: "go"}); err != nil {
		t.Fatal(err)
	}
	atBob.UntilMember(room, event.MembershipLeave)
	if _, err := bob.SendText(t.Context(), room, "I am not here"); err == nil {
		t.Error("bob speaks in a room that he was kicked from")
	}
	alice.Say(room, "without bob")
	join(t, bob, room, m.host)
	atBob.UntilMember(room, event.MembershipJoin)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	atBob.UntilEvent(room, alice.Say(room, "with bob again"))

	if _, err := alice.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: bob.UserID, Reason: "stay away"}); err != nil {
		t.Fatal(err)
	}
	atBob.UntilMember(room, event.MembershipLeave)
	if _, err := bob.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{m.host.Name}}); err == nil {
		t.Error("bob joins a room that he is banned from")
	} else {
		harness.WantError(t, err, 403, "M_FORBIDDEN")
	}
	if _, err := alice.UnbanUser(t.Context(), room, &mautrix.ReqUnbanUser{UserID: bob.UserID}); err != nil {
		t.Fatal(err)
	}
	join(t, bob, room, m.host)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	sameState(t, room, alice, bob)
	sameHistory(t, room, alice, bob)
}

// visibility: one who was invited and joined later reads, under each visibility, what it lets him read of what was
// said before the invite, between invite and join, and after the join. What was said before is history that his server
// has to ask for.
// spec: client-server-api/modules/history_visibility.md#server-behaviour
func visibility(t *testing.T, m meeting) {
	alice := m.host.Register(t, "alice")
	for visibility, want := range map[string][]string{
		"world_readable": {"before", "invited", "joined"},
		"shared":         {"before", "invited", "joined"},
		"invited":        {"invited", "joined"},
		"joined":         {"joined"},
	} {
		t.Run(visibility, func(t *testing.T) {
			alice, bob := alice.In(t), m.guest.Register(t, "bob")
			room := alice.NewRoom(with(m.room("private_chat"), event.StateHistoryVisibility, map[string]any{"history_visibility": visibility}))
			alice.Say(room, "before")
			atBob := bob.CaughtUp()
			alice.Invite(room, bob)
			atBob.UntilMember(room, event.MembershipInvite)
			alice.Say(room, "invited")
			bob.Join(room)
			atBob.UntilMember(room, event.MembershipJoin)
			atBob.UntilEvent(room, alice.Say(room, "joined"))
			await(t, fmt.Sprintf("bob reads %q", want), func() (bool, string) {
				got := harness.Bodies(bob.Page(room, "", mautrix.DirectionBackward, 50))
				slices.Reverse(got)
				return slices.Equal(got, want), fmt.Sprintf("%q", got)
			})
		})
	}
}

// redaction: what is redacted on one server is empty on the other.
func redaction(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	room := alice.NewRoom(m.room("public_chat"))
	join(t, bob, room, m.host)
	atBob, atAlice := bob.CaughtUp(), alice.CaughtUp()
	ofAlice, ofBob := alice.Say(room, "oops"), bob.Say(room, "ouch")
	atBob.UntilEvent(room, ofAlice)
	atAlice.UntilEvent(room, ofBob)
	atBob.UntilEvent(room, alice.Redact(room, ofAlice, "a slip"))
	atBob.UntilEvent(room, alice.Redact(room, ofBob, "as the room's admin"))
	for _, u := range []*harness.User{alice, bob} {
		for _, target := range []id.EventID{ofAlice, ofBob} {
			if evt := u.Event(room, target); len(evt.Content.Raw) != 0 || evt.Unsigned.RedactedBecause == nil {
				t.Errorf("%s still reads %v of a redacted event (redacted because %v)", u.UserID, evt.Content.Raw, evt.Unsigned.RedactedBecause)
			}
		}
	}
}

// ephemeral: typing, receipts and messages to devices reach the other server.
// spec: server-server-api.md#edus
func ephemeral(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	room := alice.NewRoom(m.room("public_chat"))
	join(t, bob, room, m.host)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	for _, c := range []struct{ from, to *harness.User }{{alice, bob}, {bob, alice}} {
		stream := c.to.CaughtUp()
		said := c.from.Say(room, "read this")
		stream.UntilEvent(room, said)
		back := c.from.CaughtUp()
		if _, err := c.from.UserTyping(t.Context(), room, true, time.Minute); err != nil {
			t.Fatal(err)
		}
		stream.Until("typing of "+string(c.from.UserID), func(resp *mautrix.RespSync) bool {
			typing := find(joined(resp, room).Ephemeral.Events, event.EphemeralEventTyping)
			return typing != nil && slices.Contains(typing.Content.Raw["user_ids"].([]any), any(string(c.from.UserID)))
		})
		if err := c.to.SendReceipt(t.Context(), room, said, event.ReceiptTypeRead, struct{}{}); err != nil {
			t.Fatal(err)
		}
		back.Until("receipt of "+string(c.to.UserID), func(resp *mautrix.RespSync) bool {
			receipt := find(joined(resp, room).Ephemeral.Events, event.EphemeralEventReceipt)
			return receipt != nil && receipt.Content.Raw[string(said)] != nil
		})
		kind := event.Type{Type: "org.example.message", Class: event.ToDeviceEventType}
		if _, err := c.from.SendToDevice(t.Context(), kind, &mautrix.ReqSendToDevice{Messages: map[id.UserID]map[id.DeviceID]*event.Content{
			c.to.UserID: {c.to.DeviceID: {Raw: map[string]any{"for": "you alone"}}},
		}}); err != nil {
			t.Fatal(err)
		}
		stream.Until("message to a device of "+string(c.to.UserID), func(resp *mautrix.RespSync) bool {
			evt := find(resp.ToDevice.Events, kind)
			return evt != nil && evt.Sender == c.from.UserID && evt.Content.Raw["for"] == "you alone"
		})
	}
}

// joined is the room's part of an answer, empty where it has none.
func joined(resp *mautrix.RespSync, room id.RoomID) *mautrix.SyncJoinedRoom {
	if r := resp.Rooms.Join[room]; r != nil {
		return r
	}
	return &mautrix.SyncJoinedRoom{}
}

func find(events []*event.Event, kind event.Type) *event.Event {
	for _, evt := range events {
		if evt.Type.Type == kind.Type {
			return evt
		}
	}
	return nil
}

// knock: one knocks and is let in, another one is turned away.
// spec: server-server-api.md#knocking-rooms
func knock(t *testing.T, m meeting) {
	alice, bob, carol := m.host.Register(t, "alice"), m.guest.Register(t, "bob"), m.guest.Register(t, "carol")
	req := with(m.room("private_chat"), event.StateJoinRules, map[string]any{"join_rule": "knock"})
	req.Name = "knock here"
	room := alice.NewRoom(req)
	atBob, atCarol := bob.CaughtUp(), carol.CaughtUp()
	for _, u := range []*harness.User{bob, carol} {
		if _, err := u.KnockRoom(t.Context(), string(room), &mautrix.ReqKnockRoom{Via: []string{m.host.Name}, Reason: "let me in"}); err != nil {
			t.Fatalf("%s knocks: %v", u.UserID, err)
		}
		seesMember(t, alice, room, u.UserID, event.MembershipKnock)
	}
	shown := atBob.UntilMember(room, event.MembershipKnock).Rooms.Knock[room]
	if name := harness.FindState(shown.State.Events, event.StateRoomName, ""); name == nil || name.Content.Raw["name"] != "knock here" {
		t.Errorf("one who knocks does not see the room's name: %v", shown.State.Events)
	}
	atCarol.UntilMember(room, event.MembershipKnock)

	alice.Invite(room, bob)
	atBob.UntilMember(room, event.MembershipInvite)
	bob.Join(room)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	if _, err := alice.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: carol.UserID}); err != nil {
		t.Fatal(err)
	}
	atCarol.UntilMember(room, event.MembershipLeave)
	sameState(t, room, alice, bob)
}

// restricted: members of one room may join another.
// spec: server-server-api.md#restricted-rooms
func restricted(t *testing.T, m meeting) {
	alice, bob := m.host.Register(t, "alice"), m.guest.Register(t, "bob")
	space := alice.NewRoom(m.room("public_chat"))
	room := alice.NewRoom(with(m.room("private_chat"), event.StateJoinRules, map[string]any{
		"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": space}},
	}))
	_, err := bob.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{m.host.Name}})
	if err == nil {
		t.Fatal("bob joins a restricted room without being in the space")
	}
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	join(t, bob, space, m.host)
	seesMember(t, alice, space, bob.UserID, event.MembershipJoin)
	join(t, bob, room, m.host)
	seesMember(t, alice, room, bob.UserID, event.MembershipJoin)
	var content map[string]any
	if err := alice.StateEvent(t.Context(), room, event.StateMember, string(bob.UserID), &content); err != nil {
		t.Fatal(err)
	}
	if content["join_authorised_via_users_server"] != string(alice.UserID) {
		t.Errorf("bob's join was authorised by %v; want %s", content["join_authorised_via_users_server"], alice.UserID)
	}
	// Another of the guest's users is let in, too, now that both servers are in the room.
	carol := m.guest.Register(t, "carol")
	join(t, carol, space, m.host)
	join(t, carol, room, m.host)
	sameState(t, room, alice, bob, carol)
	sameHistory(t, room, alice, bob)
}
