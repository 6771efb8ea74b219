// Two people talk where the server can't read along, with matrix-js-sdk and its Rust crypto. The server has its part in
// it: device keys, one-time keys, device lists and to-device messages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MatrixEventEvent, RoomEvent } from "matrix-js-sdk";
import { heard, message, register, start } from "./person.js";

// startEncrypted is start for a client that can encrypt.
async function startEncrypted(t, client) {
    await client.initRustCrypto({ useIndexedDB: false });
    return start(t, client);
}

test("two people talk in secret", async (t) => {
    const alice = await startEncrypted(t, await register("alice"));
    const bob = await startEncrypted(t, await register("bob"));
    const { room_id: roomId } = await alice.createRoom({
        preset: "private_chat",
        invite: [bob.getUserId()],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    const joined = heard(alice, RoomEvent.Timeline, (event) => event.getStateKey() === bob.getUserId() && event.getContent().membership === "join");
    const ready = heard(bob, RoomEvent.MyMembership, (room, membership) => room.roomId === roomId && membership === "join");
    await bob.joinRoom(roomId);
    await Promise.all([joined, ready]);

    for (const [from, to, text] of [
        [alice, bob, "can you read this?"],
        [bob, alice, "yes, and nobody else can"],
        [alice, bob, "good"],
    ]) {
        const decrypted = heard(to, MatrixEventEvent.Decrypted, (event) => event.getContent().body === text);
        const { event_id: sent } = await from.sendTextMessage(roomId, text);
        const [event] = await decrypted;
        assert.equal(event.getId(), sent);
        assert.equal(event.getWireType(), "m.room.encrypted");
        assert.equal(event.getWireContent().body, undefined);
        assert.ok(await message(to, roomId, text));
    }
});
