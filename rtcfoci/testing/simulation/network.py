"""The network between participants, as it lets packets pass.

In: how long a packet is on its way, which paths are cut, who is dead. Out: what packets carry (the
engine), the way to the homeserver (`uplink`).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

__all__ = ["Network", "Port"]

_LEAST_DELAY_S = 0.004
_MOST_DELAY_S = 0.09


class Port:
    """One process's place in the network: it dies with it."""

    def __init__(self, network: Network, device: str, number: int) -> None:
        self.network = network
        self.device = device
        self.alive: bool = True
        self.endpoints: dict[str, Any] = network.endpoints
        self._random = random.Random(f"{network.salt} {device} {number}")

    def __repr__(self) -> str:
        return f"<Port of {self.device}>"

    def reaches(self, other: Port) -> bool:
        """Tell whether a packet sent now to another port arrives."""
        path = (self.device, other.device)
        return self.alive and other.alive and not self.network.cuts[path]

    def delay_s(self, other: Port) -> float:
        """Give how long it is on its way."""
        return self.network.delay_s(self.device, other.device)

    def random_bytes(self, count: int) -> bytes:
        """Give random bytes, the same in every run."""
        return self._random.randbytes(count)

    def stands(self, other: Port, connected: bool) -> None:
        """Take note that a connection to another port stands, or is over, on this side."""
        if self.alive:
            self.network.note(self.device, "connects" if connected else "disconnects", other.device)


class Network:
    """Paths between devices, by (sender, receiver).

    :param salt: from which the delays follow.
    :param note: takes a line for the trace: who, what, and with whom.
    """

    def __init__(self, salt: int, note: Callable[[str, str, str], None]) -> None:
        self.salt = salt
        self.note = note
        self.cuts: Counter[tuple[str, str]] = Counter()
        """How many cuts each path has now."""
        self.endpoints: dict[str, Any] = {}
        """Connections that are not closed, by address."""
        self._delays_s: dict[tuple[str, str], float] = {}

    def delay_s(self, sender: str, receiver: str) -> float:
        """Give how long a packet is on its way."""
        path = (sender, receiver)
        delay_s = self._delays_s.get(path)
        if delay_s is None:
            digest = hashlib.sha256(f"{self.salt} {sender} {receiver}".encode()).digest()
            share = int.from_bytes(digest[:4]) / 2**32
            delay_s = _LEAST_DELAY_S + share * (_MOST_DELAY_S - _LEAST_DELAY_S)
            self._delays_s[path] = delay_s = round(delay_s, 6)
        return delay_s
