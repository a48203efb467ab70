"""`rtcfoci-livekit-auth openapi`: prints what programs may ask the service (OpenAPI 3.1).

In: the command. Out: the description itself, `openapi.yaml` beside this module.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files

__all__ = ["description", "main"]


def description() -> str:
    """Give the description, in YAML."""
    return (files("rtcfoci_livekit_auth") / "openapi.yaml").read_text("utf-8")


def main(argv: Sequence[str]) -> int:
    """Print it."""
    parser = argparse.ArgumentParser(
        prog="rtcfoci-livekit-auth openapi",
        description="Print a description of all endpoints of the service (OpenAPI 3.1, YAML).",
    )
    parser.parse_args(list(argv))
    sys.stdout.write(description())
    return 0
