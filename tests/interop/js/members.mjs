// Who is in a slot by matrix-js-sdk, told after every event of a sequence, at times that the test chooses.
// Usage: node members.mjs MODULES, where MODULES is a folder with node_modules; then requests on standard
// input, one JSON line of answer to each.
//
// The SDK's own MatrixRTCSession, CallMembership, MatrixEvent and RoomStickyEventsStore do the work; the room
// is a stub that holds state. Each answer is given twice where they differ: with the SDK's own sticky store,
// and with the sticky events that are current by MSC4354 in its place.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// The SDK wants Node 22; this is all that it misses in Node 20.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};
// Standard output carries answers; the SDK says several lines about every member it looks at.
console.log = console.info = console.debug = console.trace = console.warn = console.error = () => {};

// The same hash without the thread pool: a sequence is thousands of them.
crypto.subtle.digest = async (_, data) => createHash("sha256").update(data).digest();

const sdk = (name) => import(pathToFileURL(`${process.argv[2]}/node_modules/matrix-js-sdk/lib/${name}.js`));
const { MatrixRTCSession } = await sdk("matrixrtc/MatrixRTCSession");
const { MatrixEvent } = await sdk("models/event");
const { RoomStickyEventsStore } = await sdk("models/room-sticky-events");
const { TypedEventEmitter } = await sdk("models/typed-event-emitter");

const MEMBER = "org.matrix.msc4143.rtc.member";
const HOUR_MS = 3_600_000;

/** A clock that only the test moves, with its timers. */
class Clock {
    now = 0;
    timers = new Map();
    last = 0;
    real = { now: Date.now, setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout };

    rule() {
        this.timers.clear();
        Date.now = () => this.now;
        globalThis.setTimeout = (call, ms) => {
            this.timers.set(++this.last, { at: this.now + ms, call });
            return this.last;
        };
        globalThis.clearTimeout = (id) => this.timers.delete(id);
    }
    /** Let real time pass, from a moment of the test's on. */
    run(from) {
        const ahead = from - this.real.now();
        Date.now = () => this.real.now() + ahead;
        globalThis.setTimeout = this.real.setTimeout;
        globalThis.clearTimeout = this.real.clearTimeout;
    }
    advance(to) {
        for (;;) {
            const due = [...this.timers].filter(([, timer]) => timer.at <= to);
            if (!due.length) break;
            const [id, timer] = due.reduce((a, b) => (b[1].at < a[1].at ? b : a));
            this.timers.delete(id);
            this.now = Math.max(this.now, timer.at);
            timer.call();
        }
        this.now = to;
    }
}

/** MSC4354's map: of those that are sticky still, the last to expire, then the higher event id. */
class Map4354 {
    events = [];

    add(event) {
        if (event.shouldAttemptDecryption()) {
            event.once("Event.decrypted", () => this.add(event));
            return;
        }
        if (typeof event.getContent().msc4354_sticky_key !== "string") return;
        if (!(event.unstableStickyExpiresAt > Date.now())) return;
        this.events = this.events.filter((known) => known.unstableStickyExpiresAt > Date.now());
        if (!this.events.some((known) => known.getId() === event.getId())) this.events.push(event);
    }
    redact(id) {
        this.events = this.events.filter((event) => event.getId() !== id);
    }
    *current() {
        const winners = new Map();
        for (const event of this.events) {
            if (event.unstableStickyExpiresAt <= Date.now()) continue;
            const key = JSON.stringify([event.getType(), event.getSender(), event.getContent().msc4354_sticky_key]);
            const best = winners.get(key);
            if (!best || outlives(event, best)) winners.set(key, event);
        }
        yield* winners.values();
    }
}

function outlives(a, b) {
    const end = (event) => event.getTs() + Math.max(0, Math.min(event.unstableStickyInfo.duration_ms, HOUR_MS));
    return end(a) === end(b) ? a.getId() > b.getId() : end(a) > end(b);
}

