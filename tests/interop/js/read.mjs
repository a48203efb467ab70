// What matrix-js-sdk sees in events, each alone in a room: the members, and the transport of each.
// Usage: node read.mjs MODULES; then requests on standard input, one JSON line of answer to each.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const library = pathToFileURL(`${process.argv[2]}/node_modules/matrix-js-sdk/lib/`);
for (const name of ["log", "info", "debug", "trace", "warn", "error"]) console[name] = () => {};
const { MatrixEvent } = await import(new URL("models/event.js", library));
const { RoomStickyEventsStore } = await import(new URL("models/room-sticky-events.js", library));
const { MatrixRTCSession } = await import(new URL("matrixrtc/MatrixRTCSession.js", library));
const { isLivekitTransportConfig } = await import(new URL("matrixrtc/LivekitTransport.js", library));
const SLOT = { application: "m.call", id: "ROOM" };
const clock = Date.now;

// A room with this event and nothing else, whose every sender is joined.
function roomOf(raw) {
    const sticky = new RoomStickyEventsStore();
    const event = new MatrixEvent({ room_id: "!room:hs", ...raw });
    if (raw.msc4354_sticky) sticky.addStickyEvents([event]);
    const states = raw.state_key === undefined ? [] : [event];
    const state = {
        getStateEvents: (type, key) =>
            key === undefined ? states.filter((e) => e.getType() === type) : null,
    };
    const room = {
        roomId: "!room:hs",
        getLiveTimeline: () => ({ getState: () => state }),
        hasMembershipState: () => true,
        getVersion: () => "11",
        _unstable_getStickyEvents: () => sticky.getStickyEvents(),
        on: () => room,
        off: () => room,
    };
    return { room, stop: () => clearTimeout(sticky.stickyEventTimer) };
}

const requests = {
    // The members that each event makes, as the session lists them at a time.
    async read({ events, nowMs }) {
        Date.now = () => nowMs;
        const seen = [];
        for (const raw of events) {
            const { room, stop } = roomOf(raw);
            const members = await MatrixRTCSession.sessionMembershipsForSlot(room, SLOT);
            seen.push(
                members.map((member) => {
                    const found = { userId: member.userId, deviceId: member.deviceId };
                    // What Element Call does with each member that it is given.
                    try {
                        const used = member.getTransport(members[0]);
                        return { ...found, used: used ?? null, livekit: isLivekitTransportConfig(used) };
                    } catch (error) {
                        return { ...found, throws: String(error) };
                    }
                }),
            );
            stop();
        }
        Date.now = clock;
        return { seen };
    },
    // How often a session counts its members within a time, when nothing happens.
    async recounts({ event, forMs }) {
        const { room, stop } = roomOf(event);
        const count = MatrixRTCSession.sessionMembershipsForSlot;
        let counts = 0;
        MatrixRTCSession.sessionMembershipsForSlot = function (...args) {
            counts += 1;
            return count.apply(this, args);
        };
        const session = new MatrixRTCSession({ getUserId: () => "@me:hs", getDeviceId: () => "ME" }, room, SLOT);
        await new Promise((done) => setTimeout(done, forMs));
        await session.stop();
        MatrixRTCSession.sessionMembershipsForSlot = count;
        stop();
        return { counts };
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
process.exit(0);
