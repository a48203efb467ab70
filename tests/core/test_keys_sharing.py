"""Our own media key: when it changes, who gets it, when it is used."""

import pytest

from rtcfoci.core.key_effects import KeyConfig, SendKey, SetKey, UseKey
from rtcfoci.core.key_messages import WRITTEN_KEY_TYPE, Key
from rtcfoci.core.model import Member
from tests.core.keying import (
    ANN,
    BOB,
    CEM,
    ME,
    Desk,
    cleared,
    content,
    member,
    membership,
    raised,
    sends,
    sets,
    uses,
)


def started(*members, **more):
    desk = Desk(**more)
    desk.deliver(desk.start(*members))
    return desk


def test_the_first_key_is_set_and_used_at_once_and_sent_to_all():
    desk = Desk()
    assert desk.machine.next_timer_s is None
    assert desk.there(ME, ANN, BOB) == [], "before we are a member nobody gets a key of ours"
    assert desk.machine.index is None
    out = desk.do(desk.machine.start(desk.now))
    first = bytes([1]) * 32
    assert [type(o) for o in out] == [SetKey, UseKey, SendKey, SendKey]
    assert sets(out) == [(ME, 0, first)]
    assert uses(out) == [0]
    assert sends(out) == [(ANN, 0), (BOB, 0)]
    assert desk.machine.index == 0
    assert {k: v.reveal() for k, v in desk.machine.installed.items()} == {(ME, 0): first}
    assert desk.machine.start(desk.now) == (), "once is enough"


def test_who_joins_within_grace_gets_the_current_key():
    desk = started(ME, ANN)
    desk.wait(9.9)
    out = desk.there(ME, ANN, BOB)
    assert sends(out) == [(BOB, 0)]
    assert not sets(out)


def test_who_joins_later_gets_a_new_key_that_is_used_when_all_had_time():
    desk = started(ME, ANN)
    desk.wait(10)
    out = desk.there(ME, ANN, BOB)
    assert sets(out) == [(ME, 1, bytes([2]) * 32)]
    assert sends(out) == [(ANN, 1), (BOB, 1)]
    assert desk.machine.index == 0
    assert set(desk.machine.installed) == {(ME, 0), (ME, 1)}
    assert uses(desk.wait(4.9)) == []
    assert uses(desk.wait(0.1)) == [1]
    assert set(desk.machine.installed) == {(ME, 1)}
    assert desk.machine.counters["keys_rotated"] == 1


def test_a_key_is_used_a_second_after_everybody_who_listens_was_told():
    desk = started(ME, ANN, BOB)
    desk.wait(20)
    out = desk.there(ME, ANN, BOB, CEM)
    (to_ann, to_bob, _) = [o for o in out if isinstance(o, SendKey)]
    desk.do(desk.machine.sent(desk.now, to_ann.id))
    assert uses(desk.wait(2)) == []
    desk.do(desk.machine.sent(desk.now, to_bob.id))  # the joiner does not listen yet
    assert uses(desk.wait(0.9)) == []
    assert uses(desk.wait(0.1)) == [1]


def test_where_nobody_listens_there_is_no_delay():
    desk = started(ME)
    desk.wait(60)
    out = desk.there(ME, ANN)
    assert uses(out) == [1]
    assert sends(out) == [(ANN, 1)]


def test_when_somebody_leaves_the_others_get_a_new_key():
    desk = started(ME, ANN, BOB)
    out = desk.there(ME, ANN)
    assert sends(out) == [(ANN, 1)]
    assert uses(desk.wait(5)) == [1]
    assert uses(desk.there(ME)) == [2], "alone: at once"


def test_many_who_leave_together_cost_two_keys():
    people = [member(f"p{n}") for n in range(6)]
    desk = started(ME, *people)
    out = list(desk.there(ME, *people[1:]))
    for count in range(2, 5):
        desk.wait(0.2)
        out += desk.there(ME, *people[count:])
    desk.deliver(out)
    assert len(sets(out)) == 1, "a roll-out is under way: the next waits for it"
    out = desk.wait(5)
    assert uses(out) == [1]
    assert sets(out) == [(ME, 2, bytes([3]) * 32)]
    assert sends(out) == [(people[4], 2), (people[5], 2)]
    assert uses(desk.wait(5)) == [2]
    assert sets(desk.wait(60)) == []


