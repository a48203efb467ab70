"""One run: a homeserver, a network and devices in virtual time, a script done to them, and a verdict.

In: `run_script`, its course, its trace and outcome. Out: what is done (`script`, `faults`), what must hold
(`rules`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rtcfoci.plugin.manager import PluginManager
from rtcfoci.testing.accounts import Credentials
from rtcfoci.testing.clock import DeadlockError, VirtualClock, VirtualLoop
from rtcfoci.testing.homeserver import MemoryHomeserver
from rtcfoci.testing.simulation.device import Device
from rtcfoci.testing.simulation.faults import Mail, apply
from rtcfoci.testing.simulation.messages import Messages
from rtcfoci.testing.simulation.network import Network
from rtcfoci.testing.simulation.patience import EndlessError, patience
from rtcfoci.testing.simulation.recovery import LOOK_S, Recovery
from rtcfoci.testing.simulation.rules import SETTLE_S, Broken, Rules
from rtcfoci.testing.simulation.script import Script
from rtcfoci.testing.synapse_config import SynapseOptions

__all__ = ["FOCUS", "Note", "Outcome", "World", "run_script"]

FOCUS = "rtcfoci_mesh.simulated:rtcfoci.mesh.simulated"
"""Where the focus type comes from, and its name: `module:type`."""

_HOLD_S = 1.5
"""How long what has settled must stay so."""
_LEAVE_S = 25.0
"""Within this time everybody who leaves has left, whatever went on before."""
_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a trace."""

    at_s: float
    who: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.at_s:9.3f} {self.who:10} {self.what} {self.detail}".rstrip()


@dataclass(slots=True)
class Outcome:
    """What became of a run."""

    script: Script
    notes: list[Note] = field(default_factory=list, repr=False)
    broken: list[Broken] = field(default_factory=list)
    """Rules that were broken, first the first."""
    settled_s: float = 0.0
    """How long it took, after the last step, until everything was well."""
    member_s: float = 0.0
    """The longest that somebody was no member although its homeserver was there."""
    together_s: float = 0.0
    """The longest that a pair was apart although all was well for it."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often each kind of step was done."""

    @property
    def digest(self) -> str:
        """The whole trace in one word."""
        return hashlib.sha256("\n".join(map(str, self.notes)).encode()).hexdigest()


