"""What a store has to do, asked of each there is; what the queue in front of it does; SQLite's file."""

import asyncio
import os
import sqlite3
import stat

import pytest
from rtcfoci_livekit_auth.delegation.model import Phase
from rtcfoci_livekit_auth.delegation.redis import RedisStore
from rtcfoci_livekit_auth.delegation.sqlite import SqliteStore
from rtcfoci_livekit_auth.delegation.store import MemoryStore, QueuedStore
from stores import Watcher, record_of, redis_server, redis_url, until

from rtcfoci.errors import UsageError

__all__ = ["redis_server", "redis_url"]


@pytest.fixture(params=["sqlite", "redis", "leases"])
def reopened(request, tmp_path):
    """Give a function that opens the store anew, as the next process would."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "jobs.sqlite")
    url = request.getfixturevalue("redis_url")
    if request.param == "redis":
        return lambda: RedisStore(url, extras=True)
    return lambda: RedisStore(url, replica="one", lease_s=5.0)


async def test_what_was_saved_is_there_for_the_next_process(reopened):
    store = reopened()
    assert await store.open(Watcher()) == []
    assert await store.save(record_of(1), new=True)
    await store.save(record_of(2, phase=Phase.WAITING), new=True)
    store.keep(record_of(2, phase=Phase.LEAVING))
    await store.save(record_of(3), new=True)
    store.delete(record_of(3).leave.key)
    await store.close()
    store = reopened()
    found = await store.open(Watcher())
    assert sorted(found, key=repr) == [record_of(1), record_of(2, phase=Phase.LEAVING)]
    await store.close()


async def test_what_was_saved_is_there_after_a_crash(reopened):
    store = reopened()
    await store.open(Watcher())
    await store.save(record_of(1), new=True)
    # No close: what a killed process leaves is what was answered.
    if isinstance(store, SqliteStore):
        await store._in_thread(store._hang_up)
    other = reopened()
    assert await other.open(Watcher()) == [record_of(1)]
    await other.close()
    await store.close()


async def test_nothing_shows_a_delay_id(reopened, caplog):
    caplog.set_level("DEBUG")
    store = reopened()
    await store.open(Watcher())
    await store.save(record_of(1), new=True)
    assert "secret" not in f"{store!r}{caplog.text}"
    await store.close()


async def test_memory_forgets_with_the_process():
    store = MemoryStore()
    await store.open(Watcher())
    await store.save(record_of(1), new=True)
    store.keep(record_of(2))
    store.delete(record_of(1).leave.key)
    assert list(store.records) == [record_of(2).leave.key]
    await store.close()


# The queue.


class Slow(QueuedStore):
    """A store whose disk takes its time and may be full."""

    def __init__(self):
        super().__init__()
        self.batches, self.full, self.kept = [], False, {}
        self.flush = asyncio.Event()

    async def _connect(self):
        return []

    async def _write(self, writes):
        await self.flush.wait()
        if self.full:
            raise OSError("full")
        self.batches.append(len(writes))
        self.kept |= {key: record for key, record, _ in writes}
        return [True] * len(writes)

    async def _disconnect(self):
        pass


async def test_sixty_four_writes_at_once_share_two_flushes():
    store = Slow()
    await store.open(Watcher())
    writes = [asyncio.create_task(store.save(record_of(n), new=True)) for n in range(64)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.flush.set()
    assert all(await asyncio.gather(*writes))
    assert sum(store.batches) == 64
    assert len(store.batches) <= 2
    await store.close()


async def test_what_an_outage_kept_from_the_store_is_written_after_it(monkeypatch):
    monkeypatch.setattr("rtcfoci_livekit_auth.delegation.store.RETRY_S", 0.01)
    forgotten, newest = record_of(9), record_of(1, phase=Phase.LEAVING)
    store = Slow()
    store.flush.set()
    await store.open(Watcher([forgotten]))
    await store.save(record_of(1), new=True)
    await store.save(record_of(2), new=True)
    store.full = True
    store.keep(record_of(1))
    store.keep(newest)
    store.delete(record_of(2).leave.key)
    with pytest.raises(OSError, match="no write"):
        await store.save(record_of(3), new=True)
    assert store.owed == 2
    store.full = False
    await until(lambda: not store.owed)
    assert store.kept[newest.leave.key] == newest
    assert store.kept[record_of(2).leave.key] is None
    assert store.kept[forgotten.leave.key] == forgotten
    assert record_of(3).leave.key not in store.kept
    await store.close()


# SQLite.


async def test_the_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "jobs.sqlite"
    before = os.umask(0)
    try:
        store = SqliteStore(path)
        await store.open(Watcher())
        await store.save(record_of(), new=True)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600}
    await store.close()


async def test_a_second_process_is_told_who_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("rtcfoci_livekit_auth.delegation.sqlite.LOCK_WAIT_S", 0.05)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    await store.open(Watcher())
    with pytest.raises(UsageError, match="another file; several processes need Redis"):
        await SqliteStore(tmp_path / "jobs.sqlite").open(Watcher())
    await store.close()


async def test_a_file_that_cannot_be_used_says_why_and_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="make its folder exist"):
        await SqliteStore(tmp_path / "nowhere" / "jobs.sqlite").open(Watcher())
    (tmp_path / "poem.sqlite").write_text("Roses are red" * 1000)
    with pytest.raises(UsageError, match="move the file away"):
        await SqliteStore(tmp_path / "poem.sqlite").open(Watcher())
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UsageError, match="newer version"):
        await SqliteStore(newer).open(Watcher())
