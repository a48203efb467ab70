"""`doctor` on a real deployment, whole and broken in the ways that operators meet."""

import asyncio
import dataclasses
import io
import json
import os
import shlex
import sys

import pytest
import yaml
from deployment import Deployment, synapse_of
from fakes.redis_server import RedisServer, redis_missing
from rtcfoci_livekit_auth.doctor import leave
from rtcfoci_livekit_auth.doctor.command import main as doctor
from rtcfoci_livekit_auth.doctor.run import HOPS, examine
from rtcfoci_livekit_auth.doctor.verdicts import Case
from rtcfoci_livekit_auth.doctor.web import Web

from rtcfoci.errors import UsageError
from rtcfoci.testing import skip_or_fail

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

COMMAND = shlex.split(os.environ.get("RTCFOCI_AUTH_COMMAND", "")) or [
    sys.executable,
    "-m",
    "rtcfoci_livekit_auth",
    "serve",
]
SITE, SERVICE, LIVEKIT = (
    ("site", "rtc-site.conf"),
    ("service", "livekit-auth.env"),
    ("livekit", "livekit.yaml"),
)
JWT, MATRIX = "location /livekit/jwt/ {", "location /_matrix/ {"


def changed(old, new):
    return lambda text: text.replace(old, new)


def line(name, value):
    """Give another value to a line of the environment."""
    return lambda text: "".join(
        f"{name}={value}\n" if known.startswith(f"{name}=") else f"{known}\n"
        for known in text.splitlines()
    )


def advertising(status, answer):
    """Let the homeserver answer `rtc/transports` as one does that is configured in another way."""
    where = "default_type application/json;"
    return changed(
        MATRIX, f"location ~ /rtc/transports$ {{ {where} return {status} '{answer}'; }}\n {MATRIX}"
    )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("deployment"), COMMAND)
    made.write()
    made.synapse = synapse_of(made)
    try:
        asyncio.run(made.synapse.start())
        made.start()
        made.user = asyncio.run(made.synapse.register("ann", "secret")).user_id
        made.password_file.write_text("secret\n")
        yield made
    finally:
        made.close()
        asyncio.run(made.synapse.stop())


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(leave, "_SENT_WITHIN_S", 4.0)


def states(hops, *wanted):
    return {name: hop["code"] for name, hop in hops.items() if hop["state"] in wanted}


def test_a_deployment_from_the_files_of_init_passes(deployment):
    status, hops = deployment.examine(deployment.user)
    assert states(hops, "warning", "failed", "not checked") == {}
    assert status == 0


def _without_prefix(site):
    port = site.split("listen ")[1].split()[0]
    service = {"type": "livekit", "livekit_service_url": f"https://localhost:{port}"}
    return json.dumps({"rtc_transports": [service]})


