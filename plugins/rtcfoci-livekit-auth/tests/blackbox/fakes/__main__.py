"""A homeserver and an SFU in a process of their own: `python -m fakes FOLDER` beside a load or a profile.

In: one line of JSON that says where they are and how a service is to be configured; the end comes with
that of standard input. Out: the service, and the load. Tokens come from `openid_token`, in any process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fakes.authority import Authority
from fakes.homeserver import Homeserver
from fakes.hosting import Host
from fakes.sfu import Sfu


def main() -> None:
    """Serve until nobody is left who could ask."""
    host, authority = Host(), Authority(Path(sys.argv[1]))
    homeserver, sfu = Homeserver(host, authority), Sfu(host)
    environment = {
        "LIVEKIT_URL": sfu.url,
        "LIVEKIT_KEY": sfu.key,
        "LIVEKIT_SECRET": sfu.secret,
        "LIVEKIT_FULL_ACCESS_HOMESERVERS": homeserver.name,
        "SSL_CERT_FILE": str(authority.ca_file),
    }
    described = {
        "environment": environment,
        "server_name": homeserver.name,
        "other_server_name": homeserver.other_name,
    }
    print(json.dumps(described), flush=True)
    sys.stdin.read()
    violations = homeserver.violations.take() + sfu.violations.take()
    counted = {
        "lookups": len(homeserver.lookups),
        "rooms": len(sfu.calls),
        "violations": violations[:20],
    }
    print(json.dumps(counted), flush=True)
    host.close()


if __name__ == "__main__":
    main()
