"""The verdict on a call, from nothing but the files that its receivers recorded.

In: what one recording holds (tones, numbered pictures, gaps), and whether every sender was heard and
seen by every other participant, with the reason where not.
Out: recording (`recording`), the marks that are looked for (`signature`, `pattern`), pictures of it
all (`pictures`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.errors import MediaError
from rtcfoci.media.frames import SAMPLE_RATE, Kind, VideoFrame
from rtcfoci.media.pattern import Stamp, read
from rtcfoci.media.reading import WINDOW_S, read_pictures, read_sound
from rtcfoci.media.signature import Signature

if TYPE_CHECKING:
    from rtcfoci.media.reading import Samples

__all__ = [
    "Finding",
    "Picture",
    "RecordingFacts",
    "Sound",
    "Verdict",
    "inspect_recording",
    "judge",
]

_SILENCE_RMS = 50.0  # about -56 dBFS; codec noise stays below
_TONE_TOLERANCE_HZ = 15.0
_TONE_PURITY = 0.6  # share of a window's energy within a few bins of its strongest frequency
_GAP_S = 0.5
_LEAST_RANGE = 10  # a picture whose brightness varies less shows nothing
_RANGE_STEP = 61  # a prime, so that no column is left out for good
_LEAST_PICTURES_PER_S = 5
_LEAST_PICTURES = 10
_LEAST_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Sound:
    """One window of a recording's sound."""

    start_s: float
    hz: float | None
    """The one frequency that stands out; None for noise, mixtures and silence."""
    rms: float
    """0 to 32767."""

    @property
    def silent(self) -> bool:
        return self.rms < _SILENCE_RMS


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a recording."""

    at_s: float
    sender_id: int | None
    """None when the picture could not be read."""
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFacts:
    """What one file holds, times in seconds after its epoch."""

    path: Path
    problem: str = ""
    """Why the file cannot be read at all; empty otherwise."""
    sounds: tuple[Sound, ...] = ()
    pictures: tuple[Picture, ...] = ()
    """Repeats of the same picture, and plain ones as recorders put before the first, are left out."""

    @property
    def duration_s(self) -> float:
        """From the first sound or picture to the last."""
        starts = [s.start_s for s in self.sounds[:1]] + [p.at_s for p in self.pictures[:1]]
        ends = [s.start_s + WINDOW_S for s in self.sounds[-1:]]
        ends += [p.at_s for p in self.pictures[-1:]]
        return max(ends) - min(starts) if ends else 0.0

    @property
    def sounding_s(self) -> float:
        """Seconds of sound that is not silence."""
        return WINDOW_S * sum(not s.silent for s in self.sounds)

    def tone_s(self, hz: float) -> float:
        """Seconds in which that tone stands out."""
        return WINDOW_S * sum(
            s.hz is not None and abs(s.hz - hz) <= _TONE_TOLERANCE_HZ for s in self.sounds
        )

    def tones(self) -> dict[int, float]:
        """Share of the sounding time of each tone found, in steps of 10 Hz, most first."""
        found = Counter(round(s.hz, -1) for s in self.sounds if s.hz is not None)
        total = sum(not s.silent for s in self.sounds)
        return {int(hz): count / total for hz, count in found.most_common()}

    def senders(self) -> dict[int, int]:
        """How many different pictures of each sender could be read, most first."""
        seen = {(p.sender_id, p.number) for p in self.pictures if p.sender_id is not None}
        return dict(Counter(s for s, _ in seen if s is not None).most_common())

    @property
    def audio_gaps(self) -> tuple[tuple[float, float], ...]:
        """(start, length) of silences of half a second and more between sounds."""
        heard = [s.start_s for s in self.sounds if not s.silent]
        return tuple(_gaps(heard, WINDOW_S))

    @property
    def video_gaps(self) -> tuple[tuple[float, float], ...]:
        """(start, length) of half a second and more without a new picture."""
        return tuple(_gaps([p.at_s for p in self.pictures], 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Whether one sender's sound or picture reached one receiver."""

    receiver: str
    sender: str
    kind: Kind
    ok: bool
    text: str
    """What was found; where it is not enough, why not."""

    def __str__(self) -> str:
        return f"{self.receiver} <- {self.sender} {self.kind.value}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings; good only when every one is."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return bool(self.findings) and all(f.ok for f in self.findings)

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.ok)


def judge(
    recordings: Mapping[tuple[str, str], Path],
    expected: Mapping[str, Signature],
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    facts: Mapping[tuple[str, str], RecordingFacts] | None = None,
    least_s: float = 1.0,
) -> Verdict:
    """Judge whether every sender was heard and seen by every other participant.

    :param recordings: by (receiver, sender), the file in which that receiver recorded that sender.
    :param expected: each participant's marks.
    :param pairs: the (receiver, sender) pairs that matter; by default all ordered pairs.
    :param facts: recordings that were inspected already.
    :param least_s: how long each sender must have been heard and seen.
    """
    findings: list[Finding] = []
    for pair in permutations(expected, 2) if pairs is None else pairs:
        path = recordings.get(pair)
        found = (facts or {}).get(pair) or (inspect_recording(path) if path else None)
        for kind, look in ((Kind.AUDIO, _judge_audio), (Kind.VIDEO, _judge_video)):
            if found is None or found.problem:
                ok, text = False, found.problem if found else "nothing was recorded"
            else:
                ok, text = look(found, pair[1], expected, least_s)
            findings.append(Finding(receiver=pair[0], sender=pair[1], kind=kind, ok=ok, text=text))
    return Verdict(tuple(findings))


