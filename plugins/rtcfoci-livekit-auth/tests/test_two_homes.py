"""Two homes that federate, each a Synapse, a service behind it, and a LiveKit server; all real."""

import asyncio
import contextlib
import json
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import aiohttp
import jwt
import pytest
import yaml
from fakes import Service
from fakes.service import free_port
from livekit.protocol.rtc import LeaveRequest, SignalRequest
from rtcfoci_livekit_auth.appservice.registration import registration
from rtcfoci_livekit_auth.doctor.sfu import joined
from rtcfoci_livekit_auth.doctor.verdicts import Case
from rtcfoci_livekit_auth.doctor.web import Web

from rtcfoci.testing import Synapse, SynapseOptions
from tests.interop.tools import livekit_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

EXPERIMENTAL = {
    "msc4140_max_delayed_events_per_user": 100,
    "msc4354_enabled": True,
    "msc4143_enabled": True,
    "msc4502_enabled": True,
    "msc4512_enabled": True,
}
CLIENTS = ["/_matrix/client/v1", "/_matrix/client/unstable/io.element.msc4195"]
SLOT = "m.call#ROOM"


class Home:
    """One home: who is registered here publishes on the SFU here."""

    def __init__(self, folder: Path, *, interval_s: int):
        self.folder = folder
        self.interval_s = interval_s
        folder.mkdir()
        self.sfu_port, self.key, self.secret = free_port(), "key", secrets.token_hex(32)
        self.sfu_url = f"ws://127.0.0.1:{self.sfu_port}"
        as_token, hs_token = "as-" + secrets.token_hex(16), "hs-" + secrets.token_hex(16)
        self.service = Service({}, folder)
        file = folder / "registration.yaml"
        file.write_text(
            registration(proxy_url=self.service.url, as_token=as_token, hs_token=hs_token)
        )
        extra = {"experimental_features": EXPERIMENTAL, "app_service_config_files": [str(file)]}
        self.synapse = Synapse(folder / "synapse", SynapseOptions(extra=extra), tls=True)
        self.registration = file
        self.sfu = None

    async def start(self):
        self._start_sfu()
        await self.synapse.start()
        self.service.env |= {
            "LIVEKIT_URL": self.sfu_url,
            "LIVEKIT_KEY": self.key,
            "LIVEKIT_SECRET": self.secret,
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": self.synapse.server_name,
            "LIVEKIT_AS_REGISTRATION_FILE": str(self.registration),
            "LIVEKIT_HS_SERVER_NAME": self.synapse.server_name,
            "LIVEKIT_MEMBERSHIP_CHECK_INTERVAL_SECONDS": str(self.interval_s),
            "LIVEKIT_LOG_LEVEL": "debug",
            "RTCFOCI_AUTH_HOMESERVER_URL": self.synapse.base_url,
            "RTCFOCI_AUTH_POLICY": "msc4195",
        }
        await asyncio.to_thread(self.service.start)

    def _start_sfu(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            udp_port = probe.getsockname()[1]
        config = {
            "port": self.sfu_port,
            "bind_addresses": ["127.0.0.1"],
            "keys": {self.key: self.secret},
            "rtc": {
                "udp_port": udp_port,
                "tcp_port": 0,
                "use_external_ip": False,
                "node_ip": "127.0.0.1",
                "enable_loopback_candidate": True,
                "interfaces": {"includes": ["lo"]},
                "stun_servers": ["127.0.0.1:3478"],
            },
            "room": {"auto_create": False},
            "webhook": {"api_key": self.key, "urls": [f"{self.service.url}/sfu_webhook"]},
            "logging": {"level": "warn"},
        }
        file = self.folder / "livekit.yaml"
        file.write_text(yaml.safe_dump(config))
        with (self.folder / "livekit.log").open("wb") as log:
            self.sfu = subprocess.Popen(
                [str(livekit_server()), "--config", str(file)], stdout=log, stderr=log
            )

    async def stop(self):
        self.service.kill()
        if self.sfu is not None:
            self.sfu.kill()
            self.sfu.wait()
        await self.synapse.stop()

    async def get_token(self, user, room_id, *, client=CLIENTS[0], **more):
        body = {"url": self.sfu_url, "room_id": room_id, "slot_id": SLOT, "member_id": "m1", **more}
        body = {name: value for name, value in body.items() if value is not None}
        reply = await self.synapse.request(
            "POST", f"{client}/rtc/livekit/get_token", token=user.access_token, body=body
        )
        return reply.status, reply.body

    def claims(self, body):
        return jwt.decode(body["jwt"], self.secret, algorithms=["HS256"])

    def admits(self, token):
        """Ask the SFU itself; it knows the room only if somebody created it."""
        url = f"http://127.0.0.1:{self.sfu_port}/rtc/validate?access_token={token}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            with error:
                return False

    @contextlib.asynccontextmanager
    async def signalling(self, token):
        """Be a participant that has no media yet."""
        url = f"{self.sfu_url}/rtc?protocol=9&access_token={token}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
            assert (await connection.receive(5)).type is aiohttp.WSMsgType.BINARY
            yield connection


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("homes")
    # In the second, who left is found when they connect, or never.
    made = [Home(folder / "one", interval_s=1), Home(folder / "two", interval_s=0)]

    async def each(what):
        await asyncio.gather(*(what(home) for home in made))

    try:
        asyncio.run(each(Home.start))
        made[0].alice, made[0].eve = (
            asyncio.run(made[0].synapse.register(name, "secret")) for name in ("alice", "eve")
        )
        made[1].bob, made[1].carol = (
            asyncio.run(made[1].synapse.register(name, "secret")) for name in ("bob", "carol")
        )
        yield made
    finally:
        asyncio.run(each(Home.stop))


@pytest.fixture
async def room_id(homes):
    """A room of both homes' users."""
    one, two = homes
    room_id = await one.synapse.create_room(one.alice.access_token)
    await two.synapse.join_room(two.bob.access_token, room_id, via=one.synapse.server_name)
    return room_id


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "member", [{}, {"member_id": None, "member": {"id": "m1", "claimed_device_id": "D"}}]
)
async def test_a_member_publishes_at_home(homes, room_id, client, member):
    home = homes[0]
    status, body = await home.get_token(home.alice, room_id, client=client, **member)
    assert status == 200
    assert home.claims(body)["video"]["canPublish"] is True
    assert home.admits(body["jwt"])


