"""Where deployed clients do otherwise than MSC4143 and MSC4354 say, seen in events that they sent.

`tests/interop/test_captured.py` runs the same programs again: that they still send this.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CAPTURED = Path(__file__).parent / "captured"
STICKY = ("d6-element-call-0.26.1", "d6-js-sdk-43.0.0")


def sent(name):
    """Give the contents of the membership events of one sender, in order."""
    held = json.loads((CAPTURED / f"{name}.json").read_text(encoding="utf-8"))
    contents = [
        e["content"] for e in held["events"] if e["type"] == "org.matrix.msc4143.rtc.member"
    ]
    joins = [content for content in contents if "application" in content]
    leaves = [content for content in contents if "application" not in content]
    assert joins
    assert leaves
    return joins, leaves


@pytest.mark.parametrize("name", STICKY)
def test_nobody_writes_the_fields_of_the_text(name):
    joins, _ = sent(name)
    for join in joins:
        assert "membership" not in join["member"]
        assert "sticky_key" not in join
        assert {"user_id", "device_id"} <= join["member"].keys()
        assert join["versions"] == []
        assert join["msc4354_sticky_key"] == join["member"]["id"]


def test_how_they_leave():
    keys = [{key for leave in sent(name)[1] for key in leave} for name in STICKY]
    assert keys == [{"msc4354_sticky_key"}, {"msc4354_sticky_key", "slot_id"}]


def test_the_sdk_names_a_member_after_its_device():
    (call, *_), _ = sent("d6-element-call-0.26.1")
    (sdk, *_), _ = sent("d6-js-sdk-43.0.0")
    assert sdk["member"]["id"] == f"{sdk['member']['user_id']}:{sdk['member']['device_id']}"
    assert call["member"]["device_id"] not in call["member"]["id"]
