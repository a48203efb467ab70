"""What a person at a command line wants of rooms: by name, made, entered, left, and who may do what.

In: short functions over `CsClient`. Out: calls (`rtcfoci.call`), which need none of these; what power levels
mean (`rtcfoci.core.power`).
"""

from __future__ import annotations

from collections.abc import Sequence

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.matrix.cs import segment

__all__ = [
    "create_room",
    "is_encrypted",
    "join_room",
    "joined_rooms",
    "leave_room",
    "power_levels",
    "resolve_alias",
]

_V3 = "/_matrix/client/v3"


async def resolve_alias(client: MatrixClient, room: str) -> str:
    """Give back the room id of an alias; an id is given back as it is.

    :raises ClientError: nobody knows the alias, or it is neither an id nor an alias.
    """
    if room.startswith("!"):
        return room
    if not room.startswith("#") or ":" not in room:
        raise ClientError(
            f"{room!r} names no room.",
            status=0,
            why="A room id starts with ! and an alias is #name:server.",
            do="Copy the room's address from its settings, and quote it for the shell.",
        )
    answer = await client.request("GET", f"{_V3}/directory/room/{segment(room)}")
    return _text(answer, "room_id")


async def is_encrypted(client: MatrixClient, room_id: str) -> bool:
    """Tell whether a room of ours is encrypted."""
    try:
        await client.request("GET", f"{_V3}/rooms/{segment(room_id)}/state/m.room.encryption/")
    except ClientError as error:
        if error.status == 404:
            return False
        raise
    return True


async def create_room(
    client: MatrixClient,
    *,
    name: str = "",
    invite: Sequence[str] = (),
    public: bool = False,
    encrypted: bool = False,
    alias: str = "",
    power_levels: JsonObject | None = None,
) -> str:
    """Make a room and give back its id.

    :param alias: the part between `#` and `:`; empty for none.
    :param power_levels: what to change in the defaults, such as `{"events": {...}}`.
    """
    body: dict[str, object] = {
        "preset": "public_chat" if public else "private_chat",
        "invite": list(invite),
    }
    if name:
        body["name"] = name
    if alias:
        body["room_alias_name"] = alias
    if power_levels is not None:
        body["power_level_content_override"] = dict(power_levels)
    if encrypted:
        content = {"algorithm": "m.megolm.v1.aes-sha2"}
        body["initial_state"] = [{"type": "m.room.encryption", "state_key": "", "content": content}]
    return _text(await client.request("POST", f"{_V3}/createRoom", body=body), "room_id")


async def join_room(client: MatrixClient, room: str) -> str:
    """Join by id or alias and give back the id."""
    return _text(await client.request("POST", f"{_V3}/join/{segment(room)}", body={}), "room_id")


async def joined_rooms(client: MatrixClient) -> list[str]:
    """List the ids of the rooms this user is in."""
    rooms = (await client.request("GET", f"{_V3}/joined_rooms")).get("joined_rooms")
    return [room for room in rooms if isinstance(room, str)] if isinstance(rooms, list) else []


async def leave_room(client: MatrixClient, room_id: str) -> None:
    """Leave a room."""
    await client.request("POST", f"{_V3}/rooms/{segment(room_id)}/leave", body={})


async def power_levels(client: MatrixClient, room_id: str) -> JsonObject:
    """Read the content of the room's power levels; empty when the room has none."""
    path = f"{_V3}/rooms/{segment(room_id)}/state/m.room.power_levels/"
    try:
        return await client.request("GET", path)
    except ClientError as error:
        if error.errcode == "M_NOT_FOUND":
            return {}
        raise


def _text(answer: JsonObject, name: str) -> str:
    value = answer.get(name)
    if isinstance(value, str):
        return value
    raise ClientError(
        f"The homeserver's answer holds no {name}.",
        status=200,
        why="It does not follow the specification.",
        do="Report this to the homeserver's operator.",
    )
