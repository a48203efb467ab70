"""What clients send: JSON read as the original service reads it, into plain dataclasses.

In: the bodies of `/sfu/get`, `/get_token` and `/delegate_delayed_leave`, their checks in the original's
order, `Refusal`. Out: HTTP (`endpoints`), the homeserver's endpoints (`appservice`).

The original's decoder, Go's, is strict and lenient in its own way, and clients may lean on either: unknown
keys are refused at every level, keys match whatever their case, null leaves a value as it is, only the first
JSON value of a body is read, numbers are whole, and half a surrogate pair becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BAD_JSON",
    "Ask",
    "Refusal",
    "delegate_ask",
    "device_ask",
    "member_ask",
    "object_of",
]

BAD_JSON = "M_BAD_JSON"
_SPACE = " \t\r\n"
_SURROGATES = re.compile("[\ud800-\udfff]")
_INT64 = 1 << 63


class Refusal(Exception):
    """A request is refused: what the client is told.

    :param retry_after_ms: when the same request may be tried again.
    """

    def __init__(
        self, status: int, errcode: str, message: str, *, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode
        self.message = message
        self.retry_after_ms = retry_after_ms

    def body(self) -> bytes:
        """Render it as Matrix errors are."""
        content: dict[str, object] = {"errcode": self.errcode, "error": self.message}
        if self.retry_after_ms is not None:
            content["retry_after_ms"] = self.retry_after_ms
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One valid request, whichever endpoint it came to."""

    room_id: str
    slot_id: str | None
    """None at `/sfu/get`."""
    member_id: str | None
    """None at `/sfu/get`."""
    user_id: str | None
    """Who the client says it is; None where it does not say."""
    device_id: str
    access_token: str = field(repr=False)
    server_name: str
    delay_id: str = field(repr=False)
    """Empty: nothing is delegated."""
    delay_ms: int


class _Pairs(list[tuple[str, object]]):
    """An object of JSON as it was written: doubled keys and all."""


_Shape = Mapping[str, "type[str] | type[int] | _Shape"]

_OPENID: _Shape = {
    "access_token": str,
    "token_type": str,
    "matrix_server_name": str,
    "expires_in": int,
}
_DELAY: _Shape = {"delay_id": str, "delay_timeout": int, "delay_cs_api_url": str}
_DEVICE: _Shape = {"room": str, "openid_token": _OPENID, "device_id": str, **_DELAY}
_MEMBER: _Shape = {
    "room_id": str,
    "slot_id": str,
    "openid_token": _OPENID,
    "member": {"id": str, "claimed_user_id": str, "claimed_device_id": str},
    **_DELAY,
}
_ZERO: Mapping[object, object] = {str: "", int: 0}


def device_ask(body: bytes) -> Ask:
    """Read the body of `/sfu/get`.

    :raises Refusal: with the first thing that is wrong.
    """
    given = _decode(body, _DEVICE)
    token = given["openid_token"]
    if not given["room"]:
        raise Refusal(400, BAD_JSON, "Missing room parameter")
    if not token["access_token"] or not token["matrix_server_name"]:
        raise Refusal(400, BAD_JSON, "Missing OpenID token parameters")
    _check_delay(given)
    return Ask(
        room_id=given["room"],
        slot_id=None,
        member_id=None,
        user_id=None,
        device_id=given["device_id"],
        access_token=token["access_token"],
        server_name=token["matrix_server_name"],
        delay_id=given["delay_id"],
        delay_ms=given["delay_timeout"],
    )


def member_ask(body: bytes) -> Ask:
    """Read the body of `/get_token`.

    :raises Refusal: with the first thing that is wrong.
    """
    return _member_ask(body, missing="is missing a", delay_required=False)


def delegate_ask(body: bytes) -> Ask:
    """Read the body of `/delegate_delayed_leave`.

    :raises Refusal: with the first thing that is wrong.
    """
    return _member_ask(body, missing="is missing", delay_required=True)


def _member_ask(body: bytes, *, missing: str, delay_required: bool) -> Ask:
    given = _decode(body, _MEMBER)
    member, token = given["member"], given["openid_token"]
    if not given["room_id"] or not given["slot_id"]:
        raise Refusal(400, BAD_JSON, "The request body is missing `room_id` or `slot_id`")
    if not all(member.values()):
        fields = "`id`, `claimed_user_id` or `claimed_device_id`"
        raise Refusal(400, BAD_JSON, f"The request body `member` {missing} {fields}")
    if not token["access_token"] or not token["matrix_server_name"]:
        fields = "`access_token` or `matrix_server_name`"
        raise Refusal(400, BAD_JSON, f"The request body `openid_token` {missing} {fields}")
    _check_delay(given, required=delay_required)
    return Ask(
        room_id=given["room_id"],
        slot_id=given["slot_id"],
        member_id=member["id"],
        user_id=member["claimed_user_id"],
        device_id=member["claimed_device_id"],
        access_token=token["access_token"],
        server_name=token["matrix_server_name"],
        delay_id=given["delay_id"],
        delay_ms=given["delay_timeout"],
    )


def _check_delay(given: Mapping[str, object], *, required: bool = False) -> None:
    delay_id, delay_ms = given["delay_id"], given["delay_timeout"]
    if not delay_id and delay_ms == 0 and not required:
        return
    if not delay_id or not isinstance(delay_ms, int) or delay_ms <= 0:
        raise Refusal(400, BAD_JSON, "The request body is missing `delay_id` or `delay_timeout`")


def _decode(body: bytes, shape: _Shape) -> dict[str, Any]:
    """Read the first JSON value of a body into a shape; every key of the shape is there afterwards.

    :raises Refusal: `M_NOT_JSON` for anything that does not fit.
    """
    try:
        text = body.decode("utf-8", "replace").lstrip(_SPACE)
        return _fill(_DECODER.raw_decode(text)[0], shape, None)
    except (ValueError, RecursionError):
        raise Refusal(400, "M_NOT_JSON", "Error reading request") from None


def object_of(body: bytes) -> dict[str, object]:
    """Read a whole body as one JSON object, in the usual way.

    :raises ValueError: when it is anything else.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)


def _fill(value: object, shape: _Shape, before: dict[str, Any] | None) -> dict[str, Any]:
    filled: dict[str, Any] = before if before is not None else _empty(shape)
    if value is None:
        return filled
    if not isinstance(value, _Pairs):
        raise ValueError("not an object")
    for name, item in value:
        key = name if name in shape else _folded(name)
        kind = shape.get(key)
        if kind is None:
            raise ValueError("an unknown key")
        if item is None:
            continue
        if kind is str:
            if not isinstance(item, str):
                raise ValueError("not a string")
            filled[key] = item if item.isascii() else _SURROGATES.sub("\ufffd", item)
        elif kind is int:
            if not isinstance(item, int) or isinstance(item, bool) or not -_INT64 <= item < _INT64:
                raise ValueError("not a whole number of 64 bits")
            filled[key] = item
        else:
            assert isinstance(kind, Mapping)
            filled[key] = _fill(item, kind, filled[key])
    return filled


def _empty(shape: _Shape) -> dict[str, Any]:
    return {
        key: _empty(kind) if isinstance(kind, Mapping) else _ZERO[kind]
        for key, kind in shape.items()
    }


def _folded(name: str) -> str:
    # The two letters outside ASCII that fold to one inside: long s, and the sign for kelvin.
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()
