"""Events of pinned clients, which `tests/interop/capture.py` took from a homeserver, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtcfoci.core.dialects import Leave, Memberships, OwnMembership, parse_event
from rtcfoci.core.dialects.d0 import D0
from rtcfoci.core.dialects.d1 import D1
from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d4 import D4
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.dangers import dangers
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.model import FocusSelection, Member, Membership, RoomEvent, Slot

FOLDER = Path(__file__).parent / "captured"
FILES = sorted(FOLDER.glob("*.json"))
DIALECTS = (D0(), D1(), D2(), D3(), D4(), D5(), Superset())
WRITERS = {"D2": D2(), "D3": D3(), "D5": D5(), "D6": Superset()}
NO_SENDER = {"D0", "D4", "D7"}
"""No client that sends these can be had; `vectors.json` has them written by hand."""


def events_of(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    events = [
        RoomEvent(
            type=raw["type"],
            sender=raw["sender"],
            content=raw["content"],
            event_id=raw["event_id"],
            origin_server_ts_ms=raw["origin_server_ts"],
            received_ts_ms=raw["origin_server_ts"],
            state_key=raw.get("state_key"),
            sticky_duration_ms=raw.get("msc4354_sticky", {}).get("duration_ms"),
        )
        for raw in content["events"]
        if raw["type"] != "m.room.member"
    ]
    assert len(events) == len(content["says"])
    return content, events


def memberships_of(parsed):
    if isinstance(parsed, Memberships):
        assert parsed.problems == ()
        return parsed.memberships
    assert isinstance(parsed, Membership), parsed
    return (parsed,)


def test_every_dialect_that_somebody_sends_was_captured():
    captured = {json.loads(file.read_text(encoding="utf-8"))["dialect"] for file in FILES}
    assert captured == {f"D{number}" for number in range(8)} - NO_SENDER


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_captured_event_is_read_as_what_it_is(file):
    content, events = events_of(file)
    began_ts_ms = events[0].origin_server_ts_ms
    for event, says in zip(events, content["says"], strict=True):
        parsed = parse_event(DIALECTS, event, content["room_id"])
        if says == "leave":
            assert isinstance(parsed, Leave)
            continue
        for membership in memberships_of(parsed):
            assert membership.dialect == content["dialect"]
            assert membership.member.user_id == event.sender
            assert membership.member.device_id is not None
            assert membership.member.device_id in json.dumps(event.content)
            assert membership.slot_id == "m.call#ROOM"
            assert [t.type for t in membership.transports] == ["livekit"]
            assert membership.transports[0].raw in published(event.content)
            assert began_ts_ms <= membership.created_ts_ms <= event.origin_server_ts_ms
            assert membership.expires_ts_ms > event.origin_server_ts_ms
            assert membership.claims is None
            assert membership.focus_selection is (
                FocusSelection.OLDEST_MEMBERSHIP
                if content["dialect"] in ("D1", "D2")
                else FocusSelection.OWN
            )
            assert membership.application == {"type": "m.call", **intent(event.content)}
        assert dangers(event.content, event.type) == []


def published(content):
    """Every list of transports there is."""
    found = [*content.get("foci_preferred", ()), *content.get("rtc_transports", ())]
    found += content.get("transports", {}).get("published", ())
    for entry in content.get("memberships", ()):
        found += entry["foci_active"]
    return found


def intent(content):
    held = content.get("application")
    held = held if isinstance(held, dict) else content
    return {key: held[key] for key in held if key == "m.call.intent"}


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.stem.split("-")[0].upper() in WRITERS],
    ids=lambda file: file.stem,
)
def test_a_captured_event_is_written_again_as_it_was(file):
    """What the writer does otherwise than the client is listed here, and nothing else differs."""
    content, events = events_of(file)
    writer = WRITERS[content["dialect"]]
    for event, says in zip(events, content["says"], strict=True):
        if says == "leave":
            continue
        (membership,) = memberships_of(parse_event(DIALECTS, event, content["room_id"]))
        own = OwnMembership(
            slot=Slot(room_id=content["room_id"]),
            member=Member(
                user_id=event.sender,
                device_id=membership.member.device_id,
                member_id=membership.member.member_id,
            ),
            transports=membership.transports,
            can_subscribe=membership.can_subscribe or (),
            application={k: v for k, v in membership.application.items() if k != "type"},
            more=membership.more,
            lifetime_ms=membership.expires_ts_ms - event.origin_server_ts_ms,
        )
        if says == "join":
            written = writer.join(own)
        else:
            written = writer.refresh(
                own,
                created_ts_ms=membership.created_ts_ms,
                now_ts_ms=event.origin_server_ts_ms,
            )
        expected = json.loads(json.dumps(event.content))
        if content["dialect"] in ("D2", "D3"):
            # Until 37 it left these out.
            expected.setdefault("expires", 14_400_000)
            expected.setdefault("membershipID", membership.member.member_id)
            if says == "refresh":
                # 37 forgot when it had begun, and counted from the refresh.
                expected.setdefault("created_ts", event.origin_server_ts_ms)
        if content["dialect"] == "D6":
            expected["member"]["membership"] = "join"
            expected["sticky_key"] = expected["msc4354_sticky_key"]
        assert written.content == expected
        assert written.type == event.type
        assert written.sticky_duration_ms == event.sticky_duration_ms
