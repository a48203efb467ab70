"""Makes the helpers of these tests importable wherever pytest is started."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "blackbox")]
# Last, so that the installed rtcfoci is found and not the checkout's: LiveKit's server is built there.
sys.path.append(str(HERE.parents[2]))
