"""Whose users may create rooms and delegate leaves, and what is left to the others."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET, claims

NO_DELEGATION = "Delegation of delayed events is only supported for full access users"


def creates_room(world, member):
    assert world.ask(SFU_GET, member).status == 200
    return bool(world.sfu.calls_in(member.alias, "CreateRoom"))


@pytest.mark.parametrize("path", [SFU_GET, GET_TOKEN])
def test_full_access_creates_the_room(world, path):
    member = world.member()
    assert world.ask(path, member).status == 200
    assert len(world.sfu.calls_in(member.alias, "CreateRoom")) == 1


@pytest.mark.parametrize("path", [SFU_GET, GET_TOKEN])
def test_others_get_a_token_and_no_room(world, path):
    guest = world.guest()
    reply = world.ask(path, guest)
    assert reply.status == 200
    got = claims(reply.json()["jwt"], world.sfu.key, world.sfu.secret)
    assert got["video"]["room"] == guest.alias
    assert world.sfu.calls_in(guest.alias) == []


@pytest.mark.policy("go-0.5")
@pytest.mark.parametrize("path", [SFU_GET, GET_TOKEN])
def test_others_are_granted_the_same(world, path):
    grants = []
    for member in (world.member(), world.guest()):
        token = world.ask(path, member).json()["jwt"]
        video = claims(token, world.sfu.key, world.sfu.secret)["video"]
        del video["room"]
        grants.append(video)
    assert grants[0] == grants[1]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_others_may_not_delegate(world, path):
    guest = world.guest()
    reply = world.ask(path, guest, world.homeserver.schedule(60_000))
    expected = (403, "M_FORBIDDEN") if path == DELEGATE else (400, "M_BAD_JSON")
    assert reply.error() == (*expected, NO_DELEGATION)
    assert world.sfu.calls_in(guest.alias) == []


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_wrong_token_is_told_before_a_wrong_server(world, path):
    guest = world.guest()
    guest.openid = {**guest.openid, "access_token": "unknown"}
    assert world.ask(path, guest, world.homeserver.schedule(60_000)).status == 401


LISTS = {
    "*": (True, True),
    "a.example, NAME\tb.example": (True, False),
    "a.example *": (False, False),
    "SHOUTED,NAME": (True, False),
}


@pytest.fixture(scope="module")
def worlds(stage):
    """Services by their list of homeservers, started side by side."""
    made = {}
    for text in LISTS:
        made[text] = stage.world(start=False)
        homeserver = made[text].homeserver
        names = {"NAME": homeserver.name, "SHOUTED": homeserver.other_name.upper()}
        filled = re.sub("NAME|SHOUTED", lambda found, names=names: names[found[0]], text)
        made[text].service.env["LIVEKIT_FULL_ACCESS_HOMESERVERS"] = filled
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda world: world.service.start(), made.values()))
    yield made
    for world in made.values():
        world.service.kill()


@pytest.mark.parametrize("text", LISTS)
def test_the_list(worlds, text):
    world = worlds[text]
    assert (creates_room(world, world.member()), creates_room(world, world.guest())) == LISTS[text]