DELEGATE = "/livekit/jwt/delegate_delayed_leave"
BREAKS = {
    # What is asked first: server discovery.
    "well-known without CORS, and a service older than delegation": (
        [
            (*SITE, changed("add_header Access-Control-Allow-Origin *;", "")),
            (*SITE, changed(JWT, f"location {DELEGATE} {{ return 404; }}\n {JWT}")),
        ],
        {"discovery": "well_known_no_cors", "delegated leave": "delegation_not_offered"},
    ),
    "well-known is a web page": (
        [(*SITE, changed('return 200 \'{"m.homeserver"', "return 200 '<html>{"))],
        {"discovery": "well_known_malformed"},
    ),
    "the proxy does not know the homeserver": (
        [(*SITE, changed("location /_matrix/ {", "location /matrix/ {"))],
        {"discovery": "homeserver_not_matrix"},
    ),
    # What the homeserver advertises.
    "no focus is configured": (
        [(*SITE, advertising(200, '{"rtc_transports": []}'))],
        {"transports": "transports_empty"},
    ),
    "a focus of another type alone": (
        [(*SITE, advertising(200, '{"rtc_transports": [{"type": "mesh"}]}'))],
        {"transports": "transports_no_livekit"},
    ),
    "a focus without its service": (
        [(*SITE, advertising(200, '{"rtc_transports": [{"type": "livekit"}]}'))],
        {"transports": "transports_no_service"},
    ),
    "the focus is in .well-known alone, and leads to nobody": (
        [
            (*SITE, advertising(404, '{"errcode": "M_UNRECOGNIZED", "error": "?"}')),
            (
                *SITE,
                changed(
                    '200 \'{"m.homeserver"',
                    '200 \'{"org.matrix.msc4143.rtc_foci": [{"type": "livekit", '
                    '"livekit_service_url": "https://localhost:1/jwt"}], "m.homeserver"',
                ),
            ),
        ],
        {"transports": "transports_only_well_known", "service": "service_unreachable"},
    ),
    # The service and the proxy before it.
    "the advertised URL lacks the prefix": (
        [(*SITE, lambda text: advertising(200, _without_prefix(text))(text))],
        {"service": "service_not_found"},
    ),
    "the proxy does not strip its prefix": (
        [
            (
                *SITE,
                lambda text: text.replace(
                    "/;\n        proxy_set_header Host", ";\n        proxy_set_header Host", 1
                ),
            )
        ],
        {"service": "service_not_found"},
    ),
    "the proxy swallows CORS": (
        [(*SITE, changed(JWT, f"{JWT} proxy_hide_header Access-Control-Allow-Origin;"))],
        {"service": "service_no_cors"},
    ),
    # What the service needs.
    "the service cannot look tokens up": (
        [
            (*SERVICE, line("RTCFOCI_AUTH_FEDERATION_URL_OVERRIDES", "")),
            (
                *SITE,
                changed(
                    "location /_matrix/ {",
                    "location /_matrix/federation/ { return 404; }\n location /_matrix/ {",
                ),
            ),
        ],
        {"token": "openid_lookup_failed"},
    ),
    "the service does not trust the homeserver's certificate": (
        [
            (*SERVICE, line("RTCFOCI_AUTH_FEDERATION_URL_OVERRIDES", "")),
            (*SERVICE, line("RTCFOCI_AUTH_CA_FILE", "")),
        ],
        {"token": "openid_lookup_failed"},
    ),
    "key and secret are not LiveKit's": (
        [(*SERVICE, line("LIVEKIT_SECRET", "another-secret-of-at-least-32-characters"))],
        {"token": "room_creation_failed"},
    ),
    "key and secret are not LiveKit's, which only clients notice": (
        [
            (*SERVICE, line("LIVEKIT_SECRET", "another-secret-of-at-least-32-characters")),
            (*SERVICE, line("LIVEKIT_FULL_ACCESS_HOMESERVERS", "example.org")),
        ],
        {"key and room": "key_mismatch"},
    ),
    "the homeserver has no full access": (
        [
            (*SERVICE, line("LIVEKIT_FULL_ACCESS_HOMESERVERS", "example.org")),
            (*SERVICE, lambda text: f"{text}RTCFOCI_AUTH_POLICY=rust-0.7\n"),
        ],
        {"token": "may_not_publish", "key and room": "room_not_created"},
    ),
    "LIVEKIT_URL is no WebSocket URL": (
        [(*SERVICE, line("LIVEKIT_URL", "ftp://localhost"))],
        {"token": "sfu_url_malformed"},
    ),
    "LIVEKIT_URL leads elsewhere": (
        [(*SERVICE, changed("/livekit/sfu", "/_matrix/static"))],
        {"sfu": "sfu_not_livekit"},
    ),
    # LiveKit and the proxy before it.
    "the proxy opens no WebSocket": (
        [(*SITE, changed("proxy_set_header Upgrade $http_upgrade;", ""))],
        {"signalling": "websocket_refused"},
    ),
    "LiveKit names an address that leads nowhere": (
        [(*LIVEKIT, changed("node_ip: 127.0.0.1", "node_ip: 192.0.2.1"))],
        {"media": "ice_unreachable"},
    ),
    "LiveKit calls another hook": (
        [(*LIVEKIT, changed("/sfu_webhook", "/webhook"))],
        {"delegated leave": "webhook_not_wired"},
    ),
    "LiveKit signs with a key that the service does not know": (
        [
            (
                *LIVEKIT,
                lambda text: text.replace(
                    "keys:\n", "keys:\n  other: a-secret-of-at-least-32-characters-more\n"
                ).replace("api_key: API", "api_key: other # "),
            )
        ],
        {"delegated leave": "webhook_not_wired"},
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(deployment, name):
    changes, wrong = BREAKS[name]
    with deployment.broken(*changes):
        status, hops = deployment.examine(deployment.user, "--timeout-s", "4")
    assert states(hops, "failed", "warning") == wrong
    for hop in wrong:
        assert hops[hop]["cause"]
        assert hops[hop]["remedy"]
    failed = set(states(hops, "failed"))
    assert status == (1 if failed else 0)
    assert bool(states(hops, "not checked")) == bool(failed - {"delegated leave"})


def test_a_service_that_is_down(deployment):
    with deployment.without("service"):
        _, hops = deployment.examine(deployment.user)
    assert states(hops, "failed") == {"service": "service_unhealthy"}


def test_a_livekit_that_is_down(deployment):
    with deployment.without("livekit"):
        _, hops = deployment.examine(deployment.user)
    assert states(hops, "failed") == {"token": "room_creation_failed"}


def test_a_site_that_is_down(deployment):
    with deployment.without("site"):
        _, hops = deployment.examine(deployment.user)
    assert states(hops, "failed") == {"discovery": "well_known_unreachable"}
    assert "refused" in hops["discovery"]["cause"]


def test_a_certificate_that_nobody_knows(deployment):
    out = io.StringIO()
    assert doctor([deployment.server_name], out) == 1
    assert "its certificate is not accepted" in out.getvalue()
    assert "--ca-file" in out.getvalue()


def test_without_an_account_the_rest_is_not_checked(deployment):
    out = io.StringIO()
    assert doctor([deployment.server_name, "--ca-file", str(deployment.ca_file)], out) == 0
    assert "there is no account to ask with" in out.getvalue()


def test_a_wrong_password_is_not_repeated(deployment, tmp_path):
    file = tmp_path / "password"
    file.write_text("not-the-password")
    out = io.StringIO()
    options = ["--user", deployment.user, "--password-file", str(file)]
    assert (
        doctor([deployment.server_name, "--ca-file", str(deployment.ca_file), *options], out) == 1
    )
    assert "the login is refused" in out.getvalue()
    assert "not-the-password" not in out.getvalue()


@pytest.mark.parametrize(
    "options",
    [["--password-file", "nowhere"], ["--token-file", "/nowhere"], ["--ca-file", "/nowhere"]],
)
def test_options_that_cannot_be_used(options):
    with pytest.raises(UsageError) as caught:
        doctor(["example.org", *options], io.StringIO())
    assert caught.value.do


# From here on Synapse is another one each time, so these come last.
def test_a_homeserver_with_the_features_off(deployment):
    good = deployment.synapse.options
    off = {**good.extra, "max_event_delay_duration": None, "experimental_features": {}}
    deployment.synapse.options = dataclasses.replace(good, extra=off)
    asyncio.run(_again(deployment.synapse))
    status, hops = deployment.examine(deployment.user)
    assert status == 1
    assert states(hops, "failed", "warning") == {
        "transports": "transports_endpoint_off",
        "delayed events": "delayed_events_off",
        "sticky events": "sticky_events_off",
    }


async def _again(synapse):
    await synapse.stop()
    await synapse.start()


@pytest.fixture(scope="module")
def misled(deployment):
    """The same machine with other files of `init`, of which one was spoilt: it leads Synapse to nobody."""
    if why := redis_missing():
        skip_or_fail("redis", why)
    redis = RedisServer(deployment.folder).start()
    deployment.close()
    deployment.files = deployment.folder / "behind"
    deployment.write("--appservice", "--redis-url", redis.url)
    deployment.registration = deployment.files / "livekit-auth-registration.yaml"
    deployment.right = deployment.registration.read_text()
    wrong = yaml.safe_load(deployment.right) | {
        "io.element.msc4512.proxy_url": "http://127.0.0.1:1"
    }
    deployment.registration.write_text(yaml.safe_dump(wrong))
    deployment.synapse.options = deployment.synapse_options
    asyncio.run(_again(deployment.synapse))
    deployment.start()
    yield deployment
    redis.stop()


def until_behind(deployment):
    """Go as far as that hop; the later ones have no part in it, and take their time."""
    names = [hop.name for hop in HOPS]
    hops = HOPS[: names.index("behind homeserver") + 1]

    async def go():
        async with Web(ca_file=deployment.ca_file) as web:
            case = Case(
                web=web,
                server_name=deployment.server_name,
                user_id=deployment.user,
                password=deployment.password_file.read_text().strip(),
            )
            return {verdict.hop: verdict.to_json() async for verdict in examine(case, hops)}

    return states(asyncio.run(go()), "failed", "warning", "not checked")


def test_a_registration_that_leads_to_nobody(misled):
    assert until_behind(misled) == {"behind homeserver": "behind_unreachable"}


@pytest.fixture(scope="module")
def behind(misled):
    """A service behind its homeserver that keeps its leaves in Redis, from the files of `init`, unedited."""
    misled.registration.write_text(misled.right)
    asyncio.run(_again(misled.synapse))
    return misled


def test_a_deployment_behind_the_homeserver_and_with_redis_passes(behind):
    status, hops = behind.examine(behind.user)
    assert states(hops, "warning", "failed", "not checked") == {}
    assert status == 0
    assert "a member gets a token" in hops["behind homeserver"]["what"]


BREAKS_BEHIND = {
    "hs_token is not the homeserver's": (
        [(*SERVICE, line("LIVEKIT_HS_TOKEN", "other"))],
        {"behind homeserver": "behind_token"},
    ),
    "as_token is not the homeserver's": (
        [(*SERVICE, line("LIVEKIT_AS_TOKEN", "other"))],
        {"behind homeserver": "behind_not_answered"},
    ),
}


@pytest.mark.parametrize("name", BREAKS_BEHIND)
def test_what_is_broken_between_homeserver_and_service_is_named(behind, name):
    changes, wrong = BREAKS_BEHIND[name]
    with behind.broken(*changes):
        assert until_behind(behind) == wrong


COMPLAINTS = {
    "MISSING_MATRIX_RTC_TRANSPORT, or _FOCUS, or M_UNRECOGNIZED": [
        "test_a_homeserver_with_the_features_off",
        "no focus is configured",
        "a focus of another type alone",
        "a focus without its service",
        "the focus is in .well-known alone, and leads to nobody",
    ],
    "server discovery": [
        "well-known is a web page",
        "well-known without CORS, and a service older than delegation",
        "the proxy does not know the homeserver",
        "test_a_site_that_is_down",
        "test_a_certificate_that_nobody_knows",
    ],
    "404 on /livekit/jwt/sfu/get": [
        "the proxy does not strip its prefix",
        "the advertised URL lacks the prefix",
    ],
    "a page may not ask the service": ["the proxy swallows CORS"],
    "Unable to create room on SFU": [
        "key and secret are not LiveKit's",
        "test_a_livekit_that_is_down",
    ],
    "the OpenID token is not accepted: NAT, split DNS, port 8448, self-signed, M_LOOKUP_FAILED": [
        "the service cannot look tokens up",
        "the service does not trust the homeserver's certificate",
    ],
    "the service is down, or its health check is": ["test_a_service_that_is_down"],
    "users of a server cannot unmute, or are refused": ["the homeserver has no full access"],
    "waiting for media": [
        "LIVEKIT_URL is no WebSocket URL",
        "LIVEKIT_URL leads elsewhere",
        "key and secret are not LiveKit's, which only clients notice",
        "the proxy opens no WebSocket",
        "LiveKit names an address that leads nowhere",
    ],
    "ghosts: who is cut off stays in the call": [
        "test_a_homeserver_with_the_features_off",
        "LiveKit calls another hook",
        "LiveKit signs with a key that the service does not know",
    ],
    "the generations of clients, service and homeserver do not fit": [
        "well-known without CORS, and a service older than delegation",
        "test_a_homeserver_with_the_features_off",
    ],
    "keys of the registration that the homeserver does not know": [
        "test_a_registration_that_leads_to_nobody",
        "hs_token is not the homeserver's",
        "as_token is not the homeserver's",
    ],
}
"""What operators complain of, and how a working deployment is broken to have each of them here.

Clocks that differ, a private LIVEKIT_URL, and what else one machine cannot be made to do: `test_verdicts`.
What is seen in files alone, such as the registration's spelling: `test_setup`.
"""


def test_every_break_answers_a_complaint_and_every_complaint_has_a_break():
    named = {name for names in COMPLAINTS.values() for name in names}
    tests = {name for name in named if name.startswith("test_")}
    assert tests <= set(globals())
    assert named - tests == {*BREAKS, *BREAKS_BEHIND}
