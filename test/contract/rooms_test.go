package contract

import (
	"strconv"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
)

// making is the chapter on rooms that begin, have a name and end.
//
// spec: client-server-api/index.md#creation
func making(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	room := s.ok("createRoom", alice, object{"preset": "public_chat", "name": "A room", "topic": "of the contract", "room_alias_name": "contract",
		"visibility": "public", "initial_state": list{object{"type": "org.example", "state_key": "k", "content": object{"a": 1}}}}).Get("room_id").Str
	s.refused("createRoom", alice, 400, "M_ROOM_IN_USE", object{"room_alias_name": "contract"})
	s.refused("createRoom", alice, 400, "M_UNSUPPORTED_ROOM_VERSION", object{"room_version": "nothing"})
	s.refused("createRoom", alice, 400, "M_BAD_JSON", object{"invite": "nobody"})

	s.ok("getRoomIdByAlias", nil, s.at("#contract"))
	s.refused("getRoomIdByAlias", nil, 404, "M_NOT_FOUND", s.at("#nothing"))
	s.refused("getRoomIdByAlias", nil, 400, "M_INVALID_PARAM", "nothing")
	s.ok("setRoomAlias", alice, s.at("#another"), object{"room_id": room})
	s.refused("setRoomAlias", alice, 409, "M_UNKNOWN", s.at("#another"), object{"room_id": room})
	s.refused("setRoomAlias", alice, 400, "M_INVALID_PARAM", "nothing", object{"room_id": room})
	s.ok("getLocalAliases", alice, room)
	s.refused("getLocalAliases", bob, 403, "M_FORBIDDEN", alice.NewRoom(nil))
	s.refused("deleteRoomAlias", bob, 403, "M_FORBIDDEN", s.at("#another"))
	s.ok("deleteRoomAlias", alice, s.at("#another"))
	s.refused("deleteRoomAlias", alice, 404, "M_NOT_FOUND", s.at("#another"))

	s.ok("getRoomVisibilityOnDirectory", nil, room)
	s.refused("getRoomVisibilityOnDirectory", nil, 404, "M_NOT_FOUND", s.at("!nothing"))
	s.ok("setRoomVisibilityOnDirectory", alice, room, object{"visibility": "public"})
	s.refused("setRoomVisibilityOnDirectory", alice, 404, "M_NOT_FOUND", s.at("!nothing"), object{"visibility": "public"})
	s.refused("setRoomVisibilityOnDirectory", bob, 403, "M_FORBIDDEN", room, object{"visibility": "private"})
	s.ok("getPublicRooms", nil, query{"limit": "1"})
	s.ok("queryPublicRooms", alice, object{"limit": 5, "filter": object{"generic_search_term": "contract", "room_types": list{nil}}})
	s.refused("queryPublicRooms", alice, 400, "M_BAD_JSON", object{"limit": "x"})
	s.refused("getPublicRooms", nil, 400, "M_INVALID_PARAM", query{"since": "nothing"})

	s.ok("getRoomSummary", nil, s.at("#contract"))
	s.ok("getRoomSummary", bob, room)
	s.refused("getRoomSummary", bob, 404, "M_NOT_FOUND", s.at("!nothing"))

	s.refused("upgradeRoom", bob, 403, "M_FORBIDDEN", room, object{"new_version": "11"})
	s.refused("upgradeRoom", alice, 400, "M_UNSUPPORTED_ROOM_VERSION", room, object{"new_version": "nothing"})
	s.ok("upgradeRoom", alice, room, object{"new_version": "11"})
}

