"""Rooms: created ahead of the token's use, with fixed settings, or not at all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import GET_TOKEN, SFU_GET, claims
from fakes import Answer
from fakes.service import free_port
from fakes.sfu import twirp_error

TOKENS = (SFU_GET, GET_TOKEN)
NO_ROOM = (500, "M_UNKNOWN", "Unable to create room on SFU")


@pytest.mark.parametrize("path", TOKENS)
def test_the_settings_of_a_room(world, path):
    member = world.member()
    assert world.ask(path, member).status == 200
    (call,) = world.sfu.calls_in(member.alias)
    assert call.method == "CreateRoom"
    assert call.request.name == member.alias
    assert call.request.empty_timeout == 300
    assert call.request.departure_timeout == 20
    assert call.request.max_participants == 0
    asked = {descriptor.name for descriptor, _ in call.request.ListFields()}
    assert asked == {"name", "empty_timeout", "departure_timeout"}


def test_the_token_of_the_call_grants_creation_alone(world):
    member = world.member()
    assert world.ask(SFU_GET, member).status == 200
    (call,) = world.sfu.calls_in(member.alias)
    video = call.claims["video"]
    assert video["roomCreate"] is True
    assert not {"roomAdmin", "roomJoin", "roomList", "roomRecord", "ingressAdmin"} & set(video)


def test_every_token_asks_for_the_room_again(world):
    """An SFU forgets rooms that stay empty, so one creation is not enough."""
    member = world.member()
    for path in (SFU_GET, GET_TOKEN, SFU_GET):
        assert world.ask(path, member).status == 200
    assert len(world.sfu.calls_in(member.alias, "CreateRoom")) == 3


@pytest.mark.parametrize("path", TOKENS)
@pytest.mark.parametrize(
    "answer",
    [
        twirp_error(401, "unauthenticated"),
        twirp_error(403, "permission_denied"),
        twirp_error(404, "bad_route"),
        twirp_error(500, "internal"),
        twirp_error(503, "unavailable"),
        Answer(status=502, body=b"<html>bad gateway", headers={"Content-Type": "text/html"}),
        Answer(body=b"\xff\xff\xff", headers={"Content-Type": "application/protobuf"}),
        Answer(reset=True),
    ],
    ids=lambda a: "reset" if a.reset else str(a.status),
)
def test_a_room_that_cannot_be_created_is_an_error(world, path, answer):
    member = world.member()
    world.sfu.on("CreateRoom", member.alias).always(answer)
    assert world.ask(path, member).error() == NO_ROOM


def test_an_sfu_that_is_down_is_an_error(stage, world):
    lonely = stage.world({"LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}"})
    assert lonely.ask(SFU_GET, lonely.member()).error() == NO_ROOM
    assert lonely.ask(SFU_GET, lonely.guest()).status == 200
    # Health is the service's own.
    assert lonely.service.get("/healthz").status == 200
    lonely.service.stop()


@pytest.mark.parametrize("path", TOKENS)
def test_a_delegation_without_its_room_is_no_delegation(world, path):
    member, leave = world.member(), world.homeserver.schedule(60_000)
    world.sfu.on("CreateRoom", member.alias).always(twirp_error(500, "internal"))
    assert world.ask(path, member, leave).error() == NO_ROOM
    hook = world.sfu.webhook("participant_joined", member.alias, member.identity(path))
    assert hook.send(world.service.url).status == 200
    assert not leave.calls.until(lambda: len(leave.calls) > 0, within_s=0.4)
    assert world.sfu.calls_in(member.alias, "GetParticipant") == []


def test_a_delegation_alone_creates_no_room(world):
    delegation = world.delegated(60_000)
    assert world.sfu.calls_in(delegation.member.alias, "CreateRoom") == []


def test_many_at_once_get_what_each_asked_for(world):
    members = [world.member() for _ in range(48)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda member: world.ask(SFU_GET, member), members))
    for member, reply in zip(members, replies, strict=True):
        got = claims(reply.json()["jwt"], world.sfu.key, world.sfu.secret)
        assert (got["sub"], got["video"]["room"]) == (member.identity(SFU_GET), member.alias)
        assert len(world.sfu.calls_in(member.alias)) == 1


def test_a_url_with_a_path_is_kept(stage):
    """An SFU behind a proxy under a prefix: in the answer, and in the service's own calls."""
    world = stage.world(start=False)
    prefixed = stage.sfu(prefix="/livekit/sfu")
    world.service.env |= {
        "LIVEKIT_URL": prefixed.url,
        "LIVEKIT_KEY": prefixed.key,
        "LIVEKIT_SECRET": prefixed.secret,
    }
    world.service.start()
    member = world.member()
    assert world.ask(SFU_GET, member).json()["url"] == prefixed.url
    assert len(prefixed.calls_in(member.alias, "CreateRoom")) == 1
    world.service.stop()
