"""`init` writes what fits together; `check-config` says where it does not."""

import io
import stat

import pytest
import yaml
from rtcfoci_livekit_auth.settings import Settings
from rtcfoci_livekit_auth.setup.check import faults
from rtcfoci_livekit_auth.setup.check import main as check
from rtcfoci_livekit_auth.setup.command import main as init

from rtcfoci.errors import UsageError


def written(folder, *more):
    out = io.StringIO()
    assert init(["--out", str(folder), "--server-name", "example.org", *more], out) == 0
    return out.getvalue()


def environment_of(folder):
    lines = (folder / "livekit-auth.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def parts(folder):
    livekit = yaml.safe_load((folder / "livekit.yaml").read_text())
    synapse = yaml.safe_load((folder / "synapse-rtc.yaml").read_text())
    return environment_of(folder), livekit, {"server_name": "example.org", **synapse}


def test_what_init_writes_fits_together(tmp_path):
    told = written(tmp_path / "out")
    assert "doctor example.org" in told
    assert list(faults(*parts(tmp_path / "out"))) == []
    settings = Settings.read(environment_of(tmp_path / "out"))
    assert settings.sfus[0].url == "wss://matrix-rtc.example.org/livekit/sfu"


def test_secrets_are_for_the_owner_alone(tmp_path):
    told = written(tmp_path)
    secret = environment_of(tmp_path)["LIVEKIT_SECRET"]
    assert len(secret) >= 32
    assert secret not in told
    for name in ("livekit.yaml", "livekit-auth.env"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_every_deployment_has_keys_of_its_own(tmp_path):
    for name in ("one", "two"):
        written(tmp_path / name)
    one, two = (environment_of(tmp_path / name) for name in ("one", "two"))
    assert one["LIVEKIT_SECRET"] != two["LIVEKIT_SECRET"]


def test_nothing_is_overwritten(tmp_path):
    written(tmp_path)
    before = (tmp_path / "livekit.yaml").read_text()
    with pytest.raises(UsageError, match="is there already"):
        written(tmp_path)
    assert (tmp_path / "livekit.yaml").read_text() == before


def test_caddy_strips_the_prefixes(tmp_path):
    written(tmp_path, "--proxy", "caddy")
    text = (tmp_path / "Caddyfile").read_text()
    assert "handle_path /livekit/jwt/* {\n\t\treverse_proxy 127.0.0.1:8080" in text
    assert "handle_path /livekit/sfu/* {\n\t\treverse_proxy 127.0.0.1:7880" in text
    assert not (tmp_path / "rtc-site.conf").exists()


def test_what_was_not_told_is_asked(tmp_path):
    questions = []
    answers = iter(["example.org", "", "calls.example.org", "caddy", ""])

    def ask(question):
        questions.append(question)
        return next(answers)

    assert init(["--out", str(tmp_path)], io.StringIO(), ask) == 0
    assert len(questions) == 5
    assert "[https://example.org]" in questions[1]
    url = environment_of(tmp_path)["LIVEKIT_URL"]
    assert url == "wss://calls.example.org/livekit/sfu"


def test_nobody_to_ask(tmp_path):
    with pytest.raises(UsageError) as caught:
        init(["--out", str(tmp_path)], io.StringIO(), None)
    assert "--server-name" in caught.value.do


@pytest.mark.parametrize(
    "options",
    [
        ["--rtc-host", "a b"],
        ["--synapse", "127.0.0.1:8008"],
        ["--homeserver-url", "matrix.example.org"],
    ],
)
def test_values_of_another_form_are_refused(tmp_path, options):
    with pytest.raises(UsageError) as caught:
        written(tmp_path / "out", *options)
    assert options[1] in str(caught.value)
    assert not (tmp_path / "out").exists()


def behind(folder):
    written(folder, "--appservice")
    registration = yaml.safe_load((folder / "livekit-auth-registration.yaml").read_text())
    return *parts(folder), registration


def test_what_init_writes_for_an_application_service_fits_together(tmp_path):
    environment, livekit, synapse, registration = behind(tmp_path)
    assert list(faults(environment, livekit, synapse, registration)) == []
    settings = Settings.read(environment)
    assert settings.appservice.as_token == registration["as_token"]
    assert settings.appservice.server_name == "example.org"
    file = tmp_path / "livekit-auth-registration.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert synapse["app_service_config_files"] == [str(file)]
    assert synapse["matrix_rtc"]["transports"][0]["url"] == environment["LIVEKIT_URL"]


def test_the_registration_may_be_elsewhere(tmp_path):
    written(tmp_path, "--registration-file", "/etc/synapse/calls.yaml")
    _, _, synapse = parts(tmp_path)
    assert synapse["app_service_config_files"] == ["/etc/synapse/calls.yaml"]


def env(name, value):
    def change(environment, livekit, synapse):
        environment[name] = value

    return change


def sfu(*path, value):
    def change(environment, livekit, synapse):
        _set(livekit, path, value)

    return change


def hs(*path, value):
    def change(environment, livekit, synapse):
        _set(synapse, path, value)

    return change


def reg(*path, value):
    return lambda environment, livekit, synapse, registration: _set(registration, path, value)


PROXY_URL = "io.element.msc4512.proxy_url"
SCOPES = "io.element.msc4502.scopes"
IS_JOINED = "urn:matrix:client:io.element.msc4502:rooms:is_joined"


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (env("LIVEKIT_AS_TOKEN", "other"), ["registration_token"]),
        (env("LIVEKIT_HS_TOKEN", "other"), ["registration_token"]),
        (env("LIVEKIT_AS_TOKEN", ""), ["settings"]),
        (env("LIVEKIT_HS_SERVER_NAME", "example.com"), ["server_name_differs"]),
        (env("LIVEKIT_JWT_BIND", "127.0.0.1:8081"), ["registration_proxy_url"]),
        (
            reg(PROXY_URL, value="http://service.example.org/livekit/jwt"),
            ["registration_proxy_url"],
        ),
        (reg(PROXY_URL, value=None), ["registration_proxy_url"]),
        (reg(PROXY_URL, value="http://service.example.org:9"), []),
        (reg("io.element.msc4512.proxy_prefix", value="rtc"), ["registration_prefix"]),
        (reg("org.matrix.msc4512.proxy_url", value="http://x"), ["registration_key"]),
        (reg(SCOPES, value=[]), ["registration_scopes"]),
        (reg(SCOPES, value=[IS_JOINED, "other"]), ["registration_scopes"]),
        (
            reg("namespaces", value={"users": [{"regex": "@bot:.*"}, {"regex": "("}, 1]}),
            ["registration_users"],
        ),
        (reg("namespaces", value={"users": [{"regex": "@.*:example.org"}]}), []),
        (hs("app_service_config_files", value=[]), ["appservice_not_named"]),
        (hs("experimental_features", "msc4512_enabled", value=False), ["appservice_off"]),
        (hs("experimental_features", "msc4502_enabled", value=False), ["appservice_off"]),
        (hs("server_name", value="example.com"), ["no_full_access", "server_name_differs"]),
    ],
)
def test_an_introduction_that_does_not_fit_is_named(tmp_path, change, codes):
    given = behind(tmp_path)
    with_registration = change.__code__.co_argcount == 4
    change(*given[: 4 if with_registration else 3])
    found = list(faults(*given))
    assert [fault.code for fault in found] == codes
    assert all(fault.what and fault.remedy and fault.where for fault in found)


