"""LiveKit's webhooks: believed when signed, and read into what delegation needs to know.

In: `ParticipantEvent`, checking and reading. Out: what follows from an event.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rtcfoci_livekit_auth.tokens import Minter

__all__ = ["ParticipantEvent", "WebhookRefused", "read_webhook"]

Kind = Literal["joined", "left", "aborted", "room_finished"]

_KINDS: dict[str, Kind] = {
    "participant_joined": "joined",
    "participant_left": "left",
    "participant_connection_aborted": "aborted",
    "room_finished": "room_finished",
}


class WebhookRefused(Exception):
    """A webhook is not LiveKit's, or cannot be read; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantEvent:
    """Something happened to a participant, or to a whole room."""

    kind: Kind
    room: str
    """The room's name on the SFU."""
    identity: str
    """Empty when it is about the room."""
    sid: str
    """The session; a participant who reconnects has a new one."""
    reason: str
    """LiveKit's name of a disconnect reason, such as CLIENT_INITIATED."""
    created_ts_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The participant's, as LiveKit shows them."""


def read_webhook(
    body: bytes, authorization: str, minters: Callable[[str], Sequence[Minter]]
) -> ParticipantEvent | None:
    """Check and read a webhook; None for an event of another kind, or one that has no room.

    :param authorization: the whole header: a bare token.
    :param minters: gives the key pairs of this key's name.
    :raises WebhookRefused: when it is not to be believed.
    """
    if not authorization:
        raise WebhookRefused("there is no Authorization header")
    claims = _verified(authorization, minters)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    if not hmac.compare_digest(str(claims.get("sha256", "")).encode(), digest.encode()):
        raise WebhookRefused("the body is not the one that was signed")
    return _event(body)


def _verified(token: str, minters: Callable[[str], Sequence[Minter]]) -> dict[str, object]:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        issuer = claims["iss"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise WebhookRefused("the Authorization header is no token") from None
    why = "its key is not one of ours"
    for minter in minters(issuer) if isinstance(issuer, str) else ():
        try:
            return minter.verify(token)
        except ValueError as error:
            why = str(error)
    raise WebhookRefused(why)


def _event(body: bytes) -> ParticipantEvent | None:
    from google.protobuf.json_format import Parse, ParseError
    from livekit.protocol.models import DisconnectReason
    from livekit.protocol.webhook import WebhookEvent

    try:
        event = Parse(body, WebhookEvent(), ignore_unknown_fields=True)
    except (ParseError, UnicodeDecodeError, RecursionError):
        raise WebhookRefused("the body is no webhook event") from None
    kind = _KINDS.get(event.event)
    if kind is None or not event.room.name:
        return None
    who = event.participant
    if kind != "room_finished" and not who.identity:
        return None
    try:
        reason = DisconnectReason.Name(who.disconnect_reason)
    except ValueError:  # of a newer server
        reason = str(who.disconnect_reason)
    return ParticipantEvent(
        kind=kind,
        room=event.room.name,
        identity=who.identity,
        sid=who.sid,
        reason=reason,
        created_ts_ms=event.created_at * 1000,
        attributes=dict(who.attributes),
    )
