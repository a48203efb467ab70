"""The hops in their order, and which of them a broken one makes pointless.

In: running hops. Out: what each does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from rtcfoci_livekit_auth.doctor import behind, leave, matrix, service, sfu
from rtcfoci_livekit_auth.doctor.verdicts import Case, State, Verdict, not_checked

__all__ = ["HOPS", "Hop", "examine"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One step on the way to a call."""

    name: str
    check: Callable[[Case], Awaitable[Verdict]]
    needs: Collection[str] = ()
    """Hops that must not have failed."""


HOPS = (
    Hop("discovery", matrix.discovery),
    Hop("account", matrix.account, {"discovery"}),
    Hop("transports", matrix.transports, {"account"}),
    Hop("sticky events", matrix.sticky_events, {"discovery"}),
    Hop("delayed events", matrix.delayed_events, {"account"}),
    Hop("service", service.reachable, {"transports"}),
    Hop("token", service.token, {"account", "service"}),
    Hop("behind homeserver", behind.passes_on, {"token"}),
    Hop("sfu", sfu.answers, {"token"}),
    Hop("key and room", sfu.key_and_room, {"sfu"}),
    Hop("signalling", sfu.signalling, {"key and room"}),
    Hop("media", sfu.media, {"signalling"}),
    Hop("delegated leave", leave.delegated_leave, {"media", "delayed events"}),
)


async def examine(case: Case, hops: Collection[Hop] = HOPS) -> AsyncIterator[Verdict]:
    """Check a deployment hop by hop, giving each verdict as it is found.

    A hop that needs one that failed, or was not checked, is not checked. A service that was named
    beforehand is checked even when the homeserver does not advertise it.
    """
    good: set[str] = {"transports"} if case.service_url else set()
    try:
        for hop in hops:
            start = time.monotonic()
            missing = [name for name in hop.needs if name not in good]
            if missing:
                verdict = not_checked("needs_another", f"needs: {', '.join(sorted(missing))}")
            else:
                verdict = await hop.check(case)
            if verdict.state in {State.OK, State.WARNING}:
                good.add(hop.name)
            took_ms = round((time.monotonic() - start) * 1000)
            yield replace(verdict, hop=hop.name, took_ms=took_ms)
    finally:
        await matrix.close(case)
