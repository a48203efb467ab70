"""The suite for selection policies: what each must do, whoever wrote it.

In: `SelectionConformance`, to be subclassed in a test module; the sessions that it asks about are made from
every topology, and the same in every run. Out: dialects and reading policies (`dialect_suite`), focus types
(`conformance`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from rtcfoci.core.model import FocusSelection, JsonObject, Member, Membership, Transport
from rtcfoci.core.selection import Choice, Offered, SelectionPolicy
from rtcfoci.errors import SelectionError
from rtcfoci.plugin import SelectionPolicyInfo
from rtcfoci.plugin.reference import resolve
from rtcfoci.testing.descriptors import failures_of

__all__ = ["SelectionConformance"]

_KINDS = {
    "org.example.pairs": "pairwise",
    "org.example.own": "per_member",
    "org.example.hall": "elected",
    "org.example.linked": "linked",
}
_ALIAS = "example-own"
_KNOWN: Mapping[str, str] = MappingProxyType({**_KINDS, _ALIAS: "per_member"})
_STRANGE = "org.example.unknown"
_OWN = Member(user_id="@own:example.org", device_id="OWN", member_id="own")
_ROUNDS = 12
"""So many times everybody may change its mind."""


@dataclass(frozen=True, slots=True)
class _Situation:
    members: tuple[Membership, ...]
    offered: tuple[Offered, ...]


class SelectionConformance:
    """What every selection policy must do. Subclass it, and set the descriptor."""

    policy: ClassVar[SelectionPolicyInfo]

    def test_the_descriptor_is_sound(self) -> None:
        assert not failures_of("rtcfoci_selection_policies", self.policy)
        policy = self._policy()
        assert policy.name == self.policy.name
        assert callable(policy.choose)

    def test_it_chooses_what_there_is_or_says_why_not(self) -> None:
        chosen = 0
        for situation in _situations():
            choice = self._choice(situation)
            if choice is None:
                continue
            chosen += 1
            ours = [offer.transport for offer in situation.offered]
            theirs = [t for m in situation.members for t in m.transports if t.type in _KNOWN]
            assert choice.transport in (*ours, *theirs), f"{choice.transport} is nowhere on offer"
            assert choice.reason, "a choice has no reason"
        assert chosen, "it never chose anything"

    def test_alone_it_chooses_one_of_ours(self) -> None:
        for offered in _offers():
            choice = self._policy().choose((), _OWN, offered, _KNOWN)
            assert choice.transport in [offer.transport for offer in offered]

    def test_without_an_offer_it_says_so(self) -> None:
        assert self._choice(_Situation((), ())) is None

    def test_it_says_the_same_every_time(self) -> None:
        policy = self._policy()
        for situation in _situations():
            said = [self._choice(situation, by) for by in (policy, policy, self._policy())]
            assert said[0] == said[1] == said[2]

    def test_members_that_follow_it_come_to_rest(self) -> None:
        """One after the other does what the policy says, until nobody moves any more."""
        for offers in itertools.product(tuple(_offers(2)), repeat=3):
            session = [_member(number, offered[0]) for number, offered in enumerate(offers)]
            for _ in range(_ROUNDS):
                before = list(session)
                for number, offered in enumerate(offers):
                    members = tuple(session)
                    choice = self._choice(_Situation(members, offered), own=members[number].member)
                    if choice is not None:
                        session[number] = replace(members[number], transports=(choice.transport,))
                if session == before:
                    break
            else:
                raise AssertionError(f"they move for ever: {[m.transports for m in session]}")

    def _choice(
        self, situation: _Situation, policy: SelectionPolicy | None = None, own: Member = _OWN
    ) -> Choice | None:
        """Ask; None where it says, as it should, that there is nothing to choose."""
        try:
            choice = (policy or self._policy()).choose(
                situation.members, own, situation.offered, _KNOWN
            )
        except SelectionError as error:
            refused = error
        else:
            assert isinstance(choice, Choice), f"{choice!r} is no Choice"
            return choice
        assert refused.why, "a refusal has no cause"
        assert refused.do, "a refusal has no remedy"
        return None

    def _policy(self) -> SelectionPolicy:
        made = resolve(self.policy.policy, plugin=self.policy.name)
        policy: SelectionPolicy = made() if isinstance(made, type) else made  # type: ignore[assignment]
        return policy


def _transport(kind: str, place: str) -> Transport:
    raw: JsonObject = MappingProxyType({"type": kind, "place": place})
    return Transport(kind, raw)


def _offers(most: int = 3) -> Iterator[tuple[Offered, ...]]:
    """Give every order of up to so many focus types."""
    for count in range(1, most + 1):
        for kinds in itertools.permutations(_KINDS, count):
            yield tuple(
                Offered(
                    transport=_transport(kind, "own"),
                    topology=_KINDS[kind],
                    names=frozenset({kind, _ALIAS} if kind == "org.example.own" else {kind}),
                )
                for kind in kinds
            )


def _member(number: int, offer: Offered) -> Membership:
    transport = _transport(offer.transport.type, f"of {number}")
    return _membership(number, (transport,), tuple(sorted(offer.names)))


def _membership(
    number: int, transports: Sequence[Transport], can_subscribe: tuple[str, ...] | None
) -> Membership:
    user_id = f"@member{number}:example.org"
    return Membership(
        member=Member(user_id=user_id, device_id="DEVICE", member_id=f"{user_id}:DEVICE"),
        slot_id="m.call#ROOM",
        transports=tuple(transports),
        can_subscribe=can_subscribe,
        focus_selection=FocusSelection.OWN,
        application={"type": "m.call"},
        created_ts_ms=number,
        expires_ts_ms=2**53,
        dialect="D3",
        event_id=f"$member{number}",
        room_id="!room:example.org",
    )


def _situations() -> Iterator[_Situation]:
    """Give sessions of up to two others, with ourselves before, between, behind, or not in it."""
    kinds = (*_KINDS, _ALIAS, _STRANGE)
    lists = [(kind,) for kind in kinds] + [(_STRANGE, "org.example.hall"), ("org.example.own",) * 2]
    crowds: list[tuple[Membership, ...]] = [()]
    for count in (1, 2):
        for chosen in itertools.product(lists, repeat=count):
            crowds.append(
                tuple(
                    _membership(
                        number,
                        [_transport(kind, f"of {number}") for kind in listed],
                        None if number else (*listed, "org.example.own"),
                    )
                    for number, listed in enumerate(chosen)
                )
            )
    for offered in _offers(2):
        own = replace(_membership(9, [offered[0].transport], None), member=_OWN)
        for crowd in crowds:
            yield _Situation(crowd, offered)
            for place in range(len(crowd) + 1):
                yield _Situation((*crowd[:place], own, *crowd[place:]), offered)
