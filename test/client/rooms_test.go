package client

import (
	"net/http"
	"slices"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestRooms is the chapter on making rooms and on who is in them.
// spec: client-server-api/index.md#room-membership
func TestRooms(t *testing.T) {
	harness.Stories(t,
		presets, creationContent, initialState, everyRoomVersion, creatorsOfVersion12, createRefused,
		inviteAndJoin, inviteRefused, leaveAndRejoin, declineInvite, kickAndBan, knock, restricted, forget,
		powerLevelsDeny, powerLevelsGrant, state, stateRefused, members, aliases, upgrade, joinedRooms)
}

// spec: client-server-api/index.md#post_matrixclientv3createroom
func presets(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	for _, c := range []struct {
		preset, joinRule, history, guests string
	}{
		{"private_chat", "invite", "shared", "can_join"},
		{"trusted_private_chat", "invite", "shared", "can_join"},
		{"public_chat", "public", "shared", "forbidden"},
	} {
		t.Run(c.preset, func(t *testing.T) {
			alice := alice.In(t)
			room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: c.preset, Name: "the name", Topic: "the topic", Invite: []id.UserID{bob.UserID}})
			equal[any](t, "join_rule", alice.StateContent(room, event.StateJoinRules, "")["join_rule"], c.joinRule)
			equal[any](t, "history_visibility", alice.StateContent(room, event.StateHistoryVisibility, "")["history_visibility"], c.history)
			guests := alice.Do("GET", roomPath("v3", room, "state", "m.room.guest_access"), nil)
			if c.guests != "forbidden" || guests.Status != http.StatusNotFound { // without the event they are forbidden, too
				equal(t, "guest_access", guests.WantOK(t).Get("guest_access").String(), c.guests)
			}
			equal[any](t, "name", alice.StateContent(room, event.StateRoomName, "")["name"], "the name")
			equal[any](t, "topic", alice.StateContent(room, event.StateTopic, "")["topic"], "the topic")
			equal[any](t, "bob's membership", alice.StateContent(room, event.StateMember, bob.UserID.String())["membership"], "invite")
			equal[any](t, "alice's membership", alice.StateContent(room, event.StateMember, alice.UserID.String())["membership"], "join")
		})
	}
	// Without a preset, the visibility decides.
	private := alice.NewRoom(&mautrix.ReqCreateRoom{})
	equal[any](t, "join_rule", alice.StateContent(private, event.StateJoinRules, "")["join_rule"], "invite")
	open := alice.NewRoom(&mautrix.ReqCreateRoom{Visibility: "public"})
	equal[any](t, "join_rule", alice.StateContent(open, event.StateJoinRules, "")["join_rule"], "public")
}

func creationContent(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{CreationContent: map[string]any{"m.federate": false, "type": "org.example.kind"}})
	create := alice.StateContent(room, event.StateCreate, "")
	equal[any](t, "m.federate", create["m.federate"], false)
	equal[any](t, "type", create["type"], "org.example.kind")
}

func initialState(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	key := "a key"
	room := alice.NewRoom(&mautrix.ReqCreateRoom{
		Preset: "private_chat",
		Name:   "from the name",
		InitialState: []*event.Event{
			{Type: event.StateJoinRules, Content: event.Content{Raw: map[string]any{"join_rule": "public"}}},
			{Type: event.StateRoomName, Content: event.Content{Raw: map[string]any{"name": "from initial_state"}}},
			{Type: custom("thing", event.StateEventType), StateKey: &key, Content: event.Content{Raw: map[string]any{"number": 7}}},
		},
		PowerLevelOverride: &event.PowerLevelsEventContent{Users: map[id.UserID]int{bob.UserID: 50}, EventsDefault: 10},
	})
	// initial_state overrules the preset, and name overrules initial_state.
	equal[any](t, "join_rule", alice.StateContent(room, event.StateJoinRules, "")["join_rule"], "public")
	equal[any](t, "name", alice.StateContent(room, event.StateRoomName, "")["name"], "from the name")
	equal[any](t, "the custom state", alice.StateContent(room, custom("thing", event.StateEventType), key)["number"], 7.0)
	levels := alice.StateContent(room, event.StatePowerLevels, "")
	equal[any](t, "bob's power", levels["users"].(map[string]any)[bob.UserID.String()], 50.0)
	equal[any](t, "events_default", levels["events_default"], 10.0)
}

