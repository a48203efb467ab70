"""Which focus to publish on, as pure functions of the members and of what we can offer.

In: the protocol of a policy, two policies, and what to tell people about types that nobody here
understands. Out: which types exist and what they can do (`rtcfoci.plugin`): the caller passes that in,
as data, and connects to what was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rtcfoci.core.model import Member, Membership, Transport
from rtcfoci.errors import SelectionError

__all__ = [
    "Choice",
    "EachItsOwn",
    "Offered",
    "OldestMembership",
    "SelectionPolicy",
    "Uninstalled",
    "uninstalled",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One place where we could publish."""

    transport: Transport
    topology: str
    """Its focus type's: `pairwise`, `per_member`, `elected` or `linked`."""
    names: frozenset[str] = field(default=frozenset())
    """Every type string that means the same focus type; its own is always one."""

    def means(self, kind: str) -> bool:
        """Tell whether a transport type is the same focus type as this."""
        return kind == self.transport.type or kind in self.names


@dataclass(frozen=True, slots=True)
class Choice:
    """Where to publish, and why, in words for people."""

    transport: Transport
    reason: str


class SelectionPolicy(Protocol):
    """A rule for choosing a focus; constructed without arguments, keeps nothing between calls."""

    name: str

    def choose(
        self,
        members: Sequence[Membership],
        own: Member,
        offered: Sequence[Offered],
        known: Mapping[str, str],
    ) -> Choice:
        """Choose where to publish.

        :param members: the session in its order, ourselves included once we are in it.
        :param offered: in the order in which the application accepts them.
        :param known: every transport type that is installed and accepted, aliases included, with
            its topology.
        :raises SelectionError: when nothing can be chosen; names what members use and what we have.
        """


class OldestMembership:
    """Everybody publishes on the focus of the oldest member (D2).

    Of a type whose members each have a focus of their own by nature (`pairwise`, `linked`), everybody
    uses that type, on its own.
    """

    name = "oldest_membership"

    def choose(
        self,
        members: Sequence[Membership],
        own: Member,
        offered: Sequence[Offered],
        known: Mapping[str, str],
    ) -> Choice:
        """Follow the oldest member, or, being the oldest, offer our own."""
        if not members or members[0].member == own:
            return Choice(_first(offered, members).transport, "we are the oldest member")
        oldest = members[0]
        for transport in oldest.transports:
            topology = known.get(transport.type)
            if topology in ("elected", "per_member"):
                return Choice(transport, f"the focus of the oldest member, {oldest.member}")
            for offer in offered if topology is not None else ():
                if offer.means(transport.type):
                    reason = f"the type of the oldest member, {oldest.member}"
                    return Choice(offer.transport, reason)
        raise SelectionError(
            f"the oldest member uses {_uses([oldest])}, which cannot be used here",
            why=f"accepted and installed here: {', '.join(sorted(known)) or 'nothing'}",
            do="install or accept a focus type for it, or choose another selection policy",
        )


class EachItsOwn:
    """Each publishes on its own focus and subscribes on those of the others (MSC4195).

    Of our offers the one wins that most members can receive; the application's order breaks ties. An
    elected type goes to the focus that the oldest member of that type names.
    """

    name = "each_its_own"

    def choose(
        self,
        members: Sequence[Membership],
        own: Member,
        offered: Sequence[Offered],
        known: Mapping[str, str],
    ) -> Choice:
        """Choose our own offer that reaches most members."""
        _first(offered, members)
        others = [m for m in members if m.member != own]
        reached = [sum(_receives(member, offer) for member in others) for offer in offered]
        best = max(reached)
        offer = offered[reached.index(best)]
        if not others:
            reason = "first of the accepted types; nobody else is here"
        elif best == 0:
            reason = (
                f"first of the accepted types; no member is known to receive it: {_uses(others)}"
            )
        else:
            reason = f"{best} of {len(others)} members can receive it"
        if offer.topology == "elected":
            for member in members:
                if member.member == own:
                    break
                for transport in member.transports:
                    if offer.means(transport.type):
                        return Choice(transport, f"{reason}; the focus that {member.member} named")
        return Choice(offer.transport, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstalled:
    """A transport type that members use and nothing installed understands."""

    type: str
    members: tuple[Member, ...]
    install: str = ""
    """The distribution that would understand it, empty when that is not known."""

    def __str__(self) -> str:
        hint = f" (install {self.install})" if self.install else ""
        return f"no installed focus type for {self.type}{hint}"


def uninstalled(
    members: Iterable[Membership], known: Iterable[str], providers: Mapping[str, str]
) -> tuple[Uninstalled, ...]:
    """List the types that hide members from us: of members that use no type we know.

    :param known: every type that is installed, aliases included.
    :param providers: which distribution understands a type.
    """
    have = frozenset(known)
    users: dict[str, list[Member]] = {}
    for membership in members:
        kinds = [transport.type for transport in membership.transports]
        if have.isdisjoint(kinds):
            for kind in dict.fromkeys(kinds):
                users.setdefault(kind, []).append(membership.member)
    return tuple(
        Uninstalled(type=kind, members=tuple(users[kind]), install=providers.get(kind, ""))
        for kind in sorted(users)
    )


def _first(offered: Sequence[Offered], members: Sequence[Membership]) -> Offered:
    if offered:
        return offered[0]
    raise SelectionError(
        "there is no focus to publish on",
        why="none of the accepted focus types offers one"
        + (f"; members use {_uses(members)}" if members else ""),
        do="accept another focus type, or configure one: rtcfoci plugins lists what is installed",
    )


def _receives(member: Membership, offer: Offered) -> bool:
    """Tell whether a member can receive what we publish there; who does not say receives its own."""
    kinds: Iterable[str] = (
        [transport.type for transport in member.transports]
        if member.can_subscribe is None
        else member.can_subscribe
    )
    return any(offer.means(kind) for kind in kinds)


def _uses(members: Iterable[Membership]) -> str:
    kinds = sorted({transport.type for member in members for transport in member.transports})
    return ", ".join(kinds[:8]) or "no transport"
