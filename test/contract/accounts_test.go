package contract

import (
	"maunium.net/go/mautrix/event"

	"parley/test/harness"
)

// session is where user-interactive authentication goes on after its first answer.
func session(resp harness.Response) string { return resp.Get("session").Str }

// dummy is the auth of a request that need not show anything.
func dummy(session string) object { return object{"type": "m.login.dummy", "session": session} }

// discovery: what a client finds out before there is an account.
//
// spec: client-server-api/index.md#server-discovery
func discovery(s *scene) {
	alice := s.user("alice")
	s.ok("getVersions", nil)
	s.ok("getVersions", alice)
	s.ok("getWellknown", nil)
	s.ok("getWellknownSupport", nil)
	s.refused("getWellknownPolicy", nil, 404, "M_NOT_FOUND")
	s.refused("getAuthMetadata", nil, 404, "M_UNRECOGNIZED")
	s.refused("redirectToSSO", nil, 404, "M_NOT_FOUND", query{"redirectUrl": "https://app.example"})
	s.refused("redirectToIdP", nil, 404, "M_NOT_FOUND", "idp", query{"redirectUrl": "https://app.example"})
	s.ok("getCapabilities", alice)
	s.ok("getTurnServer", alice)
	s.ok("getLoginFlows", nil)
}

// closed is a server that lets nobody in and tells nothing of itself.
func closed(s *scene) {
	s.server = harness.StartConfigured(s.t, s.db, "registration:\n  allow: nobody\nrate_limits:\n  enabled: false\n")
	s.refused("getWellknown", nil, 404, "M_NOT_FOUND")
	s.refused("getWellknownSupport", nil, 404, "M_NOT_FOUND")
	s.refused("register", nil, 403, "M_FORBIDDEN", object{"username": "alice", "password": "a password"})
	s.refused("register", nil, 403, "M_GUEST_ACCESS_FORBIDDEN", query{"kind": "guest"}, object{})
	s.refused("registrationTokenValidity", nil, 403, "M_FORBIDDEN", query{"token": "x"})
	s.refused("requestTokenToRegisterEmail", nil, 403, "M_THREEPID_DENIED", email("a@example.com"))
}

// invited is a server that lets those in who have a token.
//
// spec: client-server-api/index.md#token-authenticated-registration
func invited(s *scene) {
	s.server = harness.StartConfigured(s.t, s.db, "registration:\n  allow: token\n  token: sesame\nrate_limits:\n  enabled: false\n")
	s.ok("registrationTokenValidity", nil, query{"token": "sesame"})
	s.ok("registrationTokenValidity", nil, query{"token": "nonsense"})
	s.refused("registrationTokenValidity", nil, 400, "M_MISSING_PARAM")
	body := object{"username": "alice", "password": "a good password"}
	first := s.refused("register", nil, 401, "", body)
	body["auth"] = object{"type": "m.login.registration_token", "token": "nonsense", "session": session(first)}
	s.refused("register", nil, 401, "M_FORBIDDEN|M_UNAUTHORIZED", body)
	body["auth"] = object{"type": "m.login.registration_token", "token": "sesame", "session": session(first)}
	s.ok("register", nil, body)
}

// registration is the chapter on new accounts and on names.
//
// spec: client-server-api/index.md#account-registration
func registration(s *scene) {
	s.ok("checkUsernameAvailability", nil, query{"username": "walter"})
	body := object{"username": "walter", "password": "a good password", "refresh_token": true, "initial_device_display_name": "pad"}
	first := s.refused("register", nil, 401, "", body)
	body["auth"] = object{"type": "m.login.nonsense", "session": session(first)}
	s.refused("register", nil, 401, "M_UNRECOGNIZED", body)
	body["auth"] = dummy(session(first))
	s.ok("register", nil, body)
	s.refused("register", nil, 400, "M_USER_IN_USE", body)
	s.refused("register", nil, 400, "M_INVALID_USERNAME", object{"username": "a b", "password": "x"})
	s.ok("register", nil, query{"kind": "guest"}, object{})
	s.refused("checkUsernameAvailability", nil, 400, "M_USER_IN_USE", query{"username": "walter"})
	s.refused("checkUsernameAvailability", nil, 400, "M_INVALID_USERNAME", query{"username": "%"})
}

