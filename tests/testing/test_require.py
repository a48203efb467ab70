"""A missing tool skips on a laptop and fails where it was promised."""

from __future__ import annotations

import pytest

from rtcfoci.testing import required, skip_or_fail


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", False), ("node", False), ("node, synapse", True), ("all", True), ("synapse2", False)],
)
def test_reads_the_list(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("RTCFOCI_REQUIRE", value)
    assert required("synapse") is expected


def test_skips_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RTCFOCI_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="synapse is missing: no PyPI"):
        skip_or_fail("synapse", "no PyPI")


def test_fails_when_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTCFOCI_REQUIRE", "synapse")
    with pytest.raises(pytest.fail.Exception, match="required"):
        skip_or_fail("synapse", "no PyPI")
