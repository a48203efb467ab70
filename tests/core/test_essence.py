"""What a session goes by of a room's events, and that nothing else bears on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.essence import essence, ring_essence
from rtcfoci.core.model import Now, RoomEvent, Slot
from rtcfoci.core.notifications import Notifications
from rtcfoci.core.policies import DEPLOYED, STRICT, TOLERANT
from rtcfoci.core.session import Session

DIALECTS = (D1(), D3(), Superset())
TYPES = {kind for dialect in DIALECTS for kind in dialect.event_types}
STATE, STICKY, SLOT = (
    "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "org.matrix.msc4143.rtc.slot",
)  # fmt: skip
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs"}


def event(kind, content, *, state_key=None, **more):
    fields = {
        "sender": "@a:hs",
        "event_id": "$e",
        "origin_server_ts_ms": 1000,
        "received_ts_ms": 1000,
        **more,
    }
    return RoomEvent(type=kind, content=content, state_key=state_key, **fields)


def state(**more):
    content = {
        "application": "m.call",
        "call_id": "",
        "device_id": "DEV",
        "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"},
        "foci_preferred": [LIVEKIT],
        "note": "said by the application",
    }
    return event(STATE, content, state_key="_@a:hs_DEV_m.call", **more)


def sticky(**more):
    content = {
        "slot_id": "m.call#ROOM",
        "application": {"type": "m.call"},
        "member": {"id": "uuid", "user_id": "@a:hs", "device_id": "DEV"},
        "versions": [],
        "transports": {"published": [LIVEKIT], "can_subscribe": ["livekit"]},
        "msc4354_sticky_key": "uuid",
    }
    return event(STICKY, content, sticky_duration_ms=3_600_000, **more)


def joined(membership="join", **content):
    content = {
        "membership": membership,
        "displayname": "Ann",
        "avatar_url": "mxc://hs/a",
        **content,
    }
    return event("m.room.member", content, state_key="@a:hs")


def test_memberships_and_slots_are_kept_whole():
    slot = event(
        SLOT, {"status": "open", "application": {"type": "m.call"}}, state_key="m.call#ROOM"
    )
    for whole in (state(), sticky(), slot):
        assert essence(whole, TYPES) == whole
    assert essence(state(age_ms=17), TYPES) == state(), "how old it was says nothing later"


def test_nobody_is_named_and_no_words_are_kept():
    assert essence(joined(), TYPES).content == {"membership": "join"}
    assert essence(joined(membership=7), TYPES).content == {}
    assert essence(event("m.room.member", "?", state_key="@a:hs"), TYPES).content == {}
    redaction = event("m.room.redaction", {"reason": "shame"}, redacts="$x")
    assert (essence(redaction, TYPES).content, essence(redaction, TYPES).redacts) == ({}, "$x")
    encryption = event("m.room.encryption", {"algorithm": "m.megolm"}, state_key="")
    assert essence(encryption, TYPES).content == {}


@pytest.mark.parametrize(
    "other",
    [
        event("m.room.message", {"body": "hello"}),
        event("m.room.member", {"membership": "join"}),
        event("m.room.topic", {"topic": "secrets"}, state_key=""),
        event(SLOT, {}),
    ],
)
def test_other_events_are_left_out(other):
    assert essence(other, TYPES) is None


def some(base):
    return st.builds(
        lambda event_id, ts_ms, sender, more: RoomEvent(
            **{
                **{name: getattr(base, name) for name in base.__slots__},
                "event_id": event_id,
                "origin_server_ts_ms": ts_ms,
                "sender": sender,
                **more,
            }
        ),
        st.sampled_from(["$1", "$2", "$3", "$4"]),
        st.integers(0, 5000),
        st.sampled_from(["@a:hs", "@b:hs"]),
        st.fixed_dictionaries({}, optional={"redacts": st.sampled_from(["$1", "$2"])}),
    )


EVENTS = st.sampled_from(
    [
        state(),
        sticky(),
        joined(),
        joined("leave"),
        event(STATE, {}, state_key="_@a:hs_DEV_m.call"),
        event(SLOT, {"status": "closed"}, state_key="m.call#ROOM"),
        event(SLOT, {"status": "open"}, state_key="other"),
        event("m.room.encryption", {"algorithm": "x"}, state_key=""),
        event("m.room.topic", {"topic": "x"}, state_key=""),
        event("m.room.message", {"body": "x"}),
    ]
).flatmap(some)


@given(
    st.lists(st.tuples(EVENTS, st.integers(0, 3_000_000)), max_size=12),
    st.sampled_from([DEPLOYED, STRICT, TOLERANT]),
)
def test_a_session_finds_the_same_by_the_essence_alone(steps, policy):
    whole, short = (Session(Slot(room_id="!r:hs"), DIALECTS, policy=policy) for _ in range(2))
    ts_ms = 0
    for given_event, wait_ms in steps:
        ts_ms += wait_ms
        now = Now(ts_ms / 1000, ts_ms)
        kept = essence(given_event, TYPES)
        found = short.handle_timer(now) if kept is None else short.receive(kept, now)
        assert whole.receive(given_event, now) == found
        assert whole.members == short.members


NOTIFICATION, DECLINE = "org.matrix.msc4075.rtc.notification", "m.rtc.decline"
RING = {
    "slot_id": "m.call#ROOM",
    "sticky_key": "m.call#ROOM",
    "m.mentions": {"room": True},
    "m.relates_to": {"rel_type": "m.reference", "event_id": "$e"},
    "notification_type": "ring",
    "sender_ts": 1000,
    "lifetime": 30_000,
}


def deep(levels):
    value = "private"
    for _ in range(levels):
        value = {"private": [value]}
    return value


@pytest.mark.parametrize(
    ("given_event", "kept"),
    [
        (event(NOTIFICATION, {**RING, "m.text": "private"}), RING),
        (event(NOTIFICATION, {"sticky_key": "k", "m.text": "private"}), {"sticky_key": "k", "more": True}),
        (event(NOTIFICATION, {"sticky_key": "k"}), {"sticky_key": "k"}),
        (event(NOTIFICATION, ["private"]), None),
        (event(DECLINE, {"m.relates_to": deep(9)}), {"m.relates_to": {"private": [{"private": [{}]}]}}),
        (event(DECLINE, {"m.relates_to": [[[[["private"]]]]]}), {"m.relates_to": [[[[[]]]]]}),
        (event("m.room.create", {"room_version": "12", "x": 1}, state_key=""), {"room_version": "12"}),
        (event("m.room.power_levels", {"ban": 1}, state_key=""), {"more": True}),
    ],
)  # fmt: skip
def test_of_what_rings_only_what_is_read_is_kept(given_event, kept):
    found = ring_essence(given_event)
    assert (found.type, found.content) == (given_event.type, kept)


@pytest.mark.parametrize(
    "given_event",
    [
        event("m.room.message", {"body": "private"}),
        event(NOTIFICATION, RING, state_key=""),
        event("m.room.power_levels", {}, state_key="x"),
        event("m.room.topic", {"topic": "private"}, state_key=""),
    ],
)
def test_what_rings_nobody_is_left_out(given_event):
    assert ring_essence(given_event) is None


RINGS = st.one_of(
    EVENTS,
    st.fixed_dictionaries(
        {},
        optional={
            **{name: st.just(value) for name, value in RING.items()},
            "m.mentions": st.sampled_from([{"room": True}, {"user_ids": ["@b:hs", 7]}, {}, deep(9), 5]),
            "m.relates_to": st.sampled_from([RING["m.relates_to"], deep(9), {}, None]),
            "notify_type": st.just("ring"),
            "application": st.just("m.call"),
            "call_id": st.just(""),
            "m.text": st.just("private"),
        },
    ).flatmap(
        lambda content: st.builds(
            event,
            st.sampled_from([NOTIFICATION, "m.call.notify", DECLINE]),
            st.just(content),
            event_id=st.sampled_from(["$n", "$e"]),
            sender=st.sampled_from(["@a:hs", "@b:hs"]),
            received_ts_ms=st.just(0),
            sticky_duration_ms=st.sampled_from([None, 50_000]),
        )
    ),
    st.builds(
        event,
        st.just("m.room.power_levels"),
        st.sampled_from([{"users": {"@a:hs": 100}}, {"users_default": 50, "ban": 3}, {"ban": 1}, {}]),
        state_key=st.just(""),
    ),
    st.just(event("m.room.create", {"room_version": "12"}, state_key="")),
)  # fmt: skip


@given(st.lists(st.tuples(RINGS, st.integers(0, 40_000)), max_size=12))
def test_what_rings_is_found_by_the_essence_alone(steps):
    slot, ts_ms = Slot(room_id="!r:hs"), 0
    sessions = [Session(slot, DIALECTS) for _ in range(2)]
    whole, short = [Notifications(s, user_id="@b:hs", device_id="B") for s in sessions]
    for given_event, wait_ms in steps:
        ts_ms += wait_ms
        now = Now(ts_ms / 1000, ts_ms)
        changes = sessions[0].receive(given_event, now)
        expected = whole.receive(given_event, changes, now)
        kept = essence(given_event, TYPES)
        rings = kept or ring_essence(given_event)
        again = sessions[1].receive(kept, now) if kept else sessions[1].handle_timer(now)
        found = short.receive(rings, again, now) if rings else short.handle_timer(now, again)
        assert found == expected
