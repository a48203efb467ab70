"""Conditions: what is new, what only changed its time, and that every published code is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtcfoci.core.conditions import KINDS, Conditions
from rtcfoci.core.model import Now

ROOT = Path(__file__).parents[2]
SHARED_ONLY = {"identity_mismatch"}
"""For focus types that have a server with identities of its own; none of these is in this repository."""


def at(s):
    return Now(s, int(s * 1000))


def test_news_is_given_back_once():
    conditions = Conditions()
    first = conditions.raise_("rate_limited", at(1), cause="429", retry_at_s=2.0)
    assert first is not None
    assert (first.since_ts_ms, first.terminal, first.retry_at_s) == (1000, False, 2.0)
    assert first.what == KINDS["rate_limited"].what
    assert conditions.raise_("rate_limited", at(2), cause="429", retry_at_s=3.0) is None
    assert [c.retry_at_s for c in conditions] == [3.0]
    changed = conditions.raise_("rate_limited", at(3), cause="another", retry_at_s=3.0)
    assert changed is not None
    assert changed.since_ts_ms == 1000
    assert conditions.clear("rate_limited") == changed
    assert conditions.clear("rate_limited") is None
    assert len(conditions) == 0


def test_subjects_are_apart():
    conditions = Conditions()
    conditions.raise_("peer_unreachable", at(1), cause="ice", subject="@u:hs/A")
    assert conditions.raise_("peer_unreachable", at(1), cause="ice", subject="@u:hs/B") is not None
    assert conditions.clear("peer_unreachable", "@u:hs/A") is not None
    assert [c.subject for c in conditions] == ["@u:hs/B"]


def test_a_code_of_a_plugin_brings_its_own_words():
    conditions = Conditions()
    raised = conditions.raise_("org.x.full", at(1), cause="c", what="w", remedy="r", terminal=True)
    assert raised is not None
    assert (raised.what, raised.remedy, raised.terminal) == ("w", "r", True)


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_kind_has_its_words_and_is_raised_somewhere(code):
    kind = KINDS[code]
    assert kind.what.endswith(".")
    assert kind.remedy.endswith(".")
    raisers = [
        path
        for top in ("rtcfoci", "plugins")
        for path in (ROOT / top).rglob("*.py")
        if path.name != "conditions.py"
        and "tests" not in path.parts
        and f'"{code}"' in path.read_text()
    ]
    assert bool(raisers) is (code not in SHARED_ONLY)
