"""A matrix-nio bot that takes part in calls: quoted by the docs, checked by mypy, never run."""

import asyncio
from pathlib import Path

import nio

import rtcfoci


async def answer(client: nio.AsyncClient, room_id: str) -> None:
    async with rtcfoci.join(client, room_id, foci=["mesh"]) as call:
        async for event in call.events():
            if isinstance(event, rtcfoci.DataReceived):
                await call.send_data(event.payload, to=[event.member])


def bot() -> nio.AsyncClient:
    Path("store").mkdir(exist_ok=True)  # nio does not make it
    return nio.AsyncClient("https://matrix.example.org", "@bot:example.org", store_path="store")


async def main() -> None:
    client = bot()
    await client.login("password from wherever your bot keeps it")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.sync_forever(timeout=30_000))
        tasks.create_task(answer(client, "!room:example.org"))
