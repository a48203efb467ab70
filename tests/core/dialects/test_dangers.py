"""The shapes that crash other people's clients, each called by its name; copied from what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.problems import KINDS, About
from tests.core.wire import off_the_wire

STATE, STICKY = "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.hs", "livekit_alias": "!r:hs"}
D3 = {
    "application": "m.call", "call_id": "", "scope": "m.room", "device_id": "DEV",
    "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"}, "foci_preferred": [LIVEKIT],
}  # fmt: skip
D6 = {
    "application": {"type": "m.call"}, "slot_id": "m.call#ROOM", "versions": [], "msc4354_sticky_key": "i",
    "transports": {"published": [LIVEKIT], "can_subscribe": []},
    "member": {"id": "i", "user_id": "@u:hs", "device_id": "DEV"},
}  # fmt: skip


def without(content, key):
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    ("event_type", "content", "codes"),
    [
        (STATE, {**D3, "foci_preferred": []}, ["empty_foci_preferred"]),
        (STATE, without(D3, "foci_preferred"), ["no_foci_preferred"]),
        (STATE, {**D3, "focus_active": {"type": "livekit"}}, ["unknown_focus_selection"]),
        (
            STATE,
            {**D3, "focus_active": {"type": "x", "focus_selection": []}, "foci_preferred": []},
            ["empty_foci_preferred", "unknown_focus_selection"],
        ),
        (STICKY, {**D6, "transports": {"published": [], "can_subscribe": []}}, ["empty_published"]),
    ],
)
def test_what_crashes_is_named(event_type, content, codes):
    found = dangers(off_the_wire(content), off_the_wire(event_type))
    assert [problem.code for problem in found] == codes
    assert all(KINDS[problem.code].about is About.DANGEROUS for problem in found)
    assert all("crashes" in problem.message for problem in found)


def test_of_members_that_follow_the_oldest_only_the_oldest_crashes():
    for selection, told in (("oldest_membership", True), ("multi_sfu", False)):
        content = {
            **D3,
            "foci_preferred": [],
            "focus_active": off_the_wire({"type": "livekit", "focus_selection": selection}),
        }
        (problem,) = dangers(content, STATE)
        assert ("once it is the oldest member" in problem.message) == told


@pytest.mark.parametrize(
    ("changes", "sent_ts_ms"),
    [
        ({"expires": 2**31}, None),
        ({"expires": "14400000"}, None),
        ({"expires": "5"}, None),
        ({"expires": "soon"}, None),
        ({"created_ts": 2**53, "expires": 1000}, None),
        ({"expires": {}}, 5),
        ({"created_ts": 5, "expires": 2**31}, None),
        ({"created_ts": 10**400, "expires": 1}, None),
        ({"created_ts": 5, "expires": 2**31}, 5),
        ({"created_ts": 10**9, "expires": 2**31 - 1}, 5),
    ],
)
def test_what_keeps_the_sdk_busy_is_named(changes, sent_ts_ms):
    (problem,) = dangers({**D3, **changes}, STATE, sent_ts_ms=sent_ts_ms)
    assert problem.code == "endless_expires"
    assert KINDS[problem.code].about is About.DANGEROUS


def test_an_old_membership_may_have_grown():
    """`expires` counts from `created_ts`, and grows for as long as a call lasts."""
    content = {**D3, "created_ts": 5, "expires": 2**31}
    assert dangers(content, STATE, sent_ts_ms=10**9) == []


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        (STATE, D3),
        (STATE, {}),
        (STATE, {**D3, "foci_preferred": [{"type": "rtcfoci.mesh"}]}),
        (
            STATE,
            {**D3, "focus_active": {"type": "livekit", "focus_selection": "oldest_membership"}},
        ),
        # Only Element X minds:
        (STATE, {**D3, "focus_active": {"type": "mesh", "focus_selection": "multi_sfu"}}),
        # Ends that a timer can bear:
        (STATE, {**D3, "expires": 2**31 - 1}),
        (STATE, {**D3, "created_ts": 10**12, "expires": 2**31 - 1}),
        (STATE, {**D3, "created_ts": 0, "expires": 0}),
        (STATE, {**D3, "created_ts": 2**53 - 1, "expires": 1000}),
        # Nobody looks there for the end of a sticky membership:
        (STICKY, {**D6, "expires": 2**40}),
        # In another slot:
        (STATE, {**D3, "call_id": "A", "foci_preferred": []}),
        (STATE, {**D3, "call_id": "other", "foci_preferred": []}),
        # Ignored, and so without effect:
        (STATE, {**D3, "foci_preferred": [{}], "focus_active": {"type": "livekit"}}),
        (STATE, {**without(D3, "device_id"), "foci_preferred": []}),
        (STATE, {**without(D3, "focus_active"), "foci_preferred": []}),
        (STATE, {"memberships": []}),
        (STICKY, D6),
        (STICKY, {"msc4354_sticky_key": "i"}),
        (STICKY, {**D6, "transports": {"published": []}}),
        (STICKY, {**without(D6, "versions"), "transports": {"published": [], "can_subscribe": []}}),
        # Read by nobody yet:
        ("m.rtc.member", {**D6, "transports": {"published": [], "can_subscribe": []}}),
        ("m.call.member", {**D3, "foci_preferred": []}),
        ("x.y", {**D3, "foci_preferred": []}),
        ("x.y", {**D6, "transports": {"published": [], "can_subscribe": []}}),
    ],
)
def test_what_does_not_is_let_alone(event_type, content):
    assert dangers(off_the_wire(content), off_the_wire(event_type)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([(STATE, D3), (STICKY, D6)]),
    st.dictionaries(st.sampled_from([*D3, *D6]), json_values, max_size=4),
    st.sampled_from([None, *D3["focus_active"], *D6["member"], *D6["transports"], "type"]),
    json_values,
)
def test_nothing_raises(base, changes, inner, value):
    event_type, content = base
    content = {**content, **changes}
    for key, held in content.items():
        if isinstance(held, dict) and inner is not None:
            content[key] = {**held, inner: value}
    for problem in dangers(content, event_type):
        assert KINDS[problem.code].about is About.DANGEROUS
