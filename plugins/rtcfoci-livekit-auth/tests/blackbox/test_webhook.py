"""Webhooks: which are believed. Whatever comes, the answer is an empty 200."""

import time

import pytest
from fakes import call


@pytest.fixture
def waiting(world):
    """A delegation whose participant is not there yet; any believed join restarts it."""
    return world.delegated(600_000)


def joined(delegation, **more):
    hook = delegation.world.sfu.webhook(
        "participant_joined", delegation.member.alias, delegation.identity
    )
    return hook.but(**more)


def accepts(delegation, hook, method="POST"):
    reply = hook.send(delegation.world.service.url, method=method)
    assert (reply.status, reply.body) == (200, b"")
    delegation.restarts(1)


def ignores(delegation, hook):
    """See that a webhook does nothing, by one that comes later and does."""
    reply = hook.send(delegation.world.service.url)
    assert (reply.status, reply.body) == (200, b"")
    time.sleep(0.1)
    assert len(delegation.leave.calls) == 0
    accepts(delegation, joined(delegation))


def test_a_signed_join_is_believed(waiting):
    accepts(waiting, joined(waiting))


def test_unknown_fields_are_overlooked(waiting):
    accepts(waiting, joined(waiting, extra={"fromTheFuture": {"x": [1]}}))


@pytest.mark.parametrize("method", ["PUT", "PATCH", "GET"])
def test_the_method_does_not_matter(waiting, method):
    accepts(waiting, joined(waiting), method)


def test_the_content_type_does_not_matter(waiting):
    hook = joined(waiting)
    body = hook.body()
    headers = {"Authorization": hook.authorization(body), "Content-Type": "text/plain"}
    call("POST", waiting.world.service.url + "/sfu_webhook", body, headers=headers)
    waiting.restarts(1)


def test_a_clock_that_is_half_a_minute_off_is_forgiven(waiting):
    now = int(time.time())
    accepts(waiting, joined(waiting, claims={"exp": now - 30}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another-secret-of-at-least-32-characters"},
        {"key": "APIunknown"},
        {"claims": {"sha256": "bm90IHRoaXMgYm9keQ=="}},
        {"claims": {"sha256": None}},
        {"claims": {"sha256": ""}},
        {"claims": {"exp": 1_700_000_000}},
        {"claims": {"iss": None}},
        {"claims": {"nbf": 4_000_000_000}},
        {"algorithm": "none"},
        {"algorithm": "HS512"},
        {"prefix": "Bearer "},
    ],
    ids=str,
)
def test_a_wrong_signature_is_not_believed(waiting, wrong):
    ignores(waiting, joined(waiting, **wrong))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{}", {}),
        (b"{}", {"Authorization": "nonsense"}),
        (b"{}", {"Authorization": ""}),
        (b"\xff" * 100, {"Authorization": "a.b.c"}),
    ],
)
def test_nonsense_is_answered_like_the_rest(world, body, headers):
    reply = call("POST", world.service.url + "/sfu_webhook", body, headers=headers)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b'{"event": 5}', b'{"event": "participant_joined"']
)
def test_a_signed_body_that_is_no_event_is_overlooked(waiting, body):
    hook = joined(waiting)
    headers = {"Authorization": hook.authorization(body)}
    reply = call("POST", waiting.world.service.url + "/sfu_webhook", body, headers=headers)
    assert (reply.status, reply.body) == (200, b"")
    accepts(waiting, hook)


@pytest.mark.parametrize(
    "event",
    [
        "room_started",
        "room_finished",
        "track_published",
        "track_unpublished",
        "egress_started",
        "new_in_2030",
        "",
    ],
)
def test_other_events_mean_nothing(waiting, event):
    ignores(waiting, joined(waiting, event=event))


def test_events_of_others_mean_nothing(waiting):
    world, member = waiting.world, waiting.member
    ignores(waiting, world.sfu.webhook("participant_joined", member.alias, "somebody else"))
    elsewhere = world.sfu.webhook("participant_left", "another room", waiting.identity)
    assert elsewhere.send(world.service.url).status == 200
    time.sleep(0.1)
    assert len(waiting.leave.sends) == 0


def test_the_service_survives_events_without_a_room_or_participant(waiting):
    world = waiting.world
    for hook in (
        world.sfu.webhook("participant_joined", None, waiting.identity),
        world.sfu.webhook("participant_joined", waiting.member.alias, None),
        world.sfu.webhook("participant_left", None, None),
    ):
        try:
            hook.send(world.service.url)
        except OSError:
            pass
    accepts(waiting, joined(waiting))


@pytest.mark.weakness("go-0.5", "drops the connection")
def test_an_event_without_a_room_is_answered(world):
    reply = world.sfu.webhook("egress_started").send(world.service.url)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.weakness("go-0.5", "believes it")
def test_a_signature_without_an_end_is_not_believed(waiting):
    ignores(waiting, joined(waiting, claims={"exp": None}))
