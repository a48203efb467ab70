"""Names that a MatrixRTC slot and its members have on a LiveKit server.

In: the alias of a room, the three forms of an identity. Out: who may have one (`openid`, `appservice`), and
reading identities back, which nobody can.
"""

from __future__ import annotations

from rtcfoci.core.identity import hashed_identity

__all__ = ["LEGACY_SLOT", "device_identity", "member_identity", "plain_identity", "room_alias"]

LEGACY_SLOT = "m.call#ROOM"
"""The slot that `/sfu/get` means, so that clients of both endpoints meet in one room."""


def room_alias(room_id: str, slot_id: str, *, salt: str = "") -> str:
    """Name the LiveKit room of a slot.

    :param salt: makes the alias one that nobody else can compute (MSC4195 of 2026-09); empty for none.
    """
    return hashed_identity(*([salt] if salt else []), room_id, slot_id)


def plain_identity(user_id: str, device_id: str) -> str:
    """Name a member that announces itself by a state event: in clear, as `/sfu/get` does."""
    return f"{user_id}:{device_id}"


def device_identity(user_id: str, device_id: str, member_id: str) -> str:
    """Name a sticky member by user, device and member id (deployed since 2026-04)."""
    return hashed_identity(user_id, device_id, member_id)


def member_identity(user_id: str, member_id: str) -> str:
    """Name a sticky member by user and member id (MSC4195 of 2026-09)."""
    return hashed_identity(user_id, member_id)