// memberships is the chapter on who is in a room.
//
// spec: client-server-api/index.md#room-membership
func memberships(s *scene) {
	alice, bob, carol := s.user("alice"), s.user("bob"), s.user("carol")
	room := alice.NewRoom(nil)
	s.refused("joinRoomById", bob, 403, "M_FORBIDDEN", room, object{})
	s.refused("joinRoom", bob, 403, "M_FORBIDDEN", room, object{})
	s.ok("inviteUser", alice, room, object{"user_id": bob.UserID, "reason": "why not"})
	s.refused("inviteUser", carol, 403, "M_FORBIDDEN", room, object{"user_id": bob.UserID})
	s.refused("inviteUser", alice, 400, "M_INVALID_PARAM", room, object{"user_id": "nobody"})
	s.ok("joinRoomById", bob, room, object{"reason": "yes"})
	s.ok("getJoinedRooms", bob)
	s.ok("getMutualRooms", bob, query{"user_id": alice.UserID.String()})
	s.refused("getMutualRooms", bob, 400, "M_INVALID_PARAM", query{"user_id": bob.UserID.String()})
	s.ok("getJoinedMembersByRoom", bob, room)
	s.ok("getMembersByRoom", bob, room, query{"not_membership": "leave"})
	for _, id := range []string{"getJoinedMembersByRoom", "getMembersByRoom", "getRoomState", "roomInitialSync"} {
		s.refused(id, carol, 403, "M_FORBIDDEN", room)
	}
	s.refused("forgetRoom", bob, 400, "M_UNKNOWN", room)
	s.ok("leaveRoom", bob, room, object{"reason": "bye"})
	s.refused("leaveRoom", carol, 403, "M_FORBIDDEN", room)
	s.ok("forgetRoom", bob, room)

	s.ok("ban", alice, room, object{"user_id": carol.UserID, "reason": "no"})
	s.refused("ban", bob, 403, "M_FORBIDDEN", room, object{"user_id": carol.UserID})
	s.refused("unban", bob, 403, "M_FORBIDDEN", room, object{"user_id": carol.UserID})
	s.ok("unban", alice, room, object{"user_id": carol.UserID})
	s.ok("inviteUser", alice, room, object{"user_id": carol.UserID})
	s.ok("joinRoom", carol, room, object{})
	s.refused("kick", carol, 403, "M_FORBIDDEN", room, object{"user_id": alice.UserID})
	s.ok("kick", alice, room, object{"user_id": carol.UserID, "reason": "out"})

	open := s.ok("createRoom", alice, object{"preset": "public_chat",
		"initial_state": list{object{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}}}}).Get("room_id").Str
	s.ok("knockRoom", bob, open, object{"reason": "please"})
	s.refused("knockRoom", alice, 403, "M_FORBIDDEN", open, object{})
	s.refused("knockRoom", bob, 404, "M_NOT_FOUND", s.at("#nothing"), object{})
	s.refused("knockRoom", bob, 403, "M_FORBIDDEN", room, object{})
}

