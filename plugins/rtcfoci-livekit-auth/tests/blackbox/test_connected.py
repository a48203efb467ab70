"""A delegated leave whose participant is in the room: restarted, and sent when they go."""

import email.utils
import itertools
import time

import pytest
from asking import ENDPOINTS
from fakes import Answer
from world import together


def gap_after_first(calls):
    return calls[1].at_s - calls[0].at_s


@together
def test_it_is_restarted_when_four_fifths_of_the_delay_are_over(world):
    connected = world.delegated(5_000).connected()
    times = [call.at_s for call in connected.restarts(3, within_s=14)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # It counts from an answer, which comes after its request; a busy machine makes it later.
    assert 3.95 < min(gaps) < 4.4
    assert connected.leave.ended_by == ""


@together
@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_intended_leave_is_sent_at_once_and_once(world, path):
    connected = world.delegated(4_000, path=path).connected()
    before_s = time.monotonic()
    connected.leave_by()
    (send,) = connected.sends(1)
    assert send.at_s - before_s < 2.0
    connected.stays_quiet(4.0)
    assert connected.leave.ended_by == "send"


@together
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        *(
            ("participant_left", reason)
            for reason in (
                None,
                "SERVER_SHUTDOWN",
                "PARTICIPANT_REMOVED",
                "ROOM_DELETED",
                "STATE_MISMATCH",
                "SIGNAL_CLOSE",
                "ROOM_CLOSED",
                "CONNECTION_TIMEOUT",
            )
        ),
        ("participant_connection_aborted", None),
        ("participant_connection_aborted", "JOIN_FAILURE"),
        ("participant_connection_aborted", "CLIENT_INITIATED"),
    ],
)
def test_any_other_leave_is_sent_too(world, event, reason):
    connected = world.delegated(60_000).connected()
    connected.hook(event, reason)
    connected.sends(1)


@pytest.mark.policy("go-0.5")
@together
@pytest.mark.parametrize("reason", ["DUPLICATE_IDENTITY", "MIGRATION"])
def test_a_session_that_another_replaces_is_a_leave_too(world, reason):
    connected = world.delegated(60_000).connected()
    connected.leave_by(reason)
    connected.sends(1)


@together
def test_a_second_join_changes_nothing(world):
    connected = world.delegated(60_000).connected()
    connected.join()
    connected.stays_quiet(0.5)


@together
def test_a_second_leave_is_too_late(world):
    connected = world.delegated(60_000).connected()
    connected.leave_by()
    connected.sends(1)
    connected.leave_by()
    connected.join()
    connected.stays_quiet(1.0)


@together
def test_other_events_of_the_room_are_no_leave(world):
    connected = world.delegated(60_000).connected()
    for event in ("room_finished", "track_unpublished"):
        connected.hook(event, "CLIENT_INITIATED")
    world.sfu.webhook("participant_left", connected.member.alias, "another").send(world.service.url)
    connected.stays_quiet(0.5)
    connected.leave_by()
    connected.sends(1)


@together
def test_nobody_is_looked_for_once_found(world):
    connected = world.delegated(60_000)
    connected.arrive()
    connected.restarts(1)
    time.sleep(0.2)
    before = len(connected.lookups())
    time.sleep(3.0)
    assert len(connected.lookups()) == before


@together
def test_a_leave_that_is_gone_is_let_go(world):
    """404 to a restart: sent or cancelled by somebody else."""
    connected = world.delegated(4_000)
    connected.leave.on_restart.always(
        Answer(status=404, body={"errcode": "M_NOT_FOUND", "error": "Gone"})
    )
    connected.connected()
    connected.stays_quiet(3.5)
    connected.leave_by()
    connected.stays_quiet(1.0)


@together
@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status=status) for status in (400, 401, 403, 409, 500, 502, 503)),
        Answer(reset=True),
    ],
    ids=lambda a: "reset" if a.reset else str(a.status),
)
def test_a_restart_that_fails_is_tried_again(world, answer):
    connected = world.delegated(60_000)
    connected.leave.on_restart.then(answer)
    connected.connected()
    restarts = connected.restarts(2, within_s=6)
    # An HTTP client may ask again at once where a connection was lost.
    assert (0 if answer.reset else 0.4) < gap_after_first(restarts) < 4
    connected.stays_quiet(1.0)


@together
def test_204_is_a_yes_too(world):
    connected = world.delegated(60_000)
    connected.leave.on_restart.always(Answer(status=204, body=b"", effect=True))
    connected.leave.on_send.always(Answer(status=204, body=b"", effect=True))
    connected.connected()
    connected.stays_quiet(1.8)
    connected.leave_by()
    connected.sends(1)
    connected.stays_quiet(1.8)


