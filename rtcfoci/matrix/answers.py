"""What a homeserver's refusal means, in three lines.

In: errors made of answers, with the remedy where one is known.
Out: sending (`http`) and deciding what to do about it (`cs`, and the machines above).
"""

from __future__ import annotations

import email.utils
import time

from rtcfoci.errors import ClientError
from rtcfoci.matrix.http import Response

__all__ = ["refused", "retry_after_ms"]

MAX_WORDS = 300
MAX_WAIT_MS = 10**12
"""As long as a header of nine digits can ask for."""

_REMEDIES = {
    "M_UNKNOWN_TOKEN": "Log in again: the access token is no longer valid.",
    "M_MISSING_TOKEN": "Log in first.",
    "M_FORBIDDEN": "Check that this user is in the room and has the power level for this.",
    "M_LIMIT_EXCEEDED": "Wait and try again, or have the operator raise the rate limit.",
    "M_UNRECOGNIZED": "The homeserver is too old for this, or the feature is switched off.",
    "M_NOT_FOUND": "Check the name; what was there may be gone.",
    "M_USER_DEACTIVATED": "Use another account: this one was deactivated.",
    "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE": "Use a shorter delay than the server's maximum.",
}


def retry_after_ms(answer: Response) -> int | None:
    """How long the server asks to wait; the header first, as the specification says."""
    header = answer.headers.get("retry-after", "")
    if header.isascii() and header.isdigit():
        # A header of whole seconds next to a body of milliseconds is the same time, rounded up.
        seconds_ms = int(header[:9]) * 1000
    elif header:
        try:
            seconds_ms = int(
                (email.utils.parsedate_to_datetime(header).timestamp() - time.time()) * 1000
            )
        except (ValueError, OverflowError):
            seconds_ms = -1
    else:
        seconds_ms = -1
    exact = answer.body.get("retry_after_ms") if isinstance(answer.body, dict) else None
    if not isinstance(exact, int) or isinstance(exact, bool) or exact < 0:
        return seconds_ms if seconds_ms >= 0 else None
    exact = min(exact, MAX_WAIT_MS)
    return exact if seconds_ms < 0 or seconds_ms - 1000 < exact <= seconds_ms else seconds_ms


def refused(what: str, answer: Response, secret: str = "") -> ClientError:
    """Make the error for a refusal.

    :param what: completes "The homeserver refused to ...".
    :param secret: cut out of the server's words and fields.
    """
    body = _flat(answer.body, secret)
    errcode, words = body.get("errcode"), body.get("error")
    errcode = errcode if isinstance(errcode, str) else ""
    said = words[:MAX_WORDS] if isinstance(words, str) else "no reason given"
    server_fault = answer.status >= 500
    return ClientError(
        f"The homeserver {'failed' if server_fault else 'refused'} to {what}.",
        status=answer.status,
        errcode=errcode,
        retry_after_ms=retry_after_ms(answer),
        body=body,
        why=f"{answer.status} {errcode}: {said}".replace(" :", ":"),
        do=_REMEDIES.get(errcode, "Look into the homeserver's log." if server_fault else ""),
    )


def _flat(body: object, secret: str) -> dict[str, object]:
    """Give the fields of a body that are no containers, without a secret: no code carries more."""
    if not isinstance(body, dict):
        return {}
    plain = {name: value for name, value in body.items() if not isinstance(value, (dict, list))}
    if not secret:
        return plain
    return {
        name: value.replace(secret, "...") if isinstance(value, str) else value
        for name, value in plain.items()
        if secret not in name
    }
