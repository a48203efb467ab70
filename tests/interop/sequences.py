"""Sequences of a room's events, made up at random from a seed: all that matrix-js-sdk 43 reads, and worse.

In: `sequence`. Out: what is read of them (`test_differential`).

A step is a time and, mostly, an event that arrives then, or the text of one that came encrypted and can be
read only now. Steps are plain JSON values, so that a failure can be printed and given to anybody.
"""

import copy
from dataclasses import dataclass, field
from random import Random

STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000
USERS = ("@a:hs", "@b:hs", "@ü:hs.example")
DEVICES = ("DEV", "<&>")
MEMBER_IDS = ("m1", "m2", "é")
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs", "livekit_alias": "!room:hs"}
TRANSPORTS = (
    LIVEKIT,
    {"type": "rtcfoci.mesh", "video": True},
    {"type": ""},
    {"type": "x", "deep": [{}]},
)
JUNK = (
    None, True, 0, -1, 7, 5.5, 1000.0, 2**53, "", "x", "12",
    [], ["x"], [7], {}, {"type": "x"}, [{"type": "y"}],
)  # fmt: skip


@dataclass
class Sequence:
    """One made-up history of a room."""

    slot: dict
    plain: bool
    """Whether it has nothing in which the SDK's sticky store is known to differ from MSC4354."""
    steps: list = field(default_factory=list)


def sequence(seed: int) -> Sequence:
    """Make the sequence of a seed."""
    return _Maker(Random(seed)).sequence


