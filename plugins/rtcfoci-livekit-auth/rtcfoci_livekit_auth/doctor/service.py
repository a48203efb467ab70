"""The hops at the authorisation service: is it there, does it let pages in, does it give a token.

In: any service with the interface of MSC4195's `/sfu/get`. Out: what the token opens (`sfu`).
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from typing import Any
from urllib.parse import quote, urlsplit

from rtcfoci_livekit_auth.doctor.verdicts import Case, Verdict, failed, ok, warning
from rtcfoci_livekit_auth.doctor.web import Answer, NoAnswer

__all__ = ["openid", "reachable", "token"]

_SKEW_S = 30


async def reachable(case: Case) -> Verdict:
    """See whether the service is there and lets pages in."""
    try:
        health = await case.web.ask("GET", f"{case.service_url}/healthz")
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        preflight = await case.web.ask("OPTIONS", f"{case.service_url}/sfu/get", headers=asked)
    except NoAnswer as silence:
        return silence.verdict("service_unreachable", "the authorisation service")
    # A web server that looks for files answers in these ways.
    elsewhere = health.status in {403, 404} and not preflight.lets_pages_in
    if preflight.status == 404 or elsewhere:
        return _wrong_path(case, "OPTIONS /sfu/get", preflight)
    if health.status >= 500 or preflight.status >= 500:
        answer = health if health.status >= 500 else preflight
        return failed(
            "service_unhealthy",
            f"the service at {case.service_url} answers {answer.told}",
            cause="it is starting or ending, or the proxy in front does not reach it",
            remedy="look into the logs of the service and of the proxy",
        )
    if not preflight.lets_pages_in:
        return failed(
            "service_no_cors",
            f"no page may ask {case.service_url}",
            cause="the answer to OPTIONS /sfu/get has no Access-Control-Allow-Origin",
            remedy="let the proxy pass OPTIONS and its answer on unchanged",
        )
    if urlsplit(case.service_url).scheme == "http" and not _is_here(case.service_url):
        return warning(
            "service_not_https",
            f"{case.service_url} is not encrypted",
            cause="a page served over https may not ask it",
            remedy="put it behind a reverse proxy with a certificate, and advertise the https URL",
        )
    return ok(f"{case.service_url} is healthy and lets pages ask")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}


def _wrong_path(case: Case, what: str, answer: Answer) -> Verdict:
    return failed(
        "service_not_found",
        f"{what} answers {answer.told} at {case.service_url}",
        cause="the path is wrong: the proxy does not strip its own prefix, or the URL lacks it",
        remedy="let the proxy strip the prefix, and advertise the URL with it: "
        "the service itself knows /sfu/get, not /livekit/jwt/sfu/get",
    )


async def openid(case: Case) -> tuple[dict[str, Any], Answer]:
    """Get an OpenID token, good for one use; empty when refused."""
    path = f"v3/user/{quote(case.user_id)}/openid/request_token"
    answer = await case.web.ask("POST", case.client_url(path), body={}, token=case.access_token)
    return answer.fields if answer.status == 200 else {}, answer


async def token(case: Case) -> Verdict:
    """Turn our Matrix identity into a LiveKit token."""
    try:
        identity, asked = await openid(case)
        if not identity:
            return failed(
                "openid_refused",
                f"the homeserver gives no OpenID token: {asked.told}",
                cause="the endpoint is off, or a proxy does not pass it on",
                remedy="send /_matrix/client/v3/user/…/openid to the homeserver",
            )
        body = {
            "room": case.room_id,
            "openid_token": identity,
            "device_id": case.device_id or "DOCTOR",
        }
        answer = await case.web.ask("POST", f"{case.service_url}/sfu/get", body=body)
    except NoAnswer as silence:
        return silence.verdict("service_unreachable", "homeserver or service")
    if answer.status != 200:
        return _refusal(case, answer, str(identity.get("matrix_server_name", case.server_name)))
    url, jwt = answer.fields.get("url"), answer.fields.get("jwt")
    claims = _claims(jwt) if isinstance(jwt, str) else None
    if not isinstance(url, str) or claims is None:
        return failed(
            "token_malformed",
            "the service answers without a URL and a token",
            cause="what listens there is no authorisation service for LiveKit",
            remedy="correct livekit_service_url",
        )
    case.sfu_url, case.jwt, case.claims = url.rstrip("/"), str(jwt), claims
    return _judged(case, claims)


def _refusal(case: Case, answer: Answer, server_name: str) -> Verdict:
    if answer.status == 404:
        return _wrong_path(case, "POST /sfu/get", answer)
    if answer.status == 401:
        return failed(
            "openid_lookup_failed",
            f"the service does not accept an OpenID token of {server_name}: {answer.told}",
            cause=f"it cannot look the token up at {server_name}: over federation, so at port 8448 "
            "or where .well-known/matrix/server points, with a valid certificate",
            remedy="let the service's machine reach /_matrix/federation/v1/openid/userinfo there "
            "(Synapse: the listener's resources must name federation or openid)",
        )
    if answer.status == 403:
        return failed(
            "identity_refused",
            f"the service refuses us: {answer.told}",
            cause=f"users of {server_name}, or who is not in the room, are not let in",
            remedy="add the server to LIVEKIT_FULL_ACCESS_HOMESERVERS if it should be",
        )
    if answer.status == 500:
        return failed(
            "room_creation_failed",
            f"the service cannot make a room on the SFU: {answer.told}",
            cause="LiveKit is down or not reachable from the service, or key or secret differ",
            remedy="compare LIVEKIT_URL, LIVEKIT_KEY and LIVEKIT_SECRET of the service with "
            "`keys` of livekit.yaml, and see that LiveKit runs",
        )
    return failed(
        "token_refused",
        f"the service gives no token: {answer.told}",
        cause="see the message",
        remedy="look into the service's log",
    )


def _claims(jwt: str) -> dict[str, Any] | None:
    try:
        payload = jwt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _judged(case: Case, claims: dict[str, Any]) -> Verdict:
    if not case.sfu_url.startswith(("ws://", "wss://", "http://", "https://")):
        return failed(
            "sfu_url_malformed",
            f"the service names {case.sfu_url[:100]} as the SFU",
            cause="LIVEKIT_URL is no WebSocket URL",
            remedy="set LIVEKIT_URL to the public URL, such as wss://livekit.example.org",
        )
    now_s = time.time()
    begins, ends = claims.get("nbf", 0), claims.get("exp", now_s)
    if isinstance(begins, int | float) and isinstance(ends, int | float):
        off_s = begins - now_s if begins > now_s else now_s - ends if ends < now_s else 0.0
        if off_s > _SKEW_S:
            return failed(
                "clock_skew",
                f"the token is valid at another time, {off_s:.0f} s from now",
                cause="the clock of the service's machine, or of this one, is wrong",
                remedy="synchronise both clocks (NTP)",
            )
    expected = f"{case.user_id}:{case.device_id or 'DOCTOR'}"
    if claims.get("sub") != expected:
        return failed(
            "identity_mismatch",
            "the token is for another identity than clients expect",
            cause=f"its subject is not {expected}",
            remedy="use a service of the generation that your clients speak",
        )
    if _is_here(case.sfu_url) and not _is_here(case.service_url):
        return failed(
            "sfu_url_private",
            f"the service sends clients to {case.sfu_url}",
            cause="LIVEKIT_URL names this machine, not a place that clients reach",
            remedy="set LIVEKIT_URL to the public URL of the SFU",
        )
    video = claims.get("video")
    if isinstance(video, dict) and video.get("canPublish") is False:
        return warning(
            "may_not_publish",
            "the token lets us listen, not speak: clients cannot unmute",
            cause=f"users of {case.server_name} have no full access to this SFU",
            remedy="name the server in LIVEKIT_FULL_ACCESS_HOMESERVERS if it is yours; users of other "
            "servers publish on their own SFU",
        )
    return ok(f"a token for {case.sfu_url}")
