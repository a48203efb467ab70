"""Opus packets to sound, and to something like it where a packet is missing.

In: finding libopus, decoding with it, concealing with it; decoding without. Out: which packets are
missing (`jitter`), when to conceal (`hearing`).

PyAV decodes Opus but gives nothing for a packet that never came. libopus itself makes up what is missing
from what was before, or takes it from the copy that the next packet may hold (in-band FEC, RFC 6716, 2.1.7).
So it is called directly: the copy that PyAV's wheel brings, else the system's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rtcfoci.media.frames import SAMPLE_RATE

__all__ = ["LibOpus", "SoundDecoder", "find_libopus"]

_MOST_SAMPLES = SAMPLE_RATE * 120 // 1000
"""The longest packet there is."""
_NAMES = ("libopus.so.0", "libopus.0.dylib", "libopus-0.dll", "opus.dll")
_log = logging.getLogger(__name__)


class SoundDecoder(Protocol):
    """One stream's decoder: mono, 16 bit."""

    @property
    def rate_hz(self) -> int:
        """Of what was decoded last."""

    def decode(self, payload: bytes) -> bytes:
        """Give the sound of a packet; nothing when it has none."""

    def conceal(self, samples: int) -> bytes:
        """Make up what a missing packet may have held."""

    def recover(self, following: bytes, samples: int) -> bytes:
        """Take a missing packet's sound from the one after it, else make it up."""


class LibOpus:
    """A decoder of libopus. :param library: what `find_libopus` found."""

    rate_hz = SAMPLE_RATE

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        error = ctypes.c_int()
        self._state = ctypes.c_void_p(
            library.opus_decoder_create(SAMPLE_RATE, 1, ctypes.byref(error))
        )
        if not self._state:
            raise MemoryError(f"libopus made no decoder: {error.value}")
        self._pcm = ctypes.create_string_buffer(2 * _MOST_SAMPLES)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._library.opus_decoder_destroy(self._state)

    def decode(self, payload: bytes) -> bytes:
        """Give the sound of a packet; nothing when it has none."""
        return self._run(payload, _MOST_SAMPLES, 0) if payload else b""

    def conceal(self, samples: int) -> bytes:
        """Make up what a missing packet may have held."""
        return self._run(None, samples, 0)

    def recover(self, following: bytes, samples: int) -> bytes:
        """Take a missing packet's sound from the one after it, else make it up."""
        return (self._run(following, samples, 1) if following else b"") or self.conceal(samples)

    def _run(self, payload: bytes | None, samples: int, fec: int) -> bytes:
        size = len(payload) if payload else 0
        # Made-up sound comes in steps of 2.5 ms, and at most as much as there is room for.
        samples = max(120, min(samples, _MOST_SAMPLES) // 120 * 120)
        got = self._library.opus_decode(self._state, payload, size, self._pcm, samples, fec)
        return ctypes.string_at(self._pcm, 2 * got) if got > 0 else b""


@functools.cache
def find_libopus() -> ctypes.CDLL | None:
    """Load libopus: PyAV's copy, then the system's by its usual names, then what the linker knows."""
    for name in _places():
        try:
            library = ctypes.CDLL(name)
            create, decode, destroy = (
                library.opus_decoder_create,
                library.opus_decode,
                library.opus_decoder_destroy,
            )
        except (OSError, AttributeError):
            continue
        create.restype = ctypes.c_void_p
        create.argtypes = (ctypes.c_int32, ctypes.c_int, ctypes.c_void_p)
        decode.restype = ctypes.c_int
        decode.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
        )
        destroy.restype, destroy.argtypes = None, (ctypes.c_void_p,)
        _log.debug("libopus is %s", name)
        return library
    return None


def _places() -> Iterator[str]:
    found = importlib.util.find_spec("av")
    for package in map(Path, (found.submodule_search_locations if found else None) or ()):
        # Where the tools that repair wheels put libraries: Linux and Windows, macOS.
        for folder in (package.with_name("av.libs"), package / ".dylibs"):
            yield from map(str, sorted(folder.glob("*opus*")))
    yield from _NAMES
    known = ctypes.util.find_library("opus")
    if known:
        yield known
