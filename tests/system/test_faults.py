"""What real calls over the mesh and a real Synapse do when something breaks."""

import asyncio
import time
from pathlib import Path

import pytest

from rtcfoci.testing import Synapse, SynapseOptions
from tests.media.making import record_damaged
from tests.system.history import current, is_leave, key, memberships
from tests.system.participants import Participant, cast

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

AUDIO_PER_S = 50
LEAST_SHARE = 0.7
"""Of the frames of uninterrupted sound; a busy machine loses some."""


async def join(synapse, person, room_id, folder, *options):
    own = folder / person.user_id[1:4]
    return await Participant.start(synapse, person, room_id, own, "--source", "tone", *options)


async def two_in_a_call(synapse, people, room_id, folder, started, *options):
    for person in people:
        started.append(await join(synapse, person, room_id, folder, *options))
    ann, bob = started
    await ann.until(lambda: ann.frames(people[1].user_id) > 20, "hears bob", 40)
    await bob.until(lambda: bob.frames(people[0].user_id) > 20, "hears ann", 40)
    return ann, bob


async def until(time_s):
    await asyncio.sleep(max(0.0, time_s - time.monotonic()))


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
    token = ann_person.access_token
    async with cast() as started:
        ann, bob = await two_in_a_call(
            synapse, (ann_person, bob_person), room_id, tmp_path, started, "--leave-delay", "12"
        )
        killed_s = time.monotonic()
        bob.kill()

        def missed_s():
            """When ann was told that bob's media has stopped."""
            return [
                at_s
                for at_s, told in ann.timed("ConditionRaised", code="media_stalled")
                if told["subject"].startswith(f"{bob_person.user_id}/")
            ]

        await ann.until(missed_s, "misses bob's media", 10)
        assert missed_s()[0] - killed_s <= 5
        both = sorted(person.user_id for person in (ann_person, bob_person))
        assert await current(synapse, token, room_id) == both, "it was the leave that told"
        await ann.until(lambda: ann.events("ParticipantLeft"), "bob's membership is gone", 16)
        assert [e["user_id"] for e in ann.events("ParticipantLeft")] == [bob_person.user_id]
        # The last restart was a few seconds before the kill.
        assert time.monotonic() - killed_s > 6, "not by the delayed leave"
        assert await current(synapse, token, room_id) == [ann_person.user_id]
        assert await ann.stop() == 0


@pytest.mark.parametrize("people", ["encrypted", "clear"], indirect=True)
async def test_back_within_two_seconds_and_never_seen_leaving(request, synapse, people, tmp_path):
    """As state, the same member goes on; as a sticky event, a new one replaces the old at once."""
    (ann_person, bob_person), room_id = people
    delay = ("--leave-delay", "15")  # due 11 s after the kill, long after we are back
    async with cast() as started:
        ann, bob = await two_in_a_call(
            synapse, (ann_person, bob_person), room_id, tmp_path, started, *delay
        )
        killed_s = time.monotonic()
        bob.kill()
        again = await join(synapse, bob_person, room_id, tmp_path, *delay)
        started.append(again)
        assert time.monotonic() - killed_s < 2
        await again.until(lambda: again.frames(ann_person.user_id) > 50, "hears ann again", 40)
        before = ann.frames(bob_person.user_id)
        await ann.until(lambda: ann.frames(bob_person.user_id) > before + 50, "hears bob", 20)
        before, since_s = ann.frames(bob_person.user_id), time.monotonic()
        await until(killed_s + 17)  # the old leave was due
        least = LEAST_SHARE * AUDIO_PER_S * (time.monotonic() - since_s - 1)
        assert ann.frames(bob_person.user_id) - before > least, "media stopped"

        events = [
            e
            for e in await memberships(synapse, ann_person.access_token, room_id)
            if e["sender"] == bob_person.user_id
        ]
        shown = [
            record["event"]
            for _, record in ann.records
            if record.get("event") in ("ParticipantJoined", "ParticipantLeft")
        ]
        leaves = [key(e) for e in events if is_leave(e)]
        if "clear" in request.node.name:
            first, last = key(events[0]), key(events[-1])
            assert first != last
            assert leaves == [first], "the old one goes at once, the new one stays"
            assert shown == ["ParticipantJoined", "ParticipantLeft", "ParticipantJoined"]
        else:
            assert len(events) >= 2, "it did not join anew"
            assert leaves == []
            assert shown == ["ParticipantJoined"]
        assert [p["user_id"] for p in ann.status["participants"]] == [bob_person.user_id]
        for participant in (ann, again):
            assert await participant.stop() == 0


