"""Reading the environment; what a wrong one is told, in three parts."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from rtcfoci_livekit_auth import settings
from rtcfoci_livekit_auth.delegation.model import DelegationSettings
from rtcfoci_livekit_auth.policies import POLICIES, Policy
from rtcfoci_livekit_auth.settings import Settings, SettingsError
from settings_of import LEAST, SECRET, settings_of

WRONG = {
    "LIVEKIT_JWT_BIND": ["8080", ":80800", "host:port", "[::1:80", ":-1"],
    "LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS": ["-1", "1.5", "soon"],
    "LIVEKIT_MEMBERSHIP_CHECK_INTERVAL_SECONDS": ["-1"],
    "LIVEKIT_CS_API_URL_OVERRIDES": ["example.org", "=https://x", "a=https://x,,", "a="],
    "LIVEKIT_AS_REGISTRATION_FILE": ["/nowhere/at/all"],
    "LIVEKIT_KEY_FILE": ["/nowhere/at/all"],
    "RTCFOCI_AUTH_ALLOW_NETWORKS": ["10.0.0.0/33", "here"],
    "RTCFOCI_AUTH_CA_FILE": ["/nowhere/at/all", os.devnull],
    "RTCFOCI_AUTH_SFUS_FILE": ["/nowhere/at/all", os.devnull],
    "RTCFOCI_AUTH_MAX_BODY_BYTES": ["10", "1e6"],
    "RTCFOCI_AUTH_RATE_PER_USER": ["0"],
    "RTCFOCI_AUTH_DRAIN_S": ["-1", "nan"],
    "RTCFOCI_AUTH_RATE_LIMITS": ["1", "yes"],
    "RTCFOCI_AUTH_CONFIRM_LEAVES": ["on"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_wrong_value_names_its_variable_the_cause_and_the_remedy(name, value):
    with pytest.raises(SettingsError) as caught:
        settings_of(**{name: value})
    error = caught.value
    assert error.variable == name
    assert name in error.what
    assert error.why
    assert error.do
    assert SECRET not in str(error)


@pytest.mark.parametrize("name", ["LIVEKIT_URL", "LIVEKIT_KEY", "LIVEKIT_SECRET"])
def test_what_has_no_default_must_be_there(name):
    for value in ("", None):
        with pytest.raises(SettingsError, match="LIVEKIT_URL must be set"):
            Settings.read({k: v for k, v in {**LEAST, name: value}.items() if v is not None})


@pytest.mark.parametrize(
    ("bind", "host", "port"),
    [
        ("", None, 8080),
        (":9000", None, 9000),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:80", "::1", 80),
        ("localhost:1", "localhost", 1),
    ],
)
def test_addresses_to_listen_on(bind, host, port):
    read = settings_of(LIVEKIT_JWT_BIND=bind)
    assert (read.bind_host, read.bind_port) == (host, port)


@pytest.mark.parametrize("text", ["hush: more: words", "hush words", "hush: b\nc: d"])
def test_a_key_file_is_one_pair(tmp_path, text):
    file = tmp_path / "keys"
    file.write_text("one: two\n")
    sfu = settings_of(LIVEKIT_KEY_FILE=str(file)).sfus[0]
    assert (sfu.key, sfu.secret) == ("one", "two")
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        settings_of(LIVEKIT_KEY_FILE=str(file))
    assert "hush" not in str(caught.value)


def test_several_sfus_come_from_a_file(tmp_path):
    file = tmp_path / "sfus.yaml"
    file.write_text(
        f"- {{url: wss://a, key: one, secret: {SECRET}}}\n"
        f"- {{url: wss://b, internal_url: ws://10.0.0.1, key: two, secret: {SECRET}}}\n"
    )
    read = settings_of(RTCFOCI_AUTH_SFUS_FILE=str(file), LIVEKIT_URL="", LIVEKIT_KEY="")
    assert [(s.url, s.internal_url, s.key) for s in read.sfus] == [
        ("wss://a", "wss://a", "one"),
        ("wss://b", "ws://10.0.0.1", "two"),
    ]
    assert SECRET not in repr(read)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "- {url: wss://a, key: k}",
        "- {url: wss://a, key: k, secret: 5}",
        "- {url: wss://a, key: k, secret: s, other: x}",
        "- {url: wss://a, key: k, secret: s}\n- {url: wss://a, key: l, secret: t}",
        "- [",
        "- 5",
    ],
)
def test_a_file_of_sfus_that_is_wrong_is_refused(tmp_path, text):
    (tmp_path / "sfus.yaml").write_text(text)
    with pytest.raises(SettingsError, match="SFUS_FILE"):
        settings_of(RTCFOCI_AUTH_SFUS_FILE=str(tmp_path / "sfus.yaml"))


def test_the_list_of_servers():
    assert settings_of(LIVEKIT_FULL_ACCESS_HOMESERVERS="a.org, b.org\tc.org").full_access == {
        "a.org",
        "b.org",
        "c.org",
    }
    everybody = settings_of(LIVEKIT_FULL_ACCESS_HOMESERVERS="*")
    assert everybody.has_full_access("anybody.org")
    mixed = settings_of(LIVEKIT_FULL_ACCESS_HOMESERVERS="*,a.org")
    assert not mixed.has_full_access("anybody.org")
    assert not mixed.has_full_access("A.org")


def test_an_application_service_is_whole_or_not_at_all(tmp_path):
    file = tmp_path / "registration.yaml"
    file.write_text("as_token: one\nhs_token: two\n")
    whole = settings_of(
        LIVEKIT_AS_REGISTRATION_FILE=str(file),
        LIVEKIT_AS_TOKEN="other",
        LIVEKIT_HS_SERVER_NAME="example.org",
    ).appservice
    assert (whole.as_token, whole.hs_token, whole.server_name) == ("one", "two", "example.org")
    assert "one" not in repr(whole).replace("None", "")
    assert settings_of().appservice is None
    with pytest.raises(SettingsError, match="LIVEKIT_HS_SERVER_NAME"):
        settings_of(LIVEKIT_AS_REGISTRATION_FILE=str(file))
    with pytest.raises(SettingsError, match="LIVEKIT_HS_TOKEN"):
        settings_of(LIVEKIT_AS_TOKEN="a", LIVEKIT_HS_SERVER_NAME="x")
    file.write_text("as_token: 5\n")
    with pytest.raises(SettingsError, match="REGISTRATION_FILE"):
        settings_of(LIVEKIT_AS_REGISTRATION_FILE=str(file))


def test_an_operator_is_warned():
    assert "no level 'loud'" in settings_of(LIVEKIT_LOG_LEVEL="loud").warnings[0]
    assert settings_of(LIVEKIT_LOG_LEVEL="Warning").log_level == "warn"
    assert "deprecated" in settings_of(LIVEKIT_JWT_PORT="8080").warnings[0]
    assert "no scheme" in settings_of(LIVEKIT_CS_API_URL_OVERRIDES="a=b").warnings[0]


def test_where_delegations_are_kept():
    def file(**more):
        return Settings.read({**LEAST, "RTCFOCI_AUTH_STATE_FILE": "", **more}).state_file

    assert str(file(STATE_DIRECTORY="/var/lib/x:/y", HOME="/h")) == "/var/lib/x/delegations.sqlite"
    assert str(file(HOME="/h")).startswith("/h/.local/state/rtcfoci-livekit-auth/")
    assert file() is None
    assert settings_of().state_file is None


def test_the_care_for_leaves_follows_the_policy_and_can_be_set_one_by_one():
    assert not settings_of().delegation.confirm_leaves
    assert settings_of(RTCFOCI_AUTH_POLICY="msc4195").delegation.confirm_leaves
    one = settings_of(
        RTCFOCI_AUTH_CONFIRM_LEAVES="true",
        RTCFOCI_AUTH_CALLS_PER_S="0.5",
        LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS="7",
    ).delegation
    assert (one.confirm_leaves, one.remember) == (True, False)
    assert (one.calls_per_s, one.sanity_interval_s) == (0.5, 7)


REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "livekit-auth-settings.md"


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the documentation is not here")
def test_every_setting_is_documented_with_the_value_it_has():
    def rows(section):
        text = REFERENCE.read_text().partition(f"| {section}")[2].partition("\n\n")[0]
        lines = [line.split("|") for line in text.splitlines()[2:]]
        return {line[1].strip().strip("`"): [v.strip() for v in line[2:-2]] for line in lines}

    def shown(value):
        return str(value).lower() if isinstance(value, bool) else f"{value:g}"

    policies = list(POLICIES.values())
    assert rows("value | go-0.5 | rust-0.7 | msc4195") == {
        item.name: [shown(getattr(policy, item.name)) for policy in policies]
        for item in fields(Policy)
        if item.name != "name"
    }
    both = [DelegationSettings(), DelegationSettings.careful()]
    assert rows("value | original | careful") == {
        item.name: [shown(getattr(one, item.name)) for one in both]
        for item in fields(DelegationSettings)
    }
    source = Path(settings.__file__).read_text()
    read = set(re.findall(r'(?<!_PREFIX \+ )"(LIVEKIT_\w+)"', source))
    read |= {f"RTCFOCI_AUTH_{name}" for name in re.findall(r'_PREFIX \+ "(\w+)"', source)}
    documented = set(re.findall(r"`((?:LIVEKIT|RTCFOCI_AUTH)_\w+)`", REFERENCE.read_text()))
    assert read <= documented
