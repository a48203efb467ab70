"""Reading recordings back: their sound in even windows, their pictures, with times in seconds.

In: decoding whatever part of a file is whole. Out: what is made of it (`verdict`, `pictures`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import from_av_video
from rtcfoci.media.frames import SAMPLE_RATE, VideoFrame
from rtcfoci.media.pacing import NS

if TYPE_CHECKING:
    import numpy as np
    from av.container import InputContainer
    from numpy.typing import NDArray

__all__ = ["WINDOW_S", "Samples", "read_pictures", "read_sound"]

WINDOW_S = 0.1
"""Sound is read in windows of this length."""
_WINDOW = round(SAMPLE_RATE * WINDOW_S)
_JUMP_S = 0.05
_T = TypeVar("_T")

if TYPE_CHECKING:
    Samples: TypeAlias = NDArray[np.int16]
    """Mono, 48 kHz, -32768 to 32767."""
else:
    Samples = object


def read_sound(path: Path) -> Iterator[tuple[float, Samples]]:
    """Yield (start in seconds, samples) window by window; holes are silence. Nothing without sound.

    :raises MediaError: when the file cannot be opened.
    """
    import av
    import numpy as np

    with _opened(path) as container:
        if not container.streams.audio:
            return
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        held = np.zeros(0, np.int16)
        held_s: float | None = None
        for frame in _whole(container.decode(container.streams.audio[0])):
            if frame.pts is None or frame.time_base is None:
                continue
            at_s = float(frame.pts * frame.time_base)
            if held_s is None:
                held_s = at_s
            hole_s = at_s - (held_s + len(held) / SAMPLE_RATE)
            parts = [held]
            if hole_s > _JUMP_S:
                parts.append(np.zeros(round(hole_s * SAMPLE_RATE), np.int16))
            frame.pts = None
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            held = np.concatenate(parts)
            while len(held) >= _WINDOW:
                yield held_s, held[:_WINDOW]
                held, held_s = held[_WINDOW:], held_s + WINDOW_S


def read_pictures(path: Path) -> Iterator[tuple[float, VideoFrame]]:
    """Yield (time in seconds, picture). Nothing without pictures.

    :raises MediaError: when the file cannot be opened.
    """
    with _opened(path) as container:
        if not container.streams.video:
            return
        for frame in _whole(container.decode(container.streams.video[0])):
            if frame.pts is not None and frame.time_base is not None:
                at_s = float(frame.pts * frame.time_base)
                yield at_s, from_av_video(frame, round(at_s * NS))


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    import av
    from av.error import FFmpegError

    try:
        container = av.open(str(path))
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{path.name} cannot be read", why=str(error), do="check that it is a media file"
        ) from error
    with container:
        yield container


def _whole(frames: Iterable[_T]) -> Iterator[_T]:
    """Yield until the first damage: a recorder that was killed leaves half a cluster."""
    from av.error import FFmpegError

    try:
        yield from frames
    except (FFmpegError, ValueError):
        return
