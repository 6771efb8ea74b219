// What people do beside talking, with matrix-js-sdk as the client: a test for each chapter that no other file has.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { ClientEvent, Direction, EventType, RoomEvent, SearchOrderBy } from "matrix-js-sdk";
import { heard, login, message, refused, register, start } from "./person.js";

const word = () => `w${randomUUID().slice(0, 8)}`;

test("spaces and summaries", async () => {
    const [alice, bob] = [await register("alice"), await register("bob")];
    const { room_id: space } = await alice.createRoom({ preset: "public_chat", name: "space", creation_content: { type: "m.space" } });
    const rooms = [];
    for (const name of ["a", "b", "c"]) {
        const { room_id: room } = await alice.createRoom({ preset: "public_chat", name, topic: "a topic" });
        await alice.sendStateEvent(space, EventType.SpaceChild, { via: [alice.getDomain()], order: name }, room);
        rooms.push(room);
    }
    const first = await bob.getRoomHierarchy(space, 2);
    assert.deepEqual(first.rooms.map((room) => room.room_id), [space, rooms[0]]);
    const rest = await bob.getRoomHierarchy(space, 2, undefined, undefined, first.next_batch);
    assert.deepEqual(rest.rooms.map((room) => room.name), ["b", "c"]);
    const summary = await bob.getRoomSummary(rooms[0]);
    assert.equal(summary.topic, "a topic");
    assert.equal(summary.num_joined_members, 1);
});

test("messages and people are found", async () => {
    const [alice, bob] = [await register("alice"), await register("bob")];
    const { room_id: roomId } = await alice.createRoom({ preset: "public_chat" });
    const secret = word();
    const { event_id: said } = await alice.sendTextMessage(roomId, `the ${secret} of the day`);
    const find = async (client) => {
        const found = await client.search({
            body: { search_categories: { room_events: { search_term: secret, order_by: SearchOrderBy.Recent } } },
        });
        return found.search_categories.room_events.results.map((hit) => hit.result.event_id);
    };
    assert.deepEqual(await find(bob), []);
    await bob.joinRoom(roomId);
    assert.deepEqual(await find(bob), [said]);
    await alice.redactEvent(roomId, said);
    assert.deepEqual(await find(alice), []);
    assert.deepEqual(await find(bob), []);

    const name = word();
    await alice.setDisplayName(name);
    const people = await bob.searchUserDirectory({ term: name });
    assert.deepEqual(people.results.map((person) => person.user_id), [alice.getUserId()]);
});

test("tags, markers and profile fields", async (t) => {
    const alice = await start(t, await register("alice"));
    const { room_id: roomId } = await alice.createRoom({ preset: "private_chat" });
    const { event_id: said } = await alice.sendTextMessage(roomId, "a mark");
    const event = await message(alice, roomId, "a mark");
    assert.equal(event.getId(), said);

    const tagged = heard(alice, RoomEvent.Tags, (_, room) => room.tags["m.favourite"]?.order === 0.25);
    await alice.setRoomTag(roomId, "m.favourite", { order: 0.25 });
    await tagged;
    const marked = heard(alice, RoomEvent.AccountData, (data) => data.getType() === "m.fully_read" && data.getContent().event_id === said);
    await alice.setRoomReadMarkers(roomId, said, event);
    await marked;

    assert.ok(await alice.doesServerSupportExtendedProfiles());
    await alice.setExtendedProfileProperty("org.example.colour", ["green", 1]);
    assert.deepEqual(await alice.getExtendedProfileProperty(alice.getUserId(), "org.example.colour"), ["green", 1]);
    await alice.deleteExtendedProfileProperty("org.example.colour");
    assert.deepEqual(await alice.getExtendedProfile(alice.getUserId()), {});
});

