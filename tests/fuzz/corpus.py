"""What a hunt has learnt: all of it, and of each parser the least that takes every edge.

In: the folder beside the environments of tox, and the files of tests/fuzz/corpus: one line of JSON for an
input, bytes as the characters of the same number. Out: hunting and choosing the least (`run`), what a hunt
has cost (`account`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tests.fuzz.harness import Harness

HERE = Path(__file__).parent
FOUND = HERE / "found"
KEPT = HERE / "corpus"
LEARNT = HERE.parents[1] / ".tox" / "fuzz-learnt"
_MOST_BYTES = 24_000
"""Of one parser; the shortest inputs are kept. A hunt finds the edges of the others again."""


def kept(name: str) -> Iterator[bytes]:
    """Yield the least that takes every edge, and what broke the parser before."""
    path = KEPT / f"{name}.jsonl"
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            yield json.loads(line).encode("latin-1")
    for found in sorted((FOUND / name).glob("*")):
        yield found.read_bytes()


def keep(harness: Harness, folder: str) -> str:
    """Keep what is in a folder and no seed; say how much that is."""
    inputs = {path.read_bytes() for path in Path(folder).iterdir()} - set(harness.seeds())
    lines = (json.dumps(data.decode("latin-1")) + "\n" for data in inputs)
    kept, room = [], _MOST_BYTES
    for line in sorted(lines, key=lambda line: (len(line), line)):
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{harness.name}.jsonl").write_text("".join(kept), encoding="ascii")
    return f"{len(kept)} of {len(inputs)} inputs, {sum(map(len, kept)):,} bytes"


def folder(harness: Harness) -> Path:
    """Give the folder of all that was learnt, with what is kept in it."""
    held = LEARNT / harness.name
    held.mkdir(parents=True, exist_ok=True)
    for data in (*harness.seeds(), *kept(harness.name)):
        (held / sha256(data).hexdigest()[:16]).write_bytes(data)
    return held
