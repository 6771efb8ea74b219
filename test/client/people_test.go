package client

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestPeople is about people who find each other, and who want to be left alone.
func TestPeople(t *testing.T) {
	harness.Stories(t, whoIsFound, mutualRooms, profileFields, ignoring, invitePermission, inviteFilter, reporting, openID)
}

// spec: client-server-api/index.md#user-directory
func whoIsFound(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	name := "Zacharias " + suffix()
	if err := alice.SetDisplayName(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	find := func(who *harness.User, term string) []id.UserID {
		t.Helper()
		found, err := who.SearchUserDirectory(t.Context(), term, 10)
		if err != nil {
			t.Fatal(err)
		}
		var users []id.UserID
		for _, u := range found.Results {
			users = append(users, u.UserID)
		}
		return users
	}
	// Whom one shares no room with, and who is in no public one, is not found.
	if found := find(bob, name); len(found) != 0 {
		t.Errorf("a stranger found %v", found)
	}
	alice.NewRoomWith(bob)
	for _, term := range []string{name, strings.ToUpper(name[:6]) + name[6:], strings.Fields(name)[1]} {
		if found := find(bob, term); !slices.Equal(found, []id.UserID{alice.UserID}) {
			t.Errorf("a search for %q found %v", term, found)
		}
	}
	alice.NewRoom(public("open"))
	if found := find(srv.Register(t, "carol"), name); !slices.Equal(found, []id.UserID{alice.UserID}) {
		t.Errorf("she is in a public room, and a search found %v", found)
	}
}

// spec: client-server-api/modules/mutual_rooms.md#mutual-rooms
func mutualRooms(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	one, two := alice.NewRoomWith(bob), bob.NewRoomWith(alice)
	alice.NewRoom(nil)
	left := alice.NewRoomWith(bob)
	bob.Leave(left)
	answer := alice.Do("GET", harness.Path("v1", "mutual_rooms")+"?user_id="+bob.UserID.String(), nil).WantOK(t)
	var rooms []string
	for _, room := range answer.Get("joined").Array() {
		rooms = append(rooms, room.Str)
	}
	slices.Sort(rooms)
	want := []string{string(one), string(two)}
	slices.Sort(want)
	if !slices.Equal(rooms, want) {
		t.Errorf("the rooms in common are %v; want %v", rooms, want)
	}
}

// spec: client-server-api/index.md#profiles
func profileFields(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	if err := alice.SetProfileField(t.Context(), "m.tz", "Europe/Paris"); err != nil {
		t.Fatal(err)
	}
	var zone map[string]string
	if err := bob.GetProfileField(t.Context(), alice.UserID, "m.tz", &zone); err != nil {
		t.Fatal(err)
	}
	equal(t, "the time zone", zone["m.tz"], "Europe/Paris")
	if err := alice.DeleteProfileField(t.Context(), "m.tz"); err != nil {
		t.Fatal(err)
	}
	err := bob.GetProfileField(t.Context(), alice.UserID, "m.tz", &zone)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

// spec: client-server-api/modules/ignore_users.md#ignoring-users
func ignoring(t *testing.T, srv *harness.Server) {
	alice, bob, mallory := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "mallory")
	room := alice.NewRoomWith(bob, mallory)
	if err := alice.SetAccountData(t.Context(), "m.ignored_user_list", map[string]any{"ignored_users": map[string]any{mallory.UserID.String(): map[string]any{}}}); err != nil {
		t.Fatal(err)
	}
	seen := alice.CaughtUp()
	mallory.Say(room, "rude")
	another := mallory.NewRoom(nil)
	mallory.Invite(another, alice)
	last := bob.Say(room, "polite")
	resp := seen.Until("bob's message", func(resp *mautrix.RespSync) bool {
		return harness.Find(harness.Timeline(resp, room), last) != nil
	})
	if bodies := harness.Bodies(harness.Timeline(resp, room)); slices.Contains(bodies, "rude") {
		t.Errorf("she reads %q", bodies)
	}
	if resp := alice.Stream().Next(); len(resp.Rooms.Invite) != 0 {
		t.Errorf("she is shown the invite of whom she ignores")
	}
}

// wantInvites fails the test unless a user is shown the invites to just these rooms.
func wantInvites(t *testing.T, u *harness.User, rooms ...id.RoomID) {
	t.Helper()
	var shown []id.RoomID
	for room := range u.Stream().Next().Rooms.Invite {
		shown = append(shown, room)
	}
	slices.Sort(shown)
	slices.Sort(rooms)
	if !slices.Equal(shown, rooms) {
		t.Errorf("invites to %v are shown; want %v", shown, rooms)
	}
}

// spec: client-server-api/modules/invite_permission.md#invite-permission
func invitePermission(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	before, after := bob.NewRoom(nil), bob.NewRoom(nil)
	bob.Invite(before, alice)
	set := func(content map[string]any) {
		t.Helper()
		if err := alice.SetAccountData(t.Context(), "m.invite_permission_config", content); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string]any{"default_action": "block"})
	wantInvites(t, alice)
	_, err := bob.InviteUser(t.Context(), after, &mautrix.ReqInviteUser{UserID: alice.UserID})
	harness.WantError(t, err, http.StatusForbidden, "M_INVITE_BLOCKED")
	_, err = bob.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Invite: []id.UserID{alice.UserID}})
	harness.WantError(t, err, http.StatusForbidden, "M_INVITE_BLOCKED")
	bob.Do("PUT", roomPath("v3", after, "state", "m.room.member", alice.UserID.String()), map[string]any{"membership": "invite"}).
		WantError(t, http.StatusForbidden, "M_INVITE_BLOCKED")
	set(map[string]any{})
	bob.Invite(after, alice)
	wantInvites(t, alice, before, after)
}