async def test_a_member_subscribes_at_the_others_home(homes, room_id):
    one, two = homes
    name = one.synapse.server_name
    status, body = await two.get_token(two.bob, room_id, server_name=name, url=one.sfu_url)
    assert status == 200
    video = one.claims(body)["video"]
    assert (video["canPublish"], video["canSubscribe"]) == (False, True)
    assert one.admits(body["jwt"])
    _, at_home = await one.get_token(one.alice, room_id)
    assert one.claims(at_home)["video"]["room"] == video["room"]


async def test_what_the_others_home_refuses(homes, room_id):
    one, two = homes
    name = one.synapse.server_name
    status, body = await two.get_token(two.bob, room_id, server_name=name, url="wss://elsewhere")
    assert (status, body["errcode"]) == (400, "M_INVALID_PARAM")


async def test_who_is_not_joined_gets_no_token(homes, room_id):
    one, two = homes
    for room in (room_id, "!nowhere:example.org", "nonsense"):
        status, body = await one.get_token(one.eve, room)
        assert (status, body["errcode"]) == (403, "M_FORBIDDEN")
    status, body = await two.get_token(
        two.bob, "!nowhere:example.org", server_name=one.synapse.server_name, url=one.sfu_url
    )
    assert (status, body["errcode"]) == (403, "M_FORBIDDEN")


