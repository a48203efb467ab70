"""How a job is written in Redis: the hash of lk-jwt-service, to the letter, and what we keep beside it.

In: fields and values to and from records. Out: the connection (`redis`). Either program can take over the
jobs of the other, so the hash `lk-jwt:jobs` has nothing in it that the original does not write.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from sys import intern

from rtcfoci_livekit_auth.delegation.model import Key, Leave, Phase, Record

__all__ = ["extras", "field", "job", "parse"]

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(?:([Zz])|([+-]\d{2}:\d{2}))\Z"
)
_MS_PER_NS = 1_000_000


def _dumps(value: object) -> str:
    """Write JSON as Go does, which escapes what HTML would trip over."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_ESCAPES)


def field(key: Key) -> str:
    """Name the job of a key in the hash."""
    return _dumps(key)


def job(record: Record) -> str:
    """Write the original's value of a job."""
    leave = record.leave
    restarted = datetime.fromtimestamp(record.restarted_ts_ms / 1000, UTC)
    return _dumps(
        {
            "Params": {
                "DelayId": leave.delay_id,
                "DelayTimeout": leave.delay_ms * _MS_PER_NS,
                "ServerName": leave.server_name,
                "LiveKitRoom": leave.room,
                "LiveKitIdentity": leave.identity,
            },
            "RestartedAt": restarted.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
    )


def extras(record: Record) -> str:
    """Write what the original does not keep, and of which job: the original leaves it lying about."""
    return _dumps(
        {
            "of": _digest(record.leave.delay_id),
            "phase": record.phase.value,
            "created_ts_ms": record.created_ts_ms,
            "user_id": record.leave.user_id,
        }
    )


def parse(field_text: str, job_text: str, extras_text: str | None) -> Record | None:
    """Read a job; None if it is none. Whoever wrote the extras, they can only be missing or ours."""
    try:
        key, value = json.loads(field_text), json.loads(job_text)
        room, identity = key
        params = value["Params"]
        delay_ns = params["DelayTimeout"]
        if type(delay_ns) is not int or abs(delay_ns) >= 2**63:
            return None
        leave = Leave(
            room=_text(room),
            identity=_text(identity),
            delay_id=_text(params["DelayId"]),
            delay_ms=delay_ns // _MS_PER_NS,
            server_name=intern(_text(params["ServerName"])),
        )
        restarted_ts_ms = _ts_ms(value["RestartedAt"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    plain = Record(leave=leave, created_ts_ms=restarted_ts_ms, restarted_ts_ms=restarted_ts_ms)
    return _with_extras(plain, extras_text) if extras_text else plain


def _with_extras(plain: Record, extras_text: str) -> Record:
    try:
        more = json.loads(extras_text)
        user_id = more["user_id"]
        leave = plain.leave
        if more["of"] != _digest(leave.delay_id):
            return plain
        return Record(
            leave=Leave(
                room=leave.room,
                identity=leave.identity,
                delay_id=leave.delay_id,
                delay_ms=leave.delay_ms,
                server_name=leave.server_name,
                user_id=None if user_id is None else _text(user_id),
            ),
            created_ts_ms=int(more["created_ts_ms"]),
            restarted_ts_ms=plain.restarted_ts_ms,
            phase=Phase(more["phase"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return plain


def _digest(delay_id: str) -> str:
    return hashlib.sha256(delay_id.encode()).hexdigest()[:16]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    value.encode()  # A lone surrogate could never be written again.
    return value


def _ts_ms(text: str) -> int:
    """Read RFC 3339 with up to nine digits of a second, as Go writes it."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError("not a time")
    day, time, fraction, _, offset = match.groups()
    moment = datetime.fromisoformat(f"{day}T{time}{offset or '+00:00'}")
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return whole + int((fraction or "0").ljust(3, "0")[:3])