// sessions is the chapter on logins and tokens.
//
// spec: client-server-api/index.md#login
func sessions(s *scene) {
	alice := s.user("alice")
	login := object{"type": "m.login.password", "password": alice.Password, "refresh_token": true,
		"identifier": object{"type": "m.id.user", "user": alice.UserID}}
	tokens := s.ok("login", nil, login)
	s.refused("login", nil, 403, "M_FORBIDDEN", object{"type": "m.login.password", "password": "another",
		"identifier": object{"type": "m.id.user", "user": alice.UserID}})
	s.refused("login", nil, 400, "M_UNKNOWN", object{"type": "m.login.nonsense"})
	s.refused("login", nil, 400, "M_MISSING_PARAM", object{})
	s.ok("refresh", nil, object{"refresh_token": tokens.Get("refresh_token").Str})
	s.refused("refresh", nil, 401, "M_UNKNOWN_TOKEN", object{"refresh_token": "nothing"})

	second := s.refused("generateLoginToken", alice, 401, "")
	token := s.ok("generateLoginToken", alice, object{"auth": alice.UIA(session(second))})
	s.ok("login", nil, object{"type": "m.login.token", "token": token.Get("login_token").Str})
	s.ok("getTokenOwner", alice)
	nobody := s.server.Anonymous(s.t)
	nobody.AccessToken = "nothing"
	s.refused("getTokenOwner", nobody, 401, "M_UNKNOWN_TOKEN")
	other := alice.Login()
	s.ok("logout", other)
	s.refused("logout", other, 401, "M_UNKNOWN_TOKEN")
	s.ok("logout_all", alice)

	bob := s.user("bob")
	s.ok("requestOpenIdToken", bob, bob.UserID, object{})
	s.refused("requestOpenIdToken", bob, 403, "M_FORBIDDEN", alice.UserID, object{})
}

// passwords: they are changed, and accounts closed.
//
// spec: client-server-api/index.md#account-management
func passwords(s *scene) {
	alice := s.user("alice")
	first := s.refused("changePassword", alice, 401, "", object{"new_password": "another good password"})
	s.ok("changePassword", alice, object{"new_password": "another good password", "auth": alice.UIA(session(first))})
	alice.Password = "another good password"
	first = s.refused("deactivateAccount", alice, 401, "")
	wrong := alice.UIA(session(first)).(object)
	wrong["password"] = "wrong"
	s.refused("deactivateAccount", alice, 401, "M_FORBIDDEN", object{"auth": wrong})
	s.ok("deactivateAccount", alice, object{"auth": alice.UIA(session(first))})
}

// email is a request for a mail.
func email(address string) object {
	return object{"client_secret": "secret", "email": address, "send_attempt": 1}
}

