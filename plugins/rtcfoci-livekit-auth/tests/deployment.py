"""A whole deployment on loopback, from the files that `init` writes, unedited.

Synapse, livekit-server, the service, and nginx before them, all real. Synapse is called by nginx's address,
so that others find it by its name. In: starting and ending them, and breaking one thing. Out: what `doctor`
makes of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from fakes.authority import Authority
from rtcfoci_livekit_auth.doctor.command import main as doctor
from rtcfoci_livekit_auth.setup.command import main as init

from rtcfoci.testing import Synapse, SynapseOptions, skip_or_fail
from tests.interop.tools import livekit_server

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/rtc-site.conf;
}}
"""


def free_ports(*kinds: int) -> list[int]:
    """Find ports that are free now, held all at once so that they differ."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
        for sock in found:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in found]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Deployment:
    """The programs, one folder, one account."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        if shutil.which("nginx") is None:
            skip_or_fail("nginx", "nginx is not on PATH; Debian's package has this name")
        self.livekit_server = livekit_server()
        self.folder = folder
        self.files = folder / "files"
        self.command = command
        self.ports = dict(
            zip(
                ("site", "synapse", "service", "livekit", "tcp", "udp"),
                free_ports(TCP, TCP, TCP, TCP, TCP, UDP),
                strict=True,
            )
        )
        authority = Authority(folder)
        authority.server("localhost", "127.0.0.1")
        self.ca_file = authority.ca_file
        self.server_name = f"localhost:{self.ports['site']}"
        self.password_file = folder / "password"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def write(self, *more: str) -> None:
        """Let `init` write everything.

        :param more: options beside those that put everything on loopback.
        """
        pem = str(self.folder / "server-1.pem")
        options = {
            "out": self.files,
            "server-name": self.server_name,
            "rtc-host": self.server_name,
            "certificate": pem,
            "certificate-key": pem,
            "node-ip": "127.0.0.1",
            "synapse": f"http://127.0.0.1:{self.ports['synapse']}",
            "service-bind": f"127.0.0.1:{self.ports['service']}",
            "livekit-port": self.ports["livekit"],
            "rtc-tcp-port": self.ports["tcp"],
            "rtc-udp-port": self.ports["udp"],
            "ca-file": self.ca_file,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        assert init([*arguments, *more], io.StringIO()) == 0

    @property
    def synapse_options(self) -> SynapseOptions:
        """What the fragment for Synapse says, over the configuration of tests."""
        fragment = yaml.safe_load((self.files / "synapse-rtc.yaml").read_text())
        return SynapseOptions(
            delayed_events=False, sticky_events=False, rtc_transports=None, extra=fragment
        )

    def start(self) -> None:
        """Start everything but Synapse."""
        for name in ("livekit", "service", "site"):
            self.run(name)

    def run(self, name: str) -> None:
        """Start one program, as its file says, and wait until it listens."""
        if name == "livekit":
            command = [str(self.livekit_server), "--config", str(self.files / "livekit.yaml")]
        elif name == "service":
            command = self.command
        else:
            shutil.copy(self.files / "rtc-site.conf", self.folder)
            config = self.folder / "nginx.conf"
            config.write_text(NGINX.format(folder=self.folder))
            command = ["nginx", "-c", str(config), "-p", str(self.folder)]
        environment = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(self.folder / "state")}
        if name == "service":
            (self.folder / "state").mkdir(exist_ok=True)
            lines = (self.files / "livekit-auth.env").read_text().splitlines()
            environment |= dict(line.split("=", 1) for line in lines)
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            self._running[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end_s = time.monotonic() + 20
        while not listens(self.ports[name]):
            told = log.read_text(errors="replace")[-2000:]
            assert self._running[name].poll() is None, f"{name} ended:\n{told}"
            assert time.monotonic() < end_s, f"{name} does not listen:\n{told}"
            time.sleep(0.05)

    def end(self, name: str) -> None:
        """End one program."""
        process = self._running.pop(name, None)
        if process is not None:
            # nginx killed outright would leave its worker behind.
            process.terminate() if name == "site" else process.kill()
            process.wait(10)

    def close(self) -> None:
        for name in list(self._running):
            self.end(name)

    @contextlib.contextmanager
    def broken(self, *changes: tuple[str, str, Callable[[str], str]]) -> Iterator[None]:
        """Run programs with changed files for a while."""
        good = {file: (self.files / file).read_text() for _, file, _ in changes}
        programs = list(dict.fromkeys(program for program, _, _ in changes))
        try:
            for _, file, change in changes:
                path = self.files / file
                text = path.read_text()
                changed = change(text)
                assert changed != text, "nothing was broken"
                path.write_text(changed)
            self._again(programs)
            yield
        finally:
            for file, text in good.items():
                (self.files / file).write_text(text)
            self._again(programs)

    def _again(self, programs: list[str]) -> None:
        for program in programs:
            self.end(program)
        for program in programs:
            self.run(program)

    @contextlib.contextmanager
    def without(self, program: str) -> Iterator[None]:
        """Do without a program for a while."""
        self.end(program)
        try:
            yield
        finally:
            self.run(program)

    def examine(self, user_id: str, *more: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Ask `doctor`; give its exit status and its verdicts by hop."""
        out = io.StringIO()
        options = ["--user", user_id, "--password-file", str(self.password_file)]
        options += ["--ca-file", str(self.ca_file), "--json", *more]
        status = doctor([self.server_name, *options], out)
        return status, {hop["hop"]: hop for hop in json.loads(out.getvalue())["hops"]}


def synapse_of(deployment: Deployment) -> Synapse:
    """Give the homeserver of a deployment, not started."""
    return Synapse(
        deployment.folder / "synapse",
        deployment.synapse_options,
        server_name=deployment.server_name,
        port=deployment.ports["synapse"],
    )
