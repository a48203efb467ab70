"""How bodies are read: strict about names and types, lenient elsewhere, as the first service was."""

import http.client
import json

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET

UNREADABLE = (400, "M_NOT_JSON", "Error reading request")


def full_body(world, path):
    return world.member().body(path, world.homeserver.schedule(600_000))


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"nonsense",
        b'{"room": ',
        b"[]",
        b'""',
        b"1",
        b"true",
        b"{'room': 'x'}",
        b'{"room": "x",}',
        b"\xef\xbb\xbf{}",
        b"NaN",
        b'{"room": "a\nb"}',
        b"// comment\n{}",
    ],
)
def test_what_is_no_json_object_is_unreadable(world, path, body):
    assert world.service.post(path, body).error() == UNREADABLE


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("place", [(), ("openid_token",), ("member",)])
def test_an_unknown_key_is_unreadable_at_every_level(world, path, place):
    if place == ("member",) and path == SFU_GET:
        place = ()
    body = json.loads(json.dumps(full_body(world, path)))
    inside = body
    for step in place:
        inside = inside[step]
    inside["surprise"] = None
    assert world.service.post(path, body).error() == UNREADABLE


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (SFU_GET, {"room": 1}),
        (SFU_GET, {"device_id": {}}),
        (SFU_GET, {"room_id": "!x:y"}),
        (SFU_GET, {"member": {}}),
        (GET_TOKEN, {"room_id": []}),
        (GET_TOKEN, {"slot_id": False}),
        (GET_TOKEN, {"room": "!x:y"}),
        (GET_TOKEN, {"member": "me"}),
        (GET_TOKEN, {"member": {"id": 1}}),
        *((path, {"openid_token": "token"}) for path in ENDPOINTS),
        *((path, {"openid_token": []}) for path in ENDPOINTS),
        *((path, {"openid_token": {"expires_in": 3600.5}}) for path in ENDPOINTS),
        *((path, {"openid_token": {"expires_in": "3600"}}) for path in ENDPOINTS),
        *((path, {"openid_token": {"token_type": 1}}) for path in ENDPOINTS),
        *((path, {"delay_id": 5}) for path in ENDPOINTS),
        *((path, {"delay_timeout": "1000"}) for path in ENDPOINTS),
        *((path, {"delay_timeout": 1000.5}) for path in ENDPOINTS),
        *((path, {"delay_timeout": 2**63}) for path in ENDPOINTS),
        *((path, {"delay_cs_api_url": 1}) for path in ENDPOINTS),
    ],
)
def test_a_wrong_type_is_unreadable(world, path, changes):
    body = full_body(world, path)
    assert world.service.post(path, {**body, **changes}).error() == UNREADABLE


@pytest.mark.parametrize("number", ["1e3", "1000.0", "+1000", "01000", "0x3e8", "Infinity"])
def test_a_number_is_a_plain_integer(world, number):
    body = json.dumps(world.member().body(DELEGATE, delay_id="x", delay_timeout=123454321))
    text = body.replace("123454321", number)
    assert world.service.post(DELEGATE, text).error() == UNREADABLE


@pytest.mark.parametrize("path", ENDPOINTS)
def test_only_the_first_value_is_read(world, path):
    text = json.dumps(full_body(world, path)) + "\n{nonsense"
    assert world.service.post(path, text).status == 200


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_case_of_keys_does_not_matter(world, path):
    body = full_body(world, path)
    body["OpenID_Token"] = {k.upper(): v for k, v in body.pop("openid_token").items()}
    if path != SFU_GET:
        body["Member"] = {k.title(): v for k, v in body.pop("member").items()}
    shouted = {k.upper() if k.islower() else k: v for k, v in body.items()}
    assert world.service.post(path, shouted).status == 200


def test_the_last_of_equal_keys_counts(world):
    member = world.member()
    text = json.dumps(member.body(SFU_GET)).replace(
        '{"room"', '{"ROOM": "!no:x", "room": "!no:y", "room"', 1
    )
    assert world.service.post(SFU_GET, text).status == 200
    assert world.sfu.calls_in(member.alias, "CreateRoom")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_null_is_as_good_as_absent(world, path):
    optional = {"delay_cs_api_url": None}
    if path != DELEGATE:
        optional |= {"delay_id": None, "delay_timeout": None}
    body = world.member().body(
        path, world.homeserver.schedule(600_000) if path == DELEGATE else None
    )
    body["openid_token"] = {**body["openid_token"], "expires_in": None, "token_type": None}
    assert world.service.post(path, {**body, **optional}).status == 200
    assert world.service.post(path, b"null").error()[1] == "M_BAD_JSON"
    assert world.service.post(path, {**body, "openid_token": None}).error()[1] == "M_BAD_JSON"


@pytest.mark.parametrize("path", ENDPOINTS)
def test_optional_members_of_the_openid_token_may_be_absent(world, path):
    member = world.member()
    body = member.body(path, world.homeserver.schedule(600_000) if path == DELEGATE else None)
    body["openid_token"] = {
        "access_token": member.openid["access_token"],
        "matrix_server_name": member.openid["matrix_server_name"],
    }
    assert world.service.post(path, body).status == 200


def test_text_beyond_ascii_is_read_as_utf8(world):
    plain, escaped = (
        world.member(room_id="!größe🙂:example.org"),
        world.member(room_id="!größe🙂:example.org"),
    )
    for member, ascii_only in ((plain, False), (escaped, True)):
        text = json.dumps(member.body(SFU_GET), ensure_ascii=ascii_only)
        assert world.service.post(SFU_GET, text).status == 200
    assert len(world.sfu.calls_in(plain.alias, "CreateRoom")) == 2


def test_a_long_body_is_read(world):
    text = json.dumps(world.member().body(SFU_GET)) + " " * 500_000
    assert world.service.post(SFU_GET, text).status == 200


def test_a_chunked_body_is_read(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.service.port, timeout=5)
    try:
        text = json.dumps(world.member().body(SFU_GET)).encode()
        connection.request(
            "POST",
            SFU_GET,
            iter([text[:40], text[40:]]),
            encode_chunked=True,
            headers={"Transfer-Encoding": "chunked"},
        )
        assert connection.getresponse().status == 200
    finally:
        connection.close()
