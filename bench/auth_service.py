"""The authorisation service against another one: rate, latency, processor time, memory, start.

    python bench/auth_service.py [--other COMMAND] [--rounds 3] [--seconds 5] [--json FILE]

A request takes the whole path: it is read, the OpenID token is looked up at the homeserver over TLS, the
room is made at the SFU, a token is minted. Homeserver and SFU are nginx with fixed answers, which are there
at once; the load comes from wrk. Both are Debian's packages. Everything shares the machine's cores, so a
service that leaves more of them to the others is seen to be faster than it is alone; that holds for both.

Sides take turns, each figure in a fresh process after a second that does not count; a figure is the
median of its rounds. What each step costs is the difference in processor time a request between a refused
one, one that stops before the step, and one that does not.

Budgets, against the service named by `--other` (any with the interface of lk-jwt-service): 1.4 times its
rate at 16 requests at a time and 1.8 times at 64; p99 at most 0.7 of its. Ours alone: resident memory after
100,000 requests at most 1.2 times that after 1,000; healthy within 1.5 s. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from startup import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "rtcfoci-livekit-auth" / "tests" / "blackbox"))
from fakes.authority import Authority  # noqa: E402
from fakes.service import Service, free_port  # noqa: E402

AT_A_TIME = (1, 16, 64)
RATE = {16: 1.4, 64: 1.8}
P99 = {16: 0.7, 64: 0.7}
GROWTH = 1.2
HEALTHY_S = 1.5
LEAVES = 10_000
_TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; default_type application/json;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{homeserver} ssl backlog=1024;
        ssl_certificate {pem}; ssl_certificate_key {pem};
        location /_matrix/federation/v1/openid/userinfo {{
            return 200 '{{"sub":"@alice:localhost:{homeserver}"}}';
        }}
        location ~ /is_joined$ {{ return 200 '{{"joined":true}}'; }}
        location ~ /fed_proxy$ {{ return 200 '{{"status":200,"content":{{"jwt":"theirs"}}}}'; }}
        location ~ /delayed_events/ {{ return 200 '{{"room_id":"!room:x","delay_ms":3600000}}'; }}
        location / {{ return 200 '{{}}'; }}
    }}
    server {{
        listen 127.0.0.1:{sfu} backlog=1024; default_type application/protobuf;
        location /twirp/livekit.RoomService/CreateRoom {{ return 200 "{room}"; }}
        location / {{ default_type application/json; return 404 '{{"code":"not_found","msg":"none"}}'; }}
    }}
}}
"""
ROOM = "\\nA" + "R" * 65
"""A `livekit.Room` with nothing but a sid of 65 letters, whose protobuf can stand in a text."""

SCRIPT = """
wrk.method, wrk.body = "POST", [[{body}]]
local number, threads = 0, {{}}
unexpected, example = 0, ""
function setup(thread) table.insert(threads, thread) end
function request()
    number = number + 1
    return wrk.format(nil, nil, nil, (wrk.body:gsub("NUMBER", "{name}" .. number)))
end
function response(status, headers, body)
    if status ~= {status} then unexpected, example = unexpected + 1, status .. " " .. body:sub(1, 200) end
end
function done(summary, latency)
    local e, wrong = summary.errors, 0
    for _, thread in ipairs(threads) do
        wrong = wrong + thread:get("unexpected")
        if wrong > 0 then print("an answer: " .. thread:get("example")) end
    end
    print("unanswered: connect " .. e.connect .. ", read " .. e.read .. ", write " .. e.write
        .. ", slower than 2 s " .. e.timeout)
    wrong = wrong + e.connect + e.read + e.write
    print(string.format('{{"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"wrong":%d}}', summary.requests,
        summary.duration, latency:percentile(50), latency:percentile(99), wrong))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk found, and what the service spent."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Of the service's processes, a request."""


