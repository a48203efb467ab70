"""What `rtcfoci join --record` writes: a Matroska file and a data log for each participant.

In: naming the files, one clock for all of them, and telling of those that end early. Out: how a recording is
made (`rtcfoci.media.recording`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rtcfoci.media.frames import Frame, Kind, VideoFrame
from rtcfoci.media.recording import Recorder
from rtcfoci.media.tracks import FrameHub

if TYPE_CHECKING:
    from rtcfoci.core.model import Member
    from rtcfoci.errors import MediaError
    from rtcfoci.media.tracks import RemoteTrack

__all__ = ["Recordings", "distorted"]

_NAME_LENGTH = 100


class Recordings:
    """One file for each participant, all on one clock.

    :param failed: told which file ended early and why, on any thread; the others go on.
    :param by_user: name files by the user alone and go on in the same file, as the demo needs it.
    """

    def __init__(
        self,
        folder: Path,
        failed: Callable[[str, MediaError | str], None],
        *,
        by_user: bool = False,
    ) -> None:
        self._folder = folder
        self._failed = failed
        self._by_user = by_user
        self._epoch_ns = time.monotonic_ns()
        self._recorders: dict[str, Recorder] = {}
        self._logs: dict[str, TextIO | None] = {}
        """None: it could not be written any more."""
        self._stems: dict[Member, str] = {}

    def add(self, track: RemoteTrack) -> None:
        """Record a track from now on, with the other tracks of its participant."""
        stem = self._stem(track.track_id.member)
        if stem not in self._recorders:
            path = self._folder / f"{stem}.mkv"
            self._recorders[stem] = Recorder(
                path, epoch_ns=self._epoch_ns, on_error=partial(self._failed, path.name)
            )
        self._recorders[stem].add(track)

    def note(self, member: Member, payload: bytes) -> None:
        """Write a data message down: JSON as it is, anything else as hexadecimal."""
        stem = self._stem(member)
        path = self._folder / f"{stem}.jsonl"
        try:
            line = json.dumps(json.loads(payload))
        except (ValueError, RecursionError):  # no JSON, or a stranger's idea of it
            line = json.dumps({"hex": payload.hex()})
        try:
            if stem not in self._logs:
                # Line buffered: what was received before a crash is in the file.
                self._logs[stem] = path.open("w", encoding="utf-8", buffering=1)
            log = self._logs[stem]
            if log is not None:
                log.write(line + "\n")
        except OSError as error:
            self._close(self._logs.get(stem))
            self._logs[stem] = None
            self._failed(path.name, error.strerror or str(error))

    async def aclose(self) -> None:
        """Finish every file."""
        await asyncio.gather(*(recorder.aclose() for recorder in self._recorders.values()))
        for log in self._logs.values():
            self._close(log)

    @staticmethod
    def _close(log: TextIO | None) -> None:
        if log is not None:
            with contextlib.suppress(OSError):  # what is buffered has no room either
                log.close()

    def _stem(self, member: Member) -> str:
        if member not in self._stems:
            name = member.user_id.removeprefix("@").partition(":")[0]
            if not self._by_user:
                name = f"{name}_{member.device_id or 'unknown'}"
            # A member chooses its device id: in ASCII, every character is one byte of the name.
            known = (c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
            safe = "".join(known)[:_NAME_LENGTH]
            stem, number = safe or "_", 2
            while not self._by_user and self._taken(stem):
                stem, number = f"{safe}-{number}", number + 1
            self._stems[member] = stem
        return self._stems[member]

    def _taken(self, stem: str) -> bool:
        return stem in self._stems.values() or any(
            (self._folder / f"{stem}{ending}").exists() for ending in (".mkv", ".jsonl")
        )


def distorted(hub: FrameHub) -> FrameHub:
    """Spoil the pictures of a source, so that the demo can show that its verdict notices."""
    if hub.kind is not Kind.VIDEO:
        return hub
    spoiled = FrameHub(Kind.VIDEO)

    def take(frame: Frame | None) -> None:
        if isinstance(frame, VideoFrame):
            luma = frame.width * frame.height
            # Every second row turned round: bright for dark, left for right.
            rows = [
                frame.data[i : i + frame.width][::-1].translate(_INVERTED)
                if i // frame.width % 2
                else frame.data[i : i + frame.width]
                for i in range(0, luma, frame.width)
            ]
            spoiled.push(
                VideoFrame(
                    data=b"".join(rows) + frame.data[luma:],
                    width=frame.width,
                    height=frame.height,
                    timestamp_ns=frame.timestamp_ns,
                )
            )
        elif frame is None:
            spoiled.end(hub.error)

    hub.consume(take)
    return spoiled


_INVERTED = bytes(255 - value for value in range(256))