class Room extends TypedEventEmitter {
    roomId = "!room:hs";
    state = new Map();
    store = new RoomStickyEventsStore();
    map = new Map4354();
    known = new Map();
    joined = new Set();
    useMap = false;

    getLiveTimeline() {
        return { getState: () => this };
    }
    getStateEvents(type, key) {
        const events = this.state.get(type);
        return key === undefined ? [...(events?.values() ?? [])] : (events?.get(key) ?? null);
    }
    hasMembershipState(user, membership) {
        return membership === "join" && this.joined.has(user);
    }
    _unstable_getStickyEvents() {
        return this.useMap ? this.map.current() : this.store.getStickyEvents();
    }
    put(raw) {
        const type = raw.type;
        if (!this.state.has(type)) this.state.set(type, new Map());
        this.state.get(type).set(raw.state_key, new MatrixEvent(raw));
        if (type === "m.room.member") {
            const joined = raw.content.membership === "join";
            this.joined[joined ? "add" : "delete"](raw.state_key);
        }
    }
    receive(raw) {
        if (raw.type === "m.room.redaction") return this.redact(raw.redacts);
        if (raw.state_key !== undefined) return this.put(raw);
        const event = new MatrixEvent(raw);
        this.known.set(raw.event_id, event);
        if (event.unstableStickyInfo === undefined) return;
        this.store.addStickyEvents([event]);
        this.map.add(event);
    }
    redact(id) {
        for (const events of this.state.values()) {
            for (const event of events.values()) {
                const { content } = event.event;
                const kept = event.getType() === "m.room.member" ? { membership: content.membership } : {};
                if (event.getId() === id) this.put({ ...event.event, content: kept });
            }
        }
        this.map.redact(id);
        const event = this.known.get(id);
        this.store.handleRedaction(event ?? id);
        if (event) Object.assign(event.event, { content: {}, unsigned: { redacted_because: {} } });
    }
    async decrypt(id, clearEvent) {
        const backend = { decryptEvent: async () => ({ clearEvent }) };
        await this.known.get(id)?.attemptDecryption(backend);
    }
    async members(slot) {
        const found = await MatrixRTCSession.sessionMembershipsForSlot(this, slot);
        return found.map((member) => [
            member.userId,
            member.deviceId,
            member.memberId,
            member.createdTs(),
            member.rtcBackendIdentity,
            member.transports ?? [],
            member.eventId,
            member.slotId,
        ]);
    }
}

const clock = new Clock();
const ids = (events) => [...events].filter((event) => event.getType() === MEMBER).map((event) => event.getId());

const requests = {
    // One sequence: after each step the members, and those of the SDK's own store where that differs.
    async fold({ slot, steps }) {
        clock.rule();
        clock.now = steps[0]?.now ?? 0;
        const room = new Room();
        const answers = [];
        for (const { now, event, decrypted } of steps) {
            clock.advance(now);
            if (event) room.receive(event);
            if (decrypted) await room.decrypt(decrypted.event_id, decrypted.clear);
            room.useMap = true;
            const members = await room.members(slot);
            const same = ids(room.store.getStickyEvents()).sort().join() === ids(room.map.current()).sort().join();
            room.useMap = false;
            answers.push(same ? { members } : { members, own: await room.members(slot) });
        }
        return { answers };
    },
    // How often a session computes its members anew while nothing happens, in real time.
    async storm({ slot, events, now, ms }) {
        clock.run(now);
        const room = new Room();
        events.forEach((event) => room.receive(event));
        const original = MatrixRTCSession.sessionMembershipsForSlot;
        let count = 0;
        MatrixRTCSession.sessionMembershipsForSlot = function (...args) {
            count++;
            return original.apply(this, args);
        };
        const client = { on() {}, off() {} };
        const session = new MatrixRTCSession(client, room, slot);
        await session.initialMembershipCalculated;
        const before = count;
        await new Promise((done) => setTimeout(done, ms));
        MatrixRTCSession.sessionMembershipsForSlot = original;
        const members = session.memberships.map((member) => [member.userId, member.deviceId]);
        await session.stop();
        return { count: count - before, members };
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
