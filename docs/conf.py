"""Sphinx configuration: furo, MyST, and pages whose facts are generated from the code."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "rtcfoci"
author = "The rtcfoci maintainers"
project_copyright = author
version = release = version_of("rtcfoci")
extensions = ["myst_parser", "generated"]
exclude_patterns = ["_build", "changelog.d"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
html_theme = "furo"
html_title = f"rtcfoci {version}"
nitpicky = True
