"""The hops at LiveKit: does it answer, is the token's key its own, is the room there, does media pass.

In: what a client does with its token. Out: how it came by it (`service`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import aiohttp
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from rtcfoci_livekit_auth.doctor.verdicts import Case, Verdict, failed, not_checked, ok
from rtcfoci_livekit_auth.doctor.web import NoAnswer

__all__ = ["Participant", "Refused", "answers", "connected", "key_and_room", "media", "signalling"]

_SETTLED_S = 0.5
"""LiveKit tells others of a participant a moment after its media is up."""
_PROTOCOL = "protocol=15&sdk=python&auto_subscribe=0"


def _http(url: str) -> str:
    return "http" + url[2:] if url.startswith(("ws://", "wss://")) else url


def _ws(url: str) -> str:
    return "ws" + url[4:] if url.startswith(("http://", "https://")) else url


async def answers(case: Case) -> Verdict:
    """Ask LiveKit for its health."""
    try:
        answer = await case.web.ask("GET", _http(case.sfu_url) + "/")
    except NoAnswer as silence:
        return silence.verdict("sfu_unreachable", "LiveKit")
    if answer.status == 406:
        return failed(
            "sfu_overloaded",
            "LiveKit says that it is not well",
            cause="its figures are older than 4 s: the machine is overloaded or was asleep",
            remedy="restart LiveKit; see what else runs on its machine",
        )
    if answer.status != 200 or answer.text.strip() != "OK":
        return failed(
            "sfu_not_livekit",
            f"{case.sfu_url} answers {answer.told}, not as LiveKit does",
            cause="the proxy sends this URL elsewhere, or to nobody",
            remedy="let the proxy send this URL to LiveKit's port (7880), WebSockets included",
        )
    return ok("LiveKit answers")


async def key_and_room(case: Case) -> Verdict:
    """Let LiveKit judge the token."""
    url = f"{_http(case.sfu_url)}/rtc/validate?access_token={quote(case.jwt)}"
    try:
        answer = await case.web.ask("GET", url)
    except NoAnswer as silence:
        return silence.verdict("sfu_unreachable", "LiveKit")
    if answer.status == 200:
        return ok("LiveKit accepts the token, and the room is there")
    if answer.status in {401, 403}:
        return failed(
            "key_mismatch",
            f"LiveKit refuses the service's token: {answer.status} {answer.text.strip()[:100]}",
            cause="key or secret of the service are not those of this LiveKit",
            remedy="give LIVEKIT_KEY and LIVEKIT_SECRET the values under `keys` in livekit.yaml",
        )
    if answer.status == 404:
        return failed(
            "room_not_created",
            "LiveKit has no such room",
            cause=f"the service makes no rooms for users of {case.server_name}, "
            "and LiveKit makes none by itself (auto_create: false)",
            remedy="name the server in LIVEKIT_FULL_ACCESS_HOMESERVERS",
        )
    return failed(
        "sfu_refuses",
        f"LiveKit answers {answer.status} {answer.text.strip()[:100]}",
        cause="see the message",
        remedy="look into LiveKit's log",
    )


async def signalling(case: Case) -> Verdict:
    """Open the WebSocket and be let in."""
    try:
        async with joined(case) as participant:
            return ok(f"joined LiveKit {participant.version} over a WebSocket")
    except NoAnswer as silence:
        return silence.verdict("websocket_unreachable", "LiveKit's WebSocket")
    except Refused as refusal:
        return refusal.verdict


class Refused(Exception):
    """LiveKit does not let us in; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.what)
        self.verdict = verdict


class Participant:
    """We, in LiveKit's room, as far as signalling goes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.version = ""
        """LiveKit's, once it has let us in."""

    async def send(self, request: rtc.SignalRequest) -> None:
        """Tell LiveKit something."""
        await self._socket.send_bytes(request.SerializeToString())

    async def messages(self) -> AsyncIterator[rtc.SignalResponse]:
        """Give what LiveKit says, until it closes."""
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                with suppress(DecodeError):
                    yield rtc.SignalResponse.FromString(message.data)

    async def leave(self) -> None:
        """Leave as a client does that means it."""
        reason = models.DisconnectReason.CLIENT_INITIATED
        with suppress(OSError, RuntimeError, aiohttp.ClientError):
            await self.send(rtc.SignalRequest(leave=rtc.LeaveRequest(reason=reason)))


