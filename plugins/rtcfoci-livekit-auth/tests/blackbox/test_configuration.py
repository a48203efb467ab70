"""Settings: all from the environment, an empty one is none, and a wrong one ends the process."""

import contextlib
import dataclasses
import socket

import pytest
from asking import DELEGATE, GET_TOKEN, SFU_GET, Member, claims
from world import settings, together

MISSING = "/nonexistent/file"
NOT_SET = "must be set"


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Settings that a service must not start with."""

    name: str
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    says: str = ""
    """Found in what it prints."""
    key_file: str | None = None
    """What is in LIVEKIT_KEY_FILE."""


WRONG = [
    Wrong("no-url", {"LIVEKIT_URL": ""}, NOT_SET),
    Wrong("no-key", {"LIVEKIT_KEY": ""}, NOT_SET),
    Wrong("no-secret", {"LIVEKIT_SECRET": ""}, NOT_SET),
    Wrong("blank-key", {"LIVEKIT_KEY": " \r\n"}, NOT_SET),
    Wrong("no-list", {"LIVEKIT_FULL_ACCESS_HOMESERVERS": ""}, "LIVEKIT_FULL_ACCESS_HOMESERVERS"),
    Wrong("no-key-file", {"LIVEKIT_KEY_FILE": MISSING}, MISSING),
    Wrong("no-file-of-key", {"LIVEKIT_KEY_FROM_FILE": MISSING}, MISSING),
    Wrong("no-file-of-secret", {"LIVEKIT_SECRET_FROM_FILE": MISSING}, MISSING),
    Wrong("one-part", key_file="keyonly"),
    Wrong("three-parts", key_file="a: b: c"),
    Wrong("two-lines", key_file="a: b\nc: d\n"),
    Wrong("port-and-bind", {"LIVEKIT_JWT_PORT": "8080"}, "LIVEKIT_JWT_PORT"),
    Wrong("interval-word", {"LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": "often"}, "often"),
    Wrong("interval-negative", {"LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": "-1"}, "-1"),
    Wrong("interval-fraction", {"LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": "1.5"}, "1.5"),
    Wrong("override-word", {"LIVEKIT_CS_API_URL_OVERRIDES": "nonsense"}),
    Wrong("override-no-url", {"LIVEKIT_CS_API_URL_OVERRIDES": "a.example="}),
    Wrong("override-no-server", {"LIVEKIT_CS_API_URL_OVERRIDES": "=https://a.example"}),
    Wrong("override-second", {"LIVEKIT_CS_API_URL_OVERRIDES": "a.example=https://a.example,b"}),
    Wrong("redis-scheme", {"LIVEKIT_REDIS_URL": "http://127.0.0.1:1"}),
    Wrong("redis-down", {"LIVEKIT_REDIS_URL": "redis://127.0.0.1:1"}),
    Wrong("bind-word", {"LIVEKIT_JWT_BIND": "nonsense"}),
]


# Starting a process is work, so not all at once.
AT_ONCE = 4
# All of them are run in the set-up of the first.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def world(stage):
    """A homeserver and an SFU for every service of this module."""
    return stage.world(start=False)


def service_with(world, env, files=None):
    """Give a service with some settings over the usual ones; those in `files` name a file."""
    service = world.stage.service(settings(world.homeserver, world.sfu) | env)
    for name, content in (files or {}).items():
        (service.folder / name).write_text(content)
        service.env[name] = str(service.folder / name)
    return service


@contextlib.contextmanager
def running(world, env, files=None):
    service = service_with(world, env, files)
    try:
        yield service.start()
    finally:
        service.kill()


@together
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_setting_ends_the_start(world, wrong):
    files = {} if wrong.key_file is None else {"LIVEKIT_KEY_FILE": wrong.key_file}
    service = service_with(world, wrong.env, files).launch()
    try:
        status = service.wait()
    finally:
        service.kill()
    assert status == 1, service.output()
    assert wrong.says in service.output()
    assert world.sfu.secret not in service.output()


def get_token(world, service):
    """Get a token, and have the SFU's key verify it."""
    reply = service.post(SFU_GET, world.member().body(SFU_GET))
    assert reply.status == 200
    claims(reply.json()["jwt"], world.sfu.key, world.sfu.secret)


@together
def test_a_key_file_wins_over_everything(world):
    env = {"LIVEKIT_KEY": "wrong", "LIVEKIT_SECRET": "wrong", "LIVEKIT_KEY_FROM_FILE": MISSING}
    files = {"LIVEKIT_KEY_FILE": f"{world.sfu.key}: {world.sfu.secret}\n"}
    with running(world, env, files) as service:
        get_token(world, service)


@together
def test_a_file_of_the_key_wins_and_is_trimmed(world):
    """The secret comes from its variable; both with white space about them."""
    env = {"LIVEKIT_KEY": "wrong", "LIVEKIT_SECRET": f" {world.sfu.secret}\r\n"}
    with running(world, env, {"LIVEKIT_KEY_FROM_FILE": f"\n {world.sfu.key} \r\n"}) as service:
        get_token(world, service)


