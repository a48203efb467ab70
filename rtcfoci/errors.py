"""Every exception rtcfoci raises, importable from anywhere in the house.

In: the tree of errors, each carrying three lines: what happened, why, and what to do about it.
Out: health that changes over time, which is a condition (`rtcfoci.core.conditions`).

::

    RtcfociError
    ├── UsageError              the caller or the command line asked for something that cannot be
    ├── LocalProtocolError      a core machine was driven in a way its table forbids
    ├── RemoteProtocolError     a remote event is malformed; holds every problem, not the first
    ├── SelectionError          no focus can be chosen
    ├── MediaError              a source, sink or frame is unusable
    ├── BackendError            a focus backend failed; says whether a retry can help
    ├── PluginError             a plugin failed to load or broke its contract
    ├── PreflightError          a join would fail; holds every finding
    └── ClientError             the homeserver refused or could not be reached
        ├── UnreachableError    no answer at all
        └── UntrustedError      a device is not cross-signed, and the message is for none other

Third-party exceptions never cross our boundaries: they are mapped to one of these where they arise.
Messages never contain access tokens, media keys or delay ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BackendError",
    "ClientError",
    "LocalProtocolError",
    "MediaError",
    "PluginError",
    "PreflightError",
    "Problem",
    "RemoteProtocolError",
    "RtcfociError",
    "SelectionError",
    "UnreachableError",
    "UntrustedError",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one input, with a stable code that tests and tools can rely on."""

    code: str
    """Stable snake_case identifier, such as `missing_field`."""
    message: str
    """Words a person understands; names the field."""


class RtcfociError(Exception):
    """Root of all errors: three lines for a person.

    :param what: what happened, one sentence.
    :param why: the cause, as far as it is known.
    :param do: the remedy.
    """

    def __init__(self, what: str, *, why: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.do) if line)


class UsageError(RtcfociError):
    """The caller asked for something that cannot be; nothing was sent."""


class LocalProtocolError(RtcfociError):
    """A core machine was given an input its table does not allow in its present state."""


class RemoteProtocolError(RtcfociError):
    """A remote event cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, what: str, problems: Sequence[Problem], *, do: str = "") -> None:
        super().__init__(what, why="; ".join(p.message for p in problems), do=do)
        self.problems: tuple[Problem, ...] = tuple(problems)


class SelectionError(RtcfociError):
    """No focus can be chosen from what the members and this participant offer."""


class MediaError(RtcfociError):
    """A source, sink, recording or frame cannot be used."""


class BackendError(RtcfociError):
    """A focus backend failed.

    :param retryable: whether the same request may succeed later without any change.
    """

    def __init__(self, what: str, *, why: str = "", do: str = "", retryable: bool = False) -> None:
        super().__init__(what, why=why, do=do)
        self.retryable = retryable


class PluginError(RtcfociError):
    """A plugin could not be loaded, or broke its contract.

    :param plugin: the entry point's name or `module:attribute`.
    :param distribution: the distribution that provides it, empty when unpackaged.
    """

    def __init__(
        self, what: str, *, plugin: str, distribution: str = "", why: str = "", do: str = ""
    ) -> None:
        super().__init__(what, why=why, do=do)
        self.plugin = plugin
        self.distribution = distribution


class PreflightError(RtcfociError):
    """A join was refused before anything was sent; `findings` holds every reason found."""

    def __init__(self, findings: Sequence[RtcfociError]) -> None:
        first = findings[0]
        super().__init__(
            "; ".join(f.what for f in findings),
            why="; ".join(f.why for f in findings if f.why),
            do="; ".join(f.do for f in findings if f.do) or first.do,
        )
        self.findings: tuple[RtcfociError, ...] = tuple(findings)


class ClientError(RtcfociError):
    """The homeserver refused a request.

    :param status: HTTP status.
    :param errcode: Matrix error code, such as `M_FORBIDDEN`; empty when there was none.
    :param retry_after_ms: how long the server asks to wait, milliseconds.
    :param body: the plain fields of the error body, for codes that carry details.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int,
        errcode: str = "",
        retry_after_ms: int | None = None,
        body: dict[str, object] | None = None,
        why: str = "",
        do: str = "",
    ) -> None:
        super().__init__(what, why=why, do=do)
        self.status = status
        self.errcode = errcode
        self.retry_after_ms = retry_after_ms
        self.body: dict[str, object] = body or {}


class UnreachableError(ClientError):
    """The homeserver gave no answer: refused, reset, timed out, or not HTTP."""

    def __init__(self, what: str, *, why: str = "", do: str = "") -> None:
        super().__init__(what, status=0, why=why, do=do)


class UntrustedError(ClientError):
    """A message was not sent: it is for a cross-signed device, which this one is not."""

    WHY = "it is not cross-signed by the identity that was first seen of its user"

    def __init__(self, what: str, *, why: str = WHY, do: str = "") -> None:
        super().__init__(what, status=0, why=why, do=do)
