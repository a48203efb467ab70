"""The names of sources on the command line, and what is checked before a call begins.

In: reading `tone:440` and its like, the checks. Out: the sources themselves.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.frames import Kind
from rtcfoci.media.sources import LocalSource, PatternSource, SilenceSource, ToneSource

__all__ = ["SOURCES", "check_folder", "check_source", "open_source"]

SOURCES = {
    "silence": "digital silence",
    "tone[:HZ]": "a sine tone, 440 Hz unless said otherwise",
    "pattern[:ID[@WIDTHxHEIGHT[@FPS]]]": "a numbered test picture, 320x240 at 15 a second",
    "file:PATH": "a media file, its sound and its pictures",
    "loop:PATH": "a media file, over and over",
    "microphone[:NAME]": "this machine's microphone; `device` is the same",
    "camera[:NAME]": "this machine's camera",
}
"""Every form a source may have, with what it gives; the help text is made from this."""

_WORDS = ("silence", "tone", "pattern", "file", "loop", "device", "microphone", "camera")
_PATTERN = re.compile(r"(\d+)(?:@(\d+)x(\d+)(?:@(\d+))?)?", re.ASCII)


def open_source(spec: str) -> LocalSource:
    """Make the source that the word means; nothing runs before `start`.

    :raises UsageError: when it is not understood.
    :raises MediaError: when a file cannot be played.
    """
    word, _, rest = spec.partition(":")
    match word:
        case "silence" if not rest:
            return SilenceSource()
        case "tone" if not rest:
            return ToneSource(440)
        case "tone" if _is_number(rest):
            return ToneSource(int(rest))
        case "pattern" if not rest:
            return PatternSource(1)
        case "pattern" if found := _PATTERN.fullmatch(rest):
            sender_id, width, height, fps = (int(g) if g else None for g in found.groups())
            return PatternSource(
                sender_id or 0, width=width or 320, height=height or 240, fps=fps or 15
            )
        case "file" | "loop" if rest:
            from rtcfoci.media.files import FileSource

            return FileSource(Path(rest).expanduser(), loop=word == "loop")
        case "device" | "microphone" | "camera":
            from rtcfoci.media.files import DeviceSource

            return DeviceSource(Kind.VIDEO if word == "camera" else Kind.AUDIO, name=rest)
    raise _not_understood(spec, word)


def check_source(spec: str) -> None:
    """Find out before a call whether a source will work: files are decoded, devices opened.

    :raises UsageError: when it is not understood.
    :raises MediaError: when it will not work.
    """
    from rtcfoci.media.files import DeviceSource

    source = open_source(spec)
    if isinstance(source, DeviceSource):
        source.check()


def check_folder(folder: Path) -> None:
    """Find out before a call whether recordings can be written there; the folder is made if need be.

    :raises MediaError: when they cannot.
    """
    probe = folder / f".rtcfoci-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MediaError(
            f"recordings cannot be written to {folder}",
            why=f"{error.strerror or error}",
            do="choose a folder that this user may write to",
        ) from error


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6


def _not_understood(spec: str, word: str) -> UsageError:
    if word in _WORDS:
        do = "write it as " + next(form for form in SOURCES if form.startswith(word))
    elif spec and Path(spec).exists():
        do = f"for a file write file:{spec}"
    elif near := difflib.get_close_matches(word, _WORDS, 1):
        do = f"did you mean {near[0]}?"
    else:
        do = "there are: " + ", ".join(SOURCES)
    return UsageError(
        f"the source {spec!r} is not understood", why="it has none of the forms", do=do
    )