def test_who_joins_during_the_delay_gets_the_key_that_is_coming_alone():
    desk = started(ME, ANN, BOB)
    desk.there(ME, ANN)
    desk.wait(1)
    assert sends(desk.there(ME, ANN, CEM)) == [(CEM, 1)]
    desk = started(ME, ANN, BOB, config=KeyConfig(grace_s=0))
    desk.there(ME, ANN)
    desk.wait(1)
    assert sends(desk.there(ME, ANN, CEM)) == [(CEM, 1)], "it has encrypted nothing yet"


def test_a_refresh_changes_nothing():
    desk = started(ME, ANN, config=KeyConfig(grace_s=0))
    desk.wait(20)
    for _ in range(20):
        assert desk.there(ME, ANN) == []


@pytest.mark.parametrize(
    "again",
    [membership(ANN, created_ts_ms=5), membership(member("ann", member_id="new"))],
    ids=["another time", "another member id"],
)
def test_who_joins_again_gets_its_keys_again_and_nobody_else_does(again):
    desk = started(ME, ANN, BOB)
    desk.wait(20)
    out = desk.there(ME, again, BOB)
    assert sends(out) == [(again.member, 0)]
    assert not sets(out)
    desk.deliver(out)
    desk.there(ME, again)
    desk.wait(0.1)
    out = desk.there(ME, membership(member("ann", member_id="newest")))
    assert sends(out) == [(member("ann", member_id="newest"), 0)], "one at a time, oldest first"
    assert desk.deliver(out)[-1] == (member("ann", member_id="newest"), 1)


def test_who_joined_late_does_not_get_an_older_key_by_joining_again():
    desk = started(ME, ANN)
    desk.wait(20)
    desk.deliver(desk.there(ME, ANN, BOB))
    out = desk.there(ME, ANN, membership(BOB, created_ts_ms=9))
    assert desk.deliver(out) == [(BOB, 1)]


def test_the_index_wraps_and_a_key_is_never_used_before_it_is_set():
    desk = started(ME, config=KeyConfig(rotate_every_s=10))
    out = desk.wait(10 * 256)
    assert uses(out) == [*range(1, 256), 0]
    assert [index for _, index, _ in sets(out)] == uses(out)
    known = set()
    for output in desk.out:
        if isinstance(output, SetKey):
            known.add(output.index)
        elif isinstance(output, UseKey):
            assert output.index in known


def test_an_old_key_is_replaced_though_nobody_came_or_went():
    desk = started(ME, ANN)
    assert sends(desk.wait(3600)) == [(ANN, 1)]


def test_a_send_that_fails_is_repeated_and_told_until_it_arrives():
    desk = Desk()
    (send,) = [o for o in desk.start(ME, ANN) if isinstance(o, SendKey)]
    out = desk.do(desk.machine.failed(desk.now, send.id, cause="no such device", server=False))
    assert raised(out) == [("media_key_undelivered", str(ANN))]
    waits = []
    for _ in range(7):
        before_s, tried = desk.now_s, []
        while not tried:
            tried = [o for o in desk.wait(0.5) if isinstance(o, SendKey)]
        waits.append(desk.now_s - before_s)
        out = desk.machine.failed(desk.now, tried[0].id, cause="no such device", server=False)
        desk.do(out)
    assert waits == [1, 2, 5, 10, 30, 30, 30]
    (send,) = [o for o in desk.wait(30) if isinstance(o, SendKey)]
    out = desk.do(desk.machine.sent(desk.now, send.id))
    assert cleared(out) == [("media_key_undelivered", str(ANN))]
    assert desk.machine.counters["keys_sent"] == 1
    assert desk.machine.counters["key_sends_failed"] == 8


def test_a_key_that_reaches_one_not_is_used_all_the_same():
    desk = started(ME, ANN, BOB, CEM)
    for send in [o for o in desk.there(ME, ANN, BOB) if isinstance(o, SendKey)]:
        if send.to == ANN:
            desk.do(desk.machine.failed(desk.now, send.id, cause="gone", server=False))
        else:
            desk.do(desk.machine.sent(desk.now, send.id))
    assert uses(desk.wait(5)) == [1]


def fail(desk, send, **more):
    return desk.do(desk.machine.failed(desk.now, send.id, server=False, **more))