class World:
    """Everything of one run."""

    def __init__(
        self, script: Script, loop: VirtualLoop, plugins: PluginManager, focus: str
    ) -> None:
        self.script = script
        self.loop = loop
        self.clock: VirtualClock = loop.clock
        self.plugins = plugins
        self.focus = focus
        self.config: Mapping[str, object] = {
            "max_video_members": min(8, script.seats),
            "max_audio_members": script.seats,
            "ping_s": 5.0,
        }
        self.outcome: Outcome = Outcome(script)
        self.network: Network = Network(script.salt, self.note)
        self._random = random.Random(f"{script.salt} homeserver")
        self.homeserver: MemoryHomeserver = MemoryHomeserver(
            SynapseOptions(default_rate_limits=script.limits), random_bytes=self._random.randbytes
        )
        self.mail: Mail = Mail(self)
        self.homeserver.devices.hook = self.mail
        self.rules: Rules = Rules(self)
        self.recovery: Recovery = Recovery(self)
        self.messages: Messages = Messages(self)
        self.devices: list[Device] = []
        self.room_id: str = ""
        self.outages: int = 0
        self._start_s = self.clock.s
        self._spawned: set[asyncio.Task[None]] = set()

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self.clock.s - self._start_s

    def note(self, who: str, what: str, detail: str = "") -> None:
        """Add a line to the trace."""
        self.outcome.notes.append(Note(round(self.now_s, 3), who, what, detail))

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Do something beside the script; what it raises breaks a rule."""
        task = self.loop.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawn_done)

    def unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take note of what nobody else takes: asyncio's exception handler."""
        self.rules.failed(str(context.get("message")), context.get("exception"))

    def _spawn_done(self, task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.rules.failed("a request of the application failed", task.exception())

    async def run(self) -> None:
        """Do the script, wait until all is well, look closely, and have everybody leave."""
        await self._furnish()
        begin_s = self.clock.s
        self._start_s = begin_s
        for step in self.script.steps:
            self.loop.call_at(begin_s + step.at_s, apply, self, step)
            self.outcome.counts[step.do] += 1
        while self.clock.s < begin_s + self.script.end_s:
            await asyncio.sleep(LOOK_S)
            self.recovery.look()
        self.note("", "all faults are over")
        settled = await self._settle()
        self.outcome.member_s = self.recovery.member_s
        self.outcome.together_s = self.recovery.together_s
        if settled:
            await self.rules.probe()
        await self._disperse()

    async def _furnish(self) -> None:
        room_id, people = "", []
        for number in range(self.script.devices):
            person = await self.homeserver.register(chr(ord("a") + number), "secret")
            if not room_id:
                room_id = await self.homeserver.create_room(person.access_token)
            else:
                await self._enter(person, room_id)
            people.append(person)
        self.room_id = room_id
        self.devices = [Device(self, number, person) for number, person in enumerate(people)]

    async def _enter(self, person: Credentials, room_id: str) -> None:
        await self.homeserver.join_room(person.access_token, room_id)

    async def _settle(self) -> bool:
        """Wait until nothing is amiss and stays so."""
        begin_s = self.clock.s
        well_since_s: float | None = None
        while True:
            amiss = self.rules.amiss()
            if amiss:
                well_since_s = None
                if self.clock.s > begin_s + SETTLE_S:
                    for broken in amiss:
                        self.rules.break_(broken.rule, broken.detail)
                    return False
            elif well_since_s is None:
                well_since_s = self.clock.s
                self.outcome.settled_s = well_since_s - begin_s
            elif self.clock.s >= well_since_s + _HOLD_S:
                self.note("", "all is well")
                return True
            await asyncio.sleep(LOOK_S)
            self.recovery.look()

    async def _disperse(self) -> None:
        """Have everybody leave; nothing may be left of the call, neither here nor on the homeserver."""
        for device in self.devices:
            device.leave()
        tasks = [process.task for device in self.devices for process in device.processes]
        if tasks:
            await asyncio.wait(tasks, timeout=_LEAVE_S)
        await asyncio.sleep(1.0)
        self.rules.empty(asyncio.current_task())


def run_script(script: Script, *, focus: str = FOCUS) -> Outcome:
    """Do a script and give back what became of it; the same each time.

    :param focus: `module:type` of a focus type over a simulated engine.
    :raises UsageError: when there is none.
    """
    module, _, kind = focus.partition(":")
    _plugins(module).focus_type(kind)
    loop = VirtualLoop(limit_s=_LIMIT_S)
    world = World(script, loop, _plugins(module), kind)
    try:
        with (
            patience(),
            _complaints(world),
            asyncio.Runner(loop_factory=lambda: loop) as runner,
        ):
            runner.get_loop().set_exception_handler(world.unhandled)
            runner.run(world.run())
    except DeadlockError as error:
        world.rules.break_("deadlock", str(error))
    except EndlessError as error:
        # What it still did when it was stopped says nothing.
        world.outcome.broken[:] = [Broken("endless", str(error))]
    return world.outcome


@cache
def _plugins(module: str) -> PluginManager:
    return PluginManager.load(plugins=(module,))


class _Complaints(logging.Handler):
    """An error in the log is a broken rule: nothing that is injected here is one."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._world.rules.failed(f"logged: {record.getMessage()}", error)


@contextmanager
def _complaints(world: World) -> Iterator[None]:
    log = logging.getLogger("rtcfoci")
    handler, level, spreads = _Complaints(world), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = spreads
