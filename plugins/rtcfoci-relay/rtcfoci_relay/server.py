"""The relay itself: seats by room and slot, taken with a Matrix OpenID token."""

import argparse
import asyncio
import json

import aiohttp
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve


async def start(homeserver: str, port: int) -> Server:
    """Serve the members this homeserver vouches for; close what is given back to end it."""
    openid = f"{homeserver}/_matrix/federation/v1/openid/userinfo"
    seats = dict[ServerConnection, tuple[list[str], dict[str, str]]]()

    async def handle(socket: ServerConnection) -> None:
        try:
            token, *place, seat = json.loads(await asyncio.wait_for(socket.recv(), 5.0))
            async with aiohttp.request("GET", openid, params={"access_token": token}) as answer:
                name = {**seat, "user_id": (await answer.json())["sub"]}
            seats[socket] = place, name
            await socket.send("welcome")
            async for message in socket:
                to, *body = json.loads(message)
                chosen = [s for s, (p, n) in seats.items() if p == place and n in to]
                broadcast(chosen, json.dumps([name, *body]))  # a slow one stalls nobody
        except Exception as error:  # a refused token, junk, or gone
            await socket.close(1008, type(error).__name__)
        seats.pop(socket, None)

    return await serve(handle, "127.0.0.1", port, max_size=1 << 18)


def run(arguments: list[str]) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="rtcfoci relay")
    parser.add_argument("--homeserver", required=True, help="base URL; it checks OpenID tokens")
    parser.add_argument("--port", type=int, default=8765)
    with asyncio.Runner() as runner:
        server = runner.run(start(**vars(parser.parse_args(arguments))))
        print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
        runner.run(server.serve_forever())
    return 0
