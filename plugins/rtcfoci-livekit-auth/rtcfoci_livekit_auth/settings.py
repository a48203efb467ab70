"""The configuration: every variable of lk-jwt-service as it is, and ours, which begin with `RTCFOCI_AUTH_`.

In: `Settings` and how it is read from the environment. Out: the values of generations (`policies`), of which
each can be set one by one: `RTCFOCI_AUTH_TOKEN_TTL_S` sets `token_ttl_s`, and so on.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rtcfoci_livekit_auth.delegation.model import DelegationSettings
from rtcfoci_livekit_auth.environment import Environment, Network, SettingsError
from rtcfoci_livekit_auth.logs import FORMATS
from rtcfoci_livekit_auth.policies import POLICIES, Policy

__all__ = ["Appservice", "Bind", "Limits", "Settings", "SettingsError", "SfuSettings"]

_SKIP_VERIFY = "YES_I_KNOW_WHAT_I_AM_DOING"
_PREFIX = "RTCFOCI_AUTH_"

V = TypeVar("V", Policy, DelegationSettings)


class Bind(NamedTuple):
    """Where to listen."""

    host: str | None
    """None: every address, IPv4 and IPv6."""
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SfuSettings:
    """One LiveKit server, or one cluster of them."""

    url: str
    """Where clients reach it; given to them letter for letter."""
    internal_url: str
    """Where we reach it."""
    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appservice:
    """What the homeserver and we know each other by (MSC4512)."""

    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    server_name: str
    homeserver_url: str
    """Where its client-server API is; empty where discovery or an override says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may take, and how many may come."""

    max_body_bytes: int
    max_webhook_bytes: int
    read_s: float
    """How long a request may take to arrive."""
    per_address: int
    """Requests per minute of one client address; so below."""
    per_server: int
    per_user: int
    trusted_proxies: tuple[Network, ...]
    """Who may name the client's address in X-Forwarded-For."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that is configured; immutable."""

    policy: Policy
    """The generation's values, with what was set one by one."""
    sfus: tuple[SfuSettings, ...]
    """Never empty."""
    full_access: frozenset[str]
    """Server names whose users may create rooms and delegate; `*` alone stands for all."""
    bind_host: str | None
    """None: every address, IPv4 and IPv6."""
    bind_port: int
    client_urls: Mapping[str, str]
    """Client-server API by server name, instead of discovery."""
    federation_urls: Mapping[str, str]
    """Where OpenID tokens of a server name are looked up, instead of federation discovery."""
    redis_url: str | None = field(repr=False)
    redis_password: str = field(repr=False)
    replica: str
    """This replica's name, the same after a restart and another for each."""
    lease_s: float
    """How long a silent replica keeps its work, where several share a Redis; 0: nobody takes it over."""
    state_file: Path | None
    """The SQLite file; None keeps everything in memory."""
    state_file_required: bool
    """Whether the operator named it, so that failing to open it is fatal."""
    delegation: DelegationSettings
    """How leaves are watched over."""
    membership_interval_s: int
    """How often members on the SFU are compared with the Matrix room; 0: never."""
    log_level: str
    log_format: str
    metrics_bind: Bind | None
    """Where Prometheus may ask; None: nowhere."""
    verify_tls: bool
    ca_file: Path | None
    """Certificates of a private authority, trusted beside the system's."""
    allow_networks: tuple[Network, ...]
    """Private networks that members' servers may be in all the same."""
    limits: Limits
    room_empty_timeout_s: int
    room_departure_timeout_s: int
    room_max_participants: int
    drain_s: float
    """How long running requests and leaves may take after SIGTERM."""
    appservice: Appservice | None
    warnings: tuple[str, ...]
    """What an operator should be told at start."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment.

        :raises SettingsError: naming the variable, the cause and the remedy.
        """
        env = Environment(os.environ if environment is None else environment)
        warnings: list[str] = []
        bind = _bind(env, warnings)
        state_file, required = _state_file(env)
        policy = _policy(env)
        appservice = _appservice(env)
        return cls(
            policy=policy,
            sfus=_sfus(env),
            full_access=_full_access(env),
            bind_host=bind.host,
            bind_port=bind.port,
            client_urls=_client_urls(env, appservice, warnings),
            federation_urls=_urls(env, _PREFIX + "FEDERATION_URL_OVERRIDES", warnings),
            redis_url=env.text("LIVEKIT_REDIS_URL") or None,
            redis_password=env.text("LIVEKIT_REDIS_PASSWORD"),
            replica=env.text(_PREFIX + "REPLICA", socket.gethostname()),
            lease_s=env.number(_PREFIX + "LEASE_S", 15.0 if policy.careful_leaves else 0.0),
            state_file=state_file,
            state_file_required=required,
            delegation=_delegation(env, policy),
            membership_interval_s=env.whole(
                "LIVEKIT_MEMBERSHIP_CHECK_INTERVAL_SECONDS", 60 if policy.kick_leavers else 0
            ),
            log_level=_log_level(env, warnings),
            log_format=env.choice(_PREFIX + "LOG_FORMAT", FORMATS),
            metrics_bind=_address(env, _PREFIX + "METRICS_BIND"),
            verify_tls=env.text("LIVEKIT_INSECURE_SKIP_VERIFY_TLS") != _SKIP_VERIFY,
            ca_file=_ca_file(env),
            allow_networks=env.networks(_PREFIX + "ALLOW_NETWORKS"),
            limits=Limits(
                max_body_bytes=env.whole(_PREFIX + "MAX_BODY_BYTES", 1 << 20, least=1024),
                max_webhook_bytes=env.whole(_PREFIX + "MAX_WEBHOOK_BYTES", 8 << 20, least=1024),
                read_s=env.number(_PREFIX + "READ_TIMEOUT_S", 30.0),
                per_address=env.whole(_PREFIX + "RATE_PER_ADDRESS", 120, least=1),
                per_server=env.whole(_PREFIX + "RATE_PER_SERVER", 3000, least=1),
                per_user=env.whole(_PREFIX + "RATE_PER_USER", 60, least=1),
                trusted_proxies=env.networks(_PREFIX + "TRUSTED_PROXIES"),
            ),
            room_empty_timeout_s=env.whole(_PREFIX + "ROOM_EMPTY_TIMEOUT_S", 300),
            room_departure_timeout_s=env.whole(_PREFIX + "ROOM_DEPARTURE_TIMEOUT_S", 20),
            room_max_participants=env.whole(_PREFIX + "ROOM_MAX_PARTICIPANTS", 0),
            drain_s=env.number(_PREFIX + "DRAIN_S", 8.0),
            appservice=appservice,
            warnings=tuple(warnings),
        )

    def has_full_access(self, server_name: str) -> bool:
        """Tell whether users of a server may create rooms and delegate: exactly this name, case and all."""
        return server_name in self.full_access or self.full_access == {"*"}


