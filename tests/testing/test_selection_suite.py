"""The suite for selection policies passes good ones, and fails each way of being wrong."""

import pytest

from rtcfoci.core.model import Transport
from rtcfoci.core.selection import Choice, EachItsOwn, OldestMembership
from rtcfoci.errors import SelectionError
from rtcfoci.plugin import SelectionPolicyInfo
from rtcfoci.plugin.builtin import rtcfoci_selection_policies
from rtcfoci.testing import SelectionConformance

BUILT_IN = {info.name: info for info in rtcfoci_selection_policies()}


class TestOldestMembership(SelectionConformance):
    policy = BUILT_IN["oldest_membership"]


class TestEachItsOwn(SelectionConformance):
    policy = BUILT_IN["each_its_own"]


class Good(EachItsOwn):
    name = "bad"


class FromNowhere(Good):
    def choose(self, members, own, offered, known):
        return Choice(Transport("x", {"type": "x"}), "why not")


class WithoutReason(Good):
    def choose(self, members, own, offered, known):
        return Choice(super().choose(members, own, offered, known).transport, "")


class NoChoice(Good):
    def choose(self, members, own, offered, known):
        return super().choose(members, own, offered, known).transport


class Crashes(Good):
    def choose(self, members, own, offered, known):
        return Choice(members[0].transports[0], "the first member's")


class Mute(Good):
    def choose(self, members, own, offered, known):
        if not offered:
            raise SelectionError("no")
        return super().choose(members, own, offered, known)


class Moody(Good):
    def __init__(self):
        self.asked = 0

    def choose(self, members, own, offered, known):
        self.asked += 1
        offered = offered[::-1] if self.asked % 2 else offered
        return super().choose(members, own, offered, known)


class Restless(Good):
    """Wherever the others are not."""

    def choose(self, members, own, offered, known):
        super().choose(members, own, offered, known)
        used = [t.type for m in members if m.member != own for t in m.transports]
        fewest = min(offered, key=lambda offer: used.count(offer.transport.type))
        mine = [t.type for m in members if m.member == own for t in m.transports]
        others = [offer for offer in offered if offer.transport.type not in mine]
        return Choice((others or [fewest])[0].transport, "somewhere else")


def suite(policy):
    class Suite(SelectionConformance):
        pass

    Suite.policy = SelectionPolicyInfo(name="bad", policy=f"{__name__}:{policy.__name__}")
    return Suite()


@pytest.mark.parametrize(
    ("policy", "test"),
    [
        (OldestMembership, "test_the_descriptor_is_sound"),
        (FromNowhere, "test_it_chooses_what_there_is_or_says_why_not"),
        (WithoutReason, "test_it_chooses_what_there_is_or_says_why_not"),
        (NoChoice, "test_it_chooses_what_there_is_or_says_why_not"),
        (Mute, "test_without_an_offer_it_says_so"),
        (Moody, "test_it_says_the_same_every_time"),
        (Restless, "test_members_that_follow_it_come_to_rest"),
    ],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_each_way_of_being_wrong_is_found(policy, test):
    with pytest.raises(AssertionError):
        getattr(suite(policy), test)()


def test_one_that_counts_on_company_is_found():
    with pytest.raises(IndexError):
        suite(Crashes).test_alone_it_chooses_one_of_ours()
