"""The format in which the service and lk-jwt-service keep delegated leaves in Redis.

In: reading and writing of the hash. Out: when that happens.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import redis
from asking import Member
from fakes import DelayedEvent

__all__ = ["HASH", "Jobs", "timestamp"]

HASH = "lk-jwt:jobs"


def timestamp(seconds_ago: float = 0.0) -> str:
    """Give a time as it is stored: RFC 3339."""
    return (
        (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds_ago))
        .isoformat()
        .replace("+00:00", "Z")
    )


class Jobs:
    """The hash of one Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)

    def fields(self) -> set[str]:
        return {str(field) for field in self.client.hkeys(HASH)}

    def of(self, member: Member, path: str) -> dict[str, Any] | None:
        """Give what is stored for a participant."""
        stored = self.client.hget(HASH, self.field(member, path))
        return None if stored is None else json.loads(str(stored))

    @staticmethod
    def field(member: Member, path: str) -> str:
        return json.dumps(
            [member.alias, member.identity(path)], separators=(",", ":"), ensure_ascii=False
        )

    def put(
        self, member: Member, path: str, leave: DelayedEvent, *, restarted_at: str, **changes: Any
    ) -> None:
        """Store a leave as lk-jwt-service does."""
        params = {
            "DelayId": leave.delay_id,
            "DelayTimeout": round(leave.delay_s * 1_000_000_000),
            "ServerName": member.openid["matrix_server_name"],
            "LiveKitRoom": member.alias,
            "LiveKitIdentity": member.identity(path),
            **changes,
        }
        value = json.dumps({"Params": params, "RestartedAt": restarted_at})
        self.client.hset(HASH, self.field(member, path), value)

    def close(self) -> None:
        self.client.close()
