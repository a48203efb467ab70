"""What a track of ours is called, so that everybody tells it from our others.

In: the usual names, and refusing those that cannot be. Out: publishing it (`call`, `foci`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

from rtcfoci.core.model import Member
from rtcfoci.errors import UsageError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import TrackId

__all__ = ["name_track"]

_MAX_WORD = 100
"""Longest source or name of a track."""


def name_track(
    member: Member, kind: Kind, taken: Collection[TrackId], *, source: str, name: str
) -> TrackId:
    """Name a new track beside those that are taken.

    :param source: empty for the usual one of the kind.
    :param name: empty for the ordinal among those of its source.
    :raises UsageError: when it is taken, or cannot be shown.
    """
    source = source or ("microphone" if kind is Kind.AUDIO else "camera")
    for word in (source, name):
        if len(word) > _MAX_WORD or not word.isprintable():
            raise UsageError(
                f"a track cannot be called {word[:_MAX_WORD]!r}",
                why=f"others show it: at most {_MAX_WORD} printable characters",
                do="choose a shorter or plainer one",
            )
    names = {t.name for t in taken if t.source == source}
    track_id = TrackId(
        member, source, name or next(n for n in map(str, itertools.count()) if n not in names)
    )
    if track_id in taken:
        raise UsageError(
            f"a track {source!r} named {name!r} is published already",
            why="source and name together tell a member's tracks apart",
            do="leave the name out, choose another, or unpublish that track first",
        )
    return track_id
