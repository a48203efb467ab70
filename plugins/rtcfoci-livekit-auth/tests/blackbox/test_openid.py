"""Who vouches for a user: the OpenID look-up, what counts as yes, and what never does."""

import random

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET
from fakes import Answer, Authority, Homeserver

UNAUTHORISED = (401, "M_UNAUTHORIZED", "The request could not be authorised.")


def ask(world, path, member, /, **changes):
    leave = world.homeserver.schedule(600_000) if path == DELEGATE else None
    return world.ask(path, member, leave, **changes)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_named_server_is_asked_once(world, path):
    member = world.member()
    assert ask(world, path, member).status == 200
    (lookup,) = world.homeserver.lookups_of(member.openid)
    assert lookup.query == {"access_token": member.openid["access_token"]}
    assert lookup.host == world.homeserver.name


def test_every_request_is_looked_up_anew(world):
    member = world.member()
    for path in ENDPOINTS:
        assert ask(world, path, member).status == 200
    assert len(world.homeserver.lookups_of(member.openid)) == 3


def test_a_token_is_passed_on_as_it_is(world):
    member = world.member()
    odd = "a b+c/d?e=f&g#h%20ü"
    openid = {**member.openid, "access_token": odd}
    assert world.ask(SFU_GET, member, openid_token=openid).error() == UNAUTHORISED
    (lookup,) = world.homeserver.lookups_of(openid)
    assert lookup.query == {"access_token": odd}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_unknown_token_is_refused_and_nothing_else_happens(world, path):
    member = world.member()
    member.openid = {**member.openid, "access_token": "unknown-" + member.room_id}
    assert ask(world, path, member).error() == UNAUTHORISED
    assert len(world.homeserver.lookups_of(member.openid)) == 1
    assert world.sfu.calls_in(member.alias) == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=401, body={"errcode": "M_UNKNOWN_TOKEN", "error": "?"}),
        Answer(status=403, body={"errcode": "M_FORBIDDEN", "error": "?"}),
        Answer(status=404, body={"errcode": "M_UNRECOGNIZED", "error": "?"}),
        Answer(status=429, body={"errcode": "M_LIMIT_EXCEEDED", "error": "?", "retry_after_ms": 1}),
        Answer(status=500, body=b"down"),
        Answer(status=502, body=b"<html>", headers={"Content-Type": "text/html"}),
        Answer(body=b""),
        Answer(body=b"no JSON"),
        Answer(body=b"[]"),
        Answer(body=b"null"),
        Answer(body={}),
        Answer(body={"sub": ""}),
        Answer(body={"sub": 1}),
        Answer(body={"sub": "no-user-id"}),
        Answer(body={"sub": "@user"}),
        Answer(body={"sub": "user:elsewhere.example"}),
        Answer(reset=True),
    ],
    ids=lambda a: "reset" if a.reset else f"{a.status}-{a.body}"[:40],
)
def test_anything_but_a_yes_is_a_no(world, answer):
    member = world.member()
    # Twice, since an HTTP client may ask again where a connection was lost.
    member.openid = world.homeserver.openid(member.user_id, answer, answer)
    assert world.ask(GET_TOKEN, member).error() == UNAUTHORISED
    assert world.sfu.calls_in(member.alias) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_name_in_an_error_is_not_believed(world, status):
    member = world.member()
    answer = Answer(status=status, body={"sub": member.user_id})
    member.openid = world.homeserver.openid(member.user_id, answer)
    assert world.ask(SFU_GET, member).error() == UNAUTHORISED


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_no_is_not_asked_for_again(world, status):
    member = world.member()
    member.openid = world.homeserver.openid(member.user_id, Answer(status=status))
    assert world.ask(SFU_GET, member).error() == UNAUTHORISED
    assert len(world.homeserver.lookups_of(member.openid)) == 1


@pytest.mark.weakness("rust-0.7", "lost the check")
@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_server_vouches_for_anothers_users(world, path):
    """The one check that stands between a stranger's server and everybody's name."""
    member = world.member(user_id="@victim:elsewhere.example")
    member.openid = world.homeserver.openid(member.user_id, server_name=world.homeserver.name)
    assert ask(world, path, member).error() == UNAUTHORISED
    assert len(world.homeserver.lookups_of(member.openid)) == 1


