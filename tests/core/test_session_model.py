"""The session under every policy against its rules computed anew (`naive`), whatever happens when.

Every dialect that is read, several users and devices, leaves, broken events, events again and late,
redactions, kicks, slots, encryption, and time.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.diffs import (
    EventIgnored,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    SlotChanged,
)
from rtcfoci.core.model import Member, Now, RoomEvent, Slot, Transport
from rtcfoci.core.policies import POLICIES
from rtcfoci.core.session import Session
from tests.core.naive import SLOT_TYPES, NaiveSession

SLOT = Slot(room_id="!room:hs")
DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
USERS = ("@u:hs", "@v:hs")
START_MS = 1_000_000
PER_MEMBER = {"type": "org.matrix.msc4143.per_member"}
lifetimes_ms = st.sampled_from([0, 5, 20, 4000, 3_600_000])


def d1_entry(own):
    return {
        "application": own.slot.application,
        "call_id": "",
        "scope": "m.room",
        "device_id": own.member.device_id,
        "membershipID": own.member.member_id,
        "expires": own.lifetime_ms,
        "foci_active": [dict(own.transports[0].raw)],
    }


def d1(own):
    """Two entries of one device, the second of which says something else."""
    entries = [d1_entry(own), {**d1_entry(own), "expires": own.lifetime_ms // 2}]
    return STATE, own.member.user_id, {"memberships": entries}


def d4(own):
    content = {
        "session": {"application": own.slot.application, "call_id": "", "scope": "m.room"},
        "member": {
            "id": own.member.member_id,
            "device_id": own.member.device_id,
            "user_id": own.member.user_id,
        },
        "focus_active": {"type": "livekit", "focus_selection": "oldest_membership"},
        "foci_preferred": [dict(own.transports[0].raw)],
        "expires": own.lifetime_ms,
    }
    return STATE, f"_{own.member.user_id}_{own.member.device_id}_d4", content


def d7(own, key=""):
    """Pure: without a device, but for the one that encrypts it."""
    content = {
        "slot_id": own.slot.slot_id,
        "application": {"type": own.slot.application},
        "member": {"id": own.member.member_id, "membership": "join"},
        "transports": {"published": [dict(own.transports[0].raw)]},
        "sticky_key": key or own.member.member_id,
    }
    return STICKY, None, content


def d7_elsewhere(own):
    """Filed under a key that is not its member id."""
    return d7(own, "z")


def by(dialect):
    def write(own):
        event = dialect.join(own)
        return event.type, event.state_key, event.content

    return write


def stable(write):
    """The same event under the name that nobody reads yet."""
    names = {STATE: "m.call.member", STICKY: "m.rtc.member"}

    def writes(own):
        kind, state_key, content = write(own)
        return names[kind], state_key, content

    return writes


D6 = by(Superset())
WRITERS = [
    d1, by(D2()), by(D3()), d4, by(D5()), D6, d7, d7_elsewhere,
    stable(by(D3())), stable(D6), by(D3()), D6,
]  # fmt: skip
members = st.builds(
    Member,
    user_id=st.sampled_from(USERS),
    device_id=st.sampled_from("AB"),
    # The last is the state key of a device.
    member_id=st.sampled_from(["x", "y", "_@u:hs_A_m.call"]),
)
owns = st.builds(
    OwnMembership,
    slot=st.sampled_from([SLOT, SLOT, SLOT, replace(SLOT, application="org.board")]),
    member=members,
    transports=st.sampled_from("ts").map(lambda kind: (Transport(kind, {"type": kind}),)),
    lifetime_ms=lifetimes_ms,
)
around_ms = st.integers(-6, 6)


class Told:
    """A session, what it has said, and what it should have."""

    def __init__(self, policy):
        self.session = Session(SLOT, DIALECTS, policy=policy)
        self.naive = NaiveSession(SLOT, DIALECTS, policy.name)
        self.by_diffs = []
        self.slot_is = "absent"

    def tell(self, now, event):
        self.naive.tell(now.ts_ms, event)
        if event is None:
            return self.replay(self.session.handle_timer(now))
        return self.replay(self.session.receive(event, now))

    def replay(self, diffs):
        for diff in diffs:
            match diff:
                case MemberJoined(membership):
                    self.by_diffs.append(membership)
                case MemberLeft(membership, _):
                    self.by_diffs.remove(membership)
                case MemberChanged(old, new) | MemberRefreshed(old, new):
                    assert old.member == new.member
                    assert old != new
                    self.by_diffs[self.by_diffs.index(old)] = new
                case SlotChanged(status):
                    assert self.slot_is != status.value
                    self.slot_is = status.value
                case EventIgnored(_, _, problems):
                    assert problems

    def check(self, now, events):
        members = self.session.members
        assert whole(members) == whole(self.by_diffs) == whole(self.naive.members())
        assert [m.created_ts_ms for m in members] == sorted(m.created_ts_ms for m in members)
        assert self.session.slot_status.value == self.naive.slot_is == self.slot_is
        timer_ms = self.session.next_timer_ts_ms
        ends_ms = [m.expires_ts_ms for m in members]
        assert now.ts_ms < min([timer_ms or now.ts_ms + 1, *ends_ms])
        assert not ends_ms or timer_ms <= min(ends_ms)
        assert len(self.session) == len(members)
        for who in (m.member for m in members):
            assert self.session.has(who)
            assert self.session.find(who.user_id, who.device_id) in members or not who.device_id
        ids = {m.event_id for m in members}
        for event in events:
            assert (self.session.explain(event, now) == ()) is (event.event_id in ids)


def whole(memberships):
    """In the session's order; equal places are as good as each other."""
    return sorted(memberships, key=lambda m: (m.created_ts_ms, m.member.order, repr(m)))


