"""The hops at the homeserver: discovery, account, transports, OpenID, delayed and sticky events.

In: what a client asks a homeserver before a call. Out: the service that it names (`service`).
"""

from __future__ import annotations

import secrets
from urllib.parse import quote

from rtcfoci_livekit_auth.doctor.verdicts import Case, Verdict, failed, not_checked, ok, warning
from rtcfoci_livekit_auth.doctor.web import Answer, NoAnswer

__all__ = [
    "account",
    "close",
    "delayed_events",
    "discovery",
    "schedule_leave",
    "sticky_events",
    "transports",
]

LIVEKIT_TYPES = frozenset({"livekit", "m.livekit", "msc4195.livekit"})
_WELL_KNOWN_FOCI = ("org.matrix.msc4143.rtc_foci", "org.matrix.msc4158.rtc_foci")
_DELAY = "org.matrix.msc4140.delay"
DELAYED = "unstable/org.matrix.msc4140/delayed_events"
_LEAVE_TYPE = "org.rtcfoci.doctor.leave"


async def discovery(case: Case) -> Verdict:
    """Find the homeserver as clients do (client-server API, server discovery)."""
    if case.base_url:
        return await _versions(case, "as given")
    url = f"https://{case.server_name}/.well-known/matrix/client"
    try:
        answer = await case.web.ask("GET", url)
    except NoAnswer as silence:
        return silence.verdict("well_known_unreachable", "server discovery")
    if answer.status == 404:
        case.base_url = f"https://{case.server_name}"
        return await _versions(case, "at the server name, without .well-known")
    homeserver = answer.fields.get("m.homeserver")
    base_url = homeserver.get("base_url") if isinstance(homeserver, dict) else None
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        return failed(
            "well_known_malformed",
            f"{url} answers {answer.status}, without a homeserver",
            cause="it is not a JSON object with m.homeserver.base_url",
            remedy='serve {"m.homeserver": {"base_url": "https://…"}} there',
        )
    case.base_url = base_url.rstrip("/")
    verdict = await _versions(case, f"as {url} says")
    if verdict.code == "ok" and not answer.lets_pages_in:
        return warning(
            "well_known_no_cors",
            f"{url} is there, but no page of another origin may read it",
            cause="the header Access-Control-Allow-Origin is missing",
            remedy="add `Access-Control-Allow-Origin: *` to this answer in the reverse proxy",
        )
    return verdict


async def _versions(case: Case, how: str) -> Verdict:
    try:
        answer = await case.web.ask("GET", case.client_url("versions"))
    except NoAnswer as silence:
        return silence.verdict("homeserver_unreachable", "the homeserver")
    features = answer.fields.get("unstable_features")
    if answer.status != 200 or "versions" not in answer.fields:
        return failed(
            "homeserver_not_matrix",
            f"{case.base_url} answers {answer.told} to /versions",
            cause="what listens there is not the client-server API of a homeserver",
            remedy="send /_matrix/client to the homeserver in the reverse proxy, or correct base_url",
        )
    if isinstance(features, dict):
        case.features = frozenset(name for name, on in features.items() if on is True)
    return ok(f"the homeserver is {case.base_url}, {how}")


async def account(case: Case) -> Verdict:
    """Log in, or see whose token it is; make a private room to try things in."""
    if not (case.access_token or case.password):
        return not_checked(
            "no_account",
            "there is no account to ask with",
            remedy="add --user @you:server and --password-file FILE or --token-file FILE",
        )
    try:
        if not case.access_token:
            answer = await _log_in(case)
            if answer.status != 200:
                return _refused("login_refused", "the login", answer, "correct user or password")
            case.access_token = str(answer.fields.get("access_token", ""))
            case.logged_in_here = True
        whoami = await _get(case, "v3/account/whoami")
        if whoami.status != 200:
            return _refused("access_token_refused", "the access token", whoami, "log in again")
        case.user_id = str(whoami.fields.get("user_id", ""))
        case.device_id = str(whoami.fields.get("device_id", ""))
        room = await _post(
            case, "v3/createRoom", {"preset": "private_chat", "name": "rtcfoci doctor"}
        )
    except NoAnswer as silence:
        return silence.verdict("homeserver_unreachable", "the homeserver")
    case.room_id = str(room.fields.get("room_id", ""))
    if not case.room_id:
        return _refused("room_refused", "a private room", room, "let this account create rooms")
    return ok(f"{case.user_id} on device {case.device_id or '(none)'}")


async def _log_in(case: Case) -> Answer:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": case.user_id},
        "password": case.password,
        "initial_device_display_name": "rtcfoci doctor",
    }
    return await case.web.ask("POST", case.client_url("v3/login"), body=body)


async def close(case: Case) -> None:
    """Leave nothing behind: the room, and the login where it was ours."""
    if case.room_id:
        for action in ("leave", "forget"):
            await _quietly(case, f"v3/rooms/{quote(case.room_id)}/{action}")
    if case.logged_in_here:
        await _quietly(case, "v3/logout")


async def _quietly(case: Case, path: str) -> None:
    try:
        await _post(case, path, {})
    except NoAnswer:
        pass  # the hops have said what there is to say


