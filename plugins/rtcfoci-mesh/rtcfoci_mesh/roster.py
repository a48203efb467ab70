"""Who fits into the mesh, decided by everybody alike from what the memberships say.

In: the order and the cap. Out: what is done with those that fit (`connection`).
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
    def order(self) -> tuple[int, tuple[bytes, bytes, bytes]]:
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
    """Read our own place from the transport that we announce."""
    joined = transport.raw.get("joined_ts_ms")
    return Seat(
        member, joined if isinstance(joined, int) else 0, transport.raw.get("video") is True
    )


def seated(seats: Iterable[Seat], *, max_video: int, max_audio: int) -> set[Member]:
    """Fill the mesh in order of joining; the first member that sends video lowers the cap."""
    taken: set[Member] = set()
    cap = max_audio
    for seat in sorted(seats, key=lambda s: s.order):
        cap_with = min(cap, max_video) if seat.video else cap
        if len(taken) < cap_with:
            taken.add(seat.member)
            cap = cap_with
    return taken
