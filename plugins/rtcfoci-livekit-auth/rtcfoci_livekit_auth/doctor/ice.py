"""A WebRTC connection with LiveKit that carries a data channel and nothing else.

In: LiveKit's signalling for its subscriber connection, answered by aiortc. Out: media.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp
from livekit.protocol import rtc

if TYPE_CHECKING:
    from rtcfoci_livekit_auth.doctor.sfu import Participant

__all__ = ["Link"]


class Link:
    """The connection that LiveKit offers to every participant."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._up = asyncio.Event()
        self._pc.on("connectionstatechange", self._look)
        self.candidates: list[str] = []
        """What LiveKit named, as `udp 192.0.2.1:7882`."""

    def _look(self) -> None:
        if self._pc.connectionState == "connected":
            self._up.set()

    async def up(self, within_s: float) -> bool:
        """Say whether the connection came up in time."""
        signalling = asyncio.ensure_future(self._signal())
        try:
            async with asyncio.timeout(within_s):
                await self._up.wait()
        except TimeoutError:
            return False
        finally:
            signalling.cancel()
            with suppress(asyncio.CancelledError):
                await signalling
        return True

    async def close(self) -> None:
        """End it."""
        await self._pc.close()

    async def _signal(self) -> None:
        early: list[str] = []
        async for message in self._participant.messages():
            if message.HasField("offer"):
                self._note(message.offer.sdp.splitlines())
                await self._pc.setRemoteDescription(
                    RTCSessionDescription(message.offer.sdp, "offer")
                )
                answer = await self._pc.createAnswer()
                await self._pc.setLocalDescription(answer)
                sdp = _without_candidates(self._pc.localDescription.sdp)
                answered = rtc.SessionDescription(type="answer", sdp=sdp, id=message.offer.id)
                await self._participant.send(rtc.SignalRequest(answer=answered))
                while early:
                    await self._add(early.pop())
            elif message.HasField("trickle"):
                if self._pc.remoteDescription is None:
                    early.append(message.trickle.candidateInit)
                else:
                    await self._add(message.trickle.candidateInit)

    async def _add(self, trickled: str) -> None:
        with suppress(ValueError, KeyError, IndexError, AssertionError):
            init = json.loads(trickled)
            text = str(init["candidate"]).removeprefix("candidate:")
            self._note([f"a=candidate:{text}"])
            candidate = candidate_from_sdp(text)
            candidate.sdpMid, candidate.sdpMLineIndex = (
                init.get("sdpMid"),
                init.get("sdpMLineIndex"),
            )
            await self._pc.addIceCandidate(candidate)

    def _note(self, lines: list[str]) -> None:
        for line in lines:
            if line.startswith("a=candidate:"):
                fields = line.split()
                if len(fields) > 5:
                    shown = f"{fields[2]} {fields[4]}:{fields[5]}"
                    if shown not in self.candidates:
                        self.candidates.append(shown)


def _without_candidates(sdp: str) -> str:
    """LiveKit's addresses are in question, not ours: it must not find its way to us by itself."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("a=candidate:"))
