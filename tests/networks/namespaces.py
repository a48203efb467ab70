"""Networks of their own: Linux namespaces, cables between them, routers, NAT, and what goes wrong.

In: making them, programs inside them, taking everything away. Out: participants (`stage`), TURN (`turn`).
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from rtcfoci.testing import skip_or_fail

_numbers = itertools.count(1)
HOST = "rtcfoci-host"
"""The network of the machine itself, once `add_host` gave it a name."""


def missing():
    """What this machine lacks for namespaces; empty when they can be made."""
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    name = f"rtcfoci-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no namespace could be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


def require_namespaces():
    """End the test where there can be none."""
    reason = missing()
    if reason:
        skip_or_fail("namespaces", reason)


class Networks:
    """The namespaces of one case; names are short, and nobody else's."""

    def __init__(self):
        self._prefix = f"rf{os.getpid() % 100000}x{next(_numbers)}"
        self._cables = itertools.count(1)
        self._made = []
        self._processes = []
        self._host = False
        self._folder = tempfile.TemporaryDirectory(prefix="rtcfoci-networks-")
        self.folder = Path(self._folder.name)

    def _real(self, space):
        if space == HOST:
            return space
        return f"{self._prefix}-{space}"

    def run(self, space, *command, text=None):
        """Run a command inside and give what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._real(space), *map(str, command)],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} in {space}: {done.stderr}"
        return done.stdout

    def add(self, *spaces):
        for space in spaces:
            subprocess.run(["ip", "netns", "add", self._real(space)], check=True)
            self._made.append(space)
            self.run(space, "ip", "link", "set", "lo", "up")

    def add_host(self):
        """Give the machine's own network a name, so that a cable may lead there."""
        subprocess.run(["ip", "netns", "attach", HOST, str(os.getpid())], check=True)
        self._host = True

    def cable(self, a, a_address, b, b_address, *more, label=""):
        """Join two by a cable; the ends are called `to-OTHERLABEL`. More pairs of addresses follow."""
        number = next(self._cables)
        ends = [f"{self._prefix}{side}{number}"[-15:] for side in "ab"]
        subprocess.run(
            ["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True
        )
        for end, space, other in ((ends[0], a, b), (ends[1], b, a)):
            subprocess.run(["ip", "link", "set", end, "netns", self._real(space)], check=True)
            self.run(space, "ip", "link", "set", end, "name", f"to-{other}{label}")
            self.run(space, "ip", "link", "set", f"to-{other}{label}", "up")
        for first, second in ((a_address, b_address), *zip(more[::2], more[1::2], strict=True)):
            self.address(a, f"to-{b}{label}", first)
            self.address(b, f"to-{a}{label}", second)

    def address(self, space, device, address, verb="add"):
        options = ("nodad",) if ":" in address and verb == "add" else ()
        self.run(space, "ip", "address", verb, address, "dev", device, *options)

    def route(self, space, via, to="default"):
        family = "-6" if ":" in via else "-4"
        self.run(space, "ip", family, "route", "add", to, "via", via)

    def forward(self, space):
        self.run(space, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def nat(self, space, outside, *, symmetric):
        """Hide what is inside behind the address of one end, and let nothing in unasked.

        A symmetric NAT uses another port for every destination.
        """
        how = "masquerade fully-random" if symmetric else "masquerade persistent"
        self.rule(space, "nat", "postrouting", f'oifname "{outside}" {how}', kind="nat")
        unasked = f'iifname "{outside}" ct state != {{ established, related }} drop'
        self.rule(space, "guard", "forward", unasked)

    def rule(self, space, table, hook, rule, kind="filter"):
        """Let one nftables rule hold at a hook; a table holds any number."""
        priority = 100 if kind == "nat" else -10
        text = f"add table inet {table}\nadd chain inet {table} {hook} "
        text += f"{{ type {kind} hook {hook} priority {priority}; }}\n"
        self.run(space, "nft", "-f", "-", text=f"{text}add rule inet {table} {hook} {rule}\n")

    def cut(self, space, *, direction="both", match=""):
        """Drop what comes in, what goes out, or both, until `mend`."""
        hooks = {"in": ["input"], "out": ["output"], "both": ["input", "output"]}[direction]
        for hook in hooks:
            self.rule(space, "cut", hook, f"{match} drop")

    def mend(self, space):
        self.run(space, "nft", "delete", "table", "inet", "cut")

    async def start(self, space, *command, **options):
        """Start a program inside; it ends with the networks."""
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self._real(space), *map(str, command), **options
        )
        self._processes.append(process)
        return process

    async def close(self):
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
        self._remove()

    def _remove(self):
        for space in self._made:
            subprocess.run(["ip", "netns", "del", self._real(space)], check=False)
        if self._host:
            subprocess.run(["ip", "netns", "del", HOST], check=False)
        self._folder.cleanup()


@contextlib.asynccontextmanager
async def networks():
    made = Networks()
    try:
        yield made
    finally:
        await made.close()
