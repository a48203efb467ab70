"""Behind the homeserver: what it passes on, with a strict fake of it that knows its rooms."""

import asyncio
import json
from contextlib import asynccontextmanager

import jwt
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from asking import GET_TOKEN, Member, hashed
from fakes import Authority, Host, Sfu
from knowing import AS_TOKEN, HS_TOKEN, KnowingHomeserver
from rtcfoci_livekit_auth.app import build_app
from rtcfoci_livekit_auth.appservice import registration
from rtcfoci_livekit_auth.settings import Settings

CLIENT = "/_matrix/client/v1/rtc/livekit/"
UNSTABLE = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/"
FEDERATION = "/_matrix/federation/v1/rtc/livekit/"
ROOM = "!room:example.org"


class Surroundings:
    def __init__(self, folder):
        self.host = Host()
        self.authority = Authority(folder)
        self.homeserver = KnowingHomeserver(self.host, self.authority)
        self.sfu = Sfu(self.host)
        self.name = self.homeserver.name
        self.alice = f"@alice:{self.name}"
        self.homeserver.joined.add((self.alice, ROOM))
        self.homeserver.joined.add(("@bob:elsewhere.org", ROOM))

    @asynccontextmanager
    async def service(self, **more):
        environment = {
            "LIVEKIT_URL": self.sfu.url,
            "LIVEKIT_KEY": self.sfu.key,
            "LIVEKIT_SECRET": self.sfu.secret,
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": "nobody.org",
            "LIVEKIT_AS_TOKEN": AS_TOKEN,
            "LIVEKIT_HS_TOKEN": HS_TOKEN,
            "LIVEKIT_HS_SERVER_NAME": self.name,
            "RTCFOCI_AUTH_HOMESERVER_URL": self.homeserver.plain_url,
            "RTCFOCI_AUTH_STATE_FILE": "none",
            "RTCFOCI_AUTH_CA_FILE": str(self.authority.ca_file),
            "RTCFOCI_AUTH_POLICY": "msc4195",
            "RTCFOCI_AUTH_SALTED_ALIAS": "false",
            **more,
        }
        async with TestClient(TestServer(build_app(Settings.read(environment)))) as client:
            yield client

    def body(self, **more):
        body = {"url": self.sfu.url, "room_id": ROOM, "slot_id": "m.call#ROOM", "member_id": "m1"}
        return {k: v for k, v in {**body, **more}.items() if v is not None}

    async def ask(self, client, path, body, *, user=None, origin=None, token=HS_TOKEN):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if origin is None:
            headers["X-Matrix-User-Identifier"] = self.alice if user is None else user
        else:
            headers["X-Matrix-Origin"] = origin
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await client.post(path, data=data, headers=headers)
        document = await answer.json()
        if answer.status == 200:
            return 200, document
        assert set(document) <= {"errcode", "error", "retry_after_ms"}
        return answer.status, document["errcode"]

    def claims(self, document):
        assert set(document) == {"jwt"}
        return jwt.decode(document["jwt"], self.sfu.secret, algorithms=["HS256"])


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    made = Surroundings(tmp_path_factory.mktemp("appservice"))
    yield made
    made.host.close()


@pytest.fixture(autouse=True)
def _nobody_objects(around):
    yield
    around.homeserver.down = False
    around.homeserver.relayed = {"status": 200, "content": {"jwt": "their-token"}}
    around.homeserver.elsewhere.clear()
    assert around.homeserver.violations.take() == []
    assert around.sfu.violations.take() == []


@pytest.mark.parametrize("prefix", [CLIENT, UNSTABLE])
async def test_a_member_gets_a_token_and_a_room(around, prefix):
    async with around.service() as client:
        status, document = await around.ask(client, prefix + "get_token", around.body())
    assert status == 200
    claims = around.claims(document)
    alias = hashed(ROOM, "m.call#ROOM")
    assert claims["sub"] == hashed(around.alice, "m1")
    assert claims["exp"] - claims["nbf"] == 600
    assert claims["video"] == {
        "room": alias,
        "roomJoin": True,
        "roomCreate": False,
        "canPublish": True,
        "canSubscribe": True,
        "canUpdateOwnMetadata": False,
    }
    assert len(around.sfu.calls_in(alias, "CreateRoom")) >= 1


MEMBERS = [
    ({"member_id": "m1"}, None),
    ({"member_id": None, "member": {"id": "m1"}}, None),
    ({"member_id": None, "member": {"id": "m1", "claimed_device_id": "DEV"}}, "DEV"),
    ({"member": {"id": "m1", "claimed_user_id": "@x:y", "claimed_device_id": "DEV"}}, "DEV"),
]


