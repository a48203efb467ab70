"""The parsers of the authorisation service: what clients ask for, tokens of webhooks, names of servers."""

from __future__ import annotations

from rtcfoci_livekit_auth.bodies import (
    Ask,
    Refusal,
    delegate_ask,
    device_ask,
    member_ask,
    object_of,
)
from rtcfoci_livekit_auth.discovery import split_server_name
from rtcfoci_livekit_auth.guard import Unreachable
from rtcfoci_livekit_auth.tokens import Minter
from rtcfoci_livekit_auth.webhooks import WebhookRefused, read_webhook

from tests.fuzz import seeds
from tests.fuzz.harness import encoded, of_bytes

MINTER = Minter("key", "secret" * 8)


@of_bytes(lambda: map(encoded, seeds.auth_bodies()), is_json=True)
def auth_body(data):
    """The body of a request, at each endpoint: an ask whose text is text, or a refusal of ours."""
    for read in (device_ask, member_ask, delegate_ask):
        try:
            ask = read(data)
        except Refusal as refusal:
            found = refusal
        else:
            found = ask
            f"{ask.room_id}{ask.user_id}{ask.device_id}{ask.access_token}{ask.delay_id}".encode()
        assert isinstance(found, Ask) or found.status == 400
    try:
        assert isinstance(object_of(data), dict)
    except ValueError:
        return


@of_bytes(seeds.auth_tokens)
def auth_token(data):
    """The token that comes with a webhook: nobody but the SFU can make one."""
    try:
        read_webhook(b"{}", data.decode("latin-1"), lambda _: [MINTER])
    except WebhookRefused:
        return
    raise AssertionError("a token was believed")


@of_bytes(seeds.auth_names)
def auth_name(data):
    """The name of a server, which decides whom we ask."""
    try:
        host, port, _ = split_server_name(data.decode("utf-8", "replace"))
    except Unreachable:
        return
    assert host
    assert port is None or 0 < port < 65_536
