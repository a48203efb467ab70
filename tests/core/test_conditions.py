"""Conditions: what is new, what only changed its time, and that every published code is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rtcfoci.core.conditions import KINDS, Conditions
from rtcfoci.core.model import Now

ROOT = Path(__file__).parents[2]
SHARED_ONLY = {"identity_mismatch"}
"""For focus types that have a server with identities of its own."""


def at(s):
    return Now(s, int(s * 1000))


def test_news_is_given_back_once():
    conditions = Conditions()
    first = conditions.raise_("rate_limited", at(1), cause="429", retry_at_s=2.0)
    assert first is not None
    assert (first.since_ts_ms, first.terminal, first.retry_at_s) == (1000, False, 2.0)
    kind = KINDS["rate_limited"]
    assert (first.what, first.remedy) == (kind.what, kind.remedy)
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
    bare = conditions.raise_("org.x.bare", at(1), cause="c")
    assert bare is not None
    assert (bare.what, bare.remedy, bare.terminal) == ("org.x.bare", "", False)
    kind = KINDS["kicked"]
    ended = conditions.raise_("kicked", at(1), cause="c")
    assert ended is not None
    assert (ended.remedy, ended.terminal) == (kind.remedy, True)


def test_what_nobody_can_mend_while_in_the_call_ends_it():
    assert {code for code, kind in KINDS.items() if kind.terminal} == {
        "banned", "identity_mismatch", "kicked", "membership_refused", "room_upgraded", "token_revoked",
    }  # fmt: skip


RAISERS = {"_raise", "_end_with", "on_condition", "raise_", "RaiseCondition", "ConditionRaised"}


def sources():
    """The code of the house and of its plugins; the tables themselves and tests left out."""
    for top in ("rtcfoci", "plugins"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).parts
            if path.name != "conditions.py" and not {"tests", "testing"} & set(parts):
                yield path, ast.parse(path.read_text())


def plugin_kinds():
    """The codes in the tables of plugins, which need not be installed here."""
    found = set()
    for path in (ROOT / "plugins").glob("*/rtcfoci_*/conditions.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="ConditionKind"), keywords=keywords):
                    found |= {k.value.value for k in keywords if k.arg == "code"}
    return found


def raised():
    """Every code that is written where a condition is raised, and how codes that are put together begin."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in RAISERS:
                continue
            code = next((k.value for k in node.keywords if k.arg == "code"), None)
            code = code or (node.args[0] if node.args else None)
            for part in (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,):
                match part:
                    case ast.Constant(value=str(text)):
                        yield path.name, text, ""
                    case ast.JoinedStr(values=[ast.Constant(value=str(start)), _]):
                        yield path.name, "", start


def test_every_code_that_is_raised_is_in_a_table():
    known = {*KINDS, *plugin_kinds()}
    found = list(raised())
    assert len(found) > 20
    for file, code, start in found:
        assert code in known or (start and any(k.startswith(start) for k in known)), (file, code)


def test_the_tables_hold_no_code_that_nobody_raises():
    written = {
        node.value
        for _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    starts = [start for _, _, start in raised() if start]
    for code in KINDS:
        there = code in written or any(code.startswith(start) for start in starts)
        assert there or code in SHARED_ONLY, code


def test_every_kind_of_a_plugin_is_used_by_name():
    for path in (ROOT / "plugins").glob("*/rtcfoci_*/conditions.py"):
        names = {
            target.id: node.value
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(node.value, ast.Call)
        }
        others = [p.read_text() for p in path.parent.glob("*.py") if p != path]
        for name in names:
            assert any(re.search(rf"raised\({name}\b", text) for text in others), name


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_kind_has_its_words(code):
    kind = KINDS[code]
    assert kind.code == code
    for words in (kind.what, kind.remedy):
        assert words.endswith(".")
        assert "|" not in words
