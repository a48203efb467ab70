"""What a readable body must hold, and which complaint comes first."""

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET

NO_ROOM = "Missing room parameter"
NO_ROOM_OR_SLOT = "The request body is missing `room_id` or `slot_id`"
# The two newer endpoints differ by one word, as they always did.
NO_MEMBER = {
    GET_TOKEN: "The request body `member` is missing a `id`, `claimed_user_id` or `claimed_device_id`",
    DELEGATE: "The request body `member` is missing `id`, `claimed_user_id` or `claimed_device_id`",
}
NO_OPENID = {
    SFU_GET: "Missing OpenID token parameters",
    GET_TOKEN: "The request body `openid_token` is missing a `access_token` or `matrix_server_name`",
    DELEGATE: "The request body `openid_token` is missing `access_token` or `matrix_server_name`",
}
NO_DELAY = "The request body is missing `delay_id` or `delay_timeout`"


def refused(world, path, body):
    status, errcode, text = world.service.post(path, body).error()
    assert (status, errcode) == (400, "M_BAD_JSON")
    return text


def without(body, *names):
    """Give the body without some of its fields, and the same with them empty."""
    absent = {k: v for k, v in body.items() if k not in names}
    empty = {k: ("" if isinstance(v, str) else {}) if k in names else v for k, v in body.items()}
    return absent, empty


@pytest.mark.parametrize(
    ("path", "names", "complaint"),
    [
        (SFU_GET, ["room"], NO_ROOM),
        (SFU_GET, ["openid_token"], NO_OPENID[SFU_GET]),
        (SFU_GET, ["room", "openid_token"], NO_ROOM),
        *(
            (path, names, complaint)
            for path in (GET_TOKEN, DELEGATE)
            for names, complaint in [
                (["room_id"], NO_ROOM_OR_SLOT),
                (["slot_id"], NO_ROOM_OR_SLOT),
                (["member"], NO_MEMBER[path]),
                (["openid_token"], NO_OPENID[path]),
                (["slot_id", "member", "openid_token", "delay_id"], NO_ROOM_OR_SLOT),
                (["member", "openid_token", "delay_id"], NO_MEMBER[path]),
                (["openid_token", "delay_id"], NO_OPENID[path]),
            ]
        ),
    ],
)
def test_required_fields(world, path, names, complaint):
    body = world.member().body(path, world.homeserver.schedule(60_000))
    for incomplete in without(body, *names):
        assert refused(world, path, incomplete) == complaint


@pytest.mark.parametrize("path", [GET_TOKEN, DELEGATE])
@pytest.mark.parametrize("name", ["id", "claimed_user_id", "claimed_device_id"])
def test_required_fields_of_the_member(world, path, name):
    body = world.member().body(path)
    for incomplete in without(body["member"], name):
        assert refused(world, path, {**body, "member": incomplete}) == NO_MEMBER[path]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", ["access_token", "matrix_server_name"])
def test_required_fields_of_the_openid_token(world, path, name):
    body = world.member().body(path)
    for incomplete in without(body["openid_token"], name):
        assert refused(world, path, {**body, "openid_token": incomplete}) == NO_OPENID[path]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "delay",
    [
        {"delay_id": "some"},
        {"delay_timeout": 1000},
        {"delay_id": "some", "delay_timeout": 0},
        {"delay_id": "some", "delay_timeout": -1},
        {"delay_id": "", "delay_timeout": 1000},
    ],
    ids=str,
)
def test_half_a_delegation_is_refused(world, path, delay):
    assert refused(world, path, {**world.member().body(path), **delay}) == NO_DELAY


def test_a_delegation_needs_its_delay(world):
    assert refused(world, DELEGATE, world.member().body(DELEGATE)) == NO_DELAY
    assert (
        refused(world, DELEGATE, world.member().body(DELEGATE, delay_id="", delay_timeout=0))
        == NO_DELAY
    )


@pytest.mark.parametrize("path", [SFU_GET, GET_TOKEN])
def test_an_empty_delegation_is_none(world, path):
    reply = world.ask(path, world.member(), delay_id="", delay_timeout=0)
    assert reply.status == 200


def test_a_device_is_optional_for_the_older_endpoint(world):
    for device in (None, ""):
        assert world.ask(SFU_GET, world.member(), device_id=device).status == 200


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("delay_ms", [9_223_372_036_855, 2**63 - 1])
def test_a_delay_beyond_what_can_be_told_is_refused(world, path, delay_ms):
    reply = world.ask(path, world.member(), delay_id="some", delay_timeout=delay_ms)
    assert reply.error()[:2] == (400, "M_BAD_JSON")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_nobody_is_asked_before_the_body_is_right(world, path):
    member = world.member()
    assert world.ask(path, member, delay_id="some").status == 400
    assert world.homeserver.lookups_of(member.openid) == []
    assert world.sfu.calls_in(member.alias) == []


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_place_of_the_client_server_api_is_not_the_clients_to_say(world, path):
    leave = world.homeserver.schedule(600_000)
    reply = world.ask(path, world.member(), leave, delay_cs_api_url="https://elsewhere.invalid")
    assert reply.status == 200