// spec: rooms/index.md#complete-list-of-room-versions
func everyRoomVersion(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	capabilities, err := alice.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the default room version", capabilities.RoomVersions.Default, "12")
	for _, version := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			alice, bob := alice.In(t), bob.In(t)
			if !capabilities.RoomVersions.IsStable(version) {
				t.Errorf("version %s is not told to be stable", version)
			}
			room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: id.RoomVersion(version)})
			equal[any](t, "room_version", createContent(t, alice, room)["room_version"], version)
			bob.Join(room)
			said := bob.Say(room, "hello")
			alice.Redact(room, said, "because")
			if body := contents(alice.Event(room, said))["body"]; body != nil {
				t.Errorf("the redacted body is %v", body)
			}
			equal(t, "the room's messages", len(alice.Page(room, "", mautrix.DirectionBackward, 100)) > 7, true)
		})
	}
}

// createContent is the content of the room's create event, in which version 1 may be left out.
func createContent(t *testing.T, u *harness.User, room id.RoomID) map[string]any {
	t.Helper()
	content := u.StateContent(room, event.StateCreate, "")
	if content["room_version"] == nil {
		content["room_version"] = "1"
	}
	return content
}

// spec: rooms/v12.md#event-format
func creatorsOfVersion12(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{
		Preset: "private_chat", RoomVersion: "12", Invite: []id.UserID{bob.UserID, carol.UserID},
		CreationContent: map[string]any{"additional_creators": []id.UserID{bob.UserID}},
	})
	create, err := alice.FullStateEvent(t.Context(), room, event.StateCreate, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(room)[1:], string(create.ID)[1:]; got != want {
		t.Errorf("the room is !%s, and its create event is $%s", got, want)
	}
	bob.Join(room)
	carol.Join(room)
	if users, ok := alice.StateContent(room, event.StatePowerLevels, "")["users"].(map[string]any); ok && users[alice.UserID.String()] != nil {
		t.Errorf("the creator is named in the power levels %v", users)
	}
	// A creator's power is above every number, so that no one can demote bob.
	_, err = alice.SendStateEvent(t.Context(), room, event.StatePowerLevels, "", map[string]any{"users": map[id.UserID]int{bob.UserID: 0}})
	if err == nil {
		t.Error("a creator was put into the power levels")
	}
	bob.SetState(room, event.StateTombstone, "", map[string]any{"body": "gone", "replacement_room": "!other"})
	_, err = carol.SendStateEvent(t.Context(), room, event.StateRoomName, "", map[string]any{"name": "mine"})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

func createRefused(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	alias := "taken-" + suffix()
	alice.NewRoom(&mautrix.ReqCreateRoom{RoomAliasName: alias})
	for _, c := range []struct {
		name    string
		body    any
		status  int
		errcode string
	}{
		{"a room version of nobody", map[string]any{"room_version": "org.example.none"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"an alias that is taken", map[string]any{"room_alias_name": alias}, 400, "M_ROOM_IN_USE"},
		{"an invite of no user", map[string]any{"invite": []string{"nobody"}}, 400, badValue},
		{"an invite by email", map[string]any{"invite_3pid": []any{map[string]any{
			"id_server": "id.example.org", "id_access_token": "x", "medium": "email", "address": "bob@example.org"}}}, 403, "M_FORBIDDEN|M_THREEPID_DENIED"},
		{"state that the rules refuse", map[string]any{"power_level_content_override": map[string]any{"users": map[string]any{"nobody": 3}}}, 400, "M_INVALID_ROOM_STATE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv.Do(t, "POST", harness.Path("v3", "createRoom"), alice.AccessToken, c.body).WantError(t, c.status, c.errcode)
		})
	}
}

func inviteAndJoin(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	aliceSees, bobSees := alice.CaughtUp(), bob.CaughtUp()
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Name: "by invitation"})
	_, err := bob.JoinRoomByID(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = alice.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: bob.UserID, Reason: "come"})
	if err != nil {
		t.Fatal(err)
	}

	// The invited sees enough of the room to decide.
	// spec: client-server-api/index.md#stripped-state
	stripped := bobSees.UntilMember(room, event.MembershipInvite).Rooms.Invite[room].State.Events
	for _, kind := range []event.Type{event.StateCreate, event.StateRoomName, event.StateJoinRules} {
		if harness.FindState(stripped, kind, "") == nil {
			t.Errorf("no %s in the invite's stripped state", kind.Type)
		}
	}
	invite := harness.FindState(stripped, event.StateMember, bob.UserID.String())
	if invite == nil {
		t.Fatal("no membership of the invited in the stripped state")
	}
	equal[any](t, "the reason", contents(invite)["reason"], "come")

	bob.Join(room)
	joined := bobSees.UntilMember(room, event.MembershipJoin)
	if joined.Rooms.Invite[room] != nil {
		t.Error("the room is joined, and still among the invites")
	}
	if harness.FindState(append(harness.State(joined, room), harness.Timeline(joined, room)...), event.StateRoomName, "") == nil {
		t.Error("the joined room came without its name")
	}
	aliceSees.Until("bob's join", func(resp *mautrix.RespSync) bool {
		evt := harness.FindState(harness.Timeline(resp, room), event.StateMember, bob.UserID.String())
		return evt != nil && contents(evt)["membership"] == "join"
	})
	// Joining again is no news.
	bob.Join(room)
}