def _judge_audio(
    facts: RecordingFacts, sender: str, expected: Mapping[str, Signature], least_s: float
) -> tuple[bool, str]:
    hz = expected[sender].tone_hz
    if not facts.sounds:
        return False, "no sound in the file"
    if not facts.sounding_s:
        return False, "only silence"
    heard_s = facts.tone_s(hz)
    share = heard_s / facts.sounding_s
    if heard_s >= least_s and share >= _LEAST_SHARE:
        return True, f"{hz} Hz for {heard_s:.1f} s"
    strongest = next(iter(facts.tones()), None)
    others = [
        f"{strongest} Hz is the tone of {name}"
        for name, other in expected.items()
        if name != sender and strongest and abs(other.tone_hz - strongest) <= _TONE_TOLERANCE_HZ
    ]
    stands_out = others or ([f"{strongest} Hz stands out"] if strongest else ["no tone stands out"])
    if heard_s >= least_s:
        return False, f"{hz} Hz in only {share:.0%} of the sound; {stands_out[0]}"
    return False, f"{hz} Hz for only {heard_s:.1f} s; {stands_out[0]}"


def _judge_video(
    facts: RecordingFacts, sender: str, expected: Mapping[str, Signature], least_s: float
) -> tuple[bool, str]:
    sender_id = expected[sender].sender_id
    total = len(facts.pictures)
    if not total:
        return False, "no pictures in the file"
    mine = [p for p in facts.pictures if p.sender_id == sender_id]
    different = len({p.number for p in mine})
    share = len(mine) / total
    wanted = max(_LEAST_PICTURES, least_s * _LEAST_PICTURES_PER_S)
    backwards = sum(b.number < a.number for a, b in pairwise(mine))
    if different >= wanted and share >= _LEAST_SHARE and not backwards:
        return True, f"{different} pictures, {mine[0].number} to {mine[-1].number}"
    for name, other in expected.items():
        if name != sender and facts.senders().get(other.sender_id):
            return False, f"pictures of {name} instead: {facts.senders()[other.sender_id]}"
    if share < _LEAST_SHARE:
        return False, f"{total - len(mine)} of {total} pictures are not readable as this sender's"
    if backwards:
        return False, f"the picture numbers go backwards {backwards} times"
    return False, f"only {different} different pictures"


def inspect_recording(path: Path) -> RecordingFacts:
    """Find out what a file holds; a damaged end is no problem, an unreadable file is one."""
    try:
        pictures = tuple(_look(read_pictures(path)))
        sounds = tuple(_listen(start_s, window) for start_s, window in read_sound(path))
    except MediaError as error:
        return RecordingFacts(path=path, problem=f"{error.what}: {error.why}")
    return RecordingFacts(path=path, sounds=sounds, pictures=pictures)


def _look(pictures: Iterable[tuple[float, VideoFrame]]) -> Iterator[Picture]:
    before: Stamp | None = None
    for at_s, picture in pictures:
        luma = picture.data[: picture.width * picture.height : _RANGE_STEP]
        if max(luma) - min(luma) < _LEAST_RANGE:
            continue
        stamp = read(picture)
        if stamp is None:
            yield Picture(at_s, None)
        elif stamp != before:
            yield Picture(at_s, stamp.sender_id, stamp.number)
        before = stamp


def _listen(start_s: float, window: Samples) -> Sound:
    """Find the frequency that stands out: the tallest peak, when most of the energy is around it."""
    import numpy as np

    rms = float(np.sqrt(np.mean(np.square(window, dtype=np.float64))))
    if rms < _SILENCE_RMS:
        return Sound(start_s, None, rms)
    power = np.abs(np.fft.rfft(window * np.hanning(len(window)))) ** 2 + 1e-9
    peak = int(np.clip(np.argmax(power), 1, len(power) - 2))
    around = power[max(0, peak - 3) : peak + 4].sum()
    if around < _TONE_PURITY * power.sum():
        return Sound(start_s, None, rms)
    left, top, right = np.log(power[peak - 1 : peak + 2])
    shift = (left - right) / (2 * (left - 2 * top + right))
    return Sound(start_s, float((peak + shift) * SAMPLE_RATE / len(window)), rms)


def _gaps(times_s: Sequence[float], length_s: float) -> Iterator[tuple[float, float]]:
    for before, after in pairwise(times_s):
        if after - before - length_s >= _GAP_S:
            yield before + length_s, after - before - length_s
