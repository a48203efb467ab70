"""An hour of a mesh call on a real Synapse: three who stay, and a visitor now and then.

Nothing may pile up in those who stay: memory, open files and threads are sampled all the while and
judged by their slope. `tox run -e soak`; the table is printed, and the picture is written beside it.
"""

import asyncio
import os
import time
from itertools import permutations
from pathlib import Path

import pytest

from rtcfoci.testing import Synapse, SynapseOptions
from tests.flatness import LIMITS, Course, drawing, held, table
from tests.system.participants import Participant, cast

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(0),
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(),
        reason="the system does not tell what a process holds",
    ),
]

SOAK_S = float(os.environ.get("RTCFOCI_SOAK_S", "3600"))
PICTURE = Path(os.environ.get("RTCFOCI_SOAK_PICTURE", "soak.svg"))
EVERY_S = min(15.0, SOAK_S / 40)
VISIT_EVERY_S = 90.0
VISIT_S = 20
STAYERS = ("ann", "bob", "cat")
AUDIO_PER_S = 50
LEAST_SHARE = 0.7
"""Of the frames of uninterrupted sound over the whole time; a busy machine loses some."""
SILENCE_S = EVERY_S + 10.0


async def visits(synapse, dan, room_id, folder, until_s, started):
    """Have somebody join, be heard, and leave, again and again; give back how often."""
    count = 0
    while time.monotonic() + VISIT_S + 20 < until_s:
        again_s = time.monotonic() + VISIT_EVERY_S
        options = ("--source", "tone", "--duration", str(VISIT_S))
        visitor = await Participant.start(synapse, dan, room_id, folder / "dan", *options)
        started.append(visitor)
        async with asyncio.timeout(VISIT_S + 60):
            assert await visitor.process.wait() == 0, visitor.log.read_text()[-2000:]
        started.remove(visitor)
        for stayer in started[: len(STAYERS)]:
            await stayer.until(
                lambda s=stayer, n=count: len(s.events("ParticipantLeft", user_id=dan.user_id)) > n,
                "sees the visitor go",
            )
        count += 1
        await asyncio.sleep(max(0.0, min(again_s, until_s) - time.monotonic()))
    return count


async def sampled(stayers, until_s):
    """Watch what each holds, and who falls silent; give back both."""
    courses = {
        (name, what): Course(f"{name}: {what}", limit)
        for name in stayers
        for what, limit in LIMITS.items()
    }
    silent, first, last = [], {}, {}
    start_s = time.monotonic()
    while time.monotonic() < until_s:
        now_s = time.monotonic()
        for name, (stayer, _) in stayers.items():
            for what, value in held(stayer.process.pid).items():
                courses[name, what].samples.append((now_s - start_s, value))
        for pair in permutations(stayers, 2):
            stayer, user_id = stayers[pair[0]][0], stayers[pair[1]][1].user_id
            heard = stayer.timed("Status")[-1][0], stayer.frames(user_id)
            if pair in last and now_s - last[pair][0] > SILENCE_S:
                silent.append(f"{pair[0]} did not hear {pair[1]} at {now_s - start_s:.0f} s")
            if pair not in last or heard[1] > last[pair][1]:
                last[pair] = heard
            first.setdefault(pair, heard)
        await asyncio.sleep(max(0.0, min(now_s + EVERY_S, until_s) - time.monotonic()))
    for pair, (at_s, frames) in last.items():
        share = (frames - first[pair][1]) / AUDIO_PER_S / (at_s - first[pair][0])
        if share < LEAST_SHARE:
            silent.append(f"{pair[0]} heard {share:.0%} of {pair[1]}")
    return list(courses.values()), silent


async def test_an_hour_of_three_and_a_visitor_leaves_nothing_behind(tmp_path):
    async with Synapse(tmp_path / "homeserver", SynapseOptions()) as synapse, cast() as started:
        people = [await synapse.register(name, "password") for name in (*STAYERS, "dan")]
        room_id = await synapse.create_room(people[0].access_token, encrypted=True)
        for person in people[1:]:
            await synapse.join_room(person.access_token, room_id)
        stayers = {}
        for name, person in zip(STAYERS, people, strict=False):
            options = ("--source", "tone", "--count-data")
            stayer = await Participant.start(synapse, person, room_id, tmp_path / name, *options)
            started.append(stayer)
            stayers[name] = (stayer, person)
        for one, other in permutations(stayers, 2):
            stayer, user_id = stayers[one][0], stayers[other][1].user_id
            await stayer.until(lambda s=stayer, u=user_id: s.frames(u) > 20, f"hears {other}", 60)
        until_s = time.monotonic() + SOAK_S
        async with asyncio.TaskGroup() as group:
            visiting = group.create_task(
                visits(synapse, people[-1], room_id, tmp_path, until_s, started)
            )
            watching = group.create_task(sampled(stayers, until_s))
        courses, silent = watching.result()
        print(f"\n{SOAK_S:g} s, {visiting.result()} visits, every {EVERY_S:g} s a sample")
        print(table(courses))
        await asyncio.to_thread(
            PICTURE.write_text,
            drawing(courses, f"{SOAK_S / 60:.0f} minutes of three in a mesh call"),
        )
        assert silent == []
        for stayer, _ in stayers.values():
            await stayer.until(lambda s=stayer: not s.conditions(), "is well", 30)
            assert await stayer.stop() == 0
        assert [course.of for course in courses if not course.flat] == []