func inviteRefused(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoomWith(bob)

	_, err := carol.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: carol.UserID})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = alice.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: bob.UserID})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	alice.Do("POST", roomPath("v3", room, "invite"), map[string]any{}).WantError(t, 400, missingKey)
	alice.Do("POST", roomPath("v3", room, "invite"), map[string]any{"user_id": "not a user"}).WantError(t, 400, badValue)
}

func leaveAndRejoin(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(public("come and go"))
	bob.Join(room)
	seen := bob.CaughtUp()
	before := bob.Say(room, "before")
	seen.UntilEvent(room, before)
	bob.Leave(room)
	left := seen.UntilMember(room, event.MembershipLeave)
	if evt := harness.FindState(harness.Timeline(left, room), event.StateMember, bob.UserID.String()); evt == nil {
		t.Error("the leaving is not in the left room's timeline")
	}
	if left.Rooms.Join[room] != nil {
		t.Error("the left room is still joined")
	}
	_, err := bob.SendText(t.Context(), room, "from outside")
	harness.WantError(t, err, 403, "M_FORBIDDEN")

	between := alice.Say(room, "between")
	resp := seen.Next()
	if resp.Rooms.Join[room] != nil || harness.Find(harness.Timeline(resp, room), between) != nil {
		t.Error("a message of after the leaving came to the one who left")
	}

	bob.Join(room)
	seen.UntilMember(room, event.MembershipJoin)
	after := alice.Say(room, "after")
	seen.UntilEvent(room, after)
	// The history is shared: what was said in between can be read now.
	if got, want := harness.Bodies(bob.Page(room, "", mautrix.DirectionForward, 5)), []string{"before", "between", "after"}; !slices.Equal(got, want) {
		t.Errorf("bob reads %q; want %q", got, want)
	}
	equal[any](t, "bob's membership", alice.StateContent(room, event.StateMember, bob.UserID.String())["membership"], "join")
}

func declineInvite(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{bob.UserID}})
	seen := bob.Stream()
	if seen.Next().Rooms.Invite[room] == nil {
		t.Fatal("no invite in the initial sync")
	}
	bob.Leave(room)
	seen.UntilMember(room, event.MembershipLeave)
	if bob.CaughtUp().Next().Rooms.Invite[room] != nil {
		t.Error("the declined invite is still there")
	}
	_, err := bob.JoinRoomByID(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

func kickAndBan(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoom(public("strict"))
	bob.Join(room)
	carol.Join(room)
	seen := bob.CaughtUp()

	_, err := carol.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: bob.UserID})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = carol.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: bob.UserID})
	harness.WantError(t, err, 403, "M_FORBIDDEN")

	if _, err = alice.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: bob.UserID, Reason: "out"}); err != nil {
		t.Fatal(err)
	}
	left := seen.UntilMember(room, event.MembershipLeave)
	kicked := harness.FindState(harness.Timeline(left, room), event.StateMember, bob.UserID.String())
	if kicked == nil {
		t.Fatal("the kick is not in the left room's timeline")
	}
	equal(t, "the kick's sender", kicked.Sender, alice.UserID)
	equal[any](t, "the reason", contents(kicked)["reason"], "out")
	bob.Join(room)

	if _, err = alice.BanUser(t.Context(), room, &mautrix.ReqBanUser{UserID: bob.UserID, Reason: "for good"}); err != nil {
		t.Fatal(err)
	}
	_, err = bob.JoinRoomByID(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = alice.InviteUser(t.Context(), room, &mautrix.ReqInviteUser{UserID: bob.UserID})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	if _, err = alice.UnbanUser(t.Context(), room, &mautrix.ReqUnbanUser{UserID: bob.UserID}); err != nil {
		t.Fatal(err)
	}
	equal[any](t, "bob's membership", alice.StateContent(room, event.StateMember, bob.UserID.String())["membership"], "leave")
	_, err = alice.UnbanUser(t.Context(), room, &mautrix.ReqUnbanUser{UserID: bob.UserID})
	harness.WantError(t, err, 403, "M_BAD_STATE|M_FORBIDDEN")
	bob.Join(room)
}

