"""Delegated delayed leaves: who asked us to watch over their leave is made to leave when they are gone.

In: the machine of one leave (`job`), what drives many (`engine`, `lanes`), the homeserver's delayed events
(`delayed_events`), and what survives a restart (`store`, `sqlite`, `redis`); `model` has the values between
them. Out: HTTP towards clients, webhooks, and where homeservers and SFUs are.

Import the modules, not this package: the stores load what only they need.
"""

from __future__ import annotations

__all__: list[str] = []
