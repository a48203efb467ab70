"""Reading policies: who counts under which, and that an event can be asked why it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.dialects.state import MAX_AGE_MS
from rtcfoci.core.model import Now, Slot, SlotStatus
from rtcfoci.core.policies import (
    DEPLOYED,
    POLICIES,
    STICKY_TYPE,
    STRICT,
    TOLERANT,
    ReadingPolicy,
    RoomView,
)
from rtcfoci.core.session import Session
from rtcfoci.errors import Problem

HOUR_MS = 3_600_000
SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}
CLOSED = {**OPEN, "status": "closed"}


class Reader:
    """A session under one policy in a room that everybody has joined."""

    def __init__(self, room, policy, users=("@u:hs", "@v:hs")):
        self.room = room
        self.session = Session(room.slot, room.dialects, policy=policy)
        for user in users:
            self.take(room.presence(user))

    def take(self, *events, at_ms=None):
        for event in events:
            at = event.received_ts_ms if at_ms is None else at_ms
            self.session.receive(event, Now(at / 1000, at))
        return self

    def slot(self, content, ts_ms=10):
        slot_id = self.room.slot.slot_id
        return self.take(self.room.event(SLOT_TYPE, content, ts_ms, state_key=slot_id))

    @property
    def members(self):
        return [(m.member.user_id, m.dialect) for m in self.session.members]

    def why(self, event, at_ms=2000):
        return [p.code for p in self.session.explain(event, Now(at_ms / 1000, at_ms))]


@pytest.mark.parametrize(
    ("policy", "slot", "counted"),
    [
        (DEPLOYED, None, ["D3", "D6/D7"]),
        (DEPLOYED, OPEN, ["D3", "D6/D7"]),
        (DEPLOYED, CLOSED, ["D3"]),
        (STRICT, None, []),
        (STRICT, OPEN, ["D6/D7"]),
        (STRICT, CLOSED, []),
        (TOLERANT, None, ["D3", "D6/D7"]),
        (TOLERANT, CLOSED, ["D3", "D6/D7"]),
    ],
    ids=lambda value: value.name if isinstance(value, ReadingPolicy) else None,
)
def test_who_counts(room, policy, slot, counted):
    reader = Reader(room, policy)
    if slot is not None:
        reader.slot(slot)
    state = room.write(room.d3, "join", 1000)
    sticky = room.write(room.superset, "join", 1001, room.own("@v:hs"))
    reader.take(state, sticky)
    assert [dialect for _, dialect in reader.members] == counted
    for event, dialect in ((state, "D3"), (sticky, "D6/D7")):
        assert (reader.why(event) == []) == (dialect in counted)


def test_the_reason_names_the_rule(room):
    state = room.write(room.d3, "join", 1000)
    sticky = room.write(room.superset, "join", 1001, room.own("@v:hs"))
    strict = Reader(room, STRICT).take(state, sticky)
    assert (strict.why(state), strict.why(sticky)) == (["dialect_not_counted"], ["slot_absent"])
    assert strict.slot(CLOSED).why(sticky) == ["slot_closed"]
    assert strict.slot(OPEN, 11).why(sticky) == []
    assert Reader(room, DEPLOYED).take(sticky).slot(CLOSED, 2000).why(sticky) == ["slot_closed"]


def test_strict_wants_what_the_room_asks_for(room):
    clear = room.write(room.superset, "join", 1000)
    sealed, unbound = (
        replace(room.write(room.superset, "join", 1001, room.own(user)), encrypted=True)
        for user in ("@v:hs", "@w:hs")
    )
    sealed = replace(sealed, encrypted_by_device_id="DEV")
    reader = Reader(room, STRICT, ("@u:hs", "@v:hs", "@w:hs")).slot(OPEN)
    reader.take(room.event("m.room.encryption", {}, 20, state_key=""), clear, sealed, unbound)
    # The slot does not ask its members for encryption, so nobody can be in it.
    assert (reader.why(clear), reader.why(sealed)) == (["slot_closed"], ["slot_closed"])
    reader.slot({**OPEN, "encryption": {"type": "org.matrix.msc4143.per_member"}}, 30)
    assert (reader.why(clear), reader.why(sealed)) == (["not_encrypted"], [])
    assert reader.why(unbound) == ["not_encrypted"]


@pytest.mark.parametrize(
    ("view", "code"),
    [
        (RoomView(slot_status=SlotStatus.OPEN), None),
        (RoomView(slot_status=SlotStatus.OPEN, room_encrypted=True), "slot_closed"),
        (RoomView(slot_status=SlotStatus.OPEN, slot_encrypted=True, room_encrypted=True), None),
        (RoomView(slot_status=SlotStatus.OPEN, slot_encrypted=None), "slot_closed"),
        (RoomView(slot_encrypted=True, room_encrypted=True), "slot_absent"),
    ],
)
def test_strict_reads_what_a_slot_asks_for(room, view, code):
    found = STRICT.refuses(room.membership(encrypted=True), STICKY_TYPE, view)
    assert (found and found.code) == code


@pytest.mark.parametrize(
    ("policy", "status"),
    [(DEPLOYED, SlotStatus.CLOSED), (STRICT, SlotStatus.CLOSED), (TOLERANT, SlotStatus.OPEN)],
    ids=lambda value: getattr(value, "name", None),
)
def test_whether_a_slot_without_a_status_is_open(room, policy, status):
    """As slots were written before 2026-07."""
    reader = Reader(room, policy).slot({"application": {"type": "m.call"}})
    assert reader.session.slot_status is status


def test_deployed_readers_forget_what_was_redacted_before_it_came(room):
    event = room.write(room.superset, "join", 1000)
    redaction = room.event("m.room.redaction", {}, 1000, redacts=event.event_id)
    counted = [
        Reader(room, policy).take(redaction, event).members for policy in (DEPLOYED, TOLERANT)
    ]
    assert counted == [[("@u:hs", "D6/D7")], []]


@pytest.mark.parametrize("policy", [DEPLOYED, STRICT], ids=lambda policy: policy.name)
def test_a_name_that_is_not_counted_is_told_up_to_80_characters(room, policy):
    name = "D" + "x" * 80
    found = policy.refuses(room.membership(dialect=name), STICKY_TYPE, RoomView())
    assert (found.code, found.message) == (
        "dialect_not_counted",
        f"this policy does not count {name[:80]}",
    )


def test_the_deployed_policy_knows_only_the_names_that_are_deployed(room):
    stable = replace(room.write(room.d3, "join", 1000), type="m.call.member")
    assert Reader(room, DEPLOYED).take(stable).why(stable) == ["dialect_not_counted"]
    assert Reader(room, TOLERANT).take(stable).why(stable) == []


def test_why_an_event_is_not_behind_a_member(room):
    reader = Reader(room, TOLERANT, users=["@u:hs"])
    first = room.write(room.d3, "join", 1000)
    second = room.write(room.d3, "join", 1100)
    guest = room.write(room.d3, "join", 1000, room.own("@guest:hs"))
    board = room.write(
        room.d3,
        "join",
        1000,
        replace(room.own(device="B"), slot=Slot(room_id="!room:hs", name="b")),
    )
    left = room.write(room.superset, "leave", 1200, room.own(device="L", member_id="gone"))
    broken = room.event("org.matrix.msc3401.call.member", {"device_id": 1}, 900, state_key="_x")
    reader.take(first, second, guest, board, left, broken)
    assert reader.why(first) == ["superseded"]
    assert reader.why(second) == []
    assert reader.why(guest) == ["sender_not_joined"]
    assert reader.why(board) == ["other_slot"]
    assert reader.why(left) == ["left"]
    assert "wrong_type" in reader.why(broken)
    assert reader.why(second, 1100 + 5 * HOUR_MS) == []  # nobody has told the session yet
    reader.session.handle_timer(Now(0.0, 1100 + 5 * HOUR_MS))
    assert reader.why(second, 1100 + 5 * HOUR_MS) == ["expired"]
    # Several reasons at once are all told.
    assert reader.why(guest, 1100 + 5 * HOUR_MS) == ["expired", "sender_not_joined"]


def test_why_a_sticky_event_is_not_behind_a_member(room):
    reader = Reader(room, TOLERANT)
    first = room.write(room.superset, "join", 1000)
    second = room.write(room.superset, "join", 1100)
    late = room.write(room.superset, "join", 1000, room.own("@v:hs"), received_ts_ms=2 * HOUR_MS)
    reader.take(first, second)
    assert (reader.why(first), reader.why(second)) == (["superseded"], [])
    reader.take(late)
    assert reader.why(late, 2 * HOUR_MS) == ["expired"]
    redacted = room.write(room.superset, "join", 2 * HOUR_MS, room.own("@v:hs", member_id="r"))
    redaction = room.event("m.room.redaction", {}, 2 * HOUR_MS + 1, redacts=redacted.event_id)
    assert reader.take(redacted).why(redacted) == []
    assert reader.take(redaction).why(redacted) == ["redacted"]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_redacted_event_is_said_to_be_redacted(room, policy):
    reader = Reader(room, policy).slot(OPEN)
    sticky = room.write(room.superset, "join", 1000, room.own(member_id="i"))
    later = room.write(room.superset, "join", 1001, room.own("@v:hs", member_id="j"))
    gone = room.event("m.room.redaction", {}, 1002, redacts=sticky.event_id)
    reader.take(sticky, later, gone)
    assert (reader.why(sticky), reader.why(later)) == (["redacted"], [])
    # Who does not keep redactions takes it for a new event when it comes again.
    reader.take(sticky)
    assert reader.why(sticky) == ([] if policy is DEPLOYED else ["redacted"])


@pytest.mark.parametrize("name", ["AAA", "ZZZ"])
def test_an_event_of_another_slot_is_said_to_be_so(room, name):
    own = replace(room.own(), slot=Slot(room_id="!room:hs", name=name))
    event = room.write(room.d3, "join", 1000, own)
    assert Reader(room, TOLERANT).take(event).why(event) == ["other_slot"]


def test_an_event_is_over_from_the_moment_it_ends(room):
    state = room.write(room.d3, "join", 1000, room.own(lifetime_ms=5000))
    sticky = room.write(room.superset, "join", 1000, room.own("@v:hs"))
    reader = Reader(room, TOLERANT).take(state, sticky)
    for event, ends_ms in ((state, 6000), (sticky, 1000 + HOUR_MS)):
        reader.session.handle_timer(Now(0.0, ends_ms))
        assert reader.why(event, ends_ms) == ["expired"]


def test_of_one_device_the_last_join_counts_or_each_does(room):
    # The same device in two dialects.
    state, sticky = room.write(room.d3, "join", 1000), room.write(room.superset, "join", 1001)
    tolerant = Reader(room, TOLERANT).take(state, sticky)
    assert tolerant.members == [("@u:hs", "D6/D7")]
    assert (tolerant.why(state), tolerant.why(sticky)) == (["superseded"], [])
    deployed = Reader(room, DEPLOYED).take(state, sticky)
    assert deployed.members == [("@u:hs", "D3"), ("@u:hs", "D6/D7")]
    first, second = deployed.session.members
    assert deployed.session.find("@u:hs", "DEV") in (first, second)
    assert deployed.session.has(first.member)
    assert deployed.session.has(second.member)
    assert not deployed.session.has(replace(first.member, member_id="other"))
    assert deployed.session.find("@u:hs", "OTHER") is None
    deployed.take(room.presence("@u:hs", 2000, "leave"))
    assert deployed.members == []
    assert deployed.session.find("@u:hs", "DEV") is None


def test_a_refresh_moves_a_sticky_member_only_where_deployed_clients_let_it(room):
    first, again = room.write(room.superset, "join", 1000), room.write(room.superset, "join", 5000)
    for policy, created_ts_ms in ((TOLERANT, 1000), (DEPLOYED, 5000)):
        (member,) = Reader(room, policy).take(first, again).session.members
        assert member.created_ts_ms == created_ts_ms


@pytest.mark.parametrize(
    ("created", "expires"), [(1, 2**50), (2**53 - 1, 1000)], ids=["long ago", "in the future"]
)
def test_claims_are_believed_where_deployed_clients_believe_them(room, created, expires):
    at_ms = 100 * 24 * HOUR_MS
    event = room.write(room.d3, "join", at_ms)
    event = replace(event, content={**event.content, "created_ts": created, "expires": expires})
    (believed,) = Reader(room, DEPLOYED).take(event).session.members
    assert (believed.created_ts_ms, believed.expires_ts_ms) == (created, created + expires)
    (bounded,) = Reader(room, TOLERANT).take(event).session.members
    assert at_ms - MAX_AGE_MS <= bounded.created_ts_ms <= at_ms
    assert bounded.expires_ts_ms <= at_ms + MAX_AGE_MS


def test_whose_claims_are_believed_has_not_expired_before_they_say(room):
    event = room.write(room.d3, "join", 1000, room.own("@guest:hs"))
    event = replace(event, content={**event.content, "expires": 2**50})
    later_ms = 100 * 24 * HOUR_MS
    for policy, why in (
        (DEPLOYED, ["sender_not_joined"]),
        (TOLERANT, ["expired", "sender_not_joined"]),
    ):
        assert Reader(room, policy).take(event).why(event, later_ms) == why


def test_an_end_at_exactly_nought_is_none_to_deployed_clients(room):
    event = room.write(room.d3, "join", 1000)
    event = replace(event, content={**event.content, "created_ts": 0, "expires": 0})
    reader = Reader(room, DEPLOYED).take(event)
    (member,) = reader.session.members
    assert member.expires_ts_ms > 2**53  # which is later than any time
    assert Reader(room, TOLERANT).take(event).members == []


def test_a_policy_of_ones_own(room):
    def only_ours(membership, event_type, view):
        mine = membership.member.user_id.endswith(":hs")
        return None if mine else Problem("foreign", "not of our server")

    reader = Reader(room, ReadingPolicy(name="ours", refuses=only_ours), ["@u:hs", "@w:other"])
    stranger = room.write(room.d3, "join", 1000, room.own("@w:other"))
    reader.take(room.write(room.d3, "join", 1000), stranger)
    assert reader.members == [("@u:hs", "D3")]
    assert reader.why(stranger) == ["foreign"]


def test_the_policies_have_names():
    assert [policy.name for policy in POLICIES] == ["deployed", "strict", "tolerant"]
