"""What we tell Synapse: a configuration for tests, written as JSON, which is YAML too.

In: the options tests choose, and the configuration they become. Out: running it (`synapse`).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcfoci.core.model import JsonObject

__all__ = ["SynapseOptions", "write_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynapseOptions:
    """What a test may choose about its homeserver."""

    delayed_events: bool = True
    """MSC4140, up to 24 h."""
    sticky_events: bool = True
    """MSC4354."""
    rtc_transports: Sequence[JsonObject] | None = ()
    """MSC4143: what `rtc/transports` answers; None switches the endpoint off."""
    turn_uris: Sequence[str] = ()
    """What `voip/turnServer` answers; empty means Synapse answers `{}`."""
    default_rate_limits: bool = False
    """Keep Synapse's own limits instead of lifting them."""
    max_delayed_events: int = 100
    """How many delayed events a user may have (Synapse's default is 100)."""
    extra: Mapping[str, object] | None = None
    """More keys for the configuration's top level, written last."""


_LIFTED = {"per_second": 1e6, "burst_count": 1_000_000}


def write_config(
    folder: Path,
    options: SynapseOptions,
    *,
    server_name: str,
    port: int,
    tls_port: int | None,
    shared_secret: str,
) -> Path:
    """Write configuration, logging and signing key into `folder`; give the configuration's path.

    A signing key that is there already is kept, since a restarted server is the same server.
    """
    key = folder / "signing.key"
    if not key.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        key.touch(mode=0o600)
        key.write_text(f"ed25519 a_{secrets.token_hex(3)} {seed}\n")
    log_config = folder / "log.json"
    log_config.write_text(json.dumps(_logging(folder / "homeserver.log")))
    listeners: list[dict[str, object]] = [_listener(port, tls=False)]
    config: dict[str, object] = {
        "server_name": server_name,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "pid_file": str(folder / "homeserver.pid"),
        "listeners": listeners,
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "log_config": str(log_config),
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(key),
        "macaroon_secret_key": shared_secret,
        "form_secret": shared_secret,
        "registration_shared_secret": shared_secret,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "report_stats": False,
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "presence": {"enabled": False},
        "user_directory": {"enabled": False},
        "stats": {"enabled": False},
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "federation_verify_certificates": False,
        # Federation between two servers of one test: give up soon, retry soon.
        "federation": {
            "client_timeout": "10s",
            "max_short_retry_delay": "1s",
            "max_long_retry_delay": "2s",
            "destination_min_retry_interval": "1s",
            "destination_max_retry_interval": "2s",
        },
        "experimental_features": {
            "msc4140_max_delayed_events_per_user": options.max_delayed_events,
            "msc4354_enabled": options.sticky_events,
            "msc4143_enabled": options.rtc_transports is not None,
        },
        "matrix_rtc": {"transports": list(options.rtc_transports or ())},
    }
    if options.delayed_events:
        config["max_event_delay_duration"] = "24h"
    if options.turn_uris:
        config["turn_uris"] = list(options.turn_uris)
        config["turn_shared_secret"] = shared_secret
        config["turn_user_lifetime"] = "1h"
    if tls_port is not None:
        listeners.append(_listener(tls_port, tls=True))
        config["tls_certificate_path"] = str(folder / "tls.crt")
        config["tls_private_key_path"] = str(folder / "tls.key")
    if not options.default_rate_limits:
        config |= _no_rate_limits()
    config |= options.extra or {}
    path = folder / "homeserver.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path


def _listener(port: int, *, tls: bool) -> dict[str, object]:
    names = ["client", "federation", "openid"] if tls else ["client", "openid"]
    return {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "tls": tls,
        "x_forwarded": False,
        "resources": [{"names": names, "compress": False}],
    }


def _logging(path: Path) -> dict[str, object]:
    return {
        "version": 1,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s %(request)s %(message)s"}
        },
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(path), "formatter": "line"}
        },
        "root": {"level": "INFO", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }


def _no_rate_limits() -> dict[str, object]:
    flat = (
        "rc_message rc_registration rc_registration_token_validity rc_admin_redaction "
        "rc_joins_per_room rc_key_requests rc_third_party_invite rc_media_create "
        "rc_delayed_event_mgmt rc_room_creation rc_reports rc_user_directory rc_profile"
    )
    nested = {
        "rc_login": ("address", "account", "failed_attempts"),
        "rc_joins": ("local", "remote"),
        "rc_invites": ("per_room", "per_user", "per_issuer"),
        "rc_presence": ("per_user",),
    }
    lifted: dict[str, object] = dict.fromkeys(flat.split(), _LIFTED)
    lifted |= {name: dict.fromkeys(parts, _LIFTED) for name, parts in nested.items()}
    lifted["rc_federation"] = {"sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100}
    return lifted
