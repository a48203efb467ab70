"""D3: one state event per device, each publishes on its own focus (2025-10 on).

In: `focus_selection: multi_sfu`, and every other value that is not D2's. Out: everything it shares
with D2 (`state`).
"""

from __future__ import annotations

from rtcfoci.core.dialects.state import StateDialect
from rtcfoci.core.model import FocusSelection

__all__ = ["D3"]


class D3(StateDialect):
    """Session memberships, multi-SFU: what Element Call sends by default and Element X reads."""

    name = "D3"
    _selection = FocusSelection.OWN
    _selection_name = "multi_sfu"