// spec: client-server-api/index.md#knocking-on-rooms
func knock(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Name: "knock first"})
	_, err := bob.KnockRoom(t.Context(), room.String(), &mautrix.ReqKnockRoom{})
	harness.WantError(t, err, 403, "M_FORBIDDEN")

	alice.SetState(room, event.StateJoinRules, "", map[string]any{"join_rule": "knock"})
	aliceSees, bobSees := alice.CaughtUp(), bob.CaughtUp()
	_, err = bob.JoinRoomByID(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	if _, err = bob.KnockRoom(t.Context(), room.String(), &mautrix.ReqKnockRoom{Reason: "let me in"}); err != nil {
		t.Fatal(err)
	}
	stripped := bobSees.UntilMember(room, event.MembershipKnock).Rooms.Knock[room].State.Events
	if harness.FindState(stripped, event.StateRoomName, "") == nil {
		t.Error("no name in the knock's stripped state")
	}
	aliceSees.Until("the knock", func(resp *mautrix.RespSync) bool {
		evt := harness.FindState(harness.Timeline(resp, room), event.StateMember, bob.UserID.String())
		return evt != nil && contents(evt)["membership"] == "knock" && contents(evt)["reason"] == "let me in"
	})
	alice.Invite(room, bob)
	resp := bobSees.UntilMember(room, event.MembershipInvite)
	if resp.Rooms.Knock[room] != nil {
		t.Error("the room is among the invites, and still among the knocks")
	}
	bob.Join(room)
}

// spec: client-server-api/index.md#restricted-rooms
func restricted(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	club := alice.NewRoom(public("the club"))
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", InitialState: []*event.Event{{
		Type: event.StateJoinRules,
		Content: event.Content{Raw: map[string]any{
			"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": club}},
		}},
	}}})
	_, err := bob.JoinRoomByID(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	bob.Join(club)
	bob.Join(room)
	member := alice.StateContent(room, event.StateMember, bob.UserID.String())
	equal[any](t, "who vouched for bob", member["join_authorised_via_users_server"], alice.UserID.String())
	bob.Say(room, "thank you")
}

func forget(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	_, err := bob.ForgetRoom(t.Context(), room)
	harness.WantError(t, err, 400, "M_UNKNOWN")
	bob.Leave(room)
	bob.Page(room, "", mautrix.DirectionBackward, 50) // one who left may still read what was
	if _, err = bob.ForgetRoom(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	_, err = bob.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, nil, 10)
	harness.WantError(t, err, 403, "M_FORBIDDEN")

	everything := bob.Stream()
	everything.FilterID = `{"room":{"include_leave":true}}`
	if everything.Next().Rooms.Leave[room] != nil {
		t.Error("the forgotten room is among the left ones")
	}
}

