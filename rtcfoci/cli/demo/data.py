"""The verdict on data: what each receiver wrote down of every sender's numbered messages.

In: reading the files that `rtcfoci join --count-data --record` writes. Out: sound and pictures
(`rtcfoci.media.verdict`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations
from pathlib import Path

__all__ = ["judge_data"]

_LEAST = 10


def judge_data(folder: Path, names: Sequence[str]) -> Iterator[tuple[bool, str, str]]:
    """Say for every pair whether the sender's numbers arrived, in order and without a gap."""
    for receiver, sender in permutations(names, 2):
        label = f"{receiver} <- {sender}"
        numbers = _numbers(folder / receiver / f"{sender}.jsonl")
        missing = sum(b != a + 1 for a, b in pairwise(numbers))
        if len(numbers) < _LEAST:
            yield False, label, f"only {len(numbers)} messages"
        elif missing:
            yield False, label, f"{missing} gaps in {len(numbers)} messages"
        else:
            yield True, label, f"{len(numbers)} messages, {numbers[0]} to {numbers[-1]}"


def _numbers(path: Path) -> list[int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    numbers = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a killed process
        if isinstance(record, dict) and isinstance(record.get("n"), int):
            numbers.append(record["n"])
    return numbers
