"""The parsers of what a homeserver answers: bodies, syncs, refusals, and each request of a client."""

from __future__ import annotations

import asyncio
import json
from functools import cache

from rtcfoci.call.join import _advertised
from rtcfoci.call.preflight import _own_membership
from rtcfoci.core.effects import Failure
from rtcfoci.core.model import Slot
from rtcfoci.core.session import Session
from rtcfoci.errors import RtcfociError
from rtcfoci.matrix import connect
from rtcfoci.matrix.answers import refused
from rtcfoci.matrix.client import ServerSupport
from rtcfoci.matrix.cs import CsClient
from rtcfoci.matrix.http import Response, _loads
from rtcfoci.matrix.sticky import StickyEvents
from rtcfoci.matrix.sync import read_sync
from rtcfoci.plugin import Capabilities, FocusType, Topology
from tests.fuzz import seeds
from tests.fuzz.core import DIALECTS, NOW, NOW_TS_MS, receive
from tests.fuzz.harness import encoded, of_bytes, of_json

SECRET = "syd_secret"
ROOM_ID = "!room:hs"
SERVED = FocusType(
    type="served",
    topology=Topology.ELECTED,
    backend="a:b",
    capabilities=Capabilities(data=True, needs_server=True),
)


@of_bytes(lambda: map(encoded, seeds.syncs()), is_json=True)
def answer(data):
    """The body of an answer, however deep."""
    try:
        value = _loads(data)
    except ValueError:
        return
    json.dumps(value)


@of_json(seeds.syncs)
def sync(value):
    """An answer to `/sync`, all the way into sessions and the inbox of signals."""
    batch = read_sync(value, NOW_TS_MS)
    for room in batch.rooms:
        session = Session(Slot(room_id=room.room_id), DIALECTS)
        for event in room.events:
            session.receive(event, NOW)
        assert len(session.members) == len(session)
    for message in batch.to_device:
        receive(message.content, message.sender)


@of_json(seeds.refusals)
def refusal(value):
    """What a homeserver says when it refuses; no secret comes out of it."""
    source = value if isinstance(value, dict) else {}
    status, after = source.get("status"), source.get("retry-after")
    headers = {"retry-after": after} if isinstance(after, str) else {}
    response = Response(status if type(status) is int else 400, headers, source.get("body"))
    error = refused("do this", response, SECRET)
    assert SECRET not in str(error)
    failure = Failure.of(error)
    assert failure.retry_after_s is None or failure.retry_after_s >= 0


@of_json(seeds.answers)
def homeserver(value):
    """An answer to every request that a client makes: a result, or an error of ours."""
    body = value if isinstance(value, (dict, list)) else {}
    _loop().run_until_complete(_ask_everything(body))


class Answering:
    """A requester that gives the same a few times, and then nothing more."""

    body: object = None
    left = 0

    async def request(self, method, path, query, body, token, *, timeout_s):
        self.left -= 1
        return Response(200, {}, self.body if self.left >= 0 else {})

    async def aclose(self):
        pass


@cache
def _loop():
    # Made once, like the client: they cost more than all that they are asked.
    return asyncio.new_event_loop()


@cache
def _client():
    bottom = Answering()
    return bottom, CsClient(
        bottom, homeserver_url="https://hs", user_id="@b:hs", device_id="B", access_token=SECRET
    )


async def _ask_everything(body):
    bottom, client = _client()
    bottom.body, client._support = body, None
    support = ServerSupport(
        delayed_events=True,
        max_delay_ms=None,
        max_scheduled=None,
        sticky_events=True,
        rtc_transports=True,
    )
    for ask in (
        client.support,
        client.openid_token,
        lambda: client.room_state(ROOM_ID),
        lambda: client.send_state(ROOM_ID, "m.type", "", {}),
        lambda: client.send_event(ROOM_ID, "m.type", {}, txn_id="t"),
        lambda: client.schedule_delayed(ROOM_ID, "m.type", {}, delay_ms=1, txn_id="t"),
        client.list_delayed,
        lambda: StickyEvents(client.call, lambda: NOW_TS_MS).now(ROOM_ID),
        lambda: _advertised(client, support, [SERVED]),
        lambda: _own_membership(client, ROOM_ID),
        lambda: connect._whoami(bottom, SECRET),
        lambda: connect._login(bottom, "b", SECRET, None, "name"),
        lambda: connect._well_known("https://hs", lambda _: bottom),
        lambda: connect._speaks_matrix("https://hs", lambda _: bottom),
    ):
        bottom.left = 3
        try:
            await ask()
        except RtcfociError as error:
            shows = SECRET in str(error)
            assert not shows
