"""Who is a member: whom questions about members find, and which changes are told as what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.policies import DEPLOYED, STRICT, TOLERANT
from tests.core.driving import Driven, kinds

SLOT_TYPE = "org.matrix.msc4143.rtc.slot"
OPEN = {"status": "open", "application": {"type": "m.call"}}


@pytest.mark.parametrize("policy", [DEPLOYED, TOLERANT], ids=lambda policy: policy.name)
def test_each_device_of_a_user_is_found_and_no_other(room, policy):
    driven = Driven(room, policy=policy).in_room("@u:hs")
    for device in ("MMM", "AAA", "ZZZ"):
        driven.take(room.write(room.d3, "join", 1000, room.own(device=device)))
    session = driven.session
    for device in ("AAA", "MMM", "ZZZ"):
        found = session.find("@u:hs", device)
        assert found.member.device_id == device
        assert session.has(replace(found.member))
        assert not session.has(replace(found.member, member_id="another"))
    assert session.find("@u:hs", "BBB") is None
    assert [m.member.device_id for m in session.of_user("@u:hs")] == ["MMM", "AAA", "ZZZ"]


def test_fewer_transports_are_a_change_as_more_are(room):
    driven = Driven(room).in_room("@u:hs")
    both = room.own(transports=(room.livekit, room.mesh))
    told = [
        driven.take(room.write(room.superset, "join", 1000)),
        driven.take(room.write(room.superset, "join", 2000, both)),
        driven.take(room.write(room.superset, "join", 3000)),
        driven.take(room.write(room.superset, "join", 4000)),
    ]
    changes = ["MemberJoined", "MemberChanged", "MemberChanged", "MemberRefreshed"]
    assert [kinds(diffs) for diffs in told] == [[change] for change in changes]


def test_a_late_event_that_changes_nothing_is_not_told(room):
    driven = Driven(room).in_room("@u:hs")
    events = [room.write(room.superset, "join", ts_ms) for ts_ms in (1000, 3000, 5000)]
    driven.take(events[0])
    driven.take(events[2])
    assert driven.take(events[1], 6000) == ()


@pytest.mark.parametrize(("sticky_key", "counts"), [("i", True), ("a", False), ("z", False)])
def test_the_msc_wants_the_member_id_for_a_sticky_key(room, sticky_key, counts):
    event = room.write(room.superset, "join", 1000, room.own(member_id="i"))
    keys = {"msc4354_sticky_key": sticky_key, "sticky_key": sticky_key}
    event = replace(event, content={**event.content, **keys})
    for policy, counted in ((STRICT, counts), (TOLERANT, True)):
        driven = Driven(room, policy=policy).in_room("@u:hs")
        driven.take(room.event(SLOT_TYPE, OPEN, 10, state_key="m.call#ROOM"))
        driven.take(event)
        assert (len(driven.session) == 1) == counted


def test_who_is_put_out_and_let_in_again_is_told_each_time(room):
    driven = Driven(room).in_room("@u:hs")
    driven.take(room.write(room.d3, "join", 1000))
    told = [
        driven.take(room.presence("@u:hs", ts_ms, membership))
        for ts_ms, membership in ((1, "leave"), (2, "leave"), (3, "join"), (4, "join"))
    ]
    assert [kinds(diffs) for diffs in told] == [["MemberLeft"], [], ["MemberJoined"], []]
