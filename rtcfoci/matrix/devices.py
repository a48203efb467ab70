"""Other people's devices: which there are, whose keys are whose, and olm sessions with them.

In: asking for keys and one-time keys, how fresh an answer is, binding keys to a device.
Out: what is decrypted and believed (`olm`, `megolm`), who gets room keys (`room_keys`).

A device's keys are signed by its ed25519 key (nio checks), so a pair of them belongs together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nio.responses import KeysClaimResponse, KeysQueryResponse

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError
from rtcfoci.matrix.cross_signing import CrossSigning
from rtcfoci.matrix.store import OlmProof

if TYPE_CHECKING:
    from nio.crypto import InboundGroupSession, Olm, OlmDevice, Session

    from rtcfoci.matrix.cs import CsClient

__all__ = ["Devices", "dig"]

_V3 = "/_matrix/client/v3"
_FEDERATION_WAIT_MS = 8_000

_log = logging.getLogger(__name__)


class Devices:
    """The devices that one olm machine knows."""

    def __init__(self, olm: Olm, client: CsClient) -> None:
        self._olm = olm
        self._client = client
        self._fresh: set[str] = set()
        """Users whose devices we know as of the last sync."""
        self._changes: dict[str, int] = {}
        self._claims: dict[str, asyncio.Lock] = {}
        self._cross_signing = CrossSigning(client.store)

    # How fresh.

    def knows(self, user_id: str) -> bool:
        """Tell whether a user's devices are known as of the last sync."""
        return user_id in self._fresh

    def changed(self, users: Iterable[str]) -> None:
        """Learn from a sync whose devices are others now."""
        for user in users:
            self._fresh.discard(user)
            self._changes[user] = self._changes.get(user, 0) + 1

    def doubt_all(self) -> None:
        """Learn that syncs were missed."""
        self._fresh.clear()

    # Whose keys.

    def find(self, user_id: str, device_id: str) -> OlmDevice | None:
        devices = self._olm.device_store.active_user_devices(user_id)
        return next((device for device in devices if device.id == device_id), None)

    def sender(self, user_id: str, proof: OlmProof) -> str | None:
        """Find the one device that has both keys and is the one the message names, if it names one."""
        found = [
            str(device.id)
            for device in self._olm.device_store.active_user_devices(user_id)
            if (device.curve25519, device.ed25519) == (proof.sender_key, proof.ed25519)
            and proof.device_id in (None, device.id)
        ]
        return found[0] if len(found) == 1 else None

    def writer(self, user_id: str, session: InboundGroupSession) -> str | None:
        """Find the one device of a user that has both keys of a room's session, as of the last sync."""
        own = self._olm.account.identity_keys
        if (session.sender_key, session.ed25519) == (own["curve25519"], own["ed25519"]):
            return str(self._olm.device_id) if user_id == self._olm.user_id else None
        if session.forwarding_chain or not self.knows(user_id):
            return None  # whoever passed it on only says whose it was
        proof = OlmProof(sender_key=session.sender_key, ed25519=session.ed25519, device_id=None)
        return self.sender(user_id, proof)

    def has_key(self, user_id: str, sender_key: str) -> bool:
        """Tell whether one of a user's devices has a curve25519 key."""
        devices = self._olm.device_store.active_user_devices(user_id)
        return any(device.curve25519 == sender_key for device in devices)

    def others(self, user_id: str) -> list[OlmDevice]:
        """List a user's devices that messages may go to; our own is not one."""
        own = self._olm.account.identity_keys["curve25519"]
        return [
            device
            for device in self._olm.device_store.active_user_devices(user_id)
            if device.curve25519 != own and not self._olm.is_device_blacklisted(device)
        ]

    def trusts(self, user_id: str, device_id: str) -> bool | None:
        """Tell whether a device is cross-signed, with the keys that olm has; None: it is not known."""
        device = self.find(user_id, device_id)
        if device is None:
            return None
        return self._cross_signing.trusts(user_id, device_id, device.curve25519, device.ed25519)

    # Asking.

    async def ask(self, user_id: str) -> None:
        """Get to know a user's devices. :raises ClientError: the user's server does not answer."""
        if await self._query([user_id]):
            raise ClientError(
                f"The keys of {user_id} are not to be had.",
                status=504,
                why=f"{user_id.partition(':')[2]} does not answer our homeserver.",
                do="Try again when that homeserver is back.",
            )

    async def learn(self, users: Iterable[str]) -> None:
        """Get to know the devices of users, as far as their servers answer."""
        await self._query([user for user in users if not self.knows(user)])

    async def _query(self, users: Sequence[str]) -> list[str]:
        """Ask for the devices of users; give back those whose server does not answer."""
        if not users:
            return []
        changes = {user: self._changes.get(user, 0) for user in users}
        body = {"device_keys": {user: [] for user in users}, "timeout": _FEDERATION_WAIT_MS}
        answer = await self._client.call("list keys", "POST", f"{_V3}/keys/query", body=body)
        silent = []
        for user, change in changes.items():
            devices = dig(answer, "device_keys", user)
            # Synapse counts a server as failed, and gives its users' keys all the same, when it is just
            # then fetching them for itself.
            if not devices and user.partition(":")[2] in dig(answer, "failures"):
                silent.append(user)
                continue
            self._handle(KeysQueryResponse({user: dict(devices)}, {}))
            self._cross_signing.learn(user, answer)
            if change == self._changes.get(user, 0):
                self._fresh.add(user)
        return silent

    # Olm sessions.

    async def session(self, device: OlmDevice) -> Session:
        """Give a session with a device. :raises ClientError: there is none, and none can be begun."""
        async with self._claims.setdefault(device.curve25519, asyncio.Lock()):
            session = self._olm.session_store.get(device.curve25519)
            if session is None:
                await self.claim({device.user_id: [device.id]})
                session = self._olm.session_store.get(device.curve25519)
        if session is None:
            raise ClientError(
                f"No encrypted message can reach {device.user_id}/{device.id}.",
                status=0,
                why="It has no valid one-time key left, so no olm session can start.",
                do="Have that device come online, so that it publishes new ones; then try again.",
            )
        return session

    async def seal(
        self, devices: Collection[OlmDevice], event_type: str, content: JsonObject
    ) -> dict[str, dict[str, JsonObject]]:
        """Encrypt for each device that olm reaches: user, device, content of `m.room.encrypted`."""
        strange: dict[str, list[str]] = {}
        for device in devices:
            if self._olm.session_store.get(device.curve25519) is None:
                strange.setdefault(device.user_id, []).append(device.id)
        if strange:
            await self.claim(strange)
        sealed: dict[str, dict[str, JsonObject]] = {}
        for device in devices:
            session = self._olm.session_store.get(device.curve25519)
            if session is not None:
                encrypted = self._olm._olm_encrypt(session, device, event_type, dict(content))
                sealed.setdefault(device.user_id, {})[device.id] = encrypted
        return sealed

    async def claim(self, devices: Mapping[str, Sequence[str]]) -> None:
        """Begin a session with each device that has a one-time key."""
        wanted = {u: dict.fromkeys(ids, "signed_curve25519") for u, ids in devices.items()}
        answer = await self._client.call(
            "give one-time keys",
            "POST",
            f"{_V3}/keys/claim",
            body={"one_time_keys": wanted, "timeout": _FEDERATION_WAIT_MS},
        )
        given = dig(answer, "one_time_keys")
        for user, ids in devices.items():
            for id in ids:
                if key := dig(given, user, id):
                    self._handle(KeysClaimResponse({user: {id: key}}, {}))

    def _handle(self, response: object) -> None:
        try:
            self._olm.handle_response(response)
        except Exception as error:  # one malformed device of a stranger
            _log.warning("Keys are unusable: %s", type(error).__name__)


def dig(value: object, *names: str) -> Mapping[str, object]:
    """Follow names into nested objects; empty when one is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
