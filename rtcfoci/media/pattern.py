"""A picture that carries its sender and its number through cameras' fates: codecs, scaling, noise.

In: drawing and reading the test picture. Out: when pictures are drawn (`sources`), and what is made
of those that were read (`verdict`).

The picture is 10 x 8 blocks, black or white, that hold 80 bits row by row: sender (16), number (32),
CRC-32 of both (32). It is read relative to the picture's size. A hue that follows from the sender is
there for people only. Nothing else is accepted in place of the whole: mirrored, cropped or distorted
pictures fail their checksum.
"""

from __future__ import annotations

import binascii
import colorsys
from dataclasses import dataclass
from functools import lru_cache

from rtcfoci.media.frames import VideoFrame

__all__ = ["Stamp", "draw", "read"]

_COLUMNS, _ROWS = 10, 8
_BLACK, _WHITE = 40, 215  # well inside video range, so that ringing does not clip
_WHITEN = int.from_bytes(bytes.fromhex("5a96c33ca5693cf0965a"), "big")
"""Keeps pictures of small numbers from being nearly all black."""
_LEAST_CONTRAST = 40


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a picture carries."""

    sender_id: int
    """0 to 65535."""
    number: int
    """0 to 2**32 - 1."""


def draw(stamp: Stamp, width: int, height: int, timestamp_ns: int) -> VideoFrame:
    """Draw the picture; sizes are even, at least 80x64 to survive a codec."""
    payload = stamp.sender_id.to_bytes(2, "big") + stamp.number.to_bytes(4, "big")
    bits = int.from_bytes(payload + binascii.crc32(payload).to_bytes(4, "big"), "big") ^ _WHITEN
    luma = bytearray()
    for row in range(_ROWS):
        line = bytearray()
        for column in range(_COLUMNS):
            bit = bits >> (_COLUMNS * _ROWS - 1 - row * _COLUMNS - column) & 1
            line += bytes([_WHITE if bit else _BLACK]) * _span(column, _COLUMNS, width)
        luma += line * _span(row, _ROWS, height)
    data = bytes(luma) + _chroma(stamp.sender_id, width * height // 4)
    return VideoFrame(data=data, width=width, height=height, timestamp_ns=timestamp_ns)


def read(frame: VideoFrame) -> Stamp | None:
    """Read the picture; None when it is not one, or is too damaged to be sure."""
    if frame.width < _COLUMNS * 2 or frame.height < _ROWS * 2:
        return None
    means = [_mean(frame, column, row) for row in range(_ROWS) for column in range(_COLUMNS)]
    low, high = min(means), max(means)
    if high - low < _LEAST_CONTRAST:
        return None
    middle = (low + high) / 2
    bits = 0
    for mean in means:
        bits = bits << 1 | (mean > middle)
    data = (bits ^ _WHITEN).to_bytes(10, "big")
    if binascii.crc32(data[:6]).to_bytes(4, "big") != data[6:]:
        return None
    return Stamp(int.from_bytes(data[:2], "big"), int.from_bytes(data[2:6], "big"))


def _span(index: int, count: int, size: int) -> int:
    return size * (index + 1) // count - size * index // count


def _mean(frame: VideoFrame, column: int, row: int) -> float:
    """Brightness of the middle half of a block, from at most 8 x 8 samples."""
    xs = _samples(column, _COLUMNS, frame.width)
    total = count = 0
    for y in _samples(row, _ROWS, frame.height):
        start = y * frame.width
        line = frame.data[start + xs.start : start + xs.stop : xs.step]
        total += sum(line)
        count += len(line)
    return total / count


def _samples(index: int, count: int, size: int) -> range:
    first, last = size * index // count, size * (index + 1) // count
    quarter = (last - first) // 4
    return range(
        first + quarter, max(last - quarter, first + quarter + 1), max(1, (last - first) // 16)
    )


@lru_cache(maxsize=16)
def _chroma(sender_id: int, samples: int) -> bytes:
    hue = sender_id * 0.618034 % 1.0  # the golden ratio keeps neighbours apart
    red, green, blue = (255 * c for c in colorsys.hsv_to_rgb(hue, 0.5, 0.8))
    u = round(128 - 0.169 * red - 0.331 * green + 0.5 * blue)
    v = round(128 + 0.5 * red - 0.419 * green - 0.081 * blue)
    return bytes([u]) * samples + bytes([v]) * samples
