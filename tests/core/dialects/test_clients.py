"""The rules of matrix-js-sdk and of ruma, field by field; `tests/interop` asks the clients themselves."""

import math

import pytest

from rtcfoci.core.dialects import js_sdk, ruma
from rtcfoci.core.dialects.js_sdk import STATE, STICKY
from tests.core.wire import off_the_wire

USER = "@u:hs"
FOCUS = {"type": "livekit", "livekit_service_url": "https://sfu.hs", "livekit_alias": "!r:hs"}
D3 = off_the_wire({
    "application": "m.call", "call_id": "", "scope": "m.room", "device_id": "DEV", "expires": 1000,
    "focus_active": {"type": "livekit", "focus_selection": "multi_sfu"}, "foci_preferred": [FOCUS],
})  # fmt: skip
D6 = off_the_wire({
    "application": {"type": "m.call"}, "slot_id": "m.call#ROOM", "versions": [], "msc4354_sticky_key": "i",
    "transports": {"published": [FOCUS], "can_subscribe": []},
    "member": {"id": "i", "user_id": USER, "device_id": "DEV"},
})  # fmt: skip
D1 = off_the_wire({
    "application": "m.call", "call_id": "", "scope": "m.room", "device_id": "DEV", "expires": 1000,
    "membershipID": "x", "foci_active": [FOCUS],
})  # fmt: skip
GONE = object()


def test_a_user_id_of_nothing_but_signs_costs_no_more_than_its_length():
    signs = "@" * 1_000_000  # searched from every sign on, it would take hours
    content = put(D6, "member/user_id", signs)
    assert js_sdk.refusals(content, STICKY, signs) == ["member.user_id is not the sender"]


def put(content, path, value):
    """The content with one value at a path of keys changed, or taken away."""
    key, _, rest = path.partition("/")
    value = off_the_wire(value)
    changed = dict(content)
    if rest:
        changed[key] = put(changed[key], rest, value)
    elif value is GONE:
        del changed[key]
    else:
        changed[key] = value
    return changed


def test_the_sdk_takes_what_is_sent():
    assert js_sdk.refusals(D3, STATE, USER) == js_sdk.refusals(D6, STICKY, USER) == []


@pytest.mark.parametrize(
    ("path", "values", "about"),
    [
        ("device_id", (GONE, None, 5), "device_id"),
        ("call_id", (GONE, None, 5), "call_id"),
        ("application", (None, 5, {}), "application"),
        ("scope", (None, 5), "scope"),
        ("m.call.intent", (None, 5), "m.call.intent"),
        ("focus_active", (GONE, None, [], "x", {}), "focus_active"),
        ("focus_active/type", (GONE, None, 5), "focus_active"),
        ("foci_preferred", (None, {}, "x", [None], [[]], [{}], [{"type": 5}]), "foci_preferred"),
        ("created_ts", (None, "1", True), "created_ts"),
        ("call_id", ("a#b",), "#"),
        ("application", ("a#b",), "#"),
    ],
)
def test_what_of_state_the_sdk_refuses(path, values, about):
    for value in values:
        (why,) = js_sdk.refusals(put(D3, path, value), STATE, USER)
        assert about in why


@pytest.mark.parametrize(
    ("path", "values", "about"),
    [
        ("slot_id", (GONE, None, 5), "slot_id"),
        ("slot_id", ("m.call", "x#ROOM", "m.call#a#b", ""), "slot_id"),
        ("member", (GONE, None, [], "x"), "member"),
        ("member/user_id", (GONE, None, 5, "@a:hs", "@v:hs", ""), "member.user_id"),
        ("member/device_id", (GONE, None, 5), "member.device_id"),
        ("member/id", (GONE, None, 5), "member.id"),
        ("transports/published", (GONE, None, {}, [None], [{}], [{"type": 5}]), "published"),
        ("transports/can_subscribe", (GONE, None, {}, [5]), "can_subscribe"),
        ("versions", (GONE, None, {}, [5]), "versions"),
        ("msc4354_sticky_key", (GONE, None, 5), "sticky"),
        ("sticky_key", (None, 5), "sticky"),
        ("sticky_key", ("j",), "differ"),
        (
            "m.relates_to",
            (None, [], {}, {"event_id": 5, "rel_type": "m.reference"}),
            "m.relates_to",
        ),
        ("m.relates_to", ({"event_id": "$e", "rel_type": "m.thread"},), "m.relates_to"),
        ("m.relates_to", ({"event_id": "$e", "rel_type": "m.annotation"},), "m.relates_to"),
    ],
)
def test_what_of_sticky_events_the_sdk_refuses(path, values, about):
    for value in values:
        (why,) = js_sdk.refusals(put(D6, path, value), STICKY, USER)
        assert about in why


