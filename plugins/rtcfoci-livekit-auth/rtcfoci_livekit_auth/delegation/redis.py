"""Jobs in Redis, where several replicas share the work.

In: the connection, who has which job, and what replicas tell each other. Out: the format (`redis_format`).

Without leases this does what lk-jwt-service does: one hash, and HSET, HDEL and HGETALL on it. With leases
each job has an owner (a hash beside it) and each replica a key that lives only as long as it renews it. A
job whose owner is gone is taken up by whoever notices first, and a write of who is no longer the owner is
refused; both are decided by Redis, in a script. Events of the SFU reach one replica; it tells the others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.delegation.model import Key, Record
from rtcfoci_livekit_auth.delegation.redis_format import extras as extras_of
from rtcfoci_livekit_auth.delegation.redis_format import field, job, parse
from rtcfoci_livekit_auth.delegation.store import QueuedStore, Write

__all__ = ["RedisStore"]

_log = logging.getLogger(__name__)

JOBS = "lk-jwt:jobs"
EXTRAS = "rtcfoci:jobs"
OWNERS = "rtcfoci:owners"
REPLICAS = "rtcfoci:replicas"
REPLICA = "rtcfoci:replica:"
EVENTS = "rtcfoci:events"

TIMEOUT_S = 5.0

_WRITE = """
local ours = {}
for i = 2, #ARGV, 4 do
  local field, value, more, new = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local owner = redis.call('HGET', KEYS[3], field)
  if new == '1' or not owner or owner == ARGV[1] then
    if value == '' then
      redis.call('HDEL', KEYS[1], field)
      redis.call('HDEL', KEYS[2], field)
      redis.call('HDEL', KEYS[3], field)
    else
      redis.call('HSET', KEYS[1], field, value)
      redis.call('HSET', KEYS[2], field, more)
      redis.call('HSET', KEYS[3], field, ARGV[1])
    end
    ours[#ours + 1] = 1
  else
    ours[#ours + 1] = 0
  end
end
return ours
"""
"""Keys: jobs, extras, owners. Arguments: me, then field, value or nothing, extras and newness of each."""

_ADOPT = """
local alive, found = {}, {}
local jobs = redis.call('HGETALL', KEYS[1])
for i = 1, #jobs, 2 do
  local field = jobs[i]
  local owner = redis.call('HGET', KEYS[3], field)
  if owner and owner ~= ARGV[1] and alive[owner] == nil then
    alive[owner] = redis.call('EXISTS', ARGV[2] .. owner) == 1
  end
  if not owner or (owner == ARGV[1] and ARGV[3] == '1') or
      (owner ~= ARGV[1] and not alive[owner]) then
    redis.call('HSET', KEYS[3], field, ARGV[1])
    found[#found + 1] = field
    found[#found + 1] = jobs[i + 1]
    found[#found + 1] = redis.call('HGET', KEYS[2], field) or ''
  end
end
for _, other in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  if redis.call('EXISTS', ARGV[2] .. other) == 0 then
    redis.call('SREM', KEYS[4], other)
  end
end
return found
"""
"""Keys: jobs, extras, owners, replicas. Arguments: me, the prefix of replicas, whether I want my own too."""

_BEAT = """
local before = redis.call('GET', ARGV[2] .. ARGV[1])
redis.call('SADD', KEYS[1], ARGV[1])
if not before or before == ARGV[3] or ARGV[5] == '1' then
  redis.call('SET', ARGV[2] .. ARGV[1], ARGV[3], 'PX', ARGV[4])
end
local gone = 0
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[2] .. other) == 0 then
    gone = gone + 1
  end
end
return {before or '', gone}
"""
"""Key: replicas. Arguments: me, the prefix of replicas, this process, its life in ms, whether it begins."""


class RedisStore(QueuedStore):
    """Keeps jobs in Redis.

    :param url: as `redis://host:6379/0`; it may hold a password, and is never shown.
    :param extras: whether what the original does not keep is kept in a hash beside; with leases always.
    :param replica: the name of this replica: the same after a restart, another for every replica.
    :param lease_s: how long a replica is taken to live without a sign of life; 0 for no leases, so that a
        second replica drives every job as well.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        extras: bool = False,
        replica: str = "",
        lease_s: float = 0.0,
    ) -> None:
        super().__init__()
        self._extras = extras
        options: dict[str, Any] = {"password": password} if password is not None else {}
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                **options,
            )
        except ValueError as error:
            raise UsageError(
                "the URL of Redis cannot be read",
                why=str(error),
                do="write it as redis://host:6379/0, or rediss:// for TLS",
            ) from None
        self._replica = replica
        self._process = secrets.token_hex(8)
        self._lease_s = lease_s
        self._stale: list[str] = []
        self._unsure = False
        """Whether jobs may have been given to us in an answer that was lost."""
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"RedisStore(replica={self._replica!r}, lease_s={self._lease_s})"

    @property
    def shared(self) -> bool:
        return self._lease_s > 0

    def tell(self, message: dict[str, Any]) -> None:
        if self.shared:
            task = asyncio.create_task(self._tell(json.dumps([self._process, message])))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _connect(self) -> Sequence[Record]:
        try:
            await self._ask(self._redis.ping())
            if not self.shared:
                return await self._load()
            await self._beat(begins=True)
            records = await self._adopt(own=True)
        except OSError as error:
            await self._redis.aclose()
            raise UsageError(
                "Redis cannot be used",
                why=str(error),
                do="check its URL, its password and that it runs",
            ) from None
        self._tasks = [
            asyncio.create_task(self._live(), name="delegation-lease"),
            asyncio.create_task(self._listen(), name="delegation-events"),
        ]
        return records

    async def _write(self, writes: Sequence[Write]) -> Sequence[bool]:
        if self.shared:
            arguments: list[str] = [self._replica]
            for key, record, new in writes:
                value, more = (job(record), extras_of(record)) if record else ("", "")
                arguments += [field(key), value, more, "1" if new else "0"]
            script = self._redis.eval(_WRITE, 3, JOBS, EXTRAS, OWNERS, *arguments)
            return [bool(ours) for ours in await self._ask(script)]
        pipe = self._redis.pipeline(transaction=False)
        if self._stale:
            pipe.hdel(JOBS, *self._stale)
        for key, record, _ in writes:
            name = field(key)
            if record is None:
                pipe.hdel(JOBS, name)
            else:
                pipe.hset(JOBS, name, job(record))
            if self._extras:
                pipe.hset(EXTRAS, name, extras_of(record)) if record else pipe.hdel(EXTRAS, name)
        await self._ask(pipe.execute())
        self._stale.clear()
        return [True] * len(writes)

    async def _disconnect(self) -> None:
        tasks = {*self._tasks, *self._telling}
        while tasks:  # The client loses a cancellation that comes as it begins to wait.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        if self.shared:
            try:  # The others need not wait for the lease to run out.
                await self._ask(self._redis.delete(REPLICA + self._replica))
            except OSError:
                _log.info("could not say goodbye to the other replicas")
        await self._redis.aclose()

    async def _load(self) -> Sequence[Record]:
        try:
            jobs = await self._ask(self._redis.hgetall(JOBS))
            more = await self._ask(self._redis.hgetall(EXTRAS)) if self._extras else {}
        except OSError:
            if self._extras:
                raise
            # The original begins with nothing then.
            _log.error("the jobs in Redis cannot be read; their homeservers will send them in time")
            return []
        return self._read([(name, text, more.get(name)) for name, text in jobs.items()])

    async def _ask(self, call: Any) -> Any:  # noqa: ANN401 - redis-py types answers by the command's text
        try:
            return await cast("Awaitable[Any]", call)
        except RedisError as error:
            # Its text may quote a command, and with it a delay id.
            raise OSError(f"Redis: {type(error).__name__}") from None

    def _read(self, entries: Sequence[tuple[str, str, str | None]]) -> list[Record]:
        records: dict[Key, Record] = {}
        for name, text, more in entries:
            record = parse(name, text, more)
            if record is None:
                _log.warning("an entry of %s is no job of ours; it stays", JOBS)
                continue
            records[record.leave.key] = record
            if name != field(record.leave.key):
                self._stale.append(name)  # Written another way; ours replaces it.
        return list(records.values())

    # With leases.

    async def _adopt(self, *, own: bool = False) -> list[Record]:
        """Take the jobs that nobody has.

        :param own: give those that are ours already, too.
        """
        keys = JOBS, EXTRAS, OWNERS, REPLICAS
        own_too = "1" if own or self._unsure else "0"
        self._unsure = True
        found = await self._ask(
            self._redis.eval(_ADOPT, len(keys), *keys, self._replica, REPLICA, own_too)
        )
        self._unsure = False
        return self._read(list(zip(found[::3], found[1::3], found[2::3], strict=True)))

    async def _beat(self, *, begins: bool = False) -> None:
        assert self._watcher is not None
        life_ms = str(int(self._lease_s * 1000))
        begins_text = "1" if begins else "0"
        before, gone = await self._ask(
            self._redis.eval(
                _BEAT, 1, REPLICAS, self._replica, REPLICA, self._process, life_ms, begins_text
            )
        )
        if begins:
            return
        if before not in ("", self._process):
            _log.error(
                "another process goes by the name %s and took the jobs over; where it is no successor, "
                "give every replica a name of its own",
                self._replica,
            )
            self._replica = f"{self._replica}~{self._process}"
            self._watcher.lost(None)
        elif not before:
            self._owe_all()  # Our lease ran out: what others took meanwhile is theirs.
        if gone or self._unsure:
            self._watcher.adopt(await self._adopt())

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._beat()
            except OSError as error:
                _log.warning("no sign of life given: %s", error)

    async def _tell(self, text: str) -> None:
        try:
            await self._ask(self._redis.publish(EVENTS, text))
        except OSError as error:
            _log.warning("an event was not passed on: %s", error)

    async def _listen(self) -> None:
        assert self._watcher is not None
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await self._ask(channel.subscribe(EVENTS))
                    while True:
                        message = await self._ask(channel.get_message(timeout=TIMEOUT_S / 2))
                        if message is not None:
                            self._hear(message["data"])
            except (OSError, RedisError) as error:
                _log.warning("events of other replicas are not heard: %s", type(error).__name__)
                await asyncio.sleep(1.0)

    def _hear(self, text: str) -> None:
        assert self._watcher is not None
        try:
            sender, message = json.loads(text)
        except (ValueError, TypeError):
            return
        if sender != self._process and isinstance(message, dict):
            self._watcher.heard(message)
