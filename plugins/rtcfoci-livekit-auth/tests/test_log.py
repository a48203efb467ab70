"""What the log says of requests and errors, and that no secret gets into it."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from asking import DELEGATE, ENDPOINTS, GET_TOKEN, SFU_GET, Member
from fakes import Answer, Authority, Host, Service, Sfu
from fakes.service import free_port
from knowing import AS_TOKEN, HS_TOKEN, KnowingHomeserver
from rtcfoci_livekit_auth import logs

ROOM = "!room:example.org"
CLIENT = "/_matrix/client/v1/rtc/livekit/"
FEDERATION = "/_matrix/federation/v1/rtc/livekit/"
INTRUDED = "nothing-to-be-quoted"
"""What a client sends where it does not belong."""


@pytest.fixture(params=logs.FORMATS)
def form(request):
    return logs.FORMATS[request.param]()


def logged(form, name, message, *args, error=None, **extra):
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "/x/web.py", 7, message, args, info)
    record.__dict__.update(extra)
    return form.format(record)


def raised():
    try:
        try:
            int("secret-one")
        except ValueError as error:
            raise RuntimeError("secret-two") from error
    except RuntimeError as error:
        return error


def test_our_own_words_are_written_and_errors_have_only_a_kind_and_a_place(form):
    line = logged(form, "rtcfoci_livekit_auth.x", "no %s", "room", error=raised())
    assert "no room: RuntimeError at test_log.py:" in line
    assert "caused by ValueError at test_log.py:" in line
    assert "secret" not in line


def test_the_words_of_libraries_are_not_repeated(form):
    line = logged(form, "aiohttp.server", "Error handling request from %s", "secret")
    assert "Error handling request from %s" in line
    line = logged(form, "aiohttp.server", "secret", error=raised())
    assert "a message of web.py:7: RuntimeError" in line
    assert "secret" not in line


def test_a_name_does_not_look_like_a_line(form):
    line = logged(form, "rtcfoci_livekit_auth.x", "no %s", "a\nb\x1b[31m\u2028c" + "d" * 5000)
    assert line.isprintable()
    assert len(line) < 2200


async def test_each_request_has_a_number(form):
    async def one():
        logs.REQUEST.set(logs.new_request())
        await asyncio.sleep(0)
        return logged(form, "rtcfoci_livekit_auth.x", "y"), logs.REQUEST.get()

    told = await asyncio.gather(*(asyncio.create_task(one()) for _ in range(3)))
    assert len({number for _, number in told}) == 3
    assert all(number in line for line, number in told)


def test_what_a_loop_reports_is_told_without_its_task(caplog):
    loop_context = {"message": "Task exception was never retrieved", "future": "secret"}
    logs.loop_failed(None, {**loop_context, "exception": raised()})
    assert "never retrieved: RuntimeError at" in caplog.text
    assert "secret" not in caplog.text


class Life:
    """One process that meets everything; `secrets` are what it was trusted with."""

    def __init__(self, folder):
        self.host = Host()
        authority = Authority(folder)
        self.homeserver = KnowingHomeserver(self.host, authority)
        self.sfu = Sfu(self.host)
        self.alice = f"@alice:{self.homeserver.name}"
        self.homeserver.joined.add((self.alice, ROOM))
        self.homeserver.delayed[self.alice, "own"] = {"room_id": ROOM, "delay_ms": 600_000}
        self.metrics_port = free_port()
        environment = {
            "SSL_CERT_FILE": str(authority.ca_file),
            "LIVEKIT_URL": self.sfu.url,
            "LIVEKIT_KEY": self.sfu.key,
            "LIVEKIT_SECRET": self.sfu.secret,
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": f"{self.homeserver.name},127.0.0.1:1",
            "LIVEKIT_AS_TOKEN": AS_TOKEN,
            "LIVEKIT_HS_TOKEN": HS_TOKEN,
            "LIVEKIT_HS_SERVER_NAME": self.homeserver.name,
            "LIVEKIT_LOG_LEVEL": "debug",
            "LIVEKIT_CS_API_URL_OVERRIDES": f"{self.homeserver.name}={self.homeserver.plain_url}",
            "RTCFOCI_AUTH_HOMESERVER_URL": self.homeserver.plain_url,
            "RTCFOCI_AUTH_LOG_FORMAT": "json",
            "RTCFOCI_AUTH_METRICS_BIND": f"127.0.0.1:{self.metrics_port}",
            "RTCFOCI_AUTH_CAREFUL_LEAVES": "true",
            "RTCFOCI_AUTH_DRAIN_S": "0.5",
        }
        self.service = Service(environment, folder).start()
        self.secrets = {self.sfu.secret, AS_TOKEN, HS_TOKEN, INTRUDED}

    def close(self):
        self.service.kill()
        self.host.close()

    def member(self, *answers, **more):
        member = Member(homeserver=self.homeserver, **more)
        member.openid = self.homeserver.openid(member.user_id, *answers)
        self.secrets.add(member.openid["access_token"])
        return member

    def leave(self):
        leave = self.homeserver.schedule(600_000)
        self.secrets.add(leave.delay_id)
        return leave

    def ask(self, path, body, status, **more):
        reply = self.service.post(path, body, **more)
        assert reply.status == status, reply
        if status == 200 and b"jwt" in reply.body:
            self.secrets.add(reply.json()["jwt"])

    def clients(self):
        for path in ENDPOINTS:
            member, leave = self.member(), self.leave()
            body = member.body(path, leave)
            self.ask(path, body, 200)
            for wrong in ({INTRUDED: 1}, {"openid_token": INTRUDED}, {"delay_timeout": INTRUDED}):
                self.ask(path, body | wrong, 400)
            self.ask(path, f'{{"room": "{INTRUDED}', 400)
            self.ask(path, INTRUDED * 100_000, 413)
            refused = Answer(status=401, body={"errcode": INTRUDED, "error": INTRUDED})
            for answers in ([refused], [Answer(status=500)], [Answer(reset=True)] * 2):
                self.ask(path, self.member(*answers).body(path, self.leave()), 401)
            for subject in ({"sub": f"@{INTRUDED}:elsewhere"}, INTRUDED.encode()):
                self.ask(path, self.member(Answer(body=subject)).body(path, self.leave()), 401)
            for name in ("127.0.0.1:1", "no such name"):
                member = self.member()
                member.openid |= {"matrix_server_name": name}
                self.ask(path, member.body(path, self.leave()), 401)
        for path in (SFU_GET, GET_TOKEN):
            member = self.member()
            self.sfu.on("CreateRoom").then(Answer(status=500, body=INTRUDED.encode()))
            self.ask(path, member.body(path, self.leave()), 500)

    def leaves(self):
        waiting = []
        for failures in (
            [Answer(status=429, headers={"Retry-After": "0"}), Answer(reset=True)],
            [Answer(status=500, body=INTRUDED.encode())],
        ):
            member, leave = self.member(), self.leave()
            leave.on_restart.then(*failures)
            leave.on_send.then(*failures)
            self.ask(DELEGATE, member.body(DELEGATE, leave), 200)
            hook = self.sfu.webhook("participant_joined", member.alias, member.identity(DELEGATE))
            hook.send(self.service.url)
            waiting.append((leave, hook))
        for leave, hook in waiting:
            leave.restarts.wait(2, within_s=10)
            hook.but(event="participant_left", reason="CLIENT_INITIATED").send(self.service.url)
        member, leave = self.member(), self.leave()
        leave.known = False
        self.ask(DELEGATE, member.body(DELEGATE, leave), 200)
        hook = self.sfu.webhook("participant_joined", member.alias, member.identity(DELEGATE))
        hook.send(self.service.url)
        for wrong in (
            hook.but(secret=INTRUDED * 3),
            hook.but(key=INTRUDED),
            hook.but(claims={"sha256": INTRUDED}),
        ):
            self.secrets.add(wrong.authorization(wrong.body()))
            wrong.send(self.service.url)
        headers = {"Authorization": INTRUDED}
        self.ask("/sfu_webhook", INTRUDED, 200, headers=headers)

    def homeservers(self):
        own = {"Authorization": f"Bearer {HS_TOKEN}"}
        user = own | {"X-Matrix-User-Identifier": self.alice}
        body = {"url": self.sfu.url, "room_id": ROOM, "slot_id": "m.call#ROOM", "member_id": "m"}
        self.secrets.add("their-token")
        for path, headers, more, status in (
            (CLIENT + "get_token", user, {}, 200),
            (CLIENT + "get_token", user, {"server_name": "elsewhere.org"}, 200),
            (CLIENT + "get_token", own, {}, 401),
            (CLIENT + "get_token", user | {"Authorization": f"Bearer {INTRUDED}"}, {}, 401),
            (CLIENT + "get_token", user, {"room_id": "!other:x"}, 403),
            (CLIENT + "get_token", user, {"member_id": 1}, 400),
            (CLIENT + "delegate_delayed_leave", user, {"delay_id": "own"}, 200),
            (CLIENT + "delegate_delayed_leave", user, {"delay_id": INTRUDED}, 400),
            (
                FEDERATION + "get_token",
                own | {"X-Matrix-Origin": "x.org"},
                {"user_id": "@a:x"},
                403,
            ),
            ("/_matrix/app/v1/ping", own, {}, 200),
        ):
            self.ask(path, body | more, status, headers=headers)
        self.homeserver.relayed = {"status": 500, "content": {"error": INTRUDED}}
        self.ask(CLIENT + "get_token", body | {"server_name": "e.org"}, 502, headers=user)
        self.homeserver.down = True
        self.ask(CLIENT + "get_token", body, 502, headers=user)

    def nonsense(self):
        for head in (
            f"{INTRUDED}\r\n\r\n",
            f"POST /sfu/get HTTP/1.1\r\nAuthorization Bearer {INTRUDED}\r\n\r\n",
            f"POST /sfu/get HTTP/1.1\r\nAuthorization: \x00{INTRUDED}\r\n\r\n",
            f"POST /sfu/get HTTP/1.1\r\nContent-Length: {INTRUDED}\r\n\r\n",
            f"POST /sfu/get HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{INTRUDED}\r\n",
            f"GET /{INTRUDED}?access_token={INTRUDED} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nX: {INTRUDED * 5000}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", self.service.port), 5) as connection:
                connection.sendall(head.encode())
                assert connection.recv(20).startswith(b"HTTP/1.")


def fetched(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def test_no_secret_is_in_the_whole_log(tmp_path):
    life = Life(tmp_path)
    try:
        life.clients()
        life.leaves()
        life.homeservers()
        life.nonsense()
        figures = fetched(f"http://127.0.0.1:{life.metrics_port}/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetched(f"{life.service.url}/metrics")
        life.service.stop()
        log = life.service.output()
    finally:
        life.close()
    assert [secret for secret in life.secrets if secret in log + figures] == []
    lines = [json.loads(line) for line in log.splitlines()]
    answered = [line for line in lines if "endpoint" in line]
    assert {line["endpoint"] for line in answered} >= {*ENDPOINTS, "/sfu_webhook", "other"}
    assert len({line["request"] for line in answered}) == len(answered)
    (refused,) = (line for line in lines if line["message"].startswith(f"{SFU_GET}: 413 "))
    (at_the_end,) = (line for line in answered if line["request"] == refused["request"])
    assert (at_the_end["endpoint"], at_the_end["status"]) == (SFU_GET, 413)
    malformed = [line for line in lines if line["logger"] == "aiohttp.server"]
    assert malformed
    assert 'rtcfoci_auth_requests_total{endpoint="/sfu/get",status="413"} 1.0' in figures


def test_a_start_that_fails_tells_no_password(tmp_path):
    environment = {
        "LIVEKIT_URL": "wss://sfu.example.org",
        "LIVEKIT_KEY": "key",
        "LIVEKIT_SECRET": INTRUDED,
        "LIVEKIT_FULL_ACCESS_HOMESERVERS": "*",
    }
    services = [
        Service(environment | {"LIVEKIT_REDIS_URL": url}, tmp_path).launch()
        for url in (
            f"redis://:{INTRUDED}@127.0.0.1:{free_port()}",
            f"redis://:{INTRUDED}@127.0.0.1:port",
        )
    ]
    for service in services:
        assert service.wait() == 1
        assert "redis" in service.output().lower()
        assert INTRUDED not in service.output()


def test_an_error_that_nobody_caught_is_told_without_its_words():
    code = (
        "from rtcfoci_livekit_auth.logs import set_up; set_up(level='info', form='text');"
        "raise RuntimeError('secret')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the service ends: RuntimeError" in done.stderr
    assert "secret" not in done.stderr + done.stdout
