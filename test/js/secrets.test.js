// The life of an encrypted room, with matrix-js-sdk and its Rust crypto: Alice and Bob verify each other, Bob gets a new
// device that reads what was said before, leaves and comes back, loses a device, and his server is down while 200
// messages are sent. Whatever is sent to somebody who is in the room is decrypted by each of their devices, and counted.
//
// PARLEY_URL is Alice's server and PARLEY_OTHER_URL Bob's, which may be the same. PARLEY_CONTROL stops and runs Bob's.
// With PARLEY_LOBBY they share a second room all the time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MatrixEventEvent } from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { heard, login, register, start } from "./person.js";

const one = !process.env.PARLEY_OTHER_URL || process.env.PARLEY_OTHER_URL === process.env.PARLEY_URL;
const duringOutage = 200;

async function control(what) {
    const answer = await fetch(`${process.env.PARLEY_CONTROL}/${what}`, { method: "POST" });
    assert.ok(answer.ok, what);
}

// until waits for something that no event tells of.
async function until(what, ok) {
    for (const deadline = Date.now() + 90_000; Date.now() < deadline; ) {
        if (await ok()) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.fail(`waited in vain until ${what}`);
}

// A device, which notes what it decrypts, and what it can't.
class Device {
    constructor(client) {
        this.client = client;
        this.read = new Set();
        this.failed = new Map();
        client.on(MatrixEventEvent.Decrypted, (event) => this.note(event));
    }

    note(event) {
        if (event.isDecryptionFailure()) {
            this.failed.set(event.getId(), event.decryptionFailureReason);
            return;
        }
        this.failed.delete(event.getId());
        if (event.getType() === "m.room.message") this.read.add(event.getContent().body);
    }

    // page reads the newest events of a room, up to a number.
    async page(room, most) {
        for (let from = null, n = 0; n < most; ) {
            const page = await this.client.createMessagesRequest(room, from, 100, "b");
            for (const raw of page.chunk) {
                const event = this.client.getEventMapper()(raw);
                await this.client.decryptEventIfNeeded(event);
                if (event.isEncrypted()) this.note(event);
            }
            n += page.chunk.length;
            from = page.end;
            if (!from) return;
        }
    }

    get crypto() {
        return this.client.getCrypto();
    }

    get user() {
        return this.client.getUserId();
    }
}

async function device(t, client) {
    await client.initRustCrypto({ useIndexedDB: false });
    const d = new Device(client);
    await start(t, client, { initialSyncLimit: 500 });
    return d;
}

// confirmed makes a request with the password, where the server wants it.
async function confirmed(client, request) {
    try {
        return await request(null);
    } catch (error) {
        if (!error.data?.session) throw error;
        return request({
            type: "m.login.password",
            session: error.data.session,
            identifier: { type: "m.id.user", user: client.getUserId() },
            password: client.password,
        });
    }
}

// identity gives a person cross-signing keys, secret storage and a key backup.
async function identity({ client, crypto }) {
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (request) => confirmed(client, request) });
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
        setupNewKeyBackup: true,
    });
    assert.ok(await crypto.isCrossSigningReady());
    assert.ok(await crypto.getActiveSessionBackupVersion());
}

async function phase(request, wanted) {
    if (request.phase >= wanted) return;
    await heard(Object.assign(request, { getUserId: () => "a verification" }), VerificationRequestEvent.Change, () => request.phase >= wanted);
}

// verify compares short strings: what two devices show must be the same. begin asks for it.
async function verify(from, to, begin) {
    const asked = heard(to.client, CryptoEvent.VerificationRequestReceived, () => true);
    const request = await begin();
    const [theirs] = await asked;
    await theirs.accept();
    await phase(request, VerificationPhase.Ready);
    const verifier = await request.startVerification("m.sas.v1");
    await phase(theirs, VerificationPhase.Started);
    const both = [verifier, theirs.verifier];
    const shown = both.map((v) => v.getShowSasCallbacks() ?? new Promise((resolve) => v.once(VerifierEvent.ShowSas, resolve)));
    const done = both.map((v) => v.verify());
    const [here, there] = await Promise.all(shown);
    assert.deepEqual(here.sas.decimal, there.sas.decimal);
    assert.equal(here.sas.decimal.length, 3);
    await Promise.all([here.confirm(), there.confirm()]);
    await Promise.all(done);
}

