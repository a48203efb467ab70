"""The figures of a call: those of every focus that it is connected to.

In: gathering them. Out: their shape (`rtcfoci.plugin.stats`), export (`prometheus`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from rtcfoci.call.link import Link
from rtcfoci.plugin.stats import Extras, PairStats

__all__ = ["FocusStats", "gather"]

_PATIENCE_S = 1.0
_log = logging.getLogger("rtcfoci.call")


@dataclass(frozen=True, slots=True)
class FocusStats:
    """The figures of one focus; a call has several where members publish on foci of their own."""

    focus_type: str
    key: str
    """Tells foci of one type apart."""
    pairs: tuple[PairStats, ...]
    """At most one for each member, and one for the focus's server."""
    extras: Extras


async def gather(links: Iterable[Link]) -> tuple[FocusStats, ...]:
    """Ask every connection that stands; one that does not answer is left out, and costs nothing else."""
    found = []
    for link in tuple(links):
        if link.connection is None:
            continue
        try:
            async with asyncio.timeout(_PATIENCE_S):
                given = await link.connection.stats()
        except Exception as error:
            _log.debug("no figures of %s: %s", link.focus_type.type, type(error).__name__)
        else:
            found.append(FocusStats(link.focus_type.type, link.key, given.pairs, given.extras))
    return tuple(found)
