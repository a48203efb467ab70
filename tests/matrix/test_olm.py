"""Olm against the homeserver in memory, in virtual time: crashes, strangers, keys that are late."""

from __future__ import annotations

import asyncio
import datetime
import os
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcfoci.errors import ClientError, UsageError
from rtcfoci.matrix.client import ToDevice
from rtcfoci.matrix.connect import connect
from rtcfoci.matrix.sync import RawToDevice, SyncBatch
from rtcfoci.testing.clock import run
from rtcfoci.testing.homeserver import MemoryHomeserver

SIGNAL = "rtcfoci.signal"
QUERY = "/keys/query"


class Side:
    """One encrypted device that keeps what it hears."""

    def __init__(self, server, who, store, room_id):
        self.server, self.who, self.store, self.room_id = server, who, store, room_id
        self.heard = []

    async def open(self):
        self.client = await connect(
            self.server.base_url,
            token=self.who.access_token,
            device_store=self.store,
            encrypted=True,
            requester=lambda url: self.server.line(),
        )
        self.task = asyncio.create_task(self.read())
        return self

    async def read(self):
        async for update in self.client.updates(self.room_id):
            if isinstance(update, ToDevice):
                self.heard.append(update)

    async def say(self, other, n):
        await self.client.send_to_device(
            SIGNAL, other.client.user_id, other.client.device_id, {"n": n}, encrypt=True
        )

    @property
    def numbers(self):
        return [m.content["n"] for m in self.heard]

    async def hears(self, *numbers):
        async with asyncio.timeout(60):
            while self.numbers != list(numbers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def close(self):
        await self.client.aclose()
        await self.task


@asynccontextmanager
async def two_sides(tmp_path):
    server = MemoryHomeserver(latency_s=0.01)
    alice, bob = await server.register("alice", "a"), await server.register("bob", "b")
    room_id = await server.create_room(alice.access_token)
    await server.join_room(bob.access_token, room_id)
    one = await Side(server, alice, tmp_path / "alice", room_id).open()
    two = await Side(server, bob, tmp_path / "bob", room_id).open()
    try:
        yield one, two
    finally:
        await one.close()
        await two.close()


@pytest.mark.parametrize("kept", [False, True], ids=["before", "after"])
def test_a_crash_around_the_queueing_of_the_plaintext_loses_nothing(tmp_path, kept):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            await one.say(two, 1)
            await two.say(one, 1)
            await two.hears(1)
            await one.hears(1)
            # Bob decrypts the next messages, and dies before they are in his queue, or when they are there
            # and his olm sessions do not yet know it.
            died, commit = [], two.client.store.commit

            def dies(*arguments):
                died.append(1)
                if kept:
                    commit(*arguments)
                raise RuntimeError("power cut")

            two.client.store.commit = dies
            await one.say(two, 2)
            await one.say(two, 3)
            async with asyncio.timeout(60):
                while not died:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await two.close()
            two.heard.clear()
            await two.open()
            await two.hears(1, 2, 3)
            assert two.client.encrypter.undecryptable == 0
            await two.say(one, 2)
            await one.say(two, 4)
            await two.hears(1, 2, 3, 4)
            await one.hears(1, 2)

    run(main())


def test_a_commit_that_fails_once_is_repeated_with_the_same_messages(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            commit, failures = two.client.store.commit, []

            def fails_once(*arguments):
                if not failures:
                    failures.append(1)
                    raise RuntimeError("disk full")
                return commit(*arguments)

            two.client.store.commit = fails_once
            for n in range(3):
                await one.say(two, n)
            await two.hears(0, 1, 2)
            assert failures
            assert {m.security for m in two.heard} == {"bound"}
            assert two.client.encrypter.undecryptable == 0

    run(main())


def test_messages_wait_for_the_senders_keys_across_a_restart(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            for n in range(3):
                await one.say(two, n)
            two.server.refuse(QUERY, count=1000, status=504, errcode="M_UNKNOWN")
            await asyncio.sleep(5)
            assert two.numbers in ([], [0, 1, 2])

        server = one.server
        server._faults.clear()
        two.heard.clear()
        await two.open()
        await two.hears(0, 1, 2)
        assert [m.sender_device_id for m in two.heard] == [one.client.device_id] * 3
        await two.close()

    run(main())


def test_keys_that_are_late_do_not_hold_up_the_room(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            await one.say(two, 0)
            await two.hears(0)
            # From now on bob knows nobody's devices, and the server does not tell him.
            two.client.encrypter.devices.doubt_all()
            two.server.refuse(QUERY, count=1000, status=504, errcode="M_UNKNOWN")
            await one.say(two, 1)
            stream = two.client.updates(two.room_id)
            await anext(stream)
            event_id = await one.client.send_state(one.room_id, "x.test", "k", {})
            async with asyncio.timeout(0.5):
                async for update in stream:
                    if event_id in [e.event_id for e in getattr(update, "events", ())]:
                        break
            assert two.numbers == [0]
            await stream.aclose()
            two.server._faults.clear()
            await two.hears(0, 1)

    run(main())


@pytest.mark.parametrize("given", [True, False])
def test_keys_that_are_given_count_even_if_their_server_is_said_to_fail(tmp_path, given):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            call = one.client.call

            async def contradicts_itself(what, *arguments, **named):
                answer = await call(what, *arguments, **named)
                if what == "list keys":
                    answer["failures"] = {one.server.server_name: {"status": 503}}
                    answer["device_keys"] = answer["device_keys"] if given else {}
                return answer

            one.client.call = contradicts_itself
            if given:
                await one.say(two, 1)
                await two.hears(1)
            else:
                with pytest.raises(ClientError, match="not to be had"):
                    await one.say(two, 1)
            del one.client.call

    run(main())


@pytest.mark.parametrize("damage", ["file", "account"])
def test_a_damaged_account_is_said_and_nothing_stays_open(tmp_path, damage):
    async def main():
        async with two_sides(tmp_path) as (one, _):
            await one.close()
            path = tmp_path / "alice" / "olm.sqlite"
            if damage == "file":
                path.write_bytes(b"not a database, but long enough to be looked at " * 50)
            else:
                with closing(sqlite3.connect(path, isolation_level=None)) as database:
                    database.execute("UPDATE accounts SET account = 'damaged'")
            left = len(os.listdir("/proc/self/fd"))
            for _ in range(2):  # the folder is free again
                with pytest.raises(UsageError, match="olm account") as error:
                    await one.open()
                assert "delete the folder" in error.value.do
            assert len(os.listdir("/proc/self/fd")) == left

    run(main())


def test_a_wedged_session_is_replaced(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            for n in range(2):
                await one.say(two, n)
                await two.say(one, n)
                await two.hears(*range(n + 1))
                await one.hears(*range(n + 1))
            # Bob's sessions are damaged beyond use; they are older than an hour.
            olm = two.client.encrypter._olm
            key = one.client.encrypter._olm.account.identity_keys["curve25519"]
            stranger = one.client.encrypter._olm.session_store.get
            assert stranger is not None
            for session in olm.session_store[key]:
                session.creation_time -= datetime.timedelta(hours=2)
                session.decrypt = damaged
            await one.say(two, 2)
            async with asyncio.timeout(60):
                while not two.client.encrypter.undecryptable:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            # That message is lost, and the sessions after it are new ones.
            await asyncio.sleep(5)
            olm.session_store[key][:] = [
                s for s in olm.session_store[key] if s.decrypt is not damaged
            ]
            assert olm.session_store.get(key) is not None
            assert olm.wedged_devices == []
            await one.say(two, 3)
            await two.hears(0, 1, 3)

    run(main())


def damaged(_):
    import vodozemac

    raise vodozemac.OlmDecryptionException("damaged")


def test_devices_that_are_not_what_they_say_or_are_gone_are_not_believed(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            await one.say(two, 1)
            await two.hears(1)
            asked = []

            async def nothing_new(user_id):
                asked.append(user_id)

            two.client.encrypter.devices.ask = nothing_new
            # A key that is known, on a device that names another one: refused without asking anybody.
            one.client.encrypter._olm.device_id = "OTHER"
            await one.say(two, 2)
            await asyncio.sleep(5)
            assert (two.numbers, two.client.encrypter.refused, asked) == ([1], 1, [])
            # A device that is gone: nobody vouches for its key any more.
            one.client.encrypter._olm.device_id = one.client.device_id
            theirs = two.client.encrypter._olm.device_store[one.client.user_id]
            theirs[one.client.device_id].deleted = True
            await one.say(two, 3)
            await asyncio.sleep(5)
            assert (two.numbers, two.client.encrypter.refused) == ([1], 2)
            assert asked == [one.client.user_id]
            assert two.client.store.unsettled() == []

    run(main())


def test_a_session_that_cannot_start_is_said(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            one.server.refuse("/keys/upload", count=1000, status=500, errcode="M_UNKNOWN")
            for _ in range(100):
                body = {
                    "one_time_keys": {
                        two.client.user_id: {two.client.device_id: "signed_curve25519"}
                    }
                }
                await one.client.request("POST", "/_matrix/client/v3/keys/claim", body=body)
            with pytest.raises(ClientError, match="No encrypted message can reach"):
                await one.say(two, 1)

    run(main())


def test_encrypted_messages_that_no_database_takes_hold_nothing_up(tmp_path, caplog):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            await one.say(two, 0)
            await two.hears(0)
            olm, deep = one.client.encrypter._olm, []
            for _ in range(400):
                deep = [deep]
            for kind, device, content in (
                ("x.\ud800", olm.device_id, {}),
                (SIGNAL, "\ud800", {"n": 1}),
                (SIGNAL, olm.device_id, {"n": deep}),
                (SIGNAL, olm.device_id, {"n": 2}),
            ):
                olm.device_id = device
                await one.client.send_to_device(
                    kind, two.client.user_id, two.client.device_id, content, encrypt=True
                )
                olm.device_id = one.client.device_id
            # A name that is none counts as not named: the keys alone say which device it was.
            await two.hears(0, 1, 2)
            assert {m.sender_device_id for m in two.heard} == {one.client.device_id}
            assert two.client.encrypter.undecryptable == 2

    with caplog.at_level("ERROR", logger="rtcfoci"):
        run(main())
    assert caplog.text == ""


def test_a_sync_from_the_beginning_trusts_no_keys_of_before(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            await one.say(two, 1)
            await two.hears(1)
            machine, store = two.client.encrypter, two.client.store
            machine.receive(SyncBatch(next_batch=store.next_batch), store)
            assert machine.devices.knows(one.client.user_id)
            store.forget_place()
            machine.receive(SyncBatch(next_batch="s0_0_0"), store)
            assert not machine.devices.knows(one.client.user_id)

    run(main())


strings = st.text(max_size=20) | st.sampled_from(
    ["", "AAAA", "\ud800", "m.olm.v1.curve25519-aes-sha2"]
)
hostile = st.fixed_dictionaries(
    {"algorithm": st.just("m.olm.v1.curve25519-aes-sha2")},
    optional={
        "sender_key": strings | st.integers(),
        "ciphertext": strings
        | st.dictionaries(
            st.just("OURS") | strings,
            st.fixed_dictionaries(
                {}, optional={"type": st.sampled_from([0, 1, 2, "0", None]), "body": strings}
            )
            | strings,
            max_size=2,
        ),
    },
)


def test_hostile_ciphertexts_never_raise(tmp_path):
    async def main():
        async with two_sides(tmp_path) as (one, two):
            machine, store = two.client.encrypter, two.client.store
            ours = machine._olm.account.identity_keys["curve25519"]

            @settings(max_examples=150, deadline=None, database=None)
            @given(st.lists(hostile, max_size=3))
            def check(contents):
                events = []
                for content in contents:
                    ciphertext = content.get("ciphertext")
                    if isinstance(ciphertext, dict) and "OURS" in ciphertext:
                        ciphertext[ours] = ciphertext.pop("OURS")
                    events.append(RawToDevice("m.room.encrypted", "@eve:evil", content))
                before = machine.undecryptable
                place = store.next_batch
                assert (
                    machine.receive(SyncBatch(next_batch=place, to_device=tuple(events)), store)
                    == []
                )
                assert machine.undecryptable == before + len(events)

            check()
            await one.say(two, 1)
            await two.hears(1)

    run(main())
