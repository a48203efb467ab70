"""What our service does better than the original, setting by setting, in one process with strict fakes."""

import json
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET, Member
from fakes import Answer, Authority, Homeserver, Host, Sfu
from rtcfoci_livekit_auth.app import build_app
from rtcfoci_livekit_auth.settings import Settings


class Surroundings:
    """A homeserver and two SFUs on loopback; services start within them."""

    def __init__(self, folder: Path):
        self.host = Host()
        self.authority = Authority(folder)
        self.homeserver = Homeserver(self.host, self.authority)
        self.sfu, self.other_sfu = Sfu(self.host), Sfu(self.host)

    def environment(self, **more):
        return {
            "LIVEKIT_URL": self.sfu.url,
            "LIVEKIT_KEY": self.sfu.key,
            "LIVEKIT_SECRET": self.sfu.secret,
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": self.homeserver.name,
            "RTCFOCI_AUTH_STATE_FILE": "none",
            "RTCFOCI_AUTH_CA_FILE": str(self.authority.ca_file),
            **more,
        }

    @asynccontextmanager
    async def service(self, **more):
        app = build_app(Settings.read(self.environment(**more)))
        async with TestClient(TestServer(app)) as client:
            yield client

    def member(self, **more):
        return Member(homeserver=self.homeserver, **more)

    def guest(self):
        return self.member(user_id=self.homeserver.user("guest", other_name=True))


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    made = Surroundings(tmp_path_factory.mktemp("service"))
    yield made
    made.host.close()


@pytest.fixture(autouse=True)
def _nobody_objects(around):
    yield
    for fake in (around.homeserver, around.sfu, around.other_sfu):
        assert fake.violations.take() == []


async def ask(client, path, member, *, headers=None, **changes):
    answer = await client.post(path, json=member.body(path, **changes), headers=headers)
    return answer.status, await answer.json()


async def hooked(client, sfu):
    hook = sfu.webhook("participant_joined", "room", "somebody")
    body = hook.body()
    headers = {"Authorization": hook.authorization(body)}
    answer = await client.post("/sfu_webhook", data=body, headers=headers)
    assert await answer.read() == b""
    return answer.status


def claims(document, sfu):
    return jwt.decode(document["jwt"], sfu.secret, algorithms=["HS256"], issuer=sfu.key)


@pytest.mark.parametrize("path", [SFU_GET, GET_TOKEN])
@pytest.mark.parametrize("policy", ["go-0.5", "rust-0.7", "msc4195"])
async def test_tokens_of_each_policy_through_the_service(around, policy, path):
    async with around.service(
        RTCFOCI_AUTH_POLICY=policy, RTCFOCI_AUTH_ALLOW_NETWORKS="127.0.0.0/8"
    ) as client:
        member, guest = around.member(), around.guest()
        status, document = await ask(client, path, member)
        assert (status, document["url"]) == (200, around.sfu.url)
        got = claims(document, around.sfu)
        assert got["sub"] == member.identity(path)
        assert got["exp"] - got["nbf"] == (600 if policy == "msc4195" else 3600)
        video = got["video"]
        assert video["canPublish"] is video["canSubscribe"] is video["roomJoin"] is True
        assert video["canUpdateOwnMetadata"] is (policy != "msc4195")
        assert video.get("roomCreate") == {"go-0.5": None}.get(policy, False)
        assert (video["room"] == member.alias) is (policy != "msc4195")
        assert len(around.sfu.calls_in(video["room"], "CreateRoom")) == 1
        status, document = await ask(client, path, guest)
        assert status == 200
        video = claims(document, around.sfu)["video"]
        assert video["canPublish"] is (policy == "go-0.5")
        assert around.sfu.calls_in(video["room"]) == []


async def test_a_salted_alias_is_the_same_for_both_endpoints_and_after_a_restart(around):
    member, rooms = around.member(), set()
    for path in (SFU_GET, GET_TOKEN):
        async with around.service(RTCFOCI_AUTH_SALTED_ALIAS="true") as client:
            _, document = await ask(client, path, member)
            rooms.add(claims(document, around.sfu)["video"]["room"])
    assert len(rooms) == 1
    assert rooms != {member.alias}


async def test_the_public_url_is_the_clients_and_the_internal_one_is_ours(around):
    async with around.service(
        LIVEKIT_URL="wss://sfu.example.org/rtc", RTCFOCI_AUTH_LIVEKIT_INTERNAL_URL=around.sfu.url
    ) as client:
        member = around.member()
        status, document = await ask(client, GET_TOKEN, member)
        assert (status, document["url"]) == (200, "wss://sfu.example.org/rtc")
        assert len(around.sfu.calls_in(member.alias, "CreateRoom")) == 1


