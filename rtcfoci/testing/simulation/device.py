"""A participant: a device that is in the call or not, and the processes it runs for that, one at a time.

In: joining as an application does, again and again until told to leave; publishing; being killed.
Out: what it is told to do and when (`faults`), what must be true of it (`rules`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rtcfoci.call import events as ev
from rtcfoci.call.call import Call
from rtcfoci.call.join import join
from rtcfoci.core.model import Member, Now
from rtcfoci.errors import RtcfociError
from rtcfoci.matrix.cs import CsClient
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack
from rtcfoci.testing.accounts import Credentials
from rtcfoci.testing.simulation.network import Port
from rtcfoci.testing.simulation.uplink import Uplink, Weather

if TYPE_CHECKING:
    from rtcfoci.testing.simulation.world import World

__all__ = ["Device", "Process"]

_RETRY_S = 2.0
"""After how long an application whose join failed tries again."""


class Process:
    """One life of a device's application: it joins until it leaves or is killed."""

    def __init__(self, device: Device, number: int) -> None:
        self.device = device
        self.port: Port = Port(device.world.network, device.name, number)
        self.uplink: Uplink = Uplink(device.world.homeserver, device.weather)
        self.call: Call | None = None
        """The call, while it is in one."""
        self.leaving: bool = False
        self.tracks: dict[Kind, LocalTrack] = {}
        self.received: list[str] = []
        """Data that came."""
        self.missed_s: dict[Member, float] = {}
        """When it last saw a member go."""
        self.lost_s: dict[Member, float] = {}
        """When it last lost a track of a member."""
        self._stop = asyncio.Event()
        self.uplink.changed()
        self.task: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"{self}")

    def __repr__(self) -> str:
        return f"<process of {self.device.name}>"

    @property
    def stays(self) -> bool:
        """Whether it is to be in the call for good."""
        return self.port.alive and not self.leaving

    def leave(self) -> None:
        """Leave as an application does: by ending the block, or by being cancelled while it joins."""
        self.leaving = True
        if self.call is None:
            self.task.cancel()
        self._stop.set()

    def die(self) -> None:
        """Be killed: what its code still does reaches nobody."""
        self.port.alive = False
        self.uplink.die()
        self.task.cancel()

    async def show(self) -> None:
        """Bring what is published into line with what the device shall publish."""
        call = self.call
        if call is None:
            return
        for kind, muted in self.device.media.items():
            track = self.tracks.get(kind)
            if track is None:
                track = self.tracks[kind] = await call.publish(FrameHub(kind))
            if track.muted != muted:
                await call.mute(track, muted)
        for kind in [kind for kind in self.tracks if kind not in self.device.media]:
            await call.unpublish(self.tracks.pop(kind))

    async def _run(self) -> None:
        while self.stays:
            device, world = self.device, self.device.world
            client = CsClient(
                self.uplink,
                homeserver_url=world.homeserver.base_url,
                user_id=device.person.user_id,
                device_id=device.person.device_id,
                access_token=device.person.access_token,
                wall_ts_ms=self._wall_ts_ms,
                random_bytes=self.port.random_bytes,
            )
            try:
                await self._take_part(client)
            except RtcfociError as error:
                if self.port.alive:
                    world.note(device.name, "failed", f"{error.what}: {error.why}")
            finally:
                await client.aclose()
            if self.stays:
                await asyncio.sleep(_RETRY_S)

    def _wall_ts_ms(self) -> int:
        return self.device.now().ts_ms

    async def _take_part(self, client: CsClient) -> None:
        world = self.device.world
        world.note(self.device.name, "joins")
        async with join(
            client,
            world.room_id,
            foci=[(world.focus, {**world.config, "port": self.port})],
            announce=tuple(self.device.media),
            dialect=world.script.dialect or None,
            plugins=world.plugins,
            now=self.device.now,
            random_bytes=self.port.random_bytes,
        ) as call:
            self.call = call
            world.note(self.device.name, "joined")
            reading = asyncio.create_task(self._read(call))
            try:
                await self.show()
                await self._until_over(call)
            finally:
                self.call = None
                self.tracks.clear()
                if self.port.alive:
                    world.note(self.device.name, "leaves")
        await reading
        if self.port.alive:
            world.note(self.device.name, "left")
            if call.ended_by is not None:
                world.rules.ended(self, call.ended_by)

    async def _until_over(self, call: Call) -> None:
        ended = asyncio.create_task(call.wait_ended())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            stopped.cancel()

    async def _read(self, call: Call) -> None:
        async for event in call.events():
            if not self.port.alive:
                continue
            if isinstance(event, ev.DataReceived):
                self.received.append(event.payload.decode())
            self.device.world.rules.told(self, call, event)


class Device:
    """One device of one user, with a clock of its own."""

    def __init__(self, world: World, number: int, person: Credentials) -> None:
        self.world = world
        self.number = number
        self.name: str = f"{chr(ord('a') + number)}"
        self.person = person
        self.weather: Weather = Weather(delay_s=world.network.delay_s(self.name, "homeserver") / 2)
        self.clock_ms: int = 0
        """How much its wall clock is ahead."""
        self.media: dict[Kind, bool] = {}
        """What it shall publish, and whether that is muted."""
        self.process: Process | None = None
        self.processes: list[Process] = []
        self._wanted = False

    def now(self) -> Now:
        """Both clocks, as this device has them."""
        now = self.world.clock.now()
        return Now(now.s, now.ts_ms + self.clock_ms)

    def join(self) -> None:
        """Start a process, or have one follow the process that is leaving."""
        self._wanted = True
        if self.process is None:
            self.process = Process(self, len(self.processes))
            self.processes.append(self.process)
            self.process.task.add_done_callback(self._done)

    def leave(self) -> None:
        """Have the process leave."""
        self._wanted = False
        if self.process is not None and not self.process.leaving:
            self.process.leave()

    def kill(self) -> None:
        """Kill the process."""
        process, self.process, self._wanted = self.process, None, False
        if process is not None:
            process.die()

    def changed(self) -> None:
        """Take note that the way to the homeserver changed."""
        if self.process is not None:
            self.process.uplink.changed()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.world.rules.failed(f"{self.name}: its process failed", task.exception())
        if self.process is not None and self.process.task is task:
            if self.process.stays:
                self.world.rules.failed(f"{self.name}: its process ended by itself", None)
                return
            self.process = None
            if self._wanted:
                self.join()
