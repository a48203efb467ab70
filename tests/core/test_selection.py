"""Choosing a focus: the two policies, and what is said when nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcfoci.core.model import Member, Transport
from rtcfoci.core.selection import EachItsOwn, Offered, OldestMembership, uninstalled
from rtcfoci.errors import SelectionError
from tests.core.wire import off_the_wire

OWN = Member(user_id="@me:hs", device_id="ME", member_id="me")


def transport(kind, place="here"):
    return Transport(off_the_wire(kind), {"type": kind, "place": place})


SFU = Offered(
    transport=transport("livekit"), topology="per_member", names=frozenset({"m.livekit", "livekit"})
)
MESH = Offered(transport=transport("rtcfoci.mesh"), topology="pairwise")
HALL = Offered(transport=transport("org.hall"), topology="elected")
KNOWN = {
    "livekit": "per_member",
    "m.livekit": "per_member",
    "rtcfoci.mesh": "pairwise",
    "org.hall": "elected",
}


@pytest.fixture
def member(room):
    def build(created_ts_ms, *kinds, can_subscribe=None):
        base = room.membership(created_ts_ms, f"@m{created_ts_ms}:hs")
        return replace(
            base,
            transports=tuple(transport(kind, f"of {created_ts_ms}") for kind in kinds),
            can_subscribe=can_subscribe,
        )

    return build


@pytest.fixture
def me(room):
    return lambda created_ts_ms: replace(room.membership(created_ts_ms), member=replace(OWN))


@pytest.mark.parametrize("policy", [OldestMembership(), EachItsOwn()], ids=lambda p: p.name)
class TestBoth:
    def test_alone_the_first_accepted_type_wins(self, policy):
        choice = policy.choose((), OWN, [MESH, SFU], KNOWN)
        assert choice.transport == MESH.transport
        assert choice.reason

    def test_nothing_offered(self, policy):
        with pytest.raises(SelectionError, match="no focus to publish on") as caught:
            policy.choose((), OWN, [], KNOWN)
        assert caught.value.do


class TestOldestMembership:
    policy = OldestMembership()

    def test_the_oldest_members_focus(self, member, me):
        members = (member(1, "livekit"), me(2), member(3, "rtcfoci.mesh"))
        choice = self.policy.choose(members, OWN, [MESH, SFU], KNOWN)
        assert choice.transport == transport("livekit", "of 1")
        assert "@m1:hs" in choice.reason

    def test_being_the_oldest(self, member, me):
        choice = self.policy.choose((me(1), member(2, "livekit")), OWN, [MESH, SFU], KNOWN)
        assert choice.transport == MESH.transport

    def test_a_type_of_which_each_has_its_own(self, member):
        members = (member(1, "rtcfoci.mesh"),)
        choice = self.policy.choose(members, OWN, [SFU, MESH], KNOWN)
        assert choice.transport == MESH.transport

    def test_the_first_that_is_known(self, member):
        members = (member(1, "org.odd", "org.hall"),)
        choice = self.policy.choose(members, OWN, [SFU], KNOWN)
        assert choice.transport == transport("org.hall", "of 1")

    @pytest.mark.parametrize("kinds", [("org.odd",), (), ("rtcfoci.mesh",)])
    def test_nothing_in_common_names_both_sides(self, member, kinds):
        with pytest.raises(SelectionError) as caught:
            self.policy.choose((member(1, *kinds),), OWN, [SFU], KNOWN)
        assert (kinds[0] if kinds else "no transport") in caught.value.what
        assert "livekit" in caught.value.why
        assert caught.value.do

    def test_of_many_types_eight_are_named(self, member):
        kinds = [f"org.odd{number}" for number in range(9)]
        with pytest.raises(SelectionError) as caught:
            self.policy.choose((member(1, *reversed(kinds)),), OWN, [SFU], KNOWN)
        assert f"uses {', '.join(kinds[:8])}, which" in caught.value.what

    def test_nothing_installed(self, member):
        with pytest.raises(SelectionError, match="nothing"):
            self.policy.choose((member(1, "livekit"),), OWN, [SFU], {})


class TestEachItsOwn:
    policy = EachItsOwn()

    def choose(self, members, offered):
        return self.policy.choose(members, OWN, offered, KNOWN)

    def test_the_type_that_reaches_most(self, member, me):
        members = (member(1, "livekit"), member(2, "m.livekit"), member(3, "rtcfoci.mesh"), me(4))
        choice = self.choose(members, [MESH, SFU])
        assert choice.transport == SFU.transport
        assert choice.reason == "2 of 3 members can receive it"

    def test_what_they_can_receive_counts_before_what_they_publish(self, member):
        members = (member(1, "livekit", can_subscribe=("rtcfoci.mesh",)),)
        assert self.choose(members, [SFU, MESH]).transport == MESH.transport

    def test_the_applications_order_breaks_ties(self, member):
        members = (member(1, "livekit", "rtcfoci.mesh"),)
        assert self.choose(members, [MESH, SFU]).transport == MESH.transport
        assert self.choose(members, [SFU, MESH]).transport == SFU.transport

    def test_nothing_offered_names_what_members_use(self, member):
        with pytest.raises(SelectionError, match=r"members use org\.odd"):
            self.choose((member(1, "org.odd"),), [])

    def test_nobody_in_common_is_said_and_no_error(self, member):
        choice = self.choose((member(1, "org.odd"), member(2)), [MESH])
        assert choice.transport == MESH.transport
        assert "org.odd" in choice.reason

    def test_an_elected_type_follows_its_oldest_member(self, member, me):
        later = (member(1, "livekit"), member(2, "org.hall"), me(3), member(4, "org.hall"))
        assert self.choose(later, [HALL]).transport == transport("org.hall", "of 2")
        first = (member(1, "livekit"), me(2), member(3, "org.hall"))
        assert self.choose(first, [HALL]).transport == HALL.transport
        assert self.choose((member(1, "livekit"),), [HALL]).transport == HALL.transport


def test_uninstalled_types(member):
    odd = member(1, "org.odd", "org.odd")
    both = member(2, "livekit", "org.odd")
    two = member(3, "org.even", "org.odd")
    found = uninstalled([odd, both, two], ["livekit"], {"org.odd": "rtcfoci-odd"})
    assert [str(one) for one in found] == [
        "no installed focus type for org.even",
        "no installed focus type for org.odd (install rtcfoci-odd)",
    ]
    assert found[1].members == (odd.member, two.member)
