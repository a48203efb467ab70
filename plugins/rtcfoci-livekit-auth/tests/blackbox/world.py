"""What tests of one configuration share, and the tests that run side by side in it.

In: `Stage` makes fakes and services and sees that nobody is sent nonsense; `World` is one service
with its homeserver and SFU; `together` and `Outcomes` run tests that mostly wait all at once.
Out: the tests.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asking import DELEGATE, Member
from fakes import (
    Authority,
    Call,
    DelayedEvent,
    Homeserver,
    Host,
    Ledger,
    Reply,
    Service,
    Sfu,
)

__all__ = ["Delegation", "Outcomes", "Stage", "World", "together"]


class Stage:
    """Makes the parts; what it made, it judges and ends."""

    def __init__(self, scratch: Path, own_settings: dict[str, str]) -> None:
        self.scratch = scratch
        self.host = Host()
        self.authority = Authority(scratch)
        self._own_settings = own_settings
        self._violations: list[Ledger[str]] = []
        self._services: list[Service] = []

    def homeserver(self, **more: Any) -> Homeserver:
        made = Homeserver(self.host, self.authority, **more)
        self._violations.append(made.violations)
        return made

    def sfu(self, **more: Any) -> Sfu:
        made = Sfu(self.host, **more)
        self._violations.append(made.violations)
        return made

    def service(self, env: dict[str, str]) -> Service:
        """Give a service that was not started."""
        trust = {"SSL_CERT_FILE": str(self.authority.ca_file)}
        made = Service({**trust, **self._own_settings, **env}, self.scratch)
        self._services.append(made)
        return made

    def world(self, env: dict[str, str] | None = None, *, start: bool = True) -> World:
        """Give a service with a homeserver and an SFU of its own.

        :param env: settings over the usual ones; an empty string unsets.
        """
        homeserver, sfu = self.homeserver(), self.sfu()
        service = self.service(settings(homeserver, sfu) | (env or {}))
        if start:
            service.start()
        return World(stage=self, homeserver=homeserver, sfu=sfu, service=service)

    def violations(self) -> list[str]:
        """Give and forget what the fakes objected to."""
        return [violation for ledger in self._violations for violation in ledger.take()]

    def close(self) -> None:
        for service in self._services:
            service.kill()
        self.host.close()


def settings(homeserver: Homeserver, sfu: Sfu) -> dict[str, str]:
    """Give the least that a service needs."""
    return {
        "LIVEKIT_URL": sfu.url,
        "LIVEKIT_KEY": sfu.key,
        "LIVEKIT_SECRET": sfu.secret,
        "LIVEKIT_FULL_ACCESS_HOMESERVERS": homeserver.name,
    }


@dataclass(kw_only=True)
class World:
    """One service and its surroundings."""

    stage: Stage
    homeserver: Homeserver
    sfu: Sfu
    service: Service

    def member(self, **more: Any) -> Member:
        return Member(homeserver=self.homeserver, **more)

    def guest(self, **more: Any) -> Member:
        """Give a member whose homeserver is on no list."""
        user_id = self.homeserver.user("guest", other_name=True)
        return self.member(user_id=user_id, **more)

    def ask(
        self, path: str, member: Member, leave: DelayedEvent | None = None, /, **changes: Any
    ) -> Reply:
        return self.service.post(path, member.body(path, leave, **changes))

    def delegated(self, delay_ms: int, *, path: str = DELEGATE, **more: Any) -> Delegation:
        """Schedule a leave and hand it over."""
        leave = self.homeserver.schedule(delay_ms)
        delegation = Delegation(world=self, member=self.member(**more), leave=leave, path=path)
        delegation.hand_over()
        return delegation


@dataclass(kw_only=True)
class Delegation:
    """One leave that the service looks after, with the words that its tests need."""

    world: World
    member: Member
    leave: DelayedEvent
    path: str = DELEGATE

    @property
    def identity(self) -> str:
        return self.member.identity(self.path)

    def hand_over(self) -> None:
        reply = self.world.ask(self.path, self.member, self.leave)
        assert reply.status == 200, reply

    def renewed(self, delay_ms: int) -> Delegation:
        """The same member delegates another leave."""
        leave = self.world.homeserver.schedule(delay_ms)
        renewed = Delegation(world=self.world, member=self.member, leave=leave, path=self.path)
        renewed.hand_over()
        return renewed

    def hook(self, event: str, reason: str | None = None, **more: Any) -> None:
        """Send a webhook about this participant."""
        hook = self.world.sfu.webhook(
            event, self.member.alias, self.identity, reason=reason, **more
        )
        assert hook.send(self.world.service.url).status == 200

    def arrive(self) -> None:
        """Be in the room without a webhook."""
        self.world.sfu.join(self.member.alias, self.identity)

    def vanish(self) -> None:
        """Be in the room no more, without a webhook."""
        self.world.sfu.leave(self.member.alias, self.identity)

    def join(self) -> None:
        """Join by webhook alone: the SFU still denies knowing the participant."""
        self.hook("participant_joined")

    def leave_by(self, reason: str | None = "CLIENT_INITIATED") -> None:
        self.hook("participant_left", reason)

    def abort(self, reason: str | None = "JOIN_FAILURE") -> None:
        self.hook("participant_connection_aborted", reason)

    def restarts(self, count: int, within_s: float = 5.0) -> list[Call]:
        return self.leave.restarts.wait(count, within_s=within_s)

    def sends(self, count: int = 1, within_s: float = 5.0) -> list[Call]:
        return self.leave.sends.wait(count, within_s=within_s)

    def connected(self) -> Delegation:
        """Join, and see the service notice."""
        self.join()
        self.restarts(1)
        return self

    def stays_quiet(self, for_s: float) -> None:
        """See that the homeserver hears no more about this leave."""
        before = len(self.leave.calls)
        time.sleep(for_s)
        new = self.leave.calls.all()[before:]
        assert new == [], f"{len(new)} more: {[c.action for c in new]}"

    def looked_up(self, count: int, within_s: float = 5.0) -> list[float]:
        """Wait until the SFU was asked for this participant so often."""
        calls = self.world.sfu.calls
        assert calls.until(lambda: len(self.lookups()) >= count, within_s=within_s), self.lookups()
        return self.lookups()

    def lookups(self) -> list[float]:
        """Give when the SFU was asked for this participant."""
        calls = self.world.sfu.calls_in(self.member.alias, "GetParticipant")
        return [c.at_s for c in calls if c.request.identity == self.identity]


def together(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that mostly waits: all that share a world run at once, in threads.

    Such a test takes the world and its parameters, no fixture.
    """

    def waits(outcomes: Outcomes, request: pytest.FixtureRequest, **parameters: Any) -> None:
        outcomes.of(request.node)

    # pytest reads the signature of what it calls, for fixtures and parameters.
    names = ["outcomes", "request", *list(inspect.signature(test).parameters)[1:]]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    waits.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    waits.__name__, waits.__doc__, waits.__module__ = test.__name__, test.__doc__, test.__module__
    waits.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    waits.together = test  # type: ignore[attr-defined]
    return waits


class Outcomes:
    """Runs the chosen tests of a world side by side and gives each its own end."""

    def __init__(self, items: list[pytest.Item], world: World, at_once: int | None = None) -> None:
        chosen = [item for item in items if hasattr(getattr(item, "function", None), "together")]
        self._futures: dict[str, Future[None]] = {}
        if chosen:
            with ThreadPoolExecutor(at_once or len(chosen)) as pool:
                for item in chosen:
                    # A crowd that comes at once waits for its turn, and these tests time what they see.
                    time.sleep(0.03)
                    parameters = getattr(item, "callspec", None)
                    given = parameters.params if parameters is not None else {}
                    test = item.function.together  # type: ignore[attr-defined]
                    self._futures[item.nodeid] = pool.submit(test, world, **given)

    def of(self, item: pytest.Item) -> None:
        self._futures[item.nodeid].result()
