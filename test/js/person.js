// A person with one device: a matrix-js-sdk client, and ways to wait for what it hears.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { ClientEvent, RoomEvent, createClient } from "matrix-js-sdk";

// The library tells the console all that it does, refusals that a test provokes among them.
for (const method of ["trace", "debug", "info", "log", "warn", "error"]) console[method] = () => {};

const baseUrl = process.env.PARLEY_URL;

// How long to wait for what should come; it is there so that a lost event fails the test with a message.
const patience = 60_000;

// register makes an account whose name begins with name, on the server of a test that has one. Its client is not started.
export async function register(name, url = baseUrl) {
    const username = `${name}-${randomUUID().slice(0, 8)}`;
    const password = `password of ${name}`;
    const account = await createClient({ baseUrl: url }).registerRequest({
        username,
        password,
        auth: { type: "m.login.dummy" },
    });
    return person(url, account, password);
}

// person is the first device of an account that was just made.
export const person = (url, account, password) => clientOf(url, account, password, new Map());

// refused waits for the refusal of a request.
export const refused = (promise, errcode) => assert.rejects(promise, (error) => error.errcode === errcode);

// login is the same account on a further device.
export async function login(client) {
    const account = await createClient({ baseUrl: client.baseUrl }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: client.getUserId() },
        password: client.password,
    });
    return clientOf(client.baseUrl, account, client.password, client.secretKeys);
}

// clientOf is a device. All devices of a person know the keys of their secret storage, as if they had typed them in.
function clientOf(url, account, password, secretKeys) {
    const client = createClient({
        baseUrl: url,
        userId: account.user_id,
        accessToken: account.access_token,
        deviceId: account.device_id,
        verificationMethods: ["m.sas.v1"],
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => {
                const id = Object.keys(keys).find((id) => secretKeys.has(id));
                return id ? [id, secretKeys.get(id)] : null;
            },
            cacheSecretStorageKey: (id, info, key) => secretKeys.set(id, key),
        },
    });
    client.password = password;
    client.secretKeys = secretKeys;
    return client;
}

// start runs the client's sync loop, and returns when the initial sync is done. The client stops when the test ends.
export async function start(t, client, options = {}) {
    t.after(() => client.stopClient());
    const prepared = heard(client, ClientEvent.Sync, (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 20, ...options });
    await prepared;
    return client;
}

// heard waits for an event of the client whose arguments satisfy ok, and gives the arguments.
export async function heard(client, name, ok) {
    return new Promise((resolve, reject) => {
        const stop = () => {
            client.off(name, listener);
            clearTimeout(timer);
        };
        const listener = (...args) => {
            if (!ok(...args)) return;
            stop();
            resolve(args);
        };
        const timer = setTimeout(() => {
            stop();
            reject(new Error(`${client.getUserId()} waited in vain for ${name}`));
        }, patience);
        client.on(name, listener);
    });
}

// message waits for a message with the body in the room's timeline, and gives the event.
export async function message(client, roomId, body) {
    const wanted = (event) => event.getRoomId() === roomId && event.getContent().body === body;
    const known = client.getRoom(roomId)?.getLiveTimeline().getEvents().find(wanted);
    if (known) return known;
    const [event] = await heard(client, RoomEvent.Timeline, wanted);
    return event;
}

// bodies lists what has been said in the part of the room that the client holds.
export function bodies(client, roomId) {
    return client
        .getRoom(roomId)
        .getLiveTimeline()
        .getEvents()
        .filter((event) => event.getType() === "m.room.message")
        .map((event) => event.getContent().body);
}
