"""Element Call on loopback: its files served, a LiveKit server and a token service behind it."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import signal
import socket
import time
from pathlib import Path

from aiohttp import ClientSession, web

from tests.interop.tools import ELEMENT_CALL, Driver, chromium, livekit_server, npm_folder

KEY = "devkey"
PACKAGE = Path("node_modules/@element-hq/element-call-embedded/dist")


def free_ports(*kinds):
    """Find ports that are free now, held all at once so that they differ."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
        for sock in found:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in found]


@contextlib.asynccontextmanager
async def livekit(folder):
    """Run a LiveKit server on loopback; give its port and the secret of its only key."""
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    (port, rtc_tcp_port, rtc_udp_port), secret = free_ports(tcp, tcp, udp), secrets.token_hex(32)
    config = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "rtc": {
            "node_ip": "127.0.0.1",
            "enable_loopback_candidate": True,
            "use_external_ip": False,
            "udp_port": rtc_udp_port,
            "tcp_port": rtc_tcp_port,
            "interfaces": {"includes": ["lo"]},
            "stun_servers": ["127.0.0.1:9"],  # an empty list would mean public ones
        },
        "keys": {KEY: secret},
        "logging": {"level": "info"},
    }
    path = folder / "livekit.json"  # JSON is YAML
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    log = folder / "livekit.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(livekit_server()), "--config", str(path),
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        end_s = time.monotonic() + 30
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                tail = log.read_text(errors="replace")[-2000:]
                assert process.returncode is None, tail
                assert time.monotonic() < end_s, tail
                await asyncio.sleep(0.1)
        yield port, secret
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


def _base64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _token(secret, identity, room):
    """Make LiveKit's access token: a JWT with HS256."""
    now_s = int(time.time())
    grants = {"room": room, "roomJoin": True, "canPublish": True, "canSubscribe": True}
    claims = {"iss": KEY, "sub": identity, "nbf": now_s - 10, "exp": now_s + 3600, "video": grants}
    head = {"alg": "HS256", "typ": "JWT"}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    mac = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64(mac)}"


class Site:
    """One web server: Element Call's files, its configuration, and the token service under /jwt."""

    def __init__(self, synapse, dist, livekit_port, secret):
        self.synapse = synapse
        self.dist = dist
        self.livekit_port = livekit_port
        self.secret = secret
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_post("/jwt/sfu/get", self.grant)
        app.router.add_post("/jwt/get_token", self.grant)
        app.router.add_route("GET", "/{path:.*}", self.file)
        app.router.add_route("*", "/{path:.*}", self.refuse)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def file(self, request):
        """Serve the package: assets are relative to any page, every other path is the page."""
        path = request.match_info["path"]
        if path.endswith("config.json"):
            config = json.loads((self.dist / "config.json").read_text())
            server = {"base_url": self.synapse.base_url, "server_name": self.synapse.server_name}
            config["default_server_config"] = {"m.homeserver": server}
            return web.json_response(config)
        _, asset, name = path.rpartition("assets/")
        found = (self.dist / "assets" / name).resolve()
        if asset and found.is_relative_to(self.dist.resolve()) and found.is_file():
            return web.FileResponse(found)
        return web.FileResponse(self.dist / "index.html")

    async def refuse(self, request):
        # Anything but 404 would tell Element Call that this service can send its delayed leave.
        raise web.HTTPNotFound

    async def grant(self, request):
        """Give who proves a Matrix identity a LiveKit token, in both generations of the request."""
        body = await request.json()
        query = {"access_token": body["openid_token"]["access_token"]}
        url = f"{self.synapse.base_url}/_matrix/federation/v1/openid/userinfo"
        async with ClientSession() as http, http.get(url, params=query) as answer:
            if answer.status != 200:
                return web.json_response({"errcode": "M_UNAUTHORIZED"}, status=401)
            user_id = (await answer.json())["sub"]
        if "member" in body:
            member = body["member"]
            parts = [user_id, member["claimed_device_id"], member["id"]]
            compact = json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()
            identity = base64.b64encode(hashlib.sha256(compact).digest()).decode().rstrip("=")
            room_id = body["room_id"]
        else:
            identity, room_id = f"{user_id}:{body['device_id']}", body["room"]
        room = hashlib.sha256(room_id.encode()).hexdigest()
        jwt = _token(self.secret, identity, room)
        return web.json_response({"url": f"ws://127.0.0.1:{self.livekit_port}", "jwt": jwt})


@contextlib.asynccontextmanager
async def deployment(synapse, folder, packages=ELEMENT_CALL):
    """Serve Element Call with all that it needs beside the homeserver."""
    modules = npm_folder(packages)
    async with (
        livekit(folder) as (port, secret),
        Site(synapse, modules / PACKAGE, port, secret).serving() as site,
    ):
        yield site


@contextlib.asynccontextmanager
async def element_call(site, person, room_id, folder, mode, packages=ELEMENT_CALL):
    """Open one browser with one person in the room's call, in one of Element Call's RTC modes."""
    account = {
        "user_id": person.user_id,
        "device_id": person.device_id,
        "access_token": person.access_token,
        "passwordlessUser": False,
    }
    storage = {
        "matrix-auth-store": json.dumps(account),
        "matrix-setting-matrix-rtc-mode": json.dumps(mode),
        "matrix-setting-custom-livekit-url": json.dumps(f"{site.url}/jwt"),
    }
    log = folder / f"element-call-{person.device_id}.txt"
    modules = npm_folder(packages)
    async with Driver.started(log, "element_call.mjs", modules, chromium()) as driver:
        url = f"{site.url}/room/#?roomId={room_id}"
        await driver.ask("start", timeout_s=90, url=url, storage=storage)
        yield driver
