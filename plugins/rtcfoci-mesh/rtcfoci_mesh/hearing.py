"""Sound that a member sends, as frames of 20 ms: what came, and what is made up for what did not.

In: the way of a packet of sound to the hub. Out: order and holes (`jitter`), Opus (`opus`), pictures
(`seeing`).

Sound is decoded where it comes in, on the media loop: handing it to a thread would take longer than that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from aiortc.codecs import get_decoder
from aiortc.jitterbuffer import JitterFrame

from rtcfoci.media.convert import AudioConverter
from rtcfoci.media.frames import FRAME_MS, SAMPLE_RATE, AudioFrame, Kind
from rtcfoci.media.tracks import FrameHub
from rtcfoci_mesh.engine import SessionEvents
from rtcfoci_mesh.incoming import NS, CallClock, MediaTime
from rtcfoci_mesh.jitter import JitterBuffer, Lost, Packet
from rtcfoci_mesh.opus import LibOpus, SoundDecoder, find_libopus

if TYPE_CHECKING:
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters
    from aiortc.rtp import RtpPacket

__all__ = ["SoundIntake", "audio_frame"]

_MOST_CONCEALED = 10
"""Frames made up in a row, 200 ms: what is made up fades, and nobody takes it for sound after that."""


class SoundIntake:
    """Sound on its way in: 20 ms frames, those that were lost made up and flagged."""

    def __init__(self, mid: str, events_of: Callable[[], SessionEvents | None]) -> None:
        self._mid = mid
        self._events_of = events_of
        self._stream: _SoundStream | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, packet: RtpPacket, codec: RTCRtpCodecParameters) -> None:
        """Take a packet."""
        events = self._events_of()
        if events is None:
            return
        events.received(self._mid)
        hub = events.sink(self._mid, Kind.AUDIO)
        if hub is None or not hub.wanted:
            self.close()
            return
        stream = self._stream
        if stream is None or (packet.ssrc, codec) != (stream.ssrc, stream.codec):
            stream = self._stream = _SoundStream(packet.ssrc, codec)
        if packet.payload:
            arrived = Packet(
                packet.sequence_number, packet.timestamp, packet.payload, time.monotonic()
            )
            self._give(stream, stream.buffer.put(arrived), hub, events)

    def close(self) -> None:
        """Forget the stream."""
        self._stream = None
        self._wait()

    def _expire(self) -> None:
        stream, events = self._stream, self._events_of()
        hub = events.sink(self._mid, Kind.AUDIO) if events is not None else None
        if stream is None or events is None or hub is None:
            self.close()
            return
        self._give(stream, stream.buffer.expire(time.monotonic()), hub, events)

    def _give(
        self,
        stream: _SoundStream,
        ordered: list[Packet | Lost],
        hub: FrameHub,
        events: SessionEvents,
    ) -> None:
        for item in ordered:
            for frame in stream.frames(item):
                events.handed(concealed=frame.concealed)
                hub.push(frame)
        self._wait()

    def _wait(self) -> None:
        due_s = self._stream.buffer.due_s if self._stream is not None else None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            delay_s = max(0.0, due_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)


class _SoundStream:
    """What a member sends under one name and in one codec."""

    def __init__(self, ssrc: int, codec: RTCRtpCodecParameters) -> None:
        self.ssrc = ssrc
        self.codec = codec
        self.buffer = JitterBuffer(codec.clockRate)
        library = find_libopus() if codec.name.lower() == "opus" else None
        self._decoder: SoundDecoder = LibOpus(library) if library else _Plain(codec)
        self._converter = AudioConverter()
        self._clock = CallClock()
        self._time = MediaTime(codec.clockRate)
        self._next_ns: int | None = None
        """Media time at which the last frame ended; None before the first."""
        self._samples = SAMPLE_RATE * FRAME_MS // 1000
        """In the last packet."""
        self._concealed = 0

    def frames(self, item: Packet | Lost) -> list[AudioFrame]:
        """Give what a packet holds, or what stands in for the lost ones."""
        if isinstance(item, Lost):
            return self._conceal(item.count, item.following.payload)
        media_ns = self._time.ns(item.timestamp)
        timestamp_ns = self._clock.map(media_ns, int(item.arrival_s * NS))
        pcm = self._decoder.decode(item.payload)
        if not pcm:
            return self._conceal(1, b"")
        self._concealed = 0
        self._samples = len(pcm) // 2
        rate_hz = self._decoder.rate_hz
        self._next_ns = media_ns + self._samples * NS // rate_hz
        # A packet need not hold 20 ms, nor be of our rate.
        return self._converter.convert(
            AudioFrame(pcm=pcm, timestamp_ns=timestamp_ns, sample_rate=rate_hz)
        )

    def _conceal(self, count: int, following: bytes) -> list[AudioFrame]:
        frames: list[AudioFrame] = []
        for left in range(count, 0, -1):
            if self._next_ns is None or self._concealed >= _MOST_CONCEALED:
                break
            self._concealed += 1
            if left == 1:
                pcm = self._decoder.recover(following, self._samples)
            else:
                pcm = self._decoder.conceal(self._samples)
            if not pcm:
                break
            rate_hz = self._decoder.rate_hz
            made = AudioFrame(
                pcm=pcm,
                timestamp_ns=self._clock.at(self._next_ns),
                sample_rate=rate_hz,
                concealed=True,
            )
            self._next_ns += len(pcm) // 2 * NS // rate_hz
            frames += self._converter.convert(made)
        return frames


class _Plain:
    """A decoder that cannot conceal: another codec's, or Opus without libopus. Silence stands in."""

    def __init__(self, codec: RTCRtpCodecParameters) -> None:
        self._decoder = get_decoder(codec)
        self.rate_hz = SAMPLE_RATE

    def decode(self, payload: bytes) -> bytes:
        """Give the sound of a packet; nothing when it has none."""
        try:
            decoded = self._decoder.decode(JitterFrame(payload, 0))
        except (av.FFmpegError, ValueError):
            return b""
        sounds = [audio_frame(cast("av.AudioFrame", frame), 0) for frame in decoded]
        for sound in sounds:
            self.rate_hz = sound.sample_rate
        return b"".join(sound.pcm for sound in sounds)

    def conceal(self, samples: int) -> bytes:
        """Give silence."""
        return bytes(2 * samples)

    def recover(self, following: bytes, samples: int) -> bytes:
        """Give silence."""
        return bytes(2 * samples)


def audio_frame(frame: av.AudioFrame, timestamp_ns: int) -> AudioFrame:
    """Give mono, s16, at the rate of the codec; aiortc's Opus decoder gives 48 kHz stereo."""
    channels = len(frame.layout.channels)
    samples = np.frombuffer(memoryview(frame.planes[0]), dtype="<i2")[: frame.samples * channels]
    if channels > 1:
        # By channels and not by samples, which would take numpy twenty times as long.
        mixed = samples[::channels].astype(np.int32)
        for channel in range(1, channels):
            mixed += samples[channel::channels]
        samples = (mixed >> 1 if channels == 2 else mixed // channels).astype("<i2")
    return AudioFrame(
        pcm=samples.tobytes(),
        timestamp_ns=timestamp_ns,
        sample_rate=frame.sample_rate or SAMPLE_RATE,
    )
