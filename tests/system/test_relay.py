"""A game over the sample plugin: data alone, in a slot of its own application type, on a real Synapse."""

import asyncio
import contextlib
import json
import signal
import sys
from itertools import pairwise

import aiohttp
import pytest

import rtcfoci
from rtcfoci.errors import BackendError, SelectionError
from rtcfoci.matrix.connect import connect
from tests.system.history import is_leave, memberships, slot_id
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

GAME = "org.example.game"


class Relay:
    """`rtcfoci relay` as a process of its own, which may die and come back on the same port."""

    def __init__(self, homeserver):
        self.homeserver = homeserver
        self.port = 0
        self.process = None

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rtcfoci.cli.main", "relay"),
            *("--homeserver", self.homeserver, "--port", str(self.port)),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith("listening on ws://127.0.0.1:")
        self.port = int(line.rpartition(":")[2])

    async def kill(self):
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def relay(synapse):
    found = Relay(synapse.base_url)
    try:
        await found.start()
        yield found
        if found.process.returncode is None:
            found.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(20):
                assert await found.process.wait() == 130
    finally:
        if found.process.returncode is None:
            await found.kill()


@pytest.fixture
async def people(synapse, new_user):
    return [await new_user("ann"), await new_user("bob")]


async def join(synapse, person, room_id, folder, relay, *options):
    own = folder / person.user_id[1:4]
    return await Participant.start(
        synapse, person, room_id, own, "--application", GAME, "--count-data",
        "--focus-option", f"rtcfoci.relay.url={relay.url}", "--record", str(own / "heard"),
        *options, focus="rtcfoci.relay",
    )  # fmt: skip


async def play(synapse, people, room_id, folder, relay, started):
    for person in people:
        started.append(await join(synapse, person, room_id, folder, relay))
    ann, bob = started
    for one, other in ((ann, people[1]), (bob, people[0])):
        await one.until(
            lambda c=(folder, one, other): len(heard(*c)) >= 15, "hears the other's numbers", 40
        )
    return ann, bob


def heard(folder, receiver, sender):
    """The numbers that a receiver wrote down of a sender."""
    name = sender.user_id.partition(":")[0].removeprefix("@")
    files = list((folder / receiver.name[:3] / "heard").glob(f"{name}_*.jsonl"))
    assert len(files) <= 1
    lines = files[0].read_text().splitlines() if files else []
    return [json.loads(line)["n"] for line in lines]


def gaps(numbers):
    return [(a, b) for a, b in pairwise(numbers) if b != a + 1]


async def test_two_processes_play_without_gaps(synapse, people, relay, tmp_path):
    room_id = await synapse.create_room(people[0].access_token)
    await synapse.join_room(people[1].access_token, room_id)
    async with cast() as started:
        ann, bob = await play(synapse, people, room_id, tmp_path, relay, started)
        for participant in (ann, bob):
            assert await participant.stop() == 0
    events = await memberships(synapse, people[0].access_token, room_id)
    assert {e["sender"] for e in events} == {person.user_id for person in people}
    assert {slot_id(e) for e in events if not is_leave(e)} == {f"{GAME}#ROOM"}
    for one, other in ((ann, people[1]), (bob, people[0])):
        numbers = heard(tmp_path, one, other)
        assert len(numbers) >= 15
        assert gaps(numbers) == []


async def test_a_killed_relay_shows_and_one_that_is_back_is_used(synapse, people, relay, tmp_path):
    room_id = await synapse.create_room(people[0].access_token)
    await synapse.join_room(people[1].access_token, room_id)
    async with cast() as started:
        ann, bob = await play(synapse, people, room_id, tmp_path, relay, started)
        await relay.kill()
        for participant in (ann, bob):
            await participant.until(
                lambda p=participant: "focus_failed" in p.conditions(), "says that it is gone", 8
            )
        await asyncio.sleep(2)
        before = {p: len(heard(tmp_path, p, o)) for p, o in ((ann, people[1]), (bob, people[0]))}
        await relay.start()
        for participant, other in ((ann, people[1]), (bob, people[0])):
            await participant.until(
                lambda p=participant: "focus_failed" not in p.conditions(), "sees it again", 40
            )
            await participant.until(
                lambda p=participant, o=other: len(heard(tmp_path, p, o)) > before[p] + 15,
                "hears the other again",
            )
            numbers = heard(tmp_path, participant, other)
            assert numbers == sorted(set(numbers))
            assert gaps(numbers[before[participant] + 1 :]) == []
            assert not participant.events("ParticipantLeft")
        for participant in (ann, bob):
            assert await participant.stop() == 0


