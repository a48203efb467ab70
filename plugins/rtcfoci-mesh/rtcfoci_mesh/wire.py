"""The signals of a mesh pair: what members tell each other to set up and change their connection.

In: their shape, reading from hostile JSON, writing, and what a session description must look like
before an engine sees it. Out: when they are sent (`signalling`), and the envelope around them, which
is the call's: message ids, expiry and the check of the sender.

Every signal names the sender's `instance` (one connection object's life), the `attempt` it belongs to
(`<offerer's instance>.<number>`, empty where there is none) and a sequence number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias, cast

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import Problem, RemoteProtocolError
from rtcfoci.media.frames import Kind

__all__ = [
    "MAX_LINES",
    "MAX_SDP_BYTES",
    "MAX_TRACKS",
    "Answer",
    "Lines",
    "Offer",
    "Signal",
    "TrackInfo",
    "Want",
    "check_sdp",
    "read_signal",
    "write_signal",
]

MAX_SDP_BYTES = 40 * 1024
"""Encrypted, in base64 and with its envelope, below Synapse's 64 KiB for a to-device message."""
MAX_TRACKS = 8
"""Tracks of one kind of one member."""
MAX_LINES = 2 * MAX_TRACKS + 1
"""Media sections of one connection: tracks of both sides share them, and one carries data."""
_MAX_CANDIDATES = 64
"""Different ones: every one is an address at which we knock. Each media section repeats them."""
_LEAST_MESSAGE_BYTES = 64 * 1024
_MAX_WORD = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackInfo:
    """Which of the sender's tracks a media section carries."""

    mid: str
    kind: Kind
    source: str
    name: str
    muted: bool


