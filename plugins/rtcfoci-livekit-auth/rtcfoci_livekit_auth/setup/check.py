"""`rtcfoci-livekit-auth check-config`: what is wrong in the configuration, before anything runs.

In: the service's environment, and where they are named, LiveKit's and Synapse's files, compared with it.
Out: the application service (`introduction`); whether any of it is reached (`doctor`). Exit status: 0 when
nothing is wrong, 1 when something is. Secrets are compared and never printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from rtcfoci.errors import UsageError
from rtcfoci_livekit_auth.settings import Settings, SettingsError
from rtcfoci_livekit_auth.setup import introduction
from rtcfoci_livekit_auth.setup.faults import Fault, mapping

__all__ = ["faults", "main"]

_LIVEKIT_TYPES = frozenset({"livekit", "m.livekit", "msc4195.livekit"})
_LEAST_SECRET = 32
_DAY_S = 24 * 3600
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": _DAY_S, "w": 7 * _DAY_S, "y": 365 * _DAY_S}


def main(argv: Sequence[str], out: TextIO | None = None) -> int:
    """Run the command."""
    out = out or sys.stdout
    parser = argparse.ArgumentParser(
        prog="rtcfoci-livekit-auth check-config",
        description="Say what is wrong in the configuration of the service and of what is around it.",
    )
    parser.add_argument(
        "--env-file", type=Path, metavar="FILE", help="NAME=VALUE lines, instead of the environment"
    )
    parser.add_argument("--livekit", type=Path, metavar="FILE", help="livekit.yaml, to compare")
    parser.add_argument("--synapse", type=Path, metavar="FILE", help="homeserver.yaml, to compare")
    parser.add_argument(
        "--registration",
        type=Path,
        metavar="FILE",
        help="of the application service, to compare; LIVEKIT_AS_REGISTRATION_FILE by default",
    )
    options = parser.parse_args(argv)
    environment = _env_file(options.env_file) if options.env_file else os.environ
    livekit = _yaml(options.livekit) if options.livekit else None
    synapse = _yaml(options.synapse) if options.synapse else None
    registration = _registration(options.registration, environment)
    found = list(faults(environment, livekit, synapse, registration))
    for fault in found:
        print(fault, file=out)
    if not found:
        named = [("livekit", options.livekit), ("synapse", options.synapse)]
        left = [f"--{name}" for name, path in named if path is None]
        print(
            "nothing is wrong" + (f" as far as seen; add {' and '.join(left)}" if left else ""),
            file=out,
        )
    return 1 if any(fault.fatal for fault in found) else 0


def faults(
    environment: Mapping[str, str],
    livekit: Mapping[str, Any] | None = None,
    synapse: Mapping[str, Any] | None = None,
    registration: Mapping[str, Any] | None = None,
) -> Iterator[Fault]:
    """Give everything that is wrong.

    :param livekit: the content of livekit.yaml.
    :param synapse: the content of homeserver.yaml, fragments merged.
    :param registration: the content of the application service's file.
    """
    try:
        settings = Settings.read(environment)
    except SettingsError as error:
        yield Fault("settings", error.variable, error.why, error.do)
        return
    yield from (_warned(warning) for warning in settings.warnings)
    yield from _of_service(settings)
    if livekit is not None:
        yield from _of_livekit(settings, livekit)
    if synapse is not None:
        yield from _of_synapse(settings, synapse)
        yield from introduction.of_synapse(settings, synapse)
    if registration is not None:
        yield from introduction.of_registration(settings, registration)


def _warned(warning: str) -> Fault:
    where, _, what = warning.partition(": ")
    return Fault("warning", where, what, "see the message", fatal=False)


def _of_service(settings: Settings) -> Iterator[Fault]:
    for sfu in settings.sfus:
        parts = urlsplit(sfu.url)
        if parts.scheme not in {"ws", "wss", "http", "https"} or not parts.hostname:
            yield Fault(
                "sfu_url",
                "LIVEKIT_URL",
                f"{sfu.url} is no WebSocket URL",
                "write the public URL of LiveKit, such as wss://livekit.example.org",
            )
        elif parts.scheme in {"ws", "http"} and not _is_here(parts.hostname):
            yield Fault(
                "sfu_url_clear",
                "LIVEKIT_URL",
                f"{sfu.url} is not encrypted, so a page served over https may not open it",
                "put LiveKit behind a reverse proxy with a certificate, and write wss://",
                fatal=False,
            )
        if len(sfu.secret) < _LEAST_SECRET:
            yield Fault(
                "secret_short",
                "LIVEKIT_SECRET",
                f"the secret has fewer than {_LEAST_SECRET} characters, which LiveKit objects to",
                "make one with `openssl rand -base64 36`, and write it into livekit.yaml as well",
                fatal=False,
            )
    if settings.full_access == {"*"}:
        yield Fault(
            "open_to_all",
            "LIVEKIT_FULL_ACCESS_HOMESERVERS",
            "users of every homeserver in the world may create rooms on this SFU",
            "name your own homeservers",
            fatal=False,
        )
    if not settings.verify_tls:
        yield Fault(
            "tls_unchecked",
            "LIVEKIT_INSECURE_SKIP_VERIFY_TLS",
            "nobody checks whose certificate a homeserver shows, so anybody on the way can vouch for users",
            "name the private authority in RTCFOCI_AUTH_CA_FILE instead",
            fatal=False,
        )


def _is_here(host: str) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


def _of_livekit(settings: Settings, livekit: Mapping[str, Any]) -> Iterator[Fault]:
    keys = mapping(livekit.get("keys"))
    known = [sfu for sfu in settings.sfus if sfu.key in keys]
    if not known:
        yield Fault(
            "key_unknown",
            "livekit.yaml: keys",
            "none of the keys that the service uses is there",
            "write LIVEKIT_KEY and LIVEKIT_SECRET under keys, as `KEY: SECRET`",
        )
    for sfu in known:
        if str(keys[sfu.key]) != sfu.secret:
            yield Fault(
                "secret_differs",
                "livekit.yaml: keys",
                f"the secret of the key {sfu.key} is not the service's",
                "write the same secret in both places",
            )
    if mapping(livekit.get("room")).get("auto_create", True) is not False:
        yield Fault(
            "rooms_by_themselves",
            "livekit.yaml: room.auto_create",
            "LiveKit makes a room for whoever has a token, so users without full access make rooms too",
            "set room: {auto_create: false}",
            fatal=False,
        )
    yield from _of_webhook(settings, mapping(livekit.get("webhook")))


def _of_webhook(settings: Settings, webhook: Mapping[str, Any]) -> Iterator[Fault]:
    urls = [str(url) for url in webhook.get("urls") or ()]
    if not any(urlsplit(url).path.endswith("/sfu_webhook") for url in urls):
        yield Fault(
            "webhook_missing",
            "livekit.yaml: webhook.urls",
            "LiveKit does not tell the service who has gone, so delegated leaves come late",
            f"add http://127.0.0.1:{settings.bind_port}/sfu_webhook, or where the service is",
        )
    elif webhook.get("api_key") not in {sfu.key for sfu in settings.sfus}:
        yield Fault(
            "webhook_key",
            "livekit.yaml: webhook.api_key",
            "webhooks are signed with a key that the service does not know",
            "name the key of LIVEKIT_KEY",
        )


def _of_synapse(settings: Settings, synapse: Mapping[str, Any]) -> Iterator[Fault]:
    server_name = str(synapse.get("server_name", ""))
    if server_name and not settings.has_full_access(server_name):
        yield Fault(
            "no_full_access",
            "LIVEKIT_FULL_ACCESS_HOMESERVERS",
            f"{server_name} is not on the list, so its users cannot make rooms",
            f"add {server_name}",
        )
    features = mapping(synapse.get("experimental_features"))
    listed = mapping(synapse.get("matrix_rtc")).get("transports") or ()
    ours = [t for t in listed if mapping(t).get("type") in _LIVEKIT_TYPES]
    if features.get("msc4143_enabled") is not True:
        yield Fault(
            "transports_off",
            "homeserver.yaml: experimental_features.msc4143_enabled",
            "clients are not told where the focus is",
            "set it to true",
        )
    if not ours:
        yield Fault(
            "transports_missing",
            "homeserver.yaml: matrix_rtc.transports",
            "no LiveKit focus is advertised",
            "add {type: livekit, livekit_service_url: https://…}, with the service's public URL",
        )
    if _duration_s(synapse.get("max_event_delay_duration")) < _DAY_S / 24:
        yield Fault(
            "delayed_events_off",
            "homeserver.yaml: max_event_delay_duration",
            "events cannot be scheduled an hour ahead, so whoever is cut off stays as a ghost",
            "set it to 24h",
        )
    if features.get("msc4354_enabled") is not True:
        yield Fault(
            "sticky_events_off",
            "homeserver.yaml: experimental_features.msc4354_enabled",
            "calls of the newest kind are not possible",
            "set it to true",
            fatal=False,
        )


def _duration_s(value: object) -> float:
    """Read a duration as Synapse does: milliseconds, or a number with a unit."""
    text = str(value or 0)
    number, unit = (text[:-1], text[-1]) if text[-1] in _UNITS_S else (text, "")
    try:
        return float(number) * _UNITS_S[unit] if unit else float(number) / 1000
    except ValueError:
        return 0.0


def _env_file(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in _text(path).splitlines()]
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def _registration(named: Path | None, environment: Mapping[str, str]) -> Mapping[str, Any] | None:
    given = environment.get("LIVEKIT_AS_REGISTRATION_FILE", "")
    path = named or (Path(given) if given else None)
    # One that the service cannot read either is named with its settings.
    return _yaml(path) if path is not None and (named or path.is_file()) else None


def _yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "somewhere"
        raise UsageError(
            f"{path} is no YAML", why=f"it breaks off at {where}", do="correct it"
        ) from None
    if not isinstance(found, Mapping):
        raise UsageError(
            f"{path} is no configuration", why="it has no keys", do="name another file"
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"{path} cannot be read", why=str(why), do="name a file that is there"
        ) from None