def test_every_refusal_is_told():
    broken = put(put(D3, "device_id", GONE), "call_id", GONE)
    assert len(js_sdk.refusals(broken, STATE, USER)) == 2
    for transports in (GONE, None, []):
        assert len(js_sdk.refusals(put(D6, "transports", transports), STICKY, USER)) == 2
    for application in (None, [], "x", {}, {"type": 5}):
        kinds = js_sdk.refusals(put(D6, "application", application), STICKY, USER)
        assert kinds == ["application.type is not a string", kinds[1]]
    two = {**D6, "application": {"type": "a#b"}, "slot_id": "a#b#ROOM"}
    assert len(js_sdk.refusals(two, STICKY, USER)) == 2


@pytest.mark.parametrize("sender", ["u:hs", "@u", "@:hs", "@\n:hs", "@u:"])
def test_a_user_must_look_like_one(sender):
    content = put(D6, "member/user_id", sender)
    assert js_sdk.refusals(content, STICKY, sender) == ["member.user_id is not the sender"]


@pytest.mark.parametrize(
    ("content", "about"),
    [
        ({}, "a leave"),
        ({"slot_id": "x"}, "a leave"),
        ({"slot_id": "x", "msc4354_sticky_key": "i"}, "a leave"),
        ({"memberships": []}, "no application"),
        ({"application": "m.call"}, "nothing but application"),
        ({"application": "m.call", "msc4354_sticky_key": "i"}, "nothing but application"),
        (put(D3, "application", GONE), "no application"),
    ],
)
def test_what_the_sdk_does_not_look_into(content, about):
    for kind in (STATE, STICKY):
        (why,) = js_sdk.refusals(content, kind, USER)
        assert about in why


@pytest.mark.parametrize("kind", ["m.call.member", "m.rtc.member", "x" * 1000])
def test_other_types_are_not_read(kind):
    for found in (js_sdk.refusals(D3, kind, USER), ruma.absences(D3, kind, USER)):
        (why,) = found
        assert f"does not read {kind[:80]}" in why
        assert len(why) < 200


@pytest.mark.parametrize(
    ("application", "call_id", "name"),
    [
        ("m.call", "", "ROOM"),
        ("m.call", "ROOM", "ROOM"),
        ("m.call", "x", "x"),
        ("org.example", "", ""),
        ("a.example", "", ""),
        ("a.example", "x", "x"),
        ("org.example", "ROOM", "ROOM"),
        ("m.call", "a#b", None),
        ("a#b", "", None),
    ],
)
def test_the_name_of_the_slot(application, call_id, name):
    content = {**D3, "application": application, "call_id": call_id}
    assert js_sdk.slot_name(content, STATE) == name


def test_the_name_of_a_sticky_slot():
    assert js_sdk.slot_name(D6, STICKY) == "ROOM"
    assert js_sdk.slot_name({**D6, "slot_id": "m.call#"}, STICKY) == ""


@pytest.mark.parametrize(
    ("created", "expires", "ends"),
    [
        (GONE, GONE, 5000 + 14_400_000),
        (GONE, None, 5000 + 14_400_000),
        (GONE, 7, 5007),
        (100, 7, 107),
        (100.5, 7.5, 108),
        (GONE, True, 5001),
        (GONE, "7", 50007),
        (GONE, "", 5000),
        (GONE, [], 5000),
        (GONE, [7], 50007),
        (GONE, [["7"]], 50007),
        (GONE, [None], 5000),
        (GONE, "e3", 5_000_000),
        (GONE, " ", 5000),
        (1.5, "5", 1.55),
        (0, 0, None),
        (-5, 5, None),
        ("5000", 7, math.nan),
        (GONE, "x", math.nan),
        (GONE, "1_0", math.nan),
        (GONE, {}, math.nan),
        (GONE, [1, 2], math.nan),
        (GONE, [True], math.nan),
        (GONE, -(10**400), math.inf),
        (10**400, 1, math.inf),
        (float("inf"), float("-inf"), None),
    ],
)
def test_the_end_in_the_arithmetic_of_javascript(created, expires, ends):
    content = put(put({**D3, "created_ts": 0}, "created_ts", created), "expires", expires)
    found = js_sdk.ends_ts_ms(content, 5000)
    if ends is not None and math.isnan(ends):
        assert math.isnan(found)
    else:
        assert found == ends


