"""The sticky map against a list of all its events (`naive`), added, redacted and waited for."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtcfoci.core import sticky
from rtcfoci.core.model import Now, RoomEvent
from tests.core.naive import NaiveSticky

MOST = 3
"""Of one key, here: the bound is met often."""
durations_ms = st.sampled_from([None, -1, 0, 1, 5, 40, 3_600_000, 2**60])


class Map(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.map, self.naive = sticky.StickyMap(), NaiveSticky(MOST)
        self.now_ms = 1000
        self.events = []
        self.usual, sticky.MAX_HISTORY = sticky.MAX_HISTORY, MOST

    def teardown(self):
        sticky.MAX_HISTORY = self.usual

    @property
    def now(self):
        return Now(self.now_ms / 1000, self.now_ms)

    def file(self, event):
        key = event.content["sticky_key"]
        full = (event.sender, event.type, key)
        gives = self.map.add(event, key, event.event_id, self.now)
        assert gives == self.naive.add(event, full, event.event_id, self.now_ms)

    @rule(
        sender=st.sampled_from("uv"),
        kind=st.sampled_from("st"),
        key=st.sampled_from("kl"),
        ahead_ms=st.integers(-30, 30) | st.sampled_from([-(2**60), 2**60]),
        duration=durations_ms,
        ttl=st.none() | st.none() | durations_ms,
        high=st.booleans(),
    )
    def add(self, sender, kind, key, ahead_ms, duration, ttl, high):
        number = len(self.events)
        event = RoomEvent(
            type=kind,
            sender=sender,
            content={"sticky_key": key},
            # Ids say nothing of the order.
            event_id=f"${900 + number if high else 900 - number}",
            origin_server_ts_ms=self.now_ms + ahead_ms,
            received_ts_ms=self.now_ms,
            sticky_duration_ms=duration,
            sticky_ttl_ms=ttl,
        )
        self.events.append(event)
        self.file(event)

    @rule(data=st.data())
    @precondition(lambda self: self.events)
    def add_again(self, data):
        self.file(data.draw(st.sampled_from(self.events)))

    @rule(data=st.data())
    @precondition(lambda self: self.events)
    def redact(self, data):
        event_id = data.draw(st.sampled_from(self.events)).event_id
        assert self.map.redact(event_id) == self.naive.redact(event_id)

    @rule(for_ms=st.sampled_from([0, 1, 3, 10, 100, 3_600_000]))
    def wait(self, for_ms):
        self.now_ms += for_ms
        self.expire()

    @rule()
    @precondition(lambda self: self.naive.filed)
    def wait_for_the_next(self):
        """Nothing expires before the time that the map names, and something does then."""
        self.now_ms = self.map.next_expiry_ts_ms - 1
        assert self.expire() == []
        self.now_ms += 1
        assert self.expire()

    def expire(self):
        gone = self.map.expire(self.now)
        assert Counter(gone) == Counter(self.naive.expire(self.now_ms))
        return gone

    @invariant()
    def both_are_the_same(self):
        assert set(self.map) == self.naive.keys
        assert len(self.map) == len(self.naive.keys)
        assert self.map.next_expiry_ts_ms == self.naive.next_expiry_ts_ms
        for key in self.naive.keys:
            history = [filed.value for filed in self.naive.history(key)]
            assert [entry.value for entry in self.map.history(key)] == history
            assert self.map.current(key).value == history[0]


TestMap = Map.TestCase
TestMap.settings = settings(max_examples=150, stateful_step_count=30)
