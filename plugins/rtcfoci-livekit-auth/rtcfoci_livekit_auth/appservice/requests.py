"""Bodies that the homeserver passes on, in the form of the MSC and in that of clients before it.

In: `MemberRequest` and how it is read: `member_id` (text of 2026-09), or `member` with `id` and, from some
clients, `claimed_device_id`. Out: who sent it, which headers say, and whether it is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rtcfoci_livekit_auth.bodies import BAD_JSON, Refusal, object_of

__all__ = ["MemberRequest", "member_request", "server_of"]

_USER_ID = re.compile(r"@[^:\0]+:([0-9A-Za-z.\-\[\]:]+)")
_MOST_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRequest:
    """What is asked for: a token, or somebody to watch over a leave."""

    url: str
    """The SFU as clients know it."""
    room_id: str
    slot_id: str
    member_id: str
    device_id: str | None
    """None where the body has no place for it."""
    server_name: str | None
    """Whose SFU it is; None: ours."""
    user_id: str | None
    """Given by other servers alone."""
    delay_id: str = field(repr=False)
    delay_ms: int | None
    raw: dict[str, object] = field(repr=False)
    """The body as it came, to be passed on."""


def server_of(user_id: str) -> str:
    """Give the server of a user id.

    :raises Refusal: 400, when it is none.
    """
    found = _USER_ID.fullmatch(user_id)
    if found is None or len(user_id.encode("utf-8", "replace")) > _MOST_BYTES:
        raise Refusal(400, "M_INVALID_PARAM", "This is no user id")
    return found[1]


def member_request(body: bytes) -> MemberRequest:
    """Read a body; keys that nobody knows are passed over.

    :raises Refusal: 400, naming what is missing or wrong.
    """
    try:
        given = object_of(body)
    except ValueError:
        raise Refusal(400, "M_NOT_JSON", "The request body is no JSON object") from None
    member = given.get("member")
    if member is not None and not isinstance(member, dict):
        raise Refusal(400, BAD_JSON, "`member` is not an object")
    member_id = _text(given, "member_id", required=member is None)
    device_id = None
    if member is not None:
        inner = _text(member, "id")
        if member_id and member_id != inner:
            raise Refusal(400, BAD_JSON, "`member_id` and `member` contradict each other")
        member_id = inner
        device_id = _text(member, "claimed_device_id", required=False) or None
    delay_ms = given.get("delay_timeout")
    if delay_ms is not None and (type(delay_ms) is not int or delay_ms <= 0):
        raise Refusal(400, BAD_JSON, "`delay_timeout` is no number of milliseconds")
    return MemberRequest(
        url=_text(given, "url", required=False),
        room_id=_text(given, "room_id"),
        slot_id=_text(given, "slot_id"),
        member_id=member_id,
        device_id=device_id,
        server_name=_text(given, "server_name", required=False) or None,
        user_id=_text(given, "user_id", required=False) or None,
        delay_id=_text(given, "delay_id", required=False),
        delay_ms=delay_ms if isinstance(delay_ms, int) else None,
        raw=given,
    )


def _text(given: dict[str, object], name: str, *, required: bool = True) -> str:
    value = given.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value) or not _encodes(value):
        raise Refusal(400, BAD_JSON, f"`{name}` is missing, or no string")
    return value


def _encodes(value: str) -> bool:
    """Tell whether a string is Unicode: half a surrogate pair is not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
