"""What a hop found, in words that an operator can act on.

In: verdicts, and the case that hops share. Out: how they are found (the hops) and shown (`command`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcfoci_livekit_auth.doctor.web import Web

__all__ = ["Case", "State", "Verdict", "failed", "not_checked", "ok", "warning"]


class State(Enum):
    """How a hop is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not for everybody or not for long."""
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one hop found."""

    state: State
    code: str
    """Stable, such as `key_mismatch`; `ok` where nothing is wrong."""
    what: str
    """What was seen, one line."""
    cause: str = ""
    remedy: str = ""
    hop: str = ""
    took_ms: int = 0

    def to_json(self) -> dict[str, object]:
        """Give the form that `--json` prints."""
        return {
            "hop": self.hop,
            "state": self.state.value,
            "code": self.code,
            "what": self.what,
            "cause": self.cause,
            "remedy": self.remedy,
            "took_ms": self.took_ms,
        }


def ok(what: str) -> Verdict:
    """Nothing is wrong."""
    return Verdict(state=State.OK, code="ok", what=what)


def warning(code: str, what: str, *, cause: str, remedy: str) -> Verdict:
    """It works, with a reservation."""
    return Verdict(state=State.WARNING, code=code, what=what, cause=cause, remedy=remedy)


def failed(code: str, what: str, *, cause: str, remedy: str) -> Verdict:
    """Nothing that builds on this hop can work."""
    return Verdict(state=State.FAILED, code=code, what=what, cause=cause, remedy=remedy)


def not_checked(code: str, what: str, *, remedy: str = "") -> Verdict:
    """Nobody knows."""
    return Verdict(state=State.NOT_CHECKED, code=code, what=what, remedy=remedy)


@dataclass(slots=True, kw_only=True)
class Case:
    """One deployment, and what the hops have learnt of it so far.

    A hop reads what earlier hops have found and adds what it finds.
    """

    web: Web
    server_name: str
    """Of the homeserver, as in user ids."""
    base_url: str = ""
    """Of the homeserver's client-server API; given, or found by discovery."""
    user_id: str = ""
    password: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    device_id: str = ""
    logged_in_here: bool = False
    """The token is of a login of our own, which ends with us."""
    service_url: str = ""
    """Of the authorisation service; given, or as the homeserver advertises it."""
    features: frozenset[str] = frozenset()
    """Unstable features that the homeserver names."""
    room_id: str = ""
    """A private room of our own."""
    sfu_url: str = ""
    jwt: str = field(default="", repr=False)
    claims: dict[str, Any] = field(default_factory=dict)
    """Of the token, unverified: who signed it is the SFU's affair."""
    timeout_s: float = 10.0
    """The most that one answer may take."""

    def client_url(self, path: str) -> str:
        """Give the URL of a path of the client-server API, such as `v3/account/whoami`."""
        return f"{self.base_url}/_matrix/client/{path}"
