"""The foci of one call: who is reached where, where we publish, and moving when a focus dies.

In: offers of every accepted focus type, one `Link` for each connection key, the limits of the trust
policy, and make-before-break to the next offer. Out: the rule that chooses
(`rtcfoci.core.selection`), our membership (`rtcfoci.call.presence`), what the application sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rtcfoci.call.keys import takes_keys
from rtcfoci.call.link import Link, LinkObserver, Offer
from rtcfoci.call.trust import TrustPolicy
from rtcfoci.core.key_messages import Key
from rtcfoci.core.model import JsonObject, Member, Membership, Transport
from rtcfoci.core.selection import Choice, Offered, SelectionPolicy
from rtcfoci.errors import BackendError, SelectionError
from rtcfoci.media.tracks import LocalTrack
from rtcfoci.plugin.backend import Backend, Role, SignalSecurity
from rtcfoci.plugin.context import Context
from rtcfoci.plugin.hookspecs import FocusType, Topology

__all__ = ["Accepted", "Foci", "FociObserver"]

_KEEP_OLD_S = 10.0
"""How long the old connection is kept after a move, so that others can follow (design.md 5)."""
_AVOID_FAILED_S = 30.0
"""How long an offer that failed comes last."""
_CLOSE_TIMEOUT_S = 5.0
"""A backend that lets go more slowly is left behind."""
_log = logging.getLogger("rtcfoci.call")


class Accepted:
    """A focus type that the application accepts, ready to be used in this call."""

    def __init__(self, focus_type: FocusType, backend: Backend, context: Context) -> None:
        self.focus_type = focus_type
        self.backend = backend
        self.context = context
        self.transports: tuple[Transport, ...] = ()

    def key(self, transport: Transport, member: Member) -> str | None:
        """Name the connection that leads there; None for another type, or what only claims to be ours.

        Members write transports: whatever a backend makes of one is no reason to end a call.
        """
        if transport.type not in (self.focus_type.type, *self.focus_type.aliases):
            return None
        try:
            return self.backend.connection_key(transport, member, self.transports)
        except Exception as error:
            self.context.log.warning(
                "connection_key() raised %s for a transport of %s", type(error).__name__, member
            )
            return None

    async def aclose(self) -> None:
        """Let go of the backend, or of waiting for it."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.backend.aclose()
        except Exception as error:  # it is over either way, and must not hold up our leaving
            self.context.log.warning("closing the backend failed: %s", type(error).__name__)


class FociObserver(LinkObserver, Protocol):
    """Who is told, beside what happens on links, where we publish now."""

    def on_own_focus(self, offer: Offer, reason: str) -> None:
        """Our membership has to name this offer from now on."""

    def on_link_gone(self, link: Link) -> None:
        """A link was dropped for good; what came through it has no feed any more."""

    def on_condition(self, code: str, subject: str, cause: str | None) -> None:
        """A condition holds, or, with no cause, no longer does."""


