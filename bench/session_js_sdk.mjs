// One measurement of matrix-js-sdk's session in a process of its own, as session_ours.py does it.
// Usage: node session_js_sdk.mjs MODULES each|load FILE MEMBERS, where MODULES has node_modules.
//
// The SDK's own MatrixRTCSession, MatrixEvent and RoomStickyEventsStore do the work. The room is a stub that
// looks up what it is asked for, so that nothing else a client does is in the figure; logs go nowhere.

import { EventEmitter } from "node:events";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

// The SDK wants Node 22; this is all that it misses in Node 20.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};
const print = console.log;
console.log = console.info = console.debug = console.trace = console.warn = console.error = () => {};

const [modules, what, file, members] = process.argv.slice(2);
const sdk = (name) => import(pathToFileURL(`${modules}/node_modules/matrix-js-sdk/lib/${name}.js`));
const { MatrixRTCSession } = await sdk("matrixrtc/MatrixRTCSession");
const { MatrixEvent } = await sdk("models/event");
const { RoomStickyEventsStore } = await sdk("models/room-sticky-events");
const MAX_S = 10; // of one measurement: at 100,000 members a change takes the SDK seconds

class Room extends EventEmitter {
    roomId = "!room:example.org";
    state = new Map();
    sticky = new RoomStickyEventsStore();
    joined = new Set();

    constructor() {
        super();
        const update = "RoomStickyEvents.Update";
        this.sticky.on(update, (...changes) => this.emit(update, ...changes));
    }
    getLiveTimeline() {
        return { getState: () => this };
    }
    getStateEvents(type, key) {
        const events = this.state.get(type);
        return key === undefined ? [...(events?.values() ?? [])] : (events?.get(key) ?? null);
    }
    hasMembershipState(user) {
        return this.joined.has(user);
    }
    _unstable_getStickyEvents() {
        return this.sticky.getStickyEvents();
    }
    put(event) {
        const type = event.getType();
        if (!this.state.has(type)) this.state.set(type, new Map());
        this.state.get(type).set(event.getStateKey(), event);
    }
    fill(events) {
        for (const event of events) if (event.isState()) this.put(event);
        this.sticky.addStickyEvents(events.filter((event) => !event.isState()));
    }
}

const lines = readFileSync(file, "utf8").trimEnd().split("\n");
const events = lines.map((line) => new MatrixEvent(JSON.parse(line)));
const room = new Room();
const count = Number(members);
const joins = events.slice(0, count);
for (const event of joins) room.joined.add(event.getSender());

async function started() {
    const session = new MatrixRTCSession({ on() {}, off() {} }, room, { application: "m.call", id: "ROOM" });
    await session.initialMembershipCalculated;
    if (session.memberships.length !== count) throw new Error(`${session.memberships.length} members`);
    return session;
}

let result;
if (what === "load") {
    const start = performance.now();
    room.fill(joins);
    await started();
    result = { ms: performance.now() - start };
} else {
    room.fill(joins);
    const session = await started();
    let changed = 0;
    session.on("memberships_changed", () => changed++);
    const us = [];
    const begun = performance.now();
    for (const event of events.slice(count)) {
        if (us.length && performance.now() - begun > MAX_S * 1000) break;
        const start = performance.now();
        if (event.isState()) {
            room.put(event);
            await session._onRTCSessionMemberUpdate();
        } else {
            room.sticky.addStickyEvents([event]); // the session listens
            await session.ensureRecalculateSessionMembers();
        }
        us.push((performance.now() - start) * 1000);
        if (changed !== us.length) throw new Error(`${changed} changes of ${us.length} were seen`);
    }
    result = { us };
}
print(JSON.stringify(result));
process.exit(0);