async def test_a_leave_is_restarted_and_sent_for_its_owner(homes, room_id):
    home = homes[0]
    state = f"/_matrix/client/v3/rooms/{quote(room_id)}/state/org.matrix.msc3401.call.member/_key"
    events = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
    token, query = home.alice.access_token, {"org.matrix.msc4140.delay": "60000"}
    scheduled = await home.synapse.checked("PUT", state, token=token, query=query, body={})
    delay_id = scheduled["delay_id"]

    async def since():
        """Tell from when the homeserver counts the delay; None when it has sent the event."""
        answer = await home.synapse.checked("GET", events, token=token)
        times = [e["running_since"] for e in answer["delayed_events"] if e["delay_id"] == delay_id]
        return times[0] if times else None

    async def delegate(user, **more):
        body = {"url": home.sfu_url, "room_id": room_id, "slot_id": SLOT, "member_id": "m1"}
        path = f"{CLIENTS[0]}/rtc/livekit/delegate_delayed_leave"
        body |= {"delay_id": delay_id, **more}
        return await home.synapse.request("POST", path, token=user.access_token, body=body)

    other = await home.synapse.create_room(token)
    for wrong in ({"delay_id": "unknown"}, {"room_id": other}):
        refused = await delegate(home.alice, **wrong)
        assert (refused.status, refused.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert (await delegate(home.eve)).status == 403

    _, granted = await home.get_token(home.alice, room_id)
    async with home.signalling(granted["jwt"]) as connection:
        before = await since()
        assert (await delegate(home.alice)).status == 200
        await until(since, lambda now: now is not None and now > before)
        await connection.send_bytes(SignalRequest(leave=LeaveRequest()).SerializeToString())
        await until(since, lambda now: now is None)
    # Synapse forgets the delayed event before it has sent what it stands for.
    await until(lambda: home.synapse.request("GET", state, token=token), lambda r: r.status == 200)


async def until(ask, is_so, within_s=30):
    end_s = time.monotonic() + within_s
    while not is_so(answer := await ask()):
        assert time.monotonic() < end_s, answer
        await asyncio.sleep(0.1)


async def test_who_leaves_the_room_leaves_the_call(homes, room_id):
    one, two = homes
    _, alices = await one.get_token(one.alice, room_id)
    _, bobs = await two.get_token(
        two.bob, room_id, server_name=one.synapse.server_name, url=one.sfu_url
    )
    async with one.signalling(alices["jwt"]) as alice, one.signalling(bobs["jwt"]) as bob:
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/leave"
        await two.synapse.checked("POST", path, token=two.bob.access_token, body={})
        ended = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)
        while (await bob.receive(20)).type not in ended:
            pass
        assert not alice.closed
        await alice.ping()
    assert json.dumps(bobs["jwt"]) not in one.service.output()


async def test_who_left_the_room_does_not_get_into_the_call(homes, room_id):
    from rtcfoci_livekit_auth.doctor.ice import Link

    one, home = homes
    await home.synapse.join_room(home.carol.access_token, room_id, via=one.synapse.server_name)
    _, bobs = await home.get_token(home.bob, room_id)
    _, carols = await home.get_token(home.carol, room_id, member_id="m2")
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/leave"
    await home.synapse.checked("POST", path, token=home.bob.access_token, body={})

    async def is_sent_away(granted, within_s):
        """Connect, media and all, and wait until LiveKit ends it."""
        case = Case(web=web, server_name="", sfu_url=home.sfu_url, jwt=granted["jwt"])
        async with joined(case) as participant:
            link = Link(participant)
            try:
                assert await link.up(20)
                async with asyncio.timeout(within_s):
                    async for message in participant.messages():
                        if message.HasField("leave"):
                            return True
                return True
            except TimeoutError:
                return False
            finally:
                await link.close()

    async with Web() as web:
        assert await is_sent_away(bobs, 20)
        assert not await is_sent_away(carols, 1.5)