@dataclass(frozen=True, slots=True)
class Lines:
    """How many media sections of each kind."""

    audio: int = 0
    video: int = 0

    def covers(self, other: Lines) -> bool:
        """Whether there are enough for `other`."""
        return self.audio >= other.audio and self.video >= other.video

    def __or__(self, other: Lines) -> Lines:
        return Lines(max(self.audio, other.audio), max(self.video, other.video))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The offerer's description, candidates included."""

    instance: str
    attempt: str
    seq: int
    sdp: str
    tracks: tuple[TrackInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answerer's description in reply to the offer with the same sequence number."""

    instance: str
    attempt: str
    seq: int
    sdp: str
    tracks: tuple[TrackInfo, ...]
    need: Lines
    """The media sections the answerer needs; where there are too few it is offered more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """The answerer asks for an offer: for other tracks, or on a new connection (`rebuild`)."""

    instance: str
    attempt: str
    seq: int
    need: Lines
    rebuild: bool


Signal: TypeAlias = Offer | Answer | Want
_KINDS: dict[str, type[Offer] | type[Answer] | type[Want]] = {
    "offer": Offer,
    "answer": Answer,
    "want": Want,
}


def write_signal(signal: Signal) -> JsonObject:
    """Write a signal as the payload of the call's envelope."""
    payload: dict[str, object] = asdict(signal)
    payload["kind"] = type(signal).__name__.lower()
    if not isinstance(signal, Want):
        payload["tracks"] = [{**asdict(t), "kind": t.kind.value} for t in signal.tracks]
    return payload


class _Reader:
    """Reads fields of a JSON object and collects what is wrong with them."""

    def __init__(self, source: object, where: str, problems: list[Problem]) -> None:
        self.problems = problems
        self._where = where
        self._source: JsonObject = {}
        if isinstance(source, dict):
            self._source = cast("JsonObject", source)
        else:
            self._wrong("", "is not an object")

    def _wrong(self, key: str, what: str) -> None:
        name = f"{self._where}.{key}" if key else self._where
        self.problems.append(Problem("bad_field", f"{name} {what}"))

    def get(self, key: str) -> object:
        return self._source.get(key)

    def text(self, key: str, *, most: int = _MAX_WORD) -> str:
        value = self._source.get(key)
        if isinstance(value, str) and len(value) <= most:
            return value
        self._wrong(key, f"is not a string of at most {most} characters")
        return ""

    def number(self, key: str, *, most: int) -> int:
        value = self._source.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        self._wrong(key, f"is not a number from 0 to {most}")
        return 0

    def flag(self, key: str) -> bool:
        value = self._source.get(key)
        if isinstance(value, bool):
            return value
        self._wrong(key, "is not true or false")
        return False

    def lines(self, key: str) -> Lines:
        inner = _Reader(self._source.get(key), key, self.problems)
        return Lines(inner.number("audio", most=MAX_TRACKS), inner.number("video", most=MAX_TRACKS))

    def tracks(self) -> tuple[TrackInfo, ...]:
        value = self._source.get("tracks")
        if not isinstance(value, list) or len(value) > 2 * MAX_TRACKS:
            self._wrong("tracks", f"is not a list of at most {2 * MAX_TRACKS}")
            return ()
        found = tuple(
            _track(_Reader(item, f"tracks[{i}]", self.problems)) for i, item in enumerate(value)
        )
        for what, count in (
            ("mid", len({t.mid for t in found})),
            ("source and name", len({(t.source, t.name) for t in found})),
        ):
            if count < len(found):
                self._wrong("tracks", f"has two with the same {what}")
        return found


def _track(reader: _Reader) -> TrackInfo:
    kind = reader.text("kind")
    if kind not in ("audio", "video"):
        reader.problems.append(Problem("bad_field", "a track is neither audio nor video"))
    return TrackInfo(
        mid=reader.text("mid", most=32),
        kind=Kind.VIDEO if kind == "video" else Kind.AUDIO,
        source=reader.text("source"),
        name=reader.text("name"),
        muted=reader.flag("muted"),
    )


def read_signal(payload: object) -> Signal:
    """Read what a member sent. :raises RemoteProtocolError: with everything that is wrong."""
    problems: list[Problem] = []
    reader = _Reader(payload, "signal", problems)
    kind = _KINDS.get(reader.text("kind"))
    instance, attempt = reader.text("instance", most=64), reader.text("attempt", most=96)
    seq = reader.number("seq", most=2**31)
    signal: Signal | None = None
    if not instance or "." in instance:
        problems.append(Problem("bad_field", "signal.instance is empty or has a dot"))
    if kind is Want:
        signal = Want(
            instance=instance,
            attempt=attempt,
            seq=seq,
            need=reader.lines("need"),
            rebuild=reader.flag("rebuild"),
        )
    elif kind is not None:
        sdp = reader.text("sdp", most=MAX_SDP_BYTES)
        tracks = reader.tracks()
        problems.extend(check_sdp(sdp))
        if kind is Answer:
            signal = Answer(
                instance=instance,
                attempt=attempt,
                seq=seq,
                sdp=sdp,
                tracks=tracks,
                need=reader.lines("need"),
            )
        else:
            signal = Offer(instance=instance, attempt=attempt, seq=seq, sdp=sdp, tracks=tracks)
            number = attempt.removeprefix(instance + ".")
            if not (number.isascii() and number.isdigit() and len(number) < 10):
                problems.append(Problem("bad_field", "signal.attempt is not the sender's own"))
    else:
        problems.append(Problem("bad_field", "signal.kind is unknown"))
    if problems or signal is None:
        raise RemoteProtocolError("A member's mesh signal cannot be used.", problems[:20])
    return signal


def check_sdp(sdp: str) -> list[Problem]:
    """Say what keeps a remote description away from the engine."""
    problems: list[Problem] = []
    lines = sdp.splitlines()
    media = [line.partition(" ")[0] for line in lines if line.startswith("m=")]

    def require(passed: bool, message: str) -> None:
        if not passed:
            problems.append(Problem("bad_sdp", message))

    require(bool(lines) and lines[0] == "v=0", "the description does not start with v=0")
    require(0 < len(media) <= MAX_LINES, f"the description has {len(media)} media sections")
    require(
        set(media) <= {"m=audio", "m=video", "m=application"},
        "the description has media other than audio, video and data",
    )
    require(media.count("m=application") == 1, "the description has not exactly one data section")
    candidates = {line for line in lines if line.startswith("a=candidate:")}
    require(len(candidates) <= _MAX_CANDIDATES, "the description has too many candidates")
    limits = (line.partition(":")[2] for line in lines if line.startswith("a=max-message-size:"))
    require(
        all(_takes_whole_messages(limit) for limit in limits),
        f"the description takes no data messages of {_LEAST_MESSAGE_BYTES} bytes",
    )
    require("a=fingerprint:sha-" in sdp, "the description has no certificate fingerprint")
    return problems


def _takes_whole_messages(limit: str) -> bool:
    digits = limit.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return False
    return int(digits) == 0 or int(digits) >= _LEAST_MESSAGE_BYTES  # 0: no limit
