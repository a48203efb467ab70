"""Who fits into the mesh, decided by everybody alike from what the memberships say.

In: the order and the cap. Out: what is done with those that fit (`connection`).

The answer follows from the memberships as they are now, our own among them as others read it, and from
nothing that was remembered: somebody who comes later must come to the same one. That a member's `video`
is what it announced at its join is therefore its own duty; one that changes it changes the answer for
everybody alike, and for nobody who is connected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rtcfoci.core.model import Member, Membership, Transport

__all__ = ["Seat", "own_seat", "read_seat", "seated"]


@dataclass(frozen=True, slots=True)
class Seat:
    """What of a membership counts here."""

    member: Member
    joined_ts_ms: int
    video: bool
    claimed_ts_ms: int | None = None
    """What the member says itself: another number means that it came anew."""

    @property
    def order(self) -> tuple[int, tuple[str, str, str]]:
        """Who came first; the same for everybody."""
        return self.joined_ts_ms, self.member.order


def read_seat(membership: Membership, types: Iterable[str]) -> Seat:
    """Read a membership; what its mesh transport does not say properly is filled in."""
    known = tuple(types)
    raw = next((t.raw for t in membership.transports if t.type in known), {})
    joined, video = raw.get("joined_ts_ms"), raw.get("video")
    created = membership.created_ts_ms
    claimed = joined if isinstance(joined, int) and not isinstance(joined, bool) else None
    return Seat(
        membership.member,
        # Never later than the event's own time, so that nobody yields a seat by claiming the future;
        # an earlier claim only moves its own claimant, whom the order would have seated or not.
        max(0, min(created if claimed is None else claimed, created)),
        video if isinstance(video, bool) else True,
        claimed,
    )


def own_seat(member: Member, transport: Transport) -> Seat:
    """Guess our own place from what we are about to announce; the homeserver's time is not known yet."""
    claimed = transport.raw.get("joined_ts_ms")
    joined = claimed if isinstance(claimed, int) else 0
    return Seat(member, joined, transport.raw.get("video") is True, joined)


def seated(seats: Iterable[Seat], *, max_video: int, max_audio: int) -> set[Member]:
    """Give those that fit: the longest beginning of the order that a cap allows.

    It is `max_video` long at most, or `max_audio` while nobody in it announced video. Nobody is
    skipped: whoever comes after one that does not fit does not fit either.
    """
    taken: set[Member] = set()
    video = False
    for seat in sorted(seats, key=lambda s: s.order):
        video = video or seat.video
        if len(taken) >= (max_video if video else max(max_video, max_audio)):
            break
        taken.add(seat.member)
    return taken
