// Two people meet and talk, with matrix-js-sdk as the client.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ClientEvent, Direction, EventType, RoomEvent, RoomMemberEvent, RoomStateEvent, ThreadFilterType } from "matrix-js-sdk";
import { bodies, heard, login, message, register, start } from "./person.js";

test("two people talk", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob"));

    const invited = heard(bob, RoomEvent.MyMembership, (room, membership) => membership === "invite");
    const { room_id: roomId } = await alice.createRoom({
        preset: "private_chat",
        name: "A walk",
        topic: "Where to?",
        invite: [bob.getUserId()],
    });
    const [invitation] = await invited;
    assert.equal(invitation.roomId, roomId);
    assert.equal(invitation.name, "A walk");

    const joinSeen = heard(
        alice,
        RoomMemberEvent.Membership,
        (event, member) => member.userId === bob.getUserId() && member.membership === "join",
    );
    await bob.joinRoom(roomId);
    await joinSeen;

    for (let i = 0; i < 3; i++) {
        await alice.sendTextMessage(roomId, `there ${i}`);
        const there = await message(bob, roomId, `there ${i}`);
        assert.equal(there.getSender(), alice.getUserId());
        await bob.sendTextMessage(roomId, `back ${i}`);
        const back = await message(alice, roomId, `back ${i}`);
        assert.equal(back.getSender(), bob.getUserId());
    }
    const talk = ["there 0", "back 0", "there 1", "back 1", "there 2", "back 2"];
    assert.deepEqual(bodies(alice, roomId), talk, "a message is lost, doubled or out of order");
    assert.deepEqual(bodies(bob, roomId), talk, "a message is lost, doubled or out of order");

    // Names and topics are state.
    assert.equal(bob.getRoom(roomId).name, "A walk");
    const renamed = heard(bob, RoomEvent.Name, (room) => room.roomId === roomId && room.name === "A long walk");
    await alice.setRoomName(roomId, "A long walk");
    await renamed;
    const named = heard(bob, RoomMemberEvent.Name, (event, member) => member.userId === alice.getUserId() && member.name === "Alice");
    await alice.setDisplayName("Alice");
    await named;
});

test("reads, types and redacts", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob"));
    const { room_id: roomId } = await alice.createRoom({ preset: "private_chat", invite: [bob.getUserId()] });
    await bob.joinRoom(roomId);

    const { event_id: said } = await alice.sendTextMessage(roomId, "have you read this?");
    const event = await message(bob, roomId, "have you read this?");
    assert.equal(event.getId(), said);
    await synced(bob, () => bob.getRoom(roomId).getUnreadNotificationCount() === 1);

    const read = heard(alice, RoomEvent.Receipt, (_, room) => room.getEventReadUpTo(bob.getUserId(), true) === said);
    await bob.sendReadReceipt(event);
    await read;
    await synced(bob, () => bob.getRoom(roomId).getUnreadNotificationCount() === 0);

    const typing = heard(alice, RoomMemberEvent.Typing, (_, member) => member.userId === bob.getUserId() && member.typing);
    await bob.sendTyping(roomId, true, 30_000);
    await typing;

    const redacted = heard(bob, RoomEvent.Redaction, (redaction) => redaction.event.redacts === said || redaction.getContent().redacts === said);
    await alice.redactEvent(roomId, said);
    await redacted;
    assert.ok(event.isRedacted());
    assert.deepEqual(event.getContent(), {});

    const state = heard(bob, RoomStateEvent.Events, (event) => event.getType() === "org.example.state");
    await alice.sendStateEvent(roomId, "org.example.state", { n: 1 }, "key");
    const [change] = await state;
    assert.deepEqual(change.getContent(), { n: 1 });
});

test("pages back", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await register("bob");
    const { room_id: roomId } = await alice.createRoom({ preset: "public_chat", name: "history" });
    const said = [];
    for (let i = 0; i < 45; i++) {
        said.push(`message ${i}`);
        await alice.sendTextMessage(roomId, said[i]);
    }
    await bob.joinRoom(roomId);
    await start(t, bob, { initialSyncLimit: 5, lazyLoadMembers: true });
    const room = bob.getRoom(roomId);
    assert.ok(bodies(bob, roomId).length < said.length, "nothing is left to page back to");
    for (let pages = 0; room.getLiveTimeline().getPaginationToken("b") !== null; pages++) {
        assert.ok(pages < 20, "paging back has no end");
        await bob.scrollback(room, 10);
    }
    assert.deepEqual(bodies(bob, roomId), said);
    const events = room.getLiveTimeline().getEvents();
    assert.equal(events[0].getType(), EventType.RoomCreate);
    await room.loadMembersIfNeeded();
    assert.equal(room.getJoinedMemberCount(), 2);
});

