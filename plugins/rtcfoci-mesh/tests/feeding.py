"""What tests of sending share: a source and its feeds, listeners, a transport that keeps what it is given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import av
import numpy as np
from aiortc.codecs.vpx import vp8_depayload
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpSendParameters,
)
from meshes import member
from rtcfoci_mesh.feeds import Coded, Feed, Feeds
from rtcfoci_mesh.outgoing import Sender
from rtcfoci_mesh.picture import MOST_BPS, PictureFeed
from rtcfoci_mesh.sound import SoundFeed

from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId


def local_track(kind: Kind) -> LocalTrack:
    return LocalTrack(TrackId(member("alice"), "x", "0"), FrameHub(kind))


@dataclass
class Ear:
    """A listener that keeps what it is given."""

    rate_bps: float = MOST_BPS
    taken: list[Coded] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def take(self, coded: Coded) -> None:
        self.taken.append(coded)
        self.times_s.append(time.monotonic())

    @property
    def keys(self) -> int:
        return sum(coded.key for coded in self.taken)


@dataclass
class Troubles:
    """What was said of tracks that cannot be encoded."""

    said: list[str | None] = field(default_factory=list)

    def __call__(self, track_id: TrackId, why: str | None) -> None:
        self.said.append(why)


@dataclass
class Rig:
    """A track, its feeds, and a source at hand."""

    kind: Kind
    troubles: Troubles = field(default_factory=Troubles)
    made: list[Feed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.track = local_track(self.kind)
        self.feeds = Feeds(self._make)

    def _make(self, track: LocalTrack) -> Feed:
        make = SoundFeed if self.kind is Kind.AUDIO else PictureFeed
        self.made.append(make(track, self.troubles))
        return self.made[-1]

    def push(
        self, number: int = 0, *, level: int = 8000, width: int = 64, height: int = 48
    ) -> None:
        """Push 20 ms of a square wave, or a picture."""
        if self.kind is Kind.AUDIO:
            pcm = np.repeat([level, -level], 48).astype("<i2").tobytes() * 10
            self.track.hub.push(AudioFrame(pcm=pcm, timestamp_ns=number * 20_000_000))
        else:
            luma = bytes([40 + 7 * number % 160]) * (width * height)
            data = luma + bytes([128]) * (width * height // 2)
            stamp_ns = time.monotonic_ns()
            self.track.hub.push(
                VideoFrame(data=data, width=width, height=height, timestamp_ns=stamp_ns)
            )

    async def show(self, seconds: float, until_true: Callable[[], object] = lambda: False) -> None:
        """Push 20 pictures a second."""
        end_s, number = time.monotonic() + seconds, 0
        while time.monotonic() < end_s and not until_true():
            self.push(number)
            number += 1
            await asyncio.sleep(0.05)


def decoded(taken: list[Coded]) -> list[av.VideoFrame]:
    """Decode pictures as a receiver does that misses none."""
    decoder = av.VideoCodecContext.create("libvpx", "r")
    frames = []
    for coded in taken:
        frames += decoder.decode(av.Packet(b"".join(map(vp8_depayload, coded.payloads))))
    return frames


class Loud:
    """How loud packets of sound are, one after the other."""

    def __init__(self) -> None:
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate, self._decoder.format = 48_000, av.AudioFormat("s16")

    def __call__(self, coded: Coded) -> int:
        (payload,) = coded.payloads
        (frame,) = self._decoder.decode(av.Packet(payload))  # type: ignore[arg-type]
        return int(np.abs(frame.to_ndarray().astype(int)).max())


class Transport:
    """Keeps what it is given to send."""

    _stats_id = "transport"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.senders: list[Sender] = []
        self.gate: asyncio.Future[None] | None = None
        self.state = "connected"

    def _register_rtp_sender(self, sender: Sender, parameters: RTCRtpSendParameters) -> None:
        self.senders.append(sender)

    def _unregister_rtp_sender(self, sender: Sender) -> None:
        self.senders.remove(sender)

    async def _send_rtp(self, packet: bytes) -> None:
        if self.gate is not None:
            await self.gate
        self.sent.append(packet)


def parameters(kind: Kind, *, mid: str = "1") -> RTCRtpSendParameters:
    clock = 48_000 if kind is Kind.AUDIO else 90_000
    codecs = [RTCRtpCodecParameters(f"{kind.value}/VP8", clock, payloadType=97)]
    codecs.append(RTCRtpCodecParameters("video/rtx", clock, payloadType=98, parameters={"apt": 97}))
    return RTCRtpSendParameters(
        codecs=codecs,
        headerExtensions=[
            RTCRtpHeaderExtensionParameters(id=1, uri="urn:ietf:params:rtp-hdrext:sdes:mid"),
            RTCRtpHeaderExtensionParameters(
                id=3, uri="http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
            ),
        ][: 1 if kind is Kind.AUDIO else 2],
        muxId=mid,
        rtcp=RTCRtcpParameters(cname="name"),
    )
