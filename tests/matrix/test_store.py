"""The device store: what survives, what is bounded, who may open it."""

from __future__ import annotations

import json
import sqlite3
import stat

import pytest

from rtcfoci.errors import UsageError
from rtcfoci.matrix import store as store_module
from rtcfoci.matrix.store import Arrival, DeviceStore, OlmProof, Session

SESSION = Session(
    homeserver_url="http://h", user_id="@a:b", device_id="D", access_token="secret", pickle_key="p"
)
PROOF = OlmProof(sender_key="curve", ed25519="ed", device_id="D2")


def contents(store):
    return [m.content["n"] for m in store.pending()]


def clear(n, sender="@a:b"):
    return Arrival("x.test", sender, {"n": n})


def test_messages_and_place_survive_until_acknowledged(tmp_path):
    store = DeviceStore.open(tmp_path)
    assert store.next_batch is None
    first, second = store.commit("s1", [clear(1), clear(2)])
    assert (first.security, first.sender_device_id) == ("clear", None)
    store.close()
    store.close()
    store = DeviceStore.open(tmp_path)
    assert store.next_batch == "s1"
    assert [m.id for m in store.pending()] == [first.id, second.id]
    store.remove(first.id)
    assert contents(store) == [2]
    # Ids are never used again, so that an old acknowledgement cannot hit a new message.
    store.remove(second.id)
    assert store.commit(None, [clear(3)])[0].id > second.id
    assert store.next_batch == "s1"
    store.forget_place()
    assert store.next_batch is None
    store.close()


def test_a_sync_is_kept_whole_or_not_at_all(tmp_path):
    store = DeviceStore.open(tmp_path)
    store.commit("s1", [])
    with pytest.raises(TypeError):
        store.commit("s2", [clear(1), Arrival("x.test", "@a:b", {"n": object()})])
    assert store.next_batch == "s1"
    assert store.pending() == []
    store.commit("s2", [clear(1)])
    assert contents(store) == [1]
    store.close()


def test_messages_are_on_the_disk_before_the_server_forgets_them(tmp_path):
    store, said = DeviceStore.open(tmp_path), []
    store._database.set_trace_callback(said.append)
    (message,) = store.commit("s1", [clear(1)])
    assert (said[0], said[-1]) == ("PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL")
    assert said.index("COMMIT") == len(said) - 2
    # Nothing else is worth the wait: what is forgotten too late comes again.
    said.clear()
    store.commit("s2", [])
    store.remove(message.id)
    assert "PRAGMA synchronous=FULL" not in said
    store.close()


def test_what_the_disk_refuses_is_undone(tmp_path):
    store = DeviceStore.open(tmp_path)
    store.commit("s1", [])
    # A check that SQLite makes at the end of a transaction fails as a full disk does: in COMMIT.
    store._database.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE a (b REFERENCES c DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE c (d INTEGER PRIMARY KEY);"
        "CREATE TRIGGER full AFTER INSERT ON to_device BEGIN INSERT INTO a VALUES (1); END;"
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.commit("s2", [clear(1)])
    assert (store.next_batch, store.pending()) == ("s1", [])
    store._database.execute("DROP TRIGGER full")
    store.commit("s2", [clear(1)])
    assert (store.next_batch, contents(store)) == ("s2", [1])
    store.close()


def test_olm_messages_wait_for_their_sender_to_be_bound(tmp_path):
    store = DeviceStore.open(tmp_path)
    assert store.commit("s1", [Arrival("x.test", "@a:b", {"n": 1}, PROOF)]) == []
    assert store.pending() == []
    store.close()
    store = DeviceStore.open(tmp_path)
    (waiting,) = store.unsettled()
    assert (waiting.sender, waiting.proof) == ("@a:b", PROOF)
    message = store.settle(waiting.id, "D2", "bound")
    assert (message.security, message.sender_device_id, message.content) == (
        "bound",
        "D2",
        {"n": 1},
    )
    assert store.settle(waiting.id, "D3", "bound") is None
    assert store.unsettled() == []
    assert store.pending() == [message]
    store.close()


def test_the_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(store_module, "MAX_MESSAGES", 10)
    monkeypatch.setattr(store_module, "MAX_MESSAGES_OF_SENDER", 4)
    now = [1_000_000_000]
    store = DeviceStore.memory(wall_ts_ms=lambda: now[0])
    store.commit("s", [clear(n, "@loud:b") for n in range(7)])
    store.commit("s", [clear(100, "@quiet:b")])
    assert contents(store) == [3, 4, 5, 6, 100]
    assert store.dropped == 3
    store.commit("s", [clear(200 + n, f"@{n}:b") for n in range(8)])
    assert len(contents(store)) == 10
    assert contents(store)[-1] == 207
    assert store.dropped == 6
    now[0] += store_module.MAX_AGE_MS + 1
    assert contents(store) == []
    store.commit("s", [clear(300)])
    assert contents(store) == [300]
    assert store.dropped == 16
    store.close()


def test_a_second_owner_is_refused(tmp_path):
    store = DeviceStore.open(tmp_path)
    with pytest.raises(UsageError, match="in use") as error:
        DeviceStore.open(tmp_path)
    assert "device store of its own" in error.value.do
    assert "Process " in error.value.why
    store.close()
    DeviceStore.open(tmp_path).close()


def test_the_login_is_kept_readable_by_its_user_only(tmp_path):
    folder = tmp_path / "new" / "store"
    store = DeviceStore.open(folder)
    assert store.load_session() is None
    store.save_session(SESSION)
    assert store.load_session() == SESSION
    for name in ("session.json", "rtcfoci.sqlite", "lock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "secret" not in repr(SESSION)
    assert "pickle_key" not in repr(SESSION)
    store.close()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"{}", json.dumps({"user_id": 1}).encode(), b"\xff"]
)
def test_a_damaged_login_is_said(tmp_path, damage):
    store = DeviceStore.open(tmp_path)
    (tmp_path / "session.json").write_bytes(damage)
    with pytest.raises(UsageError, match="damaged"):
        store.load_session()
    store.close()


def test_an_unusable_folder_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        DeviceStore.open(file)
    (tmp_path / "rtcfoci.sqlite").write_bytes(
        b"not a database, but long enough to be looked at " * 50
    )
    with pytest.raises(UsageError, match="cannot be used"):
        DeviceStore.open(tmp_path)
    # And the lock is free again.
    (tmp_path / "rtcfoci.sqlite").unlink()
    DeviceStore.open(tmp_path).close()


def test_a_store_in_memory_keeps_no_login():
    store = DeviceStore.memory()
    store.save_session(SESSION)
    assert store.load_session() is None
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store.pending()