test("whom one ignores, and who may invite", async (t) => {
    const alice = await start(t, await register("alice"));
    const mallory = await register("mallory");
    const set = heard(alice, ClientEvent.AccountData, (event) => event.getType() === "m.ignored_user_list");
    await alice.setIgnoredUsers([mallory.getUserId()]);
    await set;
    assert.ok(alice.isUserIgnored(mallory.getUserId()));
    const { room_id: ignored } = await mallory.createRoom({ preset: "private_chat", invite: [alice.getUserId()] });
    await alice.setAccountData("m.invite_permission_config", { default_action: "block" });
    const bob = await register("bob");
    const { room_id: roomId } = await bob.createRoom({ preset: "private_chat" });
    await refused(bob.invite(roomId, alice.getUserId()), "M_INVITE_BLOCKED");
    await alice.setAccountData("m.invite_permission_config", {});
    const invited = heard(alice, RoomEvent.MyMembership, (room, membership) => room.roomId === roomId && membership === "invite");
    await bob.invite(roomId, alice.getUserId());
    await invited;
    assert.equal(alice.getRoom(ignored), null);

    await alice.joinRoom(roomId);
    const { event_id: said } = await bob.sendTextMessage(roomId, "rude");
    await alice.reportEvent(roomId, said, -100, "rude");
    await alice.reportRoom(roomId, "rude");
    await refused(mallory.reportEvent(roomId, said, -100, "I was told"), "M_NOT_FOUND");
    assert.deepEqual(await alice._unstable_getSharedRooms(bob.getUserId()), [roomId]);
    assert.deepEqual(await alice._unstable_getSharedRooms(mallory.getUserId()), []);
});

test("an upgraded room", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob"));
    const { room_id: old } = await alice.createRoom({ preset: "public_chat", name: "moving", room_version: "11" });
    await bob.joinRoom(old);
    const told = heard(bob, RoomEvent.Timeline, (event) => event.getType() === EventType.RoomTombstone);
    const { replacement_room: fresh } = await alice.upgradeRoom(old, "12");
    const [tombstone] = await told;
    assert.equal(tombstone.getContent().replacement_room, fresh);
    const joined = heard(bob, RoomEvent.MyMembership, (room, membership) => room.roomId === fresh && membership === "join");
    await bob.joinRoom(fresh);
    const [room] = await joined; // which the client does not list yet
    assert.equal(room.getVersion(), "12");
    assert.equal(room.findPredecessor().roomId, old);
});

test("directory, knocks and peeks", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob"));
    const name = word();
    const { room_id: roomId } = await alice.createRoom({
        preset: "public_chat",
        visibility: "public",
        name,
        room_alias_name: name,
        initial_state: [
            { type: "m.room.join_rules", state_key: "", content: { join_rule: "knock" } },
            { type: "m.room.history_visibility", state_key: "", content: { history_visibility: "world_readable" } },
        ],
    });
    const listed = await bob.publicRooms({ limit: 10, filter: { generic_search_term: name } });
    assert.deepEqual(listed.chunk.map((room) => room.room_id), [roomId]);
    assert.equal((await bob.getRoomIdForAlias(`#${name}:${alice.getDomain()}`)).room_id, roomId);
    await alice.sendTextMessage(roomId, "for all to read");
    const peeked = await bob.peekInRoom(roomId);
    assert.ok(peeked.getLiveTimeline().getEvents().some((event) => event.getContent().body === "for all to read"));
    bob.stopPeeking();
    const knocked = heard(alice, RoomEvent.Timeline, (event) => event.getContent().membership === "knock");
    await bob.knockRoom(roomId, { reason: "please" });
    await knocked;
    await alice.invite(roomId, bob.getUserId());
    await bob.joinRoom(roomId);
    const found = await bob.timestampToEvent(roomId, Date.now() + 1000, Direction.Backward);
    assert.ok(found.event_id.startsWith("$"));
});

test("devices, tokens and files", async () => {
    const alice = await register("alice");
    const phone = await login(alice);
    await alice.setDeviceDetails(phone.getDeviceId(), { display_name: "phone" });
    const { devices } = await alice.getDevices();
    assert.equal(devices.find((device) => device.device_id === phone.getDeviceId()).display_name, "phone");
    await phone.logout();
    await refused(phone.whoami(), "M_UNKNOWN_TOKEN");
    const openId = await alice.getOpenIdToken();
    assert.equal(openId.matrix_server_name, alice.getDomain());

    const text = "what is in the file";
    const { content_uri: uri } = await alice.uploadContent(new Blob([text]), { type: "text/plain", name: "a.txt" });
    const url = alice.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${alice.getAccessToken()}` } });
    assert.equal(answer.status, 200);
    assert.equal(await answer.text(), text);
    assert.equal((await fetch(url)).status, 401);
});