test("an encrypted room", { timeout: 540_000 }, async (t) => {
    const alice = await device(t, await register("alice", process.env.PARLEY_URL));
    const bob = await device(t, await register("bob", process.env.PARLEY_OTHER_URL));
    await identity(alice);
    await identity(bob);
    let expected = 0;
    let decrypted = 0;
    // say has a device say something, and waits until each of the others has read it. It gives the session.
    const say = async (from, to, text) => {
        const { event_id: id } = await from.client.sendTextMessage(roomId, text);
        await Promise.all(to.map((d) => until(`${d.user} on ${d.client.getDeviceId()} reads ${text} (${[...d.failed.values()]})`, () => d.read.has(text))));
        expected += to.length;
        decrypted += to.filter((d) => d.read.has(text)).length;
        const wire = from.client.getRoom(roomId).findEventById(id).getWireContent();
        assert.equal(wire.body, undefined);
        return wire.session_id;
    };
    const membership = (who, of, wanted) =>
        until(`${who.user} sees ${of.user} ${wanted}`, () => who.client.getRoom(roomId)?.getMember(of.user)?.membership === wanted);
    const enter = async () => {
        await until("the invite comes", () => bob.client.getRoom(roomId)?.getMyMembership() === "invite");
        await bob.client.joinRoom(roomId, { viaServers: [alice.client.getDomain()] });
        await membership(alice, bob, "join");
        await membership(bob, bob, "join");
        for (const d of [alice, bob]) await until(`${d.user} knows that the room is encrypted`, () => d.crypto.isEncryptionEnabledInRoom(roomId));
    };

    const { room_id: roomId } = await alice.client.createRoom({
        preset: "private_chat",
        is_direct: true,
        invite: [bob.user],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await enter();
    for (let i = 0; i < 5; i++) {
        await say(alice, [bob], `alice says ${i}`);
        await say(bob, [alice], `bob says ${i}`);
    }

    if (process.env.PARLEY_LOBBY) {
        const { room_id: lobby } = await alice.client.createRoom({ preset: "public_chat" });
        await bob.client.joinRoom(lobby, { viaServers: [alice.client.getDomain()] });
    }

    t.diagnostic("they verify each other, in the room");
    await verify(alice, bob, () => alice.crypto.requestVerificationDM(bob.user, roomId));
    for (const [who, other] of [[alice, bob], [bob, alice]]) {
        await until(`${who.user} has verified ${other.user}`, async () => (await who.crypto.getUserVerificationStatus(other.user)).isCrossSigningVerified());
        const status = await who.crypto.getDeviceVerificationStatus(other.user, other.client.getDeviceId());
        assert.ok(status.crossSigningVerified);
    }

    t.diagnostic("a new device reads what was said, from the key backup");
    await until("the backup has all keys", async () => {
        const info = await bob.client.http.authedRequest("GET", "/room_keys/version", undefined, undefined, { prefix: "/_matrix/client/v3" });
        return info.count >= (await bob.crypto.exportRoomKeys()).length;
    });
    const tablet = await device(t, await login(bob.client));
    assert.ok(await tablet.crypto.userHasCrossSigningKeys(bob.user, true));
    await tablet.crypto.bootstrapCrossSigning({});
    await tablet.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const restored = await tablet.crypto.restoreKeyBackup();
    assert.equal(restored.imported, restored.total);
    assert.ok(restored.total >= 2);
    const history = Array.from({ length: 5 }, (_, i) => [`alice says ${i}`, `bob says ${i}`]).flat();
    const readable = () => {
        const events = tablet.client.getRoom(roomId).getLiveTimeline().getEvents();
        return new Set(events.filter((e) => e.getType() === "m.room.message").map((e) => e.getContent().body));
    };
    await until(`the tablet reads the history (${restored.imported} keys)`, () => history.every((text) => readable().has(text)));
    expected += history.length;
    decrypted += history.filter((text) => readable().has(text)).length;
    await until("Alice trusts the tablet, as Bob does", async () => {
        const status = await alice.crypto.getDeviceVerificationStatus(bob.user, tablet.client.getDeviceId());
        return status?.crossSigningVerified;
    });
    await say(alice, [bob, tablet], "for both devices");
    await say(tablet, [alice, bob], "from the new one");

    t.diagnostic("the two devices verify each other, by messages to devices");
    await verify(bob, tablet, () => bob.crypto.requestDeviceVerification(bob.user, tablet.client.getDeviceId()));

    t.diagnostic("Bob leaves and comes back");
    const before = await say(alice, [bob, tablet], "before he leaves");
    await bob.client.leave(roomId);
    await membership(alice, bob, "leave");
    await say(alice, [], "while he is away");
    await alice.client.invite(roomId, bob.user);
    await enter();
    const after = await say(alice, [bob, tablet], "he is back");
    assert.notEqual(before, after);
    await say(bob, [alice, tablet], "I am");
    assert.ok(!bob.read.has("while he is away") && !tablet.read.has("while he is away"));

    t.diagnostic("the tablet is deleted");
    tablet.client.stopClient();
    await confirmed(bob.client, (auth) => bob.client.deleteDevice(tablet.client.getDeviceId(), auth ?? undefined));
    await until("Alice knows that the tablet is gone", async () => {
        const devices = (await alice.crypto.getUserDeviceInfo([bob.user])).get(bob.user);
        return devices.has(bob.client.getDeviceId()) && !devices.has(tablet.client.getDeviceId());
    });
    await say(alice, [bob], "for one device");
    await say(bob, [alice], "it was old");

    t.diagnostic(`the server is down for ${duringOutage} messages`);
    await control(one ? "kill" : "stop");
    const back = one ? new Promise((resolve) => setTimeout(resolve, 1000)).then(() => control("run")) : Promise.resolve();
    const texts = Array.from({ length: duringOutage }, (_, i) => `in the dark ${i}`);
    for (const text of texts) {
        // Where Alice's own server is the one that is down, she tries again.
        await until(`${text} is sent`, () => alice.client.sendTextMessage(roomId, text).then(() => true, () => false));
    }
    await back;
    if (!one) await control("run");
    await until("Bob's client is back", () => bob.client.sendTextMessage(roomId, "back").then(() => true, () => false));
    const missing = () => texts.filter((text) => !bob.read.has(text)).length;
    // What /sync leaves out, as it is much, is paged back to.
    const all = async () => {
        if (missing() > 0) await bob.page(roomId, 3 * duringOutage);
        return missing() === 0;
    };
    await until("Bob reads all of it", all).catch((error) => {
        assert.fail(`${error.message}: ${missing()} of ${duringOutage} are missing; not decrypted: ${[...bob.failed.values()]}`);
    });
    await until("Alice reads that he is back", () => alice.read.has("back"));
    expected += duringOutage;
    decrypted += duringOutage - missing();

    t.diagnostic(`${expected} messages to devices in the room, ${decrypted} decrypted, ${expected - decrypted} undecryptable`);
    assert.equal(decrypted, expected);
});
