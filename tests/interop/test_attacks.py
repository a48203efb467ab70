"""What one member can do to everybody who reads with matrix-js-sdk 43, and what is left of it here.

The same events go to the SDK, as they are, and to our session with the policy `deployed`, which in all else
says what the SDK says. `tests/core/test_attacks.py` holds our side by itself.
"""

import pytest

from rtcfoci.core.policies import TOLERANT
from tests.interop.sdk import CALL, Ours, Sdk
from tests.interop.sequences import HOUR_MS, LIVEKIT, START_MS, STATE, STICKY

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

DAY_MS = 24 * HOUR_MS
ANN, EVE = "@ann:hs", "@eve:hs"


@pytest.fixture(scope="module")
def sdk():
    sdk = Sdk()
    yield sdk
    sdk.close()


def event(type, sender, content, after_ms=0, **more):
    event_id = f"${type}-{sender}-{after_ms}"
    stamp = START_MS + after_ms
    return {
        "type": type, "sender": sender, "event_id": event_id, "origin_server_ts": stamp,
        "content": content, **more,
    }  # fmt: skip


def joined(user):
    return event("m.room.member", user, {"membership": "join"}, state_key=user)


def state(user, after_ms=0, **content):
    content = {
        "application": "m.call",
        "call_id": "",
        "device_id": "DEV",
        "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"},
        "foci_preferred": [LIVEKIT],
        **content,
    }
    return event(STATE, user, content, after_ms, state_key=f"_{user}_DEV_m.call")


def sticky(user, after_ms=0, duration_ms=HOUR_MS, **content):
    content = {
        "slot_id": "m.call#ROOM",
        "application": {"type": "m.call"},
        "member": {"id": "m1", "user_id": user, "device_id": "DEV"},
        "transports": {"published": [LIVEKIT], "can_subscribe": ["livekit"]},
        "versions": [],
        **content,
    }
    return event(STICKY, user, content, after_ms, msc4354_sticky={"duration_ms": duration_ms})


def steps(*events, later_ms=()):
    """What arrives when it was sent, in this order, and the times to look once more."""
    now = [{"now": event["origin_server_ts"], "event": event} for event in events]
    return now + [{"now": START_MS + ms} for ms in later_ms]


def both(sdk, steps, policy=None):
    """Who is in the slot after each step: (user, device, event), as the SDK says untouched, and as we say."""
    answers = sdk.ask("fold", slot=CALL, steps=steps)["answers"]
    theirs = [
        [(m[0], m[1], m[6]) for m in answer.get("own", answer["members"])] for answer in answers
    ]
    ours = Ours(CALL) if policy is None else Ours(CALL, policy)
    return theirs, [[(m[0], m[1], m[6]) for m in ours.take(step)] for step in steps]


def storm_of(sdk, events):
    return sdk.ask("storm", slot=CALL, events=events, now=START_MS, ms=300)


def who(members):
    return [user for user, _, _ in members]


ROOM = (joined(ANN), joined(EVE))


def test_the_room_wide_denial_of_service_event(sdk):
    """`expires` that is text: a member for ever, the oldest, and a timer that never rests, in all clients."""
    ann, eve = state(ANN, expires=4 * HOUR_MS), state(EVE, created_ts=1, expires="x")
    theirs, ours = both(sdk, steps(*ROOM, ann, eve, later_ms=(5 * HOUR_MS, 10_000 * DAY_MS)))
    assert [who(members) for members in theirs[3:]] == [[EVE, ANN], [EVE], [EVE]]
    assert [who(members) for members in ours[3:]] == [[ANN], [], []]
    # How often it works out its members while nothing happens at all.
    quiet = storm_of(sdk, [*ROOM, state(ANN, expires=3 * HOUR_MS)])
    assert (quiet["members"], quiet["count"]) == ([[ANN, "DEV"]], 0)
    storm = storm_of(sdk, [*ROOM, ann, eve])
    assert [user for user, _ in storm["members"]] == [EVE, ANN]
    assert storm["count"] > 20, storm


def test_an_end_beyond_every_timer(sdk):
    """Valid, and as bad: Node and browsers fire at once when asked for more than 2^31 ms."""
    far = state(EVE, expires=2**45)
    storm = storm_of(sdk, [*ROOM, far])
    assert storm["count"] > 20, storm
    ours = Ours(CALL)
    for step in steps(*ROOM, far):
        ours.take(step)
    # Our timer is a time on the clock, which drivers wait for an hour at a time.
    assert ours.session.next_timer_ts_ms == START_MS + 2**45


def test_the_slot_mix_up(sdk):
    """Whoever is at the board in ROOM is in the call as well."""
    board = state(ANN, application="org.board", call_id="ROOM")
    board_sticky = sticky(
        EVE, 1, slot_id="org.board#ROOM", application={"type": "org.board"}, msc4354_sticky_key="m1"
    )
    theirs, ours = both(sdk, steps(*ROOM, board, board_sticky))
    assert who(theirs[-1]) == [ANN, EVE]
    assert ours[-1] == []


def test_the_misfiled_sticky_event(sdk):
    """With the stable key alone every refresh is one more member, and nobody can leave."""
    join, refresh = sticky(ANN, sticky_key="m1"), sticky(ANN, 1000, sticky_key="m1")
    leave = {**refresh, "event_id": "$leave", "origin_server_ts": START_MS + 2000}
    leave["content"] = {"slot_id": "m.call#ROOM", "sticky_key": "m1"}
    theirs, ours = both(sdk, steps(*ROOM, join, refresh, leave))
    assert [len(members) for members in theirs[2:]] == [1, 2, 2]
    assert [len(members) for members in ours[2:]] == [1, 1, 0]


def test_a_short_event_that_ends_a_long_one(sdk):
    """The SDK goes by the time of sending; by MSC4354 the last to expire wins."""
    long, short = (
        sticky(ANN, msc4354_sticky_key="m1"),
        sticky(ANN, 1000, 5000, msc4354_sticky_key="m1"),
    )
    theirs, ours = both(sdk, steps(*ROOM, long, short, later_ms=(6000,)))
    assert [[m[2] for m in members] for members in theirs[3:]] == [[short["event_id"]], []]
    assert [[m[2] for m in members] for members in ours[3:]] == [[long["event_id"]]] * 2


def test_the_redaction_of_what_no_longer_counts(sdk):
    """The SDK takes the current event for the redacted one, whichever of its key was redacted."""
    first, second = sticky(ANN, msc4354_sticky_key="m1"), sticky(ANN, 1000, msc4354_sticky_key="m1")
    redaction = event("m.room.redaction", ANN, {}, 2000, redacts=first["event_id"])
    theirs, ours = both(sdk, steps(*ROOM, first, second, redaction))
    assert theirs[-1] == []
    assert [m[2] for m in ours[-1]] == [second["event_id"]]


def test_a_stranger_hides_a_member(sdk):
    """A sticky event hides the state with its key, whoever sent it; who takes part here is not fooled."""
    ann = state(ANN)
    hide = sticky(EVE, 1000, msc4354_sticky_key=ann["state_key"])
    hide["content"] = {"msc4354_sticky_key": ann["state_key"]}
    for policy, left in ((None, []), (TOLERANT, [ANN])):
        theirs, ours = both(sdk, steps(*ROOM, ann, hide), policy)
        assert (who(theirs[-1]), who(ours[-1])) == ([], left)