@asynccontextmanager
async def joined(case: Case) -> AsyncIterator[Participant]:
    """Join with the case's token; leave at the end.

    :raises NoAnswer: when nobody answers.
    """
    url = f"{_ws(case.sfu_url)}/rtc?access_token={quote(case.jwt)}&{_PROTOCOL}"
    try:
        async with asyncio.timeout(case.timeout_s):
            socket = await case.web.session.ws_connect(url, max_msg_size=1 << 20)
    except aiohttp.WSServerHandshakeError as error:
        raise Refused(_no_upgrade(case, error.status)) from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise case.web.silence(case.sfu_url, error) from None
    async with socket:
        try:
            async with asyncio.timeout(case.timeout_s):
                participant = await _welcomed(socket)
        except TimeoutError as error:
            raise case.web.silence(case.sfu_url, error) from None
        try:
            yield participant
        finally:
            await participant.leave()


async def _welcomed(socket: aiohttp.ClientWebSocketResponse) -> Participant:
    participant = Participant(socket)
    async for message in participant.messages():
        if message.HasField("join"):
            participant.version = message.join.server_info.version
            return participant
    raise Refused(
        failed(
            "websocket_closed",
            "LiveKit closes the WebSocket without a welcome",
            cause=f"close code {socket.close_code}",
            remedy="look into LiveKit's log",
        )
    )


def _no_upgrade(case: Case, status: int) -> Verdict:
    return failed(
        "websocket_refused",
        f"{case.sfu_url} answers {status} where it should open a WebSocket",
        cause="the reverse proxy does not pass Upgrade and Connection on",
        remedy="nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade, "
        'proxy_set_header Connection "upgrade"; Caddy needs nothing',
    )


async def media(case: Case) -> Verdict:
    """Bring up a WebRTC connection with a data channel, as every client does first."""
    try:
        from aiortc import RTCPeerConnection  # noqa: F401
    except ImportError:
        return not_checked(
            "no_webrtc",
            "whether media passes is not known",
            remedy="pip install 'rtcfoci-livekit-auth[doctor]'",
        )
    candidates: list[str] = []
    try:
        return _judged(await connected(case, candidates), candidates)
    except NoAnswer as silence:
        return silence.verdict("websocket_unreachable", "LiveKit's WebSocket")
    except Refused as refusal:
        return refusal.verdict


async def connected(case: Case, candidates: list[str] | None = None) -> bool:
    """Join, bring media up, leave; say whether it came up. LiveKit's candidates are added to the list.

    :raises NoAnswer: when nobody answers.
    :raises Refused: when we are not let in.
    """
    from rtcfoci_livekit_auth.doctor.ice import Link

    async with joined(case) as participant:
        link = Link(participant)
        try:
            up = await link.up(case.timeout_s)
            if up:
                await asyncio.sleep(_SETTLED_S)
        finally:
            await link.close()
    if candidates is not None:
        candidates += link.candidates
    return up


def _judged(up: bool, candidates: list[str]) -> Verdict:
    shown = ", ".join(candidates) or "none"
    if up:
        return ok(f"connected; LiveKit's candidates: {shown}")
    if not candidates:
        return failed(
            "ice_no_candidates",
            "LiveKit names no address for media",
            cause="it found no usable interface",
            remedy="livekit.yaml: set rtc.use_external_ip: true, or rtc.node_ip to the public address",
        )
    return failed(
        "ice_unreachable",
        f"no media path to LiveKit; its candidates: {shown}",
        cause="its ports are closed, or it names addresses that are not reachable from here",
        remedy="open UDP 50000-60000 (or rtc.udp_port) and TCP 7881 to LiveKit's machine; behind NAT "
        "set rtc.use_external_ip: true",
    )
