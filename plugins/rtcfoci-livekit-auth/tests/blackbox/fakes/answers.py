"""What a fake answers, and what it remembers of the questions.

In: scripted answers, a record that tests wait on. Out: who listens (`hosting`).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aiohttp import web

__all__ = ["Answer", "Ledger", "Script"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: a status and a body, after a while, or none at all."""

    status: int = 200
    body: Any = None
    """Bytes go out as they are, anything else as JSON, and `None` as an empty JSON object."""
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    reset: bool = False
    """Close the connection in place of an answer."""
    effect: bool = False
    """Do what was asked in spite of what is answered: a server whose answer is lost, or that lies."""

    async def give(self, request: web.Request) -> web.Response:
        """Answer the request; `after_s=inf` never does."""
        if self.after_s:
            await asyncio.sleep(min(self.after_s, 3600.0))
        if self.reset:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body or {}).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        return web.Response(status=self.status, body=body, headers=headers)


class Script:
    """Answers for the next requests, one each; afterwards the standing one, if any."""

    def __init__(self) -> None:
        self._next: list[Answer] = []
        self._standing: Answer | None = None

    def then(self, *answers: Answer) -> None:
        self._next.extend(answers)

    def always(self, answer: Answer | None) -> None:
        self._standing = answer

    def take(self) -> Answer | None:
        """Give the answer for this request, or `None` for the fake's own."""
        return self._next.pop(0) if self._next else self._standing


class Ledger(Generic[T]):
    """Everything that came, in order; any thread may wait for more."""

    def __init__(self) -> None:
        self._entries: list[T] = []
        self._changed = threading.Condition(threading.RLock())

    def add(self, entry: T) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def all(self) -> list[T]:
        with self._changed:
            return list(self._entries)

    def take(self) -> list[T]:
        """Give everything and forget it."""
        with self._changed:
            entries, self._entries = self._entries, []
            return entries

    def __len__(self) -> int:
        return len(self._entries)

    def wait(self, count: int = 1, *, within_s: float = 5.0) -> list[T]:
        """Give everything once there are `count`; a test fails when that takes too long."""
        if not self.until(lambda: len(self._entries) >= count, within_s=within_s):
            raise AssertionError(
                f"{len(self._entries)} of {count} came within {within_s} s: {self._entries}"
            )
        return self.all()

    def until(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        """Wait until something holds that this ledger's growth may bring about."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True
