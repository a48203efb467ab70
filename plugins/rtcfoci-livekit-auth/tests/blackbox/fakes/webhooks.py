"""Webhooks as LiveKit sends them: protobuf JSON, signed by a token that holds the body's hash.

In: the event, the signature, and each way to get it wrong. Out: when it is sent.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import jwt
from google.protobuf.json_format import MessageToDict, ParseDict
from livekit.protocol.models import ParticipantInfo, Room
from livekit.protocol.webhook import WebhookEvent

from fakes.client import Reply, call

__all__ = ["Webhook"]


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One event about one room; `key` and `secret` are those of the SFU."""

    event: str
    key: str
    secret: str
    room: str | None = None
    identity: str | None = None
    sid: str = "PA_first"
    reason: str | None = None
    """A `DisconnectReason` by name."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields put into the JSON beside the known ones."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims put over the right ones; `None` leaves one out."""
    algorithm: str = "HS256"
    prefix: str = ""
    """What stands before the token in `Authorization`; LiveKit sends nothing."""

    def but(self, **changes: Any) -> Webhook:
        return dataclasses.replace(self, **changes)

    def body(self) -> bytes:
        message = WebhookEvent(
            event=self.event, id=f"EV_{uuid.uuid4().hex[:12]}", created_at=int(time.time())
        )
        if self.room is not None:
            message.room.CopyFrom(Room(sid="RM_room", name=self.room))
        if self.identity is not None:
            participant = ParticipantInfo(sid=self.sid, identity=self.identity)
            if self.reason is not None:
                ParseDict({"disconnectReason": self.reason}, participant)
            message.participant.CopyFrom(participant)
        return json.dumps({**MessageToDict(message), **self.extra}).encode()

    def authorization(self, body: bytes) -> str:
        now = int(time.time())
        claims = {
            "iss": self.key,
            "nbf": now,
            "exp": now + 300,
            "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        secret = "" if self.algorithm == "none" else self.secret
        return self.prefix + jwt.encode(claims, secret, algorithm=self.algorithm)

    def send(self, service_url: str, *, method: str = "POST") -> Reply:
        """Send it to a service and give the answer."""
        body = self.body()
        headers = {
            "Content-Type": "application/webhook+json",
            "Authorization": self.authorization(body),
        }
        return call(method, service_url + "/sfu_webhook", body, headers=headers)
