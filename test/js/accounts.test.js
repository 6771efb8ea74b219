// How people come to an account and lose it, with matrix-js-sdk as the client. New accounts need a token, the terms and an
// address; the library's InteractiveAuth goes through the stages as Element does.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { Direction, InteractiveAuth, createClient } from "matrix-js-sdk";
import { login, person, refused } from "./person.js";

const baseUrl = process.env.PARLEY_URL;

// read has the last mail to an address be read, and its link followed.
async function read(address) {
    const answer = await fetch(`${process.env.PARLEY_POST}/?address=${encodeURIComponent(address)}`);
    assert.equal(answer.status, 200);
}

// authenticated makes a request that needs authentication; stages is what to say to the server for each stage but that of
// the address.
async function authenticated(matrixClient, address, stages, doRequest, requestEmailToken) {
    const done = [];
    const auth = new InteractiveAuth({
        matrixClient,
        doRequest,
        requestEmailToken,
        inputs: { emailAddress: address },
        stateUpdated: async (stage, status) => {
            if (status.error) throw new Error(`${stage}: ${status.error}`);
            if (done.includes(stage)) return;
            done.push(stage);
            if (stage in stages) return auth.submitAuthDict({ type: stage, ...stages[stage] });
            assert.equal(stage, "m.login.email.identity");
            await read(address);
            await auth.poll();
        },
    });
    return { answer: await auth.attemptAuth(), done };
}

// newcomer makes an account.
async function newcomer(name) {
    const username = `${name}-${randomUUID().slice(0, 8)}`;
    const address = `${username}@example.com`;
    const password = `password of ${name}`;
    const client = createClient({ baseUrl });
    const stages = { "m.login.registration_token": { token: "of-the-house" }, "m.login.terms": {} };
    const { answer, done } = await authenticated(
        client,
        address,
        stages,
        (auth) => client.registerRequest({ username, password, auth }),
        (to, secret, attempt) => client.requestRegisterEmailToken(to, secret, attempt),
    );
    assert.deepEqual(done.toSorted(), ["m.login.email.identity", "m.login.registration_token", "m.login.terms"]);
    return { client: person(baseUrl, answer, password), address };
}

// addresses are those that an account has.
const addresses = async (client) => (await client.getThreePids()).threepids.map((known) => known.address).toSorted();

test("an account by a token, the terms and an address", async () => {
    const { client, address } = await newcomer("alice");
    assert.equal((await client.whoami()).user_id, client.getUserId());
    assert.deepEqual(await addresses(client), [address]);
    const other = createClient({ baseUrl });
    await assert.rejects(other.registerRequest({ username: "bob", password: "password of bob", auth: { type: "m.login.dummy" } }), (error) => {
        assert.equal(error.httpStatus, 401);
        assert.equal(error.data.params["m.login.terms"].policies.privacy.en.url, "https://example.org/privacy");
        return true;
    });
    await refused(other.requestRegisterEmailToken(address, other.generateClientSecret(), 1), "M_THREEPID_IN_USE");
    assert.equal(await other.isUsernameAvailable(client.getUserIdLocalpart()), false);
});

test("a further address, and a password that was forgotten", async () => {
    const { client, address } = await newcomer("alice");
    const another = address.replace(".com", ".net");
    const secret = client.generateClientSecret();
    const { sid } = await client.requestAdd3pidEmailToken(another, secret, 1);
    const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: client.getUserId() }, password: client.password };
    await assert.rejects(client.addThreePidOnly({ sid, client_secret: secret, auth })); // the mail is not read yet
    await read(another);
    const added = new InteractiveAuth({
        matrixClient: client,
        doRequest: (auth) => client.addThreePidOnly({ sid, client_secret: secret, auth: auth ?? undefined }),
        stateUpdated: () => added.submitAuthDict(auth),
    });
    await added.attemptAuth();
    assert.deepEqual(await addresses(client), [address, another].toSorted());
    await client.deleteThreePid("email", another);
    assert.deepEqual(await addresses(client), [address]);

    const lost = createClient({ baseUrl });
    const { sid: session } = await lost.requestPasswordEmailToken(address, secret, 1);
    const threepid = { type: "m.login.email.identity", threepid_creds: { sid: session, client_secret: secret } };
    await assert.rejects(lost.setPassword(threepid, "another password", true));
    await read(address);
    const first = await lost.setPassword(undefined, "another password", true).catch((error) => error.data);
    await lost.setPassword({ ...threepid, session: first.session }, "another password", true);
    await refused(client.whoami(), "M_UNKNOWN_TOKEN");
    await refused(login(client), "M_FORBIDDEN");
    client.password = "another password";
    const again = await login(client);
    assert.equal((await again.whoami()).user_id, client.getUserId());
});

test("locked, suspended, gone", async () => {
    const { client: alice } = await newcomer("alice");
    const { client: bob } = await newcomer("bob");
    const set = async (what, value) => {
        const answer = await fetch(`${baseUrl}/_matrix/client/v1/admin/${what}/${encodeURIComponent(alice.getUserId())}`, {
            method: "PUT",
            headers: { Authorization: `Bearer ${process.env.PARLEY_ROOT}` },
            body: JSON.stringify({ [`${what}ed`]: value }),
        });
        assert.equal(answer.status, 200);
    };
    const { room_id: roomId } = await alice.createRoom({ preset: "public_chat" });
    await set("suspend", true);
    await refused(alice.sendTextMessage(roomId, "x"), "M_USER_SUSPENDED");
    await refused(alice.setDisplayName("x"), "M_USER_SUSPENDED");
    await set("suspend", false);
    await alice.sendTextMessage(roomId, "may speak");
    await set("lock", true);
    await refused(alice.getDevices(), "M_USER_LOCKED");
    await refused(login(alice), "M_USER_LOCKED");
    await set("lock", false);
    await alice.getDevices();

    await bob.joinRoom(roomId);
    const gone = new InteractiveAuth({
        matrixClient: alice,
        doRequest: (auth) => alice.deactivateAccount(auth ?? undefined, true),
        stateUpdated: () =>
            gone.submitAuthDict({ type: "m.login.password", identifier: { type: "m.id.user", user: alice.getUserId() }, password: alice.password }),
    });
    await gone.attemptAuth();
    await refused(alice.whoami(), "M_UNKNOWN_TOKEN");
    await refused(login(alice), "M_USER_DEACTIVATED");
    await refused(bob.getProfileInfo(alice.getUserId()), "M_NOT_FOUND");
    const { joined } = await bob.getJoinedRoomMembers(roomId);
    assert.deepEqual(Object.keys(joined), [bob.getUserId()]);
    // What she had erased is as redacted for who comes now; he has seen it.
    const { client: carol } = await newcomer("carol");
    await carol.joinRoom(roomId);
    for (const [client, content] of [[bob, { msgtype: "m.text", body: "may speak" }], [carol, {}]]) {
        const { chunk } = await client.createMessagesRequest(roomId, null, 20, Direction.Backward);
        assert.deepEqual(chunk.find((event) => event.type === "m.room.message").content, content);
    }
});
