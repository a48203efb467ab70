"""D2: one state event per device, everybody on the focus of the oldest member (2024-06 on).

In: `focus_selection: oldest_membership`. Out: everything it shares with D3 (`state`).
"""

from __future__ import annotations

from rtcfoci.core.dialects.state import StateDialect
from rtcfoci.core.model import FocusSelection

__all__ = ["D2"]


class D2(StateDialect):
    """Session memberships, oldest membership."""

    name = "D2"
    _selection = FocusSelection.OLDEST_MEMBERSHIP
    _selection_name = "oldest_membership"