async def test_rooms_are_spread_over_several_sfus_and_each_has_its_own_key(around, tmp_path):
    sfus = {"wss://one": around.sfu, "wss://two": around.other_sfu}
    file = tmp_path / "sfus.json"
    file.write_text(
        json.dumps(
            [
                {"url": url, "internal_url": s.url, "key": s.key, "secret": s.secret}
                for url, s in sfus.items()
            ]
        )
    )
    async with around.service(
        RTCFOCI_AUTH_SFUS_FILE=str(file), RTCFOCI_AUTH_WEBHOOK_REFUSALS_SHOWN="true"
    ) as client:
        seen = set()
        for _ in range(16):
            member = around.member()
            urls = set()
            for path in (SFU_GET, GET_TOKEN):
                _, document = await ask(client, path, member)
                sfu = sfus[document["url"]]
                assert claims(document, sfu)["video"]["room"] == member.alias
                assert len(sfu.calls_in(member.alias, "CreateRoom")) >= 1
                urls.add(document["url"])
            assert len(urls) == 1
            seen |= urls
        assert seen == set(sfus)
        for sfu in sfus.values():  # a webhook of either is believed
            assert await hooked(client, sfu) == 200


async def test_a_private_authority_is_trusted_and_no_other(around, tmp_path):
    async with around.service() as client:
        assert (await ask(client, GET_TOKEN, around.member()))[0] == 200
    other = Authority(tmp_path)
    async with around.service(RTCFOCI_AUTH_CA_FILE=str(other.ca_file)) as client:
        assert (await ask(client, GET_TOKEN, around.member()))[0] == 401


async def test_private_addresses_are_for_servers_that_the_operator_named(around):
    async with around.service(RTCFOCI_AUTH_REFUSE_PRIVATE_ADDRESSES="true") as client:
        assert (await ask(client, GET_TOKEN, around.member()))[0] == 200
        guest = around.guest()
        assert (await ask(client, GET_TOKEN, guest))[0] == 401
        assert around.homeserver.lookups_of(guest.openid) == []


async def test_a_lookup_that_fails_is_tried_again_and_one_that_is_refused_is_not(around):
    async with around.service(RTCFOCI_AUTH_LOOKUP_TRIES="3") as client:
        for answers, status, lookups in (
            ([Answer(status=502), Answer(reset=True)], 200, 3),
            ([Answer(status=500)] * 3, 401, 3),
            ([Answer(status=401)], 401, 1),
        ):
            member = around.member()
            member.openid = around.homeserver.openid(member.user_id, *answers)
            assert (await ask(client, GET_TOKEN, member))[0] == status
            assert len(around.homeserver.lookups_of(member.openid)) == lookups


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_bodies_have_a_bound(around, path):
    async with around.service(RTCFOCI_AUTH_MAX_BODY_BYTES="2048") as client:
        answer = await client.post(path, data=b" " * 3000)
        assert answer.status == 413
        assert (await answer.json())["errcode"] == "M_TOO_LARGE"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_client_that_asks_too_often_is_told_when_to_come_back(around):
    async with around.service(
        RTCFOCI_AUTH_RATE_LIMITS="true",
        RTCFOCI_AUTH_RATE_PER_ADDRESS="3",
        RTCFOCI_AUTH_TRUSTED_PROXIES="127.0.0.1",
    ) as client:
        statuses = []
        for _ in range(4):
            status, document = await ask(client, DELEGATE, around.member())
            statuses.append(status)
        assert statuses == [400, 400, 400, 429]
        assert document["errcode"] == "M_LIMIT_EXCEEDED"
        assert 0 < document["retry_after_ms"] <= 20_000
        other = {"X-Forwarded-For": "203.0.113.5"}
        assert (await ask(client, DELEGATE, around.member(), headers=other))[0] == 400


async def test_a_user_who_asks_too_often_does_not_stop_others(around):
    async with around.service(
        RTCFOCI_AUTH_RATE_LIMITS="true", RTCFOCI_AUTH_RATE_PER_USER="2"
    ) as client:
        member = around.member()
        assert [(await ask(client, GET_TOKEN, member))[0] for _ in range(3)] == [200, 200, 429]
        assert (await ask(client, GET_TOKEN, around.member()))[0] == 200


@pytest.mark.parametrize(("shown", "status"), [("false", 200), ("true", 401)])
async def test_a_webhook_that_is_not_believed(around, shown, status):
    async with around.service(RTCFOCI_AUTH_WEBHOOK_REFUSALS_SHOWN=shown) as client:
        assert await hooked(client, around.other_sfu) == status


async def test_rooms_are_created_as_the_operator_says(around):
    async with around.service(
        RTCFOCI_AUTH_ROOM_EMPTY_TIMEOUT_S="60",
        RTCFOCI_AUTH_ROOM_DEPARTURE_TIMEOUT_S="5",
        RTCFOCI_AUTH_ROOM_MAX_PARTICIPANTS="9",
    ) as client:
        member = around.member()
        await ask(client, GET_TOKEN, member)
        room = around.sfu.rooms[member.alias]
        assert (room.empty_timeout, room.departure_timeout, room.max_participants) == (60, 5, 9)


async def test_an_error_of_our_own_shows_nothing_of_itself(around, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("openid-secret")

    monkeypatch.setattr("rtcfoci_livekit_auth.tokens.Minter.participant", fail)
    async with around.service() as client:
        status, document = await ask(client, GET_TOKEN, around.member())
    assert (status, document["errcode"]) == (500, "M_UNKNOWN")
    assert "secret" not in json.dumps(document) + caplog.text
    assert "RuntimeError" in caplog.text


async def test_ready_is_who_has_restored_what_was_kept(around):
    async with around.service() as client:
        assert (await client.get("/readyz")).status == 200
        assert (await client.post("/readyz")).status == 405
