"""The identity of a member on its focus, as every reader derives it from the membership.

In: the three forms there are (MSC4195; facts of deployed services). Out: aliases of rooms, which are never
computed but read from the token.
"""

from __future__ import annotations

import base64
import hashlib
import json

from rtcfoci.core.model import Member

__all__ = ["backend_identity", "hashed_identity"]


def backend_identity(member: Member, *, sticky: bool) -> str:
    """Give the identity that a member's membership stands for.

    State: `@user:server:DEVICE`. Sticky: a hash of user, device and member id (MSC4195, deployed since
    2026-04), or of user and member id where the device is not known (text of 2026-09).
    """
    if not sticky:
        return f"{member.user_id}:{member.device_id or ''}"
    if member.device_id is None:
        return hashed_identity(member.user_id, member.member_id)
    return hashed_identity(member.user_id, member.device_id, member.member_id)


def hashed_identity(*parts: str) -> str:
    """Hash parts: unpadded standard base64 of the SHA-256 of their compact JSON array, in UTF-8."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.b64encode(digest).decode().rstrip("=")
