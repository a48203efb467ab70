"""Requests of every shape at the authorisation service, made by schemathesis from its OpenAPI description.

    python bench/auth_fuzz.py [--requests 100000] [--seed 1]

The homeserver vouches for everybody and the SFU makes every room, so that requests go the whole way; half of
the operations are those behind the homeserver, asked with its token. Wrong is: an answer of 5xx, one that
the description does not know, one that takes over 5 s, memory that grows by half, and a token or delay id
of a request in the service's log, which is at its most talkative. Exits with 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from auth_service import ROOT, World, resident_mb
from startup import machine

DESCRIPTION = ROOT / "plugins/rtcfoci-livekit-auth/rtcfoci_livekit_auth/openapi.yaml"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EACH = 500
"""Examples of each operation in one run of schemathesis; each run has a seed of its own."""
SECRETS = (
    "a-secret-of-at-least-32-characters", "token-of-a-request", "delay-of-a-request",
    "token-of-the-service", "token-of-the-homeserver",
)  # fmt: skip
BEHIND = "^/_matrix"


def run(url: str, seed: int, each: int, *options: str) -> tuple[int, str]:
    """Run schemathesis once; give how many requests it made, and what was wrong."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", str(DESCRIPTION), "--url", url,
            "--phases", "fuzzing", "--max-examples", str(each), "--workers", "2", "--mode", "all",
            "--checks", CHECKS, "--request-timeout", "5", "--continue-on-failure", "--seed", str(seed),
            "--exclude-method", "OPTIONS", "--exclude-method", "GET", "--no-color", *options,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    made = re.search(r"([\d,]+) generated", done.stdout)
    if made is None:
        raise SystemExit(f"schemathesis did not run:\n{done.stdout[-3000:]}")
    wrong = re.sub(r"(?s).*?(?==+ (?:FAILURES|ERRORS) =)", "", done.stdout, count=1)
    if not done.returncode:
        wrong = ""
    return int(made[1].replace(",", "")), wrong


def main() -> int:
    """Ask, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(machine())
    made, wrong, start_s = 0, "", time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            command = [sys.executable, "-m", "rtcfoci_livekit_auth", "serve"]
            service = world.service(
                command, LIVEKIT_LOG_LEVEL="debug", LIVEKIT_AS_TOKEN=SECRETS[3],
                LIVEKIT_HS_TOKEN=SECRETS[4], LIVEKIT_HS_SERVER_NAME=world.name,
                RTCFOCI_AUTH_HOMESERVER_URL=f"https://{world.name}",
            )  # fmt: skip
            asked = (f"Authorization: Bearer {SECRETS[4]}", f"X-Matrix-User-Identifier: @alice:{world.name}",
                     "X-Matrix-Origin: example.org")  # fmt: skip
            halves = (
                ["--exclude-path-regex", BEHIND],
                ["--include-path-regex", BEHIND, *(part for one in asked for part in ("-H", one))],
            )
            each = max(10, min(EACH, arguments.requests // 8))
            world.load(service, 4, 5, body=world.body(
                openid_token={"access_token": SECRETS[1], "matrix_server_name": world.name},
                delay_id=SECRETS[2], delay_timeout=3_600_000,
            ))  # fmt: skip
            before_mb = resident_mb(service)
            while made < arguments.requests and not wrong:
                for options in halves:
                    more, fault = run(service.url, arguments.seed, each, *options)
                    made, wrong = made + more, wrong + fault
                arguments.seed += 1
                print(
                    f"{made:,} requests in {time.monotonic() - start_s:.0f} s, "
                    f"memory {resident_mb(service):.0f} MB (before: {before_mb:.0f})",
                    flush=True,
                )
            if not wrong and resident_mb(service) > 1.5 * before_mb:
                wrong = "memory grew by half"
            service.stop()
            log = service.output()
        finally:
            world.close()
    if leaked := [secret for secret in SECRETS if secret in log]:
        wrong += f"\nin the log: {', '.join(leaked)}"
    print(wrong or f"nothing was wrong in {made:,} requests")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
