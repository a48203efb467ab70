"""What we write: never a shape that hides a call from, or breaks, the clients in the field."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects import Leave, is_livekit
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import Membership, Slot, Transport
from rtcfoci.errors import UsageError
from tests.core.wire import off_the_wire

DIALECTS = [D2(), D3(), D5(), Superset()]
STATE = DIALECTS[:2]
by_name = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
state_only = pytest.mark.parametrize("dialect", STATE, ids=lambda d: d.name)


def harmless(content):
    """Say that no harm of the content of a join was measured: copied from what was, apart from the code."""
    if "rtc_transports" in content:
        content = {**content, "transports": {"published": content["rtc_transports"]}}
        content["transports"]["can_subscribe"] = []
    if "transports" in content:
        published = content["transports"]["published"]
        assert published
        assert all(isinstance(item["type"], str) and item["type"] for item in published)
        assert isinstance(content["transports"]["can_subscribe"], list)
        assert isinstance(content["versions"], list)
        assert content["member"]["user_id"]
        assert content["member"]["device_id"]
        return
    foci = content["foci_preferred"]
    assert foci
    assert all(isinstance(item["type"], str) and item["type"] for item in foci)
    assert content["focus_active"]["type"] == "livekit"
    assert content["focus_active"]["focus_selection"] in ("multi_sfu", "oldest_membership")
    assert {"scope", "call_id", "expires"} <= content.keys()
    # Element X drops a membership for any focus that is not LiveKit with alias and URL.
    usable = [item for item in foci if {"livekit_alias", "livekit_service_url"} <= item.keys()]
    if any(item["type"] == "livekit" and "livekit_service_url" in item for item in foci):
        assert usable == foci
        assert {item["type"] for item in foci} == {"livekit"}


@pytest.mark.parametrize(
    ("transport", "is_one"),
    [
        ({"type": "livekit", "livekit_service_url": "https://sfu.hs"}, True),
        ({"type": "livekit", "livekit_service_url": 5}, False),
        ({"type": "livekit"}, False),
        ({"type": "another", "livekit_service_url": "https://sfu.hs"}, False),
        ({"type": "zoo", "livekit_service_url": "https://sfu.hs"}, False),
    ],
)
def test_what_deployed_clients_take_for_livekit(transport, is_one):
    assert is_livekit(off_the_wire(transport)) == is_one


@by_name
def test_what_is_written_is_read_back(room, dialect):
    own = room.own(
        transports=(room.mesh, room.livekit),
        can_subscribe=("livekit", "rtcfoci.mesh"),
        application={"m.call.intent": "audio", "type": "never", "expires": "never"},
    )
    event = room.write(dialect, "join", 1000, own)
    assert dialect.reads(event)
    membership = dialect.parse(event, room.slot.room_id)
    assert isinstance(membership, Membership)
    assert membership.slot_id == "m.call#ROOM"
    assert [transport.type for transport in membership.transports] == ["livekit", "rtcfoci.mesh"]
    assert membership.transports[1].raw == room.mesh.raw
    if dialect.name == "D5":
        assert membership.can_subscribe is None
    else:
        assert membership.can_subscribe == ("livekit", "rtcfoci.mesh")
    assert membership.application["type"] == "m.call"
    assert membership.application["m.call.intent"] == "audio"
    harmless(event.content)
    assert isinstance(
        dialect.parse(room.write(dialect, "leave", 1001, own), room.slot.room_id), Leave
    )


@state_only
def test_a_state_membership(room, dialect):
    event = room.write(dialect, "join", 1000)
    assert event.type == "org.matrix.msc3401.call.member"
    assert event.state_key == "_@u:hs_DEV_m.call"
    assert event.sticky_duration_ms is None
    assert event.content == {
        "application": "m.call",
        "call_id": "",
        "scope": "m.room",
        "device_id": "DEV",
        "membershipID": "@u:hs:DEV",
        "expires": 14_400_000,
        "focus_active": {
            "type": "livekit",
            "focus_selection": {"D2": "oldest_membership", "D3": "multi_sfu"}[dialect.name],
        },
        "foci_preferred": [{"livekit_alias": "!room:hs", **room.livekit.raw}],
    }
    assert room.write(dialect, "leave", 1001).content == {}


@state_only
def test_state_keys_of_other_slots_and_rooms(dialect):
    from rtcfoci.core.dialects import OwnMembership
    from rtcfoci.core.model import Member

    def key(owned, **slot):
        own = OwnMembership(
            slot=Slot(room_id="!r:hs", **slot),
            member=Member(user_id="@u:hs", device_id="DEV", member_id="x"),
            transports=(Transport("x", {"type": "x"}),),
            owned_state=owned,
        )
        return dialect.join(own).state_key, dialect.join(own).content["call_id"]

    assert key(True) == ("@u:hs_DEV_m.call", "")
    assert key(False, name="side") == ("_@u:hs_DEV_m.callside", "side")
    assert key(False, application="org.board") == ("_@u:hs_DEV_org.boardROOM", "ROOM")


@state_only
def test_a_refresh_keeps_the_beginning_and_moves_the_end(room, dialect):
    own = room.own(lifetime_ms=600_000)
    refreshed = room.write(dialect, "refresh", 500_000, own, created_ts_ms=1000)
    assert refreshed.content["created_ts"] == 1000
    assert refreshed.content["expires"] == 499_000 + 600_000
    membership = dialect.parse(refreshed, room.slot.room_id)
    assert isinstance(membership, Membership)
    assert membership.created_ts_ms == 1000
    assert membership.expires_ts_ms == 500_000 + 600_000
    # A clock that is behind the server's shortens nothing.
    early = room.write(dialect, "refresh", 500, own, created_ts_ms=1000)
    assert early.content["expires"] == 600_000


@state_only
def test_a_member_without_livekit_lists_its_own_transport(room, dialect):
    content = room.write(dialect, "join", 0, room.own(transports=(room.mesh,))).content
    assert content["foci_preferred"] == [room.mesh.raw]
    assert "rtcfoci.transports" not in content
    harmless(content)


@state_only
@pytest.mark.parametrize(
    ("can_subscribe", "written"),
    [
        ((), False),
        (("livekit",), False),
        (("rtcfoci.mesh",), True),
        (("livekit", "rtcfoci.mesh"), True),
    ],
)
def test_the_extension_is_written_only_where_it_says_more(room, dialect, can_subscribe, written):
    content = room.write(dialect, "join", 0, room.own(can_subscribe=can_subscribe)).content
    assert ("rtcfoci.transports" in content) == written


@state_only
@pytest.mark.parametrize("application", ["a.board", "m.call", "org.board"])
@pytest.mark.parametrize("name", ["AAA", "ROOM", "side"])
def test_only_the_rooms_own_call_has_no_call_id(room, dialect, application, name):
    own = replace(room.own(), slot=Slot(room_id="!room:hs", application=application, name=name))
    event = room.write(dialect, "join", 1000, own)
    assert event.content["call_id"] == ("" if (application, name) == ("m.call", "ROOM") else name)
    assert dialect.parse(event, "!room:hs").slot_id == f"{application}#{name}"


@state_only
def test_the_extension_says_what_the_dialect_cannot(room, dialect):
    own = room.own(transports=(room.mesh,), can_subscribe=("rtcfoci.mesh", "livekit"))
    content = room.write(dialect, "join", 0, own).content
    assert content["rtcfoci.transports"] == {
        "published": [],
        "can_subscribe": ["rtcfoci.mesh", "livekit"],
    }


def test_a_sticky_membership(room):
    event = room.write(room.superset, "join", 1000)
    assert event.type == "org.matrix.msc4143.rtc.member"
    assert event.state_key is None
    assert event.sticky_duration_ms == 3_600_000
    assert event.content == {
        "slot_id": "m.call#ROOM",
        "application": {"type": "m.call"},
        "member": {"id": "uuid", "user_id": "@u:hs", "device_id": "DEV", "membership": "join"},
        "transports": {"published": [room.livekit.raw], "can_subscribe": []},
        "versions": [],
        "msc4354_sticky_key": "uuid",
        "sticky_key": "uuid",
    }
    again = room.write(room.superset, "refresh", 2000, created_ts_ms=1000)
    assert again.content == event.content
    assert room.write(room.superset, "leave", 3000).content == {
        "slot_id": "m.call#ROOM",
        "member": {"id": "uuid", "user_id": "@u:hs", "device_id": "DEV", "membership": "leave"},
        "msc4354_sticky_key": "uuid",
        "sticky_key": "uuid",
    }


def test_d5_is_written_as_its_readers_know_it(room):
    event = room.write(D5(), "join", 1000)
    assert event.sticky_duration_ms == 3_600_000
    assert event.content == {
        "slot_id": "m.call#ROOM",
        "application": {"type": "m.call"},
        "member": {"id": "uuid", "user_id": "@u:hs", "device_id": "DEV"},
        "rtc_transports": [room.livekit.raw],
        "versions": [],
        "msc4354_sticky_key": "uuid",
    }
    leave = room.write(D5(), "leave", 2000)
    assert leave.content == room.write(room.superset, "leave", 2000).content


@by_name
@pytest.mark.parametrize("transports", [(), (Transport("x", {}),), (Transport("", {"type": ""}),)])
def test_no_transport_is_refused(room, dialect, transports):
    with pytest.raises(UsageError, match="at least one transport"):
        dialect.join(room.own(transports=transports))


raws = st.builds(
    lambda kind, url, extra: {
        **extra,
        "type": kind,
        **({"livekit_service_url": url} if url is not None else {}),
    },
    st.sampled_from(["livekit", "m.livekit", "rtcfoci.mesh", "org.x"]),
    st.none() | st.text(max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(
    dialect=st.sampled_from(DIALECTS),
    transports=st.lists(raws, min_size=1, max_size=4),
    can_subscribe=st.lists(st.text(max_size=4), max_size=3),
    application=st.dictionaries(
        st.sampled_from(
            ["type", "expires", "focus_active", "foci_preferred", "slot_id", "m.call.intent"]
        ),
        st.integers() | st.text(max_size=3),
    ),
    refresh=st.booleans(),
)
def test_no_input_makes_a_harmful_shape(dialect, transports, can_subscribe, application, refresh):
    from rtcfoci.core.dialects import OwnMembership
    from rtcfoci.core.model import Member

    own = OwnMembership(
        slot=Slot(room_id="!room:hs"),
        member=Member(user_id="@u:hs", device_id="DEV", member_id="uuid"),
        transports=tuple(Transport(raw["type"], raw) for raw in transports),
        can_subscribe=tuple(can_subscribe),
        application=application,
    )
    event = dialect.refresh(own, created_ts_ms=1, now_ts_ms=9) if refresh else dialect.join(own)
    harmless(json.loads(json.dumps(event.content)))
