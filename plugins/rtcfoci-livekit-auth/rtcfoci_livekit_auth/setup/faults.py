"""One thing that is wrong in a configuration, and how it is told.

In: `Fault`. Out: what is looked at (`check`, `introduction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "mapping"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    code: str
    where: str
    """The file or variable."""
    what: str
    remedy: str
    fatal: bool = True
    """Calls do not work with it; otherwise some of them do."""

    def __str__(self) -> str:
        mark = "FAIL" if self.fatal else "WARN"
        return f"{mark} {self.where}: {self.what}\n     do: {self.remedy}"


def mapping(value: object) -> Mapping[str, Any]:
    """Give a value where it is a table, else an empty one."""
    return value if isinstance(value, Mapping) else {}
