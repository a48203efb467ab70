"""What the in-memory homeserver refuses: Matrix errors, and rate limits with Synapse's numbers.

In: the error that becomes an answer, leaky buckets. Out: who asks for what (`homeserver`).
"""

from __future__ import annotations

__all__ = ["DEFAULT_LIMITS", "MatrixError", "RateLimits", "forbidden", "not_found"]

DEFAULT_LIMITS: dict[str, tuple[float, int]] = {
    "rc_message": (0.2, 10),
    "rc_registration": (0.17, 3),
    "rc_login": (0.003, 5),
    "rc_joins_local": (0.1, 10),
    "rc_joins_per_room": (1.0, 10),
    "rc_invites_per_room": (0.3, 10),
    "rc_invites_per_user": (0.003, 5),
    "rc_delayed_event_mgmt": (1.0, 5),
    "rc_room_creation": (0.016, 10),
}
"""Per second and burst, as Synapse 1.163.2 has them without configuration."""


class MatrixError(Exception):
    """An answer that is an error; never leaves the homeserver as an exception."""

    def __init__(
        self, status: int, errcode: str, error: str, *, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.headers: dict[str, str] = {}
        self.body: dict[str, object] = {"errcode": errcode, "error": error}
        if errcode == "M_UNKNOWN_TOKEN":
            self.body["soft_logout"] = False
        if retry_after_ms is not None:
            self.body["retry_after_ms"] = retry_after_ms
            self.headers["retry-after"] = str(-(-retry_after_ms // 1000))


def forbidden(error: str) -> MatrixError:
    """403 `M_FORBIDDEN`."""
    return MatrixError(403, "M_FORBIDDEN", error)


def not_found(error: str) -> MatrixError:
    """404 `M_NOT_FOUND`."""
    return MatrixError(404, "M_NOT_FOUND", error)


class RateLimits:
    """Leaky buckets, one per limit and key; a bucket drains at the limit's rate.

    :param enabled: False lets everything through.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, name: str, key: str, now_s: float, *, count: bool = True) -> None:
        """Count one action.

        :param count: False only asks whether there is room.
        :raises MatrixError: 429 with the time after which there is room again.
        """
        if not self.enabled:
            return
        per_s, burst = DEFAULT_LIMITS[name]
        filled, since_s = self._buckets.get((name, key), (0.0, now_s))
        filled = max(0.0, filled - (now_s - since_s) * per_s)
        if filled > burst - 1:
            wait_ms = int((filled - burst + 1) / per_s * 1000) + 1
            raise MatrixError(429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=wait_ms)
        if count:
            self._buckets[name, key] = (filled + 1, now_s)
