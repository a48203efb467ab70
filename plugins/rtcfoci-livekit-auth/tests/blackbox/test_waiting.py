"""A delegated leave whose participant has not arrived yet."""

import time

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN
from fakes import Answer
from fakes.sfu import twirp_error
from world import together


@together
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_join_restarts_the_leave_at_once(world, path):
    waiting = world.delegated(60_000, path=path)
    before_s = time.monotonic()
    waiting.join()
    (restart,) = waiting.restarts(1)
    assert restart.at_s - before_s < 2


@together
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_participant_who_is_there_already_needs_no_webhook(world, path):
    member, leave = world.member(), world.homeserver.schedule(60_000)
    world.sfu.join(member.alias, member.identity(path))
    assert world.ask(path, member, leave).status == 200
    leave.restarts.wait(1, within_s=5)


@together
def test_the_sfu_is_asked_at_once_and_then_less_and_less(world):
    waiting = world.delegated(60_000)
    first, second, third = waiting.looked_up(3, within_s=8)[:3]
    assert 0.4 < second - first < 2.5
    assert 0.7 < third - second < 3.5


@together
def test_the_token_of_a_look_up_is_for_its_room_alone(world):
    waiting = world.delegated(60_000)
    waiting.looked_up(1)
    (call, *_) = world.sfu.calls_in(waiting.member.alias, "GetParticipant")
    assert call.claims["video"]["roomAdmin"] is True
    assert call.claims["video"]["room"] == waiting.member.alias
    assert not {"roomCreate", "roomJoin", "roomList"} & set(call.claims["video"])


@together
def test_a_participant_who_arrives_unheard_is_found(world):
    waiting = world.delegated(60_000)
    waiting.looked_up(1)
    waiting.arrive()
    waiting.restarts(1)


@together
@pytest.mark.parametrize(
    "answer",
    [twirp_error(500, "internal"), Answer(reset=True), twirp_error(403, "denied")],
    ids=["500", "reset", "403"],
)
def test_an_sfu_in_trouble_is_asked_again(world, answer):
    member, leave = world.member(), world.homeserver.schedule(60_000)
    world.sfu.on("GetParticipant", member.alias).then(answer, answer)
    world.sfu.join(member.alias, member.identity(DELEGATE))
    assert world.ask(DELEGATE, member, leave).status == 200
    leave.restarts.wait(1, within_s=8)


@together
def test_who_never_arrives_leaves_when_the_delay_is_over(world):
    before_s = time.monotonic()
    waiting = world.delegated(3_000)
    (send,) = waiting.sends(1, within_s=8)
    assert 2.9 < send.at_s - before_s < 6
    assert len(waiting.leave.restarts) == 0
    waiting.stays_quiet(1.0)


@together
def test_nobody_is_looked_for_after_the_leave(world):
    waiting = world.delegated(1_000)
    waiting.sends(1, within_s=5)
    time.sleep(0.2)
    before = len(waiting.lookups())
    time.sleep(3.0)
    assert len(waiting.lookups()) == before


@pytest.mark.policy("go-0.5")
@together
@pytest.mark.parametrize("event", ["participant_left", "participant_connection_aborted"])
def test_an_intended_leave_before_the_join_means_nothing(world, event):
    waiting = world.delegated(60_000)
    waiting.hook(event, "CLIENT_INITIATED")
    waiting.stays_quiet(0.5)
    waiting.connected()


@pytest.mark.policy("go-0.5")
@together
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("participant_connection_aborted", "JOIN_FAILURE"),
        ("participant_connection_aborted", None),
        ("participant_left", "SIGNAL_CLOSE"),
        ("participant_left", None),
    ],
)
def test_a_failed_join_leaves_the_event_to_the_homeserver(world, event, reason):
    waiting = world.delegated(3_000)
    waiting.hook(event, reason)
    time.sleep(0.2)
    waiting.join()
    waiting.stays_quiet(4.0)


@together
def test_another_leave_takes_the_place_of_the_first(world):
    old = world.delegated(3_000)
    new = old.renewed(60_000)
    new.connected()
    old.stays_quiet(4.0)
    assert len(old.leave.calls) == 0


@together
def test_the_same_leave_again_is_one_leave(world):
    waiting = world.delegated(60_000)
    waiting.hand_over()
    waiting.connected()
    waiting.leave_by()
    waiting.sends(1)
    waiting.stays_quiet(1.0)
    assert len(waiting.leave.sends) == 1


@together
def test_both_newer_endpoints_mean_the_same_participant(world):
    old = world.delegated(3_000, path=GET_TOKEN)
    new = world.homeserver.schedule(60_000)
    assert world.ask(DELEGATE, old.member, new).status == 200
    old.join()
    new.restarts.wait()
    old.stays_quiet(4.0)


@together
def test_devices_and_rooms_do_not_meet(world):
    one = world.delegated(60_000)
    other = world.delegated(
        60_000, user_id=one.member.user_id, room_id=one.member.room_id, device_id="OTHER"
    )
    third = world.delegated(60_000, user_id=one.member.user_id)
    one.connected()
    for untouched in (other, third):
        untouched.stays_quiet(0.3)
        untouched.connected()


@together
@pytest.mark.parametrize("delay_id", ["a b", "a?b#c", "é🙂", "a+b", "a;b=c&d", "a:b@c"])
def test_any_delay_id_is_one_part_of_the_path(world, delay_id):
    member = world.member()
    leave = world.homeserver.schedule(60_000, delay_id=f"{delay_id}-{member.room_id}")
    world.sfu.join(member.alias, member.identity(DELEGATE))
    assert world.ask(DELEGATE, member, leave).status == 200
    leave.restarts.wait()


@pytest.mark.weakness("go-0.5", "a client may make it call other paths of the homeserver")
@pytest.mark.parametrize("delay_id", ["a/b", "a%2Fb", "../b"])
def test_a_delay_id_does_not_lead_elsewhere(world, delay_id):
    member = world.member()
    leave = world.homeserver.schedule(60_000, delay_id=f"{delay_id}-{member.room_id}")
    world.sfu.join(member.alias, member.identity(DELEGATE))
    assert world.ask(DELEGATE, member, leave).status == 200
    leave.restarts.wait(within_s=1.5)


@together
def test_a_delay_of_days_is_taken(world):
    waiting = world.delegated(7 * 24 * 3_600_000)
    waiting.connected()
    waiting.leave_by()
    waiting.sends(1)