async def _openid(synapse, person):
    answer = await synapse.request(
        "POST",
        f"/_matrix/client/v3/user/{person.user_id}/openid/request_token",
        token=person.access_token,
        body={},
    )
    assert answer.status == 200, answer.body
    return answer.body["access_token"]


async def test_who_has_no_token_of_the_homeserver_gets_no_seat(
    synapse, people, new_user, relay, tmp_path
):
    room_id = await synapse.create_room(people[0].access_token)
    await synapse.join_room(people[1].access_token, room_id)
    mallory = await new_user("mallory")
    async with cast() as started, aiohttp.ClientSession() as session:
        ann, bob = await play(synapse, people, room_id, tmp_path, relay, started)
        slot = f"{GAME}#ROOM"
        victim = {"user_id": people[1].user_id, "device_id": "X", "member_id": people[1].user_id}

        async def knock(token):
            """Ask for a seat; give the answer and the socket, or the code it was closed with."""
            socket = await session.ws_connect(relay.url)
            await socket.send_json([token, room_id, slot, victim])
            message = await socket.receive(timeout=10)
            return message.data, socket

        for token in ("", "forged", None, people[1].access_token, mallory.access_token):
            assert (await knock(token))[0] == 1008
        # A foreign token gives its owner a seat, and nobody else's: no word of it reaches the game.
        welcome, socket = await knock(await _openid(synapse, mallory))
        assert welcome == "welcome"
        names = [
            {"user_id": p.user_id, "device_id": m["device_id"], "member_id": m["member_id"]}
            for p, m in ((people[0], _member(bob, people[0])), (people[1], _member(ann, people[1])))
        ]
        body = json.dumps({"n": -1}).encode().hex()
        await socket.send_json([names, "rtcfoci.count", True, body])
        before = len(heard(tmp_path, ann, people[1]))
        await ann.until(lambda: len(heard(tmp_path, ann, people[1])) > before + 10, "plays on")
        for participant in (ann, bob):
            assert await participant.stop() == 0
        await socket.close()
    recorded = list(tmp_path.glob("*/heard/*.jsonl"))
    assert len(recorded) == 2, "somebody else was recorded"
    assert not [p for p in recorded if '"n": -1' in p.read_text()]


def _member(observer, person):
    """What somebody sees of another's membership."""
    return next(p for p in observer.status["participants"] if p["user_id"] == person.user_id)


async def test_an_encrypted_room_refuses_a_relay(synapse, people, relay, tmp_path):
    room_id = await synapse.create_room(people[0].access_token, encrypted=True)
    async with cast() as started:
        ann = await join(synapse, people[0], room_id, tmp_path, relay)
        started.append(ann)
        async with asyncio.timeout(30):
            assert await ann.process.wait() == 2
        error = json.loads(ann.log.read_text().splitlines()[-1])["error"]
        assert "encrypted room" in error["what"]
        assert "rtcfoci.relay" in error["why"]
        assert "hop" in error["why"]
        assert error["do"]
        assert not ann.records, "it was in the call"


async def test_an_encrypted_room_takes_a_relay_from_who_insists(synapse, people, relay, tmp_path):
    room_id = await synapse.create_room(people[0].access_token, encrypted=True)
    client = await connect(
        synapse.base_url,
        user=people[0].user_id,
        password="password",
        device_store=tmp_path / "device",
        encrypted=True,
    )
    foci = [("rtcfoci.relay", {"url": relay.url})]
    try:
        with pytest.raises(SelectionError, match="encrypted room"):
            async with rtcfoci.join(client, room_id, foci=foci, application=GAME):
                pass
        async with rtcfoci.join(
            client, room_id, foci=foci, application=GAME, allow_insecure=True
        ) as call:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(BackendError):  # not connected yet
                        await call.send_data(b"move", topic="x")
                        break
                    await asyncio.sleep(0.1)
    finally:
        await client.aclose()
