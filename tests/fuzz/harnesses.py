"""The parsers of what others send: events, files, syncs, signals, refusals; each with what must hold of it.

In: everything that the package itself reads. Out: the mesh's own (`mesh`).
"""

from __future__ import annotations

import json
from importlib.util import find_spec

from rtcfoci.core.dialects import Leave, Memberships, Problems
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.diffs import MemberChanged, MemberJoined, MemberLeft, MemberRefreshed
from rtcfoci.core.effects import Failure
from rtcfoci.core.model import Member, Membership, Now, Slot, SlotStatus
from rtcfoci.core.policies import POLICIES
from rtcfoci.core.problems import KINDS
from rtcfoci.core.session import Session
from rtcfoci.core.signals import Refused, SignalInbox
from rtcfoci.core.slots import asks_encryption, open_slot, read_slot
from rtcfoci.core.sticky import StickyMap, read_sticky_key
from rtcfoci.errors import Problem, UsageError
from rtcfoci.lab.report import Fold
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.matrix.answers import refused
from rtcfoci.matrix.http import Response, _loads
from rtcfoci.matrix.sync import read_event, read_sync
from tests.fuzz import seeds
from tests.fuzz.harness import HARNESSES, encoded, of_bytes, of_json

__all__ = ["HARNESSES"]

DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
SLOT = Slot(room_id="!room:hs")
NOW_TS_MS = 1_795_596_300_000
"""Soon after the captured events."""
NOW = Now(0.0, NOW_TS_MS)
OWN = Member(user_id="@b:hs", device_id="B", member_id="mb")
SECRET = "syd_secret"


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


@of_bytes(lambda: map(encoded, seeds.rooms()), is_json=True)
def room_file(data):
    """A room's events in a file, folded under every policy: diffs and reasons agree with the members."""
    try:
        file = read_room_file(data.decode("utf-8", "replace"), NOW_TS_MS)
    except UsageError:
        return
    for policy in POLICIES:
        fold = Fold(file, Slot(room_id=file.room_id), DIALECTS, policy, NOW_TS_MS)
        shown = []
        for step in fold.steps():
            replay(step.diffs, shown)
            assert step.count == len(shown)
            json.dumps(fold.step(step), allow_nan=False)
        members = fold.session.members
        assert sorted(map(repr, shown)) == sorted(map(repr, members))
        json.dumps(fold.report(), allow_nan=False).encode()


def replay(diffs, shown):
    for diff in diffs:
        match diff:
            case MemberJoined(membership):
                shown.append(membership)
            case MemberLeft(membership, _):
                shown.remove(membership)
            case MemberChanged(old, new) | MemberRefreshed(old, new):
                shown[shown.index(old)] = new


@of_json(seeds.syncs)
def sync(value):
    """An answer to `/sync`, all the way into sessions and the inbox of signals."""
    batch = read_sync(value, NOW_TS_MS)
    for room in batch.rooms:
        session = Session(Slot(room_id=room.room_id), DIALECTS)
        for event in room.events:
            session.receive(event, NOW)
        assert len(session.members) == len(session)
    for message in batch.to_device:
        receive(message.content, message.sender)


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


@of_bytes(lambda: map(encoded, seeds.syncs()), is_json=True)
def answer(data):
    """The body of an answer, however deep."""
    try:
        value = _loads(data)
    except ValueError:
        return
    json.dumps(value)


@of_json(seeds.refusals)
def refusal(value):
    """What a homeserver says when it refuses; no secret comes out of it."""
    source = value if isinstance(value, dict) else {}
    status, after = source.get("status"), source.get("retry-after")
    headers = {"retry-after": after} if isinstance(after, str) else {}
    response = Response(status if type(status) is int else 400, headers, source.get("body"))
    error = refused("do this", response, SECRET)
    assert SECRET not in str(error)
    failure = Failure.of(error)
    assert failure.retry_after_s is None or failure.retry_after_s >= 0


if find_spec("rtcfoci_mesh"):
    from tests.fuzz import mesh  # noqa: F401