def _policy(env: Environment) -> Policy:
    policy = POLICIES[env.choice(_PREFIX + "POLICY", POLICIES)]
    if env.has("LIVEKIT_CAN_UPDATE_OWN_METADATA"):
        own = env.text("LIVEKIT_CAN_UPDATE_OWN_METADATA") == "true"
        policy = replace(policy, may_update_own_metadata=own)
    return _with_own(policy, env)


def _delegation(env: Environment, policy: Policy) -> DelegationSettings:
    careful = DelegationSettings.careful() if policy.careful_leaves else DelegationSettings()
    name = "LIVEKIT_SANITY_CHECK_INTERVAL_SECONDS"
    if env.has(name):
        careful = replace(careful, sanity_interval_s=env.whole(name, 0))
    return _with_own(careful, env)


def _with_own(values: V, env: Environment) -> V:
    """Take every field that is set one by one: `RTCFOCI_AUTH_` and its name."""
    changed: dict[str, Any] = {}
    for item in fields(values):
        name, now = _PREFIX + item.name.upper(), getattr(values, item.name)
        if not env.has(name) or item.name == "name":
            continue
        if isinstance(now, bool):
            changed[item.name] = env.flag(name, now)
        elif isinstance(now, int):
            changed[item.name] = env.whole(name, now)
        else:
            changed[item.name] = env.number(name, now)
    return replace(values, **changed)


