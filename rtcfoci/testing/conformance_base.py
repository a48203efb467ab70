"""What the parts of the backend suite share: the author's hooks, and how to wait.

In: hooks, skips, the stage fixture, waiting for media and data. Out: the tests (`conformance`,
`conformance_media`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import ClassVar

import pytest
import pytest_asyncio

from rtcfoci.core.model import JsonObject, Slot
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import LocalTrack
from rtcfoci.plugin.events import DataReceived
from rtcfoci.plugin.hookspecs import Capabilities, FocusType
from rtcfoci.plugin.stats import PairStats
from rtcfoci.testing.stage import Participant, Stage

__all__ = ["ConformanceBase", "check_figures", "data_of"]

_QUIET_S = 0.5


@pytest.mark.asyncio
class ConformanceBase:
    """What an author gives: the focus type, its configuration, and how to break it."""

    focus_type: ClassVar[FocusType]
    wait_s: ClassVar[float] = 10.0
    """How long anything may take to arrive."""
    answers: ClassVar[Mapping[tuple[str, str], JsonObject]] = {}
    """What the homeserver says, by (method, path)."""

    def config(self, name: str) -> JsonObject:
        """Give the configuration of the participant of that name."""
        return {}

    def unreachable(self) -> JsonObject | None:
        """Give a transport that leads nowhere, where the type has such a thing."""
        return None

    async def freeze(self, stage: Stage, who: Participant) -> None:
        """Make the focus of `who` (in a mesh: `who`) silent, without closing anything."""

    async def thaw(self, stage: Stage, who: Participant) -> None:
        """Undo `freeze`."""

    async def kill(self, stage: Stage, who: Participant) -> None:
        """End the focus of `who` (in a mesh: `who`) at once."""

    def open_stage(self, *, encrypted: bool = False, slot: Slot | None = None) -> Stage:
        """Make a stage for this type; used as an asynchronous context manager."""
        return Stage(
            self.focus_type,
            self.config,
            encrypted=encrypted,
            wait_s=self.wait_s,
            answers=self.answers,
            slot=slot,
        )

    @pytest_asyncio.fixture
    async def stage(self) -> AsyncIterator[Stage]:
        """A stage that checks at its end that nothing was left behind."""
        async with self.open_stage() as stage:
            yield stage

    @property
    def can(self) -> Capabilities:
        return self.focus_type.capabilities

    def needs(self, able: object, what: str) -> None:
        """Skip where the type cannot do it."""
        if not able:
            pytest.skip(f"the focus type has no {what}")

    def needs_hook(self, name: str) -> None:
        """Skip where the author gave no such hook."""
        if getattr(type(self), name) is getattr(ConformanceBase, name):
            pytest.skip(f"the suite was given no {name}()")

    async def publish(
        self, stage: Stage, alice: Participant, bob: Participant, kind: Kind | None = None
    ) -> LocalTrack:
        """Set keys, publish a fed track, wait until it flows."""
        await stage.exchange_keys(alice, bob)
        track = stage.source(alice, kind or stage.kinds()[0])
        await alice.connection.publish(track)
        await self.flows(stage, bob, track)
        return track

    async def flows(self, stage: Stage, who: Participant, track: LocalTrack) -> None:
        """Wait until a track's frames go on coming."""
        enough = who.heard(track.track_id) + 5
        what = f"{track.track_id} flows to {who.name}"
        await stage.until(lambda: who.heard(track.track_id) >= enough, what)

    async def quiet(self, stage: Stage, who: Participant, track: LocalTrack) -> None:
        """Wait until a track's frames no longer come."""
        end_s = asyncio.get_running_loop().time() + stage.wait_s
        while True:
            before = who.heard(track.track_id)
            await asyncio.sleep(_QUIET_S)
            if who.heard(track.track_id) == before:
                return
            late = asyncio.get_running_loop().time() > end_s
            assert not late, f"{track.track_id} goes on flowing to {who.name}"

    async def connected(self, stage: Stage, alice: Participant, bob: Participant) -> None:
        """Wait until something of alice comes to bob: data where there is, else media."""
        if not self.can.data:
            await self.publish(stage, alice, bob)
            return
        loop = asyncio.get_running_loop()
        end_s, before = loop.time() + stage.wait_s, len(data_of(bob, "hello"))
        while len(data_of(bob, "hello")) == before:
            assert loop.time() < end_s, f"{alice.name} and {bob.name} do not meet"
            try:
                await alice.connection.send_data(b"hello", topic="hello", reliable=True)
            except BackendError as error:
                if not error.retryable:  # it is not there yet, and may say so, but not "never"
                    raise
            await asyncio.sleep(0.1)

    async def still_connected(self, stage: Stage, alice: Participant, bob: Participant) -> None:
        """Wait until something more of alice comes to bob."""
        if self.can.data:
            await self.connected(stage, alice, bob)
        else:
            before = sum(map(len, bob.frames.values()))
            await stage.until(lambda: sum(map(len, bob.frames.values())) > before + 5, "media")


def check_figures(pair: PairStats) -> None:
    """Fail for figures that nobody could show: wrong units, impossible values."""
    assert pair.state, "a pair without a state"
    for part in fields(pair):
        value = getattr(pair, part.name)
        if isinstance(value, int | float):
            assert math.isfinite(value), f"{part.name} is {value}"
            assert value >= 0, f"{part.name} is {value}: what is not known is None"
            if part.name.endswith("_ratio"):
                assert value <= 1, f"{part.name} is {value}: a ratio, not per cent"
    for name, extra in pair.extras.items():
        assert isinstance(extra, int | float | str), f"{name} is neither a number nor text"
    if pair.path is not None:
        ends = {pair.path.local, pair.path.remote}
        assert ends <= {"host", "srflx", "prflx", "relay"}, f"{pair.path} is not of ICE"
        assert pair.path.protocol in {"udp", "tcp"}, f"{pair.path} is neither udp nor tcp"
    hidden = (pair.frames_concealed or 0) - (pair.frames_received or 0)
    assert hidden <= 0, "more frames were concealed than there were"


def data_of(who: Participant, topic: str) -> list[DataReceived]:
    """The messages of a topic that came to somebody."""
    return [event for event in who.told(DataReceived) if event.topic == topic]