async def transports(case: Case) -> Verdict:
    """Find the focus that the homeserver advertises (MSC4143)."""
    seen: list[str] = []
    for path in ("unstable/org.matrix.msc4143/rtc/transports", "v1/rtc/transports"):
        try:
            answer = await _get(case, path)
        except NoAnswer as silence:
            return silence.verdict("homeserver_unreachable", "the homeserver")
        seen.append(f"{path}: {answer.told}")
        if answer.status == 200:
            return _advertised(case, answer.fields.get("rtc_transports"))
    old = await _well_known_foci(case)
    if old:
        case.service_url = case.service_url or old
        return warning(
            "transports_only_well_known",
            f"{old} is named by .well-known alone",
            cause="the homeserver serves no rtc/transports; newer clients ask nothing else",
            remedy="switch on msc4143_enabled and matrix_rtc.transports in the homeserver",
        )
    return failed(
        "transports_endpoint_off",
        "the homeserver advertises no focus: " + "; ".join(seen),
        cause="it does not know rtc/transports, or the endpoint is switched off",
        remedy="Synapse: experimental_features.msc4143_enabled: true, and matrix_rtc.transports",
    )


def _advertised(case: Case, listed: object) -> Verdict:
    entries = (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )
    if not entries:
        return failed(
            "transports_empty",
            "rtc/transports answers without a transport",
            cause="the endpoint is on, and nothing is configured for it",
            remedy="Synapse: matrix_rtc.transports: [{type: livekit, livekit_service_url: https://…}]",
        )
    ours = [entry for entry in entries if entry.get("type") in LIVEKIT_TYPES]
    if not ours:
        kinds = ", ".join(sorted({str(entry.get("type"))[:50] for entry in entries}))
        return failed(
            "transports_no_livekit",
            f"rtc/transports names no LiveKit focus, but: {kinds}",
            cause="clients of today join LiveKit alone",
            remedy="add an entry with type: livekit to matrix_rtc.transports",
        )
    url = ours[0].get("livekit_service_url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return failed(
            "transports_no_service",
            "the LiveKit entry of rtc/transports names no authorisation service",
            cause="livekit_service_url is missing or is no http(s) URL",
            remedy="set livekit_service_url to the public URL of the authorisation service",
        )
    case.service_url = case.service_url or url.rstrip("/")
    others = len(ours) - 1
    return ok(f"{url}" + (f", and {others} more, which some clients never try" if others else ""))


async def _well_known_foci(case: Case) -> str:
    try:
        answer = await case.web.ask("GET", f"https://{case.server_name}/.well-known/matrix/client")
    except NoAnswer:
        return ""
    for name in _WELL_KNOWN_FOCI:
        foci = answer.fields.get(name)
        for focus in foci if isinstance(foci, list) else ():
            url = focus.get("livekit_service_url") if isinstance(focus, dict) else None
            if isinstance(url, str):
                return url.rstrip("/")
    return ""


async def delayed_events(case: Case) -> Verdict:
    """Schedule an event far ahead and cancel it (MSC4140)."""
    try:
        answer, delay_id = await schedule_leave(case, 60_000)
        if not delay_id:
            return failed(
                "delayed_events_off",
                f"the homeserver does not schedule events: {answer.told}",
                cause="delayed events are off, so whoever is cut off stays in the call as a ghost",
                remedy="Synapse: max_event_delay_duration: 24h",
            )
        cancelled = await _post(case, f"{DELAYED}/{quote(delay_id)}/cancel", {})
    except NoAnswer as silence:
        return silence.verdict("homeserver_unreachable", "the homeserver")
    if cancelled.status not in {200, 204}:
        return failed(
            "delayed_events_broken",
            f"a scheduled event cannot be cancelled: {cancelled.told}",
            cause="a proxy or a worker does not pass delayed_events on",
            remedy="send /_matrix/client/unstable/org.matrix.msc4140 to Synapse's main process",
        )
    return ok("an event was scheduled and cancelled")


async def schedule_leave(case: Case, delay_ms: int) -> tuple[Answer, str]:
    """Schedule an event in our own room; give the answer and the delay id, empty when refused."""
    path = f"v3/rooms/{quote(case.room_id)}/send/{_LEAVE_TYPE}/{secrets.token_hex(8)}?{_DELAY}={delay_ms}"
    answer = await case.web.ask("PUT", case.client_url(path), body={}, token=case.access_token)
    delay_id = answer.fields.get("delay_id")
    return answer, delay_id if isinstance(delay_id, str) else ""


async def sticky_events(case: Case) -> Verdict:
    """See whether the homeserver keeps sticky events (MSC4354)."""
    if "org.matrix.msc4354" in case.features:
        return ok("on")
    return warning(
        "sticky_events_off",
        "the homeserver does not offer sticky events",
        cause="calls of the newest kind (Element Call's matrix_2_0 mode) are not possible; others are",
        remedy="Synapse: experimental_features.msc4354_enabled: true",
    )


def _refused(code: str, who: str, answer: Answer, remedy: str) -> Verdict:
    return failed(code, f"{who} is refused", cause=answer.told, remedy=remedy)


async def _get(case: Case, path: str) -> Answer:
    return await case.web.ask("GET", case.client_url(path), token=case.access_token)


async def _post(case: Case, path: str, body: object) -> Answer:
    return await case.web.ask("POST", case.client_url(path), body=body, token=case.access_token)