@pytest.mark.parametrize(("member", "device"), MEMBERS)
@pytest.mark.parametrize("policy", ["go-0.5", "rust-0.7", "msc4195"])
async def test_both_forms_of_a_member_and_the_identity_of_each_policy(
    around, policy, member, device
):
    async with around.service(RTCFOCI_AUTH_POLICY=policy) as client:
        _, document = await around.ask(client, CLIENT + "get_token", around.body(**member))
    parts = (around.alice, "m1")
    if device and policy != "msc4195":
        parts = (around.alice, device, "m1")
    assert around.claims(document)["sub"] == hashed(*parts)


WRONG = [
    (b"", 400, "M_NOT_JSON"),
    (b"[]", 400, "M_NOT_JSON"),
    (b"{", 400, "M_NOT_JSON"),
    (b"[" * 100_000, 400, "M_NOT_JSON"),
    ({"url": None}, 400, "M_BAD_JSON"),
    ({"url": 5}, 400, "M_BAD_JSON"),
    ({"room_id": ""}, 400, "M_BAD_JSON"),
    ({"room_id": "!\ud800:x"}, 400, "M_BAD_JSON"),
    ({"slot_id": None}, 400, "M_BAD_JSON"),
    ({"member_id": None}, 400, "M_BAD_JSON"),
    ({"member_id": None, "member": "m1"}, 400, "M_BAD_JSON"),
    ({"member_id": None, "member": {}}, 400, "M_BAD_JSON"),
    ({"member": {"id": "m2"}}, 400, "M_BAD_JSON"),
    ({"url": "wss://elsewhere.example.org"}, 400, "M_INVALID_PARAM"),
    ({"room_id": "!other:example.org"}, 403, "M_FORBIDDEN"),
]


@pytest.mark.parametrize(("wrong", "status", "errcode"), WRONG)
async def test_a_wrong_request_is_told_so(around, wrong, status, errcode):
    async with around.service() as client:
        for path in ("get_token", "delegate_delayed_leave"):
            body = wrong if isinstance(wrong, bytes) else around.body(delay_id="d", **wrong)
            assert await around.ask(client, CLIENT + path, body) == (status, errcode)