@together
def test_a_file_of_the_secret_wins(world):
    files = {"LIVEKIT_SECRET_FROM_FILE": f"{world.sfu.secret}\n"}
    with running(world, {"LIVEKIT_SECRET": "wrong"}, files) as service:
        get_token(world, service)


@together
@pytest.mark.parametrize("name", ["LIVEKIT_JWT_PORT", "LIVEKIT_JWT_BIND"])
def test_a_port_alone_is_one_of_every_address(world, name):
    service = world.stage.service(settings(world.homeserver, world.sfu))
    del service.env["LIVEKIT_JWT_BIND"]
    service.env[name] = str(service.port) if name == "LIVEKIT_JWT_PORT" else f":{service.port}"
    try:
        service.start()
        if name == "LIVEKIT_JWT_PORT":
            assert name in service.output(), "no word about its age"
        if socket.has_dualstack_ipv6():
            socket.create_connection(("::1", service.port), 2).close()
    finally:
        service.kill()


@together
def test_the_port_is_8080_unless_said(world):
    service = service_with(world, {"LIVEKIT_JWT_BIND": ""})
    try:
        socket.create_server(("", 8080)).close()
    except OSError as error:
        pytest.skip(f"port 8080 is not to be had: {error}")
    service.url = "http://127.0.0.1:8080"
    try:
        service.start()
    finally:
        service.kill()


@together
def test_a_port_that_is_taken_ends_the_start(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = service_with(world, {"LIVEKIT_JWT_BIND": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert service.launch().wait() == 1


@together
def test_empty_settings_are_none(world):
    names = (
        "LIVEKIT_KEY_FILE",
        "LIVEKIT_KEY_FROM_FILE",
        "LIVEKIT_SECRET_FROM_FILE",
        "LIVEKIT_JWT_PORT",
        "LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS",
        "LIVEKIT_CS_API_URL_OVERRIDES",
        "LIVEKIT_REDIS_URL",
        "LIVEKIT_LOG_LEVEL",
        "LIVEKIT_INSECURE_SKIP_VERIFY_TLS",
    )
    with running(world, dict.fromkeys(names, "")) as service:
        get_token(world, service)


@together
@pytest.mark.parametrize(("value", "status"), [("YES_I_KNOW_WHAT_I_AM_DOING", 200), ("true", 401)])
def test_certificates_are_unchecked_for_one_spelling_alone(world, value, status):
    """Nobody is trusted here, so that checks fail unless they are off; the level is an odd one too."""
    env = {"SSL_CERT_FILE": "/dev/null", "LIVEKIT_LOG_LEVEL": "loud"}
    with running(world, env | {"LIVEKIT_INSECURE_SKIP_VERIFY_TLS": value}) as service:
        body = world.member().body(GET_TOKEN, world.homeserver.schedule(600_000))
        assert service.post(GET_TOKEN, body).status == status


@together
def test_an_override_takes_the_place_of_discovery(world):
    """Over plain HTTP, without a look at the well-known file; white space about the parts is nothing."""
    homeserver = world.stage.homeserver()
    overrides = f" a.example = https://a.example , {homeserver.name} = {homeserver.plain_url} "
    env = {
        "LIVEKIT_CS_API_URL_OVERRIDES": overrides,
        "LIVEKIT_FULL_ACCESS_HOMESERVERS": homeserver.name,
    }
    with running(world, env) as service:
        member, leave = Member(homeserver=homeserver), homeserver.schedule(600_000)
        assert service.post(DELEGATE, member.body(DELEGATE, leave)).status == 200
        hook = world.sfu.webhook("participant_joined", member.alias, member.identity(DELEGATE))
        hook.send(service.url)
        (restart,) = leave.restarts.wait()
    assert restart.host == homeserver.plain_url.removeprefix("http://")
    assert len(homeserver.well_known_client) == 0


def said_of_a_life(world, service):
    """Delegate a leave, join and leave; give what was printed meanwhile, and what nobody may read there."""
    member, leave = world.member(), world.homeserver.schedule(600_000)
    token = service.post(GET_TOKEN, member.body(GET_TOKEN, leave)).json()["jwt"]
    hook = world.sfu.webhook("participant_joined", member.alias, member.identity(GET_TOKEN))
    hook.send(service.url)
    leave.restarts.wait()
    hook.but(event="participant_left", reason="CLIENT_INITIATED").send(service.url)
    leave.sends.wait()
    return (
        service.output(),
        [world.sfu.secret, token],
        [leave.delay_id, member.openid["access_token"]],
    )


@together
def test_no_secret_of_ours_is_printed(world):
    with running(world, {"LIVEKIT_LOG_LEVEL": "Debug"}) as service:
        output, ours, _ = said_of_a_life(world, service)
    assert not [secret for secret in ours if secret in output]


@pytest.mark.weakness("go-0.5", "prints delay ids")
@together
def test_no_secret_of_a_user_is_printed(world):
    """A delay id is good for the event, an OpenID token for an hour."""
    with running(world, {"LIVEKIT_LOG_LEVEL": "DEBUG"}) as service:
        output, _, theirs = said_of_a_life(world, service)
    assert not [secret for secret in theirs if secret in output]
