"""Whether the homeserver and the service are introduced to each other as MSC4512 wants it.

In: the service's settings, the registration file and homeserver.yaml, compared. Out: reading them (`check`).

Synapse passes over a key of the registration that it does not know, stops at a scope that it does not know,
and needs both features switched on; so a file with other spellings loads, and nothing comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from rtcfoci_livekit_auth.appservice.registration import PROXY_PREFIX, SCOPES
from rtcfoci_livekit_auth.settings import Appservice, Settings
from rtcfoci_livekit_auth.setup.faults import Fault, mapping

__all__ = ["of_registration", "of_synapse"]

_PREFIX_KEY, _URL_KEY = "io.element.msc4512.proxy_prefix", "io.element.msc4512.proxy_url"
_SCOPES_KEY = "io.element.msc4502.scopes"
_FEATURES = ("msc4502_enabled", "msc4512_enabled")
_PRINT = "print a registration with `rtcfoci-livekit-auth registration`, and take it from there"


def of_registration(settings: Settings, registration: Mapping[str, Any]) -> Iterator[Fault]:
    """Give what is wrong in the registration file."""
    service = settings.appservice
    if service is None:
        yield Fault(
            "appservice_unset",
            "LIVEKIT_AS_REGISTRATION_FILE",
            "there is a registration, and the service is told nothing of it",
            "set it to the file, and LIVEKIT_HS_SERVER_NAME to the homeserver's name",
        )
        return
    for name, ours in (("as_token", service.as_token), ("hs_token", service.hs_token)):
        if registration.get(name) != ours:
            yield _fault("token", name, "it is not the service's", "write the same in both places")
    if "url" not in registration:
        yield _fault("url", "url", "the key is missing, so Synapse does not start", "url: null")
    if registration.get(_PREFIX_KEY) != PROXY_PREFIX:
        why = f"it is not {PROXY_PREFIX}, so Synapse passes nothing on that the service knows"
        yield _fault("prefix", _PREFIX_KEY, why, f"{_PREFIX_KEY}: {PROXY_PREFIX}")
    yield from _of_proxy_url(settings, registration.get(_URL_KEY))
    yield from _of_scopes(registration.get(_SCOPES_KEY))
    yield from _of_users(service, registration)
    for name in registration:
        known = name in (_PREFIX_KEY, _URL_KEY, _SCOPES_KEY)
        if re.search("msc4512|msc4502|proxy|scope", name) and not known:
            yield _fault("key", name, "Synapse knows no such key", _PRINT)


def _fault(code: str, key: str, what: str, remedy: str) -> Fault:
    return Fault(f"registration_{code}", f"registration: {key}", what, remedy)


def _of_proxy_url(settings: Settings, url: object) -> Iterator[Fault]:
    here = f"http://127.0.0.1:{settings.bind_port}"
    parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        yield _fault("proxy_url", _URL_KEY, "it is no URL", f"{_URL_KEY}: {here}")
    elif parts.path.strip("/"):
        yield _fault("proxy_url", _URL_KEY, "it has a path", "leave the path out")
    elif parts.hostname in {"localhost", "127.0.0.1", "::1"} and parts.port != settings.bind_port:
        why = f"the service listens at port {settings.bind_port}, not there"
        yield _fault("proxy_url", _URL_KEY, why, f"{_URL_KEY}: {here}")


def _of_scopes(scopes: object) -> Iterator[Fault]:
    given = scopes if isinstance(scopes, list) else []
    if missing := [scope for scope in SCOPES if scope not in given]:
        why = "the service may not ask who is joined, so everybody is refused"
        yield _fault("scopes", _SCOPES_KEY, why, f"add {', '.join(missing)}")
    if unknown := [str(scope)[:80] for scope in given if scope not in SCOPES]:
        why = f"Synapse does not start with: {', '.join(unknown)}"
        yield _fault("scopes", _SCOPES_KEY, why, "leave them out")


def _of_users(service: Appservice, registration: Mapping[str, Any]) -> Iterator[Fault]:
    users = mapping(registration.get("namespaces")).get("users")
    somebody = f"@somebody:{service.server_name}"
    for entry in users if isinstance(users, list) else ():
        try:
            if re.match(str(mapping(entry).get("regex")), somebody):
                return
        except re.error:
            continue
    yield _fault(
        "users",
        "namespaces.users",
        f"users of {service.server_name} are not in it, so their delayed leaves cannot be restarted",
        'add {regex: "@.*", exclusive: false}',
    )


def of_synapse(settings: Settings, synapse: Mapping[str, Any]) -> Iterator[Fault]:
    """Give what is wrong in homeserver.yaml."""
    service = settings.appservice
    if service is None:
        return
    if synapse.get("server_name") not in (None, service.server_name):
        yield Fault(
            "server_name_differs",
            "LIVEKIT_HS_SERVER_NAME",
            f"the homeserver's name is {synapse['server_name']}, not {service.server_name}",
            "set it to the homeserver's name",
        )
    if not synapse.get("app_service_config_files"):
        yield Fault(
            "appservice_not_named",
            "homeserver.yaml: app_service_config_files",
            "no registration is named, so the homeserver does not know the service",
            "name the file that `rtcfoci-livekit-auth registration` prints",
        )
    features = mapping(synapse.get("experimental_features"))
    for name in _FEATURES:
        if features.get(name) is not True:
            yield Fault(
                "appservice_off",
                f"homeserver.yaml: experimental_features.{name}",
                "the homeserver passes nothing on, or does not say who is joined",
                "set it to true",
            )