class World:
    """The fakes, one service, and the load on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homeserver, self.sfu = free_port(), free_port()
        self.name = f"localhost:{self.homeserver}"
        authority = Authority(folder)
        authority.server("localhost", "127.0.0.1")
        self.settings = {
            "LIVEKIT_URL": f"ws://127.0.0.1:{self.sfu}",
            "LIVEKIT_KEY": "key",
            "LIVEKIT_SECRET": "a-secret-of-at-least-32-characters",
            "LIVEKIT_FULL_ACCESS_HOMESERVERS": self.name,
            "LIVEKIT_CS_API_URL_OVERRIDES": f"{self.name}=https://{self.name}",
            "LIVEKIT_LOG_LEVEL": "error",
            "SSL_CERT_FILE": str(authority.ca_file),
            # Where ours keeps its state; others do not know it.
            "STATE_DIRECTORY": str(folder / "state"),
        }
        pem, config = folder / "server-1.pem", folder / "nginx.conf"
        config.write_text(
            NGINX.format(
                folder=folder, homeserver=self.homeserver, sfu=self.sfu, pem=pem, room=ROOM
            )
        )
        self._nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)])
        self._runs = 0

    def close(self) -> None:
        """End the fakes."""
        self._nginx.terminate()
        self._nginx.wait(10)

    def service(self, command: list[str], **settings: str) -> Service:
        """Start a service in a fresh process."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        (self.folder / "state").mkdir()
        return Service({**self.settings, **settings}, self.folder, command=command).start()

    def body(self, **changes: object) -> str:
        """Give the body of a token request; `changes` replace fields."""
        token = {"access_token": "token-NUMBER", "matrix_server_name": self.name}
        member = {
            "id": "member-NUMBER",
            "claimed_user_id": f"@alice:{self.name}",
            "claimed_device_id": "DEVICE",
        }
        fields = {"room_id": "!room-NUMBER:example.org", "slot_id": "m.call#ROOM"}
        return json.dumps({**fields, "openid_token": token, "member": member, **changes})

    def load(
        self, service: Service, at_a_time: int, seconds: float,
        *, body: str | None = None, path: str = "/get_token", status: int = 200,
    ) -> Load:  # fmt: skip
        """Ask for some seconds; any other answer than `status` ends the bench."""
        self._runs += 1
        script = self.folder / "load.lua"
        script.write_text(
            SCRIPT.format(body=body or self.body(), status=status, name=f"{self._runs}-")
        )
        before_s = cpu_s(service)
        done = subprocess.run(
            ["wrk", "-t1", f"-c{at_a_time}", f"-d{seconds:.0f}s", "-s", str(script), service.url + path],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        spent_s = cpu_s(service) - before_s
        found = json.loads(done.stdout.strip().splitlines()[-1])
        if found["wrong"]:
            raise SystemExit(
                f"{found['wrong']} of {found['requests']} answers to {path} were wrong"
            )
        count = found["requests"]
        return Load(
            count, count / found["us"] * 1e6, found["p50_us"] / 1e3, found["p99_us"] / 1e3,
            spent_s / count * 1e3,
        )  # fmt: skip


def processes(service: Service) -> list[int]:
    """Give the ids of a service's processes."""
    assert service.process is not None
    found = [service.process.pid]
    for pid in found:  # grows while it is walked
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_s(service: Service) -> float:
    """Give the processor time that a service has used."""
    ticks = 0
    for pid in processes(service):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_mb(service: Service) -> float:
    """Give a service's memory; what its processes share counts once."""
    kb = 0
    for pid in processes(service):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kb += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kb / 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    theirs: str = ""
    budget: str = ""
    kept: bool | None = None


@dataclass(slots=True)
class Measured:
    """Every figure of both sides."""

    loads: dict[str, dict[int, Load]] = field(default_factory=dict)
    steps_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    memory_mb: dict[str, tuple[float, float]] = field(default_factory=dict)
    """After 1,000 and after 100,000 requests."""
    leaves_kb: dict[str, float] = field(default_factory=dict)
    """Of one delegated leave."""
    healthy_s: dict[str, float] = field(default_factory=dict)


class Bench:
    """Measures both sides by turns."""

    def __init__(
        self, world: World, sides: dict[str, list[str]], rounds: int, seconds: float
    ) -> None:
        self.world, self.sides, self.rounds, self.seconds = world, sides, rounds, seconds
        self.found = Measured()

    def all(self) -> Measured:
        """Measure everything."""
        self._rates()
        self._steps()
        for side in self.sides:
            self._memory(side)
            self._leaves(side)
        return self.found

    def _warm(self, side: str, at_a_time: int = 16, **settings: str) -> Service:
        start = time.perf_counter()
        service = self.world.service(self.sides[side], **settings)
        took_s = time.perf_counter() - start
        self.found.healthy_s[side] = min(took_s, self.found.healthy_s.get(side, took_s))
        self.world.load(service, at_a_time, 1)
        return service

    def _rates(self) -> None:
        loads: dict[tuple[str, int], list[Load]] = {}
        for _ in range(self.rounds):
            for at_a_time in AT_A_TIME:
                for side in self.sides:
                    service = self._warm(side, at_a_time)
                    loads.setdefault((side, at_a_time), []).append(
                        self.world.load(service, at_a_time, self.seconds)
                    )
                    service.stop()
        for (side, at_a_time), runs in loads.items():
            self.found.loads.setdefault(side, {})[at_a_time] = _median(runs)

    def _steps(self) -> None:
        """Cut the path short at each step."""
        world = self.world
        cuts = {
            "reading a request": {"body": world.body(room_id=""), "status": 400},
            "OpenID look-up and token": {"LIVEKIT_FULL_ACCESS_HOMESERVERS": "example.org"},
            "making the room": {},
        }
        for side in self.sides:
            before_ms = 0.0
            for step, cut in cuts.items():
                settings = {name: value for name, value in cut.items() if name.isupper()}
                asked = {name: value for name, value in cut.items() if not name.isupper()}
                service = self._warm(side, **settings) if settings else self._warm(side)
                now_ms = world.load(service, 16, self.seconds, **asked).cpu_ms
                service.stop()
                self.found.steps_ms.setdefault(side, {})[step] = now_ms - before_ms
                before_ms = now_ms

    def _memory(self, side: str) -> None:
        service = self.world.service(self.sides[side])
        asked, early_mb = 0, 0.0
        while asked < 100_000:
            asked += self.world.load(service, 16, 1 if asked < 1_000 else 10).requests
            early_mb = early_mb or (resident_mb(service) if asked >= 1_000 else 0.0)
        self.found.memory_mb[side] = early_mb, resident_mb(service)
        service.stop()

    def _leaves(self, side: str) -> None:
        """Delegate leaves of an hour, each of another member."""
        service = self._warm(side)
        before_mb, delegated = resident_mb(service), 0
        body = self.world.body(delay_id="delay-NUMBER", delay_timeout=3_600_000)
        while delegated < LEAVES:
            run = self.world.load(service, 16, 2, body=body, path="/delegate_delayed_leave")
            delegated += run.requests
        time.sleep(3)  # what was asked for at once is over
        self.found.leaves_kb[side] = (resident_mb(service) - before_mb) * 1024 / delegated
        service.stop()


def _median(runs: list[Load]) -> Load:
    return Load(
        *(statistics.median(getattr(run, name) for run in runs) for name in Load.__slots__)  # type: ignore[arg-type]
    )


def rows(found: Measured) -> Iterator[Row]:
    """Tell and judge."""
    theirs = found.loads.get("theirs", {})
    for at_a_time, ours in found.loads["ours"].items():
        name = f"{at_a_time} at a time: "
        peer = theirs.get(at_a_time)
        yield _ratio(
            name + "requests a second",
            ours.per_second,
            peer and peer.per_second,
            RATE.get(at_a_time),
        )
        yield _ratio(name + "p50, ms", ours.p50_ms, peer and peer.p50_ms)
        yield _ratio(
            name + "p99, ms", ours.p99_ms, peer and peer.p99_ms, P99.get(at_a_time), at_most=True
        )
        yield _ratio(name + "processor, ms a request", ours.cpu_ms, peer and peer.cpu_ms)
    for step, ours_ms in found.steps_ms["ours"].items():
        yield _ratio(
            f"processor of {step}, ms", ours_ms, found.steps_ms.get("theirs", {}).get(step)
        )
    told = {side: f"{early:.0f} and {late:.0f}" for side, (early, late) in found.memory_mb.items()}
    early, late = found.memory_mb["ours"]
    yield Row(
        "memory after 1,000 and 100,000, MB", told["ours"], told.get("theirs", ""),
        f"<= {GROWTH}x", late / early <= GROWTH,
    )  # fmt: skip
    yield _ratio(
        f"memory of a leave, of {LEAVES:,}, kB",
        found.leaves_kb["ours"],
        found.leaves_kb.get("theirs"),
    )
    healthy_s = found.healthy_s["ours"]
    other_s = found.healthy_s.get("theirs")
    yield Row(
        "start to healthy, s", f"{healthy_s:.2f}", "" if other_s is None else f"{other_s:.2f}",
        f"<= {HEALTHY_S}", healthy_s <= HEALTHY_S,
    )  # fmt: skip


def _ratio(
    what: str,
    ours: float,
    theirs: float | None,
    budget: float | None = None,
    *,
    at_most: bool = False,
) -> Row:
    if theirs is None:
        return Row(what, f"{ours:,.2f}")
    ratio, sign = ours / theirs, "<=" if at_most else ">="
    kept = None if budget is None else (ratio <= budget if at_most else ratio >= budget)
    told = "" if budget is None else f"{sign} {budget}x"
    return Row(what, f"{ours:,.2f}", f"{theirs:,.2f}, {ratio:.2f}x", told, kept)


def table(lines: list[Row]) -> str:
    """Lay rows out in columns."""
    verdicts = {None: "", True: "kept", False: "MISSED"}
    cells = [("what", "rtcfoci", "the other; ours over it", "budget", "")]
    cells += [(r.what, r.ours, r.theirs, r.budget, verdicts[r.kept]) for r in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def main() -> int:
    """Measure, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=shlex.split, help="the command of another service")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each rate")
    parser.add_argument("--seconds", type=float, default=5, help="of load for each figure")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if missing := [tool for tool in ("nginx", "wrk") if shutil.which(tool) is None]:
        print(
            f"not measured: {' and '.join(missing)} not on PATH; Debian has packages of these names"
        )
        return 0
    print(machine())
    sides = {"ours": [sys.executable, "-m", "rtcfoci_livekit_auth", "serve"]}
    if arguments.other:
        sides["theirs"] = arguments.other
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            found = Bench(world, sides, arguments.rounds, arguments.seconds).all()
        finally:
            world.close()
    told = list(rows(found))
    print(table(told))
    if arguments.json:
        figures = {"machine": machine(), "other": arguments.other, **asdict(found)}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(row.kept is not False for row in told) else 1


if __name__ == "__main__":
    sys.exit(main())
