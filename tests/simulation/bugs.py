"""Bugs put in on purpose: each takes one thing away from the real code, and the simulation must see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from rtcfoci_mesh.connection import MeshConnection
from rtcfoci_mesh.delivery import Receiving, Sending
from rtcfoci_mesh.signalling import Negotiation

from rtcfoci.core.beliefs import Beliefs
from rtcfoci.core.lifecycle import Lifecycle


def _never_restart(self: Beliefs, now: Any) -> None:
    self._guard_since_s, self._restart_due_s = self._effect_s, float("inf")


def _stay_lost(self: Beliefs, now: Any, cause: str) -> None:
    self._member = False


def _ask_once(self: Negotiation, attempt: str, *, rebuild: bool) -> None:
    _WANT(self, attempt, rebuild=rebuild)
    self._timers.pop("resend", None)


_WANT = Negotiation._want


def _answer_once(self: Negotiation, offer: Any) -> None:
    if offer.attempt == self.attempt and offer.seq <= self._peer_seq:
        return
    _OFFERED(self, offer)


_OFFERED = Negotiation._offered


def _take_as_it_comes(self: Receiving, number: int) -> bool:
    self._next = max(self._next, number + 1)
    return True


def _keep_nothing(self: Sending) -> Any:
    stream, _ = _AGAIN(self)
    return stream, iter(())


_AGAIN = Sending.again


async def _keep_everybody(self: MeshConnection, added: Any, changed: Any, removed: Any) -> None:
    await _SET_MEMBERS(self, added, changed, ())


_SET_MEMBERS = MeshConnection.set_members


def _leave_once(self: Beliefs, now: Any) -> None:
    _TURN_OUT(self, now)
    self._deadline_s = now.s


_TURN_OUT = Beliefs._turn_out


@contextmanager
def _put(owner: type, name: str, wrong: Callable[..., Any]) -> Iterator[None]:
    with patch.object(owner, name, wrong):
        yield


@contextmanager
def _both_offer() -> Iterator[None]:
    """The tie is broken by each side for itself: both think that they offer."""
    made = Negotiation.__init__

    def wrong(self: Negotiation, instance: str, **options: Any) -> None:
        made(self, instance, **{**options, "offerer": True})

    with patch.object(Negotiation, "__init__", wrong):
        yield


BUGS: dict[str, Callable[[], Any]] = {
    "the delayed leave is never restarted": lambda: _put(Beliefs, "_guard_runs", _never_restart),
    "a lost membership is not sent again": lambda: _put(Lifecycle, "_lose", _stay_lost),
    "an offer is asked for once": lambda: _put(Negotiation, "_want", _ask_once),
    "a repeated offer is not answered again": lambda: _put(Negotiation, "_offered", _answer_once),
    "data is not told from its repetition": lambda: _put(Receiving, "take", _take_as_it_comes),
    "data that was on its way is not sent again": lambda: _put(Sending, "again", _keep_nothing),
    "who left stays in the mesh": lambda: _put(MeshConnection, "set_members", _keep_everybody),
    "both sides offer": _both_offer,
    "leaving is tried once": lambda: _put(Beliefs, "_turn_out", _leave_once),
}
