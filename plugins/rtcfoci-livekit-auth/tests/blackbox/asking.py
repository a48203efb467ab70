"""What clients ask a service for, and the names that must come out.

In: bodies of the three endpoints, the hashes of rooms and identities. Out: sending and judging.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import jwt
from fakes import DelayedEvent, Homeserver

__all__ = ["DELEGATE", "ENDPOINTS", "GET_TOKEN", "SFU_GET", "Member", "claims", "hashed"]

SFU_GET, GET_TOKEN, DELEGATE = "/sfu/get", "/get_token", "/delegate_delayed_leave"
ENDPOINTS = (SFU_GET, GET_TOKEN, DELEGATE)

_numbers = itertools.count(1)


def hashed(*parts: str) -> str:
    """Give unpadded base64 of the SHA-256 of the parts as a canonical JSON array."""
    document = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(hashlib.sha256(document.encode()).digest()).decode().rstrip("=")


def claims(token: str, key: str, secret: str) -> dict[str, Any]:
    """Give the claims of a token, verified as LiveKit does."""
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    got: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], issuer=key)
    return got


@dataclass(kw_only=True)
class Member:
    """Somebody in a call of a room that nobody else has."""

    homeserver: Homeserver
    user_id: str = ""
    room_id: str = field(default_factory=lambda: f"!room{next(_numbers)}:example.org")
    slot_id: str = "m.call#ROOM"
    device_id: str = "DEVICE"
    member_id: str = "member-1"
    openid: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.user_id = self.user_id or self.homeserver.user(f"user{next(_numbers)}")
        self.openid = self.openid or self.homeserver.openid(self.user_id)

    @property
    def alias(self) -> str:
        return hashed(self.room_id, self.slot_id)

    def identity(self, path: str) -> str:
        if path == SFU_GET:
            return f"{self.user_id}:{self.device_id}"
        return hashed(self.user_id, self.device_id, self.member_id)

    def body(
        self, path: str, leave: DelayedEvent | None = None, /, **changes: Any
    ) -> dict[str, Any]:
        """Give the body of a request.

        :param leave: the event to delegate.
        :param changes: fields to add or replace; `None` takes one out.
        """
        body: dict[str, Any]
        if path == SFU_GET:
            body = {"room": self.room_id, "openid_token": self.openid, "device_id": self.device_id}
        else:
            body = {
                "room_id": self.room_id,
                "slot_id": self.slot_id,
                "openid_token": self.openid,
                "member": {
                    "id": self.member_id,
                    "claimed_user_id": self.user_id,
                    "claimed_device_id": self.device_id,
                },
            }
        if leave is not None:
            body |= {"delay_id": leave.delay_id, "delay_timeout": round(leave.delay_s * 1000)}
        body |= changes
        return {name: value for name, value in body.items() if value is not None}
