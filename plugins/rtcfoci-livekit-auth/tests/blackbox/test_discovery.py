"""Where a homeserver takes delayed events: the well-known file of its name, kept once found."""

import time

import pytest
from asking import DELEGATE, ENDPOINTS, SFU_GET, Member
from fakes import Answer

UNRESOLVED = (400, "M_BAD_JSON", "Unable to resolve client-server API")


@pytest.fixture(scope="module")
def world(stage):
    """A service that trusts every homeserver, so that each test may have one of its own."""
    return stage.world({"LIVEKIT_FULL_ACCESS_HOMESERVERS": "*"})


@pytest.fixture
def member(stage):
    return Member(homeserver=stage.homeserver())


def restarted(world, member):
    """Delegate a leave, join, and give the restart."""
    leave = member.homeserver.schedule(600_000)
    assert world.ask(DELEGATE, member, leave).status == 200
    hook = world.sfu.webhook("participant_joined", member.alias, member.identity(DELEGATE))
    hook.send(world.service.url)
    return leave.restarts.wait()[0]


def test_the_file_is_read_once(world, member):
    restarted(world, member)
    restarted(world, member)
    assert len(member.homeserver.well_known_client) == 1


def test_nobody_asks_for_the_file_without_a_delegation(world, member):
    assert world.ask(SFU_GET, member).status == 200
    assert len(member.homeserver.well_known_client) == 0


def test_the_file_says_where(stage, world, member):
    elsewhere = stage.homeserver()
    base_url = elsewhere.url
    member.homeserver.on_well_known_client.always(
        Answer(body={"m.homeserver": {"base_url": base_url}, "x": 1})
    )
    leave = elsewhere.schedule(600_000)
    assert world.ask(DELEGATE, member, leave).status == 200
    world.sfu.webhook("participant_joined", member.alias, member.identity(DELEGATE)).send(
        world.service.url
    )
    assert leave.restarts.wait()[0].host == elsewhere.name


def test_a_slash_at_the_end_is_none(world, member):
    base_url = member.homeserver.url + "/"
    member.homeserver.on_well_known_client.always(
        Answer(body={"m.homeserver": {"base_url": base_url}})
    )
    restarted(world, member)


def test_a_file_of_another_content_type_is_read(world, member):
    answer = Answer(
        body={"m.homeserver": {"base_url": member.homeserver.url}},
        headers={"Content-Type": "text/plain"},
    )
    member.homeserver.on_well_known_client.always(answer)
    restarted(world, member)


def test_a_file_that_is_elsewhere_is_followed(stage, world, member):
    other = stage.homeserver()
    other.on_well_known_client.always(
        Answer(body={"m.homeserver": {"base_url": member.homeserver.url}})
    )
    redirect = Answer(status=302, headers={"Location": other.url + "/.well-known/matrix/client"})
    member.homeserver.on_well_known_client.always(redirect)
    restarted(world, member)


WRONG_FILES = [
    Answer(status=404),
    Answer(status=500),
    Answer(body=b""),
    Answer(body=b"no JSON"),
    Answer(body=b"[]"),
    Answer(body={"m.identity_server": {}}),
    Answer(body={"m.homeserver": {}}),
    Answer(body={"m.homeserver": "https://a.example"}),
    Answer(body={"m.homeserver": {"base_url": ""}}),
    Answer(body={"m.homeserver": {"base_url": 1}}),
    Answer(
        body=b'{"m.homeserver": {"base_url": "https://a.example"}, "x": "' + b"x" * 70_000 + b'"}'
    ),
    Answer(reset=True),
]


@pytest.mark.parametrize(
    "answer", WRONG_FILES, ids=lambda a: "reset" if a.reset else f"{a.status}-{a.body}"[:40]
)
def test_without_the_file_there_is_no_delegation(world, member, answer):
    """There is no falling back to the server's own name."""
    member.homeserver.on_well_known_client.always(answer)
    for path in ENDPOINTS:
        assert world.ask(path, member, member.homeserver.schedule(1_000)).error() == UNRESOLVED
    assert world.sfu.calls_in(member.alias) == []


def test_a_file_that_comes_later_is_found(world, member):
    member.homeserver.on_well_known_client.then(Answer(status=404))
    leave = member.homeserver.schedule(600_000)
    assert world.ask(DELEGATE, member, leave).error() == UNRESOLVED
    restarted(world, member)


def test_a_slow_file_is_waited_for(world, member):
    answer = Answer(body={"m.homeserver": {"base_url": member.homeserver.url}}, after_s=1.0)
    member.homeserver.on_well_known_client.always(answer)
    before_s = time.monotonic()
    restarted(world, member)
    assert time.monotonic() - before_s > 1.0
