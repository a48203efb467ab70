"""A scripted room for tests of the core: it writes the events that others would send."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import settings

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Now, RoomEvent, Slot, Transport
from tests.core.wire import off_the_wire

# A machine that is busy with something else makes no property false.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

LIVEKIT = Transport("livekit", {"type": "livekit", "livekit_service_url": "https://sfu.hs"})


class Room:
    """Events of one room; times are milliseconds, received when sent unless told otherwise."""

    livekit = LIVEKIT
    mesh = Transport("rtcfoci.mesh", {"type": "rtcfoci.mesh", "video": True})
    d2, d3, superset = D2(), D3(), Superset()
    dialects = (d2, d3, superset)
    slot = Slot(room_id="!room:hs")

    def __init__(self):
        self._ids = itertools.count(1)

    @staticmethod
    def now(ts_ms):
        return Now(ts_ms / 1000, ts_ms)

    def own(self, user="@u:hs", device="DEV", member_id="uuid", transports=(LIVEKIT,), **more):
        user, device, member_id = map(off_the_wire, (user, device, member_id))
        member = Member(user_id=user, device_id=device, member_id=member_id)
        return OwnMembership(slot=self.slot, member=member, transports=transports, **more)

    def event(self, type, content, ts_ms, sender="@u:hs", **more):
        more.setdefault("received_ts_ms", ts_ms)
        more.setdefault("event_id", f"${next(self._ids):06}")
        wire = {"type": type, "sender": sender, "content": content, **more}
        return RoomEvent(origin_server_ts_ms=ts_ms, **off_the_wire(wire))

    def write(self, dialect, kind, ts_ms, own=None, **more):
        """The event by which a member joins, leaves or refreshes (with `created_ts_ms`)."""
        own = own or self.own()
        if kind == "refresh":
            written = dialect.refresh(own, created_ts_ms=more.pop("created_ts_ms"), now_ts_ms=ts_ms)
        else:
            written = getattr(dialect, kind)(own)
        return self.event(
            written.type,
            written.content,
            ts_ms,
            more.pop("sender", own.member.user_id),
            state_key=written.state_key,
            sticky_duration_ms=written.sticky_duration_ms,
            **more,
        )

    def presence(self, user, ts_ms=0, membership="join", sender=None):
        return self.event(
            "m.room.member", {"membership": membership}, ts_ms, sender or user, state_key=user
        )

    def membership(self, created_ts_ms=0, user="@u:hs", device="DEV", **more):
        """A membership as the session would hold it."""
        own = self.own(user, device, more.pop("member_id", f"{user}{device}"))
        event = self.write(self.superset, "join", created_ts_ms, own)
        return replace(self.superset.parse(event, self.slot.room_id), **more)


@pytest.fixture
def room():
    return Room()
