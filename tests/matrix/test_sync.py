"""Reading syncs, hostile ones included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.matrix.sync import MAX_DEPTH, read_event, read_sync

NOW_TS_MS = 1_800_000_000_000


def event(event_id="$1", **changes):
    raw = {
        "type": "x.test",
        "sender": "@a:b",
        "event_id": event_id,
        "origin_server_ts": 5,
        "content": {"n": 1},
    }
    raw.update(changes)
    return {name: value for name, value in raw.items() if value is not ...}


def test_a_whole_sync_is_read():
    batch = read_sync(
        {
            "next_batch": "s1",
            "rooms": {
                "join": {
                    "!r": {
                        "state": {
                            "events": [event("$s", state_key="k"), event("$t", state_key="k2")]
                        },
                        "timeline": {
                            "limited": True,
                            "events": [event("$t", state_key="k2"), event("$u")],
                        },
                        "msc4354_sticky": {
                            "events": [
                                event(
                                    "$v",
                                    msc4354_sticky={"duration_ms": 60_000},
                                    unsigned={"msc4354_sticky_duration_ttl_ms": 50_000},
                                ),
                                event("$u"),
                            ]
                        },
                        "sticky": {
                            "events": [
                                event(
                                    "$w",
                                    sticky={"duration_ms": 70_000},
                                    unsigned={"sticky_duration_ttl_ms": 40_000},
                                )
                            ]
                        },
                    }
                },
                "leave": {"!left": {"timeline": {"events": [event("$x", state_key="@a:b")]}}},
                "invite": {"!new": {"invite_state": {"events": [{"type": "m.room.name"}]}}},
            },
            "to_device": {"events": [{"type": "x.msg", "sender": "@a:b", "content": {"m": 1}}]},
            "device_lists": {"changed": ["@c:d"], "left": ["@e:f"]},
            "device_one_time_keys_count": {"signed_curve25519": 7},
        },
        NOW_TS_MS,
    )
    assert batch.next_batch == "s1"
    joined, left, invited = batch.rooms
    assert joined.limited
    assert [e.event_id for e in joined.state] == ["$s"]
    assert [e.event_id for e in joined.timeline] == ["$t", "$u"]
    assert {e.event_id: (e.sticky_duration_ms, e.sticky_ttl_ms) for e in joined.sticky} == {
        "$v": (60_000, 50_000),
        "$w": (70_000, 40_000),
    }
    assert [e.event_id for e in joined.events] == [
        "$s",
        "$t",
        "$u",
        *[e.event_id for e in joined.sticky],
    ]
    assert (left.membership, invited.membership) == ("leave", "invite")
    assert [(m.type, m.sender, m.content) for m in batch.to_device] == [("x.msg", "@a:b", {"m": 1})]
    assert batch.devices_changed == ("@c:d", "@e:f")
    assert batch.one_time_keys == 7
    assert batch.malformed == 0


def test_no_keys_left_is_zero_and_not_unknown():
    assert read_sync({"device_one_time_keys_count": {}}, 0).one_time_keys == 0
    assert read_sync({}, 0).one_time_keys is None


def test_the_redacted_event_is_found_in_both_places():
    old = event(type="m.room.redaction", redacts="$gone")
    new = event(type="m.room.redaction", content={"redacts": "$gone"})
    assert read_event(old, 0).redacts == read_event(new, 0).redacts == "$gone"
    assert read_event(event(redacts="$gone"), 0).redacts is None


def nested(depth):
    """An object with this many containers in each other."""
    value: object = []
    for n in range(depth - 2):
        value = [value] if n % 2 else {"in": value}
    return {"in": value}


def test_malformed_events_are_left_out_and_counted():
    bad = [
        None,
        7,
        event(type=3),
        event(sender=...),
        event(event_id=None),
        event(content="x"),
        event(origin_server_ts="5"),
        event(origin_server_ts=True),
        event(origin_server_ts=2**60),
        event(state_key=5),
        # Half of a character, which JSON can hold and no database takes.
        event(type="x.\ud800"),
        event(sender="@\ud800:b"),
        event("$\ud800"),
        event(state_key="\ud800"),
        event(content=nested(MAX_DEPTH + 1)),
    ]
    good = [event(), event("$2", content=nested(MAX_DEPTH)), event("$3", type="x.\U0001f389")]
    raw = {"rooms": {"join": {"!r": {"timeline": {"events": [*bad, *good]}}}}}
    batch = read_sync(raw, 0)
    assert [e.event_id for e in batch.rooms[0].timeline] == ["$1", "$2", "$3"]
    assert batch.malformed == len(bad)
    messages = [{"type": "x", "sender": "@a:b", "content": nested(n)} for n in (99, 100, 101, 900)]
    messages += [{"type": "\ud800", "sender": "@a:b", "content": {}}]
    batch = read_sync({"next_batch": "\ud800", "to_device": {"events": messages}}, 0)
    assert (len(batch.to_device), batch.malformed, batch.next_batch) == (2, 3, None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = [
    *("rooms", "join", "leave", "invite", "state", "timeline", "events", "limited", "unsigned"),
    *(
        "msc4354_sticky",
        "sticky",
        "duration_ms",
        "msc4354_sticky_duration_ttl_ms",
        "type",
        "sender",
    ),
    *("sticky_duration_ttl_ms", "to_device", "device_lists", "changed", "left", "next_batch"),
    *("device_one_time_keys_count", "signed_curve25519", "event_id", "content", "origin_server_ts"),
    *("state_key", "redacts", "!r", "m.room.redaction"),
]
hostile_syncs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=30,
)
event_like = st.fixed_dictionaries(
    {},
    optional={name: json_values | st.just(value) for name, value in event(state_key="k").items()}
    | dict.fromkeys(("unsigned", "msc4354_sticky", "sticky", "redacts"), json_values),
)


@given(hostile_syncs)
def test_a_hostile_sync_never_raises(raw):
    batch = read_sync(raw, 0)
    for room in batch.rooms:
        ids = [e.event_id for e in room.events]
        assert len(ids) == len(set(ids))


@given(st.lists(event_like | json_values, max_size=6), st.sampled_from(["join", "leave", "invite"]))
def test_hostile_events_never_raise_and_what_is_read_is_typed(events, section):
    room = {
        "state": {"events": events},
        "timeline": {"events": events},
        "msc4354_sticky": {"events": events},
    }
    batch = read_sync({"rooms": {section: {"!r": room}}, "to_device": {"events": events}}, 0)
    for read in batch.rooms[0].events:
        assert read.type.encode() is not None
        assert isinstance(read.content, dict)
        assert type(read.origin_server_ts_ms) is int
        assert read.state_key is None or read.state_key.encode() is not None
        assert read.sticky_ttl_ms is None or type(read.sticky_ttl_ms) is int
