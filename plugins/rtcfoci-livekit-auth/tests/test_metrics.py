"""What Prometheus is told, and that the documentation says the same."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from asking import DELEGATE, GET_TOKEN, SFU_GET, Member
from fakes import Answer, Authority, Host, Sfu
from knowing import AS_TOKEN, HS_TOKEN, KnowingHomeserver
from prometheus_client.parser import text_string_to_metric_families
from rtcfoci_livekit_auth.app import build_app
from rtcfoci_livekit_auth.delegation.engine import Counts
from rtcfoci_livekit_auth.metrics import LEAVES, METRICS, metrics_app
from rtcfoci_livekit_auth.settings import Settings

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "livekit-auth.md"
CLIENT = "/_matrix/client/v1/rtc/livekit/get_token"


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    class Around:
        host = Host()
        authority = Authority(tmp_path_factory.mktemp("metrics"))
        homeserver = KnowingHomeserver(host, authority)
        sfu = Sfu(host)

        def app(self, **more):
            environment = {
                "LIVEKIT_URL": self.sfu.url,
                "LIVEKIT_KEY": self.sfu.key,
                "LIVEKIT_SECRET": self.sfu.secret,
                "LIVEKIT_FULL_ACCESS_HOMESERVERS": self.homeserver.name,
                "LIVEKIT_AS_TOKEN": AS_TOKEN,
                "LIVEKIT_HS_TOKEN": HS_TOKEN,
                "LIVEKIT_HS_SERVER_NAME": self.homeserver.name,
                "RTCFOCI_AUTH_HOMESERVER_URL": self.homeserver.plain_url,
                "RTCFOCI_AUTH_STATE_FILE": "none",
                "RTCFOCI_AUTH_CA_FILE": str(self.authority.ca_file),
                "RTCFOCI_AUTH_METRICS_BIND": "127.0.0.1:1",
            }
            return build_app(Settings.read(environment | more))

    yield Around()
    Around.host.close()


def families_of(app):
    return list(text_string_to_metric_families(app[METRICS].text().decode()))


def figures(app):
    """Give everything that is not 0, by name and labels."""
    return {
        (sample.name.removeprefix("rtcfoci_auth_"), *sample.labels.values()): sample.value
        for family in families_of(app)
        for sample in family.samples
        if sample.value and sample.name.endswith(("_total", "_count", "delegations"))
    }


async def test_what_happened_is_counted(around):
    homeserver, sfu = around.homeserver, around.sfu
    app = around.app(RTCFOCI_AUTH_RATE_LIMITS="true", RTCFOCI_AUTH_RATE_PER_USER="2")
    async with TestClient(TestServer(app)) as client:

        async def ask(path, member, status, **changes):
            answer = await client.post(path, json=member.body(path, **changes))
            assert answer.status == status

        member = Member(homeserver=homeserver)
        await ask(SFU_GET, member, 200)
        await ask(GET_TOKEN, member, 200)
        await ask(GET_TOKEN, member, 429)
        await ask(DELEGATE, Member(homeserver=homeserver), 400)
        for answer in (Answer(status=401), Answer(status=500)):
            stranger = Member(homeserver=homeserver)
            stranger.openid = homeserver.openid(stranger.user_id, answer)
            await ask(SFU_GET, stranger, 401)
        sfu.on("CreateRoom").then(Answer(status=500))
        await ask(SFU_GET, Member(homeserver=homeserver), 500)
        leave = {"delay_id": homeserver.schedule(600_000).delay_id, "delay_timeout": 600_000}
        await ask(DELEGATE, Member(homeserver=homeserver), 200, **leave)
        hook = sfu.webhook("participant_joined", "room", "somebody")
        for one in (hook, hook.but(event="track_published"), hook.but(key="other")):
            body = one.body()
            headers = {"Authorization": one.authorization(body)}
            await client.post("/sfu_webhook", data=body, headers=headers)
        await client.post(CLIENT, data=b"{}")
        await client.options(SFU_GET)
        await client.get("/what-a-client/chooses")
        await client.get("/healthz")
        counted = figures(app)
    requests = {key[1:]: value for key, value in counted.items() if key[0] == "requests_total"}
    assert requests == {
        (SFU_GET, "200"): 1,
        (SFU_GET, "401"): 2,
        (SFU_GET, "500"): 1,
        (GET_TOKEN, "200"): 1,
        (GET_TOKEN, "429"): 1,
        (DELEGATE, "200"): 1,
        (DELEGATE, "400"): 1,
        ("/sfu_webhook", "200"): 3,
        ("/_matrix/client/{version}/rtc/livekit/get_token", "401"): 1,
        ("other", "404"): 1,
        ("/healthz", "200"): 1,
    }
    assert counted["request_seconds_count", SFU_GET] == 4
    others = {key: n for key, n in counted.items() if not key[0].startswith(("request", "process"))}
    assert others == {
        ("openid_lookups_total", "accepted"): 5,
        ("openid_lookups_total", "refused"): 1,
        ("openid_lookups_total", "unavailable"): 1,
        ("rooms_total", "made"): 2,
        ("rooms_total", "failed"): 1,
        ("webhooks_total", "heard"): 1,
        ("webhooks_total", "of no use"): 1,
        ("webhooks_total", "refused"): 1,
        ("rate_limited_total", "user"): 1,
        ("delegations",): 1,
        ("delegations_added_total",): 1,
    }
    assert homeserver.violations.take() == sfu.violations.take() == []


def test_everything_that_is_counted_of_leaves_is_told():
    assert set(LEAVES) == {field.name for field in fields(Counts)}


async def test_nothing_is_counted_where_nobody_may_ask(around):
    assert METRICS not in around.app(RTCFOCI_AUTH_METRICS_BIND="")


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the documentation is not here")
async def test_every_name_is_documented_and_every_documented_name_is_there(around):
    app = around.app()
    async with TestClient(TestServer(app)) as client:
        await client.get("/healthz")  # what is never asked for has no figures yet
        async with TestClient(TestServer(metrics_app(app[METRICS]))) as prometheus:
            answer = await prometheus.get("/metrics")
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        there = {}
        for family in families_of(app):
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            suffix = "_total" if family.type == "counter" else ""
            there[family.name + suffix] = (family.type, labels)
    section = REFERENCE.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(rtcfoci_auth_\w+)` \| (\w+) \| ([^|]*)\|", section, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    ours = {
        name: facts
        for name, facts in there.items()
        if name.startswith("rtcfoci_") and not name.endswith("_created")
    }
    assert ours == documented
    values = {
        value
        for family in families_of(app)
        for sample in family.samples
        for label, value in sample.labels.items()
        if label in {"result", "by"}
    }
    assert values <= set(re.findall(r"`([a-z ]+)`", section))