// addresses is the chapter on email addresses, which are asked by real mail.
//
// spec: client-server-api/index.md#adding-account-administrative-contact-information
func addresses(s *scene) {
	alice := s.user("alice")
	number := object{"client_secret": "secret", "country": "GB", "phone_number": "07700900001", "send_attempt": 1}
	for _, id := range []string{"requestTokenToRegisterMSISDN", "requestTokenTo3PIDMSISDN", "requestTokenToResetPasswordMSISDN"} {
		s.refused(id, nil, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", number)
	}
	s.ok("requestTokenToRegisterEmail", nil, email("new@example.com"))
	s.refused("requestTokenToRegisterEmail", nil, 400, "M_MISSING_PARAM", object{"email": "new@example.com"})

	asked := s.ok("requestTokenTo3PIDEmail", alice, email("alice@example.com"))
	proof := object{"client_secret": "secret", "sid": asked.Get("sid").Str}
	first := s.refused("add3PID", alice, 401, "", proof)
	s.post.Confirm(s.t, s.server.URL, "alice@example.com")
	proof["auth"] = alice.UIA(session(first))
	s.ok("add3PID", alice, proof)
	s.refused("requestTokenTo3PIDEmail", alice, 400, "M_THREEPID_IN_USE", email("alice@example.com"))
	s.ok("getAccount3PIDs", alice)

	asked = s.ok("requestTokenTo3PIDEmail", alice, email("alice@example.org"))
	s.refused("post3PIDs", alice, 403, "M_THREEPID_AUTH_FAILED", object{"three_pid_creds": object{"client_secret": "secret", "sid": "nothing"}})
	s.post.Confirm(s.t, s.server.URL, "alice@example.org")
	s.ok("post3PIDs", alice, object{"three_pid_creds": object{"client_secret": "secret", "sid": asked.Get("sid").Str}})
	for _, id := range []string{"unbind3pidFromAccount", "delete3pidFromAccount"} {
		bind := object{"client_secret": "secret", "sid": "of the identity server", "id_server": s.identity.name, "id_access_token": "token"}
		s.ok("bind3PID", alice, bind)
		unbound := s.ok(id, alice, object{"medium": "email", "address": boundAddress, "id_server": s.identity.name})
		if result := unbound.Get("id_server_unbind_result").Str; result != "success" {
			s.t.Errorf("%s: %s", id, unbound.Body)
		}
	}
	s.refused("bind3PID", alice, 400, "M_SESSION_NOT_VALIDATED", object{"client_secret": "secret", "sid": "another",
		"id_server": s.identity.name, "id_access_token": "token"})
	s.refused("bind3PID", alice, 400, "M_SERVER_NOT_TRUSTED", object{"client_secret": "secret", "sid": "1", "id_server": "127.0.0.1:1", "id_access_token": "token"})

	bob := s.user("bob")
	room := alice.NewRoom(nil)
	invite := func(address string) object {
		return object{"medium": "email", "address": address, "id_server": s.identity.name, "id_access_token": "token"}
	}
	s.identity.knows("bob@example.com", bob.UserID.String())
	s.ok("inviteBy3PID", alice, room, invite("bob@example.com"))
	bob.Join(room)
	s.ok("inviteBy3PID", alice, room, invite("stranger@example.com"))
	if content := alice.StateContent(room, event.NewEventType("m.room.third_party_invite"), inviteToken); content["display_name"] != "s...@e..." {
		s.t.Errorf("the invite of a stranger: %v", content)
	}
	s.refused("inviteBy3PID", s.user("carol"), 403, "M_FORBIDDEN", room, invite("stranger@example.com"))
	s.ok("createRoom", alice, object{"invite_3pid": list{invite("bob@example.com")}})
	s.ok("unbind3pidFromAccount", alice, object{"medium": "email", "address": "alice@example.org"})
	s.ok("delete3pidFromAccount", alice, object{"medium": "email", "address": "alice@example.org"})

	s.refused("requestTokenToResetPasswordEmail", nil, 400, "M_THREEPID_NOT_FOUND", email("nobody@example.com"))
	asked = s.ok("requestTokenToResetPasswordEmail", nil, email("alice@example.com"))
	s.post.Confirm(s.t, s.server.URL, "alice@example.com")
	first = s.refused("changePassword", nil, 401, "", object{"new_password": "a third password"})
	s.ok("changePassword", nil, object{"new_password": "a third password", "auth": object{
		"type": "m.login.email.identity", "session": session(first),
		"threepid_creds": object{"client_secret": "secret", "sid": asked.Get("sid").Str}}})
}

// devices is the chapter on them.
//
// spec: client-server-api/modules/device_management.md#device-management
func devices(s *scene) {
	alice := s.user("alice")
	tablet, phone := alice.Login(), alice.Login()
	s.ok("getDevices", alice)
	s.ok("getDevice", alice, tablet.DeviceID)
	s.refused("getDevice", alice, 404, "M_NOT_FOUND", "nothing")
	s.ok("updateDevice", alice, tablet.DeviceID, object{"display_name": "tablet"})
	s.refused("updateDevice", alice, 404, "M_NOT_FOUND", "nothing", object{"display_name": "tablet"})
	first := s.refused("deleteDevice", alice, 401, "", tablet.DeviceID, object{})
	s.ok("deleteDevice", alice, tablet.DeviceID, object{"auth": alice.UIA(session(first))})
	first = s.refused("deleteDevices", alice, 401, "", object{"devices": list{phone.DeviceID}})
	s.ok("deleteDevices", alice, object{"devices": list{phone.DeviceID}, "auth": alice.UIA(session(first))})
}

// administration: an administrator looks after accounts, and nobody else does.
//
// spec: client-server-api/modules/admin.md#server-administration
func administration(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	const moderation = `capabilities.m\.account_moderation`
	if may := s.ok("getCapabilities", s.root).Get(moderation); !may.Get("lock").Bool() || !may.Get("suspend").Bool() {
		s.t.Errorf("an administrator is told %q of moderation", may.Raw)
	}
	if may := s.ok("getCapabilities", alice).Get(moderation); may.Exists() {
		s.t.Errorf("a user is told %q of moderation", may.Raw)
	}
	s.ok("getWhoIs", s.root, alice.UserID)
	s.ok("getWhoIs", alice, alice.UserID)
	s.refused("getWhoIs", alice, 403, "M_FORBIDDEN", bob.UserID)
	for _, e := range []struct{ get, set, field, code string }{
		{"getAdminSuspendUser", "setAdminSuspendUser", "suspended", "M_USER_SUSPENDED"},
		{"getAdminLockUser", "setAdminLockUser", "locked", "M_USER_LOCKED"},
	} {
		s.ok(e.set, s.root, alice.UserID, object{e.field: true})
		s.ok(e.get, s.root, alice.UserID)
		status := 403
		if e.field == "locked" {
			status = 401
		}
		s.refused("setProfileField", alice, status, e.code, alice.UserID, "displayname", object{"displayname": "A"})
		s.ok(e.set, s.root, alice.UserID, object{e.field: false})
		s.ok("setProfileField", alice, alice.UserID, "displayname", object{"displayname": "A"})
		s.refused(e.get, bob, 403, "M_FORBIDDEN", alice.UserID)
		s.refused(e.set, bob, 403, "M_FORBIDDEN", alice.UserID, object{e.field: true})
		s.refused(e.get, s.root, 404, "M_NOT_FOUND", s.at("@nobody"))
		s.refused(e.set, s.root, 404, "M_NOT_FOUND", s.at("@nobody"), object{e.field: true})
		s.refused(e.get, s.root, 400, "M_INVALID_PARAM", "@alice:elsewhere.example")
		s.refused(e.set, s.root, 400, "M_INVALID_PARAM", "@alice:elsewhere.example", object{e.field: true})
	}
}

// profiles is the chapter on them, and on finding people.
//
// spec: client-server-api/index.md#profiles
func profiles(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	s.ok("setProfileField", alice, alice.UserID, "displayname", object{"displayname": "Alice of the contract"})
	s.ok("setProfileField", alice, alice.UserID, "avatar_url", object{"avatar_url": "mxc://localhost/a"})
	s.ok("setProfileField", alice, alice.UserID, "m.tz", object{"m.tz": "Europe/London"})
	s.ok("setProfileField", alice, alice.UserID, "org.example.field", object{"org.example.field": object{"a": list{1, nil}}})
	s.refused("setProfileField", bob, 403, "M_FORBIDDEN", alice.UserID, "displayname", object{"displayname": "B"})
	s.refused("setProfileField", alice, 400, "M_MISSING_PARAM", alice.UserID, "displayname", object{})
	s.refused("setProfileField", alice, 400, "M_BAD_JSON|M_INVALID_PARAM", alice.UserID, "displayname", object{"displayname": 1})
	s.ok("getUserProfile", nil, alice.UserID)
	s.refused("getUserProfile", nil, 404, "M_NOT_FOUND", s.at("@nobody"))
	for _, field := range []string{"displayname", "avatar_url", "m.tz", "org.example.field"} {
		s.ok("getProfileField", bob, alice.UserID, field)
	}
	s.refused("getProfileField", nil, 404, "M_NOT_FOUND", alice.UserID, "org.example.other")
	s.ok("deleteProfileField", alice, alice.UserID, "m.tz")
	s.refused("deleteProfileField", bob, 403, "M_FORBIDDEN", alice.UserID, "displayname")
	s.ok("createRoom", alice, object{"preset": "public_chat"})
	if found := s.ok("searchUserDirectory", bob, object{"search_term": "of the contract", "limit": 5}); len(found.Get("results").Array()) != 1 {
		s.t.Errorf("found %s", found.Body)
	}
	s.refused("searchUserDirectory", bob, 400, "M_MISSING_PARAM", object{})

	s.ok("setPresence", alice, alice.UserID, object{"presence": "online", "status_msg": "here"})
	s.refused("setPresence", alice, 403, "M_FORBIDDEN", bob.UserID, object{"presence": "online"})
	s.ok("getPresence", alice, alice.UserID)
	s.refused("getPresence", bob, 403, "M_FORBIDDEN", alice.UserID)
}

// clientData: what the server keeps for a client.
//
// spec: client-server-api/modules/account_data.md#client-config
func clientData(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	room := alice.NewRoom(nil)
	s.ok("setAccountData", alice, alice.UserID, "org.example", object{"a": 1})
	s.refused("setAccountData", alice, 405, "M_BAD_JSON", alice.UserID, "m.fully_read", object{})
	s.refused("setAccountData", bob, 403, "M_FORBIDDEN", alice.UserID, "org.example", object{})
	s.ok("getAccountData", alice, alice.UserID, "org.example")
	s.refused("getAccountData", alice, 404, "M_NOT_FOUND", alice.UserID, "org.example.other")
	s.refused("getAccountData", bob, 403, "M_FORBIDDEN", alice.UserID, "org.example")
	s.ok("setAccountDataPerRoom", alice, alice.UserID, room, "org.example", object{"a": 1})
	s.refused("setAccountDataPerRoom", alice, 405, "M_BAD_JSON", alice.UserID, room, "m.fully_read", object{})
	s.ok("getAccountDataPerRoom", alice, alice.UserID, room, "org.example")
	s.refused("getAccountDataPerRoom", alice, 404, "M_NOT_FOUND", alice.UserID, room, "org.example.other")
	s.ok("setRoomTag", alice, alice.UserID, room, "u.work", object{"order": 0.5})
	s.ok("getRoomTags", alice, alice.UserID, room)
	s.ok("deleteRoomTag", alice, alice.UserID, room, "u.work")
	s.refused("setRoomTag", bob, 403, "M_FORBIDDEN", alice.UserID, room, "u.work", object{})
	s.refused("getRoomTags", bob, 403, "M_FORBIDDEN", alice.UserID, room)
	s.refused("deleteRoomTag", bob, 403, "M_FORBIDDEN", alice.UserID, room, "u.work")

	made := s.ok("defineFilter", alice, alice.UserID, object{"room": object{"timeline": object{"limit": 3}}, "event_fields": list{"content"}})
	s.ok("getFilter", alice, alice.UserID, made.Get("filter_id").Str)
	s.refused("getFilter", alice, 404, "M_NOT_FOUND", alice.UserID, "nothing")
	s.refused("defineFilter", bob, 403, "M_FORBIDDEN", alice.UserID, object{})
}

// pushing is the chapter on rules, pushers and notifications.
//
// spec: client-server-api/modules/push.md#push-notifications
func pushing(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	s.ok("getPushRules", alice)
	s.ok("getPushRulesGlobal", alice)
	s.ok("setPushRule", alice, "content", "cake", object{"actions": list{"notify", object{"set_tweak": "highlight"}}, "pattern": "cake"})
	never := list{object{"kind": "event_match", "key": "type", "pattern": "x"}}
	s.ok("setPushRule", alice, "override", "mine", object{"actions": list{}, "conditions": never})
	s.ok("setPushRule", alice, "override", "first", query{"before": "mine"}, object{"actions": list{}, "conditions": never})
	s.refused("setPushRule", alice, 400, "M_UNKNOWN", "override", "second", query{"before": ".m.rule.master"}, object{"actions": list{}, "conditions": never})
	s.refused("setPushRule", alice, 400, "M_UNKNOWN", "override", "second", query{"before": "nothing"}, object{"actions": list{}, "conditions": never})
	s.refused("setPushRule", alice, 400, "M_INVALID_PARAM", "content", ".cake", object{"actions": list{}, "pattern": "x"})
	s.ok("getPushRule", alice, "content", "cake")
	s.ok("getPushRuleActions", alice, "content", "cake")
	s.ok("setPushRuleActions", alice, "content", "cake", object{"actions": list{"notify"}})
	s.ok("isPushRuleEnabled", alice, "content", "cake")
	s.ok("setPushRuleEnabled", alice, "content", "cake", object{"enabled": false})
	s.ok("getPushRule", alice, "override", ".m.rule.master")
	s.ok("getPushRule", alice, "underride", ".m.rule.message")
	s.ok("deletePushRule", alice, "content", "cake")
	for _, id := range []string{"getPushRule", "getPushRuleActions", "isPushRuleEnabled", "deletePushRule"} {
		s.refused(id, alice, 404, "M_NOT_FOUND", "content", "nothing")
	}
	s.refused("setPushRuleActions", alice, 404, "M_NOT_FOUND", "content", "nothing", object{"actions": list{}})
	s.refused("setPushRuleEnabled", alice, 404, "M_NOT_FOUND", "content", "nothing", object{"enabled": true})

	pusher := object{"app_id": "org.example", "pushkey": "k", "kind": "http", "lang": "en", "app_display_name": "A",
		"device_display_name": "D", "data": object{"url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only"}}
	s.ok("postPusher", alice, pusher)
	s.refused("postPusher", alice, 400, "M_MISSING_PARAM", object{"app_id": "org.example", "pushkey": "k", "kind": "http"})
	s.ok("getPushers", alice)
	s.ok("postPusher", alice, object{"app_id": "org.example", "pushkey": "k", "kind": nil})
	room := bob.NewRoomWith(alice)
	bob.Say(room, "hello")
	if got := s.ok("getNotifications", alice, query{"limit": "5"}); len(got.Get("notifications").Array()) == 0 {
		s.t.Errorf("no notification: %s", got.Body)
	}
	s.refused("getNotifications", alice, 400, "M_INVALID_PARAM", query{"limit": "x"})
}

// reports: users tell the server's people what they should see.
//
// spec: client-server-api/modules/report_content.md#reporting-content
func reports(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	room := alice.NewRoom(nil)
	event := alice.Say(room, "rude")
	s.ok("reportEvent", alice, room, event, object{"reason": "rude"})
	s.refused("reportEvent", bob, 404, "M_NOT_FOUND", room, event, object{})
	s.ok("reportRoom", alice, room, object{"reason": "rude"})
	s.ok("reportUser", alice, bob.UserID, object{"reason": "rude"})
	// Whether a room or a user exists is not told.
	s.ok("reportRoom", alice, s.at("!nothing"), object{"reason": "rude"})
	s.ok("reportUser", alice, s.at("@nobody"), object{"reason": "rude"})
	s.refused("reportRoom", alice, 400, "M_MISSING_PARAM", room, object{})
	s.refused("reportUser", alice, 400, "M_MISSING_PARAM", bob.UserID, object{})
}
