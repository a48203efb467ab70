"""Sources that decode: media files, and this machine's microphone and camera.

In: decoding on the source's thread, each frame at its time. Out: recording (`recording`), playing
(`sinks`).
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import AudioConverter, from_av_audio, from_av_video
from rtcfoci.media.frames import SAMPLE_RATE, AudioFrame, Frame, Kind
from rtcfoci.media.pacing import MAX_LATE_NS, NS
from rtcfoci.media.sources import LocalSource

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["DeviceSource", "FileSource", "probe_file"]

_AHEAD_NS = NS // 2
"""Files whose sound and picture are muxed further apart than this play unevenly."""
_LEAST_SPACING_NS = 8_000_000
_MAX_DAMAGED = 100
_DEVICES = {
    ("linux", Kind.AUDIO): ("alsa", "default"),
    ("linux", Kind.VIDEO): ("v4l2", "/dev/video0"),
    ("darwin", Kind.AUDIO): ("avfoundation", ":default"),
    ("darwin", Kind.VIDEO): ("avfoundation", "default:none"),
}

_Decoded: TypeAlias = tuple[int, int, Frame]


class FileSource(LocalSource):
    """Plays a media file: its first sound and its first picture stream.

    :param loop: begin again at the end, instead of ending.
    :raises MediaError: when it is missing, unreadable, or has nothing that can be decoded.
    """

    def __init__(self, path: Path, *, loop: bool = False) -> None:
        super().__init__(*probe_file(path))
        self.path = path
        self._loop = loop

    def _run(self) -> None:
        start_ns = time.monotonic_ns()
        while True:
            with _opened(str(self.path), what=f"the file {self.path}") as container:
                end_ns = self._play(container, start_ns)
            if not self._loop or end_ns is None:
                return
            start_ns = max(end_ns, start_ns + NS // 10)  # the shortest loop: no spinning

    def _play(self, container: InputContainer, start_ns: int) -> int | None:
        """Play it once; give when it ended, on the call clock, or None when told to stop."""
        late_ns = emitted_ns = end_ns = 0
        for media_ns, length_ns, frame in _ordered(container, frozenset(self.hubs)):
            due_ns = start_ns + media_ns + late_ns
            now_ns = time.monotonic_ns()
            if now_ns - due_ns > MAX_LATE_NS:  # stalled: go on from here, skip nothing
                late_ns += now_ns - due_ns
                due_ns = now_ns
            spaced_ns = emitted_ns + _LEAST_SPACING_NS if now_ns > due_ns else due_ns
            if not self._wait_until(max(due_ns, spaced_ns)):
                return None
            emitted_ns = time.monotonic_ns()
            end_ns = max(end_ns, due_ns + length_ns)
            self.hubs[_kind(frame)].push(replace(frame, timestamp_ns=due_ns))
        return end_ns or time.monotonic_ns()


class DeviceSource(LocalSource):
    """A microphone or a camera, through what FFmpeg knows of this platform.

    :param name: FFmpeg's name of the device; by default the platform's first.
    :param driver: FFmpeg's name of the input driver; by default the platform's.
    """

    def __init__(self, kind: Kind, *, name: str = "", driver: str = "") -> None:
        super().__init__(kind)
        self._kind = kind
        usual = _DEVICES.get((sys.platform, kind))
        if usual is None and not (name and driver):
            raise MediaError(
                f"no {_word(kind)} can be opened on {sys.platform}",
                why="its devices have no usual names",
                do="name the driver and the device as FFmpeg does, or use file: instead",
            )
        self.driver: str = driver or (usual or ("", ""))[0]
        self.name: str = name or (usual or ("", ""))[1]

    def check(self) -> None:
        """Open it for a moment. :raises MediaError: when that fails."""
        with self._opened():
            pass

    def _opened(self) -> AbstractContextManager[InputContainer]:
        return _opened(
            self.name,
            self.driver,
            what=f"the {_word(self._kind)} {self.name}",
            do="check that it is connected, that no other program holds it and that this user may "
            "open it, or use file: or silence instead",
        )

    def _run(self) -> None:
        base_ns: int | None = None
        with self._opened() as container:
            for media_ns, _, frame in _decoded(container, frozenset({self._kind})):
                now_ns = time.monotonic_ns()
                # Devices have clocks of their own: follow them while they agree with ours.
                if base_ns is None or abs(base_ns + media_ns - now_ns) > MAX_LATE_NS // 2:
                    base_ns = now_ns - media_ns
                if self._stopping.is_set():
                    return
                self.hubs[self._kind].push(replace(frame, timestamp_ns=base_ns + media_ns))
        raise MediaError(
            f"the {_word(self._kind)} {self.name} gives no more",
            why="it ended by itself: most likely it was unplugged, or another program took it",
            do="connect it again, and publish it anew",
        )


def probe_file(path: Path) -> tuple[Kind, ...]:
    """Say what a file has, having decoded a frame of each.

    :raises MediaError: when it is missing, unreadable, or has nothing that can be decoded.
    """
    what = f"the file {path}"
    if not path.is_file():
        raise MediaError(
            f"{what} cannot be played",
            why="it is a folder" if path.is_dir() else "there is no such file",
            do="check the path",
        )
    found: set[Kind] = set()
    with _opened(str(path), what=what) as container:
        there = _kinds(container)
        with contextlib.suppress(MediaError):  # what was found until then is there
            for _, _, frame in _decoded(container, there):
                found.add(_kind(frame))
                if found == there:
                    break
    if not found:
        raise MediaError(
            f"{what} cannot be played",
            why="none of its sound or pictures can be decoded"
            if there
            else "it has neither sound nor pictures",
            do="convert it, for example: ffmpeg -i FILE -c:a libopus -c:v libvpx out.mkv",
        )
    return tuple(kind for kind in Kind if kind in found)


def _ordered(container: InputContainer, kinds: frozenset[Kind]) -> Iterator[_Decoded]:
    """Bring sound and pictures into the order of their times, reading a little ahead."""
    heap: list[tuple[int, int, int, Frame]] = []
    newest_ns = 0
    failed: MediaError | None = None
    try:
        for count, (media_ns, length_ns, frame) in enumerate(_decoded(container, kinds)):
            heapq.heappush(heap, (media_ns, count, length_ns, frame))
            newest_ns = max(newest_ns, media_ns)
            while heap and heap[0][0] <= newest_ns - _AHEAD_NS:
                media_ns, _, length_ns, frame = heapq.heappop(heap)
                yield media_ns, length_ns, frame
    except MediaError as error:
        failed = error
    while heap:  # what was sound before the damage, too
        media_ns, _, length_ns, frame = heapq.heappop(heap)
        yield media_ns, length_ns, frame
    if failed is not None:
        raise failed


def _decoded(container: InputContainer, kinds: frozenset[Kind]) -> Iterator[_Decoded]:
    """Yield (time, length, frame) as the first stream of each kind decodes; some damage is left out.

    :raises MediaError: when there is more of it.
    """
    import av
    from av.error import FFmpegError

    streams: list[AudioStream | VideoStream] = []
    if Kind.AUDIO in kinds:
        streams += container.streams.audio[:1]
    if Kind.VIDEO in kinds:
        streams += container.streams.video[:1]
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    converter = AudioConverter()
    first_ns = (container.start_time or 0) * 1000
    damaged = 0
    packets = container.demux(*streams)
    while True:
        packet = None
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            break
        except (FFmpegError, ValueError) as error:
            if packet is None:  # reading goes on behind the damage, if it can
                packets = container.demux(*streams)
            damaged += 1
            if damaged > _MAX_DAMAGED:
                raise MediaError(
                    f"{container.name} is damaged",
                    why=f"more than {_MAX_DAMAGED} of its packets cannot be read or decoded: {error}",
                    do="mend or convert it, for example: ffmpeg -i FILE -c:a libopus -c:v libvpx out.mkv",
                ) from error
            continue
        for frame in frames:
            if not isinstance(frame, (av.AudioFrame, av.VideoFrame)):
                continue
            if frame.pts is None or frame.time_base is None:
                continue
            media_ns = max(0, int(frame.pts * frame.time_base * NS) - first_ns)
            if isinstance(frame, av.VideoFrame):
                length_ns = int((frame.duration or 0) * frame.time_base * NS)
                yield media_ns, length_ns, from_av_video(frame, media_ns)
            else:
                frame.pts = None
                for part in resampler.resample(frame):
                    yield from _pieces(converter.convert(from_av_audio(part, media_ns)))
                    media_ns += part.samples * NS // SAMPLE_RATE
    yield from _pieces(converter.flush())


def _pieces(frames: list[AudioFrame]) -> Iterator[_Decoded]:
    for frame in frames:
        yield frame.timestamp_ns, frame.samples * NS // SAMPLE_RATE, frame


def _kinds(container: InputContainer) -> frozenset[Kind]:
    streams = container.streams
    found = ((Kind.AUDIO, streams.audio), (Kind.VIDEO, streams.video))
    return frozenset(kind for kind, some in found if some)


def _kind(frame: Frame) -> Kind:
    return Kind.AUDIO if isinstance(frame, AudioFrame) else Kind.VIDEO


def _word(kind: Kind) -> str:
    return "microphone" if kind is Kind.AUDIO else "camera"


@contextmanager
def _opened(
    name: str, driver: str | None = None, *, what: str, do: str = ""
) -> Iterator[InputContainer]:
    import av
    from av.error import FFmpegError

    try:
        container = av.open(name, format=driver)
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{what} cannot be opened",
            why=str(error),
            do=do or "check that it is a media file and that this user may read it",
        ) from error
    with container:
        yield container
