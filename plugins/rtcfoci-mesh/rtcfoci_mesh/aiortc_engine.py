"""aiortc behind the engine protocol: the only module that knows its peer connection.

In: descriptions, media sections, data channels, figures, what aiortc leaves to its user.
Out: packets (`outgoing`, `receiving`), when to negotiate (`signalling`).

aiortc raises whatever its parsers meet, so everything from the other side is called under one guard.
It gathers, sends and receives in ways that a mesh cannot live with; these parts are replaced through
private places (`aiortc_link`, `outgoing`, `receiving`). `tests/test_private_places.py` holds them against
the pinned version, and docs/adr/ says why.
Rollback is never used: aiortc accepts it silently and breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCCertificate,
    RTCConfiguration,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)

from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci_mesh.aiortc_figures import figures
from rtcfoci_mesh.aiortc_link import Link, bound_candidates, swallow
from rtcfoci_mesh.engine import (
    Diagnosis,
    EngineError,
    LocalDescription,
    SessionEvents,
    SessionOptions,
    SessionStats,
)
from rtcfoci_mesh.feeds import Feeds, Troubled
from rtcfoci_mesh.opus import find_libopus
from rtcfoci_mesh.outgoing import Sender, equip
from rtcfoci_mesh.picture import PictureFeed
from rtcfoci_mesh.receiving import Reception
from rtcfoci_mesh.sound import SoundFeed
from rtcfoci_mesh.wire import MAX_LINES, MAX_SDP_BYTES, Lines

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

__all__ = ["AiortcEngine", "AiortcSession"]

_CLOSE_S = 5.0
_MAX_CHANNELS = 16
"""Data channels that a member may open beside the two that are agreed upon; nobody listens to them."""
_OPUS = [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.name == "opus"]
_VP8 = [c for c in RTCRtpSender.getCapabilities("video").codecs if c.name in ("VP8", "rtx")]
"""What every member can send and receive (RFC 7742), so that a picture is encoded once for all."""
_Feeds: TypeAlias = Mapping[Kind, Feeds]
_log = logging.getLogger(__name__)


class AiortcEngine:
    """Opens aiortc connections."""

    def __init__(self) -> None:
        # The first certificate loads a library: now, and not while a member waits for an offer.
        RTCCertificate.generateCertificate()
        self.conceals: bool = find_libopus() is not None
        self._troubled: Troubled = lambda track_id, why: None
        self._feeds = {
            Kind.AUDIO: Feeds(lambda track: SoundFeed(track, self._tell)),
            Kind.VIDEO: Feeds(lambda track: PictureFeed(track, self._tell)),
        }

    def watch(self, troubled: Troubled) -> None:
        """Say from now on which tracks cannot be encoded."""
        self._troubled = troubled

    def _tell(self, track_id: TrackId, why: str | None) -> None:
        self._troubled(track_id, why)

    def open(self, options: SessionOptions, events: SessionEvents) -> AiortcSession:
        """Begin a connection."""
        with _guarded("aiortc cannot open a connection"):
            return AiortcSession(options, events, self._feeds)


class AiortcSession:
    """One aiortc connection: all media and data bundled on one transport."""

    def __init__(self, options: SessionOptions, events: SessionEvents, feeds: _Feeds) -> None:
        self._events: SessionEvents | None = events
        self._feeds = feeds
        self._muted: set[TrackId] = set()
        self._receptions: list[Reception] = []
        self._closing: asyncio.Task[None] | None = None
        # Never without a list, for aiortc's default is a public server; ours are asked by `Gathering`.
        self._pc = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[],
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
                iceTransportPolicy=RTCIceTransportPolicy.RELAY
                if options.relay_only
                else RTCIceTransportPolicy.ALL,
            )
        )
        self._options = options
        self._link: Link | None = None
        self._suspended = False
        self._channels = 0
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)

    def _linked(self) -> Link:
        """Make the data channels and get hold of the transport.

        Not before there is a media section: aiortc would make the transport for the data channels and
        stop it when it finds them bundled with media.
        """
        if self._link is None:
            self._link = link = Link(self._pc, self._options, self._on_path_lost)
            link.reliable.on("message", lambda data: self._on_message(data, reliable=True))
            link.lossy.on("message", lambda data: self._on_message(data, reliable=False))
            link.reliable.on("open", self._on_open)
            self.suspend(self._suspended)
        return self._link

    # Descriptions

    async def offer(self, tracks: Sequence[LocalTrack], lines: Lines) -> LocalDescription:
        """Place tracks on at least that many media sections."""
        with _guarded("aiortc cannot make an offer"):
            for kind, wanted in ((Kind.AUDIO, lines.audio), (Kind.VIDEO, lines.video)):
                ours = sum(t.kind is kind for t in tracks)
                have = sum(t.kind == kind.value for t in self._transceivers())
                for _ in range(max(wanted, ours) - have):
                    added = self._pc.addTransceiver(kind.value, direction="recvonly")
                    added.setCodecPreferences(_OPUS if kind is Kind.AUDIO else _VP8)
            self._place(tracks)
            self._linked()
            await self._pc.setLocalDescription(await self._pc.createOffer())
            return self._described()

    async def answer(self, sdp: str, tracks: Sequence[LocalTrack]) -> LocalDescription:
        """Take an offer in and place tracks on its media sections."""
        with _guarded("the member's offer cannot be used"):
            sdp, names = bound_candidates(sdp)
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            self._linked().look_up(names)
            if len(self._transceivers()) >= MAX_LINES:
                raise EngineError("the member's offer has too many media sections")
            self._choose_codec()
            self._place(tracks)
            description = await self._pc.createAnswer()
            if not _begins_with_opus(description.sdp):
                raise EngineError("the member's offer prefers sound that is not Opus")
            await self._pc.setLocalDescription(description)
            return self._described()

    async def apply(self, sdp: str) -> None:
        """Take the answer in."""
        with _guarded("the member's answer cannot be used"):
            sdp, names = bound_candidates(sdp)
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
            self._linked().look_up(names)

    def _described(self) -> LocalDescription:
        sdp = self._pc.localDescription.sdp
        if "a=candidate:" not in sdp:
            raise EngineError("no network address to offer", code="no_candidates")
        if len(sdp) > MAX_SDP_BYTES:
            raise EngineError(
                "our description is too large for a signal",
                why=f"{len(sdp)} bytes: too many tracks, or addresses of this machine",
            )
        placed = {
            track_id: str(transceiver.mid)
            for transceiver in self._transceivers()
            if (track_id := self._sender(transceiver).track_id) is not None
        }
        kinds = [t.kind for t in self._transceivers()]
        return LocalDescription(sdp, placed, Lines(kinds.count("audio"), kinds.count("video")))

    def _transceivers(self) -> Sequence[RTCRtpTransceiver]:
        return self._pc.getTransceivers()

    def _sender(self, transceiver: RTCRtpTransceiver) -> Sender:
        return equip(transceiver, self._feeds[Kind(transceiver.kind)])

    def _senders(self) -> Sequence[Sender]:
        return [self._sender(transceiver) for transceiver in self._transceivers()]

    def _choose_codec(self) -> None:
        """Send and ask for VP8 in every section for pictures, whatever else was offered first."""
        for transceiver in self._transceivers():
            if transceiver.kind == "video":
                offered = transceiver._codecs
                vp8 = {codec.payloadType for codec in offered if codec.name == "VP8"}
                transceiver._codecs = [
                    codec
                    for codec in offered
                    if codec.payloadType in vp8 or codec.parameters.get("apt") in vp8
                ]
                if not vp8:
                    raise EngineError("the member's offer has pictures without VP8")

    def _place(self, tracks: Sequence[LocalTrack]) -> None:
        """Feed every track into a media section of its kind, and stop those that are gone."""
        wanted = {track.track_id: track for track in tracks}
        senders = self._senders()
        for sender in senders:
            if sender.track_id is not None and wanted.pop(sender.track_id, None) is None:
                sender.feed(None)
        for track in wanted.values():
            for sender in senders:
                if sender.kind == track.kind.value and sender.track_id is None:
                    sender.feed(track, muted=track.track_id in self._muted)
                    break
        for transceiver, sender in zip(self._transceivers(), senders, strict=True):
            transceiver.direction = "recvonly" if sender.track_id is None else "sendrecv"

    # Tracks and data

    def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Stop or resume sending a track."""
        (self._muted.add if muted else self._muted.discard)(track_id)
        for sender in self._senders():
            if sender.track_id == track_id:
                sender.mute(muted)

    def drop(self, track_id: TrackId) -> None:
        """Stop sending a track for good."""
        self._muted.discard(track_id)
        for sender in self._senders():
            if sender.track_id == track_id:
                sender.feed(None)

    def send(self, data: bytes, *, reliable: bool) -> None:
        """Queue a data message."""
        with _guarded("the data channel does not take the message"):
            self._linked().channel(reliable).send(data)

    def buffered(self, *, reliable: bool) -> int:
        """Bytes that still wait."""
        return 0 if self._link is None else self._link.channel(reliable).bufferedAmount

    @property
    def packets_received(self) -> int:
        """Packets so far."""
        return 0 if self._link is None else self._link.totals.packetsReceived

    def explain(self) -> Diagnosis:
        """Say which path there is, or why there is none."""
        return Diagnosis() if self._link is None else self._link.explain()

    async def stats(self) -> SessionStats:
        """What was counted so far, summed over the tracks."""
        if self._link is None or self._events is None:
            return SessionStats()
        return await figures(self._pc, self._link)

    # What aiortc reports

    def _on_state(self) -> None:
        events, state = self._events, self._pc.connectionState
        if events is None:
            return
        if state == "connected":
            self._linked().watch()
            events.connected()
        elif state in ("failed", "closed"):
            events.lost(f"the connection {state}", closed=state == "closed")

    def _on_path_lost(self, cause: str) -> None:
        if self._events is not None:
            self._events.lost(cause, closed=False)

    def _on_open(self) -> None:
        if self._events is not None:
            self._events.opened()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channels += 1
        if self._channels > _MAX_CHANNELS and self._events is not None:
            self._events.lost("the member opened too many data channels", closed=True)

    def _on_message(self, data: object, *, reliable: bool) -> None:
        if self._events is not None and isinstance(data, bytes):
            self._events.message(data, reliable=reliable)

    def _on_track(self, track: MediaStreamTrack) -> None:
        for transceiver in self._transceivers():
            if transceiver.receiver.track is track:
                mid, kind = str(transceiver.mid), Kind(track.kind)
                reception = Reception(transceiver.receiver, mid, kind, lambda: self._events)
                self._receptions.append(reception)

    def suspend(self, suspended: bool) -> None:
        """Send nothing at all while suspended."""
        self._suspended = suspended
        if self._link is not None:
            self._link.ice._send = swallow if suspended else self._link.send_packet

    async def close(self) -> None:
        """Let go of everything."""
        self._events = None
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for sender in self._senders():
            sender.feed(None)
        for reception in self._receptions:
            reception.close()
        if self._link is not None:
            self._link.stop()
            self._link.reliable.remove_all_listeners()
            self._link.lossy.remove_all_listeners()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pc.close()
                # A handshake that ends while aiortc closes starts what was stopped before it.
                for transceiver in self._transceivers():
                    await transceiver.receiver.stop()
                    await transceiver.sender.stop()
        except Exception as error:  # whatever aiortc meets, the session is over
            _log.debug("closing a connection failed: %r", error)


def _begins_with_opus(sdp: str) -> bool:
    """Whether Opus is what every section for sound is sent in: its first format."""
    firsts = re.findall(r"^m=audio \S+ \S+ (\d+)", sdp, re.MULTILINE)
    return all(re.search(rf"^a=rtpmap:{pt} opus/", sdp, re.MULTILINE) for pt in firsts)


@contextlib.contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn whatever aiortc raises into an `EngineError`."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(what, why=f"{type(error).__name__}: {error}") from error
