"""The token: claims, grants, names."""

import time

import pytest
from asking import DELEGATE, GET_TOKEN, SFU_GET, claims, hashed

TOKENS = (SFU_GET, GET_TOKEN)


def token(world, path, member, leave=None):
    reply = world.ask(path, member, leave)
    assert reply.status == 200, reply
    return claims(reply.json()["jwt"], world.sfu.key, world.sfu.secret)


def test_the_hashes_are_those_of_the_specification():
    assert (
        hashed("!roomid:example.com", "slot1234") == "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"
    )
    assert (
        hashed("@alice:example.com", "DEVICE123", "memberABC")
        == "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
    )


@pytest.mark.parametrize("path", TOKENS)
def test_claims(world, path):
    member = world.member()
    before = int(time.time())
    got = token(world, path, member)
    after = int(time.time())
    video = got.pop("video")
    assert got.pop("iss") == world.sfu.key
    assert got.pop("sub") == member.identity(path)
    assert got.pop("identity", member.identity(path)) == member.identity(path)
    issued, until = got.pop("nbf"), got.pop("exp")
    assert before <= issued <= after
    assert until - issued == 3600
    assert got.pop("iat", issued) == issued
    assert got == {}
    assert video.pop("room") == member.alias
    assert video.pop("roomJoin") is True
    assert not video.pop("roomCreate", False)
    for allowed in ("roomAdmin", "roomList", "hidden", "recorder"):
        assert allowed not in video


@pytest.mark.policy("go-0.5")
@pytest.mark.parametrize("path", TOKENS)
def test_claims_of_the_first_generation(world, path):
    got = token(world, path, world.member())
    assert set(got) == {"iss", "sub", "identity", "iat", "nbf", "exp", "video"}
    video = got["video"]
    del video["room"]
    assert video == {
        "roomJoin": True,
        "canPublish": True,
        "canSubscribe": True,
        "canUpdateOwnMetadata": True,
    }


def test_both_endpoints_meet_in_one_room(world):
    member = world.member(slot_id="m.call#ROOM")
    assert {token(world, path, member)["video"]["room"] for path in TOKENS} == {member.alias}


def test_another_slot_is_another_room(world):
    member = world.member(slot_id="m.call#breakout")
    assert token(world, GET_TOKEN, member)["video"]["room"] == hashed(
        member.room_id, "m.call#breakout"
    )


def test_a_delegation_changes_nothing_in_the_token(world):
    member = world.member()
    got = token(world, GET_TOKEN, member, world.homeserver.schedule(600_000))
    assert got["sub"] == member.identity(DELEGATE)
    assert got["video"]["room"] == member.alias


def test_the_older_endpoint_names_the_device_in_clear(world):
    member = world.member(device_id="A B:C/é")
    assert token(world, SFU_GET, member)["sub"] == f"{member.user_id}:A B:C/é"


def test_the_older_endpoint_without_a_device(world):
    member = world.member(device_id="")
    assert token(world, SFU_GET, member)["sub"] == f"{member.user_id}:"


@pytest.mark.parametrize(
    "text", ["größe🙂", 'quote"back\\slash', "tab\tnull\x00\x1f\x7f", "日本語", "/", "e\u0301"]
)
def test_names_of_any_letters_hash_as_canonical_json(world, text):
    member = world.member(
        room_id=f"!{text}:example.org", slot_id=text, device_id=text, member_id=text
    )
    got = token(world, GET_TOKEN, member)
    assert got["video"]["room"] == member.alias
    assert got["sub"] == member.identity(GET_TOKEN)


@pytest.mark.weakness("go-0.5", "escapes these in the array that it hashes, against canonical JSON")
@pytest.mark.parametrize("text", ["a<b", "a>b", "a&b", "a\u2028b", "a\u2029b"])
def test_letters_that_are_special_in_html_hash_like_any_other(world, text):
    member = world.member(room_id=f"!{text}:example.org")
    assert token(world, SFU_GET, member)["video"]["room"] == member.alias
