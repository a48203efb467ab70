"""The client-server API of the in-memory homeserver: one method per endpoint, traps of Synapse included.

In: the table of endpoints; accounts, devices, keys and what the server says of itself.
Out: transport, waiting and faults (`homeserver`), rooms and events (`homeserver_api_rooms`,
`homeserver_api_events`), what rooms and devices are (`homeserver_rooms`, `homeserver_devices`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from rtcfoci.testing.homeserver_api_events import EventsApi
from rtcfoci.testing.homeserver_api_rooms import ROOM_VERSION, ROOM_VERSIONS, RoomsApi
from rtcfoci.testing.homeserver_core import ADDRESS, Answer, Call
from rtcfoci.testing.homeserver_delayed import MAX_DELAY_MS
from rtcfoci.testing.homeserver_devices import Device
from rtcfoci.testing.homeserver_limits import MatrixError, forbidden
from rtcfoci.testing.homeserver_rooms import mapping

__all__ = ["Api"]

_PREFIXES = {
    "v3": r"/_matrix/client/(?:r0|v3|unstable)",
    "unstable": "/_matrix/client/unstable",
    "client": "/_matrix/client",
    "federation": "/_matrix/federation",
}
_DELAYED = "unstable/org.matrix.msc4140/delayed_events"


class Api(RoomsApi, EventsApi):
    """What one homeserver answers."""

    def answer(self, method: str, path: str, call: Call, token: str | None) -> Answer:
        """Do what a request asks.

        :raises MatrixError: the answer is an error.
        """
        known = False
        for verb, pattern, name in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            known = True
            if verb == method:
                if token is not None:
                    call.device = self.devices.by_token(token)
                    if call.device is None:
                        raise MatrixError(401, "M_UNKNOWN_TOKEN", "Invalid access token passed.")
                handler: Callable[..., Answer] = getattr(self, f"_{name}")
                return handler(
                    call, *(unquote(part) for part in match.groups() if part is not None)
                )
        raise MatrixError(405 if known else 404, "M_UNRECOGNIZED", "Unrecognized request")

    # --- accounts -------------------------------------------------------------------------------

    def _versions(self, _: Call) -> Answer:
        flags = {
            "org.matrix.msc4140": self.options.delayed_events,
            "org.matrix.msc4143": self.options.rtc_transports is not None,
            "org.matrix.msc4354": self.options.sticky_events,
        }
        return {"versions": ["r0.6.1", "v1.1", "v1.11", "v1.12"], "unstable_features": flags}

    def _capabilities(self, call: Call) -> Answer:
        assert call.user
        delays = {
            "max_delay_ms": MAX_DELAY_MS if self.options.delayed_events else 0,
            "max_scheduled": self.options.max_delayed_events,
        }
        versions = {"default": ROOM_VERSION, "available": dict.fromkeys(ROOM_VERSIONS, "stable")}
        return {
            "capabilities": {
                "m.room_versions": versions,
                "m.change_password": {"enabled": True},
                "org.matrix.msc4140.delayed_events": delays,
            }
        }

    def _register(self, call: Call) -> Answer:
        self.limits.take("rc_registration", ADDRESS, self._now().s)
        if mapping(call.json.get("auth")).get("type") != "m.login.dummy":
            flows = [{"stages": ["m.login.dummy"]}]
            error = MatrixError(401, "", "")
            error.body = {"flows": flows, "params": {}, "session": self._word(8)}
            raise error
        return self.register(str(call.json.get("username")), str(call.json.get("password", "")))

    def register(self, name: str, password: str) -> dict[str, object]:
        """Create a user with a first device."""
        user_id = f"@{name}:{self.server_name}"
        if user_id in self.devices.users:
            raise MatrixError(400, "M_USER_IN_USE", "User ID already taken.")
        device = self.devices.log_in(self.devices.add_user(user_id, password), None)
        return self._login_answer(device)

    def _login_answer(self, device: Device) -> dict[str, object]:
        return {
            "user_id": device.user_id,
            "device_id": device.device_id,
            "access_token": device.token,
            "home_server": self.server_name,
        }

    def _login_flows(self, _: Call) -> Answer:
        return {"flows": [{"type": "m.login.password"}]}

    def _login(self, call: Call) -> Answer:
        self.limits.take("rc_login", ADDRESS, self._now().s)
        body = call.json
        if body.get("type") != "m.login.password":
            raise MatrixError(400, "M_UNKNOWN", "Unknown login type")
        name = str(mapping(body.get("identifier")).get("user", body.get("user", "")))
        user = self.devices.users.get(name if name[:1] == "@" else f"@{name}:{self.server_name}")
        if user is None or user.password != body.get("password"):
            raise forbidden("Invalid username or password")
        device_id = body.get("device_id")
        return self._login_answer(
            self.devices.log_in(user, device_id if isinstance(device_id, str) else None)
        )

    def _logout(self, call: Call) -> Answer:
        self.devices.log_out(call.user)
        return {}

    def _logout_all(self, call: Call) -> Answer:
        for device in list(self.devices.users[call.user.user_id].devices.values()):
            self.devices.log_out(device)
        return {}

    def _whoami(self, call: Call) -> Answer:
        user = call.user
        return {"user_id": user.user_id, "device_id": user.device_id, "is_guest": False}

    def _filter(self, call: Call, _user_id: str) -> Answer:
        filters = self.devices.users[call.user.user_id].filters
        filters.append(call.json)
        return {"filter_id": str(len(filters) - 1)}

    def _openid_token(self, call: Call, user_id: str) -> Answer:
        if user_id != call.user.user_id:
            raise forbidden("Cannot request tokens for other users.")
        token = self._word(18)
        self.openid[token] = user_id
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self.server_name,
            "expires_in": 3600,
        }

    def _openid_user(self, call: Call) -> Answer:
        user_id = self.openid.get(call.query.get("access_token", ""))
        if user_id is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "Access Token unknown or expired")
        return {"sub": user_id}

    def _turn_server(self, call: Call) -> Answer:
        user_id = call.user.user_id
        if not self.options.turn_uris:
            return {}
        return {
            "username": f"{self._now().ts_ms // 1000 + 3600}:{user_id}",
            "password": self._word(15),
            "ttl": 3600,
            "uris": list(self.options.turn_uris),
        }

    def _rtc_transports(self, call: Call) -> Answer:
        if self.options.rtc_transports is None:
            raise MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request")
        assert call.user
        listed = [dict(transport) for transport in self.options.rtc_transports]
        # Synapse leaves the key out when nothing is configured.
        return {"rtc_transports": listed} if listed else {}

    # --- devices --------------------------------------------------------------------------------

    def _send_to_device(self, call: Call, kind: str, _txn_id: str) -> Answer:
        def send() -> Answer:
            messages = call.json.get("messages")
            if not isinstance(messages, dict):
                raise MatrixError(400, "M_MISSING_PARAM", "Missing params: ['messages']")
            self.devices.send(call.user.user_id, kind, messages)
            return {}

        return self._once(call, send)

    def _keys_upload(self, call: Call) -> Answer:
        return self.devices.upload(call.user, call.json)

    def _keys_query(self, call: Call) -> Answer:
        assert call.user
        return self.devices.query(mapping(call.json.get("device_keys")))

    def _keys_claim(self, call: Call) -> Answer:
        assert call.user
        return self.devices.claim(mapping(call.json.get("one_time_keys")))

    def _sliding(self, call: Call) -> Answer:
        return self.syncs.sliding(
            call.user, call.query, call.json, self.position, self._now().ts_ms
        )


def _route(verb: str, path: str, name: str) -> tuple[str, re.Pattern[str], str]:
    prefix, _, rest = path.partition("/")
    pattern = re.sub(r"\{\w+\}", "([^/]*)", rest.replace(".", r"\."))
    return verb, re.compile(f"{_PREFIXES[prefix]}/{pattern}"), name


_ROUTES = [
    _route(*line.split())
    for line in f"""
    GET client/versions versions
    GET v3/capabilities capabilities
    POST v3/register register
    GET v3/login login_flows
    POST v3/login login
    POST v3/logout logout
    POST v3/logout/all logout_all
    GET v3/account/whoami whoami
    POST v3/user/{{user}}/filter filter
    POST v3/user/{{user}}/openid/request_token openid_token
    GET federation/v1/openid/userinfo openid_user
    GET v3/voip/turnServer turn_server
    GET unstable/org.matrix.msc4143/rtc/transports rtc_transports
    POST v3/createRoom create_room
    POST v3/join/{{room}} join
    POST v3/rooms/{{room}}/join join
    POST v3/rooms/{{room}}/leave leave
    POST v3/rooms/{{room}}/invite invite
    POST v3/rooms/{{room}}/kick kick
    POST v3/rooms/{{room}}/ban ban
    POST v3/rooms/{{room}}/unban unban
    POST v3/rooms/{{room}}/upgrade upgrade
    GET v3/joined_rooms joined_rooms
    GET v3/directory/room/{{alias}} alias
    GET v3/rooms/{{room}}/state state_list
    GET v3/rooms/{{room}}/state/{{type}} state_get
    GET v3/rooms/{{room}}/state/{{type}}/{{key}} state_get
    PUT v3/rooms/{{room}}/state/{{type}} state_put
    PUT v3/rooms/{{room}}/state/{{type}}/{{key}} state_put
    PUT v3/rooms/{{room}}/send/{{type}}/{{txn}} event_put
    PUT v3/rooms/{{room}}/redact/{{event}}/{{txn}} redact
    GET v3/rooms/{{room}}/event/{{event}} get_event
    GET v3/rooms/{{room}}/messages messages
    GET v3/rooms/{{room}}/members members
    GET v3/rooms/{{room}}/joined_members joined_members
    GET {_DELAYED} delayed_list
    GET {_DELAYED}/{{delay}} delayed_get
    POST {_DELAYED}/{{delay}} delayed_post
    POST {_DELAYED}/{{delay}}/(cancel|restart|send) delayed_action
    PUT v3/sendToDevice/{{type}}/{{txn}} send_to_device
    POST v3/keys/upload keys_upload
    POST v3/keys/query keys_query
    POST v3/keys/claim keys_claim
    POST unstable/org.matrix.simplified_msc3575/sync sliding
    """.strip().splitlines()
]
