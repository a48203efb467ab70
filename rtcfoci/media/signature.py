"""What tells one sender's media from another's: a tone and a sender id.

In: choosing them so that a receiver can tell all senders apart. Out: making the media (`sources`)
and finding it again (`verdict`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TONES_HZ", "Signature", "signatures"]

TONES_HZ = tuple(range(430, 2400, 90))
"""Far enough apart for windows of 100 ms, inside what every speech codec carries, and no tone's
octave is another tone."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One sender's marks."""

    tone_hz: int
    sender_id: int
    """16 bit."""


def signatures(senders: Iterable[str], seed: int) -> dict[str, Signature]:
    """Choose a random tone and sender id for each sender, all different; the same for equal seeds.

    :raises ValueError: for more senders than there are tones.
    """
    names = sorted(set(senders))
    choose = random.Random(seed)
    tones = choose.sample(TONES_HZ, len(names))
    ids = choose.sample(range(1, 1 << 16), len(names))
    return {n: Signature(t, i) for n, t, i in zip(names, tones, ids, strict=True)}