def test_a_registration_that_the_service_knows_nothing_of(tmp_path):
    environment, livekit, synapse, registration = behind(tmp_path)
    environment = {
        name: v for name, v in environment.items() if "_AS_" not in name and "_HS_" not in name
    }
    found = faults(environment, livekit, synapse, registration)
    assert [fault.code for fault in found] == ["appservice_unset"]
    del registration["url"]
    environment = environment_of(tmp_path)
    found = faults(environment, livekit, synapse, registration)
    assert [fault.code for fault in found] == ["registration_url"]


def _set(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (env("LIVEKIT_URL", ""), ["settings"]),
        (env("LIVEKIT_URL", "ftp://livekit.example.org"), ["sfu_url"]),
        (env("LIVEKIT_URL", "ws://livekit.example.org"), ["sfu_url_clear"]),
        (env("LIVEKIT_JWT_BIND", "eight"), ["settings"]),
        (env("LIVEKIT_SECRET", "short"), ["secret_short", "secret_differs"]),
        (env("LIVEKIT_SECRET", "another-secret-of-at-least-32-characters"), ["secret_differs"]),
        (env("LIVEKIT_KEY", "other"), ["key_unknown", "webhook_key"]),
        (env("LIVEKIT_FULL_ACCESS_HOMESERVERS", "*"), ["open_to_all"]),
        (env("LIVEKIT_FULL_ACCESS_HOMESERVERS", "example.com"), ["no_full_access"]),
        (env("LIVEKIT_CS_API_URL_OVERRIDES", "example.org=matrix.example.org"), ["warning"]),
        (env("LIVEKIT_INSECURE_SKIP_VERIFY_TLS", "YES_I_KNOW_WHAT_I_AM_DOING"), ["tls_unchecked"]),
        (sfu("keys", value={}), ["key_unknown"]),
        (sfu("keys", value=["a"]), ["key_unknown"]),
        (sfu("room", value={}), ["rooms_by_themselves"]),
        (sfu("webhook", value=None), ["webhook_missing"]),
        (sfu("webhook", "urls", value=["http://127.0.0.1:8080/hook"]), ["webhook_missing"]),
        (sfu("webhook", "api_key", value="other"), ["webhook_key"]),
        (hs("max_event_delay_duration", value=None), ["delayed_events_off"]),
        (hs("max_event_delay_duration", value="10m"), ["delayed_events_off"]),
        (hs("max_event_delay_duration", value=86_400_000), []),
        (hs("max_event_delay_duration", value="soon"), ["delayed_events_off"]),
        (hs("matrix_rtc", value={}), ["transports_missing"]),
        (hs("matrix_rtc", "transports", value=[{"type": "mesh"}, None]), ["transports_missing"]),
        (hs("experimental_features", value={"msc4354_enabled": True}), ["transports_off"]),
        (hs("experimental_features", value={"msc4143_enabled": True}), ["sticky_events_off"]),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, codes):
    written(tmp_path)
    environment, livekit, synapse = parts(tmp_path)
    change(environment, livekit, synapse)
    found = list(faults(environment, livekit, synapse))
    assert [fault.code for fault in found] == codes
    assert all(fault.what and fault.remedy and fault.where for fault in found)