func powerLevelsDeny(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	_, err := bob.SendStateEvent(t.Context(), room, event.StateRoomName, "", map[string]any{"name": "bob's"})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = bob.SendStateEvent(t.Context(), room, event.StatePowerLevels, "", map[string]any{"users": map[id.UserID]int{bob.UserID: 100}})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	said := alice.Say(room, "mine to remove")
	_, err = bob.RedactEvent(t.Context(), room, said)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	// Nobody writes another's membership or another's own state.
	_, err = bob.SendStateEvent(t.Context(), room, event.StateMember, alice.UserID.String(), map[string]any{"membership": "join"})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	_, err = alice.SendStateEvent(t.Context(), room, custom("own", event.StateEventType), bob.UserID.String(), map[string]any{})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

func powerLevelsGrant(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	levels := alice.StateContent(room, event.StatePowerLevels, "")
	users, _ := levels["users"].(map[string]any)
	if users == nil {
		users = map[string]any{}
	}
	users[bob.UserID.String()] = 50
	levels["users"] = users
	alice.SetState(room, event.StatePowerLevels, "", levels)
	bob.SetState(room, event.StateRoomName, "", map[string]any{"name": "bob's"})
	equal[any](t, "the name", alice.StateContent(room, event.StateRoomName, "")["name"], "bob's")

	// events_default above one's own level silences.
	delete(users, bob.UserID.String())
	levels["events_default"] = 20
	alice.SetState(room, event.StatePowerLevels, "", levels)
	_, err := bob.SendText(t.Context(), room, "unheard")
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	alice.Say(room, "heard")
}

func state(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	room := alice.NewRoom(nil)
	seen := alice.CaughtUp()
	kind := custom("note", event.StateEventType)
	first := alice.SetState(room, kind, "", map[string]any{"text": "one"})
	equal(t, "the event of the same state again", alice.SetState(room, kind, "", map[string]any{"text": "one"}), first)
	second := alice.SetState(room, kind, "", map[string]any{"text": "two"})
	alice.SetState(room, kind, "a/key with %25 and ü", map[string]any{"text": "three"})
	equal[any](t, "the state", alice.StateContent(room, kind, "")["text"], "two")
	equal[any](t, "the state of the odd key", alice.StateContent(room, kind, "a/key with %25 and ü")["text"], "three")
	if previous := seen.UntilEvent(room, second).Unsigned.PrevContent; previous == nil {
		t.Error("the second state came without the content that it replaces")
	} else {
		equal[any](t, "the previous content", previous.Raw["text"], "one")
	}

	// An empty state key may be left out of the path, with or without its slash.
	for _, path := range []string{roomPath("v3", room, "state", kind.Type), roomPath("v3", room, "state", kind.Type, "")} {
		alice.Do("PUT", path, map[string]any{"text": path}).WantOK(t)
		equal(t, "the state", alice.Do("GET", path, nil).WantOK(t).Get("text").String(), path)
	}
	full, err := alice.FullStateEvent(t.Context(), room, kind, "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the sender", full.Sender, alice.UserID)

	all, err := alice.StateAsArray(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []event.Type{event.StateCreate, event.StatePowerLevels, event.StateJoinRules, kind} {
		if harness.FindState(all, kind, "") == nil {
			t.Errorf("no %s in the room's state", kind.Type)
		}
	}
	_, err = alice.FullStateEvent(t.Context(), room, custom("none", event.StateEventType), "")
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

func stateRefused(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(nil)
	_, err := bob.StateAsArray(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	err = bob.StateEvent(t.Context(), room, event.StateRoomName, "", &map[string]any{})
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	// A canonical alias must point at the room.
	_, err = alice.SendStateEvent(t.Context(), room, event.StateCanonicalAlias, "", map[string]any{"alias": "#none-" + suffix() + ":localhost"})
	harness.WantError(t, err, 400, "M_BAD_ALIAS")
	_, err = alice.SendStateEvent(t.Context(), room, event.StateCanonicalAlias, "", map[string]any{"alias": "no alias"})
	harness.WantError(t, err, 400, "M_INVALID_PARAM")
}

func members(t *testing.T, srv *harness.Server) {
	alice, bob, carol := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "carol")
	room := alice.NewRoomWith(bob)
	alice.Invite(room, carol)
	at := alice.CaughtUp().Since
	bob.Leave(room)

	count := func(req ...mautrix.ReqMembers) map[string]string {
		resp, err := alice.Members(t.Context(), room, req...)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, evt := range resp.Chunk {
			got[evt.GetStateKey()], _ = contents(evt)["membership"].(string)
		}
		return got
	}
	all := count()
	equal(t, "the number of members", len(all), 3)
	equal(t, "bob", all[bob.UserID.String()], "leave")
	equal(t, "carol", all[carol.UserID.String()], "invite")
	equal(t, "the number of joined", len(count(mautrix.ReqMembers{Membership: event.MembershipJoin})), 1)
	equal(t, "the number of not left", len(count(mautrix.ReqMembers{NotMembership: event.MembershipLeave})), 2)
	equal(t, "bob as he was then", count(mautrix.ReqMembers{At: at})[bob.UserID.String()], "join")

	joined, err := alice.JoinedMembers(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the number of joined members", len(joined.Joined), 1)
	_, err = carol.JoinedMembers(t.Context(), room)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
}

// spec: client-server-api/index.md#room-aliases
func aliases(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	localpart := "the-room-" + suffix()
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: localpart})
	server := alice.UserID.Homeserver()
	first := id.NewRoomAlias(localpart, server)
	equal[any](t, "the canonical alias", alice.StateContent(room, event.StateCanonicalAlias, "")["alias"], string(first))

	second := id.NewRoomAlias("übrigens/"+suffix(), server)
	if _, err := alice.CreateAlias(t.Context(), second, room); err != nil {
		t.Fatal(err)
	}
	_, err := alice.CreateAlias(t.Context(), second, room)
	harness.WantError(t, err, 409, "M_UNKNOWN")
	resolved, err := bob.ResolveAlias(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the room", resolved.RoomID, room)
	if !slices.Contains(resolved.Servers, server) {
		t.Errorf("the servers are %v; want %s among them", resolved.Servers, server)
	}
	joined, err := bob.JoinRoom(t.Context(), second.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the joined room", joined.RoomID, room)
	list, err := bob.GetAliases(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(list.Aliases, first) || !slices.Contains(list.Aliases, second) {
		t.Errorf("the aliases are %v; want %s and %s", list.Aliases, first, second)
	}
	_, err = bob.DeleteAlias(t.Context(), second)
	harness.WantError(t, err, 403, "M_FORBIDDEN")
	if _, err := alice.DeleteAlias(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	_, err = bob.ResolveAlias(t.Context(), second)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

// spec: client-server-api/modules/room_upgrades.md#server-behaviour
func upgrade(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	old := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", Name: "moving", RoomVersion: "11", RoomAliasName: "moving-" + suffix()})
	bob.Join(old)
	alias := alice.StateContent(old, event.StateCanonicalAlias, "")["alias"]
	upgradePath := roomPath("v3", old, "upgrade")
	bob.Do("POST", upgradePath, map[string]any{"new_version": "12"}).WantError(t, 403, "M_FORBIDDEN")
	alice.Do("POST", upgradePath, map[string]any{"new_version": "none"}).WantError(t, 400, "M_UNSUPPORTED_ROOM_VERSION")
	answer := alice.Do("POST", upgradePath, map[string]any{"new_version": "12"}).WantOK(t)

	room := id.RoomID(answer.Get("replacement_room").String())
	equal[any](t, "the tombstone's room", alice.StateContent(old, event.StateTombstone, "")["replacement_room"], string(room))
	create := alice.StateContent(room, event.StateCreate, "")
	equal[any](t, "the version", create["room_version"], "12")
	predecessor, _ := create["predecessor"].(map[string]any)
	equal[any](t, "the predecessor", predecessor["room_id"], string(old))
	equal[any](t, "the name", alice.StateContent(room, event.StateRoomName, "")["name"], "moving")
	equal[any](t, "the join rule", alice.StateContent(room, event.StateJoinRules, "")["join_rule"], "public")
	equal[any](t, "the alias", alice.StateContent(room, event.StateCanonicalAlias, "")["alias"], alias)
	bob.Join(room)
	// Most can no longer speak in the old room.
	_, err := bob.SendText(t.Context(), old, "anybody here?")
	harness.WantError(t, err, http.StatusForbidden, "M_FORBIDDEN")
}

func joinedRooms(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	one, two := alice.NewRoom(nil), alice.NewRoom(nil)
	alice.Leave(one)
	resp, err := alice.JoinedRooms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(resp.JoinedRooms, []id.RoomID{two}) {
		t.Errorf("the joined rooms are %v; want %v", resp.JoinedRooms, two)
	}
}
