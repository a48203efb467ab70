"""Devices in an encrypted room of the homeserver in memory, for the tests of what is sealed there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from rtcfoci.matrix.client import RoomUpdate
from rtcfoci.matrix.connect import connect
from rtcfoci.testing.homeserver import MemoryHomeserver

STICKY = "org.matrix.msc4143.rtc.member"
DECLINE = "org.matrix.msc4310.rtc.decline"
HOUR_MS = 3_600_000


def now_ts_ms():
    return asyncio.get_running_loop().clock.ts_ms


class Device:
    """One encrypted device that keeps what its room brings."""

    def __init__(self, house, who, store=None):
        self.house, self.who, self.store = house, who, store
        self.seen = []
        self.tasks = []

    async def open(self, encrypted=True):
        server = self.house.server
        self.client = await connect(
            server.base_url,
            token=self.who.access_token,
            device_store=self.store,
            encrypted=encrypted,
            requester=lambda url: server.line(),
            wall_ts_ms=now_ts_ms,
        )
        return self

    async def watch(self):
        """Read the room from now on, as another reader of the same device."""
        seen, primed = [], asyncio.Event()

        async def read():
            async for update in self.client.updates(self.house.room_id):
                if isinstance(update, RoomUpdate):
                    seen.extend(update.events)
                    primed.set()

        self.tasks.append(asyncio.create_task(read()))
        await asyncio.wait_for(primed.wait(), 60)
        self.seen = seen
        return self

    async def write(self, n, **more):
        self.house.sent += 1
        return await self.client.send_event(
            self.house.room_id,
            STICKY,
            {"msc4354_sticky_key": "k", "n": n, **more},
            txn_id=f"t{self.house.sent}",
            sticky_duration_ms=HOUR_MS,
            encrypt=True,
        )

    async def say(self, n, kind=DECLINE):
        """Write a plain event, encrypted."""
        content = await self.sealed_for_room(n, kind)
        return await self.put(content, sticky_ms=None)

    async def sealed_for_room(self, n, kind=STICKY):
        encrypter = self.client.encrypter
        return dict(await encrypter.encrypt_event(self.house.room_id, kind, {"n": n}))

    async def put(self, content, sticky_ms=HOUR_MS):
        """Send an encrypted event that may be anything."""
        self.house.sent += 1
        return await self.client.send_event(
            self.house.room_id,
            "m.room.encrypted",
            content,
            txn_id=f"t{self.house.sent}",
            sticky_duration_ms=sticky_ms,
        )

    @property
    def read(self):
        """What came decrypted: number, and the device that is behind it."""
        return [
            (e.content.get("n"), e.encrypted_by_device_id)
            for e in self.seen
            if e.type in (STICKY, DECLINE) and e.encrypted
        ]

    @property
    def unread(self):
        return [e.event_id for e in self.seen if e.type == "m.room.encrypted"]

    @property
    def sealed(self):
        return self.client.encrypter.sealed

    @property
    def counts(self):
        return self.client.sealed(self.house.room_id)

    async def close(self):
        await self.client.aclose()
        await asyncio.gather(*self.tasks)

    async def restart(self):
        await self.close()
        self.seen = []
        return await self.open()


class House:
    def __init__(self):
        self.server = MemoryHomeserver(latency_s=0.01)
        self.sent = 0
        self.room_id = None
        self.names = set()
        self.devices = []

    async def device(self, name, store=None, **options):
        if name in self.names:
            who = await self.server.login(name, "p")
        else:
            self.names.add(name)
            who = await self.server.register(name, "p")
            if self.room_id is None:
                self.room_id = await self.server.create_room(who.access_token, encrypted=True)
            else:
                await self.server.join_room(who.access_token, self.room_id)
        self.devices.append(await Device(self, who, store).open(**options))
        return self.devices[-1]


@asynccontextmanager
async def a_house():
    house = House()
    try:
        yield house
    finally:
        for device in house.devices:
            await device.close()


@asynccontextmanager
async def ann_and_bob():
    async with a_house() as house:
        ann, bob = await house.device("ann"), await house.device("bob")
        await ann.watch()
        await bob.watch()
        yield ann, bob


async def comes(happened, within_s=30.0):
    async with asyncio.timeout(within_s):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Held:
    """Keeps what a device would send to devices back."""

    def __init__(self, device):
        self.client, self.send, self.kept = device.client, device.client.send_to_devices, []
        device.client.send_to_devices = self.keep

    async def keep(self, *arguments):
        self.kept.append(arguments)

    async def release(self):
        self.client.send_to_devices = self.send
        for arguments in self.kept:
            await self.send(*arguments)


def unknown(n):
    """Make an event whose key nobody has."""
    return {"algorithm": "m.megolm.v1.aes-sha2", "session_id": f"s{n}", "ciphertext": "x" * n}
