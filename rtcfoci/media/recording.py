"""Recordings: one Matroska file for one participant's sound and picture, on the call clock.

In: the writer, which keeps every frame at its place, and the recorder, which feeds it from live
tracks on a thread of its own. Out: judging what was recorded (`verdict`), showing it (`pictures`).

Both streams are declared before the first cluster, as Matroska demands; tracks may come later, stop
and return. Sound is Opus, 48 kHz mono; its gaps are filled with silence. Pictures are VP8 of the
first one's size; while none comes the last is repeated twice a second, or black before the first,
for FFmpeg holds all sound back until a VP8 stream goes on. So a process that is killed loses no more
than about a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.errors import MediaError
from rtcfoci.media.convert import AudioConverter, as_media_error, scaled, to_av_audio, to_av_video
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pacing import NS
from rtcfoci.media.tracks import FrameStream

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

__all__ = ["MatroskaWriter", "Recorder"]

_HEADER_WAIT_NS = NS // 2
"""How long the header waits for the first picture, whose size it needs."""
_DEFAULT_SIZE = (640, 360)
_SLACK_NS = 60_000_000
"""How far sound may be from its place before silence is put in or a frame left out."""
_FILL_BEHIND_NS = NS
"""Sound that is later than this is not waited for."""
_HOLD_MS = 500
"""Pictures further apart than this are joined by repeating the first."""
_HOLD_BEHIND_MS = 300
"""How far behind now repeats are put: a picture that is later than this gives way to them."""
_FRAME_BYTES = SAMPLE_RATE * FRAME_MS // 1000 * 2
_CONTAINER_OPTIONS = {
    "flush_packets": "1",
    "cluster_time_limit": "250",
    # Missing sound must not hold pictures back.
    "max_interleave_delta": "200000",
}
_VP8_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "18"}
_QUEUE_BYTES = 64 << 20
_QUEUE_FRAMES = 1000
_TURN_S = 0.25


class MatroskaWriter:
    """Writes frames into a file, each at its place after the epoch. One thread at a time.

    :param epoch_ns: the call clock at the file's time 0; frames before it are left out.
    :param kinds: which streams the file has.
    :raises MediaError: in every method, when encoding or writing fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        epoch_ns: int,
        kinds: Collection[Kind] = (Kind.AUDIO, Kind.VIDEO),
    ) -> None:
        self.path = path
        self._epoch_ns = epoch_ns
        self._kinds = frozenset(kinds)
        self._container: OutputContainer | None = None
        self._audio: AudioStream | None = None
        self._video: VideoStream | None = None
        self._waiting: list[Frame] = []  # until the header can be written
        self._converter = AudioConverter()
        self._pcm = bytearray()
        """Sound that is not a whole Opus frame yet; it begins at `_encoded`."""
        self._encoded: int | None = None
        """Samples after the epoch up to which sound is encoded; None before the first."""
        self._video_ms = -1
        """Where the last picture went."""
        self._held: VideoFrame | None = None
        """The last picture."""

    def write(self, frame: Frame) -> None:
        """Put a frame at its place."""
        kind = Kind.AUDIO if isinstance(frame, AudioFrame) else Kind.VIDEO
        if kind not in self._kinds or frame.timestamp_ns < self._epoch_ns:
            return
        if self._container is not None:
            with _explained(self.path):
                self._put(frame)
            return
        self._waiting.append(frame)
        late = frame.timestamp_ns - self._waiting[0].timestamp_ns > _HEADER_WAIT_NS
        if late or kind is Kind.VIDEO or Kind.VIDEO not in self._kinds:
            self._open()

    def keep_up(self, now_ns: int) -> None:
        """Do what need not wait any longer: write the header, fill in for missing sound."""
        if self._container is None:
            if self._waiting and now_ns - self._waiting[0].timestamp_ns > _HEADER_WAIT_NS:
                self._open()
            return
        with _explained(self.path):
            if self._encoded is not None:
                missing = self._place(now_ns - _FILL_BEHIND_NS) - self._end
                if missing > 0:
                    self._append(bytes(2 * missing))
            if self._video is not None:
                now_ms = (now_ns - self._epoch_ns) // 1_000_000
                if now_ms - self._video_ms > _HOLD_MS:
                    self._encode_picture(self._held or self._black(), now_ms - _HOLD_BEHIND_MS)

    def close(self) -> None:
        """Finish the file; idempotent. Without any frame there is none."""
        if self._waiting:
            self._open()
        if self._container is None:
            return
        container, audio, video = self._container, self._audio, self._video
        with _explained(self.path):
            try:
                if audio is not None and self._encoded is not None:
                    for part in self._converter.flush():
                        self._put_audio(part)
                    self._append(bytes(-len(self._pcm) % _FRAME_BYTES))
                    container.mux(audio.encode(None))
                if video is not None and self._video_ms >= 0:
                    container.mux(video.encode(None))
            finally:
                self._container = None
                container.close()

    def _open(self) -> None:
        import av

        waiting, self._waiting = self._waiting, []
        pictures = (f for f in waiting if isinstance(f, VideoFrame))
        picture = next(pictures, None)
        with _explained(self.path):
            container = av.open(str(self.path), "w", format="matroska", options=_CONTAINER_OPTIONS)
            self._container = container
            if Kind.AUDIO in self._kinds:
                self._audio = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
                self._audio.bit_rate = 64_000
            if Kind.VIDEO in self._kinds:
                video = container.add_stream("libvpx", rate=30, options=_VP8_OPTIONS)
                video.width, video.height = (
                    (picture.width, picture.height) if picture else _DEFAULT_SIZE
                )
                video.pix_fmt = "yuv420p"
                video.bit_rate = max(400_000, video.width * video.height * 5)
                video.gop_size = 60
                video.codec_context.time_base = Fraction(1, 1000)
                # More threads wait for each other: on a busy machine 100 ms a picture, not 2.
                video.codec_context.thread_count = 1
                self._video = video
            container.start_encoding()
            for frame in waiting:
                self._put(frame)

    def _put(self, frame: Frame) -> None:
        if isinstance(frame, AudioFrame):
            for part in self._converter.convert(frame):
                self._put_audio(part)
        else:
            self._put_video(frame)

    def _put_audio(self, frame: AudioFrame) -> None:
        place = self._place(frame.timestamp_ns)
        if self._encoded is None:
            self._encoded = place
        gap = place - self._end
        slack = SAMPLE_RATE * _SLACK_NS // NS
        if gap < -slack:
            return  # what is there already stays
        if gap > slack:
            self._append(bytes(2 * gap))
        self._append(frame.pcm)

    def _append(self, pcm: bytes) -> None:
        assert self._container is not None
        assert self._audio is not None
        assert self._encoded is not None
        self._pcm += pcm
        whole = len(self._pcm) // _FRAME_BYTES * _FRAME_BYTES
        for start in range(0, whole, _FRAME_BYTES):
            part = AudioFrame(pcm=bytes(self._pcm[start : start + _FRAME_BYTES]), timestamp_ns=0)
            frame = to_av_audio(part)
            frame.pts = self._encoded
            self._encoded += part.samples
            self._container.mux(self._audio.encode(frame))
        del self._pcm[:whole]

    def _put_video(self, frame: VideoFrame) -> None:
        assert self._video is not None
        place_ms = (frame.timestamp_ns - self._epoch_ns) // 1_000_000
        if place_ms > self._video_ms:
            self._held = scaled(frame, self._video.width, self._video.height)
            self._encode_picture(self._held, place_ms)

    def _encode_picture(self, frame: VideoFrame, place_ms: int) -> None:
        assert self._container is not None
        assert self._video is not None
        self._video_ms = place_ms
        picture = to_av_video(frame)
        picture.time_base = Fraction(1, 1000)
        picture.pts = place_ms
        self._container.mux(self._video.encode(picture))

    def _black(self) -> VideoFrame:
        assert self._video is not None
        width, height = self._video.width, self._video.height
        data = bytes([16]) * (width * height) + bytes([128]) * (width * height // 2)
        return VideoFrame(data=data, width=width, height=height, timestamp_ns=0)

    def _place(self, timestamp_ns: int) -> int:
        return (timestamp_ns - self._epoch_ns) * SAMPLE_RATE // NS

    @property
    def _end(self) -> int:
        return (self._encoded or 0) + len(self._pcm) // 2


class Recorder:
    """Records live tracks into one file while the call goes on.

    Encoding and writing happen on a thread of its own: a slow disk costs frames, which are counted,
    and never stalls the call.

    :param path: the file; replaced if it exists.
    :param epoch_ns: the call clock at the file's time 0; give all recordings of a call the same.
    :param on_error: called once, on the recorder's thread, when it cannot go on.
    """

    def __init__(
        self,
        path: Path,
        *,
        epoch_ns: int,
        kinds: Collection[Kind] = (Kind.AUDIO, Kind.VIDEO),
        on_error: Callable[[MediaError], None] | None = None,
    ) -> None:
        self.path = path
        self.error: MediaError | None = None
        """Why it stopped before it was closed, if it did."""
        self.dropped: int = 0
        """Frames that came faster than they could be written."""
        self._on_error = on_error
        self._writer = MatroskaWriter(path, epoch_ns=epoch_ns, kinds=kinds)
        self._changed = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._closing = False
        self._tracks: dict[Kind, FrameStream] = {}
        self._stops: dict[Kind, Callable[[], None]] = {}
        self._thread = threading.Thread(target=self._work, name="rtcfoci Recorder", daemon=True)
        self._thread.start()

    def add(self, track: FrameStream) -> bool:
        """Record this track from now on, until it ends or is removed.

        :returns: False when another track of its kind is being recorded: that one goes on.
        """
        kind = track.kind
        with self._changed:
            if kind in self._tracks or self._closing:
                return self._tracks.get(kind) is track
            self._tracks[kind] = track

        def take(frame: Frame | None) -> None:
            if frame is not None:
                self._take(frame)
            else:
                self.remove(track)

        stop = track.consume(take)
        with self._changed:
            if self._tracks.get(kind) is track:
                self._stops[kind] = stop
                return True
        stop()  # it ended, or the recorder was closed, meanwhile
        return True

    def remove(self, track: FrameStream) -> None:
        """Record the track no longer; it, or another of its kind, may follow."""
        with self._changed:
            if self._tracks.get(track.kind) is not track:
                return
            del self._tracks[track.kind]
            stop = self._stops.pop(track.kind, None)
        if stop is not None:
            stop()

    async def aclose(self) -> None:
        """Write what is queued and finish the file; idempotent. A failure is in `error`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        for track in tuple(self._tracks.values()):
            self.remove(track)
        await asyncio.to_thread(self._thread.join)

    def _take(self, frame: Frame) -> None:
        size = _size(frame)
        with self._changed:
            full = len(self._queue) >= _QUEUE_FRAMES or self._queued_bytes + size > _QUEUE_BYTES
            if full or self._closing or self.error is not None:
                self.dropped += 1
                return
            self._queue.append(frame)
            self._queued_bytes += size
            self._changed.notify()

    def _work(self) -> None:
        try:
            try:
                while self._turn():
                    pass
            finally:
                self._writer.close()
        except Exception as error:  # the thread ends here: nobody else could be told
            failed = as_media_error(error, f"the recording {self.path} stopped")
            with self._changed:
                self.error = failed
                self._queue.clear()
            if self._on_error is not None:
                self._on_error(failed)

    def _turn(self) -> bool:
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(_TURN_S)
            frame = self._queue.popleft() if self._queue else None
            closing = self._closing
            # What is queued is not missing, however long it has waited.
            now_ns = self._queue[0].timestamp_ns if self._queue else time.monotonic_ns()
            if frame is not None:
                self._queued_bytes -= _size(frame)
        if frame is not None:
            self._writer.write(frame)
        elif closing:
            return False
        self._writer.keep_up(now_ns)
        return True


def _size(frame: Frame) -> int:
    return len(frame.pcm if isinstance(frame, AudioFrame) else frame.data)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what PyAV and the system raise into a `MediaError`."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"the recording {path} cannot be written",
            why=str(error),
            do="check that the folder exists, can be written and has room",
        ) from error
