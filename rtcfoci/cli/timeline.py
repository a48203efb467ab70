"""`rtcfoci timeline`: a picture of who was in which slot on which focus when.

In: the file, whichever it is, and writing the picture in the form that its name asks for. Out: what is to be
seen (`rtcfoci.lab.timeline`), drawing it (`rtcfoci.lab.lanes`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rtcfoci.call.sessions import installed_dialects, reading_policies
from rtcfoci.cli.options import EXIT_OK, Parser, current
from rtcfoci.cli.session import read_text
from rtcfoci.errors import UsageError
from rtcfoci.lab import lanes
from rtcfoci.lab.roomfile import read_room_file
from rtcfoci.lab.saving import cannot_write
from rtcfoci.lab.timeline import of_room, of_trace
from rtcfoci.lab.tracefile import is_trace, read_trace
from rtcfoci.plugin.manager import PluginManager

__all__ = ["run"]

_FORMS = {".svg": lanes.svg, ".html": lanes.html, ".txt": lanes.text}


def run(arguments: list[str]) -> int:
    """Run the command."""
    plugins = current().manager or PluginManager.load()
    policies = {policy.name: policy for policy in reading_policies(plugins)}
    parser = Parser(
        prog="rtcfoci timeline", description="Draw who was in which slot on which focus when."
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="what `watch --save` or `join --trace` wrote; - reads standard input",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        metavar="OUT",
        help="the picture: a name that ends in .svg, .html or .txt",
    )
    parser.add_argument(
        "--policy",
        choices=tuple(policies),
        default="deployed",
        help="of a room file (default: deployed); a recording has its own",
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    draw = _FORMS.get(out.suffix.lower())
    if draw is None:
        raise UsageError(
            f"{out} is no form of picture",
            why="the name says which: .svg, .html or .txt",
            do="write -o timeline.svg",
        )
    text = read_text(options.file)
    if is_trace(text):
        picture = of_trace(read_trace(options.file, text, plugins), policies)
    else:
        file = read_room_file(text, 0)
        picture = of_room(file, installed_dialects(plugins), policies[options.policy])
    try:
        out.write_text(draw(picture), encoding="utf-8")
    except OSError as error:
        raise cannot_write(out, error) from error
    if current().json:
        sys.stdout.write(json.dumps({"picture": str(out)}) + "\n")
    return EXIT_OK