@pytest.mark.weakness("rust-0.7", "lost the check")
def test_the_second_name_of_a_server_is_another_server(world):
    member = world.member()
    member.openid = world.homeserver.openid(member.user_id, server_name=world.homeserver.other_name)
    assert world.ask(SFU_GET, member).error() == UNAUTHORISED


@pytest.mark.parametrize("path", [GET_TOKEN, DELEGATE])
def test_a_member_is_who_the_token_says(world, path):
    member = world.member()
    someone = world.homeserver.user("someone")
    claimed = {"id": "m", "claimed_user_id": someone, "claimed_device_id": "D"}
    assert ask(world, path, member, member=claimed).error() == UNAUTHORISED
    assert world.sfu.calls_in(member.alias) == []


@pytest.mark.parametrize(
    "change", [str.upper, lambda user: user + " ", lambda user: user.lstrip("@")]
)
def test_a_user_is_claimed_letter_for_letter(world, change):
    member = world.member()
    claimed = {"id": "m", "claimed_user_id": change(member.user_id), "claimed_device_id": "D"}
    assert world.ask(GET_TOKEN, member, member=claimed).error() == UNAUTHORISED


@pytest.mark.parametrize(
    "name",
    [
        "nowhere.invalid",
        "127.0.0.1:1",
        "127.0.0.1:notaport",
        "exa mple.org",
        "user@127.0.0.1",
        "127.0.0.1/path",
        "https://127.0.0.1",
        "[::1",
        "..",
        "\u0000",
    ],
)
def test_a_server_that_cannot_be_asked_vouches_for_nobody(world, name):
    member = world.member()
    openid = {**member.openid, "matrix_server_name": name}
    assert world.ask(SFU_GET, member, openid_token=openid).error() == UNAUTHORISED


def test_a_certificate_that_nobody_signed_is_refused(stage, world):
    (stage.scratch / "other").mkdir()
    stranger = Homeserver(stage.host, Authority(stage.scratch / "other"))
    user_id = stranger.user("someone")
    member = world.member(user_id=user_id, openid=stranger.openid(user_id))
    assert world.ask(SFU_GET, member).error() == UNAUTHORISED
    assert len(stranger.lookups) == 0


def test_a_well_known_file_says_where_a_server_is(stage, world):
    """A name without a port: the file of the name, then the server it names, under that name."""
    try:
        front = Homeserver(stage.host, stage.authority, port=443, names=("localhost",))
    except OSError as error:
        pytest.skip(f"port 443 of 127.0.0.1 is not to be had: {error}")
    front.on_well_known_server.always(Answer(body={"m.server": world.homeserver.other_name}))
    member = world.member(user_id="@someone:localhost")
    member.openid = world.homeserver.openid(member.user_id, server_name="localhost")
    assert world.ask(SFU_GET, member).status == 200
    assert len(front.well_known_server) == 1
    (lookup,) = world.homeserver.lookups_of(member.openid)
    assert lookup.host == world.homeserver.other_name


def test_an_address_without_a_port_is_asked_on_8448(stage, world):
    address = f"127.93.{random.randrange(256)}.{random.randrange(1, 255)}"
    try:
        bare = Homeserver(stage.host, stage.authority, address=address, port=8448, names=(address,))
    except OSError as error:
        pytest.skip(f"port 8448 of {address} is not to be had: {error}")
    user_id = f"@someone:{address}"
    member = world.member(user_id=user_id, openid=bare.openid(user_id))
    assert world.ask(SFU_GET, member).status == 200
    (lookup,) = bare.lookups_of(member.openid)
    assert lookup.host == address


def test_an_ipv6_address_is_a_server_name(stage, world):
    try:
        server = Homeserver(stage.host, stage.authority, address="::1")
    except OSError as error:
        pytest.skip(f"::1 is not to be had: {error}")
    user_id = f"@someone:{server.name}"
    openid = server.openid(user_id, server_name=server.name)
    assert world.ask(SFU_GET, world.member(user_id=user_id, openid=openid)).status == 200
    assert len(server.lookups_of(openid)) == 1
    assert server.violations.take() == []