class World(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now_ms = START_MS
        self.told = [Told(policy) for policy in POLICIES]
        self.events = []
        """Memberships and the like; and slots."""
        self.slots = []
        for user in USERS:
            self.presence(user, "join")

    @property
    def now(self):
        return Now(self.now_ms / 1000, self.now_ms)

    def tell(self, event):
        for told in self.told:
            told.tell(self.now, event)

    def event(self, kind, content, sender=USERS[0], ahead_ms=0, **more):
        number = len(self.events) + len(self.slots)
        return RoomEvent(
            type=kind,
            sender=sender,
            content=content,
            event_id=f"${number:03}",
            origin_server_ts_ms=self.now_ms + ahead_ms,
            received_ts_ms=self.now_ms,
            **more,
        )

    def member_event(self, own, written, ahead_ms, encrypted=False):
        kind, state_key, content = written
        sticky_ms = own.lifetime_ms if state_key is None else None
        device_id = own.member.device_id if encrypted else None
        self.events.append(
            self.event(
                kind,
                content,
                own.member.user_id,
                ahead_ms,
                state_key=state_key,
                sticky_duration_ms=sticky_ms,
                encrypted=encrypted,
                encrypted_by_device_id=device_id,
            )
        )
        self.tell(self.events[-1])

    @rule(own=owns, write=st.sampled_from(WRITERS), ahead_ms=around_ms, encrypted=st.booleans())
    def join(self, own, write, ahead_ms, encrypted):
        self.member_event(own, write(own), ahead_ms, encrypted)

    @rule(own=owns, dialect=st.sampled_from([D2(), D3()]), ahead_ms=around_ms, since_ms=around_ms)
    def refresh(self, own, dialect, ahead_ms, since_ms):
        """Also with claims that are not believed."""
        since_ms = self.now_ms + since_ms if since_ms else 1
        event = dialect.refresh(own, created_ts_ms=since_ms, now_ts_ms=self.now_ms)
        self.member_event(own, (event.type, event.state_key, event.content), ahead_ms)

    @rule(own=owns, dialect=st.sampled_from([D3(), D5(), Superset()]), ahead_ms=around_ms)
    def leave(self, own, dialect, ahead_ms):
        event = dialect.leave(own)
        self.member_event(own, (event.type, event.state_key, event.content), ahead_ms)

    @rule(own=owns, write=st.sampled_from(WRITERS), ahead_ms=around_ms)
    def break_(self, own, write, ahead_ms):
        kind, state_key, content = write(own)
        self.member_event(own, (kind, state_key, {**content, "application": 7}), ahead_ms)

    @rule(data=st.data())
    @precondition(lambda self: self.events or self.slots)
    def come_again(self, data):
        event = data.draw(st.sampled_from(self.events + self.slots))
        self.tell(replace(event, received_ts_ms=self.now_ms))

    @rule(data=st.data())
    @precondition(lambda self: self.events or self.slots)
    def redact(self, data):
        event = data.draw(st.sampled_from(self.events + self.slots))
        self.tell(self.event("m.room.redaction", {}, redacts=event.event_id))

    @rule(user=st.sampled_from(USERS), says=st.sampled_from(["join", "join", "leave", "ban"]))
    def presence(self, user, says):
        self.tell(self.event("m.room.member", {"membership": says}, user, state_key=user))

    @rule(
        kind=st.sampled_from(SLOT_TYPES),
        content=st.sampled_from(
            [
                {"status": "open", "application": {"type": "m.call"}},
                {"status": "open", "application": {"type": "m.call"}, "encryption": PER_MEMBER},
                {"application": {"type": "m.call"}},
                {"status": "closed", "application": {"type": "m.call"}},
                {"status": "open", "application": {"type": "org.board"}},
                {},
            ]
        ),
        slot_id=st.sampled_from([SLOT.slot_id, SLOT.slot_id, SLOT.slot_id, "m.call#side"]),
        ahead_ms=around_ms,
    )
    def slot(self, kind, content, slot_id, ahead_ms):
        self.slots.append(self.event(kind, content, ahead_ms=ahead_ms, state_key=slot_id))
        self.tell(self.slots[-1])

    @rule()
    def encrypt(self):
        self.tell(self.event("m.room.encryption", {}, state_key=""))

    @rule(for_ms=st.sampled_from([1, 4, 10, 30, 5000, 3_600_000]))
    def wait(self, for_ms):
        self.now_ms += for_ms
        self.tell(None)

    @rule()
    @precondition(lambda self: any(told.session.next_timer_ts_ms for told in self.told))
    def wait_for_the_timer(self):
        timers_ms = [told.session.next_timer_ts_ms for told in self.told]
        self.now_ms = min(timer_ms for timer_ms in timers_ms if timer_ms is not None)
        self.tell(None)

    @invariant()
    def every_policy_is_kept(self):
        for told in self.told:
            told.check(self.now, self.events)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=30)
