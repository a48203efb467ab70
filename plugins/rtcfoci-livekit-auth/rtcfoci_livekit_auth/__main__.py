"""`python -m rtcfoci_livekit_auth`."""

import sys

from rtcfoci_livekit_auth.cli import main

if __name__ == "__main__":
    sys.exit(main())
