"""Verdicts of `doctor` on what no deployment on one machine can be made to do: answers are given here."""

import json
import time

import jwt
import pytest
from rtcfoci_livekit_auth.doctor import behind, matrix, service, sfu
from rtcfoci_livekit_auth.doctor.verdicts import Case
from rtcfoci_livekit_auth.doctor.web import Answer

LETTING_IN = {"Access-Control-Allow-Origin": "*"}


class Web:
    """Gives one answer to each path that ends in this way."""

    def __init__(self, answers):
        self.answers = answers

    async def ask(self, method, url, **_):
        for path, answer in self.answers.items():
            if url.partition("?")[0].endswith(path):
                return answer
        raise AssertionError(f"nobody asks for {url}")


def told(document, status=200, headers=LETTING_IN):
    return Answer(status, headers, document if isinstance(document, str) else json.dumps(document))


def case(answers, **more):
    given = {
        "server_name": "example.org",
        "base_url": "https://matrix.example.org",
        "service_url": "https://calls.example.org/livekit/jwt",
        "user_id": "@ann:example.org",
        "device_id": "DEV",
        "access_token": "t",
        "room_id": "!r:example.org",
        "sfu_url": "wss://calls.example.org/livekit/sfu",
        "jwt": "a.b.c",
    }
    return Case(web=Web(answers), **given | more)


def granting(*, url="wss://calls.example.org/livekit/sfu", at_s=0, sub="@ann:example.org:DEV"):
    now_s = time.time() + at_s
    claims = {"sub": sub, "nbf": now_s, "exp": now_s + 600, "video": {"canPublish": True}}
    token = {"url": url, "jwt": jwt.encode(claims, "a" * 32)}
    openid = {"access_token": "o", "matrix_server_name": "example.org"}
    return {"/openid/request_token": told(openid), "/sfu/get": told(token)}


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (granting(), "ok"),
        (granting(at_s=3600), "clock_skew"),
        (granting(at_s=-3600), "clock_skew"),
        (granting(url="ws://127.0.0.1:7880"), "sfu_url_private"),
        (granting(sub="hash"), "identity_mismatch"),
        (granting() | {"/openid/request_token": told({}, 404)}, "openid_refused"),
        (granting() | {"/sfu/get": told("<html>")}, "token_malformed"),
        (granting() | {"/sfu/get": told({"errcode": "M_FORBIDDEN"}, 403)}, "identity_refused"),
        (granting() | {"/sfu/get": told({"errcode": "M_LIMIT_EXCEEDED"}, 429)}, "token_refused"),
    ],
)
async def test_tokens(answers, code):
    assert (await service.token(case(answers))).code == code


@pytest.mark.parametrize(
    ("url", "health", "preflight", "code"),
    [
        ("https://calls.example.org", told(""), told(""), "ok"),
        ("http://calls.example.org", told(""), told(""), "service_not_https"),
        ("http://127.0.0.1:8080", told(""), told(""), "ok"),
        ("https://calls.example.org", told("", 404), told("", 200), "ok"),
        ("https://calls.example.org", told("", 404), told("", 405, {}), "service_not_found"),
        ("https://calls.example.org", told("", 502), told(""), "service_unhealthy"),
    ],
)
async def test_services(url, health, preflight, code):
    answers = {"/healthz": health, "/sfu/get": preflight}
    assert (await service.reachable(case(answers, service_url=url))).code == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (told({"jwt": "t"}), "ok"),
        (told({"errcode": "M_UNRECOGNIZED"}, 404), "ok"),
        (told({"errcode": "M_INVALID_PARAM"}, 400), "behind_refused"),
        (told({"errcode": "M_MISSING_TOKEN"}, 401), "behind_token"),
    ],
)
async def test_homeservers_that_pass_requests_on(answer, code):
    assert (await behind.passes_on(case({"/rtc/livekit/get_token": answer}))).code == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (told("OK"), "ok"),
        (told("Not Ready", 406), "sfu_overloaded"),
        (told("<html>"), "sfu_not_livekit"),
    ],
)
async def test_what_listens_as_livekit(answer, code):
    assert (await sfu.answers(case({"/livekit/sfu/": answer}))).code == code


async def test_a_livekit_that_names_no_address():
    assert sfu._judged(False, []).code == "ice_no_candidates"
    assert sfu._judged(False, ["udp 10.0.0.1:7882"]).code == "ice_unreachable"


@pytest.mark.parametrize(
    ("scheduled", "cancelled", "code"),
    [
        (told({"delay_id": "d"}), told({}), "ok"),
        (told({"delay_id": "d"}), told("", 404), "delayed_events_broken"),
        (told({"event_id": "$e"}), told({}), "delayed_events_off"),
    ],
)
async def test_delayed_events(scheduled, cancelled, code):
    class Scheduling(Web):
        async def ask(self, method, url, **more):
            return scheduled if method == "PUT" else await super().ask(method, url, **more)

    asked = case({})
    asked.web = Scheduling({"/cancel": cancelled})
    assert (await matrix.delayed_events(asked)).code == code
