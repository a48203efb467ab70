"""Servers that are asked for addresses, what a member names as its own, and what is said of failures."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Callable

import aioice
import pytest
from meshes import FakeContext, Station, Wire, member, stations, until
from rtcfoci_mesh.aiortc_gather import Gathering, read_server
from rtcfoci_mesh.aiortc_link import Link, bound_candidates
from rtcfoci_mesh.aiortc_paths import diagnose
from rtcfoci_mesh.config import IceServer, MeshConfig
from rtcfoci_mesh.engine import SessionOptions
from rtcfoci_mesh.ice import IceServers, read_turn_server

from rtcfoci.core.model import JsonObject, Member
from rtcfoci.plugin import ConditionRaised


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("stun:s.test", "STUN s.test:3478 (udp)"),
        ("turn:t.test:99", "TURN t.test:99 (udp)"),
        ("turn:t.test?transport=tcp", "TURN t.test:3478 (tcp)"),
        ("turns:t.test", "TURN t.test:5349 (tls)"),
        ("turn:[2001:db8::1]:3478", "TURN [2001:db8::1]:3478 (udp)"),
        ("turns:t.test?transport=udp", "None"),
        ("stuns:t.test", "None"),
        ("turn:[::1", "None"),
        ("http://t.test", "None"),
    ],
)
def test_addresses_of_servers(url: str, expected: str) -> None:
    assert str(read_server(url)) == expected
    assert "secret" not in repr(read_server(url, "user-secret", "secret"))


async def gathered(*servers: IceServer, **options: bool) -> tuple[aioice.Connection, Gathering]:
    ice = aioice.Connection(ice_controlling=True)
    settings = SessionOptions(
        ice_servers=servers,
        loopback=True,
        gather_timeout_s=0.7,
        relay_only=options.get("relay", False),
    )
    gathering = Gathering(ice, settings, lambda protocol, why: None)
    await ice.gather_candidates()
    return ice, gathering


async def test_a_socket_reads_into_no_more_than_a_datagram() -> None:
    ice, _ = await gathered()
    try:
        sizes = {protocol.transport.max_size for protocol in ice._protocols}  # type: ignore[attr-defined]
        assert sizes == {16 * 1024}, "asyncio's own 256 KiB let the heap grow by 10 MB an hour"
    finally:
        await ice.close()


async def test_a_server_that_does_not_answer_costs_no_more_than_its_time_and_is_named() -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    dead = IceServer(
        urls=(f"turn:127.0.0.1:{port}", "turn:127.0.0.1:1?transport=tcp"),
        username="user-secret",
        credential="secret",
    )
    start_s = time.monotonic()
    ice, gathering = await gathered(dead)
    try:
        assert time.monotonic() - start_s < 3.0
        found = diagnose(ice, gathering, ice.local_candidates, ())
        assert f"TURN 127.0.0.1:{port} (udp): no answer within 0." in found.cause
        assert "TURN 127.0.0.1:1 (tcp): " in found.cause
        assert "the member named no address" in found.cause
        assert "secret" not in found.cause
        assert "TURN server runs" in found.remedy
    finally:
        transport.close()
        await ice.close()


def test_a_description_names_so_many_candidates_at_most_and_names_apart() -> None:
    lines = [f"a=candidate:{n} 1 udp 1 10.0.0.{n} 9 typ host\r\n" for n in range(100)]
    names = [f"a=candidate:x{n} 1 udp 1 x{n}.local 9 typ host\r\n" for n in range(100)]
    sdp = "v=0\r\n" + "".join(lines + names) + "a=end-of-candidates\r\n"
    bounded, looked_up = bound_candidates(sdp)
    assert bounded.count("a=candidate:") == 32
    assert "end-of-candidates" not in bounded
    assert [name.split()[4] for name in looked_up] == [f"x{n}.local" for n in range(4)]
    plain = "v=0\r\n" + lines[0] + "a=end-of-candidates\r\n"
    assert bound_candidates(plain) == (plain, [])


async def test_refused_credentials_are_asked_for_anew_but_not_all_the_time() -> None:
    context = FakeContext(member("alice"), Wire())
    context.turn = {"uris": ["turn:t.test"], "username": "u", "password": "p", "ttl": 86400}
    servers = IceServers(context, MeshConfig())
    await servers.get()
    servers.refused()
    await servers.get()
    assert context.asked == 1
    servers._asked_s -= 6.0
    servers.refused()
    await servers.get()
    assert context.asked == 2
    assert read_turn_server({**context.turn, "ttl": 20})[1] == 10.0


def test_the_places_in_aioice_that_gathering_and_watching_reach() -> None:
    source = inspect.getsource(aioice.Connection)
    for place in (
        "self.get_component_candidates(component=component, addresses=addresses)",
        "self._protocols",
        "self._check_list",
        "self._nominated",
        "self._remote_candidates",
        "self._closing",
    ):
        assert place in source
    from aioice import ice, turn

    assert "self.receiver.request_received(message, addr, self)" in inspect.getsource(
        ice.StunProtocol
    )
    assert "self.__inner_protocol" in inspect.getsource(turn.TurnTransport)
    parameters = set(inspect.signature(ice.relayed_candidate).parameters)
    assert parameters >= {"hide_related_address", "protocol_factory", "turn_ssl", "turn_transport"}
    assert "_TurnTransport__inner_protocol" in inspect.getsource(Link)


class _Names:
    """The local network, on which some names are known; it never answers for the others."""

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self.known = known or {}
        self.asked: list[str] = []
        self.waiting = 0

    async def resolve(self, name: str) -> str | None:
        self.asked.append(name)
        if name in self.known:
            return self.known[name]
        self.waiting += 1
        try:
            return await asyncio.Future()
        finally:
            self.waiting -= 1


def _local_network(monkeypatch: pytest.MonkeyPatch, names: _Names) -> None:
    async def reach(subscriber: object) -> _Names:
        return names

    monkeypatch.setattr("aioice.ice.get_or_create_mdns_protocol", reach)


def _rewritten(rewrite: Callable[[str], str]) -> Wire:
    """Carry descriptions with other candidates."""
    wire = Wire()

    def mangle(sender: Member, to: Member, payload: JsonObject) -> int:
        if isinstance(payload.get("sdp"), str):
            payload["sdp"] = rewrite(str(payload["sdp"]))
        return 1

    wire.mangle = mangle
    return wire


async def test_names_that_nobody_knows_are_few_and_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = _Names()
    _local_network(monkeypatch, names)
    many = "".join(f"a=candidate:x{n} 1 udp 1 x{n}.local 9 typ host\r\n" for n in range(20))
    wire = _rewritten(lambda sdp: sdp.replace("a=candidate:", f"{many}a=candidate:", 1))
    async with stations("alice", "bob", wire=wire) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.reaches() and bob.reaches())
        assert sorted(names.asked) == [f"x{n}.local" for n in (0, 0, 1, 1, 2, 2, 3, 3)]
        assert names.waiting == 8
        assert alice.connection._peers[bob.member].rebuilt == 0
    assert names.waiting == 0


async def test_a_name_of_the_local_network_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _Names({"hidden.local": "127.0.0.1"})
    _local_network(monkeypatch, names)
    candidate = r"(a=candidate:\S+ 1 udp \d+) 127\.0\.0\.1"
    wire = _rewritten(lambda sdp: re.sub(candidate, r"\1 hidden.local", sdp))
    async with stations("alice", "bob", wire=wire) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: alice.reaches() and bob.reaches())
        assert set(names.asked) == {"hidden.local"}


def no_candidates(station: Station) -> list[ConditionRaised]:
    said = [e for e in station.events if isinstance(e, ConditionRaised)]
    return [e for e in said if e.code == "no_candidates"]


async def test_a_relay_alone_without_a_server_says_what_is_missing() -> None:
    config = MeshConfig(relay_only=True, ice_servers=())
    async with stations("alice", "bob", config=config) as (alice, bob):
        await asyncio.gather(alice.meet(bob), bob.meet(alice))
        await until(lambda: no_candidates(alice))
        said = no_candidates(alice)[0]
        assert "no TURN server" in said.cause
        assert "turn_uris" in said.remedy


def test_loopback_and_a_relay_alone_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="loopback and relay_only exclude each other"):
        MeshConfig(loopback=True, relay_only=True)
