"""Requests, probing and errors, against scripted answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from rtcfoci.errors import ClientError, UnreachableError
from rtcfoci.matrix.answers import refused, retry_after_ms
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.matrix.cs import CsClient
from rtcfoci.matrix.http import Response
from rtcfoci.matrix.store import Arrival, DeviceStore

DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"


class Script:
    """A requester that answers from a list, or by path, and remembers what it was asked."""

    def __init__(self, *answers, paths=None):
        self.answers = list(answers)
        self.paths = paths or {}
        self.asked = []
        self.closed = 0

    async def request(self, method, path, query, body, token, *, timeout_s):
        self.asked.append((method, path, dict(query), body, token))
        answer = self.paths[path] if path in self.paths else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self):
        self.closed += 1


def ok(body):
    return Response(200, {}, body)


def no(status, errcode, error="", headers=None, **more):
    return Response(status, headers or {}, {"errcode": errcode, "error": error, **more})


def client(script):
    return CsClient(
        script,
        homeserver_url="http://h",
        user_id="@a:b",
        device_id="DEV",
        access_token="syt_token",
        wall_ts_ms=lambda: 1_800_000_000_000,
    )


async def test_it_is_a_matrix_client():
    checked: MatrixClient = client(Script())
    assert (checked.user_id, checked.device_id, checked.homeserver_url) == (
        "@a:b",
        "DEV",
        "http://h",
    )
    assert "syt_token" not in repr(checked)
    await checked.aclose()


async def test_paths_are_escaped_and_authenticated():
    script = Script(ok({"event_id": "$1"}), ok({"event_id": "$2"}), ok({}))
    one = client(script)
    await one.send_state("!r/1:b", "x.t/y", "_@a:b_DEV#?", {"n": 1})
    await one.send_event("!r", "x.t", {"n": 2}, txn_id="t 1", sticky_duration_ms=5)
    await one.send_to_device("x.t", "@c:d", "D/1", {"n": 3}, encrypt=False)
    (_, path, query, body, token) = script.asked[0]
    assert path == "/_matrix/client/v3/rooms/%21r%2F1%3Ab/state/x.t%2Fy/_%40a%3Ab_DEV%23%3F"
    assert (query, body, token) == ({}, {"n": 1}, "syt_token")
    assert script.asked[1][1].endswith("/send/x.t/t%201")
    assert script.asked[1][2] == {"org.matrix.msc4354.sticky_duration_ms": "5"}
    assert script.asked[2][3] == {"messages": {"@c:d": {"D/1": {"n": 3}}}}
    await one.aclose()


async def test_a_delay_is_written_with_its_unstable_name_only():
    script = Script(
        no(404, "M_UNRECOGNIZED"),
        ok({"delay_id": "d"}),
        ok({"delay_id": "d"}),
        ok({"event_id": "$sent-at-once"}),
    )
    one = client(script)
    assert await one.schedule_delayed("!r", "x.t", {}, delay_ms=9, txn_id="t", state_key="k") == "d"
    del script.asked[0]  # asked once whether it has the endpoint of its own
    await one.schedule_delayed("!r", "x.t", {}, delay_ms=9, txn_id="t", sticky_duration_ms=7)
    assert script.asked[0][2] == {"org.matrix.msc4140.delay": "9"}
    assert script.asked[0][1].endswith("/state/x.t/k")
    assert script.asked[1][2] == {
        "org.matrix.msc4140.delay": "9",
        "org.matrix.msc4354.sticky_duration_ms": "7",
    }
    assert script.asked[1][1].endswith("/send/x.t/t")
    with pytest.raises(ClientError, match="did not hold an event for later"):
        await one.schedule_delayed("!r", "x.t", {}, delay_ms=9, txn_id="t")
    await one.aclose()


async def test_the_endpoint_of_its_own_is_used_where_there_is_one():
    script = Script(ok({"delay_id": "d"}), no(400, "M_BAD_JSON"), ok({"delay_id": "e"}))
    one = client(script)
    ask = {"delay_ms": 9, "txn_id": "t"}
    assert await one.schedule_delayed("!r", "x.t", {"n": 1}, state_key="k", **ask) == "d"
    with pytest.raises(ClientError, match="refused"):
        await one.schedule_delayed("!r", "x.t", {}, **ask)
    assert await one.schedule_delayed("!r", "x.t", {}, sticky_duration_ms=7, **ask) == "e"
    base = "/_matrix/client/unstable/org.matrix.msc4140/rooms/%21r/delayed_event/x.t/t"
    assert {(method, path) for method, path, *_ in script.asked} == {("PUT", base)}
    delays = {"delay_ms": 9, "delay": 9}
    assert script.asked[0][3] == {**delays, "content": {"n": 1}, "state_key": "k"}
    assert script.asked[2][2] == {"org.matrix.msc4354.sticky_duration_ms": "7"}
    assert script.asked[2][3] == {**delays, "content": {}}
    await one.aclose()


async def test_an_action_falls_back_to_the_body_once_and_for_all():
    script = Script(
        no(404, "M_UNRECOGNIZED"), ok({}), ok({}), no(404, "M_NOT_FOUND", "no secret-id")
    )
    one = client(script)
    await one.manage_delayed("secret-id", "restart")
    await one.manage_delayed("secret-id", "send")
    assert [(path, body) for _, path, _, body, _ in script.asked] == [
        (f"{DELAYED}/secret-id/restart", {}),
        (f"{DELAYED}/secret-id", {"action": "restart"}),
        (f"{DELAYED}/secret-id", {"action": "send"}),
    ]
    assert all(asked[4] == "syt_token" for asked in script.asked)
    with pytest.raises(ClientError) as fired:
        await one.manage_delayed("secret-id", "cancel")
    assert fired.value.errcode == "M_NOT_FOUND"
    assert "secret-id" not in str(fired.value) + repr(fired.value.body) + repr(fired.value)
    await one.aclose()


async def test_held_events_are_read_in_old_and_new_words_and_all_pages():
    old = {
        "delay_id": "a",
        "room_id": "!r",
        "type": "x.t",
        "state_key": "k",
        "delay": 5,
        "content": {},
    }
    new = {"delay_id": "b", "room_id": "!r", "type": "x.t", "delay_ms": 6, "content": {"n": 1}}
    script = Script(
        ok({"delayed_events": [old, {"type": 1}, None], "next_batch": "p2"}),
        ok({"scheduled": [new]}),
    )
    one = client(script)
    held = await one.list_delayed()
    assert [(e.delay_id, e.state_key, e.delay_ms, e.content) for e in held] == [
        ("a", "k", 5, {}),
        ("b", None, 6, {"n": 1}),
    ]
    assert [asked[2] for asked in script.asked] == [{}, {"from": "p2"}]
    await one.aclose()


async def test_methods_wait_out_rate_limits_for_30_s(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("rtcfoci.matrix.cs.asyncio.sleep", sleep)
    limit = no(429, "M_LIMIT_EXCEEDED", retry_after_ms=9_000)
    one = client(Script(limit, limit, ok({"access_token": "o"})))
    assert await one.openid_token() == {"access_token": "o"}
    assert slept == [9.0, 9.0]
    await one.aclose()
    one = client(Script(*[limit] * 4))
    slept.clear()
    with pytest.raises(ClientError) as error:
        await one.openid_token()
    assert (error.value.status, error.value.retry_after_ms, slept) == (429, 9_000, [9.0] * 3)
    await one.aclose()
    # These four leave the waiting to the machine above.
    one = client(Script(*[limit] * 4))
    slept.clear()
    for send in (
        one.send_state("!r", "x.t", "k", {}),
        one.send_event("!r", "x.t", {}, txn_id="t"),
        one.schedule_delayed("!r", "x.t", {}, delay_ms=1, txn_id="t"),
        one.manage_delayed("d", "restart"),
    ):
        with pytest.raises(ClientError) as error:
            await send
        assert error.value.retry_after_ms == 9_000
    assert slept == []
    await one.aclose()
    # A limit without a time is asked again soon, not at once and not for ever.
    one = client(Script(*[no(429, "M_LIMIT_EXCEEDED")] * 100))
    with pytest.raises(ClientError):
        await one.openid_token()
    assert 29 < sum(slept) <= 30
    await one.aclose()


VERSIONS = "/_matrix/client/versions"
CAPABILITIES = "/_matrix/client/v3/capabilities"
TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"


@pytest.mark.parametrize(
    ("flags", "capabilities", "transports", "expected"),
    [
        ({}, {}, no(404, "M_UNRECOGNIZED"), (False, None, None, False, False)),
        (
            {"org.matrix.msc4140": True, "org.matrix.msc4354": True},
            {"org.matrix.msc4140.delayed_events": {"max_delay_ms": 1000, "max_scheduled": 9}},
            ok({}),
            (True, 1000, 9, True, True),
        ),
        (
            {"org.matrix.msc4140": True},
            {"org.matrix.msc4140.delayed_events": {"max_delay_ms": 0, "max_scheduled": 9}},
            no(403, "M_FORBIDDEN"),
            (False, 0, 9, False, False),
        ),
        # Present and empty: unlimited. Absent: unsupported.
        (
            {"org.matrix.msc4140": True},
            {"org.matrix.msc4140.delayed_events": {}},
            ok({}),
            (True, None, None, False, True),
        ),
        ({"org.matrix.msc4140": True}, {}, ok({}), (False, None, None, False, True)),
        ({"org.matrix.msc4140": "yes"}, [], ok({}), (False, None, None, False, True)),
    ],
)
async def test_support(flags, capabilities, transports, expected):
    script = Script(
        paths={
            VERSIONS: ok({"unstable_features": flags}),
            CAPABILITIES: ok({"capabilities": capabilities}),
            TRANSPORTS: transports,
        }
    )
    one = client(script)
    support = await one.support()
    assert expected == (
        support.delayed_events,
        support.max_delay_ms,
        support.max_scheduled,
        support.sticky_events,
        support.rtc_transports,
    )
    asked = len(script.asked)
    assert await one.support() is support
    assert len(script.asked) == asked
    # A server that was away may have come back with other settings.
    script.answers.append(UnreachableError("gone"))
    with pytest.raises(UnreachableError):
        await one.openid_token()
    await one.support()
    assert len(script.asked) == asked + 4
    await one.aclose()


async def test_the_state_of_a_room_is_read_leniently():
    good = {
        "type": "x.t",
        "state_key": "",
        "sender": "@a:b",
        "event_id": "$1",
        "origin_server_ts": 1,
        "content": {},
    }
    one = client(Script(ok([good, {**good, "content": 1}, None]), ok({"not": "a list"})))
    assert [e.event_id for e in await one.room_state("!r")] == ["$1"]
    assert await one.room_state("!r") == []
    await one.aclose()


async def test_a_closed_client_says_so():
    script = Script()
    one = client(script)
    await one.aclose()
    await one.aclose()
    assert script.closed == 1
    with pytest.raises(UnreachableError, match="closed"):
        await one.openid_token()
    assert [update async for update in one.updates("!r")] == []


async def test_what_was_queued_when_the_client_was_closed_can_be_acknowledged(tmp_path):
    one = client(Script())
    one.store.close()
    one.store = DeviceStore.open(tmp_path)
    (message,) = one.store.commit("s1", [Arrival("x.test", "@a:b", {})])
    await one.aclose()
    await one.ack(message)
    store = DeviceStore.open(tmp_path)
    assert store.pending() == [message]
    store.close()


@pytest.mark.parametrize("stuck", ["sync", "encrypter", "requester"])
async def test_closing_is_finished_even_when_it_is_cancelled(tmp_path, stuck):
    waiting = asyncio.Event()

    async def hang(*_, **__):
        waiting.set()
        await asyncio.Event().wait()

    async def hang_on():
        try:
            await hang()
        finally:
            await asyncio.sleep(60)

    class Nothing:
        aclose = staticmethod(hang if stuck == "encrypter" else asyncio.sleep)

    script = Script()
    one = CsClient(
        script,
        homeserver_url="http://h",
        user_id="@a:b",
        device_id="DEV",
        access_token="t",
        store=DeviceStore.open(tmp_path),
    )
    if stuck == "requester":
        script.aclose = hang
    elif stuck == "encrypter":
        one.encrypter = Nothing()
    else:
        one._sync = asyncio.create_task(hang_on())
        await waiting.wait()
    closing = asyncio.create_task(one.aclose())
    await waiting.wait()
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await one.aclose()
    assert script.closed == (stuck != "requester")
    DeviceStore.open(tmp_path).close()


async def test_a_wait_for_a_limit_ends_when_the_client_is_closed():
    script = Script(no(429, "M_LIMIT_EXCEEDED", retry_after_ms=50), ok({}))
    one = client(script)
    waiting = asyncio.create_task(one.openid_token())
    await asyncio.sleep(0.01)
    await one.aclose()
    with pytest.raises(UnreachableError, match="closed"):
        await waiting
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, {}, None),
        ({}, {"retry_after_ms": 1500}, 1500),
        ({"retry-after": "2"}, {}, 2000),
        ({"retry-after": "2"}, {"retry_after_ms": 1500}, 1500),
        ({"retry-after": "7"}, {"retry_after_ms": 1500}, 7000),
        ({"retry-after": "soon"}, {"retry_after_ms": 3}, 3),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, {"retry_after_ms": 4}, 4),
        ({"retry-after": "9" * 5000}, {}, 999_999_999_000),
        ({}, {"retry_after_ms": True}, None),
        ({}, {"retry_after_ms": -1}, None),
        ({}, {"retry_after_ms": 10**400}, 10**12),  # no float holds it
        ({}, [], None),
    ],
)
def test_how_long_to_wait(headers, body, expected):
    assert retry_after_ms(Response(429, headers, body)) == expected


def test_a_refusal_has_three_lines():
    error = refused("log in", no(403, "M_FORBIDDEN", "x" * 5000))
    assert error.what == "The homeserver refused to log in."
    assert error.why.startswith("403 M_FORBIDDEN: xxx")
    assert len(error.why) < 400
    assert error.do
    broken = refused("log in", Response(502, {}, []))
    assert broken.what == "The homeserver failed to log in."
    assert (broken.errcode, broken.body) == ("", {})
    assert broken.do


def test_of_a_refusal_the_plain_fields_are_kept_without_the_secret():
    words = {"said": "no d1", "n": 1, "d1": 2, "deep": [[["d1"]]], "more": {"d1": "d1"}}
    error = refused("cancel it", no(400, "M_UNKNOWN", "about d1", **words), "d1")
    assert error.body == {"errcode": "M_UNKNOWN", "error": "about ...", "said": "no ...", "n": 1}


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, rtcfoci.matrix.connect as c;"
        "print([m for m in ('nio', 'aiohttp', 'vodozemac', 'pydantic') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


async def test_a_cancelled_wait_is_cancelled():
    one = client(Script(no(429, "M_LIMIT_EXCEEDED", retry_after_ms=20_000)))
    waiting = asyncio.create_task(one.openid_token())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await one.aclose()