def test_the_command_reads_files_and_prints_no_secret(tmp_path):
    written(tmp_path)
    path = tmp_path / "livekit-auth.env"
    secret = environment_of(tmp_path)["LIVEKIT_SECRET"]
    out = io.StringIO()
    options = ["--env-file", str(path), "--livekit", str(tmp_path / "livekit.yaml")]
    assert check(options, out) == 0
    assert "nothing is wrong as far as seen; add --synapse" in out.getvalue()
    path.write_text(path.read_text().replace(secret, secret[::-1]))
    assert check(options, out) == 1
    assert "FAIL livekit.yaml: keys" in out.getvalue()
    assert secret not in out.getvalue()
    assert secret[::-1] not in out.getvalue()


@pytest.mark.parametrize("text", [None, "a: [", "just words", ""])
def test_files_that_are_none(tmp_path, text):
    path = tmp_path / "livekit.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        check(["--livekit", str(path)], io.StringIO())
    assert caught.value.do


def test_the_command_reads_a_registration_that_the_environment_names(tmp_path):
    environment, _, _, registration = behind(tmp_path)
    file = tmp_path / "livekit-auth-registration.yaml"
    registration[PROXY_URL] = "http://127.0.0.1:1"
    file.write_text(yaml.safe_dump(registration))
    env_file = tmp_path / "other.env"
    kept = {
        name: v
        for name, v in environment.items()
        if name not in ("LIVEKIT_AS_TOKEN", "LIVEKIT_HS_TOKEN")
    }
    kept["LIVEKIT_AS_REGISTRATION_FILE"] = str(file)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in kept.items()))
    out = io.StringIO()
    assert check(["--env-file", str(env_file)], out) == 1
    assert "FAIL registration: io.element.msc4512.proxy_url" in out.getvalue()
    assert registration["as_token"] not in out.getvalue()
