"""The service behind its homeserver (MSC4512, as Synapse 1.163.2 has it; MSC4195, text of 2026-09).

In: what the homeserver passes on from clients and other servers (`endpoints`, `requests`), what we ask it
(`homeserver`), participants who have left the Matrix room (`leavers`), all of it together (`behind`), the
registration file (`registration`). Out: granting itself, which is the same for everybody.
"""

from __future__ import annotations

__all__: list[str] = []
