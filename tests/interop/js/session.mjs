// A matrix-js-sdk client in one room: it tells what its MatrixRTC session shows, and joins it on request.
// Usage: node session.mjs MODULES, where MODULES is a folder with node_modules; then requests on
// standard input, the first of them {"do": "start", ...}. One JSON line of answer to each.

import { createRequire, register } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// The SDK wants Node 22; this is all that it misses in Node 20.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};

// Standard output carries answers; what the SDK logs goes to standard error, its errors are kept too.
const troubles = [];
const print = console.error;
console.log = console.info = console.debug = console.trace = (...parts) => print("-", ...parts);
console.error = (...parts) => {
    troubles.push(parts.map(String).join(" "));
    print("error", ...parts);
};
for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.on(event, (error) => troubles.push(`${event}: ${error?.stack ?? error}`));
}

// Before 34 it was written for bundlers, which find `./matrix` and folders.
register(`data:text/javascript,${encodeURIComponent(`
    export async function resolve(name, context, next) {
        for (const end of ["", ".js", "/index.js"]) {
            try { return await next(name + end, context); } catch (error) { var last = error; }
        }
        throw last;
    }
`)}`);
const modules = createRequire(pathToFileURL(`${process.argv[2]}/`));
const sdk = await import(pathToFileURL(modules.resolve("matrix-js-sdk")));
let client, session, room;

const requests = {
    async start({ baseUrl, userId, deviceId, accessToken, roomId, crypto }) {
        client = sdk.createClient({ baseUrl, userId, deviceId, accessToken });
        if (crypto) await client.initRustCrypto({ useIndexedDB: false });
        await client.startClient();
        await new Promise((done) => client.on("sync", (state) => state === "PREPARED" && done()));
        room = client.getRoom(roomId);
        session = client.matrixRTC.getRoomSession(room);
        return {};
    },
    // As Element Call joins: state event, each publishes on its own focus.
    join({ transport }) {
        const identity = { userId: client.getUserId(), deviceId: client.getDeviceId() };
        const memberId = `${identity.userId}:${identity.deviceId}`;
        session.joinRTCSession({ ...identity, memberId }, [], transport);
        return {};
    },
    // Whatever method of the session, in whatever version: false when it is not to be waited for.
    async call({ method, args, wait }) {
        const result = session[method](...args.map((arg) => arg ?? undefined));
        return { result: wait === false ? null : ((await result) ?? null) };
    },
    // Which notifications of the room ring here, and why the others do not.
    async notifications() {
        const place = pathToFileURL(modules.resolve("matrix-js-sdk/lib/matrixrtc/types.js"));
        const { parseCallNotificationContent } = await import(place);
        const found = {};
        for (const event of [...room.getLiveTimeline().getEvents(), ...room._unstable_getStickyEvents()]) {
            if (event.getType() !== "org.matrix.msc4075.rtc.notification") continue;
            const context = { room, userId: client.getUserId() };
            found[event.getId()] = await parseCallNotificationContent(event, context)
                .then((content) => ({ content, why: "" }), (error) => ({ content: null, why: error.message }));
        }
        return { notifications: found };
    },
    async decline({ eventId }) {
        await client.sendRtcDecline(room.roomId, eventId);
        return {};
    },
    // Who declined a notification.
    declines({ eventId }) {
        const events = [...room.getLiveTimeline().getEvents(), ...room._unstable_getStickyEvents()];
        const declines = events.filter(
            (event) =>
                event.getType() === "org.matrix.msc4310.rtc.decline" && event.getRelation()?.event_id === eventId,
        );
        return { users: [...new Set(declines.map((event) => event.getSender()))].sort() };
    },
    // A plain event, encrypted where the room is.
    async send({ type, content }) {
        return { eventId: (await client.sendEvent(room.roomId, type, content)).event_id };
    },
    async leave() {
        return { left: await session.leaveRoomSession(5000) };
    },
    look() {
        const oldest = session.getOldestMembership();
        return {
            joined: session.isJoined(),
            troubles,
            members: session.memberships.map((member) => ({
                userId: member.userId,
                deviceId: member.deviceId,
                kind: member.membershipData?.kind,
                transports: member.transports,
                used: member.getTransport(oldest) ?? null,
                backendIdentity: member.rtcBackendIdentity,
                expired: member.isExpired(),
            })),
        };
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
        answer = await requests[request.do](request);
    } catch (error) {
        answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
client?.stopClient();
process.exit(0);