// talking is the chapter on events: sent, read, related, redacted.
//
// spec: client-server-api/index.md#events
func talking(s *scene) {
	alice, bob, carol := s.user("alice"), s.user("bob"), s.user("carol")
	room := alice.NewRoomWith(bob)
	var said []string
	for i := range 3 {
		said = append(said, s.ok("sendMessage", alice, room, "m.room.message", "t"+strconv.Itoa(i), object{"msgtype": "m.text", "body": "contract"}).Get("event_id").Str)
	}
	relation := func(kind, key string) object {
		r := object{"rel_type": kind, "event_id": said[0]}
		if key != "" {
			r["key"] = key
		}
		return object{"msgtype": "m.text", "body": "related", "m.relates_to": r}
	}
	s.ok("sendMessage", bob, room, "m.reaction", "r1", relation("m.annotation", "👍"))
	s.refused("sendMessage", bob, 400, "M_DUPLICATE_ANNOTATION", room, "m.reaction", "r2", relation("m.annotation", "👍"))
	s.refused("sendMessage", carol, 403, "M_FORBIDDEN", room, "m.room.message", "t", object{"msgtype": "m.text", "body": "x"})
	s.refused("sendMessage", alice, 413, "M_TOO_LARGE", room, "m.room.message", "t", object{"msgtype": "m.text", "body": strings.Repeat("x", 70_000)})
	s.ok("sendMessage", bob, room, "m.room.message", "th", relation("m.thread", ""))
	edit := relation("m.replace", "")
	edit["m.new_content"] = object{"msgtype": "m.text", "body": "edited"}
	s.ok("sendMessage", alice, room, "m.room.message", "e", edit)

	s.ok("getOneRoomEvent", bob, room, said[0])
	s.refused("getOneRoomEvent", carol, 404, "M_NOT_FOUND", room, said[0])
	s.ok("getOneEvent", bob, said[1])
	s.refused("getOneEvent", bob, 404, "M_NOT_FOUND", "$nothing")
	s.ok("getEventContext", bob, room, said[1], query{"limit": "4"})
	s.refused("getEventContext", bob, 404, "M_NOT_FOUND", room, "$nothing")
	s.ok("getEventByTimestamp", bob, room, query{"ts": "1", "dir": "f"})
	s.refused("getEventByTimestamp", bob, 404, "M_NOT_FOUND", room, query{"ts": "1", "dir": "b"})
	s.ok("getRoomEvents", bob, room, query{"dir": "b", "limit": "3", "filter": `{"lazy_load_members":true}`})
	s.ok("getRoomEvents", bob, room, query{"dir": "f"})
	s.refused("getRoomEvents", carol, 403, "M_FORBIDDEN", room, query{"dir": "b"})
	s.refused("getRoomEvents", bob, 400, "M_INVALID_PARAM", room, query{"dir": "x"})
	s.refused("getRoomEvents", bob, 400, "M_MISSING_PARAM", room)
	s.refused("getRoomEvents", carol, 403, "M_FORBIDDEN", room)

	s.ok("getRelatingEvents", bob, room, said[0], query{"limit": "1", "recurse": "true"})
	s.ok("getRelatingEventsWithRelType", bob, room, said[0], "m.thread")
	s.ok("getRelatingEventsWithRelTypeAndEventType", bob, room, said[0], "m.annotation", "m.reaction", query{"dir": "f"})
	s.refused("getRelatingEvents", bob, 404, "M_NOT_FOUND", room, "$nothing")
	s.refused("getRelatingEventsWithRelType", carol, 404, "M_NOT_FOUND", room, said[0], "m.thread")
	s.refused("getRelatingEventsWithRelTypeAndEventType", bob, 404, "M_NOT_FOUND", room, "$nothing", "m.annotation", "m.reaction")
	s.ok("getThreadRoots", bob, room, query{"include": "participated", "limit": "1"})
	s.refused("getThreadRoots", carol, 403, "M_FORBIDDEN", room)
	s.refused("getThreadRoots", bob, 400, "M_INVALID_PARAM", room, query{"include": "x"})

	found := s.ok("search", bob, object{"search_categories": object{"room_events": object{"search_term": "contract", "keys": list{"content.body"},
		"event_context": object{"before_limit": 1, "after_limit": 1, "include_profile": true}, "include_state": true,
		"groupings": object{"group_by": list{object{"key": "room_id"}, object{"key": "sender"}}}}}})
	if found.Get("search_categories.room_events.count").Int() == 0 {
		s.t.Errorf("nothing was found: %s", found.Body)
	}
	s.refused("search", bob, 400, "M_MISSING_PARAM|M_BAD_JSON", object{})

	s.ok("redactEvent", alice, room, said[2], "x", object{"reason": "typo"})
	s.refused("redactEvent", carol, 403, "M_FORBIDDEN", room, said[2], "x", object{})
	s.ok("setTyping", alice, room, alice.UserID, object{"typing": true, "timeout": 1000})
	s.refused("setTyping", alice, 403, "M_FORBIDDEN", room, bob.UserID, object{"typing": true})
	s.ok("postReceipt", bob, room, "m.read", said[1], object{"thread_id": "main"})
	s.refused("postReceipt", bob, 400, "M_INVALID_PARAM", room, "m.nonsense", said[1], object{})
	s.refused("postReceipt", bob, 400, "M_INVALID_PARAM", room, "m.read", said[1], object{"thread_id": ""})
	s.ok("setReadMarker", bob, room, object{"m.fully_read": said[1], "m.read.private": said[1]})
	s.refused("setReadMarker", carol, 403, "M_FORBIDDEN", room, object{"m.read": said[1]})
	alice.Say(room, "one more")

	s.ok("sync", bob)
	since := s.ok("sync", bob, query{"full_state": "true", "set_presence": "offline", "filter": `{"room":{"include_leave":true}}`}).Get("next_batch").Str
	s.ok("sendToDevice", alice, "org.example", "1", object{"messages": object{bob.UserID.String(): object{"*": object{"a": 1}}}})
	s.ok("sync", bob, query{"since": since, "timeout": "1000", "use_state_after": "true"})
	s.refused("sync", bob, 400, "M_INVALID_PARAM", query{"since": "nothing"})
	s.refused("sendToDevice", alice, 400, "M_MISSING_PARAM", "org.example", "2", object{})
}

// state is the chapter on a room's, and on the old ways to read it.
//
// spec: client-server-api/index.md#getting-events-for-a-room
func state(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	room := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "private_chat", Name: "A name"})
	s.ok("getRoomState", alice, room)
	s.ok("getRoomStateWithKey", alice, room, "m.room.name", "")
	s.ok("getRoomStateWithKey", alice, room, "m.room.name", "", query{"format": "event"})
	s.refused("getRoomStateWithKey", alice, 404, "M_NOT_FOUND", room, "m.room.topic", "")
	s.refused("getRoomStateWithKey", bob, 403, "M_FORBIDDEN", room, "m.room.name", "")
	s.ok("setRoomStateWithKey", alice, room, "m.room.topic", "", object{"topic": "A topic"})
	s.refused("setRoomStateWithKey", bob, 403, "M_FORBIDDEN", room, "m.room.topic", "", object{"topic": "A topic"})
	s.refused("setRoomStateWithKey", alice, 400, "M_BAD_ALIAS", room, "m.room.canonical_alias", "", object{"alias": s.at("#nothing")})
	alice.Say(room, "hello")

	s.ok("roomInitialSync", alice, room)
	from := s.ok("initialSync", alice, query{"limit": "2"}).Get("end").Str
	s.refused("initialSync", alice, 400, "M_INVALID_PARAM", query{"limit": "x"})
	s.ok("getEvents", alice, query{"from": from, "timeout": "0"})
	s.refused("getEvents", alice, 400, "M_INVALID_PARAM", query{"from": "nothing"})
	open := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
	alice.SetState(open, event.StateHistoryVisibility, "", object{"history_visibility": "world_readable"})
	s.ok("peekEvents", bob, query{"room_id": open.String(), "timeout": "0"})
	s.refused("peekEvents", bob, 403, "M_FORBIDDEN", query{"room_id": room.String(), "timeout": "0"})
	s.refused("peekEvents", bob, 400, "M_INVALID_PARAM", query{"room_id": open.String(), "from": "nothing"})
}

