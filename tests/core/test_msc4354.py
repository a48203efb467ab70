"""Sentences of MSC4354 for who writes sticky events."""

from __future__ import annotations

import pytest

from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.superset import Superset

FIVE_MINUTES_MS = 300_000


@pytest.mark.parametrize("dialect", [D5(), Superset()], ids=lambda dialect: dialect.name)
def test_one_duration_for_all_that_is_written(room, dialect):
    own = room.own(lifetime_ms=1000)  # of state; it changes nothing here
    written = (
        dialect.join(own),
        dialect.refresh(own, created_ts_ms=1000, now_ts_ms=5000),
        dialect.leave(own),
    )
    (duration_ms,) = {event.sticky_duration_ms for event in written}
    assert duration_ms >= FIVE_MINUTES_MS
