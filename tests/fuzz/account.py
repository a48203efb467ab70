"""The account of a hunt: what each parser has cost, and for how long it has brought nothing new.

In: processor time from when a parser's known inputs have been gone through, inputs, edges of our code; kept
in a file. Out: whose turn it is, and when to end (`run`).

An edge counts once: one that is there when a turn begins, or was there before, is not new. When the code has
changed all edges are others, so the clocks begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.corpus import LEARNT

PACKAGES = ("rtcfoci", "rtcfoci_mesh", "rtcfoci_relay", "rtcfoci_livekit_auth")
"""Whose edges count."""
_FILE = LEARNT / "account.json"


@dataclass(slots=True)
class Entry:
    """One parser."""

    hunted_s: float = 0.0
    inputs: int = 0
    edges: int = 0
    last_s: float = 0.0
    """When its last new edge came, in seconds of its own hunt."""
    turns: int = 0
    broke: int = 0


@dataclass(slots=True)
class Account:
    """All of them."""

    code: str
    quiet_s: float = 0.0
    """Processor time, of whatever parser, since the last new edge of any."""
    entries: dict[str, Entry] = field(default_factory=dict)
    _turn: Entry = field(default_factory=Entry)

    @classmethod
    def load(cls) -> Account:
        """Read the account, or open one."""
        code = _code()
        if _FILE.exists():
            held = json.loads(_FILE.read_text())
            if held["code"] == code:
                entries = {name: Entry(**entry) for name, entry in held["entries"].items()}
                return cls(code, held["quiet_s"], entries)
        return cls(code)

    def save(self) -> None:
        """Write it."""
        entries = {name: asdict(entry) for name, entry in self.entries.items()}
        held = {"code": self.code, "quiet_s": self.quiet_s, "entries": entries}
        _FILE.write_text(json.dumps(held, indent=1))

    def quiet_of_s(self, name: str) -> float:
        """Tell for how long a parser has brought nothing new."""
        entry = self.entries.get(name, Entry())
        return entry.hunted_s - entry.last_s

    def begins(self, name: str, edges: int) -> None:
        """Take note that a turn begins, with the edges that its known inputs take."""
        entry = self.entries.setdefault(name, Entry())
        entry.edges = max(entry.edges, edges)
        self._turn = Entry(edges=entry.edges)

    def hunts(self, name: str, hunted_s: float, inputs: int, edges: int = 0) -> None:
        """Take note of where a turn stands."""
        turn = self._turn
        turn.hunted_s, turn.inputs = hunted_s, inputs
        if edges > turn.edges:
            turn.edges, turn.last_s = edges, hunted_s

    def ends(self, name: str, *, broke: bool = False) -> None:
        """Enter a turn."""
        entry, turn = self.entries.setdefault(name, Entry()), self._turn
        if turn.edges > entry.edges:
            entry.edges, entry.last_s = turn.edges, entry.hunted_s + turn.last_s
            self.quiet_s = turn.hunted_s - turn.last_s
        else:
            self.quiet_s += turn.hunted_s
        entry.hunted_s += turn.hunted_s
        entry.inputs += turn.inputs
        entry.turns += 1
        entry.broke += broke
        self._turn = Entry()

    def line(self, name: str) -> str:
        """Show one parser, and for how long all have been quiet."""
        e = self.entries[name]
        return (
            f"{name:18} {e.hunted_s:8.0f} s {e.inputs:12,} inputs {e.edges:6,} edges, "
            f"the last at {e.last_s:6.0f} s; all quiet for {self.quiet_s:5.0f} s"
        )

    def table(self, names: Iterable[str]) -> str:
        """Show all, as a table."""
        rows = [
            f"| `{name}` | {e.hunted_s:,.0f} | {e.inputs:,} | {e.edges:,} | {e.last_s:,.0f} |"
            for name in names
            if (e := self.entries.get(name)) is not None
        ]
        head = "| parser | s | inputs | edges | the last new one at, s |\n|---|--:|--:|--:|--:|"
        total = sum(entry.hunted_s for entry in self.entries.values())
        inputs = sum(entry.inputs for entry in self.entries.values())
        end = (
            f"{total:,.0f} s of processor time, {inputs:,} inputs; quiet for {self.quiet_s:,.0f} s"
        )
        return "\n".join([head, *rows, "", end])


def _code() -> str:
    """Tell one state of the parsers from another."""
    digest = sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec is not None else ():
            for path in sorted(Path(place).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()
