"""Two participants in namespaces, and a TURN server: started, told things, watched.

In: processes and what they report. Out: the networks they are in (`namespaces`).
"""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import json
import os
import shutil
import sys
import time
from pathlib import Path

from rtcfoci.testing import skip_or_fail

_PROGRAM = Path(__file__).with_name("participant.py")
SECRET = "the-secret-of-both"
_PATIENCE_S = 45.0
"""How long to wait for what must come: the machine may be busy. How fast it comes is measured elsewhere."""


def credentials(*urls, ttl_s=3600, secret=SECRET, until_s=None):
    """Answer as a homeserver does at `/voip/turnServer` (TURN's REST credentials)."""
    username = f"{int(time.time() + ttl_s if until_s is None else until_s)}:@somebody:test"
    mac = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return {
        "uris": list(urls),
        "username": username,
        "password": base64.b64encode(mac).decode(),
        "ttl": ttl_s,
    }


class Participant:
    """One side of a pair: what it said, and the newest of its reports."""

    def __init__(self, process, name):
        self.process = process
        self.name = name
        self.other = None
        self.now = {"frames": 0, "connected": False, "rebuilt": 0, "path": "", "asked": 0}
        self.told = []
        self.ready = asyncio.Event()
        self.deaf = False
        self._reader = asyncio.create_task(self._read())

    def order(self, **line):
        self.process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _read(self):
        async for text in self.process.stdout:
            line = json.loads(text)
            if "signal" in line:
                self.other.order(signal=line["signal"])
            elif "frames" in line:
                self.now = line
            elif "ready" in line:
                self.ready.set()
            else:
                self.told.append((time.monotonic(), line))

    def conditions(self, code):
        return [line for _, line in self.told if line.get("condition") == code]

    async def until(self, holds, what, timeout_s=_PATIENCE_S):
        """Wait for something."""
        start_s = time.monotonic()
        while not holds():
            if time.monotonic() - start_s > timeout_s or self.process.returncode is not None:
                told = [line for _, line in self.told]
                raise AssertionError(
                    f"{self.name}: {what}: not within {timeout_s} s; {self.now}; {told}"
                )
            await asyncio.sleep(0.05)

    async def hears(self, frames=25):
        """Wait until so many more frames came."""
        before = self.now["frames"]
        await self.until(lambda: self.now["frames"] >= before + frames, "hears the other")

    async def close(self):
        if self.process.returncode is None:
            self.process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(8):
                    await self.process.wait()
        self._reader.cancel()


@contextlib.asynccontextmanager
async def pair(nets, ann_in, bob_in, *, ann=None, bob=None, turn=None, trusted=None, **both):
    """Two that are in one call; ann offers. Options are those of the mesh.

    :param turn: what their homeserver answers at `/voip/turnServer`; may be made when it is needed.
    :param trusted: a file with the certificates that both trust, in place of the machine's.
    """
    people = []
    environment = os.environ if trusted is None else {**os.environ, "SSL_CERT_FILE": str(trusted)}
    try:
        for name, other, space, own in (("ann", "bob", ann_in, ann), ("bob", "ann", bob_in, bob)):
            options = {"resend_s": 1.0, **both, **(own or {})}
            command = (sys.executable, "-W", "ignore", _PROGRAM, name, other, json.dumps(options))
            pipe = asyncio.subprocess.PIPE
            process = await nets.start(
                space, *command, stdin=pipe, stdout=pipe, limit=1 << 20, env=environment
            )
            people.append(Participant(process, name))  # both load at the same time
        first, second = people
        first.other, second.other = second, first
        for one in people:
            async with asyncio.timeout(_PATIENCE_S):
                await one.ready.wait()
            one.order(turn=turn() if callable(turn) else turn or {})
            one.order(meet=True)
        yield first, second
    finally:
        for one in people:
            await one.close()


def certificate(folder, address):
    """Make a certificate that only vouches for itself; give the files of it and of its key."""
    # Comes with the mesh; where that is not installed this module is imported all the same.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "turn.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .sign(key, hashes.SHA256())
    )
    files = folder / "turn.pem", folder / "turn.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


async def turnserver(nets, space, address, *options, secret=SECRET, secured=None):
    """Start coturn and wait until it listens.

    :param secured: the files of a certificate and of its key: TLS, at port 5349.
    """
    if shutil.which("turnserver") is None:
        skip_or_fail("coturn", "there is no turnserver")
    tls = ("--no-tls",) if secured is None else (f"--cert={secured[0]}", f"--pkey={secured[1]}")
    port = "3478" if secured is None else "5349"
    process = await nets.start(
        space, "turnserver", "-n", "--no-cli", *tls, "--no-dtls", "--log-file=stdout",
        "--simple-log", f"--listening-ip={address}", f"--relay-ip={address}", "--realm=test",
        "--use-auth-secret", f"--static-auth-secret={secret}",
        f"--userdb={nets.folder / 'turn.db'}", f"--pidfile={nets.folder / 'turn.pid'}", *options,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(100):
        if f":{port} " in nets.run(space, "ss", "-lntu"):
            return process
        await asyncio.sleep(0.1)
    raise AssertionError("coturn does not listen")