def _sfus(env: Environment) -> tuple[SfuSettings, ...]:
    several = _PREFIX + "SFUS_FILE"
    if env.has(several):
        return _sfus_of_file(several, env.file(several))
    if env.has("LIVEKIT_KEY_FILE"):
        key, secret = _key_file("LIVEKIT_KEY_FILE", env.file("LIVEKIT_KEY_FILE"))
    else:
        key, secret = env.secret("LIVEKIT_KEY"), env.secret("LIVEKIT_SECRET")
    url = env.text("LIVEKIT_URL")
    if not (key and secret and url):
        raise SettingsError(
            "LIVEKIT_KEY* / LIVEKIT_SECRET* and LIVEKIT_URL must be set",
            "without them no token can be made",
            do="set LIVEKIT_URL to the SFU's public URL, and the key pair as in its own `keys`",
        )
    internal = env.text(_PREFIX + "LIVEKIT_INTERNAL_URL", url)
    return (SfuSettings(url=url, internal_url=internal, key=key, secret=secret),)


def _key_file(name: str, text: str) -> tuple[str, str]:
    parts = text.split(":")
    if len(parts) != 2:
        raise SettingsError(
            name,
            "the file must hold one line of the form `key: secret`",
            do="write one key and its secret into it, with one colon between",
        )
    key, secret = (part.strip(" \r\n") for part in parts)
    return key, secret


def _sfus_of_file(name: str, text: str) -> tuple[SfuSettings, ...]:
    import yaml

    wrong = SettingsError(
        name,
        "it must be a YAML list of entries with url, key and secret, and internal_url where it differs",
        do="write one entry for each LiveKit server",
    )
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError:
        raise wrong from None
    if not isinstance(entries, list) or not entries:
        raise wrong
    found: list[SfuSettings] = []
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
            raise wrong
        given: dict[str, str] = {"internal_url": entry.get("url", ""), **entry}
        if set(given) != {"url", "internal_url", "key", "secret"} or not all(given.values()):
            raise wrong
        found.append(SfuSettings(**given))
    if len({sfu.url for sfu in found}) < len(found):
        raise SettingsError(name, "two entries have the same url", do="keep one of them")
    return tuple(found)


def _full_access(env: Environment) -> frozenset[str]:
    name = "LIVEKIT_FULL_ACCESS_HOMESERVERS"
    if not (words := env.words(name)):
        raise SettingsError(
            name,
            "it is not set, and there is no default",
            do="set it to your homeserver's name; `*` lets users of every server create rooms",
        )
    return frozenset(words)


def _bind(env: Environment, warnings: list[str]) -> Bind:
    bind, port = env.text("LIVEKIT_JWT_BIND"), env.text("LIVEKIT_JWT_PORT")
    if bind and port:
        raise SettingsError(
            "LIVEKIT_JWT_BIND",
            "LIVEKIT_JWT_PORT is set as well",
            do="keep LIVEKIT_JWT_BIND, such as :8080, and leave LIVEKIT_JWT_PORT out",
        )
    if port:
        warnings.append("LIVEKIT_JWT_PORT is deprecated: set LIVEKIT_JWT_BIND to :" + port)
        bind = ":" + port
    return _parsed_bind("LIVEKIT_JWT_BIND", bind or ":8080")


def _address(env: Environment, name: str) -> Bind | None:
    return _parsed_bind(name, env.text(name)) if env.has(name) else None


