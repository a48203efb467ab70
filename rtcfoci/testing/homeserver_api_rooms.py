"""Endpoints of the in-memory homeserver about rooms and who is in them.

In: creating, upgrading, joining, leaving, inviting, kicking, banning. Out: events in rooms
(`homeserver_api_events`), the rules they follow (`homeserver_rooms`).
"""

from __future__ import annotations

from collections.abc import Mapping

from rtcfoci.core.model import JsonObject
from rtcfoci.testing.homeserver_core import Answer, Call, Core
from rtcfoci.testing.homeserver_devices import Device
from rtcfoci.testing.homeserver_limits import MatrixError, forbidden, not_found
from rtcfoci.testing.homeserver_rooms import Room, default_power_levels, integer, mapping

__all__ = ["ROOM_VERSION", "ROOM_VERSIONS", "RoomsApi"]

ROOM_VERSION = "12"
ROOM_VERSIONS = ("10", "11", "12")


class RoomsApi(Core):
    """Rooms and membership."""

    def _create_room(self, call: Call) -> Answer:
        self._limit_creation(call.user.user_id)
        version = str(call.json.get("room_version", ROOM_VERSION))
        return {"room_id": self._new_room(call.user, version, call.json).room_id}

    def _limit_creation(self, user_id: str) -> None:
        now_s = self._now().s
        self.limits.take("rc_room_creation", user_id, now_s, count=False)
        self.limits.take("rc_message", user_id, now_s)
        self.limits.take("rc_room_creation", user_id, now_s)

    def _new_room(self, device: Device, version: str, body: JsonObject) -> Room:
        if version not in ROOM_VERSIONS:
            raise MatrixError(
                400, "M_UNSUPPORTED_ROOM_VERSION", "Your homeserver does not support this"
            )
        creator, token = device.user_id, self._word(32)
        room_id = f"!{token}" if version == "12" else f"!{token[:18]}:{self.server_name}"
        room = self.rooms[room_id] = Room(room_id, creator, version)
        public = body.get("preset", body.get("visibility")) in ("public_chat", "public")
        invited = [str(user) for user in _list(body.get("invite"))]
        levels = default_power_levels(creator, version, private=not public)
        creation = {**mapping(body.get("creation_content")), "room_version": version}
        if body.get("preset") == "trusted_private_chat":
            if version == "12":
                creation["additional_creators"] = invited
            else:
                levels["users"] = dict.fromkeys([creator, *invited], 100)
        levels |= mapping(body.get("power_level_content_override"))
        first: list[tuple[str, str, Mapping[str, object]]] = [
            ("m.room.create", "", creation),
            ("m.room.member", creator, {"membership": "join"}),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", {"join_rule": "public" if public else "invite"}),
            ("m.room.history_visibility", "", {"history_visibility": "shared"}),
        ]
        if not public:
            first.append(("m.room.guest_access", "", {"guest_access": "can_join"}))
        for item in _list(body.get("initial_state")):
            event = mapping(item)
            key = (str(event.get("type")), str(event.get("state_key", "")))
            first = [known for known in first if known[:2] != key]
            first.append((*key, mapping(event.get("content"))))
        if isinstance(body.get("name"), str):
            first.append(("m.room.name", "", {"name": body["name"]}))
        alias = body.get("room_alias_name")
        if isinstance(alias, str):
            full = f"#{alias}:{self.server_name}"
            if full in self.aliases:
                raise MatrixError(400, "M_ROOM_IN_USE", "Room alias already taken")
            self.aliases[full] = room_id
            first.append(("m.room.canonical_alias", "", {"alias": full}))
        for kind, key_, content in first:
            self._append(room, creator, kind, content, state_key=key_)
        for user_id in invited:
            content = {"membership": "invite"}
            self._append(room, creator, "m.room.member", content, state_key=user_id)
        return room

    def _join(self, call: Call, room_or_alias: str) -> Answer:
        user_id, now_s = call.user.user_id, self._now().s
        room_id = self.aliases.get(room_or_alias, room_or_alias)
        room = self.rooms.get(room_id)
        if room is None:
            if room_or_alias.startswith("#"):
                raise not_found(f"Room alias {room_or_alias} not found")
            raise MatrixError(
                400, "M_UNKNOWN", "Can't join: no servers that are in the room were given"
            )
        if room.membership(user_id) != "join":
            self.limits.take("rc_joins_local", user_id, now_s)
            self.limits.take("rc_joins_per_room", room_id, now_s)
            self._send(room, call.user, "m.room.member", {"membership": "join"}, state_key=user_id)
        return {"room_id": room_id}

    def _leave(self, call: Call, room_id: str) -> Answer:
        self._member(call.user, self._known(room_id), call.user.user_id, "leave", call.json)
        return {}

    def _invite(self, call: Call, room_id: str) -> Answer:
        target, now_s = self._target(call), self._now().s
        self.limits.take("rc_invites_per_room", room_id, now_s)
        self.limits.take("rc_invites_per_user", target, now_s)
        self._member(call.user, self._known(room_id), target, "invite", call.json)
        return {}

    def _kick(self, call: Call, room_id: str) -> Answer:
        room, target = self._known(room_id), self._target(call)
        if room.membership(target) not in ("join", "invite"):
            raise forbidden("The target user is not in the room")
        self._member(call.user, room, target, "leave", call.json)
        return {}

    def _ban(self, call: Call, room_id: str) -> Answer:
        self._member(call.user, self._known(room_id), self._target(call), "ban", call.json)
        return {}

    def _unban(self, call: Call, room_id: str) -> Answer:
        room, target = self._known(room_id), self._target(call)
        if room.membership(target) != "ban":
            raise forbidden("Cannot unban user who was not banned")
        self._member(call.user, room, target, "leave", call.json)
        return {}

    def _known(self, room_id: str) -> Room:
        room = self.rooms.get(room_id)
        if room is None:
            raise not_found("Not a known room")
        return room

    def _target(self, call: Call) -> str:
        target = call.json.get("user_id")
        if not isinstance(target, str):
            raise MatrixError(400, "M_MISSING_PARAM", "Missing params: ['user_id']")
        return target

    def _member(
        self, device: Device, room: Room, target: str, membership: str, body: JsonObject
    ) -> None:
        content: dict[str, object] = {"membership": membership}
        if isinstance(body.get("reason"), str):
            content["reason"] = body["reason"]
        self._send(room, device, "m.room.member", content, state_key=target)

    def _joined_rooms(self, call: Call) -> Answer:
        user_id = call.user.user_id
        joined = [r.room_id for r in self.rooms.values() if r.membership(user_id) == "join"]
        return {"joined_rooms": joined}

    def _alias(self, _: Call, alias: str) -> Answer:
        if alias not in self.aliases:
            raise not_found(f"Room alias {alias} not found")
        return {"room_id": self.aliases[alias], "servers": [self.server_name]}

    def _upgrade(self, call: Call, room_id: str) -> Answer:
        old = self._member_room(call, room_id)
        version = str(call.json.get("new_version"))
        old.check(call.user.user_id, "m.room.tombstone", "", {})
        self._limit_creation(call.user.user_id)
        copied = [
            {"type": kind, "state_key": key, "content": event.content}
            for (kind, key), event in old.state.items()
            if kind
            in (
                "m.room.join_rules",
                "m.room.encryption",
                "m.room.name",
                "m.room.history_visibility",
            )
        ]
        levels = dict(old.content("m.room.power_levels"))
        if version == "12":
            levels["users"] = {
                user: level
                for user, level in mapping(levels.get("users")).items()
                if user != call.user.user_id
            }
        new = self._new_room(
            call.user,
            version,
            {
                "initial_state": copied,
                "power_level_content_override": levels,
                "creation_content": {"predecessor": {"room_id": room_id}},
            },
        )
        content: dict[str, object] = {
            "body": "This room has been replaced",
            "replacement_room": new.room_id,
        }
        self._append(old, call.user.user_id, "m.room.tombstone", content, state_key="")
        # The old room is closed to ordinary members, as Synapse does it.
        floor = max(integer(levels.get("users_default"), 0) + 1, 50)
        closed = dict(old.content("m.room.power_levels"))
        for name in ("events_default", "invite"):
            closed[name] = max(integer(closed.get(name), 0), floor)
        self._append(old, call.user.user_id, "m.room.power_levels", closed, state_key="")
        return {"replacement_room": new.room_id}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
