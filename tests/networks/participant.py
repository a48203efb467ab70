"""One participant of a mesh in a process, and so in a namespace, of its own.

Signals and orders come as JSON lines on standard input, and go out on standard output: as if the
homeserver were reached by another way than the media.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "rtcfoci-mesh" / "tests"))

from meshes import close_station, member, membership, open_station
from rtcfoci_mesh.config import MeshConfig

from rtcfoci.media.frames import Kind
from rtcfoci.plugin import ConditionCleared, ConditionRaised

_REPORT_EVERY_S = 0.1


def say(**line):
    print(json.dumps(line), flush=True)


class Outlet:
    """What `meshes` takes for a wire: signals leave by standard output."""

    def __init__(self):
        self.ends = {}

    async def carry(self, sender, to, payload):
        say(signal=payload)


async def orders():
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        yield json.loads(line)


async def report(station, other):
    told = 0
    while True:
        for event in station.events[told:]:
            told += 1
            if getattr(event, "code", "") == "mesh_lagging":
                continue  # of the machine and no network
            if isinstance(event, ConditionRaised):
                say(condition=event.code, cause=event.cause, remedy=event.remedy)
            elif isinstance(event, ConditionCleared):
                say(cleared=event.code)
        peer = station.connection._peers.get(other)
        say(
            frames=sum(station.frames.values()),
            connected=peer is not None and peer.connected,
            rebuilt=0 if peer is None else peer.rebuilt,
            path="" if peer is None or peer._session is None else peer._session.explain().cause,
            asked=station.context.asked,
        )
        await asyncio.sleep(_REPORT_EVERY_S)


async def main():
    name, other, options = sys.argv[1], member(sys.argv[2]), json.loads(sys.argv[3])
    station = await open_station(Outlet(), member(name), MeshConfig(**options))
    await station.publish("microphone", Kind.AUDIO)
    say(ready=True)
    telling = asyncio.create_task(report(station, other))
    async for order in orders():
        if "signal" in order:
            await station.connection.on_signal(other, order["signal"], "bound")
        elif "turn" in order:
            station.context.turn = order["turn"]
        elif "meet" in order:
            await station.connection.set_members([membership(other)], [], [])
    telling.cancel()
    await close_station(station)


asyncio.run(main())
