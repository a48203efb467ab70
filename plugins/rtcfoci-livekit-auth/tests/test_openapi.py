"""The description of the interface says what the service does."""

import ast
import json
from pathlib import Path

import pytest
import rtcfoci_livekit_auth
import yaml
from aiohttp.test_utils import TestClient, TestServer
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET, Member
from fakes import Authority, Host, Sfu
from knowing import AS_TOKEN, HS_TOKEN, KnowingHomeserver
from rtcfoci_livekit_auth import bodies
from rtcfoci_livekit_auth.app import build_app
from rtcfoci_livekit_auth.appservice.requests import member_request
from rtcfoci_livekit_auth.bodies import Refusal
from rtcfoci_livekit_auth.openapi import description
from rtcfoci_livekit_auth.openapi import main as openapi
from rtcfoci_livekit_auth.settings import Settings

DESCRIBED = yaml.safe_load(description())
PATHS = DESCRIBED["paths"]
SCHEMAS = DESCRIBED["components"]["schemas"]
PACKAGE = Path(rtcfoci_livekit_auth.__file__).parent
BEHIND = "/rtc/livekit/"
ROOM = "!room:example.org"


def test_the_command_prints_it(capsys):
    assert openapi([]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == DESCRIBED


def resolved(schema):
    while "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    if "allOf" in schema:
        parts = [resolved(part) for part in schema["allOf"]]
        required = [name for part in parts for name in part.get("required", ())]
        schema = {**parts[0], "required": required}
    return schema


def example(schema, *, everything=False):
    """Give a body with what is required, or with all there is."""
    schema = resolved(schema)
    if schema["type"] != "object":
        return {"string": "@a:b", "integer": 5}[schema["type"]]
    required = {*schema["required"], *(schema.get("anyOf") or [{}])[0].get("required", ())}
    return {
        name: example(inner, everything=everything)
        for name, inner in schema["properties"].items()
        if everything or name in required
    }


def request_schema(path):
    return resolved(PATHS[path]["post"]["requestBody"]["content"]["application/json"]["schema"])


READERS = {
    SFU_GET: bodies.device_ask,
    GET_TOKEN: bodies.member_ask,
    DELEGATE: bodies.delegate_ask,
    **{path: member_request for path in PATHS if BEHIND in path},
}


def read(path, body):
    return READERS[path](json.dumps(body).encode())


@pytest.mark.parametrize("path", READERS)
def test_bodies_that_are_described_are_read(path):
    schema = request_schema(path)
    read(path, example(schema))
    whole = example(schema, everything=True)
    if "member_id" in whole:
        whole["member"]["id"] = whole["member_id"]
    read(path, whole)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_is_required_is_required_and_nothing_else_is_known(path):
    def levels(schema, body):
        yield schema, body
        for name, inner in schema["properties"].items():
            if resolved(inner)["type"] == "object":
                yield from levels(resolved(inner), body[name])

    whole = example(request_schema(path))
    for schema, part in levels(request_schema(path), whole):
        assert schema["additionalProperties"] is False
        for name in schema["required"]:
            kept = part.pop(name)
            with pytest.raises(Refusal):
                read(path, whole)
            part[name] = [kept]
            with pytest.raises(Refusal):
                read(path, whole)
            part[name] = kept
        part["unknown"] = 1
        with pytest.raises(Refusal):
            read(path, whole)
        del part["unknown"]
    read(path, whole)


def test_every_key_that_is_read_is_described():
    def names(shape):
        return {
            name: names(inner) if not isinstance(inner, type) else inner
            for name, inner in shape.items()
        }

    def described(schema):
        kinds = {"string": str, "integer": int}
        return {
            name: kinds.get(resolved(inner)["type"]) or described(resolved(inner))
            for name, inner in schema["properties"].items()
        }

    assert described(SCHEMAS["DeviceRequest"]) == names(bodies._DEVICE)
    assert described(SCHEMAS["MemberRequest"]) == names(bodies._MEMBER)


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    class Around:
        host = Host()
        authority = Authority(tmp_path_factory.mktemp("openapi"))
        homeserver = KnowingHomeserver(host, authority)
        sfu = Sfu(host)

        def app(self):
            return build_app(
                Settings.read(
                    {
                        "LIVEKIT_URL": self.sfu.url,
                        "LIVEKIT_KEY": self.sfu.key,
                        "LIVEKIT_SECRET": self.sfu.secret,
                        "LIVEKIT_FULL_ACCESS_HOMESERVERS": self.homeserver.name,
                        "LIVEKIT_AS_TOKEN": AS_TOKEN,
                        "LIVEKIT_HS_TOKEN": HS_TOKEN,
                        "LIVEKIT_HS_SERVER_NAME": self.homeserver.name,
                        "RTCFOCI_AUTH_HOMESERVER_URL": self.homeserver.plain_url,
                        "RTCFOCI_AUTH_STATE_FILE": "none",
                        "RTCFOCI_AUTH_CA_FILE": str(self.authority.ca_file),
                    }
                )
            )

    yield Around()
    Around.host.close()


async def test_every_route_is_described_and_every_description_has_a_route(around):
    app = around.app()
    async with TestClient(TestServer(app)):
        routes = {resource.canonical for resource in app.router.resources()}
    assert {route.replace("{version}", "v1") for route in routes} == {*PATHS, "/{path}"}


async def test_answers_are_as_described(around):
    member = Member(homeserver=around.homeserver, room_id=ROOM)
    around.homeserver.joined |= {(member.user_id, ROOM), ("@bob:elsewhere.org", ROOM)}
    around.homeserver.delayed[member.user_id, "id"] = {"room_id": ROOM, "delay_ms": 600_000}
    place = {"url": around.sfu.url, "room_id": ROOM, "slot_id": "m.call#ROOM", "member_id": "m"}
    place |= {"user_id": "@bob:elsewhere.org", "delay_id": "id"}
    headers = {
        "Authorization": f"Bearer {HS_TOKEN}",
        "X-Matrix-User-Identifier": member.user_id,
        "X-Matrix-Origin": "elsewhere.org",
    }
    async with TestClient(TestServer(around.app())) as client:
        for path, operations in PATHS.items():
            for method, operation in operations.items():
                body = place if "_matrix" in path else {}
                if path in ENDPOINTS and method == "post":
                    leave = around.homeserver.schedule(600_000)
                    body = member.body(path, leave if path == DELEGATE else None)
                    member.openid = around.homeserver.openid(member.user_id)
                answer = await client.request(method, path, json=body, headers=headers)
                assert answer.status == 200, path
                told = resolved_answer(operation, "200")
                if told is None:
                    assert await answer.read() == b""
                else:
                    assert set(await answer.json()) == set(told.get("required", ()))
                if method == "post" and path != "/_matrix/app/v1/ping":
                    refused = await client.post(path, data=b"[", headers=headers)
                    if path != "/sfu_webhook":
                        assert str(refused.status) in operation["responses"]
                        assert set(await refused.json()) == set(SCHEMAS["Error"]["required"])
            if path in ENDPOINTS or BEHIND in path:
                assert (await client.put(path, headers=headers)).status == 405


def resolved_answer(operation, status):
    content = operation["responses"][status].get("content")
    return content and resolved(content["application/json"]["schema"])


@pytest.mark.parametrize(
    ("paths", "modules"),
    [
        (ENDPOINTS, ["bodies", "endpoints", "granting", "limits"]),
        (
            [path for path in PATHS if BEHIND in path],
            ["appservice/endpoints", "appservice/requests", "granting", "limits"],
        ),
    ],
)
def test_every_status_that_the_code_refuses_with_is_described(paths, modules):
    used = set()
    for module in modules:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                status = node.args[0]
                used |= {str(status.value)} if isinstance(status, ast.Constant) else set()
    used -= {"405"}  # of methods that are not described
    for path in paths:
        assert used | {"502"} == set(PATHS[path]["post"]["responses"]) - {"200"}, path
    assert set(json.loads(Refusal(429, "M", "e", retry_after_ms=1).body())) == set(
        SCHEMAS["Error"]["properties"]
    )
