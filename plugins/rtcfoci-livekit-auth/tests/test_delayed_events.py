"""The homeserver's delayed events: what is sent, as whom, and what each answer means."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from rtcfoci_livekit_auth.delegation.delayed_events import DelayedEvents, Scheduled
from rtcfoci_livekit_auth.delegation.lanes import Lane
from rtcfoci_livekit_auth.delegation.model import Answer, Leave, Verdict
from rtcfoci_livekit_auth.guard import Answered, Unreachable

BASE = "https://hs.example.org/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"


class Way:
    """The way out and the discovery, with one answer ready."""

    def __init__(self, status=200, body=b"{}", *, headers=(), found=True):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = Answered(status, CIMultiDictProxy(CIMultiDict(headers)), body)
        self.found = found
        self.sent = []

    def trusts(self, server_name):
        return True

    async def request(self, method, url, **more):
        self.sent.append((method, url, more.get("headers"), more.get("data")))
        if self.answer.status == 0:
            raise Unreachable(f"{url}: no answer")
        return self.answer

    async def client_url(self, server_name):
        return "https://hs.example.org" if self.found else None


def leave_of(delay_id="syd_a/b ?#", user_id="@a:example.org", server_name="example.org"):
    return Leave(
        room="r",
        identity="i",
        delay_id=delay_id,
        delay_ms=1000,
        server_name=server_name,
        user_id=user_id,
    )


def events_of(way, **more):
    return DelayedEvents(way, way, **more)


async def test_without_a_registration_nobody_is_named():
    way = Way()
    assert await events_of(way).restart(leave_of()) == Answer(Verdict.DONE)
    ((method, url, headers, data),) = way.sent
    assert (method, url, data) == ("POST", BASE + "syd_a%2Fb%20%3F%23/restart", b"{}")
    assert headers == {"Content-Type": "application/json"}


async def test_an_application_service_speaks_for_users_of_its_own_server_alone():
    way = Way()
    events = events_of(way, as_tokens={"example.org": "as_secret"})
    await events.send(leave_of("syd_1"))
    _, url, headers, _ = way.sent[-1]
    assert url == BASE + "syd_1/send?user_id=%40a%3Aexample.org"
    assert headers["Authorization"] == "Bearer as_secret"
    for other in (
        leave_of(user_id=None),
        leave_of(user_id="@a:elsewhere.org"),
        leave_of(user_id="@a:elsewhere.org", server_name="elsewhere.org"),
        leave_of(server_name="elsewhere.org"),
    ):
        assert not events.speaks_for(other)
        await events.send(other)
        assert "as_secret" not in str(way.sent[-1])


@pytest.mark.parametrize("status", [200, 204])
async def test_what_means_done(status):
    assert await events_of(Way(status)).send(leave_of()) == Answer(Verdict.DONE)


@pytest.mark.parametrize("status", [0, 201, 301, 400, 401, 403, 409, 500, 502])
async def test_what_means_later(status):
    assert await events_of(Way(status)).send(leave_of()) == Answer(Verdict.LATER)


async def test_a_404_of_a_proxy_is_doubted_where_that_is_set():
    not_found, proxy = Way(404, {"errcode": "M_NOT_FOUND"}), Way(404, b"<html>")
    unrecognised = Way(404, {"errcode": "M_UNRECOGNIZED"})
    for way in (not_found, proxy, unrecognised):
        assert await events_of(way).restart(leave_of()) == Answer(Verdict.MISSING)
    doubt = {"doubt_answers": True}
    assert await events_of(not_found, **doubt).restart(leave_of()) == Answer(Verdict.MISSING)
    assert await events_of(proxy, **doubt).restart(leave_of()) == Answer(Verdict.LATER)
    assert await events_of(unrecognised, **doubt).restart(leave_of()) == Answer(Verdict.LATER)
    assert await events_of(Way(409), **doubt).restart(leave_of()) == Answer(Verdict.MISSING)


@pytest.mark.parametrize(
    ("header", "body", "wait_s"),
    [
        ("7", {}, 7.0),
        ("-7", {}, 0.0),
        ("soon", {"retry_after_ms": 1001}, 2.0),
        (None, {"retry_after_ms": 1}, 1.0),
        (None, {"retry_after_ms": -5}, 0.0),
        (None, {"retry_after_ms": "5"}, None),
        (None, b'{"retry_after_ms": 1e999}', None),
        (None, b"[" * 100_000, None),
        ("9" * 400, {}, None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", {}, 0.0),
    ],
)
async def test_how_long_a_limit_lasts(header, body, wait_s):
    way = Way(429, body, headers={"Retry-After": header} if header else {})
    assert await events_of(way).send(leave_of()) == Answer(Verdict.LATER, wait_s)


async def test_a_date_is_a_time_to_wait_too():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answer = await events_of(Way(429, headers={"Retry-After": at})).send(leave_of())
    assert 55 < answer.retry_after_s <= 60


async def test_a_homeserver_that_cannot_be_found_is_not_asked():
    way = Way(found=False)
    assert await events_of(way).send(leave_of()) == Answer(Verdict.NOWHERE)
    assert way.sent == []


@pytest.mark.parametrize("name", ["delay_ms", "delay"])
async def test_a_delay_is_looked_up_as_its_owner(name):
    way = Way(200, {name: 3_600_000, "room_id": "!r"})
    events = events_of(way, as_tokens={"example.org": "as_secret"})
    found = await events.look_up("example.org", "@a:example.org", "syd_1")
    assert found == Scheduled(room_id="!r", delay_ms=3_600_000)
    assert way.sent[0][:2] == ("GET", BASE + "syd_1?user_id=%40a%3Aexample.org")


async def test_a_delay_that_is_not_the_users_is_not_found_and_no_answer_is_no_no():
    way = Way(404, {"errcode": "M_NOT_FOUND"})
    tokens = {"as_tokens": {"example.org": "as_secret"}}
    assert await events_of(way, **tokens).look_up("example.org", "@a:example.org", "d") is None
    for way in (Way(0), Way(404), Way(500), Way(200, {"delay_ms": True}), Way(found=False)):
        with pytest.raises(Unreachable) as caught:
            await events_of(way, **tokens).look_up("example.org", "@a:example.org", "syd_secret")
        assert "syd_secret" not in str(caught.value)


# The queue in front of a server.


def test_what_is_urgent_goes_first_then_leaves_then_what_has_time():
    lane = Lane(at_once=9)
    lane.put("restart, later", urgent_s=200.0)
    lane.put("leave 1")
    lane.put("restart, urgent", urgent_s=90.0)
    lane.put("leave 2")
    order = [lane.take(100.0) for _ in range(4)]
    assert order == ["restart, urgent", "leave 1", "leave 2", "restart, later"]
    assert lane.take(100.0) is None


def test_no_more_start_than_may_run_and_than_a_second_allows():
    lane = Lane(at_once=2, per_s=1.0, burst=3)
    for n in range(5):
        lane.put(n)
    assert [lane.take(10.0), lane.take(10.0), lane.take(10.0)] == [0, 1, None]
    lane.done()
    assert lane.take(10.0) == 2
    lane.done()
    lane.done()
    assert lane.ready_s(10.0) == 11.0
    assert lane.take(10.9) is None
    assert lane.take(11.0) == 3
    lane.hold(20.0)
    assert lane.ready_s(11.0) == 20.0
    assert lane.take(20.0) == 4
    assert not lane.idle(20.0)
    lane.done()
    lane.done()
    assert lane.idle(30.0)


def test_a_turn_that_nobody_wants_any_more_costs_nothing():
    lane = Lane(at_once=1, per_s=1.0, burst=1)
    lane.put("stale")
    lane.put("wanted")
    assert lane.take(10.0) == "stale"
    lane.unused()
    assert lane.take(10.0) == "wanted"
