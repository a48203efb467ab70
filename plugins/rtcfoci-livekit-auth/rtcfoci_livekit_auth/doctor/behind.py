"""The hop through the homeserver to the service: what clients of MSC4195 ask first (over MSC4512).

In: a token by way of the homeserver, and what each refusal says of the introduction. Out: the token that
clients get directly (`service`). A homeserver that passes nothing on is as good: clients then ask directly.
"""

from __future__ import annotations

from rtcfoci_livekit_auth.doctor.verdicts import Case, Verdict, failed, ok
from rtcfoci_livekit_auth.doctor.web import Answer, NoAnswer

__all__ = ["passes_on"]

_PATHS = ("unstable/io.element.msc4195/rtc/livekit/get_token", "v1/rtc/livekit/get_token")


async def passes_on(case: Case) -> Verdict:
    """Ask the homeserver for a token, where it passes such questions on."""
    body = {
        "url": case.sfu_url,
        "room_id": case.room_id,
        "slot_id": "m.call#ROOM",
        "member_id": "rtcfoci-doctor",
    }
    try:
        for path in _PATHS:
            url = case.client_url(path)
            answer = await case.web.ask("POST", url, body=body, token=case.access_token)
            if answer.status != 404:
                return _judged(case, answer)
    except NoAnswer as silence:
        return silence.verdict("homeserver_unreachable", "the homeserver")
    return ok("the homeserver passes nothing on: clients ask the service directly")


def _judged(case: Case, answer: Answer) -> Verdict:
    if answer.status == 200 and isinstance(answer.fields.get("jwt"), str):
        return ok("the homeserver passes requests on, and a member gets a token")
    if answer.status == 500:
        return failed(
            "behind_unreachable",
            f"the homeserver does not reach the service: {answer.told}",
            cause="proxy_url of the registration leads nowhere, or has a path",
            remedy="io.element.msc4512.proxy_url: http://127.0.0.1:8080, or where the service is as "
            "seen from the homeserver; restart the homeserver",
        )
    if answer.fields.get("errcode") in {"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"}:
        return failed(
            "behind_token",
            f"the service does not believe the homeserver: {answer.told}",
            cause="hs_token of the registration is not the service's",
            remedy="give both the same registration file, and restart both",
        )
    if answer.status == 502:
        return failed(
            "behind_not_answered",
            f"the service does not get to know who is joined: {answer.told}",
            cause="as_token of the registration is not the service's, its scopes lack is_joined, "
            "msc4502_enabled is off, or the service does not reach the homeserver",
            remedy="rtcfoci-livekit-auth check-config --registration FILE --synapse homeserver.yaml",
        )
    return failed(
        "behind_refused",
        f"the service gives no token through the homeserver: {answer.told}",
        cause=f"it serves another SFU than {case.sfu_url}, or another homeserver than this one",
        remedy="correct LIVEKIT_URL and LIVEKIT_HS_SERVER_NAME",
    )
