"""What real calls over the mesh and a real Synapse do when something breaks."""

import asyncio
import time

import pytest

from rtcfoci.testing import Synapse, SynapseOptions
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


async def two_in_a_call(synapse, people, room_id, folder, started, *options):
    for person in people:
        started.append(
            await Participant.start(
                synapse, person, room_id, folder / person.user_id[1:5], "--source", "tone", *options
            )
        )
    ann, bob = started
    await ann.until(lambda: ann.frames(people[1].user_id) > 20, "hears bob", 40)
    await bob.until(lambda: bob.frames(people[0].user_id) > 20, "hears ann", 40)
    return ann, bob


async def current_members(synapse, token, room_id):
    """Who has a membership that is not empty, as the homeserver says."""
    answer = await synapse.request("GET", "/_matrix/client/v3/sync", token=token)
    room = answer.body["rooms"]["join"][room_id]
    latest = {}
    for event in (*room["state"]["events"], *room["timeline"]["events"]):
        if event["type"] == "org.matrix.msc3401.call.member":
            latest[event["state_key"]] = event
    return {event["sender"] for event in latest.values() if event["content"]}


@pytest.fixture(params=["encrypted"])
async def people(request, synapse, new_user):
    found = [await new_user("ann"), await new_user("bob")]
    room_id = await synapse.create_room(
        found[0].access_token, encrypted=request.param == "encrypted"
    )
    await synapse.join_room(found[1].access_token, room_id)
    return found, room_id


async def test_a_killed_participant_is_missed_and_withdrawn(synapse, people, tmp_path):
    (ann_person, bob_person), room_id = people
    async with cast() as started:
        ann, bob = await two_in_a_call(
            synapse, (ann_person, bob_person), room_id, tmp_path, started, "--leave-delay", "8"
        )
        killed_s = time.monotonic()
        bob.kill()
        await ann.until(
            lambda: any(bob_person.user_id in c["subject"] for c in ann.status["conditions"]),
            "a condition names bob",
            6,
        )
        assert time.monotonic() - killed_s <= 6  # status is printed once a second
        await ann.until(lambda: ann.events("ParticipantLeft"), "bob's membership is gone", 12)
        assert await ann.stop() == 0


@pytest.mark.parametrize("people", ["encrypted", "clear"], indirect=True)
async def test_back_within_two_seconds_and_never_seen_leaving(synapse, people, tmp_path):
    """As state, the same member goes on; as a sticky event, a new one replaces the old at once."""
    (ann_person, bob_person), room_id = people
    async with cast() as started:
        ann, bob = await two_in_a_call(
            synapse, (ann_person, bob_person), room_id, tmp_path, started, "--leave-delay", "8"
        )
        bob.kill()
        again = await Participant.start(
            synapse, bob_person, room_id, tmp_path / bob_person.user_id[1:5],
            "--source", "tone", "--leave-delay", "8",
        )  # fmt: skip
        started.append(again)
        await again.until(lambda: again.frames(ann_person.user_id) > 50, "hears ann again", 40)
        before = ann.frames(bob_person.user_id)
        left = len(ann.events("ParticipantLeft"))
        joined_s = time.monotonic()
        await ann.until(lambda: ann.frames(bob_person.user_id) > before + 50, "hears bob", 20)
        await asyncio.sleep(max(0.0, joined_s + 12 - time.monotonic()))  # the old leave is due
        assert len(ann.events("ParticipantLeft")) == left
        assert ann.frames(bob_person.user_id) > before + 300
        assert sum(p["user_id"] == bob_person.user_id for p in ann.status["participants"]) == 1
        for participant in (ann, again):
            assert await participant.stop() == 0


@pytest.mark.parametrize("down_s", [3, 12])
async def test_the_homeserver_is_killed_and_comes_back(tmp_path, down_s):
    """Before and after the delayed leave is due: media goes on, and we are members again."""
    async with Synapse(tmp_path / "homeserver", SynapseOptions()) as synapse, cast() as started:
        people = [await synapse.register(name, "password") for name in ("ann", "bob")]
        room_id = await synapse.create_room(people[0].access_token, encrypted=True)
        await synapse.join_room(people[1].access_token, room_id)
        ann, bob = await two_in_a_call(
            synapse, people, room_id, tmp_path, started, "--leave-delay", "9"
        )
        synapse.kill()
        heard = ann.frames(people[1].user_id)
        await ann.until(
            lambda: "homeserver_unreachable" in ann.conditions(), "says that it is down", 10
        )
        await asyncio.sleep(down_s)
        assert ann.frames(people[1].user_id) > heard + 50 * down_s * 0.6, "media stopped"
        await synapse.restart()
        up_s = time.monotonic()
        for participant, other in ((ann, people[1]), (bob, people[0])):
            await participant.until(
                lambda p=participant: "homeserver_unreachable" not in p.conditions(), "sees it", 10
            )
            await participant.until(
                lambda p=participant, o=other: p.sees(o.user_id), "still sees the other", 10
            )
        assert time.monotonic() - up_s < 12
        await asyncio.sleep(11)  # whatever was delayed has fired by now
        members = await current_members(synapse, people[0].access_token, room_id)
        assert members == {p.user_id for p in people}
        before = ann.frames(people[1].user_id)
        await ann.until(lambda: ann.frames(people[1].user_id) > before + 30, "still hears", 10)
        for participant in (ann, bob):
            assert await participant.stop() == 0


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("kick", "kicked"),
        ("ban", "banned"),
        ("upgrade", "room_upgraded"),
        ("logout", "token_revoked"),
    ],
)
async def test_being_put_out_ends_the_call_with_its_condition(
    synapse, people, tmp_path, what, code
):
    (ann_person, bob_person), room_id = people
    async with cast() as started:
        _, bob = await two_in_a_call(synapse, (ann_person, bob_person), room_id, tmp_path, started)
        room = f"/_matrix/client/v3/rooms/{room_id}"
        body = {"user_id": bob_person.user_id, "reason": "test"}
        if what == "logout":
            password = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": bob_person.user_id},
                "password": "password",
            }
            login = await synapse.request("POST", "/_matrix/client/v3/login", body=password)
            token = login.body["access_token"]
            answer = await synapse.request(
                "POST", "/_matrix/client/v3/logout/all", token=token, body={}
            )
        else:
            answer = await synapse.request(
                "POST",
                f"{room}/{what}",
                token=ann_person.access_token,
                body={"new_version": "11"} if what == "upgrade" else body,
            )
        assert answer.status == 200, answer.body
        async with asyncio.timeout(30):
            assert await bob.process.wait() == 1
        await bob.until(lambda: bob.events("CallEnded"), "prints its last line", 5)
        assert bob.events("CallEnded")[0]["code"] == code
