"""`rtcfoci-livekit-auth registration`: prints the file that makes a homeserver pass requests on to us.

In: the options, the file's text. Out: reading it back, which `settings` does.

The keys are those that Synapse 1.163.2 reads (MSC4512, MSC4502); it stops at an unknown scope and passes over
a key that is spelt in another way, so no part of the file is left to memory.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence

__all__ = ["PROXY_PREFIX", "SCOPES", "main", "registration"]

PROXY_PREFIX = "rtc/livekit"
SCOPES = ("urn:matrix:client:io.element.msc4502:rooms:is_joined",)


def registration(
    *,
    proxy_url: str,
    as_token: str,
    hs_token: str,
    service_id: str = "rtcfoci-livekit-auth",
    localpart: str = "rtcfoci-livekit-auth",
) -> str:
    """Give the registration file of an application service that is passed requests, and is sent no events.

    :param proxy_url: where the homeserver reaches us.
    """
    import yaml

    content = {
        "id": service_id,
        # No events are wanted, so there is nowhere to send them.
        "url": None,
        "as_token": as_token,
        "hs_token": hs_token,
        "sender_localpart": localpart,
        # Delayed events are restarted as the user who scheduled them, so our limit is none.
        "rate_limited": False,
        "namespaces": {
            # To act for every user is to be allowed to: the delayed events are theirs.
            "users": [{"regex": "@.*", "exclusive": False}],
            "aliases": [],
            "rooms": [],
        },
        "io.element.msc4512.proxy_prefix": PROXY_PREFIX,
        "io.element.msc4512.proxy_url": proxy_url,
        "io.element.msc4502.scopes": list(SCOPES),
    }
    return str(yaml.safe_dump(content, sort_keys=False))


def main(argv: Sequence[str]) -> int:
    """Print a registration with fresh tokens."""
    parser = argparse.ArgumentParser(
        prog="rtcfoci-livekit-auth registration",
        description="Print the registration file of the service as the homeserver's application service. "
        "Keep it secret; name it in Synapse's app_service_config_files and in "
        "LIVEKIT_AS_REGISTRATION_FILE.",
    )
    parser.add_argument(
        "--proxy-url",
        default="http://127.0.0.1:8080",
        help="where the homeserver reaches the service (default: %(default)s)",
    )
    parser.add_argument(
        "--id", default="rtcfoci-livekit-auth", help="a name that no other service has"
    )
    given = parser.parse_args(list(argv))
    sys.stdout.write(
        registration(
            proxy_url=given.proxy_url.rstrip("/"),
            as_token=secrets.token_urlsafe(32),
            hs_token=secrets.token_urlsafe(32),
            service_id=given.id,
            localpart=given.id,
        )
    )
    return 0
