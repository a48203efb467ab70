"""The suites pass what is sound and fail what is broken, each for its own reason."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rtcfoci.core.dialects import Leave, Problems
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.errors import Problem
from rtcfoci.plugin import DialectInfo, ReadingPolicyInfo
from rtcfoci.plugin.builtin import rtcfoci_dialects, rtcfoci_reading_policies
from rtcfoci.testing.dialect_suite import (
    DialectConformance,
    ReadingPolicyConformance,
    received,
)

VECTORS = json.loads(
    (Path(__file__).parent.parent / "core" / "dialects" / "vectors.json").read_text("utf-8")
)
INFOS = {info.name: info for info in rtcfoci_dialects() if info.name != "D0"}


def of(name, cases, sender):
    """The hand-written events of a dialect."""
    found = []
    for case in cases:
        event = received(
            case["type"],
            case["content"],
            sender=sender,
            state_key=case.get("state_key"),
            sticky_duration_ms=case.get("sticky_duration_ms"),
        )
        if "encrypted_by" in case:
            event = replace(event, encrypted=True, encrypted_by_device_id=case["encrypted_by"])
        expect = case.get("expect")
        said = (expect[0] if isinstance(expect, list) else expect or {}).get("dialect", name)
        if said == name or (name == "D6/D7" and said in ("D6", "D7")):
            found.append(replace(event, origin_server_ts_ms=VECTORS["origin_server_ts_ms"]))
    return found


def suite(info, joins, leaves):
    return type(
        "Suite", (DialectConformance,), {"dialect": info, "joins": joins, "leaves": leaves}
    )()


def run(made, name):
    getattr(made, name)()


TESTS = [
    name
    for name, _ in inspect.getmembers(DialectConformance, inspect.isfunction)
    if name.startswith("test_")
]


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", INFOS)
def test_our_own_dialects_pass(name, test):
    info = INFOS[name]
    joins = of(name, VECTORS["cases"], VECTORS["sender"])
    dialect = _class(info)()
    leaves = [
        event for event in of(name, VECTORS["leaves"], VECTORS["sender"]) if dialect.reads(event)
    ]
    run(suite(info, joins, leaves), test)


@pytest.mark.parametrize("info", rtcfoci_reading_policies(), ids=lambda info: info.name)
def test_our_own_policies_pass(info):
    made = type("Suite", (ReadingPolicyConformance,), {"policy": info})()
    for name in dir(made):
        if name.startswith("test_"):
            run(made, name)


def _class(info):
    from rtcfoci.plugin.reference import resolve

    return resolve(info.dialect, plugin=info.name)


class _Broken(D3):
    name = "broken"
    event_types = ("org.example.broken",)


class Raises(_Broken):
    def parse(self, event, room_id):
        event.content["device_id"]
        return super().parse(event, room_id)


class Impersonates(_Broken):
    def parse(self, event, room_id):
        owner = event.state_key or "@x:y"
        return super().parse(replace(event, sender=owner.strip("_").split("_")[0]), room_id)


class Changes(_Broken):
    def parse(self, event, room_id):
        parsed = super().parse(event, room_id)
        event.content["seen"] = True
        return parsed


class MakesUpCodes(_Broken):
    def parse(self, event, room_id):
        parsed = super().parse(event, room_id)
        return Problems((Problem("oops", "x"),)) if isinstance(parsed, Problems) else parsed


class Quadratic(_Broken):
    def parse(self, event, room_id):
        for _ in event.content:
            for _ in event.content:
                pass
        return super().parse(event, room_id)


class Forgets(_Broken):
    def parse(self, event, room_id):
        parsed = super().parse(event, room_id)
        known = {"application": {"type": "m.call", "org.example.mood": "good"}}
        return parsed if isinstance(parsed, Leave | Problems) else replace(parsed, **known)


class Wanders(_Broken):
    def refresh(self, own, *, created_ts_ms, now_ts_ms):
        event = super().refresh(own, created_ts_ms=created_ts_ms, now_ts_ms=now_ts_ms)
        return replace(event, state_key=f"{event.state_key}2")


class Mute(_Broken):
    def leave(self, own):
        return self.join(own)


class ReadsAll(_Broken):
    def reads(self, event):
        return True


class Crashes(D3):
    name = "broken"

    def join(self, own):
        event = super().join(own)
        return replace(event, content={**event.content, "foci_preferred": []})


class Unkeyed(Superset):
    name = "broken"

    def _event(self, content):
        content = {k: v for k, v in content.items() if k != "msc4354_sticky_key"}
        return super()._event(content)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Raises, "nothing_raises_and_every_problem_has_a_published_code"),
        (Impersonates, "somebody_else_s_state_is_not_believed"),
        (Changes, "what_was_read_is_not_changed"),
        (MakesUpCodes, "nothing_raises_and_every_problem_has_a_published_code"),
        (Quadratic, "work_grows_no_faster_than_the_event"),
        (Forgets, "unknown_fields_survive_a_round_trip"),
        (Wanders, "join_refresh_and_leave_share_one_key"),
        (Mute, "what_is_written_is_read_back"),
        (ReadsAll, "other_events_are_left_alone"),
        (Crashes, "what_is_written_crashes_nobody"),
        (Crashes, "no_other_dialect_reads_its_memberships"),
        (Unkeyed, "join_refresh_and_leave_share_one_key"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_broken_fails(broken, test):
    case = VECTORS["cases"][3 if broken.sticky else 0]
    event = received(
        broken.event_types[0],
        case["content"],
        sender=VECTORS["sender"],
        state_key=case.get("state_key"),
        sticky_duration_ms=case.get("sticky_duration_ms"),
    )
    info = DialectInfo(
        name="broken", dialect=f"{__name__}:{broken.__name__}", event_types=broken.event_types
    )
    made = suite(info, [event], [replace(event, content={})])
    type(made).made = property(lambda self: broken())
    with pytest.raises((AssertionError, KeyError, TypeError)):
        run(made, f"test_{test}")


def test_a_descriptor_that_says_otherwise_fails():
    info = replace(INFOS["D3"], name="D33")
    joins = of("D3", VECTORS["cases"], VECTORS["sender"])
    with pytest.raises(AssertionError, match="different names"):
        run(suite(info, joins, joins), "test_the_descriptor_is_sound")
    info = replace(INFOS["D1"], writable=True)
    with pytest.raises(AssertionError, match="writes nothing"):
        run(suite(info, joins, joins), "test_the_descriptor_is_sound")


BROKEN = ReadingPolicy(name="broken", refuses=lambda *_: Problem("oops", ""))


def test_a_broken_policy_fails():
    info = ReadingPolicyInfo(name="broken", policy="x:y")
    made = type("Suite", (ReadingPolicyConformance,), {"policy": info})()
    type(made)._policy = lambda self: BROKEN
    for name in ("it_says_why_a_membership_does_not_count", "it_counts_somebody"):
        with pytest.raises(AssertionError):
            run(made, f"test_{name}")
