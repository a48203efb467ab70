"""The policy `deployed` against matrix-js-sdk 43 itself: the same members after every event.

What the policy does otherwise on purpose is applied to what the SDK is given and says (`sdk`), and predicts
ours. `RTCFOCI_DIFFERENTIAL_SEQUENCES` is how many sequences there are, `RTCFOCI_DIFFERENTIAL_SEED` the first.
"""

import json
import os
import time

import pytest

from tests.interop.sdk import Ours, Sdk, expected, lawful, place
from tests.interop.sequences import sequence

pytestmark = [pytest.mark.system, pytest.mark.timeout(0)]

SEQUENCES = int(os.environ.get("RTCFOCI_DIFFERENTIAL_SEQUENCES", "5000"))
SEED = int(os.environ.get("RTCFOCI_DIFFERENTIAL_SEED", "1"))


@pytest.fixture(scope="module")
def sdk():
    sdk = Sdk()
    yield sdk
    sdk.close()


def difference(slot, steps, answers):
    """Find the first step after which we differ: its number, their members, ours."""
    ours = Ours(slot)
    for number, (step, answer) in enumerate(zip(steps, answers, strict=True)):
        found, wanted = ours.take(step), expected(slot, answer["members"])
        assert found == sorted(found, key=place)
        # Two memberships with the same place have no order of their own.
        if sorted(found, key=whole) != sorted(wanted, key=whole):
            return number, wanted, found
    return None


def whole(member):
    return place(member), member[6]


def shrink(sdk, slot, steps):
    """Leave out what a difference does not need."""
    number = len(steps) - 1
    while number >= 0:
        fewer = steps[:number] + steps[number + 1 :]
        gone = {s["event"]["event_id"] for s in steps if "event" in s} - {
            s["event"]["event_id"] for s in fewer if "event" in s
        }
        fewer = [s for s in fewer if s.get("decrypted", {}).get("event_id") not in gone]
        if fewer and difference(slot, fewer, sdk.fold(slot, fewer)):
            steps = fewer
        number = min(number, len(steps)) - 1
    return steps


def test_the_same_members_after_every_event(sdk, capsys):
    started, events, members, own, batch = time.monotonic(), 0, 0, 0, 20
    for first in range(SEED, SEED + SEQUENCES, batch):
        made = [sequence(seed) for seed in range(first, min(first + batch, SEED + SEQUENCES))]
        for one in made:  # Node works while we do
            sdk.put("fold", slot=one.slot, steps=[lawful(step) for step in one.steps])
        for seed, one, answers in zip(
            range(first, first + len(made)), made, [sdk.get()["answers"] for _ in made], strict=True
        ):
            differs = difference(one.slot, one.steps, answers)
            if differs is not None:
                steps = shrink(sdk, one.slot, one.steps)
                _, wanted, found = difference(one.slot, steps, sdk.fold(one.slot, steps))
                history = "\n".join(json.dumps(step, ensure_ascii=False) for step in steps)
                pytest.fail(
                    f"seed {seed}, slot {one.slot}:\n{history}\nSDK: {wanted}\nours: {found}"
                )
            events += len(answers)
            members += sum(len(answer["members"]) for answer in answers)
            own += sum("own" in answer for answer in answers)
            if one.plain:
                # Nothing in it touches the winner rule: the SDK's own store says the same.
                assert not any("own" in answer for answer in answers), seed
    took_s = time.monotonic() - started
    with capsys.disabled():
        print(
            f"\n{SEQUENCES} sequences from seed {SEED}: {events} steps, {members} members compared, in "
            f"{took_s:.0f} s; after {own} steps the SDK's own sticky store had not the winners of MSC4354"
        )
    # Otherwise nothing was compared.
    assert members > events / 4
    assert own or SEQUENCES < 100
