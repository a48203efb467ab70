"""What a dialect does not know of an event is written again as it was, wherever it stood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Member, Membership, RoomEvent, Slot, Transport

WRITTEN = [D2(), D3(), D5(), Superset()]
SLOT = Slot(room_id="!room:hs")

unknown = st.dictionaries(
    st.sampled_from(["org.example.a", "b", "type2", "m.relation", "created"]),
    st.none() | st.integers() | st.text(max_size=3) | st.just({"deep": [{"deeper": None}]}),
    max_size=3,
)
livekit = unknown.map(
    lambda more: {
        **more, "type": "livekit", "livekit_service_url": "https://sfu.hs", "livekit_alias": "a"
    }
)  # fmt: skip
others = unknown.map(lambda more: {**more, "type": "rtcfoci.mesh"})


def own_of(membership, **more):
    """What announces the same membership again."""
    return OwnMembership(
        slot=SLOT,
        member=membership.member,
        transports=membership.transports,
        can_subscribe=membership.can_subscribe or (),
        application={k: v for k, v in membership.application.items() if k != "type"},
        more=membership.more,
        **more,
    )


def received(written, content=None):
    return RoomEvent(
        type=written.type,
        sender="@u:hs",
        content=written.content if content is None else content,
        event_id="$e",
        origin_server_ts_ms=1000,
        received_ts_ms=1000,
        state_key=written.state_key,
        sticky_duration_ms=written.sticky_duration_ms,
    )


@given(
    dialect=st.sampled_from(WRITTEN),
    first=livekit,
    rest=st.lists(others, max_size=2),
    can_subscribe=st.lists(st.sampled_from(["livekit", "rtcfoci.mesh"]), max_size=2, unique=True),
    places=st.lists(unknown, min_size=5, max_size=5),
)
def test_unknown_fields_survive(dialect, first, rest, can_subscribe, places):
    member = Member(user_id="@u:hs", device_id="DEV", member_id="uuid")
    own = OwnMembership(
        slot=SLOT,
        member=member,
        transports=tuple(Transport(raw["type"], raw) for raw in [first, *rest]),
        can_subscribe=tuple(can_subscribe),
    )
    content = dict(dialect.join(own).content)
    for key, more in zip(
        ("member", "transports", "focus_active", "application"), places, strict=False
    ):
        if isinstance(content.get(key), dict):
            content[key] = {**more, **content[key]}
    content = {**places[4], **content}
    membership = dialect.parse(received(dialect.join(own), content), "!room:hs")
    assert isinstance(membership, Membership), membership
    assert dialect.join(own_of(membership)).content == content
    again = dialect.refresh(own_of(membership), created_ts_ms=1000, now_ts_ms=2000).content
    assert {**again, "created_ts": 0, "expires": 0} == {
        **content,
        "created_ts": 0,
        "expires": 0,
    } | ({} if "expires" in content else {"expires": 0})


@pytest.mark.parametrize("dialect", WRITTEN, ids=lambda dialect: dialect.name)
def test_what_is_known_is_never_taken_from_the_rest(dialect):
    """Whatever the rest holds, the event is of its dialect, for its slot and from its member."""
    member = Member(user_id="@u:hs", device_id="DEV", member_id="uuid")
    own = OwnMembership(
        slot=SLOT,
        member=member,
        transports=(Transport("livekit", {"type": "livekit", "livekit_service_url": "x"}),),
        more={
            "slot_id": "m.call#other", "application": {"type": "other"}, "call_id": "other",
            "member": {"id": "other", "user_id": "@v:hs", "device_id": "OTHER", "more": 1},
            "transports": 5, "focus_active": {"type": "other", "more": 1}, "foci_preferred": [],
            "msc4354_sticky_key": "other", "device_id": "OTHER",
        },
    )  # fmt: skip
    written = dialect.join(own)
    membership = dialect.parse(received(written), "!room:hs")
    assert isinstance(membership, Membership)
    assert membership.dialect == dialect.name
    assert membership.slot_id == SLOT.slot_id
    assert (membership.member.user_id, membership.member.device_id) == ("@u:hs", "DEV")
    assert [transport.type for transport in membership.transports] == ["livekit"]
    nested = written.content["member"] if dialect.sticky else written.content["focus_active"]
    assert nested["more"] == 1
