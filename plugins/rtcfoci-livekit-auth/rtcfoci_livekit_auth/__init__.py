"""The authorisation service of a LiveKit focus.

In: nothing yet that a program imports; the service is a command. Out: the focus type itself.
"""

from __future__ import annotations

__all__: list[str] = []