class Foci:
    """Every focus of one call.

    :param accepted: the types, in the application's order.
    :param explain: says why a transport type of a member cannot be used here.
    :param keyed: whether media keys are exchanged in this call.
    """

    def __init__(
        self,
        accepted: Sequence[Accepted],
        *,
        own: Member,
        policy: SelectionPolicy,
        trust: TrustPolicy,
        observer: FociObserver,
        spawn: Callable[..., asyncio.Task[None]],
        now_s: Callable[[], float],
        explain: Callable[[str], str],
        keyed: bool = False,
    ) -> None:
        self._accepted = accepted
        self._own = own
        self._policy = policy
        self._trust = trust
        self._observer = observer
        self._spawn = spawn
        self._now_s = now_s
        self._explain = explain
        self._keyed = keyed
        self._keys: Mapping[tuple[Member, int], Key] = {}
        self._key_index: int | None = None
        self._offers: list[Offer] = []
        self._failed_s: dict[int, float] = {}
        """When offers failed last, by their place among ours."""
        self._links: dict[tuple[str, str], Link] = {}
        self._retiring: dict[tuple[str, str], float] = {}
        self._session: tuple[Membership, ...] = ()
        self._members: tuple[Membership, ...] = ()
        self._own_membership: Membership | None = None
        """Our own membership, as others read it."""
        self._tracks: tuple[LocalTrack, ...] = ()
        self._publishing: tuple[str, str] | None = None
        self._announced: Offer | None = None
        self._unreached: set[str] = set()
        self._excess: set[str] = set()
        """Users who name more foci than they may."""
        self._closed = False
        self._started = False
        self._known = {
            name: a.focus_type.topology.value
            for a in accepted
            for name in (a.focus_type.type, *a.focus_type.aliases)
        }

    @property
    def links(self) -> Sequence[Link]:
        """Every link, retiring ones included."""
        return tuple(self._links.values())

    @property
    def own_offer(self) -> Offer:
        """The offer that our membership names. :raises SelectionError: when there is none."""
        if self._announced is None:
            raise SelectionError(
                "none of the accepted focus types offers a place to publish",
                why=f"asked: {', '.join(a.focus_type.type for a in self._accepted)}",
                do="configure one of them, or accept another type: rtcfoci plugins lists them",
            )
        return self._announced

    async def gather(self, advertised: Sequence[Transport]) -> None:
        """Ask every accepted type where we could publish."""
        causes: list[str] = []
        for accepted in self._accepted:
            try:
                found = await accepted.backend.local_transports(advertised)
            except BackendError as error:
                causes.append(f"{accepted.focus_type.type}: {error.what}: {error.why}")
                continue
            accepted.transports = tuple(found)
            self._offers += [Offer(accepted.focus_type, accepted.backend, t) for t in found]
        if not self._offers and causes:
            raise SelectionError(
                "no accepted focus type can be used here",
                why="; ".join(causes),
                do="mend one of the causes, or accept another focus type",
            )
        self._announced = next(iter(self._offers), None)

    @property
    def types(self) -> tuple[str, ...]:
        """The transport types we can receive from, as others know them."""
        return tuple(a.focus_type.type for a in self._accepted)

    async def prepare(self) -> None:
        """Have the backend that our membership names fetch what connecting will need.

        Its link asks again, and tells of a failure.
        """
        offer = self.own_offer
        with contextlib.suppress(Exception):
            await offer.backend.prepare(offer.transport)

    def start(self) -> None:
        """Begin to connect; before, members are only noted."""
        self._started = True
        self._arrange()

    def follow(self, members: Sequence[Membership]) -> None:
        """Take the session's other members and bring every link into step."""
        self._session = tuple(members)
        self._members = tuple(m for m in members if m.member != self._own)
        self._own_membership = next((m for m in members if m.member == self._own), None)
        self._arrange()

    def set_tracks(self, tracks: Iterable[LocalTrack]) -> None:
        """Say what we publish; call again when one was muted."""
        self._tracks = tuple(tracks)
        self._arrange()

    def set_keys(self, keys: Mapping[tuple[Member, int], Key], index: int | None) -> None:
        """Say which media keys every connection needs, and which of ours is in use."""
        self._keys, self._key_index = keys, index
        for link in self._links.values():
            link.set_keys(keys, index)

    def links_of(self, member: Member) -> list[Link]:
        """The links on which a member is reached."""
        return [link for link in self._links.values() if member in link.members]

    def publishing_links(self) -> list[Link]:
        """The links on which we publish, retiring ones first."""
        links = [link for link in self._links.values() if Role.PUBLISH in link.roles]
        return sorted(links, key=lambda link: self._key(link) == self._publishing)

    def signal(
        self, focus_type: str, member: Member, payload: JsonObject, security: SignalSecurity
    ) -> bool:
        """Hand a signal to the links of its type; False when there is none that takes any."""
        links = [
            link
            for link in self._links.values()
            if link.focus_type.type == focus_type and link.focus_type.capabilities.needs_signalling
        ]
        reaching = [link for link in links if member in link.members] or links
        for link in reaching:
            link.signal(member, payload, security)
        return bool(reaching)

    def on_link_up(self, link: Link) -> None:
        """Tell us that a link stands: if it is the one to publish on, the old one may go."""
        self._observer.on_condition("focus_failed", _name(link), None)
        if self._key(link) == self._publishing:
            for key, other in list(self._links.items()):
                if key != self._publishing and Role.PUBLISH in other.roles:
                    self._retire(key)
            if self._announced != link.offer and link.offer in self._offers:
                self._announced = link.offer
                self._observer.on_own_focus(link.offer, "the former focus failed")

    def on_link_down(self, link: Link, error: BackendError) -> None:
        """Tell us that a link fell: publish elsewhere if it was ours and there is elsewhere."""
        self._observer.on_condition("focus_failed", _name(link), f"{error.what}: {error.why}")
        if link.offer in self._offers:
            self._failed_s[self._offers.index(link.offer)] = self._now_s()
        self._arrange()

    async def aclose(self) -> None:
        """Close every link and backend; idempotent."""
        self._closed = True
        await asyncio.gather(*(link.aclose() for link in self._links.values()))
        self._links.clear()
        await asyncio.gather(*(accepted.aclose() for accepted in self._accepted))

    def _arrange(self) -> None:
        if self._closed or not self._started or not self._offers:
            return
        target = self._target()
        wanted: dict[tuple[str, str], tuple[Offer, set[Role], list[Membership]]] = {}
        target_key = self._key_of(target, self._own)
        roles = {Role.PUBLISH}
        if target.focus_type.topology is not Topology.PER_MEMBER:
            roles.add(Role.SUBSCRIBE)
        wanted[target_key] = (target, roles, [])
        self._publishing = target_key
        opened_by: Counter[str] = Counter()
        unreached: dict[str, str] = {}
        excess: dict[str, int] = {}
        for member in self._members:
            where = self._reach(member, target, target_key)
            if where is None:
                unreached[str(member.member)] = self._why_unreached(member)
                continue
            key, offer = where
            if key not in wanted:
                limit = self._limit_reached(len(wanted), opened_by[member.member.user_id])
                if limit is not None:
                    excess[member.member.user_id] = limit
                    continue
                opened_by[member.member.user_id] += 1
                wanted[key] = (offer, set(), [])
            wanted[key][1].add(Role.SUBSCRIBE)
            wanted[key][2].append(member)
        self._report_unreached(unreached)
        self._report_excess(excess)
        self._make_room(wanted)
        for key, (offer, roles_wanted, members) in wanted.items():
            self._retiring.pop(key, None)
            link = self._links.get(key)
            if link is None:
                link = self._links[key] = self._open(offer, key[1], frozenset(roles_wanted))
            link.require(frozenset(roles_wanted))
            link.set_own(self._own_membership)
            link.set_members(members)
            link.set_tracks(self._tracks)
        present = {m.member for m in self._members}
        for key, link in list(self._links.items()):
            if key not in wanted:
                link.set_members(m for k, m in link.members.items() if k in present)
                link.set_tracks(self._tracks)
                if Role.PUBLISH not in link.roles or self._links[target_key].up:
                    self._retire(key)

    def _target(self) -> Offer:
        """Where to publish now: what the policy chooses among our offers and the members'."""
        now_s = self._now_s()
        failed = [i for i, at_s in self._failed_s.items() if now_s - at_s < _AVOID_FAILED_S]
        ranked = [o for i, o in enumerate(self._offers) if i not in failed]
        ranked += [o for i, o in enumerate(self._offers) if i in failed]
        offered = [
            Offered(
                transport=o.transport,
                topology=o.focus_type.topology.value,
                names=frozenset((o.focus_type.type, *o.focus_type.aliases)),
            )
            for o in ranked
        ]
        members = [m for m in map(self._usable, self._session) if m.transports]
        try:
            choice = self._policy.choose(members, self._own, offered, self._known)
            found = self._find(choice, ranked)
            cause = "" if found else f"it chose {choice.transport.type}, which is not accepted here"
        except SelectionError as error:
            found, cause = None, f"{error.what}: {error.why}"
        except Exception as error:  # a plugin's policy, or one that members leave no choice
            found, cause = None, f"it raised {type(error).__name__}"
            _log.warning("the selection policy failed", exc_info=error)
        self._observer.on_condition("selection_failed", "", cause or None)
        return found or ranked[0]

    def _find(self, choice: Choice, ranked: Sequence[Offer]) -> Offer | None:
        """Find where a choice leads: to an offer of ours, or to a member's focus."""
        for offer in ranked:
            if offer.transport == choice.transport:
                return offer
        for accepted in self._accepted:
            if accepted.key(choice.transport, self._own) is not None:
                return Offer(accepted.focus_type, accepted.backend, choice.transport)
        return None

    def _usable(self, member: Membership) -> Membership:
        """Leave out the transports of a member that lead nowhere for us."""
        return replace(
            member,
            transports=tuple(
                transport
                for transport in member.transports
                if any(a.key(transport, member.member) is not None for a in self._accepted)
            ),
        )

    def _reach(
        self, member: Membership, target: Offer, target_key: tuple[str, str]
    ) -> tuple[tuple[str, str], Offer] | None:
        for transport in member.transports:
            for accepted in self._accepted:
                key = accepted.key(transport, member.member)
                if key is None:
                    continue
                focus_type = accepted.focus_type
                elected = focus_type.topology is Topology.ELECTED
                if elected and focus_type is target.focus_type:
                    return target_key, target
                offer = Offer(focus_type, accepted.backend, transport)
                return (focus_type.type, key), offer
        return None

    def _why_unreached(self, member: Membership) -> str:
        causes = dict.fromkeys(
            f"its transport of type {t.type} cannot be read"
            if t.type in self._known
            else self._explain(t.type)
            for t in member.transports
        )
        return "; ".join(causes) or "it names no transport"

    def _key_of(self, offer: Offer, member: Member) -> tuple[str, str]:
        accepted = next(a for a in self._accepted if a.focus_type is offer.focus_type)
        key = accepted.key(offer.transport, member)
        if key is None:
            raise SelectionError(
                f"the {offer.focus_type.type} backend does not know its own transport",
                why="connection_key() returned None for what local_transports() offered",
                do="report it to the authors of that plugin",
            )
        return offer.focus_type.type, key

    def _limit_reached(self, count: int, by_sender: int) -> int | None:
        # The first link is our own; the limits are for what members name.
        if count - 1 >= self._trust.max_foci:
            return self._trust.max_foci
        limit = self._trust.max_new_foci_per_sender
        return limit if by_sender >= limit else None

    def _make_room(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Drop what is only kept for a while, oldest first: the limit is for that as well."""
        keys = set(wanted)
        idle = [
            key
            for key, link in self._links.items()
            if key not in keys and Role.PUBLISH not in link.roles
        ]
        for key in idle[: max(0, len(keys) - 1 + len(idle) - self._trust.max_foci)]:
            self._drop(key)

    def _report_excess(self, excess: Mapping[str, int]) -> None:
        for user_id in self._excess - set(excess):
            self._observer.on_condition("too_many_foci", user_id, None)
        for user_id, limit in excess.items():
            self._observer.on_condition("too_many_foci", user_id, f"the limit is {limit}")
        self._excess = set(excess)

    def _report_unreached(self, unreached: Mapping[str, str]) -> None:
        for subject in self._unreached - set(unreached):
            self._observer.on_condition("no_focus_type", subject, None)
        for subject, cause in unreached.items():
            self._observer.on_condition("no_focus_type", subject, cause)
        self._unreached = set(unreached)

    def _open(self, offer: Offer, key: str, roles: frozenset[Role]) -> Link:
        accepted = next(a for a in self._accepted if a.focus_type is offer.focus_type)
        keyed = self._keyed and takes_keys(offer.focus_type)
        link = Link(offer, key, roles, self._observer, self._spawn, accepted.context, keyed=keyed)
        link.set_keys(self._keys, self._key_index)
        return link

    def _retire(self, key: tuple[str, str]) -> None:
        """Drop a link: at once when it is dead, else after others had time to follow."""
        now_s = self._now_s()
        keep_s = _KEEP_OLD_S if self._links[key].up else 0.0
        if key not in self._retiring and keep_s:
            self._spawn(self._arrange_later(keep_s), name="retire")
        if now_s >= self._retiring.setdefault(key, now_s + keep_s):
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self._retiring.pop(key, None)
        link = self._links.pop(key)
        self._observer.on_link_gone(link)
        self._observer.on_condition("focus_failed", _name(link), None)
        self._spawn(link.aclose(), name=f"close {_name(link)}")

    async def _arrange_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s + 0.01)
        self._arrange()

    @staticmethod
    def _key(link: Link) -> tuple[str, str]:
        return link.focus_type.type, link.key


def _name(link: Link) -> str:
    return f"{link.focus_type.type} {link.key}"
