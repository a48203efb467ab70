"""Olm for to-device messages: matrix-nio's machine, with the senders checked.

In: our device's keys on the server, encrypting for one device, decrypting into our durable queue, binding
every sender to a device before anything is believed.
Out: the queue (`store`), requests (`cs`), following a bot's own nio client (`nio`), room encryption.

matrix-nio 0.26.0 drops decrypted to-device events of types it does not know, and does not compare the olm
sender key with the device that the message names. Both are done here, at private places of nio that
`NIO_PLACES` lists; the tests fail with their names when a nio lacks one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from nio.crypto import Olm
from nio.events import OlmEvent
from nio.responses import KeysClaimResponse, KeysQueryResponse, KeysUploadResponse
from nio.store import SqliteMemoryStore, SqliteStore

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import ClientError, UsageError
from rtcfoci.matrix.client import ToDevice
from rtcfoci.matrix.loop import CRYPTO_TYPES, clear_arrivals
from rtcfoci.matrix.store import Arrival, DeviceStore, OlmProof
from rtcfoci.matrix.sync import SyncBatch, is_content, is_text

if TYPE_CHECKING:
    from nio.crypto import OlmDevice, Session
    from nio.events import ToDeviceEvent

    from rtcfoci.matrix.cs import CsClient

__all__ = ["NIO_PLACES", "OlmMachine"]

NIO_PLACES: Mapping[str, tuple[str, ...]] = {
    "nio.crypto.Olm.__init__": ("self", "user_id", "device_id", "store"),
    "nio.crypto.Olm._handle_olm_event": ("self", "sender", "sender_key", "payload"),
    "nio.crypto.Olm._olm_encrypt": (
        "self",
        "session",
        "recipient_device",
        "message_type",
        "content",
    ),
    "nio.crypto.Olm.handle_to_device_event": ("self", "event"),
    "nio.crypto.Olm.handle_response": ("self", "response"),
    "nio.crypto.Olm.share_keys": ("self",),
    "nio.crypto.Olm.save_account": ("self", "account"),
    "nio.crypto.Olm.get_users_for_key_claiming": ("self",),
    "nio.crypto.DeviceStore.active_user_devices": ("self", "user_id"),
    "nio.crypto.SessionStore.get": ("self", "sender_key"),
    "nio.store.SqliteStore.load_account": ("self",),
    "nio.store.SqliteStore.load_sessions": ("self",),
    "nio.client.AsyncClient._handle_sync": ("self", "response"),
    "nio.client.AsyncClient.send": (
        "self",
        "method",
        "path",
        "data",
        "headers",
        "trace_context",
        "timeout",
    ),
}
"""Places of matrix-nio 0.26.0 that this package relies on, with their parameters."""

_V3 = "/_matrix/client/v3"
_OLM = "m.olm.v1.curve25519-aes-sha2"
_FEDERATION_WAIT_MS = 8_000
_QUERY_EVERY_S = 0.5
_QUERY_BURST_S = 2.0
"""A stranger can have us ask for keys four times at once, then twice a second."""
_QUERY_ATTEMPTS = 4
_QUERIES_AT_ONCE = 8
_MAX_REMEMBERED = 1000

_log = logging.getLogger(__name__)


class OlmMachine:
    """The olm side of one device.

    :param olm: nio's machine; nobody else decrypts with it behind our back.
    :param owned: whether its database is ours to close.
    """

    def __init__(self, olm: Olm, client: CsClient, *, owned: bool) -> None:
        self.refused: int = 0
        """Messages dropped because their sender is not the device they name."""
        self.undecryptable: int = 0
        self._olm = olm
        self._client = client
        self._owned = owned
        self._arrived: list[Arrival] = []
        self._fresh: set[str] = set()
        """Users whose devices we know as of the last sync."""
        self._changes: dict[str, int] = {}
        self._asked_s: dict[str, float] = {}
        """Monotonic time up to which a sender has used up its share of queries."""
        self._queries = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._claims: dict[str, asyncio.Lock] = {}
        self._original = olm._handle_olm_event
        olm._handle_olm_event = self._tap

    @classmethod
    def open(cls, client: CsClient, pickle_key: str) -> OlmMachine:
        """Load the device's olm account from its store's folder, or make one.

        :raises UsageError: the account cannot be read.
        """
        folder = client.store.folder
        if folder is None:
            return cls._load(
                client, SqliteMemoryStore(client.user_id, client.device_id, pickle_key)
            )
        path = folder / "olm.sqlite"
        try:
            # Made by us first, so that nobody else can read it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            store = _FileStore(client.user_id, client.device_id, str(folder), pickle_key, path.name)
            return cls._load(client, store)
        except Exception as error:
            raise UsageError(
                f"The olm account in {path} cannot be used.",
                why=f"{type(error).__name__}: {error}",
                do="Check who may read it; if it is damaged, delete the folder and log in again: "
                "this makes a new device.",
            ) from None

    @classmethod
    def _load(cls, client: CsClient, store: SqliteStore) -> OlmMachine:
        try:
            return cls(Olm(client.user_id, client.device_id, store), client, owned=True)
        except BaseException:
            store.database.close()
            raise

    async def start(self) -> None:
        """Publish our device's keys.

        :raises ClientError: other keys are published for it: somebody else runs this device.
        """
        user, device = self._client.user_id, self._client.device_id
        body = {"device_keys": {user: [device]}}
        answer = await self._client.call("list keys", "POST", f"{_V3}/keys/query", body=body)
        keys = _dig(answer, "device_keys", user, device, "keys")
        published = keys.get(f"ed25519:{device}")
        if published is None:
            self._olm.account.shared = False
        elif published != self._olm.account.identity_keys["ed25519"]:
            raise ClientError(
                f"Device {device} of {user} cannot be used with encryption.",
                status=0,
                why="It has published other keys: another client runs it, or its device store was lost.",
                do="Log in with a password, which makes a new device, and keep its device store.",
            )
        if self._olm.should_upload_keys:
            await self._upload()

    # --- receiving ------------------------------------------------------------------------------

    def receive(self, batch: SyncBatch, store: DeviceStore) -> list[ToDevice]:
        """Decrypt and commit the messages of one sync, in order; give back what can be delivered now."""
        if store.next_batch is None:
            # A sync from the very beginning does not say whose keys changed since the last.
            self._fresh.clear()
        self.note(batch)
        with self.transaction():
            arrivals: list[Arrival] = []
            for raw in batch.to_device:
                if raw.type != "m.room.encrypted":
                    arrivals += clear_arrivals((raw,))
                    continue
                source = {"type": raw.type, "sender": raw.sender, "content": dict(raw.content)}
                event = OlmEvent.from_dict(source) if raw.content.get("algorithm") == _OLM else None
                if isinstance(event, OlmEvent):
                    arrivals += self.decrypt(event)[1]
                else:
                    self.undecryptable += 1
            clear = store.commit(batch.next_batch, arrivals)
        return clear + self.settle()

    def note(self, batch: SyncBatch) -> None:
        """Take what a sync says about keys."""
        for user in batch.devices_changed:
            self._fresh.discard(user)
            self._changes[user] = self._changes.get(user, 0) + 1
        if batch.one_time_keys is not None:
            self._olm.uploaded_key_count = batch.one_time_keys

    def transaction(self) -> AbstractContextManager[object]:
        """Hold olm's own writes back until our queue has the plaintext.

        Olm decrypts a message once. If we crash between its write and ours, it is lost; the other way round
        it is only that the session has to skip a message.
        """
        return _Transaction(self._olm)

    def decrypt(self, event: OlmEvent) -> tuple[ToDeviceEvent | None, list[Arrival]]:
        """Decrypt one event; give back nio's event, if it makes one, and what is for our queue."""
        self._arrived = []
        try:
            decrypted = self._olm.handle_to_device_event(event)
        except Exception as error:  # whatever a stranger's bytes do to the libraries below
            kind = type(error).__name__
            _log.warning("An olm message of %.80r is unusable: %s", event.sender, kind)
            decrypted = None
        if decrypted is None and not self._arrived:
            self.undecryptable += 1
        return decrypted, self._arrived

    def settle(self) -> list[ToDevice]:
        """Bind queued messages of senders whose devices we know; ask for the others' behind us."""
        delivered, ask = [], set()
        for item in self._client.store.unsettled():
            known = item.sender in self._fresh
            device_id = self._sending_device(item.sender, item.proof) if known else None
            if device_id is not None:
                message = self._client.store.settle(item.id, device_id, "bound")
                delivered += [message] if message else []
            elif known and self._key_known(item.sender, item.proof.sender_key):
                self._refuse(item.id, item.sender, item.proof)
            else:
                ask.add(item.sender)
        for sender in ask - self._settling.keys():
            task = asyncio.create_task(self._ask(sender), name=f"keys of {sender}")
            self._settling[sender] = task
        if self._owned and self._upkeep is None and self._due:
            self._upkeep = asyncio.create_task(self._keep_up(), name="olm upkeep")
        return delivered

    def _tap(self, sender: str, sender_key: str, payload: dict[str, object]) -> object:
        """Stand where nio has decrypted, verified sender and recipient, and would drop the rest."""
        kind, content = payload["type"], payload["content"]
        if not isinstance(kind, str) or kind.startswith(CRYPTO_TYPES):
            return self._original(sender, sender_key, payload)
        if is_text(kind) and is_content(content):
            ed25519, claimed = _dig(payload, "keys").get("ed25519"), payload.get("sender_device")
            proof = OlmProof(
                sender_key=sender_key,
                ed25519=ed25519 if is_text(ed25519) else "",
                device_id=claimed if is_text(claimed) else None,
            )
            self._arrived.append(Arrival(kind, sender, content, proof))
        return None

    def _sending_device(self, user_id: str, proof: OlmProof) -> str | None:
        """Find the one device that has both keys and is the one the message names, if it names one.

        A device's keys are signed by its ed25519 key (nio checks), so the pair belongs together.
        """
        found = [
            str(device.id)
            for device in self._olm.device_store.active_user_devices(user_id)
            if (device.curve25519, device.ed25519) == (proof.sender_key, proof.ed25519)
            and proof.device_id in (None, device.id)
        ]
        return found[0] if len(found) == 1 else None

    def _key_known(self, user_id: str, sender_key: str) -> bool:
        devices = self._olm.device_store.active_user_devices(user_id)
        return any(device.curve25519 == sender_key for device in devices)

    def _refuse(self, id: int, sender: str, proof: OlmProof) -> None:
        self.refused += 1
        self._client.store.remove(id)
        named = proof.device_id or "no device"
        _log.warning("Refused a message of %.80r: its keys are not those of %.80r.", sender, named)

    async def _ask(self, sender: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            used_up_s = max(self._asked_s.pop(sender, 0.0), loop.time()) + _QUERY_EVERY_S
            self._asked_s[sender] = used_up_s
            if len(self._asked_s) > _MAX_REMEMBERED:
                del self._asked_s[next(iter(self._asked_s))]
            await asyncio.sleep(used_up_s - _QUERY_BURST_S - loop.time())
            for attempt in range(_QUERY_ATTEMPTS):
                try:
                    async with self._queries:
                        await self._query(sender)
                    break
                except ClientError as error:
                    _log.info("The keys of %s are not to be had: %s", sender, error.why)
                    await asyncio.sleep(2.0**attempt)
            else:
                return  # the next sync with something unsettled asks again
            for item in self._client.store.unsettled():
                if item.sender != sender:
                    continue
                device_id = self._sending_device(sender, item.proof)
                if device_id is None:
                    self._refuse(item.id, sender, item.proof)
                else:
                    message = self._client.store.settle(item.id, device_id, "bound")
                    if message:
                        self._client.feed.message(message)
        finally:
            del self._settling[sender]

    # --- sending --------------------------------------------------------------------------------

    async def encrypt(
        self, event_type: str, user_id: str, device_id: str, content: JsonObject
    ) -> JsonObject:
        device = self._device(user_id, device_id)
        if device is None or user_id not in self._fresh:
            try:
                await self._query(user_id)
            except ClientError:
                # A device keeps its keys for life: what we knew is good enough to write to.
                if device is None:
                    raise
            device = self._device(user_id, device_id)
        if device is None:
            raise ClientError(
                f"No encrypted message can reach {user_id}/{device_id}.",
                status=0,
                why="The user has no such device, or it has published no keys.",
                do="The other side has to run a client with encryption on that device.",
            )
        session = await self._session(device)
        encrypted = self._olm._olm_encrypt(session, device, event_type, dict(content))
        return dict(encrypted)

    def _device(self, user_id: str, device_id: str) -> OlmDevice | None:
        devices = self._olm.device_store.active_user_devices(user_id)
        return next((device for device in devices if device.id == device_id), None)

    async def _session(self, device: OlmDevice) -> Session:
        async with self._claims.setdefault(device.curve25519, asyncio.Lock()):
            session = self._olm.session_store.get(device.curve25519)
            if session is None:
                await self._claim({device.user_id: [device.id]})
                session = self._olm.session_store.get(device.curve25519)
        if session is None:
            raise ClientError(
                f"No encrypted message can reach {device.user_id}/{device.id}.",
                status=0,
                why="It has no valid one-time key left, so no olm session can start.",
                do="Have that device come online, so that it publishes new ones; then try again.",
            )
        return session

    # --- keys -----------------------------------------------------------------------------------

    async def _query(self, user_id: str) -> None:
        change = self._changes.get(user_id, 0)
        answer = await self._client.call(
            "list keys",
            "POST",
            f"{_V3}/keys/query",
            body={"device_keys": {user_id: []}, "timeout": _FEDERATION_WAIT_MS},
        )
        server, devices = user_id.partition(":")[2], _dig(answer, "device_keys", user_id)
        # Synapse counts a server as failed, and gives its users' keys all the same, when it is just then
        # fetching them for itself.
        if not devices and server in _dig(answer, "failures"):
            raise ClientError(
                f"The keys of {user_id} are not to be had.",
                status=504,
                why=f"{server} does not answer our homeserver.",
                do="Try again when that homeserver is back.",
            )
        self._handle(KeysQueryResponse({user_id: dict(devices)}, {}))
        if change == self._changes.get(user_id, 0):
            self._fresh.add(user_id)

    async def _claim(self, devices: Mapping[str, Sequence[str]]) -> None:
        wanted = {u: dict.fromkeys(ids, "signed_curve25519") for u, ids in devices.items()}
        answer = await self._client.call(
            "give one-time keys",
            "POST",
            f"{_V3}/keys/claim",
            body={"one_time_keys": wanted, "timeout": _FEDERATION_WAIT_MS},
        )
        given = _dig(answer, "one_time_keys")
        keys = {
            user: {id: key for id in ids if (key := _dig(given, user, id))}
            for user, ids in devices.items()
        }
        self._handle(KeysClaimResponse(keys, {}))

    async def _upload(self) -> None:
        body = self._olm.share_keys()
        # Saved first: should we crash now, we offer the same keys again and not others of the same name.
        self._olm.save_account()
        answer = await self._client.call("take keys", "POST", f"{_V3}/keys/upload", body=body)
        left = _dig(answer, "one_time_key_counts").get("signed_curve25519")
        self._handle(KeysUploadResponse(0, left if isinstance(left, int) else 0))

    def _handle(self, response: object) -> None:
        try:
            self._olm.handle_response(response)
        except Exception as error:  # one malformed device of a stranger
            _log.warning("Keys are unusable: %s", type(error).__name__)

    @property
    def _due(self) -> bool:
        olm = self._olm
        left = olm.uploaded_key_count
        half = olm.account.max_one_time_keys // 2
        return (left is not None and left < half) or bool(olm.wedged_devices)

    async def _keep_up(self) -> None:
        """Refill one-time keys; give devices that lost their session with us a new one."""
        try:
            if self._olm.should_upload_keys:
                await self._upload()
            if self._olm.wedged_devices:
                await self._claim(self._olm.get_users_for_key_claiming())
                for message in list(self._olm.outgoing_to_device_messages):
                    self._olm.outgoing_to_device_messages.remove(message)
                    await self._client.send_to_device(
                        message.type,
                        message.recipient,
                        message.recipient_device,
                        message.content,
                        encrypt=False,
                    )
                self._olm.wedged_devices.clear()
        except ClientError as error:
            _log.info("Upkeep of olm keys failed and comes again with the next sync: %s", error.why)
        finally:
            self._upkeep = None

    async def aclose(self) -> None:
        tasks = [*self._settling.values(), *([self._upkeep] if self._upkeep else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        del self._olm._handle_olm_event
        if self._owned:
            self._olm.store.database.close()


class _FileStore(SqliteStore):  # type: ignore[misc]
    """nio's, which would leave the database open when it turns out to be none."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except BaseException:
            self.database.close()
            raise


class _Transaction(AbstractContextManager[object]):
    """nio's database in one transaction; on failure nio's memory follows the database back."""

    def __init__(self, olm: Olm) -> None:
        self._olm = olm
        database = olm.store.database
        queued = type(database).__name__ == "SqliteQueueDatabase"  # writes in a thread of its own
        self._inner: AbstractContextManager[object] = nullcontext() if queued else database.atomic()

    def __enter__(self) -> object:
        return self._inner.__enter__()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        exit_: Callable[..., object] = self._inner.__exit__
        exit_(kind, error, trace)
        if kind is not None:
            self._olm.account = self._olm.store.load_account()
            self._olm.session_store = self._olm.store.load_sessions()


def _dig(value: object, *names: str) -> Mapping[str, object]:
    """Follow names into nested objects; empty when one is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
