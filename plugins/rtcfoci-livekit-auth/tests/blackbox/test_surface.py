"""Paths, methods, and the headers that let browsers in."""

import http.client

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET
from fakes import call
from fakes.sfu import twirp_error

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token",
}


def cors_of(reply):
    return {name: v for name, v in reply.headers.items() if name.startswith("access-control")}


@pytest.mark.parametrize(
    "path", ["/", "/sfu", "/sfu/get/", "/sfu/Get", "/get_token/x", "/livekit/jwt/sfu/get"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_plain_text_without_cors(world, method, path):
    reply = call(method, world.service.url + path, b"{}" if method == "POST" else None)
    assert reply.status == 404
    assert reply.headers["content-type"].startswith("text/plain")
    assert cors_of(reply) == {}


@pytest.mark.parametrize("path", ["//sfu/get", "/x/../sfu/get", "/./sfu/get"])
def test_an_untidy_path_is_sent_to_the_tidy_one(world, path):
    reply = call("POST", world.service.url + path, b"{}")
    assert reply.status in (301, 307, 308)
    assert reply.headers["location"] == SFU_GET


@pytest.mark.parametrize("path", ENDPOINTS)
def test_preflight_is_empty_and_open(world, path):
    reply = call(
        "OPTIONS", world.service.url + path, headers={"Origin": "https://call.example.org"}
    )
    assert (reply.status, reply.body) == (200, b"")
    assert cors_of(reply) == CORS


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_refused_with_cors(world, method, path):
    reply = call(method, world.service.url + path)
    assert (reply.status, reply.body) == (405, b"")
    assert cors_of(reply) == CORS


@pytest.mark.parametrize("path", ENDPOINTS)
def test_answers_are_json_with_cors(world, path):
    member = world.member()
    leave = world.homeserver.schedule(60_000) if path == DELEGATE else None
    reply = world.ask(path, member, leave)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert cors_of(reply) == CORS


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (path, status)
        for path in ENDPOINTS
        for status in (400, 401, 500)
        if (path, status) != (DELEGATE, 500)
    ],
)
def test_errors_are_json_with_cors(world, path, status):
    member = world.member()
    body = member.body(path, world.homeserver.schedule(60_000) if path == DELEGATE else None)
    if status == 400:
        body = b"no JSON"
    elif status == 401:
        body["openid_token"] = {**member.openid, "access_token": "unknown"}
    else:
        world.sfu.on("CreateRoom", member.alias).then(twirp_error(500, "internal"))
    reply = world.service.post(path, body)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert cors_of(reply) == CORS
    reply.error()


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_the_content_type_of_a_request_does_not_matter(world, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    reply = world.service.post(GET_TOKEN, world.member().body(GET_TOKEN), headers=headers)
    assert reply.status == 200


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_query_does_not_matter(world, path):
    leave = world.homeserver.schedule(60_000) if path == DELEGATE else None
    assert world.service.post(path + "?x=1", world.member().body(path, leave)).status == 200


def test_a_token_answer_holds_the_url_as_configured_and_the_token(world):
    for path in (SFU_GET, GET_TOKEN):
        document = world.ask(path, world.member()).json()
        assert set(document) == {"url", "jwt"}
        assert document["url"] == world.sfu.url


def test_a_delegation_answer_is_an_empty_object(world):
    reply = world.ask(DELEGATE, world.member(), world.homeserver.schedule(60_000))
    assert (reply.status, reply.json()) == (200, {})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_an_empty_yes(world, method):
    reply = call(method, world.service.url + "/healthz")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_health_answers_reads_alone(world, method):
    assert call(method, world.service.url + "/healthz").status == 405


def test_one_connection_carries_many_requests(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.service.port, timeout=5)
    try:
        sockets = set()
        for path in ("/healthz", "/nowhere", "/healthz"):
            connection.request("GET", path)
            connection.getresponse().read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
    finally:
        connection.close()