test("relations and threads", async (t) => {
    // Alice's client does not sync: with threads, the library fails when an event comes back before its answer does.
    const alice = await register("alice");
    const { room_id: roomId } = await alice.createRoom({ preset: "private_chat" });
    const { event_id: root } = await alice.sendTextMessage(roomId, "root");
    const { event_id: reply } = await alice.sendTextMessage(roomId, root, "in the thread");
    await alice.sendEvent(roomId, EventType.Reaction, {
        "m.relates_to": { rel_type: "m.annotation", event_id: root, key: "👍" },
    });
    const edited = { "msgtype": "m.text", "body": "* edited", "m.new_content": { msgtype: "m.text", body: "edited" } };
    await alice.sendEvent(roomId, EventType.RoomMessage, { ...edited, "m.relates_to": { rel_type: "m.replace", event_id: root } });

    const phone = await start(t, await login(alice), { threadSupport: true });
    const room = phone.getRoom(roomId);
    const seen = room.findEventById(root);
    assert.equal(seen.getContent().body, "edited");
    const { events } = await phone.relations(roomId, root, "m.thread", null);
    assert.deepEqual(events.map((event) => event.getId()), [reply]);
    const reactions = await phone.relations(roomId, root, "m.annotation", EventType.Reaction);
    assert.equal(reactions.events[0].getRelation().key, "👍");

    // What relates to what relates to it, on request; the threads of the room, and those with something of hers.
    const { event_id: liked } = await alice.sendEvent(roomId, EventType.Reaction, {
        "m.relates_to": { rel_type: "m.annotation", event_id: reply, key: "🎉" },
    });
    const related = async (opts) => (await phone.fetchRelations(roomId, root, null, null, opts)).chunk.map((event) => event.event_id);
    assert.ok(!(await related({})).includes(liked));
    assert.ok((await related({ recurse: true })).includes(liked));
    for (const kind of [ThreadFilterType.All, ThreadFilterType.My]) {
        const { chunk } = await phone.createThreadListMessagesRequest(roomId, null, 10, Direction.Backward, kind);
        assert.deepEqual(chunk.map((event) => event.event_id), [root]);
        const summary = chunk[0].unsigned["m.relations"]["m.thread"];
        assert.equal(summary.latest_event.event_id, reply);
        assert.equal(summary.count, 1);
        assert.equal(summary.current_user_participated, true);
    }
});

test("leaves, and comes again", async (t) => {
    const alice = await start(t, await register("alice"));
    const bob = await start(t, await register("bob"));
    const { room_id: roomId } = await alice.createRoom({ preset: "public_chat" });
    await bob.joinRoom(roomId);
    await message(bob, roomId, (await alice.sendTextMessage(roomId, "one"), "one"));
    const left = heard(bob, RoomEvent.MyMembership, (room, membership) => room.roomId === roomId && membership === "leave");
    await bob.leave(roomId);
    await left;
    await assert.rejects(bob.sendTextMessage(roomId, "from outside"), { errcode: "M_FORBIDDEN" });
    const joined = heard(bob, RoomEvent.MyMembership, (room, membership) => room.roomId === roomId && membership === "join");
    await bob.joinRoom(roomId);
    await joined;
    await alice.sendTextMessage(roomId, "two");
    await message(bob, roomId, "two");
});

test("account data and push rules", async (t) => {
    const alice = await start(t, await register("alice"));
    const phone = await start(t, await login(alice));
    const changed = heard(phone, ClientEvent.AccountData, (event) => event.getType() === "org.example.settings");
    await alice.setAccountData("org.example.settings", { dark: true });
    const [event] = await changed;
    assert.deepEqual(event.getContent(), { dark: true });
    assert.ok(phone.pushRules.global.underride.some((rule) => rule.rule_id === ".m.rule.message"));
    const { devices } = await alice.getDevices();
    assert.equal(devices.length, 2);
});

// synced waits for answers of /sync until ok holds, which it may do at once.
async function synced(client, ok) {
    if (!ok()) await heard(client, ClientEvent.Sync, ok);
}
