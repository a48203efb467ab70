"""The parsers of the core: memberships, slots, signals, media keys, notifications, power levels."""

from __future__ import annotations

from rtcfoci.core.dialects import Leave, Memberships, Problems
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.dialects.notification import MAX_LIFETIME_MS
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.key_messages import KEY_TYPES, KeyMessage, KeyRefusal, read_key
from rtcfoci.core.keys import KeyMachine
from rtcfoci.core.model import Member, Membership, Now, Slot, SlotStatus
from rtcfoci.core.notifications import NotificationEnded, Notifications, NotificationStarted
from rtcfoci.core.power import RoomPower, required_power
from rtcfoci.core.problems import KINDS
from rtcfoci.core.session import Session
from rtcfoci.core.signals import Refused, SignalInbox
from rtcfoci.core.slots import asks_encryption, open_slot, read_slot
from rtcfoci.core.sticky import StickyMap, read_sticky_key
from rtcfoci.errors import Problem
from rtcfoci.matrix.sync import is_content, read_event
from tests.fuzz import seeds
from tests.fuzz.harness import items, of_json

DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
SLOT = Slot(room_id="!room:hs")
NOW_TS_MS = 1_795_596_300_000
"""Soon after the captured events."""
NOW = Now(0.0, NOW_TS_MS)
OWN = Member(user_id="@b:hs", device_id="B", member_id="mb")


@of_json(seeds.events)
def dialects(value):
    """One membership event, by every dialect that knows it."""
    event = read_event(value, NOW_TS_MS)
    if event is None:
        return
    dangers(event.content, event.type)
    for dialect in DIALECTS:
        if dialect.reads(event):
            parsed = dialect.parse(event, SLOT.room_id)
            assert isinstance(parsed, Membership | Memberships | Leave | Problems)
            if isinstance(parsed, Problems):
                assert parsed.problems
                assert all(problem.code in KINDS for problem in parsed.problems)


@of_json(seeds.signals)
def signal(value):
    """The envelope of a signal, from whom it names and from anybody."""
    claimed = value.get("from") if isinstance(value, dict) else None
    sender = claimed.get("user_id") if isinstance(claimed, dict) else None
    receive(value, sender if isinstance(sender, str) else "@peer:hs")


def receive(content, sender):
    inbox = SignalInbox(SLOT, OWN, lambda member: member.user_id < "@n")
    for security in ("clear", "bound"):
        verdict = inbox.receive(
            content,
            NOW,
            sender=sender,
            sender_device_id="A",
            security=security,
            encrypted=security != "clear",
        )
        if isinstance(verdict, Refused):
            assert inbox.refused[verdict.reason]


@of_json(seeds.slots)
def slot(value):
    """The content of a slot event; what is written over it opens it."""
    assert read_slot(value, SLOT.application) in SlotStatus
    asks_encryption(value)
    if isinstance(value, dict):
        again = open_slot(SLOT, room_encrypted=True, current=value)
        assert read_slot(again.content, SLOT.application) is SlotStatus.OPEN


@of_json(seeds.events)
def sticky(value):
    """One sticky event, filed."""
    event = read_event(value, NOW_TS_MS)
    if event is None:
        return
    key = read_sticky_key(event.content)
    if isinstance(key, Problem):
        assert key.code in KINDS
        return
    found = StickyMap()
    filed = found.add(event, key, None, NOW)
    assert (filed is not None) == (found.next_expiry_ts_ms is not None)
    assert found.next_expiry_ts_ms is None or found.next_expiry_ts_ms <= NOW_TS_MS + 3_600_000


@of_json(seeds.key_messages, messages=items)
def key(value):
    """Messages with media keys, of members and of strangers: few are kept, and none is shown."""
    machine = KeyMachine(SLOT, OWN, random_bytes=bytes)
    there = [seeds.membership(member) for member in seeds.MEMBERS]
    machine.set_members(NOW, there)
    outputs = list(machine.start(NOW))
    for item in value if isinstance(value, list) else ():
        message = item if isinstance(item, dict) else {}
        content, (sender, device_id) = message.get("content"), _from(message)
        for event_type in KEY_TYPES:
            read = read_key(event_type, content)
            assert isinstance(read, KeyMessage | KeyRefusal)
            if isinstance(read, KeyMessage):
                assert 0 <= read.index <= 255
                assert "<Key>" in repr(read)
            for encrypted in (False, True):
                outputs += machine.receive(
                    NOW,
                    event_type,
                    content,
                    sender=sender,
                    sender_device_id=device_id,
                    encrypted=encrypted,
                )
    assert len(machine.installed) <= 16 * (1 + len(there))
    machine.set_members(NOW, [])
    machine.timer(Now(1e6, NOW_TS_MS))
    assert not any(member != OWN for member, _ in machine.installed)


def _from(message):
    named = message.get("sender"), message.get("sender_device_id")
    sender, device_id = (name if isinstance(name, str) else None for name in named)
    return sender or "@a:hs", device_id


@of_json(seeds.notifications, messages=items)
def notification(value):
    """The events of a room in which we are called: what starts once ends once, and in time."""
    session = Session(SLOT, DIALECTS)
    bell = Notifications(session, user_id=OWN.user_id, device_id=OWN.device_id)
    started, ended = [], []

    def note(diffs):
        started.extend(d.notification for d in diffs if isinstance(d, NotificationStarted))
        ended.extend(d.notification for d in diffs if isinstance(d, NotificationEnded))

    for raw in value if isinstance(value, list) else ():
        event = read_event(raw, NOW_TS_MS)
        if event is not None:
            note(bell.receive(event, session.receive(event, NOW), NOW))
            assert len(bell.current) <= 64
    for found in bell.current:
        assert NOW_TS_MS < found.expires_ts_ms <= NOW_TS_MS + MAX_LIFETIME_MS
    later = Now(1000.0, NOW_TS_MS + MAX_LIFETIME_MS)
    note(bell.handle_timer(later, session.handle_timer(later)))
    assert bell.current == ()
    assert bell.next_timer_ts_ms is None
    assert sorted(map(repr, started)) == sorted(map(repr, ended))


@of_json(seeds.power, messages=items)
def power(value):
    """The state that says who may do what: every question has an answer, within the numbers of Matrix."""
    found = RoomPower()
    for raw in value if isinstance(value, list) else ():
        event = read_event(raw, NOW_TS_MS)
        if event is not None:
            found = found.after(event)
    for user_id in ("@creator:hs", "@a:hs", "@nobody:hs"):
        assert found.of(user_id) == float("inf") or abs(found.of(user_id)) < 2**53
        assert found.may_mention_room(user_id) in (True, False)
    for state in (True, False):
        assert abs(required_power(found.levels, "m.call.member", state=state)) < 2**53
    assert is_content(found.levels)
