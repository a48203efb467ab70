"""`doctor` on a real deployment, whole and broken in the ways that operators meet."""

import asyncio
import dataclasses
import io
import os
import shlex
import sys

import pytest
from deployment import Deployment, synapse_of
from rtcfoci_livekit_auth.doctor import leave
from rtcfoci_livekit_auth.doctor.command import main as doctor

from rtcfoci.errors import UsageError

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
JWT = "location /livekit/jwt/ {"


def changed(old, new):
    return lambda text: text.replace(old, new)


def line(name, value):
    """Give another value to a line of the environment."""
    return lambda text: "".join(
        f"{name}={value}\n" if known.startswith(f"{name}=") else f"{known}\n"
        for known in text.splitlines()
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


BREAKS = {
    # What is asked first: server discovery.
    "well-known without CORS": (
        [(*SITE, changed("add_header Access-Control-Allow-Origin *;", ""))],
        {"discovery": "well_known_no_cors"},
    ),
    "well-known is a web page": (
        [(*SITE, changed('return 200 \'{"m.homeserver"', "return 200 '<html>{"))],
        {"discovery": "well_known_malformed"},
    ),
    "the proxy does not know the homeserver": (
        [(*SITE, changed("location /_matrix/ {", "location /matrix/ {"))],
        {"discovery": "homeserver_not_matrix"},
    ),
    # The service and the proxy before it.
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
        [(*SERVICE, line("LIVEKIT_FULL_ACCESS_HOMESERVERS", "example.org"))],
        {"key and room": "room_not_created"},
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
        failed = hops[hop]["state"] == "failed"
        assert status == (1 if failed else 0)
        assert ("not checked" in {hop["state"] for hop in hops.values()}) == (
            failed and hop != "delegated leave"
        )


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


def test_a_homeserver_with_the_features_off(deployment):
    good = deployment.synapse.options
    off = {**good.extra, "max_event_delay_duration": None, "experimental_features": {}}
    deployment.synapse.options = dataclasses.replace(good, extra=off)
    asyncio.run(_again(deployment.synapse))
    try:
        status, hops = deployment.examine(deployment.user)
    finally:
        deployment.synapse.options = good
        asyncio.run(_again(deployment.synapse))
    assert status == 1
    assert states(hops, "failed", "warning") == {
        "transports": "transports_endpoint_off",
        "delayed events": "delayed_events_off",
        "sticky events": "sticky_events_off",
    }


async def _again(synapse):
    await synapse.stop()
    await synapse.start()


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
