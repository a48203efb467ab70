// The media keys of one matrix-js-sdk client: those that it sends, and those that it takes from others.
// Usage: node media_keys.mjs MODULES; requests as JSON lines on standard input, one line of answer to each.
//
// The SDK's own RTCEncryptionManager, ToDeviceKeyTransport and CallMembership do the work; the client is a
// stub that keeps what it is to send, and the room one that holds what it is told.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// Standard output carries answers.
console.log = console.info = console.debug = console.trace = console.warn = console.error = () => {};

const sdk = (name) => import(pathToFileURL(`${process.argv[2]}/node_modules/matrix-js-sdk/lib/${name}.js`));
const { MatrixEvent } = await sdk("models/event");
const { RoomStickyEventsStore } = await sdk("models/room-sticky-events");
const { MatrixRTCSession } = await sdk("matrixrtc/MatrixRTCSession");
const { RTCEncryptionManager } = await sdk("matrixrtc/RTCEncryptionManager");
const { ToDeviceKeyTransport } = await sdk("matrixrtc/ToDeviceKeyTransport");

const SLOT = { application: "m.call", id: "ROOM" };
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const handlers = new Map();
const sent = [];
const keys = [];
let members = [];
let manager, sticky, roomId;

const client = {
    on: (name, handler) => handlers.set(name, handler),
    off: (name) => handlers.delete(name),
    encryptAndSendToDevice: async (type, targets, content) => void sent.push({ type, targets, content }),
};

function roomOf(events) {
    clearTimeout(sticky?.stickyEventTimer);
    sticky = new RoomStickyEventsStore();
    const made = events.map((raw) => new MatrixEvent({ room_id: roomId, ...raw }));
    sticky.addStickyEvents(made.filter((event) => event.event.msc4354_sticky));
    const states = made.filter((event) => event.event.state_key !== undefined);
    const state = {
        getStateEvents: (type, key) => (key === undefined ? states.filter((e) => e.getType() === type) : null),
    };
    return {
        roomId,
        getLiveTimeline: () => ({ getState: () => state }),
        hasMembershipState: () => true,
        _unstable_getStickyEvents: () => sticky.getStickyEvents(),
    };
}

const requests = {
    // Join as a member, which has a hashed identity if it is sticky.
    async join({ room, own, isSticky }) {
        roomId = room;
        const statistics = {
            counters: { roomEventEncryptionKeysSent: 0, roomEventEncryptionKeysReceived: 0 },
            totals: { roomEventEncryptionKeysReceivedTotalAge: 0 },
        };
        const transport = new ToDeviceKeyTransport(own, roomId, client, statistics);
        manager = new RTCEncryptionManager(
            own,
            () => members,
            transport,
            (key, index, { userId, deviceId, memberId }, identity) =>
                keys.push({ userId, deviceId, memberId, index, key: hex(key), identity }),
        );
        manager.join({ unstableSendStickyEvents: isSticky, useKeyDelay: 10 });
        return {};
    },
    // From now on these memberships are the whole session.
    async members({ events }) {
        members = await MatrixRTCSession.sessionMembershipsForSlot(roomOf(events), SLOT);
        manager.onMembershipsUpdate();
        return { count: members.length };
    },
    // A to-device message, as it is after decryption.
    async receive({ event }) {
        for (const handler of handlers.values()) handler(new MatrixEvent(event));
        return {};
    },
    // What it was to send, and every key that the media layer was told, its own included.
    async look() {
        return { sent, keys };
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
