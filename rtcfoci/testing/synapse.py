"""A real Synapse for tests and the demo: on SQLite, on loopback, in a process of its own.

In: starting, killing, restarting and stopping it, users and rooms on it, two that federate.
Out: its environment (`synapse_env`) and configuration (`synapse_config`); the homeserver that
exists only in memory (`homeserver`).

::

    async with Synapse(scratch) as synapse:
        alice = await synapse.register("alice", "secret")
        room_id = await synapse.create_room(alice.access_token)
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from rtcfoci.core.model import JsonObject
from rtcfoci.errors import RtcfociError, UnreachableError
from rtcfoci.testing.accounts import Accounts, Credentials, credentials
from rtcfoci.testing.synapse_config import SynapseOptions, write_config
from rtcfoci.testing.synapse_env import (
    SYNAPSE_VERSION,
    ensure_environment,
    environment_python,
)

__all__ = [
    "SYNAPSE_VERSION",
    "Credentials",
    "Reply",
    "Synapse",
    "SynapseOptions",
    "ensure_environment",
    "environment_python",
    "federated_pair",
]

START_TIMEOUT_S = 60.0

# Runs in Synapse's own interpreter. Its standard input is a pipe whose other end only we hold: when we
# die, however we die, it reads end of file and ends itself.
_RUNNER = """
import os, signal, sys, threading
def watch():
    while os.read(0, 64): pass
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
from synapse.app.homeserver import main
main()
"""

_CERTIFICATE = """
import datetime as d, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name(
    [x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
now = d.datetime.now(d.timezone.utc)
names = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
    .public_key(key.public_key()).serial_number(x509.random_serial_number())
    .not_valid_before(now - d.timedelta(days=1)).not_valid_after(now + d.timedelta(days=30))
    .add_extension(names, False).add_extension(x509.BasicConstraints(True, None), True)
    .sign(key, hashes.SHA256()))
open(sys.argv[1], "wb").write(cert.public_bytes(s.Encoding.PEM))
open(sys.argv[2], "wb").write(key.private_bytes(
    s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()))
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: the status, and the body where it was a JSON object."""

    status: int
    body: JsonObject = field(repr=False)
    headers: dict[str, str] = field(repr=False, default_factory=dict)


class Synapse(Accounts):
    """One Synapse process with its data in `scratch`; an async context manager.

    It dies with this process, whatever ends it. Use it from any event loop: it holds none.

    :param scratch: a folder of its own; created when missing, kept afterwards.
    :param server_name: `localhost` by default; with `tls`, `localhost:PORT` of the TLS listener, so
        that other servers and token services find it by its name.
    :param tls: also listen with a self-made certificate, for federation and OpenID look-ups.
    :param port: of loopback, where something before it has to know it; by default one that is free.
    """

    def __init__(
        self,
        scratch: Path,
        options: SynapseOptions | None = None,
        *,
        server_name: str | None = None,
        tls: bool = False,
        port: int | None = None,
    ) -> None:
        self.scratch = scratch
        self.options: SynapseOptions = options or SynapseOptions()
        self.tls = tls
        self.tls_port: int | None = None
        self._fixed_name = server_name
        self._fixed_port = port
        self._port = 0
        self._shared_secret = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where clients reach it, without a trailing slash."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def server_name(self) -> str:
        """The part of its user ids after the colon."""
        if self._fixed_name is not None:
            return self._fixed_name
        return f"localhost:{self.tls_port}" if self.tls else "localhost"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    @property
    def log_path(self) -> Path:
        """Synapse's own log."""
        return self.scratch / "homeserver.log"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it answers; builds the environment on first use.

        :raises RtcfociError: with the tail of its log when it does not come up.
        """
        python = await asyncio.to_thread(ensure_environment)
        self.scratch.mkdir(parents=True, exist_ok=True)
        for last in (False, False, True):
            free_port, tls_port = _free_ports()
            self._port = self._fixed_port or free_port
            self.tls_port = tls_port if self.tls else None
            await asyncio.to_thread(self._prepare, python)
            try:
                await self._launch(python)
            except RtcfociError as error:
                # Between our look and Synapse's bind another process may take the port.
                if last or "already in use" not in error.why:
                    raise
            else:
                await asyncio.to_thread(_keep_template, self.scratch, python)
                return

    async def restart(self) -> None:
        """Start again after `kill` or `stop`: same data, same port, same name."""
        if self.pid is not None:
            await self.stop()
        await self._launch(await asyncio.to_thread(ensure_environment))

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would. Idempotent."""
        self._end(signal.SIGKILL, timeout_s=5.0)

    async def stop(self) -> None:
        """End it politely, after 5 s with SIGKILL. Idempotent."""
        await asyncio.to_thread(self._end, signal.SIGTERM, timeout_s=5.0)

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        query: dict[str, str] | None = None,
        body: object = None,
        timeout_s: float = 60.0,
    ) -> Reply:
        """Send one raw request; every HTTP status is an answer.

        :param path: escaped by the caller.
        :raises UnreachableError: when nothing answers.
        """
        url = self.base_url + path + (f"?{urlencode(query)}" if query else "")
        return await asyncio.to_thread(_exchange, method, url, token, body, timeout_s)

    async def register(self, user: str, password: str) -> Credentials:
        """Create a user through the shared secret, which no rate limit touches."""
        path = "/_synapse/admin/v1/register"
        nonce = (await self.checked("GET", path))["nonce"]
        message = f"{nonce}\0{user}\0{password}\0notadmin".encode()
        mac = hmac.new(self._shared_secret.encode(), message, hashlib.sha1).hexdigest()
        body = {
            "nonce": nonce,
            "username": user,
            "password": password,
            "admin": False,
            "mac": mac,
        }
        return credentials(await self.checked("POST", path, body=body))

    async def _ask(
        self, method: str, path: str, token: str | None, query: Mapping[str, str], body: object
    ) -> tuple[int, object]:
        reply = await self.request(method, path, token=token, query=dict(query), body=body)
        return reply.status, reply.body

    def _prepare(self, python: Path) -> None:
        database, template = self.scratch / "homeserver.db", _template(python)
        if template.exists() and not database.exists():
            shutil.copyfile(template, database)
        if self.tls:
            certificate, key = self.scratch / "tls.crt", self.scratch / "tls.key"
            command = [str(python), "-I", "-c", _CERTIFICATE, str(certificate), str(key)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        write_config(
            self.scratch,
            self.options,
            server_name=self.server_name,
            port=self._port,
            tls_port=self.tls_port,
            shared_secret=self._shared_secret,
        )

    async def _launch(self, python: Path) -> None:
        self._spawn(python)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self.pid is not None:
            try:
                if (await self.request("GET", "/health", timeout_s=1.0)).status == 200:
                    return
            except UnreachableError:
                await asyncio.sleep(0.05)
        ended = self.pid is None
        self.kill()
        raise RtcfociError(
            "Synapse did not come up",
            why=f"{'it ended' if ended else f'no answer within {START_TIMEOUT_S:g} s'}:\n"
            + "\n".join(self._log_tail()),
            do=f"see {self.log_path}",
        )

    def _spawn(self, python: Path) -> None:
        command = [str(python), "-I", "-c", _RUNNER, "-c", str(self.scratch / "homeserver.json")]
        with (self.scratch / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                command,
                cwd=self.scratch,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.kill)

    def _end(self, how: signal.Signals, *, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.kill)
        if process.poll() is None:
            # The group, not the process: it is the leader of its own session.
            os.killpg(process.pid, how)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _log_tail(self, lines: int = 15) -> list[str]:
        found: list[str] = []
        for path in (self.log_path, self.scratch / "console.log"):
            if path.is_file():
                found += path.read_text(errors="replace").splitlines()[-lines:]
        return found or ["it wrote no log"]


@asynccontextmanager
async def federated_pair(
    scratch: Path, options: SynapseOptions | None = None
) -> AsyncIterator[tuple[Synapse, Synapse]]:
    """Start two servers that federate with each other over TLS on loopback."""
    first = Synapse(scratch / "first", options, tls=True)
    second = Synapse(scratch / "second", options, tls=True)
    try:
        outcomes = await asyncio.gather(first.start(), second.start(), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        yield first, second
    finally:
        await asyncio.gather(first.stop(), second.stop())


def _exchange(method: str, url: str, token: str | None, body: object, timeout_s: float) -> Reply:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                status, raw, fields = answer.status, answer.read(), dict(answer.headers.items())
        except urllib.error.HTTPError as answer:
            with answer:
                status, raw, fields = answer.code, answer.read(), dict(answer.headers.items())
    except OSError as error:
        raise UnreachableError(
            "Synapse does not answer", why=str(error), do="look at its log in the scratch folder"
        ) from error
    try:
        decoded = json.loads(raw)
    except ValueError:
        decoded = {}
    return Reply(status, decoded if isinstance(decoded, dict) else {}, fields)


def _template(python: Path) -> Path:
    return python.parents[1] / "template.db"


def _keep_template(scratch: Path, python: Path) -> None:
    """Keep the first database made, still without users: later servers need not build its schema."""
    template = _template(python)
    if template.exists():
        return
    draft = template.with_name(f"{template.name}.{os.getpid()}")
    with (
        closing(sqlite3.connect(scratch / "homeserver.db")) as source,
        closing(sqlite3.connect(draft)) as target,
    ):
        source.backup(target)
    draft.replace(template)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]