def _parsed_bind(name: str, text: str) -> Bind:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise SettingsError(
            name,
            f"{text!r} is not of the form ADDRESS:PORT",
            do="write :8080 for every address, or 127.0.0.1:8080, or [::1]:8080",
        )
    return Bind(found[1] or found[2] or None, int(found[3]))


def _urls(env: Environment, name: str, warnings: list[str]) -> dict[str, str]:
    urls = env.pairs(name)
    warnings += [
        f"{name}: {url} has no scheme, so every request to it will fail; write https:// before it"
        for url in urls.values()
        if not url.startswith(("http://", "https://"))
    ]
    return urls


def _client_urls(
    env: Environment, service: Appservice | None, warnings: list[str]
) -> dict[str, str]:
    urls = _urls(env, "LIVEKIT_CS_API_URL_OVERRIDES", warnings)
    if service is not None and service.homeserver_url:
        urls.setdefault(service.server_name, service.homeserver_url)
    return urls


def _state_file(env: Environment) -> tuple[Path | None, bool]:
    given = env.text(_PREFIX + "STATE_FILE")
    if given:
        return (None, False) if given == "none" else (Path(given), True)
    # systemd names its StateDirectory; elsewhere the state of a user's programs has its place.
    folder = env.text("STATE_DIRECTORY").partition(":")[0]
    home = env.text("XDG_STATE_HOME") or (
        os.path.join(env.text("HOME"), ".local", "state") if env.has("HOME") else ""
    )
    if not folder and not home:
        return None, False
    base = Path(folder) if folder else Path(home) / "rtcfoci-livekit-auth"
    return base / "delegations.sqlite", False


def _log_level(env: Environment, warnings: list[str]) -> str:
    given = env.text("LIVEKIT_LOG_LEVEL", "info")
    level = {"warning": "warn"}.get(given.lower(), given.lower())
    if level in ("debug", "info", "warn", "error"):
        return level
    warnings.append(f"LIVEKIT_LOG_LEVEL: there is no level {given!r}; info is used")
    return "info"


def _ca_file(env: Environment) -> Path | None:
    name = _PREFIX + "CA_FILE"
    if not env.has(name):
        return None
    if "BEGIN CERTIFICATE" not in env.file(name):
        raise SettingsError(name, "it holds no certificate", do="name a file in PEM format")
    return Path(env.text(name))


def _appservice(env: Environment) -> Appservice | None:
    tokens = {name: env.text(f"LIVEKIT_{name}") for name in ("AS_TOKEN", "HS_TOKEN")}
    file = "LIVEKIT_AS_REGISTRATION_FILE"
    if env.has(file):
        tokens = _registration(file, env.file(file))
    given = {**tokens, "HS_SERVER_NAME": env.text("LIVEKIT_HS_SERVER_NAME")}
    if not any(given.values()):
        return None
    for name, value in given.items():
        if not value:
            raise SettingsError(
                f"LIVEKIT_{name}",
                "it is missing, and the other settings of the application service are there",
                do="set the registration file (or both tokens) and LIVEKIT_HS_SERVER_NAME, or none",
            )
    return Appservice(
        as_token=given["AS_TOKEN"],
        hs_token=given["HS_TOKEN"],
        server_name=given["HS_SERVER_NAME"],
        homeserver_url=env.text(_PREFIX + "HOMESERVER_URL").rstrip("/"),
    )


def _registration(name: str, text: str) -> dict[str, str]:
    import yaml

    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError:
        entries = None
    tokens = [
        entries.get(k) if isinstance(entries, dict) else None for k in ("as_token", "hs_token")
    ]
    if not all(isinstance(token, str) and token for token in tokens):
        raise SettingsError(
            name,
            "it must be a YAML object with the strings as_token and hs_token",
            do="print a registration with `rtcfoci-livekit-auth registration`",
        )
    return {"AS_TOKEN": str(tokens[0]), "HS_TOKEN": str(tokens[1])}
