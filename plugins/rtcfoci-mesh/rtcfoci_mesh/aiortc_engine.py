"""aiortc behind the engine protocol: the only module that knows its peer connection.

In: descriptions, media sections, data channels, figures, what aiortc leaves to its user.
Out: frames (`outgoing`, `incoming`), when to negotiate (`signalling`).

aiortc raises whatever its parsers meet, so everything from the other side is called under one guard.
It never offers loopback addresses, waits five seconds for a dead STUN server and counts packets only
per track; for these three the transport is reached through private places, which
`tests/test_private_places.py` holds against the pinned version. Rollback is never used: aiortc accepts
it silently and breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCCertificate,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)

from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack, TrackId
from rtcfoci_mesh.aiortc_figures import figures
from rtcfoci_mesh.aiortc_link import Link, limit_gathering, swallow
from rtcfoci_mesh.engine import (
    EngineError,
    LocalDescription,
    SessionEvents,
    SessionOptions,
)
from rtcfoci_mesh.incoming import read_track
from rtcfoci_mesh.outgoing import AudioSlot, VideoSlot, slot_for
from rtcfoci_mesh.sound import SoundFeeds
from rtcfoci_mesh.wire import MAX_LINES, MAX_SDP_BYTES, Lines

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

__all__ = ["AiortcEngine", "AiortcSession"]

_CLOSE_S = 5.0
_MAX_CHANNELS = 16
"""Data channels that a member may open beside the two that are agreed upon; nobody listens to them."""
_OPUS = [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.name == "opus"]
_log = logging.getLogger(__name__)


class AiortcEngine:
    """Opens aiortc connections."""

    def __init__(self) -> None:
        # The first certificate loads a library: now, and not while a member waits for an offer.
        RTCCertificate.generateCertificate()
        self._feeds = SoundFeeds()

    def open(self, options: SessionOptions, events: SessionEvents) -> AiortcSession:
        """Begin a connection."""
        with _guarded("aiortc cannot open a connection"):
            return AiortcSession(options, events, self._feeds)


class AiortcSession:
    """One aiortc connection: all media and data bundled on one transport."""

    def __init__(self, options: SessionOptions, events: SessionEvents, feeds: SoundFeeds) -> None:
        self._events: SessionEvents | None = events
        self._feeds = feeds
        self._slots: dict[RTCRtpTransceiver, AudioSlot | VideoSlot] = {}
        self._muted: set[TrackId] = set()
        self._readers: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        servers = [
            RTCIceServer(list(s.urls), s.username, s.credential) for s in options.ice_servers
        ]
        # Never without a list of servers: aiortc's default is a public STUN server.
        self._pc = RTCPeerConnection(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
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
            self._link = link = Link(self._pc)
            limit_gathering(link.ice._connection, self._options)
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
                    if kind is Kind.AUDIO:
                        added.setCodecPreferences(_OPUS)
            self._place(tracks)
            for transceiver in self._transceivers():
                fed = self._slots.get(transceiver)
                sending = fed is not None and fed.track_id is not None
                transceiver.direction = "sendrecv" if sending else "recvonly"
            self._linked()
            await self._pc.setLocalDescription(await self._pc.createOffer())
            return self._described()

    async def answer(self, sdp: str, tracks: Sequence[LocalTrack]) -> LocalDescription:
        """Take an offer in and place tracks on its media sections."""
        with _guarded("the member's offer cannot be used"):
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            self._linked()
            if len(self._transceivers()) >= MAX_LINES:
                raise EngineError("the member's offer has too many media sections")
            self._place(tracks)
            for transceiver in self._transceivers():
                fed = self._slots.get(transceiver)
                sending = fed is not None and fed.track_id is not None
                transceiver.direction = "sendrecv" if sending else "recvonly"
            description = await self._pc.createAnswer()
            if not _begins_with_opus(description.sdp):
                raise EngineError("the member's offer prefers sound that is not Opus")
            await self._pc.setLocalDescription(description)
            return self._described()

    async def apply(self, sdp: str) -> None:
        """Take the answer in."""
        with _guarded("the member's answer cannot be used"):
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

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
            slot.track_id: str(transceiver.mid)
            for transceiver, slot in self._slots.items()
            if slot.track_id is not None
        }
        kinds = [t.kind for t in self._transceivers()]
        return LocalDescription(sdp, placed, Lines(kinds.count("audio"), kinds.count("video")))

    def _transceivers(self) -> Sequence[RTCRtpTransceiver]:
        return self._pc.getTransceivers()

    def _place(self, tracks: Sequence[LocalTrack]) -> None:
        """Feed every track into a media section of its kind, and stop those that are gone."""
        wanted = {track.track_id: track for track in tracks}
        for slot in self._slots.values():
            if slot.track_id is not None and wanted.pop(slot.track_id, None) is None:
                slot.feed(None)
        for track in wanted.values():
            for transceiver in self._transceivers():
                held = self._slots.get(transceiver)
                if transceiver.kind == track.kind.value and (held is None or not held.track_id):
                    if held is None:
                        held = self._slots[transceiver] = slot_for(track.kind, self._feeds)
                        transceiver.sender.replaceTrack(held)
                    held.feed(track, muted=track.track_id in self._muted)
                    break

    # Tracks and data

    def set_muted(self, track_id: TrackId, muted: bool) -> None:
        """Stop or resume sending a track."""
        (self._muted.add if muted else self._muted.discard)(track_id)
        for slot in self._slots.values():
            if slot.track_id == track_id:
                slot.mute(muted)

    def drop(self, track_id: TrackId) -> None:
        """Stop sending a track for good."""
        self._muted.discard(track_id)
        for slot in self._slots.values():
            if slot.track_id == track_id:
                slot.feed(None)

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

    async def stats(self) -> Mapping[str, float | str]:
        """Figures of the connection, summed over its tracks; jitter of one of them."""
        if self._link is None or self._events is None:
            return {}
        return await figures(self._pc, self._link)

    # What aiortc reports

    def _on_state(self) -> None:
        events, state = self._events, self._pc.connectionState
        if events is None:
            return
        if state == "connected":
            events.connected()
        elif state in ("failed", "closed"):
            events.lost(f"the connection {state}", closed=state == "closed")

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
                reader = asyncio.create_task(
                    read_track(track, str(transceiver.mid), lambda: self._events)
                )
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)

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
        for slot in self._slots.values():
            slot.feed(None)
        if self._link is not None:
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
        for reader in tuple(self._readers):
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


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
