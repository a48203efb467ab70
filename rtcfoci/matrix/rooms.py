"""What a person at a command line wants of rooms: by name, made, entered, left, and who may do what.

In: short functions over `CsClient`. Out: calls (`rtcfoci.call`), which need none of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.matrix.cs import segment

__all__ = [
    "create_room",
    "join_room",
    "joined_rooms",
    "leave_room",
    "power_levels",
    "required_power",
    "resolve_alias",
    "user_power",
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


def user_power(levels: JsonObject, user_id: str) -> int:
    """Read a user's power; creators of rooms of version 12 have more than any number, not said here."""
    return _level(
        _mapping(levels.get("users")).get(user_id), _level(levels.get("users_default"), 0)
    )


def required_power(levels: JsonObject, event_type: str, *, state: bool) -> int:
    """Read the power that sending this type needs; without levels anybody in the room may."""
    default = _level(levels.get("state_default"), 50 if levels else 0) if state else 0
    if not state:
        default = _level(levels.get("events_default"), 0)
    return _level(_mapping(levels.get("events")).get(event_type), default)


def _level(value: object, default: int) -> int:
    """Read a level; old room versions allow integers as strings."""
    if isinstance(value, bool):
        return default
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else default
    except ValueError:
        return default


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


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
