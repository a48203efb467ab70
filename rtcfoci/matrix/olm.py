"""Olm for to-device messages: matrix-nio's machine, with the senders checked.

In: our device's keys on the server, encrypting for one device, decrypting into our durable queue, binding
every sender to a device before anything is believed.
Out: the queue (`store`), requests (`cs`), following a bot's own nio client (`nio`), whose keys are whose
(`devices`), events of rooms (`megolm`, `room_keys`).

matrix-nio 0.26.0 drops decrypted to-device events of types it does not know, and does not compare the olm
sender key with the device that the message names. Both are done here, at places of nio that are not public
(`nio_places`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from nio.crypto import Olm
from nio.events import OlmEvent
from nio.responses import KeysUploadResponse
from nio.store import SqliteMemoryStore, SqliteStore

from rtcfoci.core.model import JsonObject, RoomEvent
from rtcfoci.errors import ClientError, UntrustedError, UsageError
from rtcfoci.matrix.client import DelayedEvent, SealedCounts, ToDevice
from rtcfoci.matrix.devices import Devices, dig
from rtcfoci.matrix.loop import CRYPTO_TYPES, clear_arrivals
from rtcfoci.matrix.megolm import SealedEvents
from rtcfoci.matrix.olm_store import Transaction, open_store
from rtcfoci.matrix.room_keys import RoomKeys
from rtcfoci.matrix.store import Arrival, DeviceStore, OlmProof, Unsettled
from rtcfoci.matrix.sync import RoomBatch, SyncBatch, is_content, is_text

if TYPE_CHECKING:
    from nio.events import ToDeviceEvent

    from rtcfoci.matrix.cs import CsClient

__all__ = ["OlmMachine"]

_V3 = "/_matrix/client/v3"
_OLM = "m.olm.v1.curve25519-aes-sha2"
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
        self._asked_s: dict[str, float] = {}
        """Monotonic time up to which a sender has used up its share of queries."""
        self._queries = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self.devices: Devices = Devices(olm, client)
        self.sealed: SealedEvents = SealedEvents(
            olm, self.devices.writer, self.devices.knows, client.wall_ts_ms
        )
        self.room_keys: RoomKeys = RoomKeys(olm, self.devices, client)
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
            store = open_store(client.user_id, client.device_id, str(folder), pickle_key, path.name)
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
        keys = dig(answer, "device_keys", user, device, "keys")
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
            self.devices.doubt_all()
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
        self.devices.changed(batch.devices_changed)
        if batch.devices_changed:
            self.room_keys.look(self.room_keys.rooms)
        if batch.one_time_keys is not None:
            self._olm.uploaded_key_count = batch.one_time_keys

    def transaction(self) -> AbstractContextManager[object]:
        """Hold olm's own writes back until our queue has the plaintext.

        Olm decrypts a message once. If we crash between its write and ours, it is lost; the other way round
        it is only that the session has to skip a message.
        """
        return Transaction(self._olm)

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

    def read(self, room_id: str, events: Iterable[RoomEvent]) -> tuple[RoomEvent, ...]:
        opened = self.sealed.read(room_id, events)
        self._ask_for(self.sealed.senders())
        return opened

    def counts(self, room_id: str) -> SealedCounts:
        return self.sealed.counts(room_id)

    def read_held(self, event: DelayedEvent) -> DelayedEvent:
        return self.sealed.read_held(event)

    def read_rooms(self, batches: Iterable[RoomBatch]) -> tuple[RoomBatch, ...]:
        """Read the encrypted events of one sync, after the messages that came with it."""
        feed = self._client.feed
        batches, rooms = tuple(batches), set(feed.rooms)
        left = {batch.room_id for batch in batches if batch.membership != "join"}
        self.sealed.prune(rooms - left)
        self._hand_out(self.sealed.keyed())
        self._ask_for(self.sealed.senders())
        self.room_keys.look(
            {b.room_id for b in batches if any(e.type == "m.room.member" for e in b.events)}
        )
        return tuple(
            replace(
                batch,
                timeline=self.read(batch.room_id, batch.timeline),
                sticky=self.read(batch.room_id, batch.sticky),
            )
            if batch.room_id in rooms - left
            else batch
            for batch in batches
        )

    def _hand_out(self, opened: Iterator[tuple[str, RoomEvent]]) -> None:
        for room_id, event in opened:
            self._client.feed.late(room_id, event)

    def settle(self) -> list[ToDevice]:
        """Bind queued messages of senders whose devices we know; ask for the others' behind us."""
        delivered, ask = [], self.sealed.senders()
        for item in self._client.store.unsettled():
            known = self.devices.knows(item.sender)
            device_id = self.devices.sender(item.sender, item.proof) if known else None
            if device_id is not None:
                message = self._settle(item, device_id)
                delivered += [message] if message else []
            elif known and self.devices.has_key(item.sender, item.proof.sender_key):
                self._refuse(item.id, item.sender, item.proof)
            else:
                ask.add(item.sender)
        self._ask_for(ask)
        if self._owned and self._upkeep is None and self._due:
            self._upkeep = asyncio.create_task(self._keep_up(), name="olm upkeep")
        return delivered

    def _ask_for(self, senders: set[str]) -> None:
        for sender in senders - self._settling.keys():
            task = asyncio.create_task(self._ask(sender), name=f"keys of {sender}")
            self._settling[sender] = task

    def _tap(self, sender: str, sender_key: str, payload: dict[str, object]) -> object:
        """Stand where nio has decrypted, verified sender and recipient, and would drop the rest."""
        kind, content = payload["type"], payload["content"]
        if not isinstance(kind, str) or kind.startswith(CRYPTO_TYPES):
            made = self._original(sender, sender_key, payload)
            if kind in ("m.room_key", "m.forwarded_room_key"):
                about = dig(payload, "content")
                giver = (sender_key, sender) if kind == "m.room_key" else None
                self.sealed.add_key(about.get("room_id"), about.get("session_id"), giver)
            return made
        if is_text(kind) and is_content(content):
            ed25519, claimed = dig(payload, "keys").get("ed25519"), payload.get("sender_device")
            proof = OlmProof(
                sender_key=sender_key,
                ed25519=ed25519 if is_text(ed25519) else "",
                device_id=claimed if is_text(claimed) else None,
            )
            self._arrived.append(Arrival(kind, sender, content, proof))
        return None

    def _settle(self, item: Unsettled, device_id: str) -> ToDevice | None:
        trusted = self.devices.trusts(item.sender, device_id)
        return self._client.store.settle(item.id, device_id, "trusted" if trusted else "bound")

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
                        await self.devices.ask(sender)
                    break
                except ClientError as error:
                    _log.info("The keys of %s are not to be had: %s", sender, error.why)
                    await asyncio.sleep(2.0**attempt)
            else:
                return  # the next sync with something unsettled asks again
            for item in self._client.store.unsettled():
                if item.sender != sender:
                    continue
                device_id = self.devices.sender(sender, item.proof)
                if device_id is None:
                    self._refuse(item.id, sender, item.proof)
                else:
                    message = self._settle(item, device_id)
                    if message:
                        self._client.feed.message(message)
            self._hand_out(self.sealed.answered(sender))
        finally:
            del self._settling[sender]

    # --- sending --------------------------------------------------------------------------------

    async def encrypt(
        self,
        event_type: str,
        user_id: str,
        device_id: str,
        content: JsonObject,
        *,
        trusted: bool = False,
    ) -> JsonObject:
        device = self.devices.find(user_id, device_id)
        if device is None or not self.devices.knows(user_id):
            try:
                await self.devices.ask(user_id)
            except ClientError:
                # A device keeps its keys for life: what we knew is good enough to write to.
                if device is None:
                    raise
            device = self.devices.find(user_id, device_id)
        if device is None:
            raise ClientError(
                f"No encrypted message can reach {user_id}/{device_id}.",
                status=0,
                why="The user has no such device, or it has published no keys.",
                do="The other side has to run a client with encryption on that device.",
            )
        if trusted and not self.devices.trusts(user_id, device_id):
            raise UntrustedError(
                f"Nothing is sent to {user_id}/{device_id}.",
                do="Have that user verify the device from another client of theirs.",
            )
        session = await self.devices.session(device)
        encrypted = self._olm._olm_encrypt(session, device, event_type, dict(content))
        return dict(encrypted)

    def trusts(self, user_id: str, device_id: str) -> bool | None:
        return self.devices.trusts(user_id, device_id)

    async def encrypt_event(self, room_id: str, event_type: str, content: JsonObject) -> JsonObject:
        return await self.room_keys.encrypt(room_id, event_type, content)

    # --- keys -----------------------------------------------------------------------------------

    async def _upload(self) -> None:
        body = self._olm.share_keys()
        # Saved first: should we crash now, we offer the same keys again and not others of the same name.
        self._olm.save_account()
        answer = await self._client.call("take keys", "POST", f"{_V3}/keys/upload", body=body)
        left = dig(answer, "one_time_key_counts").get("signed_curve25519")
        self._olm.handle_response(KeysUploadResponse(0, left if isinstance(left, int) else 0))

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
                await self.devices.claim(self._olm.get_users_for_key_claiming())
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
        await self.room_keys.aclose()
        del self._olm._handle_olm_event
        if self._owned:
            self._olm.store.database.close()
