"""The session: who is a member, what changed, and that nobody can upset it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.model import Slot, SlotStatus
from rtcfoci.core.policies import DEPLOYED, STRICT
from rtcfoci.core.session import (
    EventIgnored,
    LeftReason,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberRefreshed,
    Session,
    SlotChanged,
)
from tests.core.driving import Driven, kinds

HOUR_MS = 3_600_000
SLOT_TYPE, STABLE_SLOT = "org.matrix.msc4143.rtc.slot", "m.rtc.slot"


@pytest.fixture
def driven(room):
    return Driven(room).in_room("@u:hs", "@v:hs")


@pytest.mark.parametrize("dialect", ["d2", "d3", "superset"])
def test_join_refresh_change_leave(room, driven, dialect):
    dialect = getattr(room, dialect)
    join = room.write(dialect, "join", 1000)
    (joined,) = driven.take(join)
    assert isinstance(joined, MemberJoined)
    assert driven.session.find("@u:hs", "DEV") == joined.membership
    assert driven.session.has(joined.membership.member)
    assert driven.take(join) == ()

    (refreshed,) = driven.take(room.write(dialect, "refresh", 5000, created_ts_ms=1000))
    assert isinstance(refreshed, MemberRefreshed)
    assert refreshed.new.created_ts_ms == 1000
    assert refreshed.new.expires_ts_ms == joined.membership.expires_ts_ms + 4000

    both = room.own(transports=(room.livekit, room.mesh))
    (changed,) = driven.take(room.write(dialect, "refresh", 6000, both, created_ts_ms=1000))
    assert isinstance(changed, MemberChanged)
    assert [t.type for t in changed.new.transports] == ["livekit", "rtcfoci.mesh"]

    (left,) = driven.take(room.write(dialect, "leave", 7000))
    assert left == MemberLeft(changed.new, LeftReason.LEFT)
    assert driven.session.members == ()
    assert driven.session.find("@u:hs", "DEV") is None
    assert not driven.session.has(joined.membership.member)


def test_state_follows_the_homeserver_even_when_its_times_do_not(room, driven):
    """Seen on Synapse: a delayed leave that fires at its start, beside our new membership."""
    leave = room.write(room.d3, "leave", 1000)
    driven.take(room.write(room.d3, "join", 2000))
    assert kinds(driven.take(leave, 3000)) == ["MemberLeft"]
    assert driven.session.members == ()
    assert driven.take(leave, 3000) == ()


def test_a_late_sticky_leave_of_an_earlier_join_changes_nothing(room, driven):
    old = room.write(room.superset, "join", 1000)
    leave = room.write(room.superset, "leave", 2000)
    new = room.write(room.superset, "join", 3000)
    driven.take(old)
    driven.take(new)
    diffs = driven.take(leave, 4000)
    (membership,) = driven.session.members
    assert membership.event_id == new.event_id
    # After a leave the same key is another join: it does not inherit the time of the first.
    assert kinds(diffs) == ["MemberChanged"]
    assert membership.created_ts_ms == 3000


def test_a_refreshed_sticky_member_stays_as_old_as_it_is(room, driven):
    driven.take(room.write(room.superset, "join", 1000))
    driven.take(room.write(room.superset, "join", 2000, room.own("@v:hs")))
    for minutes in range(50, 301, 50):
        at_ms = 1000 + minutes * 60_000
        driven.take(room.write(room.superset, "refresh", at_ms, created_ts_ms=0), at_ms)
    (membership,) = driven.session.members
    assert membership.created_ts_ms == 1000
    assert membership.expires_ts_ms == 1000 + 300 * 60_000 + HOUR_MS


def test_an_unreadable_event_in_between_does_not_break_the_chain(room, driven):
    join = room.write(room.superset, "join", 1000)
    driven.take(join)
    broken = room.write(room.superset, "join", 2000)
    diffs = driven.take(replace(broken, content={**broken.content, "member": 7}))
    assert kinds(diffs) == ["EventIgnored", "MemberLeft"]
    assert diffs[1].reason is LeftReason.INVALID
    (joined,) = driven.take(room.write(room.superset, "join", 3000))
    assert joined.membership.created_ts_ms == 1000


def test_another_member_under_the_same_key_is_another_join(room, driven):
    join = room.write(room.superset, "join", 1000)
    driven.take(join)
    other = room.write(room.superset, "join", 2000)
    member = {**other.content["member"], "id": "other"}
    left, joined = driven.take(replace(other, content={**other.content, "member": member}))
    assert left.reason is LeftReason.REPLACED
    assert joined.membership.created_ts_ms == 2000


def test_ordered_by_time_then_identity(room, driven):
    for user, device, ts_ms in [
        ("@v:hs", "A", 5),
        ("@u:hs", "B", 5),
        ("@u:hs", "A", 5),
        ("@v:hs", "C", 1),
    ]:
        driven.take(room.write(room.d3, "join", ts_ms, room.own(user, device)), 10)
    assert [str(m.member) for m in driven.session.members] == [
        "@v:hs/C", "@u:hs/A", "@u:hs/B", "@v:hs/A",
    ]  # fmt: skip


def test_one_device_is_one_member_whatever_it_sends(room, driven):
    driven.take(room.write(room.d3, "join", 1000))
    left, joined = driven.take(room.write(room.superset, "join", 2000, room.own(member_id="a")))
    assert left.reason is LeftReason.REPLACED
    assert joined.membership.member.member_id == "a"
    left, joined = driven.take(room.write(room.superset, "join", 3000, room.own(member_id="b")))
    assert (left.membership.member.member_id, joined.membership.member.member_id) == ("a", "b")
    # The older ones end without anybody noticing, the newest one uncovers what is left.
    assert driven.take(room.write(room.superset, "leave", 4000, room.own(member_id="a"))) == ()
    left, joined = driven.take(room.write(room.superset, "leave", 5000, room.own(member_id="b")))
    assert left.reason is LeftReason.REPLACED
    assert joined.membership.dialect == "D3"


def test_members_without_a_known_device_are_apart(room, driven):
    for member_id in "ab":
        event = room.write(room.superset, "join", 1000, room.own(member_id=member_id))
        member = {"id": member_id, "membership": "join"}
        driven.take(replace(event, content={**event.content, "member": member}))
    assert len(driven.session) == 2


def test_who_is_not_in_the_room_is_not_in_the_session(room):
    driven = Driven(room)
    for n, dialect in enumerate((room.d3, room.superset)):
        assert driven.take(room.write(dialect, "join", 1000, room.own(device=f"D{n}"))) == ()
    assert kinds(driven.take(room.presence("@u:hs", 2000))) == ["MemberJoined"] * 2
    assert driven.take(room.presence("@u:hs", 2001)) == ()
    # A ban by somebody whose server's clock is behind is a ban.
    diffs = driven.take(room.presence("@u:hs", 1500, "ban", sender="@mod:hs"))
    assert [diff.reason for diff in diffs] == [LeftReason.NOT_IN_ROOM] * 2
    assert driven.take(room.presence("@nobody:hs", 1500, "leave")) == ()


def test_slots(room):
    driven = Driven(room, policy=DEPLOYED).in_room("@u:hs", "@v:hs")
    driven.take(room.write(room.d3, "join", 1000))
    driven.take(room.write(room.superset, "join", 1000, room.own("@v:hs")))
    assert driven.session.slot_status is SlotStatus.ABSENT

    def slot(content, ts_ms, event_type=SLOT_TYPE, key="m.call#ROOM", **more):
        return driven.take(room.event(event_type, content, ts_ms, state_key=key, **more))

    opened = {"status": "open", "application": {"type": "m.call"}}
    closed = {**opened, "status": "closed"}
    assert slot(closed, 1500, key="m.call#other") == ()
    assert slot(opened, 2000) == (SlotChanged(SlotStatus.OPEN),)
    changed, left = slot(closed, 3000, event_id="$closed")
    assert changed == SlotChanged(SlotStatus.CLOSED)
    assert (left.membership.member.user_id, left.reason) == ("@v:hs", LeftReason.SLOT)
    assert kinds(slot(opened, 2500, sender="@mod:slow.hs")) == ["SlotChanged", "MemberJoined"]
    assert slot({}, 4000, "m.rtc.slot") == ()  # nobody reads the stable name yet
    assert slot(opened, 5000, event_id="$last") == ()
    redaction = room.event("m.room.redaction", {}, 6000, redacts="$last")
    assert kinds(driven.take(redaction)) == ["SlotChanged", "MemberLeft"]


def test_sticky_members_of_a_closed_slot_wait_for_it_to_open(room):
    driven = Driven(room, policy=DEPLOYED).in_room("@u:hs", "@v:hs")
    closed = {"status": "closed", "application": {"type": "m.call"}}
    opened = {**closed, "status": "open"}
    driven.take(room.event(SLOT_TYPE, closed, 500, state_key="m.call#ROOM"))
    assert driven.take(room.write(room.superset, "join", 1000)) == ()
    driven.take(room.write(room.superset, "join", 1000, room.own("@v:hs")))
    driven.take(room.write(room.superset, "leave", 1100, room.own("@v:hs")))
    assert kinds(driven.take(room.event(SLOT_TYPE, opened, 2000, state_key="m.call#ROOM"))) == [
        "SlotChanged",
        "MemberJoined",
    ]


def test_a_policy_sees_the_room(room):
    driven = Driven(room, policy=STRICT).in_room("@u:hs")
    opened = {"status": "open", "application": {"type": "m.call"}}
    assert driven.take(room.write(room.superset, "join", 1000)) == ()
    diffs = driven.take(room.event(SLOT_TYPE, opened, 2000, state_key="m.call#ROOM"))
    assert kinds(diffs) == ["SlotChanged", "MemberJoined"]
    encryption = room.event("m.room.encryption", {}, 3000, state_key="")
    (left,) = driven.take(encryption)
    assert left.reason is LeftReason.SLOT
    assert driven.take(encryption) == ()
    opened = {**opened, "encryption": {"type": "org.matrix.msc4143.per_member"}}
    assert driven.take(room.event(SLOT_TYPE, opened, 4000, state_key="m.call#ROOM")) == ()
    sealed = room.write(room.superset, "join", 5000, encrypted=True, encrypted_by_device_id="DEV")
    (joined,) = driven.take(sealed)
    assert joined.membership.encrypted


def test_other_slots_are_not_ours(room, driven):
    board = Slot(room_id=room.slot.room_id, application="org.board")
    own = replace(room.own(), slot=board)
    assert driven.take(room.write(room.d3, "join", 1000, own)) == ()
    # By the same sticky key a member moves to another slot.
    driven.take(room.write(room.superset, "join", 1000))
    (left,) = driven.take(room.write(room.superset, "join", 2000, own))
    assert left.reason is LeftReason.LEFT


@pytest.mark.parametrize("dialect", ["d3", "superset"])
def test_redaction(room, driven, dialect):
    dialect = getattr(room, dialect)
    first, second = room.write(dialect, "join", 1000), room.write(dialect, "join", 2000)
    driven.take(first)
    driven.take(second)
    diffs = driven.take(room.event("m.room.redaction", {}, 3000, redacts=second.event_id))
    if dialect is room.d3:
        assert [diff.reason for diff in diffs] == [LeftReason.REDACTED]
    else:
        assert kinds(diffs) == ["MemberRefreshed"]
        assert driven.session.members[0].event_id == first.event_id
        assert kinds(driven.take(room.event("x", {}, 3000, redacts=first.event_id))) == [
            "MemberLeft"
        ]
    assert driven.take(second) == ()
    assert driven.session.members == ()


@pytest.mark.parametrize("dialect", ["d3", "superset"])
def test_a_redaction_that_comes_first(room, driven, dialect):
    dialect = getattr(room, dialect)
    driven.take(room.write(dialect, "join", 1000))
    gone = room.write(dialect, "join", 2000, event_id="$gone")
    driven.take(room.event("m.room.redaction", {}, 3000, redacts="$gone"))
    diffs = driven.take(gone)
    assert kinds(diffs) == (["MemberLeft"] if dialect is room.d3 else [])


def test_remembered_redactions_are_bounded(room, driven):
    for n in range(1000):
        driven.take(room.event("m.room.redaction", {}, n, redacts=f"$none{n}"))
    assert len(driven.session._redacted) == 256


def test_a_redacted_leave_brings_the_join_back(room, driven):
    driven.take(room.write(room.superset, "join", 1000))
    driven.take(room.write(room.superset, "leave", 2000, event_id="$leave"))
    (joined,) = driven.take(room.event("m.room.redaction", {}, 3000, redacts="$leave"))
    assert joined.membership.created_ts_ms == 1000


def test_state_of_another_sender_replaces_at_once(room, driven):
    driven.take(room.write(room.d3, "join", 5000))
    (left,) = driven.take(room.write(room.d3, "leave", 1000, sender="@mod:hs"))
    assert left.reason is LeftReason.LEFT
    assert kinds(driven.take(room.write(room.d3, "join", 6000))) == ["MemberJoined"]
    # A foreign membership is nobody's, and still the room's state.
    diffs = driven.take(room.write(room.d3, "join", 5500, sender="@v:hs"))
    assert kinds(diffs) == ["EventIgnored", "MemberLeft"]
    assert diffs[1].reason is LeftReason.INVALID


def test_what_is_ignored_says_why(room, driven):
    (ignored,) = driven.take(
        room.event("org.matrix.msc3401.call.member", {"memberships": []}, 1000, state_key="@u:hs")
    )
    assert isinstance(ignored, EventIgnored)
    assert (ignored.sender, [p.code for p in ignored.problems]) == ("@u:hs", ["unknown_dialect"])
    (ignored,) = driven.take(room.event("org.matrix.msc4143.rtc.member", [], 1000))
    assert [p.code for p in ignored.problems] == ["wrong_type"]
    (ignored,) = driven.take(room.event("org.matrix.msc3401.call.member", {}, 1000))
    assert ignored.problems[0].code == "not_state"
    assert driven.take(room.event("m.room.member", {}, 1000)) == ()


def test_dialects_decide_what_is_read(room):
    session = Session(room.slot, [room.d3])
    session.receive(room.presence("@u:hs"), room.now(0))
    assert session.receive(room.write(room.superset, "join", 1), room.now(1)) == ()
    (ignored,) = session.receive(room.write(room.d2, "join", 1), room.now(1))
    assert isinstance(ignored, EventIgnored)
    assert kinds(session.receive(room.write(room.d3, "join", 2), room.now(2))) == ["MemberJoined"]


def test_one_device_with_thousands_of_keys_costs_no_more_each(room, driven):
    """A device that joins under ever new keys is still one member, and one step is one step."""
    count = 3000
    for n in range(count):
        driven.session.receive(
            room.write(room.superset, "join", 1000 + n, room.own(member_id=f"m{n}")),
            room.now(1000 + n),
        )
    (membership,) = driven.session.members
    assert membership.member.member_id == f"m{count - 1}"
    diffs = driven.session.receive(room.presence("@u:hs", 9000, "leave"), room.now(9000))
    assert kinds(diffs) == ["MemberLeft"]


def test_of_both_names_of_a_slot_the_newer_event_counts(room):
    driven = Driven(room, policy=STRICT).in_room("@u:hs")
    opened = {"status": "open", "application": {"type": "m.call"}}

    def slot(content, ts_ms, event_type):
        event = room.event(event_type, content, ts_ms, state_key="m.call#ROOM")
        return kinds(driven.take(event))

    driven.take(room.write(room.superset, "join", 1000))
    assert slot(opened, 2000, SLOT_TYPE) == ["SlotChanged", "MemberJoined"]
    assert slot({}, 4000, "m.rtc.slot") == ["SlotChanged", "MemberLeft"]
    assert slot(opened, 3500, SLOT_TYPE) == []
    assert slot(opened, 5000, SLOT_TYPE) == ["SlotChanged", "MemberJoined"]


@pytest.mark.parametrize(("open_id", "closed_id"), [("$a", "$b"), ("$b", "$a")])
@pytest.mark.parametrize("stable_first", [True, False])
def test_of_two_slot_events_of_one_time_the_higher_id_counts(
    room, driven, open_id, closed_id, stable_first
):
    kinds_of = [STABLE_SLOT, SLOT_TYPE] if stable_first else [SLOT_TYPE, STABLE_SLOT]
    says = [("open", open_id), ("closed", closed_id)]
    for kind, (status, event_id) in zip(kinds_of, says, strict=True):
        content = {"status": status, "application": {"type": "m.call"}}
        driven.take(room.event(kind, content, 1000, state_key="m.call#ROOM", event_id=event_id))
    wins = SlotStatus.OPEN if open_id > closed_id else SlotStatus.CLOSED
    assert driven.session.slot_status is wins


def test_after_a_redacted_slot_event_the_other_name_counts_when_it_is_newer(room, driven):
    content = {"status": "open", "application": {"type": "m.call"}}
    opened = room.event(SLOT_TYPE, content, 1000, state_key="m.call#ROOM")
    driven.take(opened)
    driven.take(room.event("m.room.redaction", {}, 1001, redacts=opened.event_id))
    assert driven.session.slot_status is SlotStatus.CLOSED
    for ts_ms, status in ((999, SlotStatus.CLOSED), (1002, SlotStatus.OPEN)):
        driven.take(room.event(STABLE_SLOT, content, ts_ms, state_key="m.call#ROOM"))
        assert driven.session.slot_status is status


def test_a_room_member_event_that_says_nothing_is_no_joining(room):
    driven = Driven(room).in_room("@u:hs")
    driven.take(room.write(room.d3, "join", 1))
    driven.take(room.event("m.room.member", [], 2, state_key="@u:hs"))
    assert not len(driven.session)
    driven.take(room.event("m.room.topic", {}, 3, state_key=""))
    assert not len(driven.session)


def test_two_members_of_a_user_under_the_rule_that_lists_them_all(room):
    driven = Driven(room, policy=DEPLOYED).in_room("@u:hs")
    one, other = (room.own(device=device) for device in ("ONE", "TWO"))
    for at_ms, own in enumerate((one, other), 1):
        driven.take(room.write(room.d3, "join", at_ms, own))
    driven.take(room.write(room.d3, "leave", 3, one))
    assert [m.member.device_id for m in driven.session.members] == ["TWO"]


def test_what_travels_in_our_extension_is_not_in_the_common_place(room):
    membership = room.membership(transports=(room.livekit, room.mesh), extended=1)
    assert membership.published == (room.livekit,)


@pytest.mark.parametrize(("policy", "counts"), [(DEPLOYED, True), (STRICT, False)])
def test_a_leave_with_all_that_a_join_says(room, policy, counts):
    driven = Driven(room, policy=policy).in_room("@u:hs")
    event = room.write(room.superset, "join", 1)
    member = {**event.content["member"], "membership": "leave"}
    driven.take(replace(event, content={**event.content, "member": member}))
    assert (len(driven.session) == 1) is counts


def test_an_identifier_need_not_be_ascii(room):
    driven = Driven(room).in_room("@u:hs")
    driven.take(room.write(room.d3, "join", 1, room.own(device="TÉLÉPHONE")))
    (membership,) = driven.session.members
    assert membership.member.device_id == "TÉLÉPHONE"


def test_the_stable_type_of_sticky_events_hides_no_state_from_deployed_clients(room):
    driven = Driven(room, policy=DEPLOYED).in_room("@u:hs", "@v:hs")
    state = room.write(room.d3, "join", 1)
    driven.take(state)
    own = room.own("@v:hs", member_id=state.state_key)
    sticky = room.write(room.superset, "join", 2, own)
    driven.take(replace(sticky, type="m.rtc.member"))
    assert [m.dialect for m in driven.session.members] == ["D3"]
    driven.take(replace(sticky, event_id="$other"))
    assert [m.dialect for m in driven.session.members] == ["D6/D7"]


def test_the_same_slot_event_again_changes_nothing(room):
    driven = Driven(room)
    event = room.event(SLOT_TYPE, {"application": {"type": "m.call"}}, 1, state_key="m.call#ROOM")
    assert driven.take(event) == (SlotChanged(SlotStatus.OPEN),)
    assert driven.take(event) == ()


def test_a_claimed_member_id_without_claimed_times(room):
    driven = Driven(room, policy=DEPLOYED).in_room("@u:hs")
    event = room.write(room.d3, "join", 1)
    driven.take(replace(event, content={**event.content, "membershipID": "mine"}))
    (membership,) = driven.session.members
    assert membership.member.member_id == "mine"


@pytest.mark.parametrize(
    ("change", "dialect"),
    [({"member": {"membership": "knock"}}, "D6"), ({"transports": "none"}, None)],
)
def test_a_sticky_membership_with_something_odd(room, change, dialect):
    driven = Driven(room).in_room("@u:hs")
    event = room.write(room.superset, "join", 1)
    content = dict(event.content)
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    driven.take(replace(event, content=content))
    assert [m.dialect for m in driven.session.members] == ([dialect] if dialect else [])


@pytest.mark.parametrize("name", ["AAA", "ZZZ"])
@pytest.mark.parametrize("dialect", ["d2", "d3", "superset"])
def test_what_is_of_another_slot_is_not_here(room, driven, name, dialect):
    own = replace(room.own(), slot=Slot(room_id="!room:hs", name=name))
    assert driven.take(room.write(getattr(room, dialect), "join", 1000, own)) == ()
    closed = {"status": "closed", "application": {"type": "m.call"}}
    assert driven.take(room.event(SLOT_TYPE, closed, 1000, state_key=f"m.call#{name}")) == ()
    assert driven.session.slot_status is SlotStatus.ABSENT


@pytest.mark.parametrize(
    ("kind", "key", "encrypted"),
    [
        ("m.room.encryption", "", True),
        ("m.room.encryption", "x", False),
        ("m.room.avatar", "", False),
        ("m.room.topic", "", False),
    ],
)
def test_what_encrypts_a_room(room, driven, kind, key, encrypted):
    driven.take(room.event(kind, {}, 1000, state_key=key))
    assert driven.session.room.room_encrypted is encrypted


@pytest.mark.parametrize("dialect", ["d3", "superset"])
def test_redacting_what_was_superseded_changes_nothing(room, driven, dialect):
    first, second = [room.write(getattr(room, dialect), "join", ts_ms) for ts_ms in (1000, 2000)]
    driven.take(first)
    driven.take(second)
    gone = room.event("m.room.redaction", {}, 3000, redacts=first.event_id)
    driven.take(gone)
    (membership,) = driven.session.members
    assert membership.event_id == second.event_id