// spaces is the chapter on them.
//
// spec: client-server-api/modules/spaces.md#spaces
func spaces(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	space := s.ok("createRoom", alice, object{"preset": "public_chat", "name": "A space", "creation_content": object{"type": "m.space"}}).Get("room_id").Str
	for range 3 {
		child := alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat"})
		s.ok("setRoomStateWithKey", alice, space, "m.space.child", child, object{"via": list{s.server.Name}, "suggested": true})
	}
	first := s.ok("getSpaceHierarchy", bob, space, query{"limit": "2", "suggested_only": "true"})
	s.ok("getSpaceHierarchy", bob, space, query{"from": first.Get("next_batch").Str, "limit": "2", "suggested_only": "true"})
	s.refused("getSpaceHierarchy", bob, 400, "M_INVALID_PARAM", space, query{"from": "nothing"})
	s.refused("getSpaceHierarchy", bob, 403, "M_FORBIDDEN", alice.NewRoom(nil))
}

// networks: what a bridge leads to.
//
// spec: client-server-api/modules/third_party_networks.md#third-party-lookups
func networks(s *scene) {
	alice, service := s.user("alice"), s.server.Anonymous(s.t)
	service.AccessToken = s.bridge.Registration.AppToken
	s.ok("getProtocols", alice)
	s.ok("getProtocolMetadata", alice, "pigeon")
	s.ok("queryLocationByProtocol", alice, "pigeon", query{"loft": "1"})
	s.ok("queryUserByProtocol", alice, "pigeon", query{"ring": "7"})
	s.ok("queryLocationByAlias", alice, query{"alias": s.at("#a")})
	s.ok("queryUserByID", alice, query{"userid": s.at("@a")})
	s.refused("getProtocolMetadata", alice, 404, "M_NOT_FOUND", "irc")
	s.refused("queryLocationByProtocol", alice, 404, "M_NOT_FOUND", "irc", query{"channel": "x"})
	s.refused("queryUserByProtocol", alice, 404, "M_NOT_FOUND", "irc", query{"nick": "x"})
	s.bridge.Leave()
	s.refused("queryLocationByAlias", alice, 404, "M_NOT_FOUND", query{"alias": s.at("#a")})
	s.refused("queryUserByID", alice, 404, "M_NOT_FOUND", query{"userid": s.at("@a")})
	s.refused("pingAppservice", service, 502, "M_BAD_STATUS", "bridge", object{})
	s.bridge.Return()
	s.ok("pingAppservice", service, "bridge", object{"transaction_id": "a ping"})
	s.refused("pingAppservice", service, 403, "M_FORBIDDEN", "irc", object{})
	s.refused("pingAppservice", alice, 403, "M_FORBIDDEN", "bridge", object{})

	room := alice.NewRoom(nil)
	for visibility, want := range map[string]int64{"public": 1, "private": 0} {
		s.ok("updateAppserviceRoomDirectoryVisibility", service, "post", room, object{"visibility": visibility})
		for _, in := range []object{{"third_party_instance_id": "bridge|post"}, {"include_all_networks": true, "filter": object{"generic_search_term": "pigeons"}}} {
			if found := s.ok("queryPublicRooms", alice, in).Get("total_room_count_estimate").Int(); found != want && in["filter"] == nil {
				s.t.Errorf("%v finds %d rooms; want %d", in, found, want)
			}
		}
	}
	s.refused("queryPublicRooms", alice, 400, "M_INVALID_PARAM", object{"third_party_instance_id": "bridge|post", "include_all_networks": true})
	s.refused("updateAppserviceRoomDirectoryVisibility", service, 400, "M_INVALID_PARAM", "post", room, object{"visibility": "some"})
	s.refused("updateAppserviceRoomDirectoryVisibility", service, 404, "M_NOT_FOUND", "post", s.at("!a"), object{"visibility": "public"})
	s.refused("updateAppserviceRoomDirectoryVisibility", alice, 403, "M_FORBIDDEN", "post", room, object{"visibility": "public"})
}