class _Maker:
    def __init__(self, random):
        self.random = random
        slot = {"application": "m.call", "id": "ROOM"}
        if self.chance(0.1):
            slot = {"application": "org.board", "id": "B"}
        self.sequence = Sequence(slot, self.chance(0.3))
        self.now = START_MS
        self.number = 0
        self.ends = []
        """When something expires."""
        self.sent = []
        """Every event so far."""
        self.held = []
        """Events on their way."""
        self.sealed = []
        """Events that came encrypted, with their text."""
        for user in USERS[: random.randint(2, 3)]:
            self.arrive(self.presence(user, "join"))
        for _ in range(random.randint(5, 24)):
            self.step()
        while self.held:
            self.arrive(self.held.pop())
        self.pass_time()

    def chance(self, share):
        return self.random.random() < share

    def one(self, *choices):
        return self.random.choice(choices)

    def step(self):
        if self.chance(0.7):
            self.pass_time()
        act = self.random.choices(
            (
                self.state,
                self.sticky,
                self.room,
                self.slot,
                self.redaction,
                self.again,
                self.late,
                self.unseal,
            ),
            (30, 40, 8, 6, 5, 5, 5, 6),
        )[0]
        act()

    def pass_time(self):
        ahead = [end for end in self.ends if self.now < end < self.now + 12 * HOUR_MS]
        if ahead and self.chance(0.4):
            self.now = max(self.now, self.random.choice(ahead) + self.one(-1, 0, 1))
        else:
            self.now += self.one(1, 1, 7, 1000, 60_000, HOUR_MS // 2)
        if self.chance(0.3):
            self.sequence.steps.append({"now": self.now})

    def arrive(self, event):
        self.sequence.steps.append({"now": self.now, "event": event})
        self.sent.append(event)

    def event(self, type, sender, content, **more):
        self.number += 1
        # Ids in another order than the events.
        event_id = f"${self.random.randrange(1000):03}-{self.number}"
        return {
            "type": type, "sender": sender, "event_id": event_id, "origin_server_ts": self.now,
            "content": content, **more,
        }  # fmt: skip

    # What arrives

    def presence(self, user, membership):
        sender = user if membership == "join" else self.one(*USERS)
        return self.event("m.room.member", sender, {"membership": membership}, state_key=user)

    def room(self):
        self.arrive(
            self.presence(self.one(*USERS), self.one("join", "join", "leave", "ban", "invite"))
        )

    def slot(self):
        kind = self.one("m.call", "m.call", "org.board", 7)
        content = self.one(
            {"status": "open", "application": {"type": kind}},
            {"status": "open", "application": {"type": kind}},
            {"status": "closed", "application": {"type": kind}},
            {"status": "closed", "application": {"type": kind}},
            {"application": {"type": kind}},
            {"status": self.one(*JUNK), "application": self.one(*JUNK)},
            {},
        )
        slot = self.sequence.slot
        key = self.one(
            f"{slot['application']}#{slot['id']}",
            f"{slot['application']}#{slot['id']}",
            "m.call#other",
        )
        self.arrive(
            self.event(
                self.one(SLOT_TYPE, SLOT_TYPE, SLOT_TYPE, "m.rtc.slot"),
                "@mod:hs",
                content,
                state_key=key,
            )
        )

    def state(self):
        user, device = self.one(*USERS), self.one(*DEVICES)
        call = self.sequence.slot["application"], self.sequence.slot["id"]
        name, call_id = self.one(call, call, call, call, ("m.call", ""), ("m.call", ""), ("m.call", "x"),
                                 ("org.board", "ROOM"), ("org.board", "B"), ("org.board", ""))  # fmt: skip
        key = self.one(
            f"_{user}_{device}_m.call", f"_{user}_{device}_m.call", f"{user}_{device}", user, "any",
            f"_{self.one(*USERS)}_{device}_m.call", self.one(*MEMBER_IDS),
        )  # fmt: skip
        if self.chance(0.2):
            self.arrive(
                self.event(
                    STATE, self.one(*USERS), self.one({}, {}, {"slot_id": "x"}), state_key=key
                )
            )
            return
        content = {
            "application": name,
            "call_id": call_id,
            "device_id": device,
            "focus_active": {
                "type": "livekit",
                "focus_selection": self.one("multi_sfu", "oldest_membership", "other"),
            },
            "foci_preferred": [
                copy.deepcopy(self.one(*TRANSPORTS)) for _ in range(self.random.randint(0, 2))
            ],
        }
        more = {
            "scope": "m.room",
            "expires": self.one(4 * HOUR_MS, 5000, 60_000, 0, -1, 2**52),
            "membershipID": self.one(f"{user}:{device}", f"{user}:{device}", "", "own"),
            "created_ts": self.one(self.now - 5000, self.now - HOUR_MS, self.now + 9000, 1, -5),
            "m.call.intent": "audio",
            "rtcfoci.transports": {"published": [TRANSPORTS[1]], "can_subscribe": ["rtcfoci.mesh"]},
            "org.example.more": {"x": [1]},
            "memberships": [],
        }
        content |= {name: value for name, value in more.items() if self.chance(0.35)}
        created = content.get("created_ts", self.now)
        self.ends.append(created + content.get("expires", 4 * HOUR_MS))
        self.arrive(self.event(STATE, user, self.spoilt(content), state_key=key))

    def sticky(self):
        user = self.one(*USERS)
        event = self.event(STICKY, user, self.sticky_content(user))
        plain = self.sequence.plain
        duration_ms = HOUR_MS if plain else self.one(
            HOUR_MS, HOUR_MS, HOUR_MS, 5000, 60_000, 2 * HOUR_MS, 0, -5, "5000", 1000.5, None
        )  # fmt: skip
        if duration_ms is not None:
            event["msc4354_sticky"] = {"duration_ms": duration_ms}
        if not plain and self.chance(0.25):
            event["unsigned"] = {
                "msc4354_sticky_duration_ttl_ms": self.one(0, 1, 5000, HOUR_MS, 2 * HOUR_MS)
            }
        if not plain and self.chance(0.3):
            event["origin_server_ts"] += self.one(-1, 1, -9000, 9000, -HOUR_MS, 3 * HOUR_MS)
        self.ends += [self.now + end for end in (1, 5000, 60_000, HOUR_MS)]
        self.ends.append(event["origin_server_ts"] + HOUR_MS)
        if plain:
            self.now += 1  # a client's two events are never of the same millisecond
        act = self.random.random()
        if act < 0.1:
            self.held.append(event)
        elif act < 0.2:
            sealed = {
                **event,
                "type": "m.room.encrypted",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            }
            self.arrive(sealed)
            self.sealed.append((sealed, event))
        else:
            self.arrive(event)

    def sticky_content(self, user):
        member_id, plain = self.one(*MEMBER_IDS), self.sequence.plain
        here = self.sequence.slot["application"], "#".join(self.sequence.slot.values())
        name, slot_id = self.one(*[here] * 8, ("m.call", "m.call#ROOM"), ("m.call", "m.call#x"),
                                 ("org.board", "org.board#ROOM"), ("org.board", "org.board#B"),
                                 ("m.call", "m.call#ROOM#"), ("org.board", "m.call#ROOM"))  # fmt: skip
        text = self.one(member_id, member_id, member_id, f"_{self.one(*USERS)}_DEV_m.call")
        keys = self.one(
            {"msc4354_sticky_key": text},
            {"msc4354_sticky_key": text},
            {"msc4354_sticky_key": text, "sticky_key": text},
            {"msc4354_sticky_key": text, "sticky_key": text},
            *([] if plain else [
                {"sticky_key": text}, {"msc4354_sticky_key": text, "sticky_key": "other"}, {},
                {"msc4354_sticky_key": self.one(*JUNK)}, {"msc4354_sticky_key": text, "sticky_key": 7},
            ]),
        )  # fmt: skip
        if self.chance(0.25):
            leave = {"id": member_id, "user_id": user, "membership": "leave"}
            return {
                **self.one({}, {"slot_id": slot_id}, {"slot_id": slot_id, "member": leave}),
                **keys,
            }
        content = {
            "slot_id": slot_id,
            "application": {"type": name, **self.one({}, {"m.call.intent": "video"})},
            "member": {"id": member_id, "user_id": user, "device_id": self.one(*DEVICES)},
            "transports": {
                "published": [
                    copy.deepcopy(self.one(*TRANSPORTS)) for _ in range(self.random.randint(0, 2))
                ],
                "can_subscribe": self.one(["livekit"], [], ["", "x"]),
            },
            "versions": self.one([], ["v0"], [""]),
            **keys,
        }
        if self.chance(0.4):
            content["member"]["membership"] = self.one(
                "join", "join", "join", "leave", "knock", 7, None
            )
        if self.chance(0.2):
            content["m.relates_to"] = self.one(
                {"rel_type": "m.reference", "event_id": "$first"},
                {"rel_type": "m.reference", "event_id": ""},
                {"rel_type": "m.thread", "event_id": "$first"},
                *JUNK,
            )
        if self.chance(0.1):
            content["rtc_transports"] = [LIVEKIT]
        return self.spoilt(content)

    def spoilt(self, content):
        """Now and then one field is missing, or something else."""
        if not self.chance(0.2):
            return content
        content = copy.deepcopy(content)
        place = content
        while True:
            key = self.random.choice(list(place))
            if isinstance(place[key], dict) and place[key] and self.chance(0.5):
                place = place[key]
                continue
            if self.sequence.plain and "sticky_key" in key:
                return content
            if self.chance(0.4):
                del place[key]
            else:
                place[key] = copy.deepcopy(self.one(*JUNK))
            return content

    # What happens to it

    def redaction(self):
        known = [event["event_id"] for event in self.sent if "redacts" not in event]
        sealed = {event["event_id"] for event, _ in self.sealed}
        plain = {event["event_id"] for event in self.sent if "state_key" in event}
        known = [i for i in known if i not in sealed and (i in plain or not self.sequence.plain)]
        if known:
            coming = [] if self.sequence.plain else [event["event_id"] for event in self.held]
            redacts = self.random.choice([*known[-4:], *coming, "$nobody's"])
            self.arrive(self.event("m.room.redaction", "@mod:hs", {}, redacts=redacts))

    def again(self):
        """A server gives the same event twice."""
        sealed = {event["event_id"] for event, _ in self.sealed}
        known = [event for event in self.sent if event["event_id"] not in sealed]
        if known and not self.sequence.plain:
            self.arrive(copy.deepcopy(self.random.choice(known)))

    def late(self):
        if self.held:
            self.arrive(self.held.pop(self.random.randrange(len(self.held))))

    def unseal(self):
        """The key of an encrypted event comes."""
        if self.sealed:
            sealed, event = self.sealed.pop(self.random.randrange(len(self.sealed)))
            clear = {"type": event["type"], "content": event["content"]}
            step = {"now": self.now, "decrypted": {"event_id": sealed["event_id"], "clear": clear}}
            self.sequence.steps.append(step)
