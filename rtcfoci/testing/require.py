"""Decide what a missing tool means for a test: a skip on a laptop, a failure where it was promised.

In: the rule of `RTCFOCI_REQUIRE` and the pytest outcome. Out: finding the tools.
"""

from __future__ import annotations

import os
from typing import NoReturn

__all__ = ["required", "skip_or_fail"]


def required(name: str) -> bool:
    """Say whether `RTCFOCI_REQUIRE` (a comma-separated list, or `all`) names this thing."""
    named = {part.strip() for part in os.environ.get("RTCFOCI_REQUIRE", "").split(",")}
    return name in named or "all" in named


def skip_or_fail(name: str, reason: str) -> NoReturn:
    """End the running test: fail when `name` is required here, otherwise skip with the reason.

    :param name: the missing thing, as `RTCFOCI_REQUIRE` spells it: `synapse`, `node`, `chromium`.
    """
    import pytest  # only a test may call this, so only a test pays for the import

    if required(name):
        pytest.fail(f"{name} is required (RTCFOCI_REQUIRE) and missing: {reason}", pytrace=False)
    pytest.skip(f"{name} is missing: {reason}")
