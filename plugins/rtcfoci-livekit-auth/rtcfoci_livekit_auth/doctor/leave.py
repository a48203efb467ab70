"""The last hop: a delegated leave is sent when a participant goes, which needs LiveKit's webhook.

In: handing a scheduled event to the service, joining, leaving, and seeing it sent. Out: how long the
service takes to notice a participant that is cut off: LiveKit's own time-out.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from urllib.parse import quote

from rtcfoci_livekit_auth.doctor.matrix import DELAYED, schedule_leave
from rtcfoci_livekit_auth.doctor.service import openid
from rtcfoci_livekit_auth.doctor.sfu import Refused, connected
from rtcfoci_livekit_auth.doctor.verdicts import Case, Verdict, failed, not_checked, ok, warning
from rtcfoci_livekit_auth.doctor.web import Answer, NoAnswer

__all__ = ["delegated_leave"]

_DELAY_MS = 3_600_000
"""What services of MSC4195 accept; nothing waits for it."""
_SENT_WITHIN_S = 15.0


async def delegated_leave(case: Case) -> Verdict:
    """Delegate a leave, join, leave, and wait until the service has sent it."""
    try:
        scheduled, delay_id = await schedule_leave(case, _DELAY_MS)
        if not delay_id:
            return not_checked(
                "delayed_events_short",
                f"the homeserver schedules nothing for an hour ahead: {scheduled.told}",
                remedy="Synapse: max_event_delay_duration: 24h",
            )
        try:
            return await _handed_over(case, delay_id)
        finally:
            await _act(case, delay_id, "cancel")
    except NoAnswer as silence:
        return silence.verdict("service_unreachable", "homeserver, service or LiveKit")
    except Refused as refusal:
        return refusal.verdict


async def _handed_over(case: Case, delay_id: str) -> Verdict:
    identity, _ = await openid(case)
    member = {
        "id": "rtcfoci-doctor",
        "claimed_user_id": case.user_id,
        "claimed_device_id": case.device_id or "DOCTOR",
    }
    asked = {
        "room_id": case.room_id,
        "slot_id": "m.call#ROOM",
        "openid_token": identity,
        "member": member,
    }
    leave = {"delay_id": delay_id, "delay_timeout": _DELAY_MS}
    url = case.service_url
    answer = await case.web.ask("POST", f"{url}/delegate_delayed_leave", body=asked | leave)
    if answer.status != 200:
        return _refused(case, answer)
    asked["openid_token"], _ = await openid(case)  # each is good for one use
    token = await case.web.ask("POST", f"{url}/get_token", body=asked)
    jwt = token.fields.get("jwt")
    if not isinstance(jwt, str):
        return failed(
            "token_refused",
            f"the service gives no token at /get_token: {token.told}",
            cause="it delegates leaves, and gives no token to the same member",
            remedy="look into the service's log",
        )
    as_member = replace(case, jwt=jwt)
    if not await connected(as_member):
        return not_checked(
            "no_media",
            "LiveKit reports only participants whose media came up, and ours did not",
            remedy="mend the media hop first",
        )
    left_s = time.monotonic()
    while time.monotonic() - left_s < _SENT_WITHIN_S:
        if not await _is_scheduled(case, delay_id):
            took_s = time.monotonic() - left_s
            return ok(f"the service sent a leave {took_s:.1f} s after its participant went")
        await asyncio.sleep(0.5)
    return failed(
        "webhook_not_wired",
        f"a participant left {_SENT_WITHIN_S:.0f} s ago, and its delegated leave is not sent",
        cause="the service does not hear from LiveKit, or cannot reach the homeserver's "
        "client-server API, or the webhook is signed with another key",
        remedy=f"livekit.yaml: webhook: {{api_key: KEY, urls: [{url}/sfu_webhook]}}, with a URL that "
        "LiveKit reaches and a key that the service knows",
    )


def _refused(case: Case, answer: Answer) -> Verdict:
    if answer.status == 404:
        return warning(
            "delegation_not_offered",
            "the service delegates no leaves",
            cause="it is older than delegation; clients then restart their leaves by themselves",
            remedy="update the service",
        )
    if answer.status == 403:
        return warning(
            "delegation_refused",
            f"the service delegates no leaves for us: {answer.told}",
            cause=f"{case.server_name} has no full access",
            remedy="name the server in LIVEKIT_FULL_ACCESS_HOMESERVERS",
        )
    return failed(
        "delegation_failed",
        f"the service does not take a leave over: {answer.told}",
        cause="it cannot find the homeserver's client-server API, or its store is down",
        remedy=f"serve https://{case.server_name}/.well-known/matrix/client, or name the API in "
        "LIVEKIT_CS_API_URL_OVERRIDES",
    )


async def _is_scheduled(case: Case, delay_id: str) -> bool:
    url = case.client_url(f"{DELAYED}/{quote(delay_id)}")
    answer = await case.web.ask("GET", url, token=case.access_token)
    return answer.status != 404


async def _act(case: Case, delay_id: str, action: str) -> None:
    url = case.client_url(f"{DELAYED}/{quote(delay_id)}/{action}")
    await case.web.ask("POST", url, body={}, token=case.access_token)