@together
def test_tries_grow_rarer(world):
    connected = world.delegated(60_000)
    connected.leave.on_restart.always(Answer(status=500))
    connected.join()
    times = [call.at_s for call in connected.restarts(4, within_s=12)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, wait_s in zip(gaps, (1.0, 1.5, 2.25), strict=True):
        assert 0.45 * wait_s < gap < 1.5 * wait_s + 1.0


@together
@pytest.mark.parametrize(
    ("headers", "body", "least_s", "most_s"),
    [
        ({"Retry-After": "2"}, None, 1.95, 4),
        ({}, {"errcode": "M_LIMIT_EXCEEDED", "error": "?", "retry_after_ms": 1_700}, 1.95, 4),
        ({"Retry-After": "2"}, {"retry_after_ms": 60_000}, 1.95, 4),
        ({"Retry-After": "soon"}, None, 0.4, 4),
        ({}, None, 0.4, 4),
        ({}, {"retry_after_ms": "soon"}, 0.4, 4),
    ],
    ids=["seconds", "body", "header-first", "nonsense", "nothing", "body-nonsense"],
)
def test_a_homeserver_says_when_to_try_again(world, headers, body, least_s, most_s):
    connected = world.delegated(60_000)
    connected.leave.on_restart.then(Answer(status=429, headers=headers, body=body))
    connected.join()
    assert least_s <= gap_after_first(connected.restarts(2, within_s=8)) < most_s


@together
def test_a_homeserver_says_until_what_date_to_wait(world):
    connected = world.delegated(60_000)
    date_s = int(time.time()) + 6
    until_s = time.monotonic() + date_s - time.time()
    headers = {"Retry-After": email.utils.formatdate(date_s, usegmt=True)}
    connected.leave.on_restart.then(Answer(status=429, headers=headers))
    connected.join()
    second = connected.restarts(2, within_s=10)[1]
    # Whole seconds are counted, so one may be missing.
    assert until_s - 1.1 < second.at_s < until_s + 3


@together
def test_a_wait_below_nothing_is_none(world):
    """Three answers of that kind: plain waits would come to two seconds at the least."""
    connected = world.delegated(60_000)
    connected.leave.on_restart.then(*[Answer(status=429, headers={"Retry-After": "-5"})] * 3)
    connected.join()
    calls = connected.restarts(4)
    assert calls[3].at_s - calls[0].at_s < 2


@together
def test_a_wait_beyond_the_deadline_is_not_waited_for(world):
    connected = world.delegated(3_000)
    connected.leave.on_restart.always(Answer(status=429, headers={"Retry-After": "60"}))
    connected.join()
    connected.restarts(1)
    time.sleep(0.3)
    connected.leave_by()
    connected.stays_quiet(2.0)


@together
def test_restarts_end_with_the_delay(world):
    """Then the homeserver has sent the leave itself."""
    connected = world.delegated(3_000)
    connected.leave.on_restart.always(Answer(status=500))
    connected.join()
    connected.restarts(1)
    time.sleep(3.6)
    connected.leave_by()
    connected.stays_quiet(1.5)


@together
def test_a_success_begins_a_new_delay(world):
    """The second restart is due after 3.2 s; it fails once, and what follows lives to see a fourth."""
    connected = world.delegated(4_000)
    connected.connected()
    connected.leave.on_restart.then(Answer(status=429, headers={"Retry-After": "0"}))
    times = [call.at_s for call in connected.restarts(4, within_s=12)]
    assert 2.9 < times[1] - times[0] < 4.0
    assert 2.9 < times[3] - times[2] < 4.0


@together
def test_a_slow_restart_does_not_hold_up_the_leave(world):
    connected = world.delegated(60_000)
    connected.leave.on_restart.then(Answer(after_s=4.0, effect=True))
    connected.join()
    connected.restarts(1)
    before_s = time.monotonic()
    connected.leave_by()
    (send,) = connected.sends(1)
    assert send.at_s - before_s < 2.0
    connected.stays_quiet(3.5)


@together
def test_a_call_is_given_five_seconds(world):
    connected = world.delegated(60_000)
    connected.leave.on_restart.then(Answer(after_s=float("inf")))
    connected.join()
    assert 4.0 < gap_after_first(connected.restarts(2, within_s=12)) < 10


@together
def test_another_leave_takes_the_place_of_a_connected_one(world):
    old = world.delegated(4_000)
    old.arrive()
    old.restarts(1)
    new = old.renewed(60_000)
    new.restarts(1)
    old.stays_quiet(4.0)
    new.leave_by()
    new.sends(1)
    assert len(old.leave.sends) == 0