async def test_the_homeserver_proves_itself_and_says_who_asks(around):
    async with around.service() as client:
        for path, origin in ((CLIENT, None), (FEDERATION, "elsewhere.org")):
            path, body = path + "get_token", around.body(user_id="@bob:elsewhere.org")
            asked = {"origin": origin}
            for token, code in ((None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
                assert await around.ask(client, path, body, token=token, **asked) == (401, code)
            empty = {"user": ""} if origin is None else {"origin": ""}
            assert await around.ask(client, path, body, **empty) == (401, "M_UNAUTHORIZED")
        for user in ("alice", "@alice", "@:", f"@{'a' * 255}:x", "@a:b c"):
            answer = await around.ask(client, CLIENT + "get_token", around.body(), user=user)
            assert answer == (400, "M_INVALID_PARAM")
        headers = {"Authorization": f"Bearer {HS_TOKEN}"}
        assert (await client.get(CLIENT + "get_token", headers=headers)).status == 405
        assert (await client.post("/_matrix/app/v1/ping", headers=headers)).status == 200
        assert (await client.post("/_matrix/app/v1/ping")).status == 401


async def test_urls_of_the_sfu_are_compared_after_normalising(around):
    async with around.service() as client:
        url = around.sfu.url.replace("ws:", "WS:") + "/"
        assert (await around.ask(client, CLIENT + "get_token", around.body(url=url)))[0] == 200


async def test_who_cannot_be_checked_gets_nothing(around):
    async with around.service() as client:
        around.homeserver.down = True
        for path in ("get_token", "delegate_delayed_leave"):
            body = around.body(delay_id="d")
            assert await around.ask(client, CLIENT + path, body) == (502, "M_UNKNOWN")


async def test_a_user_of_another_server_subscribes(around):
    async with around.service() as client:
        body = around.body(user_id="@bob:elsewhere.org", slot_id="remote")
        path = FEDERATION + "get_token"
        status, document = await around.ask(client, path, body, origin="elsewhere.org")
        assert status == 200
        claims = around.claims(document)
        assert claims["sub"] == hashed("@bob:elsewhere.org", "m1")
        assert claims["video"]["canPublish"] is claims["video"]["roomCreate"] is False
        assert len(around.sfu.calls_in(hashed(ROOM, "remote"), "CreateRoom")) == 1
        for wrong, origin, answer in (
            ({}, "other.org", (403, "M_FORBIDDEN")),
            ({"user_id": "@eve:elsewhere.org"}, "elsewhere.org", (403, "M_FORBIDDEN")),
            ({"user_id": None}, "elsewhere.org", (400, "M_BAD_JSON")),
            ({"user_id": "bob"}, "elsewhere.org", (400, "M_INVALID_PARAM")),
            ({"url": "wss://x"}, "elsewhere.org", (400, "M_INVALID_PARAM")),
        ):
            given = around.body(**{"user_id": "@bob:elsewhere.org", **wrong})
            assert await around.ask(client, path, given, origin=origin) == answer


async def test_before_the_msc_rooms_were_for_local_members(around):
    async with around.service(RTCFOCI_AUTH_POLICY="rust-0.7") as client:
        body = around.body(user_id="@bob:elsewhere.org", slot_id="rust")
        status, _ = await around.ask(client, FEDERATION + "get_token", body, origin="elsewhere.org")
        assert status == 200
        assert around.sfu.calls_in(hashed(ROOM, "rust")) == []


async def test_an_sfu_of_another_server_is_asked_through_the_homeservers(around):
    for prefix, path in ((CLIENT, "v1"), (UNSTABLE, "unstable/io.element.msc4195")):
        async with around.service() as client:
            body = around.body(server_name="elsewhere.org", url="wss://their.sfu")
            assert await around.ask(client, prefix + "get_token", body) == (
                200,
                {"jwt": "their-token"},
            )
        assert around.homeserver.elsewhere.pop() == {
            "destination": "elsewhere.org",
            "method": "POST",
            "path": f"/_matrix/federation/{path}/rtc/livekit/get_token",
            "body": {
                "url": "wss://their.sfu",
                "room_id": ROOM,
                "slot_id": "m.call#ROOM",
                "member_id": "m1",
                "user_id": around.alice,
            },
        }


async def test_our_own_name_is_no_other_server(around):
    async with around.service() as client:
        body = around.body(server_name=around.name)
        assert (await around.ask(client, CLIENT + "get_token", body))[0] == 200
    assert around.homeserver.elsewhere == []


async def test_who_is_not_joined_is_not_passed_on(around):
    async with around.service() as client:
        body = around.body(server_name="elsewhere.org", room_id="!other:x")
        assert await around.ask(client, CLIENT + "get_token", body) == (403, "M_FORBIDDEN")
    assert around.homeserver.elsewhere == []


RELAYED = [
    ({"status": 403, "content": {"errcode": "M_FORBIDDEN", "error": "no"}}, (403, "M_FORBIDDEN")),
    ({"status": 400, "content": {"errcode": "M_INVALID_PARAM"}}, (400, "M_INVALID_PARAM")),
    ({"status": 400, "content": {"errcode": "M_NOT_JSON"}}, (502, "M_UNKNOWN")),
    ({"status": 401, "content": {"errcode": "M_UNAUTHORIZED"}}, (502, "M_UNKNOWN")),
    ({"status": 404, "content": {"errcode": "M_UNRECOGNIZED"}}, (502, "M_UNKNOWN")),
    ({"status": 429, "content": {"errcode": "M_LIMIT_EXCEEDED"}}, (502, "M_UNKNOWN")),
    ({"status": 500, "content": {"errcode": "M_FORBIDDEN"}}, (502, "M_UNKNOWN")),
    ({"status": 200, "content": {"jwt": 5}}, (502, "M_UNKNOWN")),
    ({"status": 200, "content": []}, (502, "M_UNKNOWN")),
    ({"status": "200", "content": {"jwt": "x"}}, (502, "M_UNKNOWN")),
    (502, (502, "M_UNKNOWN")),
    (403, (502, "M_UNKNOWN")),
]


@pytest.mark.parametrize(("relayed", "answer"), RELAYED)
async def test_what_of_another_servers_answer_is_passed_on(around, relayed, answer):
    around.homeserver.relayed = relayed
    async with around.service() as client:
        body = around.body(server_name="elsewhere.org")
        assert await around.ask(client, CLIENT + "get_token", body) == answer


DELAYS = [
    # known to the homeserver, given by the client, policy, answer
    ({"room_id": ROOM, "delay_ms": 7_200_000}, None, "msc4195", (200, {})),
    ({"room_id": ROOM, "delay_ms": 7_200_000}, 5, "msc4195", (200, {})),
    ({"room_id": "!other:x", "delay_ms": 7_200_000}, None, "msc4195", (400, "M_INVALID_PARAM")),
    (None, None, "msc4195", (400, "M_INVALID_PARAM")),
    (None, 5000, "msc4195", (400, "M_INVALID_PARAM")),
    (None, 5000, "rust-0.7", (200, {})),
    (None, 0, "rust-0.7", (400, "M_BAD_JSON")),
    (None, True, "rust-0.7", (400, "M_BAD_JSON")),
    (None, None, "rust-0.7", (400, "M_INVALID_PARAM")),
    ({"room_id": ROOM}, None, "msc4195", (503, "M_UNKNOWN")),
]


@pytest.mark.parametrize(("known", "given", "policy", "answer"), DELAYS)
async def test_a_leave_is_the_owners_and_of_this_room(around, known, given, policy, answer):
    leave = around.homeserver.schedule(7_200_000)
    if known is not None:
        around.homeserver.delayed[around.alice, leave.delay_id] = known
    async with around.service(RTCFOCI_AUTH_POLICY=policy) as client:
        body = around.body(delay_id=leave.delay_id, delay_timeout=given)
        assert await around.ask(client, CLIENT + "delegate_delayed_leave", body) == answer
        assert await around.ask(client, CLIENT + "delegate_delayed_leave", around.body()) == (
            400,
            "M_BAD_JSON",
        )


async def test_a_delegated_leave_is_sent_as_the_user(around):
    async with around.service() as client:
        leave = around.homeserver.schedule(7_200_000)
        around.homeserver.delayed[around.alice, leave.delay_id] = {
            "room_id": ROOM,
            "delay_ms": 7_200_000,
        }
        body = around.body(delay_id=leave.delay_id, slot_id="leaving")
        await around.ask(client, CLIENT + "delegate_delayed_leave", body)
        alias, identity = hashed(ROOM, "leaving"), hashed(around.alice, "m1")
        for event in ("participant_joined", "participant_left"):
            hook = around.sfu.webhook(event, alias, identity, reason="CLIENT_INITIATED")
            data = hook.body()
            headers = {"Authorization": hook.authorization(data)}
            assert (await client.post("/sfu_webhook", data=data, headers=headers)).status == 200
        await asyncio.to_thread(leave.sends.until, lambda: len(leave.sends.all()) == 1, within_s=9)
        for call in leave.calls.all():
            assert call.query == {"user_id": around.alice}
            assert call.headers["authorization"] == f"Bearer {AS_TOKEN}"
    # The fake takes us for a service without a registration.
    objections = around.homeserver.violations.take()
    assert {o.rpartition(": ")[2] for o in objections} == {
        "is a POST without parameters",
        "a service without a registration has no Authorization to give",
    }


@pytest.mark.parametrize(("joined", "status"), [(True, 200), (False, 403)])
async def test_members_are_checked_on_the_direct_endpoints_too(around, joined, status):
    async with around.service() as client:
        member = Member(homeserver=around.homeserver)
        if joined:
            around.homeserver.joined.add((member.user_id, member.room_id))
        assert (await client.post(GET_TOKEN, json=member.body(GET_TOKEN))).status == status
        around.homeserver.down = True
        assert (await client.post(GET_TOKEN, json=member.body(GET_TOKEN))).status == 502


async def test_no_secret_is_logged(around, caplog):
    caplog.set_level("DEBUG")
    async with around.service() as client:
        for body in (around.body(delay_id="delay-secret"), around.body()):
            await around.ask(client, CLIENT + "get_token", body)
            await around.ask(client, CLIENT + "delegate_delayed_leave", body)
        await around.ask(client, CLIENT + "get_token", around.body(), token="wrong-secret")
    assert caplog.text
    for secret in (AS_TOKEN, HS_TOKEN, "delay-secret", "wrong-secret", around.sfu.secret, "eyJ"):
        assert secret not in caplog.text


def test_the_registration_has_the_keys_that_synapse_reads(capsys):
    tokens = set()
    for _ in range(2):
        assert registration.main(["--proxy-url", "http://127.0.0.1:8081/"]) == 0
        content = yaml.safe_load(capsys.readouterr().out)
        tokens |= {content.pop("as_token"), content.pop("hs_token")}
        assert content == {
            "id": "rtcfoci-livekit-auth",
            "url": None,
            "sender_localpart": "rtcfoci-livekit-auth",
            "rate_limited": False,
            "namespaces": {
                "users": [{"regex": "@.*", "exclusive": False}],
                "aliases": [],
                "rooms": [],
            },
            "io.element.msc4512.proxy_prefix": "rtc/livekit",
            "io.element.msc4512.proxy_url": "http://127.0.0.1:8081",
            "io.element.msc4502.scopes": [
                "urn:matrix:client:io.element.msc4502:rooms:is_joined",
            ],
        }
    assert len(tokens) == 4