// inviteFilter is MSC4155.
func inviteFilter(t *testing.T, srv *harness.Server) {
	alice, bob, mallory := srv.Register(t, "alice"), srv.Register(t, "bob"), srv.Register(t, "mallory")
	if err := alice.SetAccountData(t.Context(), "org.matrix.msc4155.invite_permission_config", map[string]any{
		"blocked_users": []id.UserID{mallory.UserID}, "ignored_users": []string{"@bob-*"},
	}); err != nil {
		t.Fatal(err)
	}
	_, err := mallory.InviteUser(t.Context(), mallory.NewRoom(nil), &mautrix.ReqInviteUser{UserID: alice.UserID})
	harness.WantError(t, err, http.StatusForbidden, "M_INVITE_BLOCKED")
	room := bob.NewRoom(nil)
	bob.Invite(room, alice) // which bob doesn't learn
	wantInvites(t, alice)
	// She may come all the same.
	alice.Join(room)
}

// spec: client-server-api/modules/report_content.md#reporting-content
func reporting(t *testing.T, srv *harness.Server) {
	alice, mallory := srv.Register(t, "alice"), srv.Register(t, "mallory")
	room := alice.NewRoomWith(mallory)
	event := mallory.Say(room, "rude")
	if err := alice.ReportEvent(t.Context(), room, event, "rude"); err != nil {
		t.Error(err)
	}
	if err := alice.ReportRoom(t.Context(), room, "rude"); err != nil {
		t.Error(err)
	}
	alice.Do("POST", harness.Path("v3", "users", mallory.UserID.String(), "report"), map[string]any{"reason": "rude"}).WantOK(t)
	err := srv.Register(t, "stranger").ReportEvent(t.Context(), room, event, "I was told")
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}

// spec: client-server-api/modules/openid.md#openid
func openID(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	token, err := alice.RequestOpenIDToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if token.AccessToken == "" || token.AccessToken == alice.AccessToken {
		t.Errorf("the token is %q", token.AccessToken)
	}
	equal(t, "the server's name", token.MatrixServerName, alice.UserID.Homeserver())
}