@pytest.mark.parametrize(
    ("down_s", "leave_delay_s", "fires"), [(3, 20, False), (12, 10, True)], ids=["short", "long"]
)
async def test_the_homeserver_is_killed_and_comes_back(tmp_path, down_s, leave_delay_s, fires):
    """Before and after the delayed leave is due: media goes on, and we are members again."""
    async with Synapse(tmp_path / "homeserver", SynapseOptions()) as synapse, cast() as started:
        people = [await synapse.register(name, "password") for name in ("ann", "bob")]
        room_id = await synapse.create_room(people[0].access_token, encrypted=True)
        await synapse.join_room(people[1].access_token, room_id)
        ann, bob = await two_in_a_call(
            synapse, people, room_id, tmp_path, started, "--leave-delay", str(leave_delay_s)
        )
        views = ((ann, people[1]), (bob, people[0]))
        heard = {p: p.frames(other.user_id) for p, other in views}
        killed_s = time.monotonic()
        synapse.kill()
        for participant, _ in views:
            await participant.until(
                lambda p=participant: "homeserver_unreachable" in p.conditions(),
                "says that it is down",
                10,
            )
        await asyncio.sleep(down_s)
        await synapse.restart()
        up_s, up_ts_ms = time.monotonic(), time.time() * 1000
        for participant, _ in views:
            await participant.until(
                lambda p=participant: "homeserver_unreachable" not in p.conditions(), "sees it", 10
            )
        # By then whatever was delayed has fired.
        await until(max(killed_s + leave_delay_s + 2, up_s + 8))

        events = await memberships(synapse, people[0].access_token, room_id)
        for person in people:
            own = [e for e in events if e["sender"] == person.user_id]
            assert any(map(is_leave, own)) == fires
            assert not is_leave(own[-1])
            if fires:
                again_s = (own[-1]["origin_server_ts"] - up_ts_ms) / 1000
                print(f"a member again {again_s:.1f} s after the homeserver's return")
                assert again_s <= 5, "it was out for too long"
        for participant, other in views:
            assert participant.sees(other.user_id)
            assert not participant.events("ParticipantLeft")
            # From before the outage until now, as shown at most a second ago.
            least = LEAST_SHARE * AUDIO_PER_S * (time.monotonic() - killed_s - 1)
            assert participant.frames(other.user_id) - heard[participant] > least, "media stopped"
        for participant in (ann, bob):
            assert await participant.stop() == 0
        assert await current(synapse, people[0].access_token, room_id) == []


async def put_out(synapse, what, ann, bob, room_id):
    """Do to bob what the name says."""
    path = f"/_matrix/client/v3/rooms/{room_id}/{what}"
    if what == "logout":
        # On another device, which puts every device of the user out.
        token = (await synapse.login(bob.user_id, "password")).access_token
        await synapse.checked("POST", "/_matrix/client/v3/logout/all", token, body={})
    elif what == "upgrade":
        await synapse.checked("POST", path, ann.access_token, body={"new_version": "11"})
    else:
        body = {"user_id": bob.user_id, "reason": "test"}
        await synapse.checked("POST", path, ann.access_token, body=body)


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
        ann, bob = await two_in_a_call(
            synapse, (ann_person, bob_person), room_id, tmp_path, started, "--leave-delay", "8"
        )
        await put_out(synapse, what, ann_person, bob_person, room_id)
        # An upgrade ends the call for everybody, what else was done for bob alone.
        ended = (ann, bob) if what == "upgrade" else (bob,)
        for participant in ended:
            async with asyncio.timeout(30):
                assert await participant.process.wait() == 1
            await participant.until(
                lambda p=participant: p.events("CallEnded"), "prints its last line", 5
            )
            (told,) = participant.events("CallEnded")
            assert told["code"] == code
            assert told["terminal"]
            assert told["cause"]
            assert told["remedy"]
        if what == "upgrade":
            assert await current(synapse, ann_person.access_token, room_id) == []
        else:
            # Also without a token: the homeserver sends the delayed leave.
            await ann.until(
                lambda: ann.events("ParticipantLeft", user_id=bob_person.user_id), "sees it", 15
            )
            assert await ann.stop() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
async def test_a_film_that_turns_corrupt_and_a_full_disk_are_told_and_the_call_goes_on(
    synapse, people, tmp_path
):
    (ann_person, bob_person), room_id = people
    film = record_damaged(tmp_path / "film.avi")
    folder = tmp_path / "recordings"
    folder.mkdir()
    bob_name = bob_person.user_id[1:].partition(":")[0]
    (folder / f"{bob_name}.mkv").symlink_to("/dev/full")
    options = ("--source", f"file:{film}", "--record", str(folder), "--record-as-user")
    async with cast() as started:
        bob = await join(synapse, bob_person, room_id, tmp_path)
        started.append(bob)
        ann = await join(synapse, ann_person, room_id, tmp_path, *options)
        started.append(ann)
        await ann.until(
            lambda: {"source_failed", "recording_failed"} <= ann.conditions(), "says both", 40
        )
        causes = {c["code"]: c["cause"] for c in ann.status["conditions"]}
        assert "is damaged" in causes["source_failed"]
        assert "No space left" in causes["recording_failed"]
        await bob.until(
            lambda: bob.events("TrackMuted", source="camera", muted=True), "is told", 20
        )
        for one, other in ((ann, bob_person), (bob, ann_person)):
            heard = one.frames(other.user_id, "audio")
            await one.until(
                lambda one=one, other=other, heard=heard: (
                    one.frames(other.user_id, "audio") > heard + 50
                ),
                "hears on",
            )
        assert await ann.stop() == 0
