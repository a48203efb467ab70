"""The conditions of the mesh's own, beside those that every focus type shares.

In: what each says and what to do about it. Out: who notices (`connection`, `peer`).
"""

from __future__ import annotations

from rtcfoci.core.conditions import ConditionKind
from rtcfoci.plugin import ConditionRaised

__all__ = ["DATA_LOST", "FULL", "KINDS", "LAGGING", "NO_CONCEALMENT", "UNSENT", "raised"]

FULL = ConditionKind(
    code="mesh_full",
    what="A member does not fit into the mesh: nothing comes from it, nor from others to it.",
    remedy="Wait until somebody leaves, or use a focus type with a server for larger calls.",
)
LAGGING = ConditionKind(
    code="mesh_lagging",
    what="This machine is too slow for the media of this call.",
    remedy="Publish less, or use a focus type with a server.",
)
NO_CONCEALMENT = ConditionKind(
    code="mesh_no_concealment",
    what="Sound that is lost on the way is replaced by silence.",
    remedy="Install libopus (Debian: libopus0; macOS: brew install opus), or PyAV as a wheel.",
)
DATA_LOST = ConditionKind(
    code="mesh_data_lost",
    what="Messages to all were not kept for a member that cannot be reached.",
    remedy="Send what it needs again once this is cleared.",
)
UNSENT = ConditionKind(
    code="mesh_track_unsent",
    what="A track of ours cannot be encoded: nobody gets it.",
    remedy="Nothing to do at first: it is tried again every second. If it stays, publish another track.",
)
KINDS = (FULL, DATA_LOST, LAGGING, UNSENT, NO_CONCEALMENT)
"""Every code of the mesh's own; the page of conditions is made from them."""


def raised(kind: ConditionKind, cause: str, subject: str = "") -> ConditionRaised:
    """Say that one of them holds."""
    return ConditionRaised(kind.code, cause, subject, what=kind.what, remedy=kind.remedy)