def test_who_must_not_have_a_key_is_told_apart_and_keeps_nobody_waiting():
    desk = Desk(config=KeyConfig(require_trusted=True))
    sent = [o for o in desk.start(ME, ANN, BOB, CEM) if isinstance(o, SendKey)]
    assert all(send.trusted for send in sent)
    (first,) = [send for send in sent if send.to == ANN]
    out = fail(desk, first, cause="not signed", untrusted=True)
    assert raised(out) == [("device_untrusted", str(ANN))]
    desk.deliver([send for send in sent if send.to != ANN])
    (again,) = [o for o in desk.wait(1) if isinstance(o, SendKey)]
    out = fail(desk, again, cause="no one-time key")
    assert cleared(out) == [("device_untrusted", str(ANN))]
    assert raised(out) == [("media_key_undelivered", str(ANN))]
    # A new key is used a second after everybody who may have it has it.
    for send in [o for o in desk.there(ME, ANN, BOB) if isinstance(o, SendKey)]:
        desk.do(desk.machine.sent(desk.now, send.id))
    for send in [o for o in desk.wait(2) if isinstance(o, SendKey)]:
        fail(desk, send, cause="not signed", untrusted=True)
    assert uses(desk.wait(1)) == [1]
    assert not Desk().start(ME, ANN)[-1].trusted


def test_an_answer_about_a_key_that_is_out_of_use_lets_the_next_go():
    desk = Desk()
    first, _ = [o for o in desk.start(ME, ANN, BOB) if isinstance(o, SendKey)]
    desk.there(ME, ANN)
    out = desk.wait(5)
    assert uses(out) == [1]
    assert sends(out) == [], "one at a time to each"
    out = desk.do(desk.machine.sent(desk.now, first.id))
    assert sends(out) == [(ANN, 1)]
    desk.deliver(out)
    assert sends(desk.wait(100)) == []


def test_who_leaves_is_not_written_to_any_more():
    desk = Desk()
    (send,) = [o for o in desk.start(ME, ANN) if isinstance(o, SendKey)]
    desk.do(desk.machine.failed(desk.now, send.id, cause="gone", server=False))
    out = desk.there(ME)
    assert cleared(out) == [("media_key_undelivered", str(ANN))]
    assert sends(desk.wait(100)) == []
    (send,) = [o for o in desk.there(ME, ANN) if isinstance(o, SendKey)]
    desk.there(ME)
    assert desk.machine.sent(desk.now, send.id) == ()
    assert desk.machine.sent(desk.now, 999) == (), "an answer to nothing"
    assert desk.machine.failed(desk.now, 999, cause="", server=False) == ()


def test_a_silent_homeserver_is_asked_by_one_at_a_time():
    people = [member(f"p{n}") for n in range(30)]
    desk = Desk()
    first = [o for o in desk.start(ME, *people) if isinstance(o, SendKey)]
    assert len(first) == 8
    for send in first:
        out = desk.do(desk.machine.failed(desk.now, send.id, cause="away", server=True))
        assert sends(out) == []
        assert raised(out) == [], "that is another condition"
    out = desk.wait(4)
    assert len(sends(out)) == 1
    (probe,) = [o for o in out if isinstance(o, SendKey)]
    out = desk.do(
        desk.machine.failed(desk.now, probe.id, cause="busy", server=True, retry_after_s=20)
    )
    assert sends(desk.wait(19)) == []
    (probe,) = [o for o in desk.wait(1) if isinstance(o, SendKey)]
    out = desk.do(desk.machine.sent(desk.now, probe.id))
    assert len(sends(out)) == 8
    assert {to for to, _ in desk.deliver(out)} == {*people} - {probe.to}


def test_slow_devices_hold_up_nobody_for_long():
    slow, quick = [member(f"slow{n}") for n in range(8)], [member(f"q{n}") for n in range(3)]
    desk = Desk()
    assert {to for to, _ in sends(desk.start(ME, *slow, *quick))} == {*slow}
    assert sends(desk.wait(1.9)) == []
    assert {to for to, _ in sends(desk.wait(0.1))} == {*quick}


def test_a_member_without_a_device_is_told_of():
    nameless = member("ann", device="x")
    nameless = type(nameless)(user_id=nameless.user_id, device_id=None, member_id="m")
    desk = Desk()
    out = desk.start(ME, nameless, BOB)
    assert sends(out) == [(BOB, 0)]
    assert raised(desk.out) == [("media_key_undelivered", "@ann:hs/?")]
    assert cleared(desk.there(ME, BOB)) == [("media_key_undelivered", "@ann:hs/?")]


def test_each_member_without_a_device_is_told_of_once():
    ann, bob = [Member(user_id=f"@{n}:hs", device_id=None, member_id=n) for n in ("ann", "bob")]
    desk = Desk()
    desk.start(ME, ann)
    assert raised(desk.out) == [("media_key_undelivered", "@ann:hs/?")]
    both = desk.there(ME, ann, bob)
    assert (raised(both), cleared(both)) == ([("media_key_undelivered", "@bob:hs/?")], [])
    one = desk.there(ME, bob)
    assert (raised(one), cleared(one)) == ([], [("media_key_undelivered", "@ann:hs/?")])