# ruma


def test_ruma_finds_whom_is_sent():
    assert ruma.absences(D3, off_the_wire(STATE), "_@u:hs_DEV_m.call") == []
    assert ruma.call_members(D3) == [D3]
    two = {"memberships": [D1, {**D1, "scope": "m.user"}, {**D1, "device_id": "B"}]}
    assert ruma.absences(two, STATE, USER) == []
    assert [part["device_id"] for part in ruma.call_members(two)] == ["DEV", "B"]


@pytest.mark.parametrize(
    ("path", "values", "about"),
    [
        ("application", (GONE, None, 5, "a", "x"), "application"),
        ("call_id", (GONE, None, 5), "call_id"),
        ("scope", (GONE, None, 5), "scope"),
        ("scope", ("m.user", ""), "scope"),
        ("device_id", (GONE, None, 5), "device_id"),
        ("expires", (GONE, None, "1", -1, 1.5, 2**53, True), "expires"),
        ("created_ts", ("1", -1, 1.5, 2**53, True), "created_ts"),
        ("focus_active/type", (GONE, None, "a", "x"), "focus_active.type"),
        ("focus_active/focus_selection", (GONE, None, 5), "focus_selection"),
        ("foci_preferred", (GONE, None, {}, [{}], [FOCUS, {"type": "x"}], [5]), "foci_preferred"),
        ("foci_preferred", ([put(FOCUS, "type", "a")], [put(FOCUS, "type", "x")]), "LiveKit"),
        ("foci_preferred", ([put(FOCUS, "livekit_alias", GONE)],), "livekit_alias"),
        ("foci_preferred", ([put(FOCUS, "livekit_service_url", 5)],), "livekit_service_url"),
    ],
)
def test_what_ruma_takes_for_an_empty_event(path, values, about):
    for value in values:
        (why,) = ruma.absences(put({**D3, "created_ts": 1}, path, value), STATE, USER)
        assert about in why
    assert ruma.absences(put(D3, "foci_preferred", []), STATE, USER) == []
    assert ruma.absences({**D3, "created_ts": None}, STATE, USER) == []
    for time_ms in (0, 2**53 - 1):
        assert ruma.absences({**D3, "created_ts": time_ms, "expires": time_ms}, STATE, USER) == []


def test_one_bad_entry_empties_the_event():
    for entry, about in (
        (5, "it is not an object"),
        ({**D1, "foci_active": [{"type": "mesh"}]}, "foci_active"),
        (put(D1, "membershipID", GONE), "membershipID"),
    ):
        (why,) = ruma.absences({"memberships": [D1, entry]}, STATE, USER)
        assert why.startswith("memberships[1].")
        assert about in why
        assert ruma.call_members({"memberships": [D1, entry]}) == []
    # What is no list of entries is read as the other form, if anything.
    assert ruma.absences({**D3, "memberships": [5]}, STATE, USER) == []
    assert ruma.call_members({**D3, "memberships": [5]}) == [{**D3, "memberships": [5]}]
    assert len(ruma.absences({"memberships": 5}, STATE, USER)) > 1


def test_an_event_may_list_nobody():
    assert ruma.absences({"memberships": []}, STATE, USER) == ["it lists nobody"]
    assert len(ruma.absences({}, STATE, USER)) > 1
    assert ruma.absences(D3, STATE, None) == ["it is not a state event"]


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("@u:hs", USER),
        ("@u:hs_DEV", USER),
        ("_@u:hs_DEV", USER),
        ("_@u:hs_DEV_m.call", USER),
        ("@u:hs.org:8448_D", "@u:hs.org:8448"),
        ("@u:[::1]_D", "@u:[::1]"),
        ("@:hs", "@:hs"),
        ("_@u:hs", None),
        ("@u:hs_", None),
        ("__@u:hs_DEV", None),
        ("", None),
        ("u:hs", None),
        ("@u", None),
        ("@u:", None),
        ("@u:h s", None),
        (f"@{'u' * 251}:hs", f"@{'u' * 251}:hs"),
        (f"@{'u' * 252}:hs", None),
    ],
)
def test_whom_a_state_key_names(key, owner):
    assert ruma.owner_of(key) == owner
    assert (ruma.absences(D3, STATE, key) == []) == (owner is not None)


def test_when_a_member_ends():
    assert ruma.ends_ts_ms(D3, 5000) == 6000
    assert ruma.ends_ts_ms({**D3, "created_ts": None}, 5000) == 6000
    assert ruma.ends_ts_ms({**D3, "created_ts": 7}, 5000) == 1007
