"""Pictures that a member sends, in order and without a hole, from a key picture on.

In: the way of a packet of video to the hub. Out: packets into pictures (`assembly`), sound (`hearing`).

Pictures are decoded on the media loop's threads, one at a time for each track, so that they leave in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import av
from aiortc.codecs import depayload, get_decoder
from aiortc.jitterbuffer import JitterFrame

from rtcfoci.media.convert import from_av_video
from rtcfoci.media.frames import Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub
from rtcfoci_mesh.assembly import Assembly, Part, Picture, Requests
from rtcfoci_mesh.engine import SessionEvents
from rtcfoci_mesh.incoming import NS, CallClock, MediaTime

if TYPE_CHECKING:
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters
    from aiortc.rtp import RtpPacket

__all__ = ["MOST_WAITING", "PictureIntake", "video_frame"]

_MOST_PIXELS = 4096 * 2304
"""A member chooses the size of its pictures, and readers keep dozens of them."""
MOST_WAITING = 15
_MOST_WAITING_BYTES = 4 << 20
"""Encoded pictures that wait for the decoder; beyond it the sender sends more than we can decode."""
_log = logging.getLogger(__name__)


class PictureIntake:
    """Pictures on their way in: in order and without a hole, from a key picture on."""

    def __init__(self, mid: str, events_of: Callable[[], SessionEvents | None]) -> None:
        self._mid = mid
        self._events_of = events_of
        self._stream: _PictureStream | None = None

    def take(self, packet: RtpPacket, codec: RTCRtpCodecParameters) -> Requests | None:
        """Take a packet, and say what to ask the sender for."""
        events = self._events_of()
        if events is None:
            return None
        if packet.marker:
            events.received(self._mid)
        hub = events.sink(self._mid, Kind.VIDEO)
        if hub is None or not hub.wanted:
            self.close()
            return None
        stream = self._stream
        if stream is None or (packet.ssrc, codec) != (stream.ssrc, stream.codec):
            self.close()
            stream = self._stream = _PictureStream(packet.ssrc, codec, events)
        stream.hub = hub
        return stream.take(packet)

    def close(self) -> None:
        """Forget the stream."""
        if self._stream is not None:
            self._stream.hub = None
        self._stream = None


class _PictureStream:
    """What a member sends under one name and in one codec."""

    def __init__(self, ssrc: int, codec: RTCRtpCodecParameters, events: SessionEvents) -> None:
        self.ssrc = ssrc
        self.codec = codec
        self._events = events
        self.hub: FrameHub | None = None
        """Who reads it; None after the end."""
        self._assembly = Assembly()
        self._clock = CallClock()
        self._time = MediaTime(codec.clockRate)
        self._decoder = get_decoder(codec)
        self._waiting: deque[JitterFrame] = deque()
        self._decoding = False
        self._handed = 0
        """Pictures that the thread gave to the hub."""

    def take(self, packet: RtpPacket) -> Requests:
        """Take a packet, and say what to ask the sender for."""
        now_ns = time.monotonic_ns()
        try:
            payload = depayload(self.codec, packet.payload) if packet.payload else b""
        except ValueError:
            payload = b""
        part = Part(
            number=packet.sequence_number,
            timestamp=packet.timestamp,
            last=bool(packet.marker),
            key=_begins_key_picture(packet.payload, payload),
            payload=payload,
            arrival_ns=now_ns,
        )
        for picture in self._assembly.put(part, now_ns / NS):
            self._enqueue(picture)
        return self._assembly.requests(now_ns / NS)

    def _enqueue(self, picture: Picture) -> None:
        """Have a picture decoded in its turn."""
        media_ns = self._time.ns(picture.timestamp)
        timestamp_ns = self._clock.map(media_ns, picture.arrival_ns)
        if not picture.data or (picture.key and _pixels(picture.data) > _MOST_PIXELS):
            self._assembly.lose()  # to a decoder, nothing would be the end of the stream
            return
        self._waiting.append(JitterFrame(picture.data, timestamp_ns))
        if (
            len(self._waiting) > MOST_WAITING
            or sum(len(frame.data) for frame in self._waiting) > _MOST_WAITING_BYTES
        ):
            self._waiting.clear()
            self._assembly.lose()
        elif not self._decoding:
            self._start()

    def _start(self) -> None:
        self._decoding = True
        work = asyncio.get_running_loop().run_in_executor(None, self._decode)
        work.add_done_callback(self._decoded)

    def _decode(self) -> bool:
        """Decode what waits, on a thread. False: the rest is of no use."""
        while self._waiting and (hub := self.hub) is not None:
            try:
                coded = self._waiting.popleft()
            except IndexError:  # cleared meanwhile
                break
            try:
                decoded = self._decoder.decode(coded)
            except (av.FFmpegError, ValueError, MemoryError) as error:
                _log.debug("a picture cannot be decoded: %r", error)
                return False
            for frame in decoded:
                picture = video_frame(cast("av.VideoFrame", frame), frame.pts or 0)
                if picture is not None:
                    self._handed += 1
                    hub.push(picture)
        return True

    def _decoded(self, work: asyncio.Future[bool]) -> None:
        self._decoding = False
        handed, self._handed = self._handed, 0
        for _ in range(handed):
            self._events.handed()
        if work.cancelled() or work.exception() is not None or not work.result():
            self._waiting.clear()
            self._assembly.lose()
        elif self._waiting and self.hub is not None:
            self._start()


def _begins_key_picture(packet: bytes, payload: bytes) -> bool:
    """Whether a VP8 packet begins a key picture (RFC 7741, 4.2 and 4.3)."""
    return bool(packet and payload) and packet[0] & 0x17 == 0x10 and not payload[0] & 1


def _pixels(data: bytes) -> int:
    """How large a VP8 key picture is (RFC 6386, 9.1)."""
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width * height


def video_frame(frame: av.VideoFrame, timestamp_ns: int) -> VideoFrame | None:
    """Give I420 with even sides; None for a picture too small to have them, or too large to keep."""
    if min(frame.width, frame.height) < 2 or frame.width * frame.height > _MOST_PIXELS:
        return None
    return from_av_video(frame, timestamp_ns)
