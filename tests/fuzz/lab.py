"""The parsers of what the tools are given: events, room files, recordings, perhaps of strangers."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from rtcfoci.call.sessions import reading_policies
from rtcfoci.core.diffs import MemberChanged, MemberJoined, MemberLeft, MemberRefreshed
from rtcfoci.core.model import Slot
from rtcfoci.core.policies import DEPLOYED, POLICIES
from rtcfoci.errors import UsageError
from rtcfoci.lab import lanes
from rtcfoci.lab.given import Draft, read_given
from rtcfoci.lab.lint import lint
from rtcfoci.lab.pseudonyms import Pseudonyms
from rtcfoci.lab.replay import replay as replay_trace
from rtcfoci.lab.report import Fold
from rtcfoci.lab.roomfile import read_room_file, write_event
from rtcfoci.lab.timeline import of_room, of_trace
from rtcfoci.lab.tracefile import read_trace
from rtcfoci.matrix.sync import read_event
from rtcfoci.plugin.manager import PluginManager
from tests.fuzz import seeds
from tests.fuzz.core import DIALECTS, NOW_TS_MS
from tests.fuzz.harness import encoded, of_bytes, of_json

PLUGINS = PluginManager.load()
BY_NAME = {policy.name: policy for policy in reading_policies(PLUGINS)}
DRAFTS = (Draft(), Draft(type="m.rtc.member", state_key="", sender="@a:hs", encrypted=True))
PSEUDONYMS = Pseudonyms(bytes(32))


@of_bytes(lambda: map(encoded, seeds.rooms()), is_json=True)
def room_file(data):
    """A room's events in a file, folded under every policy: diffs and reasons agree with the members."""
    try:
        file = read_room_file(data.decode("utf-8", "replace"), NOW_TS_MS)
    except UsageError:
        return
    for policy in POLICIES:
        fold = Fold(file, Slot(room_id=file.room_id), DIALECTS, policy, NOW_TS_MS)
        shown = []
        for step in fold.steps():
            replay(step.diffs, shown)
            assert step.count == len(shown)
            json.dumps(fold.step(step), allow_nan=False)
        members = fold.session.members
        assert sorted(map(repr, shown)) == sorted(map(repr, members))
        json.dumps(fold.report(), allow_nan=False).encode()


def replay(diffs, shown):
    for diff in diffs:
        match diff:
            case MemberJoined(membership):
                shown.append(membership)
            case MemberLeft(membership, _):
                shown.remove(membership)
            case MemberChanged(old, new) | MemberRefreshed(old, new):
                shown[shown.index(old)] = new


@of_bytes(lambda: map(encoded, seeds.given()), is_json=True)
def verdict(data):
    """What `rtcfoci lint` is given: every event gets a verdict, which is JSON."""
    text = data.decode("utf-8", "replace")
    for draft in DRAFTS:
        try:
            given = read_given(text, draft, NOW_TS_MS)
        except UsageError:
            return
        slot = Slot(room_id=given.room_id)
        for now_ts_ms in (None, NOW_TS_MS):
            found = lint(given, DIALECTS, slot, now_ts_ms=now_ts_ms, encrypted=draft.encrypted)
            for finding in found:
                json.dumps(finding.as_json(), allow_nan=False).encode()
                assert finding.entry.event is None or finding.opinions


@of_bytes(seeds.traces)
def trace(data):
    """The recording of a call, fed through the core again."""
    try:
        replay_trace(read_trace("FILE", data.decode("utf-8", "replace"), PLUGINS), PLUGINS)
    except UsageError:
        return


@of_bytes(seeds.drawn_calls)
def call_picture(data):
    """The recording of a call, drawn."""
    try:
        found = read_trace("FILE", data.decode("utf-8", "replace"), PLUGINS)
        drawn(of_trace(found, BY_NAME))
    except UsageError:
        return


@of_bytes(lambda: map(encoded, seeds.rooms()), is_json=True)
def picture(data):
    """A room's events in a file, drawn: what strangers say stays text."""
    try:
        file = read_room_file(data.decode("utf-8", "replace"), 0)
    except UsageError:
        return
    drawn(of_room(file, DIALECTS, DEPLOYED))


def drawn(found):
    ElementTree.fromstring(lanes.svg(found))
    assert lanes.html(found)
    assert "\x1b" not in lanes.text(found)


@of_json(seeds.events)
def pseudonyms(value):
    """An event under other names: no name is left, and it reads as before."""
    event = read_event(value, NOW_TS_MS)
    if event is None:
        return
    hidden = PSEUDONYMS.event(event)
    again = read_event(write_event(hidden), NOW_TS_MS)
    assert again is not None
    for dialect in DIALECTS:
        if dialect.reads(event):
            one, other = (dialect.parse(e, "!room:hs") for e in (event, hidden))
            assert type(one) is type(other)
