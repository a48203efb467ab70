"""Memberships that cannot be read yet: when that is said, what is said, and when it is over."""

import pytest

from rtcfoci.core.conditions import KINDS
from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.model import Now, RoomEvent
from rtcfoci.core.unread import Unread

T = 1_700_000_000_000
OVER = (ClearCondition(code="memberships_unread"),)


class House:
    """A room whose events we cannot read, and its clock."""

    def __init__(self):
        self.absent = set()
        self.unread = Unread(lambda user: user not in self.absent)
        self.ts_ms = T

    def take(
        self, n=1, sender="@a:hs", kind="m.room.encrypted", sticky_ms=3_600_000, ago_ms=0, **more
    ):
        event = RoomEvent(
            type=kind,
            sender=sender,
            content={},
            event_id=f"$e{n}",
            origin_server_ts_ms=self.ts_ms - ago_ms,
            received_ts_ms=self.ts_ms,
            sticky_duration_ms=sticky_ms,
            **more,
        )
        return self.unread.receive(event, self.now)

    def read(self, n=1):
        return self.take(n, kind="x", encrypted=True)

    def redact(self, n=1):
        return self.take("r", kind="m.room.redaction", sticky_ms=None, redacts=f"$e{n}")

    def state(self, kind):
        return self.take("s", kind=kind, sticky_ms=None, state_key="@a:hs")

    def member(self):
        return self.state("m.room.member")

    def after(self, ms):
        """Let time pass; give the cause, if one is told, and else what is told."""
        self.ts_ms += ms
        told = self.unread.timer(self.now)
        if told and isinstance(told[0], RaiseCondition):
            (raised,) = told
            assert raised.code in KINDS
            return raised.cause
        return told

    @property
    def now(self):
        return Now(self.ts_ms / 1000, self.ts_ms)


@pytest.fixture
def house():
    return House()


def test_a_key_that_comes_at_once_is_not_waited_for(house):
    assert house.take() == ()
    assert house.unread.next_timer_ts_ms == T + 5_000
    assert house.after(4_999) == ()
    assert house.read() == ()
    assert house.after(1) == ()
    assert house.unread.next_timer_ts_ms is None


def test_it_is_said_with_how_many_and_of_whom_until_all_are_read(house):
    for n, sender in enumerate(("@b:hs", "@a:hs", "@b:hs")):
        house.take(n, sender)
    assert house.after(5_000) == "events without a key: 3, of @a:hs, @b:hs"
    assert house.unread.next_timer_ts_ms == T + 3_600_000
    assert house.read(9) == ()
    assert house.unread.next_timer_ts_ms == T + 3_600_000
    assert house.read(0) == ()
    assert house.unread.next_timer_ts_ms == T + 10_000
    assert house.after(4_999) == ()
    assert house.after(1) == "events without a key: 2, of @a:hs, @b:hs"
    house.read(1)
    assert house.read(2) == OVER
    assert house.read(2) == ()


def test_of_many_users_and_long_names_it_is_short(house):
    for n, name in enumerate(("c", "b", "a" * 300)):
        house.take(n, f"@{name}")
    assert house.after(5_000) == f"events without a key: 3, of @{'a' * 99}, @b, @c"
    house.take(3, "@d")
    assert house.unread.next_timer_ts_ms == T + 10_000
    assert house.after(5_000) == f"events without a key: 4, of @{'a' * 99}, @b, @c, ..."


def test_more_than_are_kept_are_not_counted(house):
    for n in range(600):
        house.take(n)
    assert house.after(5_000) == "events without a key: 500, of @a:hs"


def test_it_is_over_when_they_are_no_longer_sticky(house):
    house.take(sticky_ms=60_000)
    assert house.after(5_000) == "events without a key: 1, of @a:hs"
    assert house.after(54_999) == ()
    assert house.after(1) == OVER
    assert house.unread.next_timer_ts_ms is None


def test_a_driver_may_look_late(house):
    house.take(sticky_ms=60_000)
    assert house.after(6_000) == "events without a key: 1, of @a:hs"
    assert house.after(60_000) == OVER


def test_it_is_over_when_they_are_redacted(house):
    house.take()
    house.after(5_000)
    assert house.redact(2) == ()
    assert house.redact() == OVER


def test_it_is_over_when_their_sender_has_left_the_room(house):
    assert house.member() == ()
    assert house.unread.next_timer_ts_ms is None
    house.take()
    house.take(2, "@b:hs")
    assert house.after(5_000) == "events without a key: 2, of @a:hs, @b:hs"
    house.absent.add("@a:hs")
    for kind in ("m.room.avatar", "m.room.topic"):
        house.state(kind)
        assert house.unread.next_timer_ts_ms == T + 3_600_000
    house.member()
    assert house.unread.next_timer_ts_ms == T + 10_000
    assert house.after(5_000) == "events without a key: 1, of @b:hs"
    house.absent.add("@b:hs")
    house.member()
    assert house.after(5_000) == OVER


@pytest.mark.parametrize(
    "event",
    [
        {"sticky_ms": None},
        {"kind": "m.rtc.member"},
        {"kind": "m.room.avatar"},
        {"sticky_ms": 0},
        {"ago_ms": 3_600_001},
    ],
    ids=["plain", "clear", "other", "never sticky", "over"],
)
def test_what_cannot_be_a_membership_is_nothing(house, event):
    assert house.take(**event) == ()
    assert house.unread.next_timer_ts_ms is None
    assert house.after(10_000) == ()