def test_a_silent_homeserver_is_asked_ever_more_rarely():
    desk = Desk()
    (send,) = [o for o in desk.start(ME, ANN) if isinstance(o, SendKey)]
    waits = []
    for _ in range(5):
        desk.do(desk.machine.failed(desk.now, send.id, cause="away", server=True))
        before_s, tried = desk.now_s, []
        while not tried:
            tried = [o for o in desk.wait(0.5) if isinstance(o, SendKey)]
        waits.append(desk.now_s - before_s)
        (send,) = tried
    assert waits == [1, 2, 4, 4, 4]


def test_what_is_due_is_done_though_timers_ring_late():
    def late(desk, after_s):
        desk.now_s += after_s
        return desk.do(desk.machine.timer(desk.now))

    desk = Desk()
    (send,) = [o for o in desk.start(ME, ANN) if isinstance(o, SendKey)]
    desk.do(desk.machine.failed(desk.now, send.id, cause="no such device", server=False))
    assert sends(late(desk, 1.3)) == [(ANN, 0)], "repeated"
    desk = started(ME, ANN)
    desk.wait(10)
    assert uses(desk.there(ME, ANN, BOB)) == []
    assert uses(late(desk, 5.3)) == [1], "used"
    desk = started(ME, ANN)
    assert [index for _, index, _ in sets(late(desk, 3700))] == [1], "replaced"


def test_who_is_due_first_is_tried_first():
    desk = Desk()
    ann, bob = [o for o in desk.start(ME, ANN, BOB) if isinstance(o, SendKey)]
    fail(desk, ann, cause="no such device")
    (ann,) = [o for o in desk.wait(1) if isinstance(o, SendKey)]
    fail(desk, ann, cause="no such device")
    fail(desk, bob, cause="no such device")
    assert sends(desk.wait(1)) == [(BOB, 0)]
    assert sends(desk.wait(1)) == [(ANN, 0)]


def test_who_was_reached_once_is_tried_again_as_soon_as_anybody():
    desk = Desk()
    (send,) = [o for o in desk.start(ME, ANN) if isinstance(o, SendKey)]
    fail(desk, send, cause="no such device")
    (send,) = [o for o in desk.wait(1) if isinstance(o, SendKey)]
    desk.do(desk.machine.sent(desk.now, send.id))
    (send,) = [o for o in desk.wait(3600) if isinstance(o, SendKey)]
    assert send.index == 1
    fail(desk, send, cause="no such device")
    assert sends(desk.wait(1)) == [(ANN, 1)]


def test_who_lingers_gets_no_new_key():
    desk = started(ME, ANN, BOB)
    out = desk.there(ME, ANN, lingering=(BOB,))
    assert sends(out) == [(ANN, 1)]


def test_another_device_of_ours_gets_it_and_this_one_does_not():
    other = member("me", device="OTHER")
    assert sends(Desk().start(ME, other)) == [(other, 0)]


def test_keys_have_the_length_that_was_asked_for():
    desk = Desk(config=KeyConfig(key_bytes=16))
    assert [len(key) for _, _, key in sets(desk.start(ME))] == [16]


def test_nothing_shows_a_key():
    desk = started(ME, ANN)
    desk.take(ANN)
    shown = repr(desk.out) + repr(desk.machine) + repr(desk.machine.installed)
    for secret in (bytes([1]) * 32, b"k" * 32):
        assert repr(secret)[2:10] not in shown
    assert "kkkk" not in shown
    assert repr(desk.machine) == "<KeyMachine key 0 in use>"
    assert repr(Desk().machine) == "<KeyMachine not started>"


def test_the_times_are_those_of_the_msc_unless_told_otherwise():
    times = KeyConfig()
    assert (times.use_delay_s, times.settle_s, times.grace_s) == (5, 1, 10)
    assert (times.rotate_every_s, times.missing_after_s, times.key_bytes) == (3600, 10, 32)
    send = SendKey(id=1, to=ANN, index=0, key=Key(b"k" * 32))
    assert (send.trusted, send.timeout_s) == (False, 40)


def test_a_device_is_not_taken_for_cross_signed_unless_it_is_said():
    desk = started(ME, ANN, config=KeyConfig(require_trusted=True))
    desk.machine.receive(
        desk.now, WRITTEN_KEY_TYPE, content(ANN),
        sender=ANN.user_id, sender_device_id=ANN.device_id, encrypted=True,
    )  # fmt: skip
    assert desk.machine.counters["keys_refused.untrusted"] == 1
