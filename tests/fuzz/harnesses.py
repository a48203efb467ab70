"""Every parser of what others send: the core, a homeserver's answers, URLs, files, plugins.

In: all of them in one table. Out: what each reads and what must hold of it (`core`, `matrix`, `call`, `lab`,
`mesh`, `relay`, `livekit_auth`), and the parsers of plugins that are not installed.
"""

from __future__ import annotations

from importlib.util import find_spec

from tests.fuzz import call, core, lab, matrix  # noqa: F401
from tests.fuzz.harness import HARNESSES

__all__ = ["HARNESSES"]

if find_spec("rtcfoci_mesh"):
    from tests.fuzz import mesh  # noqa: F401
if find_spec("rtcfoci_relay"):
    from tests.fuzz import relay  # noqa: F401
if find_spec("rtcfoci_livekit_auth"):
    from tests.fuzz import livekit_auth  # noqa: F401
