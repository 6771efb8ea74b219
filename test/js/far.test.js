// What people of two nodes have to do with each other, with matrix-js-sdk as the client.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { ClientEvent, EventType, RoomStateEvent } from "matrix-js-sdk";
import { heard, message, refused, register, start } from "./person.js";

const other = process.env.PARLEY_OTHER_URL;

test("profiles", async () => {
    const [alice, bob] = [await register("alice"), await register("bob", other)];
    await alice.setDisplayName("Alice");
    assert.ok(await alice.doesServerSupportExtendedProfiles());
    await alice.setExtendedProfileProperty("m.tz", "Europe/Paris");
    await alice.setExtendedProfileProperty("org.example.colour", ["green", 1]);
    assert.deepEqual(await bob.getExtendedProfileProperty(alice.getUserId(), "org.example.colour"), ["green", 1]);
    assert.deepEqual(await bob.getExtendedProfile(alice.getUserId()), {
        "displayname": "Alice",
        "m.tz": "Europe/Paris",
        "org.example.colour": ["green", 1],
    });
    assert.equal(await bob.getExtendedProfileProperty(alice.getUserId(), "org.example.none"), undefined);
    await refused(bob.getExtendedProfile(`@nobody:${alice.getDomain()}`), "M_NOT_FOUND");
});

test("spaces, summaries and the directory", async () => {
    const [alice, bob] = [await register("alice"), await register("bob", other)];
    const name = `w${randomUUID().slice(0, 8)}`;
    const { room_id: space } = await alice.createRoom({ preset: "public_chat", name: "space", creation_content: { type: "m.space" } });
    const { room_id: room } = await alice.createRoom({ preset: "public_chat", visibility: "public", name, topic: "far away" });
    const via = [alice.getDomain()];
    await alice.sendStateEvent(space, EventType.SpaceChild, { via }, room);
    await bob.joinRoom(space, { viaServers: via });
    const { rooms } = await bob.getRoomHierarchy(space, 10);
    assert.deepEqual(rooms.map((known) => known.name), ["space", name]);
    const summary = await bob.getRoomSummary(room, via);
    assert.equal(summary.topic, "far away");
    const { chunk } = await bob.publicRooms({ server: alice.getDomain(), limit: 10, filter: { generic_search_term: name } });
    assert.deepEqual(chunk.map((known) => known.room_id), [room]);
});

test("image packs, and people who are found", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob", other));
    const name = `w${randomUUID().slice(0, 8)}`;
    await alice.setDisplayName(`Alice ${name}`);
    const { room_id: roomId } = await alice.createRoom({ preset: "public_chat" });
    await bob.joinRoom(roomId, { viaServers: [alice.getDomain()] });
    await alice.sendTextMessage(roomId, "welcome");
    await message(bob, roomId, "welcome");
    const found = await bob.searchUserDirectory({ term: name });
    assert.deepEqual(found.results.map((person) => person.user_id), [alice.getUserId()]);

    const pack = { pack: { display_name: "Cats" }, images: { "cat-1": { url: "mxc://example.org/cat" } } };
    const seen = heard(bob, RoomStateEvent.Events, (event) => event.getType() === "m.room.image_pack" && event.getStateKey() === "cats");
    await alice.sendStateEvent(roomId, "m.room.image_pack", pack, "cats");
    const [event] = await seen;
    assert.deepEqual(event.getContent(), pack);
    const chosen = { rooms: { [roomId]: { cats: {} } } };
    const kept = heard(bob, ClientEvent.AccountData, (data) => data.getType() === "m.image_pack.rooms");
    await bob.setAccountData("m.image_pack.rooms", chosen);
    assert.deepEqual((await kept)[0].getContent(), chosen);
});
