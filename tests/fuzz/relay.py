"""The parser of the relay: what its server passes on of others."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import cache
from types import SimpleNamespace

from rtcfoci_relay.backend import _Seat

from rtcfoci.errors import BackendError
from tests.fuzz import seeds
from tests.fuzz.harness import encoded, of_bytes


@of_bytes(lambda: map(encoded, seeds.relay_messages()), is_json=True)
def relay_message(data):
    """A message of the relay: data of a member of the call, or counted as malformed."""
    _loop().run_until_complete(_received(data.decode("utf-8", "replace")))


@cache
def _loop():
    return asyncio.new_event_loop()


class Socket:
    """A connection on which one message comes."""

    def __init__(self, text):
        self._texts = [text]

    async def receive(self):
        if not self._texts:
            raise BackendError("closed", why="it is over")
        return self._texts.pop()


async def _received(text):
    counted, emitted = Counter(), []
    seat = SimpleNamespace(
        socket=Socket(text),
        roster=set(seeds.MEMBERS),
        context=SimpleNamespace(
            now=lambda: SimpleNamespace(s=0.0), count=lambda what: counted.update([what])
        ),
        emit=emitted.append,
    )
    await _Seat._run(seat)
    assert len(emitted) + counted["malformed"] <= 1
    assert all(data.member in seat.roster and type(data.payload) is bytes for data in emitted)
